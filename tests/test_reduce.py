"""The one reduction: global token count, mask, mixture, and no [B, L, V] ever."""

import math
from typing import Any

import pytest
import torch
from numerics import SIGNALS, VOCAB, component, context, logits, values, word
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pdx.live import LiveSignal
from pdx.models import Head
from pdx.reduce import CHUNK_ELEMENTS, CHUNK_ELEMENTS_GPU, backward, chunk_size

FORWARD_KL = component("loss", "forward_kl")
FULL = component("signal", "full")
TARGETS = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
MASK = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]]).bool()


def reduce(
    hidden_BLD: Tensor,
    kd_weight: float,
    num_valid: int,
    mask_BL: Tensor = MASK,
    chunk: int | None = None,
    taught_BL: Tensor | None = None,
) -> tuple[float, float, Tensor]:
    """Both sums and the gradient where hidden states are the logits."""
    hidden_BLD = hidden_BLD.detach().clone().requires_grad_()
    signal = word(FULL, logits(0, 8).double()) if kd_weight else None
    head = Head(torch.eye(VOCAB, dtype=hidden_BLD.dtype))
    sums = backward(
        hidden_BLD,
        head,
        TARGETS,
        mask_BL,
        signal,
        FORWARD_KL,
        kd_weight,
        num_valid,
        chunk,
        taught_BL,
    )
    assert hidden_BLD.grad is not None
    return float(sums.ce), float(sums.kd), hidden_BLD.grad


def test_cross_entropy_is_the_sum_over_valid_tokens():
    hidden_BLD = logits(1, 8).double().view(2, 4, VOCAB)
    ce, kd, grad_BLD = reduce(hidden_BLD, 0.0, 10)
    wanted = 0.0
    for b in range(2):
        for i in range(4):
            row = hidden_BLD[b, i].tolist()
            exps = [math.exp(v) for v in row]
            for v in range(VOCAB):
                slope = exps[v] / sum(exps) - float(v == TARGETS[b, i])
                assert float(grad_BLD[b, i, v]) == pytest.approx(
                    slope * float(MASK[b, i]) / 10, abs=1e-12
                )
            wanted += float(MASK[b, i]) * (math.log(sum(exps)) - row[TARGETS[b, i]])
    assert ce == pytest.approx(wanted, rel=1e-6) and kd == 0.0


def test_gradient_is_the_mixture_of_both_terms():
    hidden_BLD = logits(2, 8).double().view(2, 4, VOCAB)
    _, _, plain = reduce(hidden_BLD, 0.0, 6)
    ce, kd, taught = reduce(hidden_BLD, 1.0, 6)
    assert ce > 0 and kd > 0
    # of KL(teacher || student) with respect to the student's logits: p_S - p_T, and nothing else
    teacher_BLV = logits(0, 8).double().view(2, 4, VOCAB).softmax(-1)
    wanted = (hidden_BLD.softmax(-1) - teacher_BLV) * MASK[..., None] / 6
    torch.testing.assert_close(taught, wanted)
    for weight in (0.25, 0.9):
        *sums, mixed = reduce(hidden_BLD, weight, 6)
        torch.testing.assert_close(mixed, weight * taught + (1 - weight) * plain)
        assert sums == pytest.approx([ce, kd])  # each term is reported as it is, unweighted


def test_gradient_is_divided_by_the_global_count():
    hidden_BLD = logits(3, 8).double().view(2, 4, VOCAB)
    ce, kd, once = reduce(hidden_BLD, 0.5, 1)
    again_ce, again_kd, shared = reduce(hidden_BLD, 0.5, 48)
    torch.testing.assert_close(48 * shared, once)
    assert (again_ce, again_kd) == (ce, kd)


