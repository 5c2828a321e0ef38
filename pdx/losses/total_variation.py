"""Total variation distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Half the sum of absolute differences: no token, however rare, can dominate.

    loss = 1/2 * sum_s |p_T(s) - p_S(s)| over the signal's support

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        probability, in [0, 1], unreduced.

    Source:
        Wen et al. 2023, arXiv:2307.15190, section 3, over sequences; ours is at each
        position.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        return 0.5 * (teacher_CS.exp() - student_CS.exp()).abs().sum(-1)
