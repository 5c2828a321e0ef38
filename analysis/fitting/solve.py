"""Minimising a law's objective for many rows at once: starts, resamples, profile points.

Newton's method for a Huber function whose corner ``delta`` shrinks in stages: points inside the
corner have curvature one, points outside none, and the unknown rest (which points will be inside
after the step) is made safe by giving those outside a share of the curvature of iteratively
reweighted least squares. The share falls as steps succeed: robust at first, quadratic at the end.
Least squares is the same with an infinite corner, least absolute deviations with a minute one.

A row stops where a full step would gain less than `GAIN` of its objective. Shapes: R rows, n
points, P coordinates.

Source: for Newton's method on Huber functions, Madsen, Nielsen 1990, BIT 30; for damping,
Marquardt 1963.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..laws.law import Columns, Law
from .objectives import Objective

Array = NDArray[np.float64]
GAIN = 1e-13  # relative fall of the objective that a further step must promise
ROUGH_GAIN = 1e-4  # the same before the last stage
FACTOR = 4.0  # between the corners of two stages
BLOCK = 60_000  # rows times points that are worked on together: what a cache holds
MAX_STEPS = 300
MAX_LONE_STEPS = 10_000  # of the best start, where a ridge is long and has a corner at every point
ROUNDING = 1e-9  # log residuals below which nothing is left to explain


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One law on one set of points, in the law's centred coordinates.

    Attributes:
        logs, loss: what the law reads and is held against [n].
        bounds: [P, 2]; equal bounds hold a coordinate fixed.
        tied: for each coordinate the index of the one it equals; its own where it is free.
        held: coordinates that keep what each row starts with.
    """

    law: Law
    logs: Columns
    loss: Array
    objective: Objective
    bounds: Array
    tied: NDArray[np.intp]
    held: tuple[int, ...] = ()

    @cached_property
    def free(self) -> NDArray[np.intp]:
        """Coordinates that are moved by themselves."""
        index = np.arange(len(self.tied))
        moved = (self.tied == index) & (self.bounds[:, 0] < self.bounds[:, 1])
        return np.flatnonzero(moved & ~np.isin(index, self.held))

    @cached_property
    def log_loss(self) -> Array:
        """Logarithm of the measured loss [n]."""
        return np.log(self.loss)

    def clip(self, theta_RP: Array) -> Array:
        """Into the bounds, and tied."""
        return np.clip(theta_RP, *self.bounds.T)[:, self.tied]

    def residuals(self, theta_RP: Array) -> tuple[Array, Array]:
        """Predicted minus measured [R, n], and its derivative by the free coordinates [R, F, n]."""
        log_loss, jacobian = self.law.evaluate(theta_RP, self.logs)
        free = self.free
        if len(free) < len(self.tied):
            whole = jacobian
            jacobian = whole[:, free].copy()
            for i, to in enumerate(self.tied):
                if to != i and to in free:
                    jacobian[:, np.searchsorted(free, to)] += whole[:, i]
        if self.objective.on_log:
            return log_loss - self.log_loss, jacobian
        predicted = np.exp(log_loss)
        return predicted - self.loss, jacobian * predicted[:, None]

    def values(self, theta_RP: Array, weights_Rn: Array) -> Array:
        """The objective of each row [R]."""
        return self.objective.value(self.residuals(theta_RP)[0], weights_Rn)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Rows as they ended: theta [R, P], the objective [R], and the largest cosine between the
    residuals and a column of the Jacobian that is not held at a bound [R].
    """

    theta: Array
    value: Array
    cosine: Array

    def best_of(self, other: "Solution") -> "Solution":
        """Row by row, whichever is lower."""
        lower = other.value < self.value * (1 - 1e-12)
        return Solution(
            theta=np.where(lower[:, None], other.theta, self.theta),
            value=np.where(lower, other.value, self.value),
            cosine=np.where(lower, other.cosine, self.cosine),
        )


def solve(
    problem: Problem,
    theta_RP: Array,
    weights_Rn: Array,
    from_delta: float,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """Minimise every row from its start under its weights.

    Args:
        from_delta: corner of the first stage; rows that start near their optimum need few stages.
        max_steps: of each stage.
    """
    rows = max(1, BLOCK // weights_Rn.shape[1])
    theta = problem.clip(theta_RP)
    ends = [
        _block(problem, theta[i : i + rows], weights_Rn[i : i + rows], from_delta, max_steps)
        for i in range(0, len(theta), rows)
    ]
    theta, value, cosine = (np.concatenate([end[i] for end in ends]) for i in range(3))
    return Solution(theta=theta, value=value, cosine=cosine)


def _block(
    problem: Problem, theta: Array, weights: Array, from_delta: float, max_steps: int
) -> tuple[Array, Array, Array]:
    delta, last = from_delta, problem.objective.threshold
    if not np.isfinite(last):
        theta = _stage(problem, theta, weights, last, GAIN, max_steps)
    else:
        while delta > last * FACTOR:
            theta = _stage(problem, theta, weights, delta, ROUGH_GAIN, max_steps)
            delta /= FACTOR
        theta = _stage(problem, theta, weights, last, GAIN, max_steps)
    return theta, problem.values(theta, weights), _Local(problem, theta, weights, last).cosine()


def _stage(
    problem: Problem, theta: Array, weights: Array, delta: float, gain: float, max_steps: int
) -> Array:
    """Newton steps at one corner until no row has more to gain; rows that are done are left out."""
    theta = theta.copy()
    active = np.arange(len(theta))
    at = _Local(problem, theta, weights, delta)
    damping = np.full(len(theta), 0.1)
    for _ in range(max_steps):
        step, promised = at.step(damping)
        going = ((promised > gain * at.value) | (damping > 1.0)) & (damping < 1e9)
        if not going.all():
            active, damping = active[going], damping[going]
            step, promised = step[going], promised[going]
            if not len(active):
                break
            at = at.rows(going)
        whole = np.zeros_like(at.theta)
        whole[:, problem.free] = step
        trial = problem.clip(problem.law.move(at.theta, whole))
        found = _Local(problem, trial, at.weights, delta)
        better = found.value < at.value
        ratio = (at.value - found.value) / np.maximum(promised, 1e-300)
        damping = np.where(
            better, np.maximum(damping * np.where(ratio > 0.5, 0.1, 1.0), 1e-9), damping * 8.0
        )
        at = at.where(better, found)
        theta[active] = at.theta
    return theta


class _Local:
    """Value, gradient and curvature of every row at its theta."""

    def __init__(self, problem: Problem, theta: Array, weights: Array, delta: float) -> None:
        self.problem, self.theta, self.weights, self.delta = problem, theta, weights, delta
        self.residuals, self.jacobian = problem.residuals(theta)
        self.size = np.abs(self.residuals)
        self.felt = weights * problem.objective.sides(self.residuals)
        inside = np.minimum(self.size, delta)
        self.value = np.einsum("rn,rn->r", self.felt * inside, self.size - 0.5 * inside)

    def rows(self, keep: NDArray[np.bool_]) -> "_Local":
        """Some rows of it."""
        return self._with({k: v[keep] for k, v in vars(self).items() if isinstance(v, np.ndarray)})

    def where(self, better: NDArray[np.bool_], other: "_Local") -> "_Local":
        """The other's rows where they are better."""
        if better.all():
            return other
        mixed = {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                theirs = getattr(other, name)
                theirs[~better] = value[~better]
                mixed[name] = theirs
        return self._with(mixed)

    def _with(self, arrays: dict[str, Array]) -> "_Local":
        new = object.__new__(_Local)
        vars(new).update(vars(self) | arrays)
        return new

    def step(self, damping: Array) -> tuple[Array, Array]:
        """The step [R, F] and the fall of the objective that an undamped model promises [R]."""
        psi = np.clip(self.residuals, -self.delta, self.delta)
        gradient = ((self.felt * psi)[:, None] @ self.jacobian.transpose(0, 2, 1))[:, 0]
        outside = self.size > self.delta
        share = np.minimum(damping, 1.0)[:, None]
        bend = np.where(outside, share * self.delta / np.maximum(self.size, 1e-300), 1.0)
        hessian = (self.jacobian * (self.felt * bend)[:, None]) @ self.jacobian.transpose(0, 2, 1)
        low, high = self.problem.bounds[self.problem.free].T
        theta = self.theta[:, self.problem.free]
        pinned = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        gradient = np.where(pinned, 0.0, gradient)
        hessian = hessian * (~pinned[:, :, None] & ~pinned[:, None, :])
        each = np.einsum("rpp->rp", hessian).copy()
        floor = np.maximum(each.max(1, keepdims=True) * 1e-14, 1e-300)
        each = np.where(pinned, 1.0, np.maximum(each, floor))
        diagonal = each * (1e-3 * damping[:, None]) + np.where(pinned, 1.0, 1e-13 * each)
        hessian = hessian + np.eye(len(low)) * diagonal[:, None]
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        return step, -0.5 * (step * gradient).sum(1)

    def cosine(self) -> Array:
        """Largest cosine between residuals and a column, where no bound holds the coordinate."""
        psi = np.clip(self.residuals, -self.delta, self.delta) * self.felt
        free = self.problem.free
        gradient = (psi[:, None] @ self.jacobian.transpose(0, 2, 1))[:, 0]
        low, high = self.problem.bounds[free].T
        theta = self.theta[:, free]
        pinned = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        rounding = np.minimum(ROUNDING, self.delta)
        length = np.sqrt((self.felt[:, None] * self.jacobian**2).sum(-1))
        norm = np.sqrt((self.felt * np.minimum(self.size, self.delta) ** 2).sum(-1))
        norm = np.maximum(norm, rounding * np.sqrt(self.felt.sum(-1)))
        return (np.where(pinned, 0.0, np.abs(gradient)) / (length * norm[:, None] + 1e-300)).max(1)
