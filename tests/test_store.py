"""The logits store: what is read is what was captured, for these tokens, by this teacher."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics import TAILS, Said, component, context, logits, taught, word
from served import serve
from torch._dynamo.utils import counters
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from pdx.config import Run, config_of
from pdx.env import Env
from pdx.errors import ConfigError, DataError, PdxError, StoreError
from pdx.execute import execute
from pdx.files import read_json, write_json
from pdx.frozen import load_model
from pdx.rows import Rows
from pdx.shared import Shared
from pdx.store import columns, writer
from pdx.store.codecs.topk import LOGIT_STEP
from pdx.store.format import FORMAT_VERSION, HEADER, INDEX, shard_path
from pdx.store.ranks import write_ranks
from pdx.store.reader import Store

Tiny = Callable[..., tuple[Run, Env]]

# 512 windows of 64 tokens in six shards, the last one short; a teacher of large random weights.
SETTINGS = [
    "train.num_tokens=32768",
    "train.max_epochs=2",
    "store.top_k=6",
    "store.temperatures=[0.5,1.0,2.0]",
    "store.shard_tokens=6400",
    "signal.top_k=6",
    "teacher.init_std=0.4",
    "teacher.num_tokens=2048",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def shared(tiny_at: Tiny, outputs: Path) -> Shared:
    """A run whose store is captured."""
    shared = Shared.of(*taught(*tiny_at(outputs, *SETTINGS)))
    shared.open_store()
    return shared


@pytest.fixture(scope="module")
def exact(shared: Shared) -> torch.Tensor:
    """The teacher's logits [windows, L, V] from transformers alone, in float64."""
    model = load_model(shared.teacher_dir(shared.run.teacher), "float32")
    ids = shared.train_windows.ids(np.arange(512))[:, :-1]
    with torch.no_grad():
        return torch.cat(
            [model(torch.from_numpy(part)).logits for part in np.split(ids, 8)]
        ).double()


@pytest.fixture
def copy(shared: Shared, tmp_path: Path) -> Path:
    """A copy of the store to be damaged."""
    return Path(shutil.copytree(shared.store_dir, tmp_path / "copy"))


def reopen(shared: Shared, directory: Path, num_windows: int = 512) -> Store:
    kind, layout = shared.run.store, shared.layout
    return Store.open(directory, kind, layout, shared.store_manifest, num_windows)


def read(shared: Shared, directory: Path, *index: int) -> Rows:
    index_B = np.array(index)
    return reopen(shared, directory).rows(index_B, shared.train_windows.ids(index_B), 0)


# ---- round trip ------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def captured(request: pytest.FixtureRequest, shared: Shared, tmp_path: Path) -> Shared:
    """The run's store, and one whose sums torch.compile made."""
    if not request.param:
        return shared
    for kind in ("data", "runs"):
        (tmp_path / kind).symlink_to(getattr(shared.env.paths, kind))
    env = replace(shared.env, outputs=str(tmp_path), compile_capture=True)
    compiled = replace(shared, env=env)
    before = counters["stats"]["unique_graphs"]
    compiled.ensure_store(512)
    assert counters["stats"]["unique_graphs"] == before + 1, "one kernel for groups of any size"
    assert compiled.store_dir.name == shared.store_dir.name != compiled.store_dir
    return compiled


def test_rows_equal_a_direct_computation(captured: Shared, exact: torch.Tensor):
    shared, index = captured, [0, 99, 100, 511, 317]  # edges, the short shard, out of order
    rows, store = read(shared, shared.store_dir, *index), shared.open_store()
    wanted_NV = exact[index].reshape(-1, 32)
    top = wanted_NV.topk(6)
    assert torch.equal(rows.ids_NK, top.indices) and rows.ids_NK.dtype == torch.int64
    near = {"rtol": 1e-5, "atol": 2e-5, "check_dtype": False}
    torch.testing.assert_close(
        rows.logits_NK, top.values, rtol=0, atol=LOGIT_STEP, check_dtype=False
    )
    mass, wanted_mass = rows.logits_NK.logsumexp(-1), top.values.logsumexp(-1)
    torch.testing.assert_close(mass, wanted_mass, **near)  # what is kept weighs what it weighed
    assert sorted(rows.facts.lse) == [0.5, 1.0, 2.0]
    for heat, lse_N in rows.facts.lse.items():
        wanted_N = (wanted_NV / heat).logsumexp(-1)
        torch.testing.assert_close(
            lse_N, wanted_N, rtol=0, atol=LOGIT_STEP / heat, check_dtype=False
        )
        outside, wanted = (  # of the kept: what the columns are for
            lse - (kept / heat).logsumexp(-1)
            for lse, kept in ((lse_N, rows.logits_NK), (wanted_N, top.values))
        )
        torch.testing.assert_close(outside, wanted, **near)
    logprobs_NV = wanted_NV - wanted_NV.exp().sum(-1, keepdim=True).log()
    targets_N1 = torch.from_numpy(shared.train_windows.ids(np.array(index))[:, 1:]).reshape(-1, 1)
    columns = {
        "target_logprob": logprobs_NV.gather(1, targets_N1)[:, 0],
        "entropy": -(logprobs_NV.exp() * logprobs_NV).sum(-1),
        "logit_std": ((wanted_NV - wanted_NV.mean(-1, keepdim=True)) ** 2).mean(-1).sqrt(),
    }
    for name, wanted_N in columns.items():
        found = torch.from_numpy(store.column(name, np.array(index)).reshape(-1))
        torch.testing.assert_close(found, wanted_N, **near)


