"""Launchers of others: what is refused before a start, what is set, where jobs are."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from pdx.build import build
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.hydra_app import message_of
from pdx.paths import conf_dir
from pdx.sweep import launchers
from pdx.sweep.describe import where_to_compare
from pdx.sweep.launch import logs_of, settled
from pdx.sweep.placed import Placed, take_slot, threads_here

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
RAY = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
OURS = "hydra_plugins.pdx_sweeper.launcher.PdxLocal"


def config(called: str, target: str, *given: str, **fields: Any) -> DictConfig:
    """Of Hydra's master config, what is read here."""
    node = {"_target_": target, **fields}
    runtime = {"choices": {"hydra/launcher": called}}
    return OmegaConf.create(
        {"hydra": {"launcher": node, "runtime": runtime, "overrides": {"hydra": list(given)}}}
    )


def env(tmp_path: Path, **changes: Any) -> Env:
    node = yaml.safe_load((conf_dir() / "env" / "local.yaml").read_text())
    ours = dict(outputs=str(tmp_path), device="cpu", gpus=None, num_workers=4)
    return build(node | ours | changes, "env")


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that submits jobs."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that seem to be there, whatever is."""
    found = {"hydra_plugins.hydra_submitit_launcher.submitit_launcher", "ray"}
    found |= {"hydra_plugins.hydra_ray_launcher.ray_launcher"}
    monkeypatch.setattr(launchers, "find_spec", lambda name: name if name in found else None)
    return found


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "extra"),
    [("submitit_slurm", SLURM, "slurm"), ("submitit_local", LOCAL, "slurm"), ("ray", RAY, "ray")],
)
def test_a_missing_extra_names_the_pip_command(
    tmp_path: Path, installed: set[str], name: str, target: str, extra: str
):
    installed.clear()
    with pytest.raises(ConfigError, match=rf"hydra/launcher={name}: is not .*pdx\[{extra}\]"):
        launchers.check_launcher(config(name, target), env(tmp_path))


def test_hydra_does_not_know_what_is_not_installed():
    """Then there is no config of that name to compose, and pdx says which extra has it."""
    err = MissingConfigException("no", "hydra/launcher/submitit_slurm", ["basic", "pdx_local"])
    assert message_of(err) == launchers.missing_extra("submitit_slurm")
    assert "pdx[slurm]" in launchers.missing_extra("submitit_slurm")
    err = MissingConfigException("no", "hydra/launcher/pdx_locale", ["basic", "pdx_local"])
    assert "Did you mean 'pdx_local'?" in str(message_of(err))


def test_a_launcher_without_ray_itself_is_missing_too(tmp_path: Path, installed: set[str]):
    installed.remove("ray")
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray: is not installed"):
        launchers.check_launcher(config("ray", RAY), env(tmp_path))


def test_slurm_where_no_job_can_be_submitted(
    tmp_path: Path, installed: set[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on PATH"):
        launchers.check_launcher(config("submitit_slurm", SLURM), env(tmp_path))


def test_workers_elsewhere_are_counted_by_the_user(
    tmp_path: Path, installed: set[str], sbatch: None
):
    with pytest.raises(ConfigError, match=r"env.num_workers=auto: counts .* env.num_workers=8"):
        launchers.check_launcher(config("submitit_slurm", SLURM), env(tmp_path, num_workers="auto"))


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (config("mycluster", SLURM), True),  # a user's own config of that launcher
        (config("ray", RAY, ray={"init": {"address": "auto"}}), True),
        (config("ray", RAY, ray={"init": {"address": "ray://head:10001"}}), True),
        (config("ray", RAY, ray={"init": {"address": None}}), False),
        (config("submitit_local", LOCAL), False),
        (config("pdx_local", OURS), False),
    ],
    ids=["slurm", "ray auto", "ray client", "own ray", "submitit_local", "pdx_local"],
)
def test_a_sqlite_file_is_not_shared_between_machines(
    tmp_path: Path, given: DictConfig, refused: bool
):
    for uri in (None, f"sqlite:///{tmp_path}/own.db"):
        if refused:
            with pytest.raises(ConfigError, match=r"mlflow server .*\n.*env.tracking_uri=http://"):
                launchers.check_tracking(env(tmp_path, tracking_uri=uri), given)
        else:
            launchers.check_tracking(env(tmp_path, tracking_uri=uri), given)
    launchers.check_tracking(env(tmp_path, tracking_uri="http://tracker:5000"), given)


