"""Ways to write a teacher's rows: pdx's codecs, and peers' formats on the same rows.

Peers' formats are re-stated from their documented layout, not their code: RS-KD's 17 + 7 bits an
id (arXiv:2503.16870), DistillKit's bit-packed ids with an exact head and a polynomial tail, and
Megatron-LM's float16 + uint16 + bool under zstd.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pdx.store import bits
from pdx.store.codecs.row import dense
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.format import block_of, planes_of

NOTHING = -1e4


class Format(NamedTuple):
    """A way to write rows.

    Attributes:
        encode: -> the bytes of one block.
        decode: bytes -> ids and weights, padded to [N, K].
        entries: what is kept in a block, for bytes per entry.
    """

    encode: Callable[[], bytes]
    decode: Callable[[bytes], Any]
    entries: int


def unigram(vocab_size: int) -> np.ndarray:
    """Zipf, over ids in no order."""
    prior = 1 / (np.random.default_rng(1).permutation(vocab_size) + 2.7)
    return prior / prior.sum()


def rows(vocab_size: int, num: int, seed: int) -> torch.Tensor:
    """Logits with the statistics of a language model's rows.

    Each row is a mixture of a few likely tokens, themselves drawn from a Zipf unigram, and of the
    unigram under noise, so that the mean row is the unigram.
    """
    rng = np.random.default_rng(seed)
    prior = unigram(vocab_size)
    ends = prior.cumsum()
    out = np.empty((num, vocab_size), np.float32)
    for row in out:
        likely = np.minimum(np.searchsorted(ends, rng.random(60)), vocab_size - 1)
        weights = np.exp(4.5 * rng.standard_normal(60))
        share = min(0.9, 0.16 * rng.gamma(1.0))
        row[:] = share * prior * np.exp(rng.standard_normal(vocab_size) - 0.5)
        np.add.at(row, likely, (1 - share) * weights / weights.sum())
    return torch.from_numpy(np.log(out))


def ours(codec: Any, columns: dict[str, np.ndarray]) -> Format:
    """A codec of pdx, with the four bytes of each plane's length."""
    num = len(columns["lse@1"])

    def decode(block: bytes) -> Any:
        planes = planes_of(memoryview(block), codec.num_planes)
        entries = codec.decode([planes], num, np.zeros(1, np.int64), codec.num_draws)
        return dense(entries, num, NOTHING)

    def encode() -> bytes:
        return block_of(codec.encode(dict(columns)))

    block = encode()
    planes = planes_of(memoryview(block), codec.num_planes)
    entries = codec.decode([planes], num, np.zeros(1, np.int64), codec.num_draws)
    return Format(encode, decode, len(entries.ids_E))


def drawn(codec: SampledCodec, draws_NJ: np.ndarray) -> Format:
    """The planes of the counts alone: what the three-byte format keeps."""
    num = len(draws_NJ)
    shares = np.log(np.arange(codec.num_draws + 1).clip(1) / codec.num_draws).astype(np.float32)

    def decode(block: bytes) -> Any:
        ids_E, counts_E, num_N = codec.counts(planes_of(memoryview(block), 4), num)
        return dense((ids_E, shares.take(counts_E), num_N), num, NOTHING)  # type: ignore[arg-type]

    def encode() -> bytes:
        return block_of(codec.encode_draws(draws_NJ))

    ids_E, _, _ = codec.counts(planes_of(memoryview(encode()), 4), num)
    return Format(encode, decode, len(ids_E))


