"""Inside a job: the folder, the modules, the GPU and the cores of the command that launched it."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pdx.sweep.interrupt import interrupt_once


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
