"""Parting documents into student, teacher, val and test, so that no copy is on two sides."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pdx.data.corpus import SPLITS
from pdx.errors import DataError

LINES = 5  # a shingle is so many consecutive lines, stripped, blank ones left out
WORDS = 8  # ... or words, where a text has few lines or long ones
FEW_LINES = 20
LONG_LINE = 120  # mean characters a line beyond which lines are paragraphs
RARE = 10  # shingles in more documents may be boilerplate, which links only texts that are alike
# Of the smaller's shingles, among the rare ones. On the standard library 0.1 leaves up to 0.7% of
# val's shingles in train, 0.05 up to 0.25%, and 0.02 gains no more but joins more packages.
LINK_SHARE = 0.05
ALIKE_SHARE = 0.25  # of the larger's shingles, among all
ALIKE_REACH = 4  # neighbours in a frequent shingle's posting that are compared
MAX_SHINGLES = 40_000_000  # in memory; beyond, shingles are sampled by hash
MAX_THINNING = 2**16  # where only what is always kept remains, more sampling gains nothing
KEPT_ALWAYS = 8  # a document's smallest hashes, which sampling leaves
DIVERSE = 0.25  # of a held-out split that one group may fill, if others can be had


def random_order(num: int, *seeds: int) -> np.ndarray:
    """A permutation of ``range(num)``, the same on every machine and NumPy.

    Raw output of the bit generator, sorted: NumPy keeps that stream forever, permutation's not.
    """
    raw = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(num)
    return np.argsort(raw, kind="stable")


# ---- shingles ------------------------------------------------------------------------


def _hash(pieces: Sequence[str]) -> np.ndarray:
    """64 bits a piece."""
    raw = b"".join(hashlib.blake2b(p.encode(), digest_size=8).digest() for p in pieces)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def _roll(hashes: np.ndarray, width: int) -> np.ndarray:
    """One hash for each run of ``width`` pieces."""
    count = len(hashes) - width + 1
    out = np.zeros(count, dtype=np.uint64)
    for j in range(width):
        out = out * np.uint64(0x9E3779B97F4A7C15) + hashes[j : j + count]
        out ^= out >> np.uint64(31)
    return out


def shingles(text: str) -> np.ndarray:
    """A document's shingles, sorted: even hashes are of lines, odd ones of words."""
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    found = [np.zeros(0, dtype=np.uint64)]
    if len(lines) >= LINES:
        found.append(_roll(_hash(lines), LINES) & ~np.uint64(1))
    if len(lines) < FEW_LINES or len(text) > LONG_LINE * len(lines):
        words = text.split()
        if words:
            found.append(_roll(_hash(words), min(WORDS, len(words))) | np.uint64(1))
    return np.unique(np.concatenate(found))


class Sketches:
    """The shingles of all documents, sampled by hash once they would not fit in memory."""

    def __init__(self, max_shingles: int = MAX_SHINGLES) -> None:
        self.max_shingles = max_shingles
        self.sample_one_in = 1
        self.documents: list[np.ndarray] = []
        self._total = 0

    def _thin(self, hashes: np.ndarray) -> np.ndarray:
        keep = (hashes >> np.uint64(1)) % np.uint64(self.sample_one_in) == 0
        keep[:KEPT_ALWAYS] = True
        return hashes[keep]

    def add(self, text: str) -> None:
        self.documents.append(self._thin(shingles(text)))
        self._total += len(self.documents[-1])
        if self._total > self.max_shingles and self.sample_one_in < MAX_THINNING:
            self.sample_one_in *= 2
            self.documents = [self._thin(d) for d in self.documents]
            self._total = sum(map(len, self.documents))

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """All (hash, document), sorted by both."""
        counts = [len(d) for d in self.documents]
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *self.documents])
        owner = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], owner[order]


# ---- clusters ------------------------------------------------------------------------


