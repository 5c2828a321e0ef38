"""What a step reads: micro-batches on the device, and the teacher's signal for each."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdx.config import Run
from pdx.data import Windows, window_order
from pdx.frozen import FrozenTeacher, autocast
from pdx.signal import TeacherSignal
from pdx.store.reader import Store


class MicroBatch(NamedTuple):
    """A part of one step's batch, on the device.

    Attributes:
        index_B: the windows it is made of.
        num_valid: positions that count, known without asking the device.
    """

    index_B: np.ndarray
    tokens_BL: Tensor
    targets_BL: Tensor
    mask_BL: Tensor
    document_BL: Tensor | None
    num_valid: int


class Feed:
    """Step -> micro-batches: a pure function, so that resuming needs no state.

    ``store`` or ``teacher`` gives the signal; with neither, the run reads no teacher.
    """

    def __init__(
        self,
        run: Run,
        windows: Windows,
        device: torch.device,
        store: Store | None = None,
        teacher: FrozenTeacher | None = None,
    ) -> None:
        self.run, self.windows, self.device = run, windows, device
        self.store, self.teacher = store, teacher
        # The first windows of the split serve every seed: one capture is enough for all of them.
        self.num_used = min(run.num_windows, windows.num_windows)

    def __call__(self, step: int) -> list[MicroBatch]:
        """The micro-batches of one step."""
        train = self.run.train
        order = window_order(
            self.windows.num_windows,
            self.num_used,
            train.seed,
            step * train.batch_size,
            train.batch_size,
        )
        return [
            self._micro_batch(part)
            for part in np.split(order, train.batch_size // train.micro_batch_size)
        ]

    def _micro_batch(self, index_B: np.ndarray) -> MicroBatch:
        batch = self.windows.batch(index_B)
        num_valid = int(batch.mask_BL.sum())
        moved = batch.to(self.device)
        return MicroBatch(
            index_B, moved.tokens_BL, moved.targets_BL, moved.mask_BL, moved.document_BL, num_valid
        )

    def signal(self, batch: MicroBatch) -> TeacherSignal:
        """The teacher's word on a micro-batch, positions laid flat."""
        if self.store is not None:
            ids = self.windows.ids(batch.index_B)
            rows = self.store.rows(batch.index_B, ids, self.run.signal.num_draws)
            return self.run.signal.sparse(rows.to(self.device))
        assert self.teacher is not None
        length = self.windows.seq_len
        offsets = torch.from_numpy(batch.index_B)[:, None] * length + torch.arange(length)
        offset_N = offsets.reshape(-1).to(self.device)
        return self.run.signal.live(self.teacher.hidden(batch), self.teacher.logits, offset_N)

    def autocast(self) -> AbstractContextManager:
        """The precision in which students run."""
        return autocast(self.device, self.run.train.precision)
