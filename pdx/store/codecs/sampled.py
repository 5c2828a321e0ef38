"""Tokens drawn from the teacher, and how often each was drawn."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdx.draws import draw_by, first_draws, masses
from pdx.largest import argmax
from pdx.store import bits, kernels
from pdx.store.codecs.row import Columns, Entries, Planes, Window, concatenate


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
        ranks_NJ = np.sort(self.ranks.take(draws_NJ), axis=1)
        num_N, ends = np.zeros(len(ranks_NJ), np.int32), self.exponents - 1
        histogram = bits.empty(ranks_NJ.size + ends * len(num_N))
        unary = bits.empty(ranks_NJ.size)
        low = bits.empty(ranks_NJ.size * bits.width_of(self.vocab_size))
        sizes = kernels.pack_counts(ranks_NJ, ends, num_N, histogram, unary, low)
        planes = zip((histogram, unary, low), sizes, strict=True)
        return [
            bits.pack_fixed(num_N, bits.width_of(self.num_draws)),
            *(bits.plane_of(words, num_bits) for words, num_bits in planes),
        ]

    def counts(
        self, planes: list[memoryview], num_rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids by rising rank, their counts, and how many a row has."""
        num_N = bits.unpack_fixed(planes[0], bits.width_of(self.num_draws), num_rows)
        ids_E, counts_E = np.empty((2, int(num_N.sum())), np.int32)
        words = (bits.words_of(plane) for plane in planes[1:4])
        kernels.unpack_counts(num_N, self.exponents - 1, *words, self.ids_V, ids_E, counts_E)
        return ids_E, counts_E, num_N

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
