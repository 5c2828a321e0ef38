"""Points, run here: what a worker's forkserver preloads.

Importing this module must not touch CUDA: runs are forks of a process that imported it.
"""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import optuna
import torch

# Seconds each, paid once a worker: what a run would import at its first use. MLflow's store and
# its database's drivers are among it.
import transformers.models.llama.modeling_llama  # noqa: F401

from pdx.checkpoint import Paused
from pdx.config import run_of_resolved
from pdx.device import use_threads
from pdx.env import Env
from pdx.errors import PdxError, RankLost
from pdx.execute import execute
from pdx.files import read_json
from pdx.known import know
from pdx.sweep.across_seeds import AcrossSeeds
from pdx.sweep.isolated import PREPARED, Outcome, Task
from pdx.sweep.optuna_parts import build_part
from pdx.sweep.plan import CONFIRM
from pdx.sweep.pruning import Pruning
from pdx.sweep.storage import open_storage
from pdx.sweep.studies import study_name
from pdx.together import ALONE, Group, Seat
from pdx.tracking.connect import load_stores
from pdx.tracking.run import RunLog
from pdx.tracking.sweep import SweepLog

load_stores()


def run_points(
    tasks: list[Task], must_end: Callable[[], bool], tell: Callable[[int, Outcome], None]
) -> None:
    """Run points here and tell of each as it ends; several of them in turns, a thread each."""
    if len(tasks) == 1:
        tell(0, run_point(tasks[0], must_end))
        return
    # In the order of their ids they take the locks of their folders, whatever process they are in:
    # of two groups with two runs in common none then waits for the other for ever.
    order = sorted(range(len(tasks)), key=lambda number: tasks[number].point.run_id)
    group = Group(len(tasks))

    def run(seat_number: int, number: int) -> None:
        with group.seat(seat_number) as seat:
            tell(number, run_point(tasks[number], must_end, seat))

    threads = [threading.Thread(target=run, args=places) for places in enumerate(order)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_point(
    task: Task, must_end: Callable[[], bool] = lambda: False, seat: Seat = ALONE
) -> Outcome:
    """Run a point here, with MLflow and its pruner told of it from its start to its end."""
    ready = time.monotonic()
    try:
        return _run_point(task, must_end, ready, seat)
    except Exception as err:  # a config that no longer builds, MLflow gone: told in the study
        traceback.print_exc()
        return Outcome("failed", reason=f"{type(err).__name__}: {err}")


def _run_point(task: Task, must_end: Callable[[], bool], ready: float, seat: Seat) -> Outcome:
    use_threads(task.num_threads)
    point, prepared = task.point, read_json(task.directory / PREPARED)
    know(prepared["known"])
    run, env = run_of_resolved(point.config)
    if run.run_id != point.run_id:
        return Outcome(
            "failed",
            reason=f"planned as {point.run_id} and now {run.run_id}: the corpus or the code "
            "changed since the sweep was planned; run the sweep's command again.",
        )
    pruner = _pruner_of(task)
    if isinstance(pruner, AcrossSeeds) and pruner.loses(_study(task), task.trial_id, point):
        return Outcome("pruned", reason="its setting loses to the best one seed by seed")
    parent = SweepLog.known(env, task.sweep_id, prepared["experiment"], prepared["parent"])
    log = RunLog(env, run.run_id, "run", point.params, parent, point.label, {"role": point.role})
    observe = log.observe
    if pruner is not None and not isinstance(pruner, AcrossSeeds):
        observe = _with_pruner(pruner, task, env, log.observe)

    def told_to_end() -> bool:
        return must_end() or (task.deadline is not None and time.time() > task.deadline)

    try:
        result = execute(
            run, env, observe, quiet=True, must_end=told_to_end, ready=ready, seat=seat
        )
        log.dataset(type(run.data).__name__, result["facts"]["data_digest"], str(env.paths.data))
        log.finish(result, env.paths.runs / run.run_id)
        if result["status"] == "pruned":
            return Outcome("pruned", reason=result["reason"])
        method = task.method
        values, violations = method.values(result), method.violations(result)
        return Outcome(result["status"], values, violations, result["reason"])
    except Paused as err:
        log.end("paused", str(err), "KILLED")
        return Outcome("paused", reason=str(err))
    except (torch.OutOfMemoryError, MemoryError) as err:
        outcome = Outcome("oom", reason=f"out of memory: {err}")
    except RankLost as err:  # nothing is wrong with the run: it is worth another try
        outcome = Outcome("lost", reason=str(err))
    except PdxError as err:
        outcome = Outcome("failed", reason=f"{type(err).__name__}: {err}")
    except Exception as err:  # a bug in one point must not end the sweep
        traceback.print_exc()
        outcome = Outcome("failed", reason=f"{type(err).__name__}: {err}")
    assert outcome.reason is not None
    log.end(outcome.status, outcome.reason, "FAILED")
    return outcome


def _pruner_of(task: Task) -> Any:
    """What may stop this run. Controls, and runs that confirm, are never pruned."""
    if not task.method.pruner or task.point.role in ("control", CONFIRM):
        return None
    return build_part(task.method.pruner, "hydra/sweeper/pruner")


def _study(task: Task) -> optuna.Study:
    name = study_name(task.sweep_id, task.point.role)
    nobody = optuna.pruners.NopPruner()
    return optuna.Study(name, open_storage(task.storage, task.directory), pruner=nobody)


def _with_pruner(
    pruner: Any, task: Task, env: Env, observe: Callable[[int, dict[str, float]], bool]
) -> Callable[[int, dict[str, float]], bool]:
    """``observe``, and then the pruner's word."""
    log = env.paths.runs / task.point.run_id / "metrics.jsonl"
    pruning = Pruning(_study(task), task.trial_id, pruner, task.point, log)

    def observed(step: int, metrics: dict[str, float]) -> bool:
        return observe(step, metrics) or pruning.should_stop(step, metrics)

    return observed
