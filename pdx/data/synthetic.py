"""A seeded Markov source whose entropy rate and best losses are known exactly."""

import time
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from pdx.build import check
from pdx.data.corpus import SPLITS
from pdx.data.domains import LabelWriter
from pdx.errors import ConfigError

TOLERANCE = 1e-13  # total variation between two steps to the stationary distribution
MAX_ITERATIONS = 20_000


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A Markov chain over bytes: for when a fitted irreducible loss must have a true value.

    p(x_t | x_{t-order} .. x_{t-1}) = one row of transitions, each drawn from a Dirichlet

    Splits are independent streams of one chain, each begun in its stationary distribution, so the
    exact losses hold for every window. Documents do not exist here, nor does eos.

    Attributes:
        vocab_size: symbols, each one byte.
        order: symbols that the next one depends on.
        concentration: of the Dirichlet; small is predictable, large is near uniform.
        num_tokens_student: targets in the split (its stream has one symbol more); the same for
            teacher (may be 0), val and test. Windows hold seq_len of them, a rest is left out.
        seed: of the transitions and the streams.
        seq_len: tokens that a window predicts.
        domains: "entropy" tells symbols that the ``order`` before them leave open from those of
            which they are sure, by the median of the entropies of rows; or null.

    Units:
        All losses in nats per token.
    """

    vocab_size: int
    order: int
    concentration: float
    num_tokens_student: int
    num_tokens_teacher: int
    num_tokens_val: int
    num_tokens_test: int
    seed: int
    seq_len: int
    domains: str | None

    domain_names: ClassVar[tuple[str, ...]] = ("open", "sure")
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(
            2 <= self.vocab_size <= 256, "data.vocab_size", self.vocab_size, "must be from 2 to 256"
        )
        check(self.order in (1, 2), "data.order", self.order, "must be 1 or 2")
        check(
            0.01 <= self.concentration <= 1e6,
            "data.concentration",
            self.concentration,
            "must be from 0.01 to 1e6",
        )
        check(self.seed >= 0, "data.seed", self.seed, "must be >= 0")
        check(self.seq_len >= 1, "data.seq_len", self.seq_len, "must be >= 1")
        known = self.domains in (None, "entropy")
        check(known, "data.domains", self.domains, "must be entropy or null")
        for split in SPLITS:
            key, allowed = f"num_tokens_{split}", f"must be >= seq_len={self.seq_len}"
            none = split == "teacher" and self.num_tokens_teacher == 0
            check(
                none or getattr(self, key) >= self.seq_len,
                f"data.{key}",
                getattr(self, key),
                allowed + ", or 0 for no teacher tokens" * (split == "teacher"),
            )

    # ---- what is known exactly -------------------------------------------------------

    def transitions(self) -> np.ndarray:
        """p(next | the last ``order`` symbols), float64 [vocab_size] * (order + 1)."""
        return _transitions(self.vocab_size, self.order, self.concentration, self.seed)

    def stationary(self) -> np.ndarray:
        """p(the last ``order`` symbols) in the long run, float64 [vocab_size] * order."""
        return _stationary(self.vocab_size, self.order, self.concentration, self.seed)

    def entropy_rate(self) -> float:
        """The lowest loss that any model can have: H(X_t | all before)."""
        return float((self.stationary() * self._entropies()).sum())

    def _entropies(self) -> np.ndarray:
        """Of each row of transitions, in nats."""
        return -_xlogx(self.transitions()).sum(axis=-1)

    def context_loss(self, context: int) -> float:
        """The lowest loss of a model that sees ``context`` symbols: H(X_t | those)."""
        assert context >= 0
        if context >= self.order:
            return self.entropy_rate()
        joint = self.stationary()  # of ``order`` symbols, more than the context + 1 needed
        joint = joint.sum(axis=tuple(range(self.order - context - 1)))
        return _entropy(joint) - (_entropy(joint.sum(axis=-1)) if context else 0.0)

    def window_loss(self) -> float:
        """The lowest mean loss over a window: its position i sees i + 1 symbols."""
        early = [self.context_loss(i + 1) for i in range(min(self.order, self.seq_len))]
        late = (self.seq_len - len(early)) * self.entropy_rate()
        return (sum(early) + late) / self.seq_len

    # ---- the stream ------------------------------------------------------------------

    def sample(self, num: int, stream: int) -> np.ndarray:
        """``num`` symbols, uint8; streams of different numbers are independent."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 1, stream])))
        size, states = self.vocab_size, self.vocab_size**self.order
        cdf_rows = np.cumsum(self.transitions().reshape(states, size), axis=1)
        cdf = array("d", (cdf_rows / cdf_rows[:, -1:]).tobytes())
        first = np.cumsum(self.stationary().ravel())
        state = int(np.searchsorted(first / first[-1], rng.random(), side="right"))
        out = bytearray(np.unravel_index(state, (size,) * self.order))
        append, keep = out.append, states // size
        # One draw depends on the last: a plain loop with bisection makes 2M symbols a second.
        for u in rng.random(max(0, num - self.order)).tolist():
            low = state * size
            symbol = bisect_right(cdf, u, low, low + size) - low
            append(symbol)
            state = state % keep * size + symbol
        return np.frombuffer(bytes(out[:num]), dtype=np.uint8)

    def labels(self, stream: np.ndarray) -> np.ndarray:
        """The place among ``domain_names`` of each symbol; the first ``order`` count as open."""
        entropies, weights = self._entropies().ravel(), self.stationary().ravel()
        order = np.argsort(entropies, kind="stable")
        median = entropies[order[np.searchsorted(np.cumsum(weights[order]), 0.5)]]
        before = stream.astype(np.int64)[:-1]
        if self.order == 2:
            before = before[:-1] * self.vocab_size + before[1:]
        label_N = np.zeros(len(stream), dtype=np.int64)
        label_N[self.order :] = entropies[before] <= median
        return label_N

    def content(self) -> dict[str, Any]:
        """Nothing but the settings decides the tokens."""
        return {}

    def build(self, directory: Path) -> dict[str, Any]:
        """Write tokenizer and shards into ``directory``; returns the manifest's facts."""
        from pdx.data import tokenizer as tokenizers_
        from pdx.data.shards import ShardWriter

        began = time.monotonic()
        tokenizer = _tokenizer(self.vocab_size)
        tokenizers_.save(tokenizer, directory / "tokenizer")
        splits = {}
        labels = LabelWriter(directory, self, self.domain_names) if self.domains else None
        for number, split in enumerate(tqdm(SPLITS, desc="sampling", unit=" splits")):
            num_tokens = getattr(self, f"num_tokens_{split}")
            if num_tokens == 0:
                continue
            writer = ShardWriter(
                directory,
                split,
                dtype="uint16",
                seq_len=self.seq_len,
                stride=self.seq_len,
                document_mask=False,
            )
            stream = self.sample(num_tokens + 1, number)
            writer.add(stream, np.ones(len(stream), dtype=np.int64))
            if labels is not None:
                labels.add(self.labels(stream))
                labels.finish(split)
            splits[split] = {"num_documents": 1, **writer.finish()}
        return {
            "vocab_size": self.vocab_size,
            "eos_id": None,
            "seq_len": self.seq_len,
            "stride": self.seq_len,
            "document_mask": False,
            "dtype": "uint16",
            "tokenizer_digest": tokenizers_.tokenizer_digest(tokenizer),
            "splits": splits,
            "entropy_rate": self.entropy_rate(),
            "window_loss": self.window_loss(),
            "seconds": round(time.monotonic() - began, 2),
        }


