"""The teacher's word on one chunk of positions: which tokens it speaks of, and at what temperature.

Shape suffixes, for the whole repository: B batch, L sequence, V vocabulary, K kept teacher tokens,
S support of a loss, D model width, H heads, N positions of a batch laid flat (B * L), C a chunk of
those positions.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pdx.rows import Facts
from pdx.student import Heat, Student, column


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

    @property
    def tail_N(self) -> Tensor | None:  # noqa: N802 - a field of those that have it
        """The teacher's mean mass outside its first tokens, for a loss that asks for it."""
        ...

    def chunk(self, start: int, stop: int) -> "TeacherSignal":
        """The signal at positions ``start:stop``."""
        ...

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student on one support, both [C, S], in nats.

        Where rows are of unequal length, both are ``pdx.rows.LEAST`` at what a row has not.
        """
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
    tail_N = None

    def chunk(self, start: int, stop: int) -> "Silent":
        return self

    def align(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor]:
        raise AssertionError("a loss without a teacher asked for one")

    def kept_logits(self, student_logits_CV: StudentLogits) -> tuple[Tensor, Tensor, Tensor]:
        raise AssertionError("a loss without a teacher asked for one")


def as_student(logits_CV: StudentLogits) -> Student:
    """A chunk of logits as signals and losses ask it."""
    return logits_CV if isinstance(logits_CV, Student) else Student(logits_CV)
