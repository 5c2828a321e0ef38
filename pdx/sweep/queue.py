"""The queue: every run of a sweep is a trial of its studies, and waits until it is taken."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pdx.sweep.plan import Plan, Point
from pdx.sweep.presence import is_alive
from pdx.sweep.search import category
from pdx.sweep.settings import Axis, Interval
from pdx.sweep.storage import patient
from pdx.sweep.studies import Studies

UNSIGNED = timedelta(seconds=10)  # between taking and signing lie milliseconds, unless one dies


class Queue(Studies):
    """The studies of a sweep, as its driver and workers change them.

    A running trial belongs to a worker, and is lost exactly when its worker is gone.
    """

    def __init__(self, directory: Path, plan: Plan, storage_url: str | None = None) -> None:
        super().__init__(directory, plan, storage_url)
        self._distributions = _distributions(plan)

    # ---- the driver's side -------------------------------------------------------------------

    def enqueue(self, unfinished: Collection[str]) -> int:
        """Queue every point that is neither over, running nor waiting; return how many.

        A point of ``unfinished`` is not over, whatever the study says: its result was removed.
        The longest come first, so that no slot is left with a long one at the end.
        """
        num = self._add_missing(self.planned, self.plan.points, unfinished, self._distributions)
        return num + self._add_tickets()

    def confirm(self, points: Sequence[Point], unfinished: Collection[str]) -> int:
        """Queue, as ``enqueue`` does, runs that confirm a search."""
        assert self.confirming is not None
        return self._add_missing(self.confirming, points, unfinished, {})

    def _add_missing(
        self,
        study: optuna.Study,
        points: Sequence[Point],
        unfinished: Collection[str],
        distributions: Mapping[str, BaseDistribution],
    ) -> int:
        state: dict[str, set[TrialState]] = {}
        for trial in self.trials():
            state.setdefault(trial.user_attrs["run_id"], set()).add(trial.state)
        todo = []
        for point in points:
            found = state.get(point.run_id, set())
            live = found & {TrialState.RUNNING, TrialState.WAITING}
            over = TrialState.PRUNED in found or (
                TrialState.COMPLETE in found and point.run_id not in unfinished
            )
            if not live and not over:
                todo.append(point)
        for point in sorted(todo, key=_cost, reverse=True):
            params = {k: v for k, v in _params(point).items() if k in distributions}
            self._add(study, params, distributions, _attrs(point, 0))
        return len(todo)

    @patient
    def _add(
        self,
        study: optuna.Study,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attrs: dict[str, Any],
    ) -> None:
        study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=dict(params),
                distributions={key: distributions[key] for key in params},
                user_attrs=attrs,
            )
        )

    def _add_tickets(self) -> int:
        """A search's draws wait as trials without parameters: no race draws one too many."""
        if self.drawn is None:
            return 0
        trials = self.drawn.get_trials(deepcopy=False)
        alive = [t for t in trials if t.state != TrialState.FAIL and not is_double(t)]
        missing = max(0, self.plan.method.num_runs - len(alive))
        for _ in range(missing):
            self._add_ticket(self.drawn)
        return missing

    def _add_ticket(self, study: optuna.Study) -> None:
        self._add(study, {}, {}, {"role": "search", "retries": 0})

    @patient
    def reap(self, max_retries: int) -> list[str]:
        """Close running trials whose worker is gone, queue them again, return their run ids."""
        lost = []
        for trial in self.all_trials(TrialState.RUNNING):
            owner = trial.user_attrs.get("worker")
            if owner is None:  # killed between taking and signing, or about to sign
                assert trial.datetime_start is not None
                now = datetime.now(trial.datetime_start.tzinfo)
                gone = now - trial.datetime_start > UNSIGNED
            else:
                gone = not is_alive(self.directory, owner)
            if gone and self.lose(trial, max_retries, "lost: its worker is gone"):
                lost.append(trial.user_attrs.get("run_id", "not drawn yet"))
        return lost

    # ---- a worker's side ---------------------------------------------------------------------

    @patient
    def take(self, worker: str, among: Collection[str] | None = None) -> Trial | None:
        """The next waiting trial, signed; None if there is none.

        Args:
            among: of these runs only, and of none that is to be run by itself.
        """
        for study in self.studies:
            for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                attrs = waiting.user_attrs
                if among is not None and ("alone" in attrs or attrs.get("run_id") not in among):
                    continue
                with suppress(UpdateFinishedTrialError):
                    if self.storage.set_trial_state_values(
                        waiting._trial_id, state=TrialState.RUNNING
                    ):
                        trial = Trial(study, waiting._trial_id)
                        trial.set_user_attr("worker", worker)
                        return trial
        return None

    @patient
    def group(self, trials: Sequence[Trial]) -> None:
        """Note that these share a process."""
        for trial in trials:
            trial.set_user_attr("group_size", len(trials))

    @patient
    def draw(self, trial: Trial, sampler: Any, points: dict[str, Point]) -> Point | None:
        """What a trial without parameters becomes; None if it is forbidden, and another waits."""
        search, study = self.plan.search, self.drawn
        assert study is not None
        study.sampler = sampler
        settings = search.draw(lambda key, axis: _suggest(trial, key, axis))
        reason = search.rules.reason_against({s.key: s.value for s in settings})
        if reason is not None:
            self._add_ticket(study)
            self.tell_failed(trial, f"forbidden: {reason}")
            return None
        point = search.point(settings)
        if point.run_id in points:
            self._add_ticket(study)
            trial.set_user_attr("double", True)
        points[point.run_id] = point
        trial.set_user_attr("run_id", point.run_id)
        return point

    @patient
    def tell_complete(self, trial: Trial, values: list[float], status: str) -> None:
        """The point is measured; a diverged one with a bad finite value."""
        with suppress(UpdateFinishedTrialError):  # told, but the answer was lost
            trial.set_user_attr("status", status)
            trial.study.tell(trial, values)

    @patient
    def tell_pruned(self, trial: Trial) -> None:
        """The point was stopped early: worse than its peers."""
        with suppress(UpdateFinishedTrialError):
            trial.study.tell(trial, state=TrialState.PRUNED)

    @patient
    def tell_failed(self, trial: FrozenTrial | Trial, reason: str) -> bool:
        """The point could not be run: say why. False if somebody else has told of it."""
        trial_id = trial._trial_id
        try:
            self.storage.set_trial_user_attr(trial_id, "reason", reason[:5000])
            self.storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True

    def lose(self, trial: FrozenTrial | Trial, max_retries: int, reason: str) -> bool:
        """A point's process is gone through no fault of its own: fail it and queue it again.

        Of a group it may have been the fault of another: each is tried by itself then.
        """
        if not self.tell_failed(trial, reason):
            return False
        attrs = trial.user_attrs
        if "group_size" in attrs:
            self.put_back(trial, attrs["retries"], alone=True)
        elif attrs["retries"] < max_retries:
            self.put_back(trial, attrs["retries"] + 1)
        return True

    def put_back(self, trial: FrozenTrial | Trial, retries: int, alone: bool = False) -> None:
        """Queue again what a trial stood for: its point, or its draw."""
        kept = {k: v for k, v in trial.user_attrs.items() if k in ("run_id", "role", "alone")}
        if alone:
            kept["alone"] = True
        params = trial.params if "run_id" in kept else {}
        study = self.of(trial.user_attrs["role"])
        self._add(study, params, trial.distributions, kept | {"retries": retries})


def _cost(point: Point) -> float:
    return point.facts.get("flops_train_exact") or 0.0


def _params(point: Point) -> dict[str, Any]:
    return {key: category(value) for key, value in point.params.items()}


def _attrs(point: Point, retries: int) -> dict[str, Any]:
    return {"run_id": point.run_id, "role": point.role, "retries": retries}


def is_double(trial: FrozenTrial) -> bool:
    """Whether a search drew a run that it had drawn before."""
    return bool(trial.user_attrs.get("double"))


def _distributions(plan: Plan) -> dict[str, BaseDistribution]:
    """The values of each axis over all points, as Optuna's plots and importances want them."""
    values: dict[str, dict[Any, None]] = {}
    for point in plan.points:
        for key, value in _params(point).items():
            values.setdefault(key, {})[(type(value), value)] = None
    return {k: CategoricalDistribution([v for _, v in found]) for k, found in values.items()}


def _suggest(trial: Trial, key: str, axis: Axis) -> Any:
    if not isinstance(axis, Interval):
        return trial.suggest_categorical(key, [category(s.value) for s in axis])
    if axis.is_integer:
        step = int(axis.step or 1)
        return trial.suggest_int(key, int(axis.low), int(axis.high), step=step, log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)
