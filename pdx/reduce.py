"""The one reduction: chunks of hidden states, mask, global token count -> gradients and sums."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pdx.models import Head
from pdx.signal import StudentLogits, TeacherSignal
from pdx.student import Chunk

# Elements of logits formed at once: 48 MiB in float32 on a CPU, 256 MiB on a GPU. On a CPU more is
# no faster, and much less reads the head's gradient too often (benchmarks/README.md). A GPU adds to
# that gradient, some 12 bytes an element and chunk, in the time of 500 rows' products or so (an
# H100's 8e14 FLOP/s and 3.3e12 B/s): a chunk is to have several times as many rows.
CHUNK_ELEMENTS = 3 * 2**22
CHUNK_ELEMENTS_GPU = 2**26
CACHED_ELEMENTS = 2**19  # that several passes find in a CPU's cache: a third of the time


class Loss(Protocol):
    """A chunk of student logits and the matching signal -> loss_C, nats per token, unreduced."""

    def __call__(self, student_logits_CV: StudentLogits, teacher: TeacherSignal) -> Tensor: ...


class Sums(NamedTuple):
    """Sums over valid tokens, to be divided by the number of valid tokens of the GLOBAL batch.

    Attributes:
        kd: of those at which the teacher speaks; times its scale, not its weight.
        loss: what is trained: all, weighted.
    """

    ce: Tensor
    kd: Tensor
    loss: Tensor


def chunk_size(vocab_size: int, device: torch.device) -> int:
    """Positions per chunk, so that the logits formed at once stay bounded."""
    elements = CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_GPU
    return max(1, elements // vocab_size)


def cached_size(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits are read several times over: on a CPU as many as its cache holds."""
    if device.type != "cpu":
        return chunk_size(vocab_size, device)
    return max(1, CACHED_ELEMENTS // vocab_size)


@torch.no_grad()
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
    taught_BL: Tensor | None = None,
    hear: Callable[[int, int, Tensor], None] | None = None,
    beside: Tensor | None = None,
    beside_weight: float = 0.0,
) -> Sums:
    """Add the gradient of one micro-batch's share of the loss to ``.grad``.

    loss = sum over valid tokens of ((1 - kd_weight) * ce + kd_weight * scale * kd) / num_valid,
    with kd_weight 0 where the teacher does not speak

    Logits are formed, turned into their own gradient and driven back to the hidden states and the
    head chunk by chunk: [B, L, V] never exists, and autograd sees what a loss asks for, no more.
    The body, and the head's parameters with it, are driven back once at the end.

    Args:
        num_valid: valid tokens of the whole batch over all micro-batches (and ranks).
        signal: None where ``kd_weight`` is 0 or the loss needs no teacher.
        taught_BL: where the teacher speaks, bool; None: everywhere.
        hear: gets first and last-plus-one position and logits of each chunk, to read.
        beside: a sum over valid tokens that hangs on the same body, as hidden states do; it is
            driven back with the rest, ``beside_weight`` times.
    """
    hidden_ND = hidden_BLD.detach().flatten(0, 1)
    targets_N, mask_N = targets_BL.reshape(-1), mask_BL.reshape(-1)
    taught_N = mask_N if taught_BL is None else mask_N & taught_BL.reshape(-1)
    size = min(chunk or chunk_size(head.vocab_size, hidden_ND.device), len(hidden_ND))
    projection = _Projection(head, hidden_ND, size)
    ce_sum = torch.zeros((), device=hidden_ND.device, dtype=projection.dtype)
    kd_sum, loss_sum = torch.zeros_like(ce_sum), torch.zeros_like(ce_sum)
    for start in range(0, len(hidden_ND), size):
        stop = min(start + size, len(hidden_ND))
        mask_C, taught_C = mask_N[start:stop], taught_N[start:stop]
        logits_CV = projection.logits(start, stop)
        if hear is not None:
            hear(start, stop, logits_CV)
        student = Chunk(logits_CV, targets_N[start:stop])
        kd_share = None
        if signal is not None:
            part = signal.chunk(start, stop)
            with torch.enable_grad():
                kd = torch.where(taught_C, part.scale * loss(student, part), 0.0).sum()
                kd_share = kd * (kd_weight / num_valid)
            kd_sum += kd.detach()
            loss_sum += kd_weight * kd.detach()
        share_C = mask_C * (1 - kd_weight * taught_C.to(student.dtype))
        ce_C, grad_CV = student.close(kd_share, share_C / num_valid)
        ce_C = torch.where(mask_C, ce_C, 0.0)
        ce_sum += ce_C.sum()
        loss_sum += (share_C * ce_C).sum()
        projection.add(start, stop, grad_CV)
        del student, logits_CV, grad_CV  # no view of the logits' memory outlives them
    if beside is None:
        projection.backward(hidden_BLD, None)
        return Sums(ce_sum, kd_sum, loss_sum)
    with torch.enable_grad():
        projection.backward(hidden_BLD, beside * (beside_weight / num_valid))
    return Sums(ce_sum, kd_sum, loss_sum + beside_weight * beside.detach())


