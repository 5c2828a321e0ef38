"""The logits store against other formats: bytes, encode and decode, on the same rows.

Peers' formats are re-stated from their documented layout, not their code: RS-KD's 17 + 7 bits an
id (arXiv:2503.16870), DistillKit's bit-packed ids with an exact head and a polynomial tail, and
Megatron-LM's float16 + uint16 + bool under zstd. One thread, CPU time, interleaved repetitions.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import torch

from pdx.draws import draw
from pdx.store import bits
from pdx.store.codecs.head_sampled import HeadSampledCodec
from pdx.store.codecs.row import dense
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.codecs.topk import TopKCodec
from pdx.store.format import block_of, planes_of

HERE = Path(__file__).parent
WINDOW = 2048  # positions of a block
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


def statistics(logits_NV: torch.Tensor, draws_NJ: np.ndarray) -> dict[str, float]:
    """What the rows look like."""
    logprobs_NV = logits_NV.double().log_softmax(-1)
    top_NK = logprobs_NV.exp().topk(min(50, logits_NV.shape[1])).values
    return {
        "entropy_nats": float(-(logprobs_NV.exp() * logprobs_NV).sum(-1).mean()),
        "top_1": float(top_NK[:, 0].mean()),
        "mass_at_50": float(top_NK.sum(-1).mean()),
        "distinct_ids": float(np.mean([len(set(d)) for d in draws_NJ.tolist()])),
    }


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


def entropy_of(values: np.ndarray) -> float:
    """Bits a value of order 0."""
    counts = np.unique(values, return_counts=True)[1] / values.size
    return float(-(counts * np.log2(counts)).sum())


def bounds(draws_NJ: np.ndarray, ids_NK: np.ndarray, steps_NK: np.ndarray) -> dict[str, float]:
    """Bytes a row that an ideal coder of independent symbols would take.

    Draws: a set of distinct ids from their own unigram (its estimate over exponents and, within
    one, uniform), unordered, and counts. Logits: ids in order from their unigram, and gaps.
    """

    def id_bits(ids: np.ndarray) -> float:
        exponents = np.frexp(ids + 1.0)[1] - 1
        return entropy_of(exponents) + float(exponents.mean())

    distinct = [np.unique(d, return_counts=True) for d in draws_NJ]
    num = np.array([len(ids) for ids, _ in distinct])
    free = np.log2(np.cumprod(np.arange(1.0, num.max() + 1)))[num - 1].mean()
    of_ids = num.mean() * id_bits(np.concatenate([ids for ids, _ in distinct]))
    of_counts = num.mean() * entropy_of(np.concatenate([c for _, c in distinct]))
    gaps = np.diff(steps_NK, axis=1)
    of_topk = ids_NK.shape[1] * id_bits(ids_NK.reshape(-1)) + gaps.shape[1] * entropy_of(gaps)
    return {
        "sampled": (of_ids - free + of_counts + entropy_of(num)) / 8,
        "topk_per_entry": of_topk / 8 / ids_NK.shape[1],
    }


def formats_of(logits_NV: torch.Tensor, draws_NJ: np.ndarray, top_k: int) -> dict[str, Format]:
    """Every format on the same rows."""
    num, vocab_size = logits_NV.shape
    num_draws = draws_NJ.shape[1]
    ids_V = np.argsort(-unigram(vocab_size)).astype(np.int32)
    offset_N, lse_N = torch.arange(num), logits_NV.logsumexp(-1)
    topk, head = (TopKCodec(k, 1.0, vocab_size, (1.0,)) for k in (top_k, 8))
    sampled = SampledCodec(num_draws, 0, vocab_size, ids_V)
    both = HeadSampledCodec(head, SampledCodec(16, 0, vocab_size, ids_V))
    kept = logits_NV.topk(top_k)
    logprobs_NK, ids_NK = (kept.values - lse_N[:, None]).numpy(), kept.indices.numpy()

    def columns(codec: Any) -> dict[str, np.ndarray]:
        reduced = {"lse@1": lse_N} | codec.reduce(logits_NV, lse_N, offset_N)
        return {name: column.numpy() for name, column in reduced.items()}

    found = {
        f"pdx sampled({num_draws})": drawn(sampled, draws_NJ),
        "3 bytes an id": three_bytes(draws_NJ, vocab_size, False),
        "3 bytes an id, zstd": three_bytes(draws_NJ, vocab_size, True),
        "pdx head_sampled(8+16)": ours(both, columns(both)),
        f"pdx topk({top_k})": ours(topk, columns(topk)),
        f"DistillKit({top_k}), re-stated": distillkit(logprobs_NK, ids_NK, vocab_size),
    }
    if vocab_size <= 2**17:  # its limit
        found[f"Megatron-LM({top_k}), re-stated"] = megatron(logprobs_NK, ids_NK)
    return found


def measure(formats: dict[str, Format], num: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Bytes, and tokens per CPU second: repetitions of all formats in turn."""
    blocks = {name: f.encode() for name, f in formats.items()}
    speeds: dict[str, dict[str, list[float]]] = {n: {"encode": [], "decode": []} for n in formats}
    for _ in range(repeats):
        for name, format_ in formats.items():
            for what, work in (
                ("encode", format_.encode),
                ("decode", lambda f=format_, n=name: f.decode(blocks[n])),
            ):
                start = time.process_time()
                for _ in range(3):
                    work()
                speeds[name][what].append(3 * num / (time.process_time() - start))
    return {
        name: {
            "bytes_per_token": len(blocks[name]) / num,
            "bytes_per_entry": len(blocks[name]) / formats[name].entries,
            **{
                f"{what}_tokens_per_second": dict(
                    zip(
                        ("median", "min", "max"),
                        (float(np.median(found)), min(found), max(found)),
                        strict=True,
                    )
                )
                for what, found in speeds[name].items()
            },
        }
        for name in formats
    }


