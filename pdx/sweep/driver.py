"""The driver: from the command line's overrides to a finished, reported sweep."""

import sys
import threading
import time
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import locked, write_json
from pdx.sweep.across_seeds import AcrossSeeds
from pdx.sweep.budget import Budget
from pdx.sweep.conclude import conclude, report
from pdx.sweep.confirm import confirm_of
from pdx.sweep.definition import SEED_AXIS, Definition, define
from pdx.sweep.describe import describe, hours_of, status_of
from pdx.sweep.groups import check_groups
from pdx.sweep.interrupt import terminate_as_interrupt
from pdx.sweep.launch import launch, leave_ray, logs_of
from pdx.sweep.launchers import check_launcher, is_ray
from pdx.sweep.local import slots_of, workers_of
from pdx.sweep.optuna_parts import build_part
from pdx.sweep.plan import Plan, examples, has_plan, load_plan, pending, unfinished
from pdx.sweep.planner import make_plan
from pdx.sweep.progress import watch
from pdx.sweep.queue import Queue
from pdx.sweep.search import Method
from pdx.sweep.settings import Interval
from pdx.sweep.standing import standing_of
from pdx.sweep.studies import Studies
from pdx.sweep.winners import confirm_search
from pdx.sweep.worker import Prepare, Worker

CONFIRM_KEYS = ("hydra.sweeper.confirm.num_winners", "hydra.sweeper.confirm.seeds")
ENDING_SECONDS = 20.0  # for Ray to kill the tasks of a driver that left


def drive(sweeper: Any, arguments: list[str]) -> Any:
    """What ``-m`` does: plan, status, report, train, or join as a worker."""
    parser = OverridesParser.create(config_loader=sweeper.context.config_loader)
    definition = define(sweeper.sweep_name, sweeper.scale, arguments, sweeper.command, parser)

    def compose(overrides: list[str]) -> Any:
        return sweeper.context.config_loader.load_sweep_config(sweeper.config, overrides)

    method, budget = settings_of(sweeper.config, definition, compose)
    if {"hydra.sweeper.num_runs", *CONFIRM_KEYS} & _given(sweeper.config):
        definition = replace(definition, expected_runs=None)  # another count than the file's
    plan, env = make_plan(definition, compose, method)
    together: Any = sweeper.config.hydra.sweeper.students_per_worker
    check_groups(together, env, method)
    directory = plan.directory(env)
    if sweeper.action == "plan":
        from pdx.prepare import check_evaluations

        print(describe(plan, env, together))
        todo = pending(plan, env)
        budget.check_plan(plan, len(todo), hours_of(plan, env))
        check_evaluations([p.config for p in [*todo, *examples(plan)]])
        return None
    if sweeper.action == "status":
        print(status_of(plan, env))
        return None
    if sweeper.action == "report":
        from pdx.tracking.sweep import attach_to_sweep

        if has_plan(directory):  # what trained it, with all that it said of env
            trained = load_plan(directory)
            plan = replace(plan, command=trained.command, points=trained.points)
        plan.save(directory)
        html, files = report(plan, env)
        print(f"report: {html}")
        if why_not := attach_to_sweep(env, plan.sweep_id, files):
            print(f"not attached to MLflow: {why_not}")
        return None
    check_launcher(sweeper.config, env)
    if sweeper.action == "worker":
        return join(sweeper, plan, env, budget)
    budget.check_plan(plan, len(pending(plan, env)), hours_of(plan, env))
    return run_sweep(sweeper, plan, env, budget)


def settings_of(config: Any, definition: Definition, compose: Any) -> tuple[Method, Budget]:
    """How the sweep is run: the file's ``search`` and ``budget``, the command line on top.

    Raises:
        SweepError: settings that do not go together, or that Optuna refuses.
    """
    given = _given(config)
    from_file = [o for o in definition.sweeper if o.partition("=")[0] not in given]
    node = compose(from_file).hydra.sweeper if from_file else config.hydra.sweeper
    plain: Any = OmegaConf.to_container(node, resolve=True)
    method = Method(
        sampler=plain["sampler"] or {},
        pruner=plain["pruner"] or {},
        num_runs=plain["num_runs"],
        objectives=plain["objectives"],
        constraints=plain["constraints"],
        confirm=confirm_of(plain["confirm"]),
    )
    for part, kind in ((method.sampler, "sampler"), (method.pruner, "pruner")):
        built = build_part(part, f"hydra/sweeper/{kind}") if part else None
        if isinstance(built, AcrossSeeds):
            seeds = definition.axes.get(SEED_AXIS, ())
            num_seeds = 0 if isinstance(seeds, Interval) else len(seeds)
            built.check(num_seeds, method.is_search)
    budget = Budget(**plain["budget"])
    budget.check()
    return method, budget


def _given(config: Any) -> set[str]:
    """The keys of Hydra's own that the command line sets."""
    return {o.partition("=")[0].lstrip("+~") for o in config.hydra.overrides.hydra}


