"""A store as runs read it: opened against a manifest, checked window by window."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdx.errors import StoreError
from pdx.files import read_json, write_json
from pdx.signal import Rows
from pdx.store.format import FORMAT_VERSION, Layout, checksum, shard_path
from pdx.store.writer import tokens_digest

MANIFEST = "manifest.json"


class Store:
    """Teacher rows by window; what is read is known to be what was captured for these tokens."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory = directory
        self.layout = layout
        self._shards: dict[int, np.memmap] = {}

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
        cls, directory: Path, layout: Layout, manifest: dict[str, Any], num_windows: int
    ) -> "Store":
        """Open a store for the first ``num_windows`` windows.

        Raises:
            StoreError: captured for something else, a shard missing or of the wrong size.
        """
        check_manifest(directory, manifest)
        for shard in range(layout.shards_for(num_windows)):
            path, expected = shard_path(directory, shard), layout.shard_bytes(shard)
            size = path.stat().st_size if path.exists() else None
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes, not {expected}"
                raise StoreError(
                    f"{path}: {found}; delete it if it exists and run the same command again: only "
                    "missing shards are captured."
                )
        return cls(directory, layout)

    def rows(self, index_B: np.ndarray, ids: np.ndarray) -> Rows:
        """The teacher's rows for whole windows, laid flat: [B * L, K].

        Args:
            index_B: windows.
            ids: the L + 1 token ids of each, as the student is about to read them, [B, L + 1].

        Raises:
            StoreError: a record was altered, or was captured for other tokens.
        """
        records = np.stack(
            [self._record(int(i), window) for i, window in zip(index_B, ids, strict=True)]
        )
        flat = len(index_B) * self.layout.seq_len
        lse_NT = torch.from_numpy(records["lse"].reshape(flat, -1))
        return Rows(
            ids_NK=torch.from_numpy(records["ids"].astype(np.int64).reshape(flat, -1)),
            logits_NK=torch.from_numpy(records["logits"].reshape(flat, -1)),
            lse={t: lse_NT[:, i] for i, t in enumerate(self.layout.temperatures)},
        )

    def column(self, name: str, index_B: np.ndarray) -> np.ndarray:
        """One of the per-position columns of the format, [B, L]."""
        return np.stack([self._find(int(i))[1][name] for i in index_B])

    @cached_property
    def mean_target_logprob(self) -> float:
        """Minus the teacher's own loss over what is captured, nats per token."""
        shards = [
            s for s in range(self.layout.num_shards) if shard_path(self.directory, s).exists()
        ]
        sums = [self._shard(s)["target_logprob"].sum(dtype=np.float64) for s in shards]
        return float(sum(sums) / sum(self._shard(s)["target_logprob"].size for s in shards))

    def _shard(self, shard: int) -> np.memmap:
        if shard not in self._shards:
            path = shard_path(self.directory, shard)
            self._shards[shard] = np.memmap(path, dtype=self.layout.record, mode="r")
        return self._shards[shard]

    def _find(self, window: int) -> tuple[int, Any]:
        shard = window // self.layout.windows_per_shard
        return shard, self._shard(shard)[window - self.layout.bounds(shard)[0]]

    def _record(self, window: int, ids: np.ndarray) -> Any:
        shard, record = self._find(window)
        path = shard_path(self.directory, shard)
        if checksum(record) != record["checksum"]:
            raise StoreError(
                f"{path}: the record of window {window} was altered (checksum); delete this shard "
                "and run the same command again: only missing shards are captured."
            )
        if tokens_digest(ids) != record["tokens_digest"]:
            raise StoreError(
                f"{path}: window {window} was captured for other tokens than this run reads; "
                "the data changed under the store: delete the store and capture again."
            )
        return record


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
