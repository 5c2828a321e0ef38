"""The whole distribution."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdx.rows import Facts
from pdx.signal import Context, DenseSignal


@dataclass(frozen=True, kw_only=True)
class Full:
    """All of the teacher's logits: what every truncation is compared with; needs a live teacher.

    Source:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """

    is_full: ClassVar[bool] = True
    stored: ClassVar[bool] = False
    lacks: ClassVar[dict[str, str]] = {
        "tail": "signal=full cuts nothing off, so there is no tail; use signal=topk or another "
        "truncation, or leave it out",
        "top_k": "signal=full keeps every token; use signal=topk",
        "top_p": "signal=full keeps every token; use signal=topp or signal=topp_topk",
    }
    version: ClassVar[int] = 2

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return True

    @property
    def faithful(self) -> bool:
        """Student and teacher agree on the support where they agree."""
        return True

    def of_logits(self, logits_CV: Tensor, context: Context) -> DenseSignal:
        """The signal of a live teacher."""
        temperature = context.temperature
        facts = Facts.of(logits_CV, temperature.needed_temperatures, temperature.needs_spread)
        heats = temperature(context.fraction, facts)
        return DenseSignal(logits_NV=logits_CV, heats=heats, tail_N=context.tail_N)
