"""Sweeps through the real command line: what they do when nothing goes wrong, and when it does."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command_line import Shell, assert_all_over, finished, states, wait_for
from conftest import TINY

from pdx.files import read_json

__all__ = ["finished"]

TWO_WORKERS = ["env.num_workers=2", "env.checkpoint_seconds=0.2"]


def of(shell: Shell, **params: Any) -> str:
    """The run id of the only sweep's point with these params."""
    (point,) = (p for p in shell.plan()["points"] if params.items() <= p["params"].items())
    return point["run_id"]


# ---- all goes well -------------------------------------------------------------------------------


def test_a_sweep_runs_every_point_once(finished: Shell):
    assert_all_over(finished, 6)
    assert set(states(finished.trials()).values().__iter__().__next__()) == {"COMPLETE"}
    plan = finished.plan()
    assert plan["question"] == "Does it run?"
    assert plan["command"] == "pdx train -m sweep=tiny env.num_workers=2"
    (report,) = finished.out.glob("sweeps/tiny-cpu-*/report/report.html")
    text = report.read_text()  # says what was run, and not where
    assert "<pre>pdx train -m sweep=tiny</pre>" in text and "env.num_workers" not in text
    wait_for("every process to be gone", lambda: not finished.processes())


def test_running_it_again_runs_nothing_again(finished: Shell):
    before, trials = finished.results(), len(finished.trials())
    done = finished.pdx("train", "-m", "sweep=tiny", "env.num_workers=2")
    assert "6 runs, 6 finished, 0 to do" in done.stderr
    assert "report.html" in done.stdout and "compare-runs" in done.stdout
    assert finished.results() == before
    assert len(finished.trials()) == trials


def test_status_alone_names_every_sweep_here(finished: Shell, tmp_path: Path):
    done = finished.pdx("status")
    assert "tiny-cpu-" in done.stdout and ": 6 complete, 0 diverged" in done.stdout
    assert "pdx train -m sweep=tiny" in done.stdout, "and how to go on with it"
    empty = finished.pdx("status", f"env.outputs={tmp_path}")
    assert "holds no sweep; start one" in empty.stdout


def test_a_longer_grid_runs_only_what_is_new(finished: Shell, tmp_path: Path):
    """A new value, a string, on an axis of strings: Optuna's own categories could not widen."""
    shell = finished.copy(tmp_path)
    before = shell.results()
    grid, together = "loss=forward_kl,soft_ce,mse", "hydra.sweeper.students_per_worker=2"
    done = shell.pdx("train", "-m", "sweep=tiny", grid, together, "env.num_workers=1")
    assert "8 runs, 6 finished, 2 to do" in done.stderr
    new = set(shell.results()) - set(before)
    (directory,) = shell.out.glob("sweeps/tiny-cpu-*/plan.json")
    plan = json.loads(directory.read_text())
    assert new == {p["run_id"] for p in plan["points"] if p["params"]["loss"] == "mse"}
    assert {k: v for k, v in shell.results().items() if k in before} == before
    results = [read_json(shell.out / "runs" / run_id / "result.json") for run_id in new]
    assert [r["provenance"]["num_students"] for r in results] == [2, 2], "in one process"
    assert_all_over(shell, 8)


def test_a_search_draws_its_runs_and_asked_for_more_draws_the_rest_and_confirms(tmp_path: Path):
    shell = Shell(tmp_path)
    shell.write_sweep(
        "drawn",
        axes={"optim.peak_lr": "tag(log, interval(1e-4, 1e-2))", "loss": ["forward_kl", "soft_ce"]},
        control=["loss=none"],
        search={"sampler": "tpe", "num_runs": 3, "pruner": "median"},
    )
    shell.pdx("train", "-m", "sweep=drawn", "env.num_workers=2")
    drawn = [t for t in shell.trials() if t.user_attrs.get("role") == "search"]
    rates = {t.params["optim.peak_lr"] for t in drawn}
    assert len(rates) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert len(shell.results()) == 3 + 1 + 1, "its control, and the teacher, too"
    before = shell.results()
    confirm = ["hydra.sweeper.confirm.num_winners=1", "hydra.sweeper.confirm.seeds=[8,9]"]
    more = ["train", "-m", "sweep=drawn", "hydra.sweeper.num_runs=4", *confirm, "env.num_workers=2"]
    done = shell.pdx(*more)
    assert "up to 9 runs, 4 finished, 5 to do" in done.stderr
    assert "the search is over; 4 runs confirm its best on fresh seeds" in done.stderr
    assert {k: v for k, v in shell.results().items() if k in before} == before
    assert_all_over(shell, 9)
    kinds = [t.user_attrs["role"] for t in shell.trials()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"control": 1, "search": 4, "confirm": 4}
    logged = shell.mlflow_runs("tags.`pdx.role` = 'confirm'")
    assert len(logged) == 4
    (page,) = shell.out.glob("sweeps/drawn-cpu-*/report/report.html")
    assert "The best of the search, on fresh seeds" in page.read_text()
    (table,) = shell.out.glob("sweeps/drawn-cpu-*/report/runs.csv")
    assert table.read_text().count(",confirm,") == 4


