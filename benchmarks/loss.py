"""Loss, forward and backward through the head: CPU seconds and peak MiB against peers."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import harness
from harness import Case

# pip installs these into environments of their own; "" is the one that runs this script.
TORCH = "torch==2.13.0"
TRL = ("trl", TORCH, "trl==1.16.0")
LIGER = ("liger", TORCH, "liger-kernel==0.8.5", "transformers")
CASES: dict[str, tuple[str, ...]] = {
    "cross-entropy": (),
    "pdx, no distillation": (),
    "pdx forward_kl, topk bucket": (),
    "pdx forward_kl, topk renormalize": (),
    "pdx forward_kl, topk bucket at T=2": (),
    "pdx forward_kl, full (live teacher)": (),
    "plain torch KL, full": (),
    "plain torch KL + cross-entropy, topk": (),
    "TRL generalized JSD, beta 0": TRL,
    "TRL generalized JSD, beta 0.5": TRL,
    "Liger chunked JSD, beta 0": LIGER,
}
LIGER_CE = "Liger fused linear cross-entropy"  # a kernel of Triton's: on a GPU only
PLAIN, OURS = "cross-entropy", "pdx forward_kl, topk bucket"
CASES_ON = {"cpu": CASES, "cuda": CASES | {LIGER_CE: LIGER}}
SHAPES = {
    "cpu": {"vocab": 32768, "tokens": 2048, "width": 256, "top_k": 50, "chunk": 0},
    "cuda": {"vocab": 128256, "tokens": 8192, "width": 2048, "top_k": 50, "chunk": 0},
}
GROWTH_TOKENS = {"cpu": 512, "cuda": 4096}
GROWTH_VOCAB = (8192, 32768, 131072, 262144)
GROWTH_K = (1, 16, 64, 256)
GROWTH_CHUNK = {"cpu": (), "cuda": (64, 128, 256, 512, 1024, 2048)}
# what, at most how many times, what of
GOALS = {
    "cpu": (("seconds", 1.10, PLAIN), ("peak_mib", 0.13, PLAIN)),
    "cuda": (("seconds", 1.10, PLAIN), ("peak_mib", 1.05, LIGER_CE)),
}


# ---- one case, in its own process ----------------------------------------------------------------


def work_of(
    name: str, vocab: int, tokens: int, width: int, top_k: int, chunk: int, device: str
) -> Callable[[], Any]:
    """What is measured: a loss of the same hidden states, head, targets and teacher.

    On a GPU hidden states are bfloat16 and products too, as autocast has it; weights are float32.
    """
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    low = torch.bfloat16 if device == "cuda" else torch.float32
    hidden_ND = rand(tokens, width).to(device, low).requires_grad_()
    weight_VD = (rand(vocab, width) / width**0.5).to(device).requires_grad_()
    teacher_ND = hidden_ND.detach() + rand(tokens, width).to(device, low)
    teacher_VD = (3 * rand(vocab, width) / width**0.5).to(device, low)
    targets_N = torch.randint(vocab, (tokens,), generator=generator).to(device)
    dense = name.startswith(("TRL", "plain torch KL, full"))
    teacher_NV = teacher_ND @ teacher_VD.T if dense else None

    def fresh() -> None:
        hidden_ND.grad = weight_VD.grad = None

    if name == "cross-entropy":

        def work() -> None:
            fresh()
            F.cross_entropy(hidden_ND @ weight_VD.T, targets_N).backward()
    elif name == "plain torch KL, full":

        def work() -> None:
            fresh()
            ours_NV = F.log_softmax(hidden_ND @ weight_VD.T, -1)
            theirs_NV = F.log_softmax(teacher_NV, -1)
            F.kl_div(ours_NV, theirs_NV, reduction="batchmean", log_target=True).backward()
    elif name.startswith("TRL"):
        from trl.experimental.gkd import GKDTrainer

        beta = float(name.rsplit(" ", 1)[1])

        def work() -> None:
            fresh()
            logits_NV = hidden_ND @ weight_VD.T
            GKDTrainer.generalized_jsd_loss(logits_NV[None], teacher_NV[None], beta=beta).backward()
    elif name == LIGER_CE:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss()

        def work() -> None:
            fresh()
            fused(weight_VD, hidden_ND, targets_N).backward()
    elif name.startswith("Liger"):
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.5, weight_soft_loss=0.5, beta=0.0, compiled=False, chunk_size=256
        )

        def work() -> None:
            fresh()
            loss(hidden_ND, weight_VD, teacher_ND, teacher_VD, targets_N).backward()
    elif name == "plain torch KL + cross-entropy, topk":
        ids_NK, probs_NK = _topk(teacher_ND, teacher_VD, top_k)

        def work() -> None:
            fresh()
            logprobs_NV = (hidden_ND @ weight_VD.T).log_softmax(-1)
            kd = (probs_NK * (probs_NK.log() - logprobs_NV.gather(-1, ids_NK))).sum(-1).mean()
            (0.5 * kd + 0.5 * F.nll_loss(logprobs_NV, targets_N)).backward()
    else:
        work = _pdx(name, hidden_ND, weight_VD, teacher_ND, teacher_VD, targets_N, top_k, chunk)

    def in_its_precision() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            work()

    return in_its_precision


def _topk(teacher_ND: Any, teacher_VD: Any, top_k: int) -> tuple[Any, Any]:
    """Ids and probabilities of the teacher's largest, 256 positions at a time."""
    import torch

    parts = [
        (part_CD @ teacher_VD.T).softmax(-1).topk(min(top_k, len(teacher_VD)))
        for part_CD in teacher_ND.split(256)
    ]
    return torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts])


