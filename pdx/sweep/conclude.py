"""The end of a sweep: its report, where to look further, and what failed."""

from pathlib import Path
from typing import Any

from pdx.env import Env
from pdx.errors import SweepError
from pdx.sweep.budget import Budget
from pdx.sweep.describe import where_to_compare
from pdx.sweep.plan import Plan
from pdx.sweep.standing import Standing
from pdx.sweep.studies import Studies


def conclude(
    studies: Studies,
    env: Env,
    standing: Standing,
    log: Any,
    budget: Budget,
    logs: str,
) -> dict[str, int]:
    """Report, and say where to look; how many runs ended how.

    Raises:
        SweepError: runs failed, or were not run though the budget is not spent.
    """
    plan, counts = studies.plan, standing.counts
    if counts["complete"] + counts["diverged"]:
        html, files = report(plan, env)
        log.attach(files)
        print(f"report: {html}")
    if link := log.compare_link():
        print(where_to_compare(env, link))
    print(f"look at the study: {studies.dashboard_command()}")
    not_run = counts["to_do"] + counts["running"]
    unconfirmed = (
        " Its best settings are not confirmed: that waits for every run of the search."
        if standing.waits_to_confirm
        else ""
    )
    if not_run and not counts["failed"] and budget.is_spent(studies):
        print(
            f"{plan.sweep_id}: the budget is spent with {not_run} runs to do; the same command "
            f"with a larger hydra.sweeper.budget goes on.{unconfirmed}"
        )
    elif counts["failed"] + not_run:
        reasons = "\n".join(f"  {run_id}: {why}" for run_id, why in standing.failures.items())
        raise SweepError(
            f"{plan.sweep_id}: {counts['failed']} runs failed and {not_run} were not run, "
            f"{counts['complete']} of {standing.num_runs} are complete; {logs}; the same command "
            f"runs what is left.{unconfirmed}\n{reasons}"
        )
    return counts


def report(plan: Plan, env: Env) -> tuple[Path, list[Path]]:
    """Tables, figures and report.html from the run folders."""
    from pdx.analysis.report import write_report  # pyright: ignore[reportMissingImports]

    files = write_report(plan.directory(env), env.paths.runs)
    return files.html, list(files.all)
