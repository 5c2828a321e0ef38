"""Tokens drawn from the teacher, and how often each was drawn."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdx.draws import draw_by, first_draws, masses
from pdx.largest import argmax
from pdx.store import bits
from pdx.store.codecs.row import Columns, Entries, Planes, Window, concatenate


def exponent(values_E: np.ndarray) -> np.ndarray:
    """Floor of log2 of positive integers."""
    return np.frexp(values_E.astype(np.float64))[1].astype(np.int64) - 1


@dataclass(frozen=True)
class SampledCodec:
    """Counts of ``num_draws`` independent draws: an unbiased word of the whole distribution.

    A drawn token is most often a frequent one, so ids are ranked by the corpus: rank + 1 is written
    as its exponent and what is under its leading bit. Within a row the order is free, and ranks
    rise; the exponents then rise too, and a row's are a histogram in unary. A count is written the
    same way, without the order.

    Attributes:
        ids_V: token ids by falling frequency.
    """

    num_draws: int
    seed: int
    vocab_size: int
    ids_V: np.ndarray

    num_planes: ClassVar[int] = 5

    @cached_property
    def ranks(self) -> np.ndarray:
        """Token id -> rank by falling frequency."""
        return np.argsort(self.ids_V).astype(np.int32)

    @property
    def exponents(self) -> int:
        """Exponents that a rank can have: a row's histogram ends each but the last with a zero."""
        return bits.width_of(self.vocab_size)

    def reduce(
        self,
        logits_CV: Tensor,
        lse_C: Tensor,
        offset_C: Tensor,
        mass_CV: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What leaves the device: the draws at the positions ``offset_C``, in their order."""
        mass_CV = masses(logits_CV) if mass_CV is None else mass_CV
        return {
            "draws": draw_by(mass_CV, offset_C, self.num_draws, self.seed),
            "argmax": argmax(logits_CV).to(torch.int32),
        }

    def encode(self, columns: Columns) -> Planes:
        """One window's rows."""
        argmax = bits.pack_fixed(columns["argmax"], bits.width_of(self.vocab_size - 1))
        return [*self.encode_draws(columns["draws"]), argmax]

    def encode_draws(self, draws_NJ: np.ndarray) -> Planes:
        """The four planes of the counts."""
        ranks_NJ = np.sort(self.ranks[draws_NJ], axis=1)
        new_NJ = np.ones(ranks_NJ.shape, bool)
        new_NJ[:, 1:] = ranks_NJ[:, 1:] != ranks_NJ[:, :-1]
        num_N = new_NJ.sum(1)
        counts_E = np.diff(np.flatnonzero(new_NJ.reshape(-1)), append=new_NJ.size)
        ranks_E = ranks_NJ[new_NJ].astype(np.int64) + 1
        of_rank_E, of_count_E = exponent(ranks_E), exponent(counts_E)
        low_E = (ranks_E - (1 << of_rank_E)) | ((counts_E - (1 << of_count_E)) << of_rank_E)
        rows_E = np.repeat(np.arange(len(num_N)), num_N)
        ends = (self.exponents - 1) * len(num_N)
        histogram = np.zeros(len(ranks_E) + ends, np.uint8)
        histogram[np.arange(len(ranks_E)) + rows_E * (self.exponents - 1) + of_rank_E] = 1
        return [
            bits.pack_fixed(num_N, bits.width_of(self.num_draws)),
            np.packbits(histogram, bitorder="little").tobytes(),
            bits.pack_unary(of_count_E),
            bits.pack_fields(low_E, of_rank_E + of_count_E),
        ]

    def counts(
        self, planes: list[memoryview], num_rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids by rising rank, their counts, and how many a row has."""
        num_N = bits.unpack_fixed(planes[0], bits.width_of(self.num_draws), num_rows)
        of_rank_E = bits.ones_of(planes[1])
        of_rank_E -= np.arange(len(of_rank_E), dtype=np.int32)
        step = np.int32(self.exponents - 1)
        of_rank_E -= np.repeat(np.arange(num_rows, dtype=np.int32) * step, num_N)
        of_count_E = bits.unpack_unary(planes[2])
        low_E = bits.unpack_fields(planes[3], of_rank_E + of_count_E)
        one, shift_E = low_E.dtype.type(1), of_rank_E.astype(low_E.dtype)
        lead_E = (one << shift_E) - one
        ranks_E = (low_E & lead_E) + lead_E
        lead_E = one << of_count_E.astype(low_E.dtype)
        counts_E = ((low_E >> shift_E) & (lead_E - one)) | lead_E
        return self.ids_V.take(ranks_E), counts_E, num_N

    def decode(
        self, windows: list[Window], num_rows: int, offset_B: np.ndarray, num_draws: int
    ) -> Entries:
        """The first ``num_draws`` draws of each row, as log shares of them."""
        shares = np.log(np.arange(num_draws + 1, dtype=np.float64).clip(1) / num_draws)
        shares = shares.astype(np.float32)
        parts = []
        for planes, offset in zip(windows, offset_B, strict=True):
            ids_E, counts_E, num_N = self.counts(planes, num_rows)
            if num_draws < self.num_draws:
                offset_N = int(offset) + np.arange(num_rows)
                ids_E, counts_E, num_N = first_draws(
                    ids_E, counts_E, num_N, offset_N, self.num_draws, num_draws, self.seed
                )
            parts.append(Entries(ids_E, shares.take(counts_E), num_N))
        return concatenate(parts)

    def argmax(self, planes: list[memoryview], num_rows: int) -> np.ndarray:
        """It need not have been drawn: it is kept."""
        return bits.unpack_fixed(planes[4], bits.width_of(self.vocab_size - 1), num_rows)

    def bytes_per_row(self) -> float:
        """About what one row takes: on LM-like rows n draws hold about 1.7 sqrt(n) tokens."""
        return 1.7 * self.num_draws**0.5 * 14 / 8
