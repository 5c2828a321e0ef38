"""Of what domain each token is (code, prose, whatever a corpus names), kept beside the tokens."""

import os
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdx.build import did_you_mean
from pdx.errors import ConfigError, DataError
from pdx.files import digest, digest_file, locked, publish, read_json, write_json

if TYPE_CHECKING:
    from pdx.data.tokens import TokenSet

FORMAT = 1  # of the files, and of how labels are made of texts
MAX_DOMAINS = 64  # each is a metric of its own
FACTS = "domains.json"

# Where a domain begins in a document, in bytes of UTF-8, and its name; the first at 0.
Spans = Sequence[tuple[int, str]]


def labelling(data: Any) -> dict[str, Any]:
    """What decides the labels of a corpus whose tokens are given."""
    return {"format": FORMAT, "domains": data.domains}


def refuse_unknown(wanted: Collection[str], known: Collection[str]) -> None:
    """Domains that a routing names must be there.

    Raises:
        ConfigError: one that is not.
    """
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"routing.domains={[*wanted]}: the text has no domain {name!r}."
                f"{did_you_mean(name, known)} It has {', '.join(known)}; name some of these."
            )


def metric_name(domain: str) -> str:
    """A domain in the name of a metric, which may not hold every character: C++ is Cx2bx2b."""
    return re.sub(r"[^A-Za-z0-9_.-]", lambda odd: f"x{ord(odd[0]):x}", domain)


def of_tokens(spans: Spans, num_bytes: np.ndarray) -> np.ndarray:
    """The span of each token of a document, [N]: that of its last byte (a word brings its space).

    Args:
        num_bytes: of each token; one of none, as eos, is of the span before it.
    """
    last_N = np.maximum(np.cumsum(num_bytes) - 1, 0)
    return np.searchsorted([start for start, _ in spans], last_N, side="right") - 1


class LabelWriter:
    """Writes what domain each token is of, beside the shards in ``directory``, as runs of equals.

    Raises:
        DataError: more domains than anyone can read about.
    """

    def __init__(self, directory: Path, data: Any, names: Collection[str]) -> None:
        if len(names) > MAX_DOMAINS:
            raise DataError(
                f"data.domains={data.domains}: the text has {len(names)} domains, such as "
                f"{', '.join(sorted(names)[:3])}; name something that has at most {MAX_DOMAINS}."
            )
        self.directory = _place(directory, data)
        self.directory.mkdir(parents=True)
        self.names = sorted(names)
        self._number = {name: i for i, name in enumerate(self.names)}
        self._num_tokens: dict[str, dict[str, int]] = {}
        self._begin()

    def _begin(self) -> None:
        self._starts: list[np.ndarray] = []
        self._runs: list[np.ndarray] = []
        self._counts = np.zeros(len(self.names), dtype=np.int64)
        self._last = -1

    def add_document(self, spans: Spans, num_bytes: np.ndarray) -> None:
        """The next document of the split, by the bytes of its tokens."""
        number = np.array([self._number[name] for _, name in spans])
        self.add(number[of_tokens(spans, num_bytes)])

    def add(self, label_N: np.ndarray) -> None:
        """The next tokens of the split, each the place of its domain among ``names``."""
        changes = np.flatnonzero(np.diff(label_N, prepend=self._last))
        self._starts.append(changes + int(self._counts.sum()))
        self._runs.append(label_N[changes])
        self._counts += np.bincount(label_N, minlength=len(self.names))
        self._last = int(label_N[-1])

    def finish(self, split: str) -> None:
        """All of the split was added."""
        runs = np.stack([np.concatenate(self._starts), np.concatenate(self._runs)])
        np.save(self.directory / f"{split}.npy", runs)
        counts = zip(self.names, self._counts.tolist(), strict=True)
        self._num_tokens[split] = dict(counts)
        facts = {"names": self.names, "num_tokens": self._num_tokens}
        write_json(self.directory / FACTS, facts)
        self._begin()


class Labels:
    """What ``LabelWriter`` wrote.

    Attributes:
        names: of the domains, in the order of the numbers that stand for them.
    """

    def __init__(self, directory: Path) -> None:
        self.names: list[str] = read_json(directory / FACTS)["names"]
        self._directory = directory
        self._runs: dict[str, np.ndarray] = {}

    def at(self, split: str, position: np.ndarray) -> np.ndarray:
        """The number of the domain at each position of a split's stream."""
        if split not in self._runs:
            self._runs[split] = np.load(self._directory / f"{split}.npy", mmap_mode="r")
        starts, numbers = self._runs[split]
        return numbers[np.searchsorted(starts, position, side="right") - 1]


def labels_of(data: Any, token_set: "TokenSet") -> Labels:
    """The labels of tokens that are made; where they lack them they are made from the text again.

    Raises:
        DataError: the text no longer gives these tokens.
    """
    final = _place(token_set.dir, data)
    if not final.exists():
        with locked(token_set.dir / f".domains-{final.name}.lock"):
            if not final.exists():
                _make_again(data, token_set, final)
    return Labels(final)


def _place(directory: Path, data: Any) -> Path:
    return directory / "domains" / digest(labelling(data), 12)


def _make_again(data: Any, token_set: "TokenSet", final: Path) -> None:
    with publish(final) as directory:
        again = directory / "again"
        again.mkdir()
        data.build(again)
        for shard in sorted(token_set.dir.glob("*.bin")):
            if digest_file(shard) != digest_file(again / shard.name):
                raise DataError(
                    f"{shard}: the text does not give these tokens any more, so their domains "
                    f"cannot be told; delete {token_set.dir} and give the same command again."
                )
        for file in _place(again, data).iterdir():
            os.replace(file, directory / file.name)
        shutil.rmtree(again)
