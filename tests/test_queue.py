"""The queue of a sweep and the workers that empty it: each point once, whoever dies."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import states
from optuna.trial import TrialState

from pdx.errors import SweepError
from pdx.files import free_lock
from pdx.sweep.isolated import Outcome
from pdx.sweep.local import visible_gpus
from pdx.sweep.plan import Plan, Point
from pdx.sweep.progress import tokens_of
from pdx.sweep.study import Queue
from pdx.sweep.worker import Worker

COMPLETE = Outcome("complete", 3.0)


def plan_of(num_points: int) -> Plan:
    """A plan whose points are names only."""
    points = [Point(f"run{i}", "axis", {"x": i, "y": [i]}, [], {}, {}) for i in range(num_points)]
    return Plan("q", "any", "Does it?", "pdx train -m", ["x", "y"], "train.seed", points)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def run_states(queue: Queue) -> dict[str, list[str]]:
    return states(queue.trials())


# ---- the queue -----------------------------------------------------------------------------------


def test_a_point_is_queued_once(queue: Queue):
    plan = plan_of(3)
    assert queue.enqueue(plan, {"run0", "run1", "run2"}) == 3
    with queue.sign_on()[1]:
        running, over = queue.take("me"), queue.take("me")
        assert running and over
        queue.tell_complete(over, 1.0, "complete")
        assert queue.enqueue(plan, {"run0", "run2"}) == 0, "one runs, one waits, one is over"
    assert run_states(queue) == {"run0": ["RUNNING"], "run1": ["COMPLETE"], "run2": ["WAITING"]}
    assert queue.num_waiting() == 1


def test_a_point_whose_result_was_removed_is_queued_again(queue: Queue):
    plan = plan_of(1)
    queue.enqueue(plan, {"run0"})
    trial = queue.take("me")
    assert trial
    queue.tell_complete(trial, 1.0, "complete")
    assert queue.enqueue(plan, set()) == 0
    assert queue.enqueue(plan, {"run0"}) == 1


def test_a_failed_point_is_queued_again_by_the_next_command(queue: Queue):
    plan = plan_of(1)
    queue.enqueue(plan, {"run0"})
    trial = queue.take("me")
    assert trial
    queue.tell_failed(trial, "failed: the moon was full")
    assert queue.failures(plan) == {"run0": "failed: the moon was full"}
    assert queue.enqueue(plan, {"run0"}) == 1
    assert queue.failures(plan) == {}


def test_a_trial_carries_the_axes_of_its_point(queue: Queue):
    queue.enqueue(plan_of(2), {"run0", "run1"})
    trial = queue.take("me")
    assert trial
    assert trial.params == {"x": 0, "y": "[0]"}
    assert trial.user_attrs == {"run_id": "run0", "role": "axis", "retries": 0, "worker": "me"}


def test_nothing_is_pruned_out_of_a_grid(queue: Queue):
    assert isinstance(queue.study.pruner, optuna.pruners.NopPruner)


def test_two_workers_at_once_never_take_the_same_point(queue: Queue):
    queue.enqueue(plan_of(40), {f"run{i}" for i in range(40)})
    take_all = (
        "import sys; from pathlib import Path; from pdx.sweep.study import Queue\n"
        "queue = Queue(Path(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "while trial := queue.take('me'): print(trial.user_attrs['run_id'])\n"
    )
    command = [sys.executable, "-c", take_all, str(queue.directory)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    taken = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert sorted(taken[0] + taken[1]) == sorted(f"run{i}" for i in range(40))
    assert all(taken), "both took some"


def test_what_a_lost_worker_held_is_queued_again(queue: Queue):
    """A worker is gone when its lock is free; a trial that nobody signed belongs to nobody."""
    plan = plan_of(4)
    queue.enqueue(plan, {p.run_id for p in plan.points})
    gone, gone_lock = queue.sign_on()
    alive, alive_lock = queue.sign_on()
    with alive_lock:
        with gone_lock:
            lost, kept = queue.take(gone), queue.take(alive)
        queue.study.ask()  # killed between asking and signing
        assert lost and kept
        assert queue.reap(plan, 2) == ["run0", "run2"]
        assert queue.reap(plan, 2) == []
    assert run_states(queue) == {
        "run0": ["FAIL", "WAITING"],
        "run1": ["RUNNING"],
        "run2": ["FAIL", "WAITING"],
        "run3": ["WAITING"],
    }
    failed = [t for t in queue.trials() if t.state == TrialState.FAIL]
    assert {t.user_attrs["reason"] for t in failed} == {"lost: its worker is gone"}
    retried = [t.user_attrs for t in queue.trials() if t.user_attrs["retries"] == 1]
    assert [t["run_id"] for t in retried] == ["run0", "run2"]


@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_point_is_not_retried_for_ever(queue: Queue, max_retries: int):
    plan = plan_of(1)
    queue.enqueue(plan, {"run0"})
    worker, lock = queue.sign_on()
    for _ in range(max_retries + 1):
        with lock if lock else queue.sign_on()[1]:
            assert queue.take(worker)
        lock = None
        assert queue.reap(plan, max_retries) == ["run0"]
    assert run_states(queue) == {"run0": ["FAIL"] * (max_retries + 1)}
    assert queue.num_waiting() == 0
    assert queue.enqueue(plan, {"run0"}) == 1, "the command, given again, tries again"


def test_a_sweep_is_counted_by_the_last_word_on_each_point(queue: Queue):
    plan = plan_of(6)
    queue.enqueue(plan, {p.run_id for p in plan.points})
    ends: list[Callable[[Any], Any]] = [
        lambda trial: queue.tell_complete(trial, 1.0, "complete"),
        lambda trial: queue.tell_complete(trial, 9.0, "diverged"),
        lambda trial: queue.tell_failed(trial, "failed: x"),
        lambda trial: queue.lose(trial, plan, 1, "lost"),
        lambda trial: None,
    ]
    for end in ends:
        end(queue.take("me"))
    counts = {"complete": 1, "diverged": 1, "failed": 1, "running": 1, "to_do": 2}
    assert queue.counts(plan) == counts
    assert [t.value for t in queue.trials() if t.state == TrialState.COMPLETE] == [1.0, 9.0]


# ---- workers -------------------------------------------------------------------------------------


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker over three points."""
    plan, queue = plan_of(3), Queue(tmp_path)
    plan.save(tmp_path)
    queue.enqueue(plan, {p.run_id for p in plan.points})
    return Worker(str(tmp_path), num_workers=1, gpus=(), isolation="inline", max_retries=1)


