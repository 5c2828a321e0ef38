"""What the signals that draw share."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pdx.signal import NOTHING, LiveSparseSignal, Rows, SparseSignal


class Drawn:
    """Drawn tokens weigh what makes them unbiased; both sides are at temperature 1."""

    stored: ClassVar[bool] = True

    @property
    def temperature(self) -> float:
        return 1.0

    @property
    def temper_student(self) -> bool:
        return False

    @property
    def closed(self) -> bool:
        """The teacher's weights sum to one, the student's mass on them does not."""
        return False

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        """Rows of full logits at the positions ``offset_C`` of the split."""
        raise NotImplementedError

    def sparse(self, rows: Rows) -> SparseSignal:
        """The signal of rows that hold log-weights."""
        return SparseSignal(
            ids_NK=rows.ids_NK,
            logits_NK=rows.logits_NK,
            keep_NK=rows.logits_NK > NOTHING / 2,
            lse_N=None,
            tail="renormalize",
            temperature=self.temperature,
            temper_student=self.temper_student,
        )

    def live(
        self, hidden_ND: Tensor, head: Callable[[Tensor], Tensor], offset_N: Tensor | None = None
    ) -> LiveSparseSignal:
        """The same signal of a live teacher; positions count from 0 if they are not given."""
        return LiveSparseSignal(hidden_ND=hidden_ND, head=head, signal=self, offset_N=offset_N)
