"""Which recipe to use at a target, if the runs' ranking is one that can be relied on there.

A recommendation is withheld unless one recipe is first by every law, the gain over each rival is
still beyond zero where its slope over sizes leads, and both hold without the largest size.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..questions.gains import LEAST_SIZES, Slope, slope_of
from ..runs.labels import SIZE_NAME, human
from .forecast import Forecast, Target, forecast


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A recipe, or why none.

    Attributes:
        first: lowest predicted loss. recipe: the same if it may be recommended, else None.
        reasons: what stood against it; checks: what was asked, and held.
    """

    first: str | None
    recipe: str | None
    reasons: tuple[str, ...]
    checks: tuple[str, ...]
    slopes: tuple[Slope, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "slopes": [slope.to_json() for slope in self.slopes]}


def recommend(
    runs: pd.DataFrame, forecasts: Mapping[str, Forecast], target: Target, metric: str
) -> Recommendation:
    """The recipe of lowest predicted loss at equal student tokens, if its rank is stable."""
    if target.teacher_loss is not None:
        why = "with a teacher that no run had, recipe and control follow laws that do not compare"
        return Recommendation(first=None, recipe=None, reasons=(why,), checks=(), slopes=())
    known = {name: f for name, f in forecasts.items() if f.best}
    if len(known) < 2:
        why = "one recipe or none could be predicted, so there is nothing to rank"
        return Recommendation(first=None, recipe=None, reasons=(why,), checks=(), slopes=())
    first = min(known, key=lambda name: known[name].loss)
    reasons, checks, slopes = [], [], []
    unknown = [name for name in forecasts if name not in known]
    if unknown:
        reasons.append(f"not predicted, so not ranked: {'; '.join(unknown)}")
    by_laws(known, first, reasons, checks)
    for rival in (name for name in known if name != first):
        slope = slope_of(runs, first, rival, target.num_params, metric)
        slopes += [slope] if slope else []
        by_slope(slope, first, rival, reasons, checks)
    by_recipe = {name: runs[runs["recipe"] == name] for name in known}
    without_largest(by_recipe, first, dict.fromkeys(known, target), metric, reasons, checks)
    return Recommendation(
        first=first,
        recipe=None if reasons else first,
        reasons=tuple(reasons),
        checks=tuple(checks),
        slopes=tuple(slopes),
    )


def firsts(forecasts: Mapping[str, Forecast]) -> dict[str, str]:
    """The recipe of lowest loss by each law that all of them share."""
    found = {}
    for law in dict.fromkeys(one.law for f in forecasts.values() for one in f.by_law):
        losses = {name: f.at(law) for name, f in forecasts.items()}
        if all(value is not None for value in losses.values()):
            found[law] = min(losses, key=lambda name: losses[name] or np.inf)
    return found


def by_laws(
    known: Mapping[str, Forecast], first: str, reasons: list[str], checks: list[str]
) -> None:
    """First by every law that two recipes or more share."""
    leads = firsts(known)
    others = {law: name for law, name in leads.items() if name != first}
    if others:
        said = "; ".join(f"{name} by {law}" for law, name in others.items())
        reasons.append(f"laws disagree: {first} is first by the best law, but {said}")
    elif len(leads) < 2:
        reasons.append(
            f"{len(leads)} law could be fitted to every recipe, so no other can contradict it; "
            "add sizes (five for an offset) or token counts"
        )
    else:
        checks.append(f"{first} is first by {', '.join(leads)}")


def by_slope(
    slope: Slope | None, first: str, rival: str, reasons: list[str], checks: list[str]
) -> None:
    """The gain is beyond zero at the target, along its slope."""
    if slope is None:
        reasons.append(
            f"{first} and {rival} meet at fewer than {LEAST_SIZES} sizes with the same tokens and "
            "seeds: how the gain goes with size is not known"
        )
        return
    value, low, high = slope.at_target
    text = f"gain over {rival} at the target {value:+.3f} [{low:+.3f}, {high:+.3f}] nats/token"
    change, least, most = slope.per_decade
    text += f" ({change:+.3f} [{least:+.3f}, {most:+.3f}] for ten times the parameters)"
    if low > 0:
        checks.append(text)
        return
    zero = f"; it crosses zero near {human(slope.zero_at[0])}" if slope.zero_at else ""
    reasons.append(f"{text}: may be nothing or a loss there{zero}")


def without_largest(
    runs: Mapping[str, pd.DataFrame],
    first: str,
    targets: Mapping[str, Target],
    metric: str,
    reasons: list[str],
    checks: list[str],
) -> None:
    """The same recipe is first when the largest size is not looked at."""
    largest = max(float(own[SIZE_NAME].max()) for own in runs.values())
    kept = {name: own[own[SIZE_NAME].astype(float) < largest] for name, own in runs.items()}
    again = {
        name: forecast(own, name, targets[name], metric, num_resamples=20)
        for name, own in kept.items()
    }
    leads = firsts(again)
    others = {law: name for law, name in leads.items() if name != first}
    if not leads:
        reasons.append(
            f"without the largest size ({human(largest)}) too few runs are left to predict from"
        )
    elif others:
        said = "; ".join(f"{name} by {law}" for law, name in others.items())
        reasons.append(f"without the largest size ({human(largest)}) others are first: {said}")
    else:
        checks.append(f"first without the largest size ({human(largest)}) too")
