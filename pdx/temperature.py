"""Temperatures: one number, one that moves with training, or one for each position.

The temperature of an axis value is the teacher's; whether the student is tempered too is stated by
each. Where both are, value and gradient are multiplied by T^2 (Hinton et al. 2015, section 2).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.rows import Facts
from pdx.schedule import check_shape, decay
from pdx.signal import Heats


class _OnBothSidesOrOne:
    """What the temperatures share that may temper the student too."""

    needs_spread: ClassVar[bool] = False
    temper_student: bool

    @property
    def tempers_student(self) -> bool:
        """Whether the student's side is tempered."""
        return self.temper_student

    @property
    def constant(self) -> float | None:
        """The teacher's temperature where all positions and steps have the same."""
        return None

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        """At which it reads the full-vocabulary logsumexp itself."""
        return ()

    def _heats(self, heat: float | Tensor) -> Heats:
        return Heats(heat, heat, heat**2) if self.temper_student else Heats(heat, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Constant(_OnBothSidesOrOne):
    """The same temperature everywhere.

    Attributes:
        value: above 1 softens the teacher, below 1 sharpens it.
        temper_student: temper both sides; value and gradient are then multiplied by T^2.

    Source:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. arXiv:2410.16215, Eq. 4 tempers the
        teacher; whether the student too is not said there.
    """

    value: float
    temper_student: bool

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.value > 0, "temperature.value", self.value, "must be > 0")

    @property
    def constant(self) -> float | None:
        return self.value

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        return self._heats(self.value)


@dataclass(frozen=True, kw_only=True)
class Scheduled(_OnBothSidesOrOne):
    """From ``start`` to ``end`` over training, by a schedule's shape: soft first, or sharp first.

    Attributes:
        shape: ``linear``, ``cosine`` or ``sqrt``, as in ``schedule=wsd``.
        temper_student: as in ``Constant``.

    Source:
        Ours; annealed from soft to sharp it is the idea of Jafari et al. 2021, arXiv:2104.07163.
    """

    start: float
    end: float
    shape: str
    temper_student: bool

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.start > 0, "temperature.start", self.start, "must be > 0")
        check(self.end > 0, "temperature.end", self.end, "must be > 0")
        check_shape("temperature.shape", self.shape)

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        return self._heats(self.end + (self.start - self.end) * decay(fraction, self.shape, 0.0))


@dataclass(frozen=True, kw_only=True)
class _BetweenEnds(_OnBothSidesOrOne):
    """What the temperatures share that lie between two ends, by how sure the teacher is."""

    sure: float
    unsure: float
    temper_student: bool

    needs_spread: ClassVar[bool] = True
    definition_unresolved: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("sure", "unsure"):
            value = getattr(self, key)
            check(0 < value < math.inf, f"temperature.{key}", value, "must be > 0")

    def _at(self, share: Tensor) -> Heats:
        """At a ``share`` of the way from sure to unsure."""
        return self._heats(self.sure + (self.unsure - self.sure) * share)


@dataclass(frozen=True, kw_only=True)
class ByEntropy(_BetweenEnds):
    """A temperature for each position, by the entropy H of the teacher there.

    T = sure + (unsure - sure) * (1 - exp(-H)): one minus one over the perplexity, from 0 where the
    teacher knows the next token to 1 where it could be any of many.

    Attributes:
        sure, unsure: the temperatures of these two ends; either may be the larger.
        temper_student: as in ``Constant``, at the teacher's temperature.

    Source:
        The name and no more: AdaKD_H of arXiv:2410.16215, section 3.2, whose formula and constants
        are not to be had. The map is ours.
    """

    version: ClassVar[int] = 1

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        assert facts.entropy_N is not None
        return self._at(-torch.expm1(-facts.entropy_N))


@dataclass(frozen=True, kw_only=True)
class ByDeviation(_BetweenEnds):
    """A temperature for each position, by the standard deviation s of the teacher's logits there.

    T = sure + (unsure - sure) / (1 + s), s over the whole vocabulary.

    Attributes:
        sure, unsure, temper_student: as in ``ByEntropy``.

    Source:
        The name and no more: AdaKD_SD of arXiv:2410.16215, section 3.2, whose formula and constants
        are not to be had. The map is ours.
    """

    version: ClassVar[int] = 1

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        assert facts.deviation_N is not None
        return self._at(1 / (1 + facts.deviation_N))


@dataclass(frozen=True, kw_only=True)
class NormKD:
    """Each side by the spread of its own logits at that position, so that both are as wide.

    T_T = norm * s(z_T), T_S = norm * s(z_S), s the standard deviation over the vocabulary; the loss
    is multiplied by T_T^2.

    Attributes:
        norm: the same share of the deviation on both sides.

    Source:
        Chi et al. 2023, arXiv:2308.00520, as its authors' code has it, with two deviations: s is
        divided by V, not V - 1, and is a number to the gradient. What ``norm`` arXiv:2410.16215
        took, and whether s over the kept tokens only, is not to be had.
    """

    norm: float

    needs_spread: ClassVar[bool] = True
    tempers_student: ClassVar[bool] = True
    constant: ClassVar[float | None] = None
    needed_temperatures: ClassVar[tuple[float, ...]] = ()
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.norm > 0, "temperature.norm", self.norm, "must be > 0")

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        assert facts.deviation_N is not None
        heat_N = (self.norm * facts.deviation_N).clamp(min=1e-3)  # a flat teacher has none
        return Heats(heat_N, heat_N, heat_N**2, student_norm=self.norm)


@dataclass(frozen=True, kw_only=True)
class WTTM:
    """The teacher alone tempered, and each position weighted by how flat that makes it.

    The loss is multiplied by U = sum_v p_T(v)^(1/T), over the whole vocabulary: at T > 1 the more,
    the less sure the teacher is; at T = 1 it is 1.

    Attributes:
        value: T; the source calls 1 / T gamma.

    Source:
        Zheng, Yang 2024, arXiv:2402.11148 (weighted transformed teacher matching), as its authors'
        code has it. What gamma arXiv:2410.16215 took is not to be had.
    """

    value: float

    needs_spread: ClassVar[bool] = False
    tempers_student: ClassVar[bool] = False
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.value > 0, "temperature.value", self.value, "must be > 0")

    @property
    def constant(self) -> float:
        """The teacher's temperature."""
        return self.value

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        """U is a ratio of two normalisers."""
        return (1.0, self.value)

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        weight_N = (facts.lse[self.value] - facts.lse[1.0] / self.value).exp()
        return Heats(self.value, 1.0, weight_N)
