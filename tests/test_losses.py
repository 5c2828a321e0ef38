"""Laws that every loss of conf/loss keeps, and a float64 reference for each."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import (
    SIGNALS,
    TAIL_MASS,
    VOCAB,
    Said,
    Word,
    component,
    labels,
    logits,
    spell,
    values,
    word,
)
from torch import Tensor

from pdx.build import DECLARED
from pdx.errors import ConfigError
from pdx.models import Head
from pdx.reduce import backward
from pdx.signal import Silent

LOSSES = {name: component("loss", name) for name in values("loss")}
TAUGHT = sorted(name for name, loss in LOSSES.items() if loss.needs_teacher)
DIVERGENCES = sorted(name for name in TAUGHT if LOSSES[name].is_divergence)

# A loss at one position from log-probabilities and logits in plain Python floats.
ORACLES: dict[str, Callable[[Word], float]] = {
    "forward_kl": lambda w: _kl(w.teacher, w.student),
    "reverse_kl": lambda w: _kl(w.student, w.teacher),
    "jsd": lambda w: 0.5 * _kl(w.teacher, _mix(w, 0.5)) + 0.5 * _kl(w.student, _mix(w, 0.5)),
    "skewed_forward_kl": lambda w: _kl(w.teacher, _mix(w, 0.1)),
    "skewed_reverse_kl": lambda w: _kl(w.student, _mix(w, 0.9)),
    "total_variation": lambda w: 0.5 * sum(abs(p - q) for p, q in _probs(w)),
    "soft_ce": lambda w: -sum(math.exp(p) * q for p, q in zip(w.teacher, w.student, strict=True)),
    "mse": lambda w: _variance(_gaps(w)),
    "mse_probs": lambda w: sum((p - q) ** 2 for p, q in _probs(w)),
    "mse_logits": lambda w: sum(g * g for g in _gaps(w)) / len(_gaps(w)),
    "tail_aware": lambda w: _tail_aware(w, 10, 2.0 / TAIL_MASS),
    "masked_mse": lambda w: (
        _variance(_gaps(w))
        + (math.exp(max(w.teacher)) >= 0.5) * sum(g * g for g in _gaps(w)) / len(_gaps(w))
    ),
}


def _kl(p: list[float], q: list[float]) -> float:
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def _probs(w: Word) -> list[tuple[float, float]]:
    return [(math.exp(p), math.exp(q)) for p, q in zip(w.teacher, w.student, strict=True)]


def _mix(w: Word, weight: float) -> list[float]:
    return [math.log(weight * p + (1 - weight) * q) for p, q in _probs(w)]


def _gaps(w: Word) -> list[float]:
    return [t - s for t, s in zip(w.teacher_logits, w.student_logits, strict=True)]


def _variance(gaps: list[float]) -> float:
    mean = sum(gaps) / len(gaps)
    return sum((gap - mean) ** 2 for gap in gaps) / len(gaps)


def _tail_aware(w: Word, top_k: int, weight: float) -> float:
    """The kept tokens and the rest as one, then the rest by itself: its own definition."""
    (mass_t, mass_s) = (sum(x[i] for x in _probs(w)[top_k:]) for i in (0, 1))
    first = _kl([*w.teacher[:top_k], math.log(mass_t)], [*w.student[:top_k], math.log(mass_s)])
    inside_t = [p - math.log(mass_t) for p in w.teacher[top_k:]]
    return first + weight * mass_t * _kl(
        inside_t, [q - math.log(mass_s) for q in w.student[top_k:]]
    )


def allowed(name: str, signal: Any) -> bool:
    """Whether a run may pair them (pdx.config refuses the rest)."""
    loss = LOSSES[name]
    return (signal.closed or not loss.needs_closed_signal) and (
        signal.is_full or not loss.needs_full_signal
    )


LABELS = labels(99).tolist()
PARTIAL = [name for name in TAUGHT if not LOSSES[name].needs_full_signal]
PAIRS = [(n, s) for n in TAUGHT for s in SIGNALS if allowed(n, SIGNALS[s])]
FAITHFUL = [(n, s) for n, s in PAIRS if n in DIVERGENCES and SIGNALS[s].faithful]
SHIFTED = [(n, s) for n, s in PAIRS if LOSSES[n].is_shift_invariant]


def oracle(name: str) -> Callable[[Word], float]:
    if name not in ORACLES:
        pytest.fail(f"add a float64 reference for {name} to ORACLES (tests/test_losses.py)")
    return ORACLES[name]


def test_there_is_something_to_test():
    assert TAUGHT and DIVERGENCES and FAITHFUL and len(LOSSES) > len(TAUGHT)


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_loss_is_its_oracle(name: str, of: str):
    teacher_NV, student_NV, signal = logits(0), logits(1), SIGNALS[of]
    rows = zip(teacher_NV.tolist(), student_NV.tolist(), LABELS, strict=False)
    wanted = [oracle(name)(spell(signal, t, s, y)) for t, s, y in rows]
    found = LOSSES[name](student_NV, word(signal, teacher_NV))
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_gradient_is_the_oracles(name: str, of: str):
    """Value and gradient of the whole reduction, T^2 included, against finite differences."""
    signal, num, step = SIGNALS[of], 3, 1e-5
    teacher_NV = logits(2, num)
    student_NV = logits(3, num).double()

    def value(student: Tensor) -> float:
        rows = zip(teacher_NV.tolist(), student.tolist(), LABELS, student_NV.tolist(), strict=False)
        words = [spell(signal, t, s, y, own) for t, s, y, own in rows]
        return sum(w.scale * oracle(name)(w) for w in words)

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


LOW = [p for p in PAIRS if p[1] in ("full-t2_both", "topk-bucket-t2_both", "topp-bucket-t1")]


@pytest.mark.parametrize(("name", "of"), LOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_upcast_first(name: str, dtype: torch.dtype, of: str):
    student_NV, teacher_NV = logits(4).to(dtype), logits(5).to(dtype)
    found = LOSSES[name](student_NV, word(SIGNALS[of], teacher_NV))
    assert found.dtype == torch.float32 and found.shape == (len(student_NV),)
    wanted = LOSSES[name](student_NV.float(), word(SIGNALS[of], teacher_NV.float()))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("name", "of"), FAITHFUL)
def test_divergence_is_zero_where_they_agree_and_nowhere_else(name: str, of: str):
    """The student that agrees is the teacher, tempered where the student itself is not."""
    teacher_NV, signal = logits(6), SIGNALS[of]
    rows = [spell(signal, t, t, 0) for t in teacher_NV.tolist()]
    ratio_N = [t[0] / s[0] for t, s in ((w.teacher_logits, w.student_logits) for w in rows)]
    same_NV = teacher_NV * torch.tensor(ratio_N)[:, None]
    at_NV = LOSSES[name](same_NV, word(signal, teacher_NV))
    torch.testing.assert_close(at_NV, torch.zeros(len(at_NV)), rtol=0, atol=2e-6)
    for seed in range(5):
        for size in (1.0, 3.0):
            away_N = LOSSES[name](same_NV + size * logits(seed), word(signal, teacher_NV))
            assert (away_N > -1e-6).all() and away_N.mean() > 1e-2


@pytest.mark.parametrize(("name", "of"), SHIFTED)
def test_constant_added_to_logits_changes_nothing(name: str, of: str):
    student_NV, teacher_NV = logits(7), logits(8)
    student_N1, teacher_N1 = logits(9, vocab=1, scale=10), logits(10, vocab=1, scale=10)
    plain = LOSSES[name](student_NV, word(SIGNALS[of], teacher_NV))
    moved = LOSSES[name](student_NV + student_N1, word(SIGNALS[of], teacher_NV + teacher_N1))
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted({*DIVERGENCES} & {*PARTIAL}))
@pytest.mark.parametrize("heat", [(1.0, False), (2.0, False), (2.0, True)])
@pytest.mark.parametrize("top_p", [None, 0.6, 0.95])
def test_merging_tokens_never_adds_to_a_divergence(
    name: str, heat: tuple[float, bool], top_p: float | None
):
    """Data processing: a coarser view of both sides cannot tell them apart better."""
    warm = component("temperature", "constant", value=heat[0], temper_student=heat[1])
    teacher_NV, student_NV = logits(11, 50), logits(12, 50)
    full = component("signal", "full")
    dense_N = LOSSES[name](student_NV, word(Said(full, warm), teacher_NV))
    last_N = torch.zeros_like(dense_N)
    for top_k in range(1, VOCAB + 1):
        if top_p is None:
            signal = component("signal", "topk", top_k=top_k, tail="bucket")
        else:
            signal = component("signal", "topp_topk", top_p=top_p, top_k=top_k, tail="bucket")
        sparse_N = LOSSES[name](student_NV, word(Said(signal, warm), teacher_NV))
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


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize("top_p", [0.9, 1 - 1e-6, 1.0])
def test_whole_vocabulary_kept_at_some_positions_only(name: str, top_p: float):
    """With K = V and a top_p, some rows have a tail and others none: no NaN from these."""
    signal = SIGNALS["topp-bucket-t1"].but(top_k=VOCAB, top_p=top_p)
    teacher_NV, student_NV = logits(15, scale=1.0), logits(16).requires_grad_()
    teacher_NV[0] = torch.linspace(0, -60, VOCAB)  # top_p is reached long before the last token
    loss_N = LOSSES[name](student_NV, word(signal, teacher_NV))
    loss_N.sum().backward()
    rows = zip(teacher_NV.tolist(), student_NV.tolist(), LABELS, strict=False)
    wanted = torch.tensor([oracle(name)(spell(signal, t, s, y)) for t, s, y in rows])
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
    assert all(isinstance(getattr(loss, k), bool) for k in DECLARED["loss"])
    assert loss.needs_teacher or not (loss.is_divergence or loss.needs_closed_signal)
    assert loss.needs_teacher or 0 <= loss.own_weight < 1


@pytest.mark.parametrize("smoothing", [0.02, 0.1, 0.9])
@pytest.mark.parametrize("chunk", [2, 100])
def test_label_smoothing_is_torchs_own(smoothing: float, chunk: int):
    """Value and gradient of the whole reduction, masked, against cross_entropy."""
    loss = component("loss", "label_smoothing", smoothing=smoothing)
    hidden_BLD = logits(60, 20).double().view(4, 5, VOCAB)
    ours, theirs = hidden_BLD.clone().requires_grad_(), hidden_BLD.clone().requires_grad_()
    targets_BL, num_valid = labels(20).view(4, 5), int(MASK.sum())
    head = Head(torch.eye(VOCAB, dtype=torch.float64))
    sums = backward(ours, head, targets_BL, MASK, Silent(), loss, loss.own_weight, num_valid, chunk)
    wanted = torch.nn.functional.cross_entropy(
        theirs[MASK], targets_BL[MASK], label_smoothing=smoothing
    )
    wanted.backward()
    assert float(sums.loss) / num_valid == pytest.approx(wanted.item(), rel=1e-12)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("heat", [0.5, 1.0, 2.0])
def test_top1_with_soft_ce_is_training_on_the_argmax(heat: float):
    said = Said(component("signal", "top1"), component("temperature", "constant", value=heat))
    teacher_NV, student_NV = logits(61), logits(62)
    found = LOSSES["soft_ce"](student_NV, word(said, teacher_NV))
    wanted = torch.nn.functional.cross_entropy(student_NV, teacher_NV.argmax(-1), reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_no_distillation_is_never_asked():
    with pytest.raises(AssertionError, match="reads no teacher"):
        LOSSES["none"](logits(0), word(SIGNALS["full-t1"], logits(1)))


# ---- what one loss has that others have not --------------------------------------------------


def slope(loss: Any, of: str, teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """Gradient of a loss with respect to the student's logits, float64."""
    student_NV = student_NV.double().requires_grad_()
    loss(student_NV, word(SIGNALS[of], teacher_NV.double())).sum().backward()
    assert student_NV.grad is not None
    return student_NV.grad


