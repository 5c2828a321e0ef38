"""Benchmarks run: their smallest cases, whose figures are numbers; no time is asserted."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = sorted(p.stem for p in BENCHMARKS.glob("*.py"))


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts import one another as they do when run; nothing of them stays."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("harness", "formats")])
def test_every_script_takes_a_device(name: str, monkeypatch: pytest.MonkeyPatch):
    """`make bench-gpu` hands it to all of them."""
    monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", "--help"])
    with pytest.raises(SystemExit) as left:
        script(name).main()
    assert left.value.code == 0


def test_store_measures_every_format(capsys: pytest.CaptureFixture[str]):
    store = script("store")
    logits_NV = store.rows(300, 64, 0)
    draws_NJ = store.draw(logits_NV, torch.arange(64), 50, 0).numpy()
    found = store.measure(store.formats_of(logits_NV, draws_NJ, 50), 64, 1)
    assert len(found) == 7 and all(row["bytes_per_token"] > 0 for row in found.values())
    grown = store.by_k(logits_NV, 1)
    sizes = [grown[f"topk({k})"]["bytes_per_token"] for k in store.GROWTH_K]
    assert sizes == sorted(sizes) and len(store.lines_of(grown)) == 2 * len(sizes)


def test_a_store_of_the_growth_table_is_read_back(tmp_path: Path):
    growth = script("growth")
    made = growth.captured(tmp_path, 2_560)
    assert made["bytes_per_token"] > 16 and math.isfinite(made["capture_peak_mib"])
    assert growth.read(tmp_path, 2_560, 0)["read_us_per_token"] > 0
    store, windows = growth.opened(tmp_path, 2_560)
    index_B = np.array([3, 9])
    assert store.rows(index_B, windows.ids(index_B), 0).ids_NK.shape == (512, growth.TOP_K)


def test_capture_measures_every_kind(monkeypatch: pytest.MonkeyPatch):
    capture = script("capture")
    monkeypatch.setitem(capture.TEACHERS["cpu"], "least", (32, 1, 128, 1_024))
    found = capture.measure("least", "cpu", 1)
    assert list(found) == ["bare", *capture.CASES["cpu"]] and all(
        f[0]["seconds"] > 0 for f in found.values()
    )


def test_a_step_and_the_ways_of_many_students_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    students, step = script("students"), script("step")
    small = ["data=synthetic", "data.num_tokens_student=65536", "data.num_tokens_teacher=16384"]
    small += ["data.num_tokens_val=4096", "data.num_tokens_test=4096", "data.vocab_size=128"]
    small += ["teacher.hidden_size=32", "teacher.ffn_size=64", "teacher.num_layers=1"]
    small += ["teacher.num_heads=2", "teacher.num_kv_heads=2", f"env.outputs={tmp_path}"]
    common = [*step.COMMON, *small]
    for module in (step, students):
        monkeypatch.setattr(module, "COMMON", common)
    assert step.run_case("demo, s10k", "distilled, topk bucket")["utilisation"] > 0
    monkeypatch.setattr(students, "STEPS", 2)
    for source in students.SOURCES:
        for how in ("together", "stacked"):
            assert students.run_case("demo, s10k", source, how, 2, "cpu")["ms"] > 0