def test_a_machine_without_a_compiler_is_told_what_to_do(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
):
    def compiled(*_: Any) -> Any:
        raise InductorError(InvalidCxxCompiler(), None)  # as it is when PATH has no compiler

    monkeypatch.setattr(columns, "_compiled", lambda: compiled)
    teacher, index_B = shared.load_teacher(shared.run.teacher), np.arange(2)
    with pytest.raises(
        ConfigError, match=r"^env\.compile_capture: .*No working C\+\+ compiler.*=f"
    ):
        columns.reduce(shared.open_store(), shared.train_windows, teacher, index_B, compiled=True)


def test_the_argmax_is_the_first_id(shared: Shared, exact: torch.Tensor):
    rows = read(shared, shared.store_dir, *range(512))
    assert torch.equal(rows.ids_NK[:, 0], exact.reshape(-1, 32).argmax(-1))
    assert (rows.logits_NK.diff(dim=-1) <= 0).all()


def test_mean_target_logprob_is_over_all_tokens(shared: Shared, exact: torch.Tensor):
    targets = torch.from_numpy(shared.train_windows.ids(np.arange(512))[:, 1:, None])
    wanted = float(exact.log_softmax(-1).gather(-1, targets).mean())
    assert shared.open_store().mean_target_logprob == pytest.approx(wanted, abs=1e-5)


def test_what_lies_on_the_disk_is_as_large_as_predicted(shared: Shared):
    files = sorted(shared.store_dir.glob("shard-*.bin"))
    assert len(files) == 6
    predicted = shared.run.store.bytes_per_token(32) * 32768
    assert sum(f.stat().st_size for f in files) == pytest.approx(predicted, rel=0.3)


# ---- what one capture serves -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "changes", "heat", "both"),
    [("topk", {"top_k": k, "tail": "bucket"}, t, False) for k in (1, 3, 6) for t in (0.5, 1.0, 2.0)]
    + [("topk", {"top_k": 4, "tail": t}, 3.7, False) for t in ("renormalize", "support")]
    + [("topk", {"top_k": 4, "tail": "decoupled"}, 3.7, True)]
    + [
        ("topp_topk", {"top_k": 5, "top_p": p, "tail": t}, 1.0, False)
        for p in (0.3, 0.9)
        for t in TAILS
    ],
)
def test_smaller_k_any_p_and_declared_temperatures_are_served_exactly(
    shared: Shared,
    exact: torch.Tensor,
    value: str,
    changes: dict[str, Any],
    heat: float,
    both: bool,
):
    """The store's word and that of the teacher's full logits, through the same signal."""
    warm = component("temperature", "constant", value=heat, temper_student=both)
    sparse = Said(component("signal", value, **changes), warm)
    shared.run.store.check_serves(sparse.signal, warm)
    live = word(sparse, exact[[3, 400]].reshape(-1, 32).float())
    asked = context(sparse, 128, 32)
    stored = sparse.sparse(read(shared, shared.store_dir, 3, 400), asked)
    student_NV = logits(0, 128, 32)
    assert torch.equal(stored.keep_NK, live.chunk(0, 128).keep_NK)
    teacher, student = stored.align(student_NV), live.align(student_NV)
    torch.testing.assert_close(teacher[1], student[1], rtol=1e-4, atol=2e-5)
    # Logits are within a step; what they lose is of second order.
    exact_NS, found_NS = student[0].double(), teacher[0].double()
    step = LOGIT_STEP / heat
    if sparse.tail != "smooth":  # whose support is the vocabulary, in its own order
        gap_NK = (found_NS - exact_NS)[:, : stored.keep_NK.shape[1]][stored.keep_NK]
        exactly = sparse.tail in ("bucket", "drop", "to_label")
        assert gap_NK.abs().max() <= (1 if exactly else 2) * step
    kl = (exact_NS.exp() * (exact_NS - found_NS)).sum(-1)
    if sparse.tail == "drop":
        return  # whose words do not sum to one
    assert kl.max() < step**2 / 2 and kl.mean() < step**2 / 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_live_teacher_and_store_train_the_same_student(
    tiny_at: Tiny, outputs: Path, shared: Shared, tmp_path: Path, precision: str
):
    """The student's precision is no business of the teacher's."""
    settings = [s for s in SETTINGS if not s.startswith("store.")]
    settings += ["train.num_tokens=4096", "signal.top_k=3", f"train.precision={precision}"]
    settings += ["eval.num_tokens_teacher=0"]
    weights, ids, metrics = [], [], []
    for number, store in enumerate((["store=topk", "store.shard_tokens=6400"], ["store=none"])):
        teacher = shared.teacher_dir(shared.run.teacher)
        shutil.copytree(teacher, tmp_path / str(number) / "runs" / teacher.parent.name / "model")
        run, env = tiny_at(tmp_path / str(number), *store, *settings)
        metrics.append(execute(run, env, quiet=True)["metrics"])
        assert env.paths.stores.exists() == run.is_stored
        ids.append(run.run_id)
        weights.append(load_model(env.paths.runs / run.run_id / "model", "float32").state_dict())
    assert ids[0] != ids[1]  # logits are kept in steps: a run's numbers know it, and so its name
    for key, wanted in weights[0].items():
        torch.testing.assert_close(weights[1][key], wanted, rtol=0, atol=1e-2)
    for key, wanted in metrics[0].items():
        if "perf" not in key:
            assert metrics[1][key] == pytest.approx(wanted, abs=5e-4), key


