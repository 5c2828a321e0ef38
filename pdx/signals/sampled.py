"""Tokens drawn from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.draws import draw, merge
from pdx.signal import NOTHING, Rows
from pdx.signals.drawn import Drawn


@dataclass(frozen=True, kw_only=True)
class Sampled(Drawn):
    """``num_draws`` tokens drawn from the teacher at temperature 1: unbiased at few bytes.

    The target is count / num_draws on the drawn tokens, the student keeps its full softmax: the
    gradient of a forward KL is, on average over draws, that of the whole distribution.

    Attributes:
        seed: of the draws, which depend on it and on the position alone: every epoch, student
            and batch size reads the same ones.

    Source:
        Anshumann et al. 2025, arXiv:2503.16870, section 4, proposal q = p.
    """

    num_draws: int
    seed: int

    rows: ClassVar[str] = "sampled"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.num_draws >= 1, "signal.num_draws", self.num_draws, "must be at least 1")

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        ids_CK, counts_CK = merge(draw(logits_CV.float(), offset_C, self.num_draws, self.seed))
        return Rows(ids_CK, log_shares(counts_CK, self.num_draws), {})


def log_shares(counts_CK: Tensor, num_draws: int) -> Tensor:
    """Log of count / num_draws in float32; NOTHING where nothing was counted."""
    shares_CK = (counts_CK.double() / num_draws).log().float()
    return torch.where(counts_CK > 0, shares_CK, NOTHING)
