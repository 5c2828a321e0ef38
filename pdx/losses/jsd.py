"""Jensen-Shannon distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.losses.mixture import log_mixture
from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class JensenShannon:
    """Both sides against their mixture: bounded, whatever either puts no mass on.

    loss = w * KL(p_T || m) + (1 - w) * KL(p_S || m), m = w * p_T + (1 - w) * p_S

    Divided by w * (1 - w) it tends to the forward KL as w falls to 0 and to the reverse as it
    rises to 1; it is not divided here, so its gradient shrinks with either.

    Attributes:
        teacher_weight: w, strictly between 0 and 1; one half is the Jensen-Shannon divergence.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        nats per token, unreduced; at most the entropy of (w, 1 - w).

    Source:
        Agarwal et al. 2024, arXiv:2306.13649, section 2 (generalized JSD).
    """

    teacher_weight: float

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            0 < self.teacher_weight < 1,
            "loss.teacher_weight",
            self.teacher_weight,
            "must lie strictly between 0 and 1; use loss=forward_kl or loss=reverse_kl for the "
            "limits",
        )

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CS, student_CS = teacher.align(student_logits_CV)
        mixture_CS = log_mixture(teacher_CS, student_CS, self.teacher_weight)
        to_teacher_CS = teacher_CS.exp() * (teacher_CS - mixture_CS)
        to_student_CS = student_CS.exp() * (student_CS - mixture_CS)
        weight = self.teacher_weight
        return (weight * to_teacher_CS + (1 - weight) * to_student_CS).sum(-1)
