"""Skewed forward KL distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.losses.mixture import log_mixture
from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class SkewedForwardKL:
    """Forward KL against a student that is lent some of the teacher: no pull grows without bound.

    loss = KL(p_T || skew * p_T + (1 - skew) * p_S)

    A token that the student gives nothing costs at most -log(skew).

    Attributes:
        skew: strictly between 0 and 1; 0.1 in the source.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        nats per token, unreduced; at most -log(skew).

    Source:
        Ko et al. 2024, arXiv:2402.03898, section 3.1.
    """

    skew: float

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            0 < self.skew < 1,
            "loss.skew",
            self.skew,
            "must lie strictly between 0 and 1; use loss=forward_kl for a skew of 0",
        )

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        mixture_CS = log_mixture(teacher_CS, student_CS, self.skew)
        return (teacher_CS.exp() * (teacher_CS - mixture_CS)).sum(-1)
