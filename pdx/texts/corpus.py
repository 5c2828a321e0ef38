"""The corpus as it is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.data import TokenSet, Windows
    from pdx.env import Env
    from pdx.shared import Shared


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The windows of ``train.split``, in the order in which the split has them."""

    exists: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    needs_weak_teacher: ClassVar[bool] = False
    part: ClassVar[tuple[float, float] | None] = None
    version: ClassVar[int] = 1

    def check(self, run: "Run") -> None:
        """Any run may read it."""

    def identify(self, run: "Run") -> dict[str, Any]:
        raise AssertionError("a run on the corpus itself is named by its data and its split")

    def windows(self, run: "Run", env: "Env", token_set: "TokenSet") -> "Windows":
        """What is trained on; nothing is made."""
        return token_set.windows(*run.train.split.split("+"))

    def make(self, shared: "Shared", num_windows: int) -> None:
        """Nothing is to be made."""

    def forward_tokens(self, run: "Run", num_unique: int) -> float:
        """Tokens that the teacher reads or writes to make ``num_unique`` of these."""
        return 0.0
