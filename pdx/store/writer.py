"""Capture: one teacher pass over the windows, shard by shard."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pdx.data import Windows
from pdx.files import require_space, write_bytes
from pdx.frozen import FrozenTeacher
from pdx.reduce import chunk_size
from pdx.signal import Rows
from pdx.store.format import Layout, checksum, shard_path


def tokens_digest(ids: np.ndarray) -> int:
    """64-bit digest of one window's L + 1 input ids."""
    raw = np.ascontiguousarray(ids, dtype="<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def capture(
    directory: Path,
    layout: Layout,
    windows: Windows,
    teacher: FrozenTeacher,
    num_windows: int,
    batch_windows: int,
) -> None:
    """Write every missing shard that the first ``num_windows`` windows need.

    A shard is written to a temporary name, fsynced and renamed: a killed capture resumes at the
    first missing one. The caller holds the store's lock.
    """
    shards = layout.missing(directory, num_windows)
    if not shards:
        return
    for half_written in directory.glob(".shard-*"):  # of a capture that was killed
        half_written.unlink()
    require_space(directory, sum(layout.shard_bytes(s) for s in shards), "this capture")
    tokens = sum(layout.bounds(s)[1] - layout.bounds(s)[0] for s in shards) * layout.seq_len
    with tqdm(total=tokens, desc="capture", unit="tok", unit_scale=True) as bar:
        for shard in shards:
            start, stop = layout.bounds(shard)
            records = np.zeros(stop - start, dtype=layout.record)
            for first in range(start, stop, batch_windows):
                last = min(first + batch_windows, stop)
                part = records[first - start : last - start]
                fill(part, layout, windows, teacher, np.arange(first, last))
                bar.update((last - first) * layout.seq_len)
            write_bytes(shard_path(directory, shard), records.tobytes())


@torch.no_grad()
def fill(
    records: np.ndarray,
    layout: Layout,
    windows: Windows,
    teacher: FrozenTeacher,
    index_B: np.ndarray,
) -> None:
    """Fill the records of the windows ``index_B`` in place."""
    batch = windows.batch(index_B).to(teacher.device)
    hidden_ND = teacher.hidden(batch)
    targets_N = batch.targets_BL.reshape(-1)
    shape = (len(index_B), layout.seq_len)
    size = chunk_size(teacher.head.vocab_size)
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, len(hidden_ND), size):
        logits_CV = teacher.head(hidden_ND[start : start + size]).float()
        rows = Rows.of(logits_CV, layout.top_k, layout.temperatures)
        logprobs_CV = logits_CV - rows.lse[1.0][:, None]
        target_C1 = targets_N[start : start + size, None]
        columns_of_chunk = {
            "ids": rows.ids_NK,
            "logits": rows.logits_NK,
            "lse": torch.stack([rows.lse[t] for t in layout.temperatures], -1),
            "target_logprob": logprobs_CV.gather(-1, target_C1)[:, 0],
            "entropy": -(logprobs_CV.exp() * logprobs_CV).sum(-1),
            "logit_std": logits_CV.std(-1, correction=0),
        }
        for name, column in columns_of_chunk.items():
            columns.setdefault(name, []).append(column.cpu())
    for name, parts in columns.items():
        column = torch.cat(parts).numpy()
        records[name] = column.reshape(*shape, *column.shape[1:])
    for record, ids in zip(records, windows.ids(index_B), strict=True):
        record["tokens_digest"] = tokens_digest(ids)
        record["checksum"] = checksum(record)
