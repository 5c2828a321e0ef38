"""How a run or a sweep ends before its time: saved, and nothing is left running behind."""

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1
ASKED_SECONDS = 10.0  # a step takes less; what asked longer ago has stopped asking


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone, however it went."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does: children stopped, states told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def save_first() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM has a run save itself and end; the second ends it at once.

    Yields what a run asks at every step: whether it must end. Where nothing asks, as while data is
    prepared, the first signal interrupts.
    """
    must_end, asked = threading.Event(), [0.0]

    def ask() -> bool:
        asked[0] = time.monotonic()
        return must_end.is_set()

    def interrupt(*_: Any) -> None:
        if must_end.is_set() or time.monotonic() - asked[0] > ASKED_SECONDS:
            raise KeyboardInterrupt
        must_end.set()
        print("\nsaving a checkpoint; once more to end without", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield ask
        return
    before = {kind: signal.signal(kind, interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ask
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def interrupt_once() -> None:
    """For a worker: the first SIGINT or SIGTERM interrupts, later ones cannot disturb its end.

    A terminal's Ctrl-C reaches the worker itself, and its driver then terminates it.
    """

    def interrupt(*_: Any) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
        raise KeyboardInterrupt

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, interrupt)
