"""A worker: take a point, run it, tell how it ended, until the queue is empty."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdx.sweep.isolated import Outcome, run_isolated
from pdx.sweep.launchers import threads_here
from pdx.sweep.plan import Plan, Point, load_plan, pending
from pdx.sweep.study import Queue


@dataclass(frozen=True)
class Prepare:
    """What Hydra's launcher runs first, alone: all that the sweep's runs share."""

    directory: str

    def __call__(self, _cfg: Any) -> None:
        from pdx.config import run_of_resolved
        from pdx.execute import use_threads
        from pdx.prepare import ensure_all
        from pdx.tracking import log_teacher

        use_threads(None)
        plan = load_plan(Path(self.directory))
        _, env = run_of_resolved(plan.points[0].config)
        ensure_all([p.config for p in pending(plan, env)])
        for teacher_id in {p.facts["teacher_id"] for p in plan.points} - {None}:
            log_teacher(env, teacher_id)


@dataclass(frozen=True)
class Worker:
    """What Hydra's launcher runs instead of the user's task: N of them empty one queue.

    Attributes:
        num_workers: how many share this machine, for the number of threads each may use.
    """

    directory: str
    num_workers: int
    gpus: tuple[str, ...]
    isolation: str
    max_retries: int

    def slot_of(self, job: int) -> str | None:
        """The GPU of a job, as CUDA_VISIBLE_DEVICES names it; fixed for the worker's life."""
        return self.gpus[job % len(self.gpus)] if self.gpus else None

    def log_of(self, job: int) -> str:
        """Where a launcher that gives its jobs logs puts this one's."""
        return str(Path(self.directory) / "workers" / f"worker-{job}.log")

    def __call__(self, _cfg: Any) -> int:
        """Run points until none is left; return how many."""
        directory = Path(self.directory)
        plan, queue, count = load_plan(directory), Queue(directory), 0
        points = {p.run_id: p for p in plan.points}
        worker, lock = queue.sign_on()
        with lock:
            while True:
                trial = queue.take(worker)
                if trial is None:
                    if queue.reap(plan, self.max_retries):
                        continue  # what another worker lost is ours now
                    return count
                point = points[trial.user_attrs["run_id"]]
                began = time.monotonic()
                outcome = self._run(point, plan)
                print(
                    f"{point.run_id} {outcome.status} {time.monotonic() - began:.1f}s "
                    f"[{point.label}] {outcome.reason or ''}",
                    flush=True,
                )
                count += 1
                if outcome.status in ("complete", "diverged"):
                    assert outcome.value is not None
                    queue.tell_complete(trial, outcome.value, outcome.status)
                elif outcome.status == "lost":
                    queue.lose(trial, plan, self.max_retries, outcome.reason or "lost")
                else:
                    queue.tell_failed(trial, f"{outcome.status}: {outcome.reason}")

    @property
    def num_threads(self) -> int:
        """The cores that a scheduler gave, or this machine's, shared evenly."""
        return threads_here(self.num_workers)

    def _run(self, point: Point, plan: Plan) -> Outcome:
        arguments = (point, plan.sweep_id, self.num_threads)
        if self.isolation == "inline":
            from pdx.sweep.child import run_point

            return run_point(*arguments)
        return run_isolated(arguments)
