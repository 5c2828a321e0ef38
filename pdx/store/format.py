"""What a store keeps, and how it lies on the disk."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pdx.build import check
from pdx.errors import ConfigError

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class NoStore:
    """No store: the teacher runs beside every student."""

    exists: ClassVar[bool] = False
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class TopKStore:
    """The K largest logits of each position, and what any tail or temperature needs besides.

    Attributes:
        top_k: entries kept; serves every smaller ``signal.top_k``.
        temperatures: at which the full-vocabulary logsumexp is kept: mass outside the kept tokens
            cannot be had from the logsumexp of another temperature.
        shard_tokens: positions in one file, the unit in which a killed capture resumes.
    """

    top_k: int
    temperatures: list[float]
    shard_tokens: int

    exists: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "store.top_k", self.top_k, "must be at least 1")
        check(
            bool(self.temperatures) and all(t > 0 for t in self.temperatures),
            "store.temperatures",
            self.temperatures,
            "must be one or more temperatures > 0",
        )
        check(
            1.0 in self.temperatures,
            "store.temperatures",
            self.temperatures,
            "must include 1.0, at which top_p and probabilities are defined",
        )
        check(self.shard_tokens >= 1, "store.shard_tokens", self.shard_tokens, "must be >= 1")

    def check_serves(self, signal: Any) -> None:
        """Refuse a signal that this capture cannot serve exactly, naming the one that could."""
        if signal.top_k > self.top_k:
            raise ConfigError(
                f"signal.top_k={signal.top_k}: the store keeps store.top_k={self.top_k} logits of "
                f"each position; use signal.top_k <= {self.top_k}, or capture with "
                f"store.top_k={signal.top_k}."
            )
        for temperature in signal.needed_temperatures:
            if temperature not in self.temperatures:
                raise ConfigError(
                    f"signal.temperature={temperature}: tail=bucket needs the rest mass at this "
                    f"temperature, and the store declares {self.temperatures}; use one of these, "
                    "signal.tail=renormalize, or capture with store.temperatures="
                    f"{sorted({*self.temperatures, temperature})}."
                )


@dataclass(frozen=True)
class Layout:
    """Where each window's record lies: one fixed-size record per window, many windows a shard.

    Attributes:
        num_windows: windows of the whole split; a store may hold only the first shards of them.
    """

    num_windows: int
    windows_per_shard: int
    seq_len: int
    top_k: int
    temperatures: tuple[float, ...]
    vocab_size: int

    @property
    def record(self) -> np.dtype:
        """One window. ``argmax`` is not kept twice: it is the first id."""
        id_type = "<u2" if self.vocab_size <= 2**16 else "<u4"
        length = self.seq_len
        return np.dtype(
            [
                ("ids", id_type, (length, self.top_k)),  # by falling logit
                ("logits", "<f4", (length, self.top_k)),
                ("lse", "<f4", (length, len(self.temperatures))),  # of logits / T, all of V
                ("target_logprob", "<f4", (length,)),
                ("entropy", "<f4", (length,)),  # nats, at temperature 1
                ("logit_std", "<f4", (length,)),  # over the vocabulary
                ("tokens_digest", "<u8"),  # of the L + 1 input ids
                ("checksum", "<u4"),  # CRC-32 of all of the above
            ]
        )

    @property
    def num_shards(self) -> int:
        return -(-self.num_windows // self.windows_per_shard)

    def shards_for(self, num_windows: int) -> int:
        """How many shards hold the first ``num_windows`` windows."""
        return -(-min(num_windows, self.num_windows) // self.windows_per_shard)

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last-plus-one window of a shard."""
        start = shard * self.windows_per_shard
        return start, min(start + self.windows_per_shard, self.num_windows)

    def missing(self, directory: Path, num_windows: int) -> list[int]:
        """Shards that the first ``num_windows`` windows need and that are not there."""
        shards = range(self.shards_for(num_windows))
        return [s for s in shards if not shard_path(directory, s).exists()]

    def shard_bytes(self, shard: int) -> int:
        """Size of a whole shard file."""
        start, stop = self.bounds(shard)
        return (stop - start) * self.record.itemsize


def shard_path(directory: Path, shard: int) -> Path:
    """The file of one shard."""
    return directory / f"shard-{shard:05d}.bin"


def checksum(record: Any) -> int:
    """CRC-32 of a record without its own checksum field."""
    return zlib.crc32(record.tobytes()[:-4])
