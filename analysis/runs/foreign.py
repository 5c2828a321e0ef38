"""Anybody's runs as a plan and a table of ours: what `pdx report --experiment` reads."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from pdx.errors import SweepError
from pdx.files import digest

from .labels import SIZE_NAME
from .table import Plan, typed

# What pdx itself logs to MLflow: nothing has to be mapped for its own runs.
OWN = {
    "N": "size/num_params_non_embedding",
    "D": "size/num_tokens",
    "loss": "final/val/loss",
    "C": "size/flops_train_exact",
    "recipe": "loss",
    "seed": "train.seed",
}
OWN_CURVE = ("val/loss", "tokens")
NEEDED = ("N", "D", "loss")
FACTS = {
    "C_infer": "flops_teacher_inference_exact",
    "C_train_teacher": "flops_teacher_training_exact",
    "teacher": "teacher_id",
    "teacher_N": "teacher_num_params_non_embedding",
}
KNOWN = (*OWN, "lr", "teacher_loss", "curve", "curve_tokens", *FACTS)
ENDED = {"FINISHED": "complete", "FAILED": "missing", "KILLED": "missing"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How foreign runs are to be read.

    Attributes:
        mapping: from our names (``KNOWN``) to params, metrics or tags of the runs.
        control: value of the recipe that stands for no distillation; None for none.
        objectives: two metrics for a Pareto front, ``-name`` to maximize.
    """

    mapping: Mapping[str, str]
    control: str | None = None
    objectives: Sequence[str] = ()