def _pdx(
    name: str,
    hidden_ND: Any,
    weight_VD: Any,
    teacher_ND: Any,
    teacher_VD: Any,
    targets_N: Any,
    top_k: int,
    chunk: int,
) -> Callable[[], Any]:
    import torch

    from pdx.live import LiveSignal
    from pdx.losses.forward_kl import ForwardKL
    from pdx.models import Head
    from pdx.reduce import backward
    from pdx.rows import Facts, Rows
    from pdx.signal import Context
    from pdx.signals.full import Full
    from pdx.signals.topk import TopK
    from pdx.temperature import Constant

    heat = 2.0 if "T=2" in name else 1.0
    tail = "renormalize" if "renormalize" in name else "bucket"
    topk = TopK(top_k=top_k, tail=tail)
    context = Context(
        temperature=Constant(value=heat, temper_student=heat != 1.0),
        fraction=0.5,
        targets_N=targets_N,
        offset_N=torch.arange(len(targets_N), device=targets_N.device),
    )
    signal = None
    if "full" in name:
        signal = LiveSignal(
            hidden_ND=teacher_ND, head=Head(teacher_VD), signal=Full(), context=context
        )
    elif "topk" in name:
        parts = [
            Rows.of((part_CD @ teacher_VD.T).float(), top_k, tuple({1.0, heat}))
            for part_CD in teacher_ND.split(256)
        ]
        lse = {t: torch.cat([p.facts.lse[t] for p in parts]) for t in parts[0].facts.lse}
        rows = Rows(
            ids_NK=torch.cat([p.ids_NK for p in parts]),
            logits_NK=torch.cat([p.logits_NK for p in parts]),
            facts=Facts(lse),
        )
        signal = topk.sparse(rows, context)
    head, mask_1N = Head(weight_VD), torch.ones_like(targets_N[None], dtype=torch.bool)

    def work() -> None:
        hidden_ND.grad = weight_VD.grad = None
        hidden_1ND = (1 * hidden_ND)[None]  # not a leaf, as in training
        weight = 0.5 if signal is not None else 0.0
        kd = (signal, ForwardKL(), weight, len(targets_N), chunk or None)
        backward(hidden_1ND, head, targets_N[None], mask_1N, *kd)

    return work


def run_case(name: str, shape: dict[str, int], device: str) -> dict[str, float]:
    """Peak first, in memory that is fresh; then time."""
    import torch

    torch.set_num_threads(1)
    work_of(name, 512, 16, 32, 4, 0, device)()  # libraries load what they load at first use
    work = work_of(name, **shape, device=device)
    mib = harness.peak_mib(work, device)
    return {"seconds": harness.seconds(work, 1 if device == "cpu" else 9, device), "peak_mib": mib}


# ---- all of them ---------------------------------------------------------------------------------


