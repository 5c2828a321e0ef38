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

from pdx.student import Heat, Student, column, kept_ids, upcast

# Log-probability of what carries no mass. Finite, so that 0 * NOTHING is 0 and not NaN, and
# exp(NOTHING) is 0 in float32 and float64 alike.
NOTHING = -1e4
# Log of the least mass that a stored row leaves to its tail: its float32 logsumexp, a number near
# 20, is known to 1e-6. Of a tail of nothing at all a reverse KL would make thousands of nats.
LEAST_TAIL = -14.0


class Facts(NamedTuple):
    """What is known of the teacher's whole distribution at N positions, float32.

    Attributes:
        lse: temperature -> logsumexp(z / T) over the vocabulary, [N].
        entropy_N, deviation_N: of the distribution at temperature 1, in nats, and of the logits
            over the vocabulary (divided by V, not V - 1); None where nothing asked for them.
    """

    lse: dict[float, Tensor]
    entropy_N: Tensor | None = None
    deviation_N: Tensor | None = None

    @staticmethod
    def of(logits_NV: Tensor, temperatures: tuple[float, ...], spread: bool) -> "Facts":
        """From full logits; ``spread`` asks for entropy and deviation."""
        lse = {t: torch.logsumexp(logits_NV / t, -1) for t in temperatures}
        if not spread:
            return Facts(lse)
        deviation_N = (logits_NV - logits_NV.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        return Facts(lse, entropy(logits_NV), deviation_N)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Facts":
        """The same after ``change`` of every tensor."""
        spread = (x if x is None else change(x) for x in (self.entropy_N, self.deviation_N))
        return Facts({t: change(lse_N) for t, lse_N in self.lse.items()}, *spread)


class Rows(NamedTuple):
    """What is known of the teacher at N positions: from the store, or computed on the spot.

    Shape:
        ids_NK int64 and logits_NK float32, by falling logit.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    facts: Facts

    @staticmethod
    def of(
        logits_NV: Tensor, top_k: int, temperatures: tuple[float, ...], spread: bool = False
    ) -> "Rows":
        """Reduce full logits to rows, in float32."""
        logits_NV = logits_NV.float()
        top = logits_NV.topk(min(top_k, logits_NV.shape[-1]), dim=-1)
        return Rows(top.indices, top.values, Facts.of(logits_NV, temperatures, spread))

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        facts = self.facts.map(lambda x: x.to(device))
        return Rows(self.ids_NK.to(device), self.logits_NK.to(device), facts)

    def at(self, index_M: Tensor) -> "Rows":
        """Some of the rows."""
        facts = self.facts.map(lambda x: x[index_M])
        return Rows(self.ids_NK[index_M], self.logits_NK[index_M], facts)


class Heats(NamedTuple):
    """The temperatures of N positions, and what they do to the loss: numbers, or one a position.

    Attributes:
        student_norm: where given, the student's temperature is this times the deviation of its own
            logits, and ``student`` is not read.
        scale: what the loss is multiplied by, in value and gradient alike (T^2 where both sides
            are tempered, Hinton et al. 2015, section 2).
    """

    teacher: float | Tensor
    student: float | Tensor
    scale: float | Tensor
    student_norm: float | None = None

    def chunk(self, start: int, stop: int) -> "Heats":
        """At positions ``start:stop``."""

        def cut(x: float | Tensor) -> float | Tensor:
            return x[start:stop] if isinstance(x, Tensor) else x

        return Heats(cut(self.teacher), cut(self.student), cut(self.scale), self.student_norm)

    def of_student(self, student: Student) -> Heat:
        """The temperature of the student's side, a number or [C, 1]."""
        if self.student_norm is None:
            return column(self.student)
        return (self.student_norm * student.deviation()).clamp(min=1e-3)[:, None]


class Temperature(Protocol):
    """A value of the temperature axis, as signals use it."""

    @property
    def constant(self) -> float | None:
        """The teacher's temperature where all positions and steps have the same."""
        ...

    @property
    def needed_temperatures(self) -> tuple[float, ...]:
        """At which it reads the full-vocabulary logsumexp itself."""
        ...

    @property
    def needs_spread(self) -> bool:
        """Whether it reads entropy and deviation."""
        ...

    def __call__(self, fraction: float, facts: Facts) -> Heats:
        """The temperatures of positions at ``fraction`` of training."""
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a signal is told besides the teacher's logits.

    Attributes:
        targets_N: the true next tokens; of masked positions, anything.
        offset_N: positions in the split, on which draws depend.
        tail_N: the teacher's mean mass outside its first tokens over each position's window, for a
            loss that asks for it (``window_tail_of``).
    """

    temperature: Temperature
    fraction: float
    targets_N: Tensor
    offset_N: Tensor
    tail_N: Tensor | None = None

    def chunk(self, start: int, stop: int) -> "Context":
        """At positions ``start:stop``."""
        cut = {"targets_N": self.targets_N[start:stop], "offset_N": self.offset_N[start:stop]}
        tail_N = None if self.tail_N is None else self.tail_N[start:stop]
        return replace(self, **cut, tail_N=tail_N)


# What a loss hands on to its signal, and never opens: a chunk of logits [C, V] in any float dtype,
# or the reduction's own form of one, which costs no graph over V.
StudentLogits = Tensor | Student


class TeacherSignal(Protocol):
    """What a loss sees of the teacher: never whether it is live or stored."""

    @property
    def scale(self) -> float | Tensor:
        """What the loss is multiplied by: a number, or one a position."""
        ...

    def chunk(self, start: int, stop: int) -> "TeacherSignal":
        """The signal at positions ``start:stop``."""
        ...

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student on one support, both [C, S], in nats."""
        ...

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        """Tempered logits of both on the kept tokens, and which entries are kept: [C, S] each."""
        ...


class Lesson(NamedTuple):
    """What the teacher says of a micro-batch, and where: [B, L] bool, or everywhere.

    Attributes:
        states: its hidden states at the layers that are matched, [B, L, D] each.
    """

    signal: TeacherSignal | None
    taught_BL: Tensor | None
    states: list[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class DenseSignal:
    """The full distribution: logits_NV of the teacher, in float32 or better.

    Attributes:
        tail_N: as in ``Context``.
    """

    logits_NV: Tensor
    heats: Heats
    tail_N: Tensor | None = None

    @property
    def scale(self) -> float | Tensor:
        return self.heats.scale

    def chunk(self, start: int, stop: int) -> "DenseSignal":
        return DenseSignal(
            logits_NV=self.logits_NV[start:stop],
            heats=self.heats.chunk(start, stop),
            tail_N=None if self.tail_N is None else self.tail_N[start:stop],
        )

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        student = as_student(student_logits_CV)
        return self._tempered().log_softmax(-1), student.logprobs(self.heats.of_student(student))

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        student = as_student(student_logits_CV)
        student_CV = student.logits(self.heats.of_student(student))
        return self._tempered(), student_CV, torch.ones_like(student_CV, dtype=torch.bool)

    def tail_mass(self, top_k: int) -> Tensor:
        """Of all but the ``top_k`` likeliest tokens, [N]."""
        probs_NV = self._tempered().softmax(-1)
        kept_NK = probs_NV.topk(min(top_k, probs_NV.shape[-1] - 1), dim=-1).values
        return (1 - kept_NK.sum(-1)).clamp(min=0)

    def _tempered(self) -> Tensor:
        return self.logits_NV / column(self.heats.teacher)


@dataclass(frozen=True, kw_only=True)
class SparseSignal:
    """The kept tokens of each position, and what becomes of the rest.

    Shape:
        ids_NK int64, logits_NK, keep_NK bool (rows may keep fewer than K; the first is always
        kept), rest_N: logsumexp over the tokens that are no entry of the row, at the teacher's
        temperature (1 where ``tail`` is decoupled), or None where the tail does not need it.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    keep_NK: Tensor
    rest_N: Tensor | None
    targets_N: Tensor
    tail: str
    heats: Heats

    @property
    def scale(self) -> float | Tensor:
        # Decoupled: the square would belong to one of its two terms only.
        return 1.0 if self.tail == "decoupled" else self.heats.scale

    def chunk(self, start: int, stop: int) -> "SparseSignal":
        return SparseSignal(
            ids_NK=self.ids_NK[start:stop],
            logits_NK=self.logits_NK[start:stop],
            keep_NK=self.keep_NK[start:stop],
            rest_N=None if self.rest_N is None else self.rest_N[start:stop],
            targets_N=self.targets_N[start:stop],
            tail=self.tail,
            heats=self.heats.chunk(start, stop),
        )

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        student = as_student(student_logits_CV)
        return getattr(self, f"_{self.tail}")(student, self.heats.of_student(student))

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        student = as_student(student_logits_CV)
        student_CK = student.at(self.ids_NK, self.keep_NK, self.heats.of_student(student))
        return self._tempered(student), student_CK, self.keep_NK

    # ---- one method a tail: the teacher, and the student, on the support that it makes -----------

    def _renormalize(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        teacher_CK = self._only_kept(self._tempered(student)).log_softmax(-1)
        return self._without_dropped(teacher_CK, self._student_parts(student, heat)[:, :-1])

    def _weights(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        """Log-weights as they are, which need not sum to one: importance-weighted draws."""
        student_CK = self._student_parts(student, heat)[:, :-1]
        return self._without_dropped(self.logits_NK.to(student.dtype), student_CK)

    def _support(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        student_CK = student.at(self.ids_NK, self.keep_NK, heat)
        sides = (self._only_kept(x).log_softmax(-1) for x in (self._tempered(student), student_CK))
        return self._without_dropped(*sides)

    def _drop(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        teacher_CS, student_CS = self._parts(student), self._student_parts(student, heat)
        return self._without_dropped(teacher_CS[:, :-1], student_CS[:, :-1])

    def _bucket(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        return self._with_rest(student, self._parts(student), self._student_parts(student, heat))

    def _decoupled(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        """What is kept and what is not, at temperature 1; among the kept, tempered."""
        student_CS, teacher_CS = self._student_parts(student, 1.0), self._parts(student)
        kept_CK = student.at(self.ids_NK, self.keep_NK, heat)
        sides = []
        for parts_CS, tempered_CK in ((teacher_CS, self._tempered(student)), (student_CS, kept_CK)):
            within_CK = self._only_kept(tempered_CK).log_softmax(-1)
            mass_C1 = parts_CS[:, :-1].logsumexp(-1, keepdim=True)
            sides.append(torch.cat([mass_C1 + within_CK, parts_CS[:, -1:]], -1))
        return self._with_rest(student, *sides)

    def _to_label(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        """The label is one more entry where it is not kept; it gets the rest either way."""
        label_C1 = self.targets_N[:, None]
        parts_CS, nothing_C1 = self._parts(student), torch.tensor(-torch.inf)
        is_label_CK = (self.ids_NK == label_C1) & self.keep_NK
        kept_CK, rest_C1 = parts_CS[:, :-1], parts_CS[:, -1:]
        kept_CK = torch.where(is_label_CK, torch.logaddexp(kept_CK, rest_C1), kept_CK)
        more_C1 = ~is_label_CK.any(-1, keepdim=True)
        teacher_CS = torch.cat([kept_CK, torch.where(more_C1, rest_C1, nothing_C1)], -1)
        wider = replace(
            self,
            ids_NK=torch.cat([self.ids_NK, label_C1], -1),
            keep_NK=torch.cat([self.keep_NK, more_C1], -1),
        )
        student_CS = wider._student_parts(student, heat)[:, :-1]
        return wider._without_dropped(teacher_CS, student_CS)

    def _smooth(self, student: Student, heat: Heat) -> tuple[Tensor, Tensor]:
        """The rest evenly on all that is not kept: a support of the whole vocabulary."""
        student_CV, parts_CS = student.logprobs(heat), self._parts(student)
        num_rest_C1 = student.vocab_size - self.keep_NK.sum(-1, keepdim=True)
        each_C1 = parts_CS[:, -1:] - num_rest_C1.clamp(min=1).to(student.dtype).log()
        kept_CK = torch.where(self.keep_NK, parts_CS[:, :-1], parts_CS[:, :1])
        teacher_CV = each_C1.repeat(1, student.vocab_size)
        teacher_CV = teacher_CV.scatter(-1, kept_ids(self.ids_NK, self.keep_NK), kept_CK)
        return teacher_CV.clamp(min=NOTHING), student_CV

    # ---- what they are made of -------------------------------------------------------------------

    def _tempered(self, student: Student) -> Tensor:
        return self.logits_NK.to(student.dtype) / column(self.heats.teacher)

    def _only_kept(self, logits_CK: Tensor) -> Tensor:
        return logits_CK.masked_fill(~self.keep_NK, -torch.inf)

    def _parts(self, student: Student) -> Tensor:
        """Log-probabilities of the teacher: of each kept token, and of all others together."""
        assert self.rest_N is not None
        decoupled = self.tail == "decoupled"
        logits_CK = self.logits_NK.to(student.dtype) if decoupled else self._tempered(student)
        unkept_CK = logits_CK.masked_fill(self.keep_NK | (self.logits_NK <= NOTHING), -torch.inf)
        rest_C1 = (
            self.rest_N[:, None].to(student.dtype).masked_fill(self._whole(student), -torch.inf)
        )
        rest_C1 = torch.cat([unkept_CK, rest_C1], -1).logsumexp(-1, keepdim=True)
        return torch.cat([self._only_kept(logits_CK), rest_C1], -1).log_softmax(-1)

    def _student_parts(self, student: Student, heat: Heat) -> Tensor:
        """The same of the student, whose softmax is always over everything."""
        kept_CK = self._only_kept(student.at(self.ids_NK, self.keep_NK, heat))
        rest_C1 = student.rest(self.ids_NK, self.keep_NK, heat)[:, None]
        return torch.cat([kept_CK, rest_C1], -1).log_softmax(-1)

    def _whole(self, student: Student) -> Tensor:
        """Rows that keep the whole vocabulary, [C, 1]: they have no rest."""
        return self.keep_NK.sum(-1, keepdim=True) == student.vocab_size

    def _without_dropped(self, *sides_CK: Tensor) -> tuple[Tensor, Tensor]:
        teacher_CK, student_CK = (x.masked_fill(~self.keep_NK, NOTHING) for x in sides_CK)
        return teacher_CK, student_CK

    def _with_rest(self, student: Student, *sides_CS: Tensor) -> tuple[Tensor, Tensor]:
        nothing_CS = torch.cat([~self.keep_NK, self._whole(student)], -1)
        teacher_CS, student_CS = (x.masked_fill(nothing_CS, NOTHING) for x in sides_CS)
        return teacher_CS.clamp(min=NOTHING), student_CS


class Silent:
    """What a loss is told that has no teacher: nothing, and that it counts as it is."""

    scale = 1.0

    def chunk(self, start: int, stop: int) -> "Silent":
        return self

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        raise AssertionError("a loss without a teacher asked for one")

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        raise AssertionError("a loss without a teacher asked for one")


class Spoken(Protocol):
    """A value of the signal axis: what it makes of a chunk of the teacher's logits."""

    def of_logits(self, logits_CV: Tensor, context: Context) -> DenseSignal | SparseSignal: ...


@dataclass(frozen=True, kw_only=True)
class LiveSignal:
    """A live teacher: logits are formed from hidden states chunk by chunk, and seen as asked for.

    Shape:
        hidden_ND; ``head`` maps [C, D] to logits [C, V].
    """

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    signal: Spoken
    context: Context

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
    def chunk(self, start: int, stop: int) -> DenseSignal | SparseSignal:
        logits_CV = upcast(self.head(self.hidden_ND[start:stop])).detach()
        return self.signal.of_logits(logits_CV, self.context.chunk(start, stop))

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        return self._all().align(student_logits_CV)

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        return self._all().kept_logits(student_logits_CV)

    def _all(self) -> DenseSignal | SparseSignal:
        return self.chunk(0, len(self.hidden_ND))


def entropy(logits_NV: Tensor) -> Tensor:
    """Of softmax(logits), in nats, [N]."""
    logprobs_NV = logits_NV.log_softmax(-1)
    return -(logprobs_NV.exp() * logprobs_NV.clamp(min=NOTHING)).sum(-1)


@torch.no_grad()
def entropies(hidden_ND: Tensor, head: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
    """Of a live teacher at all positions, chunk by chunk, [N]."""
    return torch.cat([entropy(upcast(head(part_CD))) for part_CD in hidden_ND.split(chunk)])


def as_student(logits_CV: StudentLogits) -> Student:
    """A chunk of logits as signals and losses ask it."""
    return logits_CV if isinstance(logits_CV, Student) else Student(logits_CV)