def read_foreign(
    runs: Sequence[Mapping[str, Any]], reading: Reading, name: str, command: str
) -> tuple[Plan, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Read runs, each with run_id, state, params, metrics, tags, seconds, curves.

    Returns:
        a plan; the table, a row per point of it; run_id, tokens and val/loss of every evaluation
        during training; what N, D, C and loss are in the names that the runs have for them.

    Raises:
        SweepError: no run, a name that is mapped to nothing, or no finished run with a loss.
    """
    if not runs:
        raise SweepError(f"--experiment {name}: holds no run.")
    mapping = _mapping(runs, reading)
    given = len(runs)  # a parent run, for one, trains nothing
    runs = [r for r in runs if all(_number(_value(r, mapping, n)) for n in ("N", "D"))]
    varied = _varied(runs, mapping)
    points, rows = [], []
    for run in runs:
        row, point = _point(run, mapping, reading, varied)
        rows.append(row)
        points.append(point)
    if not any(row["status"] == "complete" for row in rows):
        raise SweepError(
            f"--experiment {name}: none of its {given} runs has finished with numbers for "
            f"{', '.join(f'{k} ({mapping[k]})' for k in NEEDED)}; map others: --map N=...,D=...,"
            "loss=...."
        )
    plan = Plan(
        name=name,
        scale=None,
        digest=digest(sorted(str(row["run_id"]) for row in rows), 8),
        question=f"The runs of MLflow's experiment {name}"
        + (f" ({given - len(runs)} without N or D left out)." if given > len(runs) else "."),
        command=command,
        axes=("loss", *varied),
        seed_axis="seed" if "seed" in mapping else None,
        points=tuple(points),
        objectives=tuple(reading.objectives) or ("val/loss",),
    )
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = pd.DataFrame({key: typed([row.get(key) for row in rows]) for key in names})
    return plan, table, _learning(runs, mapping), _definitions(mapping)


def curves_read(mapping: Mapping[str, str]) -> list[str]:
    """The metrics of which every step is read: a loss during training, and its tokens if logged."""
    final = mapping.get("loss", OWN["loss"])
    usual = OWN_CURVE[0] if final == OWN["loss"] else final
    return [mapping.get("curve", usual), mapping.get("curve_tokens", OWN_CURVE[1])]


def _learning(runs: Sequence[Mapping[str, Any]], mapping: Mapping[str, str]) -> pd.DataFrame:
    """Tokens and loss of every step that a run logged.

    Where a run logged no tokens, its steps are taken to be equal and its last one its end.
    """
    loss, tokens = curves_read(mapping)
    rows = []
    for run in runs:
        curve = run.get("curves", {}).get(loss, {})
        seen = run.get("curves", {}).get(tokens) or {}
        end, total = max(curve, default=0), _number(_value(run, mapping, "D"))
        for step, value in sorted(curve.items()):
            at = seen.get(step) if seen else step / end * total if end and total else None
            if _number(at) and _number(value):
                rows.append((run["run_id"], float(at), float(value)))
    return pd.DataFrame(rows, columns=["run_id", "tokens", "val/loss"])


def _definitions(mapping: Mapping[str, str]) -> dict[str, str]:
    said = {name: f"{mapping[name]}, as logged" for name in ("N", "D")}
    said["C"] = f"{mapping['C']}, as logged" if "C" in mapping else "6 N D"
    return {**said, "loss": f"{mapping['loss']}, as logged (taken as nats per token)"}


def _mapping(runs: Sequence[Mapping[str, Any]], reading: Reading) -> dict[str, str]:
    """What was given, and pdx's own names where the runs have them."""
    known = dict.fromkeys(key for run in runs for part in _parts(run) for key in part)
    for ours, theirs in reading.mapping.items():
        if ours not in KNOWN:
            raise SweepError(
                f"--map {ours}={theirs}: not a name of ours; known: {', '.join(KNOWN)}."
            )
        if theirs not in known:
            near = get_close_matches(theirs, known, n=3, cutoff=0.4) or list(known)[:12]
            raise SweepError(
                f"--map {ours}={theirs}: no run has a param, metric or tag of this name; the "
                f"nearest: {', '.join(near)}."
            )
    mapping = {ours: theirs for ours, theirs in OWN.items() if theirs in known}
    mapping |= reading.mapping
    missing = [name for name in NEEDED if name not in mapping]
    if missing:
        raise SweepError(
            f"--map: says nothing of {', '.join(missing)}; write --map "
            f"{','.join(f'{n}=NAME' for n in missing)} with names of the runs' params or metrics, "
            f"such as {', '.join(list(known)[:12])}."
        )
    return mapping


def _varied(runs: Sequence[Mapping[str, Any]], mapping: Mapping[str, str]) -> list[str]:
    """Params that differ among the runs and are mapped to nothing: settings of a search."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run["params"].items():
            values.setdefault(name, set()).add(value)
    taken = set(mapping.values())
    return [n for n, v in values.items() if len(v) > 1 and n not in taken]


def _point(
    run: Mapping[str, Any], mapping: Mapping[str, str], reading: Reading, varied: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row of the table, and the point of the plan that it belongs to."""
    numbers = {name: _number(_value(run, mapping, name)) for name in (*NEEDED, "C", "lr")}
    recipe = str(_value(run, mapping, "recipe") or "all runs")
    control = reading.control is not None and recipe == reading.control
    own = reading.control is None and recipe == "none" and mapping.get("recipe") == OWN["recipe"]
    params: dict[str, Any] = {"loss": "none" if control or own else recipe}
    if "seed" in mapping:
        params["seed"] = _value(run, mapping, "seed")
    params |= {name: _plain(run["params"].get(name)) for name in varied}
    status = ENDED.get(run["state"], "missing")
    if status == "complete" and any(numbers[name] is None for name in NEEDED):
        status = "diverged" if _is_nan(_value(run, mapping, "loss")) else "missing"
    size, tokens = numbers["N"], numbers["D"]
    flops = numbers["C"] or (6 * size * tokens if size and tokens else None)
    row: dict[str, Any] = {
        "run_id": run["run_id"],
        "role": "control" if control or own else "axis",
        "status": status,
        "reason": None if status == "complete" else f"{run['state']}: no usable N, D or loss",
        "seconds": run.get("seconds"),
        **params,
        SIZE_NAME: size,
        "num_tokens": tokens,
        "flops_train_exact": flops,
        "flops_train_6nd": 6 * size * tokens if size and tokens else None,
        "learning_rate": numbers["lr"],
        "eval_tokens": None,
        "eval_tokens_during_training": None,
        "val/loss": numbers["loss"],
    }
    for name, fact in FACTS.items():
        if name in mapping:
            value = _value(run, mapping, name)
            row[fact] = value if name == "teacher" else _number(value)
    if "teacher_loss" in mapping:
        row["val/teacher_loss"] = _number(_value(run, mapping, "teacher_loss"))
    for name in (o.removeprefix("-") for o in reading.objectives):
        row.setdefault(name, _number(run["metrics"].get(name)))
    return row, {"run_id": run["run_id"], "params": params, "role": row["role"]}


def _parts(run: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    return run["params"], run["metrics"], run["tags"]


def _value(run: Mapping[str, Any], mapping: Mapping[str, str], name: str) -> Any:
    """What the run says of one of our names: its param, else its metric, else its tag."""
    source = mapping.get(name)
    return next((part[source] for part in _parts(run) if source in part), None)


def _number(value: Any) -> float | None:
    """A finite positive number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _is_nan(value: Any) -> bool:
    try:
        return value is not None and not math.isfinite(float(value))
    except ValueError:
        return False


def _plain(value: str | None) -> Any:
    """MLflow keeps params as text: numbers are numbers again."""
    try:
        return value if value is None else float(value)
    except ValueError:
        return value