# ---- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"signal.top_k": 7},
            r"signal.top_k=7: the store keeps store.top_k=6 logits of each position; "
            r"use signal.top_k <= 6, or capture with store.top_k=7.",
        ),
        (
            {"temperature.value": 3.0, "signal.tail": "bucket"},
            r"temperature.value=3.0: tail=bucket needs the rest mass at this temperature, and the "
            r"store declares \[0.5, 1.0, 2.0\]; use one of these, signal.tail=renormalize, or "
            r"capture with store.temperatures=\[0.5, 1.0, 2.0, 3.0\].",
        ),
        ({"store.temperatures": "[0.5,2.0]"}, r"store.temperatures=\[0.5, 2.0\]: must include 1.0"),
        ({"store.temperatures": "[]"}, r"store.temperatures=\[\]: must be one or more"),
        (
            {"store.temperatures": "[1.0,-1.0]"},
            r"store.temperatures=\[1.0, -1.0\]: must be one or more",
        ),
        ({"store.top_k": 0}, r"store.top_k=0: must be at least 1."),
        ({"store.shard_tokens": 0}, r"store.shard_tokens=0: must be >= 1."),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_runs(
    tiny: Tiny, changes: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        tiny(*SETTINGS, *(f"{key}={value}" for key, value in changes.items()))


def test_renormalize_is_served_at_any_temperature(tiny: Tiny):
    tiny(*SETTINGS, "temperature.value=3.0", "signal.tail=renormalize")


def test_a_run_without_a_teacher_asks_nothing_of_the_store(tiny: Tiny):
    assert not tiny(*SETTINGS, "loss=none", "signal.top_k=32")[0].is_stored


def block_bounds(shared: Shared, window: int) -> tuple[int, int]:
    """Where a window's block lies in its shard's file."""
    shard = shared.open_store().shard(window // shared.layout.windows_per_shard)
    i = window - shard.first
    return int(shard.index["end"][i - 1]) if i else shard.start, int(shard.index["end"][i])


def test_a_store_may_have_more_shards_than_a_process_open_files(
    tiny_at: Tiny, outputs: Path, few_files: None
):
    """`ulimit -n` is often 1,024."""
    shared = Shared.of(*taught(*tiny_at(outputs, *SETTINGS, "store.shard_tokens=64")))
    store, every = shared.open_store(), np.arange(512)
    assert shared.layout.shards_for(512) == 512
    rows = store.rows(every, shared.train_windows.ids(every), 0)
    assert len(rows.ids_NK) == 512 * 64


@pytest.fixture
def few_files() -> Iterator[None]:
    """As many files may be open as are, and 320 more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 320, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("place", [0.0, 0.1, 0.4, 0.6, 0.8, 1.0])
def test_one_flipped_bit_is_found_and_the_shard_named(shared: Shared, copy: Path, place: float):
    window, path = 217, shard_path(copy, 2)
    raw = bytearray(path.read_bytes())
    first, stop = block_bounds(shared, window)
    raw[first + int(place * (stop - 1 - first))] ^= 0b100
    path.write_bytes(raw)
    with pytest.raises(
        StoreError, match=rf"shard-00002.bin: the block of window {window} was altered"
    ):
        read(shared, copy, window)
    read(shared, copy, window - 1, window + 1)  # its neighbours are whole


@pytest.mark.parametrize("at", [0, 9, 20, 40, 50, HEADER.size, HEADER.size + 99 * INDEX.itemsize])
def test_a_flipped_bit_in_a_header_or_index_is_found(shared: Shared, copy: Path, at: int):
    path = shard_path(copy, 2)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0b100
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"shard-00002.bin: .*; delete it and run the same"):
        reopen(shared, copy)


def test_a_truncated_shard_is_named(shared: Shared, copy: Path):
    path = shard_path(copy, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-00003.bin: has \d+ bytes, not \d+; delete it"):
        reopen(shared, copy)
    reopen(shared, copy, num_windows=300)  # a run that does not reach it may go on


def test_a_missing_shard_is_named(shared: Shared, copy: Path):
    shard_path(copy, 5).unlink()
    with pytest.raises(
        StoreError, match=r"shard-00005.bin: is missing; run the same command again: only missing"
    ):
        reopen(shared, copy)


def test_a_shard_in_anothers_place_is_found(shared: Shared, copy: Path):
    shutil.copy(shard_path(copy, 1), shard_path(copy, 2))
    with pytest.raises(
        StoreError, match=r"shard-00002.bin: holds windows 100 to 199, not 200 to 299; delete it"
    ):
        reopen(shared, copy)


def test_a_shard_of_another_store_is_found(
    tiny_at: Tiny, outputs: Path, shared: Shared, copy: Path
):
    """Another teacher's rows under this teacher's name."""
    other = Shared.of(*tiny_at(outputs, *SETTINGS, "teacher.seed=1"))
    other.ensure_store(300)
    shutil.copy(shard_path(other.store_dir, 1), shard_path(copy, 1))
    with pytest.raises(StoreError, match=rf"shard-00001.bin: is of store {other.store_dir.name}"):
        reopen(shared, copy)


def test_other_tokens_are_found(shared: Shared):
    store, index_B = shared.open_store(), np.array([4, 5])
    ids = shared.train_windows.ids(index_B)
    for b, i in ((0, 0), (1, 64), (1, 30)):
        other = ids.copy()
        other[b, i] = (other[b, i] + 1) % 32
        with pytest.raises(StoreError, match=rf"window {index_B[b]} was captured for other tokens"):
            store.rows(index_B, other, 0)
    with pytest.raises(StoreError, match="window 4 was captured for other tokens"):
        store.rows(index_B, ids[::-1], 0)


def test_every_key_of_the_manifest_is_checked(shared: Shared, copy: Path):
    manifest = read_json(copy / "manifest.json")
    assert manifest == shared.store_manifest
    assert {
        "teacher_id",
        "tokenizer_digest",
        "windows_digest",
        "top_k",
        "temperatures",
        "seq_len",
        "stride",
        "document_mask",
        "kind",
        "top_p",
        "logit_step",
        "vocab_size",
    } < manifest.keys()
    for key, value in manifest.items():
        if key == "format_version":
            continue
        for other in (manifest | {key: "other"}, {k: v for k, v in manifest.items() if k != key}):
            write_json(copy / "manifest.json", other)
            found = repr(other.get(key))
            with pytest.raises(StoreError) as refused:
                reopen(shared, copy)
            assert f"{key}: captured with {found}, this run uses {value!r}" in str(refused.value)


def test_another_format_version_is_refused(shared: Shared, copy: Path):
    write_json(copy / "manifest.json", shared.store_manifest | {"format_version": 99})
    with pytest.raises(
        StoreError, match=rf"format_version=99, and this pdx reads {FORMAT_VERSION}"
    ):
        reopen(shared, copy)


def test_no_store_at_all(shared: Shared, tmp_path: Path):
    with pytest.raises(StoreError, match="no store here; run `pdx capture`"):
        reopen(shared, tmp_path / "nothing")


def test_another_teacher_data_or_width_is_another_store(
    tiny_at: Tiny, outputs: Path, shared: Shared
):
    def store_dir(*changes: str) -> Path:
        return Shared.of(*tiny_at(outputs, *SETTINGS, *changes)).store_dir

    assert store_dir() == shared.store_dir
    same = [
        "student=s30k",
        "train.seed=5",
        "train.num_tokens=4096",
        "signal.top_k=2",
        "loss=soft_ce",
    ]
    assert store_dir(*same) == shared.store_dir  # a capture is shared by all of these
    others = ["teacher.seed=1", "store.top_k=5", "store.temperatures=[1.0]", "train.split=teacher"]
    others += ["store.shard_tokens=3200", ["signal.top_k=5", "store.top_k=5"][1]]
    directories = [store_dir("signal.top_k=2", *change.split()) for change in others[:-1]]
    assert len({*directories, shared.store_dir}) == len(others)


# ---- how it is built -------------------------------------------------------------------------


def stamps(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(directory.glob("*.bin"))}


def fresh(shared: Shared, outputs: Path) -> Shared:
    """The same run over the same tokens and teacher, with nothing captured yet."""
    root = shared.env.paths
    outputs.mkdir(parents=True)
    for name in ("data", "runs"):
        (outputs / name).symlink_to(getattr(root, name))
    return Shared.of(shared.run, replace(shared.env, outputs=str(outputs)))


def test_a_store_is_shared_behind_a_url(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One machine captures, another fetches the same bytes and needs no teacher."""
    url = f"file://{tmp_path}/bucket"

    def machine(name: str, url: str) -> Shared:
        made = fresh(shared, tmp_path / name)
        return replace(made, env=replace(made.env, shared_stores=url))

    one = machine("one", url)
    one.ensure_store(130)
    monkeypatch.setattr(Shared, "load_teacher", lambda *_: pytest.fail("asked the teacher again"))
    two = machine("two", url)
    two.ensure_store(130)
    with serve(tmp_path / "bucket") as served:  # which can only be read
        machine("over HTTP", served).ensure_store(130)
    (theirs,) = (tmp_path / "bucket").iterdir()
    assert sorted(p.name for p in theirs.iterdir()) == ["shard-00000.bin", "shard-00001.bin"]
    for name in ("shard-00000.bin", "shard-00001.bin"):
        assert (two.store_dir / name).read_bytes() == (one.store_dir / name).read_bytes()
    (theirs / "shard-00001.bin").write_bytes((theirs / "shard-00001.bin").read_bytes()[:-1])
    three = machine("three", url)
    with pytest.raises(StoreError, match=r"env\.shared_stores=file.*shard-00001\.bin .* broken"):
        three.ensure_store(130)
    assert sorted(p.name for p in three.store_dir.glob("*shard*")) == ["shard-00000.bin"]
    with pytest.raises(DataError, match=r"env\.shared_stores=http://127.* cannot be reached"):
        machine("nowhere", "http://127.0.0.1:1/stores").ensure_store(130)


def test_a_longer_capture_leaves_the_first_shards_as_they_are(shared: Shared, tmp_path: Path):
    other = fresh(shared, tmp_path / "other")
    other.ensure_store(130)
    first = stamps(other.store_dir)
    assert list(first) == ["shard-00000.bin", "shard-00001.bin"]
    other.ensure_store(512)
    after = stamps(other.store_dir)
    assert len(after) == 6 and {name: after[name] for name in first} == first
    assert {n: b for n, (_, b) in after.items()} == {
        n: b for n, (_, b) in stamps(shared.store_dir).items()
    }


CAPTURE = """
import json, os, signal, sys, time
from pdx import files
from pdx.config import run_of_resolved
from pdx.shared import Shared
from pdx.store import writer

config, mode = json.load(sys.stdin), sys.argv[1]
replace, write = os.replace, writer.write_bytes

def dying(old, new):
    if str(new).endswith("shard-00002.bin"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

def waiting(path, payload):
    print("capturing", path.name, flush=True)
    if path.name == "shard-00000.bin":
        while not (path.parent / "go").exists():
            time.sleep(0.01)
    write(path, payload)

if mode == "die":
    files.os.replace = dying
else:
    writer.write_bytes = waiting
run, env = run_of_resolved(config)
Shared.of(run, env).open_store()
"""


@contextmanager
def other_process(shared: Shared, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A capture of the same store in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", CAPTURE, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        json.dump(config_of(shared.run, shared.env), process.stdin)
        process.stdin.close()
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_capture_goes_on_at_the_first_missing_shard(shared: Shared, tmp_path: Path):
    other = fresh(shared, tmp_path / "other")
    with other_process(other, "die") as process:
        assert process.wait(60) == -signal.SIGKILL
    before = stamps(other.store_dir)
    assert list(before) == ["shard-00000.bin", "shard-00001.bin"]
    assert any(".shard-00002.bin." in f.name for f in other.store_dir.iterdir())  # half done
    other.open_store()
    assert not list(other.store_dir.glob(".shard-*"))
    after = stamps(other.store_dir)
    assert {name: after[name] for name in before} == before
    assert {n: b for n, (_, b) in after.items()} == {
        n: b for n, (_, b) in stamps(shared.store_dir).items()
    }


def test_two_captures_at_once_share_the_shards(
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Each shard is written by one of them, and the bytes are those of a capture alone."""
    other, written, write = fresh(shared, tmp_path / "other"), [], writer.write_bytes

    def noting(path: Path, payload: bytes) -> None:
        written.append(path.name)
        write(path, payload)

    monkeypatch.setattr(writer, "write_bytes", noting)
    with other_process(other, "wait") as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # it has begun, and waits for us
        ours = threading.Thread(target=other.open_store)
        ours.start()
        deadline = time.monotonic() + 60
        while "waiting for another process" not in capfd.readouterr().err:
            assert time.monotonic() < deadline and ours.is_alive()
            time.sleep(0.05)
        (other.store_dir / "go").touch()
        ours.join(60)
        assert not ours.is_alive() and process.wait(60) == 0
        theirs = [first, *process.stdout.read().splitlines()]
    theirs = [line.split()[-1] for line in theirs]
    assert sorted(written + theirs) == sorted(stamps(shared.store_dir))
    assert {n: b for n, (_, b) in stamps(other.store_dir).items()} == {
        n: b for n, (_, b) in stamps(shared.store_dir).items()
    }
    assert not list(other.store_dir.glob("*.lock"))


def test_who_comes_too_late_to_wait_leaves_no_lock(shared: Shared, tmp_path: Path):
    """The shard was written, and its lock removed, between our look at it and our waiting."""
    other = fresh(shared, tmp_path / "other")
    writer._wait_for(other.open_store(), 5)
    assert writer._claim(other.open_store(), 5) is None
    assert not list(other.store_dir.glob("*.lock"))


def test_no_room_is_said_before_the_first_shard(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = fresh(shared, tmp_path / "other")
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PdxError, match=r"this capture needs 0.0\d GiB and 0.00 GiB are free"):
        other.ensure_store(512)
    assert not stamps(other.store_dir)


# ---- documents -------------------------------------------------------------------------------


def test_documents_do_not_see_each_other_on_the_whole_road(tiny: Tiny, tmp_path: Path):
    """Tokens, capture, training and evaluation of short documents with data.document_mask."""
    rng = np.random.default_rng(0)
    (tmp_path / "text").mkdir()
    for number in range(120):
        letters = rng.choice(list("abcdefgh "), size=int(rng.integers(20, 90)))
        (tmp_path / "text" / f"{number:03}.txt").write_text("".join(letters))
    settings = ["data=files", f"data.paths=['{tmp_path}/text/*.txt']", "data.group_by=document"]
    settings += ["data.vocab_size=264", "data.seq_len=32", "data.document_mask=true"]
    settings += ["data.val_frac=0.1", "data.test_frac=0.1", "student.init_std=0.2"]
    settings += ["teacher.init_std=0.3", "teacher.num_tokens=512", "train.num_tokens=1024"]
    run, env = taught(*tiny(*settings))
    shared = Shared.of(run, env)
    windows, index_B = shared.train_windows, np.arange(8)
    batch = windows.batch(index_B)
    document_BL = batch.document_BL
    assert document_BL is not None and int(document_BL.max()) >= 1 and not batch.mask_BL.all()
    assert shared.store_manifest["document_mask"] is True
    rows = shared.open_store().rows(index_B, windows.ids(index_B), 0)
    model = load_model(shared.teacher_dir(run.teacher), "float32")
    for b in range(8):
        for number in range(int(document_BL[b].max()) + 1):
            (here,) = torch.nonzero(document_BL[b] == number, as_tuple=True)
            with torch.no_grad():
                alone = model(batch.tokens_BL[b, here][None]).logits[0].topk(8)
            found = rows.logits_NK[b * 32 + here, :8]
            torch.testing.assert_close(found, alone.values, rtol=1e-4, atol=LOGIT_STEP)
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete" and np.isfinite(list(result["metrics"].values())).all()


# ---- other kinds -----------------------------------------------------------------------------

KINDS = {
    "topp": ["store.top_k=null", "store.top_p=0.8", "signal=topp", "signal.top_p=0.7"],
    "topp_topk": ["store.top_p=0.8", "signal=topp_topk", "signal.top_p=0.7", "signal.top_k=6"],
    "sampled": ["store=sampled", "signal=sampled", "store.num_draws=20", "signal.num_draws=7"],
    "head_sampled": [
        *("store=head_sampled", "store.top_k=4", "store.num_draws=9"),
        *("signal=head_sampled", "signal.top_k=4", "signal.num_draws=5"),
    ],
}


def of_kind(tiny_at: Tiny, outputs: Path, kind: str) -> Shared:
    base = [s for s in SETTINGS if s.split(".")[0] not in ("store", "signal")]
    return Shared.of(*tiny_at(outputs, *base, "store.shard_tokens=6400", *KINDS[kind]))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_says_what_a_live_teacher_says(
    tiny_at: Tiny, outputs: Path, shared: Shared, exact: torch.Tensor, kind: str
):
    """Draws are those of the seed and the position, whoever makes them."""
    run = of_kind(tiny_at, outputs, kind)
    store, signal, index_B = run.open_store(), run.run.signal, np.array([300, 4])
    rows = store.rows(index_B, run.train_windows.ids(index_B), signal.num_draws)
    offset_N = torch.from_numpy(index_B)[:, None] * 64 + torch.arange(64)
    logits_NV = exact[index_B].reshape(-1, 32).float()
    said = Said(signal, run.run.temperature)
    live = word(said, logits_NV, offset_N.reshape(-1))
    stored = signal.sparse(rows, context(said, 128, 32))
    student_NV = logits(0, 128, 32)
    losses = [
        (teacher_NS.exp() * (teacher_NS - student_NS)).sum(-1)
        for teacher_NS, student_NS in (s.align(student_NV) for s in (stored, live))
    ]
    near = 1e-4 if kind == "sampled" else 4 * LOGIT_STEP
    # A draw may fall on the next token where the sum of masses rounds otherwise: hardly ever.
    assert ((losses[0] - losses[1]).abs() < near).float().mean() > 0.97
    assert float((losses[0].mean() - losses[1].mean()).abs()) < 0.02
    argmax = exact[index_B].argmax(-1).numpy()
    assert (store.argmax(index_B) == argmax).all()
    assert run.run.identity.get("store_precision") == run.run.store.precision
    one = store.rows_at(
        np.array([300 * 64 + 9, 4 * 64]), run.train_windows.ids(np.array([4, 300])), 3
    )
    some = store.rows(index_B, run.train_windows.ids(index_B), 3)
    assert torch.equal(one.logits_NK, some.logits_NK[[9, 64]])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_trains(tiny_at: Tiny, outputs: Path, kind: str):
    base = [s for s in SETTINGS if s.split(".")[0] not in ("store", "signal", "train")]
    settings = [*base, "store.shard_tokens=6400", *KINDS[kind], "train.num_tokens=2048"]
    result = execute(*tiny_at(outputs, *settings), quiet=True)
    assert result["status"] == "complete" and np.isfinite(list(result["metrics"].values())).all()


def test_a_run_of_draws_is_the_same_run_live_and_stored(tiny_at: Tiny, outputs: Path):
    """Counts are exact: the store is no part of the identity."""
    settings = ["signal=sampled", "signal.num_draws=4"]
    ids = [
        tiny_at(outputs, *settings, *store)[0].run_id
        for store in (["store=sampled"], ["store=sampled", "store.num_draws=9"], ["store=none"])
    ]
    assert len(set(ids)) == 1
    other = tiny_at(outputs, *settings, "store=sampled", "store.seed=1", "signal.seed=1")[0]
    assert other.run_id != ids[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("signal=sampled store=topk", r"reads sampled rows, and store=topk keeps .*store=sampled"),
        ("signal=topk store=sampled", r"signal=topk: reads topk rows, .*store=topk"),
        (
            "signal=sampled store=sampled store.num_draws=9",
            r"signal.num_draws=50: the store keeps store.num_draws=9 draws of each position; use "
            r"signal.num_draws <= 9, or capture with store.num_draws=50.",
        ),
        (
            "signal=sampled store=sampled store.seed=2",
            r"signal.seed=0: the store's draws are those of store.seed=2; use signal.seed=2, or "
            r"capture with store.seed=0.",
        ),
        ("signal=topk store=topk store.top_p=0.9", r"signal.top_p=1.0: the store cuts its rows at"),
        (
            "signal=topp_topk signal.top_p=0.95 store=topk store.top_p=0.9",
            r"signal.top_p=0.95: .*store.top_p=0.9; .*capture with store.top_p=0.95.",
        ),
        (
            "signal=head_sampled signal.top_k=4 store=head_sampled",
            r"signal.top_k=4: the store's draws are from outside its store.top_k=8 exact tokens",
        ),
        ("signal=sampled store=head_sampled", r"reads sampled rows, and store=head_sampled keeps"),
        ("signal=topk signal.top_k=9 store=head_sampled", r"signal.top_k=9: the store keeps"),
        ("signal=sampled store=sampled store.num_draws=0", r"store.num_draws=0: must be from 1 to"),
        (
            "signal=topp store=topk store.top_p=0.95",
            r"signal=topp: .*store.top_k=64 .*capture with store=topk store.top_k=null store.top_p",
        ),
        (
            "signal=topp store=topk store.top_k=null store.top_p=0.9",
            r"signal.top_p=0.95: the store cuts its rows at store.top_p=0.9; .*store.top_p=0.95.",
        ),
        ("signal=topp store=sampled", r"signal=topp: reads topk rows, and store=sampled keeps"),
        ("store=topk store.top_k=null", r"store.top_k=None: must be at least 1, or null with a st"),
        (
            "signal=sampled store=sampled signal.proposal_power=0.8",
            r"signal.proposal_power=0.8: a store holds draws from the teacher .*store=none.",
        ),
        (
            "signal=sampled store=sampled temperature.value=2.0",
            r"temperature: Constant tempers the teacher, and a signal of draws .*value=1.0",
        ),
        *(
            (
                f"signal=topk store=topk signal.tail={tail} temperature={heat}",
                rf"signal.tail={tail}: needs the rest mass at the temperature of each position.*, "
                r"which \w+ moves, .*signal.tail=renormalize, support or decoupled, or store=none.",
            )
            for tail in ("bucket", "drop", "to_label", "smooth")
            for heat in ("by_entropy", "by_deviation", "normkd", "scheduled")
        ),
        (
            "signal=topk store=topk signal.tail=renormalize temperature=wttm temperature.value=3.0",
            r"temperature.value=3.0: WTTM needs the normaliser .*; use one of these, or capture "
            r"with store.temperatures=\[0.5, 1.0, 2.0, 3.0, 5.0\].",
        ),
        (
            "signal=topk store=topk signal.tail=decoupled temperature.value=2.0",
            r"signal.tail=decoupled: tempers both sides .*set temperature.temper_student=true",
        ),
        ("store=topk store.top_p=0.0", r"store.top_p=0.0: must lie in \(0, 1\]"),
    ],
)
def test_kinds_serve_what_they_hold_and_name_what_would_serve_the_rest(
    tiny_at: Tiny, tmp_path: Path, changes: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        tiny_at(tmp_path, *changes.split())


def test_a_head_serves_truncating_signals(tiny_at: Tiny, outputs: Path, exact: torch.Tensor):
    settings = [s for s in SETTINGS if s.split(".")[0] not in ("store", "signal")]
    settings += ["store=head_sampled", "store.top_k=4", "store.num_draws=9"]
    run = Shared.of(*tiny_at(outputs, *settings, "signal=topk", "signal.top_k=3"))
    run.ensure_store(8)
    store = Store.open(run.store_dir, run.run.store, run.layout, run.store_manifest, 8)
    index_B = np.array([5])
    rows = store.rows(index_B, run.train_windows.ids(index_B), run.run.signal.num_draws)
    assert torch.equal(rows.ids_NK, exact[5].topk(4).indices)


def test_altered_ranks_are_found(tiny_at: Tiny, outputs: Path, tmp_path: Path):
    run = of_kind(tiny_at, outputs, "sampled")
    run.open_store()
    directory = Path(shutil.copytree(run.store_dir, tmp_path / "copy"))
    whole = (directory / "ranks.bin").read_bytes()
    for damaged in (whole[:-1], whole[:9] + b"\x07" + whole[10:], b""):
        (directory / "ranks.bin").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"ranks.bin: is missing or was altered \(checksum\)"):
            Store.open(directory, run.run.store, run.layout, run.store_manifest, 512)
    write_ranks(directory, np.arange(32)[::-1].copy())
    with pytest.raises(StoreError, match=r"shard-00000.bin: was written with other ranks"):
        Store.open(directory, run.run.store, run.layout, run.store_manifest, 512)


# ---- a full disk -----------------------------------------------------------------------------


def test_a_full_disk_stops_cleanly_and_the_capture_goes_on(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A real one, of memory: part of it is taken up by something else at first."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1700k", "none", str(small)])
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        other = fresh(shared, small / "out")
        ballast = small / "ballast"
        ballast.write_bytes(bytes(900_000))
        usage = shutil.disk_usage(tmp_path)._replace(free=2**40)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # the room went after the start
        with pytest.raises(StoreError, match=r"the disk is full; the shards that are whole stay"):
            other.open_store()
        before = stamps(other.store_dir)
        assert 0 < len(before) < 6 and not list(other.store_dir.glob(".shard-*"))
        ballast.unlink()
        other.open_store()
        after = stamps(other.store_dir)
        assert {name: after[name] for name in before} == before
        assert {n: b for n, (_, b) in after.items()} == {
            n: b for n, (_, b) in stamps(shared.store_dir).items()
        }
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
