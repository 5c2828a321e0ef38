"""What groups with what: labels of runs, and the best learning rate of each setting."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import json
from dataclasses import dataclass

import pandas as pd

from .table import Plan

SIZE_NAME = "num_params_non_embedding"
TEACHER_LOSS = "val/teacher_loss"
NO_DISTILLATION = "no distillation"
LEARNING_RATE_NAMES = ("peak_lr", "lr", "learning_rate")
TOKEN_NAMES = ("num_tokens", "tokens_per_param")
TEACHER_SEED = "teacher.seed"
DRAW_SEEDS = ("signal.seed", "store.seed", "text.seed")  # of what is drawn from a teacher


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which of a plan's parameters is the seed, the size, the learning rate, the token count.

    All others make the *recipe*: what a curve in a figure stands for.

    Attributes:
        draws: seeds of the teacher and of what is drawn from it: one recipe under several of them.
    """

    seed: str | None
    sizes: tuple[str, ...]
    learning_rates: tuple[str, ...]
    tokens: tuple[str, ...]
    recipe: tuple[str, ...]
    draws: tuple[str, ...] = ()


def roles(plan: Plan) -> Roles:
    """Sort the plan's parameters by what they are."""
    last = {name: name.rsplit(".", 1)[-1] for name in plan.params}
    seeds = [name for name in plan.params if last[name] == "seed"]
    seed = plan.seed_axis or (seeds[0] if seeds else None)
    sizes = tuple(name for name in plan.params if name.split(".")[0] == "student")
    rates = tuple(name for name in plan.params if last[name] in LEARNING_RATE_NAMES)
    tokens = tuple(
        name for name in plan.params if name.startswith("train.") and last[name] in TOKEN_NAMES
    )
    draws = tuple(name for name in plan.params if name in (TEACHER_SEED, *DRAW_SEEDS))
    taken = {seed, *sizes, *rates, *tokens, *draws}
    recipe = tuple(name for name in plan.params if name not in taken)
    return Roles(
        seed=seed, sizes=sizes, learning_rates=rates, tokens=tokens, recipe=recipe, draws=draws
    )


def label_runs(runs: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Add the columns that tables and figures group by.

    setting (every parameter but seeds), recipe, series (recipe, and its tokens where they
    differ from the axis runs'), size (name), seed, teacher_seed and draw_seed ("" where a run does
    not set them), is_control, token_multiple.
    """
    which = roles(plan)
    points = {point["run_id"]: point for point in plan.points}
    labelled = runs.copy()
    params = [points[run_id]["params"] for run_id in runs["run_id"]]
    labelled["setting"] = [
        json.dumps(
            {k: v for k, v in p.items() if k != which.seed and k not in which.draws}, sort_keys=True
        )
        for p in params
    ]
    losses = [_loss(points[run_id]) for run_id in runs["run_id"]]
    roles_of = [str(role) for role in runs["role"]]
    labelled["is_control"] = [
        role == "control" or (loss == "none" and _is_corpus(points[run_id]))
        for role, loss, run_id in zip(roles_of, losses, runs["run_id"], strict=True)
    ]
    labelled["recipe"] = [
        _recipe(p, loss, role, which)
        for p, loss, role in zip(params, losses, roles_of, strict=True)
    ]
    sizes = runs[SIZE_NAME]
    labelled["size"] = [
        ", ".join(_value(name, p[name]) for name in which.sizes if name in p) or human(size)
        for p, size in zip(params, sizes, strict=True)
    ]
    labelled["seed"] = [str(p.get(which.seed, "")) for p in params]
    labelled["teacher_seed"] = [str(p.get(TEACHER_SEED, "")) for p in params]
    labelled["draw_seed"] = [" ".join(str(p.get(k, "")) for k in DRAW_SEEDS) for p in params]
    usual = labelled[labelled["role"] == "axis"].groupby(sizes)["num_tokens"].min()
    least = labelled.groupby(sizes)["num_tokens"].min()
    base = sizes.map(usual).fillna(sizes.map(least)).astype(float)
    labelled["token_multiple"] = runs["num_tokens"].astype(float) / base
    labelled["series"] = [
        recipe if abs(multiple - 1) < 0.005 else f"{recipe}, {multiple:.3g}x tokens"
        for recipe, multiple in zip(labelled["recipe"], labelled["token_multiple"], strict=True)
    ]
    return labelled


def keep_best_learning_rate(runs: pd.DataFrame, plan: Plan, metric: str) -> pd.DataFrame:
    """Of the settings that differ in learning rate alone, those with the lowest mean loss.

    A rate at which some seed diverged or is missing is passed over where another rate has more
    seeds: the mean of the survivors would flatter it.
    """
    if not roles(plan).learning_rates:
        return runs
    kept = []
    for _, group in runs.groupby(["recipe", "size", "num_tokens"], sort=False):
        scores = group.groupby("setting", sort=False)[metric].agg(["count", "mean"])
        scores = scores[scores["count"] == scores["count"].max()]
        kept.append(group[group["setting"] == scores["mean"].idxmin()])
    return pd.concat(kept).sort_index() if kept else runs


def human(value: float) -> str:
    """1234567 -> 1.23M."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _loss(point: dict) -> str:
    """The loss's name: the axis value, or the module that the resolved config builds."""
    if "loss" in point["params"]:
        return str(point["params"]["loss"])
    config = point.get("config", {}).get("loss")
    target = config.get("_target_", "") if isinstance(config, dict) else str(config or "")
    return target.split(".")[-2] if "." in target else target


def _is_corpus(point: dict) -> bool:
    """Whether it trains on the corpus as it is: a text that a teacher made is no control."""
    text = point.get("config", {}).get("text")
    return not isinstance(text, dict) or ".corpus." in text.get("_target_", ".corpus.")


def _recipe(params: dict, loss: str, role: str, which: Roles) -> str:
    """What the run does, in words short enough for a legend."""
    label = NO_DISTILLATION if loss == "none" else loss
    others = [name for name in which.recipe if name in params and name != "loss"]
    parts = [label, *(_value(name, params[name]) for name in others)]
    text = ", ".join(part for part in parts if part) or "all runs"
    return f"{text} (control)" if role == "control" and loss != "none" else text


def _value(name: str, value: object) -> str:
    """``signal.top_k`` = 4 -> ``top_k=4``; an axis's own value stands alone for the student."""
    if name == "student":
        return str(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.rsplit('.', 1)[-1]}={shown}"
