"""What a law is: parameters as people quote them, coordinates as the solver moves them.

Symbols, here and in every file of this folder: N parameters, D training tokens, C = 6 N D training
FLOPs, x any one of them, U unique tokens, L_T the teacher's loss, L or loss the cross-entropy in
nats per token; E the irreducible loss, A and B coefficients, alpha and beta exponents. Their
conventions (total or not, exact or 6ND) are the data's, and travel with a fit.

Shapes: R rows (starts, resamples) solved together, n points, P coordinates; theta_RP, and
``logs[column]`` [n], the logarithm of a column less a shift that the law chooses. Data centred in
this way let log A and alpha move independently; `natural` turns coordinates into the parameters of
the uncentred law.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
Shifts = Mapping[str, float]
MAX_EXPONENT = 5.0
MAX_LOG = 80.0  # of a coefficient on uncentred data


@dataclass(frozen=True)
class Law:
    """A law of named columns; a subclass says the rest.

    Attributes:
        name: as the command line takes it.
        columns: what it reads besides the loss.
        coordinates: what the solver moves; ``log_A`` stands for the parameter ``A``.
        scales: for each coefficient, the column and the exponent that centring moves it by
            (an empty name: an exponent of 1).
        levels: distinct values of a column, or of a ratio of two, that it cannot do without.
        positive: whether predictions are positive, so that a loss on logarithms is possible.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    coordinates: ClassVar[tuple[str, ...]]
    scales: ClassVar[dict[str, tuple[str, str]]] = {}
    levels: ClassVar[dict[str, int]] = {}
    positive: ClassVar[bool] = True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what `natural` returns."""
        theta = np.ones(len(self.coordinates))
        return tuple(self.natural(theta, dict.fromkeys(self.columns, 0.0)))

    def prepare(self, columns: Columns) -> dict[str, Array]:
        """The logarithms that `evaluate` reads, not yet centred."""
        return {name: np.log(columns[name]) for name in self.columns}

    def shifts(self, logs: Columns) -> dict[str, float]:
        """What to centre each logarithm by; 0 for columns that enter other than as a power."""
        moved = {column for column, _ in self.scales.values()}
        return {name: float(v.mean()) if name in moved else 0.0 for name, v in logs.items()}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss [R, n], and its derivative by theta [R, P, n]."""
        raise NotImplementedError

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """Lower and upper bound of each coordinate [P, 2]."""
        raise NotImplementedError

    def starts(self, logs: Columns, loss: Array) -> Array:
        """Starting points [S, P]."""
        raise NotImplementedError

    def move(self, theta_RP: Array, step_RP: Array) -> Array:
        """Where a step leads: along a straight line, unless the law's valleys bend.

        To first order it is the sum of both; a coordinate whose step is 0 stays.
        """
        return theta_RP + step_RP

    def natural(self, theta: Array, shifts: Shifts) -> dict[str, Array]:
        """Parameters of the uncentred law from theta [..., P]."""
        at = {name: theta[..., i] for i, name in enumerate(self.coordinates)}
        return {
            name.removeprefix("log_"): np.exp(value + self._moved(name, at, shifts))
            if name.startswith("log_")
            else value
            for name, value in at.items()
        }

    def theta(self, parameters: Mapping[str, float], shifts: Shifts) -> Array:
        """The inverse of `natural`, for one set of parameters [P]."""
        at = {name: np.asarray(value) for name, value in parameters.items()}
        with np.errstate(divide="ignore"):
            values = [
                np.log(at[name.removeprefix("log_")]) - self._moved(name, at, shifts)
                if name.startswith("log_")
                else at[name]
                for name in self.coordinates
            ]
        return np.array(values, dtype=np.float64)

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """(A, B, alpha, beta) of a law that falls as A / N^alpha + B / D^beta does, else None.

        Compute is spent best where the two terms' slopes agree, whatever the law makes of the sum.
        """
        return None

    def predict(self, parameters: Mapping[str, float], columns: Columns) -> Array:
        """The loss [n] at given parameters."""
        logs = self.prepare(columns)
        theta = self.theta(parameters, dict.fromkeys(logs, 0.0))
        return np.exp(self.evaluate(theta[None], logs)[0][0])

    def _moved(self, coordinate: str, at: Columns, shifts: Shifts) -> Array | float:
        """By how much centring moved a coefficient's logarithm."""
        if coordinate.removeprefix("log_") not in self.scales:
            return 0.0
        column, exponent = self.scales[coordinate.removeprefix("log_")]
        return at[exponent] * shifts[column] if exponent else shifts[column]


def box(law: Law, **limits: tuple[float, float]) -> Array:
    """Bounds [P, 2]: those given; a coefficient and an exponent otherwise have wide ones."""
    usual = {True: (-MAX_LOG, MAX_LOG), False: (0.0, MAX_EXPONENT)}
    return np.array([limits.get(n, usual[n.startswith("log_")]) for n in law.coordinates])
