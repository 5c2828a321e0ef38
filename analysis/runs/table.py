"""A sweep's runs as one typed table, read from the plan and the run folders and nowhere else."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pdx.errors import SweepError
from pdx.files import read_json

STATUSES = ("complete", "diverged", "pruned", "missing")
COLUMNS = ("run_id", "role", "status", "reason", "seconds")
LABELS = (
    "setting",
    "recipe",
    "series",
    "size",
    "seed",
    "teacher_seed",
    "draw_seed",
    "is_control",
    "token_multiple",
    "learning_rate",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep set out to run: ``plan.json``, read once.

    Attributes:
        points: dictionaries with ``run_id``, ``role``, ``params``, ``config`` and ``facts``; those
            that a search drew stand in files of their own.
        claims: what was published, with the runs of each cell (``pdx.sweep.claims``).
        objectives: metrics or facts to minimize; ``-name`` to maximize.
        confirm: how the best of a search are to be run again, or None.
        confirmed: pairs of a winner and its control (``pdx.sweep.confirm.Chosen``); None where it
            is not decided which.
    """

    name: str
    scale: str | None
    digest: str
    question: str
    command: str
    axes: tuple[str, ...]
    seed_axis: str | None
    points: tuple[dict[str, Any], ...]
    claims: tuple[dict[str, Any], ...] = ()
    objectives: tuple[str, ...] = ("val/loss",)
    confirm: dict[str, Any] | None = None
    confirmed: tuple[dict[str, Any], ...] | None = None

    @property
    def params(self) -> tuple[str, ...]:
        """Every parameter that some point sets: the axes first, in their order."""
        names = dict.fromkeys(self.axes)
        for point in self.points:
            names |= dict.fromkeys(point["params"])
        return tuple(names)


