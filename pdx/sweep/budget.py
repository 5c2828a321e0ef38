"""What a sweep may use, and what is left of it."""

import time
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import TrialState

from pdx.errors import SweepError
from pdx.sweep.plan import Plan
from pdx.sweep.studies import Studies

WORTH_SECONDS = 1.0  # less than this is no time to run anything in


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep; None for no limit.

    Attributes:
        num_runs: runs that one command trains.
        gpu_hours: slot hours over all runs of the sweep, those of earlier commands included.
        hours: wall time of one command.
        until: when ``hours`` end, in seconds since 1970; set when the sweep starts.
    """

    num_runs: int | None = None
    gpu_hours: float | None = None
    hours: float | None = None
    until: float | None = None

    def check(self) -> None:
        """Refuse a limit that leaves nothing.

        Raises:
            SweepError: one that is not above zero.
        """
        for name in ("num_runs", "gpu_hours", "hours"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SweepError(
                    f"hydra.sweeper.budget.{name}={value}: cannot hold one run; give it more than "
                    "0, or null for no limit."
                )

    def check_plan(self, plan: Plan, num_todo: int, hours_of: dict[str, float] | None) -> None:
        """Refuse a plan that goes over, before anything of it runs.

        Args:
            num_todo: runs that are not finished.
            hours_of: slot hours of each of them, where the throughput is stated.

        Raises:
            SweepError: over budget, or a budget that cannot hold one run.
        """
        if self.num_runs is not None and num_todo > self.num_runs:
            raise SweepError(
                f"hydra.sweeper.budget.num_runs={self.num_runs}: {num_todo} runs are to do; raise "
                "it, or narrow the axes."
            )
        if self.gpu_hours is None or not hours_of:
            return
        least, total = min(hours_of.values()), sum(hours_of.values())
        if least > self.gpu_hours:
            raise SweepError(
                f"hydra.sweeper.budget.gpu_hours={self.gpu_hours}: cannot hold one run; the "
                f"shortest takes {least:.3g} h at env.tflops; raise it, or run smaller ones."
            )
        if plan.search is None and total > self.gpu_hours:
            raise SweepError(
                f"hydra.sweeper.budget.gpu_hours={self.gpu_hours}: the plan takes {total:.3g} h at "
                "env.tflops; raise it, or narrow the axes."
            )

    def seconds_left(self, studies: Studies) -> float | None:
        """How long a run that starts now may take; None for as long as it likes.

        What is left of slot hours is shared between the runs under way, itself included.
        """
        left = [self.until - time.time()] if self.until is not None else []
        if self.gpu_hours is not None:
            used, running = used_seconds(studies)
            left.append((self.gpu_hours * 3600 - used) / max(1, running))
        return min(left) if left else None

    def is_spent(self, studies: Studies) -> bool:
        """Whether nothing more can be run."""
        left = self.seconds_left(studies)
        return left is not None and left < WORTH_SECONDS


def used_seconds(studies: Studies) -> tuple[float, float]:
    """Slot seconds over all trials so far, those that run included, and how many slots run.

    The runs of a group have one slot together.
    """
    seconds, running = 0.0, 0.0
    for trial in studies.all_trials():
        if trial.datetime_start is None or trial.state == TrialState.WAITING:
            continue
        now = datetime.now(trial.datetime_start.tzinfo)
        end = trial.datetime_complete or now
        share = 1 / trial.user_attrs.get("group_size", 1)
        seconds += (end - trial.datetime_start).total_seconds() * share
        running += share * (trial.state == TrialState.RUNNING)
    return seconds, running
