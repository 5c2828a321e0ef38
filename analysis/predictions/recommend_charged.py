"""A recipe against its control where the teacher is charged: which to use for the same FLOPs.

The same rules as at equal student tokens: one of the two ahead by every law, with intervals apart,
along the slope of the measured gain, and without the largest size.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

import numpy as np
import pandas as pd

from ..questions.gains import LEAST_SIZES, slope_of_pairs
from ..runs.accounting import Accounting, total_cost
from ..runs.labels import SIZE_NAME
from .forecast import Forecast, Target
from .recommend import Recommendation, by_laws, by_slope, without_largest


def recommend_charged(
    own: pd.DataFrame,
    controls: pd.DataFrame,
    forecasts: dict[str, Forecast],
    accounting: Accounting,
    targets: dict[str, Target],
    metric: str,
) -> Recommendation:
    """The recipe or its control on as many tokens as the recipe's total FLOPs buy.

    Args:
        own, controls: their runs. forecasts, targets: of both, by name, the recipe's first.
    """
    recipe, control = forecasts
    reasons, checks = [], []
    first = min(forecasts, key=lambda name: forecasts[name].loss)
    rival = control if first == recipe else recipe
    low, high = forecasts[rival].interval[0], forecasts[first].interval[1]
    apart = f"{first} at most {high:.3f}, {rival} at least {low:.3f}"
    if high < low:
        checks.append(f"intervals apart: {apart}")
    else:
        reasons.append(f"intervals meet: {apart}")
    by_laws(forecasts, first, reasons, checks)
    pairs = _pairs(own, controls, accounting, metric)
    if first == control:
        pairs = pairs.assign(gain=-pairs["gain"])
    slope = slope_of_pairs(pairs, rival, targets[recipe].num_params)
    if slope is None:
        reasons.append(
            f"{pairs[SIZE_NAME].nunique()} sizes have a control measured at equal compute, "
            f"{LEAST_SIZES} or more are needed: how the gain goes with size is not known"
        )
    else:
        by_slope(slope, first, rival, reasons, checks)
    runs = {recipe: own, control: controls}
    without_largest(runs, first, targets, metric, reasons, checks)
    return Recommendation(
        first=first,
        recipe=None if reasons else first,
        reasons=tuple(reasons),
        checks=tuple(checks),
        slopes=(slope,) if slope else (),
    )


def _pairs(
    own: pd.DataFrame, controls: pd.DataFrame, accounting: Accounting, metric: str
) -> pd.DataFrame:
    """A row per run of the recipe whose control was measured around equal compute.

    The control's loss is read off straight lines in log tokens, never beyond what was measured.
    """
    rows: list[tuple[float, float, float]] = []
    if "flops_train_exact" not in own:
        return pd.DataFrame(rows, columns=[SIZE_NAME, "num_tokens", "gain"])
    multiples = total_cost(own, accounting) / own["flops_train_exact"].astype(float)
    for run, multiple in zip(own.to_dict("records"), multiples, strict=True):
        same = (controls[SIZE_NAME] == run[SIZE_NAME]) & (controls["seed"] == run["seed"])
        ladder = controls[same].groupby("num_tokens")[metric].mean().astype(float)
        at = np.array(ladder.index, dtype=float)
        wanted = multiple * float(run["num_tokens"])
        if len(at) and at[0] <= wanted <= at[-1] * 1.001:
            loss = np.interp(np.log(wanted), np.log(at), ladder.to_numpy())
            rows.append((run[SIZE_NAME], run["num_tokens"], float(loss) - float(run[metric])))
    return pd.DataFrame(rows, columns=[SIZE_NAME, "num_tokens", "gain"])