def test_a_setting_that_loses_over_seeds_is_given_up(tmp_path: Path):
    """One that learns nothing has its last seed skipped; nothing of that run is left behind."""
    shell = Shell(tmp_path)
    tiny = [o for o in TINY if not o.startswith("train.seed")]
    grid = ["loss=none", "optim.peak_lr=0.01,1e-7", "train.seed=0,1,2", "env.num_workers=1"]
    pruner = ["wilcoxon", "num_startup_seeds=2", "p_threshold=0.3"]
    chosen = [
        f"hydra/sweeper/pruner={pruner[0]}",
        *(f"hydra.sweeper.pruner.{o}" for o in pruner[1:]),
    ]
    done = shell.pdx("train", "-m", *grid, *tiny, *chosen)
    assert "report.html" in done.stdout
    pruned = [t for t in shell.trials() if t.state.name == "PRUNED"]
    assert [(t.params["optim.peak_lr"], t.params["train.seed"]) for t in pruned] == [(1e-7, 2)]
    assert not (shell.out / "runs" / pruned[0].user_attrs["run_id"] / "result.json").exists()


def test_hydras_own_sweeper_runs_each_job_as_a_single_run(tmp_path: Path):
    shell = Shell(tmp_path)
    tiny = [o for o in TINY if not o.startswith("student=")]
    done = shell.pdx("train", "-m", "hydra/sweeper=basic", "loss=none", "student=s10k,s30k", *tiny)
    assert done.stdout.count("val/bits_per_byte") == 2
    assert len(shell.results()) >= 2
    assert {r.info.status for r in shell.mlflow_runs("tags.`pdx.kind` = 'run'")} == {"FINISHED"}


# ---- a user's own package, and points that fail --------------------------------------------------


@pytest.mark.slow
def test_of_runs_that_share_a_process_each_ends_by_itself(tmp_path: Path):
    """Two end well; of two others one raises, and one kills the process and is tried by itself."""
    shell = Shell(tmp_path)
    shell.write_own_package()
    (tmp_path / "broken").touch()
    shell.write_sweep(
        "own",
        base=["loss=odd", "env.packages=[mine]", "env.max_retries=0"],
        axes={"loss.does": ["a", "b", "raises", "dies"]},
    )
    more = ["hydra.sweeper.students_per_worker=2", "env.num_workers=1"]
    shell.pdx("train", "-m", "sweep=own", "--config-dir", "conf", *more, status=1)
    trials = shell.trials()
    latest = {t.params["loss.does"]: t for t in sorted(trials, key=lambda t: t.number)}
    assert [latest[does].state.name for does in ("a", "b")] == ["COMPLETE"] * 2
    assert "RuntimeError: no loss today" in latest["raises"].user_attrs["reason"]
    assert latest["dies"].user_attrs["alone"]
    ended = states(trials)
    assert ended[of(shell, **{"loss.does": "dies"})] == ["FAIL"] * 2, "with the other, and alone"
    runs = [shell.out / "runs" / of(shell, **{"loss.does": does}) for does in ("a", "b")]
    a, b = (read_json(run / "result.json") for run in runs)
    assert a["provenance"]["num_students"] == b["provenance"]["num_students"] == 2
    assert a["metrics"]["val/loss"] == b["metrics"]["val/loss"], "one loss by two names"


