"""A store as runs read it: opened against a manifest, checked window by window."""

import hashlib
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdx.errors import StoreError
from pdx.files import digest, read_json, write_json
from pdx.rows import NOTHING, Facts, Rows
from pdx.store.codecs.row import Window, dense
from pdx.store.format import FORMAT_VERSION, Layout, Part, Shard, planes_of, shard_path
from pdx.store.ranks import read_ranks
from pdx.store.states import States, decode

MANIFEST = "manifest.json"
OPEN_SHARDS = 256  # at once: a process may often have no more than 1,024 files open


def tokens_digest(ids: np.ndarray) -> int:
    """64-bit digest of one window's L + 1 input ids."""
    raw = np.ascontiguousarray(ids, dtype="<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


class Store:
    """Teacher rows by window; what is read is known to be what was captured for these tokens.

    Args:
        kind: the component of the store axis that captured it.

    Attributes:
        first_window: what readers call window 0: they may read a part of what was recorded.
    """

    first_window = 0

    def __init__(self, directory: Path, kind: Any, layout: Layout, vocab_size: int) -> None:
        self.directory, self.layout = directory, layout
        self.id = digest(read_json(directory / MANIFEST))
        id_of_V, self.ranks_crc = read_ranks(directory, vocab_size) if kind.ranked else (None, 0)
        self.codec = kind.codec(vocab_size, id_of_V)
        opened = partial(_opened, directory, layout, self.id, self.ranks_crc)
        self._shards = lru_cache(OPEN_SHARDS)(opened)

    @staticmethod
    def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
        """Say what the store is, before its first shard; refuse a store that says otherwise."""
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / MANIFEST).exists():
            check_manifest(directory, manifest)
        else:
            write_json(directory / MANIFEST, manifest)

    @classmethod
    def open(
        cls, directory: Path, kind: Any, layout: Layout, manifest: dict[str, Any], num_windows: int
    ) -> "Store":
        """Open a store for the first ``num_windows`` windows.

        Raises:
            StoreError: captured for something else, a shard missing, cut short or of another store.
        """
        check_manifest(directory, manifest)
        store = cls(directory, kind, layout, manifest["vocab_size"])
        for shard in range(layout.shards_for(num_windows)):
            for part in layout.parts:
                store.shard(shard, part)
        return store

    def rows(self, index_B: np.ndarray, ids: np.ndarray, num_draws: int) -> Rows:
        """The teacher's rows for whole windows, laid flat: [B * L, K].

        Args:
            index_B: windows.
            ids: the L + 1 token ids of each, as the student is about to read them, [B, L + 1].
            num_draws: of the draws that a sampled kind keeps, how many; others read none.

        Raises:
            StoreError: a block was altered, or was captured for other tokens.
        """
        length = self.layout.seq_len
        index_B = index_B + self.first_window
        blocks: list[Window] = []
        columns = np.empty((len(self.layout.columns), len(index_B), length), np.float32)
        for b, (window, tokens) in enumerate(zip(index_B, ids, strict=True)):
            planes = self._planes(int(window), tokens)
            columns[:, b] = np.frombuffer(planes[0], "<f4").reshape(-1, length)
            blocks.append(planes[1:])
        flat = len(index_B) * length
        entries = self.codec.decode(blocks, length, index_B * length, num_draws)
        ids_NK, weights_NK = dense(entries, flat, NOTHING)
        flat_columns = torch.from_numpy(columns.reshape(len(columns), flat))
        columns_of = dict(zip(self.layout.columns, flat_columns, strict=True))
        return Rows(
            ids_NK=torch.from_numpy(ids_NK),
            logits_NK=torch.from_numpy(weights_NK),
            facts=Facts(
                {t: columns_of[f"lse@{t:g}"] for t in self.layout.temperatures},
                columns_of["entropy"],
                columns_of["logit_std"],
            ),
        )

    def rows_at(self, offset_N: np.ndarray, ids: np.ndarray, num_draws: int) -> Rows:
        """The rows of single positions: offset = window * L + place in the window.

        Args:
            ids: the L + 1 token ids of each distinct window asked for, by rising window.
        """
        window_N, place_N = np.divmod(offset_N, self.layout.seq_len)
        index_B, which_N = np.unique(window_N, return_inverse=True)
        rows = self.rows(index_B, ids, num_draws)
        at_N = torch.from_numpy(which_N * self.layout.seq_len + place_N)
        return rows.at(at_N)

    def states(self, index_B: np.ndarray, ids: np.ndarray, layers: list[int]) -> list[States]:
        """Hidden states of whole windows in each of some layers; raises as ``rows`` does."""
        index_B, length = index_B + self.first_window, self.layout.seq_len
        asked = list(zip(index_B, ids, strict=True))
        return [decode([self._block(int(i), t, n) for i, t in asked], length) for n in layers]

    def hidden_size(self, layer: int) -> int:
        """How wide the hidden states of a layer are."""
        block = self._block(self.first_window, None, layer)
        return decode([block], self.layout.seq_len).codes_BLD.shape[-1]

    def check(self, index_B: np.ndarray, ids: np.ndarray) -> None:
        """Whether windows are whole and of these tokens; raises as ``rows`` does."""
        for window, tokens in zip(index_B, ids, strict=True):
            for part in self.layout.parts:
                self._block(int(window), tokens, part)

    def column(self, name: str, index_B: np.ndarray) -> np.ndarray:
        """One of the float32 columns of the format, [B, L]."""
        at, length = self.layout.columns.index(name), self.layout.seq_len
        blocks = [self._planes(int(i), None)[0] for i in index_B]
        return np.stack([np.frombuffer(b, "<f4").reshape(-1, length)[at] for b in blocks])

    def argmax(self, index_B: np.ndarray) -> np.ndarray:
        """The teacher's first choice at each position, [B, L]."""
        length = self.layout.seq_len
        return np.stack(
            [self.codec.argmax(self._planes(int(i), None)[1:], length) for i in index_B]
        )

    @cached_property
    def mean_target_logprob(self) -> float:
        """Minus the teacher's own loss over what is captured, nats per token."""
        total, count = 0.0, 0
        for shard in range(self.layout.num_shards):
            if shard_path(self.directory, shard).exists():
                found = self.column("target_logprob", np.arange(*self.layout.bounds(shard)))
                total, count = total + float(found.sum(dtype=np.float64)), count + found.size
        return total / count

    def shard(self, number: int, part: Part = None) -> Shard:
        """One file of a shard, its header checked; the last ones asked for stay open."""
        return self._shards(number, part)

    def _planes(self, window: int, tokens: np.ndarray | None) -> list[memoryview]:
        """The planes of a window's rows, columns first; checked as ``_block`` does."""
        return planes_of(self._block(window, tokens), 1 + self.codec.num_planes)

    def _block(self, window: int, tokens: np.ndarray | None, part: Part = None) -> memoryview:
        """A window's block; checked to be of ``tokens``, if they are given."""
        shard = self.shard(window // self.layout.windows_per_shard, part)
        block, captured_for = shard.block(window)
        if tokens is not None and tokens_digest(tokens) != captured_for:
            raise StoreError(
                f"{shard.path}: window {window} was captured for other tokens than this run reads; "
                "the data changed under the store: delete the store and capture again."
            )
        return block


def _opened(
    directory: Path, layout: Layout, store: str, ranks_crc: int, n: int, part: Part
) -> Shard:
    path = shard_path(directory, n, part)
    return Shard(path, layout.bounds(n), store, ranks_crc, part)


def check_manifest(directory: Path, expected: dict[str, Any]) -> None:
    """Refuse a store that was captured for something else, naming each difference."""
    path = directory / MANIFEST
    if not path.exists():
        raise StoreError(f"{directory}: no store here; run `pdx capture` with the same overrides.")
    found = read_json(path)
    if found.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: format_version={found.get('format_version')}, and this pdx reads "
            f"{FORMAT_VERSION}; capture again."
        )
    wrong = [
        f"{key}: captured with {found.get(key)!r}, this run uses {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if wrong:
        raise StoreError(
            f"{directory}: captured for something else ({'; '.join(wrong)}); capture again, or use "
            "what it was captured with."
        )
