"""One fit for every law: multi-start L-BFGS-B on a scaled objective, its gradient checked.

Symbols (here and in `laws` only): A, E and alpha are a law's constants, x the size, y the loss in
nats per token. Residuals are those of log y. The objective is scaled by its value at the best
start, for L-BFGS-B's stopping rule is absolute below 1; each coordinate is scaled by its column
of the Jacobian.

Source: the estimator is that of arXiv:2203.15556 (Huber on log loss, delta 1e-3) or least squares
on log loss; the traps avoided are those that arXiv:2404.10102 found.
"""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from scipy.optimize import minimize

from pdx.errors import PdxError
from pdx.files import digest

from .laws import LAWS, Law

Array = NDArray[np.float64]
Objective = Literal["least_squares", "huber"]
GRADIENT_TOLERANCE = 1e-5  # cosine between the residuals and any column of the Jacobian
ARRIVED_TOLERANCE = 1e-4  # relative distance from the best objective


class FitRefused(PdxError, ValueError):
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
        gradient_cosine: largest cosine between residuals and a free Jacobian column; 0 at an optimum.
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
        FitRefused: fewer distinct sizes than the law needs, or a value that has no logarithm.
        ValueError: x and y are not two vectors of one length.
    """
    x, y = as_points(x, y)
    levels = np.unique(x)
    if len(levels) < law.min_levels:
        raise FitRefused(
            f"{law.formula}: {len(levels)} distinct sizes; needs {law.min_levels} or more; "
            f"run {law.min_levels - len(levels)} more sizes, or fit a law with fewer constants."
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


class Problem:
    """The objective of one fit on scaled data, with weights that may differ by resample."""

    def __init__(self, law: Law, x: Array, y: Array, objective: Objective, delta: float) -> None:
        self.law, self.x, self.log_y = law, x, np.log(y)
        self.delta = delta if objective == "huber" else np.inf
        self.bounds = law.bounds(y)

    def residuals(self, theta: Array) -> Array:
        """Predicted minus measured log loss [..., n]."""
        return self.law.log_loss(theta, self.x) - self.log_y

    def values(self, theta: Array, weights: Array) -> Array:
        """Weighted mean of Huber (or half the square) of the residuals [...]."""
        size = np.abs(self.residuals(theta))
        inside = np.minimum(size, self.delta)
        return (weights * inside * (size - 0.5 * inside)).sum(-1) / weights.sum(-1)

    def minimize(self, start: Array) -> Array:
        """L-BFGS-B from one start, objective and coordinates scaled there."""
        ones = np.ones_like(self.x)
        jacobian = self.law.jacobian(start, self.x)
        stretch = np.maximum(np.sqrt((jacobian**2).mean(0)), 1e-6)
        scale = max(float(self.values(start, ones)), 1e-16)

        def scaled(point: Array) -> tuple[float, Array]:
            theta = point / stretch
            psi = np.clip(self.residuals(theta), -self.delta, self.delta)
            gradient = self.law.jacobian(theta, self.x).T @ psi / len(self.x)
            return float(self.values(theta, ones)) / scale, gradient / stretch / scale

        result = minimize(
            scaled,
            start * stretch,
            jac=True,
            method="L-BFGS-B",
            bounds=self.bounds * stretch[:, None],
            options={"maxiter": 500, "ftol": 1e-13, "gtol": 1e-9},
        )
        return np.clip(result.x / stretch, *self.bounds.T)

    def polish(
        self, theta: Array, weights: Array, max_steps: int = 200
    ) -> tuple[Array, Array, Array]:
        """Damped Gauss-Newton steps [R, P] under weights [R, n], all rows at once, in the bounds.

        Returns:
            theta, the objective's value, and the gradient's cosine of every row.
        """
        theta = np.clip(theta, *self.bounds.T)
        value = self.values(theta, weights)
        damping = np.full(len(theta), 1e-4)
        for _ in range(max_steps):
            gradient, hessian, cosine = self._newton(theta, weights)
            if (cosine < 0.01 * GRADIENT_TOLERANCE).all() or (damping > 1e8).all():
                break
            diagonal = np.einsum("rpp->rp", hessian)
            damped = hessian + np.eye(theta.shape[1]) * (damping[:, None] * diagonal)[:, None]
            step = np.linalg.solve(damped, gradient[..., None])[..., 0]
            trial = np.clip(theta - step, *self.bounds.T)
            trial_value = self.values(trial, weights)
            better = trial_value <= value
            theta = np.where(better[:, None], trial, theta)
            value = np.where(better, trial_value, value)
            damping = np.where(better, np.maximum(damping * 0.2, 1e-12), damping * 5.0)
        return theta, value, self._newton(theta, weights)[2]

    def bounds_hit(self, theta: Array) -> tuple[str, ...]:
        """Which coordinates lie on a bound."""
        hits = []
        for name, value, (low, high) in zip(
            self.law.theta_names, theta, self.bounds, strict=True
        ):
            slack = 1e-6 * (high - low)
            hits += [f"{name} at its lower bound"] if value <= low + slack else []
            hits += [f"{name} at its upper bound"] if value >= high - slack else []
        return tuple(hits)

    def condition(self, theta: Array) -> float:
        """Condition number of the Jacobian with columns of unit length."""
        jacobian = self.law.jacobian(theta, self.x)
        norms = np.linalg.norm(jacobian, axis=0)
        return float(np.linalg.cond(jacobian / np.where(norms > 0, norms, 1.0)))

    def _newton(self, theta: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Gradient and Gauss-Newton matrix with coordinates pinned at a bound taken out."""
        residuals = self.residuals(theta)
        size = np.abs(residuals)
        psi = np.clip(residuals, -self.delta, self.delta)
        bend = np.minimum(1.0, self.delta / np.maximum(size, 1e-300))
        jacobian = self.law.jacobian(theta, self.x)
        gradient = np.einsum("rn,rnp->rp", weights * psi, jacobian)
        hessian = np.einsum("rn,rnp,rnq->rpq", weights * bend, jacobian, jacobian)
        low, high = self.bounds.T
        pinned = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        length = np.sqrt(np.einsum("rn,rnp->rp", weights, jacobian**2))
        size_psi = np.sqrt((weights * psi**2).sum(-1, keepdims=True))
        gradient = np.where(pinned, 0.0, gradient)
        # residuals of 1e-9 are rounding: no direction is left in them
        cosine = (np.abs(gradient) / np.maximum(length * np.maximum(size_psi, 1e-9), 1e-300)).max(1)
        free = ~pinned
        hessian = hessian * (free[:, :, None] & free[:, None, :])
        hessian = hessian + np.eye(theta.shape[1]) * np.where(pinned, 1.0, 1e-14)[:, None]
        return gradient, hessian, cosine


def as_points(x: Sequence[float] | Array, y: Sequence[float] | Array) -> tuple[Array, Array]:
    """Two vectors of one length of finite positive numbers, or a refusal."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:  # (n, 1) minus (n,) would broadcast without a word
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; both must be (n,)")
    bad = ~(np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0))
    if bad.any():
        raise FitRefused(
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
