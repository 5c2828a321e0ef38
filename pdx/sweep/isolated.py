"""A process for one point: a fork of a forkserver that has torch and transformers loaded."""

import contextlib
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

PRELOAD = "pdx.sweep.child"  # by name: this module, which a worker imports, stays light


@dataclass(frozen=True)
class Outcome:
    """How a point ended: complete, diverged, failed, oom (memory: not worth a retry), lost."""

    status: str
    value: float | None = None
    reason: str | None = None


def run_isolated(arguments: tuple[Any, ...]) -> Outcome:
    """Run a point (the arguments of ``pdx.sweep.child.run_point``) in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_main, args=(theirs, dict(os.environ), arguments))
    child.start()
    theirs.close()
    outcome = None
    try:
        with contextlib.suppress(EOFError):  # the child died without a word
            outcome = ours.recv()
    except BaseException:  # Ctrl-C: take the child along
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


def _main(pipe: Connection, environ: dict[str, str], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_die_with_worker, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(environ)
    from pdx.sweep.child import run_point

    outcome = run_point(*arguments)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(outcome)
    pipe.close()
