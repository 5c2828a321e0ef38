"""Real servers for the tests of clusters, and what every sweep over one must come to."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import SECONDS, Shell, steps, wait_for

from pdx.files import free_lock

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
MISSING = 3  # exit status of a script whose server is not installed


def script(name: str, *arguments: Any) -> str:
    """Run one of the scripts beside this file; skip the test where its server is missing."""
    done = subprocess.run(
        [str(HERE / name), *map(str, arguments)],
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},  # whose `ray` it is to be
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode == MISSING:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"{name} {arguments}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@contextmanager
def server(name: str) -> Iterator[Path]:
    """A server in a folder of its own, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pdx-"))
    try:
        script(name, "up", folder)
        yield folder
    finally:
        script(name, "down", folder)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@contextmanager
def mlflow_server(shell: Shell, refusal: str) -> Iterator[str]:
    """The MLflow server that a refusal says how to start; yields the override it says to add."""
    command, host, override = re.search(  # type: ignore[union-attr]
        r"^  (.* mlflow server .* '(.*):5000' .*)$\n.*add (env\.tracking_uri=\S+) to", refusal, re.M
    ).groups()
    port = str(free_port())
    command, override = command.replace("5000", port), override.replace("5000", port)
    environ = {
        k: v for k, v in shell.environ.items() if k != "PDX_OUTPUTS"
    }  # no process of its own
    environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    with open(shell.root / "mlflow.log", "wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec env {command}"],
            env=environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_for(f"MLflow: {shlex.join([command])}", answers, process)
        yield override
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM may leave its workers
        process.wait(SECONDS)


def sweep(shell: Shell, name: str, seeds: list[int]) -> list[str]:
    """Write a sweep of two weights over seeds, whose runs can be held; the command that runs it."""
    shell.write_own_package()
    shell.write_sweep(
        name,
        base=["loss=odd", "env.packages=[mine]", "env.checkpoint_seconds=0.2"],
        axes={"loss.weight": [0.5, 1.0], "train.seed": seeds},
    )
    return ["train", "-m", f"sweep={name}", "--config-dir", "conf", "env.device=cpu"]


@contextmanager
def held_in_midst(shell: Shell, command: list[str], num_runs: int) -> Iterator[subprocess.Popen]:
    """The driver of a sweep that is held with so many runs begun, each with a checkpoint."""
    (shell.root / "hold").touch()
    with shell.started(*command) as driver:
        wait_for("runs under way", lambda: len(held(shell)) == num_runs, driver)
        yield driver


def let_go(shell: Shell, driver: subprocess.Popen) -> None:
    """Let the runs of a sweep go on, to its end."""
    (shell.root / "hold").unlink()
    assert driver.wait(SECONDS) == 0, shell.terminal()[-6000:]


def held(shell: Shell) -> list[Path]:
    """Folders of runs that have logged steps and whose process lives: what a kill can hit."""
    if not list(shell.out.glob("sweeps/*/plan.json")):
        return []
    begun = [p for p in shell.run_dirs().values() if len(steps(p)) >= 3]
    return [p for p in begun if not free_lock(p / ".lock")]
