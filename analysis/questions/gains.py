"""The gain of one recipe over another against size: paired, as a line, with where it ends."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..runs.labels import SIZE_NAME
from ..runs.seeds import LEVEL

LEAST_SIZES = 3  # two make a line, and test nothing


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The gain of one recipe over another, as a line in log size.

    gain = the rival's loss minus the recipe's at the same size, tokens and seed: positive is
    better. The line goes through the means of sizes, so seeds that move together count once.

    Attributes:
        per_decade: change of the gain for ten times the parameters. at_target: the line there,
            with its interval. zero_at: the size where it crosses zero, with the sizes between
            which it may; None where it does not cross, or may anywhere.
    """

    rival: str
    num_pairs: int
    num_sizes: int
    gain: float
    per_decade: tuple[float, float, float]
    at_target: tuple[float, float, float]
    zero_at: tuple[float, float | None, float | None] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, each triple as value and interval."""
        return {
            **vars(self),
            "per_decade": list(self.per_decade),
            "at_target": list(self.at_target),
        }


def slope_of(
    runs: pd.DataFrame, recipe: str, rival: str, num_params: float, metric: str
) -> Slope | None:
    """The gain of ``recipe`` over ``rival`` against log size, at ``num_params``.

    None with fewer than three sizes that have pairs. Where pairs differ in tokens, the gain is
    also linear in log tokens, taken at its mean.
    """
    return slope_of_pairs(paired_gain(runs, recipe, rival, metric), rival, num_params)


def slope_of_pairs(pairs: pd.DataFrame, rival: str, num_params: float) -> Slope | None:
    """The same of gains that are known: size, num_tokens and gain of each pair."""
    means = pairs.groupby([SIZE_NAME, "num_tokens"], as_index=False)["gain"].mean()
    if means[SIZE_NAME].nunique() < LEAST_SIZES:
        return None
    x = np.log10(means[SIZE_NAME].to_numpy(dtype=float) / num_params)
    basis = [np.ones_like(x), x]
    tokens = np.log10(means["num_tokens"].to_numpy(dtype=float))
    if np.ptp(tokens) > 0.01 and abs(np.corrcoef(x, tokens)[0, 1]) < 0.99:
        basis.append(tokens - tokens.mean())
    design = np.column_stack(basis)
    left = len(x) - design.shape[1]
    if left < 1:
        return None
    found, *_ = np.linalg.lstsq(design, means["gain"].to_numpy(dtype=float), rcond=None)
    spread = ((means["gain"].to_numpy(dtype=float) - design @ found) ** 2).sum() / left
    cover = spread * np.linalg.inv(design.T @ design)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, left))
    (at, slope), errors = found[:2], np.sqrt(np.diag(cover))
    return Slope(
        rival=rival,
        num_pairs=len(pairs),
        num_sizes=int(means[SIZE_NAME].nunique()),
        gain=float(means["gain"].mean()),
        per_decade=_triple(slope, reach * errors[1]),
        at_target=_triple(at, reach * errors[0]),
        zero_at=crossing(found[:2], cover[:2, :2], reach, num_params),
    )


def paired_gain(runs: pd.DataFrame, recipe: str, rival: str, metric: str) -> pd.DataFrame:
    """A row per size, tokens and seed that both have; ``gain`` above 0 where recipe is better."""
    keys = [SIZE_NAME, "num_tokens", "seed"]
    one, other = (
        runs[runs["recipe"] == name].groupby(keys, as_index=False)[metric].mean()
        for name in (recipe, rival)
    )
    both = one.merge(other, on=keys, suffixes=("", "_rival"))
    return both.assign(gain=(both[f"{metric}_rival"] - both[metric]).astype(float))


def crossing(
    line: np.ndarray, cover: np.ndarray, reach: float, unit: float
) -> tuple[float, float | None, float | None] | None:
    """Where a line a + b log10(x / unit) is zero, and between which x (Fieller's interval).

    None where the slope may be zero or the crossing lies nine decades off: it may be anywhere.

    Source: Fieller 1954, JRSS B 16(2).
    """
    a, b = (float(v) for v in line)
    if b == 0 or abs(a / b) > 9:
        return None
    # the x with (a + b x)^2 <= reach^2 var(a + b x)
    two = b**2 - reach**2 * cover[1, 1]
    one = a * b - reach**2 * cover[0, 1]
    zero = a**2 - reach**2 * cover[0, 0]
    root = one**2 - two * zero
    if two <= 0 or root < 0:
        return None
    low, high = ((-one - np.sqrt(root)) / two, (-one + np.sqrt(root)) / two)
    ends = [float(unit * 10**v) if abs(v) < 9 else None for v in (low, high)]
    return float(unit * 10 ** (-a / b)), ends[0], ends[1]


def _triple(value: float, reach: float) -> tuple[float, float, float]:
    return float(value), float(value - reach), float(value + reach)
