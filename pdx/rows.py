"""What is known of the teacher at positions, before a signal makes its word of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pdx.largest import largest

# Log-probability of what carries no mass. Finite, so that 0 * NOTHING is 0 and not NaN, and
# exp(NOTHING) is 0 in float32 and float64 alike.
NOTHING = -1e4
# Log of as good as nothing, where both sides have it: exp of -87 and under, which is no normal
# float32, takes a CPU 30 to 300 times as long, and so does what is then made of it.
LEAST = -60.0
# Log of the least mass that a stored row leaves to its tail: its float32 logsumexp, a number near
# 20, is known to 1e-6. Of a tail of nothing at all a reverse KL would make thousands of nats.
LEAST_TAIL = -14.0


class Facts(NamedTuple):
    """What is known of the teacher's whole distribution at N positions, float32.

    Attributes:
        lse: temperature -> logsumexp(z / T) over the vocabulary, [N].
        entropy_N, deviation_N: of the distribution at temperature 1, in nats, and of the logits
            over the vocabulary (divided by V, not V - 1); None where nothing asked for them.
    """

    lse: dict[float, Tensor]
    entropy_N: Tensor | None = None
    deviation_N: Tensor | None = None

    @staticmethod
    def of(logits_NV: Tensor, temperatures: tuple[float, ...], spread: bool) -> "Facts":
        """From full logits; ``spread`` asks for entropy and deviation."""
        lse = {t: torch.logsumexp(logits_NV / t, -1) for t in temperatures}
        if not spread:
            return Facts(lse)
        deviation_N = (logits_NV - logits_NV.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        return Facts(lse, entropy(logits_NV), deviation_N)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Facts":
        """The same after ``change`` of every tensor."""
        spread = (x if x is None else change(x) for x in (self.entropy_N, self.deviation_N))
        return Facts({t: change(lse_N) for t, lse_N in self.lse.items()}, *spread)


class Rows(NamedTuple):
    """What is known of the teacher at N positions: from the store, or computed on the spot.

    Shape:
        ids_NK int64 and logits_NK float32, by falling logit.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    facts: Facts

    @staticmethod
    def of(
        logits_NV: Tensor, top_k: int, temperatures: tuple[float, ...], spread: bool = False
    ) -> "Rows":
        """Reduce full logits to rows, in float32."""
        logits_NV = logits_NV.float()
        values_NK, ids_NK = largest(logits_NV, min(top_k, logits_NV.shape[-1]))
        return Rows(ids_NK, values_NK, Facts.of(logits_NV, temperatures, spread))

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        facts = self.facts.map(lambda x: x.to(device))
        return Rows(self.ids_NK.to(device), self.logits_NK.to(device), facts)

    def at(self, index_M: Tensor) -> "Rows":
        """Some of the rows."""
        facts = self.facts.map(lambda x: x[index_M])
        return Rows(self.ids_NK[index_M], self.logits_NK[index_M], facts)


def exp(x: Tensor) -> Tensor:
    """Of what may carry no mass, which gets 1e-26, e^LEAST."""
    return x.clamp(min=LEAST).exp()


def logsumexp(x_NK: Tensor) -> Tensor:
    """Of rows in which much, or all, may carry no mass, [N]."""
    top_N1 = x_NK.amax(-1, keepdim=True).clamp(min=NOTHING)
    return top_N1[:, 0] + exp(x_NK - top_N1).sum(-1).log()


def entropy(logits_NV: Tensor) -> Tensor:
    """Of softmax(logits), in nats, [N]."""
    logprobs_NV = logits_NV.log_softmax(-1)
    return -(logprobs_NV.exp() * logprobs_NV.clamp(min=NOTHING)).sum(-1)