def case(label: str, name: str, shape: dict[str, int], device: str) -> Case:
    env = CASES_ON[device][name]
    argv = [__file__, "--case", name, "--device", device]
    argv += [part for key, value in shape.items() for part in (f"--{key}", str(value))]
    return Case(name=label, argv=argv, python=harness.environment(*env) if env else sys.executable)


def rows_of(measured: harness.Measured, names: list[str], to: str) -> list[list[str]]:
    rows = []
    for name in names:
        cells = [name]
        for key, digits in (("seconds", 2), ("peak_mib", 0)):
            cells.append(harness.shown(harness.figure(measured, name, key), digits))
            cells.append(harness.shown(harness.ratio(measured, name, to, key), 2 + (digits == 0)))
        rows.append(cells)
    return rows


HEADER = ["", "seconds", "x cross-entropy", "peak MiB", "x cross-entropy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", choices=CASES_ON["cuda"])
    parser.add_argument("--repeats", type=int, default=2)
    for key in SHAPES["cpu"]:
        parser.add_argument(f"--{key}", type=int)
    args = parser.parse_args()
    usual = SHAPES[args.device]
    if args.case:
        asked = {key: getattr(args, key) for key in usual}
        shape = usual | {key: value for key, value in asked.items() if value is not None}
        print(json.dumps(run_case(args.case, shape, args.device)))
        return

    marks = harness.interleave(
        [case(name, name, usual, args.device) for name in CASES_ON[args.device]], args.repeats
    )
    short = usual | {"tokens": GROWTH_TOKENS[args.device]}
    growth_cases: list[Case] = []
    for vocab in GROWTH_VOCAB:
        for name in (PLAIN, OURS):
            shape = short | {"vocab": vocab}
            growth_cases.append(case(f"{name}: V={vocab:,}", name, shape, args.device))
    for top_k in GROWTH_K:
        shape = short | {"top_k": top_k}
        growth_cases.append(case(f"{OURS}: K={top_k}", OURS, shape, args.device))
    for chunk in GROWTH_CHUNK[args.device]:
        shape = short | {"chunk": chunk}
        growth_cases.append(case(f"{OURS}: {chunk} rows a chunk", OURS, shape, args.device))
    publish(args.device, short, marks, {})  # what is known so far
    publish(args.device, short, marks, harness.interleave(growth_cases, 1))


def publish(
    device: str, short: dict[str, int], marks: harness.Measured, growth: harness.Measured
) -> None:
    """Write the results and the table."""
    found = {key: harness.ratio(marks, OURS, to, key) for key, _, to in GOALS[device]}
    name = f"loss-{device}"
    harness.save(
        name,
        {
            "shape": SHAPES[device],
            "growth_shape": short,
            "goals": GOALS[device],
            "found": found,
            "marks": marks,
            "growth": growth,
        },
    )
    verdict = [
        f"- {WHAT[key]}: goal at most {goal:.2f}x {to}; measured "
        f"{harness.shown(found[key], 3)}x: {'met' if found[key]['median'] <= goal else 'MISSED'}."
        for key, goal, to in GOALS[device]
    ]
    shape = SHAPES[device]
    precision = "bfloat16 under autocast" if device == "cuda" else "float32"
    growth_table = [
        [n, *(f"{harness.figure(growth, n, k)['median']:.{d}f}" for k, d in GROWTH_DIGITS)]
        for n in growth
    ]
    harness.write_section(
        name,
        "\n".join(
            [
                "## Loss: forward and backward through the head",
                "",
                f"V={shape['vocab']:,}, {shape['tokens']:,} tokens, width {shape['width']:,}, "
                f"K={shape['top_k']}, {precision}; `forward_kl` with cross-entropy, half and half. "
                "TRL and plain full KL are given the teacher's logits; Liger and `full` form them, "
                "and add cross-entropy.",
                "",
                *verdict,
                "",
                harness.table(HEADER, rows_of(marks, list(CASES_ON[device]), PLAIN)),
                "",
                f"Growth, {short['tokens']:,} tokens:",
                "",
                harness.table(["", "seconds", "peak MiB"], growth_table),
                "",
                harness.machine_line(),
            ]
        ),
    )


WHAT = {"seconds": "time", "peak_mib": "peak memory"}
GROWTH_DIGITS = (("seconds", 3), ("peak_mib", 0))


if __name__ == "__main__":
    main()
