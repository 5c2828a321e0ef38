"""The largest logits exactly, and draws from all others."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdx.draws import draw
from pdx.store import kernels
from pdx.store.codecs.row import Columns, Entries, Planes, Window
from pdx.store.codecs.sampled import SampledCodec
from pdx.store.codecs.topk import TopKCodec

HEAD_PLANES = TopKCodec.num_planes


@dataclass(frozen=True)
class HeadSampledCodec:
    """A head as ``TopKCodec`` keeps it, and the tail's mass spread over draws from the tail.

    Head tokens weigh what they are, a drawn token p_tail * count / num_draws: unbiased, with less
    variance than draws alone at the same bytes.
    """

    head: TopKCodec
    tail: SampledCodec

    num_planes: ClassVar[int] = 10

    @property
    def num_draws(self) -> int:
        """From the tail."""
        return self.tail.num_draws

    def reduce(
        self,
        logits_CV: Tensor,
        lse_C: Tensor,
        offset_C: Tensor,
        mass_CV: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What leaves the device; the tail has a largest logit, and so masses, of its own."""
        columns = self.head.reduce(logits_CV, lse_C, offset_C)
        rest_CV = logits_CV.scatter(-1, columns["ids"].long(), -torch.inf)
        columns["tail_lse"] = rest_CV.logsumexp(-1)
        columns["draws"] = draw(rest_CV, offset_C, self.tail.num_draws, self.tail.seed)
        return columns

    def encode(self, columns: Columns) -> Planes:
        """One window's rows."""
        tail_lse = columns["tail_lse"].astype("<f4").tobytes()
        return [*self.head.encode(columns), tail_lse, *self.tail.encode_draws(columns["draws"])]

    def decode(
        self, windows: list[Window], num_rows: int, offset_B: np.ndarray, num_draws: int
    ) -> Entries:
        """Head, then the first ``num_draws`` draws of the tail, weighted in logits."""
        head = self.head.decode([w[:HEAD_PLANES] for w in windows], num_rows, offset_B, 0)
        if num_draws == 0:
            return head
        tail_lse_N = np.frombuffer(b"".join(w[HEAD_PLANES] for w in windows), "<f4")
        drawn = [w[HEAD_PLANES + 1 :] for w in windows]
        tail = self.tail.decode(drawn, num_rows, offset_B, num_draws)
        assert tail.num_N is not None
        weights_E = tail.weights_E + np.repeat(tail_lse_N, tail.num_N)
        num_N = tail.num_N + np.int32(self.head.top_k)
        ids_E = np.empty(int(num_N.sum()), np.int32)
        joined_E = np.empty(len(ids_E), np.float32)
        shape = (len(num_N), self.head.top_k)
        head_NK = head.ids_E.reshape(shape), head.weights_E.reshape(shape)
        kernels.join(*head_NK, tail.ids_E, weights_E, tail.num_N, ids_E, joined_E)
        return Entries(ids_E, joined_E, num_N)

    def argmax(self, planes: list[memoryview], num_rows: int) -> np.ndarray:
        """The first of each head."""
        return self.head.argmax(planes, num_rows)

    def bytes_per_row(self) -> float:
        """About what one row takes."""
        return self.head.bytes_per_row() + 4 + self.tail.bytes_per_row()