def test_points_that_fail_are_told_and_the_sweep_goes_on(tmp_path: Path):
    """One raises, one is killed whenever it runs, one diverges; the others carry awkward values.

    Beside that: an own package and conf directory as axis values; editing conf/ changes no queued
    run; a worker keeps its slot; and the same command, with the cause mended, runs what is left.
    """
    shell = Shell(tmp_path)
    shell.write_own_package()
    (tmp_path / "broken").touch()
    awkward = ['it\'s a, "b"', None, [1, "x y"]]
    shell.write_sweep(
        "own",
        base=["loss=odd", "env.packages=[mine]", "env.max_retries=1", "env.gpus=[0,1]"],
        axes={"loss.does": [*awkward, "raises", "dies"]},
        control=["loss=none", "optim.peak_lr=1.0e30"],
        expected_runs=6,
    )
    command = ["train", "-m", "sweep=own", "--config-dir", "conf", "env.device=cpu"]
    with shell.started(*command, "env.num_workers=2") as driver:
        wait_for("a plan", lambda: list(shell.out.glob("sweeps/*/plan.json")), driver)
        own = tmp_path / "conf" / "loss" / "odd.yaml"
        kept = own.read_text()
        own.write_text(kept.replace("1.0", "7.0"))
        assert driver.wait(300) == 1, shell.terminal()[-5000:]
    own.write_text(kept)

    ended = states(shell.trials())
    raised, died = of(shell, **{"loss.does": "raises"}), of(shell, **{"loss.does": "dies"})
    diverged = of(shell, loss="none")
    fine = {of(shell, **{"loss.does": value}): value for value in awkward}
    assert ended == {
        raised: ["FAIL"],
        died: ["FAIL", "FAIL"],  # once more, and no more
        diverged: ["COMPLETE"],
        **{run_id: ["COMPLETE"] for run_id in fine},
    }
    assert shell.results().keys() >= {diverged, *fine} and raised not in shell.results()

    trials = {t.user_attrs["run_id"]: t for t in shell.trials()}
    assert trials[raised].user_attrs["reason"] == "failed: RuntimeError: no loss today"
    assert trials[diverged].user_attrs["status"] == "diverged"
    assert trials[diverged].value == pytest.approx(3.4657, abs=1e-4), (
        "ln 32: that of knowing nothing"
    )
    runs = {r.data.tags["pdx.run_id"]: r for r in shell.mlflow_runs("tags.`pdx.kind` = 'run'")}
    assert {k: r.info.status for k, r in runs.items()} == {
        raised: "FAILED",
        died: "KILLED",
        **dict.fromkeys([diverged, *fine], "FINISHED"),
    }
    assert runs[raised].data.tags["pdx.reason"] == "RuntimeError: no loss today"
    assert "exit code" in runs[died].data.tags["pdx.reason"]
    assert runs[diverged].data.tags["pdx.state"] == "diverged"
    (parent,) = shell.mlflow_runs("tags.`pdx.kind` = 'sweep'")
    assert parent.info.status == "FAILED"
    counts = {k.removeprefix("runs/"): v for k, v in parent.data.metrics.items()}
    none = {"pruned": 0, "running": 0, "to_do": 0}
    assert counts == {"complete": 3, "diverged": 1, "failed": 2} | none
    said = shell.terminal()
    assert "SweepError: own-cpu-" in said and "2 runs failed" in said
    assert f"{raised}: failed: RuntimeError: no loss today" in said

    # from the command line to config, study and MLflow, values stay what they are
    for run_id, value in fine.items():
        config = yaml.safe_load((shell.out / "runs" / run_id / "config.yaml").read_text())
        assert config["loss"]["does"] == value
        assert config["loss"]["weight"] == 1.0, "conf/ was edited after the plan"
        assert trials[run_id].params["loss.does"] == (
            str(value) if isinstance(value, list) else value
        )
        assert runs[run_id].data.params == {"loss.does": str(value)}

    slots = {tuple(line.split()) for line in (tmp_path / "slots.log").read_text().splitlines()}
    assert {gpu for _, gpu in slots} == {"0", "1"}, "both slots are used"
    assert len(slots) == len({worker for worker, _ in slots}), "a worker keeps its slot"

    # mended: the same command, through a launcher that knows nothing of pdx
    (tmp_path / "broken").unlink()
    before = shell.results()
    done = shell.pdx(*command, "hydra/launcher=basic", "env.isolation=inline")
    assert "6 runs, 4 finished, 2 to do" in done.stderr
    assert shell.results().keys() - before.keys() == {raised, died}
    assert {k: shell.results()[k] for k in before} == before
    assert states(shell.trials())[died] == ["FAIL", "FAIL", "COMPLETE"]
    assert {r.info.status for r in shell.mlflow_runs()} == {"FINISHED"}
    tags = {
        r.data.tags["pdx.run_id"]: r.data.tags for r in shell.mlflow_runs("tags.`pdx.kind` = 'run'")
    }
    assert "pdx.reason" not in tags[raised], "the reason of an end that was undone"


