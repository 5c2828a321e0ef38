"""The best settings of a search on fresh seeds, against their controls on the same seeds."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportReturnType=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..runs.seeds import Interval, mean_interval
from ..runs.table import Plan
from .cells import JUDGED_ON
from .contrasts import Contrast, contrast, holm, pooled_noise
from .verdicts import CANNOT, DECIDING_PAIRS, LEVEL

CONFIRM = "confirm"  # the role of these runs
RATE = "optim.peak_lr"
LOWER, HIGHER = "lower than the control", "higher than the control"


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One winner of a search, run again.

    Attributes:
        label, control: settings in words; control: "" where the sweep has none.
        searched: what the search saw of its objective, on its one seed; fresh: the same on the
            fresh seeds.
        searched_gain, fresh_gain: winner minus control of that objective: a seed moves both alike.
        effect: test loss, winner minus control, over the fresh seeds; None: no pairs.
        p: two-sided, Holm-adjusted over the winners.
        word: lower, higher or cannot tell; notes: what it rests on.
    """

    label: str
    control: str
    searched: float
    fresh: Interval
    searched_gain: float
    fresh_gain: Interval
    test: Interval
    effect: Contrast | None
    p: float | None
    word: str
    notes: tuple[str, ...]

    @property
    def optimism(self) -> float:
        """How much better the search made it look: by its gain, or without a control by itself."""
        if self.control:
            return self.fresh_gain.mean - self.searched_gain
        return self.fresh.mean - self.searched


def confirm(plan: Plan, runs: pd.DataFrame) -> list[Confirmed]:
    """Each winner, the best in the search first.

    Args:
        runs: labelled (``labels.label_runs``), finished or not, with the search's objective and
            the test loss.
    """
    if not plan.confirmed:
        return []
    objective = plan.objectives[0].removeprefix("-")
    runs = runs.assign(**{m: float("nan") for m in (objective, JUDGED_ON) if m not in runs})
    done = runs[(runs["status"] == "complete") & runs[objective].notna() & runs[JUDGED_ON].notna()]
    fresh = done[done["role"] == CONFIRM]
    if fresh.empty:
        return []
    noise = pooled_noise(fresh, JUDGED_ON)
    effects = []
    for pair in plan.confirmed:
        cells = [(1, _by_seed(pair["winner"], fresh, JUDGED_ON))]
        cells += [(-1, _by_seed(pair["control"], fresh, JUDGED_ON))] if pair["control"] else []
        effects.append(contrast(cells, noise) if len(cells) == 2 else None)
    adjusted = iter(holm([effect.p_zero() for effect in effects if effect]))
    found = []
    for pair, effect in zip(plan.confirmed, effects, strict=True):
        winner, control = pair["winner"], pair["control"]
        p = next(adjusted) if effect else None
        seen, again = _searched(winner, done, objective), _by_seed(winner, fresh, objective)
        seen_gain, gains = float("nan"), {}
        if control:
            seen_gain = seen - _searched(control, done, objective)
            beside = _by_seed(control, fresh, objective)
            gains = {seed: again[seed] - beside[seed] for seed in again if seed in beside}
        doubts = _doubts(control, effect)
        word = CANNOT
        if effect is not None and p is not None and p <= LEVEL and not doubts:
            word = LOWER if effect.mean < 0 else HIGHER
        found.append(
            Confirmed(
                label=_label(winner["params"]),
                control=_label(control["params"]) if control else "",
                searched=seen,
                fresh=_interval(again),
                searched_gain=seen_gain,
                fresh_gain=_interval(gains),
                test=_interval(_by_seed(winner, fresh, JUDGED_ON)),
                effect=effect,
                p=p,
                word=word,
                notes=(*doubts, *_confounds(winner, control, fresh)),
            )
        )
    return found


def _by_seed(chosen: Mapping[str, Any], runs: pd.DataFrame, metric: str) -> dict[str, float]:
    own = runs[runs["run_id"].isin(chosen["runs"])]
    return dict(zip(own["seed"].astype(str), own[metric].astype(float), strict=True))


def _searched(chosen: Mapping[str, Any], runs: pd.DataFrame, metric: str) -> float:
    return float(runs.loc[runs["run_id"].isin(chosen["searched"]), metric].astype(float).mean())


def _interval(by_seed: Mapping[str, float]) -> Interval:
    return mean_interval(pd.Series(by_seed, dtype=float))


def _doubts(control: Mapping[str, Any] | None, effect: Contrast | None) -> tuple[str, ...]:
    """Why nothing is decided, whatever p says."""
    if control is None:
        return ("the sweep has no control",)
    if effect is None:
        return ("fewer than two pairs of finished runs",)
    doubts = []
    if effect.num_pairs < DECIDING_PAIRS:
        doubts.append(f"{effect.num_pairs} pairs explore; {DECIDING_PAIRS} decide")
    rates, rate = control["rates"], control["params"].get(RATE)
    if len(rates) > 1 and rate in (rates[0], rates[-1]):
        doubts.append(f"the control's best learning rate is at the edge ({rate:g})")
    return tuple(doubts)


def _confounds(
    winner: Mapping[str, Any], control: Mapping[str, Any] | None, runs: pd.DataFrame
) -> tuple[str, ...]:
    notes = []
    if control:
        others = {k: v for k, v in control["params"].items() if k not in (RATE, "loss")}
        apart = {k: v for k, v in others.items() if winner["params"].get(k) != v}
        notes += [f"the control has {_label(apart)}"] if apart else []
    own = runs[runs["run_id"].isin(winner["runs"])]
    if "teacher_id" in own and own["teacher_id"].nunique() == 1:
        notes.append("given this teacher")
    return tuple(notes)


def _label(params: Mapping[str, Any]) -> str:
    shown = {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in params.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
