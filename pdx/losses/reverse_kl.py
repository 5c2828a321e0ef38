"""Reverse KL distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """KL(student || teacher) at each position: seeks one mode rather than covering all.

    loss = sum_s p_S(s) * (log p_S(s) - log p_T(s)) over the signal's support

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        nats per token, unreduced.

    Source:
        Gu et al. 2024, arXiv:2306.08543, section 2, there over whole sequences that the student
        wrote; ours is at each position of the text.
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
        return (student_CS.exp() * (student_CS - teacher_CS)).sum(-1)
