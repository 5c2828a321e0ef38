"""Minimising a law's objective on scaled data: L-BFGS-B from a start, Gauss-Newton for many.

The objective is scaled by its value at the start, for L-BFGS-B's stopping rule is absolute below
1; each coordinate is scaled by its column of the Jacobian. Shapes: n points, P coordinates, R
rows (starts or resamples) that are solved together.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from .laws import Law

Array = NDArray[np.float64]
Objective = Literal["least_squares", "huber"]
GRADIENT_TOLERANCE = 1e-5  # cosine between the residuals and any column of the Jacobian


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
        for name, value, (low, high) in zip(self.law.theta_names, theta, self.bounds, strict=True):
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