def run_sweep(sweeper: Any, plan: Plan, env: Env, budget: Budget) -> dict[str, int]:
    """Run what is not finished, then report. Running it again is always safe.

    Raises:
        SweepError: another driver holds this sweep, or points failed (each named, with its reason).
    """
    from pdx.tracking.sweep import SweepLog

    directory = plan.directory(env)
    with locked(directory / "driver.lock", wait=False) as got, terminate_as_interrupt():
        if not got:
            raise SweepError(
                f"{plan.sweep_id}: another process is driving it ({directory}); `pdx status` with "
                "the same arguments shows how far it is, `pdx worker` helps it."
            )
        plan.save(directory)
        queue = Queue(directory, plan, env.storage)
        # Creates MLflow's database before any worker starts.
        log = SweepLog.open(env, plan.sweep_id, plan.question, plan.command, plan.num_runs)
        try:
            queue.reap(env.max_retries)
            left = {p.run_id for p in pending(plan, env)}
            queue.enqueue(left)
            confirming, now = confirm_search(queue, env), standing_of(queue)
            todo = len(left) + queue.num_tickets()
            todo += now.num_confirm if confirming is None else len(unfinished(confirming, env))
            print(
                f"{plan.sweep_id}: {'up to ' if now.waits_to_confirm else ''}{now.num_runs} "
                f"runs, {now.num_runs - todo} finished, {todo} to do",
                file=sys.stderr,
            )
            if queue.num_waiting():
                name = f"{plan.sweep_id}-prepare"
                for failure in launch(sweeper, Prepare(str(directory)), 1, name, env.outputs):
                    raise failure
            if budget.hours is not None:
                budget = replace(budget, until=time.time() + budget.hours * 3600)
            _work(sweeper, env, queue, budget)
            waits = standing_of(queue).waits_to_confirm and not budget.is_spent(queue)
            if waits and (confirming := confirm_search(queue, env)):
                print(
                    f"{plan.sweep_id}: the search is over; {len(confirming)} runs confirm its "
                    "best on fresh seeds",
                    file=sys.stderr,
                )
                _work(sweeper, env, queue, budget)
        finally:
            queue.reap(env.max_retries)
            end = standing_of(queue)
            log.close_lost(end.failures)
            log.finish(end.counts)
            write_json(directory / "outcomes.json", end.outcomes)
        logs = logs_of(sweeper.config, directory, env.outputs)
        return conclude(queue, env, end, log, budget, logs)


def _work(sweeper: Any, env: Env, queue: Queue, budget: Budget) -> None:
    """Launch workers until nothing waits: again where the last one was lost with its point."""
    plan = queue.plan

    def is_over() -> bool:
        queue.reap(env.max_retries)
        # In this order: a trial that is taken in between counts twice, and not never.
        left = queue.num_waiting() + standing_of(queue).counts["running"]
        return not left or budget.is_spent(queue)

    stop = threading.Event()
    watched = (queue, env, workers_of(env), stop)
    watcher = threading.Thread(target=watch, args=watched, daemon=True)
    if queue.num_waiting():
        watcher.start()
    try:
        while not is_over():
            waiting, told = queue.num_waiting(), queue.num_told()
            if not waiting:  # workers that this driver did not launch are at the rest
                time.sleep(1.0)
                continue
            num_workers = min(workers_of(env), waiting)
            task = worker_of(sweeper, plan, env, budget, num_workers)
            failures = launch(sweeper, task, num_workers, plan.sweep_id, env.outputs, is_over)
            for failure in failures:
                print(f"warning: {failure}", file=sys.stderr)
            if queue.num_told() == told and queue.num_waiting() == waiting:
                return  # no worker could take what waits
    except BaseException:  # Ctrl-C, SIGTERM
        if is_ray(sweeper.config):
            leave_ray()
            deadline = time.monotonic() + ENDING_SECONDS
            while standing_of(queue).counts["running"] and time.monotonic() < deadline:
                time.sleep(0.5)
                queue.reap(env.max_retries)
        raise
    finally:
        stop.set()
        if watcher.is_alive():
            watcher.join()


def worker_of(sweeper: Any, plan: Plan, env: Env, budget: Budget, num_workers: int) -> Worker:
    """What every job of the launcher runs."""
    return Worker(
        directory=str(plan.directory(env).absolute()),
        storage=env.storage,
        num_workers=num_workers,
        slots=slots_of(env),
        isolation=env.isolation,
        max_retries=env.max_retries,
        budget=budget,
        students_per_worker=sweeper.config.hydra.sweeper.students_per_worker,
    )


def join(sweeper: Any, plan: Plan, env: Env, budget: Budget) -> int:
    """Help a sweep that was started elsewhere, until nothing waits."""
    directory = plan.directory(env)
    if not has_plan(directory):
        raise SweepError(
            f"{plan.sweep_id}: not started ({directory} holds no plan.json); start it with "
            f"`{plan.command}`, or set env.outputs to where it was started."
        )
    plan = load_plan(directory)
    waiting = Studies(directory, plan, env.storage).num_waiting()
    if not waiting:
        print(f"{plan.sweep_id}: nothing waits to be run")
        return 0
    num_workers = min(workers_of(env), waiting)
    task = worker_of(sweeper, plan, env, budget, num_workers)
    with terminate_as_interrupt():
        name = f"{plan.sweep_id}-joined"
        for failure in launch(sweeper, task, num_workers, name, env.outputs):
            print(f"warning: {failure}", file=sys.stderr)
    print(f"{plan.sweep_id}: nothing waits any more; the driver reports")
    return num_workers
