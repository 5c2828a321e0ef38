"""`pdx predict` as a function: a sweep's table of runs and a target in, one answer out."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..fitting.fitted import versions
from ..fitting.levels import FitError
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import SIZE_NAME
from ..runs.seeds import LEVEL
from ..scaling.extrapolation import far_outside
from .finished import plain_runs
from .forecast import Forecast, Target, forecast
from .recommend import Recommendation, recommend
from .recommend_charged import recommend_charged
from .taught import fit_untaught

LIMIT = "interval leaves out the error of the laws themselves"
StudentFlops = Callable[[float, float], tuple[float, float, str]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a target would cost and reach.

    Attributes:
        forecasts: by recipe, at the target's tokens. cost: of each recipe, in FLOPs and bytes.
        charged: for each accounting that charges the teacher, the control at equal compute.
        warnings: everything that should be known before trusting this.
    """

    source: str
    metric: str
    target: Target
    forecasts: dict[str, Forecast]
    recommendation: Recommendation
    cost: dict[str, dict[str, Any]]
    charged: tuple[dict[str, Any], ...]
    num_runs: int
    warnings: tuple[str, ...]

    @property
    def decades(self) -> dict[str, float]:
        """The furthest that any forecast reaches outside its runs, by column."""
        found: dict[str, float] = {}
        for one in self.forecasts.values():
            for name, value in one.decades.items():
                name = {"x": "N"}.get(name, name)
                found[name] = max(value, found.get(name, 0.0))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "source": self.source,
            "metric": self.metric,
            "target": vars(self.target),
            "definitions": {
                "N": SIZE_NAME,
                "D": "num_tokens of the student",
                "C": "6 N D in laws; exact matrix products in `cost`",
                "loss": f"{self.metric}, nats per token",
                "interval": f"{LEVEL:.0%}, of one more run",
            },
            "decades_beyond": self.decades,
            "forecasts": [one.to_json() for one in self.forecasts.values()],
            "recommendation": self.recommendation.to_json(),
            "cost": self.cost,
            "equal_compute": list(self.charged),
            "num_runs": self.num_runs,
            "warnings": list(self.warnings),
            "versions": versions(),
        }


def predict(
    runs: pd.DataFrame,
    target: Target,
    source: str,
    metric: str,
    student_flops: StudentFlops,
    num_resamples: int = 400,
) -> Prediction:
    """Every recipe at the target, ranked, priced and doubted.

    Args:
        runs: as `read_runs` and `of_teacher` leave them.
        student_flops: (parameters, tokens) -> (training FLOPs, parameters with embeddings, how
            it was found).
    """
    names = dict.fromkeys(runs.sort_values("is_control", ascending=False, kind="stable")["recipe"])
    by_recipe = {str(name): runs[runs["recipe"] == name] for name in names}
    plain = {name for name, own in by_recipe.items() if plain_runs(own).all()}
    free = Target(num_params=target.num_params, num_tokens=target.num_tokens)
    untaught, lacking = None, ""
    if target.teacher_loss is not None:
        try:
            untaught = fit_untaught(runs[plain_runs(runs)], metric)
        except FitError as err:
            lacking = str(err)

    def at_target(name: str, own: pd.DataFrame) -> Forecast:
        if name in plain:
            return forecast(own, name, free, metric, num_resamples)
        if lacking:
            return Forecast(recipe=name, by_law=(), refused={"distillation": lacking})
        return forecast(own, name, target, metric, num_resamples, untaught=untaught)

    forecasts = {name: at_target(name, own) for name, own in by_recipe.items()}
    cost = {name: _cost(own, target, student_flops) for name, own in by_recipe.items()}
    charged = _charged(by_recipe, plain, forecasts, cost, target, metric, num_resamples)
    found = Prediction(
        source=source,
        metric=metric,
        target=target,
        forecasts=forecasts,
        recommendation=recommend(runs, forecasts, target, metric),
        cost=cost,
        charged=charged,
        num_runs=len(runs),
        warnings=(),
    )
    return Prediction(**{**vars(found), "warnings": tuple(_warnings(runs, found))})


def _cost(own: pd.DataFrame, target: Target, student_flops: StudentFlops) -> dict[str, Any]:
    """What one run of the recipe would cost: `pdx plan`'s counts for its runs, at these tokens."""
    tokens = target.num_tokens
    flops, total, how = student_flops(target.num_params, tokens)
    read = own.get("num_unique_tokens", own["num_tokens"]).astype(float)

    def per_token(name: str) -> float:
        return float((own[name].astype(float) / read).max()) if name in own else 0.0

    return {
        "flops_train_exact": flops,
        "flops_teacher_inference_exact": per_token("flops_teacher_inference_exact") * tokens,
        "flops_teacher_training_exact": float(own["flops_teacher_training_exact"].max())
        if "flops_teacher_training_exact" in own
        else 0.0,
        "store_bytes": per_token("store_bytes") * tokens,
        "checkpoint_bytes": 12.0 * total,  # weights and AdamW's two moments, float32
        "student": how,
    }


