"""One point, run here: what a worker's forkserver preloads.

Importing this module must not touch CUDA: runs are forks of a process that imported it.
"""

import traceback

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  seconds, paid once a worker

from pdx.config import run_of_resolved
from pdx.errors import PdxError, RankLost
from pdx.execute import execute, use_threads
from pdx.sweep.isolated import Outcome
from pdx.sweep.plan import Point
from pdx.tracking import RunLog, SweepLog


def run_point(point: Point, sweep_id: str, num_threads: int) -> Outcome:
    """Run a point here, with MLflow told of it from its start to its end."""
    try:
        return _run_point(point, sweep_id, num_threads)
    except Exception as err:  # a config that no longer builds, MLflow gone: told in the study
        traceback.print_exc()
        return Outcome("failed", reason=f"{type(err).__name__}: {err}")


def _run_point(point: Point, sweep_id: str, num_threads: int) -> Outcome:
    use_threads(num_threads)
    run, env = run_of_resolved(point.config)
    if run.run_id != point.run_id:
        return Outcome(
            "failed",
            reason=f"planned as {point.run_id} and now {run.run_id}: the corpus or the code "
            "changed since the sweep was planned; run the sweep's command again.",
        )
    tags = {"role": point.role}
    log = RunLog(env, point.run_id, "run", point.params, SweepLog(env, sweep_id), point.label, tags)
    try:
        result = execute(run, env, log.observe, quiet=True)
        log.dataset(type(run.data).__name__, result["facts"]["data_digest"], str(env.paths.data))
        log.finish(result, env.paths.runs / run.run_id)
        return Outcome(result["status"], result["metrics"]["val/loss"], result["reason"])
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
    log.fail(outcome.reason)
    return outcome
