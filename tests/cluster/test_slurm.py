"""A sweep over a Slurm of two nodes: as it should go, and with nodes and workers lost in it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import held, mlflow_server, script, server
from command_line import Shell, assert_all_over, states, wait_for

pytestmark = pytest.mark.cluster

SLURM = ["hydra/launcher=submitit_slurm", "env.num_workers=4", "hydra.launcher.gpus_per_task=1"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    with server("slurm.sh") as folder:
        yield folder


@pytest.fixture
def shell(slurm: Path, tmp_path: Path) -> Iterator[Shell]:
    """A user's terminal where Slurm answers; its jobs end with the test."""
    script("slurm.sh", "up", slurm)  # a test before may have lost a node
    shell = Shell(tmp_path, SLURM_CONF=str(slurm / "slurm.conf"))
    shell.write_own_package()
    shell.write_sweep(
        "own",
        base=["loss=odd", "env.packages=[mine]", "env.checkpoint_seconds=0.2"],
        axes={"loss.weight": [0.5, 1.0], "train.seed": [0, 1, 2]},
    )
    yield shell
    ask(shell, "scancel", "--me", "--signal=KILL")
    wait_for("Slurm to be empty", lambda: not ask(shell, "squeue", "-h", "--me"))


def ask(shell: Shell, *command: str) -> str:
    return subprocess.run(command, env=shell.environ, capture_output=True, text=True).stdout


@pytest.fixture
def command(shell: Shell) -> Iterator[list[str]]:
    """The sweep's command, with the MLflow server that pdx asks for."""
    command = ["train", "-m", "sweep=own", "--config-dir", "conf", "env.device=cpu", *SLURM]
    refusal = shell.pdx(*command, status=1).stderr
    assert "is a SQLite file" in refusal and not list(shell.out.glob("sweeps/*"))
    with mlflow_server(shell, refusal) as override:
        yield [*command, override]


def jobs(shell: Shell) -> dict[str, str]:
    """The nodes of the sweep's running workers, by Slurm's job id."""
    lines = ask(shell, "squeue", "-h", "--me", "-t", "running", "-o", "%i %N %j").splitlines()
    return dict(line.split()[:2] for line in lines if "prepare" not in line)


def all_held(shell: Shell) -> bool:
    return bool(list(shell.out.glob("sweeps/*/plan.json"))) and len(held(shell)) == 4


def test_workers_on_both_nodes_each_with_the_gpu_that_slurm_gave(shell: Shell, command: list[str]):
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        assert sorted(jobs(shell).values()) == ["n1", "n1", "n2", "n2"]
        (shell.root / "hold").unlink()
        assert driver.wait(300) == 0, shell.terminal()[-6000:]
    assert_all_over(shell, 6)
    assert {len(s) for s in states(shell.trials()).values()} == {1}
    lines = [line.split() for line in (shell.root / "slots.log").read_text().splitlines()]
    gpus = {worker: {g for w, g in lines if w == worker} for worker, _ in lines}
    assert sorted(g for given in gpus.values() for g in given) == ["0", "0", "1", "1"]
    assert not ask(shell, "squeue", "-h", "--me")


def test_a_node_is_lost(shell: Shell, slurm: Path, command: list[str]):
    """The other node's workers run what it had; the sweep does not wait for its jobs."""
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        script("slurm.sh", "lose", slurm, "n1")
        (shell.root / "hold").unlink()
        assert driver.wait(300) == 0, shell.terminal()[-6000:]
    assert sorted(map(len, states(shell.trials()).values())) == [1, 1, 1, 1, 2, 2]
    assert_all_over(shell, 6)


def test_worker_job_and_driver_are_lost(shell: Shell, command: list[str]):
    """A worker is killed, another's job is cancelled, the driver is killed: the command goes on."""
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        worker = ask(shell, "pgrep", "-f", f"submitit.core._submit {shell.out}").split()[-1]
        os.kill(int(worker), signal.SIGKILL)
        ask(shell, "scancel", sorted(jobs(shell))[0])
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        (shell.root / "hold").unlink()
        shell.pdx(*command)
    passed = sorted(map(len, states(shell.trials()).values()))
    assert passed in ([1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 2])
    assert_all_over(shell, 6)


def test_ctrl_c_cancels_the_jobs(shell: Shell, command: list[str]):
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        os.kill(driver.pid, signal.SIGINT)
        assert driver.wait(120) == 130
        assert not ask(shell, "squeue", "-h", "--me")
        assert {t.state.name for t in shell.trials()} == {"FAIL", "WAITING"}
        assert "RUNNING" not in {r.info.status for r in shell.mlflow_runs()}
        (shell.root / "hold").unlink()
    shell.pdx(*command)
    assert_all_over(shell, 6)
