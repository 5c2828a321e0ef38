"""``hydra/sweeper=pdx``: hands the command line over to ``pdx.sweep.driver``."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class BudgetConf:
    """What a sweep may use; null for no limit.

    Attributes:
        num_runs: runs trained, retries not counted twice.
        gpu_hours: slot hours over all runs (a slot is a GPU, or a core where there is none).
        hours: wall time of one command.
    """

    num_runs: int | None = None
    gpu_hours: float | None = None
    hours: float | None = None


@dataclass
class ConfirmConf:
    """What runs the best of a search again; null for nothing.

    Attributes:
        num_winners: how many settings at most.
        seeds: of the student; fresh ones, on which the controls run, too.
    """

    num_winners: int | None = None
    seeds: list[int] = field(default_factory=list)


@dataclass
class PdxSweeperConf:
    """How a sweep is run; the command line sets the first five.

    Attributes:
        sampler: of a search (``hydra/sweeper/sampler=tpe``); empty for a grid.
        pruner: stops runs early (``hydra/sweeper/pruner=asha``); empty for none.
        num_runs: how many runs a search draws in all.
        objectives: metrics or facts of a result to minimize; ``-name`` to maximize.
        constraints: upper bounds by metric or fact; a run beyond one is not feasible.
        confirm: how the best of a search are run again.
        budget: what the sweep may use.
        students_per_worker: runs that share a process, each batch and the teacher's word on it;
            where runs are placed, and no part of what they are.
    """

    defaults: list[Any] = field(
        # Ours first: else the empty sampler below wins over the one that is named.
        default_factory=lambda: ["_self_", {"sampler": "grid"}, {"pruner": "none"}]
    )
    _target_: str = "hydra_plugins.pdx_sweeper.sweeper.PdxSweeper"
    _recursive_: bool = False
    sweep: str | None = None
    scale: str | None = None
    action: str = "train"
    command: str = "pdx train -m"
    overrides: list[str] = field(default_factory=list)
    sampler: Any = None
    pruner: Any = None
    num_runs: int | None = None
    objectives: list[str] = field(default_factory=lambda: ["val/loss"])
    constraints: dict[str, float] = field(default_factory=dict)
    confirm: ConfirmConf = field(default_factory=ConfirmConf)
    budget: BudgetConf = field(default_factory=BudgetConf)
    students_per_worker: int = 1


class PdxSweeper(Sweeper):
    """Plans a grid or a search, queues it in Optuna, and launches workers by Hydra's launcher."""

    def __init__(
        self,
        sweep: str | None,
        scale: str | None,
        action: str,
        command: str,
        overrides: list[str],
        **_settings: Any,
    ) -> None:
        self.sweep_name, self.scale, self.action = sweep, scale, action
        self.command, self.overrides = unquote(command), [unquote(o) for o in overrides]
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

        return drive(self, [*self.overrides, *arguments])


def _settings() -> DictConfig:
    """The settings as Hydra merges them, into a config to which else no key can be added."""
    node = OmegaConf.structured(PdxSweeperConf)
    OmegaConf.set_struct(node.constraints, False)  # its keys are the user's
    return node


ConfigStore.instance().store(
    group="hydra/sweeper", name="pdx", node=_settings(), provider="pdx_sweeper"
)
