"""Which settings of a search matter together: what two explain beyond what each does by itself.

Model: loss = sum over settings of f_i + g_ab + noise. f_i has a level for each value (numbers with
many: for each quarter, and a cubic in the rank, so that a slope inside a quarter is not taken for
an interaction); g_ab has a level for each pair of values that enough runs have. What g_ab explains
is held against chance by permuting what the f_i leave.

Source: shares as in ``importance``; permutation of residuals under the reduced model: Freedman and
Lane 1983, doi:10.1080/07350015.1983.10509354. We deviate in projecting what is permuted off the
f_i once more, and in setting runs of rare cells, or without one of the two settings, apart: one
outlier alone in a cell is no interaction, and whether a setting exists is another setting's.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportReturnType=false

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .contrasts import holm
from .importance import MAX_GROUPS, groups_of, joint, searched
from .results import Results

LEAST_RUNS = 40  # of a search; fewer leave two settings no room beside all others
LEAST_LEFT = 20  # degrees of freedom that the settings by themselves must leave
LEAST_IN_CELL = 3  # runs that have both values
NUM_PERMUTATIONS = 999
LEVEL = 0.05  # of the whole family of pairs
Array = NDArray[np.float64]


def drawn_runs(results: Results) -> pd.DataFrame:
    """The runs that are looked at: those that a search drew, and all where none did."""
    runs = results.complete
    drawn = runs[runs["role"] == "search"]
    return drawn if len(drawn) else runs


def interactions(results: Results, seed: int = 0) -> pd.DataFrame | None:
    """One row per pair of settings, see `pairs_of`; None where the runs are too few for any."""
    runs = drawn_runs(results)
    names = [n for n in searched(results) if runs[n].astype(str).nunique() > 1]
    columns = joint({name: runs[name] for name in names})
    if len(columns) < 2 or len(runs) < LEAST_RUNS:
        return None
    loss = runs[results.metric].to_numpy(dtype=float)
    return pairs_of(columns, loss, seed)


def pairs_of(
    columns: Mapping[str, pd.Series], loss: Array, seed: int = 0, num: int = NUM_PERMUTATIONS
) -> pd.DataFrame | None:
    """Pairs of settings by what they explain together, the most first; each by itself comes last.

    Args:
        num: permutations.

    Returns:
        setting, beside (itself in the last rows); share of the variance of loss (omega squared:
            less what chance would) and chance, its 95th percentile without any interaction; p,
            Holm-adjusted over the pairs; lowest, the pair of values that lies furthest below what
            both do alone, with by_how_much. NaN where no two values meet often enough. None where
            the settings by themselves leave too little.
    """
    alone = {name: _alone(column) for name, column in columns.items()}
    cells = {name: groups_of(column) for name, column in columns.items()}
    design = np.hstack([np.ones((len(loss), 1)), *alone.values()])
    total = float(((loss - loss.mean()) ** 2).sum())
    left = len(loss) - _basis(design).shape[1]
    if left < LEAST_LEFT or total <= 1e-18 * float((loss**2).sum()):
        return None
    rng = np.random.default_rng(seed)
    orders = np.column_stack([rng.permutation(len(loss)) for _ in range(num)])
    rows = []
    for one, other in combinations(columns, 2):
        row: dict[str, object] = {"setting": one, "beside": other, "share": np.nan}
        row |= {"chance": np.nan, "p": np.nan, "lowest": "", "by_how_much": np.nan}
        has_both = columns[one].notna().to_numpy() & columns[other].notna().to_numpy()
        cross, apart = _cross(cells[one], cells[other], has_both)
        fitted = _basis(np.hstack([design, apart]))
        added = _basis(_off(fitted, cross))
        left, df = len(loss) - fitted.shape[1], added.shape[1]
        if df and left - df >= LEAST_LEFT // 2:
            rest = _off(fitted, loss)
            found, ratio = _explained(added, rest[:, None], left)
            null, ratios = _explained(added, _off(fitted, rest[orders]), left)
            row["share"] = float(found[0] / total)
            row["chance"] = float(np.quantile(null / total, 0.95))
            row["p"] = (1 + int((ratios >= ratio[0]).sum())) / (1 + num)
            means = (cross.T @ rest) / cross.sum(0)
            at = int(np.argmin(means))
            here = cross[:, at] > 0
            row["lowest"] = ", ".join(_said(n, columns[n], here) for n in (one, other))
            row["by_how_much"] = float(means[at])
        rows.append(row)
    told = [row for row in rows if np.isfinite(row["p"])]
    for row, p in zip(told, holm([row["p"] for row in told]), strict=True):
        row["p"] = p
    table = pd.DataFrame(rows).sort_values("share", ascending=False, ignore_index=True)
    return pd.concat([table, _by_themselves(alone, loss, total)], ignore_index=True)


def _by_themselves(alone: Mapping[str, Array], loss: Array, total: float) -> pd.DataFrame:
    """What each setting explains beside all others, without their interactions."""
    ones = np.ones((len(loss), 1))
    whole = _basis(np.hstack([ones, *alone.values()]))
    rss = float((_off(whole, loss) ** 2).sum())
    noise = rss / (len(loss) - whole.shape[1])
    rows = []
    for name in alone:
        basis = _basis(np.hstack([ones, *(a for n, a in alone.items() if n != name)]))
        without = float((_off(basis, loss) ** 2).sum())
        share = (without - rss - (whole.shape[1] - basis.shape[1]) * noise) / total
        rows.append({"setting": name, "beside": name, "share": share})
    return pd.DataFrame(rows)


def _explained(added: Array, rest: Array, left: int) -> tuple[Array, Array]:
    """Of residuals [n, m]: what ``added`` explains, less chance's part; and the F ratio."""
    df = added.shape[1]
    explained = ((added.T @ rest) ** 2).sum(0)
    noise = ((rest**2).sum(0) - explained) / (left - df)
    ratio = explained / df / np.maximum(noise, 1e-300)
    return explained - df * noise, ratio


