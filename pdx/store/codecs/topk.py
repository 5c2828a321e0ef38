"""The largest logits of each position: exact ids, logits in steps, the kept mass exact."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdx.largest import largest
from pdx.store import bits, kernels
from pdx.store.codecs.row import Columns, Entries, Planes, Window, concatenate

LOGIT_STEP = 1 / 32  # nats
DEEPEST = 2048  # steps under the largest logit: what lies lower is kept as 64 nats under it
WIDEST_REMAINDER = 8


@dataclass(frozen=True)
class TopKCodec:
    """Rows by falling logit: 1 fixed field an entry (id, remainder) and a unary quotient.

    Logits are counted in steps of ``LOGIT_STEP`` from the row's largest. Differences between
    neighbours are small, so they are Golomb-Rice coded; the largest is kept in float32, moved so
    that the mass of all that is kept stays what it was. Every logit is then within one step of the
    truth, and KL(row || decoded row) at temperature 1 is at most LOGIT_STEP^2 / 8 = 1.2e-4 nats.
    The logsumexp columns are moved with the row, so that the mass outside of it is exact at every
    declared temperature.

    Attributes:
        top_p: rows end where they hold this share of the mass; 1.0 cuts nothing.
        temperatures: of the logsumexp columns.
    """

    top_k: int
    top_p: float
    vocab_size: int
    temperatures: tuple[float, ...]

    num_planes: ClassVar[int] = 5

    @property
    def num_draws(self) -> int:
        return 0

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.top_p < 1.0

    @property
    def shift(self) -> int:
        """Bits of a gap's remainder. Kept logits span about 12 nats; a Golomb-Rice code is at its
        best where 2^shift is the mean gap times ln 2. One for all windows: they decode as one.
        """
        best = np.log2(12 / LOGIT_STEP * np.log(2) / self.top_k)
        return int(np.clip(np.rint(best), 0, WIDEST_REMAINDER))

    @property
    def id_bits(self) -> int:
        return bits.width_of(self.vocab_size - 1)

    def reduce(
        self,
        logits_CV: Tensor,
        lse_C: Tensor,
        offset_C: Tensor,
        mass_CV: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What leaves the device; offsets and masses are not read: nothing here is drawn."""
        values_CK, ids_CK = largest(logits_CV, self.top_k)
        columns = {"ids": ids_CK.to(torch.int32), "logits": values_CK}
        if self.ragged:
            probs_CK = (values_CK - lse_C[:, None]).exp()
            before_CK = probs_CK.cumsum(-1) - probs_CK
            columns["num"] = (before_CK < self.top_p).sum(-1).clamp(min=1).to(torch.int32)
        return columns

    def encode(self, columns: Columns) -> Planes:
        """One window's rows; moves its columns of logsumexp."""
        ids_NK, top_N = columns["ids"], columns["logits"][:, 0]
        true_NK = columns["logits"] - top_N[:, None]
        steps_NK = np.minimum(np.rint(true_NK * (-1 / LOGIT_STEP)), DEEPEST)
        said_NK = steps_NK * np.float32(-LOGIT_STEP)
        kept_NK = np.ones(ids_NK.shape, bool)
        if self.ragged:
            kept_NK = np.arange(self.top_k) < columns["num"][:, None]
        moved = {t: _log_ratio(true_NK, said_NK, kept_NK, t) for t in self.temperatures}
        top_N = top_N + moved[1.0]
        for heat, moved_N in moved.items():
            columns[f"lse@{heat:g}"] = columns[f"lse@{heat:g}"] + moved[1.0] / heat - moved_N
        num_N = kept_NK.sum(1, dtype=np.int32)
        width, shift = self.id_bits + self.shift, self.shift
        fixed = bits.empty(int(num_N.sum()) * width)
        unary = bits.empty(int(num_N.sum()) + int(DEEPEST >> shift) * len(num_N))
        steps_NK = steps_NK.astype(np.int32)
        sizes = kernels.pack_steps(ids_NK, steps_NK, num_N, self.id_bits, shift, fixed, unary)
        return [
            bits.pack_fixed(num_N, bits.width_of(self.top_k)) if self.ragged else b"",
            top_N.astype("<f4").tobytes(),
            bytes([shift]),
            bits.plane_of(fixed, sizes[0]),
            bits.plane_of(unary, sizes[1]),
        ]

    def decode(
        self, windows: list[Window], num_rows: int, offset_B: np.ndarray, num_draws: int
    ) -> Entries:
        """The rows that ``encode`` wrote, by falling logit; of draws there are none."""
        shifts = {window[2][0] for window in windows}
        if self.ragged or len(shifts) > 1 or num_rows * self.top_k % 8:
            return concatenate([self._decode(window, num_rows) for window in windows])
        # Planes end on the same byte as their last field: windows laid end to end are one window,
        # but for the zeros that fill up a unary plane, before a row whose first gap is 0.
        joined = [memoryview(b"".join(planes)) for planes in zip(*windows, strict=True)]
        return self._decode(joined, num_rows * len(windows))

    def _decode(self, planes: Window, num_rows: int) -> Entries:
        num_N = np.full(num_rows, self.top_k, np.int32)
        if self.ragged:
            num_N = bits.unpack_fixed(planes[0], bits.width_of(self.top_k), num_rows)
        ids_E = np.empty(int(num_N.sum()), np.int32)
        logits_E = np.empty(len(ids_E), np.float32)
        kernels.unpack_steps(
            num_N,
            np.frombuffer(planes[1], "<f4"),
            self.id_bits,
            planes[2][0],
            np.float32(-LOGIT_STEP),
            *(bits.words_of(plane) for plane in planes[3:5]),
            ids_E,
            logits_E,
        )
        return Entries(ids_E, logits_E, num_N if self.ragged else None)

    def argmax(self, planes: list[memoryview], num_rows: int) -> np.ndarray:
        """The first of each row."""
        ids_E, _, num_N = self._decode(planes, num_rows)
        if num_N is None:
            return ids_E[:: self.top_k]
        return ids_E[num_N.cumsum() - num_N]

    def bytes_per_row(self) -> float:
        """About what one row takes, before it is known: gaps of about 8 steps."""
        return self.top_k * (self.id_bits + 5) / 8 + 4


def _log_ratio(
    true_NK: np.ndarray, said_NK: np.ndarray, kept_NK: np.ndarray, temperature: float
) -> np.ndarray:
    """Log of the mass that is kept over the mass that the decoded row would say is, [N]."""
    heat = np.float32(1 / temperature)
    true_N, said_N = ((np.exp(x * heat) * kept_NK).sum(1) for x in (true_NK, said_NK))
    return np.log(true_N / said_N)
