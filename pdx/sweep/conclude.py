"""The end of a sweep: its report, where to look further, and what failed."""

from pathlib import Path
from typing import Any

from pdx.env import Env
from pdx.errors import SweepError
from pdx.sweep.budget import Budget
from pdx.sweep.describe import where_to_compare
from pdx.sweep.plan import Plan
from pdx.sweep.study import Queue


def outcomes_of(queue: Queue) -> dict[str, dict[str, str]]:
    """How each run of the sweep ended, for the report: a pruned run has no result of its own."""
    found = {}
    for run_id, trial in queue.latest().items():
        state = trial.user_attrs.get("status", trial.state.name.lower())
        found[run_id] = {"state": state, "reason": trial.user_attrs.get("reason", "")}
    return found


def conclude(
    plan: Plan,
    env: Env,
    queue: Queue,
    log: Any,
    counts: dict[str, int],
    budget: Budget,
    logs: str,
) -> dict[str, int]:
    """Report, and say where to look; how many runs ended how.

    Raises:
        SweepError: runs failed, or were not run though the budget is not spent.
    """
    if counts["complete"] + counts["diverged"]:
        html, files = report(plan, env)
        log.attach(files)
        print(f"report: {html}")
    if link := log.compare_link():
        print(where_to_compare(env, link))
    print(f"look at the study: {queue.dashboard_command()}")
    not_run = counts["to_do"] + counts["running"]
    unconfirmed = (
        " Its best settings are not confirmed: that waits for every run of the search."
        if queue.waits_to_confirm
        else ""
    )
    if not_run and not counts["failed"] and budget.is_spent(queue):
        print(
            f"{plan.sweep_id}: the budget is spent with {not_run} runs to do; the same command "
            f"with a larger hydra.sweeper.budget goes on.{unconfirmed}"
        )
    elif counts["failed"] + not_run:
        reasons = "\n".join(f"  {run_id}: {why}" for run_id, why in queue.failures().items())
        raise SweepError(
            f"{plan.sweep_id}: {counts['failed']} runs failed and {not_run} were not run, "
            f"{counts['complete']} of {queue.num_runs} are complete; {logs}; the same command runs "
            f"what is left.{unconfirmed}\n{reasons}"
        )
    return counts


def report(plan: Plan, env: Env) -> tuple[Path, list[Path]]:
    """Tables, figures and report.html from the run folders."""
    from pdx.analysis.report import write_report  # pyright: ignore[reportMissingImports]

    files = write_report(plan.directory(env), env.paths.runs)
    return files.html, list(files.all)
