"""Evaluation against plain loops in float64, and against a source whose best loss is known."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measured import SETTINGS, Masked, rows, small_pieces, student
from numerics import component, taught

from pdx.config import Run
from pdx.data.synthetic import Synthetic
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.evaluate import Reference, compare, held_out_loss
from pdx.execute import execute
from pdx.ranks import Ranks
from pdx.shared import Shared

__all__ = ["small_pieces", "student"]

Tiny = Callable[..., tuple[Run, Env]]
ALONE = Ranks.alone(torch.device("cpu"))


@pytest.fixture(scope="module")
def shared(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared.of(*taught(*tiny_at(tmp_path_factory.mktemp("evaluate"), *SETTINGS)))


@pytest.mark.parametrize("mask", [False, True])
def test_held_out_loss_is_its_oracle(shared: Shared, student: Any, mask: bool):
    val = shared.token_set.windows("val")
    windows: Any = Masked(val) if mask else val
    found = held_out_loss(student, windows, 1500, ALONE)
    nats = [-row.student[row.target] for row in rows(windows, 23, student, student)]
    num_bytes = int(val.window_bytes(np.arange(23)).sum())
    assert len(nats) == 23 * (21 if mask else 64)
    assert found["loss"] == pytest.approx(math.fsum(nats) / len(nats), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(
        math.fsum(nats) / math.log(2) / num_bytes, rel=1e-6
    )
    assert student.training


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_comparison_is_its_oracle(
    shared: Shared, student: Any, tmp_path: Path, mask: bool, num_bins: int
):
    val = shared.token_set.windows("val")
    windows: Any = Masked(val) if mask else val
    frozen = shared.load_teacher(shared.run.teacher)
    Reference.build(tmp_path / "reference", frozen, windows, 1300)
    reference, teacher = Reference(tmp_path / "reference"), frozen.model
    assert reference.manifest["num_windows"] == 20
    found = compare(student, reference, windows, num_bins, ALONE)
    kl, agree, bins = [], 0, [[0, 0.0, 0] for _ in range(num_bins)]
    table = rows(windows, 20, student, teacher)
    for row in table:
        kl += [math.exp(t) * (t - s) for t, s in zip(row.teacher, row.student, strict=True)]
        first = row.student.index(max(row.student))
        agree += first == row.teacher.index(max(row.teacher))
        confidence = math.exp(row.student[first])
        part = bins[min(int(confidence * num_bins), num_bins - 1)]
        part[0] += 1
        part[1] += confidence
        part[2] += first == row.target
    gaps = [abs(right / n - total / n) * n / len(table) for n, total, right in bins if n]
    assert found["teacher_kl"] == pytest.approx(math.fsum(kl) / len(table), rel=1e-5)
    assert found["top1_agreement"] == agree / len(table)
    assert found["ece"] == pytest.approx(sum(gaps), rel=1e-5)
    own = [-row.teacher[row.target] for row in table]
    assert found["teacher_loss"] == pytest.approx(math.fsum(own) / len(own), rel=1e-5)
    assert student.training


def test_a_teacher_compared_with_itself(shared: Shared):
    reference, val = shared.reference(), shared.token_set.windows("val")
    assert reference is not None
    model = shared.load_teacher(shared.run.teacher).model
    found = compare(model, reference, val, 10, ALONE)
    assert abs(found["teacher_kl"]) < 1e-6 and found["top1_agreement"] == 1.0
    own = held_out_loss(model, val, 1300, ALONE)
    assert found["teacher_loss"] == pytest.approx(own["loss"], rel=1e-6)


def test_perfect_and_worthless_confidence(shared: Shared):
    """A model that is sure and wrong errs by 1; one that is uniform errs by its distance to 1/V."""
    model = shared.run.student.init(32, 64, seed=0)
    val, reference = shared.token_set.windows("val"), shared.reference()
    assert reference is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    right = np.mean(val.ids(np.arange(20))[:, 1:] == 0)  # equal logits: the first token is on top
    found = compare(model, reference, val, 10, ALONE)
    assert found["ece"] == pytest.approx(abs(right - 1 / 32), abs=1e-6)
    assert held_out_loss(model, val, 9999, ALONE)["loss"] == pytest.approx(math.log(32))


def test_the_teachers_pass_is_kept(shared: Shared, monkeypatch: pytest.MonkeyPatch):
    first = shared.reference()
    assert first is not None

    def never(*_: Any) -> None:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(Shared, "load_teacher", never)
    again = shared.reference()
    assert again is not None and again.manifest == first.manifest
    longer = replace(shared.run.eval, num_tokens_teacher=1920)
    with pytest.raises(AssertionError, match="asked again"):
        replace(shared, run=replace(shared.run, eval=longer)).reference()


def test_windows_are_the_first_whole_ones(shared: Shared):
    val = shared.token_set.windows("val")
    assert [val.num_windows_in(n) for n in (1, 64, 127, 128, 10**9)] == [1, 1, 1, 2, 32]


def test_every_run_is_measured_alike(tiny: Tiny):
    """Plain and distilled runs report the same names, and nothing that depends on the loss."""
    keys = []
    for loss in ("none", "forward_kl"):
        result = execute(
            *taught(*tiny(f"loss={loss}", "train.num_tokens=2048", *SETTINGS)), quiet=True
        )
        keys.append({k for k in result["metrics"] if not k.startswith("train/")})
        assert all(math.isfinite(v) for v in result["metrics"].values())
    assert (
        keys[0]
        == keys[1]
        > {
            "val/loss",
            "val/bits_per_byte",
            "test/loss",
            "test/bits_per_byte",
            "val/teacher_kl",
            "val/top1_agreement",
            "val/ece",
            "val/teacher_loss",
        }
    )


def test_no_evaluation_without_a_teacher(tiny: Tiny):
    for settings in (["teacher=none"], ["eval.num_tokens_teacher=0"]):
        run, env = tiny("loss=none", "train.num_tokens=2048", *settings)
        result = execute(run, env, quiet=True)
        assert "val/loss" in result["metrics"] and "val/teacher_kl" not in result["metrics"]


def test_a_well_trained_student_comes_near_the_exact_loss_and_not_below(tiny: Tiny):
    run, env = tiny(
        "loss=none",
        "teacher=none",
        "data.vocab_size=8",
        "data.order=1",
        "data.concentration=0.3",
        "data.num_tokens_student=131072",
        "data.num_tokens_val=32768",
        "eval.num_tokens=32768",
        "train.num_tokens=131072",
        "optim.peak_lr=0.01",
    )
    loss = execute(run, env, quiet=True)["metrics"]["val/loss"]
    data = run.data
    assert isinstance(data, Synthetic)
    ids = Shared.of(run, env).token_set.windows("val").ids(np.arange(512))
    nats = -np.log(data.transitions()[ids[:, :-1], ids[:, 1:]])
    # The source's own loss on these very tokens lies near its exact one ...
    assert nats.mean() == pytest.approx(
        data.window_loss(), abs=4 * nats.std() / math.sqrt(nats.size)
    )
    # ... and no model beats it by more than chance (the gap's own noise is far smaller).
    assert -0.001 < loss - nats.mean() < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 0}, "eval.num_tokens=0: must be at least 1."),
        ({"num_tokens_teacher": -1}, "eval.num_tokens_teacher=-1: must be >= 0."),
        ({"num_calibration_bins": 0}, "eval.num_calibration_bins=0: must be at least 1."),
    ],
)
def test_values_out_of_range(changes: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        component("eval", "default", **changes)