# ---- set -----------------------------------------------------------------------------------------


def test_defaults_for_short_jobs_are_replaced_where_nobody_named_them():
    theirs = {"timeout_min": 60, "name": "app", "cpus_per_task": None, "submitit_folder": "./x"}
    given = config("submitit_slurm", SLURM, "hydra.launcher.timeout_min=30", **theirs)
    changed = settled(given, "sweep-1", "/shared/out").hydra.launcher
    assert changed.timeout_min == theirs["timeout_min"], "named on the command line: left alone"
    assert (changed.name, changed.cpus_per_task) == ("sweep-1", 1)
    assert changed.submitit_folder == "/shared/out/submitit/%j"
    assert changed.max_num_timeout > 100 and "SRUN_CPUS_PER_TASK" in changed.setup[0]
    assert given.hydra.launcher.name == "app", "the user's config stays as it is"


def test_ray_joins_a_cluster_without_a_memory_of_its_own():
    given = config("ray", RAY, ray={"init": {"address": "auto"}, "remote": {}})
    init = settled(given, "sweep-1", "out").hydra.launcher.ray.init
    assert init == {"address": "auto", "object_store_memory": None, "log_to_driver": False}


def test_other_launchers_are_left_alone():
    given = config("joblib", "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher")
    assert settled(given, "sweep-1", "out") == given


@pytest.mark.parametrize(
    ("given", "logs"),
    [
        (config("pdx_local", OURS), "logs are in out/sweeps/s/workers"),
        (config("submitit_slurm", SLURM), "logs are in /shared/out/submitit, a folder a job"),
        (
            config("mine", SLURM, "hydra.launcher.submitit_folder=x", submitit_folder="/logs/%j"),
            "logs are in /logs, a folder a job",
        ),
        (config("ray", RAY), "session_latest/logs"),
        (config("basic", "hydra._internal.core_plugins.basic_launcher.BasicLauncher"), "terminal"),
    ],
    ids=["pdx_local", "slurm", "slurm elsewhere", "ray", "basic"],
)
def test_what_failed_is_looked_up_where_its_launcher_wrote(given: DictConfig, logs: str):
    assert logs in logs_of(given, Path("out/sweeps/s"), "/shared/out")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://tracker:5001", "open\nhttp://tracker:5001/#/x"),
        ("https://tracker/mlflow/", "open\nhttps://tracker/mlflow/#/x"),
        (None, "run `pdx ui`, then open\nhttp://127.0.0.1:5000/#/x"),
        ("sqlite:////own.db", "run `pdx ui` with the same env.tracking_uri, then open\nhttp://127"),
    ],
)
def test_a_link_to_mlflow_is_one_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, said: str
):
    monkeypatch.setenv("PDX_OUTPUTS", str(tmp_path))
    assert said in where_to_compare(env(tmp_path, tracking_uri=uri), "/#/x")
    monkeypatch.delenv("PDX_OUTPUTS")
    elsewhere = where_to_compare(env(tmp_path, tracking_uri=uri), "/#/x")
    assert ("env.outputs" in elsewhere) == ("pdx ui" in said), "the store is in the outputs"


# ---- in a job ------------------------------------------------------------------------------------


def test_what_slurm_or_ray_has_set_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    take_slot("0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    context = types.SimpleNamespace(
        get_task_id=lambda: "t1", get_assigned_resources=lambda: {"CPU": 3.0, "GPU": 1.0}
    )
    ray = types.SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    take_slot("0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert threads_here(1) == 3


def test_what_submitit_sets_without_a_scheduler_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    take_slot("1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    take_slot(None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_threads_are_those_of_the_task_and_not_of_the_node(monkeypatch: pytest.MonkeyPatch):
    cores = len(os.sched_getaffinity(0))
    assert threads_here(1) == cores and threads_here(2 * cores) == 1
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert threads_here(1) == 1, "Slurm gives one core unless asked for more"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert threads_here(64) == 6


def test_a_job_is_where_its_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the modules that the command saw, and those of the job's own before."""
    (tmp_path / "pdx_users_own.py").write_text("HERE = True\n")
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def task(cfg: Any) -> Any:
        import pdx_users_own  # pyright: ignore[reportMissingImports]

        return cfg, os.getcwd(), os.environ["PYTHONPATH"], pdx_users_own.HERE

    placed = Placed(task, str(tmp_path), str(tmp_path))
    assert placed("cfg") == ("cfg", str(tmp_path), str(tmp_path), True)
