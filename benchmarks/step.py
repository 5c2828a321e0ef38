"""A whole training step: distilled from a store against plain, CPU seconds and memory."""

import argparse
import json
import time
from typing import Any

import harness
from harness import Case

DATA = harness.HERE / ".data"
COMMON = [
    "env=local",
    f"env.outputs={DATA}",
    "data.seq_len=64",
    "teacher.num_tokens=8192",
    "store.shard_tokens=16384",
    "eval.num_tokens_teacher=0",
]
# What is trained: sequences of a step, steps, and how many of these are not counted.
SHAPES: dict[str, tuple[int, int, int, str]] = {
    "demo, s10k": (8, 60, 5, "student=s10k"),
    "demo, s60k": (8, 60, 5, "student=s60k"),
    "10M parameters": (32, 8, 2, "student=s10m"),
}
READ_AHEAD = "distilled, topk bucket, read ahead"
KINDS = {
    "plain": ["loss=none"],
    "distilled, topk bucket": ["loss=forward_kl", "signal=topk"],
    "distilled, topp_topk renormalize": ["loss=forward_kl", "signal=topp_topk"],
    READ_AHEAD: ["loss=forward_kl", "signal=topk"],
}
GOAL = 1.10


def run_of(shape: str, kind: str, device: str) -> tuple[Any, Any]:
    """The run, as the command line would compose it."""
    from hydra import compose, initialize_config_dir

    from hydra_plugins.pdx_sweeper import register
    from pdx.config import run_of
    from pdx.paths import conf_dir

    batch_size, num_steps, _, student = SHAPES[shape]
    sizes = [
        student,
        f"train.batch_size={batch_size}",
        f"train.micro_batch_size={batch_size}",
        f"train.num_tokens={64 * batch_size * num_steps}",
        f"env.device={device}",
    ]
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return run_of(compose("config", overrides=[*COMMON, *sizes, *KINDS[kind]]))


def run_case(shape: str, kind: str, device: str) -> dict[str, float]:
    """Train through the loop itself; evaluation, logging and checkpoints are left out."""
    import torch

    from pdx.checkpoint import Keeper
    from pdx.feed import Feed
    from pdx.models import quiet_transformers
    from pdx.shared import Shared
    from pdx.train import train

    quiet_transformers()
    torch.set_num_threads(1)
    run, env = run_of(shape, kind, device)
    shared = Shared.of(run, env)
    store = shared.open_store() if run.is_stored and run.loss.needs_teacher else None
    ahead = 2 if kind == READ_AHEAD else None
    feed = Feed(run, shared.train_windows, shared.device, store, read_ahead=ahead)
    student = run.student.init(shared.token_set.vocab_size, shared.token_set.seq_len, 0)
    student.to(shared.device).train()
    clock = time.process_time if device == "cpu" else time.perf_counter
    marks: dict[int, tuple[float, float, float]] = {}

    def report(step: int, metrics: dict[str, float]) -> bool:
        # the loss was read from the device just before
        marks[step] = (clock(), time.perf_counter(), feed.wait_seconds)
        return False

    def work() -> None:
        train(run, student, feed, dict, report, Keeper(shared.env.paths.runs, 1e9))

    mib = harness.peak_mib(work, device)
    first, last = min(s for s in marks if s >= SHAPES[shape][2]), max(marks)
    spent, wall, waited = (b - a for a, b in zip(marks[first], marks[last], strict=True))
    seconds = spent / (last - first)
    return {
        "ms_per_step": 1000 * seconds,
        "wall_ms_per_step": 1000 * wall / (last - first),
        "wait_frac": waited / wall,
        "tokens_per_second": run.batch_tokens / seconds,
        "peak_mib": mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", nargs=2, metavar=("SHAPE", "KIND"))
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(*args.case, args.device)))
        return

    cases = []
    for shape in SHAPES:
        for kind in KINDS:
            argv = [__file__, "--case", shape, kind, "--device", args.device]
            cases.append(Case(name=f"{shape}: {kind}", argv=argv))
    harness.interleave(cases, 1)  # data, teacher and store are made
    measured = harness.interleave(cases, args.repeats)
    rows, ratios = [], {}
    for shape in SHAPES:
        for kind in KINDS:
            name, plain = f"{shape}: {kind}", f"{shape}: plain"
            ratios[name] = harness.ratio(measured, name, plain, "ms_per_step")
            rows.append(
                [
                    name,
                    harness.shown(harness.figure(measured, name, "ms_per_step"), 1),
                    f"{harness.figure(measured, name, 'tokens_per_second')['median']:,.0f}",
                    harness.shown(ratios[name]),
                    harness.shown(harness.ratio(measured, name, plain, "peak_mib")),
                    f"{harness.figure(measured, name, 'wait_frac')['median']:.1%}",
                ]
            )
    name = f"step-{args.device}"
    harness.save(name, {"goal": GOAL, "ratios": ratios, "measured": measured})
    header = ["", "ms a step", "tokens/s", "x plain", "memory, x plain", "waits"]
    harness.write_section(
        name,
        "\n".join(
            [
                "## A whole step",
                "",
                "The loop as it is: tokens and the teacher's rows from the disk (checked), "
                "forward, loss, backward, clipping, AdamW. V=4,096, sequences of 64; K=64 stored, "
                "50 used; 512 tokens a step, 2,048 with 10M parameters. `waits` is the share of "
                f"wall time in which a step waits to read. Goal: at most {GOAL:.2f}x the plain "
                "step.",
                "",
                harness.table(header, rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
