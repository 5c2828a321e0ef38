"""Workers through Hydra's launcher: its defaults mended, its jobs followed to the end."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from pdx.errors import SweepError
from pdx.sweep.launchers import is_pdx, is_ray, is_slurm, is_submitit
from pdx.sweep.placed import Placed

# What a launcher's own defaults get wrong for workers (they are meant for one short job each).
SUBMITIT = {
    "timeout_min": 1440,  # 60, and submitit ends what takes longer
    "stderr_to_stdout": True,  # one log a worker
}
SLURM = {
    "max_num_timeout": 1000,  # 0; a worker out of time is queued again, and its run goes on
    "cpus_per_task": 1,  # unset, and then SLURM_CPUS_PER_TASK is not set either
    "setup": ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],  # srun forgets it since 22.05
}
RAY = {
    "ray.init.object_store_memory": None,  # a number, with which Ray refuses to join a cluster
    "ray.init.log_to_driver": False,  # every worker's bars in one terminal
}
POLL_SECONDS = 2.0
LATE_SECONDS = 10.0  # a result may reach a shared disk after its job's end
GONE_SECONDS = 120.0  # the longest that Slurm takes to end a cancelled job: KillWait and its epilog


def launch(
    sweeper: Any,
    task: Any,
    count: int,
    name: str,
    outputs: str,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Exception]:
    """Run ``count`` jobs of ``task`` through Hydra's launcher; return how jobs failed.

    Others' launchers raise the first failure and leave the rest running, and wait for jobs that a
    cluster never starts. So the sweep's state decides: once ``is_over()``, nothing is waited for.
    """
    own = is_pdx(sweeper.config)
    config = sweeper.config if own else settled(sweeper.config, name, outputs)
    placed = task if own else Placed(task, os.getcwd(), os.environ.get("PYTHONPATH", ""))
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=sweeper.context, task_function=placed
    )
    jobs: Sequence[Sequence[str]] = [[] for _ in range(count)]
    if is_slurm(config):
        return _follow(launcher, jobs, str(config.hydra.launcher.name), is_over)
    return _failures(launcher, jobs)


def settled(config: DictConfig, name: str, outputs: str) -> DictConfig:
    """The config with what a launcher needs in order to hold workers, where nobody set it.

    The defaults of others are for one short job each: what the command line does not name, and is
    still as the launcher's authors left it, gets pdx's.
    """
    given = {o.partition("=")[0].lstrip("+") for o in config.hydra.overrides.hydra}
    if is_submitit(config):
        wanted = SUBMITIT | (SLURM if is_slurm(config) else {})
        wanted |= {"name": name, "submitit_folder": f"{outputs}/submitit/%j"}
    elif is_ray(config):
        wanted = RAY
    else:
        wanted = {}
    changed = config.copy()
    with open_dict(changed):
        for key, value in wanted.items():
            if f"hydra.launcher.{key}" not in given:
                OmegaConf.update(changed.hydra.launcher, key, value)
    return changed


def leave_ray() -> None:
    """End what this driver started in Ray, which ends the tasks of a driver that leaves.

    Hydra's launcher keeps no hold on them: interrupted, it leaves them running.
    """
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def logs_of(config: DictConfig, directory: Path, outputs: str) -> str:
    """Where a launcher's jobs wrote what they said, for whoever asks why a run failed."""
    if is_pdx(config):
        return f"logs are in {directory / 'workers'}"
    if is_submitit(config):
        folder = str(settled(config, "", outputs).hydra.launcher.submitit_folder)
        return f"logs are in {folder.partition('%')[0].rstrip('/')}, a folder a job"
    if is_ray(config):
        return "Ray keeps its workers' logs, in session_latest/logs of each node's temporary folder"
    return "its jobs wrote to this terminal"


def _failures(launcher: Any, jobs: Sequence[Sequence[str]]) -> list[Exception]:
    try:
        returned: Sequence[JobReturn] = launcher.launch(jobs, 0)
    except Exception as err:  # of whatever type a scheduler's client raises
        return [err]
    return [
        r._return_value if isinstance(r._return_value, Exception) else SweepError(str(r.status))
        for r in returned
        if r.status != JobStatus.COMPLETED
    ]


def _follow(
    launcher: Any, jobs: Sequence[Sequence[str]], name: str, is_over: Callable[[], bool]
) -> list[Exception]:
    """Run jobs in Slurm; cancel what is left of them at the end, and on Ctrl-C.

    submitit learns of a killed job from ``sacct``, which is silent where no accounting is set up:
    ``squeue`` always answers.
    """
    import submitit  # noqa: F401  # pyright: ignore[reportMissingImports]  sets its own log level

    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns of sacct every few seconds
    failures: list[Exception] = []
    thread = threading.Thread(
        target=lambda: failures.extend(_failures(launcher, jobs)), daemon=True
    )
    thread.start()
    seen = False
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            queued = _queued(name)
            if is_over() or (seen and not queued):
                thread.join(LATE_SECONDS)
                break
            seen = seen or queued
    finally:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["scancel", f"--name={name}"], check=False, capture_output=True)
        deadline = time.monotonic() + GONE_SECONDS
        while _queued(name) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    if thread.is_alive() and not is_over():
        failures.append(SweepError("Slurm: its jobs ended without a result; see their logs"))
    return failures


def _queued(name: str) -> bool:
    """Whether Slurm still has jobs of this name; an answer that does not come counts as yes."""
    asked = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%i"]
    done = subprocess.run(asked, check=False, capture_output=True, text=True)
    return done.returncode != 0 or bool(done.stdout.strip())
