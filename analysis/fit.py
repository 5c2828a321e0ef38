"""One fit for every law: multi-start L-BFGS-B on a scaled objective, its gradient checked.

Symbols (here and in `laws` only): A, E and alpha are a law's constants, x the size, y the loss in
nats per token. Residuals are those of log y. How the objective is scaled and minimised stands in
`solve`.

Source: the estimator is that of arXiv:2203.15556 (Huber on log loss, delta 1e-3) or least squares
on log loss; the traps avoided are those that arXiv:2404.10102 found.
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from pdx.errors import PdxError
from pdx.files import digest

from .laws import LAWS, Law
from .solve import GRADIENT_TOLERANCE, Objective, Problem

Array = NDArray[np.float64]
ARRIVED_TOLERANCE = 1e-4  # relative distance from the best objective


class FitError(PdxError, ValueError):
    """Data that cannot bear the law asked of them; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Refits of resampled runs.

    Attributes:
        intervals: percentile interval of each constant.
        draws: theta of every resample, for bands and derived numbers.
        num_rejected: resamples with too few distinct sizes for the law, drawn again.
    """

    num_resamples: int
    num_rejected: int
    num_unconverged: int
    level: float
    seed: int
    scheme: str
    intervals: dict[str, tuple[float, float]]
    draws: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law and all that is needed to repeat or to doubt it; JSON there and back.

    Attributes:
        theta: the solution in the law's coordinates, on data divided by x_scale and y_scale.
        objective_value: mean of the objective over the points.
        gradient_cosine: largest cosine between residuals and a free column of the Jacobian.
        share_arrived: of the starts, how many ended at the best objective.
        condition: condition number of the Jacobian with columns of unit length; above about 100
            the constants are not identified one by one, whatever the curve looks like.
        x_name: what x is, its convention included.
    """

    law: str
    constants: dict[str, float]
    theta: tuple[float, ...]
    x_scale: float
    y_scale: float
    objective: Objective
    delta: float
    objective_value: float
    rms_log_residual: float
    converged: bool
    gradient_cosine: float
    share_arrived: float
    num_starts: int
    bounds_hit: tuple[str, ...]
    condition: float
    num_points: int
    num_levels: int
    x_range: tuple[float, float]
    x_name: str
    y_name: str
    data_filter: str
    data_digest: str
    seed: int
    versions: dict[str, str]
    bootstrap: Bootstrap | None = None

    @property
    def aicc(self) -> float:
        """Akaike's criterion for few points, of log residuals; infinite where points are too few.

        Source:
            Hurvich, Tsai 1989, Biometrika 76(2), with the variance as one more constant.
        """
        num, free = self.num_points, len(self.constants) + 1
        if num - free - 1 <= 0:
            return math.inf
        if self.rms_log_residual == 0:
            return -math.inf
        spread = 2 * num * math.log(self.rms_log_residual)
        return spread + 2 * free + 2 * free * (free + 1) / (num - free - 1)

    def predict(self, x: Array) -> Array:
        """The fitted loss at x."""
        return self._curves(np.array([self.theta]), x)[0]

    def band(self, x: Array) -> tuple[Array, Array]:
        """Pointwise percentile band of the curve at x, from the bootstrap."""
        if self.bootstrap is None:
            raise ValueError("this fit has no bootstrap; call `bootstrap` first")
        tail = 50 * (1 - self.bootstrap.level)
        curves = self._curves(np.array(self.bootstrap.draws), x)
        low, high = np.percentile(curves, [tail, 100 - tail], axis=0)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Fit":
        """The inverse of `to_json`."""
        raw = dict(raw)
        for name in ("theta", "bounds_hit", "x_range"):
            raw[name] = tuple(raw[name])
        if raw["bootstrap"] is not None:
            boot = dict(raw["bootstrap"])
            boot["intervals"] = {name: tuple(pair) for name, pair in boot["intervals"].items()}
            boot["draws"] = tuple(tuple(draw) for draw in boot["draws"])
            raw["bootstrap"] = Bootstrap(**boot)
        return cls(**raw)

    def _curves(self, theta: Array, x: Array) -> Array:
        scaled = np.asarray(x, dtype=np.float64) / self.x_scale
        return self.y_scale * np.exp(LAWS[self.law].log_loss(theta, scaled))


