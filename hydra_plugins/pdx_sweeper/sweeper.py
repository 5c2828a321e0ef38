"""``hydra/sweeper=pdx``: hands the command line over to ``pdx.sweep.driver``."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class PdxSweeperConf:
    """Set by the command line: ``sweep=``, ``scale=``, the verb and the command as it was given."""

    _target_: str = "hydra_plugins.pdx_sweeper.sweeper.PdxSweeper"
    sweep: str | None = None
    scale: str | None = None
    action: str = "train"
    command: str = "pdx train -m"


class PdxSweeper(Sweeper):
    """Plans a grid, queues it in an Optuna study, and launches workers through Hydra's launcher."""

    def __init__(self, sweep: str | None, scale: str | None, action: str, command: str) -> None:
        self.sweep_name, self.scale, self.action = sweep, scale, action
        self.command = unquote(command)
        self.context: HydraContext
        self.config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's: what a launcher will need. Its task is not: workers are launched, not trials."""
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, report or run what the command line asks for."""
        from pdx.sweep.driver import drive

        return drive(self, arguments)


ConfigStore.instance().store(
    group="hydra/sweeper", name="pdx", node=PdxSweeperConf, provider="pdx_sweeper"
)
