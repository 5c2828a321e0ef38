"""Many small students: each in a process, in one process in turns (as shipped), or stacked.

What placing several students in a process saves. Each figure is of one student's step. *alone*
and *together* run the loop itself, the second as `hydra.sweeper.students_per_worker` does: turns,
each batch and the teacher's word on it made once. *stacked* is a bare step, of forward, loss,
backward, clipping and AdamW, on stacked parameters. On a GPU *apart* is k processes at once.
"""

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import torch
from harness import Case
from step import COMMON, SHAPES
from torch import Tensor, nn

SHAPES_HERE = ("demo, s10k", "demo, s60k")
NUM_STUDENTS = (2, 8)
STEPS, NOT_COUNTED = 20, 4
SOURCES = {
    "from a store": [o for o in COMMON if o.startswith("store.")],
    "live teacher": ["store=none"],
}


class Setting:
    """A run's parts: what reads, what learns, what compares."""

    def __init__(self, shape: str, source: str, device: str) -> None:
        from hydra import compose, initialize_config_dir

        from hydra_plugins.pdx_sweeper import register
        from pdx.config import run_of
        from pdx.models import quiet_transformers
        from pdx.paths import conf_dir
        from pdx.shared import Shared

        quiet_transformers()
        torch.set_num_threads(1)
        size = SHAPES[shape]
        overrides = [
            *COMMON,
            *SOURCES[source],
            f"student={size.student}",
            f"data.seq_len={size.seq_len}",
            "loss=forward_kl",
            "signal=topk",
            f"train.batch_size={size.windows}",
            f"train.micro_batch_size={size.windows}",
            f"train.num_tokens={size.seq_len * size.windows * (STEPS + NOT_COUNTED)}",
            f"env.device={device}",
        ]
        register()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            self.run, env = run_of(compose("config", overrides=overrides))
        self.shared = Shared.of(self.run, env)
        live = source == "live teacher"
        self.store = None if live else self.shared.open_store()
        self.teacher = self.shared.load_teacher(self.run.teacher) if live else None
        self.windows = self.shared.train_windows

    def feed(self, **more: Any) -> Any:
        """What one student reads."""
        from pdx.feed import Feed

        device = self.shared.device
        return Feed(self.run, self.windows, device, self.store, self.teacher, **more)

    def student(self, seed: int) -> Any:
        """A student of its own weights, where the run computes."""
        tokens = self.shared.token_set
        student = self.run.student.init(tokens.vocab_size, tokens.seq_len, seed)
        return student.to(self.shared.device).train()


def together(
    setting: Setting, num_students: int, device: str, meet: Callable[[], Any] | None = None
) -> float:
    """Seconds of one student's step through the loop, of students that take turns in a process.

    Evaluation, logging and checkpoints are left out. Between two of its reports of one student all
    others make as many steps as it does.
    """
    from pdx.checkpoint import Keeper
    from pdx.together import ALONE, Group
    from pdx.train import train

    group, marks = Group(num_students), []

    def report(step: int, metrics: dict[str, float]) -> bool:
        if step in (NOT_COUNTED, NOT_COUNTED + STEPS):
            if meet is not None:
                meet()
            marks.append(time.process_time() if device == "cpu" else time.perf_counter())
        return False

    def one(number: int) -> None:
        with group.seat(number) as seat:
            feed = setting.feed(seat=seat if num_students > 1 else ALONE)
            watch = report if number == 0 else lambda *_: False
            keeper = Keeper(setting.shared.env.paths.runs, 1e9)
            train(setting.run, setting.student(number), feed, dict, watch, keeper)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(num_students)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (marks[1] - marks[0]) / STEPS / num_students


