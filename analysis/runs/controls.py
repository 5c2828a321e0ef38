"""What a fair control is: the same tokens, compute with the teacher's share charged, or time.

A distilled run is compared with controls of its own size, seed and data. Under equal student
tokens that is the control trained on as many tokens. Where teacher FLOPs are charged, or seconds
counted, it is the control trained on as many tokens as the total would buy it, read off the
measured controls by straight lines in log tokens, and only between measured points: nothing is
extrapolated.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from typing import Any

import numpy as np
import pandas as pd

from .accounting import Accounting, own_cost, total_cost
from .labels import SIZE_NAME, Roles, human
from .seeds import interval_columns, mean_interval, over_seeds, over_units

SAME_TOKENS = 1e-3  # relative: the plan rounds tokens to whole batches
CARRIED = (
    "run_id",
    "recipe",
    "series",
    "size",
    "seed",
    "teacher_seed",
    "draw_seed",
    "token_multiple",
    SIZE_NAME,
    "num_tokens",
    "learning_rate",
)
COMPARED = (
    "needed_multiple",
    "measured_multiple",
    "control_loss",
    "control_rate",
    "difference",
    "total_cost",
)


def compare(runs: pd.DataFrame, which: Roles, accounting: Accounting, metric: str) -> pd.DataFrame:
    """One row per distilled run: its loss, the fair control's, and their difference.

    difference = loss - control's loss, so that below zero the recipe is better. Where there is no
    fair control, the difference is missing and ``why_not`` says what would be needed.
    """
    controls = runs[runs["is_control"]]
    totals, own_costs = total_cost(runs, accounting), own_cost(runs, accounting)
    rows = []
    for index, run in runs[~runs["is_control"]].iterrows():
        row: dict[str, Any] = {name: run.get(name) for name in CARRIED}
        row |= {"loss": float(run[metric]), **dict.fromkeys(COMPARED, np.nan), "why_not": None}
        row["total_cost"] = float(totals[index])
        own = controls_of(run, controls, which)
        if own.empty:
            row["why_not"] = "no finished control of this size, seed and data"
        elif not accounting.at_equal_tokens and not np.isfinite(row["total_cost"]):
            what = "the teacher's FLOPs" if accounting.charges else "seconds"
            row["why_not"] = f"{what} were not recorded, so they cannot be charged"
        else:
            own = own.assign(_cost=own_costs[own.index])
            row |= _fair_control(run, own, row["total_cost"], accounting, metric)
            row["difference"] = float(run[metric]) - row["control_loss"]
        rows.append(row)
    return pd.DataFrame(rows, columns=[*CARRIED, "loss", *COMPARED, "why_not"])


def differences(compared: pd.DataFrame) -> pd.DataFrame:
    """Mean paired difference per series and size, with t-interval, pairs and why some lack.

    Of several teachers, a pair is one of them with its control (``seeds.over_units``).
    """
    rows = []
    for (series, size), group in compared.groupby(["series", "size"], sort=False):
        pairs = over_units(group, "difference")
        interval = mean_interval(pairs)
        rows.append(
            {
                "series": series,
                "recipe": group["recipe"].iloc[0],
                "size": size,
                SIZE_NAME: float(group[SIZE_NAME].iloc[0]),
                "loss": float(group["loss"].mean()),
                **interval_columns(
                    "control_loss", mean_interval(over_seeds(group, "control_loss"))
                ),
                **interval_columns("difference", interval),
                "num_pairs": interval.num,
                "num_runs": len(pairs),
                "needed_multiple": float(group["needed_multiple"].mean()),
                "measured_multiple": float(group["measured_multiple"].max()),
                "why_not": "; ".join(dict.fromkeys(group["why_not"].dropna())),
            }
        )
    empty = [*interval_columns("difference", mean_interval(np.array([])))]
    columns = ["series", "recipe", "size", SIZE_NAME, *empty, "num_pairs", "why_not"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.sort_values(["series", SIZE_NAME], ignore_index=True)


def controls_of(run: pd.Series, controls: pd.DataFrame, which: Roles) -> pd.DataFrame:
    """Controls of the run's size, seed and data that agree on every recipe parameter they set."""
    fits = (
        (controls["size"] == run["size"])
        & (controls[SIZE_NAME] == run[SIZE_NAME])
        & (controls["seed"] == run["seed"])
    )
    if "data_digest" in controls and not pd.isna(run["data_digest"]):
        fits &= (controls["data_digest"] == run["data_digest"]).fillna(True)
    agreed = pd.Series(0, controls.index)
    for name in (*which.recipe, *which.draws):
        if name == "loss" or name not in controls:
            continue
        sets = controls[name].notna()
        same = (controls[name] == run[name]).fillna(False) if not pd.isna(run[name]) else ~sets
        fits &= ~sets | same.astype(bool)
        agreed += sets.astype(int)
    found = controls[fits.astype(bool)]
    return found[agreed[found.index] == agreed[found.index].max()]


def _fair_control(
    run: pd.Series, own: pd.DataFrame, total: float, accounting: Accounting, metric: str
) -> dict[str, object]:
    """The control's loss at the tokens that the run's total buys, within what was measured."""
    points = own.assign(_loss=own[metric].astype(float)).groupby("num_tokens")["_loss"].mean()
    tokens = points.index.to_numpy(dtype=float)
    needed = float(run["num_tokens"])
    if not accounting.at_equal_tokens:
        per_token = own["_cost"] / own["num_tokens"].astype(float)
        needed = total / float(per_token.mean())
    base = float(run["num_tokens"])
    row: dict[str, object] = {
        "needed_multiple": needed / base,
        "measured_multiple": float(tokens.max()) / base,
        "control_loss": np.nan,
        "control_rate": np.nan,
        "why_not": None,
    }
    near = np.abs(tokens / needed - 1) < SAME_TOKENS
    if near.any():
        row["control_loss"] = float(points.to_numpy()[near][0])
        at = own["num_tokens"].astype(float) == tokens[near][0]
        row["control_rate"] = own.loc[at, "learning_rate"].astype(float).mean()
    elif accounting.at_equal_tokens:
        row["why_not"] = f"no control on {human(needed)} tokens"
    elif tokens.min() < needed < tokens.max():
        row["control_loss"] = float(np.interp(np.log(needed), np.log(tokens), points.to_numpy()))
    elif needed > tokens.max():
        row["why_not"] = (
            f"needs {needed / base:.3g}x control tokens; measured up to {tokens.max() / base:.3g}x"
        )
    else:
        row["why_not"] = (
            f"needs {needed / base:.3g}x control tokens; measured from {tokens.min() / base:.3g}x"
        )
    return row
