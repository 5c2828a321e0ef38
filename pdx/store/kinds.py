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

FORMAT_VERSION = 2
MOST_DRAWS = 4096  # of a row: what the fields of the sampled codec hold


@dataclass(frozen=True, kw_only=True)
class NoStore:
    """No store: the teacher runs beside every student."""

    exists: ClassVar[bool] = False
    version: ClassVar[int] = 1


class Kept:
    """What the kinds of stores share."""

    exists: ClassVar[bool] = True
    kind: ClassVar[str]
    ranked: ClassVar[bool] = False  # whether ids are written as ranks in the corpus

    temperatures: list[float]
    shard_tokens: int

    def __post_init__(self) -> None:
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

    @property
    def precision(self) -> dict[str, Any] | None:
        """What a run that reads this store computes with, where that is not the teacher's word."""
        return None

    def parameters(self, vocab_size: int) -> dict[str, Any]:
        """What the rows depend on besides teacher and tokens: a part of the manifest."""
        raise NotImplementedError

    def codec(self, vocab_size: int, ids_V: np.ndarray | None) -> Codec:
        """How rows of this kind become bytes; ``ids_V`` ranks ids where ``ranked``."""
        raise NotImplementedError

    def bytes_per_token(self, vocab_size: int) -> float:
        """About what one position takes, its float32 columns included, before it is known."""
        empty = np.zeros(0, np.int32)
        rows = self.codec(vocab_size, empty if self.ranked else None).bytes_per_row()
        return rows + 4 * (len(self.temperatures) + 3) + (vocab_size - 1).bit_length() / 8

    def _refuse_kind(self, signal: Any) -> None:
        name = type(signal).__module__.rpartition(".")[2]
        raise ConfigError(
            f"signal={name}: reads {signal.rows} rows, and store={self.kind} keeps {self.kind} "
            f"rows; capture with store={signal.rows}."
        )

    def _check_head(self, signal: Any, temperature: Any, top_k: int | None) -> None:
        """Whether ``top_k`` exact logits of each position (None: all) serve a truncating signal."""
        asked = getattr(signal, "top_k", None)
        if top_k is not None and asked is None:
            raise ConfigError(
                f"signal=topp: keeps as many tokens as hold signal.top_p={signal.top_p}, and the "
                f"store keeps store.top_k={top_k} of each position; use signal=topp_topk, or "
                f"capture with store=topk store.top_k=null store.top_p={signal.top_p}."
            )
        if top_k is not None and asked is not None and asked > top_k:
            raise ConfigError(
                f"signal.top_k={asked}: the store keeps store.top_k={top_k} logits of each "
                f"position; use signal.top_k <= {top_k}, or capture with store.top_k={asked}."
            )
        for heat in signal.needed_temperatures(temperature):
            if heat is None:
                raise ConfigError(
                    f"signal.tail={signal.tail}: needs the rest mass at the temperature of each "
                    f"position and step, which {type(temperature).__name__} moves, and the store "
                    f"declares {self.temperatures}; use signal.tail=renormalize, support or "
                    "decoupled, or store=none."
                )
            if heat not in self.temperatures:
                why = f"tail={signal.tail} needs the rest mass"
                if heat in temperature.needed_temperatures:
                    why = f"{type(temperature).__name__} needs the normaliser"
                raise ConfigError(
                    f"temperature.value={heat}: {why} at this temperature, and the store declares "
                    f"{self.temperatures}; use one of these"
                    + (
                        ""
                        if heat in temperature.needed_temperatures
                        else ", signal.tail=renormalize"
                    )
                    + f", or capture with store.temperatures={sorted({*self.temperatures, heat})}."
                )

    def _check_draws(self, signal: Any, num_draws: int, seed: int) -> None:
        """Whether ``num_draws`` draws of ``seed`` hold those that a signal reads."""
        if signal.num_draws > num_draws:
            raise ConfigError(
                f"signal.num_draws={signal.num_draws}: the store keeps store.num_draws={num_draws} "
                f"draws of each position; use signal.num_draws <= {num_draws}, or capture with "
                f"store.num_draws={signal.num_draws}."
            )
        power = getattr(signal, "proposal_power", 1.0)
        if power != 1.0:
            raise ConfigError(
                f"signal.proposal_power={power}: a store holds draws from the teacher itself, "
                "without the probabilities that other proposals are weighted by; use "
                "signal.proposal_power=1.0, or store=none."
            )
        if signal.seed != seed:
            raise ConfigError(
                f"signal.seed={signal.seed}: the store's draws are those of store.seed={seed}; use "
                f"signal.seed={seed}, or capture with store.seed={signal.seed}."
            )


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
    """

    top_k: int | None
    top_p: float
    temperatures: list[float]
    shard_tokens: int

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
        temperatures, shard_tokens: as in ``TopKStore``; the logsumexp columns are for analysis.

    Source:
        Random sampling of Anshumann et al. 2025, arXiv:2503.16870, section 4, proposal q = p.
    """

    num_draws: int
    seed: int
    temperatures: list[float]
    shard_tokens: int

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
        temperatures, shard_tokens: as in ``TopKStore``.

    Source:
        Importance sampling with the head drawn for certain; no publication of it is known to us.
    """

    top_k: int
    num_draws: int
    seed: int
    temperatures: list[float]
    shard_tokens: int

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
