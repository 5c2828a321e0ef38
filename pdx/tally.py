"""What training adds up between two reports, and the metrics that come of it."""

from typing import Any

import torch
from torch import Tensor

from pdx.errors import Diverged
from pdx.ranks import Ranks
from pdx.reduce import Sums

SUMMED = ("loss", "ce", "kd", "hidden", "bad")


class Tally:
    """Sums since the last report; on the device, so that no step waits for it.

    Each rank adds what it saw of a step; valid tokens are counted over all ranks as they come.
    ``since`` is the training time, in seconds, at the last report.
    """

    def __init__(self, ranks: Ranks, since: float = 0.0) -> None:
        self.ranks, self.num_valid, self.since = ranks, 0, since
        self.sums = {name: torch.zeros((), device=ranks.device) for name in SUMMED}

    @classmethod
    def of(cls, saved: dict[str, Any], ranks: Ranks) -> "Tally":
        """Go on from a checkpoint's, which was all ranks': rank 0 has it, to be added again."""
        tally = cls(ranks, saved["seconds"])
        tally.num_valid = saved["num_valid"]
        if ranks.leads:
            tally.sums = {name: saved[name].to(ranks.device) for name in SUMMED}
        return tally

    def add(self, sums: Sums, match: Tensor | None = None) -> None:
        """One micro-batch of this rank; ``match``: of hidden states, without its weight."""
        self.sums["ce"] += sums.ce
        self.sums["kd"] += sums.kd
        self.sums["loss"] += sums.loss
        if match is not None:
            self.sums["hidden"] += match.detach()

    def add_step(self, num_valid: int, grad_norm: Tensor) -> None:
        """One step of all ranks."""
        self.num_valid += num_valid
        self.sums["bad"] += ~torch.isfinite(grad_norm)

    def over_ranks(self) -> dict[str, Any]:
        """The sums over all ranks: what a checkpoint keeps and a report rests on."""
        sums = {name: value.clone() for name, value in self.sums.items()}
        self.ranks.add(*sums.values())
        return sums | {"num_valid": self.num_valid, "seconds": self.since}


def raise_if_diverged(step: int, sums: dict[str, Any]) -> None:
    """A gradient or a loss of any rank that was not finite ends the run on all of them."""
    if float(sums["bad"]) > 0 or not torch.isfinite(sums["loss"]):
        raise Diverged(
            f"by step {step}: gradient or loss is not finite; lower optim.peak_lr or warm up "
            "longer."
        )


def training_metrics(
    sums: dict[str, Any],
    seconds: float,
    num_tokens: int,
    needs_teacher: bool,
    matches_hidden: bool = False,
) -> dict[str, float]:
    """Means over valid tokens since the last report, in nats; ``seconds`` of training so far.

    So is ``train/kd_loss``: positions at which the teacher is silent count 0.
    """
    num_valid = sums["num_valid"]
    metrics = {
        "tokens": float(num_tokens),
        "train/loss": float(sums["loss"]) / num_valid,
        "train/ce_loss": float(sums["ce"]) / num_valid,
        "perf/tokens_per_second": num_valid / max(seconds - sums["seconds"], 1e-9),
        "perf/train_seconds": seconds,
    }
    if needs_teacher:
        metrics["train/kd_loss"] = float(sums["kd"]) / num_valid
    if matches_hidden:
        metrics["train/hidden_loss"] = float(sums["hidden"]) / num_valid
    return metrics
