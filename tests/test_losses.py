"""Laws that every loss of conf/loss keeps, and a float64 reference for each."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from numerics import SIGNALS, VOCAB, Word, component, logits, spell, values, word
from torch import Tensor

from pdx.models import Head
from pdx.reduce import backward

LOSSES = {name: component("loss", name) for name in values("loss")}
TAUGHT = sorted(name for name, loss in LOSSES.items() if loss.needs_teacher)
DIVERGENCES = sorted(name for name in TAUGHT if LOSSES[name].is_divergence)

# A loss at one position from log-probabilities and logits in plain Python floats.
ORACLES: dict[str, Callable[[Word], float]] = {
    "forward_kl": lambda w: sum(
        math.exp(p) * (p - q) for p, q in zip(w.teacher, w.student, strict=True)
    ),
    "soft_ce": lambda w: -sum(math.exp(p) * q for p, q in zip(w.teacher, w.student, strict=True)),
    "mse": lambda w: _variance(
        [t - s for t, s in zip(w.teacher_logits, w.student_logits, strict=True)]
    ),
}


def _variance(gaps: list[float]) -> float:
    mean = sum(gaps) / len(gaps)
    return sum((gap - mean) ** 2 for gap in gaps) / len(gaps)


def allowed(name: str, signal: Any) -> bool:
    """Whether a run may pair them (pdx.config refuses the rest)."""
    return signal.closed or not LOSSES[name].needs_closed_signal


PAIRS = [(n, s) for n in TAUGHT for s in SIGNALS if allowed(n, SIGNALS[s])]
CLOSED = [(n, s) for n in DIVERGENCES for s in SIGNALS if SIGNALS[s].closed]


def oracle(name: str) -> Callable[[Word], float]:
    if name not in ORACLES:
        pytest.fail(f"add a float64 reference for {name} to ORACLES (tests/test_losses.py)")
    return ORACLES[name]


def test_there_is_something_to_test():
    assert TAUGHT and DIVERGENCES and CLOSED and len(LOSSES) > len(TAUGHT)


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_loss_is_its_oracle(name: str, of: str):
    teacher_NV, student_NV, signal = logits(0), logits(1), SIGNALS[of]
    wanted = [
        oracle(name)(spell(signal, t, s))
        for t, s in zip(teacher_NV.tolist(), student_NV.tolist(), strict=True)
    ]
    found = LOSSES[name](student_NV, word(signal, teacher_NV))
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_gradient_is_the_oracles(name: str, of: str):
    """Value and gradient of the whole reduction, T^2 included, against finite differences."""
    signal, num, step = SIGNALS[of], 3, 1e-5
    teacher_NV = logits(2, num)
    student_NV = logits(3, num).double()
    scale = signal.temperature**2 if signal.temper_student else 1.0

    def value(student: Tensor) -> float:
        rows = zip(teacher_NV.tolist(), student.tolist(), strict=True)
        return sum(scale * oracle(name)(spell(signal, t, s)) for t, s in rows)

    hidden_1ND = student_NV[None].clone().requires_grad_()
    sums = backward(
        hidden_1ND,
        Head(torch.eye(VOCAB, dtype=torch.float64)),
        torch.zeros(1, num, dtype=torch.int64),
        torch.ones(1, num, dtype=torch.bool),
        word(signal, teacher_NV.double()),
        LOSSES[name],
        1.0,
        1,
    )
    assert float(sums.kd) == pytest.approx(value(student_NV), rel=1e-5)
    assert hidden_1ND.grad is not None
    for n in range(num):
        for v in range(VOCAB):
            up, down = student_NV.clone(), student_NV.clone()
            up[n, v] += step
            down[n, v] -= step
            slope = (value(up) - value(down)) / (2 * step)
            assert float(hidden_1ND.grad[0, n, v]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", ["full-t2_both", "topk-bucket-t2_both", "topp-bucket-t1"])
def test_low_precision_is_upcast_first(name: str, dtype: torch.dtype, of: str):
    student_NV, teacher_NV = logits(4).to(dtype), logits(5).to(dtype)
    found = LOSSES[name](student_NV, word(SIGNALS[of], teacher_NV))
    assert found.dtype == torch.float32 and found.shape == (len(student_NV),)
    wanted = LOSSES[name](student_NV.float(), word(SIGNALS[of], teacher_NV.float()))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("name", "of"), CLOSED)
def test_divergence_is_zero_where_they_agree_and_nowhere_else(name: str, of: str):
    teacher_NV, signal = logits(6), SIGNALS[of]
    same_NV = teacher_NV if signal.temper_student else teacher_NV / signal.temperature
    at_NV = LOSSES[name](same_NV, word(signal, teacher_NV))
    torch.testing.assert_close(at_NV, torch.zeros(len(at_NV)), rtol=0, atol=2e-6)
    for seed in range(5):
        for size in (1.0, 3.0):
            away_N = LOSSES[name](same_NV + size * logits(seed), word(signal, teacher_NV))
            assert (away_N > -1e-6).all() and away_N.mean() > 1e-2


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_constant_added_to_logits_changes_nothing(name: str, of: str):
    student_NV, teacher_NV = logits(7), logits(8)
    student_N1, teacher_N1 = logits(9, vocab=1, scale=10), logits(10, vocab=1, scale=10)
    plain = LOSSES[name](student_NV, word(SIGNALS[of], teacher_NV))
    moved = LOSSES[name](student_NV + student_N1, word(SIGNALS[of], teacher_NV + teacher_N1))
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("heat", [(1.0, False), (2.0, False), (2.0, True)])
@pytest.mark.parametrize("top_p", [None, 0.6, 0.95])
def test_merging_tokens_never_adds_to_a_divergence(
    name: str, heat: tuple[float, bool], top_p: float | None
):
    """Data processing: a coarser view of both sides cannot tell them apart better."""
    common = {"tail": "bucket", "temperature": heat[0], "temper_student": heat[1]}
    teacher_NV, student_NV = logits(11, 50), logits(12, 50)
    full = component("signal", "full", temperature=heat[0], temper_student=heat[1])
    dense_N = LOSSES[name](student_NV, word(full, teacher_NV))
    last_N = torch.zeros_like(dense_N)
    for top_k in range(1, VOCAB + 1):
        if top_p is None:
            signal = component("signal", "topk", top_k=top_k, **common)
        else:
            signal = component("signal", "topp_topk", top_p=top_p, top_k=top_k, **common)
        sparse_N = LOSSES[name](student_NV, word(signal, teacher_NV))
        assert (sparse_N >= last_N - 1e-5).all(), "a finer view said less"
        assert (sparse_N <= dense_N + 1e-5).all()
        last_N = sparse_N
    if top_p is None:
        torch.testing.assert_close(last_N, dense_N, rtol=1e-5, atol=1e-6)  # nothing was merged
    else:
        assert (last_N < dense_N - 1e-3).any()


@pytest.mark.parametrize(("name", "of"), PAIRS)
@pytest.mark.parametrize("sharp", ["teacher", "student", "both"])
def test_extremely_sharp_distributions_stay_finite(name: str, of: str, sharp: str):
    """Gaps of thousands of nats: a confident teacher must not end a run."""
    teacher_NV, student_NV = logits(13), logits(14)
    if sharp != "student":
        teacher_NV = teacher_NV * 2000
    if sharp != "teacher":
        student_NV = student_NV * 2000
    student_NV.requires_grad_()
    loss_N = LOSSES[name](student_NV, word(SIGNALS[of], teacher_NV))
    loss_N.sum().backward()
    assert student_NV.grad is not None
    assert loss_N.isfinite().all() and student_NV.grad.isfinite().all()


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("top_p", [0.9, 1 - 1e-6, 1.0])
def test_whole_vocabulary_kept_at_some_positions_only(name: str, top_p: float):
    """With K = V and a top_p, some rows have a tail and others none: no NaN from these."""
    signal = replace(SIGNALS["topp-bucket-t1"], top_k=VOCAB, top_p=top_p)
    teacher_NV, student_NV = logits(15, scale=1.0), logits(16).requires_grad_()
    teacher_NV[0] = torch.linspace(0, -60, VOCAB)  # top_p is reached long before the last token
    loss_N = LOSSES[name](student_NV, word(signal, teacher_NV))
    loss_N.sum().backward()
    rows = zip(teacher_NV.tolist(), student_NV.tolist(), strict=True)
    wanted = torch.tensor([oracle(name)(spell(signal, t, s)) for t, s in rows])
    # Where top_p is 1 or nearly, float32 may drop a token of mass 1e-7 more or less.
    torch.testing.assert_close(loss_N.detach(), wanted, rtol=1e-4, atol=1e-4)
    assert student_NV.grad is not None and student_NV.grad.isfinite().all()


# ---- laws of the reduction, for every loss ---------------------------------------------------


def gradients(
    name: str,
    of: str,
    parts: list[slice],
    mask_BL: Tensor,
    chunk: int | None = None,
    kd_weight: float = 0.7,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of hidden states and head, and both sums, of a batch cut into ``parts``."""
    generator = torch.Generator().manual_seed(17)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden_BLD, weight_VD, teacher_BLV = rand(4, 5, 3), rand(VOCAB, 3), 2 * rand(4, 5, VOCAB)
    targets_BL = torch.randint(VOCAB, (4, 5), generator=generator)
    hidden_BLD.requires_grad_()
    weight_VD.requires_grad_()
    needs_teacher = LOSSES[name].needs_teacher
    ce, kd = torch.zeros(()), torch.zeros(())
    for part in parts:
        signal = word(SIGNALS[of], teacher_BLV[part].reshape(-1, VOCAB)) if needs_teacher else None
        sums = backward(
            hidden_BLD[part],
            Head(weight_VD),
            targets_BL[part],
            mask_BL[part],
            signal,
            LOSSES[name],
            kd_weight if needs_teacher else 0.0,
            int(mask_BL.sum()),
            chunk,
        )
        ce, kd = ce + sums.ce, kd + sums.kd
    assert hidden_BLD.grad is not None and weight_VD.grad is not None
    return hidden_BLD.grad, weight_VD.grad, ce, kd