def _xlogx(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1.0))


def _entropy(p: np.ndarray) -> float:
    return float(-_xlogx(p).sum())


@lru_cache(maxsize=2)
def _transitions(size: int, order: int, concentration: float, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0])))
    rows = rng.dirichlet(np.full(size, concentration), size=size**order)
    return rows.reshape((size,) * (order + 1))


@lru_cache(maxsize=2)
def _stationary(size: int, order: int, concentration: float, seed: int) -> np.ndarray:
    """The one long run that all starts lead to."""
    rows = _transitions(size, order, concentration, seed)
    anywhere = np.full((size,) * order, float(size) ** -order)
    one_place = np.zeros_like(anywhere)
    one_place.flat[0] = 1.0
    ends = [_long_run(rows, start) for start in (anywhere, one_place)]
    if np.abs(ends[0] - ends[1]).sum() > 1e-9:  # also where MAX_ITERATIONS were too few
        raise ConfigError(
            f"data.concentration={concentration}: this chain (vocab_size={size}, order={order}, "
            f"seed={seed}) falls apart into parts that it hardly leaves, so that its long run "
            "depends on where it starts; raise the concentration, or choose another seed."
        )
    return ends[0]


def _long_run(rows: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Power iteration on (identity + transitions) / 2: the same limit, and never periodic."""
    for _ in range(MAX_ITERATIONS):
        if states.ndim == 1:
            after = states @ rows
        else:  # p(b, c) = sum over a of p(a, b) p(c | a, b)
            after = np.matmul(states.T[:, None, :], rows.transpose(1, 0, 2))[:, 0, :]
        change = float(np.abs(after - states).sum())
        states = (states + after) / 2
        states /= states.sum()
        if change < TOLERANCE:
            break
    return states


def _tokenizer(size: int) -> Any:
    """One character a symbol, so that text can be written and read back."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    from pdx.data.tokenizer import wrap

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:size]
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=alphabet[0]))  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")  # pyright: ignore
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore
    return wrap(tokenizer)
