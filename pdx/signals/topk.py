"""A fixed number of tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.rows import Rows
from pdx.signals.truncated import Truncated


@dataclass(frozen=True, kw_only=True)
class TopK(Truncated):
    """The teacher's ``top_k`` largest logits: a store of fixed width.

    Attributes:
        tail: what becomes of the teacher's mass r outside of them, on either side:
            ``bucket`` puts all other tokens together in one entry on both sides, so that every
            divergence stays one (the ghost token of arXiv:2503.16870);
            ``renormalize`` forgets them: the teacher is renormalised over what is kept, the student
            keeps its full softmax (our reading of arXiv:2410.16215, Eq. 4: truncate, temper,
            renormalise);
            ``drop`` leaves the teacher as it is, its mass 1 - r: the plain top-K of
            arXiv:2503.16870, whose best student is p / (1 - r), too sure of the head;
            ``to_label`` gives r to the true next token (its "naive fix");
            ``smooth`` spreads r evenly over all that is not kept (its label smoothing);
            ``support`` renormalises both sides inside what is kept: the student may put any mass
            outside unpunished, which is known to be bad and kept to show it;
            ``decoupled`` is ``bucket`` with the temperature on the kept tokens alone, on both
            sides: KL(Bern(1 - r) || Bern) + (1 - r) * KL of what is kept, tempered (LFM2,
            arXiv:2511.23404; whether T^2 multiplies the second term is not said: ours does not).

    Source:
        Tails compared: Anshumann et al. 2025, arXiv:2503.16870.
    """

    top_k: int
    tail: str

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.top_k >= 1, "signal.top_k", self.top_k, "must be at least 1")

    def most_kept(self, vocab_size: int) -> int:
        return min(self.top_k, vocab_size)

    def keep(self, rows: Rows) -> Tensor:
        keep_NK = torch.ones_like(rows.ids_NK, dtype=torch.bool)
        keep_NK[:, self.top_k :] = False
        return keep_NK
