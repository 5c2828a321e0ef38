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

from pdx.student import Student, upcast

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


# What a loss hands on to its signal, and never opens: a chunk of logits [C, V] in any float dtype,
# or the reduction's own form of one, which costs no graph over V.
StudentLogits = Tensor | Student


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

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student on one support, both [C, S], in nats."""
        ...

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
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

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        student_CV = _student(student_logits_CV).logprobs(_heat(self))
        return self._teacher().log_softmax(-1), student_CV

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        student_CV = _student(student_logits_CV).logits(_heat(self))
        return self._teacher(), student_CV, torch.ones_like(student_CV, dtype=torch.bool)

    @torch.no_grad()
    def _teacher(self) -> Tensor:
        return upcast(self.head(self.hidden_ND)) / self.temperature


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

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        student, heat = _student(student_logits_CV), _heat(self)
        dropped_CK = ~self.keep_NK
        kept_CK = student.at(self.ids_NK, self.keep_NK, heat).masked_fill(dropped_CK, -torch.inf)
        rest_C1 = student.rest(self.ids_NK, self.keep_NK, heat)[:, None]
        student_CS = torch.cat([kept_CK, rest_C1], -1).log_softmax(-1)
        tempered_CK = self.logits_NK.to(student.dtype) / self.temperature
        if self.tail == "renormalize":
            teacher_CK = tempered_CK.masked_fill(dropped_CK, -torch.inf).log_softmax(-1)
            nothing_CK = [dropped_CK]
            return _drop(teacher_CK, nothing_CK), _drop(student_CS[:, :-1], nothing_CK)
        assert self.lse_N is not None
        teacher_CK = tempered_CK - self.lse_N[:, None]
        if self.ids_NK.shape[-1] == student.vocab_size and not bool(dropped_CK.any()):
            return teacher_CK, student_CS[:, :-1]  # nothing was cut: no tail to put in a bucket
        mass_C1 = teacher_CK.exp().masked_fill(dropped_CK, 0.0).sum(-1, keepdim=True)
        teacher_tail_C1 = torch.log1p(-mass_C1.clamp(max=1.0)).clamp(min=NOTHING)
        # Rows that keep the whole vocabulary, beside others that do not, have nothing in theirs.
        whole_C1 = self.keep_NK.sum(-1, keepdim=True) == student.vocab_size
        nothing_CS = [dropped_CK, whole_C1]
        teacher_CS = torch.cat([teacher_CK, teacher_tail_C1], -1)
        return _drop(teacher_CS, nothing_CS), _drop(student_CS, nothing_CS)

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        student = _student(student_logits_CV)
        teacher_CK = self.logits_NK.to(student.dtype) / self.temperature
        return teacher_CK, student.at(self.ids_NK, self.keep_NK, _heat(self)), self.keep_NK


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

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        return self.chunk(0, len(self.hidden_ND)).align(student_logits_CV)

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        return self.chunk(0, len(self.hidden_ND)).kept_logits(student_logits_CV)


def _drop(logprobs_CS: Tensor, nothing: list[Tensor]) -> Tensor:
    """Put what carries no mass at ``NOTHING``: masks of parts of the support, left to right."""
    return logprobs_CS.masked_fill(torch.cat(nothing, -1), NOTHING)


def _student(logits_CV: StudentLogits) -> Student:
    return logits_CV if isinstance(logits_CV, Student) else Student(logits_CV)


def _heat(signal: DenseSignal | SparseSignal) -> float:
    """The temperature of the student's side."""
    return signal.temperature if signal.temper_student else 1.0
