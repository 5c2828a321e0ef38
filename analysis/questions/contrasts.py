"""Contrasts of paired cells: noise pooled over a sweep, tests against zero and a margin, Holm."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

UNLIKE = 0.01  # p below which a contrast's own spread counts as another than the sweep's
LEAST_SD = 1e-9  # nats: recipes that are equal run by run are equal to rounding


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviation of one run about its setting and its seed, nats per token.

    Attributes:
        dof: degrees of freedom it rests on; 0: not known.
    """

    sd: float
    dof: int


def pooled_noise(runs: pd.DataFrame, metric: str) -> Noise:
    """Noise of runs left by setting and seed, pooled over all settings of a sweep.

    loss = setting + seed within (size, tokens) + noise: what a seed does to every recipe alike
    (its initialisation, its data order) cancels in pairs and is no part of it.

    Args:
        runs: finished ones at one learning rate per setting; ``setting``, ``size``, ``num_tokens``,
            ``seed`` and ``metric``.
    """
    loss = runs[metric].to_numpy(dtype=float)
    blocks = [f"{s} {t} {seed}" for s, t, seed in zip(*_columns(runs), strict=True)]
    settings = pd.get_dummies(runs["setting"].astype(str)).to_numpy(dtype=float)
    design = np.hstack([settings, pd.get_dummies(pd.Series(blocks)).to_numpy(dtype=float)])
    fitted, _, rank, _ = np.linalg.lstsq(design, loss, rcond=None)
    dof = len(loss) - int(rank)
    rss = float(np.square(loss - design @ fitted).sum())
    return Noise(sd=float(np.sqrt(rss / dof)) if dof > 0 else float("nan"), dof=max(dof, 0))


def _columns(runs: pd.DataFrame) -> tuple[pd.Series, ...]:
    return tuple(runs[name] for name in ("size", "num_tokens", "seed"))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A signed sum of cells over paired seeds: its mean and how well it is known.

    Attributes:
        error: standard error of the mean.
        own_noise: whether it is this contrast's own spread, which is unlike the sweep's: more where
            a recipe is erratic, less where two recipes are nearly or wholly the same function.
    """

    mean: float
    error: float
    dof: int
    num_pairs: int
    own_noise: bool

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student-t interval of the mean."""
        reach = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.error
        return self.mean - reach, self.mean + reach

    def p_zero(self) -> float:
        """Two-sided p of: there is no difference."""
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.dof))

    def p_within(self, margin: float) -> float:
        """P of: the difference is as large as the margin (two one-sided tests).

        Source:
            Schuirmann 1987, doi:10.1007/BF01068419.
        """
        above = stats.t.sf((self.mean + margin) / self.error, self.dof)
        below = stats.t.cdf((self.mean - margin) / self.error, self.dof)
        return float(max(above, below))

    def p_beyond(self, margin: float) -> float:
        """P of: the difference is at most the margin."""
        near, far = (abs(self.mean) - margin) / self.error, (abs(self.mean) + margin) / self.error
        return float(stats.t.sf(near, self.dof) + stats.t.sf(far, self.dof))

    def power_to_see(self, size: float, level: float = 0.05) -> float:
        """Chance that a difference of ``size`` is told from none at ``level``, two-sided."""
        reach, shift = stats.t.ppf(1 - level / 2, self.dof), size / self.error
        seen = stats.nct.sf(reach, self.dof, shift) + stats.nct.cdf(-reach, self.dof, shift)
        return float(np.clip(np.nan_to_num(seen, nan=1.0), 0, 1))  # nan: far beyond any doubt

    def power_to_exclude(self, margin: float, level: float = 0.05) -> float:
        """Chance that no difference at all is found to lie within the margin at ``level``."""
        room = margin / self.error - stats.t.ppf(1 - level, self.dof)
        return float(max(0.0, 2 * stats.t.cdf(room, self.dof) - 1))


def contrast(cells: Sequence[tuple[int, Mapping[str, float]]], noise: Noise) -> Contrast | None:
    """A signed sum of cells, each a loss by seed, over the seeds that all of them have.

    None with fewer than two pairs, or where no noise is known.
    """
    seeds = sorted(set.intersection(*(set(losses) for _, losses in cells)))
    if len(seeds) < 2:
        return None
    differences = np.array([sum(sign * losses[s] for sign, losses in cells) for s in seeds])
    num = len(seeds)
    own, pooled = float(differences.var(ddof=1)), noise.sd**2 * len(cells)
    own_noise = noise.dof <= 0
    if not own_noise and pooled > 0:
        spread = stats.f(num - 1, noise.dof)
        own_noise = bool(min(spread.sf(own / pooled), spread.cdf(own / pooled)) < UNLIKE)
        own = max(own, LEAST_SD**2)
    variance, dof = (own, num - 1) if own_noise else (pooled, noise.dof)
    if not variance > 0:
        return None
    error = float(np.sqrt(variance / num))
    mean = float(differences.mean())
    return Contrast(mean=mean, error=error, dof=dof, num_pairs=num, own_noise=own_noise)


def over_teachers(
    cells: Sequence[tuple[int, Mapping[tuple[str, str], float]]],
) -> tuple[list[tuple[int, dict[str, float]]], bool]:
    """Cells by what their pairs are: seeds of students; or teachers, where cells have several.

    Args:
        cells: losses by seed and seed of the teacher, "" where a run has none.

    Returns:
        signed losses by seed, or by teacher with the seeds averaged within each: students of one
        teacher share its luck. A cell without teachers stands beside every one. And which it is.
    """
    teachers = {teacher for _, losses in cells for _, teacher in losses if teacher}
    spread = [
        {(s, one): v for (s, t), v in losses.items() for one in ([t] if t else teachers)}
        for _, losses in cells
    ]
    common = sorted(set.intersection(*(set(losses) for losses in spread)))
    names = sorted({teacher for _, teacher in common})
    if len(names) < 2:
        return [(sign, _by_seed(losses)) for sign, losses in cells], False
    of = {name: [key for key in common if key[1] == name] for name in names}
    return [
        (sign, {name: float(np.mean([losses[key] for key in of[name]])) for name in names})
        for (sign, _), losses in zip(cells, spread, strict=True)
    ], True


def _by_seed(losses: Mapping[tuple[str, str], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for (seed, _), loss in losses.items():
        found.setdefault(seed, []).append(loss)
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: rejecting those below a level errs once or more in that share of families.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p_values)
    adjusted, least = np.zeros(len(p_values)), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted.tolist()
