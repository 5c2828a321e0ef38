"""Angles of hidden states."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.hiddens.matched import Matched


@dataclass(frozen=True, kw_only=True)
class CosineHidden(Matched):
    """Angle between hidden states through a learned projection: where the teacher points.

    hidden = mean over pairs of layers of 1 - cos(W h_S, h_T), at each position that counts

    Directions alone: no coordinate's size counts.
    loss = (1 - w) * ce + w * kd + weight * hidden

    Attributes:
        weight: of this term, beside the token loss, throughout.
        student_layers, teacher_layers: pairs: 0 the embedding, n the n-th layer's output, -1 the
            last's after the last norm.
        projection: whether W is learned beside the student; false needs equal widths.

    Units:
        none: from 0 to 2 a token.

    Source:
        DistilBERT, Sanh et al. 2019, arXiv:1910.01108, section 3 (last layer, equal widths); the
        projection is TinyBERT's, arXiv:1909.10351.
    """

    weight: float
    student_layers: list[int]
    teacher_layers: list[int]
    projection: bool

    version: ClassVar[int] = 1

    def compare(self, student_BLD: Tensor, teacher_BLD: Tensor) -> Tensor:
        return 1 - torch.nn.functional.cosine_similarity(student_BLD, teacher_BLD, dim=-1)
