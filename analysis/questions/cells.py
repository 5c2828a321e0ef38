"""Cells, which claims compare: one setting each, at the learning rate that is best for it."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from .contrasts import Noise, pooled_noise

CHOSEN_ON, JUDGED_ON = "val/loss", "test/loss"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting at one learning rate.

    Attributes:
        losses: test loss by seed and the teacher's seed ("": it has one teacher, or none).
        at_edge: whether that rate is the least or the largest that was planned.
        num_rates: how many were planned.
    """

    losses: dict[tuple[str, str], float]
    rate: float
    at_edge: bool
    num_rates: int
    teachers: frozenset[str]


def best_rate(runs: pd.DataFrame) -> float | None:
    """The learning rate of the lowest mean val loss, among those with the most finished seeds."""
    done = runs[_done(runs)]
    if done.empty:
        return None
    rates = done["learning_rate"].astype(float)
    scores = done[CHOSEN_ON].astype(float).groupby(rates).agg(["count", "mean"])
    scores = scores[scores["count"] == scores["count"].max()]
    return float(scores["mean"].idxmin())


def shared_rate(cells: Sequence[pd.DataFrame]) -> float | None:
    """The rate at which the cells' mean val losses are lowest together, of those that all tried."""
    losses = []
    for runs in cells:
        done = runs[_done(runs)]
        rates = done["learning_rate"].astype(float)
        losses.append(done[CHOSEN_ON].astype(float).groupby(rates).mean())
    together = pd.concat(losses, axis=1, join="inner").mean(axis=1)
    return None if together.empty else float(together.idxmin())


def cell_at(runs: pd.DataFrame, rate: float | None) -> Cell | None:
    """The cell of these runs at a learning rate; None where there is none."""
    if rate is None:
        return None
    planned = sorted(set(runs["learning_rate"].dropna().astype(float)))
    at = runs[_done(runs) & (runs["learning_rate"].astype(float) == rate)]
    taught = at["teacher_seed"] if "teacher_seed" in at else at["seed"].map(lambda _: "")
    # seeds of what is drawn from a teacher are averaged: one pair for each of the student's
    losses = at[JUDGED_ON].astype(float).groupby([at["seed"], taught]).mean()
    teachers = at["teacher_id"].dropna() if "teacher_id" in at else []
    return Cell(
        losses={(str(s), str(t)): float(loss) for (s, t), loss in losses.items()},
        rate=rate,
        at_edge=len(planned) > 1 and rate in (planned[0], planned[-1]),
        num_rates=len(planned),
        teachers=frozenset(str(t) for t in teachers),
    )


def sweep_noise(runs: pd.DataFrame) -> Noise:
    """Noise of test losses over every setting of the sweep, each at its own learning rate."""
    chosen = []
    for setting, group in runs.groupby(["recipe", "size", "num_tokens"], sort=False):
        rate = best_rate(group)
        if rate is not None:
            at = group[_done(group) & (group["learning_rate"].astype(float) == rate)]
            chosen.append(at.assign(setting=str(setting)))
    if not chosen:
        return Noise(sd=float("nan"), dof=0)
    return pooled_noise(pd.concat(chosen), JUDGED_ON)


def _done(runs: pd.DataFrame) -> pd.Series:
    return (runs["status"] == "complete") & runs[CHOSEN_ON].notna() & runs[JUDGED_ON].notna()
