"""The teacher's word on one chunk of positions: which tokens it speaks of, and at what temperature.

Shape suffixes, for the whole repository: B batch, L sequence, V vocabulary, K kept teacher tokens,
S support of a loss, D model width, H heads, N positions of a batch laid flat (B * L), C a chunk of
those positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Log-probability of what carries no mass. Finite, so that 0 * NOTHING is 0 and not NaN, and
# exp(NOTHING) is 0 in float32 and float64 alike.
NOTHING = -1e4


class Rows(NamedTuple):
    """What is known of the teacher at N positions: from the store, or computed on the spot.

    Shape:
        ids_NK int64 and logits_NK, by falling logit; lse maps a temperature to logsumexp(z / T)
        over the full vocabulary, [N]. Floats are float32.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    lse: dict[float, Tensor]

    @staticmethod
    def of(logits_NV: Tensor, top_k: int, temperatures: tuple[float, ...]) -> "Rows":
        """Reduce full logits to rows, in float32."""
        logits_NV = logits_NV.float()
        top = logits_NV.topk(min(top_k, logits_NV.shape[-1]), dim=-1)
        lse = {t: torch.logsumexp(logits_NV / t, -1) for t in temperatures}
        return Rows(top.indices, top.values, lse)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        lse = {t: lse_N.to(device) for t, lse_N in self.lse.items()}
        return Rows(self.ids_NK.to(device), self.logits_NK.to(device), lse)


