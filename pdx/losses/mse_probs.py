"""Squared distance of probabilities."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class MeanSquaredProbabilities:
    """Squared distance of probabilities (the Brier score up to a constant): bounded, and blind to
    rare tokens.

    loss = sum_s (p_T(s) - p_S(s))^2 over the signal's support

    Summed, not averaged: a mean over the vocabulary would make the kd_weight depend on its size.
    Merging tokens can add to it, so it is no divergence.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        squared probability, in [0, 2], unreduced.

    Source:
        arXiv:2410.16215, section 3.3, says neither whether its MSE is of logits or probabilities,
        nor on which support: this is our definition of the second reading, not the paper's.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = True
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        return (teacher_CS.exp() - student_CS.exp()).square().sum(-1)
