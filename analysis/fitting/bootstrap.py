"""Standard errors, intervals and bands by refitting resampled runs, all of them at once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..laws.law import Law
from .fit import ARRIVED_TOLERANCE, WIDE, problem_of
from .fitted import Fit, plain
from .identify import flat_in
from .levels import as_columns, levels_of
from .solve import solve

Array = NDArray[np.float64]
Scheme = Literal["runs", "levels"]
SCHEMES: dict[Scheme, str] = {
    "runs": "runs drawn with replacement; all checkpoints of a run stay together",
    "levels": (
        "two levels: sizes drawn with replacement, then within each drawn size its runs with "
        "replacement"
    ),
}
REDRAWN = "; draws with fewer distinct points than parameters are drawn again"
NEAR = 4.0  # corner, in deltas, from which fits that start at the whole data's solution begin


def bootstrap(
    fitted: Fit,
    columns: Mapping[str, Any],
    loss: Any,
    *,
    num_resamples: int = 4000,
    level: float = 0.95,
    seed: int = 0,
    runs: Any = None,
    weights: Any = None,
    scheme: Scheme = "runs",
    law: Law | None = None,
) -> Fit:
    """The same fit with standard errors and percentile intervals.

    The unit is a run, for the checkpoints of one are not independent. Every resample starts from
    the fit and from a start far from it, since a lone start can end in a worse basin; the lower
    end counts. Percentiles, for coefficients are heavy-tailed.

    Args:
        runs: which run each point belongs to [n]; each its own if not given.
        scheme: ``levels`` resamples sizes, then runs within one: the law's misfit at a size is an
            error too where there are few sizes.
    """
    law = law or fitted.law_itself()
    at, y, w = as_columns(law, columns, loss, weights)
    objective = fitted.objective_function
    problem, shifts = problem_of(law, at, y, objective, fitted.fixed, fitted.tied)
    draw = _Draw(at, runs, fitted.num_free, scheme)
    counts, num_redrawn = draw.counts(num_resamples, np.random.default_rng(seed))
    near = min(WIDE, NEAR * objective.threshold)
    solution = np.array(fitted.theta)
    far = _far(problem.clip(law.starts(problem.logs, y)), solution)
    felt = counts * w
    first = solve(problem, np.tile(solution, (num_resamples, 1)), felt, near)
    second = solve(problem, np.tile(far, (num_resamples, 1)), felt, WIDE)
    ends = first.best_of(second)
    moved = second.value < first.value * (1 - ARRIVED_TOLERANCE)
    parameters = law.natural(ends.theta, shifts)
    tail = 50 * (1 - level)
    errors, errors_log, intervals = {}, {}, {}
    for name, values in parameters.items():
        low, high = np.percentile(values, [tail, 100 - tail])
        pair = plain({"low": low, "high": high})
        intervals[name] = (pair["low"], pair["high"])
        errors[name] = values.std(ddof=1)
        if (values > 0).all() and np.isfinite(values).all():
            errors_log[name] = float(np.log(values).std(ddof=1))
    num_unconverged = int((ends.cosine > 100 * objective.tolerance).sum())
    warnings, known = fitted.warnings, fitted.unidentified
    if num_unconverged:
        warnings += (
            f"{num_unconverged} of {num_resamples} resamples stopped with a gradient cosine "
            f"above {100 * objective.tolerance:.0e}",
        )
    more = [n for n in flat_in(problem, solution, ends.theta, shifts) if n not in known]
    if more:
        warnings += (f"not identified, for resamples scatter too far: {', '.join(more)}",)
    return replace(
        fitted,
        unidentified=(*known, *more),
        standard_errors=plain(errors),
        standard_errors_log=errors_log,
        intervals=intervals,
        warnings=warnings,
        draws=tuple(tuple(row) for row in ends.theta.tolist()),
        bootstrap={
            "num_resamples": num_resamples,
            "num_redrawn": num_redrawn,
            "num_unconverged": num_unconverged,
            "share_first_start_worse": float(moved.mean()),
            "level": level,
            "seed": seed,
            "scheme": SCHEMES[scheme] + REDRAWN,
            "num_runs": draw.num_runs,
        },
    )


class _Draw:
    """How often each point counts in each resample."""

    def __init__(
        self, columns: Mapping[str, Array], runs: Any, num_free: int, scheme: Scheme
    ) -> None:
        points = np.column_stack(list(columns.values()))
        self.kind = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
        names = np.arange(len(points)) if runs is None else np.asarray(runs)
        self.run = np.unique(names, return_inverse=True)[1].reshape(-1)
        self.num_runs = int(self.run.max()) + 1
        self.scheme = scheme
        self.least = min(num_free, int(self.kind.max()) + 1)
        self.level = np.searchsorted(levels_of(points[:, 0]), points[:, 0], side="right") - 1

    def counts(self, num: int, rng: np.random.Generator) -> tuple[Array, int]:
        """Counts [num, n], and how many draws were thrown away."""
        counts, num_redrawn = self._draw(num, rng), 0
        while (poor := self._poor(counts)).any():
            num_redrawn += int(poor.sum())
            counts[poor] = self._draw(int(poor.sum()), rng)
        return counts, num_redrawn

    def _draw(self, num: int, rng: np.random.Generator) -> Array:
        if self.scheme == "runs":
            drawn = rng.integers(self.num_runs, size=(num, self.num_runs))
            cells = drawn + self.num_runs * np.arange(num)[:, None]
            times = np.bincount(cells.ravel(), minlength=num * self.num_runs)
            return times.reshape(num, -1)[:, self.run].astype(np.float64)
        times = np.zeros((num, self.num_runs))
        members = [np.unique(self.run[self.level == k]) for k in range(self.level.max() + 1)]
        drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), num)
        for row, how_often in zip(times, drawn, strict=True):
            for k, often in enumerate(how_often):
                own = members[k]
                for _ in range(often):
                    np.add.at(row, rng.choice(own, size=len(own)), 1.0)
        return times[:, self.run]

    def _poor(self, counts: Array) -> NDArray[np.bool_]:
        """Resamples with fewer distinct points than there are parameters."""
        if len(self.kind) == self.kind.max() + 1:  # no point stands twice
            return (counts > 0).sum(1) < self.least
        present = counts @ np.eye(self.kind.max() + 1)[self.kind]
        return (present > 0).sum(1) < self.least


def _far(starts: Array, solution: Array) -> Array:
    """The nearest of the law's own starts that is not next to the solution."""
    distance = np.linalg.norm(starts - solution, axis=1)
    order = np.argsort(distance)
    away = order[distance[order] > 0.5]
    return starts[away[0] if len(away) else order[-1]]
