"""The teacher's word on one chunk of positions: which tokens it speaks of, and at what temperature.

Shape suffixes, for the whole repository: B batch, L sequence, V vocabulary, K kept teacher tokens,
S support of a loss, D model width, H heads, N positions of a batch laid flat (B * L), C a chunk of
those positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pdx.largest import largest
from pdx.student import Heat, Student, column, upcast

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
        values_NK, ids_NK = largest(logits_NV, min(top_k, logits_NV.shape[-1]))
        return Rows(ids_NK, values_NK, Facts.of(logits_NV, temperatures, spread))

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
