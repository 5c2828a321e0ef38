"""A sweep whose study is on PostgreSQL: workers join it, and the server is lost in it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from cluster import free_port, held, held_in_midst, script, server, sweep
from command_line import SECONDS, Shell, assert_all_over, states, wait_for
from optuna.trial import FrozenTrial

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    pytest.importorskip("psycopg", reason="pip install 'pdx[postgres]'")
    with server("postgres.sh") as folder:
        yield folder


@pytest.fixture
def url(postgres: Path) -> str:
    return script("postgres.sh", "up", postgres).split()[-1]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def command(shell: Shell, url: str) -> list[str]:
    name = shell.root.name.replace("_", "-")  # a study's name, and the server outlives the test
    return [*sweep(shell, name, [0, 1]), "env.num_workers=2", f"env.storage={url}"]


def trials(shell: Shell, url: str) -> list[FrozenTrial]:
    """Of the sweep's study, which has the sweep's id for a name."""
    (file,) = shell.out.glob("sweeps/*/plan.json")
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=file.parent.name, storage=storage).get_trials()
    finally:
        storage.engine.dispose()  # psycopg warns of connections that are left open


def test_the_same_command_runs_nothing_again_and_a_longer_grid_what_is_new(
    shell: Shell, url: str, command: list[str]
):
    """Optuna's RDB storage refuses a trial whose categories are not those of the study's first."""
    one_seed = [*command, "train.seed=0"]
    shell.pdx(*one_seed, "student=s10k")
    assert not list(shell.out.glob("sweeps/*/journal.log"))
    before = trials(shell, url)
    assert_all_over(shell, 2, before)
    shell.pdx(*one_seed, "student=s10k")
    assert len(trials(shell, url)) == len(before)
    results = shell.results()
    shell.pdx(*one_seed, "student=s10k,s30k")
    after = shell.results()
    assert results.items() <= after.items() and len(after) == len(results) + 2


def test_the_server_is_lost_and_comes_back(
    shell: Shell, postgres: Path, url: str, command: list[str]
):
    """Whatever the loss does to workers, the same command completes every point once."""
    with held_in_midst(shell, command, 2) as driver:
        script("postgres.sh", "stop", postgres)
        script("postgres.sh", "up", postgres)
        (shell.root / "hold").unlink()
        driver.wait(SECONDS)
    shell.pdx(*command)
    assert_all_over(shell, 4, trials(shell, url))


def test_a_worker_joins_and_driver_and_workers_are_lost(shell: Shell, url: str, command: list[str]):
    """A third worker, of another command, takes a run as well, and is lost like the others."""
    joined = ["worker", *command[1:], "env.num_workers=1"]
    assert "not started" in shell.pdx(*joined, status=1).stderr
    with held_in_midst(shell, command, 2) as driver, shell.started(*joined) as helper:
        wait_for("three runs", lambda: len(held(shell)) == 3, helper)
        os.killpg(driver.pid, signal.SIGKILL)
        os.killpg(helper.pid, signal.SIGKILL)
    (shell.root / "hold").unlink()
    shell.pdx(*command)
    assert sorted(map(len, states(trials(shell, url)).values())) == [1, 2, 2, 2]
    assert_all_over(shell, 4, trials(shell, url))


def test_a_server_that_does_not_answer_is_told_before_anything_starts(shell: Shell):
    url = f"postgresql+psycopg://pdx@127.0.0.1:{free_port()}/pdx"
    said = shell.pdx(*sweep(shell, "own", [0]), f"env.storage={url}", status=1).stderr
    assert f"env.storage={url}" in said and "Traceback" not in said
    assert not list(shell.out.glob("runs/*")) and not list(shell.out.glob("data/*"))
