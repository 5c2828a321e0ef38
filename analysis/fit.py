"""One fit for every law: all starts at once, the gradient checked at the end, doubts on record.

`Fit` is the answer; its fields are the JSON that `pdx fit --json` writes. How the objective is
minimised stands in `solve`, what it is in `objectives`, what a law is in `laws.law`.

Source: the estimator is that of arXiv:2203.15556; the traps avoided are those that
arXiv:2404.10102 found.
"""

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

from pdx.files import digest

from .identify import identify, profile
from .laws import law_named
from .laws.law import Law
from .levels import FitError, as_columns, check_levels, num_levels, with_compute
from .objectives import Kind, Objective
from .solve import GRADIENT_TOLERANCE, Problem, Solution, solve

Array = NDArray[np.float64]
ARRIVED_TOLERANCE = 1e-4  # relative distance from the best objective
WIDE = 0.1  # corner from which fits that start far away begin
LEAST_STARTS = 16
MAX_PROFILES = 4


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

    def curves(self, theta_RP: Array, columns: Mapping[str, Array], law: Law | None = None) -> Array:
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


def fit(
    law: Law,
    columns: Mapping[str, Any],
    loss: Any,
    *,
    objective: Objective = Objective(kind="mse_log"),  # noqa: B008 - frozen
    weights: Any = None,
    fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None,
    num_starts: int = LEAST_STARTS,
    with_profiles: bool = True,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
    data_filter: str = "all points given",
) -> Fit:
    """Fit ``law`` to points, one per run.

    Args:
        columns: what the law reads, each [n]; loss: [n]; weights: [n], 1 each if not given.
        fixed: parameters that are not fitted; tied: parameters that equal another.
        num_starts: the law's own starts, and shaken copies of them up to this number.
        names: what the columns are in the data, for the record.

    Raises:
        FitError: fewer distinct levels than the law needs, or a value that has no logarithm.
        ValueError: columns of several lengths, or an unknown parameter in fixed or tied.
    """
    at, y, w = as_columns(law, columns, loss, weights)
    fixed, tied = dict(fixed or {}), dict(tied or {})
    check_levels(law, at, y, len(fixed) + len(tied))
    problem, shifts = problem_of(law, at, y, objective, fixed, tied)
    starts = _starts(problem, num_starts, seed)
    ends = solve(problem, starts, np.tile(w, (len(starts), 1)), WIDE)
    best = int(np.argmin(ends.value))
    theta = ends.theta[best]
    floor = 1e-20 if math.isinf(objective.threshold) else 1e-11 * objective.threshold
    arrived = ends.value <= ends.value[best] * (1 + ARRIVED_TOLERANCE) + floor * len(y)
    judged = identify(problem, theta, shifts, w)
    profiles = {
        name: profile(problem, theta, w, name, judged.errors[name])
        for name in judged.weak[: MAX_PROFILES if with_profiles else 0]
    }
    predicted = np.exp(law.evaluate(theta[None], problem.logs)[0][0])
    hits = _bounds_hit(problem, theta)
    converged, why = _verdict(problem, ends, best, starts)
    seen = with_compute(at)
    supervised = getattr(law, "supervised", None)
    result = Fit(
        law=law.name,
        formula=law.formula,
        source=law.source,
        parameters=plain(law.natural(theta, shifts)),
        theta=tuple(theta.tolist()),
        shifts=shifts,
        loss=objective.kind,
        delta=objective.delta,
        asymmetry=objective.asymmetry,
        objective=float(ends.value[best]),
        objective_definition=objective.definition,
        rms_log_residual=float(np.sqrt(np.average(np.log(predicted / y) ** 2, weights=w))),
        converged=converged,
        why=why,
        gradient_cosine=float(ends.cosine[best]),
        starts_at_optimum=float(arrived.mean()),
        num_starts=len(starts),
        bounds_hit=hits,
        condition=judged.condition,
        unidentified=judged.unidentified,
        ridges=judged.ridges,
        profiles=profiles,
        num_points=len(y),
        num_levels=num_levels(law, at),
        ranges={n: (float(v.min()), float(v.max())) for n, v in {**seen, "loss": y}.items()},
        names=dict(names or {}),
        fixed=fixed,
        tied=tied,
        data_filter=data_filter,
        data_digest=digest([sorted(at), np.column_stack([*(at[k] for k in sorted(at)), y, w]).tolist()]),
        seed=seed,
        versions=versions(),
        supervised=dict(supervised) if supervised and "L_S" not in at else None,
    )
    return result