class _Projection:
    """The products of one micro-batch with its head: logits out, their gradient back.

    Products are of the precision that autocast asks for; gradients are summed in float32 or
    better, and handed to autograd once, so that a tied embedding's are added up like any others.
    """

    def __init__(self, head: Head, hidden_ND: Tensor, size: int) -> None:
        kind = hidden_ND.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self.head = head
        self.hidden_ND = hidden_ND.to(low or hidden_ND.dtype)
        self.weight_VD = head.weight_VD.detach().to(self.hidden_ND.dtype)
        self.dtype = torch.promote_types(self.hidden_ND.dtype, torch.float32)
        self.logits_CV = hidden_ND.new_empty((size, head.vocab_size), dtype=self.dtype)
        self.slope_CV: Tensor | None = None  # of the soft cap
        self.grad_ND = torch.empty_like(hidden_ND)
        self.grad_VD = torch.zeros_like(head.weight_VD, dtype=self.dtype)
        self.grad_V = hidden_ND.new_zeros(head.vocab_size, dtype=self.dtype)

    def logits(self, start: int, stop: int) -> Tensor:
        """Those of some positions, in memory that the next call uses again."""
        out_CV = self.logits_CV[: stop - start]
        self._product(self.hidden_ND[start:stop], self.weight_VD.T, out_CV)
        if self.head.bias_V is not None:
            out_CV.add_(self.head.bias_V)
        if self.head.scale != 1.0:
            out_CV.mul_(self.head.scale)
        if (cap := self.head.softcap) is not None:
            out_CV.div_(cap).tanh_()
            self.slope_CV = 1 - out_CV.square()
            out_CV.mul_(cap)
        return out_CV

    def add(self, start: int, stop: int, grad_CV: Tensor) -> None:
        """Drive a chunk's gradient back to hidden states and head."""
        if self.slope_CV is not None:
            grad_CV.mul_(self.slope_CV)
        if self.head.scale != 1.0:
            grad_CV.mul_(self.head.scale)
        if self.head.bias_V is not None:
            self.grad_V += grad_CV.sum(0)
        low_CV = grad_CV.to(self.weight_VD.dtype)
        self._product(low_CV, self.weight_VD, self.grad_ND[start:stop])
        hidden_CD = self.hidden_ND[start:stop]
        if low_CV.dtype == self.dtype:
            self.grad_VD.addmm_(low_CV.T, hidden_CD)
        elif _sums_wide(low_CV.device):
            total_VD = self.grad_VD
            torch.addmm(total_VD, low_CV.T, hidden_CD, out_dtype=self.dtype, out=total_VD)
        else:
            self.grad_VD += torch.mm(low_CV.T, hidden_CD)

    def backward(self, hidden_BLD: Tensor, beside: Tensor | None) -> None:
        """Through the body, once for all terms; parameters that are frozen get none."""
        del self.logits_CV, self.slope_CV  # the body's own peak is not theirs too
        inputs: list[Tensor] = [hidden_BLD]
        grads = [self.grad_ND.view_as(hidden_BLD)]
        for source, grad in ((self.head.weight_VD, self.grad_VD), (self.head.bias_V, self.grad_V)):
            if source is not None and source.requires_grad:
                inputs.append(source)
                grads.append(grad.to(source.dtype))
        del self.grad_VD, self.grad_V, grad
        with torch.enable_grad():
            total: Tensor = _Known.apply(grads, *inputs)  # type: ignore[assignment]
            if beside is not None:
                total = total + beside
        total.backward()

    @staticmethod
    def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
        with torch.autocast(a.device.type, enabled=False):
            if a.dtype == out.dtype:
                torch.mm(a, b, out=out)
            elif _sums_wide(a.device):
                torch.mm(a, b, out_dtype=out.dtype, out=out)
            else:
                out.copy_(torch.mm(a, b))


def _sums_wide(device: torch.device) -> bool:
    """Whether products of bfloat16 come out in the float32 in which they are summed, unrounded."""
    return device.type == "cuda" and torch.version.hip is None


class _Known(torch.autograd.Function):
    """A scalar whose gradients are known already.

    They are given away, so that a parameter keeps the very memory in which they were summed.
    """

    @staticmethod
    def forward(ctx: Any, grads: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return inputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        given = (None, *ctx.grads)
        ctx.grads.clear()
        return given
