"""What a step reads: micro-batches on the device, and the teacher's signal for each."""

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pdx.config import Run, identity
from pdx.data import Windows, window_order
from pdx.files import digest
from pdx.frozen import FrozenTeacher, autocast
from pdx.live import LiveSignal, entropies
from pdx.ranks import Ranks
from pdx.reduce import chunk_size
from pdx.rows import Rows
from pdx.signal import Context, Lesson, Silent, TeacherSignal
from pdx.store.reader import Store
from pdx.store.states import States
from pdx.together import ALONE, Place, Seat

# Steps read ahead. On a CPU none are: a worker has one core, and a thread would take its turns on
# it (measured: benchmarks/README.md).
READ_AHEAD = {"cuda": 2, "cpu": 0}

T = TypeVar("T")


class MicroBatch(NamedTuple):
    """A part of one step's batch, on the device.

    Attributes:
        index_B: the windows it is made of.
        num_valid: positions that count, known without asking the device.
        rows: the teacher's, where the step reads a store.
        states: its hidden states in the layers that are matched, likewise.
        place: its step, and its number in it.
    """

    index_B: np.ndarray
    tokens_BL: Tensor
    targets_BL: Tensor
    mask_BL: Tensor
    document_BL: Tensor | None
    num_valid: int
    rows: Rows | None
    states: list[States]
    place: tuple[int, int]


