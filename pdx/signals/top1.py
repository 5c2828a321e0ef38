"""The teacher's first choice."""

from dataclasses import dataclass
from typing import ClassVar

from pdx.signals.topk import TopK


@dataclass(frozen=True, kw_only=True)
class Top1(TopK):
    """The teacher's largest token as a label: how much of a gain is labels, not distributions.

    ``topk`` with one token, renormalised: with ``soft_ce`` it is the cross-entropy of the
    teacher's argmax, whatever the temperature.

    Source:
        The k = 1 of arXiv:2410.16215, table 8; mixed 0.9 to 0.1 with the text, Apple's on-device
        models (as reported of their 2024 report).
    """

    top_k: ClassVar[int] = 1  # type: ignore[misc]  what is a setting of topk is none here
    tail: ClassVar[str] = "renormalize"  # type: ignore[misc]

    lacks: ClassVar[dict[str, str]] = {
        "top_k": "signal=top1 keeps one token; use signal=topk",
        "tail": "signal=top1 gives all to its token; use signal=topk with signal.top_k=1",
    }
    version: ClassVar[int] = 1
