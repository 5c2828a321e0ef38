"""What tests share: configs composed as the command line composes them, on a tiny real corpus."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from hydra_plugins.pdx_sweeper import register
from pdx.config import Run, run_of
from pdx.env import Env
from pdx.paths import conf_dir
from pdx.shared import Shared

# Seconds on one core: a Markov source, the debug run, a teacher of a few thousand parameters.
TINY = [
    "data=synthetic",
    "data.vocab_size=32",
    "data.num_tokens_student=32768",
    "data.num_tokens_teacher=32768",
    "data.num_tokens_val=4096",
    "data.num_tokens_test=4096",
    "train=debug",
    "student=s10k",
    "teacher.hidden_size=32",
    "teacher.ffn_size=64",
    "teacher.num_layers=2",
    "teacher.num_heads=2",
    "teacher.num_kv_heads=2",
    "teacher.num_tokens=16384",
    "teacher.batch_size=8",
    "signal.top_k=8",
    "store.shard_tokens=8192",
    "eval.num_tokens=2048",
    "eval.num_tokens_during_training=1024",
    "eval.num_tokens_teacher=2048",
]


OTHERS = {"data=files", "teacher=pretrained", "teacher=none", "store=none", "signal=full"}
OTHERS |= {"signal=sampled", "signal=topp", "signal=top1", "teacher=twin"}


def tiny_overrides(outputs: Path, *overrides: str) -> list[str]:
    """``TINY`` and more; settings of a component go with it where another is named."""
    axes = {o.split("=")[0] for o in overrides if o in OTHERS}
    base = [o for o in TINY if o.split(".")[0] not in axes]
    return ["env=local", *base, f"env.outputs={outputs}", *overrides]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def compose_cfg() -> Callable[..., DictConfig]:
    """Overrides -> resolved config."""
    register()

    def inner(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=["env=local", *overrides])

    return inner


@pytest.fixture(scope="session")
def tiny_at(compose_cfg: Callable[..., DictConfig]) -> Callable[..., tuple[Run, Env]]:
    """As ``tiny``, with outputs in a directory that tests may share."""
    return lambda outputs, *overrides: run_of(compose_cfg(*tiny_overrides(outputs, *overrides)))


@pytest.fixture
def tiny(tiny_at: Callable[..., tuple[Run, Env]], tmp_path: Path) -> Callable[..., tuple[Run, Env]]:
    """Overrides on top of ``TINY`` -> a run that takes seconds, with outputs in ``tmp_path``."""
    return lambda *overrides: tiny_at(tmp_path / "out", *overrides)


@pytest.fixture
def copied(shared: Shared, tmp_path: Path) -> Shared:
    """The run of a module's own ``shared`` over a copy of everything, to be damaged."""
    root = Path(shutil.copytree(shared.env.paths.root, tmp_path / "copy", symlinks=True))
    return Shared.of(shared.run, replace(shared.env, outputs=str(root)))
