"""Draws: those of the seed and the position alone, from the teacher, unbiased."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numerics import DRAWN, component, logits, word
from torch import Tensor

from pdx.draws import draw, first_draws, merge, uniforms
from pdx.rows import LEAST

MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """The finalizer of SplitMix64 in plain integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
    return state ^ (state >> 31)


def uniform(offset: int, j: int, seed: int) -> float:
    golden = 0x9E3779B97F4A7C15
    start = splitmix((splitmix((offset + seed * golden) & MASK) + seed) & MASK)
    return (splitmix((start + (j + 1) * golden) & MASK) >> 12) / 2**52


@pytest.mark.parametrize("seed", [0, 1, 123456789])
def test_uniforms_are_splitmix_in_plain_integers(seed: int):
    offsets = [0, 1, 77, 2**40 + 5]
    found = uniforms(torch.tensor(offsets), 6, seed)
    wanted = [[uniform(o, j, seed) for j in range(6)] for o in offsets]
    assert found.dtype == torch.float64 and found.tolist() == wanted


def test_uniforms_are_uniform_and_do_not_repeat():
    found = uniforms(torch.arange(4000), 50, 3)
    assert float(found.min()) >= 0 and float(found.max()) < 1
    assert len(found.unique()) == found.numel()
    counts = torch.histc(found.float(), 100, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 160  # chi-square, 99 degrees of freedom
    for other in (uniforms(torch.arange(4000), 50, 4), uniforms(torch.arange(1, 4001), 50, 3)):
        assert abs(float(torch.corrcoef(torch.stack([found.ravel(), other.ravel()]))[0, 1])) < 0.01


@pytest.mark.parametrize("vocab_size", [2, 12, 100, 4097])
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(vocab_size: int):
    logits_NV = logits(0, 20, vocab_size)
    found = draw(logits_NV, torch.arange(20) + 500, 9, 7)
    assert found.dtype == torch.int32 and found.shape == (20, 9)
    for n, row in enumerate(logits_NV.double().softmax(-1).tolist()):
        for j in range(9):
            left = uniform(500 + n, j, 7)
            for v, mass in enumerate(row):  # noqa: B007
                left -= mass
                if left < 0:
                    break
            assert abs(left) < 1e-6 or int(found[n, j]) == v


def test_draws_do_not_depend_on_the_batch():
    logits_NV, offset_N = logits(1, 40, 300), torch.arange(40) * 3
    whole = draw(logits_NV, offset_N, 8, 0)
    for part in (slice(0, 1), slice(7, 30), torch.arange(39, -1, -1)):
        assert torch.equal(draw(logits_NV[part], offset_N[part], 8, 0), whole[part])
    assert torch.equal(draw(logits_NV, offset_N, 3, 0), whole[:, :3])
    assert not torch.equal(draw(logits_NV, offset_N, 8, 1), whole)


def test_tokens_without_mass_are_never_drawn():
    logits_NV = logits(2, 4000, 70)
    logits_NV[:, :9] = logits_NV[:, 30:41] = logits_NV[:, 64:] = -torch.inf
    found = draw(logits_NV, torch.arange(4000), 20, 0)
    assert logits_NV.gather(-1, found.long()).isfinite().all()
    sharp_NV = torch.full((10, 70), -200.0)
    sharp_NV[:, 69] = 0.0
    assert (draw(sharp_NV, torch.arange(10), 5, 0) == 69).all()


def test_draws_come_as_often_as_their_mass():
    logits_V, num = logits(3, 1, 50)[0], 40_000
    found = draw(logits_V.expand(num // 10, -1), torch.arange(num // 10), 10, 5)
    expected_V = logits_V.double().softmax(-1) * num
    seen_V = torch.bincount(found.reshape(-1), minlength=50)
    assert float(((seen_V - expected_V) ** 2 / expected_V).sum()) < 90  # 49 degrees: p = 3e-4


def test_merge_counts():
    ids_NK, counts_NK = merge(torch.tensor([[5, 1, 5, 5], [2, 2, 2, 2]], dtype=torch.int32))
    assert ids_NK.tolist() == [[1, 5], [2, 2]] and counts_NK.tolist() == [[1, 3], [4, 0]]


@pytest.mark.parametrize("num_first", [1, 2, 7, 29, 30])
def test_the_first_draws_are_known_from_the_counts(num_first: int):
    """No order is kept, and none is lost: the store's smaller views are exact."""
    num_draws, offset_N = 30, torch.arange(60) * 64 + 3
    drawn_NJ = draw(logits(4, 60, 40), offset_N, num_draws, 9)
    ids_NK, counts_NK = merge(drawn_NJ)
    kept_NK = counts_NK > 0
    shuffled = torch.randperm(ids_NK.shape[1])  # order within a row is free
    kept_NK, ids_NK, counts_NK = (x[:, shuffled] for x in (kept_NK, ids_NK, counts_NK))
    ids_E, counts_E, num_N = first_draws(
        ids_NK[kept_NK].numpy(),
        counts_NK[kept_NK].numpy(),
        kept_NK.sum(-1).numpy(),
        offset_N.numpy(),
        num_draws,
        num_first,
        9,
    )
    wanted_ids, wanted_counts = merge(drawn_NJ[:, :num_first])
    assert ids_E.tolist() == wanted_ids[wanted_counts > 0].tolist()
    assert counts_E.tolist() == wanted_counts[wanted_counts > 0].tolist()
    assert num_N.tolist() == (wanted_counts > 0).sum(-1).tolist()


# ---- as signals ------------------------------------------------------------------------------


def mean_gradient(signal: Any, teacher_V: Tensor, student_V: Tensor, num: int) -> Tensor:
    """Of forward KL with respect to the student's logits, averaged over positions."""
    student_NV = student_V.expand(num, -1).clone().requires_grad_()
    teacher_NS, student_NS = word(signal, teacher_V.expand(num, -1)).align(student_NV)
    (teacher_NS.exp() * (teacher_NS - student_NS)).sum().backward()
    assert student_NV.grad is not None
    return student_NV.grad.mean(0), student_NV.grad.var(0).sum()  # type: ignore[return-value]


@pytest.mark.parametrize("of", sorted(DRAWN))
def test_the_gradient_is_on_average_that_of_the_whole_distribution(of: str):
    teacher_V, student_V, num = logits(5, 1, 60)[0], logits(6, 1, 60)[0], 20_000
    found_V, variance = mean_gradient(DRAWN[of], teacher_V, student_V, num)
    wanted_V = student_V.softmax(-1) - teacher_V.softmax(-1)
    assert float((found_V - wanted_V).norm()) < 4 * math.sqrt(float(variance) / num) + 1e-5
    assert float(wanted_V.norm()) > 0.1


def test_an_exact_head_lowers_the_variance():
    teacher_V, student_V = logits(5, 1, 60)[0], logits(6, 1, 60)[0]
    plain = component("signal", "sampled", num_draws=16)
    headed = component("signal", "head_sampled", top_k=8, num_draws=8)
    variances = [mean_gradient(s, teacher_V, student_V, 2000)[1] for s in (plain, headed)]
    assert variances[1] < 0.5 * variances[0]


@pytest.mark.parametrize("of", sorted(DRAWN))
def test_weights_sum_to_one_and_the_student_keeps_its_softmax(of: str):
    teacher_NV, student_NV = logits(7, 50, 60), logits(8, 50, 60)
    sparse = word(DRAWN[of], teacher_NV).chunk(0, 50)
    teacher_NS, student_NS = sparse.align(student_NV)
    total_N = teacher_NS.exp().sum(-1)
    if getattr(DRAWN[of].signal, "proposal_power", 1.0) == 1.0:
        torch.testing.assert_close(total_N, torch.ones(50))
    else:  # on average only: weights of other proposals than the teacher
        assert abs(float(total_N.mean()) - 1) < 4 * float(total_N.std()) / 50**0.5
        assert float(total_N.std()) > 0.01
    kept_NS = teacher_NS != LEAST
    wanted_NS = student_NV.log_softmax(-1).gather(-1, sparse.ids_NK)
    torch.testing.assert_close(student_NS[kept_NS], wanted_NS[kept_NS], rtol=1e-5, atol=1e-5)
    assert not DRAWN[of].closed and not kept_NS.all()
    for n in range(50):  # no token twice
        ids = sparse.ids_NK[n][kept_NS[n]]
        assert len(ids.unique()) == len(ids)


def test_head_tokens_weigh_what_they_are_and_drawn_ones_share_the_rest():
    signal, teacher_NV = component("signal", "head_sampled", top_k=3), logits(9, 5, 40)
    sparse = word(signal, teacher_NV).chunk(0, 5)
    teacher_NS, _ = sparse.align(teacher_NV)
    probs_NV = teacher_NV.softmax(-1)
    top = probs_NV.topk(3)
    assert torch.equal(sparse.ids_NK[:, :3], top.indices)
    torch.testing.assert_close(teacher_NS[:, :3].exp(), top.values, rtol=1e-5, atol=1e-6)
    rest = probs_NV.scatter(-1, top.indices, 0.0)
    drawn = draw(rest.log(), torch.arange(5), signal.num_draws, signal.seed)
    for n in range(5):
        count = np.bincount(drawn[n], minlength=40) / signal.num_draws * float(rest[n].sum())
        found = np.zeros(40)
        kept = sparse.keep_NK[n, 3:]
        found[sparse.ids_NK[n, 3:][kept]] = teacher_NS[n, 3:].exp()[kept]
        np.testing.assert_allclose(found, count, atol=1e-6)


@pytest.mark.parametrize("of", sorted(DRAWN))
@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 6), (5, 6)])
def test_a_chunk_draws_for_its_own_positions(of: str, start: int, stop: int):
    teacher_NV, student_NV = logits(13), logits(14)
    for offset_N in (None, torch.tensor([9, 4, 77, 1000, 3, 12])):
        whole = word(DRAWN[of], teacher_NV, offset_N)
        rows = whole.chunk(0, 6)
        for part in (whole.chunk(start, stop), rows.chunk(start, stop)):
            loss = [
                (t.exp() * (t - s)).sum(-1)
                for t, s in (part.align(student_NV[start:stop]), rows.align(student_NV))
            ]
            torch.testing.assert_close(loss[0], loss[1][start:stop], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.8, 1.2])
