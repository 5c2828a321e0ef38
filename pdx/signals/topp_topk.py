"""A share of the mass, in at most so many tokens."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.rows import Rows
from pdx.signals.truncated import Truncated, largest_holding


@dataclass(frozen=True, kw_only=True)
class ToppTopK(Truncated):
    """The smallest set that holds ``top_p`` of the mass, then at most ``top_k`` of it.

    Bites by p where the teacher is sure and by k where it is not.

    Attributes:
        top_p: mass at temperature 1, before the temperature is applied.
        tail: as in ``TopK``.

    Source:
        arXiv:2410.16215, section 3.1 (top-p-k).
    """

    top_p: float
    top_k: int
    tail: str

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.top_k >= 1, "signal.top_k", self.top_k, "must be at least 1")
        check(0 < self.top_p <= 1, "signal.top_p", self.top_p, "must lie in (0, 1]")

    def most_kept(self, vocab_size: int) -> int:
        return min(self.top_k, vocab_size)

    def keep(self, rows: Rows) -> Tensor:
        keep_NK = largest_holding(rows, self.top_p)
        keep_NK[:, self.top_k :] = False
        return keep_NK
