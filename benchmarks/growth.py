"""How a store and a training grow: with the number of tokens, and with readers of one store.

A capture is the real one, of a teacher that costs next to nothing over random ids; a reader reads
whole windows in random order, checked, as a training does; a training is the loop itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
from harness import Case

STORE_TOKENS = (100_000, 1_000_000, 10_000_000, 100_000_000)
TRAIN_TOKENS = (102_400, 409_600, 1_638_400)
WORKERS = (1, 2, 4, 8)
VOCAB, SEQ_LEN, TOP_K, SHARD_TOKENS = 512, 256, 16, 262_144
BATCH_WINDOWS = 16  # of a reader's step
READ_TOKENS = 262_144  # at most, of each reader
TRAINING = [
    "env=local",
    f"env.outputs={harness.HERE / '.data'}",
    "student=s10k",
    "data=synthetic",
    "data.vocab_size=256",
    "data.seq_len=64",
    "data.num_tokens_teacher=32768",
    "data.num_tokens_val=4096",
    "data.num_tokens_test=4096",
    "teacher.num_tokens=8192",
    "train.batch_size=32",
    "train.micro_batch_size=32",
    "train.num_evals=1",
    "signal.top_k=16",
    "store.top_k=16",
    "store.shard_tokens=65536",
    "eval.num_tokens_teacher=0",
]


def opened(directory: Path, num_tokens: int) -> tuple[Any, Any]:
    """A store of ``num_tokens`` in a directory, whatever of it is there, and its windows."""
    from capture import RandomWindows

    from pdx.files import write_json
    from pdx.store.format import Layout
    from pdx.store.kinds import TopKStore
    from pdx.store.reader import MANIFEST, Store

    kind = TopKStore(
        top_k=TOP_K,
        top_p=1.0,
        temperatures=[1.0],
        shard_tokens=SHARD_TOKENS,
        recorded=[],
        hidden_layers=[],
    )
    windows = RandomWindows(VOCAB, num_tokens // SEQ_LEN, SEQ_LEN)
    write_json(directory / MANIFEST, {"of": "a benchmark"})
    layout = Layout(windows.num_windows, SHARD_TOKENS // SEQ_LEN, SEQ_LEN, (1.0,))
    return Store(directory, kind, layout, VOCAB), windows


def captured(directory: Path, num_tokens: int) -> dict[str, float]:
    """Capture a whole store; CPU time of all threads."""
    import torch
    from capture import teacher_of

    from pdx.store.writer import capture

    store, windows = opened(directory, num_tokens)
    teacher, clocks = teacher_of(32, 1, VOCAB, SEQ_LEN, torch.device("cpu")), []

    def work() -> None:
        clocks.append(time.process_time())
        capture(store, windows, teacher, windows.num_windows, 32, 100.0)
        clocks.append(time.process_time())

    mib = harness.peak_mib(work)
    size = sum(f.stat().st_size for f in directory.glob("*.bin"))
    return {
        "capture_us_per_token": 1e6 * (clocks[1] - clocks[0]) / num_tokens,
        "bytes_per_token": size / num_tokens,
        "capture_peak_mib": mib,
    }


def read(directory: Path, num_tokens: int, seed: int) -> dict[str, float]:
    """Read windows in random order, as one training does."""
    import numpy as np

    store, windows = opened(directory, num_tokens)
    began = time.process_time()
    for shard in range(store.layout.num_shards):
        store.shard(shard)  # as a run opens a store: each header and index is checked
    opening = time.process_time() - began
    order = np.random.default_rng(seed).permutation(windows.num_windows)
    order = order[: READ_TOKENS // SEQ_LEN]
    began = time.process_time()
    for start in range(0, len(order), BATCH_WINDOWS):
        index_B = order[start : start + BATCH_WINDOWS]
        store.rows(index_B, windows.ids(index_B), 0)
    spent = time.process_time() - began
    return {
        "read_us_per_token": 1e6 * spent / (len(order) * SEQ_LEN),
        "open_us_per_shard": 1e6 * opening / store.layout.num_shards,
    }


def read_at_once(directory: Path, num_tokens: int, num_workers: int) -> dict[str, float]:
    """Several processes read one store at once: CPU time of a token in the slowest of them."""
    argv = [sys.executable, __file__, "--read", str(directory), str(num_tokens)]
    processes = [
        subprocess.Popen([*argv, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(num_workers)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("benchmarks: a reader failed")
    return {"read_us_per_token": max(json.loads(line)["read_us_per_token"] for line in said)}


def training(num_tokens: int, only_make: bool) -> dict[str, float]:
    """Train from a store over ``num_tokens``, each read once; memory that the loop adds."""
    import torch
    from hydra import compose, initialize_config_dir

    from hydra_plugins.pdx_sweeper import register
    from pdx.checkpoint import Keeper
    from pdx.config import run_of
    from pdx.feed import Feed
    from pdx.models import quiet_transformers
    from pdx.paths import conf_dir
    from pdx.shared import Shared
    from pdx.train import train

    quiet_transformers()
    torch.set_num_threads(1)
    register()
    sizes = [f"train.num_tokens={num_tokens}", f"data.num_tokens_student={TRAIN_TOKENS[-1] + 64}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run, env = run_of(compose("config", overrides=[*TRAINING, *sizes]))
    shared = Shared.of(run, env)
    store = shared.open_store()
    if only_make:
        return {}
    feed = Feed(run, shared.train_windows, shared.device, store)
    student = run.student.init(shared.token_set.vocab_size, shared.token_set.seq_len, 0)
    student.train()
    with tempfile.TemporaryDirectory() as name:
        keeper = Keeper(Path(name), 1e9)
        began = time.process_time()
        mib = harness.peak_mib(
            lambda: train(run, student, feed, dict, lambda step, metrics: False, keeper)
        )
        spent = time.process_time() - began
    return {"train_us_per_token": 1e6 * spent / num_tokens, "train_peak_mib": mib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="not used: what grows is on the host")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--most-tokens", type=int, default=100_000_000)
    parser.add_argument("--capture", nargs=2)
    parser.add_argument("--read", nargs=3)
    parser.add_argument("--workers", nargs=3)
    parser.add_argument("--train", nargs=2)
    args = parser.parse_args()
    if args.capture:
        print(json.dumps(captured(Path(args.capture[0]), int(args.capture[1]))))
    elif args.read:
        print(json.dumps(read(Path(args.read[0]), *map(int, args.read[1:]))))
    elif args.workers:
        print(json.dumps(read_at_once(Path(args.workers[0]), *map(int, args.workers[1:]))))
    elif args.train:
        print(json.dumps(training(int(args.train[0]), bool(int(args.train[1])))))
    else:
        measure(args.repeats, args.most_tokens)


def measure(repeats: int, most_tokens: int) -> None:
    """All cases in turn; captures are made once, for they are what the others read."""
    sizes = [n for n in STORE_TOKENS if n < most_tokens] + [most_tokens]
    (harness.HERE / ".data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=harness.HERE / ".data") as name:
        places = {n: Path(name) / str(n) for n in sizes}
        for place in places.values():
            place.mkdir()
        capture = [
            Case(name=f"{n:,}", argv=[__file__, "--capture", str(places[n]), str(n)]) for n in sizes
        ]
        made = harness.interleave(capture, 1)
        readers = [
            Case(name=f"{n:,}", argv=[__file__, "--read", str(places[n]), str(n), "0"])
            for n in sizes
        ]
        one = str(places[sizes[min(1, len(sizes) - 1)]]), str(sizes[min(1, len(sizes) - 1)])
        workers = [
            Case(name=f"{n} at once", argv=[__file__, "--workers", *one, str(n)]) for n in WORKERS
        ]
        read_back = harness.interleave([*readers, *workers], repeats)
    harness.interleave([Case(name="", argv=[__file__, "--train", str(TRAIN_TOKENS[-1]), "1"])], 1)
    trained = harness.interleave(
        [Case(name=f"{n:,}", argv=[__file__, "--train", str(n), "0"]) for n in TRAIN_TOKENS], 1
    )
    harness.save("growth", {"capture": made, "read": read_back, "train": trained})
    publish(made, read_back, trained)


def publish(made: harness.Measured, found: harness.Measured, trained: harness.Measured) -> None:
    """The tables."""
    base, alone = next(iter(made)), f"{WORKERS[0]} at once"
    store_rows = [
        [
            n,
            *(
                f"{harness.figure(made, n, key)['median']:.{digits}f}"
                for key, digits in (("bytes_per_token", 1), ("capture_us_per_token", 1))
            ),
            harness.shown(harness.figure(found, n, "read_us_per_token")),
            harness.shown(harness.ratio(found, n, base, "read_us_per_token")),
            f"{harness.figure(made, n, 'capture_peak_mib')['median']:.0f}",
            f"{harness.figure(found, n, 'open_us_per_shard')['median']:.0f}",
        ]
        for n in made
    ]
    worker_rows = [
        [
            f"{n} at once",
            harness.shown(harness.figure(found, f"{n} at once", "read_us_per_token")),
            harness.shown(harness.ratio(found, f"{n} at once", alone, "read_us_per_token")),
        ]
        for n in WORKERS
    ]
    train_rows = [
        [n, *(f"{trained[n][0][k]:.1f}" for k in ("train_us_per_token", "train_peak_mib"))]
        for n in trained
    ]
    head = ["tokens", "B/token", "capture, us", "read, us", "read, x the least", "capture, MiB"]
    head += ["opening a shard, us"]
    harness.write_section(
        "growth",
        "\n".join(
            [
                "## Growth with tokens and readers",
                "",
                f"`topk({TOP_K})` at V={VOCAB}, windows of {SEQ_LEN}, shards of {SHARD_TOKENS:,} "
                "tokens, a teacher of 1 layer and width 32; microseconds of CPU time a token; "
                "MiB is what the capture adds to its process at its peak. Goal: flat.",
                "",
                harness.table(head, store_rows),
                "",
                f"Processes that read one store of {list(made)[min(1, len(made) - 1)]} tokens at "
                "once; the slowest of them.",
                "",
                harness.table(["readers", "read, us", "x one"], worker_rows),
                "",
                "A training of s10k from a store, each token read once.",
                "",
                harness.table(["tokens", "us a token", "peak MiB"], train_rows),
                "",
                harness.machine_line(),
            ]
        ),
    )


if __name__ == "__main__":
    main()
