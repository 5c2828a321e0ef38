"""What a sweep itself costs, point by point: planned, queued and handed out to 256 workers.

Runs do nothing here, and MLflow is measured by itself: what is left is the driver and the study.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from harness import Case

NUM_WORKERS = 256
SIZES = (1_000, 10_000)
GOAL = 3.0
NUM_MLFLOW_RUNS = 20
NUM_REPORTS = 20  # of a run's metrics, each of ten
STEPS = {
    "plan": "the driver composes, checks, hashes and prices",
    "save": "the driver writes plan.json",
    "queue": "the driver enters it into the study",
    "work": "a worker takes it and tells of it",
}


class Stopwatch:
    """CPU seconds of the whole process, over all of its threads, by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        self.seconds[step] = time.process_time() - began
        return found


def definition_of(num_points: int) -> list[str]:
    """A grid of about that many points: two axes of files, the rest of fields."""
    rates = ",".join(str(0.0001 * (1 + i)) for i in range(num_points // 100))
    return [
        "student=s10k,s30k,s60k,s100k,s300k",
        "loss=forward_kl,soft_ce",
        f"optim.peak_lr={rates}",
        "train.seed=range(10)",
    ]


def run_sweep(num_points: int, storage: str | None, outputs: Path) -> dict[str, float]:
    """Plan, queue and empty a sweep whose runs end the moment they begin."""
    from hydra import compose, initialize_config_dir

    from hydra_plugins.pdx_sweeper import register
    from pdx.paths import conf_dir
    from pdx.sweep import studies as studies_module
    from pdx.sweep import worker as worker_module
    from pdx.sweep.budget import Budget
    from pdx.sweep.definition import define
    from pdx.sweep.isolated import Outcome
    from pdx.sweep.plan import load_plan
    from pdx.sweep.planner import make_plan
    from pdx.sweep.queue import Queue
    from pdx.sweep.standing import standing_of
    from pdx.sweep.storage import open_storage
    from pdx.sweep.worker import Worker

    watch = Stopwatch()
    register()
    base = [f"env.outputs={outputs}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        definition = define(None, None, definition_of(num_points), "")
        plan, env = watch(
            "plan", lambda: make_plan(definition, lambda o: compose("config", [*base, *o]))
        )
    directory = plan.directory(env)
    watch("save", lambda: plan.save(directory))
    watch("load", lambda: load_plan(directory))
    queue = Queue(directory, plan, storage)
    watch("queue", lambda: queue.enqueue({p.run_id for p in plan.points}))

    # Threads stand for processes: what each of these would read for itself is timed apart.
    worker_module.load_plan = lambda directory: plan
    studies_module.open_storage = lambda url, directory: queue.storage
    Worker._run = lambda self, task: Outcome("complete", [1.0])  # type: ignore[method-assign]
    worker = Worker(
        directory=str(directory),
        storage=storage,
        num_workers=NUM_WORKERS,
        slots=(),
        isolation="inline",
        max_retries=1,
        budget=Budget(),
        students_per_worker=1,
    )
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(worker(None))) for _ in range(NUM_WORKERS)
    ]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    began = time.perf_counter()
    watch("work", work)
    wall = time.perf_counter() - began
    found = watch("count", lambda: standing_of(queue).counts)
    studies_module.open_storage = open_storage
    watch("replay", lambda: Queue(directory, plan, storage).num_told())
    assert found["complete"] == sum(counts) == len(plan.points), (found, sum(counts))
    per_point = {f"ms_{step}": 1000 * watch.seconds[step] / len(plan.points) for step in STEPS}
    return per_point | {
        "num_points": len(plan.points),
        "ms_all": sum(per_point.values()),
        "seconds_count": watch.seconds["count"],
        "seconds_load": watch.seconds["load"],
        "seconds_replay": watch.seconds["replay"],
        "points_per_second": len(plan.points) / wall,
        "mib_plan": (directory / "plan.json").stat().st_size / harness.MIB,
    }


def run_mlflow(outputs: Path) -> dict[str, float]:
    """Open, report and close runs in MLflow's own SQLite database, one after another."""
    from omegaconf import OmegaConf

    from pdx.build import build
    from pdx.files import write_text
    from pdx.paths import conf_dir
    from pdx.tracking.run import RunLog
    from pdx.tracking.sweep import SweepLog

    node = OmegaConf.load(conf_dir() / "env" / "local.yaml")
    OmegaConf.update(node, "outputs", str(outputs))
    env = build(node, "env")  # type: ignore[arg-type]
    parent = SweepLog.open(env, "sweep", "", "", NUM_MLFLOW_RUNS)
    facts = {"num_steps": NUM_REPORTS, "num_params_total": 1, "vocab_size": 1}
    result = {"status": "complete", "reason": None, "metrics": {"val/loss": 1.0}, "facts": facts}

    def log(run_id: str) -> None:
        folder = env.paths.runs / run_id
        write_text(folder / "config.yaml", "{}\n")
        run = RunLog(env, run_id, "run", {"train.seed": 0}, parent, run_id)
        for step in range(NUM_REPORTS):
            run.observe(step, {f"train/metric_{i}": 1.0 for i in range(10)})
        run.finish(result, folder)

    log("first")  # opens the database
    began, wall = time.process_time(), time.perf_counter()
    for i in range(NUM_MLFLOW_RUNS):
        log(f"run{i}")
    return {
        "ms_run": 1000 * (time.process_time() - began) / NUM_MLFLOW_RUNS,
        "wall_ms_run": 1000 * (time.perf_counter() - wall) / NUM_MLFLOW_RUNS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="not used: nothing here computes")
    parser.add_argument("--case", help="a number of points, or mlflow")
    parser.add_argument("--storage", help="a database's URL instead of the journal")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    if args.case:
        with tempfile.TemporaryDirectory() as outputs:
            if args.case == "mlflow":
                print(json.dumps(run_mlflow(Path(outputs))))
            else:
                print(json.dumps(run_sweep(int(args.case), args.storage, Path(outputs))))
        return

    storage = ["--storage", args.storage] if args.storage else []
    cases = [
        Case(name=name, argv=[__file__, "--case", name, *storage])
        for name in (*map(str, SIZES), "mlflow")
    ]
    measured = harness.interleave(cases, args.repeats)
    small, large = map(str, SIZES)

    def row(what: str, key: str, digits: int = 2) -> list[str]:
        one, other = (harness.figure(measured, name, key) for name in (small, large))
        growth = harness.shown(harness.ratio(measured, large, small, key))
        return [what, harness.shown(one, digits), harness.shown(other, digits), growth]

    rows = [
        *(row(f"ms a point: {what}", f"ms_{step}") for step, what in STEPS.items()),
        row("**ms a point, all of these**", "ms_all"),
        row("seconds, once a worker: read plan.json", "seconds_load"),
        row("seconds, once a worker: read the whole study", "seconds_replay"),
        row("seconds, at each look: count how far it is", "seconds_count", 3),
        row("MiB of plan.json", "mib_plan", 1),
        row("points/s through one study, wall", "points_per_second", 0),
    ]
    growth = harness.ratio(measured, large, small, "ms_all")
    met = "met" if growth["max"] <= GOAL else "missed"
    harness.save("scale", {"goal": GOAL, "growth": growth, "measured": measured})
    harness.write_section(
        "scale",
        "\n".join(
            [
                f"## A sweep of {large} points and {NUM_WORKERS} workers, of runs that do nothing",
                "",
                "CPU time of the driver and of the study; the workers are threads of one process "
                "that share one view of the journal, and what each worker of its own would read "
                "is timed apart.",
                "",
                f"- growth of the cost of a point from {small} to {large}: goal at most "
                f"{GOAL:.0f}x; measured {harness.shown(growth)}x: {met}.",
                f"- MLflow apart (SQLite, {NUM_REPORTS} reports of ten metrics): "
                f"{harness.shown(harness.figure(measured, 'mlflow', 'ms_run'), 0)} ms CPU a run, "
                f"{harness.shown(harness.figure(measured, 'mlflow', 'wall_ms_run'), 0)} ms wall.",
                "",
                harness.table(["", f"{small} points", f"{large} points", "x"], rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