def test_a_worker_runs_everything_and_tells_how_it_ended(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    outcomes = {
        "run0": [Outcome("diverged", 9.0, "not finite")],
        "run1": [Outcome("failed", reason="KeyError: x"), COMPLETE],
        "run2": [Outcome("lost", reason="exit code -9"), COMPLETE],
    }
    monkeypatch.setattr(Worker, "_run", lambda self, point, plan: outcomes[point.run_id].pop(0))
    assert worker(None) == 4
    queue = Queue(Path(worker.directory))
    assert run_states(queue) == {
        "run0": ["COMPLETE"],
        "run1": ["FAIL"],  # what fails of itself would fail again
        "run2": ["FAIL", "COMPLETE"],
    }
    assert queue.failures(plan_of(3)) == {"run1": "failed: KeyError: x"}
    assert queue.counts(plan_of(3))["diverged"] == 1


def test_what_runs_out_of_memory_or_is_lost_too_often_is_not_tried_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    ends = {"run0": Outcome("oom", reason="too large"), "run1": Outcome("lost", reason="exit -9")}
    monkeypatch.setattr(Worker, "_run", lambda s, point, plan: ends.get(point.run_id, COMPLETE))
    worker(None)
    queue = Queue(Path(worker.directory))
    assert run_states(queue) == {"run0": ["FAIL"], "run1": ["FAIL", "FAIL"], "run2": ["COMPLETE"]}
    assert queue.failures(plan_of(3)) == {"run0": "oom: too large", "run1": "exit -9"}


def test_a_worker_holds_its_lock_while_it_lives(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    directory = Path(worker.directory)
    seen = []

    def run(self: Worker, point: Point, plan: Plan) -> Outcome:
        (lock,) = (directory / "workers").glob("*.lock")
        seen.append(free_lock(lock))
        assert Queue(directory).reap(plan, 1) == [], "nobody else takes its point"
        return COMPLETE

    monkeypatch.setattr(Worker, "_run", run)
    worker(None)
    assert seen == [False] * 3
    assert all(free_lock(lock) for lock in (directory / "workers").glob("*.lock"))


def test_a_worker_finishes_what_another_lost(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    directory = Path(worker.directory)
    queue = Queue(directory)
    with queue.sign_on()[1]:
        assert queue.take("gone")
    monkeypatch.setattr(Worker, "_run", lambda self, point, plan: COMPLETE)
    assert worker(None) == 3
    assert run_states(queue)["run0"] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("visible", "asked", "slots"),
    [
        ("0,1,2", "auto", ["0", "1", "2"]),
        ("4,7", [1], ["7"]),
        ("GPU-aa,GPU-bb", "auto", ["GPU-aa", "GPU-bb"]),
        ("", "auto", []),
        ("0,1", None, []),
        ("", [0, 1], ["0", "1"]),  # none seen: what the user names is taken at its word
    ],
)
def test_slots_are_the_gpus_that_this_process_may_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: Any, slots: list[str]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(asked) == slots


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SweepError, match=r"env\.gpus=\[0, 5\]: \[5\] are not there; 2 are visible"):
        visible_gpus([0, 5])


def test_jobs_share_out_the_gpus():
    worker = Worker("x", num_workers=4, gpus=("3", "5"), isolation="inline", max_retries=0)
    assert [worker.slot_of(job) for job in range(4)] == ["3", "5", "3", "5"]


def test_progress_reads_a_log_whose_last_line_is_half_written(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    assert tokens_of(log) == 0.0
    log.write_text('{"step": 1, "tokens": 512.0}\n{"step": 2, "tokens": 1024.0}\n{"step": 3, "tok')
    assert tokens_of(log) == 1024.0
