"""Compute-optimal size by three approaches side by side, and how far apart they are.

Each gives log N* as a straight line in log C, with C = 6 N D, and resamples of it by run.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3; on how far they may differ,
arXiv:2404.10102 and arXiv:2406.19146.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fitting.fitted import Fit
from ..laws.law import Law
from .allocation import optimum
from .envelope import curves_of, lowest, missing
from .parabolas import LEAST_BUDGETS, Budget, budgets_of, minima, parabola

Array = NDArray[np.float64]
NAMES = ("1 envelope", "2 isoFLOP", "3 surface")
MOST_PARAMETERS = 1e18  # of a model that a fit may speak of
LEAST_SHARE = 0.5  # of resamples that must give a line, for an interval to be one
SCHEDULE = (
    "approach 1 reads checkpoints before the end of their schedule: a run of that length would "
    "have reached a lower loss"
)


@dataclass(frozen=True, kw_only=True)
class Approach:
    """One approach's line: log N* = height + a (log C - log center).

    Attributes:
        refused: why there is none, and which runs are missing; empty where there is one.
        draws: (a, height) of each resample that gave a line [m, 2]; num_resamples: of how many.
        optima: (C, N*) that the line goes through; none for the surface, which is a law.
        budgets: the parabolas, of approach 2.
    """

    name: str
    refused: str = ""
    a: float = float("nan")
    height: float = float("nan")
    center: float = 1.0
    draws: Array
    num_resamples: int = 0
    optima: tuple[tuple[float, float], ...] = ()
    budgets: tuple[Budget, ...] = ()
    warnings: tuple[str, ...] = ()

    def size(self, flops: Any) -> Array:
        """N* at budgets of compute [n]."""
        return np.exp(self.height + self.a * np.log(np.asarray(flops) / self.center))

    def band(self, flops: Any, level: float) -> tuple[Array, Array] | None:
        """Percentile interval of N* at budgets [n]; none where too few resamples gave a line."""
        if len(self.draws) < max(20, LEAST_SHARE * self.num_resamples):
            return None
        at = np.log(np.atleast_1d(flops) / self.center)
        lines = np.exp(self.draws[:, 1:] + self.draws[:, :1] * at)
        low, high = np.percentile(lines, [50 * (1 - level), 50 * (1 + level)], axis=0)
        return low, high

    def interval(self, level: float) -> tuple[float, float] | None:
        """Of the exponent a."""
        if self.band(self.center, level) is None:
            return None
        low, high = np.percentile(self.draws[:, 0], [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def to_json(self, flops: Sequence[float], level: float) -> dict[str, Any]:
        """Plain values; N* at the budgets asked for."""
        if self.refused:
            return {"approach": self.name, "refused": self.refused}
        ends = self.interval(level)
        found: dict[str, Any] = {"approach": self.name, "a": self.a, "b": 1 - self.a}
        found |= {"interval": ends, "level": level, "num_resamples": self.num_resamples}
        found |= {"num_resamples_with_a_line": len(self.draws), "optima": self.optima}
        found["allocation"] = []
        for budget in flops:
            size, band = float(self.size(budget)), self.band(budget, level)
            pair = None if band is None else [float(end[0]) for end in band]
            point = {"C": budget, "N": size, "D": budget / 6 / size, "N_interval": pair}
            found["allocation"].append(point)
        if self.budgets:
            found["budgets"] = [
                {"C": b.flops, "N": b.N, "num_runs": len(b.rows), "refused": b.refused or None}
                for b in self.budgets
            ]
        return found


def envelope(
    columns: Mapping[str, Array], loss: Array, runs: Any, num_resamples: int = 0, seed: int = 0
) -> Approach:
    """Approach 1, of curves: ``runs`` [n] says which points are checkpoints of one run."""
    C, N = 6 * columns["N"] * columns["D"], columns["N"]
    run = np.unique(np.asarray(runs), return_inverse=True)[1].reshape(-1)
    curves = curves_of(C, N, loss, run)
    if refused := missing(curves):
        return _refusal(0, refused)
    num = len(curves.size)
    flops, sizes, _ = lowest(curves, np.ones(num, dtype=bool))
    center = float(np.exp(np.log(flops).mean()))
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        present = np.bincount(rng.integers(num, size=num), minlength=num) > 0
        at, best, which = lowest(curves, present)
        if len(np.unique(which)) > 1:
            draws.append(_line(at, best, center))
    return _approach(0, flops, sizes, center, draws, num_resamples, warnings=(SCHEDULE,))


def isoflop(
    columns: Mapping[str, Array], loss: Array, runs: Any, num_resamples: int = 0, seed: int = 0
) -> Approach:
    """Approach 2, of the last checkpoint of each run; resampled within each budget."""
    C, N = 6 * columns["N"] * columns["D"], columns["N"]
    last = _last(columns["D"], runs)
    rows = [last[r] for r in budgets_of(C[last], N[last])]
    found = [parabola(C, N, loss, r) for r in rows]
    good = [k for k, b in enumerate(found) if not b.refused]
    if len(good) < LEAST_BUDGETS:
        said = "; ".join(f"C = {b.flops:.3g}: {b.refused}" for b in found if b.refused)
        refused = (
            f"{len(good)} budgets with a minimum, needs {LEAST_BUDGETS}: four or more sizes at "
            "equal compute (6ND within 15%), smaller and larger than the best one"
            + (f"; {said}" if said else "")
        )
        return _refusal(1, refused, budgets=tuple(found))
    flops, sizes = (np.array([getattr(found[k], n) for k in good]) for n in ("flops", "N"))
    center = float(np.exp(np.log(flops).mean()))
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        counts = np.zeros(len(N))
        for k in good:
            np.add.at(counts, rng.choice(rows[k], size=len(rows[k])), 1.0)
        best = minima(C, N, loss, [rows[k] for k in good], counts)
        there = np.isfinite(best)
        if there.sum() > 1:
            draws.append(_line(flops[there], best[there], center))
    out = [f"C = {b.flops:.3g} left out of approach 2: {b.refused}" for b in found if b.refused]
    return _approach(
        1, flops, sizes, center, draws, num_resamples, budgets=tuple(found), warnings=tuple(out)
    )


def surface(fitted: Fit, law: Law | None = None) -> Approach:
    """Approach 3: the optimum of a fitted law, with the draws of its bootstrap."""
    law = law or fitted.law_itself()
    low, high = fitted.ranges.get("C", (1.0, 1.0))
    center = float(np.sqrt(low * high))
    point = optimum(law, fitted, np.array([fitted.theta]), center)
    if point is None:
        refused = f"law={law.name} has no terms of N and D to weigh; use --law chinchilla"
        return _refusal(2, refused)
    if not 1 <= (size := float(point["N"][0])) <= MOST_PARAMETERS:
        refused = (
            f"the fit of law={law.name} puts the best size at C = {center:.3g} at {size:.3g} "
            "parameters: these runs do not tell its terms apart; add sizes and token counts"
        )
        return _refusal(2, refused)
    draws = np.empty((0, 2))
    if fitted.draws:
        many = optimum(law, fitted, np.array(fitted.draws), center) or {}
        draws = np.column_stack([many["a"], np.log(many["N"])])
    return Approach(
        name=NAMES[2],
        a=float(point["a"][0]),
        height=float(np.log(point["N"][0])),
        center=center,
        draws=draws[np.isfinite(draws).all(1)],
        num_resamples=len(draws),
    )


def disagreement(found: Sequence[Approach], flops: float, level: float) -> list[dict[str, Any]]:
    """For each pair that gave a line: the difference of a, and the ratio of N* at ``flops``.

    ``apart`` where the intervals of a do not meet; null without intervals.
    """
    rows = []
    for one, other in combinations([a for a in found if not a.refused], 2):
        first, second = one.interval(level), other.interval(level)
        apart = None
        if first is not None and second is not None:
            apart = bool(first[1] < second[0] or second[1] < first[0])
        ratio = float(one.size(flops) / other.size(flops))
        row = {"between": [one.name, other.name], "a_difference": one.a - other.a}
        rows.append({**row, "C": flops, "N_ratio": ratio, "apart": apart})
    return rows


def _refusal(which: int, why: str, **more: Any) -> Approach:
    return Approach(name=NAMES[which], refused=why, draws=np.empty((0, 2)), **more)


def _approach(
    which: int, flops: Array, sizes: Array, center: float, draws: list, num: int, **more: Any
) -> Approach:
    a, height = _line(flops, sizes, center)
    return Approach(
        name=NAMES[which],
        a=a,
        height=height,
        center=center,
        draws=np.array(draws, dtype=np.float64).reshape(-1, 2),
        num_resamples=num,
        optima=tuple(zip(flops.tolist(), sizes.tolist(), strict=True)),
        **more,
    )


def _line(flops: Array, sizes: Array, center: float) -> tuple[float, float]:
    """Slope, and height at ``center``, of log N over log C."""
    a, height = np.polyfit(np.log(flops / center), np.log(sizes), 1)
    return float(a), float(height)


def _last(D: Array, runs: Any) -> NDArray[np.intp]:
    """The row of each run's last checkpoint."""
    run = np.unique(np.asarray(runs), return_inverse=True)[1].reshape(-1)
    order = np.lexsort((D, run))
    return np.sort(order[np.append(np.diff(run[order]) > 0, True)])
