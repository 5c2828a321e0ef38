"""The queue of a sweep and the workers that empty it: each point once, whoever dies."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from command_line import states
from optuna.trial import TrialState

from pdx.config import config_of
from pdx.errors import SweepError
from pdx.facts import facts_of
from pdx.files import free_lock
from pdx.sweep import presence
from pdx.sweep import queue as queue_module
from pdx.sweep.budget import Budget, used_seconds
from pdx.sweep.groups import alike, check_groups, described
from pdx.sweep.isolated import Outcome, Task, run_isolated
from pdx.sweep.local import slots_of, visible_gpus, workers_of
from pdx.sweep.plan import Plan, Point
from pdx.sweep.planner import GRID
from pdx.sweep.presence import is_alive, sign_on
from pdx.sweep.progress import last_metrics
from pdx.sweep.queue import Queue
from pdx.sweep.standing import standing_of
from pdx.sweep.storage import open_storage
from pdx.sweep.worker import Worker

COMPLETE = Outcome("complete", [3.0])
ALL = {f"run{i}" for i in range(99)}


def plan_of(num_points: int, costs: dict[int, float] | None = None) -> Plan:
    """A plan whose points are names only."""
    points = [
        Point(f"run{i}", "axis", {"x": i, "y": [i]}, [], {}, {"flops_train_exact": cost})
        for i, cost in ((i, (costs or {}).get(i, 1.0)) for i in range(num_points))
    ]
    axes = ["x", "y"]
    return Plan("q", "any", "Does it?", "pdx train -m", axes, "train.seed", points, method=GRID)


@pytest.fixture
def queue_of(tmp_path: Path) -> Callable[..., Queue]:
    """The queue of a plan with so many points, all of them queued."""

    def inner(num_points: int, **changes: Any) -> Queue:
        queue = Queue(tmp_path, plan_of(num_points, **changes))
        assert queue.enqueue(ALL) == num_points
        return queue

    return inner


def run_states(queue: Queue) -> dict[str, list[str]]:
    return states(queue.trials())


# ---- the queue -----------------------------------------------------------------------------------


def test_a_point_is_queued_once(queue_of: Callable[..., Queue]):
    queue = queue_of(3)
    running, over = queue.take("me"), queue.take("me")
    assert running and over
    queue.tell_complete(over, [1.0], "complete")
    assert queue.enqueue({"run0", "run2"}) == 0, "one runs, one waits, one is over"
    assert run_states(queue) == {"run0": ["RUNNING"], "run1": ["COMPLETE"], "run2": ["WAITING"]}
    assert queue.num_waiting() == 1


def test_the_longest_is_taken_first(queue_of: Callable[..., Queue]):
    queue = queue_of(4, costs={0: 1.0, 1: 5.0, 2: 3.0, 3: 5.0})
    taken = [trial.user_attrs["run_id"] for _ in range(4) if (trial := queue.take("me"))]
    assert taken == ["run1", "run3", "run2", "run0"]


def test_a_point_whose_result_was_removed_is_queued_again(queue_of: Callable[..., Queue]):
    queue = queue_of(1)
    trial = queue.take("me")
    assert trial
    queue.tell_complete(trial, [1.0], "complete")
    assert queue.enqueue(set()) == 0
    assert queue.enqueue({"run0"}) == 1


def test_a_pruned_point_is_over_though_it_has_no_result(queue_of: Callable[..., Queue]):
    queue = queue_of(1)
    trial = queue.take("me")
    assert trial
    queue.tell_pruned(trial)
    assert queue.enqueue({"run0"}) == 0
    counts = standing_of(queue).counts
    assert counts["pruned"] == 1 and counts["to_do"] == 0


def test_a_failed_point_is_queued_again_by_the_next_command(queue_of: Callable[..., Queue]):
    queue = queue_of(1)
    trial = queue.take("me")
    assert trial
    queue.tell_failed(trial, "failed: the moon was full")
    assert standing_of(queue).failures == {"run0": "failed: the moon was full"}
    assert queue.enqueue({"run0"}) == 1
    assert standing_of(queue).failures == {}


def test_a_trial_carries_the_axes_of_its_point(queue_of: Callable[..., Queue]):
    queue = queue_of(2)
    trial = queue.take("me")
    assert trial
    assert trial.params == {"x": 0, "y": "[0]"}
    assert trial.user_attrs == {"run_id": "run0", "role": "axis", "retries": 0, "worker": "me"}


def test_nothing_is_pruned_out_of_a_grid(queue_of: Callable[..., Queue]):
    """Optuna's default pruner would stop the second of two points that report and are worse."""
    queue = queue_of(12)
    for _ in range(12):
        trial = queue.take("me")
        assert trial
        for step in range(3):
            trial.report(float(trial.number), step)
            assert not trial.should_prune()
        queue.tell_complete(trial, [float(trial.number)], "complete")
    assert standing_of(queue).counts == dict.fromkeys(
        ("diverged", "pruned", "failed", "running", "to_do"), 0
    ) | {"complete": 12}


