"""Which parameters the data pin down, alone or only in combination.

Source: the Jacobian's singular vectors as in Belsley, Kuh, Welsch 1980; profiles as in Raue et al.
2009, Bioinformatics 25(15).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .solve import Problem, solve

Array = NDArray[np.float64]
MAX_LOG_ERROR = 0.5  # a coefficient known to no better than a factor of 2.7 either way (95%)
MAX_ERROR = 0.5  # an exponent, or an offset in nats, known to no better than this
LEAST_NOISE = 1e-7  # log residuals are never taken to be better known than this
NUM_PROFILE = 25
PROFILE_REACH = 4.0  # in standard errors, and at most in MAX_REACH
MAX_REACH = 6.0
DOUBT = 1 / 3  # of those errors, from which on the Jacobian alone does not decide
WIDTH = 4.0  # of a 95% interval, in the errors above, from which on nothing is known
CHI2 = 3.841  # 95% of chi-squared with one degree of freedom


@dataclass(frozen=True, kw_only=True)
class Identified:
    """What the Jacobian at the solution says.

    Attributes:
        condition: of its columns at unit length; above about 100 the coordinates are not known
            one by one, whatever the curve looks like.
        unidentified: parameters whose standard error from the Jacobian leaves nothing known.
        weak: the coordinates behind them.
        doubtful: coordinates that pass here by so little that their profile decides.
        ridges: directions (per coordinate) along which the data say next to nothing.
        errors: standard error of each free coordinate, from the Jacobian; orders of magnitude
            only, for robust objectives have no such thing.
    """

    condition: float
    unidentified: tuple[str, ...]
    weak: tuple[str, ...]
    doubtful: tuple[str, ...]
    ridges: tuple[dict[str, float], ...]
    errors: dict[str, float]


def identify(
    problem: Problem, theta: Array, shifts: Mapping[str, float], weights: Array
) -> Identified:
    """Judge a solution [P]."""
    residuals, jacobian = problem.residuals(theta[None])
    if not problem.objective.on_log:
        residuals, jacobian = residuals / problem.loss, jacobian / problem.loss
    scaled = jacobian[0] * np.sqrt(weights)
    free = problem.free
    noise = max(1.4826 * float(np.median(np.abs(residuals))), LEAST_NOISE)
    lengths = np.linalg.norm(scaled, axis=1)
    unit = scaled / np.where(lengths > 0, lengths, 1.0)[:, None]
    left, singular, _ = np.linalg.svd(unit, full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    known = np.maximum(singular, 1e-12)
    with np.errstate(divide="ignore"):
        directions = left / np.where(lengths > 0, lengths, 1e-30)[:, None]  # [F, K], per unit s
    covariance = (directions * (noise / known) ** 2) @ directions.T
    names = [problem.law.coordinates[i] for i in free]
    errors = dict(zip(names, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    low, high = problem.bounds[free].T
    stuck = {
        name
        for name, value, lo, hi in zip(names, theta[free], low, high, strict=True)
        if name.startswith("log_") and not lo + 1e-6 < value < hi - 1e-6
    }
    weak = tuple(n for n in names if n in stuck or errors[n] > _allowed(n, theta, problem))
    doubtful = tuple(
        n for n in names if n not in weak and errors[n] > DOUBT * _allowed(n, theta, problem)
    )
    ridges = tuple(
        _direction(names, directions[:, k])
        for k in np.argsort(singular)
        if noise / known[k] * np.abs(directions[:, k]).max() > MAX_LOG_ERROR
    )
    unidentified = _natural(problem, theta, shifts, covariance, weak)
    return Identified(
        condition=condition,
        unidentified=unidentified,
        weak=weak,
        doubtful=doubtful,
        ridges=ridges,
        errors=errors,
    )


def profile(
    problem: Problem, theta: Array, weights: Array, coordinate: str, error: float
) -> dict[str, Any]:
    """The best objective with one coordinate held at each of a range of values, all at once.

    Returns:
        ``values`` of the parameter, ``objective`` there as a multiple of the best, the 95%
        ``interval`` by likelihood ratio (null where it does not close within the values).
    """
    i = problem.law.coordinates.index(coordinate)
    low, high = problem.bounds[i]
    reach = max(PROFILE_REACH * error, WIDTH * _allowed(coordinate, theta, problem))
    reach = min(reach, MAX_REACH)
    values = np.linspace(max(low, theta[i] - reach), min(high, theta[i] + reach), NUM_PROFILE)
    rows = np.tile(theta, (len(values), 1))
    rows[:, i] = values
    found = solve(
        replace(problem, held=(*problem.held, i)), rows, np.tile(weights, (len(rows), 1)), 0.1
    )
    objective = found.value
    best = min(objective.min(), float(problem.values(theta[None], weights[None])[0]))
    rise = objective / max(best, 1e-300)
    # log-likelihood at its best noise: -n/2 log of a mean square, -n log of a mean absolute value
    factor = 1.0 if problem.objective.kind in ("mse", "mse_log") else 2.0
    inside = factor * weights.sum() * np.log(np.maximum(rise, 1.0)) <= CHI2
    shown = np.exp(values) if coordinate.startswith("log_") else values
    at = np.flatnonzero(inside)
    interval = [
        None if inside[0] else float(shown[at[0]]) if len(at) else None,
        None if inside[-1] else float(shown[at[-1]]) if len(at) else None,
    ]
    return {"values": shown.tolist(), "objective": rise.tolist(), "interval": interval}


def is_flat(problem: Problem, theta: Array, coordinate: str, profiled: Mapping[str, Any]) -> bool:
    """Whether a profile's interval is too wide for the coordinate to be known."""
    ends = [
        profiled["values"][side] if end is None else end
        for side, end in zip((0, -1), profiled["interval"], strict=True)
    ]
    low, high = np.log(ends) if coordinate.startswith("log_") else ends
    return bool(high - low > WIDTH * _allowed(coordinate, theta, problem))


