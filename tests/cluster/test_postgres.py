"""A sweep whose study is on PostgreSQL: workers join it, and the server is lost in it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from cluster import free_port, held, script, server
from command_line import Shell, assert_all_over, states, wait_for
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
    shell = Shell(tmp_path)
    shell.write_own_package()
    shell.write_sweep(
        tmp_path.name.replace("_", "-"),  # a study's name, and the server outlives the test
        base=["loss=odd", "env.packages=[mine]", "env.checkpoint_seconds=0.2"],
        axes={"loss.weight": [0.5, 1.0], "train.seed": [0, 1]},
    )
    return shell


def command(shell: Shell, url: str) -> list[str]:
    (file,) = (shell.root / "sweeps").glob("*.yaml")
    own = [f"sweep={file.stem}", "--config-dir", "conf", "env.device=cpu"]
    return ["train", "-m", *own, "env.num_workers=2", f"env.storage={url}"]


def trials(shell: Shell, url: str) -> list[FrozenTrial]:
    """Of the sweep's study, which has the sweep's id for a name."""
    (file,) = shell.out.glob("sweeps/*/plan.json")
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=file.parent.name, storage=storage).get_trials()
    finally:
        storage.engine.dispose()  # psycopg warns of connections that are left open


def all_held(shell: Shell) -> bool:
    return bool(list(shell.out.glob("sweeps/*/plan.json"))) and len(held(shell)) == 2


def test_a_sweep_on_postgres_and_the_same_command_again(shell: Shell, url: str):
    shell.pdx(*command(shell, url))
    assert not list(shell.out.glob("sweeps/*/journal.log"))
    before = trials(shell, url)
    assert_all_over(shell, 4, before)
    shell.pdx(*command(shell, url))
    assert len(trials(shell, url)) == len(before)


def test_a_longer_grid_runs_only_what_is_new(shell: Shell, url: str):
    """Optuna's RDB storage refuses a trial whose categories are not those of the study's first."""
    shell.pdx(*command(shell, url), "train.seed=0", "student=s10k")
    before = shell.results()
    shell.pdx(*command(shell, url), "train.seed=0", "student=s10k,s30k")
    after = shell.results()
    assert before.items() <= after.items() and len(after) == len(before) + 2


def test_the_server_is_lost_and_comes_back(shell: Shell, postgres: Path, url: str):
    """Whatever the loss does to workers, the same command completes every point once."""
    (shell.root / "hold").touch()
    with shell.started(*command(shell, url)) as driver:
        wait_for("two runs", lambda: all_held(shell), driver)
        script("postgres.sh", "stop", postgres)
        script("postgres.sh", "up", postgres)
        (shell.root / "hold").unlink()
        driver.wait(300)
    shell.pdx(*command(shell, url))
    assert_all_over(shell, 4, trials(shell, url))


def test_driver_and_workers_are_lost(shell: Shell, url: str):
    (shell.root / "hold").touch()
    with shell.started(*command(shell, url)) as driver:
        wait_for("two runs", lambda: all_held(shell), driver)
        os.killpg(driver.pid, signal.SIGKILL)
    (shell.root / "hold").unlink()
    shell.pdx(*command(shell, url))
    assert sorted(map(len, states(trials(shell, url)).values())) == [1, 1, 2, 2]
    assert_all_over(shell, 4, trials(shell, url))


def test_a_server_that_does_not_answer_is_told_before_anything_starts(shell: Shell):
    url = f"postgresql+psycopg://pdx@127.0.0.1:{free_port()}/pdx"
    said = shell.pdx(*command(shell, url), status=1).stderr
    assert f"env.storage={url}" in said and "Traceback" not in said
    assert not list(shell.out.glob("runs/*")) and not list(shell.out.glob("data/*"))