def apart(shape: str, source: str, num_students: int, device: str) -> float:
    """The same of processes of their own at once, by the clock."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(num_students), context.Queue()
    processes = [
        context.Process(target=_one_apart, args=(barrier, found, shape, source, device))
        for _ in range(num_students)
    ]
    for process in processes:
        process.start()
    seconds = [found.get() for _ in processes]
    for process in processes:
        process.join()
    return max(seconds) / num_students


def _one_apart(barrier: Any, found: Any, shape: str, source: str, device: str) -> None:
    # all begin the steps that count at once, and are timed until the last has ended them
    found.put(together(Setting(shape, source, device), 1, "by the clock", barrier.wait))


def stacked(setting: Setting, num_students: int) -> Callable[[int], None]:
    """All students at once: parameters stacked, autograd through one batched forward pass."""
    from torch.func import functional_call, grad, stack_module_state, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    run, feed = setting.run, setting.feed()
    students = [setting.student(seed) for seed in range(num_students)]
    parameters, buffers = stack_module_state(students)  # type: ignore[arg-type]
    template, weight = students[0], run.kd_weight(0.5)
    leaves = [nn.Parameter(p.detach()) for p in parameters.values()]
    optimizer = torch.optim.AdamW(leaves, lr=1e-3, foreach=True)

    def step(number: int) -> None:
        (batch,) = feed(number)
        signal = feed.lesson(batch, 0.5).signal.chunk(0, batch.tokens_BL.numel())
        mask_N, targets_N = batch.mask_BL.reshape(-1), batch.targets_BL.reshape(-1)

        def loss_of(named: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
            asked = {"input_ids": batch.tokens_BL, "use_cache": False}
            logits_NV = functional_call(template, (named, kept), kwargs=asked).logits.flatten(0, 1)
            ce_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
            mixed_N = (1 - weight) * ce_N + weight * run.loss(logits_NV, signal)
            return torch.where(mask_N, mixed_N, 0.0).sum() / batch.num_valid

        named = dict(zip(parameters, leaves, strict=True))
        # The fused attention of CPUs has no batching rule; that of GPUs has.
        on_cpu = setting.shared.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            found = vmap(grad(loss_of))(named, buffers)
        squares = sum(g.square().flatten(1).sum(1) for g in found.values())
        scale = (run.optim.clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # type: ignore
        for leaf, gradient in zip(leaves, found.values(), strict=True):
            leaf.grad = gradient * scale.view(-1, *[1] * (gradient.dim() - 1))
        optimizer.step()

    return step


def run_case(shape: str, source: str, how: str, num_students: int, device: str) -> dict[str, float]:
    """CPU time on a CPU, the clock on a GPU, of one student's step."""
    if how == "apart":
        return {"ms": 1000 * apart(shape, source, num_students, device)}
    setting = Setting(shape, source, device)
    if how == "together":
        return {"ms": 1000 * together(setting, num_students, device)}
    step = stacked(setting, num_students)
    for number in range(NOT_COUNTED):
        step(number)

    def work() -> None:
        for number in range(NOT_COUNTED, NOT_COUNTED + STEPS):
            step(number)

    return {"ms": 1000 * harness.seconds(work, device=device) / STEPS / num_students}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", nargs=4, metavar=("SHAPE", "SOURCE", "HOW", "STUDENTS"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.case:
        shape, source, how, number = args.case
        print(json.dumps(run_case(shape, source, how, int(number), args.device)))
        return

    def case(shape: str, source: str, how: str, number: int) -> Case:
        argv = [__file__, "--device", args.device, "--case", shape, source, how, str(number)]
        who = f"{how}, {number}" if number > 1 else "alone"
        return Case(name=f"{shape}, {source}: {who}", argv=argv)

    hows = ["together", "stacked", *(["apart"] if args.device == "cuda" else [])]
    cases = [
        case(shape, source, how, number)
        for shape in SHAPES_HERE
        for source in SOURCES
        for how, number in [
            ("together", 1),
            *((how, number) for how in hows for number in NUM_STUDENTS),
        ]
    ]
    harness.interleave(cases[:1], 1)  # data, teacher and store are made
    measured = harness.interleave(cases, args.repeats)
    name = f"students-{args.device}"
    lines = [
        [
            one.name,
            harness.shown(harness.figure(measured, one.name, "ms")),
            harness.shown(
                harness.ratio(measured, one.name, f"{one.name.split(':')[0]}: alone", "ms")
            ),
        ]
        for one in cases
    ]
    harness.save(name, {"measured": measured})
    harness.write_section(
        name,
        "\n".join(
            [
                "## Many small students in one process",
                "",
                "Milliseconds of one student's step; on a CPU of CPU time. *together* is what "
                "`hydra.sweeper.students_per_worker` does, and the number is of students.",
                "",
                harness.table(["", "ms a student's step", "x alone"], lines),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