def _alone(column: pd.Series) -> Array:
    """Columns of a setting by itself: a level for each group, and of a number its curve."""
    group = groups_of(column)
    levels = [(group == k).astype(float) for k in range(1, int(group.max()) + 1)]
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MAX_GROUPS:
        rank = column.astype(float).rank().fillna(0.0).to_numpy(dtype=float)
        has = column.notna().to_numpy()
        x = np.where(has, 2 * rank / rank.max() - 1, 0.0)
        levels += [np.where(has, x**k, 0.0) for k in (1, 2, 3)]
    return np.column_stack(levels)


def _cross(
    one: NDArray[np.intp], other: NDArray[np.intp], has_both: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """A column for each pair of groups that enough runs have; and one for each other run.

    The latter belong to what is not told: left in, those runs would tell by what the others lack.
    """
    pairs = [(i, j) for i in np.unique(one) for j in np.unique(other)]
    members = [has_both & (one == i) & (other == j) for i, j in pairs]
    kept = [m.astype(float) for m in members if m.sum() >= LEAST_IN_CELL]
    none = np.zeros((len(one), 0))
    apart = np.ones(len(one), bool) if not kept else ~np.any(kept, axis=0)
    return np.column_stack(kept) if kept else none, np.eye(len(one))[:, apart]


def _off(basis: Array, values: Array) -> Array:
    """What is left of values [n] or [n, m] off an orthonormal basis [n, k]."""
    return values - basis @ (basis.T @ values)


def _basis(columns: Array) -> Array:
    """An orthonormal basis of what columns span; those that are only rounding span nothing."""
    if not columns.shape[1]:
        return columns
    u, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, sizes > 1e-8 * max(1.0, float(sizes.max()))]


def _said(name: str, column: pd.Series, here: NDArray[np.bool_]) -> str:
    """The values of a setting in a cell: one, or from where to where."""
    values = column[here]
    if values.isna().all():
        return f"{name} unset"
    if pd.api.types.is_numeric_dtype(column) and values.nunique() > 1:
        return f"{name}={float(values.min()):.3g} to {float(values.max()):.3g}"
    value = values.iloc[0]
    return f"{name}={float(value):.3g}" if isinstance(value, float) else f"{name}={value}"
