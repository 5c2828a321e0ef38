"""What the values share that match hidden states: layers, projections, and what is refused."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pdx.build import check, value_name
from pdx.errors import ConfigError
from pdx.models import check_layers
from pdx.student import upcast
from pdx.teacher import TrainedHere

if TYPE_CHECKING:
    from pdx.config import Run
    from pdx.feed import Feed


class Matched:
    """Hidden states of chosen layers, the student's after a learned projection.

    Layer 0 is the embedding, n the output of the n-th layer, -1 that of the last, after the last
    norm; one of the student goes with one of the teacher.
    """

    exists: ClassVar[bool] = True

    weight: float
    student_layers: list[int]
    teacher_layers: list[int]
    projection: bool

    def __post_init__(self) -> None:
        check(self.weight > 0, "hidden.weight", self.weight, "must be > 0; use hidden=none for 0")
        check(bool(self.student_layers), "hidden.student_layers", [], "must name a layer or more")
        same = len(self.teacher_layers) == len(self.student_layers)
        allowed = f"must be as many as hidden.student_layers={self.student_layers}"
        check(same, "hidden.teacher_layers", self.teacher_layers, allowed)

    def compare(self, student_BLD: Tensor, teacher_BLD: Tensor) -> Tensor:
        """How far apart two states of equal width are, [B, L]."""
        raise NotImplementedError

    def check(self, run: "Run") -> None:
        """Refuse what has no hidden states to match, before anything is made."""
        name = value_name(self)
        if not run.loss.needs_teacher:
            raise ConfigError(
                f"hidden={name}: is a second term beside a loss that reads a teacher; use "
                "loss=forward_kl or another (with mix.kd_weight=0.0 for hidden states alone)."
            )
        if run.is_stored:
            run.store.check_hidden(self)
        if run.routing.shift:
            raise ConfigError(
                f"hidden={name}: routing=placebo moves the teacher's words and not its hidden "
                "states; use another routing, or hidden=none."
            )
        widths = {}
        teacher = run.teacher.architecture(run) if isinstance(run.teacher, TrainedHere) else None
        for who, model in (("student", run.student), ("teacher", teacher)):
            if shape_of := getattr(model, "shape", None):
                shape = shape_of(1)
                self.check_layers(who, shape.num_layers)
                widths[who] = shape.hidden_size
        if len(widths) == 2:
            self.check_widths(**widths)

    def check_layers(self, who: str, num_layers: int) -> None:
        """Refuse a layer that the student, or the teacher, has not."""
        check_layers(f"hidden.{who}_layers", getattr(self, f"{who}_layers"), num_layers)

    def check_widths(self, student: int, teacher: int) -> None:
        """Refuse states of unequal widths without a projection."""
        if student != teacher and not self.projection:
            raise ConfigError(
                f"hidden.projection=False: the student is {student} wide and the teacher "
                f"{teacher}; set hidden.projection=true, or use models of one width."
            )

    def flops_forward_per_token(self, student_width: int, teacher_width: int) -> float:
        """Matrix products of the projections."""
        pairs = len(self.student_layers) if self.projection else 0
        return 2.0 * pairs * student_width * teacher_width

    def init(self, student: Any, feed: "Feed", seed: int) -> "Matcher":
        """The projections, drawn from ``seed`` on the CPU, on the feed's device."""
        self.check_layers("student", student.config.num_hidden_layers)
        width = student.config.hidden_size
        if feed.teacher is not None:
            config = feed.teacher.model.config
            self.check_layers("teacher", config.num_hidden_layers)
            teacher_width = config.hidden_size
        else:
            assert feed.store is not None
            teacher_width = feed.store.hidden_size(self.teacher_layers[0])
        self.check_widths(width, teacher_width)
        return Matcher(self, width, teacher_width, seed).to(feed.device)


class Matcher(nn.Module):
    """The term at work: its parameters are optimised and saved beside the student's."""

    def __init__(self, hidden: Matched, student_width: int, teacher_width: int, seed: int) -> None:
        super().__init__()
        self.hidden = hidden
        pairs = len(hidden.student_layers) if hidden.projection else 0
        generator = torch.Generator().manual_seed(seed)
        self.maps = nn.ParameterList(
            torch.randn(teacher_width, student_width, generator=generator) / student_width**0.5
            for _ in range(pairs)
        )

    def forward(self, student: list[Tensor], teacher: list[Tensor], mask_BL: Tensor) -> Tensor:
        """Sum over positions that count of the mean over pairs of layers, a scalar in float32.

        Args:
            student, teacher: the states of the chosen layers, [B, L, D] of each model's own D.
        """
        total = torch.zeros((), device=mask_BL.device)
        with torch.autocast(mask_BL.device.type, enabled=False):
            for i, (ours_BLD, theirs_BLD) in enumerate(zip(student, teacher, strict=True)):
                ours_BLD = upcast(ours_BLD)
                if len(self.maps):
                    ours_BLD = nn.functional.linear(ours_BLD, self.maps[i])
                apart_BL = self.hidden.compare(ours_BLD, upcast(theirs_BLD))
                total = total + torch.where(mask_BL, apart_BL, 0.0).sum()
        return total / len(student)
