"""A sweep over two nodes of Slurm and of Ray: as it should go, and with parts of it lost."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import held_in_midst, let_go, mlflow_server, script, server, sweep
from command_line import SECONDS, Shell, assert_all_over, states, wait_for
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


def test_workers_are_on_both_nodes_and_one_of_them_is_lost(
    shell: Shell, scheduler: Slurm | Ray, command: list[str]
):
    """Each worker has the GPU that it was given; those of the other node run what the lost one had,
    and the sweep does not wait for its jobs.
    """
    with held_in_midst(shell, command, 4) as driver:
        assert [len(workers(scheduler, node)) for node in ("n1", "n2")] == [2, 2]
        lines = [line.split() for line in (shell.root / "slots.log").read_text().splitlines()]
        gpus = {worker: {g for w, g in lines if w == worker} for worker, _ in lines}
        assert sorted(g for given in gpus.values() for g in given) == ["0", "0", "1", "1"]
        script(scheduler.script, "lose", scheduler.folder, "n1")
        let_go(shell, driver)
    assert sorted(map(len, states(shell.trials()).values())) == [1, 1, 1, 1, 2, 2]
    assert_all_over(shell, 6)
    said = shell.terminal()
    assert f"compare in MLflow: open\n{command[-1].partition('=')[2]}/#/compare-runs" in said


def test_a_sweep_goes_on_after_ctrl_c_and_the_loss_of_a_worker_and_the_driver(
    shell: Shell, scheduler: Slurm | Ray, command: list[str]
):
    """Ctrl-C leaves nothing running: Slurm's workers give their runs back, Ray kills its tasks.

    Of a lost driver Slurm's workers go on, and Ray's end.
    """
    with held_in_midst(shell, command, 4) as driver:
        if isinstance(scheduler, Slurm):
            cancel_one(shell)
        os.kill(driver.pid, signal.SIGINT)
        assert driver.wait(SECONDS) == 130
        assert not workers(scheduler, "n1", "n2")
        assert {t.state.name for t in shell.trials()} == {"FAIL", "WAITING"}
        retries = {t.user_attrs["retries"] for t in shell.trials()}
        assert retries == ({0} if isinstance(scheduler, Slurm) else {0, 1})
        assert "RUNNING" not in {r.info.status for r in shell.mlflow_runs()}
    with held_in_midst(shell, command, 4) as driver:
        workers(scheduler, "n2")[0].kill()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        (shell.root / "hold").unlink()
        shell.pdx(*command)
    assert {t.user_attrs["retries"] for t in shell.trials()} >= {0, 1}
    assert_all_over(shell, 6)


def cancel_one(shell: Shell) -> None:
    """Cancel one of Slurm's jobs, and see that its worker gives its run back."""
    job = ask(shell, "squeue", "-h", "--me", "-t", "running", "-o", "%i").split()[0]
    ask(shell, "scancel", job)
    wait_for("its run", lambda: ["FAIL", "WAITING"] in states(shell.trials()).values())
