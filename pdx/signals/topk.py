"""A fixed number of tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.signal import Rows
from pdx.signals.truncated import Truncated


@dataclass(frozen=True, kw_only=True)
class TopK(Truncated):
    """The teacher's ``top_k`` largest logits: a store of fixed width.

    Attributes:
        tail: ``bucket`` puts all other tokens together in one entry on both sides, so that every
            divergence stays one; ``renormalize`` forgets them: the teacher is renormalised over
            what is kept while the student keeps its full softmax (our reading of arXiv:2410.16215,
            Eq. 4: truncate, temper, renormalise).
        temperature, temper_student: as in ``Full``.

    Source:
        ``bucket``: the ghost token of arXiv:2503.16870.
    """

    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    version: ClassVar[int] = 1

    def keep(self, rows: Rows) -> Tensor:
        return torch.ones_like(rows.ids_NK[:, : self.top_k], dtype=torch.bool)
