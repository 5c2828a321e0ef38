"""A process for a point, or for some: a fork of a forkserver that has torch loaded."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pdx.forked import belong_to_parent
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
    outcomes: list[Outcome] = []
    run_together([task], lambda _, outcome: outcomes.append(outcome))
    return outcomes[0]


def run_together(tasks: list[Task], tell: Callable[[int, Outcome], None]) -> None:
    """Run points in one process of their own, and tell of each by its number as it ends.

    What the process leaves untold when it dies is told as lost.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_main, args=(theirs, dict(os.environ), tasks))
    untold = set(range(len(tasks)))
    why = None
    try:
        child.start()
    except (EOFError, OSError) as err:  # the forkserver was killed as it was asked; next time
        why = f"its process could not be started ({err!r})"  # is another
    finally:
        theirs.close()
    try:
        while why is None and untold:
            # Asked every so often: a signal that another thread got does not end a blocked read.
            while not ours.poll(POLL_SECONDS):
                pass
            try:
                number, outcome = ours.recv()
            except EOFError:  # the child died without a word
                break
            untold.remove(number)
            tell(number, outcome)
    except BaseException:  # Ctrl-C: take the child along
        child.terminate()
        child.join(SAVE_SECONDS * len(tasks))
        child.kill()
        raise
    finally:
        if why is None:
            child.join()
    for number in sorted(untold):
        reason = why or f"its process ended with exit code {child.exitcode}"
        tell(number, Outcome("lost", reason=reason))


def _main(pipe: Connection, environ: dict[str, str], tasks: list[Task]) -> None:
    must_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: must_end.set())
    belong_to_parent(environ)
    from pdx.sweep.child import run_points

    def tell(number: int, outcome: Outcome) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send((number, outcome))

    run_points(tasks, must_end.is_set, tell)
    pipe.close()
