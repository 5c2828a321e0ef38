"""Codecs: what is decoded is what was encoded, at any size, in few bytes."""

from typing import Any

import numpy as np
import pytest
import torch
from numerics import component

from pdx.draws import draw, masses
from pdx.store import bits, kernels
from pdx.store.codecs.head_sampled import HeadSampledCodec
from pdx.store.codecs.row import Columns, Entries, concatenate, dense
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.codecs.topk import LOGIT_STEP, TopKCodec
from pdx.store.columns import float_columns
from pdx.store.format import block_of, planes_of

RNG = np.random.default_rng(0)


# ---- planes of bits --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 1, 3, 8, 13, 17, 18, 24, 25, 26, 31])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_fixed_fields(width: int, count: int):
    values = RNG.integers(0, 2**width, count)
    plane = bits.pack_fixed(values, width)
    assert len(plane) == -(-count * width // 8)
    assert bits.unpack_fixed(memoryview(plane), width, count).tolist() == values.tolist()
    whole = sum(int(v) << (i * width) for i, v in enumerate(values))
    assert int.from_bytes(plane, "little") == whole  # the layout that the page describes


@pytest.mark.parametrize("widest", [1, 9, 25, 26, 32])
@pytest.mark.parametrize("count", [0, 1, 5, 2000])
def test_fields_of_many_widths(widest: int, count: int):
    widths = RNG.integers(0, widest + 1, count).tolist()
    values = [int(RNG.integers(0, 2**width)) for width in widths]
    starts = np.cumsum([0, *widths]).tolist()
    words = bits.empty(starts[-1])
    for value, start in zip(values, starts, strict=False):
        kernels.put(words, start, value)
    plane = bits.plane_of(words, starts[-1])
    whole = sum(value << start for value, start in zip(values, starts, strict=False))
    assert int.from_bytes(plane, "little") == whole
    read = bits.words_of(memoryview(plane))
    found = [
        kernels.window(read, start) & ((1 << width) - 1)
        for start, width in zip(starts, widths, strict=False)
    ]
    assert found == values


@pytest.mark.parametrize("places", [[], [0], [5], [0, 1, 5, 7, 8, 209], [31, 32, 63, 64, 95, 400]])
def test_ones(places: list[int]):
    plane = bytearray(60)
    for place in places:
        plane[place // 8] |= 1 << place % 8
    words = bits.words_of(memoryview(plane))
    word, left, found = -1, 0, []
    for _ in places:
        place, word, left = kernels.next_one(words, word, left)
        found.append(place)
    assert found == places
    for _ in range(3):  # and behind the last one there is none, however often it is asked for
        place, word, left = kernels.next_one(words, word, left)
        assert place >= len(words) * 32


# ---- rows ------------------------------------------------------------------------------------


def rows(vocab_size: int, num: int = 96, seed: int = 0) -> torch.Tensor:
    """Logits with a few likely tokens above a Zipf unigram, [N, V]."""
    rng = np.random.default_rng(seed)
    prior = -np.log(np.arange(vocab_size) + 2.7)
    likely = rng.exponential(3.0, (num, vocab_size)) * (rng.random((num, vocab_size)) < 0.01)
    noise = rng.standard_normal((num, vocab_size))
    return torch.from_numpy((prior + likely + noise).astype(np.float32))


def reduced(codec: Any, logits_NV: torch.Tensor, temperatures: tuple[float, ...]) -> Columns:
    columns = {f"lse@{t:g}": (logits_NV / t).logsumexp(-1) for t in temperatures}
    columns |= codec.reduce(logits_NV, columns["lse@1"], torch.arange(len(logits_NV)))
    return {name: column.numpy() for name, column in columns.items()}


def through(codec: Any, columns: Columns) -> list[memoryview]:
    return planes_of(memoryview(block_of(codec.encode(columns))), codec.num_planes)


@pytest.mark.parametrize("fill", [0, 255, None], ids=["zeros", "ones", "noise"])
@pytest.mark.parametrize("size", [0, 1, 40, 4000])
def test_broken_planes_are_read_to_their_ends_and_not_beyond(fill: int | None, size: int):
    """Digests find them; where nobody looks at digests, ids are still ids, and no number is read
    from outside of a plane.
    """
    heads = TopKCodec(16, 1.0, 1000, (1.0,))
    draws = SampledCodec(20, 3, 1000, RNG.permutation(1000).astype(np.int32))
    plane = memoryview(RNG.bytes(size) if fill is None else bytes([fill]) * size)
    whole = through(heads, reduced(heads, rows(1000), (1.0,)))
    for p in (3, 4):
        found = heads.decode([[*whole[:p], plane, *whole[p + 1 :]]], 96, np.zeros(1), 0)
        assert ((found.ids_E >= 0) & (found.ids_E < 1024)).all()
        assert np.isfinite(found.weights_E).all()
    whole = through(draws, reduced(draws, rows(1000), (1.0,)))
    for p in (1, 2, 3):
        ids_E, _, _ = draws.counts([*whole[:p], plane, *whole[p + 1 :]], 96)
        assert ((ids_E >= 0) & (ids_E < 1000)).all()


def test_draws_are_the_same_from_masses_that_were_made_for_the_columns():
    logits_NV, offset_N = rows(5000), torch.arange(96) + 7
    _, mass_NV = float_columns(logits_NV, torch.zeros(96, dtype=torch.long), (0.5, 1.0, 3.0))
    assert torch.equal(mass_NV, masses(logits_NV))
    codec = SampledCodec(50, 3, 5000, np.arange(5000))
    lse_N = logits_NV.logsumexp(-1)
    shared = codec.reduce(logits_NV, lse_N, offset_N, mass_NV)
    for name, column in codec.reduce(logits_NV, lse_N, offset_N).items():
        assert torch.equal(column, shared[name])
    assert torch.equal(shared["draws"], draw(logits_NV, offset_N, 50, 3))


HEATS = (0.5, 1.0, 2.0)
SIZES = [(7, 7), (32, 5), (4096, 64), (128_256, 50), (262_144, 8)]


@pytest.mark.parametrize(("vocab_size", "top_k"), SIZES)
@pytest.mark.parametrize("top_p", [1.0, 0.9, 1e-6])
def test_topk_keeps_ids_and_mass_exactly_and_logits_within_a_step(
    vocab_size: int, top_k: int, top_p: float
):
    logits_NV = rows(vocab_size)
    codec = TopKCodec(top_k, top_p, vocab_size, HEATS)
    columns = reduced(codec, logits_NV, HEATS)
    before = dict(columns)
    entries = codec.decode([through(codec, columns)], 96, np.zeros(1), 0)
    ids_NK, found_NK = dense(entries, 96, -1e4)
    top = logits_NV.double().topk(top_k)
    probs_NK = (top.values - logits_NV.double().logsumexp(-1, keepdim=True)).exp()
    keep_NK = (probs_NK.cumsum(-1) - probs_NK < top_p).numpy()
    keep_NK[:, 0] = True
    keep_NK = keep_NK[:, : ids_NK.shape[1]]
    assert ((found_NK > -1e4) == keep_NK).all()
    wanted_NK = top.values.numpy()[:, : ids_NK.shape[1]]
    assert (ids_NK[keep_NK] == top.indices.numpy()[:, : ids_NK.shape[1]][keep_NK]).all()
    assert np.abs(found_NK - wanted_NK)[keep_NK].max() <= LOGIT_STEP
    assert codec.argmax(through(codec, dict(before)), 96).tolist() == top.indices[:, 0].tolist()
    for heat in HEATS:  # the mass outside of what is kept is exact at each temperature
        found_N = np.log((np.exp(found_NK / heat) * keep_NK).sum(1)) - columns[f"lse@{heat:g}"]
        wanted_N = np.log((np.exp(wanted_NK / heat) * keep_NK).sum(1)) - before[f"lse@{heat:g}"]
        np.testing.assert_allclose(found_N, wanted_N, atol=2e-5)


IDS_V = np.random.default_rng(1).permutation(4096).astype(np.int32)
HEAD = TopKCodec(8, 1.0, 4096, (1.0,))
CODECS = {
    "topk": TopKCodec(64, 1.0, 4096, (1.0,)),
    "topk, top_p": TopKCodec(64, 0.9, 4096, (1.0,)),
    "topk, rows that end within a byte": TopKCodec(5, 1.0, 4096, (1.0,)),
    "sampled": SampledCodec(16, 5, 4096, IDS_V),
    "head_sampled": HeadSampledCodec(HEAD, SampledCodec(16, 5, 4096, IDS_V)),
}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("num_rows", [1, 12, 96])
def test_windows_are_decoded_together_as_one_by_one(codec: Any, num_rows: int):
    """Four windows, two of them of far logits: their gaps need not be split at the same bit."""
    logits = [rows(4096, num_rows, seed) * (1 + 9 * (seed > 1)) for seed in range(4)]
    windows = [through(codec, reduced(codec, logits_NV, (1.0,))) for logits_NV in logits]
    num_draws = 0 if isinstance(codec, TopKCodec) else 16
    one_by_one = [codec.decode([w], num_rows, np.zeros(1), num_draws) for w in windows]
    for some in (slice(0, 2), slice(2, 4), slice(0, 4)):
        part = windows[some]
        together = codec.decode(part, num_rows, np.zeros(len(part)), num_draws)
        for found, wanted in zip(together, concatenate(one_by_one[some]), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_short_rows_are_filled_by_their_own_first_id():
    num_N = np.array([2, 4, 0, 1], np.int32)
    weights_E = np.arange(7, dtype=np.float32)
    entries = Entries(np.array([7, 3, 9, 2, 4, 1, 5], np.int32), weights_E, num_N)
    ids_NK, weights_NK = dense(entries, 4, -8.0)
    assert ids_NK.tolist() == [[7, 3, 7, 7], [9, 2, 4, 1], [0, 0, 0, 0], [5, 5, 5, 5]]
    assert weights_NK.tolist() == [[0, 1, -8, -8], [2, 3, 4, 5], [-8, -8, -8, -8], [6, -8, -8, -8]]


def test_what_quantisation_loses_is_within_the_stated_bound():
    """KL at temperature 1, kept tokens and the rest as one: at most step^2 / 8 in every row."""
    logits_NV = rows(4096, 400, 1)
    codec = TopKCodec(64, 1.0, 4096, (1.0,))
    columns = reduced(codec, logits_NV, (1.0,))
    _, found_NK = dense(codec.decode([through(codec, columns)], 400, np.zeros(1), 0), 400, -1e4)
    true_NK = logits_NV.double().log_softmax(-1).topk(64).values.numpy()
    found_NK = found_NK - columns["lse@1"].astype(np.float64)[:, None]
    kl_N = (np.exp(true_NK) * (true_NK - found_NK)).sum(1)
    assert 0 < kl_N.mean() < LOGIT_STEP**2 / 16 and kl_N.max() <= LOGIT_STEP**2 / 8


def test_equal_and_far_logits():
    codec = TopKCodec(4, 1.0, 6, (1.0,))
    logits_NV = torch.tensor([[0.0] * 6, [0.0, -1000.0, -5.0, -1e30, -70.0, -2000.0]])
    _, found_NK = dense(
        codec.decode([through(codec, reduced(codec, logits_NV, (1.0,)))], 2, np.zeros(1), 0), 2, 0
    )
    np.testing.assert_allclose(found_NK, [[0, 0, 0, 0], [0, -5, -64, -64]], atol=LOGIT_STEP)


def test_topk_takes_at_most_three_bytes_an_entry():
    codec = TopKCodec(50, 1.0, 128_256, (1.0,))
    columns = reduced(codec, rows(128_256), (1.0,))
    assert len(block_of(codec.encode(columns))) <= 3.0 * 50 * 96


@pytest.mark.parametrize("vocab_size", [2, 32, 128_256, 262_144, 2**20])
@pytest.mark.parametrize("num_draws", [1, 50, 127, 300])
def test_sampled_keeps_counts(vocab_size: int, num_draws: int):
    ids_V = np.random.default_rng(1).permutation(vocab_size).astype(np.int32)
    codec = SampledCodec(num_draws, 3, vocab_size, ids_V)
    logits_NV = rows(min(vocab_size, 4096))
    columns = reduced(codec, logits_NV, (1.0,))
    # The whole width of ids is used, wherever the small vocabulary's draws fell.
    wide = np.linspace(0, vocab_size - 1, logits_NV.shape[1]).astype(np.int32)
    columns |= {name: wide[columns[name]] for name in ("draws", "argmax")}
    planes = through(codec, columns)
    ids_E, counts_E, num_N = codec.counts(planes, 96)
    assert codec.argmax(planes, 96).tolist() == columns["argmax"].tolist()
    start = 0
    for drawn, num in zip(columns["draws"], num_N.tolist(), strict=True):
        ids, counts = np.unique(drawn, return_counts=True)
        part = slice(start, start + num)
        assert dict(zip(ids_E[part].tolist(), counts_E[part].tolist(), strict=True)) == dict(
            zip(ids.tolist(), counts.tolist(), strict=True)
        )
        start += num
    assert start == len(ids_E)


@pytest.mark.parametrize("num_first", [1, 10, 50])
def test_sampled_serves_its_first_draws(num_first: int):
    ids_V = np.random.default_rng(1).permutation(4096).astype(np.int32)
    codec, logits_NV = SampledCodec(50, 3, 4096, ids_V), rows(4096)
    offset_N = torch.arange(96) + 640
    draws = draw(logits_NV, offset_N, 50, 3)
    planes = codec.encode({"draws": draws.numpy(), "argmax": logits_NV.argmax(-1).numpy()})
    ids_NK, weights_NK = dense(
        codec.decode([[memoryview(p) for p in planes]], 96, np.array([640]), num_first), 96, -1e4
    )
    found_NV = np.zeros((96, 4096))
    kept_NK = weights_NK > -1e4
    np.add.at(found_NV, (np.nonzero(kept_NK)[0], ids_NK[kept_NK]), np.exp(weights_NK[kept_NK]))
    wanted_NV = np.stack([np.bincount(d, minlength=4096) for d in draws[:, :num_first].numpy()])
    np.testing.assert_allclose(found_NV, wanted_NV / num_first, atol=1e-6)


def test_draws_of_frequent_tokens_take_three_quarters_of_three_bytes_an_id():
    """Row statistics are not those of a language model: the benchmark has those."""
    vocab_size = 128_256
    codec = SampledCodec(50, 0, vocab_size, np.arange(vocab_size, dtype=np.int32))
    rng, prior = np.random.default_rng(0), 1 / np.arange(1, vocab_size + 1)
    draws = rng.choice(vocab_size, (96, 50), p=prior / prior.sum()).astype(np.int32)
    draws[:, 13:] = draws[:, :1]  # about a dozen tokens, one of them often
    planes = codec.encode_draws(draws)
    num_ids = sum(len(set(d)) for d in draws.tolist())
    assert sum(map(len, planes)) < 0.75 * (3 * num_ids + 96)
    shuffled = np.random.default_rng(0).permutation(vocab_size).astype(np.int32)
    worse = SampledCodec(50, 0, vocab_size, shuffled).encode_draws(draws)
    assert sum(map(len, worse)) > 1.2 * sum(map(len, planes))


@pytest.mark.parametrize("num_first", [0, 4, 16])
def test_head_sampled_is_the_live_signal_with_its_logits_in_steps(num_first: int):
    vocab_size, ids_V = 4096, np.random.default_rng(1).permutation(4096).astype(np.int32)
    head = TopKCodec(8, 1.0, vocab_size, (1.0,))
    codec = HeadSampledCodec(head, SampledCodec(16, 5, vocab_size, ids_V))
    logits_NV = rows(vocab_size)
    columns = reduced(codec, logits_NV, (1.0,))
    planes = through(codec, columns)
    assert len(planes) == codec.num_planes
    ids_NK, found_NK = dense(codec.decode([planes], 96, np.zeros(1), num_first), 96, -1e4)
    assert codec.argmax(planes, 96).tolist() == logits_NV.argmax(-1).tolist()
    if num_first == 0:  # the head alone, as signal=topk reads it
        assert ids_NK.tolist() == logits_NV.topk(8).indices.tolist()
        return
    signal = component("signal", "head_sampled", num_draws=num_first, seed=5)
    wanted = signal.rows_of(logits_NV, torch.arange(96))
    for n in range(96):
        kept, live = found_NK[n] > -5e3, wanted.logits_NK[n] > -5e3
        found = dict(zip(ids_NK[n][kept].tolist(), found_NK[n][kept].tolist(), strict=True))
        ids, weights = wanted.ids_NK[n][live].tolist(), wanted.logits_NK[n][live].tolist()
        assert found.keys() == set(ids)
        for i, (token, weight) in enumerate(zip(ids, weights, strict=True)):
            assert found[token] == pytest.approx(weight, abs=LOGIT_STEP if i < 8 else 1e-5)
