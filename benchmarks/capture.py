"""Capture against the teacher's bare forward pass: seconds of CPU and of the clock, interleaved."""

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

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

HERE = Path(__file__).parent
SEQ_LEN, TOKENS, BATCH_TOKENS = 256, 4_096, 1_024
TEACHERS = {
    "1M, V=4,096": (128, 4, 4_096),
    "6M, V=16,384": (256, 6, 16_384),
}
COMMON = {"temperatures": [1.0], "shard_tokens": 2_048}
KINDS = {
    "topk(50)": TopKStore(top_k=50, top_p=1.0, **COMMON),
    "sampled(50)": SampledStore(num_draws=50, seed=0, **COMMON),
    "head_sampled(8+16)": HeadSampledStore(top_k=8, num_draws=16, seed=0, **COMMON),
}


class RandomWindows:
    """Windows of random ids."""

    num_windows = TOKENS // SEQ_LEN
    seq_len = SEQ_LEN

    def __init__(self, vocab_size: int) -> None:
        rng = np.random.default_rng(0)
        self._ids = rng.integers(0, vocab_size, (self.num_windows, SEQ_LEN + 1))

    def ids(self, index_B: np.ndarray) -> np.ndarray:
        return self._ids[index_B]

    def batch(self, index_B: np.ndarray) -> Batch:
        ids = torch.from_numpy(self.ids(index_B))
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool), None)


@torch.no_grad()
def bare(teacher: FrozenTeacher, windows: RandomWindows) -> None:
    """Every logit once, and nothing kept."""
    size = chunk_size(teacher.head.vocab_size)
    for index_B in np.split(np.arange(windows.num_windows), TOKENS // BATCH_TOKENS):
        hidden_ND = teacher.hidden(windows.batch(index_B))
        for start in range(0, len(hidden_ND), size):
            teacher.logits(hidden_ND[start : start + size])


def captured(kind: Any, teacher: FrozenTeacher, windows: RandomWindows, vocab_size: int) -> None:
    """A whole store in a fresh directory."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_json(directory / MANIFEST, {"of": "a benchmark"})
        write_ranks(directory, np.arange(vocab_size))
        per_shard = kind.shard_tokens // SEQ_LEN
        layout = Layout(windows.num_windows, per_shard, SEQ_LEN, tuple(kind.temperatures))
        store = Store(directory, kind, layout, vocab_size)
        size = kind.bytes_per_token(vocab_size)
        batch = BATCH_TOKENS // SEQ_LEN
        capture(store, windows, teacher, windows.num_windows, batch, size)  # type: ignore[arg-type]


def timed(work: Any, *arguments: Any) -> tuple[float, float]:
    """Seconds of CPU, all threads, and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work(*arguments)
    return time.process_time() - cpu, time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "capture.json")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__}
    for name, (width, layers, vocab_size) in TEACHERS.items():
        heads = width // 32
        model = Llama(
            hidden_size=width,
            ffn_size=3 * width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=heads,
            tie_embeddings=False,
            rope_theta=10_000.0,
            init_std=0.02,
        ).init(vocab_size, SEQ_LEN, 0)
        model = model.eval().requires_grad_(False)
        head = head_of(model, vocab_size)
        teacher = FrozenTeacher(model, head, torch.device("cpu"))
        windows = RandomWindows(vocab_size)
        seconds: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.repeats):
            seconds.setdefault("bare", []).append(timed(bare, teacher, windows))
            for kind_name, kind in KINDS.items():
                seconds.setdefault(kind_name, []).append(
                    timed(captured, kind, teacher, windows, vocab_size)
                )
        base = np.median(seconds["bare"], axis=0)
        result[name] = {
            kind_name: {
                "speed_by_cpu": float(base[0] / np.median(found, axis=0)[0]),
                "speed_by_clock": float(base[1] / np.median(found, axis=0)[1]),
                "cpu_seconds": [s[0] for s in found],
            }
            for kind_name, found in seconds.items()
        }
        for kind_name, found in result[name].items():
            line = f"{found['speed_by_cpu']:.2f} by CPU, {found['speed_by_clock']:.2f} by the clock"
            print(f"{name}: {kind_name}: {line}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
