"""Each swept number: what was tried, and where the best lies."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np
import pandas as pd

from ..runs.labels import Roles
from ..runs.seeds import aggregate
from .results import Results


def best_values(
    runs: pd.DataFrame, which: Roles, param: str, metric: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Loss against one numeric parameter: the mean per value, and the best with its place.

    Returns:
        rows (recipe, size, value, loss and interval); best (recipe, size, best value, at_edge).
    """
    table = aggregate(runs.assign(_value=runs[param]), [metric])
    values = runs.drop_duplicates("setting").set_index("setting")[param]
    table["value"] = table["setting"].map(values).astype(float)
    table = table[table["value"].notna()]
    text = f"{param.rsplit('.', 1)[-1]}="
    table["recipe"] = [
        ", ".join(part for part in recipe.split(", ") if not part.startswith(text)) or "all runs"
        for recipe in table["series"]
    ]
    rows = []
    for (recipe, size), group in table.groupby(["recipe", "size"], sort=False):
        if group["value"].nunique() < 2:
            continue
        best = group.loc[group[metric].idxmin()]
        edge = best["value"] in (group["value"].min(), group["value"].max())
        rows.append(
            {
                "recipe": recipe,
                "size": size,
                "best": best["value"],
                metric: best[metric],
                "tried": f"{group['value'].min():.3g} to {group['value'].max():.3g} "
                f"({group['value'].nunique()} values)",
                "at_edge": bool(edge),
            }
        )
    return table, pd.DataFrame(rows, columns=["recipe", "size", "best", metric, "tried", "at_edge"])


def numeric_params(results: Results) -> list[str]:
    """Swept numbers other than seed, size and tokens: each gets a figure of its own."""
    found = []
    for name in (*results.roles.learning_rates, *results.roles.recipe):
        column = results.complete[name].dropna() if name in results.complete else pd.Series()
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            continue
        if len(np.unique(column.to_numpy(dtype=float))) > 1:
            found.append(name)
    return found


def swept_rate(results: Results) -> str | None:
    """The learning rate's parameter, if the plan tries some setting at more than one.

    Asked of the plan and not of what finished: where all runs but those of one rate diverged, the
    rate was swept all the same.
    """
    for name in results.roles.learning_rates:
        groups = results.runs.groupby(["recipe", "size", "num_tokens"], dropna=False)
        if (groups[name].nunique() > 1).any():
            return name
    return None
