"""Runs that share a process: one at a time computes, and what they read alike is made once."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# How far a run is: its step, then where in the step; () before the first. Compared as tuples are.
Place = tuple[int, ...]


class Seat:
    """Where a run asks for what others of its process may ask for too; here it has no others."""

    num_runs = 1

    def come(self, place: Place) -> None:
        """Say how far the run is; returns once no other is further behind."""

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes, the same object for all that say ``key``."""
        return make()

    def once(self, place: Place, key: Hashable, make: Callable[[], T]) -> T:
        """The same for those that come to ``place``: none goes on before all have had it."""
        return make()


ALONE = Seat()


class Group:
    """Runs of one process, each in a thread of its own, of which one at a time computes.

    The one that is furthest behind does; of several the first. So all come to a batch, and hear the
    teacher on it, before any goes on; one that was resumed behind the others catches up first; and
    one that has left, however it ended, is waited for by nobody. Since they take turns, what torch
    keeps for a whole process is never in the hands of two, and the order is always the same.
    """

    def __init__(self, num_runs: int) -> None:
        self.num_runs = num_runs
        self.kept: dict[Hashable, Any] = {}
        self.here: dict[Hashable, Any] = {}  # made at the place where the last behind is
        self._at: Place = ()
        self._changed = threading.Condition()
        self._places: dict[int, Place] = dict.fromkeys(range(num_runs), ())

    @contextmanager
    def seat(self, number: int) -> Iterator[Seat]:
        """The seat of one run, in its own thread: from its first turn until it leaves."""
        self.go(number, ())
        try:
            yield _SharedSeat(self, number)
        finally:
            with self._changed:
                del self._places[number]
                self._changed.notify_all()

    def go(self, number: int, place: Place) -> None:
        """Wait for the turn of a run that has come to ``place``."""
        with self._changed:
            self._places[number] = place
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._next() == number)
            if self._at != place:  # all are here or beyond
                self._at = place
                self.here.clear()

    def _next(self) -> int:
        return min(self._places, key=lambda number: (self._places[number], number))


class _SharedSeat(Seat):
    """A seat among others."""

    def __init__(self, group: Group, number: int) -> None:
        self.num_runs, self._group, self._number = group.num_runs, group, number

    def come(self, place: Place) -> None:
        self._group.go(self._number, place)

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        return _found(self._group.kept, key, make)

    def once(self, place: Place, key: Hashable, make: Callable[[], T]) -> T:
        self.come(place)
        return _found(self._group.here, key, make)


def _found(made: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in made:
        made[key] = make()
    return made[key]
