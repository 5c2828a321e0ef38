"""Token sets: prepared once, addressed by their content, read as windows; the only shift."""

import shutil
import sys
from collections.abc import Collection
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pdx.data.shards import Shard
from pdx.data.split import random_order
from pdx.errors import DataError
from pdx.files import digest, locked, publish, read_json, write_json
from pdx.known import once
from pdx.paths import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from pdx.data.domains import Labels

FORMAT = 1  # of what lies in the directory


class Batch(NamedTuple):
    """A batch of windows: ``targets_BL[b, i]`` is the token that follows ``tokens_BL[b, i]``.

    Shape:
        tokens_BL, targets_BL int64; mask_BL bool, True where the target counts; document_BL int64,
        the document of each input counted from the window's first, or None if attention may cross.
    """

    tokens_BL: "Tensor"
    targets_BL: "Tensor"
    mask_BL: "Tensor"
    document_BL: "Tensor | None"

    def to(self, device: Any) -> "Batch":
        """The same batch on another device."""
        moved = (t if t is None else t.to(device, non_blocking=True) for t in self)
        return Batch(*moved)  # type: ignore[arg-type]


def identity(data: Any) -> dict[str, Any]:
    """A corpus is its settings and its content, which a process reads once.

    Its domains are no part of it: they are told of tokens that are the same without them.
    """
    settings = _settings(data)
    return settings | once(digest(settings), data.content)


def _settings(data: Any) -> dict[str, Any]:
    named = {"format": FORMAT, "_target_": f"{type(data).__module__}.{type(data).__qualname__}"}
    settings = {name: value for name, value in asdict(data).items() if name != "domains"}
    return named | {"version": data.version} | settings


def find(data: Any, outputs: Outputs) -> "TokenSet | None":
    """The tokens of a data component if they are already made."""
    final = outputs.data / digest(identity(data))
    return TokenSet(final) if (final / "manifest.json").exists() else None


def prepare(data: Any, outputs: Outputs) -> "TokenSet":
    """The tokens of a data component: found by digest, or made once, whatever the processes.

    Raises:
        DataError: the corpus changed since this process named a run after it.
    """
    named = identity(data)
    name = digest(named)
    final = outputs.data / name
    if not (final / "manifest.json").exists():
        if _settings(data) | data.content() != named:
            raise DataError(
                f"{data.source()}: changed since it was first read here; leave it alone until the "
                "tokens are made, and give the same command again."
            )
        with locked(outputs.data / f".{name}.lock"):
            if not (final / "manifest.json").exists():
                for stale in outputs.data.glob(f".tmp-{name}-*"):  # of a process that was killed
                    shutil.rmtree(stale)
                with publish(final) as directory:
                    manifest = data.build(directory)
                    write_json(
                        directory / "manifest.json",
                        {**manifest, "digest": name, "identity": named},
                    )
                _tell(manifest, final)
    return TokenSet(final)


def _tell(manifest: dict[str, Any], directory: Path) -> None:
    """What was made, in two lines on stderr."""
    counts = ", ".join(f"{k} {v['num_tokens']:,}" for k, v in manifest["splits"].items())
    print(f"data: {directory}: tokens: {counts}", file=sys.stderr)
    if shared := manifest.get("leaks"):
        parts = ", ".join(
            f"{k.replace('_', ' ')} {v['five_line']:.2%}"
            for k, v in shared.items()
            if v["five_line"] is not None
        )
        print(f"data: five-line shingles found again: {parts or 'no lines'}", file=sys.stderr)


