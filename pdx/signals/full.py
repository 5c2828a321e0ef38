"""The whole distribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.signal import DenseSignal


@dataclass(frozen=True, kw_only=True)
class Full:
    """All of the teacher's logits: what every truncation is compared with; needs a live teacher.

    Attributes:
        temperature: softens the teacher, and the student too where ``temper_student``.
        temper_student: temper both sides; value and gradient are then multiplied by T^2.

    Source:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. arXiv:2410.16215, Eq. 4 tempers the
        teacher; whether the student too is not said there.
    """

    temperature: float
    temper_student: bool

    stored: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.temperature > 0, "signal.temperature", self.temperature, "must be > 0")

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return True

    def live(
        self, hidden_ND: Tensor, head: Callable[[Tensor], Tensor], offset_N: Tensor | None = None
    ) -> DenseSignal:
        """The signal of a live teacher; nothing here depends on the position."""
        return DenseSignal(
            hidden_ND=hidden_ND,
            head=head,
            temperature=self.temperature,
            temper_student=self.temper_student,
        )