# ---- kills ---------------------------------------------------------------------------------------


class Held:
    """A sweep of four runs, each of which stops after a few steps until it is let go."""

    def __init__(self, root: Path) -> None:
        self.shell = shell = Shell(root)
        shell.write_own_package()
        self.gate = root / "hold"
        self.gate.touch()
        base = ["loss=odd", "env.packages=[mine]", *TWO_WORKERS]
        shell.write_sweep("held", base=base, axes={"student": ["s10k", "s30k"]}, seeds=[0, 1])
        self.command = ["train", "-m", "sweep=held", "--config-dir", "conf"]

    def running(self) -> dict[str, psutil.Process]:
        """The process of each run under way that has a checkpoint to go on from."""
        found = {}
        for process in self.shell.processes():
            try:
                held = [Path(f.path) for f in process.open_files()]
            except psutil.Error:
                continue
            for lock in held:
                if lock.name == ".lock" and (lock.parent / "checkpoint.pt").exists():
                    found[lock.parent.name] = process
        return found

    def two_running(self, driver: Any, besides: Any = ()) -> dict[str, psutil.Process]:
        """Wait until both workers are in the midst of a run."""

        def both() -> dict[str, psutil.Process] | None:
            found = {k: p for k, p in self.running().items() if k not in besides}
            return found if len(found) == 2 - len(besides) else None

        return wait_for("two runs with a checkpoint", both, driver)

    def worker_of(self, run_id: str) -> int:
        """The process id of the worker that holds a run."""
        (trial,) = (
            t
            for t in self.shell.trials()
            if t.user_attrs["run_id"] == run_id and t.state.name == "RUNNING"
        )
        return int(trial.user_attrs["worker"].split(":")[1])

    def assert_stopped(self) -> None:
        """No process left, and nothing that seems to run."""
        wait_for("every process to be gone", lambda: not self.shell.processes())
        assert "RUNNING" not in {t.state.name for t in self.shell.trials()}
        assert "RUNNING" not in {r.info.status for r in self.shell.mlflow_runs()}

    def reboot(self) -> None:
        """Leave what was under way as a cut of the power does.

        The process ids of its workers are those of others by now, and each log ends in half a line.
        """
        (directory,) = self.shell.out.glob("sweeps/*")
        journal = (directory / "journal.log").read_text()
        running = [t for t in self.shell.trials() if t.state.name == "RUNNING"]
        assert len(running) == 2
        for trial in running:
            host, pid, nonce = trial.user_attrs["worker"].split(":")
            for file in (directory / "workers").glob(f"{host}:{pid}:{nonce}.*"):
                file.rename(file.with_name(file.name.replace(f":{pid}:", f":{os.getpid()}:")))
            journal = journal.replace(f"{pid}:{nonce}", f"{os.getpid()}:{nonce}")
        (directory / "journal.log").write_text(journal + journal.splitlines()[-1][:-9])
        for log in self.shell.out.glob("runs/*/metrics.jsonl"):
            log.write_text(log.read_text() + '{"step": 9, "tok')

    def finish(self) -> None:
        """Let the runs go, give the command again, and see each point complete exactly once."""
        self.gate.unlink()
        self.shell.pdx(*self.command)
        assert_all_over(self.shell, 4)
        assert self.shell.worker_logs().count("going on from step") >= 2, "resumed, not begun anew"


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def test_a_killed_run_and_a_killed_worker_are_made_good(held: Held):
    with held.shell.started(*held.command) as driver:
        one, other = (running := held.two_running(driver))
        running[one].kill()
        wait_for("its failure", lambda: states(held.shell.trials())[one] != ["RUNNING"], driver)
        assert states(held.shell.trials())[one][0] == "FAIL"
        assert held.two_running(driver, besides=[other]), "the worker goes on"
        os.kill(held.worker_of(other), signal.SIGKILL)
        wait_for("its run to die with it", lambda: not running[other].is_running(), driver)
        held.gate.unlink()
        assert driver.wait(300) == 0, held.shell.terminal()[-5000:]
        wait_for("every process to be gone", lambda: not held.shell.processes())
    assert_all_over(held.shell, 4)
    ended = states(held.shell.trials())
    assert ended[one] == ended[other] == ["FAIL", "COMPLETE"]
    assert held.shell.worker_logs().count("going on from step") == 2