def three_bytes(draws_NJ: np.ndarray, vocab_size: int, zstd: bool) -> Format:
    """RS-KD: an id of 17 bits and a count of 7 in three bytes, and a byte of length a row."""
    id_bits = bits.width_of(vocab_size - 1)
    num, num_draws = draws_NJ.shape
    shares = np.log(np.arange(num_draws + 1).clip(1) / num_draws).astype(np.float32)

    def encode() -> bytes:
        sorted_NJ = np.sort(draws_NJ, axis=1)
        new_NJ = np.ones(sorted_NJ.shape, bool)
        new_NJ[:, 1:] = sorted_NJ[:, 1:] != sorted_NJ[:, :-1]
        counts_E = np.diff(np.flatnonzero(new_NJ), append=new_NJ.size)
        packed = (sorted_NJ[new_NJ] | (counts_E << id_bits)).astype("<u4")
        raw = packed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        block = new_NJ.sum(1).astype(np.uint8).tobytes() + raw
        return pa.compress(block, "zstd", asbytes=True) if zstd else block

    size = len(encode()) if not zstd else len(three_bytes(draws_NJ, vocab_size, False).encode())

    def decode(block: bytes) -> Any:
        raw = pa.decompress(block, size, "zstd", asbytes=True) if zstd else block
        num_N = np.frombuffer(raw[:num], np.uint8).astype(np.int64)
        wide = np.zeros((int(num_N.sum()), 4), np.uint8)
        wide[:, :3] = np.frombuffer(raw[num:], np.uint8).reshape(-1, 3)
        packed = wide.view("<u4")[:, 0]
        ids_E = (packed & ((1 << id_bits) - 1)).astype(np.int32)
        return dense((ids_E, shares[packed >> id_bits], num_N), num, NOTHING)  # type: ignore[arg-type]

    return Format(encode, decode, (size - num) // 3)


def megatron(logprobs_NK: np.ndarray, ids_NK: np.ndarray) -> Format:
    """Megatron-LM: float16, the low 16 bits of ids, the 17th as a byte, zstd level 3."""
    num, top_k = ids_NK.shape
    zstd = pa.Codec("zstd", compression_level=3)

    def encode() -> bytes:
        planes = (logprobs_NK.astype("<f2"), (ids_NK & 0xFFFF).astype("<u2"), ids_NK >> 16 != 0)
        return zstd.compress(b"".join(p.tobytes() for p in planes), asbytes=True)

    def decode(block: bytes) -> Any:
        raw, size = zstd.decompress(block, 5 * num * top_k, asbytes=True), num * top_k
        low = np.frombuffer(raw, "<u2", size, 2 * size).astype(np.int64)
        high = np.frombuffer(raw, np.uint8, size, 4 * size).astype(np.int64)
        values = np.frombuffer(raw, "<f2", size).astype(np.float32)
        return (low | (high << 16)).reshape(num, top_k), values.reshape(num, top_k)

    return Format(encode, decode, num * top_k)


def distillkit(logprobs_NK: np.ndarray, ids_NK: np.ndarray, vocab_size: int) -> Format:
    """DistillKit's small codec: ids in the vocabulary's bits, some values in float16, the rest a
    polynomial of degree 4 over the rank (in float64 over [0, 1]: as it ought to be), bits eager.
    """
    num, top_k = ids_NK.shape
    exact, degree, id_bits = 4, 4, bits.width_of(vocab_size - 1)
    powers = np.linspace(0, 1, top_k - exact)[:, None] ** np.arange(degree + 1)
    solve = np.linalg.pinv(powers)
    weights = 1 << np.arange(id_bits)

    def encode() -> bytes:
        spread = ((ids_NK[..., None] >> np.arange(id_bits)) & 1).astype(np.uint8)
        packed = np.packbits(spread.reshape(num, -1), axis=1, bitorder="little")
        fitted = logprobs_NK[:, exact:] @ solve.T
        values = [logprobs_NK[:, :exact].astype("<f2"), fitted.astype("<f2")]
        return b"".join([packed.tobytes(), *(v.tobytes() for v in values)])

    def decode(block: bytes) -> Any:
        width = -(-top_k * id_bits // 8)
        packed = np.frombuffer(block, np.uint8, num * width).reshape(num, width)
        spread = np.unpackbits(packed, axis=1, bitorder="little")[:, : top_k * id_bits]
        ids = (spread.reshape(num, top_k, id_bits) * weights).sum(-1)
        rest = np.frombuffer(block, "<f2", offset=num * width).astype(np.float32)
        head, fitted = rest[: num * exact], rest[num * exact :].reshape(num, degree + 1)
        tail = fitted @ powers.T.astype(np.float32)
        return ids, np.concatenate([head.reshape(num, exact), tail], 1)

    return Format(encode, decode, num * top_k)
