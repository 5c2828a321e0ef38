"""Giving up a setting that loses seed by seed: Wilcoxon's test, on whole runs and never on curves.

The evaluations of one run are no independent measurements, so a rank test over them says nothing.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from pdx.errors import SweepError
from pdx.sweep.definition import SEED_AXIS
from pdx.sweep.plan import Point
from pdx.sweep.pruning import GROUP, peers_of
from pdx.sweep.search import category
from pdx.sweep.storage import patient


class AcrossSeeds:
    """Skips the rest of a setting's seeds once it loses to the best setting, paired by seed.

    Settings are compared at equal data, tokens and schedule, by the final ``val/loss`` of the
    seeds that both have finished. A seed that runs is left to end.

    Args:
        p_threshold: of the one-sided signed-rank test below which a setting is given up. With n
            seeds it cannot be below 2^-n.
        num_startup_seeds: seeds that every setting is given.

    Source:
        Wilcoxon 1945, doi:10.2307/3001968, through optuna.pruners.WilcoxonPruner.
    """

    def __init__(self, p_threshold: float, num_startup_seeds: int) -> None:
        if num_startup_seeds < 2:
            raise ValueError(f"num_startup_seeds={num_startup_seeds}: must be at least 2")
        self.num_startup_seeds = num_startup_seeds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._test = optuna.pruners.WilcoxonPruner(
                p_threshold=p_threshold, n_startup_steps=num_startup_seeds
            )

    def check(self, num_seeds: int, is_search: bool) -> None:
        """Refuse a sweep in which there is nothing to compare.

        Raises:
            SweepError: a search, or too few seeds.
        """
        if is_search or num_seeds <= self.num_startup_seeds:
            has = "a search has one seed" if is_search else f"train.seed has {num_seeds} values"
            raise SweepError(
                f"hydra/sweeper/pruner=wilcoxon: compares settings after {self.num_startup_seeds} "
                f"seeds of each, and {has}; use a grid with more, such as train.seed=range(8), or "
                "hydra/sweeper/pruner=none."
            )

    @patient
    def loses(self, study: optuna.Study, trial_id: int, point: Point) -> bool:
        """Whether the seeds of this point's setting that are finished make its next one a waste."""
        storage, group = study._storage, peers_of(point)
        storage.set_trial_user_attr(trial_id, GROUP, group)  # as the trials of its peers carry it
        mine = _setting(point.params)
        settings: dict[str, dict[int, float]] = {mine: {}}
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.user_attrs.get(GROUP) == group and trial.user_attrs.get("role") == "axis":
                seeds = settings.setdefault(_setting(trial.params), {})
                seeds[int(trial.params[SEED_AXIS])] = trial.values[0]
        own = settings.pop(mine)
        others = [{k: s[k] for k in own} for s in settings.values() if own.keys() <= s.keys()]
        if not others or len(own) < self.num_startup_seeds:
            return False
        best = min(others, key=lambda seeds: sum(seeds.values()))
        return self._test.prune(_study_of(best), _trial_of(own))


def _setting(params: Mapping[str, Any]) -> str:
    return repr(sorted((k, str(category(v))) for k, v in params.items() if k != SEED_AXIS))


def _trial_of(losses: Mapping[int, float]) -> Any:
    mean = sum(losses.values()) / len(losses)
    return create_trial(value=mean, intermediate_values=dict(losses))


def _study_of(losses: Mapping[int, float]) -> optuna.Study:
    study = optuna.create_study()
    study.add_trial(_trial_of(losses))
    return study