def load_plan(sweep_dir: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        SweepError: there is none, or it has no point.
    """
    path = sweep_dir / "plan.json"
    if not path.is_file():
        raise SweepError(
            f"{sweep_dir}: holds no plan.json, so no sweep was started here; start one with "
            "`pdx train -m sweep=NAME`, or give the sweep and scale that were run."
        )
    try:
        raw = read_json(path)
        drawn = [read_json(file) for file in sorted((sweep_dir / "points").glob("*.json"))]
        method = raw.get("method") or {}
        points = {point["run_id"]: point for point in reversed([*raw["points"], *drawn])}
        plan = Plan(
            name=raw["name"],
            scale=raw.get("scale"),
            digest=raw["digest"],
            question=raw.get("question") or "",
            command=raw["command"],
            axes=tuple(raw["axes"]),
            seed_axis=raw.get("seed_axis"),
            points=tuple(reversed(points.values())),
            claims=tuple(raw.get("claims") or ()),  # older plans have none
            objectives=tuple(method.get("objectives") or ("val/loss",)),
            confirm=method.get("confirm"),
            confirmed=_confirmed(sweep_dir, method),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise SweepError(
            f"{path}: not a plan that this version reads ({type(err).__name__}: {err}); "
            "plan the sweep again with `pdx train -m sweep=NAME`."
        ) from err
    if not plan.points:
        raise SweepError(f"{path}: plans no run; give the sweep's axes at least one value each.")
    return plan


def _confirmed(sweep_dir: Path, method: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
    """What was chosen to be run again, if that answers what is asked for now."""
    path, asked = sweep_dir / "confirm.json", method.get("confirm")
    decided = read_json(path) if asked and path.is_file() else {}
    if decided.get("of") != {"num_runs": method.get("num_runs"), **(asked or {})}:
        return None
    return tuple(decided["pairs"])


def load_runs(sweep_dir: Path, runs_dir: Path) -> pd.DataFrame:
    """One row per point of the plan, whether it was run or not.

    Columns: run_id, role, status (one of ``STATUSES``), reason, seconds, one per
    parameter that a point sets, the facts (as planned where no result is there), the metrics
    (``val/loss`` and so on), ``provenance.*``, and from the resolved config ``learning_rate``,
    ``eval_tokens`` and ``eval_tokens_during_training``.

    Raises:
        SweepError: no plan, no finished run, an unreadable result, or a name used twice.
    """
    plan = load_plan(sweep_dir)
    outcomes = sweep_dir / "outcomes.json"  # of runs that have no result: pruned
    ends = read_json(outcomes) if outcomes.is_file() else {}
    rows = [_row(p, runs_dir, ends.get(p["run_id"], {}).get("state")) for p in plan.points]
    if not any(row["status"] == "complete" for row in rows):
        diverged = sum(row["status"] == "diverged" for row in rows)
        raise SweepError(
            f"{sweep_dir}: none of its {len(rows)} runs has finished ({diverged} diverged, "
            f"{len(rows) - diverged} missing); run `{plan.command}` (finished runs are kept)."
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: typed([row.get(name) for row in rows]) for name in names})


def write_table(runs: pd.DataFrame, out_dir: Path) -> Path:
    """Write ``runs.parquet`` and ``runs.csv``; return the parquet file."""
    out_dir.mkdir(parents=True, exist_ok=True)
    runs.to_csv(out_dir / "runs.csv", index=False)
    runs.to_parquet(out_dir / "runs.parquet", index=False)
    return out_dir / "runs.parquet"


def load_curves(runs: pd.DataFrame, runs_dir: Path, metric: str) -> pd.DataFrame:
    """What ``metrics.jsonl`` holds of ``metric``: one row per run and evaluation, with tokens."""
    rows = []
    for run_id in runs["run_id"]:
        path = runs_dir / run_id / "metrics.jsonl"
        if not path.is_file():
            continue
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a killed run may be half written
                continue
            if entry.get(metric) is not None and entry.get("tokens"):
                value = float(entry[metric])
                rows.append({"run_id": run_id, "tokens": int(entry["tokens"]), metric: value})
    curves = pd.DataFrame(rows, columns=["run_id", "tokens", metric])
    # a resumed run may have written a step twice; the later line stands
    return curves.drop_duplicates(["run_id", "tokens"], keep="last")


def _row(point: dict[str, Any], runs_dir: Path, end: str | None) -> dict[str, Any]:
    """One point, with its result where there is one, and else how it ended."""
    path = runs_dir / point["run_id"] / "result.json"
    try:
        result = read_json(path) if path.is_file() else {}
    except ValueError as err:
        raise SweepError(
            f"{path}: is not JSON ({err}); delete its folder and run the sweep again."
        ) from err
    status = result.get("status") or ("pruned" if end == "pruned" else "missing")
    row: dict[str, Any] = {
        "run_id": point["run_id"],
        "role": point["role"],
        "status": status if status in STATUSES else "missing",
        "reason": result.get("reason"),
        "seconds": result.get("seconds"),
    }
    config = point.get("config", {})
    optim, evaluation = (config.get(axis) or {} for axis in ("optim", "eval"))
    groups: Iterable[dict[str, Any]] = (
        point["params"],
        point.get("facts", {}) | result.get("facts", {}),
        result.get("metrics", {}),
        {f"provenance.{key}": value for key, value in result.get("provenance", {}).items()},
        {
            "learning_rate": optim.get("peak_lr"),
            "eval_tokens": evaluation.get("num_tokens"),
            "eval_tokens_during_training": evaluation.get("num_tokens_during_training"),
        },
    )
    for group in groups:
        for name, value in group.items():
            if name in row or (name in LABELS and name != "learning_rate"):
                raise SweepError(
                    f"{name}: the table of runs has a column of this name already; rename the axis."
                )
            row[name] = value
    return row


def typed(values: list[Any]) -> pd.api.extensions.ExtensionArray:
    """A column of the narrowest type that holds every value; what has none becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.array(values, dtype="boolean")
    if kinds == {int}:
        return pd.array(values, dtype="Int64")
    if kinds <= {int, float} and kinds:
        return pd.array([None if v is None else float(v) for v in values], dtype="Float64")
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pd.array(texts, dtype="string")