def lost(logits_NV: torch.Tensor, top_k: int) -> dict[str, float]:
    """KL that logits in steps lose, kept tokens and rest as one, at each temperature."""
    heats = (0.5, 1.0, 2.0)
    codec = TopKCodec(top_k, 1.0, logits_NV.shape[1], heats)
    lse = {f"lse@{t:g}": (logits_NV / t).logsumexp(-1) for t in heats}
    reduced = lse | codec.reduce(logits_NV, lse["lse@1"], torch.arange(len(logits_NV)))
    columns = {name: column.numpy() for name, column in reduced.items()}
    planes = planes_of(memoryview(block_of(codec.encode(columns))), codec.num_planes)
    _, found_NK = dense(codec.decode([planes], len(logits_NV), np.zeros(1), 0), len(logits_NV), 0)
    true_NK = logits_NV.double().topk(top_k).values.numpy()
    out = {}
    for heat in heats:
        true = true_NK / heat - lse[f"lse@{heat:g}"].double().numpy()[:, None]
        found = found_NK / heat - columns[f"lse@{heat:g}"][:, None]
        kl_N = (np.exp(true) * (true - found)).sum(1)
        out |= {f"mean@{heat:g}": float(kl_N.mean()), f"max@{heat:g}": float(kl_N.max())}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "store.json")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
        },
        "window": WINDOW,
        "by_vocabulary": {},
        "by_k": {},
    }
    for vocab_size in (8_192, 32_768, 128_256, 262_144):
        logits_NV = rows(vocab_size, WINDOW, 0)
        draws_NJ = draw(logits_NV, torch.arange(len(logits_NV)), 50, 0).numpy()
        formats = formats_of(logits_NV, draws_NJ, 50)
        found: dict[str, Any] = {"formats": measure(formats, len(logits_NV), options.repeats)}
        if vocab_size == 128_256:
            top = logits_NV.topk(50)
            steps_NK = np.rint((top.values[:, :1] - top.values).numpy() * 32).astype(np.int64)
            found["rows"] = statistics(logits_NV, draws_NJ)
            ranks_V = np.argsort(np.argsort(-unigram(vocab_size)))
            ranks = ranks_V[draws_NJ], ranks_V[top.indices.numpy()]
            found["entropy_bound_bytes"] = bounds(*ranks, steps_NK)
            found["quantisation_kl_nats"] = lost(logits_NV, 50)
            for top_k in (1, 4, 16, 64, 256):
                codec = TopKCodec(top_k, 1.0, vocab_size, (1.0,))
                lse_N = logits_NV.logsumexp(-1)
                reduced = {"lse@1": lse_N} | codec.reduce(logits_NV, lse_N, lse_N)
                columns = {name: column.numpy() for name, column in reduced.items()}
                size = len(block_of(codec.encode(columns))) / len(logits_NV)
                result["by_k"][top_k] = {"per_token": size, "per_entry": size / top_k}
        result["by_vocabulary"][vocab_size] = found
        print(f"V={vocab_size} done", file=sys.stderr)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """Markdown, at a vocabulary of 128,256."""
    found = result["by_vocabulary"].get(128_256) or result["by_vocabulary"]["128256"]
    lines = [
        "| format | B/token | B/entry | encode, M tok/s (min-max) | decode, M tok/s (min-max) |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["formats"].items():
        speeds = [
            f"{s['median'] / 1e6:.2f} ({s['min'] / 1e6:.2f}-{s['max'] / 1e6:.2f})"
            for s in (row["encode_tokens_per_second"], row["decode_tokens_per_second"])
        ]
        sizes = f"{row['bytes_per_token']:.1f} | {row['bytes_per_entry']:.2f}"
        lines.append(f"| {name} | {sizes} | {speeds[0]} | {speeds[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
