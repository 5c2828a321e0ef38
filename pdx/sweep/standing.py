"""How a sweep stands: the last word on each of its runs."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from pdx.sweep.confirm import decided_runs
from pdx.sweep.studies import Studies


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    Attributes:
        latest: the trial that speaks for each run: its last.
        num_runs: in all; of those that confirm the most, until it is known which they are.
        num_confirm: of all runs those that confirm a search, or may.
        waits_to_confirm: whether a search is to be confirmed, and is not over.
    """

    latest: dict[str, FrozenTrial]
    num_runs: int
    num_confirm: int
    waits_to_confirm: bool

    @property
    def counts(self) -> dict[str, int]:
        """Runs by how they stand: complete, diverged, pruned, failed, running, to_do."""
        counts = dict.fromkeys(("complete", "diverged", "pruned", "failed", "running"), 0)
        for trial in self.latest.values():
            if trial.state == TrialState.COMPLETE:
                counts[trial.user_attrs["status"]] += 1
            elif trial.state == TrialState.PRUNED:
                counts["pruned"] += 1
            elif trial.state == TrialState.FAIL:
                counts["failed"] += 1
            elif trial.state == TrialState.RUNNING:
                counts["running"] += 1
        return counts | {"to_do": max(0, self.num_runs - sum(counts.values()))}

    @property
    def failures(self) -> dict[str, str]:
        """Why each failed run failed."""
        return {
            run_id: trial.user_attrs.get("reason", "?")
            for run_id, trial in self.latest.items()
            if trial.state == TrialState.FAIL
        }

    @property
    def outcomes(self) -> dict[str, dict[str, str]]:
        """How each run ended, for the report: a pruned run has no result of its own."""
        found = {}
        for run_id, trial in self.latest.items():
            state = trial.user_attrs.get("status", trial.state.name.lower())
            found[run_id] = {"state": state, "reason": trial.user_attrs.get("reason", "")}
        return found


def standing_of(studies: Studies) -> Standing:
    """Look at the studies, and at what confirms a search where that is decided."""
    plan = studies.plan
    most = plan.num_confirm
    decided = decided_runs(studies.directory, plan) if most else None
    known = {p.run_id for p in plan.points} | set(decided or ())
    ordered = sorted(studies.trials(), key=lambda t: t.number)
    latest = {
        t.user_attrs["run_id"]: t
        for t in ordered
        if t.user_attrs["role"] == "search" or t.user_attrs["run_id"] in known
    }
    num_confirm = most if decided is None else len(decided)
    return Standing(
        latest=latest,
        num_runs=plan.num_runs - most + num_confirm,
        num_confirm=num_confirm,
        waits_to_confirm=most > 0 and decided is None,
    )
