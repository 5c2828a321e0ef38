"""Tail-aware decoupled KL."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.signal import StudentLogits, TeacherSignal

LEAST_MEAN = 1e-4  # mass of a window's tail


@dataclass(frozen=True, kw_only=True)
class TailAwareKL:
    """Forward KL in two parts, the part inside the teacher's tail weighted on its own.

    loss = KL over the teacher's top_k tokens and all others as one
           + tail_weight * a * KL(p_T | tail || p_S | tail), a the teacher's mass in the tail

    By the chain rule ``tail_weight`` 1 is the forward KL itself where it is not ``per_sequence``;
    above 1, the tail counts for more than its mass.

    Attributes:
        top_k: tokens outside the tail, by the teacher.
        tail_weight: of the second part, beside the mass that it has anyway.
        per_sequence: divide it by the mean of a over the window, so that a window whose tail has
            little mass is weighed up. Costs another product with the teacher's head.

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        nats per token, unreduced.

    Source:
        Dasgupta, Cohn, Baldwin 2026, arXiv:2602.20816 (TAD): 2 over the mean of a over the
        sequence, top_k 10. Not to be had: what a sequence is where texts are packed, and whether
        its padding counts. Ours is the window's positions that count, the distribution that the
        signal tempers, and a mean of at least 1e-4, below which float32 knows no tail.
    """

    top_k: int
    tail_weight: float
    per_sequence: bool

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 2

    @property
    def window_tail_of(self) -> int:
        """Outside how many of the teacher's tokens its mean mass over a window is read."""
        return self.top_k if self.per_sequence else 0

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "loss.top_k", self.top_k, "must be at least 1")
        check(self.tail_weight > 0, "loss.tail_weight", self.tail_weight, "must be > 0")

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        weight: float | Tensor = self.tail_weight
        if self.per_sequence:
            assert teacher.tail_N is not None
            weight = self.tail_weight / teacher.tail_N.clamp(min=LEAST_MEAN)
        teacher_CV, student_CV = teacher.align(student_logits_CV)
        ids_CK = teacher_CV.topk(min(self.top_k, teacher_CV.shape[-1] - 1), dim=-1).indices
        in_tail_CV = torch.ones_like(teacher_CV, dtype=torch.bool).scatter(-1, ids_CK, False)
        parts_CV = teacher_CV.exp() * (teacher_CV - student_CV)
        log_mass_C = teacher_CV.masked_fill(~in_tail_CV, -torch.inf).logsumexp(-1)
        student_C = student_CV.masked_fill(~in_tail_CV, -torch.inf).logsumexp(-1)
        between_C = log_mass_C.exp() * (log_mass_C - student_C)
        inside_C = (parts_CV * in_tail_CV).sum(-1) - between_C
        return (parts_CV * ~in_tail_CV).sum(-1) + between_C + weight * inside_C
