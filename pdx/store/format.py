"""How a store lies on the disk: shards of windows, each with an index of blocks; see docs."""

import os
import struct
import weakref
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pdx.errors import StoreError

FORMAT_VERSION = 2
# What a file of a shard holds: the teacher's rows (None), or the hidden states of a layer.
Part = int | None
# magic, format version, windows, first window, file size, store id, ranks' CRC, CRC of all before
# (this field left out) and of the index
HEADER = struct.Struct("<8sIIQQ16sII")
INDEX = np.dtype([("end", "<u8"), ("tokens_digest", "<u8"), ("checksum", "<u4")])


@dataclass(frozen=True)
class Layout:
    """Which windows lie in which shard.

    Attributes:
        num_windows: windows of the whole split; a store may hold only some shards of them.
        hidden_layers: whose hidden states are kept beside the rows.
        columns: names of the float32 columns that every block begins with.
    """

    num_windows: int
    windows_per_shard: int
    seq_len: int
    temperatures: tuple[float, ...]
    hidden_layers: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The files of each shard."""
        return (None, *self.hidden_layers)

    @property
    def columns(self) -> tuple[str, ...]:
        lse = (f"lse@{t:g}" for t in self.temperatures)
        return (*lse, "target_logprob", "entropy", "logit_std")

    @property
    def num_shards(self) -> int:
        return -(-self.num_windows // self.windows_per_shard)

    def shards_for(self, num_windows: int) -> int:
        """How many shards hold the first ``num_windows`` windows."""
        return -(-min(num_windows, self.num_windows) // self.windows_per_shard)

    def whole_shards(self, num_windows: int) -> int:
        """Windows of all shards that hold the first ``num_windows``."""
        return self.bounds(self.shards_for(num_windows) - 1)[1]

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last-plus-one window of a shard."""
        start = shard * self.windows_per_shard
        return start, min(start + self.windows_per_shard, self.num_windows)

    def missing(self, directory: Path, num_windows: int) -> list[int]:
        """Shards that the first ``num_windows`` windows need and that are not there."""
        return [s for s in range(self.shards_for(num_windows)) if self.lacking(directory, s)]

    def lacking(self, directory: Path, shard: int) -> list[Part]:
        """What of a shard is not there."""
        return [part for part in self.parts if not shard_path(directory, shard, part).exists()]


def shard_path(directory: Path, shard: int, part: Part = None) -> Path:
    """One file of a shard."""
    name = "shard" if part is None else f"hidden{part:03d}"
    return directory / f"{name}-{shard:05d}.bin"


def magic(part: Part) -> bytes:
    """How a file begins, so that none is taken for another."""
    return b"pdxstore" if part is None else f"pdxh{part:+04d}".encode()


def block_of(planes: list[bytes]) -> bytes:
    """Planes with their lengths before them."""
    lengths = np.array([len(p) for p in planes], "<u4")
    return b"".join([lengths.tobytes(), *planes])


def planes_of(block: memoryview, num_planes: int) -> list[memoryview]:
    """The planes of a block."""
    ends = np.frombuffer(block[: 4 * num_planes], "<u4").cumsum(dtype=np.int64) + 4 * num_planes
    bounds = [4 * num_planes, *ends.tolist()]
    return [block[a:b] for a, b in pairwise(bounds)]


def shard_of(
    blocks: list[bytes],
    digests: list[int],
    first_window: int,
    store_id: str,
    ranks_crc: int,
    part: Part = None,
) -> bytes:
    """One file of a shard, whole."""
    index = np.zeros(len(blocks), INDEX)
    index["end"] = np.cumsum([len(b) for b in blocks])
    index["end"] += HEADER.size + index.nbytes
    index["tokens_digest"] = digests
    index["checksum"] = [zlib.crc32(b) for b in blocks]
    size = HEADER.size + index.nbytes + sum(len(b) for b in blocks)
    fields = (FORMAT_VERSION, len(blocks), first_window, size, store_id.encode(), ranks_crc)
    head = HEADER.pack(magic(part), *fields, 0)[:-4]
    crc = zlib.crc32(index.tobytes(), zlib.crc32(head))
    return b"".join([head, struct.pack("<I", crc), index.tobytes(), *blocks])


class Shard:
    """One file of a shard, open: blocks by window.

    Blocks are read and not mapped (docs/decisions/0021): of a store of any size a process holds
    what it has just asked for.

    Raises:
        StoreError: not a whole shard of this store, naming what is wrong.
    """

    def __init__(
        self,
        path: Path,
        bounds: tuple[int, int],
        store_id: str,
        ranks_crc: int,
        part: Part = None,
    ) -> None:
        self.path = path
        self.first, stop = bounds
        mend = "delete it and run the same command again: only missing shards are captured."
        if not path.exists():
            raise StoreError(
                f"{path}: is missing; run the same command again: only missing shards are captured."
            )
        size = path.stat().st_size
        if size < HEADER.size:
            raise StoreError(f"{path}: has {size} bytes, not even a header; {mend}")
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        head = os.pread(self._file, HEADER.size, 0)
        begins, version, count, first, said, owner, ranks, crc = HEADER.unpack(head)
        if begins != magic(part) or version != FORMAT_VERSION:
            what = "shard" if part is None else f"shard of hidden states of layer {part}"
            raise StoreError(f"{path}: is no {what} of format {FORMAT_VERSION}; {mend}")
        if size != said:
            raise StoreError(f"{path}: has {size} bytes, not {said}; {mend}")
        index = os.pread(self._file, count * INDEX.itemsize, HEADER.size)
        if zlib.crc32(index, zlib.crc32(head[:-4])) != crc:
            raise StoreError(f"{path}: its header or index was altered (checksum); {mend}")
        if owner.decode() != store_id:
            raise StoreError(
                f"{path}: is of store {owner.decode()}, another teacher's or other data's, and "
                f"lies in {store_id}; {mend}"
            )
        if (first, count) != (self.first, stop - self.first):
            raise StoreError(
                f"{path}: holds windows {first} to {first + count - 1}, not {self.first} to "
                f"{stop - 1}; {mend}"
            )
        if ranks != ranks_crc:
            raise StoreError(f"{path}: was written with other ranks than ranks.bin; {mend}")
        self.index = np.frombuffer(index, INDEX)
        self.start = HEADER.size + count * INDEX.itemsize

    def block(self, window: int) -> tuple[memoryview, int]:
        """A window's block, checked, and the digest of the tokens that it was captured for."""
        i = window - self.first
        start = int(self.index["end"][i - 1]) if i else self.start
        block = memoryview(os.pread(self._file, int(self.index["end"][i]) - start, start))
        if zlib.crc32(block) != self.index["checksum"][i]:
            raise StoreError(
                f"{self.path}: the block of window {window} was altered (checksum); delete this "
                "shard and run the same command again: only missing shards are captured."
            )
        return block, int(self.index["tokens_digest"][i])