def test_a_sweep_goes_on_after_an_interruption_and_after_the_death_of_everything(held: Held):
    with held.shell.started(*held.command) as driver:
        held.two_running(driver)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        assert driver.wait(300) == 130
        held.assert_stopped()
    assert "interrupted; the same command goes on" in held.shell.terminal()
    assert (
        sorted(states(held.shell.trials()).values())
        == [["FAIL", "WAITING"]] * 2 + [["WAITING"]] * 2
    )
    with held.shell.started(*held.command) as driver:
        held.two_running(driver)
        second = held.shell.pdx(*held.command, status=1)
        assert "another process is driving it" in second.stderr
        status = held.shell.pdx("status", *held.command[1:])
        assert "0 complete, 0 diverged, 0 pruned, 0 failed, 2 running, 2 to_do" in status.stdout
        os.killpg(driver.pid, signal.SIGKILL)
    held.reboot()
    held.finish()


@pytest.mark.slow
def test_sigterm_ends_a_sweep_as_an_interruption_does(held: Held):
    with held.shell.started(*held.command) as driver:
        held.two_running(driver)
        driver.terminate()  # the driver alone: it takes the others along
        assert driver.wait(300) == 130
        held.assert_stopped()
    held.finish()


@pytest.mark.slow
def test_workers_go_with_a_killed_driver(held: Held):
    with held.shell.started(*held.command) as driver:
        held.two_running(driver)
        driver.kill()  # the driver alone: it cannot take the others along
        wait_for("every process to be gone", lambda: not held.shell.processes())
    held.finish()


@pytest.mark.slow
def test_the_last_workers_are_replaced(held: Held):
    with held.shell.started(*held.command) as driver:
        for run_id in held.two_running(driver):
            os.kill(held.worker_of(run_id), signal.SIGKILL)
        held.gate.unlink()
        assert driver.wait(300) == 0, held.shell.terminal()[-5000:]
    assert_all_over(held.shell, 4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["plan", "teacher"])
def test_an_interruption_before_any_run_leaves_nothing_running(held: Held, stage: str):
    marks: dict[str, Callable[[], Any]] = {
        "plan": lambda: (held.shell.out / "mlflow.db").exists(),
        "teacher": lambda: list(held.shell.out.glob("runs/*/metrics.jsonl")),
    }
    with held.shell.started(*held.command) as driver:
        wait_for(stage, marks[stage], driver)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(300) == 130
        wait_for("every process to be gone", lambda: not held.shell.processes())
        assert "RUNNING" not in {r.info.status for r in held.shell.mlflow_runs()}
    held.gate.unlink()
    held.shell.pdx(*held.command)
    assert_all_over(held.shell, 4)


def test_ctrl_c_saves_a_single_run(tmp_path: Path):
    shell = Shell(tmp_path)
    command = ["train", *TINY, "loss=none", "teacher@eval_teacher=none"]
    command += ["train.num_tokens=9000000", "train.max_epochs=1000"]
    with shell.started(*command) as process:
        log = wait_for("a step", lambda: list(shell.out.glob("runs/*/metrics.jsonl")), process)[0]
        wait_for("a step", lambda: log.read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130, shell.terminal()[-3000:]
    assert "saving a checkpoint" in shell.terminal() and (log.parent / "checkpoint.pt").exists()
    assert [run.info.status for run in shell.mlflow_runs()] == ["KILLED"]
    with shell.started(*command) as process:
        wait_for("resuming", lambda: "going on from step" in shell.terminal(), process)
        process.terminate()
        process.terminate()
        assert process.wait(120) == 130, shell.terminal()[-3000:]
