"""A worker: take a point, run it, tell how it ended, until the queue is empty."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from pdx.files import write_json
from pdx.sweep.budget import Budget
from pdx.sweep.groups import alike
from pdx.sweep.isolated import PREPARED, Outcome, Task, run_isolated, run_together
from pdx.sweep.optuna_parts import build_part
from pdx.sweep.placed import threads_here
from pdx.sweep.plan import Plan, Point, drawn_points, examples, load_plan, pending, save_point
from pdx.sweep.presence import sign_on
from pdx.sweep.queue import Queue


@dataclass(frozen=True)
class Prepare:
    """What Hydra's launcher runs first, alone: all that the sweep's runs share."""

    directory: str

    def __call__(self, _cfg: Any) -> None:
        from pdx.config import run_of_resolved
        from pdx.device import use_threads
        from pdx.known import known
        from pdx.prepare import ensure_all
        from pdx.provenance import checkout
        from pdx.tracking.run import log_teacher
        from pdx.tracking.sweep import SweepLog

        use_threads(None)
        checkout()  # known from here on
        plan = load_plan(Path(self.directory))
        drawn = examples(plan)
        points = [*plan.points, *drawn]
        _, env = run_of_resolved(points[0].config)
        ensure_all([p.config for p in [*pending(plan, env), *drawn]])
        for teacher_id in {p.facts["teacher_id"] for p in points} - {None}:
            log_teacher(env, teacher_id)
        log = SweepLog.find(env, plan.sweep_id)
        assert log is not None  # the driver opened it
        prepared = {"known": known(), "experiment": log.experiment, "parent": log.run_id}
        write_json(Path(self.directory) / PREPARED, prepared)


@dataclass(frozen=True)
class Worker:
    """What Hydra's launcher runs instead of the user's task: N of them empty one queue.

    Attributes:
        storage: URL of the study's database, or None for the journal in the directory.
        num_workers: how many share this machine, for the number of threads each may use.
        slots: CUDA_VISIBLE_DEVICES of each slot; empty where there is no GPU.
        students_per_worker: runs at most that share a process, and what they read.
    """

    directory: str
    storage: str | None
    num_workers: int
    slots: tuple[str, ...]
    isolation: str
    max_retries: int
    budget: Budget
    students_per_worker: int

    def slot_of(self, job: int) -> str | None:
        """The GPUs of a job, as CUDA_VISIBLE_DEVICES names them; fixed for the worker's life."""
        return self.slots[job % len(self.slots)] if self.slots else None

    def log_of(self, job: int) -> str:
        """Where a launcher that gives its jobs logs puts this one's."""
        return str(Path(self.directory) / "workers" / f"worker-{job}.log")

    def __call__(self, _cfg: Any) -> int:
        """Run points until none is left; return how many."""
        directory = Path(self.directory)
        plan = load_plan(directory)
        queue, count = Queue(directory, plan, self.storage), 0
        points = {p.run_id: p for p in plan.points}
        may_join = alike(plan.points) if self.students_per_worker > 1 else {}
        sampler = self._sampler(plan)
        with sign_on(directory) as worker:
            while not self.budget.is_spent(queue):
                trial = queue.take(worker)
                if trial is None:
                    if queue.reap(self.max_retries):
                        continue  # what another worker lost is ours now
                    break
                with _put_back_if_interrupted(queue, taken := [trial]):
                    point = self._point(queue, trial, points, sampler)
                    if point is None:
                        continue
                    if self.students_per_worker > 1 and "alone" not in trial.user_attrs:
                        self._take_along(queue, worker, taken, may_join.get(point.run_id, set()))
                    self._run_all(queue, taken, points)
                    count += len(taken)
        return count

    def _take_along(
        self, queue: Queue, worker: str, taken: list[Trial], may_join: set[str]
    ) -> None:
        """Take more runs that share the first one's process."""
        while len(taken) < self.students_per_worker:
            left = may_join - {trial.user_attrs["run_id"] for trial in taken}
            trial = queue.take(worker, left) if left else None
            if trial is None:
                break
            taken.append(trial)
        if len(taken) > 1:
            queue.group(taken)

    def _run_all(self, queue: Queue, taken: list[Trial], points: dict[str, Point]) -> None:
        """Run what was taken, one or several in a process, and tell how each ended."""
        began = time.monotonic()
        tasks = [self._task(queue, t, points[t.user_attrs["run_id"]]) for t in taken]

        def tell(number: int, outcome: Outcome) -> None:
            point = tasks[number].point
            print(
                f"{point.run_id} {outcome.status} {time.monotonic() - began:.1f}s "
                f"[{point.label}] {outcome.reason or ''}",
                flush=True,
            )
            self._tell(queue, taken[number], outcome)

        if len(tasks) == 1:
            tell(0, self._run(tasks[0]))
        else:
            run_together(tasks, tell)

    def _sampler(self, plan: Plan) -> Any:
        if plan.search is None:
            return None
        sampler = build_part(plan.method.sampler, "hydra/sweeper/sampler")
        if self.num_workers > 1:
            sampler.reseed_rng()  # of one seed, all workers would draw the same
        return sampler

    def _point(
        self, queue: Queue, trial: Trial, points: dict[str, Point], sampler: Any
    ) -> Point | None:
        run_id = trial.user_attrs.get("run_id")
        if run_id is None or run_id not in points:  # drawn now, or by another worker before
            points.update((p.run_id, p) for p in drawn_points(queue.directory))
        if run_id is not None:
            return points[run_id]
        point = queue.draw(trial, sampler, points)
        if point is not None:
            save_point(queue.directory, point)
        return point

    def _task(self, queue: Queue, trial: Trial, point: Point) -> Task:
        left = self.budget.seconds_left(queue)
        return Task(
            point=point,
            sweep_id=queue.plan.sweep_id,
            method=queue.plan.method,
            directory=queue.directory,
            storage=self.storage,
            trial_id=trial._trial_id,
            num_threads=self.num_threads,
            deadline=None if left is None else time.time() + left,
        )

    def _tell(self, queue: Queue, trial: Trial, outcome: Outcome) -> None:
        reason = outcome.reason or ""
        if outcome.status in ("complete", "diverged"):
            for name, violation in outcome.violations.items():
                trial.set_constraint(name, violation)
            queue.tell_complete(trial, outcome.values, outcome.status)
        elif outcome.status == "pruned":
            queue.tell_pruned(trial)
        elif outcome.status == "paused":
            queue.tell_failed(trial, reason)
            queue.put_back(trial, trial.user_attrs["retries"])
        elif outcome.status == "lost" or (
            outcome.status == "oom" and "group_size" in trial.user_attrs
        ):  # memory that it shared may be enough for it alone
            queue.lose(trial, self.max_retries, reason or "lost")
        else:
            queue.tell_failed(trial, f"{outcome.status}: {reason}")

    @property
    def num_threads(self) -> int:
        """The cores that a scheduler gave, or this machine's, shared evenly."""
        return threads_here(self.num_workers)

    def _run(self, task: Task) -> Outcome:
        if self.isolation == "inline":
            from pdx.sweep.child import run_point

            return run_point(task)
        return run_isolated(task)


@contextmanager
def _put_back_if_interrupted(queue: Queue, taken: list[Trial]) -> Iterator[None]:
    try:
        yield
    except BaseException as err:
        for trial in taken:
            if queue.tell_failed(trial, f"interrupted ({type(err).__name__})"):
                queue.put_back(trial, trial.user_attrs["retries"])
        raise
