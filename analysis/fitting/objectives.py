"""What a fit minimises: a function of residuals, the same for every law.

A residual is predicted minus measured, of log loss (``huber``, ``lad``, ``mse_log``) or of the
loss (``mse``). The first two are sums over points, the others means, as their authors have them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["huber", "lad", "mse_log", "mse"]
KINDS: tuple[Kind, ...] = ("huber", "lad", "mse_log", "mse")
SHARP = 1e-8  # residuals of log loss below which lad is rounded off


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss function with its constants.

    Attributes:
        kind: ``huber`` is half the square up to ``delta`` and a straight line beyond.
        asymmetry: share of the weight of predictions that are too high; 0.5 is symmetric. As it
            goes to 1 the fit becomes the lower envelope of the points.

    Source: Huber 1964; delta 1e-3 on log loss is arXiv:2203.15556; asymmetric loss is Koenker,
    Bassett 1978.
    """

    kind: Kind = "huber"
    delta: float = 1e-3
    asymmetry: float = 0.5

    @property
    def on_log(self) -> bool:
        """Whether residuals are those of log loss."""
        return self.kind != "mse"

    @property
    def threshold(self) -> float:
        """Residual beyond which the solver's function is a straight line."""
        return {"huber": self.delta, "lad": SHARP}.get(self.kind, np.inf)

    @property
    def tolerance(self) -> float:
        """Largest cosine between residuals and a column of the Jacobian at an optimum.

        That of lad is coarse: within its corner residuals are near the rounding of float64.
        """
        return 1e-3 if self.kind == "lad" else 1e-5

    def sides(self, residuals: Array) -> Array | float:
        """Weight of each residual for its sign."""
        if self.asymmetry == 0.5:
            return 1.0
        return np.where(residuals > 0, 2 * self.asymmetry, 2 * (1 - self.asymmetry))

    def value(self, residuals: Array, weights: Array) -> Array:
        """The objective [...] of residuals [..., n]."""
        weights = weights * self.sides(residuals)
        size = np.abs(residuals)
        if self.kind == "lad":
            return (weights * size).sum(-1)
        if self.kind == "huber":
            inside = np.minimum(size, self.delta)
            return (weights * inside * (size - 0.5 * inside)).sum(-1)
        return (weights * size**2).sum(-1) / weights.sum(-1)

    @property
    def definition(self) -> str:
        """In words, for the result."""
        words = {
            "huber": f"sum over points of Huber(delta={self.delta:g}) of log-loss residuals",
            "lad": "sum over points of |log-loss residual|",
            "mse_log": "mean over points of the squared log-loss residual",
            "mse": "mean over points of the squared residual of the loss",
        }[self.kind]
        if self.asymmetry != 0.5:
            words += f", with weight {2 * self.asymmetry:g} where the prediction is too high and "
            words += f"{2 * (1 - self.asymmetry):g} where it is too low"
        return words
