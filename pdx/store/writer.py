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
from pdx.reduce import chunk_size
from pdx.store.background import Background
from pdx.store.codecs.row import Columns
from pdx.store.format import block_of, shard_of, shard_path
from pdx.store.reader import Store, tokens_digest

RING_BATCHES = 4  # batches that the teacher may be ahead of the disk


@dataclass
class Claim:
    """A shard that this process captures, and the lock that says so."""

    shard: int
    lock: ExitStack
    blocks: list[bytes] = field(default_factory=list)
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
) -> None:
    """Write every missing shard that the first ``num_windows`` windows need.

    A shard is written to a temporary name, fsynced and renamed: a killed capture resumes at the
    first missing one. Any number of processes may capture one store: each takes shards that
    nobody has locked. Batches begin at a shard's start, so who captures it makes no difference.

    Raises:
        StoreError: the disk is full; what is whole stays.
    """
    directory, layout = store.directory, store.layout
    bounds = [layout.bounds(shard) for shard in layout.missing(directory, num_windows)]
    todo = sum(stop - start for start, stop in bounds) * layout.seq_len
    require_space(directory, int(todo * bytes_per_token), "this capture")

    def work(batch: Batch) -> None:
        _encode(store, windows, batch)

    with tqdm(total=todo, desc="capture", unit="tok", unit_scale=True) as bar:
        while missing := layout.missing(directory, num_windows):
            with Background(work, RING_BATCHES) as ring:
                taken = 0
                for shard in missing:
                    claim = _claim(directory, shard)
                    if claim is None:
                        continue
                    taken += 1
                    start, stop = layout.bounds(shard)
                    for first in range(start, stop, batch_windows):
                        index_B = np.arange(first, min(first + batch_windows, stop))
                        columns, copied = reduce(store, windows, teacher, index_B)
                        ring.put(Batch(claim, index_B, columns, copied, index_B[-1] + 1 == stop))
                        bar.update(len(index_B) * layout.seq_len)
            if not taken:  # all that is missing is being captured by others: wait for one
                _wait_for(directory, missing[0])


def _lock_path(directory: Path, shard: int) -> Path:
    return shard_path(directory, shard).with_suffix(".lock")


def _claim(directory: Path, shard: int) -> Claim | None:
    """Take a shard, unless it is there or another process has it."""
    lock = ExitStack()
    if not lock.enter_context(locked(_lock_path(directory, shard), wait=False)):
        return None
    if _unlink_if_done(directory, shard):
        lock.close()
        return None
    for half_written in directory.glob(f".{shard_path(directory, shard).name}.*"):
        half_written.unlink()  # of a capture that was killed
    return Claim(shard, lock)


def _wait_for(directory: Path, shard: int) -> None:
    """Until the process that captures a shard has done so, or is gone."""
    with locked(_lock_path(directory, shard)):
        _unlink_if_done(directory, shard)


def _unlink_if_done(directory: Path, shard: int) -> bool:
    """Whether a shard is there; its lock, which its holder or a late comer made, is then not."""
    done = shard_path(directory, shard).exists()
    if done:
        _lock_path(directory, shard).unlink(missing_ok=True)
    return done


@torch.no_grad()
def reduce(
    store: Store, windows: Windows, teacher: FrozenTeacher, index_B: np.ndarray
) -> tuple[dict[str, Tensor], "torch.cuda.Event | None"]:
    """What a store keeps of the windows ``index_B``, on its way to the host: [B * L, ...] each."""
    batch = windows.batch(index_B).to(teacher.device)
    hidden_ND = teacher.hidden(batch)
    targets_N = batch.targets_BL.reshape(-1)
    length = store.layout.seq_len
    offsets = torch.from_numpy(index_B)[:, None] * length + torch.arange(length)
    offset_N = offsets.reshape(-1).to(teacher.device)
    size = chunk_size(teacher.head.vocab_size)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(hidden_ND), size):
        stop = start + size
        logits_CV = teacher.logits(hidden_ND[start:stop]).float()
        columns = columns_of(store, logits_CV, targets_N[start:stop], offset_N[start:stop])
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
    whole = {name: torch.cat(columns) for name, columns in parts.items()}
    if teacher.device.type != "cuda":
        return whole, None
    pinned = {
        name: torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(
            column, non_blocking=True
        )
        for name, column in whole.items()
    }
    copied = torch.cuda.Event()
    copied.record()
    return pinned, copied


