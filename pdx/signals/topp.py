"""A share of the mass, in as many tokens as it takes."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.rows import Rows
from pdx.signals.truncated import Truncated, largest_holding


@dataclass(frozen=True, kw_only=True)
class Topp(Truncated):
    """The smallest set that holds ``top_p`` of the mass, however many tokens that are.

    Where the teacher is unsure that is a good part of the vocabulary: hundreds at p = 0.95 in the
    source. ``topp_topk`` bounds it.

    Attributes:
        top_p: mass at temperature 1, before the temperature is applied.
        tail: as in ``TopK``.

    Source:
        arXiv:2410.16215, section 3.1, figure 3 (k unbounded).
    """

    top_p: float
    tail: str

    fixed_width: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.top_p <= 1, "signal.top_p", self.top_p, "must lie in (0, 1]")

    def most_kept(self, vocab_size: int) -> int:
        return vocab_size

    def keep(self, rows: Rows) -> Tensor:
        return largest_holding(rows, self.top_p)