def _pairs(hashes: np.ndarray, owner: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents that share shingles, and how many: pairs up to ``reach`` apart in a posting."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for k in range(1, reach + 1):
        same = hashes[:-k] == hashes[k:]
        found.append(np.stack([owner[:-k][same], owner[k:][same]], axis=1))
    pairs = np.concatenate(found)
    big = int(owner.max(initial=0)) + 1
    keys, counts = np.unique(pairs[:, 0] * big + pairs[:, 1], return_counts=True)
    return np.stack([keys // big, keys % big], axis=1), counts


def near_duplicates(sketches: Sketches) -> np.ndarray:
    """Pairs of documents that must not part, int64 [E, 2]; near-linear in the corpus."""
    hashes, owner = sketches.flat()
    if len(hashes) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    sizes = np.asarray([len(d) for d in sketches.documents])
    _, posting, frequency = np.unique(hashes, return_inverse=True, return_counts=True)
    shared = frequency[posting] > 1
    rare = shared & (frequency[posting] <= RARE)
    pairs, counts = _pairs(hashes[rare], owner[rare], RARE - 1)
    linked = pairs[counts >= LINK_SHARE * sizes[pairs].min(axis=1)]
    # Copies by the hundred share only frequent shingles. Near neighbours in a posting are enough:
    # the links form a chain, and a chain is one cluster.
    pairs, counts = _pairs(hashes[shared], owner[shared], ALIKE_REACH)
    alike = pairs[counts >= ALIKE_SHARE * sizes[pairs].max(axis=1)]
    return np.concatenate([linked, alike])


def clusters(sketches: Sketches, groups: Sequence[str]) -> np.ndarray:
    """A cluster number for each document: union of its group and its near-duplicates."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = len(groups)
    numbers: dict[str, int] = {}
    member_of = np.asarray([numbers.setdefault(g, num + len(numbers)) for g in groups])
    links = near_duplicates(sketches)
    rows = np.concatenate([np.arange(num), links[:, 0]])
    columns = np.concatenate([member_of, links[:, 1]])
    nodes = num + len(numbers)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:num]


# ---- assignment ----------------------------------------------------------------------


def _fill(sizes: np.ndarray, order: np.ndarray, target: float) -> list[int]:
    """Clusters of ``order`` that bring the sum closest to ``target``, small ones first choice."""
    taken: dict[int, None] = {}  # a set that keeps its order
    filled = 0
    for limit in (DIVERSE * target, 0.5 * float(sizes.sum())):
        for cluster in order.tolist():
            size = int(sizes[cluster])
            if size <= limit and size < 2 * (target - filled) and cluster not in taken:
                taken[cluster] = None
                filled += size
    return list(taken)


def assign(
    cluster_of: np.ndarray, num_bytes: np.ndarray, shares: dict[str, float], seed: int
) -> np.ndarray:
    """A split for each document, as an index into ``SPLITS``; whole clusters, by seeded order.

    ``shares`` are val's and test's of everything, and teacher's of what those leave.

    Raises:
        DataError: a split whose share is not 0 gets nothing.
    """
    sizes = np.bincount(cluster_of, weights=num_bytes).astype(np.int64)
    order = random_order(len(sizes), seed)
    split_of_cluster = np.full(len(sizes), SPLITS.index("student"))
    left = order
    for split in ("val", "test", "teacher"):
        whole = sizes[left].sum() if split == "teacher" else sizes.sum()
        taken = _fill(sizes, left, shares[split] * float(whole))
        split_of_cluster[taken] = SPLITS.index(split)
        left = left[~np.isin(left, taken)]
        if shares[split] > 0 and not taken:
            raise DataError(
                f"data.{split}_frac={shares[split]}: the split {split!r} has no document; the "
                f"corpus holds {len(num_bytes)} documents in {len(sizes)} groups of one directory "
                f"or of near-copies ({sizes.max() / sizes.sum():.0%} of the text in the largest), "
                "which are never parted; raise the fraction, or give more text."
            )
    if len(left) == 0:
        raise DataError(
            f"data.teacher_frac={shares['teacher']}: the split 'student' has no document; lower "
            "the fractions, or give more text."
        )
    return split_of_cluster[cluster_of]


def leaks(sketches: Sketches, split_of: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Share of one side's distinct shingles that the other side has too, boilerplate included."""
    hashes, owner = sketches.flat()
    first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]) != 0)
    is_word = hashes[first] & np.uint64(1) == 1
    bit = {name: 1 << index for index, name in enumerate(SPLITS)}
    bit["train"] = bit["student"] | bit["teacher"]
    found_in = np.zeros(0, dtype=np.int64)  # for each shingle, the bits of its splits
    if len(first):
        found_in = np.bitwise_or.reduceat(1 << split_of[owner], first)
    out: dict[str, dict[str, float | None]] = {}
    for here, there in (("val", "train"), ("test", "train"), ("student", "teacher")):
        shares = out[f"{here}_in_{there}"] = {}
        for kind, chosen in (("five_line", ~is_word), ("word", is_word)):
            mine = found_in[chosen & (found_in & bit[here] != 0)]
            shares[kind] = float((mine & bit[there] != 0).mean()) if len(mine) else None
    return out
