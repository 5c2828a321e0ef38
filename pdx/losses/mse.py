"""Squared distance of logits."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError:
    """Mean squared distance of centred logits over the kept tokens: the vision field's favourite.

    loss = mean_s ((z_T(s) - mean z_T) - (z_S(s) - mean z_S))^2, s and both means over what is kept

    Centring makes it blind to a constant added to all logits, which changes no distribution. The
    tail has no logit, so ``signal.tail`` does not enter.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        squared nats per token, unreduced.

    Source:
        arXiv:2410.16215, section 3.3, says neither whether logits or probabilities nor on which
        support: centring and the kept support are our definition, not the paper's.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = True
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS, keep_CS = teacher.kept_logits(student_logits_CV)
        num_kept_C1 = keep_CS.sum(-1, keepdim=True)
        gap_CS = (teacher_CS - student_CS).masked_fill(~keep_CS, 0.0)
        gap_CS = gap_CS - gap_CS.sum(-1, keepdim=True) / num_kept_C1
        return gap_CS.masked_fill(~keep_CS, 0.0).square().sum(-1) / num_kept_C1[:, 0]
