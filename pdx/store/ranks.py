"""Token ids by falling frequency: what makes a drawn id cheap to write."""

import zlib
from pathlib import Path

import numpy as np

from pdx.data import Windows
from pdx.errors import StoreError
from pdx.files import write_bytes

NAME = "ranks.bin"
COUNTED = 2**22  # tokens of the split that are counted: enough to order all but the rarest


def ids_by_frequency(windows: Windows, vocab_size: int) -> np.ndarray:
    """Token ids by falling count in the split's first tokens, ties by id: int32 [V]."""
    last = windows.num_windows_in(COUNTED)
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, last, 1024):
        ids = windows.ids(np.arange(start, min(start + 1024, last)))
        counts += np.bincount(ids.reshape(-1), minlength=vocab_size)
    return np.argsort(-counts, kind="stable").astype(np.int32)


def write_ranks(directory: Path, ids_V: np.ndarray) -> None:
    """Keep the order of ids in a store, with its CRC-32."""
    payload = ids_V.astype("<u4").tobytes()
    write_bytes(directory / NAME, payload + zlib.crc32(payload).to_bytes(4, "little"))


def read_ranks(directory: Path, vocab_size: int) -> tuple[np.ndarray, int]:
    """The order of ids, and its CRC-32, by which shards know it.

    Raises:
        StoreError: missing or altered.
    """
    path = directory / NAME
    raw = path.read_bytes() if path.exists() else b""
    if len(raw) != 4 * vocab_size + 4 or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise StoreError(
            f"{path}: is missing or was altered (checksum); delete the store and capture again."
        )
    return np.frombuffer(raw[:-4], "<u4").astype(np.int32), zlib.crc32(raw[:-4])
