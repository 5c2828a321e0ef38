"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.signal import StudentLogits, TeacherSignal, as_student


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """A teacher who knows nothing: what softer targets alone are worth.

    loss = (1 - smoothing) * ce - smoothing * mean_v log p_S(v)

    A control for distillation: it softens the targets and adds no information. Teacher, signal and
    mix are no part of what the run is.

    Attributes:
        smoothing: share of each target that goes evenly to the whole vocabulary.

    Shape:
        student_logits_CV -> the second term, loss_C in float32; ``pdx.reduce`` weighs it.

    Units:
        nats per token, unreduced.

    Source:
        Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    smoothing: float

    needs_teacher: ClassVar[bool] = False
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        allowed = "must lie strictly between 0 and 1; use loss=none for none"
        check(0 < self.smoothing < 1, "loss.smoothing", self.smoothing, allowed)

    @property
    def own_weight(self) -> float:
        """Of its own term beside the cross-entropy, at all times."""
        return self.smoothing

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        return -as_student(student_logits_CV).logprobs(1.0).mean(-1)