@pytest.mark.parametrize("of", sorted(SIGNALS))
def test_soft_ce_and_forward_kl_have_the_same_gradient(of: str):
    """They differ by the teacher's entropy: what separates them in a paper is noise."""
    grads = [slope(LOSSES[n], of, logits(50), logits(51)) for n in ("soft_ce", "forward_kl")]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-14)
    assert float(grads[0].abs().max()) > 0.01


@pytest.mark.parametrize(("weight", "limit"), [(1e-5, "forward_kl"), (1 - 1e-5, "reverse_kl")])
def test_jsd_tends_to_either_kl(weight: float, limit: str):
    jsd = component("loss", "jsd", teacher_weight=weight)
    found = slope(jsd, "full-t1", logits(52), logits(53)) / (weight * (1 - weight))
    wanted = slope(LOSSES[limit], "full-t1", logits(52), logits(53))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)


def test_half_jsd_is_symmetric_and_bounded():
    teacher_NV, student_NV = 9 * logits(54, 50), 9 * logits(55, 50)
    one = LOSSES["jsd"](student_NV, word(SIGNALS["full-t1"], teacher_NV))
    other = LOSSES["jsd"](teacher_NV, word(SIGNALS["full-t1"], student_NV))
    torch.testing.assert_close(one, other)
    assert (one <= math.log(2) + 1e-6).all() and float(one.max()) > 0.6


