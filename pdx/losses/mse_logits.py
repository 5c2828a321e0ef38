"""Squared distance of logits as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class MeanSquaredLogits:
    """Mean squared distance of logits over the kept tokens, their level included.

    loss = mean_s (z_T(s) - z_S(s))^2 over what is kept

    It is loss=mse plus the square of the difference of the means: a constant added to all logits,
    which changes no distribution, is to be learned, too. The tail has no logit, so ``signal.tail``
    does not enter.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        squared nats per token, unreduced.

    Source:
        Ba, Caruana 2014, arXiv:1312.6184, section 2.2: all logits of a softmax, neither centred nor
        tempered. arXiv:2410.16215, section 3.3, does not say which MSE it means.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = False
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS, keep_CS = teacher.kept_logits(student_logits_CV)
        gap_CS = (teacher_CS - student_CS).masked_fill(~keep_CS, 0.0)
        return gap_CS.square().sum(-1) / keep_CS.sum(-1)