def test_counts_are_of_the_proposal_and_weights_put_them_right(power: float):
    """chi-square of the counts against q ~ p^power, and the mean weight of a token against p."""
    logits_V, num = logits(15, 1, 30, scale=1.0)[0], 4000
    signal = component("signal", "sampled", proposal_power=power, num_draws=20)
    sparse = word(signal, logits_V.expand(num, -1)).chunk(0, num)
    drawn = draw(power * logits_V.expand(num, -1), torch.arange(num), 20, signal.seed)
    seen_V = torch.bincount(drawn.reshape(-1), minlength=30)
    expected_V = (power * logits_V).double().softmax(-1) * num * 20
    assert float(((seen_V - expected_V) ** 2 / expected_V).sum()) < 62  # 29 degrees: p = 3e-4
    teacher_NS, _ = sparse.align(logits_V.expand(num, -1))
    weights_NS = teacher_NS.double().exp()
    mean_V = (
        torch.zeros(30)
        .double()
        .index_add_(0, sparse.ids_NK.reshape(-1), weights_NS.reshape(-1) / num)
    )
    probs_V = logits_V.double().softmax(-1)
    error_V = (probs_V**2 / (expected_V / num / 20) / num / 20).sqrt()
    assert (abs(mean_V - probs_V) < 4.5 * error_V).all()


def test_powers_near_one_have_the_least_variance():
    teacher_V, student_V = logits(5, 1, 60)[0], logits(6, 1, 60)[0]
    variance = {
        power: mean_gradient(
            component("signal", "sampled", proposal_power=power, num_draws=20),
            teacher_V,
            student_V,
            2000,
        )[1]
        for power in (0.3, 1.0, 2.0)
    }
    assert variance[1.0] < min(variance[0.3], variance[2.0])