MASK = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).bool()
WHOLE = [slice(0, 4)]
SOME = ["full-t2_both", "topk-bucket-t2_both", "topp-renormalize-t2"]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("of", SOME)
def test_masked_tokens_get_exactly_no_gradient(name: str, of: str):
    if LOSSES[name].needs_teacher and not allowed(name, SIGNALS[of]):
        return
    grad_BLD, *_ = gradients(name, of, WHOLE, MASK)
    assert (grad_BLD[~MASK] == 0).all()
    assert (grad_BLD[MASK].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("of", SOME)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_and_chunks_sum_to_the_batch(name: str, of: str, chunk: int, size: int):
    if LOSSES[name].needs_teacher and not allowed(name, SIGNALS[of]):
        return
    whole = gradients(name, of, WHOLE, MASK)
    cut = gradients(name, of, [slice(i, i + size) for i in range(0, 4, size)], MASK, chunk)
    for found, wanted in zip(cut[:2], whole[:2], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)
    for found, wanted in zip(cut[2:], whole[2:], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_declares_what_it_is(name: str):
    loss = LOSSES[name]
    assert isinstance(loss.version, int) and loss.version >= 1
    assert all(
        isinstance(getattr(loss, k), bool)
        for k in ("needs_teacher", "needs_closed_signal", "needs_logits", "is_divergence")
    )
    assert loss.needs_teacher or not (loss.is_divergence or loss.needs_closed_signal)


def test_no_distillation_is_never_asked():
    with pytest.raises(AssertionError, match="reads no teacher"):
        LOSSES["none"](logits(0), word(SIGNALS["full-t1"], logits(1)))