class TokenSet:
    """One prepared directory.

    Attributes:
        labels: of what domain each token is, where someone asked for it.
    """

    labels: "Labels | None" = None

    def __init__(self, directory: Path) -> None:
        self.dir = Path(directory)
        self.manifest: dict[str, Any] = read_json(self.dir / "manifest.json")
        self.digest: str = self.manifest["digest"]
        self.vocab_size: int = self.manifest["vocab_size"]
        self.eos_id: int | None = self.manifest["eos_id"]
        self.seq_len: int = self.manifest["seq_len"]
        self.tokenizer_digest: str = self.manifest["tokenizer_digest"]

    def tokenizer(self) -> Any:
        """As ``AutoTokenizer`` loads it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.dir / "tokenizer"), trust_remote_code=False)

    def windows(self, *splits: str) -> "Windows":
        """The windows of one split, or of several one after the other."""
        known = self.manifest["splits"]
        for split in splits:
            if split not in known:
                hint = (
                    "; data.teacher_frac (data.num_tokens_teacher if synthetic) is 0, raise it"
                    if split == "teacher"
                    else ""
                )
                raise DataError(
                    f"split={split}: {self.dir} has none; it has {', '.join(known)}{hint}."
                )
        return Windows(self, splits)


class Windows:
    """Windows of seq_len + 1 tokens, numbered from 0; nothing but ``batch`` shifts them.

    Domains are those of targets.
    """

    def __init__(self, token_set: TokenSet, splits: tuple[str, ...]) -> None:
        assert splits and len(set(splits)) == len(splits)
        manifest = token_set.manifest
        facts = [manifest["splits"][split] for split in splits]
        self.splits = splits
        self.seq_len = token_set.seq_len
        self.document_mask: bool = manifest["document_mask"]
        self.num_windows: int = sum(f["num_windows"] for f in facts)
        self.num_tokens: int = self.num_windows * self.seq_len
        self.num_unique_tokens: int = sum(f["num_unique_tokens"] for f in facts)
        self.num_bytes: int = sum(f["num_bytes"] for f in facts)
        self.digest = digest([token_set.digest, *splits])
        self._ends = np.cumsum([f["num_windows"] for f in facts])
        self._token_set = token_set

    @property
    def base(self) -> "Windows":
        """The windows that these are chosen from, or written after; here themselves."""
        return self

    def num_windows_in(self, num_tokens: int) -> int:
        """Whole windows in ``num_tokens``: at least one, at most all."""
        return min(self.num_windows, max(1, num_tokens // self.seq_len))

    @cached_property
    def _shards(self) -> list[Shard]:
        return [Shard(self._token_set.dir, s, self._token_set.manifest) for s in self.splits]

    def _numbers(self, index_B: np.ndarray) -> np.ndarray:
        """The same, where each is a window's: a negative one would be of the end."""
        index_B = np.asarray(index_B, dtype=np.int64)
        if index_B.size and not (index_B.min() >= 0 and index_B.max() < self.num_windows):
            raise IndexError(f"window {index_B.min()}..{index_B.max()} of {self.num_windows}")
        return index_B

    def _parts(self, index_B: np.ndarray) -> list[tuple[Shard, np.ndarray, np.ndarray]]:
        """For each shard asked for: it, the rows of the batch, the windows within it."""
        index_B = self._numbers(index_B)
        which_B = np.searchsorted(self._ends, index_B, side="right")
        parts = []
        for number in np.unique(which_B):
            rows = np.flatnonzero(which_B == number)
            before = int(self._ends[number - 1]) if number else 0
            parts.append((self._shards[number], rows, index_B[rows] - before))
        return parts

    def ids(self, index_B: np.ndarray) -> np.ndarray:
        """The windows' token ids, int64 [B, L+1]."""
        out = np.empty((len(index_B), self.seq_len + 1), dtype=np.int64)
        for shard, rows, local in self._parts(index_B):
            out[rows] = shard.tokens[shard.positions(local)]
        return out

    def window_bytes(self, index_B: np.ndarray) -> np.ndarray:
        """UTF-8 bytes of each window's targets that count, int64 [B]: for bits per byte."""
        out = np.empty(len(index_B), dtype=np.int64)
        for shard, rows, local in self._parts(index_B):
            out[rows] = shard.window_bytes[local]
        return out

    def _documents(self, index_B: np.ndarray) -> np.ndarray:
        """The document of every token, counted from the window's first, int64 [B, L+1]."""
        out = np.empty((len(index_B), self.seq_len + 1), dtype=np.int64)
        for shard, rows, local in self._parts(index_B):
            number = np.searchsorted(shard.document_starts, shard.positions(local), side="right")
            out[rows] = number - number[:, :1]
        return out

    def domains(self, index_B: np.ndarray) -> np.ndarray:
        """The domain of every target, by its number among the labels' names, int64 [B, L]."""
        labels = self._token_set.labels
        assert labels is not None
        out = np.empty((len(index_B), self.seq_len), dtype=np.int64)
        for shard, rows, local in self._parts(index_B):
            out[rows] = labels.at(shard.split, shard.positions(local)[:, 1:])
        return out

    def within(self, index_B: np.ndarray, names: Collection[str]) -> np.ndarray:
        """Whether each target is of one of these domains, bool [B, L]."""
        labels = self.base._token_set.labels
        assert labels is not None
        return np.isin(self.domains(index_B), [labels.names.index(name) for name in names])

    def batch(self, index_B: np.ndarray) -> Batch:
        """The windows as tensors: the only place where targets are shifted."""
        import torch

        ids = self.ids(index_B)
        mask = np.ones((len(ids), self.seq_len), dtype=bool)
        document = None
        if self.document_mask:
            number = self._documents(index_B)
            mask = number[:, 1:] == number[:, :-1]  # an eos does not predict the next document
            document = torch.from_numpy(np.ascontiguousarray(number[:, :-1]))
        return Batch(
            torch.from_numpy(np.ascontiguousarray(ids[:, :-1])),
            torch.from_numpy(np.ascontiguousarray(ids[:, 1:])),
            torch.from_numpy(np.ascontiguousarray(mask)),
            document,
        )


@lru_cache(maxsize=4)
def _epoch_order(num_used: int, seed: int, epoch: int) -> np.ndarray:
    order = random_order(num_used, seed, epoch)
    order.setflags(write=False)
    return order


def window_order(num_windows: int, num_used: int, seed: int, start: int, count: int) -> np.ndarray:
    """Indices of the sequences ``start .. start + count`` of a training, int64 [count].

    Each epoch is a new permutation, by (seed, epoch), of the first ``num_used`` windows: a prefix,
    so that one capture of it serves all seeds. A pure function, so resuming needs no state.
    """
    if not 0 < num_used <= num_windows:
        raise DataError(
            f"num_used={num_used}: must be from 1 to the {num_windows} windows that there are; ask "
            "for fewer tokens, or give more text."
        )
    position = np.arange(start, start + count)
    out = np.empty(count, dtype=np.int64)
    for epoch in np.unique(position // num_used):
        here = position // num_used == epoch
        out[here] = _epoch_order(num_used, seed, int(epoch))[position[here] % num_used]
    return out
