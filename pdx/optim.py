"""Optimisers, and which parameters they decay."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pdx.build import check


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay; matrices and embeddings are decayed, norms are not.

    Attributes:
        peak_lr: learning rate where the schedule stands at 1.
        lr_reference_width: null, or the hidden size that ``peak_lr`` is for: another width gets
            peak_lr * lr_reference_width / width, so that one value serves a ladder of sizes.
        clip_norm: the gradient is scaled down to this norm.

    Source:
        Loshchilov, Hutter 2019, arXiv:1711.05101. The rule over widths is that of muP for Adam
        (Yang et al. 2022, arXiv:2203.03466, Table 3), which applies it to hidden matrices only; we
        apply it to all parameters.
    """

    peak_lr: float
    lr_reference_width: int | None
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.peak_lr > 0, "optim.peak_lr", self.peak_lr, "must be > 0")
        width = self.lr_reference_width
        check(
            width is None or width >= 1, "optim.lr_reference_width", width, "must be >= 1 or null"
        )
        check(0 <= self.beta1 < 1, "optim.beta1", self.beta1, "must lie in [0, 1)")
        check(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "must lie in [0, 1)")
        check(self.eps > 0, "optim.eps", self.eps, "must be > 0")
        check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "must be >= 0")
        check(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "must be > 0")

    def init(self, model: Any) -> torch.optim.Optimizer:
        """The optimiser of ``model``'s parameters; each group holds its own ``peak_lr``."""
        peak_lr = self.peak_lr
        if self.lr_reference_width is not None:
            peak_lr *= self.lr_reference_width / model.config.hidden_size
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group | {"peak_lr": peak_lr} for group in groups],
            lr=peak_lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=True,
        )