@pytest.mark.parametrize("kd_weight", [0.0, 0.5])
def test_masked_positions_change_nothing_whatever_stands_there(kd_weight: float):
    hidden_BLD = logits(4, 8).double().view(2, 4, VOCAB)
    wild_BLD = hidden_BLD + 50 * ~MASK[..., None] * logits(5, 8).view(2, 4, VOCAB)
    ce, kd, grad = reduce(hidden_BLD, kd_weight, 6)
    wild_ce, wild_kd, wild_grad = reduce(wild_BLD, kd_weight, 6)
    assert (ce, kd) == (wild_ce, wild_kd) and torch.equal(grad, wild_grad)
    assert (grad[~MASK] == 0).all()


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_where_the_teacher_is_silent_cross_entropy_counts_in_full(chunk: int | None):
    """And what is taught weighs what it would if all were: the count is of all valid tokens."""
    hidden_BLD = logits(50, 8).double().view(2, 4, VOCAB)
    taught_BL = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]]).bool()  # also where the mask is not
    _, _, plain = reduce(hidden_BLD, 0.0, 6)
    _, kd, everywhere = reduce(hidden_BLD, 0.7, 6)
    _, some, found = reduce(hidden_BLD, 0.7, 6, chunk=chunk, taught_BL=taught_BL)
    wanted = torch.where(taught_BL[..., None], everywhere, plain)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert 0 < some < kd and (found[~MASK] == 0).all()


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gave."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("of", ["full-t2_both", "topk-bucket-t1", "topp-renormalize-t2_both"])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_logits_are_formed_in_chunks_only(of: str, chunk: int):
    """Nothing larger than a chunk of logits, of student and live teacher alike, but the inputs."""
    num, width = 64, 2
    weight_VD, teacher_VD = logits(6, VOCAB, width), logits(7, VOCAB, width)
    hidden_BLD = logits(8, num, width).view(2, -1, width).requires_grad_()
    signal = LiveSignal(
        hidden_ND=logits(9, num, width),
        head=Head(teacher_VD),
        signal=SIGNALS[of].signal,
        context=context(SIGNALS[of], num),
    )
    targets_BL, mask_BL = torch.zeros(2, num // 2, dtype=torch.int64), torch.ones(2, num // 2) > 0
    with Largest() as largest:
        head = Head(weight_VD.requires_grad_())
        backward(hidden_BLD, head, targets_BL, mask_BL, signal, FORWARD_KL, 0.5, num, chunk)
    assert largest.numel == max(chunk * VOCAB, num * width)


def test_chunks_are_bounded_in_elements():
    for device, most in (("cpu", CHUNK_ELEMENTS), ("cuda", CHUNK_ELEMENTS_GPU)):
        for vocab_size in (2, 1024, 151_552, most, 10 * most):
            size = chunk_size(vocab_size, torch.device(device))
            assert size >= 1 and (size == 1 or size * vocab_size <= most)
            assert (size + 1) * vocab_size > most


def test_half_precision_logits_are_upcast_before_the_softmax():
    hidden_BLD = (6 * logits(8, 8)).bfloat16().view(2, 4, VOCAB)
    ce, *_ = reduce(hidden_BLD, 0.0, 6)
    wanted = torch.nn.functional.cross_entropy(
        hidden_BLD.double().view(8, VOCAB), TARGETS.view(8), reduction="none"
    )
    assert ce == pytest.approx(float(wanted[MASK.view(8)].sum()), rel=1e-6)


# ---- the plain form: every logit at once, autograd through all of it ---------------------------

LOSSES = {name: component("loss", name) for name in values("loss")}
HEADS: dict[str, dict[str, Any]] = {
    "matrix": {},
    "bias": {"bias_V": logits(20, 1)[0]},
    "capped": {"bias_V": logits(20, 1)[0], "softcap": 4.0, "scale": 0.7},
}
WIDTH = 4


def both_forms(
    name: str, of: str, shape: dict[str, Any], chunk: int, dtype: torch.dtype, sharp: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Sums, and gradients of hidden states, head and bias: of the reduction, and in plain form."""
    found: list[list[Tensor]] = []
    loss, kd_weight = LOSSES[name], 0.7 if LOSSES[name].needs_teacher else 0.0
    for plain in (False, True):
        hidden_ND = (sharp * logits(21, 8, WIDTH)).to(dtype).requires_grad_()
        weight_VD = logits(22, VOCAB, WIDTH).to(dtype).requires_grad_()
        fields = dict(shape)
        if "bias_V" in shape:
            fields["bias_V"] = shape["bias_V"].detach().clone().to(dtype).requires_grad_()
        head = Head(weight_VD, **fields)
        teacher_NV = logits(23, 8).double()
        if sharp > 1:  # near the student
            teacher_NV += hidden_ND.detach().double() @ weight_VD.detach().double().T
        teacher_NV = teacher_NV.to(dtype)
        signal = word(SIGNALS[of], teacher_NV) if kd_weight else None
        targets_N, mask_N = TARGETS.view(8), MASK.view(8)
        if plain:
            logits_NV = head(hidden_ND)
            ce_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
            ce = ce_N[mask_N].sum()
            kd = torch.zeros_like(ce)
            if signal is not None:
                kd = (signal.scale * loss(logits_NV, signal))[mask_N].sum()
            (((1 - kd_weight) * ce + kd_weight * kd) / 6).backward()
        else:
            hidden_BLD = (1 * hidden_ND).view(2, 4, WIDTH)
            ce, kd, total = backward(
                hidden_BLD, head, TARGETS, MASK, signal, loss, kd_weight, 6, chunk
            )
            torch.testing.assert_close(total, (1 - kd_weight) * ce + kd_weight * kd)
        given = [hidden_ND, weight_VD, *(v for v in fields.values() if isinstance(v, Tensor))]
        grads = [tensor.grad for tensor in given]
        assert all(grad is not None for grad in grads)
        found.append([ce.detach(), kd.detach(), *grads])  # type: ignore[list-item]
    return found[0], found[1]


PAIRS = [
    (name, of)
    for name, loss in sorted(LOSSES.items())
    for of, signal in sorted(SIGNALS.items())
    if (signal.closed or not loss.needs_closed_signal)
    and (signal.is_full or not loss.needs_full_signal)
]


@pytest.mark.parametrize(("name", "of"), PAIRS)
def test_reduction_is_the_plain_form(name: str, of: str):
    """To the last digits of float64, whatever the chunk, the head, the signal and the loss."""
    for chunk, shape in ((1, "bias"), (3, "capped"), (100, "matrix")):
        ours, plain = both_forms(name, of, HEADS[shape], chunk, torch.float64)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "of"), PAIRS)
@pytest.mark.parametrize("sharp", [1.0, 5.0, 30.0])
def test_float32_is_no_further_from_float64_than_the_plain_form_is(
    name: str, of: str, sharp: float
):
    """Also where the student leaves nothing to the tail; a logit of 200 is known to 1e-5 only."""
    ours, plain = both_forms(name, of, {}, 3, torch.float32, sharp)
    # The square of a temperature that is the logits' own spread multiplies every rounding.
    floor = 1e-5 * sharp**2 if SIGNALS[of].heat == component("temperature", "normkd") else 1e-7
    _, exact = both_forms(name, of, {}, 3, torch.float64, sharp)
    for a, b, c in zip(ours, plain, exact, strict=True):
        allowed = 3 * float((b - c).norm()) + 1e-6 * sharp * float(c.norm()) + floor
        assert float((a - c).norm()) <= allowed


def test_a_tiny_tail_has_its_exact_gradient():
    """Log-probability -40 for all but one token: 1 - p would be 0 in float64 already."""
    teacher_NV = torch.zeros(1, VOCAB)
    student_NV = torch.zeros(1, VOCAB)
    student_NV[0, 3] = 40.0
    teacher_NV[0, 3] = 2.0
    signal = word(component("signal", "topk", top_k=1, tail="bucket"), teacher_NV)
    hidden_BLD = student_NV[None].requires_grad_()
    one = torch.ones(1, 1)
    sums = backward(
        hidden_BLD, Head(torch.eye(VOCAB)), 3 * one.long(), one > 0, signal, FORWARD_KL, 1.0, 1
    )
    kept = math.exp(2) / (math.exp(2) + VOCAB - 1)
    tail = 40.0 - math.log(VOCAB - 1)  # minus the student's log-probability of all others
    wanted = kept * math.log(kept) + (1 - kept) * (math.log(1 - kept) + tail)
    assert float(sums.kd) == pytest.approx(wanted, rel=1e-6)
    assert hidden_BLD.grad is not None
    slopes = hidden_BLD.grad[0, 0].tolist()
    others = [-(1 - kept) / (VOCAB - 1)] * VOCAB
    others[3] = 1 - kept
    assert slopes == pytest.approx(others, rel=1e-6)


def test_products_are_of_autocasts_precision_and_sums_are_not():
    """bfloat16 hidden states, head and gradients of logits; float32 softmax, loss and sums."""
    generator = torch.Generator().manual_seed(30)
    hidden_BLD = torch.randn(2, 4, 64, generator=generator)
    weight_VD = torch.randn(VOCAB, 64, generator=generator)
    rounded: list[Tensor] = []
    for low in (False, True):
        cast = torch.bfloat16 if low else torch.float32
        leaf_BLD, leaf_VD = hidden_BLD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        signal = word(FULL, logits(0, 8))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            sums = backward(1 * leaf_BLD, Head(leaf_VD), TARGETS, MASK, signal, FORWARD_KL, 0.5, 6)
        assert leaf_BLD.grad is not None and leaf_VD.grad is not None
        assert sums.ce.dtype == sums.kd.dtype == leaf_VD.grad.dtype == torch.float32
        rounded += [leaf_BLD.grad, leaf_VD.grad]
        wanted = hidden_BLD.to(cast) @ weight_VD.T.to(cast)
        ce_N = torch.nn.functional.cross_entropy(
            wanted.float().view(8, VOCAB), TARGETS.view(8), reduction="none"
        )
        torch.testing.assert_close(sums.ce, ce_N[MASK.view(8)].sum(), rtol=1e-5, atol=1e-5)
    for exact, low in zip(rounded[:2], rounded[2:], strict=True):
        gap = float((exact - low).norm() / exact.norm())
        assert 1e-5 < gap < 2e-2


def test_a_tied_embedding_gets_both_gradients():
    weight_VD = logits(40, VOCAB, WIDTH).double().requires_grad_()
    grads: list[Tensor] = []
    for plain in (True, False):
        weight_VD.grad = None
        hidden_BLD = torch.nn.functional.embedding(TARGETS, weight_VD)
        if plain:
            ce = torch.nn.functional.cross_entropy(
                (hidden_BLD @ weight_VD.T).view(8, VOCAB)[MASK.view(8)], TARGETS[MASK]
            )
            ce.backward()
        else:
            backward(hidden_BLD, Head(weight_VD), TARGETS, MASK, None, LOSSES["none"], 0.0, 6)
        assert weight_VD.grad is not None
        grads.append(weight_VD.grad)
    torch.testing.assert_close(grads[1], grads[0])


def test_a_frozen_head_gets_no_gradient():
    hidden_BLD, head = logits(41, 8).view(2, 4, VOCAB).requires_grad_(), Head(torch.eye(VOCAB))
    backward(hidden_BLD, head, TARGETS, MASK, None, LOSSES["none"], 0.0, 6)
    assert head.weight_VD.grad is None and hidden_BLD.grad is not None
