"""The runs that a prediction rests on: of a sweep or of a report's table, and of one teacher."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from pathlib import Path

import numpy as np
import pandas as pd

from pdx.errors import SweepError

from ..fitting.levels import SAME
from ..runs.labels import SIZE_NAME, human, keep_best_learning_rate, label_runs
from ..runs.table import load_plan, load_runs

NEEDED = ("recipe", "seed", "is_control", SIZE_NAME, "num_tokens")


def read_runs(source: Path, runs_dir: Path | None, metric: str) -> pd.DataFrame:
    """Finished runs, labelled, at the best learning rate of each setting.

    Args:
        source: a sweep's directory, or a table that its report wrote (csv or parquet).

    Raises:
        SweepError: neither of the two, columns that are missing, or no finished run.
    """
    if source.is_dir():
        plan = load_plan(source)
        runs = label_runs(load_runs(source, runs_dir or source.parent.parent / "runs"), plan)
    elif source.is_file():
        read = pd.read_parquet if source.suffix in (".parquet", ".pq") else pd.read_csv
        runs, plan = read(source), None
    else:
        raise SweepError(
            f"{source}: no such sweep; give sweep=NAME, a sweep's directory, or a runs.parquet or "
            "runs.csv that its report wrote."
        )
    missing = [name for name in (*NEEDED, metric) if name not in runs]
    if missing:
        known = ", ".join(str(name) for name in runs)
        raise SweepError(f"{source}: has no column {', '.join(missing)}; known: {known}.")
    if "status" in runs:
        runs = runs[runs["status"] == "complete"]
    runs = runs[runs[metric].notna()]
    if runs.empty:
        raise SweepError(f"{source}: no finished run has {metric}; run the sweep first.")
    return keep_best_learning_rate(runs, plan, metric) if plan else runs


def of_teacher(runs: pd.DataFrame, teacher: str | None) -> pd.DataFrame:
    """Runs of one teacher, and those of none.

    Raises:
        SweepError: several teachers and none named, or one that no run had.
    """
    if "teacher_id" not in runs:
        return runs
    names = sorted({str(v) for v in runs.loc[~plain_runs(runs), "teacher_id"].dropna()})
    if teacher is None and len(names) > 1:
        raise SweepError(
            f"teacher: the runs have {len(names)} teachers; name one of {', '.join(names)} (its "
            "first letters do), or give teacher.loss= for the distillation law over all of them."
        )
    if teacher is None:
        return runs
    chosen = [name for name in names if name.startswith(teacher)]
    if len(chosen) != 1:
        raise SweepError(
            f"teacher={teacher}: names {len(chosen)} of the runs' teachers; known: "
            f"{', '.join(names) or 'none'}."
        )
    return runs[plain_runs(runs) | (runs["teacher_id"].astype(str) == chosen[0])]


def usual_tokens(runs: pd.DataFrame, num_params: float) -> float:
    """The target's tokens where none are given: as the distilled runs have them.

    Raises:
        SweepError: they have neither one token count nor one ratio to parameters.
    """
    own = runs[~plain_runs(runs)] if (~plain_runs(runs)).any() else runs
    tokens = own["num_tokens"].to_numpy(dtype=float)
    ratio = tokens / own[SIZE_NAME].to_numpy(dtype=float)
    if tokens.max() <= tokens.min() * (1 + SAME):
        return float(tokens[0])
    if ratio.max() <= ratio.min() * (1 + 5 * SAME):
        return float(np.median(ratio)) * num_params
    raise SweepError(
        "train.num_tokens: not given, and the sweep has several token counts "
        f"({human(tokens.min())} to {human(tokens.max())}); give train.num_tokens=."
    )


def plain_runs(runs: pd.DataFrame) -> pd.Series:
    """Which runs read no teacher."""
    return runs["is_control"].astype(str).str.lower().isin(("true", "1"))
