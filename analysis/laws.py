"""Scaling laws of one variable, each a small class that `fit` knows nothing special about.

Symbols: x is the size (its convention travels with the fit), L the cross-entropy in nats per
token, E the irreducible loss, A the coefficient and alpha the exponent. A law works on scaled
data (x and L divided by their geometric means) in coordinates ``theta`` in which it is smooth;
`natural` turns them back. To add a law: one class here and its name in LAWS.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Law(Protocol):
    """What `fit` needs. Shapes: theta [..., P], x [n]; log_loss [..., n], jacobian [..., n, P]."""

    name: ClassVar[str]
    formula: ClassVar[str]
    theta_names: ClassVar[tuple[str, ...]]
    min_levels: ClassVar[int]  # distinct values of x below which the law is refused

    def log_loss(self, theta: Array, x: Array) -> Array:
        """Natural logarithm of the predicted loss."""
        ...

    def jacobian(self, theta: Array, x: Array) -> Array:
        """Derivative of `log_loss` by theta."""
        ...

    def starts(self, x: Array, y: Array) -> Array:
        """Starting points [S, P], the most promising first."""
        ...

    def bounds(self, y: Array) -> Array:
        """Lower and upper bound of each coordinate [P, 2]."""
        ...

    def natural(self, theta: Array, x_scale: float, y_scale: float) -> dict[str, Array]:
        """The law's own constants in the units of the data."""
        ...


@dataclass(frozen=True)
class PowerLaw:
    """L = A x^-alpha, a straight line on logarithmic axes: for ladders too short for an offset.

    theta = (log A, alpha).
    """

    name: ClassVar[str] = "power_law"
    formula: ClassVar[str] = "L = A x^-alpha"
    theta_names: ClassVar[tuple[str, ...]] = ("log_A", "alpha")
    min_levels: ClassVar[int] = 3  # two sizes fix both constants and leave nothing to check

    def log_loss(self, theta: Array, x: Array) -> Array:
        """Natural logarithm of the predicted loss."""
        return theta[..., 0, None] - theta[..., 1, None] * np.log(x)

    def jacobian(self, theta: Array, x: Array) -> Array:
        """Derivative of `log_loss` by theta."""
        columns = np.stack([np.ones_like(x), -np.log(x)], axis=-1)
        return np.broadcast_to(columns, (*theta.shape[:-1], *columns.shape))

    def starts(self, x: Array, y: Array) -> Array:
        """The straight line itself, and slopes around it."""
        line = _line(x, y)
        return np.array([line, *([line[0], alpha] for alpha in (0.02, 0.1, 0.5, 1.0))])

    def bounds(self, y: Array) -> Array:
        """Alpha = 0 is no decrease with size."""
        return np.array([[-20.0, 20.0], [0.0, 10.0]])

    def natural(self, theta: Array, x_scale: float, y_scale: float) -> dict[str, Array]:
        """A and alpha."""
        alpha = theta[..., 1]
        return {"A": np.exp(theta[..., 0]) * y_scale * x_scale**alpha, "alpha": alpha}


@dataclass(frozen=True)
class PowerLawOffset:
    """L = E + A x^-alpha: the irreducible loss is free; needs five sizes to say anything of E.

    theta = (log A, alpha, E). E is kept linear: on a log scale E = 0 lies at minus infinity,
    where the objective is flat and an optimiser stops early.
    """

    name: ClassVar[str] = "power_law_offset"
    formula: ClassVar[str] = "L = E + A x^-alpha"
    theta_names: ClassVar[tuple[str, ...]] = ("log_A", "alpha", "E")
    min_levels: ClassVar[int] = 5

    def log_loss(self, theta: Array, x: Array) -> Array:
        """Natural logarithm of the predicted loss."""
        return np.log(theta[..., 2, None] + self._power(theta, x))

    def jacobian(self, theta: Array, x: Array) -> Array:
        """Derivative of `log_loss` by theta."""
        power = self._power(theta, x)
        share = power / (power + theta[..., 2, None])
        return np.stack([share, -share * np.log(x), 1.0 / (power + theta[..., 2, None])], axis=-1)

    def starts(self, x: Array, y: Array) -> Array:
        """For each guess at E, the straight line through what is left."""
        floors = y.min() * np.array([0.7, 0.9, 0.4, 0.0, 0.97])
        return np.array([[*_line(x, y - floor), floor] for floor in floors])

    def bounds(self, y: Array) -> Array:
        """E lies between 0 and the lowest loss seen."""
        return np.array([[-20.0, 20.0], [0.0, 10.0], [0.0, y.min()]])

    def natural(self, theta: Array, x_scale: float, y_scale: float) -> dict[str, Array]:
        """E, A and alpha."""
        constants = PowerLaw().natural(theta, x_scale, y_scale)
        return {"E": theta[..., 2] * y_scale, **constants}

    def _power(self, theta: Array, x: Array) -> Array:
        return np.exp(theta[..., 0, None] - theta[..., 1, None] * np.log(x))


def _line(x: Array, y: Array) -> list[float]:
    """(log A, alpha) of the straight line through log y against log x, alpha not below 0."""
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return [float(intercept), float(np.clip(-slope, 0.0, 10.0))]


LAWS: dict[str, Law] = {law.name: law for law in (PowerLaw(), PowerLawOffset())}