@pytest.mark.parametrize("of", ["forward", "reverse"])
def test_a_little_skew_is_nearly_the_kl_and_any_is_bounded(of: str):
    name = f"skewed_{of}_kl"
    little = component("loss", name, skew=1e-7)
    args = (logits(56), word(SIGNALS["full-t1"], logits(57)))
    torch.testing.assert_close(little(*args), LOSSES[f"{of}_kl"](*args), rtol=1e-3, atol=1e-4)
    far = LOSSES[name](90 * logits(56), word(SIGNALS["full-t1"], 90 * logits(57)))
    assert (far <= -math.log(0.1) + 1e-6).all() and float(far.max()) > 2.3


def test_a_windows_tail_is_weighed_by_its_mean_mass():
    """Over the positions that count, each window by itself, in whatever chunks and batches."""
    heat = component("temperature", "constant", value=2.0, temper_student=True)
    teacher_NV, student_NV = logits(70, 20), logits(71, 20)
    teacher_NV[15:] = 40 * torch.eye(VOCAB)[:5]  # a window of which no tail is known
    rows = zip(teacher_NV.tolist(), student_NV.tolist(), strict=True)
    said = Said(component("signal", "full"), heat)
    words = [spell(said, t, s, 0) for t, s in rows]
    mass = [sum(sorted(math.exp(p) for p in w.teacher)[:-10]) for w in words]
    loss, signal = component("loss", "tail_aware"), word(said, teacher_NV)
    wanted = []
    for b in range(4):
        valid = [5 * b + i for i in range(5) if MASK[b, i]]
        mean = max(sum(mass[n] for n in valid) / len(valid), 1e-4)
        wanted += [_tail_aware(w, 10, 2.0 / mean) for w in words[5 * b : 5 * b + 5]]
    for chunk in (3, 100):
        found = loss(student_NV, signal.with_tail(10, MASK, chunk))
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    whole = signal.with_tail(10, MASK, 100).chunk(5, 10)
    alone = word(said, teacher_NV[5:10]).with_tail(10, MASK[1:2], 2)
    torch.testing.assert_close(whole.tail_N, alone.tail_N)
    torch.testing.assert_close(loss(student_NV[7:9], whole.chunk(2, 4)), found[7:9])


