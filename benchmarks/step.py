"""A whole training step: distilled from a store against plain: time, memory, FLOPs."""

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import harness
from harness import Case

DATA = harness.HERE / ".data"
COMMON = [
    "env=local",
    f"env.outputs={DATA}",
    "teacher.num_tokens=8192",
    "eval.num_tokens_teacher=0",
]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained, on what device it is measured.

    Attributes:
        windows: sequences of a step.
        not_counted: of the steps, those in which memory is taken and kernels are made.
        settings: what it wants beside its student.
    """

    student: str
    device: str = "cpu"
    seq_len: int = 64
    windows: int = 8
    num_steps: int = 60
    not_counted: int = 5
    settings: tuple[str, ...] = ("store.shard_tokens=16384",)


GPU: dict[str, Any] = {"device": "cuda", "seq_len": 1024, "windows": 16, "num_steps": 40}
GPU |= {"not_counted": 15, "settings": ("data.vocab_size=32768", "train.precision=bfloat16")}
COMPILED = GPU | {"settings": (*GPU["settings"], "train.compile=true")}
SHAPES = {
    "demo, s10k": Shape(student="s10k"),
    "demo, s60k": Shape(student="s60k"),
    "10M parameters": Shape(student="s10m", windows=32, num_steps=6, not_counted=2),
    "60M parameters": Shape(student="s60m", **COMPILED),
    "150M parameters": Shape(student="s150m", **COMPILED),
    "150M parameters, not compiled": Shape(student="s150m", **GPU),
    "400M parameters": Shape(student="s400m", **COMPILED),
}
TOPK = "distilled, topk bucket"
OTHERWISE = {"cpu": f"{TOPK}, read ahead", "cuda": f"{TOPK}, not read ahead"}
AHEAD = {OTHERWISE["cpu"]: 2, OTHERWISE["cuda"]: 0}
KINDS = {
    "plain": ["loss=none"],
    TOPK: ["loss=forward_kl", "signal=topk"],
    "distilled, topp_topk renormalize": ["loss=forward_kl", "signal=topp_topk"],
} | {kind: ["loss=forward_kl", "signal=topk"] for kind in AHEAD}
GOAL = {"cpu": 1.10, "cuda": 1.05}


def run_of(shape: Shape, kind: str) -> tuple[Any, Any]:
    """The run, as the command line would compose it."""
    from hydra import compose, initialize_config_dir

    from hydra_plugins.pdx_sweeper import register
    from pdx.config import run_of
    from pdx.paths import conf_dir

    sizes = [
        f"student={shape.student}",
        f"data.seq_len={shape.seq_len}",
        f"train.batch_size={shape.windows}",
        f"train.micro_batch_size={shape.windows}",
        f"train.num_tokens={shape.seq_len * shape.windows * shape.num_steps}",
        f"env.device={shape.device}",
        *shape.settings,
    ]
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return run_of(compose("config", overrides=[*COMMON, *sizes, *KINDS[kind]]))


def run_case(name: str, kind: str) -> dict[str, float]:
    """Train through the loop itself; evaluation, logging and checkpoints are left out."""
    import torch

    from pdx.checkpoint import Keeper
    from pdx.facts import facts_of
    from pdx.feed import Feed
    from pdx.models import quiet_transformers
    from pdx.shared import Shared
    from pdx.train import train

    quiet_transformers()
    torch.set_num_threads(1)
    shape = SHAPES[name]
    device = shape.device
    run, env = run_of(shape, kind)
    shared = Shared.of(run, env)
    store = shared.open_store() if run.is_stored and run.loss.needs_teacher else None
    ahead = AHEAD.get(kind)
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
    first, last = min(s for s in marks if s >= shape.not_counted), max(marks)
    spent, wall, waited = (b - a for a, b in zip(marks[first], marks[last], strict=True))
    seconds = spent / (last - first)
    flops = facts_of(run, env, shared.token_set)["flops_train_exact"] / run.num_steps
    return {
        "ms_per_step": 1000 * seconds,
        "wall_ms_per_step": 1000 * wall / (last - first),
        "wait_frac": waited / wall,
        "tokens_per_second": run.batch_tokens / seconds,
        "flops_per_second": flops / seconds,
        "utilisation": flops / seconds / product_flops(device, run.train.precision),
        "peak_mib": mib,
    }


def product_flops(device: str, precision: str) -> float:
    """FLOP/s of a large matrix product, in the precision of the run."""
    import torch

    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    a @ a  # the kernel is chosen
    return 2 * size**3 / harness.seconds(lambda: a @ a, 9, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", nargs=2, metavar=("SHAPE", "KIND"))
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(*args.case)))
        return

    shapes = [shape for shape in SHAPES if SHAPES[shape].device == args.device]
    kinds = [kind for kind in KINDS if kind not in AHEAD or kind == OTHERWISE[args.device]]
    cases = [
        Case(name=f"{shape}: {kind}", argv=[__file__, "--case", shape, kind])
        for shape in shapes
        for kind in kinds
    ]
    # The first reads most windows: data, teacher and store are made.
    harness.interleave([case for case in cases if case.name == f"{shapes[0]}: {TOPK}"], 1)
    measured = harness.interleave(cases, args.repeats)
    rows, ratios = [], {}
    for shape in shapes:
        for kind in kinds:
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
                    f"{harness.figure(measured, name, 'flops_per_second')['median'] / 1e12:.3g}",
                    f"{harness.figure(measured, name, 'utilisation')['median']:.0%}",
                ]
            )
    name = f"step-{args.device}"
    harness.save(name, {"goal": GOAL[args.device], "ratios": ratios, "measured": measured})
    header = ["", "ms a step", "tokens/s", "x plain", "memory, x plain", "waits"]
    header += ["TFLOP/s", "of a large product's"]
    sizes = {
        "cpu": "V=4,096, sequences of 64, float32; 512 tokens a step, 2,048 with 10M parameters.",
        "cuda": "V=32,768, 16 sequences of 1,024 a step, bfloat16, compiled unless said.",
    }
    harness.write_section(
        name,
        "\n".join(
            [
                "## A whole step",
                "",
                "The loop as it is: tokens and the teacher's rows from the disk (checked), "
                f"forward, loss, backward, clipping, AdamW. {sizes[args.device]} K=64 stored, 50 "
                "used. `waits` is the share of wall time in which a step waits to read; TFLOP/s "
                "are those of the model, forward and backward, and the last column sets them "
                "against one large matrix product of that precision, measured beside them. Goal: "
                f"at most {GOAL[args.device]:.2f}x the plain step.",
                "",
                harness.table(header, rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
