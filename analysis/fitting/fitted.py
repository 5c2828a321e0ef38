"""A fitted law on record: its fields are the JSON that `pdx fit --json` writes."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from ..laws import law_named
from ..laws.law import Law
from .objectives import Kind, Objective

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law and all that is needed to repeat or to doubt it; JSON there and back.

    Attributes:
        parameters: of the law as it is written, in the units of the data.
        theta, shifts: the same in the solver's coordinates, and what columns were centred by.
        objective: its value at the solution; ``objective_definition`` says of what.
        standard_errors, intervals: of the bootstrap; empty without one.
        standard_errors_log: of logarithms, for coefficients, which are heavy-tailed.
        why: the reason for ``converged``.
        gradient_cosine: largest cosine between residuals and a free column of the Jacobian.
        starts_at_optimum: share of the starts that ended at the best objective.
        condition: of the Jacobian with columns of unit length.
        unidentified: parameters of which the data say next to nothing; ``ridges`` has the
            directions in coordinates, ``profiles`` the objective along them.
        ranges: of each column and of the loss, over the points.
        warnings: everything that a reader should know before trusting this.
    """

    law: str
    formula: str
    source: str
    parameters: dict[str, float | None]
    theta: tuple[float, ...]
    shifts: dict[str, float]
    loss: Kind
    delta: float
    asymmetry: float
    objective: float
    objective_definition: str
    rms_log_residual: float
    converged: bool
    why: str
    gradient_cosine: float
    starts_at_optimum: float
    num_starts: int
    bounds_hit: tuple[str, ...]
    condition: float
    unidentified: tuple[str, ...]
    ridges: tuple[dict[str, float], ...]
    profiles: dict[str, Any]
    num_points: int
    num_levels: dict[str, int]
    ranges: dict[str, tuple[float, float]]
    names: dict[str, str]
    fixed: dict[str, float]
    tied: dict[str, str]
    data_filter: str
    data_digest: str
    seed: int
    versions: dict[str, str]
    supervised: dict[str, float] | None = None
    warnings: tuple[str, ...] = ()
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    standard_errors_log: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    bootstrap: dict[str, Any] | None = None
    draws: tuple[tuple[float, ...], ...] = ()

    @property
    def objective_function(self) -> Objective:
        """What was minimised."""
        return Objective(kind=self.loss, delta=self.delta, asymmetry=self.asymmetry)

    @property
    def num_free(self) -> int:
        """Parameters that were fitted."""
        return len(self.theta) - len(self.fixed) - len(self.tied)

    @property
    def aicc(self) -> float:
        """Akaike's criterion for few points, of log residuals; infinite where points are too few.

        Source:
            Hurvich, Tsai 1989, Biometrika 76(2), with the variance as one more parameter.
        """
        num, free = self.num_points, self.num_free + 1
        if num - free - 1 <= 0:
            return math.inf
        if self.rms_log_residual == 0:
            return -math.inf
        spread = 2 * num * math.log(self.rms_log_residual)
        return spread + 2 * free + 2 * free * (free + 1) / (num - free - 1)

    def law_itself(self) -> Law:
        """The law's class; one that a user supplied is not in the folder, and is handed on."""
        law = law_named(self.law)
        if self.supervised is not None:
            law = type(law)(tuple(self.supervised.items()))  # type: ignore[call-arg]
        return law

    def predict(self, columns: Mapping[str, Array], law: Law | None = None) -> Array:
        """The fitted loss [n] at columns [n]."""
        return self.curves(np.array([self.theta]), columns, law)[0]

    def curves(
        self, theta_RP: Array, columns: Mapping[str, Array], law: Law | None = None
    ) -> Array:
        """The loss [R, n] of other solutions of this fit, such as its draws."""
        law = law or self.law_itself()
        logs = law.prepare({k: np.asarray(v, dtype=np.float64) for k, v in columns.items()})
        logs = {name: value - self.shifts[name] for name, value in logs.items()}
        return np.exp(law.evaluate(theta_RP, logs)[0])

    def band(
        self, columns: Mapping[str, Array], level: float = 0.95, law: Law | None = None
    ) -> tuple[Array, Array]:
        """Pointwise percentile band of the curve, from the bootstrap."""
        if not self.draws:
            raise ValueError("this fit has no bootstrap; call `bootstrap` first")
        tail = 50 * (1 - level)
        low, high = np.percentile(
            self.curves(np.array(self.draws), columns, law), [tail, 100 - tail], axis=0
        )
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Fit":
        """The inverse of `to_json`; what other keys the object has is left alone."""
        known = {f.name for f in fields(cls)}
        raw = {name: value for name, value in raw.items() if name in known}
        for name in ("theta", "bounds_hit", "unidentified", "ridges", "warnings"):
            raw[name] = tuple(raw[name])
        for name in ("ranges", "intervals"):
            raw[name] = {key: tuple(pair) for key, pair in raw[name].items()}
        raw["draws"] = tuple(tuple(draw) for draw in raw["draws"])
        return cls(**raw)


def versions() -> dict[str, str]:
    """The libraries whose numbers these are."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
        "matplotlib": matplotlib.__version__,
    }


def plain(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers as JSON has them: one that is not finite is null."""
    return {k: float(v) if np.isfinite(v) else None for k, v in values.items()}
