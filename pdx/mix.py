"""How much of the loss is distillation, over training: loss = w * kd + (1 - w) * ce.

A mixture is a curve as a schedule is, and most are a schedule's shape at another height; what is
fixed here is that w lies in [0, 1]. arXiv:2410.16215 calls it alpha.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pdx import schedule
from pdx.build import check
from pdx.errors import ConfigError


def _check_share(key: str, value: float) -> None:
    check(0 <= value <= 1, f"mix.{key}", value, "must lie in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same weight throughout: loss = kd_weight * kd + (1 - kd_weight) * ce.

    Source:
        arXiv:2410.16215, Eq. 1, where kd_weight is called alpha.
    """

    kd_weight: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_share("kd_weight", self.kd_weight)

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return self.kd_weight


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from ``start`` to ``end``: text first or teacher first.

    Source:
        arXiv:2410.16215, section 3.3 and table 5: Linear Inc is 0 to 1, Linear Dec 1 to 0.
    """

    start: float
    end: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_share("start", self.start)
        _check_share("end", self.end)
        check(
            self.start != self.end,
            "mix.end",
            self.end,
            "must differ from mix.start; use mix=constant for a weight that stays",
        )

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return self.start + (self.end - self.start) * fraction


@dataclass(frozen=True, kw_only=True)
class Period:
    """Teacher and text in turns: in each period ``high`` for its first ``high_frac``, then ``low``.

    Attributes:
        num_periods: over the whole training.

    Source:
        The name and no more: "Period" of arXiv:2410.16215, table 5, whose length and shape are not
        to be had. Square, and beginning with the teacher, is ours.
    """

    high: float
    low: float
    high_frac: float
    num_periods: int

    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("high", "low"):
            _check_share(key, getattr(self, key))
        allowed = "must lie strictly between 0 and 1"
        check(0 < self.high_frac < 1, "mix.high_frac", self.high_frac, allowed)
        check(self.num_periods >= 1, "mix.num_periods", self.num_periods, "must be at least 1")

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return self.high if fraction * self.num_periods % 1 < self.high_frac else self.low


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warm up to ``kd_weight``, stay, decay to ``final_frac`` of it: most teacher at the peak rate.

    Attributes:
        warmup_frac ... final_frac: as in ``schedule=wsd``.

    Source:
        arXiv:2410.16215, section 3.3 and table 5: WSD-alpha, at most 0.9 in the best run. Its
        fractions are known from one secondary source only (10% and 1%, the values in conf/), the
        shape of its decay not at all: linear is ours.
    """

    kd_weight: float
    warmup_frac: float
    decay_frac: float
    decay_shape: str
    final_frac: float

    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_share("kd_weight", self.kd_weight)
        try:
            self._curve  # noqa: B018  its own checks
        except ConfigError as err:
            raise ConfigError(str(err).replace("schedule.", "mix.")) from err

    @cached_property
    def _curve(self) -> schedule.Curve:
        return schedule.WSD(
            warmup_frac=self.warmup_frac,
            decay_frac=self.decay_frac,
            decay_shape=self.decay_shape,
            final_frac=self.final_frac,
        )

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return self.kd_weight * self._curve(fraction)


@dataclass(frozen=True, kw_only=True)
class OneMinusWSD(WSD):
    """What ``mix=wsd`` leaves: most text at the peak rate, the teacher at both ends.

    w = 1 - kd_weight * shape, so ``kd_weight`` is here the weight of the text at its highest.

    Source:
        arXiv:2410.16215, table 5: WSD-beta, beta = 1 - alpha. Fractions as in ``WSD``.
    """

    version: ClassVar[int] = 1

    def __call__(self, fraction: float) -> float:
        """Weight of the distillation term at ``fraction`` of training."""
        return 1 - super().__call__(fraction)
