"""Curves: fraction of training -> value, for learning rate, kd_weight and temperature alike.

The loop asks at the midpoint of each step, so that no learning rate is ever exactly zero.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pdx.build import check

DECAY_SHAPES = ("sqrt", "linear", "cosine")


class Curve(Protocol):
    """What every schedule, mixture and scheduled temperature is of training's course."""

    def __call__(self, fraction: float) -> float: ...


def _check_fraction(key: str, value: float) -> None:
    check(0 <= value <= 1, f"schedule.{key}", value, "must lie in [0, 1]")


def _warmup(fraction: float, warmup_frac: float) -> float:
    return min(1.0, fraction / warmup_frac) if warmup_frac else 1.0


def check_shape(key: str, shape: str) -> None:
    """Refuse a shape that ``decay`` does not know."""
    check(shape in DECAY_SHAPES, key, shape, f"must be one of {', '.join(DECAY_SHAPES)}")


def decay(progress: float, shape: str, final_frac: float) -> float:
    """From 1 at progress 0 to ``final_frac`` at progress 1; ``sqrt`` is 1 - sqrt(progress)."""
    fallen = {
        "sqrt": math.sqrt(progress),
        "linear": progress,
        "cosine": 0.5 * (1 - math.cos(math.pi * progress)),
    }[shape]
    return 1 - (1 - final_frac) * fallen


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warm up, stay, decay: one long run can be cut short anywhere and cooled down.

    Attributes:
        decay_shape: ``sqrt`` is 1 - sqrt(progress), which beat linear in the source.

    Source:
        Hagele et al. 2024, arXiv:2405.18392, section 3.
    """

    warmup_frac: float
    decay_frac: float
    decay_shape: str
    final_frac: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("warmup_frac", "decay_frac", "final_frac"):
            _check_fraction(key, getattr(self, key))
        check(
            self.warmup_frac + self.decay_frac <= 1,
            "schedule.decay_frac",
            self.decay_frac,
            f"with schedule.warmup_frac={self.warmup_frac} must not exceed 1",
        )
        check_shape("schedule.decay_shape", self.decay_shape)

    def __call__(self, fraction: float) -> float:
        if fraction <= 1 - self.decay_frac:
            return _warmup(fraction, self.warmup_frac)
        progress = min(1.0, (fraction - (1 - self.decay_frac)) / self.decay_frac)
        return decay(progress, self.decay_shape, self.final_frac)


@dataclass(frozen=True, kw_only=True)
class Falling:
    """Warm up, then fall to ``final_frac`` by the subclass's ``shape``."""

    warmup_frac: float
    final_frac: float

    shape: ClassVar[str]

    def __post_init__(self) -> None:
        _check_fraction("warmup_frac", self.warmup_frac)
        _check_fraction("final_frac", self.final_frac)

    def __call__(self, fraction: float) -> float:
        if fraction < self.warmup_frac:
            return _warmup(fraction, self.warmup_frac)
        progress = (fraction - self.warmup_frac) / max(1 - self.warmup_frac, 1e-12)
        return decay(progress, self.shape, self.final_frac)


@dataclass(frozen=True, kw_only=True)
class Cosine(Falling):
    """Warm up, then half a cosine: the field's default, and the control's in arXiv:2410.16215.

    Source:
        Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts.
    """

    shape: ClassVar[str] = "cosine"
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Linear(Falling):
    """Warm up, then a straight line down to ``final_frac``."""

    shape: ClassVar[str] = "linear"
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Sqrt(Falling):
    """Warm up, then 1 - sqrt of what is done: the shape of a good cooldown, over all of training.

    As the cooldown of a run that first holds its rate it is ``schedule=wsd`` with ``decay_shape``
    sqrt; this is that shape without the part that holds.

    Source:
        Hagele et al. 2024, arXiv:2405.18392, section 3 (1-sqrt cooldown).
    """

    shape: ClassVar[str] = "sqrt"
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Warm up, then hold: the trunk from which cooldowns can be branched."""

    warmup_frac: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_fraction("warmup_frac", self.warmup_frac)

    def __call__(self, fraction: float) -> float:
        return _warmup(fraction, self.warmup_frac)
