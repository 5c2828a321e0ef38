"""Over-training: loss in (C, M), and downstream error as a function of loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .chinchilla import ChinchillaTied
from .law import Array, Columns, Law, Shifts, box
from .projection import grid, nonnegative


@dataclass(frozen=True)
class Overtraining(ChinchillaTied):
    """L = E + a N^c + b 6^(c/2) (M N)^c, with M = D / N: the tied law in its authors' symbols.

    In compute, with eta = -c / 2: L = E + (a 6^eta M^eta + b M^-eta) C^-eta, so that lines of
    constant M are parallel.

    Units: L and E in nats per token, M in tokens per parameter; c is negative.

    Source: Gadre et al. 2024, arXiv:2403.08540.
    """

    name: ClassVar[str] = "overtraining"
    formula: ClassVar[str] = "L = E + a N^c + b 6^(c/2) (M N)^c, M = D/N"
    source: ClassVar[str] = "Gadre et al. 2024, arXiv:2403.08540"

    def natural(self, theta: Array, shifts: Shifts) -> dict[str, Array]:
        """E, a, b and c."""
        tied = super().natural(theta, shifts)
        c = -tied["alpha"]
        return {"E": tied["E"], "a": tied["A"], "b": tied["B"] * 6 ** (-c / 2), "c": c}

    def theta(self, parameters: Mapping[str, float], shifts: Shifts) -> Array:
        """The inverse of `natural`."""
        c = parameters["c"]
        B = parameters["b"] * 6 ** (c / 2)
        tied = {"E": parameters["E"], "A": parameters["a"], "B": B, "alpha": -c}
        return super().theta(tied, shifts)

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """A N^c + b 6^(c/2) D^c."""
        c = parameters["c"]
        return parameters["a"], parameters["b"] * 6 ** (c / 2), -c, -c


@dataclass(frozen=True)
class LossToError(Law):
    """err = eps - k exp(-gamma L): downstream error as a function of the loss ``L``.

    Units: err and eps as fractions, L in nats per token, gamma per nat.

    Source: Gadre et al. 2024, arXiv:2403.08540.
    """

    name: ClassVar[str] = "loss_to_error"
    formula: ClassVar[str] = "err = eps - k exp(-gamma L)"
    source: ClassVar[str] = "Gadre et al. 2024, arXiv:2403.08540"
    columns: ClassVar[tuple[str, ...]] = ("L",)
    coordinates: ClassVar[tuple[str, ...]] = ("eps", "log_k", "gamma")
    levels: ClassVar[dict[str, int]] = {"L": 4}

    def prepare(self, columns: Columns) -> dict[str, Array]:
        """L itself: it enters as it is."""
        return {"L": np.asarray(columns["L"], dtype=np.float64)}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted error, and its derivative."""
        eps, log_k, gamma = (theta_RP[:, i, None] for i in range(3))
        fall = np.exp(log_k - gamma * logs["L"])
        error = np.maximum(eps - fall, 1e-9)  # an error is not negative
        jacobian = np.empty((len(theta_RP), 3, len(logs["L"])))
        jacobian[:, 0] = 1.0 / error
        jacobian[:, 1] = -fall / error
        jacobian[:, 2] = fall * logs["L"] / error
        return np.log(error), jacobian

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """Chance level is at most certain failure, and above every error but for noise."""
        return box(self, eps=(float(loss.mean()), 2.0), gamma=(1e-3, 20.0))

    def starts(self, logs: Columns, loss: Array) -> Array:
        """Eps and k by projection at each rate, over a few ceilings."""
        eps, gamma = grid((1.01, 1.05, 1.2), (0.3, 0.7, 1.2, 2.0)).T[:, :, None]
        eps = np.minimum(eps * loss.max(), 1.9)
        fall = np.exp(-gamma * logs["L"])
        k = nonnegative((fall / (eps - loss))[:, None], np.ones_like(loss))
        return np.column_stack([eps, np.log(k), gamma])
