"""No distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.signal import StudentLogits, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class NoDistillation:
    """Plain language modelling: the control that every claim needs.

    The run is cross-entropy with weight 1; teacher, signal and mix are no part of what it is.
    """

    needs_teacher: ClassVar[bool] = False
    needs_closed_signal: ClassVar[bool] = False
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = False
    is_shift_invariant: ClassVar[bool] = True
    own_weight: ClassVar[float] = 0.0
    version: ClassVar[int] = 2

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor:
        raise AssertionError("loss=none reads no teacher and is never called")
