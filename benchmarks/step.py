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
    "teacher.num_tokens=65536",
    "train.batch_size=8",
    "train.micro_batch_size=8",
    "eval.num_tokens_teacher=0",
]
# What is trained, and for how many steps; the first WARM are not counted.
WARM = 5
SHAPES: dict[str, tuple[int, list[str]]] = {
    "demo, s10k": (60, ["data.seq_len=64", "student=s10k"]),
    "demo, s60k": (60, ["data.seq_len=64", "student=s60k"]),
    "10M parameters, s10m, 2,048 tokens a step": (
        9,
        ["data.seq_len=256", "student=s10m", "eval.num_tokens=4096"],
    ),
}
KINDS = {
    "plain": ["loss=none"],
    "distilled, topk bucket": ["loss=forward_kl", "signal=topk"],
    "distilled, topp_topk renormalize": ["loss=forward_kl", "signal=topp_topk"],
}
GOAL = 1.10


def run_of(shape: str, kind: str, device: str) -> tuple[Any, Any]:
    """The run, as the command line would compose it."""
    from hydra import compose, initialize_config_dir

    from hydra_plugins.pdx_sweeper import register
    from pdx.config import run_of
    from pdx.paths import conf_dir

    num_steps, overrides = SHAPES[shape]
    tokens = 8 * num_steps * int(overrides[0].split("=")[1])
    length = [f"train.num_tokens={tokens}", f"env.device={device}"]
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return run_of(compose("config", overrides=[*COMMON, *overrides, *KINDS[kind], *length]))


def run_case(shape: str, kind: str, device: str) -> dict[str, float]:
    """Train through the loop itself; evaluation, logging and checkpoints are left out."""
    import torch

    from pdx.feed import Feed
    from pdx.models import quiet_transformers
    from pdx.prepare import Shared
    from pdx.train import train

    quiet_transformers()
    torch.set_num_threads(1)
    run, env = run_of(shape, kind, device)
    shared = Shared.of(run, env)
    store = shared.open_store() if run.is_stored and run.loss.needs_teacher else None
    feed = Feed(run, shared.train_windows, shared.device, store)
    student = run.student.init(shared.token_set.vocab_size, shared.token_set.seq_len, 0)
    student.to(shared.device).train()
    clock = time.process_time if device == "cpu" else time.perf_counter
    marks: dict[int, float] = {}

    def report(step: int, metrics: dict[str, float]) -> bool:
        marks[step] = clock()  # the loss was read from the device just before
        return False

    def work() -> None:
        train(run, student, feed, dict, report, lambda state: None)

    mib = harness.peak_mib(work, device)
    steps = [step for step in marks if step >= WARM]
    first, last = min(steps), max(steps)
    seconds = (marks[last] - marks[first]) / (last - first)
    return {
        "ms_per_step": 1000 * seconds,
        "tokens_per_second": run.batch_tokens / seconds,
        "peak_mib": mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", nargs=2, metavar=("SHAPE", "KIND"))
    parser.add_argument("--repeats", type=int, default=5)
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
                ]
            )
    name = f"step-{args.device}"
    harness.save(name, {"goal": GOAL, "ratios": ratios, "measured": measured})
    header = ["", "ms a step", "tokens/s", "x plain", "memory, x plain"]
    harness.write_section(
        name,
        "\n".join(
            [
                "## A whole step",
                "",
                "The loop as it is: tokens and the teacher's rows from the disk (checked), forward, "
                "loss, backward, clipping, AdamW. V=4,096; K=64 stored, 50 used; 8 sequences a "
                f"step. Goal: at most {GOAL:.2f}x the plain step.",
                "",
                harness.table(header, rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
