"""Capture: one teacher pass over the windows, shard by shard, bytes made and written behind it."""

import errno
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pdx.data import Windows
from pdx.errors import StoreError
from pdx.files import locked, require_space, write_bytes
from pdx.frozen import FrozenTeacher
from pdx.store.background import Background
from pdx.store.codecs.row import Columns
from pdx.store.columns import reduce
from pdx.store.format import Part, block_of, shard_of, shard_path
from pdx.store.reader import Store, tokens_digest
from pdx.store.states import bytes_per_position, encode

RING_BATCHES = 4  # batches that the teacher may be ahead of the disk


@dataclass
class Claim:
    """A shard that this process captures, and the lock that says so.

    Attributes:
        blocks: of each part of it that is not there yet.
    """

    shard: int
    lock: ExitStack
    blocks: dict[Part, list[bytes]]
    digests: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What left the device of one batch of windows.

    Attributes:
        copied: when the copies to the host have arrived; None where there was nothing to copy.
    """

    claim: Claim
    index_B: np.ndarray
    columns: dict[str, Tensor]
    copied: torch.cuda.Event | None
    is_last: bool


def capture(
    store: Store,
    windows: Windows,
    teacher: FrozenTeacher,
    num_windows: int,
    batch_windows: int,
    bytes_per_token: float,
    compiled: bool = False,
) -> None:
    """Write every missing shard that the first ``num_windows`` windows need.

    A store that was captured without hidden states gets them beside its rows, which stay. A file is
    written to a temporary name, fsynced and renamed: a killed capture resumes at the first missing
    one. Any number of processes may capture one store: each takes shards that nobody has locked.
    Batches begin at a shard's start, so who captures it makes no difference.

    Args:
        compiled: as ``env.compile_capture``.

    Raises:
        StoreError: the disk is full; what is whole stays.
    """
    directory, layout = store.directory, store.layout
    sizes: dict[Part, float] = dict.fromkeys(
        layout.hidden_layers, bytes_per_position(teacher.head.weight_VD.shape[1])
    )
    sizes[None] = bytes_per_token
    todo, needed = 0, 0.0
    for shard in layout.missing(directory, num_windows):
        start, stop = layout.bounds(shard)
        todo += (positions := (stop - start) * layout.seq_len)
        needed += positions * sum(sizes[part] for part in layout.lacking(directory, shard))
    require_space(directory, int(needed), "this capture")

    def work(batch: Batch) -> None:
        _encode(store, windows, batch)

    with tqdm(total=todo, desc="capture", unit="tok", unit_scale=True) as bar:
        while missing := layout.missing(directory, num_windows):
            with Background(work, RING_BATCHES) as ring:
                taken = 0
                for shard in missing:
                    claim = _claim(store, shard)
                    if claim is None:
                        continue
                    taken += 1
                    start, stop = layout.bounds(shard)
                    for first in range(start, stop, batch_windows):
                        index_B = np.arange(first, min(first + batch_windows, stop))
                        columns, copied = reduce(
                            store, windows, teacher, index_B, claim.blocks, compiled
                        )
                        ring.put(Batch(claim, index_B, columns, copied, index_B[-1] + 1 == stop))
                        bar.update(len(index_B) * layout.seq_len)
            if not taken:  # all that is missing is being captured by others: wait for one
                _wait_for(store, missing[0])


def _lock_path(directory: Path, shard: int) -> Path:
    return shard_path(directory, shard).with_suffix(".lock")


def _claim(store: Store, shard: int) -> Claim | None:
    """Take a shard, unless it is there or another process has it."""
    directory, lock = store.directory, ExitStack()
    if not lock.enter_context(locked(_lock_path(directory, shard), wait=False)):
        return None
    lacking = _lacking(store, shard)
    if not lacking:
        lock.close()
        return None
    for part in lacking:
        for half_written in directory.glob(f".{shard_path(directory, shard, part).name}.*"):
            half_written.unlink()  # of a capture that was killed
    return Claim(shard, lock, {part: [] for part in lacking})


def _wait_for(store: Store, shard: int) -> None:
    """Until the process that captures a shard has done so, or is gone."""
    with locked(_lock_path(store.directory, shard)):
        _lacking(store, shard)


def _lacking(store: Store, shard: int) -> list[Part]:
    """What of a shard is not there; of one that is, no lock stays that a late comer made."""
    lacking = store.layout.lacking(store.directory, shard)
    if not lacking:
        _lock_path(store.directory, shard).unlink(missing_ok=True)
    return lacking


def _encode(store: Store, windows: Windows, batch: Batch) -> None:
    """Make blocks of a batch; write the shard when it was the last."""
    if batch.copied is not None:
        batch.copied.synchronize()
    shape, claim = (len(batch.index_B), store.layout.seq_len), batch.claim
    columns: Columns = {
        name: column.numpy().reshape(*shape, *column.shape[1:])
        for name, column in batch.columns.items()
    }
    for part, blocks in claim.blocks.items():
        if part is None:
            blocks.extend(blocks_of(store, columns))
        else:
            kept = zip(columns[f"codes@{part}"], columns[f"steps@{part}"], strict=True)
            blocks.extend(encode(codes_LD, steps_LG) for codes_LD, steps_LG in kept)
    claim.digests.extend(tokens_digest(tokens) for tokens in windows.ids(batch.index_B))
    if batch.is_last:
        for part, blocks in claim.blocks.items():
            write_shard(store, claim.shard, blocks, claim.digests, part)
        _lock_path(store.directory, claim.shard).unlink(missing_ok=True)
        claim.lock.close()


def blocks_of(store: Store, columns: Columns) -> list[bytes]:
    """A block of rows for each window, of columns [B, L, ...]."""
    blocks = []
    for b in range(len(columns["entropy"])):
        window = {name: column[b] for name, column in columns.items()}
        planes = store.codec.encode(window)
        floats = np.stack([window[name] for name in store.layout.columns]).astype("<f4")
        blocks.append(block_of([floats.tobytes(), *planes]))
    return blocks


def write_shard(
    store: Store, shard: int, blocks: list[bytes], digests: list[int], part: Part = None
) -> None:
    """Write one file of a shard, whole.

    Raises:
        StoreError: the disk is full.
    """
    first = store.layout.bounds(shard)[0]
    payload = shard_of(blocks, digests, first, store.id, store.ranks_crc, part)
    path = shard_path(store.directory, shard, part)
    try:
        write_bytes(path, payload)
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{path}: the disk is full; the shards that are whole stay: free some space "
            "(`pdx gc` lists what no sweep needs) and run the same command again."
        ) from err
