"""Capture against the teacher's bare forward pass: CPU time, interleaved, as ratios."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import numpy as np
import torch

from pdx.data import Batch
from pdx.files import write_json
from pdx.frozen import FrozenTeacher
from pdx.models import Llama, head_of
from pdx.reduce import chunk_size
from pdx.store.format import Layout
from pdx.store.kinds import HeadSampledStore, SampledStore, TopKStore
from pdx.store.ranks import write_ranks
from pdx.store.reader import MANIFEST, Store
from pdx.store.writer import capture

SEQ_LEN = 256
BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
SHARD_TOKENS = {"cpu": 2_048, "cuda": 65_536}
# Width, layers, vocabulary, positions captured; the larger ones are for a GPU.
TEACHERS = {
    "cpu": {
        "1M, V=4,096": (128, 4, 4_096, 4_096),
        "6M, V=16,384": (256, 6, 16_384, 4_096),
        "25M, V=16,384": (512, 8, 16_384, 4_096),
        "85M, V=32,768": (768, 12, 32_768, 1_024),
    },
    "cuda": {
        "85M, V=32,768": (768, 12, 32_768, 1_048_576),
        "1.2B, V=128,256": (2_048, 24, 128_256, 262_144),
    },
}
COMMON = {"temperatures": [1.0], "shard_tokens": 2_048, "recorded": [], "hidden_layers": []}
HIDDEN = COMMON | {"hidden_layers": [-1]}
KINDS = {
    "topk(50)": TopKStore(top_k=50, top_p=1.0, **COMMON),
    "topk(50) + hidden states": TopKStore(top_k=50, top_p=1.0, **HIDDEN),
    "sampled(50)": SampledStore(num_draws=50, seed=0, **COMMON),
    "head_sampled(8+16)": HeadSampledStore(top_k=8, num_draws=16, seed=0, **COMMON),
}
PLAIN = {name: (kind, False) for name, kind in KINDS.items()}
COMPILED = {f"{name}, compiled": (kind, True) for name, kind in KINDS.items()}
CASES = {"cpu": PLAIN, "cuda": PLAIN | COMPILED}
GOAL = 0.95


class RandomWindows:
    """Windows of random ids, each made when it is asked for."""

    document_mask = False

    def __init__(self, vocab_size: int, num_windows: int, seq_len: int) -> None:
        self.vocab_size, self.num_windows, self.seq_len = vocab_size, num_windows, seq_len

    def ids(self, index_B: np.ndarray) -> np.ndarray:
        place = index_B[:, None] * (self.seq_len + 1) + np.arange(self.seq_len + 1)
        return (place * 2_654_435_761 >> 7) % self.vocab_size

    def batch(self, index_B: np.ndarray) -> Batch:
        ids = torch.from_numpy(self.ids(index_B))
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool), None)


def teacher_of(
    width: int, layers: int, vocab_size: int, seq_len: int, device: torch.device
) -> FrozenTeacher:
    """A teacher of random weights; bfloat16 on a GPU."""
    model = Llama(
        hidden_size=width,
        ffn_size=3 * width,
        num_layers=layers,
        num_heads=width // 32,
        num_kv_heads=width // 32,
        tie_embeddings=False,
        rope_theta=10_000.0,
        init_std=0.02,
    ).init(vocab_size, seq_len, 0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = model.to(device, dtype).eval().requires_grad_(False)
    return FrozenTeacher(model, head_of(model, vocab_size), device)


@torch.no_grad()
def bare(teacher: FrozenTeacher, windows: RandomWindows) -> None:
    """Every logit once, and nothing kept."""
    size = chunk_size(teacher.head.vocab_size, teacher.device)
    num_batches = windows.num_windows * SEQ_LEN // BATCH_TOKENS[teacher.device.type]
    for index_B in np.split(np.arange(windows.num_windows), num_batches):
        hidden_ND = teacher.hidden(windows.batch(index_B).to(teacher.device))
        for start in range(0, len(hidden_ND), size):
            teacher.logits(hidden_ND[start : start + size])
    if teacher.device.type == "cuda":
        torch.cuda.synchronize()


def captured(
    kind: Any, teacher: FrozenTeacher, windows: RandomWindows, vocab_size: int, compiled: bool
) -> None:
    """A whole store in a fresh directory."""
    device = teacher.device.type
    kind = replace(kind, shard_tokens=SHARD_TOKENS[device])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_json(directory / MANIFEST, {"of": "a benchmark"})
        write_ranks(directory, np.arange(vocab_size))
        per_shard, layers = kind.shard_tokens // SEQ_LEN, tuple(kind.hidden_layers)
        layout = Layout(windows.num_windows, per_shard, SEQ_LEN, tuple(kind.temperatures), layers)
        store = Store(directory, kind, layout, vocab_size)
        size = kind.bytes_per_token(vocab_size)
        batch, num = BATCH_TOKENS[device] // SEQ_LEN, windows.num_windows
        capture(store, windows, teacher, num, batch, size, compiled)  # type: ignore[arg-type]


def timed(device: str, work: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """CPU seconds of all threads; of the clock on a GPU, whose machine must be quiet."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    work(*arguments)
    return {"seconds": clock() - began}


def measure(name: str, device: str, repeats: int) -> harness.Measured:
    """Bare and each kind in turn; on a GPU also with ``env.compile_capture``, its default there."""
    width, layers, vocab_size, num_tokens = TEACHERS[device][name]
    teacher = teacher_of(width, layers, vocab_size, SEQ_LEN, torch.device(device))
    windows = RandomWindows(vocab_size, num_tokens // SEQ_LEN, SEQ_LEN)
    found: harness.Measured = {kind: [] for kind in ("bare", *CASES[device])}
    bare(teacher, windows)  # kernels are chosen, memory is taken
    captured(KINDS["topk(50)"], teacher, windows, vocab_size, device == "cuda")  # or compiled
    for _ in range(repeats):
        found["bare"].append(timed(device, bare, teacher, windows))
        for case, (kind, compiled) in CASES[device].items():
            spent = timed(device, captured, kind, teacher, windows, vocab_size, compiled)
            found[case].append(spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=tuple(TEACHERS))
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result, lines = {}, []
    for name in TEACHERS[options.device]:
        result[name] = measure(name, options.device, options.repeats)
        for case in CASES[options.device]:
            ratio = harness.ratio(result[name], "bare", case, "seconds")
            lines.append([name, case, harness.shown(ratio)])
            print(*lines[-1], flush=True)
    how = {
        "cpu": "A whole store of 4,096 positions (1,024 of the largest teacher) against the "
        "teacher's forward pass with all logits, random weights. CPU time of all threads, so what "
        "the background thread does beside the teacher counts in full.",
        "cuda": "A whole store of a million positions (a quarter of it of the largest teacher) "
        "against the teacher's forward pass with all logits, random weights, bfloat16, by the "
        "clock. *compiled*: env.compile_capture, the default there; its kernel was made before.",
    }
    harness.save(f"capture-{options.device}", {"goal": GOAL, "measured": result})
    harness.write_section(
        f"capture-{options.device}",
        "\n".join(
            [
                "## Capture",
                "",
                f"{how[options.device]} Goal: {GOAL} of the bare speed.",
                "",
                harness.table(["teacher", "kind", "speed over bare"], lines),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
