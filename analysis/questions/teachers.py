"""Which teacher for which student: the capacity gap, and the best of those that were tried."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..fitting.levels import levels_of
from ..runs.accounting import IN_FLOPS, total_cost
from ..runs.labels import TEACHER_LOSS, human
from ..runs.seeds import Interval, mean_interval
from .gain_trends import TEACHER_SIZE
from .gains import crossing
from .results import Results

LEAST_TEACHERS = 4  # three make a parabola; the fourth tests it
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A student's loss against its teacher's size or loss, all else standing still.

    Attributes:
        variable: ``TEACHER_SIZE`` or ``TEACHER_LOSS``. optimum: the teacher at which the
            student's loss is least, with its interval; None without an interior minimum.
        says: a gap, none seen, or ``cannot tell`` and why.
    """

    recipe: str
    size: str
    variable: str
    levels: dict[float, Interval]
    optimum: tuple[float, float | None, float | None] | None
    says: str


@dataclass(frozen=True, kw_only=True)
class Best:
    """The teacher of lowest student loss among those tried, and how far the next lies behind.

    Attributes:
        behind: the next one's loss minus the best's, paired by seed.
        within: the budget in FLOPs that the choice was made within, and what it counts.
    """

    recipe: str
    size: str
    teacher: str
    loss: float
    next_teacher: str | None
    behind: Interval
    within: str

    @property
    def is_sure(self) -> bool:
        """Whether the interval of the distance leaves out zero."""
        return bool(self.behind.low > 0)


def gaps(results: Results) -> list[Gap]:
    """For each recipe, student and token count with two or more teachers."""
    taught = results.chosen[~results.chosen["is_control"].astype(bool)]
    found = []
    for name in (TEACHER_SIZE, TEACHER_LOSS):
        if name not in taught:
            continue
        known = taught[taught[name].notna()]
        for (series, size, _), group in known.groupby(["series", "size", "num_tokens"], sort=False):
            at, loss = (group[c].to_numpy(dtype=float) for c in (name, results.metric))
            if len(levels_of(at)) > 1:
                found.append(gap(at, loss, str(series), str(size), name))
    return found


def gap(teacher: np.ndarray, loss: np.ndarray, recipe: str, size: str, variable: str) -> Gap:
    """One student's loss [n] against its teacher's size or loss [n].

    A gap is claimed where a parabola in the logarithm curves upwards with 95% confidence and the
    interval of its minimum lies inside the teachers that were tried.
    """
    places = levels_of(teacher)
    level = np.searchsorted(places, teacher, side="right") - 1
    levels = {float(p): mean_interval(loss[level == k]) for k, p in enumerate(places)}
    means = np.array([one.mean for one in levels.values()])
    optimum, says = None, ""
    if len(places) < LEAST_TEACHERS:
        says = f"{CANNOT_TELL}: {len(places)} teachers; {LEAST_TEACHERS} or more test a parabola"
    else:
        unit = float(np.exp(np.log(places).mean()))
        x = np.log10(places / unit)
        design = np.column_stack([np.ones_like(x), x, x**2])
        found, *_ = np.linalg.lstsq(design, means, rcond=None)
        left = len(x) - 3
        spread = ((means - design @ found) ** 2).sum() / left
        cover = spread * np.linalg.inv(design.T @ design)
        needed = float(stats.t.ppf(0.95, left)) * np.sqrt(cover[2, 2])
        if found[2] <= needed:
            says = f"{CANNOT_TELL}: the curvature is not above zero with 95% confidence"
        else:  # the slope k1 + 2 k2 x is zero at the minimum
            turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
            reach = float(stats.t.ppf(0.975, left))
            optimum = crossing(turn @ found, turn @ cover @ turn.T, reach, unit)
            optimum, says = _interior(optimum, places)
    return Gap(
        recipe=recipe, size=size, variable=variable, levels=levels, optimum=optimum, says=says
    )


def _interior(
    optimum: tuple[float, float | None, float | None] | None, places: np.ndarray
) -> tuple[tuple[float, float | None, float | None] | None, str]:
    """The minimum if its interval lies between the first and the last teacher."""
    if optimum is None:
        return None, f"{CANNOT_TELL}: the minimum may be anywhere"
    low, high = optimum[1], optimum[2]
    if low is None or high is None or low < places[0] or high > places[-1]:
        ends = ", ".join("?" if v is None else human(v) for v in (low, high))
        return None, (
            f"{CANNOT_TELL}: the minimum, {human(optimum[0])} [{ends}], is not surely inside the "
            f"teachers tried ({human(places[0])} to {human(places[-1])})"
        )
    return optimum, f"a gap: best near {human(optimum[0])} [{human(low)}, {human(high)}]"


def best_teachers(results: Results, budget: float | None = None) -> list[Best]:
    """The best teacher of each recipe and student size, under each accounting.

    Teachers that differ in their seed are one teacher's luck, and none is the best.

    Args:
        budget: FLOPs that a run and what it is charged with may take; each accounting's median
            over the runs where None.
    """
    taught = results.chosen[~results.chosen["is_control"].astype(bool)]
    if "teacher_id" not in taught or taught["teacher_id"].nunique() < 2:
        return []
    found = []
    for accounting in IN_FLOPS:
        totals = total_cost(results.chosen, accounting)[taught.index]
        most = float(totals.median()) if budget is None else budget
        inside = taught[(totals <= most) | (not accounting.charges)]
        what = "at equal student tokens"
        if accounting.charges:
            what = f"{accounting.label[2:]} charged, within {most:.2g} FLOPs"
        for (recipe, size), group in inside.groupby(["recipe", "size"], sort=False):
            seeds = group["teacher_seed"].nunique() if "teacher_seed" in group else 0
            if group["teacher_id"].nunique() > 1 and seeds < 2:
                found.append(_best(group, str(recipe), str(size), results.metric, what))
    return found


def _best(group: pd.DataFrame, recipe: str, size: str, metric: str, within: str) -> Best:
    """Of each teacher the token count of lowest mean, then the teachers against each other."""
    means = group.groupby(["teacher_id", "num_tokens"])[metric].mean().astype(float)
    lowest = means.groupby("teacher_id").idxmin()
    order = sorted(lowest, key=lambda key: means[key])
    losses = [
        group[(group["teacher_id"] == teacher) & (group["num_tokens"] == tokens)]
        .groupby("seed")[metric]
        .mean()
        .astype(float)
        for teacher, tokens in order
    ]
    behind = (losses[1] - losses[0]).dropna()
    return Best(
        recipe=recipe,
        size=size,
        teacher=_name(group, order[0][0]),
        loss=float(means[order[0]]),
        next_teacher=_name(group, order[1][0]),
        behind=mean_interval(behind),
        within=within,
    )


def _name(group: pd.DataFrame, teacher: object) -> str:
    """Its size and loss where they are known, and the start of its id."""
    own = group[group["teacher_id"] == teacher]
    said = [str(teacher)[:8]]
    for column, form in ((TEACHER_SIZE, human), (TEACHER_LOSS, lambda v: f"loss {v:.3f}")):
        if column in own and own[column].notna().any():
            said.append(form(float(own[column].astype(float).mean())))
    return ", ".join(said)