def columns_of(
    store: Store, logits_CV: Tensor, targets_C: Tensor, offset_C: Tensor
) -> dict[str, Tensor]:
    """What a store keeps of a chunk of logits, which stay as they are; float32, [C, ...] each."""
    columns = float_columns(logits_CV, targets_C, store.layout.temperatures)
    return columns | store.codec.reduce(logits_CV, columns["lse@1"], offset_C)


def float_columns(
    logits_CV: Tensor, targets_C: Tensor, temperatures: tuple[float, ...]
) -> dict[str, Tensor]:
    """The float32 columns that every kind of store keeps, in as few passes as they need."""
    top_C1 = logits_CV.amax(-1, keepdim=True)
    under_CV = logits_CV - top_C1
    probs_CV = under_CV.exp()
    mass = {1.0: probs_CV.sum(-1)}
    for heat in temperatures:
        if heat == 0.5:
            mass[heat] = torch.linalg.vecdot(probs_CV, probs_CV)
        elif heat == 2.0:
            mass[heat] = probs_CV.sqrt().sum(-1)
        elif heat != 1.0:
            mass[heat] = (under_CV / heat).exp().sum(-1)
    columns = {f"lse@{t:g}": top_C1[:, 0] / t + mass[t].log() for t in temperatures}
    target_C = logits_CV.gather(-1, targets_C[:, None])[:, 0]
    columns["target_logprob"] = target_C - columns["lse@1"]
    mean_C = torch.linalg.vecdot(probs_CV, under_CV) / mass[1.0]
    columns["entropy"] = mass[1.0].log() - mean_C
    around_CV = under_CV.sub_(under_CV.mean(-1, keepdim=True))  # four times as fast as std()
    variance_C = torch.linalg.vecdot(around_CV, around_CV) / around_CV.shape[-1]
    columns["logit_std"] = variance_C.sqrt()
    return columns


def _encode(store: Store, windows: Windows, batch: Batch) -> None:
    """Make blocks of a batch; write the shard when it was the last."""
    if batch.copied is not None:
        batch.copied.synchronize()
    shape, claim = (len(batch.index_B), store.layout.seq_len), batch.claim
    columns: Columns = {
        name: column.numpy().reshape(*shape, *column.shape[1:])
        for name, column in batch.columns.items()
    }
    blocks, digests = blocks_of(store, windows.ids(batch.index_B), columns)
    claim.blocks.extend(blocks)
    claim.digests.extend(digests)
    if batch.is_last:
        write_shard(store, claim.shard, claim.blocks, claim.digests)
        _lock_path(store.directory, claim.shard).unlink(missing_ok=True)
        claim.lock.close()


def blocks_of(store: Store, ids: np.ndarray, columns: Columns) -> tuple[list[bytes], list[int]]:
    """A block for each window, of columns [B, L, ...], and the digests of their tokens."""
    blocks, digests = [], []
    for b, tokens in enumerate(ids):
        window = {name: column[b] for name, column in columns.items()}
        planes = store.codec.encode(window)
        floats = np.stack([window[name] for name in store.layout.columns]).astype("<f4")
        blocks.append(block_of([floats.tobytes(), *planes]))
        digests.append(tokens_digest(tokens))
    return blocks, digests


def write_shard(store: Store, shard: int, blocks: list[bytes], digests: list[int]) -> None:
    """Write a shard whole.

    Raises:
        StoreError: the disk is full.
    """
    first = store.layout.bounds(shard)[0]
    payload = shard_of(blocks, digests, first, store.id, store.ranks_crc)
    path = shard_path(store.directory, shard)
    try:
        write_bytes(path, payload)
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{path}: the disk is full; the shards that are whole stay: free some space "
            "(`pdx gc` lists what no sweep needs) and run the same command again."
        ) from err
