"""A process for one point: a fork of a forkserver that has torch and transformers loaded."""

import contextlib
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pdx.sweep.plan import Point
from pdx.sweep.search import Method

PRELOAD = "pdx.sweep.child"  # by name: this module, which a worker imports, stays light
PREPARED = "prepared.json"  # what was looked up once for all runs of a sweep
POLL_SECONDS = 0.5
SAVE_SECONDS = 20.0  # for a run that must end, to save itself; a step that hangs never would


@dataclass(frozen=True)
class Task:
    """One point as a worker hands it to a process of its own.

    Attributes:
        trial_id: of the trial that stands for it, in the sweep's storage.
        deadline: when it must end, in seconds since 1970; None for never.
    """

    point: Point
    sweep_id: str
    method: Method
    directory: Path
    storage: str | None
    trial_id: int
    num_threads: int
    deadline: float | None


@dataclass(frozen=True)
class Outcome:
    """How a point ended.

    Attributes:
        status: complete, diverged, pruned, paused (saved, to go on), failed, oom (memory: not
            worth a retry), or lost.
        values: the sweep's objectives.
        violations: how far it lies beyond each constraint.
    """

    status: str
    values: list[float] = field(default_factory=list)
    violations: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


def run_isolated(task: Task) -> Outcome:
    """Run a point in a process of its own; interrupted, have it save itself first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_main, args=(theirs, dict(os.environ), task))
    try:
        child.start()
    except (EOFError, OSError) as err:  # the forkserver was killed as it was asked; next time
        return Outcome("lost", reason=f"its process could not be started ({err!r})")  # is another
    finally:
        theirs.close()
    outcome = None
    try:
        # Asked every so often: a signal that another thread got does not end a blocked read.
        while not ours.poll(POLL_SECONDS):
            pass
        with contextlib.suppress(EOFError):  # the child died without a word
            outcome = ours.recv()
    except BaseException:  # Ctrl-C: take the child along
        child.terminate()
        child.join(SAVE_SECONDS)
        child.kill()
        raise
    finally:
        child.join()
    if outcome is None:
        return Outcome("lost", reason=f"its process ended with exit code {child.exitcode}")
    return outcome


def _die_with_worker() -> None:
    """A forkserver, the parent in the kernel's eyes, lives for as long as any of its children."""
    worker = multiprocessing.parent_process()
    assert worker is not None
    worker.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _main(pipe: Connection, environ: dict[str, str], task: Task) -> None:
    must_end = threading.Event()
    threading.Thread(target=_die_with_worker, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides
    signal.signal(signal.SIGTERM, lambda *_: must_end.set())
    os.environ.update(environ)
    from pdx.sweep.child import run_point

    outcome = run_point(task, must_end.is_set)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(outcome)
    pipe.close()