def test_two_workers_at_once_never_take_the_same_point(queue_of: Callable[..., Queue]):
    queue = queue_of(40)
    queue.plan.save(queue.directory)
    take_all = (
        "import sys; from pathlib import Path; from pdx.sweep.queue import Queue\n"
        "from pdx.sweep.plan import load_plan; at = Path(sys.argv[1])\n"
        "queue = Queue(at, load_plan(at))\n"
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


def test_what_a_lost_worker_held_is_queued_again(
    queue_of: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
):
    """A trial that nobody signed was taken by one who died, unless it was taken just now."""
    queue = queue_of(4)
    with sign_on(queue.directory) as alive:
        with sign_on(queue.directory) as gone:
            lost, kept = queue.take(gone), queue.take(alive)
        assert lost and kept
        (waiting, _) = queue.planned.get_trials(states=(TrialState.WAITING,))
        queue.storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
        assert queue.reap(2) == ["run0"]
        monkeypatch.setattr(queue_module, "UNSIGNED", timedelta(0))
        assert queue.reap(2) == ["run2"]
        assert queue.reap(2) == []
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


def test_of_two_who_find_a_lost_trial_one_queues_it_again(queue_of: Callable[..., Queue]):
    queue = queue_of(1)
    other = Queue(queue.directory, queue.plan)
    with sign_on(queue.directory) as gone:
        trial = queue.take(gone)
    assert trial
    seen = other.planned.get_trials()[0]
    assert queue.lose(trial, 2, "lost") and not other.lose(seen, 2, "lost")
    assert run_states(queue) == {"run0": ["FAIL", "WAITING"]}


@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_point_is_not_retried_for_ever(queue_of: Callable[..., Queue], max_retries: int):
    queue = queue_of(1)
    for _ in range(max_retries + 1):
        with sign_on(queue.directory) as worker:
            assert queue.take(worker)
        assert queue.reap(max_retries) == ["run0"]
    assert run_states(queue) == {"run0": ["FAIL"] * (max_retries + 1)}
    assert queue.num_waiting() == 0
    assert queue.enqueue({"run0"}) == 1, "the command, given again, tries again"


def test_a_sweep_is_counted_by_the_last_word_on_each_point(queue_of: Callable[..., Queue]):
    queue = queue_of(7)
    ends: list[Callable[[Any], Any]] = [
        lambda trial: queue.tell_complete(trial, [1.0], "complete"),
        lambda trial: queue.tell_complete(trial, [9.0], "diverged"),
        lambda trial: queue.tell_failed(trial, "failed: x"),
        lambda trial: queue.lose(trial, 1, "lost"),
        lambda trial: queue.tell_pruned(trial),
        lambda trial: None,
    ]
    for end in ends:
        end(queue.take("me"))
    counts = {"complete": 1, "diverged": 1, "pruned": 1, "failed": 1, "running": 1, "to_do": 2}
    assert standing_of(queue).counts == counts
    assert [t.value for t in queue.trials() if t.state == TrialState.COMPLETE] == [1.0, 9.0]


def test_two_sweeps_share_one_database(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    one, other = (Queue(tmp_path / str(n), plan_of(n), url) for n in (2, 3))
    assert (one.enqueue(ALL), other.enqueue(ALL)) == (2, 3)
    trial = one.take("me")
    assert trial
    one.tell_complete(trial, [1.0], "complete")
    assert (one.num_waiting(), other.num_waiting()) == (1, 3)
    assert run_states(one) == {"run0": ["COMPLETE"], "run1": ["WAITING"]}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://x/y", r"env\.storage=nosuch://x/y: its driver is not installed .*pip install"),
        ("postgresql://me@127.0.0.1:1/x", r"env\.storage=postgresql://me@127.*(answer|installed) "),
        ("postgresql://me@127.0.0.1:one/x", r"env\.storage=postgresql://me.* no database"),
        ("sqlite:////proc/nope/x.db", r"env\.storage=sqlite:.*does not answer .*start the server"),
    ],
)
def test_a_database_that_cannot_be_had_is_refused(tmp_path: Path, url: str, message: str):
    with pytest.raises(SweepError, match=message):
        open_storage(url, tmp_path)


