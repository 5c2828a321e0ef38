"""What a capture keeps: the values of the store axis, and which signals each can serve."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pdx.build import check
from pdx.errors import ConfigError
from pdx.store.codecs.head_sampled import HeadSampledCodec
from pdx.store.codecs.row import Codec
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.codecs.topk import LOGIT_STEP, TopKCodec
from pdx.store.kept import Kept

MOST_DRAWS = 4096  # of a row: what the fields of the sampled codec hold


@dataclass(frozen=True, kw_only=True)
class NoStore:
    """No store: the teacher runs beside every student."""

    exists: ClassVar[bool] = False
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class TopKStore(Kept):
    """The K largest logits of each position, and what any tail or temperature needs besides.

    Attributes:
        top_k: entries kept; serves every smaller ``signal.top_k``. null: as many as ``top_p`` asks
            for, which serves ``signal=topp``.
        top_p: rows end earlier where they hold this share of the mass; 1.0 cuts nothing. A cut
            store serves ``signal=topp_topk`` and ``topp`` whose own cut lies inside, nothing else.
        temperatures: at which the full-vocabulary logsumexp is kept: mass outside the kept tokens
            cannot be had from the logsumexp of another temperature.
        shard_tokens: positions in one file, the unit in which a killed capture resumes.
        recorded: [] captures from the finished teacher; [start, end] keeps what it says between
            these shares of its own training, at no extra forward pass (docs/decisions/0013).
        hidden_layers: whose hidden states are kept beside the rows, a byte a coordinate, for
            ``hidden=`` to read: 0 the embedding, n the n-th layer's output, -1 the last's after
            the last norm.
    """

    top_k: int | None
    top_p: float
    temperatures: list[float]
    shard_tokens: int
    recorded: list[float]
    hidden_layers: list[int]

    kind: ClassVar[str] = "topk"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        allowed = "must be at least 1, or null with a store.top_p below 1"
        bounded = self.top_p < 1 if self.top_k is None else self.top_k >= 1
        check(bounded, "store.top_k", self.top_k, allowed)
        check(0 < self.top_p <= 1, "store.top_p", self.top_p, "must lie in (0, 1]")
        super().__post_init__()

    @property
    def precision(self) -> dict[str, Any] | None:
        return {"logit_step": LOGIT_STEP}

    def _most(self, vocab_size: int) -> int:
        return vocab_size if self.top_k is None else min(self.top_k, vocab_size)

    def parameters(self, vocab_size: int) -> dict[str, Any]:
        return {"top_k": self._most(vocab_size), "top_p": self.top_p, "logit_step": LOGIT_STEP}

    def codec(self, vocab_size: int, ids_V: np.ndarray | None) -> Codec:
        return TopKCodec(self._most(vocab_size), self.top_p, vocab_size, tuple(self.temperatures))

    def check_serves(self, signal: Any, temperature: Any) -> None:
        """Refuse a signal that this capture cannot serve exactly, naming the one that could."""
        if signal.rows != "topk":
            self._refuse_kind(signal)
        self._check_head(signal, temperature, self.top_k)
        top_p = getattr(signal, "top_p", 1.0)
        if top_p > self.top_p:
            raise ConfigError(
                f"signal.top_p={top_p}: the store cuts its rows at store.top_p={self.top_p}; use "
                f"signal=topp_topk with signal.top_p <= {self.top_p}, or capture with "
                f"store.top_p={top_p}."
            )


@dataclass(frozen=True, kw_only=True)
class SampledStore(Kept):
    """Draws from the teacher, counted: an unbiased word of the whole vocabulary in few bytes.

    Attributes:
        num_draws: with replacement, at temperature 1; serves every smaller ``signal.num_draws``.
        seed: of the draws; they depend on it and on the position alone.
        temperatures, shard_tokens, recorded, hidden_layers: as in ``TopKStore``; the logsumexp
            columns are for analysis.

    Source:
        Random sampling of Anshumann et al. 2025, arXiv:2503.16870, section 4, proposal q = p.
    """

    num_draws: int
    seed: int
    temperatures: list[float]
    shard_tokens: int
    recorded: list[float]
    hidden_layers: list[int]

    kind: ClassVar[str] = "sampled"
    ranked: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_num_draws(self.num_draws)
        super().__post_init__()

    def parameters(self, vocab_size: int) -> dict[str, Any]:
        return {"num_draws": self.num_draws, "seed": self.seed}

    def codec(self, vocab_size: int, ids_V: np.ndarray | None) -> Codec:
        assert ids_V is not None
        return SampledCodec(self.num_draws, self.seed, vocab_size, ids_V)

    def check_serves(self, signal: Any, temperature: Any) -> None:
        """Refuse a signal that this capture cannot serve exactly, naming the one that could."""
        if signal.rows != "sampled":
            self._refuse_kind(signal)
        self._check_draws(signal, self.num_draws, self.seed)


@dataclass(frozen=True, kw_only=True)
class HeadSampledStore(Kept):
    """The K largest logits exactly, and draws from the rest: less variance than draws alone.

    Attributes:
        top_k: exact entries; serves ``signal=topk`` and ``topp_topk`` up to as many, too.
        num_draws, seed: of the draws from the tail; serves every smaller ``signal.num_draws``.
        temperatures, shard_tokens, recorded, hidden_layers: as in ``TopKStore``.

    Source:
        Importance sampling with the head drawn for certain; no publication of it is known to us.
    """

    top_k: int
    num_draws: int
    seed: int
    temperatures: list[float]
    shard_tokens: int
    recorded: list[float]
    hidden_layers: list[int]

    kind: ClassVar[str] = "head_sampled"
    ranked: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "store.top_k", self.top_k, "must be at least 1")
        _check_num_draws(self.num_draws)
        super().__post_init__()

    @property
    def precision(self) -> dict[str, Any] | None:
        return {"logit_step": LOGIT_STEP}

    def parameters(self, vocab_size: int) -> dict[str, Any]:
        drawn = {"num_draws": self.num_draws, "seed": self.seed}
        return {"top_k": self.top_k, "logit_step": LOGIT_STEP, **drawn}

    def codec(self, vocab_size: int, ids_V: np.ndarray | None) -> Codec:
        assert ids_V is not None
        return HeadSampledCodec(
            TopKCodec(self.top_k, 1.0, vocab_size, tuple(self.temperatures)),
            SampledCodec(self.num_draws, self.seed, vocab_size, ids_V),
        )

    def check_serves(self, signal: Any, temperature: Any) -> None:
        """Refuse a signal that this capture cannot serve exactly, naming the one that could."""
        if signal.rows == "topk":
            self._check_head(signal, temperature, self.top_k)
            return
        if signal.rows != "head_sampled":
            self._refuse_kind(signal)
        if signal.top_k != self.top_k:
            raise ConfigError(
                f"signal.top_k={signal.top_k}: the store's draws are from outside its "
                f"store.top_k={self.top_k} exact tokens; use signal.top_k={self.top_k}, or capture "
                f"with store.top_k={signal.top_k}."
            )
        self._check_draws(signal, self.num_draws, self.seed)


def _check_num_draws(num_draws: int) -> None:
    allowed = f"must be from 1 to {MOST_DRAWS}"
    check(1 <= num_draws <= MOST_DRAWS, "store.num_draws", num_draws, allowed)
