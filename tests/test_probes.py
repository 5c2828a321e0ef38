"""eval=full against plain loops in float64, and on models whose answers are known."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from measured import SETTINGS, Masked, rows, small_pieces, student
from numerics import taught

from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.evaluate import Reference, compare
from pdx.execute import execute
from pdx.probes import Copies, by_entropy, pass_at, probe
from pdx.ranks import Ranks
from pdx.shared import Shared

__all__ = ["small_pieces", "student"]

Tiny = Callable[..., tuple[Run, Env]]
ALONE = Ranks.alone(torch.device("cpu"))


@pytest.fixture(scope="module")
def shared(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    outputs = tmp_path_factory.mktemp("probes")
    return Shared.of(*taught(*tiny_at(outputs, "eval=full", "eval.pass_at=[1,3]", *SETTINGS)))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("num_bins", [1, 3])
def test_by_entropy_is_its_oracle(
    shared: Shared, student: Any, tmp_path: Any, mask: bool, num_bins: int
):
    val = shared.token_set.windows("val")
    windows: Any = Masked(val) if mask else val
    frozen = shared.load_teacher(shared.run.teacher)
    Reference.build(tmp_path / "reference", frozen, windows, 1300)
    reference = Reference(tmp_path / "reference")
    found = by_entropy(student, reference, windows, num_bins, 5, ALONE)
    table = []
    for row in rows(windows, 20, student, frozen.model):
        entropy = -math.fsum(math.exp(t) * t for t in row.teacher)
        kl = math.fsum(math.exp(t) * (t - s) for t, s in zip(row.teacher, row.student, strict=True))
        table.append((entropy, -row.student[row.target], kl))
    table.sort()
    # Equal counts, to one at each edge: an interpolated quantile parts two neighbours.
    edges = np.quantile([e for e, _, _ in table], np.arange(1, num_bins) / num_bins)
    for i in range(num_bins):
        low, high = [-1.0, *edges][i], [*edges, math.inf][i]
        part = np.array([row for row in table if low < row[0] <= high])
        assert abs(len(part) - len(table) / num_bins) <= 1
        for k, name in enumerate(("entropy", "loss_entropy", "teacher_kl_entropy")):
            assert found[f"{name}_{i + 1}"] == pytest.approx(part[:, k].mean(), rel=2e-3)
    if num_bins > 1:
        assert found["entropy_1"] < found["entropy_2"] < found["entropy_3"]
    assert student.training


def test_the_reliability_curve_holds_the_calibration_error(shared: Shared, student: Any):
    reference, val = shared.reference(), shared.token_set.windows("val")
    assert reference is not None
    found = by_entropy(student, reference, val, 2, 5, ALONE)
    shares = {k[-2:]: v for k, v in found.items() if k.startswith("reliability_share")}
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    gaps = [
        share * abs(found[f"reliability_accuracy_{i}"] - found[f"reliability_confidence_{i}"])
        for i, share in shares.items()
    ]
    ece = compare(student, reference, val, 5, ALONE)["ece"]
    assert math.fsum(gaps) == pytest.approx(ece, rel=1e-6)
    for i in shares:
        edge = (int(i) - 1) / 5
        assert edge <= found[f"reliability_confidence_{i}"] <= edge + 0.2


@pytest.mark.parametrize("seq_len", [7, 8])
def test_copies_are_said_twice(seq_len: int):
    copies = Copies(200, seq_len, 5, seed=3)
    batch = copies.batch(np.arange(200))
    ids = torch.cat([batch.tokens_BL, batch.targets_BL[:, -1:]], 1)
    assert ids.shape == (200, seq_len + 1) and {*ids.unique().tolist()} == {*range(5)}
    span = copies.span
    assert torch.equal(ids[:, span:], ids[:, : seq_len + 1 - span]) and span == 4
    assert torch.equal(ids, torch.from_numpy(Copies(200, seq_len, 5, seed=3).ids))
    assert not torch.equal(ids, torch.from_numpy(Copies(200, seq_len, 5, seed=4).ids))


def test_one_who_copies_and_one_who_does_not():
    """Targets of the second time said at once, all others and the first of it at 1 / V."""
    copies = Copies(4, 64, 32, seed=0)
    nats_BL = torch.full((4, 64), math.log(32))
    right_BL, mask_BL = torch.zeros(4, 64, dtype=torch.bool), torch.ones(4, 64, dtype=torch.bool)
    plain = copies.measures(nats_BL, right_BL, mask_BL)
    assert plain["copy_loss"] == pytest.approx(plain["fresh_loss"]) == pytest.approx(math.log(32))
    nats_BL[:, copies.span :], right_BL[:, copies.span :] = 0.0, True
    found = copies.measures(nats_BL, right_BL, mask_BL)
    assert found["copy_loss"] == 0 and found["copy_accuracy"] == 1
    assert found["fresh_loss"] == pytest.approx(math.log(32))


def test_a_probe_is_its_oracle(shared: Shared, student: Any):
    windows: Any = Masked(shared.token_set.windows("val"))
    nats_BL, right_BL, mask_BL = probe(student, windows, 8, ALONE)
    table = rows(windows, 8, student, student)
    nats = [-row.student[row.target] for row in table]
    assert nats_BL[mask_BL].tolist() == pytest.approx(nats, rel=1e-5)
    right = [row.student.index(max(row.student)) == row.target for row in table]
    assert right_BL[mask_BL].tolist() == right
    assert int(mask_BL.sum()) == len(table) and student.training


def test_pass_at_k_is_what_draws_would_give():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 1.0], [1.0, 1e-9], [1.0, 1.0]])
    mask = torch.tensor([[True, True]] * 4 + [[True, False]])
    found = pass_at(-p.double().log(), mask, 2, [1, 2, 16])
    each = [0.25, 0.09, 1.0, 1e-9]
    for k in (1, 2, 16):
        wanted = sum(1 - (1 - q) ** k for q in each) / 4
        assert found[f"pass_at_{k}"] == pytest.approx(wanted, rel=1e-6)
    draws = np.random.default_rng(0).random((4, 16, 20000)) < np.array(each)[:, None, None]
    assert found["pass_at_16"] == pytest.approx(draws.any(1).mean(), abs=0.01)
    last = pass_at(-p.double().log(), mask, 1, [1])["pass_at_1"]
    assert last == pytest.approx((0.5 + 0.1 + 1 + 1e-9) / 4), "the last tokens are the answer"
    assert pass_at(-p.double().log(), ~mask, 2, [1]) == {}


def test_a_run_has_them_in_its_table(tiny: Tiny):
    settings = ["eval=full", "train.num_tokens=2048", "eval.num_entropy_bins=2", *SETTINGS]
    result = execute(*taught(*tiny(*settings)), quiet=True)
    found = result["metrics"]
    asked = ["val/loss_entropy_1", "val/teacher_kl_entropy_2", "val/entropy_2", "probe/copy_loss"]
    asked += ["probe/copy_accuracy", "probe/fresh_loss", "probe/copy_pass_at_16"]
    asked += ["probe/text_pass_at_1", "val/loss", "val/ece"]
    assert {*asked} <= {*found} and all(math.isfinite(v) for v in found.values())
    assert any(name.startswith("val/reliability_accuracy") for name in found)
    run, env = tiny(*settings, "teacher@eval_teacher=none", "loss=none")
    alone = execute(run, env, quiet=True)["metrics"]
    assert "probe/copy_loss" in alone and not any("entropy" in name for name in alone)


def test_the_default_evaluation_is_what_it_was(tiny: Tiny):
    """Its runs keep their names and their numbers; the other has more of them."""
    plain, full = tiny()[0], tiny("eval=full")[0]
    assert plain.run_id != full.run_id and plain.eval.more(None, None, None, ALONE) == {}
    assert "num_entropy_bins" not in plain.identity["eval"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.answer_tokens=32", "eval.answer_tokens=32: must be less than half of"),
        ("eval.answer_tokens=0", "eval.answer_tokens=0: must be at least 1"),
        ("eval.num_entropy_bins=0", "eval.num_entropy_bins=0: must be at least 1"),
        ("eval.num_probe_windows=-1", "eval.num_probe_windows=-1: must be >= 0"),
        ("eval.pass_at=[1,1]", "eval.pass_at=.*: must be whole numbers from 1"),
        ("eval.pass_at=[0]", "eval.pass_at=.*: must be whole numbers from 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny: Tiny, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        tiny("eval=full", override)


def test_no_probes_are_asked_for(shared: Shared, student: Any):
    without = replace(shared.run.eval, num_probe_windows=0)
    found = without.more(student, SimpleNamespace(token_set=shared.token_set), None, ALONE)
    assert found and all(name.startswith("val/") and "_domain_" in name for name in found)
