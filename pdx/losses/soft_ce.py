"""Cross-entropy against the teacher's distribution."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class SoftCrossEntropy:
    """Cross-entropy of the student against the teacher: forward KL plus the teacher's entropy.

    loss = -sum_s p_T(s) * log p_S(s) over the signal's support

    Its gradient is that of ``forward_kl`` on the same signal; its value is not zero at the optimum.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        nats per token, unreduced.

    Source:
        The NLL of arXiv:2410.16215, section 3.3.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        return -(teacher_CS.exp() * student_CS).sum(-1)
