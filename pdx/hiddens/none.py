"""No matching of hidden states."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.feed import Feed


@dataclass(frozen=True, kw_only=True)
class NoHidden:
    """The token loss alone."""

    exists: ClassVar[bool] = False
    weight: ClassVar[float] = 0.0
    student_layers: ClassVar[list[int]] = []
    version: ClassVar[int] = 1

    def check(self, run: "Run") -> None:
        """It goes with everything."""

    def flops_forward_per_token(self, student_width: int, teacher_width: int) -> float:
        """Nothing is computed."""
        return 0.0

    def init(self, student: Any, feed: "Feed", seed: int) -> None:
        """There is nothing to match."""
