"""Power laws of one variable."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .law import Array, Columns, Law, box
from .projection import grid, nonnegative

EXPONENTS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2)


@dataclass(frozen=True)
class Power(Law):
    """L = A / x^alpha, a straight line on logarithmic axes: for ladders too short for an offset.

    Units: x as given, L in nats per token, A in nats per token at x = 1.

    Source: Hestness et al. 2017, arXiv:1712.00409.
    """

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "L = A / x^alpha"
    source: ClassVar[str] = "Hestness et al. 2017, arXiv:1712.00409"
    columns: ClassVar[tuple[str, ...]] = ("x",)
    coordinates: ClassVar[tuple[str, ...]] = ("log_A", "alpha")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("x", "alpha")}
    levels: ClassVar[dict[str, int]] = {"x": 3}  # two fix both parameters and check nothing

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        log_A, alpha = (theta_RP[:, i, None] for i in range(2))
        log_loss = log_A - alpha * logs["x"]
        jacobian = np.empty((len(theta_RP), 2, len(logs["x"])))
        jacobian[:, 0], jacobian[:, 1] = 1.0, -logs["x"]
        return log_loss, jacobian

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """Alpha = 0 is no decrease with size."""
        return box(self)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """The best coefficient at each exponent."""
        return np.array([[(np.log(loss) + a * logs["x"]).mean(), a] for a in EXPONENTS])


@dataclass(frozen=True)
class PowerOffset(Law):
    """L = E + A / x^alpha: the irreducible loss is free.

    E is kept linear: on a logarithmic scale E = 0 lies at minus infinity, where the objective is
    flat and an optimiser stops early. Five levels: three fix the parameters, and with four a
    single noisy run still decides E.

    Units: E and L in nats per token, A in nats per token at x = 1.

    Source: Henighan et al. 2020, arXiv:2010.14701.
    """

    name: ClassVar[str] = "power_offset"
    formula: ClassVar[str] = "L = E + A / x^alpha"
    source: ClassVar[str] = "Henighan et al. 2020, arXiv:2010.14701"
    columns: ClassVar[tuple[str, ...]] = ("x",)
    coordinates: ClassVar[tuple[str, ...]] = ("E", "log_A", "alpha")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("x", "alpha")}
    levels: ClassVar[dict[str, int]] = {"x": 5}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        E, log_A, alpha = (theta_RP[:, i, None] for i in range(3))
        power = np.exp(log_A - alpha * logs["x"])
        loss = E + power
        jacobian = np.empty((len(theta_RP), 3, len(logs["x"])))
        jacobian[:, 0] = 1.0 / loss
        jacobian[:, 1] = power * jacobian[:, 0]
        jacobian[:, 2] = -logs["x"] * jacobian[:, 1]
        return np.log(loss), jacobian

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """E lies between 0 and the lowest loss seen."""
        return box(self, E=(0.0, float(loss.min())))

    def starts(self, logs: Columns, loss: Array) -> Array:
        """E and A by projection at each exponent."""
        alpha = grid(EXPONENTS)
        power = np.exp(-alpha * logs["x"])
        found = nonnegative(np.stack([np.ones_like(power), power], 1), loss)
        return np.column_stack([found[:, 0], np.log(found[:, 1]), alpha])
