"""Which settings of a search mattered: shares of variance in an additive model, against chance."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .results import Results

LEAST_RUNS = 12
LEAST_SETTINGS = 3  # two are a plane: loss against each has a figure of its own
MAX_GROUPS = 4
NUM_DRAWS = 200


def searched(results: Results) -> list[str]:
    """The settings that differ among the finished runs of a search, without the seed."""
    runs = results.complete
    drawn = (runs["role"] == "search").any() if "role" in runs else False
    names = [
        name
        for name in results.plan.params
        if name not in (results.roles.seed, *results.roles.draws)
        and name in runs
        and runs[name].astype(str).nunique() > 1
    ]
    usual = (*results.roles.sizes, *results.roles.tokens)  # these have figures of their own
    others = [name for name in names if drawn or name not in usual]
    if len(runs) < LEAST_RUNS or len(others) < (2 if drawn else LEAST_SETTINGS):
        return []
    return names


def joint(columns: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Settings that move together, as zipped axes do, as one.

    Where one tells the value of another in every run, nobody can say which of them mattered: the
    finer stands for both, as ``signal (with store)``.
    """
    groups = {name: groups_of(column) for name, column in columns.items()}
    told: dict[str, list[str]] = {}
    for name in sorted(columns, key=lambda name: -groups[name].max()):
        by = next((n for n in told if _tells(groups[n], groups[name])), None)
        if by is None:
            told[name] = []
        else:
            told[by].append(name)
    return {
        f"{name} (with {', '.join(told[name])})" if told[name] else name: column
        for name, column in columns.items()
        if name in told
    }


def _tells(one: NDArray[np.intp], other: NDArray[np.intp]) -> bool:
    return len(np.unique(np.column_stack([one, other]), axis=0)) == len(np.unique(one))


def importances(results: Results, seed: int = 0) -> pd.DataFrame | None:
    """One row per setting: setting, share (omega squared), low, high, chance; largest share first.

    None where the runs are too few for the groups.
    """
    columns = joint({name: results.complete[name] for name in searched(results)})
    loss = results.complete[results.metric].to_numpy(dtype=float)
    names, groups = list(columns), {name: groups_of(c) for name, c in columns.items()}
    num_columns = 1 + sum(int(g.max()) for g in groups.values())
    if not names or len(loss) < num_columns + LEAST_RUNS // 2:
        return None
    rng = np.random.default_rng(seed)
    shares = _shares(groups, loss)
    halves = []
    for _ in range(NUM_DRAWS):
        half = rng.permutation(len(loss))[: max(len(loss) // 2, num_columns + 2)]
        halves.append(_shares({n: g[half] for n, g in groups.items()}, loss[half]))
    spread = np.nanstd(np.array(halves), axis=0)
    chance = []
    for name in names:
        null = [
            _shares({**groups, name: rng.permutation(groups[name])}, loss)[names.index(name)]
            for _ in range(NUM_DRAWS)
        ]
        chance.append(np.quantile(null, 0.95))
    table = pd.DataFrame({"setting": names, "share": shares})
    table = table.assign(low=shares - 1.96 * spread, high=shares + 1.96 * spread, chance=chance)
    return table.sort_values("share", ascending=False, ignore_index=True)


def _shares(groups: dict[str, NDArray[np.intp]], loss: np.ndarray) -> np.ndarray:
    """Omega squared of each setting: (SS - df * MSE) / SS of all, SS by leaving it out.

    Source: Hays 1963, Statistics for Psychologists; sums of squares of type III.
    """
    whole, rank = _residual(groups, loss)
    mean_square = whole / max(len(loss) - rank, 1)
    total = float(((loss - loss.mean()) ** 2).sum())
    found = []
    for name in groups:
        left, fewer = _residual({n: g for n, g in groups.items() if n != name}, loss)
        found.append((left - whole - (rank - fewer) * mean_square) / total if total else 0.0)
    return np.array(found)


def _residual(groups: dict[str, NDArray[np.intp]], loss: np.ndarray) -> tuple[float, int]:
    """Sum of squares that is left, and the rank of the model."""
    columns = [np.ones(len(loss))]
    for group in groups.values():
        columns += [(group == k).astype(float) for k in range(1, int(group.max()) + 1)]
    design = np.column_stack(columns)
    found, _, rank, _ = np.linalg.lstsq(design, loss, rcond=None)
    return float(((loss - design @ found) ** 2).sum()), int(rank)


def groups_of(column: pd.Series) -> NDArray[np.intp]:
    """Values as groups: each its own, or quarters of a number that has many; and those without."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MAX_GROUPS:
        has = column.notna().to_numpy()
        ranks = column[has].astype(float).rank(method="first")
        groups = np.full(len(column), MAX_GROUPS, dtype=np.intp)
        groups[has] = pd.qcut(ranks, MAX_GROUPS, labels=False).to_numpy(dtype=np.intp)
        return groups
    return pd.factorize(column.astype(str), use_na_sentinel=False)[0].astype(np.intp)
