"""Where and on what runs go: never part of what a run is."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf

from pdx.build import build, check
from pdx.errors import ConfigError
from pdx.paths import Outputs, conf_dir

ISOLATION = ("forkserver", "inline")
SHARDINGS = ("replicate", "fsdp")
PASSWORDS = {
    "storage": "put it into ~/.pgpass (PostgreSQL's, read on every node) or PGPASSWORD",
    "tracking_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
}


@dataclass(frozen=True, kw_only=True)
class Env:
    """The machine's side of a run.

    Attributes:
        outputs: directory of everything that is written.
        tracking_uri: MLflow's; null for a SQLite file in ``outputs``.
        experiment: MLflow's experiment.
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus: ``auto`` (all that are visible), a list of indices, or null for none.
        gpus_per_run: processes that train one run together, each on a GPU of its own (or a part of
            the CPU): the batch is divided over them, and the run is the same run.
        sharding: ``replicate`` keeps the whole student on each of them; ``fsdp`` a shard of it,
            for students that one GPU cannot hold.
        workers_per_gpu: runs at once on one GPU.
        num_workers: runs at once; ``auto`` is one a slot (``workers_per_gpu`` of each GPU), or one
            a CPU core.
        storage: URL of the database that keeps a sweep's study, for workers on hosts that cannot
            lock files in ``outputs``; null for a journal in the sweep's directory. Without its
            password, as ``tracking_uri``.
        shared_stores: URL that fsspec reads (``s3://bucket/stores``) where logits stores are looked
            for before they are captured, and put once they are; null for none.
        tflops: model FLOPs that one slot does in a second, in 1e12, for the hours of a plan; null
            if it is not known.
        compile_capture: whether torch.compile makes one pass over the vocabulary of the ten that a
            capture takes, which wants a C compiler; null: on a GPU. The last bits of what is kept
            in float32 may differ, as they do between devices.
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
    workers_per_gpu: int
    gpus_per_run: int
    sharding: str
    num_workers: Any
    storage: str | None
    shared_stores: str | None
    tflops: float | None
    compile_capture: bool | None
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
        check(self.gpus_per_run >= 1, "env.gpus_per_run", self.gpus_per_run, "must be at least 1")
        check(
            self.sharding in SHARDINGS,
            "env.sharding",
            self.sharding,
            f"must be one of {', '.join(SHARDINGS)}",
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
        check(
            self.workers_per_gpu >= 1,
            "env.workers_per_gpu",
            self.workers_per_gpu,
            "must be at least 1",
        )
        check(
            self.storage is None or "://" in self.storage,
            "env.storage",
            self.storage,
            "must be null or a URL such as postgresql+psycopg://USER@HOST/NAME",
        )
        for key, instead in PASSWORDS.items():
            check(
                not re.search(r"://[^:/@]*:.*@", str(getattr(self, key))),
                f"env.{key}",
                without_password(str(getattr(self, key))),
                f"holds a password, which every run's config and the sweep's plan would keep; "
                f"leave it out of the URL and {instead}",
            )
        check(
            self.shared_stores is None or "://" in self.shared_stores,
            "env.shared_stores",
            self.shared_stores,
            "must be null or a URL such as s3://BUCKET/stores or file:///mnt/stores",
        )
        check(
            self.tflops is None or self.tflops > 0,
            "env.tflops",
            self.tflops,
            "must be null or > 0: model FLOPs a second, in 1e12",
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

    @property
    def mlflow_server(self) -> str | None:
        """The address of MLflow's pages; None where `pdx ui` has to serve a store first."""
        is_server = self.mlflow_uri.startswith(("http://", "https://"))
        return self.mlflow_uri.rstrip("/") if is_server else None


def default_env(given: Mapping[str, Any]) -> Env:
    """What conf/ says of a machine, with what was said of it on a command line.

    Raises:
        ConfigError: a value that no machine has.
    """
    node = OmegaConf.load(conf_dir() / "env" / "local.yaml")
    for key, value in given.items():
        OmegaConf.update(node, key, value)
    return build(node, "env")  # type: ignore[arg-type]


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"://([^:/@]*):.*@", r"://\1:...@", url)


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
