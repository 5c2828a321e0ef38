"""What a text is made of besides the corpus: arrays by window, made block by block as runs ask."""

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pdx.errors import DataError
from pdx.files import locked, write_bytes, write_json

OPEN_BLOCKS = 256  # at once: a process may often have no more than 1,024 files open

Compute = Callable[[int], np.ndarray]


class Blocks:
    """One array a block of windows, each a file; whoever makes it, and when, changes nothing.

    Args:
        size: windows of a block, the unit in which a killed process is taken up.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory, self.size = directory, size
        self._open = lru_cache(OPEN_BLOCKS)(_loaded)

    def path(self, block: int) -> Path:
        """The file of one block."""
        return self.directory / f"block-{block:06d}.npy"

    def missing(self, num_windows: int) -> list[int]:
        """Blocks that the first ``num_windows`` windows need and that are not there."""
        blocks = range(-(-num_windows // self.size))
        return [block for block in blocks if not self.path(block).exists()]

    def make(
        self, num_windows: int, manifest: dict[str, Any], what: str, start: Callable[[], Compute]
    ) -> None:
        """Compute what is missing; a process that comes second waits.

        Args:
            manifest: what decides the arrays; ``teacher_id`` keeps `pdx gc` from taking them.
            start: loads what computing needs, only where something is missing.
        """
        if not self.missing(num_windows):
            return
        with locked(self.directory.parent / f"{self.directory.name}.lock"):
            missing = self.missing(num_windows)
            if not missing:
                return
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / "manifest.json", manifest)
            compute = start()
            for block in tqdm(missing, desc=what, unit=" blocks"):
                buffer = io.BytesIO()
                np.save(buffer, compute(block), allow_pickle=False)
                write_bytes(self.path(block), buffer.getvalue())

    def rows(self, index_B: np.ndarray) -> np.ndarray:
        """The row of each window, [B, ...]."""
        block_B, place_B = np.divmod(index_B, self.size)
        return np.stack(
            [self._open(self.path(int(b)))[p] for b, p in zip(block_B, place_B, strict=True)]
        )


def _loaded(path: Path) -> np.ndarray:
    if not path.exists():
        raise DataError(
            f"{path}: is missing; run the same command again: only missing blocks are made."
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)
