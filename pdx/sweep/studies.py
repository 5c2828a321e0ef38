"""The Optuna studies of a sweep, in which every run of it is a trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdx.sweep.plan import CONFIRM, Plan
from pdx.sweep.storage import open_storage, patient


def study_name(sweep_id: str, role: str) -> str:
    """Of the study in which runs of a role stand."""
    return f"{sweep_id}/{role}" if role in ("search", CONFIRM) else sweep_id


class Studies:
    """The studies of a sweep, to be read; ``pdx.sweep.queue`` changes them.

    Points that are known stand in one study; what a search draws stands in another, so that
    controls teach the sampler nothing, and what confirms it in a third.
    """

    def __init__(self, directory: Path, plan: Plan, storage_url: str | None = None) -> None:
        self.directory, self.plan, self.storage_url = directory, plan, storage_url
        self.storage = open_storage(storage_url, directory)
        directions = plan.method.directions if plan.method else ["minimize"]
        self.planned = self._open("axis", directions)
        self.studies = [self.planned]
        self.drawn: optuna.Study | None = None
        self.confirming: optuna.Study | None = None
        if plan.search is not None:
            self.drawn = self._open("search", directions)
            self.confirming = self._open(CONFIRM, directions)
            self.studies += [self.drawn, self.confirming]

    @patient
    def _open(self, role: str, directions: Sequence[Any]) -> optuna.Study:
        # No pruner and no sampler: Optuna's default pruner would cut points out of a grid.
        return optuna.create_study(
            storage=self.storage,
            study_name=study_name(self.plan.sweep_id, role),
            load_if_exists=True,
            directions=directions,
            pruner=optuna.pruners.NopPruner(),
            sampler=optuna.samplers.RandomSampler(),
        )

    def of(self, role: str) -> optuna.Study:
        """The study in which runs of a role stand."""
        study = {"search": self.drawn, CONFIRM: self.confirming}.get(role, self.planned)
        assert study is not None
        return study

    @patient
    def all_trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials as they stand now, or those in some states."""
        asked = states or None
        return [t for s in self.studies for t in s.get_trials(deepcopy=False, states=asked)]

    def trials(self) -> list[FrozenTrial]:
        """All trials that speak of a run: what a search has still to draw does not."""
        return [t for t in self.all_trials() if "run_id" in t.user_attrs]

    def num_waiting(self) -> int:
        """Trials that a worker could take."""
        return len(self.all_trials(TrialState.WAITING))

    def num_told(self) -> int:
        """Trials that have ended, however they did."""
        return sum(t.state.is_finished() for t in self.all_trials())

    def num_tickets(self) -> int:
        """Runs that a search has still to draw."""
        return sum("run_id" not in t.user_attrs for t in self.all_trials(TrialState.WAITING))

    def dashboard_command(self) -> str:
        """How to look at the study with optuna-dashboard."""
        return f"optuna-dashboard {self.storage_url or self.directory / 'journal.log'}"
