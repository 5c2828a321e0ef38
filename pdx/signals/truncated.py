"""What the truncating signals share."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.signal import NOTHING, LiveSparseSignal, Rows, SparseSignal

TAILS = ("renormalize", "bucket")


class Truncated:
    """What the truncating signals share: how kept rows become a signal, stored or live."""

    stored: ClassVar[bool] = True
    rows: ClassVar[str] = "topk"  # the kind of rows it reads
    num_draws: ClassVar[int] = 0

    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "signal.top_k", self.top_k, "must be at least 1")
        check(self.tail in TAILS, "signal.tail", self.tail, f"must be one of {', '.join(TAILS)}")
        check(self.temperature > 0, "signal.temperature", self.temperature, "must be > 0")

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return self.tail == "bucket"

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        """Temperatures whose full-vocabulary logsumexp this signal cannot do without."""
        return (self.temperature,) if self.tail == "bucket" else ()

    def keep(self, rows: Rows) -> Tensor:
        """Which of the first ``top_k`` entries of each row are kept, [N, K] bool."""
        raise NotImplementedError

    def sparse(self, rows: Rows) -> SparseSignal:
        """The signal of rows that hold at least ``top_k`` entries (or the whole vocabulary)."""
        return SparseSignal(
            ids_NK=rows.ids_NK[:, : self.top_k],
            logits_NK=rows.logits_NK[:, : self.top_k],
            keep_NK=self.keep(rows) & (rows.logits_NK[:, : self.top_k] > NOTHING),
            lse_N=rows.lse[self.temperature] if self.tail == "bucket" else None,
            tail=self.tail,
            temperature=self.temperature,
            temper_student=self.temper_student,
        )

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        """Rows of full logits; nothing here depends on the position."""
        return Rows.of(logits_CV, self.top_k, tuple({1.0, self.temperature}))

    def live(
        self, hidden_ND: Tensor, head: Callable[[Tensor], Tensor], offset_N: Tensor | None = None
    ) -> LiveSparseSignal:
        """The same signal of a live teacher."""
        return LiveSparseSignal(hidden_ND=hidden_ND, head=head, signal=self, offset_N=offset_N)
