"""Forward KL distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class ForwardKL:
    """KL(teacher || student) at each position: covers every mode of the teacher.

    loss = sum_s p_T(s) * (log p_T(s) - log p_S(s)) over the signal's support

    Where the signal renormalises the teacher over what it keeps, the student's own mass there is
    below one: the value is then at least -log of that mass and zero only if the student keeps
    none elsewhere.

    Shape:
        student_logits_CV, a chunk of C positions in any float dtype -> loss_C in float32.

    Units:
        nats per token, unreduced; ``pdx.reduce`` owns chunks, mask and the mean.

    Source:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. Temperature and its square are the
        signal's.
    """

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        return (teacher_CS.exp() * (teacher_CS - student_CS)).sum(-1)
