"""Slurm and Ray, each of two nodes with two workers: where its workers are, and how a node dies."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from cluster import script


@dataclass(frozen=True)
class Slurm:
    """A Slurm of its own in a folder."""

    folder: Path
    script: ClassVar[str] = "slurm.sh"
    plugin: ClassVar[str] = "hydra_plugins.hydra_submitit_launcher"

    @property
    def environ(self) -> dict[str, str]:
        """What a terminal needs in order to reach it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> list[str]:
        """Start what is lost of it; the overrides that send workers to it."""
        script(self.script, "up", self.folder)
        return ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_task=1"]

    def is_worker(self, process: psutil.Process, node: str) -> bool:
        """Whether a process holds one of a node's jobs, and not srun, which names it as well."""
        environ = process.environ()
        ours = environ.get("SLURM_CONF") == self.environ["SLURM_CONF"]
        job = "submitit.core._submit" in process.cmdline() and process.name() != "srun"
        return ours and job and environ.get("SLURMD_NODENAME") == node


@dataclass(frozen=True)
class Ray:
    """A Ray cluster of its own in a folder."""

    folder: Path
    script: ClassVar[str] = "ray.sh"
    plugin: ClassVar[str] = "hydra_plugins.hydra_ray_launcher"
    environ: ClassVar[dict[str, str]] = {"RAY_AUTH_MODE": "disabled"}

    def up(self) -> list[str]:
        """Start what is lost of it; the overrides that send workers to it."""
        address = script(self.script, "up", self.folder).split()[-1]
        asked = ["hydra/launcher=ray", "+hydra.launcher.ray.remote.num_gpus=1"]
        return [*asked, f"hydra.launcher.ray.init.address={address}"]

    def is_worker(self, process: psutil.Process, node: str) -> bool:
        """Whether a process holds a task of a node."""
        mine = process.environ().get("PDX_RAY_NODE") == str(self.folder / node)
        return mine and process.name().startswith("ray::")


def workers(scheduler: Slurm | Ray, *nodes: str) -> list[psutil.Process]:
    """The processes of workers on these nodes that hold a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(scheduler.is_worker(process, node) for node in nodes) and process.children():
                found.append(process)
        except psutil.Error:
            continue
    return found
