"""Processes of a sweep killed at random moments: no point is lost, and none is done twice."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import SECONDS, Shell, assert_all_over, wait_for

KILLS_A_LIFE = 6  # of runs, workers and forkservers, before the driver's own end
MOMENT = 1.0  # the longest pause between two kills, in seconds
BEFORE_RUNS = 12.0  # what a driver takes to plan, to train the teacher and to start workers
INTERRUPTED = 130


class Hunt:
    """A sweep whose runs take seconds while it is hunted, and what was killed of it so far.

    A kill counts only where it hit a living process: one is seen to be stopped before it is killed,
    and a driver's exit status says what ended it.
    """

    def __init__(self, root: Path, **block: Any) -> None:
        seed = int(os.environ.get("PDX_KILL_SEED", random.randrange(2**32)))
        print(f"PDX_KILL_SEED={seed} makes the same choices again")
        self.random, self.kills = random.Random(seed), list[str]()
        self.shell = shell = Shell(root)
        shell.write_own_package()
        (root / "slow").touch()
        base = ["loss=odd", "env.packages=[mine]", "env.num_workers=2", "env.max_retries=99"]
        base += ["env.checkpoint_seconds=0.1"]
        shell.write_sweep("hunted", base=base, **block)
        self.command = ["train", "-m", "sweep=hunted", "--config-dir", "conf"]

    @contextmanager
    def life(self) -> Iterator[subprocess.Popen[bytes]]:
        """A driver, up to the moment at which it is to end."""
        with self.shell.started(*self.command) as driver:
            for _ in range(KILLS_A_LIFE):
                self.kill_any(driver)
            self.let_it_run(driver)
            yield driver

    def let_it_run(self, driver: Any) -> None:
        """For a moment after there is a run again, or after one has come to train again."""
        since = time.time()

        def trains() -> bool:
            logs = self.shell.out.glob("runs/*/metrics.jsonl")
            return any(log.stat().st_mtime > since for log in logs)

        wait_for("a run", lambda: self.victims(driver)["run"], driver, every=0.2)
        if self.random.random() < 0.5:
            wait_for("a step", trains, driver)
        time.sleep(self.random.uniform(0, MOMENT))

    def victims(self, driver: Any) -> dict[str, list[psutil.Process]]:
        """The processes below the driver, by what they are."""
        found: dict[str, list[psutil.Process]] = {"worker": [], "forkserver": [], "run": []}
        for worker in _children(psutil.Process(driver.pid), "spawn_main"):
            for server in _children(worker, "forkserver"):
                found["worker"].append(worker)  # one that has begun to work
                found["forkserver"].append(server)
                found["run"] += _children(server, "forkserver")
        return found

    def kill_any(self, driver: Any) -> None:
        """A run, or what stands over it: the start of another takes seconds."""
        while True:
            self.let_it_run(driver)
            (kind,) = self.random.choices(["run", "worker", "forkserver"], [8, 2, 1])
            prey = self.victims(driver)[kind]
            if prey and _kill(self.random.choice(prey)):
                self.kills.append(kind)
                return

    # ---- how a driver ends -------------------------------------------------------------------

    def killed(self, driver: Any) -> None:
        """Alone: it cannot take the others along."""
        driver.kill()
        self.ended(driver, -signal.SIGKILL)

    def killed_with_a_worker(self, driver: Any) -> None:
        """Both at once."""
        while not _kill(self.random.choice(self.victims(driver)["worker"])):
            pass
        self.kills.append("worker")
        self.killed(driver)

    def killed_with_everything(self, driver: Any) -> None:
        """As when the machine goes down."""
        os.killpg(driver.pid, signal.SIGKILL)
        self.ended(driver, -signal.SIGKILL)

    def terminated(self, driver: Any) -> None:
        """As a scheduler does."""
        driver.terminate()
        self.ended(driver, INTERRUPTED)
        self.assert_nothing_runs()

    def interrupted(self, driver: Any) -> None:
        """As a terminal does on Ctrl-C, to all at once."""
        os.killpg(driver.pid, signal.SIGINT)
        self.ended(driver, INTERRUPTED)
        self.assert_nothing_runs()

    def ended(self, driver: Any, status: int) -> None:
        """See that it was this which ended the driver, and that nobody outlives it."""
        assert driver.wait(SECONDS) == status, self.shell.terminal()[-5000:]
        self.kills.append("driver")
        wait_for("every process to be gone", lambda: not self.shell.processes())

    def assert_nothing_runs(self) -> None:
        """Who is asked to end closes what was open."""
        assert "RUNNING" not in {t.state.name for t in self.shell.trials()}
        assert "RUNNING" not in {r.info.status for r in self.shell.mlflow_runs()}

    def survive(self, num_ends: int) -> None:
        """A life for each of so many ends, and one that ends before its first run.

        Then the same command once more, unhunted.
        """
        ends = [self.killed, self.killed_with_a_worker, self.killed_with_everything]
        ends += [self.terminated, self.interrupted]
        with self.shell.started(*self.command) as driver:
            time.sleep(self.random.uniform(0, BEFORE_RUNS))
            self.killed_with_everything(driver)
        for end in self.random.sample(ends, num_ends):
            with self.life() as driver:
                end(driver)
        assert len(self.kills) >= 1 + num_ends * (KILLS_A_LIFE + 1)
        (self.shell.root / "slow").unlink()
        self.shell.pdx(*self.command)
        wait_for("every process to be gone", lambda: not self.shell.processes())


def _children(process: psutil.Process, called: str) -> list[psutil.Process]:
    found = []
    try:
        for child in process.children():
            if called in " ".join(child.cmdline()):
                found.append(child)
    except psutil.Error:  # gone as we looked
        pass
    return found


def _kill(process: psutil.Process) -> bool:
    """Kill a process that lives; False if it ended by itself before.

    What was seen to be stopped is alive, and cannot end before it is killed.
    """
    try:
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def hunt_a_grid(root: Path, num_ends: int) -> Hunt:
    hunt = Hunt(root, axes={"loss.weight": [0.5, 1.0, 1.5, 2.0]}, seeds=[0, 1])
    hunt.survive(num_ends)
    assert_all_over(hunt.shell, 8)
    return hunt


def test_a_grid_survives_kills_at_random_moments(tmp_path: Path):
    assert len(hunt_a_grid(tmp_path, num_ends=3).kills) >= 20


@pytest.mark.slow
def test_a_grid_survives_every_kind_of_end(tmp_path: Path):
    assert len(hunt_a_grid(tmp_path, num_ends=5).kills) >= 36


@pytest.mark.slow
def test_a_search_survives_every_kind_of_end(tmp_path: Path):
    """What it has still to draw waits as well: none is lost, and none drawn twice."""
    axes = {"loss.weight": "interval(0.5, 2.0)"}
    hunt = Hunt(tmp_path, axes=axes, search={"sampler": "random", "num_runs": 8})
    hunt.survive(num_ends=5)
    assert len(hunt.kills) >= 36
    assert_all_over(hunt.shell, 8)
