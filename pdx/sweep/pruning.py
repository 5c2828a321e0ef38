"""Stopping runs early: Optuna's pruners, each run compared with its true peers only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from pdx.files import digest
from pdx.sweep.plan import Point
from pdx.sweep.storage import patient

GROUP = "peers"


def peers_of(point: Point) -> str:
    """Whom a run may be compared with: equal data, tokens, schedule and evaluations.

    A run whose learning rate has decayed further is ahead of one that is as good.
    """
    config = point.config
    return digest([config["schedule"], config["train"] | {"seed": 0}, config["data"]], 8)


class Pruning:
    """Reports a run's evaluations to its trial, and asks the pruner.

    Args:
        study: the sweep's, as it is opened to report to it.
        trial_id: the storage's, of the trial that the worker took.
        log: the run's ``metrics.jsonl``: one that goes on after a kill is another trial, and tells
            what the first had evaluated.
    """

    def __init__(
        self, study: optuna.Study, trial_id: int, pruner: Any, point: Point, log: Path
    ) -> None:
        self._study, self._pruner, self._log, self._step = study, pruner, log, 0
        self._trial = Trial(self._study, trial_id)
        group = peers_of(point)
        self._trial.set_user_attr(GROUP, group)
        peers: Any = _Peers(self._study._storage, group)
        self._peers = optuna.Study(study.study_name, peers, pruner=pruner)
        self._num_steps = point.facts["num_steps"]
        self._num_evals = point.config["train"]["num_evals"]

    def should_stop(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Report an evaluation, if it is one; whether the run is to stop."""
        if "val/loss" not in metrics:
            return False
        for line in self._log.read_text().splitlines():
            entry = json.loads(line)
            if "val/loss" in entry and self._step < entry["step"] < step:
                self._ask(entry["step"], entry["val/loss"])
        return self._ask(step, metrics["val/loss"])

    @patient
    def _ask(self, step: int, value: float) -> bool:
        """Pruners count shares of a run: evaluations, evenly spread over it."""
        self._step = step
        self._trial.report(value, round(step / self._num_steps * self._num_evals))
        frozen = self._study._storage.get_trial(self._trial._trial_id)
        return bool(self._pruner.prune(self._peers, frozen))


class _Peers:
    """A storage in which only the trials of one group are seen."""

    def __init__(self, storage: Any, group: str) -> None:
        self._storage, self._group = storage, group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*args, **kwargs)
        return [t for t in trials if t.user_attrs.get(GROUP) == self._group]
