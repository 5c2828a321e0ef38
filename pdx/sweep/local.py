"""The local launcher: a process per job, a GPU or a core per process."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from pdx.env import Env
from pdx.errors import PdxError, SweepError
from pdx.sweep.interrupt import die_with_parent, interrupt_once

POLL_SECONDS = 0.5


def visible_gpus(gpus: Any) -> list[str]:
    """The GPUs to use, by what CUDA_VISIBLE_DEVICES would call them; torch is not asked.

    Raises:
        SweepError: an index that is not there.
    """
    if gpus is None:
        return []
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if inherited is not None:
        present = [g for g in inherited.split(",") if g]
    else:
        present = [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]
    if gpus == "auto":
        return present
    if missing := [i for i in gpus if i >= len(present) and present]:
        raise SweepError(
            f"env.gpus={gpus}: {missing} are not there; {len(present)} are visible; use auto, "
            "null or a list of indices below that."
        )
    return [present[i] if present else str(i) for i in gpus]


def slots_of(env: Env) -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES of each slot on this machine; empty where there is no GPU.

    A slot is ``env.gpus_per_run`` GPUs. Each stands in it once before any stands in it twice.

    Raises:
        SweepError: fewer GPUs than one run takes.
    """
    gpus, size = visible_gpus(env.gpus), env.gpus_per_run
    if gpus and len(gpus) < size:
        raise SweepError(
            f"env.gpus_per_run={size}: {len(gpus)} are visible (env.gpus={env.gpus}); use at most "
            "that many."
        )
    groups = [gpus[i : i + size] for i in range(0, len(gpus) - size + 1, size)]
    return tuple(",".join(group) for group in groups) * env.workers_per_gpu


def workers_of(env: Env) -> int:
    """Runs at once: as asked, or one a slot, or one a core."""
    if env.num_workers != "auto":
        return env.num_workers
    return len(slots_of(env)) or max(1, len(os.sched_getaffinity(0)) // env.gpus_per_run)


def launch(
    context: HydraContext,
    task: Any,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run every job in a process of its own; return when all have ended.

    A task that says where each job's log goes and which GPU it gets (``log_of``, ``slot_of``)
    runs in all of them at once. Jobs of another sweeper know nothing of each other: they run one
    after another, each with the terminal, every core and every GPU.
    """
    spawn = multiprocessing.get_context("spawn")
    jobs: list[tuple[list[str], Any, Connection]] = []
    results: list[JobReturn] = []
    try:
        for job, overrides in enumerate(job_overrides, first):
            if not hasattr(task, "slot_of"):
                results += [_collect(*j) for j in jobs[len(results) :]]
            ours, theirs = spawn.Pipe(duplex=False)
            log = task.log_of(job) if hasattr(task, "log_of") else None
            slot = task.slot_of(job) if hasattr(task, "slot_of") else None
            payload = cloudpickle.dumps(
                (Singleton.get_state(), context, task, config, list(overrides), job, log, slot)
            )
            process = spawn.Process(target=_job, args=(payload, theirs))
            process.start()
            theirs.close()
            jobs.append((list(overrides), process, ours))
        return results + [_collect(*j) for j in jobs[len(results) :]]
    except BaseException:  # Ctrl-C, SIGTERM: nothing is left running behind
        for _, process, _ in jobs:
            process.terminate()
        raise
    finally:
        for _, process, _ in jobs:
            process.join()


def _collect(overrides: list[str], process: Any, pipe: Connection) -> JobReturn:
    try:
        while not pipe.poll(POLL_SECONDS):
            pass  # a signal that another thread got does not end a blocked read
        return pipe.recv()
    except EOFError:
        process.join()
        lost = JobReturn(overrides=overrides, status=JobStatus.FAILED)
        lost.return_value = SweepError(f"a worker was lost (exit code {process.exitcode})")
        return lost


def _job(payload: bytes, pipe: Connection) -> None:
    die_with_parent()
    interrupt_once()
    state, context, task, config, overrides, job, log, slot = cloudpickle.loads(payload)
    if slot is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot  # before anything touches CUDA
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            sys.stdout.flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = job
    HydraConfig.instance().set_config(composed)
    result = run_job(
        hydra_context=context,
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    failure = result._return_value
    if isinstance(failure, Exception) and not isinstance(failure, PdxError):
        traceback.print_exception(failure)  # which no pipe carries
    result.hydra_cfg = None  # holds classes that plain pickle cannot name
    pipe.send(result)
    pipe.close()
