"""The driver: from the command line's overrides to a finished, reported sweep."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import locked
from pdx.sweep.definition import define
from pdx.sweep.describe import describe, status_of
from pdx.sweep.interrupt import terminate_as_interrupt
from pdx.sweep.launchers import check_launcher, launch
from pdx.sweep.local import visible_gpus
from pdx.sweep.plan import Plan, pending
from pdx.sweep.planner import make_plan
from pdx.sweep.progress import watch
from pdx.sweep.study import Queue
from pdx.sweep.worker import Prepare, Worker


def drive(sweeper: Any, arguments: list[str]) -> Any:
    """What ``-m`` does: plan, status, report or train."""
    parser = OverridesParser.create(config_loader=sweeper.context.config_loader)
    definition = define(sweeper.sweep_name, sweeper.scale, arguments, sweeper.command, parser)

    def compose(overrides: list[str]) -> Any:
        return sweeper.context.config_loader.load_sweep_config(sweeper.config, overrides)

    plan, env = make_plan(definition, compose)
    directory = plan.directory(env)
    if sweeper.action == "plan":
        print(describe(plan, env))
        return None
    if sweeper.action == "status":
        print(status_of(plan, env))
        return None
    if sweeper.action == "report":
        plan.save(directory)
        print(f"report: {report(plan, env)[0]}")
        return None
    check_launcher(sweeper.config, env)
    return run_sweep(sweeper, plan, env)


def run_sweep(sweeper: Any, plan: Plan, env: Env) -> dict[str, int]:
    """Run what is not finished, then report. Running it again is always safe.

    Raises:
        SweepError: another driver holds this sweep, or points failed (each named, with its reason).
    """
    from pdx.tracking import SweepLog

    directory = plan.directory(env)
    with locked(directory / "driver.lock", wait=False) as got, terminate_as_interrupt():
        if not got:
            raise SweepError(
                f"{plan.sweep_id}: another process is driving it ({directory}); `pdx status` with "
                "the same arguments shows how far it is."
            )
        plan.save(directory)
        queue = Queue(directory)
        log = SweepLog(env, plan.sweep_id)  # creates MLflow's database before any worker starts
        log.start(plan.question, plan.command, len(plan.points))
        try:
            queue.reap(plan, env.max_retries)
            todo = pending(plan, env)
            queue.enqueue(plan, {p.run_id for p in todo})
            print(
                f"{plan.sweep_id}: {len(plan.points)} runs, {len(plan.points) - len(todo)} "
                f"finished, {queue.num_waiting()} queued",
                file=sys.stderr,
            )
            if todo:
                name = f"{plan.sweep_id}-prepare"
                for failure in launch(sweeper, Prepare(str(directory)), 1, name, env.outputs):
                    raise failure
            _work(sweeper, plan, env, queue)
        finally:
            queue.reap(plan, env.max_retries)
            log.close_lost(queue.failures(plan))
            counts = queue.counts(plan)
            log.finish(counts)
        return _conclude(plan, env, queue, log, counts)


def _work(sweeper: Any, plan: Plan, env: Env, queue: Queue) -> None:
    """Launch workers until nothing waits: again where the last one was lost with its point."""
    gpus = tuple(visible_gpus(env.gpus))

    def is_over() -> bool:
        queue.reap(plan, env.max_retries)
        return not queue.num_waiting() + queue.counts(plan)["running"]

    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(plan, env, stop), daemon=True)
    if queue.num_waiting():
        watcher.start()
    try:
        while not is_over():
            waiting, told = queue.num_waiting(), queue.num_told()
            if not waiting:  # workers that this driver did not launch are at the rest
                time.sleep(1.0)
                continue
            num_workers = min(workers_of(env), waiting)
            task = Worker(
                str(plan.directory(env)), num_workers, gpus, env.isolation, env.max_retries
            )
            failures = launch(sweeper, task, num_workers, plan.sweep_id, env.outputs, is_over)
            for failure in failures:
                print(f"warning: {failure}", file=sys.stderr)
            if queue.num_told() == told and queue.num_waiting() == waiting:
                return  # no worker could take what waits
    finally:
        stop.set()
        if watcher.is_alive():
            watcher.join()


def _conclude(
    plan: Plan, env: Env, queue: Queue, log: Any, counts: dict[str, int]
) -> dict[str, int]:
    if counts["complete"] + counts["diverged"]:
        html, files = report(plan, env)
        log.attach(files)
        print(f"report: {html}")
    if link := log.compare_link():
        print(f"compare in MLflow: run `pdx ui`, then open http://127.0.0.1:5000{link}")
    not_run = counts["to_do"] + counts["running"]
    if counts["failed"] + not_run:
        reasons = "\n".join(f"  {run_id}: {why}" for run_id, why in queue.failures(plan).items())
        raise SweepError(
            f"{plan.sweep_id}: {counts['failed']} runs failed and {not_run} were not run, "
            f"{counts['complete']} of {len(plan.points)} are complete; logs are in "
            f"{plan.directory(env) / 'workers'}; the same command runs what is left.\n{reasons}"
        )
    return counts


def report(plan: Plan, env: Env) -> tuple[Path, list[Path]]:
    """Tables, figures and report.html from the run folders."""
    from pdx.analysis.report import write_report  # pyright: ignore[reportMissingImports]

    files = write_report(plan.directory(env), env.paths.runs)
    return files.html, [files.html, *files.figures, files.table]


def workers_of(env: Env) -> int:
    """Runs at once: as asked, or one a GPU, or one a core."""
    if env.num_workers != "auto":
        return env.num_workers
    return len(visible_gpus(env.gpus)) or len(os.sched_getaffinity(0))