# ---- presence ------------------------------------------------------------------------------------


def test_a_worker_of_this_host_is_gone_the_moment_it_dies(tmp_path: Path):
    live = (
        "import sys; from pathlib import Path; from pdx.sweep.presence import sign_on\n"
        "with sign_on(Path(sys.argv[1])) as name: print(name, flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", live, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        assert is_alive(tmp_path, name)
        process.kill()
    assert not is_alive(tmp_path, name)


def test_after_a_reboot_nobody_is_taken_for_a_worker_of_the_boot_before(
    queue_of: Callable[..., Queue],
):
    """Its files are there, its last beat is fresh, and its process id is that of somebody else."""
    queue = queue_of(1)
    before = f"{socket.gethostname()}:{os.getpid()}:abc123"
    assert queue.take(before)
    (queue.directory / "workers").mkdir()
    for ending in ("lock", "beat"):
        (queue.directory / "workers" / f"{before}.{ending}").touch()
    assert not is_alive(queue.directory, before)
    assert queue.reap(1) == ["run0"]
    assert run_states(queue) == {"run0": ["FAIL", "WAITING"]}


@pytest.mark.parametrize("torn", [b'{"op_code":5,"worker', b"\0" * 5000, b'{"op_code":5}'])
def test_a_line_that_its_writer_did_not_finish_ends_no_sweep(
    queue_of: Callable[..., Queue], torn: bytes
):
    """Killed in the midst of it, or the power gone: the others, and those who come, go on."""
    queue = queue_of(2)
    with (queue.directory / "journal.log").open("ab") as journal:
        journal.write(torn)
    first = queue.take("me")
    assert first and first.user_attrs["run_id"] == "run0"
    later = Queue(queue.directory, queue.plan)
    assert run_states(later) == {"run0": ["RUNNING"], "run1": ["WAITING"]}
    assert torn not in (queue.directory / "journal.log").read_bytes()


def test_a_worker_of_another_host_is_gone_when_its_heart_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    with sign_on(tmp_path) as name:
        beat = tmp_path / "workers" / f"{name}.beat"
        first = beat.stat().st_mtime
        while beat.stat().st_mtime == first:
            time.sleep(0.01)  # it beats
        monkeypatch.setattr(presence.socket, "gethostname", lambda: "another")
        assert is_alive(tmp_path, name)
        old = time.time() - presence.LOST_SECONDS - 1
        monkeypatch.setattr(Path, "touch", lambda self: None)
        os.utime(beat, (old, old))
        assert not is_alive(tmp_path, name)
        monkeypatch.undo()
    assert not beat.exists(), "who leaves says goodbye"


# ---- workers -------------------------------------------------------------------------------------


@pytest.fixture
def worker(queue_of: Callable[..., Queue]) -> Worker:
    """A worker over three points."""
    queue = queue_of(3)
    queue.plan.save(queue.directory)
    return Worker(
        directory=str(queue.directory),
        storage=None,
        num_workers=1,
        slots=(),
        isolation="inline",
        max_retries=1,
        budget=Budget(),
        students_per_worker=1,
    )


def ends(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Task], Outcome]) -> None:
    """What stands for running a point."""
    monkeypatch.setattr(Worker, "_run", lambda self, task: outcome(task))


