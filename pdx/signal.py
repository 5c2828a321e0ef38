"""The teacher's word on one chunk of positions: which tokens it speaks of, and at what temperature.

Shape suffixes, for the whole repository: B batch, L sequence, V vocabulary, K kept teacher tokens,
S support of a loss, D model width, H heads, N positions of a batch laid flat (B * L), C a chunk of
those positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from pdx.build import check

TAILS = ("renormalize", "bucket")

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


@dataclass(frozen=True, kw_only=True)
class LiveSparseSignal:
    """A live teacher seen through a truncating signal: rows are formed chunk by chunk."""

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    signal: "TopK | ToppTopK"

    @property
    def scale(self) -> float:
        return self.signal.temperature**2 if self.signal.temper_student else 1.0

    def chunk(self, start: int, stop: int) -> SparseSignal:
        with torch.no_grad():
            logits_CV = self.head(self.hidden_ND[start:stop])
            temperatures = tuple({1.0, self.signal.temperature})
            return self.signal.sparse(Rows.of(logits_CV, self.signal.top_k, temperatures))

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


# ---- axis values -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Full:
    """All of the teacher's logits: what every truncation is compared with; needs a live teacher.

    Attributes:
        temperature: softens the teacher, and the student too where ``temper_student``.
        temper_student: temper both sides; value and gradient are then multiplied by T^2.

    Source:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. arXiv:2410.16215, Eq. 4 tempers the
        teacher; whether the student too is not said there.
    """

    temperature: float
    temper_student: bool

    stored: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.temperature > 0, "signal.temperature", self.temperature, "must be > 0")

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return True

    def live(self, hidden_ND: Tensor, head: Callable[[Tensor], Tensor]) -> DenseSignal:
        """The signal of a live teacher."""
        return DenseSignal(
            hidden_ND=hidden_ND,
            head=head,
            temperature=self.temperature,
            temper_student=self.temper_student,
        )


class _Truncated:
    """What the truncating signals share: how kept rows become a signal, stored or live."""

    stored: ClassVar[bool] = True

    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "signal.top_k", self.top_k, "must be at least 1")
        check(self.tail in TAILS, "signal.tail", self.tail, f"must be one of {', '.join(TAILS)}")
        check(self.temperature > 0, "signal.temperature", self.temperature, "must be > 0")

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return self.tail == "bucket"

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        """Temperatures whose full-vocabulary logsumexp this signal cannot do without."""
        return (self.temperature,) if self.tail == "bucket" else ()

    def keep(self, rows: Rows) -> Tensor:
        """Which of the first ``top_k`` entries of each row are kept, [N, K] bool."""
        raise NotImplementedError

    def sparse(self, rows: Rows) -> SparseSignal:
        """The signal of rows that hold at least ``top_k`` entries (or the whole vocabulary)."""
        return SparseSignal(
            ids_NK=rows.ids_NK[:, : self.top_k],
            logits_NK=rows.logits_NK[:, : self.top_k],
            keep_NK=self.keep(rows),
            lse_N=rows.lse[self.temperature] if self.tail == "bucket" else None,
            tail=self.tail,
            temperature=self.temperature,
            temper_student=self.temper_student,
        )

    def live(self, hidden_ND: Tensor, head: Callable[[Tensor], Tensor]) -> LiveSparseSignal:
        """The same signal of a live teacher."""
        return LiveSparseSignal(hidden_ND=hidden_ND, head=head, signal=self)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class TopK(_Truncated):
    """The teacher's ``top_k`` largest logits: a store of fixed width.

    Attributes:
        tail: ``bucket`` puts all other tokens together in one entry on both sides, so that every
            divergence stays one; ``renormalize`` forgets them: the teacher is renormalised over
            what is kept while the student keeps its full softmax (our reading of arXiv:2410.16215,
            Eq. 4: truncate, temper, renormalise).
        temperature, temper_student: as in ``Full``.

    Source:
        ``bucket``: the ghost token of arXiv:2503.16870.
    """

    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    version: ClassVar[int] = 1

    def keep(self, rows: Rows) -> Tensor:
        return torch.ones_like(rows.ids_NK[:, : self.top_k], dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class ToppTopK(_Truncated):
    """The smallest set that holds ``top_p`` of the mass, then at most ``top_k`` of it.

    Bites by p where the teacher is sure and by k where it is not.

    Attributes:
        top_p: mass at temperature 1, before the temperature is applied.
        tail, temperature, temper_student: as in ``TopK``.

    Source:
        arXiv:2410.16215, section 3.1 (top-p-k).
    """

    top_p: float
    top_k: int
    tail: str
    temperature: float
    temper_student: bool

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.top_p <= 1, "signal.top_p", self.top_p, "must lie in (0, 1]")

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        return (1.0, *super().needed_temperatures)

    def keep(self, rows: Rows) -> Tensor:
        probs_NK = (rows.logits_NK[:, : self.top_k] - rows.lse[1.0][:, None]).exp()
        before_NK = probs_NK.cumsum(-1) - probs_NK  # mass of all larger tokens
        keep_NK = before_NK < self.top_p
        keep_NK[:, 0] = True
        return keep_NK
