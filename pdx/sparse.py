"""A truncated or drawn signal: the kept tokens of each position, and a tail for the rest."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pdx.rows import LEAST, NOTHING
from pdx.signal import Heats, StudentLogits, as_student
from pdx.student import Heat, Student, column, kept_ids

# What carries no mass inside a softmax. Finite, so that 0 times it is 0.
WALL = -1e30


@dataclass(frozen=True, kw_only=True)
class SparseSignal:
    """The kept tokens of each position, and what becomes of the rest.

    Shape:
        ids_NK int64, logits_NK, keep_NK bool (rows may keep fewer than K; the first is always
        kept), rest_N: logsumexp over the tokens that are not kept, at the teacher's temperature (1
        where ``tail`` is decoupled), or None where the tail does not need it.
    """

    ids_NK: Tensor
    logits_NK: Tensor
    keep_NK: Tensor
    rest_N: Tensor | None
    targets_N: Tensor
    tail: str
    heats: Heats

    tail_N = None  # a loss that asks for it needs the full signal

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
        parts_CS, nothing_C1 = self._parts(student), torch.tensor(WALL)
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

    @cached_property
    def _is_kept(self) -> Tensor:
        """``keep_NK`` as 1.0 and 0.0: a CPU fills under a mask ten times as slowly as it adds."""
        return self.keep_NK.to(self.logits_NK.dtype)

    def _tempered(self, student: Student) -> Tensor:
        return self.logits_NK.to(student.dtype) / column(self.heats.teacher)

    def _only_kept(self, logits_CK: Tensor) -> Tensor:
        return logits_CK + (self._is_kept - 1) * -WALL

    def _parts(self, student: Student) -> Tensor:
        """Log-probabilities of the teacher: of each kept token, and of all others together."""
        assert self.rest_N is not None
        decoupled = self.tail == "decoupled"
        logits_CK = self.logits_NK.to(student.dtype) if decoupled else self._tempered(student)
        rest_C1 = self.rest_N[:, None].to(student.dtype)
        rest_C1 = rest_C1.masked_fill(self._whole(student), WALL)
        return torch.cat([self._only_kept(logits_CK), rest_C1], -1).log_softmax(-1)

    def _student_parts(self, student: Student, heat: Heat) -> Tensor:
        """The same of the student, whose softmax is always over everything."""
        kept_CK = self._only_kept(student.at(self.ids_NK, self.keep_NK, heat))
        rest_C1 = student.rest(self.ids_NK, self.keep_NK, heat)[:, None].clamp(min=WALL)
        return torch.cat([kept_CK, rest_C1], -1).log_softmax(-1)

    def _whole(self, student: Student) -> Tensor:
        """Rows that keep the whole vocabulary, [C, 1]: they have no rest."""
        return self.keep_NK.sum(-1, keepdim=True) == student.vocab_size

    def _without_dropped(self, *sides_CK: Tensor) -> tuple[Tensor, Tensor]:
        teacher_CK, student_CK = (_filled(x, self._is_kept) for x in sides_CK)
        return teacher_CK, student_CK

    def _with_rest(self, student: Student, *sides_CS: Tensor) -> tuple[Tensor, Tensor]:
        kept_CS = torch.cat([self._is_kept, (~self._whole(student)).to(self._is_kept.dtype)], -1)
        teacher_CS, student_CS = (_filled(x, kept_CS) for x in sides_CS)
        return teacher_CS.clamp(min=NOTHING), student_CS


def _filled(logprobs_CS: Tensor, kept_CS: Tensor) -> Tensor:
    """LEAST where ``kept_CS`` is 0: next to nothing, and the same on both sides."""
    return logprobs_CS * kept_CS + (1 - kept_CS) * LEAST
