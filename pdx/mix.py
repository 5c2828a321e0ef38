"""How much of the loss is distillation."""

from dataclasses import dataclass
from typing import ClassVar

from pdx.build import check


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same weight throughout: loss = kd_weight * kd + (1 - kd_weight) * ce.

    Source:
        arXiv:2410.16215, Eq. 1, where kd_weight is called alpha.
    """

    kd_weight: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(0 <= self.kd_weight <= 1, "mix.kd_weight", self.kd_weight, "must lie in [0, 1]")

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return self.kd_weight