def problem_of(
    law: Law,
    columns: Mapping[str, Array],
    loss: Array,
    objective: Objective,
    fixed: Mapping[str, float],
    tied: Mapping[str, str],
) -> tuple[Problem, dict[str, float]]:
    """The problem in the law's coordinates, and the shifts that these are relative to.

    Data are not centred where a coefficient is fixed or tied, for centring moves it.
    """
    logs = law.prepare(columns)
    shifts = law.shifts(logs)
    coordinates = {n.removeprefix("log_"): i for i, n in enumerate(law.coordinates)}
    for name in (*fixed, *tied, *tied.values()):
        if name not in coordinates:
            raise FitError(
                f"{name}: cannot be fixed or tied in law={law.name}; "
                f"its coordinates are {', '.join(coordinates)}."
            )
        if name in law.scales:
            shifts = dict.fromkeys(shifts, 0.0)
    logs = {name: value - shifts[name] for name, value in logs.items()}
    bounds = law.bounds(logs, loss)
    for name, value in fixed.items():
        i = coordinates[name]
        if law.coordinates[i].startswith("log_") and value <= 0:
            raise FitError(f"{name}={value:g}: must be positive in law={law.name}.")
        bounds[i] = np.log(value) if law.coordinates[i].startswith("log_") else value
    index = np.arange(len(bounds))
    for name, to in tied.items():
        index[coordinates[name]] = coordinates[to]
    problem = Problem(
        law=law, logs=logs, loss=loss, objective=objective, bounds=bounds, tied=index
    )
    return problem, shifts


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


def _starts(problem: Problem, num_starts: int, seed: int) -> Array:
    """The law's own starts, then copies of them shaken by a few tenths."""
    own = problem.law.starts(problem.logs, problem.loss)
    rng = np.random.default_rng(seed)
    copies = own[np.arange(max(num_starts - len(own), 0)) % len(own)]
    shaken = copies + rng.normal(0.0, 0.3, copies.shape) * np.maximum(np.abs(copies), 0.1)
    return problem.clip(np.concatenate([own, shaken]))


def _verdict(problem: Problem, ends: Solution, best: int, starts: Array) -> tuple[bool, str]:
    """Whether the best row is at an optimum, and by what sign."""
    cosine = float(ends.cosine[best])
    size = f"largest gradient cosine {cosine:.1e}, allowed {GRADIENT_TOLERANCE:.0e}"
    if not np.isfinite(ends.value[best]):
        return False, "the objective is not finite"
    if cosine < GRADIENT_TOLERANCE:
        return True, size
    if np.array_equal(ends.theta[best], starts[best]):
        return False, f"did not move from its start; {size}"
    return False, f"stopped on a slope or a plateau; {size}"


def _bounds_hit(problem: Problem, theta: Array) -> tuple[str, ...]:
    """Which free coordinates lie on a bound."""
    hits = []
    for i in problem.free:
        low, high = problem.bounds[i]
        name, slack = problem.law.coordinates[i].removeprefix("log_"), 1e-6 * (high - low)
        hits += [f"{name} at its lower bound"] if theta[i] <= low + slack else []
        hits += [f"{name} at its upper bound"] if theta[i] >= high - slack else []
    return tuple(hits)