def queue_behind(worker: Worker, num_points: int = 3) -> Queue:
    return Queue(Path(worker.directory), plan_of(num_points))


def test_a_worker_runs_everything_and_tells_how_it_ended(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    outcomes = {
        "run0": [Outcome("diverged", [9.0], reason="not finite")],
        "run1": [Outcome("failed", reason="KeyError: x"), COMPLETE],
        "run2": [Outcome("lost", reason="exit code -9"), COMPLETE],
    }
    ends(monkeypatch, lambda task: outcomes[task.point.run_id].pop(0))
    assert worker(None) == 4
    queue = queue_behind(worker)
    assert run_states(queue) == {
        "run0": ["COMPLETE"],
        "run1": ["FAIL"],  # what fails of itself would fail again
        "run2": ["FAIL", "COMPLETE"],
    }
    assert standing_of(queue).failures == {"run1": "failed: KeyError: x"}
    assert standing_of(queue).counts["diverged"] == 1


def test_no_worker_waits_for_another(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """No barrier: while one worker is in a slow run, the other takes all that is left."""
    fast: list[str] = []
    all_fast = threading.Event()

    def run(task: Task) -> Outcome:
        if task.point.run_id == "run0":
            assert all_fast.wait(60), f"only {fast} ended beside the slow run"
            return COMPLETE
        fast.append(task.point.run_id)
        if len(fast) == 2:
            all_fast.set()
        return COMPLETE

    ends(monkeypatch, run)
    with ThreadPoolExecutor(2) as pool:
        counts = [f.result() for f in [pool.submit(worker, None) for _ in range(2)]]
    assert sorted(counts) == [1, 2] and sorted(fast) == ["run1", "run2"]


def test_what_runs_out_of_memory_or_is_lost_too_often_is_not_tried_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    bad = {"run0": Outcome("oom", reason="too large"), "run1": Outcome("lost", reason="exit -9")}
    ends(monkeypatch, lambda task: bad.get(task.point.run_id, COMPLETE))
    worker(None)
    queue = queue_behind(worker)
    assert run_states(queue) == {"run0": ["FAIL"], "run1": ["FAIL", "FAIL"], "run2": ["COMPLETE"]}
    assert standing_of(queue).failures == {"run0": "oom: too large", "run1": "exit -9"}


def test_a_paused_run_is_no_retry(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    outcomes = [Outcome("paused", reason="paused at step 3")] * 4 + [COMPLETE] * 3
    ends(monkeypatch, lambda task: outcomes.pop(0))
    worker(None)
    queue = queue_behind(worker)
    assert standing_of(queue).counts["complete"] == 3
    assert {t.user_attrs["retries"] for t in queue.trials()} == {0}


def test_an_interrupted_worker_puts_its_point_back(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    def interrupted(task: Task) -> Outcome:
        raise KeyboardInterrupt

    ends(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker(None)
    queue = queue_behind(worker)
    assert run_states(queue)["run0"] == ["FAIL", "WAITING"]
    assert {t.user_attrs["retries"] for t in queue.trials()} == {0}
    ends(monkeypatch, lambda task: COMPLETE)
    assert worker(None) == 3


def test_a_worker_holds_its_lock_while_it_lives(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    directory = Path(worker.directory)
    seen = []

    def run(task: Task) -> Outcome:
        (lock,) = (directory / "workers").glob("*.lock")
        seen.append(free_lock(lock))
        assert queue_behind(worker).reap(1) == [], "nobody else takes its point"
        return COMPLETE

    ends(monkeypatch, run)
    worker(None)
    assert seen == [False] * 3
    assert all(free_lock(lock) for lock in (directory / "workers").glob("*.lock"))


def test_a_worker_finishes_what_another_lost(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    queue = queue_behind(worker)
    with sign_on(queue.directory) as gone:
        assert queue.take(gone)
    ends(monkeypatch, lambda task: COMPLETE)
    assert worker(None) == 3
    assert run_states(queue)["run0"] == ["FAIL", "COMPLETE"]


# ---- runs that share a process -------------------------------------------------------------------


Told = Callable[[int, Outcome], None]


def share(
    monkeypatch: pytest.MonkeyPatch, together: Callable[[list[str], Told], None]
) -> list[list[str]]:
    """Let any runs of the plan share a process, which ``together`` stands for; who did, in turn."""
    did: list[list[str]] = []

    def run(tasks: list[Task], tell: Told) -> None:
        did.append([task.point.run_id for task in tasks])
        together(did[-1], tell)

    monkeypatch.setattr("pdx.sweep.worker.run_together", run)
    everyone = {f"run{i}" for i in range(5)}
    monkeypatch.setattr("pdx.sweep.worker.alike", lambda _: dict.fromkeys(everyone, everyone))

    def alone(task: Task) -> Outcome:
        did.append([task.point.run_id])
        return COMPLETE

    ends(monkeypatch, alone)
    return did


def test_a_worker_takes_so_many_runs_at_once(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    def all_end(runs: list[str], tell: Told) -> None:
        for number in reversed(range(len(runs))):
            tell(number, Outcome("failed", reason="x") if runs[number] == "run1" else COMPLETE)

    did = share(monkeypatch, all_end)
    assert replace(worker, students_per_worker=2)(None) == 3
    assert did == [["run0", "run1"], ["run2"]], "what is left over is run by itself"
    queue = queue_behind(worker)
    assert run_states(queue) == {"run0": ["COMPLETE"], "run1": ["FAIL"], "run2": ["COMPLETE"]}
    assert standing_of(queue).failures == {"run1": "failed: x"}
    assert [t.user_attrs.get("group_size") for t in queue.trials()] == [2, 2, None]


@pytest.mark.parametrize("status", ["lost", "oom"])
def test_what_is_lost_in_a_group_is_run_singly_and_that_is_no_retry(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, status: str
):
    """Which of them was to blame is not known; one that has ended is not run again."""

    def most_are_lost(runs: list[str], tell: Told) -> None:
        tell(0, COMPLETE)
        for number in range(1, len(runs)):
            tell(number, Outcome(status, reason="exit code -9"))

    did = share(monkeypatch, most_are_lost)
    worker = replace(worker, students_per_worker=3, max_retries=0)
    assert worker(None) == 5
    assert did == [["run0", "run1", "run2"], ["run1"], ["run2"]]
    queue = queue_behind(worker)
    assert run_states(queue)["run2"] == ["FAIL", "COMPLETE"]
    assert standing_of(queue).counts["complete"] == 3
    assert {t.user_attrs["retries"] for t in queue.trials()} == {0}


def test_what_was_lost_with_its_worker_is_run_singly(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    queue = queue_behind(worker)
    with sign_on(queue.directory) as gone:
        queue.group([trial for _ in range(2) if (trial := queue.take(gone))])
    did = share(monkeypatch, lambda runs, tell: None)
    assert replace(worker, students_per_worker=3)(None) == 3
    assert did == [["run2"], ["run0"], ["run1"]]


def test_a_run_that_shares_with_nobody_is_by_itself(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    def all_end(runs: list[str], tell: Told) -> None:
        for number in range(len(runs)):
            tell(number, COMPLETE)

    did = share(monkeypatch, all_end)
    pair = {"run0", "run2"}
    monkeypatch.setattr("pdx.sweep.worker.alike", lambda _: dict.fromkeys(pair, pair))
    replace(worker, students_per_worker=3)(None)
    assert did == [["run0", "run2"], ["run1"]]


def test_an_interrupted_group_is_put_back_but_for_what_has_ended(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(runs: list[str], tell: Told) -> None:
        tell(1, COMPLETE)
        raise KeyboardInterrupt

    share(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(worker, students_per_worker=3)(None)
    queue = queue_behind(worker)
    assert run_states(queue) == {
        "run0": ["FAIL", "WAITING"],
        "run1": ["COMPLETE"],
        "run2": ["FAIL", "WAITING"],
    }
    assert not any("alone" in t.user_attrs for t in queue.trials()), "it was nobody's fault"


def test_a_group_has_one_slot(queue_of: Callable[..., Queue]):
    queue = queue_of(3)
    taken = [trial for _ in range(3) if (trial := queue.take("me"))]
    time.sleep(0.3)
    apart, running = used_seconds(queue)
    queue.group(taken[:2])
    together, slots = used_seconds(queue)
    assert (running, slots) == (3, 2) and 0 < together < apart


@pytest.mark.parametrize(
    ("number", "env", "method", "said"),
    [
        (0, {}, {}, "students_per_worker=0: must be a whole number of at least 1; 1 gives"),
        (-2, {}, {}, "must be a whole number of at least 1"),
        (2, {"gpus_per_run": 2}, {}, "env.gpus_per_run=2 spreads a run over several; use 1"),
        (2, {"isolation": "inline"}, {}, "use env.isolation=forkserver, or 1"),
        (2, {}, {"constraints": {"perf/peak_memory_gib": 70.0}}, "perf/peak_memory_gib of runs"),
        (
            2,
            {},
            {"objectives": ["val/loss", "-perf/tokens_per_second"]},
            "of runs that share a process is not their own; leave it",
        ),
    ],
)
def test_what_a_group_cannot_have_is_refused(
    tiny: Callable[..., Any], number: int, env: Any, method: Any, said: str
):
    where, how = replace(tiny("loss=none")[1], **env), replace(GRID, **method)
    with pytest.raises(SweepError, match=said):
        check_groups(number, where, how)
    check_groups(1, where, how)


def test_runs_share_a_process_that_read_the_same(tiny: Callable[..., Any]):
    """Seeds order the batches; sizes, losses and rates do not, and a sampler wants each result."""

    def point(*overrides: str, role: str = "axis") -> Point:
        run, env = tiny("teacher@eval_teacher=none", *overrides)
        return Point(run.run_id, role, {}, [], config_of(run, env), facts_of(run, env))

    same = [point(o) for o in ("loss=jsd", "student=s30k", "optim.peak_lr=0.1", "signal.top_k=2")]
    live = [point("store=none", o) for o in ("loss=jsd", "signal=full", "hidden=mse")]
    plain = [point("loss=none"), point("loss=label_smoothing")]
    other = [point(o) for o in ("train.seed=1", "teacher.hidden_size=16", "train.batch_size=16")]
    by_itself = [point("train.compile=true"), point("loss=mse", role="search")]
    found = alike([*same, *live, *plain, *other, *by_itself])
    for group in (same, live, plain, *([one] for one in other)):
        for one in group:
            assert found[one.run_id] == {p.run_id for p in group}
    assert not found.keys() & {p.run_id for p in by_itself}
    text = described([*same, *live, *by_itself], 3, {p.run_id for p in [*same, *live, *by_itself]})
    assert "students_per_worker=3: 2 of 3, 3 of 1 in a process" in text


def test_a_budget_of_slot_hours_ends_the_work(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    """Of 100 s of slot time each run takes 40: the third may take 20, and there is no fourth."""
    used, left = [0.0], []

    def run(task: Task) -> Outcome:
        assert task.deadline is not None
        left.append(round((task.deadline - time.time()) / 20))
        used[0] += 40.0 if left[-1] >= 2 else 20.0
        return COMPLETE if left[-1] >= 2 else Outcome("paused", reason="paused at step 3")

    ends(monkeypatch, run)
    monkeypatch.setattr("pdx.sweep.budget.used_seconds", lambda studies: (used[0], 1))
    assert replace(worker, budget=Budget(gpu_hours=100 / 3600))(None) == 3
    assert left == [5, 3, 1]
    assert standing_of(queue_behind(worker)).counts["to_do"] == 1
    assert replace(worker, budget=Budget(gpu_hours=1.0))(None) == 1, "more budget goes on"


def test_slot_hours_are_shared_between_the_runs_under_way(queue_of: Callable[..., Queue]):
    queue = queue_of(3)
    for _ in range(2):
        assert queue.take("me")
    used, running = used_seconds(queue)
    assert running == 2 and used < 60
    left = Budget(gpu_hours=1.0).seconds_left(queue)
    assert left is not None and 1740 < left <= 1800


def test_a_budget_of_wall_time_ends_the_work(worker: Worker, monkeypatch: pytest.MonkeyPatch):

    ends(monkeypatch, lambda task: COMPLETE)
    assert replace(worker, budget=Budget(until=time.time() - 1))(None) == 0
    assert replace(worker, budget=Budget(until=time.time() + 100))(None) == 3


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(gpu_hours=0.0), r"budget\.gpu_hours=0\.0: cannot hold one run"),
        (Budget(hours=-1.0), r"budget\.hours=-1\.0: cannot hold one run"),
        (Budget(num_runs=0), r"budget\.num_runs=0: cannot hold one run"),
    ],
)
def test_a_budget_that_leaves_nothing_is_refused(budget: Budget, message: str):
    with pytest.raises(SweepError, match=message):
        budget.check()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(num_runs=2), r"budget\.num_runs=2: 3 runs are to do; raise it, or narrow"),
        (Budget(gpu_hours=0.5), r"gpu_hours=0\.5: cannot hold one run; the shortest takes 1 h"),
        (Budget(gpu_hours=5.0), r"gpu_hours=5\.0: the plan takes 6 h at env\.tflops"),
    ],
)
def test_a_plan_over_budget_is_refused(budget: Budget, message: str):
    hours = {"run0": 1.0, "run1": 2.0, "run2": 3.0}
    with pytest.raises(SweepError, match=message):
        budget.check_plan(plan_of(3), 3, hours)
    Budget(num_runs=3, gpu_hours=6.0).check_plan(plan_of(3), 3, hours)


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


@pytest.mark.parametrize(
    ("asked", "slots"),
    [
        ([], ("0", "1", "2", "3", "4")),
        (["env.workers_per_gpu=2", "env.gpus=[0,1]"], ("0", "1", "0", "1")),
        (["env.gpus_per_run=2", "train.micro_batch_size=4"], ("0,1", "2,3")),
        (["env.gpus=null"], ()),
    ],
)
def test_a_slot_is_the_gpus_of_one_run(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, asked: list[str], slots: tuple[str, ...]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    env = tiny(*asked)[1]
    assert slots_of(env) == slots
    assert workers_of(env) == (len(slots) or len(os.sched_getaffinity(0)))


def test_a_run_that_takes_more_gpus_than_there_are_is_refused(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    env = tiny("env.gpus_per_run=4", "train.micro_batch_size=2")[1]
    with pytest.raises(SweepError, match=r"env\.gpus_per_run=4: 3 are visible .*at most that many"):
        slots_of(env)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SweepError, match=r"env\.gpus=\[0, 5\]: \[5\] are not there; 2 are visible"):
        visible_gpus([0, 5])


def test_jobs_share_out_the_gpus(worker: Worker):

    two = replace(worker, slots=("3", "5"))
    assert [two.slot_of(job) for job in range(4)] == ["3", "5", "3", "5"]


def test_progress_reads_a_log_whose_last_line_is_half_written(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    assert last_metrics(log) == {}
    log.write_text('{"step": 1, "tokens": 512.0}\n{"step": 2, "tokens": 1024.0}\n{"step": 3, "tok')
    assert last_metrics(log)["tokens"] == 1024.0


def test_a_forkserver_killed_as_it_is_asked_loses_a_point_and_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It hears of the point, and is gone before it answers."""
    own = forkserver.ForkServer()  # the process's own may serve other tests
    monkeypatch.setattr(forkserver, "connect_to_new_process", own.connect_to_new_process)
    point, method = plan_of(1).points[0], GRID
    task = Task(point, "q", method, tmp_path, None, 0, num_threads=1, deadline=None)
    own.ensure_running()
    server = vars(own)["_forkserver_pid"]
    os.kill(server, signal.SIGSTOP)
    killer = threading.Timer(0.5, os.kill, (server, signal.SIGKILL))
    killer.start()
    outcome = run_isolated(task)
    killer.join()
    assert outcome.status == "lost" and outcome.reason
    assert outcome.reason.startswith("its process could not be started")
