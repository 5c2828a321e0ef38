"""Launchers that others wrote: what must hold before one starts, and how its jobs are followed."""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from pdx.env import Env
from pdx.errors import ConfigError, SweepError
from pdx.sweep.interrupt import interrupt_once

# The launchers of Hydra's own plugins, and the extra of pdx that installs each.
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "joblib": "joblib"}

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


def check_launcher(config: DictConfig, env: Env) -> None:
    """Refuse what a launcher could not run, before anything is planned or started.

    Raises:
        ConfigError: its extra is not installed, Slurm is not here, the number of workers cannot be
            known, or MLflow's store is one that several machines may not share.
    """
    name = str(config.hydra.runtime.choices["hydra/launcher"])
    target = str(config.hydra.launcher.get("_target_"))
    if not _installed(target.rpartition(".")[0]) or (_is_ray(target) and not _installed("ray")):
        raise ConfigError(missing_extra(name))
    if is_slurm(config) and shutil.which("sbatch") is None:
        raise ConfigError(
            f"hydra/launcher={name}: sbatch is not on PATH of {socket.gethostname()}; run this "
            "where jobs are submitted from, or leave hydra/launcher out to use this machine alone."
        )
    if spans_machines(config) and env.num_workers == "auto":
        raise ConfigError(
            f"env.num_workers=auto: counts the GPUs and cores of this machine, and {name} places "
            "workers on others; say how many, such as env.num_workers=8."
        )
    check_tracking(env, config)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _is_submitit(target: str) -> bool:
    return target.startswith("hydra_plugins.hydra_submitit_launcher.")


def _is_ray(target: str) -> bool:
    return target.endswith(".RayLauncher")


def missing_extra(name: str) -> str:
    """What to do about a launcher that is not installed."""
    extra = EXTRAS.get(name, name)
    return (
        f"hydra/launcher={name}: is not installed; run: python -m pip install 'pdx[{extra}]' "
        f"(in a checkout: pip install -c constraints.txt -e '.[{extra}]')."
    )


def check_tracking(env: Env, config: DictConfig) -> None:
    """Refuse MLflow's SQLite file where workers are on several machines.

    SQLite's locks do not hold over network file systems: records are lost, or the file is.
    """
    if not spans_machines(config) or not env.mlflow_uri.startswith("sqlite"):
        return
    name, host = config.hydra.runtime.choices["hydra/launcher"], socket.gethostname()
    root = env.paths.root.resolve()
    raise ConfigError(
        f"env.tracking_uri={env.tracking_uri or 'null'}: is a SQLite file, which workers on many "
        f"machines ({name}) may not share; start a server on a machine that they all reach, such "
        f"as this one:\n  MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 "
        f"--host 0.0.0.0 --port 5000 --allowed-hosts '{host}:5000' "
        f"--backend-store-uri {env.paths.mlflow_uri} "
        f"--artifacts-destination {(root / 'mlartifacts').as_uri()}\n"
        f"and add env.tracking_uri=http://{host}:5000 to the command."
    )


def is_slurm(config: DictConfig) -> bool:
    """Whether jobs go to Slurm, whatever the launcher's config is called."""
    return str(config.hydra.launcher.get("_target_")).endswith(".SlurmLauncher")


def spans_machines(config: DictConfig) -> bool:
    """Whether jobs may run on other machines than this one: Slurm, or a Ray that was there."""
    node = config.hydra.launcher
    if _is_ray(str(node.get("_target_"))):
        return OmegaConf.select(node, "ray.init.address") not in (None, "local")
    return is_slurm(config)


# ---- in the driver -------------------------------------------------------------------------------


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
    own = str(sweeper.config.hydra.launcher._target_).startswith("hydra_plugins.pdx_sweeper.")
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
    node = config.hydra.launcher
    given = {o.partition("=")[0].lstrip("+") for o in config.hydra.overrides.hydra}
    if _is_submitit(str(node._target_)):
        wanted = SUBMITIT | (SLURM if is_slurm(config) else {})
        wanted |= {"name": name, "submitit_folder": f"{outputs}/submitit/%j"}
    elif _is_ray(str(node._target_)):
        wanted = RAY
    else:
        wanted = {}
    changed = config.copy()
    with open_dict(changed):
        for key, value in wanted.items():
            if f"hydra.launcher.{key}" not in given:
                OmegaConf.update(changed.hydra.launcher, key, value)
    return changed


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


# ---- in a job ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A task in the folder, and with the modules, of the command that launched it.

    A cluster's daemons have another working directory and another PYTHONPATH.
    """

    task: Any
    directory: str
    pythonpath: str

    def __call__(self, cfg: Any) -> Any:
        os.chdir(self.directory)
        if self.pythonpath:
            os.environ["PYTHONPATH"] = self.pythonpath  # for the processes of runs
            sys.path[:0] = [p for p in self.pythonpath.split(os.pathsep) if p not in sys.path]
        if "SUBMITIT_EXECUTOR" in os.environ:
            interrupt_once()  # scancel's SIGTERM, which submitit ignores until it is a SIGKILL
        if hasattr(self.task, "slot_of"):
            take_slot(self.task.slot_of(HydraConfig.get().job.num))
        return self.task(cfg)


def scheduled() -> bool:
    """Whether a scheduler placed this process, and says which GPUs and cores it has."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm" or _ray_context() is not None


def take_slot(slot: str | None) -> None:
    """Pin this process to a GPU, before CUDA is touched; what Slurm or Ray has set stands."""
    if slot is not None and not scheduled():
        os.environ["CUDA_VISIBLE_DEVICES"] = slot


def threads_here(num_workers: int) -> int:
    """Threads of a run: the cores that a scheduler gave, else this machine's, shared evenly."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return int(os.environ.get("SLURM_CPUS_PER_TASK", 1))
    if context := _ray_context():
        return max(1, int(context.get_assigned_resources().get("CPU", 1)))
    return max(1, len(os.sched_getaffinity(0)) // num_workers)


def _ray_context() -> Any:
    """Ray's, in a task of Ray; None elsewhere, and Ray is not imported to find out."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context if context.get_task_id() else None
