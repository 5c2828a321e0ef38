"""A bounded queue with one thread at its end: who fills it waits when the thread is behind."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.2


class Background(Generic[T]):
    """``work(item)`` for every item put, in order, in a thread of its own.

    What ``work`` raises is raised where the next item is put, or at the end of the block. A block
    that is left by an exception drops what was not begun.
    """

    def __init__(self, work: Callable[[T], None], size: int) -> None:
        self._work = work
        self._queue: queue.Queue[T | None] = queue.Queue(size)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Background[T]":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._dropped = error is not None
        if self._error is None:
            self._put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, item: T) -> None:
        """Hand over an item; waits for room."""
        self._put(item)
        if self._error is not None:
            raise self._error

    def _put(self, item: T | None) -> None:
        while self._error is None:  # after an error nobody takes from the queue any more
            try:
                self._queue.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._dropped:
                continue
            try:
                self._work(item)
            except BaseException as err:  # raised again in the thread that fills the queue
                self._error = err
                return
