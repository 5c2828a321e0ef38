"""What distillation gains against student size, teacher, tokens, and their ratio; where it pays.

The gain of a run is its control's loss minus its own, at the same size, tokens, seed and data. It
is looked at along one variable while all others stand still: none lends its effect to another.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..fitting.levels import SAME, levels_of
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import SIZE_NAME, TEACHER_LOSS, human
from ..runs.seeds import Interval, mean_interval
from .gains import LEAST_SIZES, crossing
from .results import Results

TEACHER_SIZE = "teacher_num_params_non_embedding"
RATIO = "student / teacher size"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What a gain is looked at against.

    Attributes:
        fixed: columns that stand still along it.
    """

    key: str
    label: str
    fixed: tuple[str, ...]


VARIABLES = (
    Variable(
        key=SIZE_NAME,
        label="student size (non-embedding parameters)",
        fixed=("recipe", "teacher_id", "token_multiple"),
    ),
    Variable(
        key=TEACHER_SIZE,
        label="teacher size (non-embedding parameters)",
        fixed=("recipe", SIZE_NAME, "num_tokens"),
    ),
    Variable(
        key=TEACHER_LOSS,
        label="the teacher's own loss (nats/token)",
        fixed=("recipe", SIZE_NAME, "num_tokens"),
    ),
    Variable(key="num_tokens", label="student tokens", fixed=("recipe", "teacher_id", SIZE_NAME)),
    Variable(key=RATIO, label=RATIO, fixed=("recipe", "token_multiple")),
)


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The gain along one variable, all else standing still.

    Attributes:
        held: what stands still, in words. levels: value -> mean gain with its t interval.
        slope: change of the gain for ten times the variable, with its 95% interval; None with
            fewer than three levels, of which a line would be no test.
        pays_from: where the line crosses zero, and between which values; None where it does not,
            or cannot be told. says: the answer in words.
    """

    variable: Variable
    held: str
    levels: dict[float, Interval]
    slope: tuple[float, float, float] | None
    pays_from: tuple[float, float | None, float | None] | None
    says: str


def gains_of(results: Results) -> pd.DataFrame:
    """A row per distilled run with a control at equal tokens: its gain, and what may explain it."""
    compared = results.compared[ACCOUNTINGS[0].key]
    compared = compared[compared["difference"].notna()]
    more = [n for n in ("teacher_id", TEACHER_SIZE, TEACHER_LOSS) if n in results.chosen]
    table = compared.merge(results.chosen[["run_id", *more]], on="run_id", how="left")
    for name in ("teacher_id", TEACHER_SIZE, TEACHER_LOSS):
        if name not in table:
            table[name] = np.nan
    size = table[SIZE_NAME].astype(float)
    table[RATIO] = size / pd.to_numeric(table[TEACHER_SIZE]).astype(float)
    table["token_multiple"] = table["token_multiple"].astype(float).round(3)
    return table.assign(gain=-table["difference"].astype(float))


def trends(results: Results) -> list[Trend]:
    """Every variable that some runs differ in while the others stand still."""
    table = gains_of(results)
    found = []
    for variable in VARIABLES:
        values = pd.to_numeric(table[variable.key]).astype(float)
        known = table[values.notna()].assign(_at=values[values.notna()])
        for held, group in known.groupby(list(variable.fixed), sort=False, dropna=False):
            if len(levels_of(group["_at"].to_numpy())) > 1:
                found.append(_trend(variable, _words(variable, held), group))
    return [t for t in found if not _told_by_size(t, found)]


def _told_by_size(one: Trend, found: list[Trend]) -> bool:
    """Whether this is the ratio to a teacher that is the only one: size says the same."""
    teachers = any(t.variable.key == TEACHER_SIZE for t in found)
    return one.variable.key == RATIO and not teachers


def _trend(variable: Variable, held: str, group: pd.DataFrame) -> Trend:
    """Means at each level, and the line through them in the logarithm of the variable."""
    values, gain = group["_at"].to_numpy(dtype=float), group["gain"].to_numpy(dtype=float)
    places = levels_of(values)
    level = np.searchsorted(places * (1 + SAME), values)
    level = np.minimum(level, len(places) - 1)
    means = {float(at): mean_interval(gain[level == k]) for k, at in enumerate(places)}
    if len(places) < LEAST_SIZES:
        says = f"{len(places)} levels: no trend can be told; {LEAST_SIZES} or more are needed"
        return Trend(
            variable=variable, held=held, levels=means, slope=None, pays_from=None, says=says
        )
    unit = float(np.exp(np.log(places).mean()))
    x = np.log10(places / unit)
    y = np.array([one.mean for one in means.values()])
    design = np.column_stack([np.ones_like(x), x])
    line, *_ = np.linalg.lstsq(design, y, rcond=None)
    left = len(x) - 2
    cover = ((y - design @ line) ** 2).sum() / left * np.linalg.inv(design.T @ design)
    reach = float(stats.t.ppf(0.975, left))
    error = reach * float(np.sqrt(cover[1, 1]))
    slope = (float(line[1]), float(line[1] - error), float(line[1] + error))
    zero = crossing(line, cover, reach, unit)
    return Trend(
        variable=variable,
        held=held,
        levels=means,
        slope=slope,
        pays_from=zero,
        says=_says(means, slope, zero),
    )


def _says(
    means: dict[float, Interval],
    slope: tuple[float, float, float],
    zero: tuple[float, float | None, float | None] | None,
) -> str:
    """The trend in words, and where the gain begins or ends if the data can say."""
    places = list(means)
    if slope[1] > 0 or slope[2] < 0:
        text = f"the gain {'grows' if slope[0] > 0 else 'shrinks'} with it"
    else:
        text = "no trend beyond chance"
    if zero is None:
        signs = {bool(one.mean > 0) for one in means.values()}
        every = {True: "above", False: "below"}[signs.pop()] if len(signs) == 1 else None
        where = f"the mean gain is {every} zero at every level run" if every else "signs differ"
        return f"{text}; {where}; where it crosses zero cannot be told"
    low, high = (human(v) if v is not None else "?" for v in zero[1:])
    inside = places[0] <= zero[0] <= places[-1]
    way = "pays from" if slope[0] > 0 else "pays up to"
    beyond = "" if inside else ", outside what was run"
    return f"{text}; {way} {human(zero[0])} [{low}, {high}]{beyond}"


def _words(variable: Variable, held: object) -> str:
    """What stands still, as a reader would say it."""
    said = []
    for name, value in zip(variable.fixed, held, strict=True):  # type: ignore[call-overload]
        if name == "recipe":
            said.append(str(value))
        elif name == "teacher_id" and not pd.isna(value):
            said.append(f"teacher {str(value)[:8]}")
        elif name == "token_multiple" and value != 1:
            said.append(f"{value:g}x tokens")
        elif name == SIZE_NAME:
            said.append(f"{human(float(value))} parameters")
        elif name == "num_tokens":
            said.append(f"{human(float(value))} tokens")
    return ", ".join(said)