@pytest.mark.parametrize("top_k", [1, 4, 11, 500])
def test_tail_aware_with_weight_one_is_the_forward_kl(top_k: int):
    """The chain rule; a top_k of the whole vocabulary leaves one token in the tail."""
    plain = component("loss", "tail_aware", top_k=top_k, tail_weight=1.0, per_sequence=False)
    args = (logits(58), word(SIGNALS["full-t1"], logits(59)))
    torch.testing.assert_close(plain(*args), LOSSES["forward_kl"](*args), rtol=1e-5, atol=1e-6)


def test_masked_regression_sees_a_shift_where_the_teacher_is_sure_and_only_there():
    loss = component("loss", "masked_mse", confidence=0.6, variance_weight=0.25)
    teacher_NV = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    found = loss(teacher_NV + 2.0, word(SIGNALS["full-t1"], teacher_NV))
    torch.testing.assert_close(found, torch.tensor([4.0, 0.0]), rtol=1e-5, atol=1e-6)
    found = loss(teacher_NV + torch.tensor([4.0, 0.0]), word(SIGNALS["full-t1"], teacher_NV))
    torch.testing.assert_close(found, torch.tensor([8.0 + 1.0, 1.0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("jsd", {"teacher_weight": 1.0}, r"loss.teacher_weight=1.0: must lie strictly between 0"),
        ("jsd", {"teacher_weight": 0.0}, r"loss.teacher_weight=0.0: .* use loss=forward_kl or"),
        ("skewed_forward_kl", {"skew": 0.0}, r"loss.skew=0.0: .*; use loss=forward_kl for"),
        ("skewed_reverse_kl", {"skew": 1.0}, r"loss.skew=1.0: .*; use loss=reverse_kl for"),
        ("label_smoothing", {"smoothing": 0.0}, r"loss.smoothing=0.0: .*; use loss=none for none."),
        ("label_smoothing", {"smoothing": 1.0}, r"loss.smoothing=1.0: must lie strictly between"),
        ("tail_aware", {"top_k": 0}, r"loss.top_k=0: must be at least 1."),
        ("tail_aware", {"tail_weight": 0.0}, r"loss.tail_weight=0.0: must be > 0."),
        ("masked_mse", {"confidence": 1.0}, r"loss.confidence=1.0: must lie in \[0, 1\)."),
        ("masked_mse", {"variance_weight": -1.0}, r"loss.variance_weight=-1.0: must be >= 0."),
    ],
)
def test_values_out_of_range(name: str, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        component("loss", name, **changes)
