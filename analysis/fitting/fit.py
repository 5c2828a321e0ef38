"""One fit for every law: all starts at once, the gradient checked at the end, doubts on record.

How the objective is minimised stands in `solve`, what it is in `objectives`, what a law is in
`laws.law`, what comes of it in `fitted`.

Source: the estimator is that of arXiv:2203.15556; the traps avoided are those that
arXiv:2404.10102 found.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdx.files import digest

from ..laws.law import Law
from .fitted import Fit, plain, versions
from .identify import identify, is_flat, profile
from .levels import FitError, as_columns, check_levels, num_levels, with_compute
from .objectives import Objective
from .solve import MAX_LONE_STEPS, Problem, Solution, solve

__all__ = ["Fit", "FitError", "fit", "problem_of"]

Array = NDArray[np.float64]
ARRIVED_TOLERANCE = 1e-4  # relative distance from the best objective
WIDE = 0.1  # corner from which fits that start far away begin
LEAST_STARTS = 16
MAX_PROFILES = 4  # of coordinates that are weak, and of those in doubt


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
    ends = _to_the_end(problem, solve(problem, starts, np.tile(w, (len(starts), 1)), WIDE), w)
    best = int(np.argmin(ends.value))
    theta = ends.theta[best]
    floor = 1e-20 if math.isinf(objective.threshold) else 1e-11 * objective.threshold
    arrived = ends.value <= ends.value[best] * (1 + ARRIVED_TOLERANCE) + floor * len(y)
    judged = identify(problem, theta, shifts, w)
    profiles = {
        name: profile(problem, theta, w, name, judged.errors[name])
        for asked in (judged.weak, judged.doubtful)
        for name in asked[: MAX_PROFILES if with_profiles else 0]
    }
    flat = [n for n in judged.doubtful if n in profiles and is_flat(problem, theta, n, profiles[n])]
    unidentified = dict.fromkeys([*judged.unidentified, *(n.removeprefix("log_") for n in flat)])
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
        unidentified=tuple(unidentified),
        ridges=judged.ridges,
        profiles=profiles,
        num_points=len(y),
        num_levels=num_levels(law, at),
        ranges={n: (float(v.min()), float(v.max())) for n, v in {**seen, "loss": y}.items()},
        names=dict(names or {}),
        fixed=fixed,
        tied=tied,
        data_filter=data_filter,
        data_digest=_digest(at, y, w),
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
    problem = Problem(law=law, logs=logs, loss=loss, objective=objective, bounds=bounds, tied=index)
    return problem, shifts


def _digest(columns: Mapping[str, Array], loss: Array, weights: Array) -> str:
    """Of the points, whatever their order."""
    names = sorted(columns)
    rows = np.column_stack([*(columns[name] for name in names), loss, weights])
    return digest([names, sorted(rows.tolist())])


def _starts(problem: Problem, num_starts: int, seed: int) -> Array:
    """The law's own starts, then copies of them shaken by a few tenths."""
    own = problem.law.starts(problem.logs, problem.loss)
    rng = np.random.default_rng(seed)
    copies = own[np.arange(max(num_starts - len(own), 0)) % len(own)]
    shaken = copies + rng.normal(0.0, 0.3, copies.shape) * np.maximum(np.abs(copies), 0.1)
    return problem.clip(np.concatenate([own, shaken]))


def _to_the_end(problem: Problem, ends: Solution, weights: Array) -> Solution:
    """The same, the best row taken on where it stopped on its way along a ridge."""
    best = int(np.argmin(ends.value))
    if ends.cosine[best] < problem.objective.tolerance:
        return ends
    at = ends.theta[best : best + 1]
    on = solve(problem, at, weights[None], problem.objective.threshold, MAX_LONE_STEPS)
    for name in ("theta", "value", "cosine"):
        getattr(ends, name)[best] = getattr(on, name)[0]
    return ends


def _verdict(problem: Problem, ends: Solution, best: int, starts: Array) -> tuple[bool, str]:
    """Whether the best row is at an optimum, and by what sign."""
    cosine = float(ends.cosine[best])
    allowed = problem.objective.tolerance
    size = f"largest gradient cosine {cosine:.1e}, allowed {allowed:.0e}"
    if not np.isfinite(ends.value[best]):
        return False, "the objective is not finite"
    if cosine < allowed:
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