class Reader:
    """Step -> micro-batches with the store's rows, as they lie on the disk.

    Of several ranks each reads its own equal part of every step's windows. Being pure, it may be
    computed before it is asked for: one thread reads the next ``read_ahead`` steps, tokens and
    rows alike, while the device works. What goes wrong there is raised by the step that needed it.
    """

    def __init__(
        self,
        run: Run,
        windows: Windows,
        device: torch.device,
        store: Store | None,
        ranks: Ranks,
        read_ahead: int,
    ) -> None:
        self.run, self.windows, self.device = run, windows, device
        self.store, self.ranks, self._ahead = store, ranks, read_ahead
        # The first windows of the split serve every seed: one capture is enough for all of them.
        self.num_used = run.num_unique_windows(windows)
        self._thread = ThreadPoolExecutor(1, "pdx-feed") if read_ahead else None
        self._reading: dict[int, Future[list[MicroBatch]]] = {}

    def __call__(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step."""
        if self._thread is None:
            return self._read(step)
        last = min(step + self._ahead, self.run.num_steps - 1)
        wanted = range(step, max(step, last) + 1)
        for stale in self._reading.keys() - set(wanted):
            self._reading.pop(stale).cancel()
        for later in wanted:
            if later not in self._reading:
                self._reading[later] = self._thread.submit(self._read, later)
        return self._reading.pop(step).result()

    def _read(self, step: int) -> list[MicroBatch]:
        train, run = self.run.train, self.run
        share = train.batch_size // self.ranks.world_size
        order = window_order(
            self.windows.num_windows,
            self.num_used,
            train.seed,
            step * train.batch_size + self.ranks.rank * share,
            share,
        )
        store = self.store if _is_taught(run, step) else None
        size = train.micro_batch_size
        parts = [order[i : i + size] for i in range(0, share, size)]
        return [self._micro_batch(part_B, store, (step, n)) for n, part_B in enumerate(parts)]

    def _micro_batch(
        self, index_B: np.ndarray, store: Store | None, place: tuple[int, int]
    ) -> MicroBatch:
        batch = self.windows.batch(index_B)
        num_valid = int(batch.mask_BL.sum())
        rows, states = None, []
        if store is not None:
            ids, num_draws = self.windows.ids(index_B), self.run.signal.num_draws
            rows = store.rows(index_B, ids, num_draws).to(self.device)
            if self.run.hidden.exists:
                states = store.states(index_B, ids, self.run.hidden.teacher_layers)
        states = [s.to(self.device) for s in states]
        return MicroBatch(index_B, *batch.to(self.device), num_valid, rows, states, place)


class Feed:
    """Step -> micro-batches, and the teacher's word on each: a pure function of the step.

    So resuming needs no state. ``store`` or ``teacher`` gives the signal; with neither, the run
    reads no teacher.

    Args:
        seat: among runs of this process: what several of them read or hear alike is made once.

    Attributes:
        wait_seconds: how long steps have waited for what they read.
    """

    def __init__(
        self,
        run: Run,
        windows: Windows,
        device: torch.device,
        store: Store | None = None,
        teacher: FrozenTeacher | None = None,
        ranks: Ranks | None = None,
        read_ahead: int | None = None,
        seat: Seat = ALONE,
    ) -> None:
        self.run, self.windows, self.device = run, windows, device
        self.store, self.teacher, self.seat = store, teacher, seat
        ranks = ranks or Ranks.alone(device)
        ahead = READ_AHEAD[device.type] if read_ahead is None else read_ahead
        # Runs of a group with equal keys would make the same of a step, whatever they learn by.
        self._key = () if seat.num_runs == 1 else (_read_by(run, store), id(store), id(teacher))
        self._spoken = digest([identity(run.signal), identity(run.temperature)])
        self._reader = seat.keep(
            (self._key, "reader"), lambda: Reader(run, windows, device, store, ranks, ahead)
        )
        self.wait_seconds = 0.0

    def __call__(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step."""
        self.seat.come((step,))  # a wait for other runs is none for what is read
        began = time.monotonic()
        try:
            return self._once((step,), lambda: self._reader(step), "batches")
        finally:
            self.wait_seconds += time.monotonic() - began

    def lesson(self, batch: MicroBatch, fraction: float) -> Lesson:
        """The teacher's word on a micro-batch at ``fraction`` of training, and where it speaks."""
        if not self.run.loss.needs_teacher:
            return Lesson(Silent(), None)
        length, routing, loss = self.windows.seq_len, self.run.routing, self.run.loss
        offsets = torch.from_numpy(batch.index_B)[:, None] * length + torch.arange(length)
        offset_N = offsets.roll(routing.shift, -1).reshape(-1).to(self.device)
        context = Context(
            temperature=self.run.temperature,
            fraction=fraction,
            targets_N=batch.targets_BL.reshape(-1),
            offset_N=offset_N,
        )
        tail_of = loss.window_tail_of if loss.needs_full_signal else 0
        heard = (routing.shift, self._spoken, fraction, tail_of)
        entropy_N, states, rows = None, None, batch.rows
        if rows is not None:
            if routing.shift:
                index_N = torch.arange(len(offset_N), device=self.device)
                rows = rows.at(_shifted(index_N, length, routing.shift))
            sparse = partial(self.run.signal.sparse, rows, context)
            # At the place of the whole step: rows are few, and no run need wait for the others.
            signal: TeacherSignal = self._once(batch.place[:1], sparse, batch.place, *heard)
            entropy_N = rows.facts.entropy_N
            states = [s.values() for s in batch.states]
        else:
            hidden_ND, states = self._once(batch.place, lambda: self._hidden(batch), routing.shift)
            head = self._teacher.logits
            size = chunk_size(self._teacher.head.vocab_size, self.device)

            def share(part: tuple[int, int], what: str, make: Callable[[], T]) -> T:
                more = heard if what == "signal" else (routing.shift,)
                return self._once((*batch.place, *part), make, what, *more)

            live = LiveSignal(
                hidden_ND=hidden_ND, head=head, signal=self.run.signal, context=context
            )
            if tail_of:
                live = live.with_tail(tail_of, batch.mask_BL, size)
            signal = replace(live, share=share)
            if routing.needs_entropy:
                of_all = partial(entropies, hidden_ND, head, size)
                entropy_N = self._once(batch.place, of_all, routing.shift, "entropy")
        entropy_BL = None if entropy_N is None else entropy_N.view_as(batch.mask_BL)
        within_BL = None
        if routing.domains:
            within_BL = torch.from_numpy(self.windows.within(batch.index_B, routing.domains))
            within_BL = within_BL.to(self.device)
        return Lesson(signal, routing(entropy_BL, within_BL, batch.mask_BL), states)

    @property
    def _teacher(self) -> FrozenTeacher:
        assert self.teacher is not None
        return self.teacher

    def _hidden(self, batch: MicroBatch) -> tuple[Tensor, list[Tensor] | None]:
        """A live teacher's final hidden states, laid flat, and those of the layers matched."""
        run, states = self.run, None
        if run.hidden.exists:
            hidden_ND, states = self._teacher.states(batch, run.hidden.teacher_layers)
        else:
            hidden_ND = self._teacher.hidden(batch)
        if run.routing.shift:
            hidden_ND = _shifted(hidden_ND, self.windows.seq_len, run.routing.shift)
        return hidden_ND, states

    def _once(self, place: Place, make: Callable[[], T], *what: Hashable) -> T:
        return self.seat.once(place, (self._key, *what), make)

    def autocast(self) -> AbstractContextManager:
        """The precision in which students run."""
        return autocast(self.device, self.run.train.precision)


def _is_taught(run: Run, step: int) -> bool:
    """Whether a step asks the teacher anything."""
    weight = run.kd_weight((step + 0.5) / run.num_steps)
    return run.loss.needs_teacher and (weight > 0 or run.hidden.exists)


def _read_by(run: Run, store: Store | None) -> str:
    """Digest of all that decides what the steps of a run read, but for the store itself."""
    named = run.identity
    parts: list[Any] = [named["data"], named.get("text"), named["train"]]
    parts.append(run.hidden.teacher_layers if run.hidden.exists else None)
    if store is not None:
        parts.append([step for step in range(run.num_steps) if not _is_taught(run, step)])
        parts.append(run.signal.num_draws)
    return digest(parts)


def _shifted(x_N: Tensor, length: int, shift: int) -> Tensor:
    """What stands ``shift`` places earlier in its window, around its end: only for a placebo."""
    return x_N.unflatten(0, (-1, length)).roll(shift, 1).flatten(0, 1)
