"""The one reduction: chunks of hidden states, mask, global token count -> gradients and sums."""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pdx.models import Head
from pdx.signal import TeacherSignal

# Elements of logits formed at once: 64 MiB in float32, the fastest size measured on CPU.
CHUNK_ELEMENTS = 2**24


class Loss(Protocol):
    """A chunk of student logits and the matching signal -> loss_C, nats per token, unreduced."""

    def __call__(self, student_logits_CV: Tensor, teacher: TeacherSignal) -> Tensor: ...


class Sums(NamedTuple):
    """Sums over valid tokens, to be divided by the number of valid tokens of the GLOBAL batch."""

    ce: Tensor
    kd: Tensor


def chunk_size(vocab_size: int) -> int:
    """Positions per chunk, so that the logits formed at once stay bounded."""
    return max(1, CHUNK_ELEMENTS // vocab_size)


def backward(
    hidden_BLD: Tensor,
    head: Head,
    targets_BL: Tensor,
    mask_BL: Tensor,
    signal: TeacherSignal | None,
    loss: Loss,
    kd_weight: float,
    num_valid: int,
    chunk: int | None = None,
) -> Sums:
    """Add the gradient of one micro-batch's share of the loss to ``.grad``.

    loss = sum over valid tokens of ((1 - kd_weight) * ce + kd_weight * scale * kd) / num_valid

    Logits are formed, used and freed chunk by chunk: [B, L, V] never exists. Each chunk is driven
    back to the hidden states and the head at once; the body is driven back once at the end.

    Args:
        num_valid: valid tokens of the whole batch over all micro-batches (and ranks).
        signal: None where ``kd_weight`` is 0 or the loss needs no teacher.
    """
    width = hidden_BLD.shape[-1]
    leaf_ND = hidden_BLD.detach().reshape(-1, width).requires_grad_()
    targets_N, mask_N = targets_BL.reshape(-1), mask_BL.reshape(-1)
    ce_sum = torch.zeros((), device=leaf_ND.device)
    kd_sum = torch.zeros((), device=leaf_ND.device)
    size = chunk or chunk_size(head.vocab_size)
    for start in range(0, len(leaf_ND), size):
        stop = min(start + size, len(leaf_ND))
        mask_C = mask_N[start:stop]
        logits_CV = head(leaf_ND[start:stop])
        logits_CV = logits_CV.float() if logits_CV.dtype.itemsize < 4 else logits_CV
        ce_C = F.cross_entropy(logits_CV, targets_N[start:stop], reduction="none")
        ce = torch.where(mask_C, ce_C, 0.0).sum()
        total = (1 - kd_weight) * ce
        if signal is not None:
            part = signal.chunk(start, stop)
            kd = part.scale * torch.where(mask_C, loss(logits_CV, part), 0.0).sum()
            total = total + kd_weight * kd
            kd_sum += kd.detach()
        (total / num_valid).backward()
        ce_sum += ce.detach()
    assert leaf_ND.grad is not None
    hidden_BLD.backward(leaf_ND.grad.view_as(hidden_BLD))
    return Sums(ce_sum, kd_sum)
