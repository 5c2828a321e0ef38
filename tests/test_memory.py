"""What cannot be held is refused before anything is made, with the figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from pdx import memory
from pdx.config import config_of, run_of
from pdx.errors import ConfigError
from pdx.execute import execute
from pdx.memory import Room, bytes_to_train, check_memory, room
from pdx.prepare import ensure_all

LITTLE = Room(2048, "this machine")


@pytest.fixture
def run_here(compose_cfg: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    return lambda *more: run_of(compose_cfg(*TINY, f"env.outputs={tmp_path / 'out'}", *more))


def test_the_floor_is_that_of_the_tensors(run_here: Callable[..., Any]):
    run, env = run_here("loss=none")
    student = run.student.init(32, 64, 0)
    held = sum(4 * p.numel() for p in student.parameters())  # a gradient, two moments likewise
    num_params = run.student.shape(32).num_params_total
    assert bytes_to_train(num_params, env) == 4 * held
    sharded = replace(env, gpus_per_run=4, sharding="fsdp")
    assert bytes_to_train(num_params, sharded) == held
    assert bytes_to_train(num_params, replace(env, gpus_per_run=4)) == 4 * held


def test_a_student_and_a_teacher_are_refused_with_figures(run_here: Callable[..., Any]):
    big = run_here("student=peng_1p9b")
    needed = 16 * big[0].student.shape(32).num_params_total / 2**30
    assert 18 < needed < 19
    said = rf"^student: its 1,2\d\dM .* at least {needed:.1f} GiB .* this machine has 16\.0 GiB"
    with pytest.raises(ConfigError, match=said):
        check_memory(*big, Room(16 * 2**30, "this machine"))
    run, env = run_here("student=s10k", "teacher.hidden_size=256")
    shapes = [c.shape(32).num_params_total for c in (run.student, run.teacher.architecture(run))]
    between = Room(16 * sum(shapes) // 2, "this machine")
    with pytest.raises(ConfigError, match=r"^teacher: its "):
        check_memory(run, env, between)
    env.paths.model(run.teacher_id(run.teacher)).mkdir(parents=True)
    check_memory(run, env, between)  # on another machine: it need not be trained again
    run, env = run_here("student=s10k", "loss=none", "teacher@eval_teacher=none")
    check_memory(run, env, between)


def test_nothing_is_made_before(
    run_here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "room", lambda env: LITTLE)
    run, env = run_here("loss=forward_kl")
    with pytest.raises(ConfigError, match="use a smaller one"):
        ensure_all([config_of(run, env)])
    with pytest.raises(ConfigError, match="use a smaller one"):
        execute(run, env)
    assert not env.paths.data.exists() and not env.paths.stores.exists()


def test_a_container_has_what_it_was_given(
    run_here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, env = run_here("env.device=cpu")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "none")
    physical = room(env).num_bytes
    assert physical > 2**28
    for said, wanted in (("max\n", physical), ("1048576\n", 2**20)):
        (tmp_path / "limit").write_text(said)
        monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "limit")
        assert room(env).num_bytes == wanted
