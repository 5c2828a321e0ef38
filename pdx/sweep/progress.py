"""A sweep while it runs: a live table in a terminal, plain lines elsewhere."""

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pdx.env import Env
from pdx.sweep.budget import used_seconds
from pdx.sweep.plan import CONFIRM, Plan, Point, drawn_points
from pdx.sweep.standing import Standing, standing_of
from pdx.sweep.studies import Studies

TABLE_SECONDS = 1.0
LINE_SECONDS = 30.0
MAX_ROWS = 16  # runs under way that are shown; a large sweep has more


@dataclass(frozen=True)
class Running:
    """One run under way: its worker, its settings, the share done and the last loss."""

    worker: str
    label: str
    share: float
    loss: float | None


@dataclass(frozen=True)
class Snapshot:
    """How a sweep stands.

    Attributes:
        share: of the sweep's training FLOPs.
        best: objective and settings of the best run so far, those that confirm it left out.
    """

    standing: Standing
    share: float
    best: tuple[float, str] | None
    running: list[Running]

    @property
    def line(self) -> str:
        """In one line."""
        shown = ", ".join(f"{n} {name}" for name, n in self.standing.counts.items() if n)
        best = f"; best {self.best[0]:.4g} [{self.best[1]}]" if self.best else ""
        waits = self.standing.waits_to_confirm
        then = f" (up to {self.standing.num_confirm} to confirm)" if waits else ""
        return f"{shown}{then}; {self.share:.0%} of the work{best}"


def snapshot(studies: Studies, env: Env) -> Snapshot:
    """Look at studies and run folders; works whatever launched the workers."""
    plan, standing = studies.plan, standing_of(studies)
    points = {p.run_id: p for p in [*plan.points, *drawn_points(studies.directory)]}
    done, running = 0.0, []
    best: tuple[float, str] | None = None
    for run_id, trial in standing.latest.items():
        point = points[run_id]
        if trial.state == TrialState.COMPLETE:
            done += _work(point)
            value = trial.values[0]
            first = point.role != CONFIRM and len(trial.values) == 1
            if first and (best is None or _better(plan, value, best[0])):
                best = value, point.label
        elif trial.state == TrialState.RUNNING:
            running.append(_running(env, point, trial))
            done += _work(point) * running[-1].share
        elif trial.state != TrialState.WAITING:
            done += _work(point)  # pruned, failed: nothing is left to do
    known = sum(_work(p) for p in points.values())
    total = known * standing.num_runs / max(1, len(points))
    return Snapshot(standing, done / total if total else 0.0, best, running)


def _better(plan: Plan, value: float, than: float) -> bool:
    return value > than if plan.method.directions[0] == "maximize" else value < than


def _work(point: Point) -> float:
    return float(point.facts.get("flops_train_exact") or point.facts["num_tokens"])


def _running(env: Env, point: Point, trial: FrozenTrial) -> Running:
    last = last_metrics(env.paths.runs / point.run_id / "metrics.jsonl")
    share = last.get("tokens", 0.0) / point.facts["num_tokens"]
    worker = ":".join(trial.user_attrs.get("worker", "?").split(":")[:2])
    return Running(worker, point.label, share, last.get("train/loss"))


def last_metrics(log: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def watch(studies: Studies, env: Env, num_workers: int, stop: threading.Event) -> None:
    """Follow a sweep until told to stop."""
    plan, clock = studies.plan, _Clock(studies, num_workers)
    if not sys.stderr.isatty():
        while not stop.wait(LINE_SECONDS):
            now = snapshot(studies, env)
            print(f"{plan.sweep_id}: {now.line}{clock.said(now)}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        while True:
            last = stop.wait(TABLE_SECONDS)
            now = snapshot(studies, env)
            live.update(_table(plan, now, clock.said(now)))
            if last:
                return


class _Clock:
    """Time left, and how busy the slots are, since the watch began."""

    def __init__(self, studies: Studies, num_workers: int) -> None:
        self.studies, self.num_workers = studies, num_workers
        self.began, self.share = time.monotonic(), -1.0
        self.used = used_seconds(studies)[0]

    def said(self, now: Snapshot) -> str:
        passed = time.monotonic() - self.began
        if self.share < 0:
            self.share = now.share  # what was done before is no speed
        busy = (used_seconds(self.studies)[0] - self.used) / (passed * self.num_workers)
        gained = now.share - self.share
        left = f"; {_time(passed * (1 - now.share) / gained)} left" if gained > 0 else ""
        return f"; slots {min(busy, 1.0):.0%} busy; {_time(passed)} passed{left}"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _table(plan: Plan, now: Snapshot, clock: str) -> Any:
    from rich.table import Table

    table = Table(title=f"{plan.sweep_id}: {now.line}{clock}", title_justify="left")
    for name in ("worker", "done", "loss", "settings"):
        table.add_column(name, justify="left" if name in ("worker", "settings") else "right")
    for run in now.running[:MAX_ROWS]:
        loss = "-" if run.loss is None else f"{run.loss:.3f}"
        table.add_row(run.worker, f"{run.share:.0%}", loss, run.label)
    if len(now.running) > MAX_ROWS:
        table.add_row(f"... and {len(now.running) - MAX_ROWS} more", "", "", "")
    return table
