"""A share of the mass, in at most so many tokens."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.build import check
from pdx.signal import Rows
from pdx.signals.truncated import Truncated


@dataclass(frozen=True, kw_only=True)
class ToppTopK(Truncated):
    """The smallest set that holds ``top_p`` of the mass, then at most ``top_k`` of it.

    Bites by p where the teacher is sure and by k where it is not.

    Attributes:
        top_p: mass at temperature 1, before the temperature is applied.
        tail, temperature, temper_student: as in ``TopK``.

    Source:
        arXiv:2410.16215, section 3.1 (top-p-k).
    """

    top_p: float
    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.top_p <= 1, "signal.top_p", self.top_p, "must lie in (0, 1]")

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        return (1.0, *super().needed_temperatures)

    def keep(self, rows: Rows) -> Tensor:
        probs_NK = (rows.logits_NK[:, : self.top_k] - rows.lse[1.0][:, None]).exp()
        before_NK = probs_NK.cumsum(-1) - probs_NK  # mass of all larger tokens
        keep_NK = before_NK < self.top_p
        keep_NK[:, 0] = True
        return keep_NK
