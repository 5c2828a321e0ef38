"""Many small students: each in a process, in turn on the same batches, or with stacked parameters.

What placing several students in a worker would save. Each figure is of one student's step:
forward, loss against a store's rows, backward, clipping, AdamW. *alone* reads its own batches and
rows; the others read both once for all students.
"""

import argparse
import json
import os
from collections.abc import Callable
from contextlib import nullcontext

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import torch
from harness import Case
from step import run_of
from torch import Tensor, nn

SHAPES = ("demo, s10k", "demo, s60k")
NUM_STUDENTS = (2, 8)
STEPS, NOT_COUNTED = 20, 4
KIND = "distilled, topk bucket"


class Setting:
    """A run's parts: what reads, what learns, what compares."""

    def __init__(self, shape: str, num_students: int, device: str) -> None:
        from pdx.feed import Feed
        from pdx.models import quiet_transformers
        from pdx.prepare import Shared

        quiet_transformers()
        torch.set_num_threads(1)
        self.run, env = run_of(shape, KIND, device)
        shared = Shared.of(self.run, env)
        self.feed = Feed(self.run, shared.train_windows, shared.device, shared.open_store())
        sizes = shared.token_set.vocab_size, shared.token_set.seq_len
        self.students = [
            self.run.student.init(*sizes, seed).to(shared.device).train()
            for seed in range(num_students)
        ]


def in_turn(setting: Setting) -> Callable[[int], None]:
    """One student after the other on what was read once: the loop's own forward and backward."""
    from pdx.models import head_of, hidden_states
    from pdx.reduce import backward
    from pdx.spread import clip_gradients

    run, feed = setting.run, setting.feed
    optimizers = [run.optim.init(student) for student in setting.students]

    def step(number: int) -> None:
        batches = feed(number)
        lessons = [feed.lesson(batch, 0.5) for batch in batches]
        num_valid = sum(batch.num_valid for batch in batches)
        for student, optimizer in zip(setting.students, optimizers, strict=True):
            for batch, lesson in zip(batches, lessons, strict=True):
                backward(
                    hidden_states(student, batch.tokens_BL),
                    head_of(student),
                    batch.targets_BL,
                    batch.mask_BL,
                    lesson.signal,
                    run.loss,
                    run.kd_weight(0.5),
                    num_valid,
                )
            clip_gradients([*student.parameters()], run.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def stacked(setting: Setting) -> Callable[[int], None]:
    """All students at once: parameters stacked, autograd through one batched forward pass."""
    from torch.func import functional_call, grad, stack_module_state, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    run, feed = setting.run, setting.feed
    parameters, buffers = stack_module_state(setting.students)  # type: ignore[arg-type]
    template, weight = setting.students[0], run.kd_weight(0.5)
    leaves = [nn.Parameter(p.detach()) for p in parameters.values()]
    optimizer = torch.optim.AdamW(leaves, lr=1e-3, foreach=True)

    def step(number: int) -> None:
        (batch,) = feed(number)
        signal = feed.lesson(batch, 0.5).signal
        mask_N, targets_N = batch.mask_BL.reshape(-1), batch.targets_BL.reshape(-1)

        def loss_of(named: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
            asked = {"input_ids": batch.tokens_BL, "use_cache": False}
            logits_NV = functional_call(template, (named, kept), kwargs=asked).logits.flatten(0, 1)
            ce_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
            mixed_N = (1 - weight) * ce_N + weight * run.loss(logits_NV, signal)
            return torch.where(mask_N, mixed_N, 0.0).sum() / batch.num_valid

        named = dict(zip(parameters, leaves, strict=True))
        # The fused attention of CPUs has no batching rule; that of GPUs has.
        on_cpu = setting.feed.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            found = vmap(grad(loss_of))(named, buffers)
        squares = sum(g.square().flatten(1).sum(1) for g in found.values())
        scale = (run.optim.clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # type: ignore
        for leaf, gradient in zip(leaves, found.values(), strict=True):
            leaf.grad = gradient * scale.view(-1, *[1] * (gradient.dim() - 1))
        optimizer.step()

    return step


def run_case(shape: str, how: str, num_students: int, device: str) -> dict[str, float]:
    """CPU time on a CPU, the clock on a GPU, of one student's step."""
    setting = Setting(shape, num_students, device)
    step = (stacked if how == "stacked" else in_turn)(setting)
    numbers = iter(range(STEPS + NOT_COUNTED))
    for _ in range(NOT_COUNTED):
        step(next(numbers))

    def work() -> None:
        for number in numbers:
            step(number)

    return {"ms": 1000 * harness.seconds(work, device=device) / STEPS / num_students}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", nargs=3, metavar=("SHAPE", "HOW", "STUDENTS"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.case:
        shape, how, number = args.case
        print(json.dumps(run_case(shape, how, int(number), args.device)))
        return

    def case(shape: str, how: str, number: int) -> Case:
        argv = [__file__, "--device", args.device, "--case", shape, how, str(number)]
        return Case(
            name=f"{shape}: {how}, {number}" if number > 1 else f"{shape}: alone", argv=argv
        )

    cases = [
        case(shape, how, number)
        for shape in SHAPES
        for how, number in [
            ("in turn", 1),
            *((how, number) for how in ("in turn", "stacked") for number in NUM_STUDENTS),
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
                "Milliseconds of one student's step; on a CPU of CPU time.",
                "",
                harness.table(["", "ms a student's step", "x alone"], lines),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
