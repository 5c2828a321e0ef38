"""A live teacher's word: logits formed chunk by chunk, and a signal made of them as asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pdx.rows import entropy
from pdx.signal import Context, DenseSignal, StudentLogits, TeacherSignal
from pdx.student import upcast


class Spoken(Protocol):
    """A value of the signal axis: what it makes of a chunk of the teacher's logits."""

    def of_logits(self, logits_CV: Tensor, context: Context) -> TeacherSignal: ...


T = TypeVar("T")


class Share(Protocol):
    """First and last-plus-one position, ``logits`` or ``signal``, and what makes it of them."""

    def __call__(self, part: tuple[int, int], what: str, make: Callable[[], T]) -> T: ...


def _made_anew(part: tuple[int, int], what: str, make: Callable[[], T]) -> T:
    return make()


@dataclass(frozen=True, kw_only=True)
class LiveSignal:
    """A live teacher: logits are formed from hidden states chunk by chunk, and seen as asked for.

    Shape:
        hidden_ND; ``head`` maps [C, D] to logits [C, V].

    Attributes:
        share: asked for the logits and for the signal of positions ``start:stop``; makes them, or
            has them of another student that reads the same.
    """

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    signal: Spoken
    context: Context
    share: Share = _made_anew

    @property
    def scale(self) -> float | Tensor:
        return self._all().scale

    @property
    def tail_N(self) -> Tensor | None:  # noqa: N802 - as the field of the others
        return self.context.tail_N

    def with_tail(self, top_k: int, mask_BL: Tensor, chunk: int) -> "LiveSignal":
        """The same, which also knows the mean mass outside the ``top_k`` over valid positions."""
        parts = (self.chunk(i, i + chunk) for i in range(0, len(self.hidden_ND), chunk))
        mass = [p.tail_mass(top_k) for p in parts if isinstance(p, DenseSignal)]
        sum_B = (torch.cat(mass).view_as(mask_BL) * mask_BL).sum(-1)
        mean_B = sum_B / mask_BL.sum(-1).clamp(min=1)
        tail_N = mean_B[:, None].expand_as(mask_BL).reshape(-1)
        return replace(self, context=replace(self.context, tail_N=tail_N))

    @torch.no_grad()
    def chunk(self, start: int, stop: int) -> TeacherSignal:
        part = (start, stop)

        def logits() -> Tensor:
            return upcast(self.head(self.hidden_ND[start:stop])).detach()

        def signal() -> TeacherSignal:
            logits_CV = self.share(part, "logits", logits)
            return self.signal.of_logits(logits_CV, self.context.chunk(start, stop))

        return self.share(part, "signal", signal)

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        return self._all().align(student_logits_CV)

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        return self._all().kept_logits(student_logits_CV)

    def _all(self) -> TeacherSignal:
        return self.chunk(0, len(self.hidden_ND))


@torch.no_grad()
def entropies(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
    """Of a live teacher at all positions, chunk by chunk, [N]."""
    return torch.cat([entropy(upcast(head(part_CD))) for part_CD in hidden_ND.split(chunk)])
