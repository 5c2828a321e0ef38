"""The logits store against other formats: bytes, encode and decode, on the same rows.

One thread, CPU time, interleaved repetitions. Peers' formats: ``formats.py``.
"""

import argparse
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import numpy as np
import torch
from formats import Format, distillkit, drawn, megatron, ours, rows, three_bytes, unigram

from pdx.draws import draw
from pdx.store.codecs.head_sampled import HeadSampledCodec
from pdx.store.codecs.row import dense
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.codecs.topk import TopKCodec
from pdx.store.format import block_of, planes_of

WINDOW = 2048  # positions of a block
MARK = 128_256  # the vocabulary of the table
VOCABULARIES = (8_192, 32_768, MARK, 262_144)
GROWTH_K = (1, 4, 16, 64, 256)


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
                f"{what}_tokens_per_second": harness.spread(found)
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


def by_k(logits_NV: torch.Tensor, repeats: int) -> dict[str, dict[str, Any]]:
    """How rows grow with what is kept of each."""
    vocab_size = logits_NV.shape[1]
    ids_V = np.argsort(-unigram(vocab_size)).astype(np.int32)
    lse_N, offset_N = logits_NV.logsumexp(-1), torch.arange(len(logits_NV))
    found = {}
    for size in GROWTH_K:
        codecs: dict[str, Any] = {
            f"topk({size})": TopKCodec(size, 1.0, vocab_size, (1.0,)),
            f"sampled({size})": SampledCodec(size, 0, vocab_size, ids_V),
        }
        for name, codec in codecs.items():
            reduced = {"lse@1": lse_N} | codec.reduce(logits_NV, lse_N, offset_N)
            found[name] = ours(codec, {key: column.numpy() for key, column in reduced.items()})
    return measure(found, len(logits_NV), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="not used: bytes are made on the CPU")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"window": WINDOW, "by_vocabulary": {}}
    for vocab_size in VOCABULARIES:
        logits_NV = rows(vocab_size, WINDOW, 0)
        draws_NJ = draw(logits_NV, torch.arange(len(logits_NV)), 50, 0).numpy()
        formats = formats_of(logits_NV, draws_NJ, 50)
        found: dict[str, Any] = {"formats": measure(formats, len(logits_NV), options.repeats)}
        if vocab_size == MARK:
            top = logits_NV.topk(50)
            steps_NK = np.rint((top.values[:, :1] - top.values).numpy() * 32).astype(np.int64)
            found["rows"] = statistics(logits_NV, draws_NJ)
            ranks_V = np.argsort(np.argsort(-unigram(vocab_size)))
            ranks = ranks_V[draws_NJ], ranks_V[top.indices.numpy()]
            found["entropy_bound_bytes"] = bounds(*ranks, steps_NK)
            found["quantisation_kl_nats"] = lost(logits_NV, 50)
            result["by_k"] = by_k(logits_NV, options.repeats)
        result["by_vocabulary"][vocab_size] = found
        print(f"V={vocab_size} done", file=sys.stderr)
    harness.save("store", result)
    harness.write_section("store", section(result))


HEADER = ("", "B/token", "B/entry", "encode, M tok/s", "decode, M tok/s")


def lines_of(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line for each way to write the rows."""
    return [
        [
            name,
            f"{row['bytes_per_token']:.1f}",
            f"{row['bytes_per_entry']:.2f}",
            *(
                harness.shown({k: v / 1e6 for k, v in row[f"{what}_tokens_per_second"].items()})
                for what in ("encode", "decode")
            ),
        ]
        for name, row in found.items()
    ]


def section(result: dict[str, Any]) -> str:
    """What stands in README.md."""
    grown = [
        [f"{name}, V={vocab_size:,}", *line]
        for vocab_size, found in result["by_vocabulary"].items()
        for name, *line in lines_of(found["formats"])
        if name.startswith("pdx")
    ]
    return "\n".join(
        [
            "## The logits store",
            "",
            f"{WINDOW:,} synthetic rows at V={MARK:,} with the statistics of a language model's; "
            "one block; decoding includes padding to a dense [N, K]. CPU time of one thread.",
            "",
            harness.table(HEADER, lines_of(result["by_vocabulary"][MARK]["formats"])),
            "",
            "Growth with the vocabulary:",
            "",
            harness.table(HEADER, grown),
            "",
            f"Growth with what is kept of each position, V={MARK:,} (`sampled` with its argmax):",
            "",
            harness.table(HEADER, lines_of(result["by_k"])),
            "",
            harness.machine_line(),
        ]
    )


if __name__ == "__main__":
    main()
