"""What is said over seeds: means with Student-t intervals, and what an interval is over."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from .labels import SIZE_NAME

LEVEL = 0.95  # of intervals where nobody asks for another
ENOUGH_SEEDS = 3  # of two, a t interval is 13 standard errors each way and says nothing


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds with its range; no interval (NaN) from a single value."""

    mean: float
    low: float
    high: float
    least: float
    most: float
    num: int


def mean_interval(values: pd.Series | np.ndarray, level: float = LEVEL) -> Interval:
    """Mean and Student-t interval of the finite values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    num = len(finite)
    if num == 0:
        return Interval(**dict.fromkeys(("mean", "low", "high", "least", "most"), np.nan), num=0)
    mean, reach = float(finite.mean()), float("nan")
    if num > 1:
        error = float(finite.std(ddof=1)) / np.sqrt(num)
        reach = float(stats.t.ppf(0.5 + level / 2, num - 1)) * error
    ends = {"least": float(finite.min()), "most": float(finite.max())}
    return Interval(mean=mean, low=mean - reach, high=mean + reach, num=num, **ends)


def over_units(runs: pd.DataFrame, metric: str) -> pd.Series:
    """What an interval of one setting is over: its runs; or several teachers, if it has these.

    Runs under one teacher share its luck, and draws for one seed share the student's: they are no
    samples of their own, and are averaged. With one teacher the interval is given this teacher.
    """
    values = runs[metric].astype(float)
    if "teacher_seed" in runs and runs["teacher_seed"].nunique() > 1:
        return values.groupby(runs["teacher_seed"]).mean()
    return over_seeds(runs, metric)


def over_seeds(runs: pd.DataFrame, metric: str) -> pd.Series:
    """One value for each seed of the student, where teachers or draws give it several."""
    values = runs[metric].astype(float)
    several = [n for n in ("teacher_seed", "draw_seed") if n in runs and runs[n].nunique() > 1]
    return values.groupby(runs["seed"]).mean() if several else values


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """What a table holds of an interval: ``name``, ``name/low``, ``name/high`` and so on."""
    return {
        name: interval.mean,
        f"{name}/low": interval.low,
        f"{name}/high": interval.high,
        f"{name}/min": interval.least,
        f"{name}/max": interval.most,
        f"{name}/num": interval.num,
    }


def bar_ends(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a figure's bars end: at the t interval, or at the extremes of fewer than three seeds.

    NaN where there is one seed.
    """
    num = table[f"{name}/num"].to_numpy(dtype=float)
    ends = []
    for interval, extreme in (("low", "min"), ("high", "max")):
        end = table[f"{name}/{interval}"].to_numpy(dtype=float)
        few = np.where(num > 1, table[f"{name}/{extreme}"].to_numpy(dtype=float), np.nan)
        ends.append(np.where(num >= ENOUGH_SEEDS, end, few))
    return ends[0], ends[1]


def aggregate(runs: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """One row per setting: each metric's mean over seeds with its `interval_columns`."""
    keys = ["setting", "recipe", "series", "size", "is_control"]
    rows = []
    for values, group in runs.groupby(keys, sort=False):
        row: dict[str, object] = dict(zip(keys, values, strict=True))
        for fact in (SIZE_NAME, "num_tokens", "token_multiple", "learning_rate"):
            row[fact] = group[fact].astype(float).mean()
        for metric in metrics:
            row |= interval_columns(metric, mean_interval(over_units(group, metric)))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.sort_values(
        ["is_control", "recipe", "token_multiple", SIZE_NAME],
        ascending=[False, True, True, True],
        ignore_index=True,
    )
