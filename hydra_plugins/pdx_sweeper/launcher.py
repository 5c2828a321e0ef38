"""``hydra/launcher=pdx_local``: each job a process of its own, on a slot of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class PdxLocalConf:
    """No settings: GPUs are those of ``env.gpus``."""

    _target_: str = "hydra_plugins.pdx_sweeper.launcher.PdxLocal"


class PdxLocal(Launcher):
    """Runs jobs on this machine, workers all at once; a lost job takes no other down."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every job, wait for all."""
        from pdx.sweep.local import launch

        return launch(self.context, self.task, self.config, job_overrides, initial_job_idx)


ConfigStore.instance().store(
    group="hydra/launcher", name="pdx_local", node=PdxLocalConf, provider="pdx_sweeper"
)