def fit(
    law: Law,
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    *,
    objective: Objective = "least_squares",
    delta: float = 1e-3,
    num_starts: int = 12,
    seed: int = 0,
    x_name: str = "x",
    y_name: str = "loss (nats/token)",
    data_filter: str = "all points given",
) -> Fit:
    """Fit ``law`` to points (x, y), one per run.

    Raises:
        FitError: fewer distinct sizes than the law needs, or a value that has no logarithm.
        ValueError: x and y are not two vectors of one length.
    """
    x, y = as_points(x, y)
    levels = np.unique(x)
    if len(levels) < law.min_levels:
        raise FitError(
            f"{law.formula}: {len(levels)} distinct sizes; needs {law.min_levels} or more; "
            f"add {law.min_levels - len(levels)}, or fit a law with fewer constants."
        )
    x_scale, y_scale = float(np.exp(np.log(x).mean())), float(np.exp(np.log(y).mean()))
    problem = Problem(law, x / x_scale, y / y_scale, objective, delta)
    starts = _starts(law, problem, num_starts, seed)
    ends = np.array([problem.minimize(start) for start in starts])
    ends, values, cosines = problem.polish(ends, np.ones((len(ends), len(x))))
    best = int(np.argmin(values))
    theta = ends[best]
    floor = 1e-20 if objective == "least_squares" else 1e-20 / delta
    arrived = values <= values[best] * (1 + ARRIVED_TOLERANCE) + floor
    residuals = problem.residuals(theta)
    constants = law.natural(theta, x_scale, y_scale)
    return Fit(
        law=law.name,
        constants={name: float(value) for name, value in constants.items()},
        theta=tuple(float(value) for value in theta),
        x_scale=x_scale,
        y_scale=y_scale,
        objective=objective,
        delta=delta,
        objective_value=float(values[best]),
        rms_log_residual=float(np.sqrt(np.mean(residuals**2))),
        converged=bool(cosines[best] < GRADIENT_TOLERANCE),
        gradient_cosine=float(cosines[best]),
        share_arrived=float(arrived.mean()),
        num_starts=len(starts),
        bounds_hit=problem.bounds_hit(theta),
        condition=problem.condition(theta),
        num_points=len(x),
        num_levels=len(levels),
        x_range=(float(x.min()), float(x.max())),
        x_name=x_name,
        y_name=y_name,
        data_filter=data_filter,
        data_digest=digest(sorted(zip(x.tolist(), y.tolist(), strict=True))),
        seed=seed,
        versions=versions(),
    )


def as_points(x: Sequence[float] | Array, y: Sequence[float] | Array) -> tuple[Array, Array]:
    """Two vectors of one length of finite positive numbers, or a refusal."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:  # (n, 1) minus (n,) would broadcast without a word
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; both must be (n,)")
    bad = ~(np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0))
    if bad.any():
        raise FitError(
            f"{bad.sum()} of {len(x)} points are not finite and positive; "
            "leave diverged runs out before fitting."
        )
    return x, y


def versions() -> dict[str, str]:
    """The libraries whose numbers these are."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
        "matplotlib": matplotlib.__version__,
    }


def _starts(law: Law, problem: Problem, num_starts: int, seed: int) -> Array:
    """The law's own starts, then copies of them shaken by a few tenths."""
    own = law.starts(problem.x, np.exp(problem.log_y))
    low, high = problem.bounds.T
    rng = np.random.default_rng(seed)
    copies = own[np.arange(max(num_starts - len(own), 0)) % len(own)]
    shaken = copies + rng.normal(0.0, 0.3, copies.shape) * np.maximum(np.abs(copies), 0.1)
    return np.clip(np.concatenate([own, shaken])[:num_starts], low, high)
