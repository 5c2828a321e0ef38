"""What a process does first that a forkserver started for another of ours."""

import multiprocessing
import os
import signal
import threading


def belong_to_parent(environ: dict[str, str]) -> None:
    """Take the environment of the process that asked for this one, and die with it.

    Ctrl-C reaches both at once, and the other decides what becomes of it.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environ)


def _die_with_parent() -> None:
    """A forkserver, the parent in the kernel's eyes, lives for as long as any of its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
