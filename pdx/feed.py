"""What a step reads: micro-batches on the device, and the teacher's signal for each."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdx.config import Run
from pdx.data import Windows, window_order
from pdx.frozen import FrozenTeacher, autocast
from pdx.ranks import Ranks
from pdx.reduce import chunk_size
from pdx.signal import Context, Lesson, LiveSignal, Rows, Silent, TeacherSignal, entropies
from pdx.store.reader import Store
from pdx.store.states import States

# Steps read ahead. On a CPU none are: a worker has one core, and a thread would take its turns on
# it (measured: benchmarks/README.md).
READ_AHEAD = {"cuda": 2, "cpu": 0}


class MicroBatch(NamedTuple):
    """A part of one step's batch, on the device.

    Attributes:
        index_B: the windows it is made of.
        num_valid: positions that count, known without asking the device.
        rows: the teacher's, where the step reads a store.
        states: its hidden states in the layers that are matched, likewise.
        within_BL: whether a target is of a domain that the routing names; None where it names none.
    """

    index_B: np.ndarray
    tokens_BL: Tensor
    targets_BL: Tensor
    mask_BL: Tensor
    document_BL: Tensor | None
    num_valid: int
    rows: Rows | None
    states: list[States]
    within_BL: Tensor | None


class Feed:
    """Step -> micro-batches: a pure function, so that resuming needs no state.

    ``store`` or ``teacher`` gives the signal; with neither, the run reads no teacher. Of several
    ranks each reads its own equal part of every step's windows. Being pure, it may be computed
    before it is asked for: one thread reads the next ``read_ahead`` steps, tokens and the store's
    rows alike, while the device works. What goes wrong there is raised by the step that needed it.

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
    ) -> None:
        self.run, self.windows, self.device = run, windows, device
        self.store, self.teacher = store, teacher
        self.ranks = ranks or Ranks.alone(device)
        # The first windows of the split serve every seed: one capture is enough for all of them.
        self.num_used = min(run.num_windows, windows.num_windows)
        self.wait_seconds = 0.0
        self._ahead = READ_AHEAD[device.type] if read_ahead is None else read_ahead
        self._reader = ThreadPoolExecutor(1, "pdx-feed") if self._ahead else None
        self._reading: dict[int, Future[list[MicroBatch]]] = {}

    def __call__(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step."""
        began = time.monotonic()
        try:
            if self._reader is None:
                return self._read(step)
            last = min(step + self._ahead, self.run.num_steps - 1)
            wanted = range(step, max(step, last) + 1)
            for stale in self._reading.keys() - set(wanted):
                self._reading.pop(stale).cancel()
            for later in wanted:
                if later not in self._reading:
                    self._reading[later] = self._reader.submit(self._read, later)
            return self._reading.pop(step).result()
        finally:
            self.wait_seconds += time.monotonic() - began

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
        weight = run.kd_weight((step + 0.5) / run.num_steps)
        taught = run.loss.needs_teacher and (weight > 0 or run.hidden.exists)
        store, size = self.store if taught else None, train.micro_batch_size
        return [self._micro_batch(order[i : i + size], store) for i in range(0, share, size)]

    def _micro_batch(self, index_B: np.ndarray, store: Store | None) -> MicroBatch:
        batch = self.windows.batch(index_B)
        num_valid = int(batch.mask_BL.sum())
        rows, states = None, []
        if store is not None:
            ids, num_draws = self.windows.ids(index_B), self.run.signal.num_draws
            rows = store.rows(index_B, ids, num_draws).to(self.device)
            if self.run.hidden.exists:
                states = store.states(index_B, ids, self.run.hidden.teacher_layers)
        states = [s.to(self.device) for s in states]
        within_BL, domains = None, self.run.routing.domains
        if self.run.loss.needs_teacher and domains:
            within_BL = torch.from_numpy(self.windows.within(index_B, domains)).to(self.device)
        return MicroBatch(index_B, *batch.to(self.device), num_valid, rows, states, within_BL)

    def lesson(self, batch: MicroBatch, fraction: float) -> Lesson:
        """The teacher's word on a micro-batch at ``fraction`` of training, and where it speaks."""
        if not self.run.loss.needs_teacher:
            return Lesson(Silent(), None)
        length, routing = self.windows.seq_len, self.run.routing
        offsets = torch.from_numpy(batch.index_B)[:, None] * length + torch.arange(length)
        offset_N = offsets.roll(routing.shift, -1).reshape(-1).to(self.device)
        context = Context(
            temperature=self.run.temperature,
            fraction=fraction,
            targets_N=batch.targets_BL.reshape(-1),
            offset_N=offset_N,
        )
        entropy_N, states, rows = None, None, batch.rows
        if rows is not None:
            if routing.shift:
                index_N = torch.arange(len(offset_N), device=self.device)
                rows = rows.at(_shifted(index_N, length, routing.shift))
            signal: TeacherSignal = self.run.signal.sparse(rows, context)
            entropy_N = rows.facts.entropy_N
            states = [s.values() for s in batch.states]
        else:
            assert self.teacher is not None
            head = self.teacher.logits
            if self.run.hidden.exists:
                hidden_ND, states = self.teacher.states(batch, self.run.hidden.teacher_layers)
            else:
                hidden_ND = self.teacher.hidden(batch)
            if routing.shift:
                hidden_ND = _shifted(hidden_ND, length, routing.shift)
            signal = LiveSignal(
                hidden_ND=hidden_ND, head=head, signal=self.run.signal, context=context
            )
            chunk, loss = chunk_size(self.teacher.head.vocab_size), self.run.loss
            if loss.needs_full_signal and loss.window_tail_of:
                signal = signal.with_tail(loss.window_tail_of, batch.mask_BL, chunk)
            if routing.needs_entropy:
                entropy_N = entropies(hidden_ND, head, chunk)
        entropy_BL = None if entropy_N is None else entropy_N.view_as(batch.mask_BL)
        return Lesson(signal, routing(entropy_BL, batch.within_BL, batch.mask_BL), states)

    def autocast(self) -> AbstractContextManager:
        """The precision in which students run."""
        return autocast(self.device, self.run.train.precision)


def _shifted(x_N: Tensor, length: int, shift: int) -> Tensor:
    """What stands ``shift`` places earlier in its window, around its end: only for a placebo."""
    return x_N.unflatten(0, (-1, length)).roll(shift, 1).flatten(0, 1)