def _charged(
    by_recipe: dict[str, pd.DataFrame],
    plain: set[str],
    forecasts: dict[str, Forecast],
    cost: dict[str, dict[str, Any]],
    target: Target,
    metric: str,
    num_resamples: int,
) -> tuple[dict[str, Any], ...]:
    """The control on as many tokens as each recipe's total buys, where the teacher is charged."""
    rows = []
    for control in sorted(plain):
        for accounting in (a for a in ACCOUNTINGS if a.charges):
            for name in by_recipe:
                if name in plain or not forecasts[name].best:
                    continue
                own = cost[name]
                extra = sum(own[charge] for charge in accounting.charges)
                multiple = 1 + extra / own["flops_train_exact"]
                at = Target(num_params=target.num_params, num_tokens=multiple * target.num_tokens)
                found = forecast(by_recipe[control], control, at, metric, num_resamples)
                advice = None
                if found.best and target.teacher_loss is None:
                    advice = recommend_charged(
                        by_recipe[name],
                        by_recipe[control],
                        {name: forecasts[name], control: found},
                        accounting,
                        {name: target, control: at},
                        metric,
                    )
                low, high = found.interval
                ours = forecasts[name].interval
                apart = bool(found.best) and (ours[1] < low or high < ours[0])
                rows.append(
                    {
                        "accounting": accounting.key,
                        "recipe": name,
                        "control": control,
                        "control_tokens": at.num_tokens,
                        "token_multiple": multiple,
                        "control_loss": found.loss if found.best else None,
                        "control_interval": [low, high] if found.best else None,
                        "decades_beyond": found.decades,
                        "ahead": None
                        if not apart
                        else (name if forecasts[name].loss < found.loss else control),
                        "recommendation": advice.to_json() if advice else None,
                        "refused": "; ".join(found.refused.values()) if not found.best else None,
                    }
                )
    return tuple(rows)


def _warnings(runs: pd.DataFrame, found: Prediction) -> list[str]:
    """What the answer should not be read without."""
    said = []
    far = far_outside(found.decades)
    if far:
        said.append(f"the target {far.split(': ')[0]}: its {LIMIT}")
    if found.target.teacher_loss is not None:
        said.append(
            "the distillation law builds on what students reach without a teacher, by the law of "
            "these controls, whose own error its interval leaves out; what a teacher of this loss "
            "costs is not known: costs are those of the dearest teacher of the runs"
        )
    for one in found.forecasts.values():
        if one.best is None:
            why = "; ".join(f"{law}: {_short(reason)}" for law, reason in one.refused.items())
            said.append(f"{one.recipe} cannot be predicted there: {why}")
        elif len(one.by_law) == 1:
            said.append(
                f"{one.recipe}: one law could be fitted ({one.best.law}), so its interval holds no "
                "difference between laws"
            )
    seeds = int(runs.groupby(["recipe", SIZE_NAME, "num_tokens"])["seed"].nunique().min())
    if seeds < 3:
        said.append(f"{seeds} seed{'s' * (seeds > 1)} at some setting; a claim needs three or more")
    if {"num_epochs", "num_tokens"} <= set(runs):
        epochs = (runs["num_epochs"] / runs["num_tokens"]).astype(float).max()
        seen, asked = float(runs["num_epochs"].max()), epochs * found.target.num_tokens
        if asked > max(1.0, 2 * seen):
            said.append(
                f"the target would read its data {asked:.2g} times, the runs at most {seen:.2g}: "
                "the laws here know nothing of repeated tokens"
            )
    if {"learning_rate"} <= set(runs):
        size = runs[SIZE_NAME].astype(float)
        at_top = runs.loc[size == size.max(), "learning_rate"].dropna().astype(float)
        if at_top.nunique() == 1 and runs["learning_rate"].nunique() <= 2:
            said.append(
                "learning rates are those of the runs, not tuned for the target's size or tokens"
            )
    return said


def _short(reason: str) -> str:
    """What is missing, without the advice that is the same for every law."""
    head = reason.partition(". Points alone")[0]
    return head.partition(": ")[2] if head.startswith("law=") else head
