"""A prediction as a person reads it in a terminal."""

from typing import Any

from ..predictions.predict import Prediction
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import human
from .table import aligned


def summary(found: Prediction) -> str:
    """Losses, recommendation, cost, equal compute, warnings."""
    target = found.target
    rest = f", teacher's loss {target.teacher_loss:g}" if target.teacher_loss is not None else ""
    beyond = ", ".join(f"{v:.2f} in {k}" for k, v in found.decades.items() if v > 0)
    lines = [
        f"{human(target.num_params)} non-embedding parameters, {human(target.num_tokens)} tokens"
        f"{rest}; from {found.num_runs} runs of {found.source}",
        f"outside the runs by decades: {beyond or 'nowhere'}",
        "",
        *_losses(found),
        "",
        *_recommendation(found),
        "",
        *_cost(found),
    ]
    if found.charged:
        lines += ["", *_charged(found)]
    if found.warnings:
        lines += ["", *(f"warning: {warning}" for warning in found.warnings)]
    return "\n".join(lines)


def _losses(found: Prediction) -> list[str]:
    rows = []
    for one in found.forecasts.values():
        if one.best is None:
            rows.append([one.recipe, "-", "not predicted", ""])
            continue
        laws = ", ".join(f"{by.law} {by.loss:.3f}" for by in one.by_law)
        rows.append([one.recipe, f"{one.loss:.3f}", _interval(one.interval), laws])
    return aligned(["recipe", found.metric, "95%, one more run", "by law"], rows)


def _recommendation(found: Prediction) -> list[str]:
    best = found.recommendation
    if best.recipe is not None:
        lines = [f"recommended at equal student tokens: {best.recipe}"]
    elif best.first is not None:
        lines = [f"no recommendation; lowest predicted loss: {best.first}. Withheld because"]
    else:
        lines = ["no recommendation, because"]
    lines += [f"  - {reason}" for reason in best.reasons]
    return lines + [f"  + {check}" for check in best.checks]


def _cost(found: Prediction) -> list[str]:
    rows = [
        [
            name,
            _power(cost["flops_train_exact"]),
            _power(cost["flops_teacher_inference_exact"]),
            _power(cost["flops_teacher_training_exact"]),
            _bytes(cost["store_bytes"]),
            _bytes(cost["checkpoint_bytes"]),
        ]
        for name, cost in found.cost.items()
    ]
    head = ["one run", "student FLOPs", "teacher inference", "teacher training", "logits store"]
    how = next(iter(found.cost.values()))["student"]
    return [*aligned([*head, "checkpoint"], rows), f"student: {how}"]


def _charged(found: Prediction) -> list[str]:
    labels = {a.key: a.label for a in ACCOUNTINGS}
    rows: list[list[str]] = []
    for row in found.charged:
        known = row["control_loss"] is not None
        rows.append(
            [
                f"{row['recipe']}, {labels[row['accounting']]}",
                f"{row['token_multiple']:.3g}x",
                f"{row['control_loss']:.3f}" if known else "-",
                _interval(row["control_interval"]) if known else "not predicted",
                row["ahead"] or ("intervals meet" if known else "-"),
            ]
        )
    head = ["equal compute", "control's tokens", "its loss", "95%, one more run", "ahead"]
    lines = aligned(head, rows)
    for row in found.charged:
        best = row["recommendation"]
        if best is None:
            continue
        named = f"{row['recipe']} or {row['control']}, {labels[row['accounting']]}"
        if best["recipe"] is not None:
            lines.append(f"recommended of {named}: {best['recipe']}")
            lines += [f"  + {check}" for check in best["checks"]]
        else:
            lines.append(f"none recommended of {named}, because")
            lines += [f"  - {reason}" for reason in best["reasons"]]
    return lines


def _interval(pair: Any) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def _power(value: float) -> str:
    return f"{value:.2e}" if value == value else "not known"


def _bytes(value: float) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g} B"
