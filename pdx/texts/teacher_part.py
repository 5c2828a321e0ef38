"""The tokens that the teacher read in one part of its own training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pdx.build import check
from pdx.data.chosen import Chosen
from pdx.data.tokens import window_order
from pdx.errors import ConfigError
from pdx.files import digest
from pdx.teacher import TrainedHere

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.data import TokenSet, Windows
    from pdx.env import Env
    from pdx.shared import Shared


@dataclass(frozen=True, kw_only=True)
class TeacherPart:
    """What the teacher read from ``start_frac`` to ``end_frac`` of its steps, window by window.

    With ``store.recorded`` the student learns from what the teacher said then, at no extra forward
    pass: online in the source's sense. With ``store.recorded=[]`` it hears the finished teacher on
    the same tokens, and ``loss=none`` is the control on them, which reads no teacher.
    ``train.split`` is not read.

    Attributes:
        start_frac, end_frac: 0 and 0.25 are the early quarter; of ``teacher=trained`` the cooldown
            is the last ``teacher.decay_frac``.

    Source:
        arXiv:2410.16215, section 3.5 and table 6: 100B tokens early in the teacher's training, and
        the last 100B of its 400B.
    """

    start_frac: float
    end_frac: float

    exists: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_weak_teacher: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(0 <= self.start_frac < 1, "text.start_frac", self.start_frac, "must lie in [0, 1)")
        allowed = f"must be above text.start_frac={self.start_frac} and at most 1"
        check(self.start_frac < self.end_frac <= 1, "text.end_frac", self.end_frac, allowed)

    @property
    def part(self) -> tuple[float, float]:
        """Shares of the teacher's training between which these tokens were read."""
        return self.start_frac, self.end_frac

    def check(self, run: "Run") -> None:
        """Refuse a teacher that was not trained here, and more tokens than the part holds."""
        if not isinstance(run.teacher, TrainedHere):
            raise ConfigError(
                "text=teacher_part: is what a teacher read when it was trained here; use "
                "teacher=trained, or text=corpus."
            )
        first, stop = self.sequences(run)
        most = (stop - first) * run.train.max_epochs
        check(
            run.num_windows <= most,
            "train.num_tokens",
            run.train.num_tokens,
            f"the part of the teacher's training from {self.start_frac} to {self.end_frac} holds "
            f"{(stop - first) * run.data.seq_len} tokens (train.max_epochs="
            f"{run.train.max_epochs}); train on fewer, take a longer part, or raise "
            "teacher.num_tokens",
        )

    def sequences(self, run: "Run") -> tuple[int, int]:
        """First and last-plus-one of the teacher's sequences, counted over its whole training."""
        training = run.teacher.run(run)
        edges = (round(share * training.num_steps) for share in self.part)
        first, stop = (step * training.train.batch_size for step in edges)
        return first, stop

    def identify(self, run: "Run") -> dict[str, Any]:
        train = run.teacher.run(run).train
        order = {"split": train.split, "seed": train.seed, "batch_size": train.batch_size}
        return {"sequences": self.sequences(run), "num_tokens": train.num_tokens, **order}

    def windows(self, run: "Run", env: "Env", token_set: "TokenSet") -> "Windows":
        """What the teacher read, in the order in which it did."""
        training, (first, stop) = run.teacher.run(run), self.sequences(run)
        base = token_set.windows(*training.train.split.split("+"))
        num_used = training.num_unique_windows(base)
        seed = training.train.seed
        order = window_order(base.num_windows, num_used, seed, first, stop - first)
        name = digest([base.digest, num_used, seed, first, stop])
        return Chosen(base, stop - first, lambda index_B: order[index_B], name)

    def make(self, shared: "Shared", num_windows: int) -> None:
        """Nothing is to be made: the tokens are the corpus's."""

    def forward_tokens(self, run: "Run", num_unique: int) -> float:
        """Whatever was said of them was said in training."""
        return 0.0
