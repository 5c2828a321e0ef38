"""Optimisers, and which parameters they decay."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pdx.build import check


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay; matrices and embeddings are decayed, norms are not.

    Attributes:
        peak_lr: learning rate where the schedule stands at 1.
        clip_norm: the gradient is scaled down to this norm.

    Source:
        Loshchilov, Hutter 2019, arXiv:1711.05101.
    """

    peak_lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.peak_lr > 0, "optim.peak_lr", self.peak_lr, "must be > 0")
        check(0 <= self.beta1 < 1, "optim.beta1", self.beta1, "must lie in [0, 1)")
        check(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "must lie in [0, 1)")
        check(self.eps > 0, "optim.eps", self.eps, "must be > 0")
        check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "must be >= 0")
        check(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "must be > 0")

    def init(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of ``model``'s parameters."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups, lr=self.peak_lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True
        )
