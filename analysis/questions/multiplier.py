"""What a recipe is worth in compute: what a control would have to spend to reach its loss."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..runs.accounting import ALL_ACCOUNTINGS, Accounting, own_cost, total_cost
from ..runs.controls import controls_of
from ..runs.labels import SIZE_NAME
from ..runs.seeds import mean_interval
from .results import Results


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """Control's compute over the recipe's at equal loss, at one size and under one accounting.

    Attributes:
        value: geometric mean over pairs; NaN where some pair has only a bound.
        low, high: 95% t interval of its logarithm.
        above: every pair is worth more than this; below: less.
        mixed: whether only some pairs lie beyond what their control was given.
    """

    series: str
    size: str
    num_params: float
    accounting: str
    num_pairs: int
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    above: float | None = None
    below: float | None = None
    mixed: bool = False

    @property
    def text(self) -> str:
        """``1.6x [1.4x, 1.9x]``, or ``> 4x (the most it was given)``."""
        for sign, bound, most in ((">", self.above, "most"), ("<", self.below, "least")):
            if bound is not None:
                whose = "in some pairs beyond " if self.mixed else ""
                return f"{sign} {bound:.3g}x ({whose}the {most} it was given)"
        if np.isnan(self.value):
            return "cannot tell: bounds on both sides"
        if np.isnan(self.low):
            return f"{self.value:.3g}x"
        return f"{self.value:.3g}x [{self.low:.3g}x, {self.high:.3g}x]"


def multipliers(results: Results) -> list[Multiplier]:
    """Every recipe, size and accounting that has a control at more than one token count.

    The control's loss goes by straight lines in log compute between its measured token counts;
    outside them there is a bound and no value.
    """
    runs, controls = results.chosen, results.chosen[results.chosen["is_control"]]
    found = []
    for accounting in ALL_ACCOUNTINGS:
        totals, costs = total_cost(runs, accounting), own_cost(runs, accounting)
        taught = runs[~runs["is_control"].astype(bool)]
        for (series, size), group in taught.groupby(["series", "size"], sort=False):
            pairs = []
            for index, run in group.iterrows():
                own = controls_of(run, controls, results.roles)
                curve = _curve(own.assign(_cost=costs[own.index]), results.metric)
                if len(curve) > 1 and np.isfinite(totals[index]):
                    pairs.append(_pair(curve, float(run[results.metric]), float(totals[index])))
            if pairs:
                at = float(group[SIZE_NAME].iloc[0])
                found.append(_of(pairs, str(series), str(size), at, accounting))
    return found


def _curve(own: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The control's mean loss at each cost that it was given, least first."""
    if own.empty:
        return own
    points = own.assign(_loss=own[metric].astype(float))
    return points.groupby("num_tokens", as_index=False)[["_cost", "_loss"]].mean()


def _pair(curve: pd.DataFrame, loss: float, cost: float) -> tuple[str, float]:
    """(kind, ratio): ``at``, or ``above`` or ``below`` the ratio at the end of the curve.

    A control that is not lower with more compute is read at its lowest up to there.
    """
    log_costs = np.log(curve["_cost"].to_numpy(dtype=float))
    losses = np.minimum.accumulate(curve["_loss"].to_numpy(dtype=float))
    if loss < losses[-1]:
        return "above", float(np.exp(log_costs[-1])) / cost
    if loss > losses[0]:
        return "below", float(np.exp(log_costs[0])) / cost
    return "at", float(np.exp(np.interp(-loss, -losses, log_costs))) / cost


def _of(
    pairs: list[tuple[str, float]], series: str, size: str, num: float, accounting: Accounting
) -> Multiplier:
    kinds = {kind for kind, _ in pairs}
    ratios = np.array([ratio for _, ratio in pairs])
    values: dict[str, float] = {}
    mixed = len(kinds) > 1
    if kinds == {"at"}:
        found = mean_interval(np.log(ratios))
        ends = {"value": found.mean, "low": found.low, "high": found.high}
        values = {name: float(np.exp(end)) for name, end in ends.items()}
    elif "below" not in kinds:  # some pairs have a value, the others a bound: all lie above this
        values = {"above": float(ratios.min())}
    elif "above" not in kinds:
        values = {"below": float(ratios.max())}
    return Multiplier(
        series=series,
        size=size,
        num_params=num,
        accounting=accounting.key,
        num_pairs=len(pairs),
        mixed=mixed,
        **values,
    )