class TeacherSignal(Protocol):
    """What a loss sees of the teacher: never whether it is live or stored.

    Attributes:
        scale: what the loss is multiplied by, in value and gradient alike (T^2 where both sides
            are tempered, Hinton et al. 2015, section 2).
    """

    scale: float

    def chunk(self, start: int, stop: int) -> "TeacherSignal":
        """The signal at positions ``start:stop``."""
        ...

    def align(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student on one support, both [C, S], in nats."""
        ...

    def kept_logits(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tempered logits of both on the kept tokens, and which entries are kept: [C, S] each."""
        ...


@dataclass(frozen=True, kw_only=True)
class DenseSignal:
    """The full distribution, formed from hidden states and a head, chunk by chunk.

    Shape:
        hidden_ND; ``head`` maps [C, D] to logits [C, V].
    """

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    temperature: float
    temper_student: bool

    @property
    def scale(self) -> float:
        return self.temperature**2 if self.temper_student else 1.0

    def chunk(self, start: int, stop: int) -> "DenseSignal":
        return replace(self, hidden_ND=self.hidden_ND[start:stop])

    def align(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        teacher_CV, student_CV, _ = self.kept_logits(student_logits_CV)
        return teacher_CV.log_softmax(-1), student_CV.log_softmax(-1)

    def kept_logits(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            teacher_CV = _upcast(self.head(self.hidden_ND)) / self.temperature
        student_CV = _temper(student_logits_CV, self)
        return teacher_CV, student_CV, torch.ones_like(student_CV, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class SparseSignal:
    """The kept tokens of each position, and what becomes of the rest.

    Shape:
        ids_NK int64, logits_NK, keep_NK bool (rows may keep fewer than K), lse_N: logsumexp over
        the full vocabulary at ``temperature``, or None where the tail does not need it.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    keep_NK: Tensor
    lse_N: Tensor | None
    tail: str
    temperature: float
    temper_student: bool

    @property
    def scale(self) -> float:
        return self.temperature**2 if self.temper_student else 1.0

    def chunk(self, start: int, stop: int) -> "SparseSignal":
        return replace(
            self,
            ids_NK=self.ids_NK[start:stop],
            logits_NK=self.logits_NK[start:stop],
            keep_NK=self.keep_NK[start:stop],
            lse_N=None if self.lse_N is None else self.lse_N[start:stop],
        )

    def align(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        student_CV = _temper(student_logits_CV, self)
        tempered_CK = self.logits_NK.to(student_CV.dtype) / self.temperature
        tempered_CK = tempered_CK.masked_fill(~self.keep_NK, -torch.inf)
        teacher_lse_C = tempered_CK.logsumexp(-1)  # over what is kept
        student_lse_C1 = student_CV.logsumexp(-1, keepdim=True)
        student_CK = student_CV.gather(-1, self.ids_NK) - student_lse_C1
        if self.tail == "renormalize":
            teacher_CK = tempered_CK - teacher_lse_C[:, None]
            return self._drop(teacher_CK), self._drop(student_CK)
        assert self.lse_N is not None
        teacher_CK = tempered_CK - self.lse_N[:, None]
        if self.ids_NK.shape[-1] == student_CV.shape[-1] and bool(self.keep_NK.all()):
            return teacher_CK, student_CK  # nothing was cut: there is no tail to put in a bucket
        # The rest mass from logs: 1 - sum(p) in float32 would be noise where the head is sharp.
        rest_C = (teacher_lse_C - self.lse_N).clamp(max=0.0)
        teacher_tail_C = torch.log(-torch.expm1(rest_C)).clamp(min=NOTHING)
        # A dropped entry must not hide its id from the tail: let it point at one that is kept.
        hidden_CK = torch.where(self.keep_NK, self.ids_NK, self.ids_NK[:, :1])
        student_rest_CV = student_CV.scatter(-1, hidden_CK, -torch.inf)
        student_tail_C = student_rest_CV.logsumexp(-1) - student_lse_C1[:, 0]
        # Rows that keep the whole vocabulary, beside others that do not, have nothing in theirs.
        whole_C = self.keep_NK.sum(-1) == student_CV.shape[-1]
        teacher_tail_C = teacher_tail_C.masked_fill(whole_C, NOTHING)
        student_tail_C = student_tail_C.masked_fill(whole_C, NOTHING)
        return (
            torch.cat([self._drop(teacher_CK), teacher_tail_C[:, None]], -1),
            torch.cat([self._drop(student_CK), student_tail_C[:, None]], -1),
        )

    def kept_logits(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        student_CV = _temper(student_logits_CV, self)
        teacher_CK = self.logits_NK.to(student_CV.dtype) / self.temperature
        return teacher_CK, student_CV.gather(-1, self.ids_NK), self.keep_NK

    def _drop(self, logprobs_CK: Tensor) -> Tensor:
        return logprobs_CK.masked_fill(~self.keep_NK, NOTHING)


class Truncating(Protocol):
    """What forms a sparse signal of rows: a value of the signal axis that keeps few tokens."""

    @property
    def temperature(self) -> float: ...

    @property
    def temper_student(self) -> bool: ...

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        """Rows of full logits at the positions ``offset_C`` of the split."""
        ...

    def sparse(self, rows: Rows) -> SparseSignal:
        """The signal of rows, its own or a store's."""
        ...


@dataclass(frozen=True, kw_only=True)
class LiveSparseSignal:
    """A live teacher seen through a truncating signal: rows are formed chunk by chunk.

    Attributes:
        offset_N: positions in the split, on which draws depend; None counts from 0.
    """

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    signal: "Truncating"
    offset_N: Tensor | None

    @property
    def scale(self) -> float:
        return self.signal.temperature**2 if self.signal.temper_student else 1.0

    def chunk(self, start: int, stop: int) -> SparseSignal:
        with torch.no_grad():
            logits_CV = self.head(self.hidden_ND[start:stop])
            if self.offset_N is None:
                offset_C = torch.arange(start, stop, device=logits_CV.device)
            else:
                offset_C = self.offset_N[start:stop]
            return self.signal.sparse(self.signal.rows_of(logits_CV, offset_C))

    def align(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        return self.chunk(0, len(self.hidden_ND)).align(student_logits_CV)

    def kept_logits(self, student_logits_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.chunk(0, len(self.hidden_ND)).kept_logits(student_logits_CV)


def _upcast(logits: Tensor) -> Tensor:
    """Half precision is no place for a softmax; float64 (the tests' oracle) is left alone."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _temper(student_logits_CV: Tensor, signal: DenseSignal | SparseSignal) -> Tensor:
    logits_CV = _upcast(student_logits_CV)
    return logits_CV / signal.temperature if signal.temper_student else logits_CV
