"""The queue: an Optuna study in the sweep's directory, one trial per point."""

import os
import socket
import uuid
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pdx.files import free_lock, locked
from pdx.sweep.plan import Plan, Point

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAME = "sweep"


def _choice(value: Any) -> Any:
    """A value as Optuna stores categories: lists and the like by their text."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


class Queue:
    """The study of a sweep, as its driver and workers use it.

    A running trial belongs to a worker, and a worker holds a lock for as long as it lives: a trial
    is lost exactly when its worker's lock is free.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(directory / "journal.log")))
        # No pruner: Optuna's default is the median pruner, which would cut points out of a grid.
        self.study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.NopPruner(),
            sampler=optuna.samplers.RandomSampler(),
        )

    def trials(self) -> list[FrozenTrial]:
        """All trials as they stand now."""
        return self.study.get_trials(deepcopy=False)

    def enqueue(self, plan: Plan, unfinished: Collection[str]) -> int:
        """Queue every point that is neither over, running nor waiting; return how many.

        A point of ``unfinished`` is not over, whatever the study says: its result was removed.
        """
        over = {
            t.user_attrs["run_id"] for t in self.trials() if t.state == TrialState.COMPLETE
        }.difference(unfinished)
        live = {
            t.user_attrs["run_id"]
            for t in self.trials()
            if t.state in (TrialState.RUNNING, TrialState.WAITING)
        }
        todo = [p for p in plan.points if p.run_id not in over | live]
        for point in todo:
            self._add(point, plan, retries=0)
        return len(todo)

    def _add(self, point: Point, plan: Plan, retries: int) -> None:
        values: dict[str, list[Any]] = {}
        for p in plan.points:
            for key, value in p.params.items():
                seen = values.setdefault(key, [])
                if _choice(value) not in seen:
                    seen.append(_choice(value))
        params = {key: _choice(value) for key, value in point.params.items()}
        trial = create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions={key: CategoricalDistribution(values[key]) for key in params},
            user_attrs={"run_id": point.run_id, "role": point.role, "retries": retries},
        )
        self.study.add_trial(trial)

    def reap(self, plan: Plan, max_retries: int) -> list[str]:
        """Close running trials whose worker is gone, queue them again, return their run ids."""
        lost = []
        with self._turn():
            for trial in self.trials():
                if trial.state != TrialState.RUNNING:
                    continue
                owner = trial.user_attrs.get("worker")  # None: killed between ask and sign
                if owner is not None and not free_lock(self._worker_lock(owner)):
                    continue
                lost.append(trial.user_attrs["run_id"])
                self.lose(trial, plan, max_retries, "lost: its worker is gone")
        return lost

    def lose(self, trial: FrozenTrial | Trial, plan: Plan, max_retries: int, reason: str) -> None:
        """A point's process is gone through no fault of its own: fail it and queue it again."""
        run_id, retries = trial.user_attrs["run_id"], trial.user_attrs["retries"]
        self.tell_failed(trial, reason)
        if retries < max_retries:
            (point,) = (p for p in plan.points if p.run_id == run_id)
            self._add(point, plan, retries + 1)

    def _turn(self) -> AbstractContextManager[bool]:
        """Taking and reaping exclude each other: a taken trial is always signed."""
        return locked(self.directory / "queue.lock", say=False)

    # ---- a worker's side ---------------------------------------------------------------------

    def _worker_lock(self, worker: str) -> Path:
        return self.directory / "workers" / f"{worker}.lock"

    def sign_on(self) -> tuple[str, AbstractContextManager[bool]]:
        """A name for this worker, and the lock to hold while it lives."""
        worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        return worker, locked(self._worker_lock(worker))

    def take(self, worker: str) -> Trial | None:
        """The next waiting point, signed; None if there is none."""
        with self._turn():
            if not any(t.state == TrialState.WAITING for t in self.trials()):
                return None
            trial = self.study.ask()
            trial.set_user_attr("worker", worker)
            return trial

    def tell_complete(self, trial: Trial, value: float, status: str) -> None:
        """The point is measured; a diverged one with a bad finite value."""
        trial.set_user_attr("status", status)
        self.study.tell(trial, value)

    def tell_failed(self, trial: FrozenTrial | Trial, reason: str) -> None:
        """The point could not be run: say why."""
        live = trial if isinstance(trial, Trial) else Trial(self.study, trial._trial_id)
        live.set_user_attr("reason", reason[:5000])
        self.study.tell(live, state=TrialState.FAIL)

    # ---- how far it is -----------------------------------------------------------------------

    def num_waiting(self) -> int:
        """Points that a worker could take."""
        return sum(t.state == TrialState.WAITING for t in self.trials())

    def num_told(self) -> int:
        """Trials that have ended, however they did."""
        return sum(t.state.is_finished() for t in self.trials())

    def latest(self, plan: Plan) -> dict[str, FrozenTrial]:
        """The trial that speaks for each point: its last."""
        known = {p.run_id for p in plan.points}
        ordered = sorted(self.trials(), key=lambda t: t.number)
        return {t.user_attrs["run_id"]: t for t in ordered if t.user_attrs.get("run_id") in known}

    def counts(self, plan: Plan) -> dict[str, int]:
        """Points by how they stand: complete, diverged, failed, running, to_do."""
        counts = {"complete": 0, "diverged": 0, "failed": 0, "running": 0, "to_do": 0}
        latest = self.latest(plan)
        for point in plan.points:
            trial = latest.get(point.run_id)
            if trial is not None and trial.state == TrialState.COMPLETE:
                counts[trial.user_attrs["status"]] += 1
            elif trial is not None and trial.state == TrialState.FAIL:
                counts["failed"] += 1
            elif trial is not None and trial.state == TrialState.RUNNING:
                counts["running"] += 1
            else:
                counts["to_do"] += 1
        return counts

    def failures(self, plan: Plan) -> dict[str, str]:
        """Why each failed point failed."""
        return {
            run_id: trial.user_attrs.get("reason", "?")
            for run_id, trial in self.latest(plan).items()
            if trial.state == TrialState.FAIL
        }
