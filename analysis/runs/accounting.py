"""What a run spends: its own training, and what of its teacher is charged to it."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from dataclasses import dataclass

import numpy as np
import pandas as pd

FLOPS, SECONDS = "flops_train_exact", "perf/train_seconds"


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """What a run spends: its own training, and what a distilled one is charged with besides."""

    key: str
    label: str
    charges: tuple[str, ...]
    meaning: str
    spends: str = FLOPS

    @property
    def at_equal_tokens(self) -> bool:
        """Whether nothing but tokens is counted."""
        return self.spends == FLOPS and not self.charges


ACCOUNTINGS = (
    Accounting(
        key="student_tokens",
        label="student tokens equal",
        charges=(),
        meaning="both saw the same number of student tokens; the teacher is free",
    ),
    Accounting(
        key="teacher_inference",
        label="+ teacher inference",
        charges=("flops_teacher_inference_exact",),
        meaning="the control may spend the FLOPs of the teacher's forward passes on more tokens",
    ),
    Accounting(
        key="teacher_training",
        label="+ teacher training",
        charges=("flops_teacher_inference_exact", "flops_teacher_training_exact"),
        meaning="the teacher's training too, charged whole to every single run, although one "
        "teacher serves them all",
    ),
)
TRAINING_ONLY = Accounting(
    key="teacher_training_only",
    label="+ teacher training only",
    charges=("flops_teacher_training_exact",),
    meaning="the teacher's training is charged whole, its forward passes are free: as if its "
    "logits had been kept while it was trained",
)
WALL_TIME = Accounting(
    key="wall_time",
    label="equal wall time",
    charges=(),
    spends=SECONDS,
    meaning="the control may train for as many seconds as the recipe did, at the median speed of "
    "each of them here; stored logits are there already, a live teacher's passes are in the time",
)
IN_FLOPS = (*ACCOUNTINGS[:2], TRAINING_ONLY, *ACCOUNTINGS[2:])
ALL_ACCOUNTINGS = (*IN_FLOPS, WALL_TIME)  # tables; figures draw three


def own_cost(runs: pd.DataFrame, accounting: Accounting) -> pd.Series:
    """What each run's own training spends: exact FLOPs, or seconds at its cell's median speed."""
    unknown = pd.Series(np.nan, runs.index)
    spent = runs.get(accounting.spends, unknown).astype(float)
    if accounting.spends == FLOPS or accounting.spends not in runs:
        return spent
    if "provenance.num_students" in runs:  # of one of a group they hold the others' turns
        spent = spent.mask(runs["provenance.num_students"].astype(float) > 1)
    tokens = runs["num_tokens"].astype(float)  # a run that another one slowed is not a slow recipe
    return tokens * (spent / tokens).groupby([runs["series"], runs["size"]]).transform("median")


def total_cost(runs: pd.DataFrame, accounting: Accounting) -> pd.Series:
    """A run's own training and what the accounting adds; NaN where a charge is unknown.

    A run that used a teacher and records 0 for it did not get it for nothing: it is unknown.
    """
    unknown, total = pd.Series(np.nan, runs.index), own_cost(runs, accounting)
    for charge in accounting.charges:
        cost = runs.get(charge, unknown).astype(float)
        total = total + cost.fillna(0.0).mask(_uses_teacher(runs) & ~(cost > 0), np.nan)
    return total


def _uses_teacher(runs: pd.DataFrame) -> pd.Series:
    """Distilled runs do, unless the run says that it read none."""
    uses = ~runs["is_control"].astype(bool)
    if "teacher_id" in runs and runs["teacher_id"].notna().any():
        uses &= runs["teacher_id"].notna()
    return uses
