"""Squared distance of hidden states."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.hiddens.matched import Matched


@dataclass(frozen=True, kw_only=True)
class MeanSquaredHidden(Matched):
    """Distance of hidden states through a learned projection: the teacher's steps on the way.

    hidden = mean over pairs of layers of mean_d (W h_S - h_T)^2, at each position that counts

    What the teacher's states are as they are, sizes included: a few coordinates may be most of it.
    loss = (1 - w) * ce + w * kd + weight * hidden

    Attributes:
        weight: of this term, beside the token loss, throughout.
        student_layers, teacher_layers: pairs: 0 the embedding, n the n-th layer's output, -1 the
            last's after the last norm.
        projection: whether W is learned beside the student; false needs equal widths.

    Units:
        squared, per token and coordinate.

    Source:
        TinyBERT, Jiao et al. 2020, arXiv:1909.10351, Eq. 8 (its term of attention is not here).
    """

    weight: float
    student_layers: list[int]
    teacher_layers: list[int]
    projection: bool

    version: ClassVar[int] = 1

    def compare(self, student_BLD: Tensor, teacher_BLD: Tensor) -> Tensor:
        return (student_BLD - teacher_BLD).square().mean(-1)
