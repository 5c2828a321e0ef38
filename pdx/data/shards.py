"""One split's tokens on disk: written as they come, read as windows."""

from pathlib import Path
from typing import Any

import numpy as np

from pdx.errors import DataError


def token_dtype(vocab_size: int) -> str:
    """The narrowest type that holds every id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def count_windows(num_tokens: int, seq_len: int, stride: int) -> int:
    """Windows of seq_len + 1 tokens that start each ``stride``."""
    return max(0, (num_tokens - seq_len - 1) // stride + 1)


class ShardWriter:
    """Appends documents to ``<split>.bin`` and keeps what each window needs to know.

    A window's bytes are those of its targets that count: eos has none, and with a document mask
    neither has a document's first token, which nothing predicts.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        dtype: str,
        seq_len: int,
        stride: int,
        document_mask: bool,
    ) -> None:
        self.directory, self.split = directory, split
        self.dtype, self.seq_len, self.stride = dtype, seq_len, stride
        self.document_mask = document_mask
        self.num_tokens = 0
        self._file = open(directory / f"{split}.bin", "wb")  # noqa: SIM115 - closed in finish
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._starts: list[int] = []  # of documents
        self._bytes_before = 0
        self._at_first: list[np.ndarray] = []  # bytes before each window's first target
        self._at_end: list[np.ndarray] = []  # ... and before what follows its last
        self._next_start = 0

    def add(self, ids: np.ndarray, num_bytes: np.ndarray) -> None:
        """One document: its ids and the bytes of each."""
        if self.document_mask:
            num_bytes = num_bytes.copy()
            num_bytes[0] = 0
        self._starts.append(self._next_start)
        self._next_start += len(ids)
        self._pending.append((ids, num_bytes))

    def flush(self) -> None:
        """Write what was added."""
        if not self._pending:
            return
        ids = np.concatenate([i for i, _ in self._pending])
        before = self._bytes_before + np.concatenate(
            [[0], np.cumsum(np.concatenate([b for _, b in self._pending]))]
        )
        self._pending = []
        self._file.write(ids.astype(self.dtype).tobytes())
        self._sample(before[:-1])
        self.num_tokens += len(ids)
        self._bytes_before = int(before[-1])

    def _sample(self, before: np.ndarray) -> None:
        """Keep the byte counts at windows' edges among the positions that ``before`` covers."""
        here, end = self.num_tokens, self.num_tokens + len(before)
        for kept, offset in ((self._at_first, 1), (self._at_end, self.seq_len + 1)):
            first = max(0, -(-(here - offset) // self.stride))
            edges = np.arange(first * self.stride + offset, end, self.stride)
            kept.append(before[edges - here])

    def finish(self) -> dict[str, Any]:
        """Close the shard; returns its facts for the manifest."""
        self.flush()
        self._file.close()
        self._sample(np.asarray([self._bytes_before]))  # an edge may lie just past the last token
        num_windows = count_windows(self.num_tokens, self.seq_len, self.stride)
        if num_windows == 0:
            raise DataError(
                f"data.seq_len={self.seq_len}: the split {self.split!r} has only "
                f"{self.num_tokens} tokens, less than one window; lower seq_len, raise "
                f"data.{self.split}_frac, or give more text."
            )
        first, end = np.concatenate(self._at_first), np.concatenate(self._at_end)
        window_bytes = end[:num_windows] - first[:num_windows]
        np.save(self.directory / f"{self.split}.window_bytes.npy", window_bytes)
        np.save(self.directory / f"{self.split}.documents.npy", np.asarray(self._starts))
        covered = (num_windows - 1) * min(self.stride, self.seq_len) + self.seq_len
        return {
            "num_tokens": self.num_tokens,
            "num_windows": num_windows,
            "num_unique_tokens": covered,
            "num_bytes": int(window_bytes.sum()),
        }


class Shard:
    """One split's windows, memory-mapped."""

    def __init__(self, directory: Path, split: str, manifest: dict[str, Any]) -> None:
        facts = manifest["splits"][split]
        self.split = split
        self.seq_len, self.stride = manifest["seq_len"], manifest["stride"]
        self.num_windows: int = facts["num_windows"]
        path = directory / f"{split}.bin"
        self.window_bytes = np.load(directory / f"{split}.window_bytes.npy", mmap_mode="r")
        self.document_starts = np.load(directory / f"{split}.documents.npy", mmap_mode="r")
        wanted = facts["num_tokens"] * np.dtype(manifest["dtype"]).itemsize
        if path.stat().st_size != wanted:
            raise DataError(
                f"{path}: holds {path.stat().st_size} bytes, its manifest says {wanted}; delete "
                f"{directory} and prepare the data again."
            )
        self.tokens = np.memmap(path, dtype=manifest["dtype"], mode="r")

    def positions(self, index_B: np.ndarray) -> np.ndarray:
        """Where each window's seq_len + 1 tokens lie, int64 [B, L+1]."""
        return index_B[:, None] * self.stride + np.arange(self.seq_len + 1)
