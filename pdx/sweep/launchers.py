"""Which launcher a sweep was given, and what is refused of it before anything starts."""

import shutil
import socket
from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from pdx.env import Env
from pdx.errors import ConfigError

# The launchers of Hydra's own plugins, and the extra of pdx that installs each.
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "joblib": "joblib"}


def check_launcher(config: DictConfig, env: Env) -> None:
    """Refuse what a launcher could not run, before anything is planned or started.

    Raises:
        ConfigError: its extra is not installed, Slurm is not here, the number of workers cannot be
            known, or MLflow's store is one that several machines may not share.
    """
    name = str(config.hydra.runtime.choices["hydra/launcher"])
    module = _target(config).rpartition(".")[0]
    if not _installed(module) or (is_ray(config) and not _installed("ray")):
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


def is_pdx(config: DictConfig) -> bool:
    """Whether jobs are processes of the driver's own, on this machine."""
    return _target(config).startswith("hydra_plugins.pdx_sweeper.")


def is_submitit(config: DictConfig) -> bool:
    """Whether submitit starts the jobs, in Slurm or here; a config of one's own counts, too."""
    return _target(config).startswith("hydra_plugins.hydra_submitit_launcher.")


def is_slurm(config: DictConfig) -> bool:
    """Whether jobs go to Slurm, whatever the launcher's config is called."""
    return _target(config).endswith(".SlurmLauncher")


def is_ray(config: DictConfig) -> bool:
    """Whether jobs are Ray's tasks."""
    return _target(config).endswith(".RayLauncher")


def spans_machines(config: DictConfig) -> bool:
    """Whether jobs may run on other machines than this one: Slurm, or a Ray that was there."""
    if is_ray(config):
        return OmegaConf.select(config, "hydra.launcher.ray.init.address") not in (None, "local")
    return is_slurm(config)


def _target(config: DictConfig) -> str:
    return str(config.hydra.launcher.get("_target_"))
