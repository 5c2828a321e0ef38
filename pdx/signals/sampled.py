"""Tokens drawn from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.draws import draw, merge
from pdx.rows import NOTHING, Facts, Rows
from pdx.signals.drawn import Drawn


@dataclass(frozen=True, kw_only=True)
class Sampled(Drawn):
    """``num_draws`` tokens drawn from the teacher at temperature 1: unbiased at few bytes.

    A token's weight is count / num_draws * p / q on the drawn tokens, q ~ p^proposal_power what is
    drawn from; the student keeps its full softmax. The gradient of a forward KL is, on average over
    draws, that of the whole distribution. With other proposals than p the weights sum to one on
    average only: they are not renormalised, which would bias them.

    Attributes:
        proposal_power: 1 draws from the teacher itself, and is what a store holds; the source finds
            the least variance from 0.8 to 1.2.
        seed: of the draws, which depend on it and on the position alone: every epoch, student
            and batch size reads the same ones.

    Source:
        Anshumann et al. 2025, arXiv:2503.16870, section 4.
    """

    num_draws: int
    proposal_power: float
    seed: int

    rows: ClassVar[str] = "sampled"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check(self.num_draws >= 1, "signal.num_draws", self.num_draws, "must be at least 1")
        power = self.proposal_power
        check(power >= 0, "signal.proposal_power", power, "must be >= 0")

    @property
    def weighting(self) -> str:
        return "renormalize" if self.proposal_power == 1.0 else "weights"

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        proposal_CV = logits_CV if self.proposal_power == 1.0 else logits_CV * self.proposal_power
        ids_CK, counts_CK = merge(draw(proposal_CV, offset_C, self.num_draws, self.seed))
        weights_CK = log_shares(counts_CK, self.num_draws)
        if self.proposal_power != 1.0:
            ratio_CV = logits_CV.log_softmax(-1) - proposal_CV.log_softmax(-1)
            weights_CK = torch.where(
                counts_CK > 0, weights_CK + ratio_CV.gather(-1, ids_CK), NOTHING
            )
        return Rows(ids_CK, weights_CK, Facts({}))


def log_shares(counts_CK: Tensor, num_draws: int) -> Tensor:
    """Log of count / num_draws in float32; NOTHING where nothing was counted."""
    shares_CK = (counts_CK.double() / num_draws).log().float()
    return torch.where(counts_CK > 0, shares_CK, NOTHING)
