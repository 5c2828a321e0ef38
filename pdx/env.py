"""Where and on what runs go: never part of what a run is."""

import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pdx.build import check
from pdx.errors import ConfigError
from pdx.paths import Outputs

ISOLATION = ("forkserver", "inline")


@dataclass(frozen=True, kw_only=True)
class Env:
    """The machine's side of a run.

    Attributes:
        outputs: directory of everything that is written.
        tracking_uri: MLflow's; null for a SQLite file in ``outputs``.
        experiment: MLflow's experiment.
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus: ``auto`` (all that are visible), a list of indices, or null for none.
        num_workers: runs at once; ``auto`` is one a GPU, or one a CPU core.
        isolation: ``forkserver`` gives each run of a sweep a process of its own; ``inline`` runs
            it in the worker, for launchers whose processes may not have children.
        checkpoint_seconds: least time between two checkpoints.
        max_retries: how often a run whose process was lost is queued again.
        packages: packages besides pdx whose classes may be axis values; their code is run.
    """

    outputs: str
    tracking_uri: str | None
    experiment: str
    device: str
    gpus: Any
    num_workers: Any
    isolation: str
    checkpoint_seconds: float
    max_retries: int
    packages: list[str]

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            self.device in ("auto", "cpu", "cuda"),
            "env.device",
            self.device,
            "must be auto, cpu or cuda",
        )
        check(
            self.gpus in ("auto", None)
            or (isinstance(self.gpus, list) and all(isinstance(i, int) for i in self.gpus)),
            "env.gpus",
            self.gpus,
            "must be auto, null or a list of indices such as [0,1]",
        )
        check(
            self.num_workers == "auto"
            or (isinstance(self.num_workers, int) and self.num_workers >= 1),
            "env.num_workers",
            self.num_workers,
            "must be auto or at least 1",
        )
        check(
            self.isolation in ISOLATION,
            "env.isolation",
            self.isolation,
            f"must be one of {', '.join(ISOLATION)}",
        )
        check(self.max_retries >= 0, "env.max_retries", self.max_retries, "must be >= 0")

    def check_outputs(self) -> None:
        """Refuse an output directory that cannot be written to.

        Raises:
            ConfigError: it is a file, or nothing can be made in it.
        """
        _check_writable(self.outputs)

    @property
    def paths(self) -> Outputs:
        """The output directory."""
        return Outputs(Path(self.outputs))

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow's records go."""
        return self.tracking_uri or self.paths.mlflow_uri


@lru_cache(maxsize=64)
def _check_writable(outputs: str) -> None:
    """Make a folder where ``outputs`` is or would be, and remove it: permissions alone lie."""
    place = Path(outputs).absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".tmp-pdx-"):
            pass
    except OSError as err:
        raise ConfigError(
            f"env.outputs={outputs}: nothing can be written there ({err.strerror}: {place}); "
            "name a directory that this user can write to."
        ) from err
