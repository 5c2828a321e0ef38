"""One grid of unequal runs under three sweepers: how busy the slots are, what a run costs beside.

Each sweeper has an environment of its own, as pip makes it, and trains the same runs with the same
code on the same number of processes; data, teacher and store are made before.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from harness import Case

ROOT = harness.HERE.parent
NUM_SLOTS = 2
COMMON = [
    "data.seq_len=64",
    "train.batch_size=8",
    "train.micro_batch_size=8",
    "eval.num_tokens=16384",
    "teacher.num_tokens=65536",
    "teacher.batch_size=16",
    "store.shard_tokens=262144",
]
# Unequal on purpose: the longest run trains some forty times as long as the shortest.
TOKENS = (32768, 262144)
GRID = [
    "student=s10k,s60k,s300k",
    f"train.num_tokens={','.join(map(str, TOKENS))}",
    "loss=none,forward_kl",
]
NUM_RUNS = 12
PDX, JOBLIB, OPTUNA = "pdx", "basic sweeper, joblib", "hydra-optuna-sweeper, joblib"
LAUNCHER = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={NUM_SLOTS}"]
SWEEPERS = {
    PDX: [f"env.num_workers={NUM_SLOTS}"],
    JOBLIB: ["hydra/sweeper=basic", *LAUNCHER],
    OPTUNA: [
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=grid",
        f"hydra.sweeper.n_jobs={NUM_SLOTS}",
        f"hydra.sweeper.n_trials={NUM_RUNS}",
        *LAUNCHER,
    ],
}
PINNED = ("-c", str(ROOT / "constraints.txt"), "-e", str(ROOT))
GOALS = {"utilisation": 0.95, "setup_seconds": 0.5}


def python_of(sweeper: str) -> str:
    """The interpreter of a sweeper's own environment."""
    if sweeper == PDX:
        return sys.executable
    if sweeper == JOBLIB:
        return harness.environment("joblib", *PINNED, "hydra-joblib-launcher")
    # It asks for an Optuna below 3, pdx for 5: pip would refuse both at once. Under its sweeper
    # pdx's own is not used.
    return harness.environment(
        "optuna-sweeper",
        *(*PINNED, "hydra-joblib-launcher"),
        then=["hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "hydra-core==1.3.8"],
    )


def pdx(outputs: Path, *arguments: str) -> None:
    """Run the command of this environment, and show what it says only where it fails."""
    command = [sys.executable, "-m", "pdx.cli", *arguments, f"env.outputs={outputs}", *COMMON]
    done = subprocess.run(
        [*command, "hydra.run.dir=.", "hydra.output_subdir=null"],
        cwd=outputs.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"benchmarks: {' '.join(command)}\n{done.stdout[-4000:]}")


def prepared() -> Path:
    """What all runs share, and MLflow's database, made once."""
    outputs = harness.HERE / ".data" / "sweep" / "outputs"
    if not (outputs / "prepared").exists():
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir(parents=True)
        pdx(outputs, "capture", "loss=forward_kl", f"train.num_tokens={TOKENS[-1]}")
        pdx(outputs, "train", "loss=none", "train.num_tokens=512")
        shutil.rmtree(outputs / "runs")
        (outputs / "prepared").touch()
    return outputs


def run_case(sweeper: str) -> dict[str, float]:
    """Run the grid on a fresh copy of what is shared."""
    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place) / "outputs"
        shutil.copytree(prepared(), outputs)
        began = time.perf_counter()
        pdx(outputs, "train", "-m", *GRID, *SWEEPERS[sweeper])
        command_seconds = time.perf_counter() - began
        runs = [run_in(path.parent) for path in (outputs / "runs").glob("*/result.json")]
    assert len(runs) == NUM_RUNS, f"{len(runs)} of {NUM_RUNS} runs ended"
    in_runs = sum(run["seconds"] for run in runs)
    wall = max(run["end"] for run in runs) - min(run["begin"] for run in runs)
    # A worker's first run waits for torch and transformers to be imported, once.
    later = sorted(runs, key=lambda run: run["begin"])[NUM_SLOTS:]
    return {
        "utilisation": in_runs / (NUM_SLOTS * wall),
        "utilisation_of_command": in_runs / (NUM_SLOTS * command_seconds),
        "lost_seconds_per_run": (NUM_SLOTS * wall - in_runs) / NUM_RUNS,
        "setup_seconds": statistics.median(run["setup"] for run in later),
        "setup_seconds_max": max(run["setup"] for run in later),
        "wall_seconds": wall,
        "command_seconds": command_seconds,
        "run_seconds": in_runs,
        "longest_over_shortest": max(r["seconds"] for r in runs) / min(r["seconds"] for r in runs),
    }


def run_in(folder: Path) -> dict[str, Any]:
    """When a run began and ended, by its files, which every sweeper's runs write alike."""
    result = json.loads((folder / "result.json").read_text())
    return {
        "begin": (folder / "config.yaml").stat().st_mtime,
        "end": (folder / "result.json").stat().st_mtime,
        "seconds": result["seconds"],
        "setup": result["metrics"]["perf/setup_seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="not used: what is measured is between the runs")
    parser.add_argument("--case", choices=SWEEPERS)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(args.case)))
        return

    prepared()
    cases = [
        Case(name=name, argv=[__file__, "--case", name], python=python_of(name))
        for name in SWEEPERS
    ]
    measured = harness.interleave(cases, args.repeats)
    columns = {
        "slots busy": ("utilisation", 2),
        "of the whole command": ("utilisation_of_command", 2),
        "lost a run, s": ("lost_seconds_per_run", 2),
        "wall, s": ("wall_seconds", 1),
        "command, s": ("command_seconds", 1),
    }
    rows = []
    for name in SWEEPERS:
        cells = [harness.shown(harness.figure(measured, name, k), n) for k, n in columns.values()]
        rows.append(
            [
                name,
                *cells,
                harness.shown(harness.ratio(measured, name, PDX, "wall_seconds")),
                harness.shown(harness.ratio(measured, name, PDX, "command_seconds")),
            ]
        )
    busy = harness.figure(measured, PDX, "utilisation")
    setup = harness.figure(measured, PDX, "setup_seconds")
    unequal = harness.figure(measured, PDX, "longest_over_shortest")["median"]
    harness.save("sweep", {"goals": GOALS, "grid": [*COMMON, *GRID], "measured": measured})
    harness.write_section(
        "sweep",
        "\n".join(
            [
                "## A sweep of unequal runs",
                "",
                f"{NUM_RUNS} runs on {NUM_SLOTS} processes, the longest {unequal:.0f} times the "
                "shortest; the same runs under each sweeper. *Busy*: time in runs over slots x "
                "wall, from the first run's begin to the last one's end; *command*: imports, "
                "planning and report too, a constant of some 45 s on two cores that a sweep of a "
                "minute does not repay. The last columns are times over those of pdx.",
                "",
                f"- slots busy: goal at least {GOALS['utilisation']:.2f}; measured "
                f"{harness.shown(busy)}: {_verdict(busy['median'] >= GOALS['utilisation'])}.",
                f"- from a process to its run's first step (MLflow, data, store and student "
                f"opened), after a worker's first: goal under {GOALS['setup_seconds']} s; measured "
                f"{harness.shown(setup)} s: {_verdict(setup['median'] < GOALS['setup_seconds'])}.",
                "",
                harness.table(["", *columns, "wall, x pdx", "command, x pdx"], rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
