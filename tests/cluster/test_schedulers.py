"""A sweep over two nodes of Slurm and of Ray: as it should go, and with parts of it lost."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import held_in_midst, let_go, mlflow_server, script, server, sweep
from command_line import Shell, assert_all_over, states, wait_for
from schedulers import Ray, Slurm, workers

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", params=[Slurm, Ray], ids=["slurm", "ray"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Slurm | Ray]:
    pytest.importorskip(request.param.plugin)
    with server(request.param.script) as folder:
        yield request.param(folder)


@pytest.fixture
def shell(scheduler: Slurm | Ray, tmp_path: Path) -> Shell:
    """A user's terminal."""
    return Shell(tmp_path, **scheduler.environ)


@pytest.fixture
def command(shell: Shell, scheduler: Slurm | Ray) -> Iterator[list[str]]:
    """The command of a sweep of six runs over four workers, with the MLflow server it asks for."""
    launcher = scheduler.up()  # a test before may have lost a node
    command = [*sweep(shell, "own", [0, 1, 2]), "env.num_workers=4", *launcher]
    refusal = shell.pdx(*command, status=1).stderr
    assert "is a SQLite file" in refusal and not list(shell.out.glob("sweeps/*"))
    with mlflow_server(shell, refusal) as override:
        yield [*command, override]
        for worker in workers(scheduler, "n1", "n2"):  # of a test that failed
            worker.kill()


def ask(shell: Shell, *command: str) -> str:
    return subprocess.run(command, env=shell.environ, capture_output=True, text=True).stdout


def test_workers_on_both_nodes_each_with_the_gpu_that_it_was_given(
    shell: Shell, scheduler: Slurm | Ray, command: list[str]
):
    with held_in_midst(shell, command, 4) as driver:
        assert [len(workers(scheduler, node)) for node in ("n1", "n2")] == [2, 2]
        let_go(shell, driver)
    assert_all_over(shell, 6)
    assert {len(s) for s in states(shell.trials()).values()} == {1}
    lines = [line.split() for line in (shell.root / "slots.log").read_text().splitlines()]
    gpus = {worker: {g for w, g in lines if w == worker} for worker, _ in lines}
    assert sorted(g for given in gpus.values() for g in given) == ["0", "0", "1", "1"]
    said = shell.terminal()
    assert f"compare in MLflow: open\n{command[-1].partition('=')[2]}/#/compare-runs" in said


def test_a_node_is_lost(shell: Shell, scheduler: Slurm | Ray, command: list[str]):
    """The other node's workers run what it had; the sweep does not wait for its jobs."""
    with held_in_midst(shell, command, 4) as driver:
        script(scheduler.script, "lose", scheduler.folder, "n1")
        let_go(shell, driver)
    assert sorted(map(len, states(shell.trials()).values())) == [1, 1, 1, 1, 2, 2]
    assert_all_over(shell, 6)


def test_a_worker_and_the_driver_are_lost(shell: Shell, scheduler: Slurm | Ray, command: list[str]):
    """Slurm's other workers go on, Ray ends its tasks: the same command goes on after both."""
    with held_in_midst(shell, command, 4) as driver:
        workers(scheduler, "n2")[0].kill()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        (shell.root / "hold").unlink()
        shell.pdx(*command)
    assert 2 in map(len, states(shell.trials()).values())
    assert_all_over(shell, 6)


def test_ctrl_c_ends_the_jobs(shell: Shell, scheduler: Slurm | Ray, command: list[str]):
    with held_in_midst(shell, command, 4) as driver:
        os.kill(driver.pid, signal.SIGINT)
        assert driver.wait(120) == 130
        assert not workers(scheduler, "n1", "n2")
        assert {t.state.name for t in shell.trials()} == {"FAIL", "WAITING"}
        assert "RUNNING" not in {r.info.status for r in shell.mlflow_runs()}
        (shell.root / "hold").unlink()
    shell.pdx(*command)
    assert_all_over(shell, 6)


@pytest.mark.parametrize("scheduler", [Slurm], ids=["slurm"], indirect=True)
def test_a_cancelled_job_gives_its_run_back(shell: Shell, command: list[str]):
    """At no cost of retries, and at the end Slurm has nothing left of the sweep."""
    with held_in_midst(shell, command, 4) as driver:
        job = ask(shell, "squeue", "-h", "--me", "-t", "running", "-o", "%i").split()[0]
        ask(shell, "scancel", job)
        wait_for("the run", lambda: ["FAIL", "WAITING"] in states(shell.trials()).values(), driver)
        let_go(shell, driver)
    assert not ask(shell, "squeue", "-h", "--me")
    assert {t.user_attrs["retries"] for t in shell.trials()} == {0}
    assert sorted(map(len, states(shell.trials()).values())) == [1, 1, 1, 1, 1, 2]
    assert_all_over(shell, 6)
