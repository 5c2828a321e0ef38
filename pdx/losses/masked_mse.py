"""Regression of logits where the teacher is sure."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class MaskedLogitRegression:
    """Squared distance of raw logits where the teacher is sure, and the spread of the gap anywhere.

    loss = 1[max p_T >= confidence] * mean_v (z_T(v) - z_S(v))^2
           + variance_weight * var_v (z_T(v) - z_S(v))

    The mask is on the first term alone, as the proposal writes it. That term sees a constant added
    to all logits, which changes no distribution; the variance does not. A proposal without
    evidence, here to be measured like any other.

    Attributes:
        confidence: the teacher's largest probability from which a position counts; 0: all count.
        variance_weight: of the variance over the vocabulary, by which is divided (no n - 1).

    Shape:
        student_logits_CV -> loss_C in float32.

    Units:
        squared nats per token, unreduced.

    Source:
        No publication is known to us. What "confidence" is, is ours: the largest probability of the
        teacher's tempered distribution.
    """

    confidence: float
    variance_weight: float

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = False
    window_tail_of: ClassVar[int] = 0
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        allowed = "must be >= 0"
        check(0 <= self.confidence < 1, "loss.confidence", self.confidence, "must lie in [0, 1)")
        check(self.variance_weight >= 0, "loss.variance_weight", self.variance_weight, allowed)

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        teacher_CV, student_CV, _ = teacher.kept_logits(student_logits_CV)
        gap_CV = teacher_CV - student_CV
        square_C, mean_C = gap_CV.square().mean(-1), gap_CV.mean(-1)
        log_confidence_C = teacher_CV.amax(-1) - teacher_CV.logsumexp(-1)
        sure_C = log_confidence_C.exp() >= self.confidence
        variance_C = (gap_CV - mean_C[:, None]).square().mean(-1)
        return sure_C * square_C + self.variance_weight * variance_C