def flat_in(problem: Problem, theta: Array, draws_RP: Array, shifts: Mapping[str, float]) -> list:
    """Parameters that resamples leave unknown: their middle 95% is too wide."""
    law = problem.law
    low, high = np.percentile(draws_RP, [2.5, 97.5], axis=0)
    found = [
        law.coordinates[i].removeprefix("log_")
        for i in problem.free
        if high[i] - low[i] > WIDTH * _allowed(law.coordinates[i], theta, problem)
    ]
    own = {name.removeprefix("log_") for name in law.coordinates}
    for name, values in law.natural(draws_RP, shifts).items():
        if name in own or not (values > 0).all():
            continue
        low, high = np.percentile(values, [2.5, 97.5])
        found += [name] if np.log(high / low) > WIDTH * MAX_LOG_ERROR else []
    return found


def _allowed(name: str, theta: Array, problem: Problem) -> float:
    if name.startswith("log_"):
        return MAX_LOG_ERROR
    return MAX_ERROR * max(1.0, abs(float(theta[problem.law.coordinates.index(name)])))


def _natural(
    problem: Problem,
    theta: Array,
    shifts: Mapping[str, float],
    covariance: Array,
    weak: tuple[str, ...],
) -> tuple[str, ...]:
    """Parameters, derived ones included, that the covariance of the coordinates leaves unknown."""
    law, free = problem.law, problem.free
    slopes: dict[str, list[float]] = {}
    for i in free:
        step = np.zeros_like(theta)
        step[i] = 1e-6 * max(abs(theta[i]), 1e-3)
        moved = np.stack([theta + step, theta - step])[:, problem.tied]
        with np.errstate(all="ignore"):
            for name, (up, down) in law.natural(moved, shifts).items():
                slopes.setdefault(name, []).append(float((up - down) / (2 * step[i])))
    found = []
    at = law.natural(theta, shifts)
    for name, slope in slopes.items():
        size = abs(float(at[name]))
        error = float(np.sqrt(max(np.array(slope) @ covariance @ np.array(slope), 0.0)))
        own = name in law.coordinates
        allowed = MAX_ERROR * max(1.0, size) if own else MAX_LOG_ERROR * size
        spread = law.scales.get(name)
        if spread and f"log_{name}" not in weak:  # a coefficient at N = 1 is far from the data
            continue
        if not np.isfinite(error) or error > allowed or f"log_{name}" in weak:
            found.append(name)
    return tuple(found)


def _direction(names: list[str], vector: Array) -> dict[str, float]:
    """A direction by its large components, the largest 1."""
    scaled = vector / vector[np.argmax(np.abs(vector))]
    return {n: round(float(v), 3) for n, v in zip(names, scaled, strict=True) if abs(v) > 0.05}
