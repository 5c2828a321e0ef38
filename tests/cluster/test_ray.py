"""A sweep over a Ray cluster of several nodes: a node and a worker are lost in it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import held, mlflow_server, script, server
from command_line import Shell, assert_all_over, states, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ray() -> Iterator[Path]:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'pdx[ray]'")
    with server("ray.sh") as folder:
        yield folder


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A user's terminal: nothing of it but the launcher's address knows of the cluster."""
    shell = Shell(tmp_path)
    shell.write_own_package()
    shell.write_sweep(
        "own",
        base=["loss=odd", "env.packages=[mine]", "env.checkpoint_seconds=0.2"],
        axes={"loss.weight": [0.5, 1.0], "train.seed": [0, 1, 2]},
    )
    return shell


@pytest.fixture
def command(shell: Shell, ray: Path) -> Iterator[list[str]]:
    address = script("ray.sh", "up", ray).split()[-1]  # a test before may have lost a node
    command = ["train", "-m", "sweep=own", "--config-dir", "conf", "env.device=cpu"]
    command += ["env.num_workers=4", "hydra/launcher=ray", "+hydra.launcher.ray.remote.num_gpus=1"]
    command.append(f"hydra.launcher.ray.init.address={address}")
    refusal = shell.pdx(*command, status=1).stderr
    assert "is a SQLite file" in refusal and not list(shell.out.glob("sweeps/*"))
    with mlflow_server(shell, refusal) as override:
        yield [*command, override]


def all_held(shell: Shell) -> bool:
    return bool(list(shell.out.glob("sweeps/*/plan.json"))) and len(held(shell)) == 4


def workers(ray: Path, node: str) -> list[psutil.Process]:
    """Processes of a node's tasks that hold a run."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("PDX_RAY_NODE") == str(ray / node)
            if mine and process.name().startswith("ray::") and process.children():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_workers_on_both_nodes_each_with_the_gpu_that_ray_gave(
    shell: Shell, ray: Path, command: list[str]
):
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        assert [len(workers(ray, node)) for node in ("n1", "n2")] == [2, 2]
        (shell.root / "hold").unlink()
        assert driver.wait(300) == 0, shell.terminal()[-6000:]
    assert_all_over(shell, 6)
    assert {len(s) for s in states(shell.trials()).values()} == {1}
    lines = [line.split() for line in (shell.root / "slots.log").read_text().splitlines()]
    gpus = {worker: {g for w, g in lines if w == worker} for worker, _ in lines}
    assert sorted(g for given in gpus.values() for g in given) == ["0", "0", "1", "1"]


def test_a_node_is_lost(shell: Shell, ray: Path, command: list[str]):
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        script("ray.sh", "lose", ray, "n1")
        (shell.root / "hold").unlink()
        assert driver.wait(300) == 0, shell.terminal()[-6000:]
    assert sorted(map(len, states(shell.trials()).values())) == [1, 1, 1, 1, 2, 2]
    assert_all_over(shell, 6)


def test_a_worker_and_the_driver_are_lost(shell: Shell, ray: Path, command: list[str]):
    """Ray ends the tasks of a driver that is gone; the same command goes on."""
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("four runs", lambda: all_held(shell), driver)
        workers(ray, "n2")[0].kill()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        wait_for("Ray to end its tasks", lambda: not workers(ray, "n1") + workers(ray, "n2"))
        (shell.root / "hold").unlink()
    shell.pdx(*command)
    assert_all_over(shell, 6)
