"""What the kinds of stores share, and what each refuses to serve."""

from typing import Any, ClassVar

import numpy as np

from pdx.build import check, value_name
from pdx.errors import ConfigError
from pdx.models import check_layers
from pdx.store.codecs.row import Codec
from pdx.store.states import GROUP, LEVELS


class Kept:
    """What the kinds of stores share."""

    exists: ClassVar[bool] = True
    kind: ClassVar[str]
    ranked: ClassVar[bool] = False  # whether ids are written as ranks in the corpus

    temperatures: list[float]
    shard_tokens: int
    recorded: list[float]
    hidden_layers: list[int]

    def __post_init__(self) -> None:
        part = self.recorded
        check(
            part == [] or (len(part) == 2 and 0 <= part[0] < part[1] <= 1),
            "store.recorded",
            part,
            "must be [] to capture from the finished teacher, or where in its training recording "
            "begins and ends, such as [0.75,1.0]",
        )
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
        layers = self.hidden_layers
        once = len(set(layers)) == len(layers)
        check(once, "store.hidden_layers", layers, "must name each layer once")
        check(
            not (layers and part),
            "store.hidden_layers",
            layers,
            f"must be [] with store.recorded={part}, which hears what a teacher says and no more; "
            "use store.recorded=[] to capture from the finished teacher",
        )

    @property
    def precision(self) -> dict[str, Any] | None:
        """What a run that reads this store computes with, where that is not the teacher's word."""
        return None

    @property
    def hidden_precision(self) -> dict[str, Any]:
        """The same of the hidden states that it reads."""
        return {"group": GROUP, "levels": LEVELS}

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

    def check_layers(self, num_layers: int) -> None:
        """Refuse a layer that the teacher has not."""
        check_layers("store.hidden_layers", self.hidden_layers, num_layers)

    def check_hidden(self, hidden: Any) -> None:
        """Refuse to match hidden states of layers that this capture does not keep."""
        lacking = [n for n in hidden.teacher_layers if n not in self.hidden_layers]
        if lacking:
            both = list(dict.fromkeys([*self.hidden_layers, *lacking]))
            wanted = ",".join(str(layer) for layer in both)
            raise ConfigError(
                f"hidden.teacher_layers={hidden.teacher_layers}: the store keeps hidden states of "
                f"store.hidden_layers={self.hidden_layers}; capture with "
                f"store.hidden_layers=[{wanted}], or use store=none for a live teacher."
            )

    def check_text(self, text: Any) -> None:
        """Refuse tokens of which nothing was recorded."""
        if not self.recorded:
            return
        name = value_name(text)
        if text.part is None:
            raise ConfigError(
                f"text={name}: store.recorded={self.recorded} holds what the teacher said of its "
                "own training's tokens and of no others; use text=teacher_part, or "
                "store.recorded=[] to capture from the finished teacher."
            )
        start, end = text.part
        if not self.recorded[0] <= start < end <= self.recorded[1]:
            more = [min(start, self.recorded[0]), max(end, self.recorded[1])]
            raise ConfigError(
                f"text.start_frac={start}, text.end_frac={end}: lie outside of the recorded part "
                f"of the teacher's training, store.recorded={self.recorded}; take a part of it, or "
                f"record store.recorded={more}."
            )

    def _refuse_kind(self, signal: Any) -> None:
        name = value_name(signal)
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
