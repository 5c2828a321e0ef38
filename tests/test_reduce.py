"""The one reduction: global token count, mask, mixture, and no [B, L, V] ever."""

import math
from typing import Any

import pytest
import torch
from numerics import SIGNALS, VOCAB, component, logits, word
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pdx.models import Head
from pdx.reduce import CHUNK_ELEMENTS, backward, chunk_size

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
) -> tuple[float, float, Tensor]:
    """Both sums and the gradient where hidden states are the logits."""
    hidden_BLD = hidden_BLD.detach().clone().requires_grad_()
    signal = word(FULL, logits(0, 8).double()) if kd_weight else None
    head = Head(torch.eye(VOCAB, dtype=hidden_BLD.dtype))
    sums = backward(
        hidden_BLD, head, TARGETS, mask_BL, signal, FORWARD_KL, kd_weight, num_valid, chunk
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
    signal = SIGNALS[of].live(logits(9, num, width), Head(teacher_VD))
    targets_BL, mask_BL = torch.zeros(2, num // 2, dtype=torch.int64), torch.ones(2, num // 2) > 0
    with Largest() as largest:
        head = Head(weight_VD.requires_grad_())
        backward(hidden_BLD, head, targets_BL, mask_BL, signal, FORWARD_KL, 0.5, num, chunk)
    assert largest.numel == max(chunk * VOCAB, num * width)


def test_chunks_are_bounded_in_elements():
    for vocab_size in (2, 1024, 151_552, CHUNK_ELEMENTS, 10 * CHUNK_ELEMENTS):
        size = chunk_size(vocab_size)
        assert size >= 1 and (size == 1 or size * vocab_size <= CHUNK_ELEMENTS)
        assert (size + 1) * vocab_size > CHUNK_ELEMENTS


def test_half_precision_logits_are_upcast_before_the_softmax():
    hidden_BLD = (6 * logits(8, 8)).bfloat16().view(2, 4, VOCAB)
    ce, *_ = reduce(hidden_BLD, 0.0, 6)
    wanted = torch.nn.functional.cross_entropy(
        hidden_BLD.double().view(8, VOCAB), TARGETS.view(8), reduction="none"
    )
    assert ce == pytest.approx(float(wanted[MASK.view(8)].sum()), rel=1e-6)
