"""What the tests of the numerics share: components by name, and signals of given logits."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from pdx import paths
from pdx.build import build

VOCAB = 12


def values(axis: str) -> list[str]:
    """Every value of an axis, read from the files; never none."""
    found = sorted(path.stem for path in (paths.conf_dir() / axis).rglob("*.yaml"))
    assert found, f"conf/{axis} holds no value"
    return found


def component(axis: str, value: str, **changes: Any) -> Any:
    """A component as the command line builds it."""
    node = OmegaConf.load(paths.conf_dir() / axis / f"{value}.yaml")
    return build(OmegaConf.merge(node, changes), axis)  # type: ignore[arg-type]


def taught(run: Any, env: Any) -> tuple[Any, Any]:
    """The same run, its teacher trained: without MLflow, whose database takes seconds to make."""
    from pdx.execute import execute

    execute(run.teacher.run(run), env, quiet=True)
    return run, env


def draws(signal: Any) -> bool:
    """Whether the signal leaves to chance which tokens it speaks of."""
    return signal.stored and signal.rows != "topk"


def fits(signal: Any) -> Any:
    """A signal of any size, cut to the tests' vocabulary."""
    return replace(signal, top_k=min(signal.top_k, 5)) if hasattr(signal, "top_k") else signal


# Every signal, tail and side of temperature: those of conf/ as they are, and what they can be. What
# draws has laws of its own, of averages (tests/test_draws.py).
_CONF = {f"conf/{name}": fits(component("signal", name)) for name in values("signal")}
DRAWN: dict[str, Any] = {k: signal for k, signal in _CONF.items() if draws(signal)}
SIGNALS: dict[str, Any] = {k: signal for k, signal in _CONF.items() if not draws(signal)}
for _t, _both in ((1.0, False), (2.0, False), (2.0, True), (0.5, True)):
    _heat = {"temperature": _t, "temper_student": _both}
    _name = f"t{_t:g}{'_both' if _both else ''}"
    SIGNALS[f"full-{_name}"] = component("signal", "full", **_heat)
    for _tail in ("bucket", "renormalize"):
        _cut = {"top_k": 5, "tail": _tail, **_heat}
        SIGNALS[f"topk-{_tail}-{_name}"] = component("signal", "topk", **_cut)
        SIGNALS[f"topp-{_tail}-{_name}"] = component("signal", "topp_topk", top_p=0.8, **_cut)


def logits(seed: int, num: int = 6, vocab: int = VOCAB, scale: float = 2.0) -> Tensor:
    """Reproducible logits [num, vocab], float32."""
    return scale * torch.randn(num, vocab, generator=torch.Generator().manual_seed(seed))


def word(signal: Any, teacher_NV: Tensor) -> Any:
    """The signal of a teacher with these logits."""
    return signal.live(teacher_NV, lambda hidden: hidden)


# ---- the same word in plain Python floats: nothing of pdx is used below -----------------------


class Word(NamedTuple):
    """One position: log-probabilities on the support, and logits on what is kept (tempered)."""

    teacher: list[float]
    student: list[float]
    teacher_logits: list[float]
    student_logits: list[float]


def lse(values: list[float]) -> float:
    """Log sum exp; minus infinity of nothing."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))


def spell(signal: Any, teacher: list[float], student: list[float]) -> Word:
    """What ``signal`` says of one position, from its definition in words."""
    heat = signal.temperature
    cold_logprobs = [v - lse(teacher) for v in teacher]
    teacher = [v / heat for v in teacher]
    if signal.temper_student:
        student = [v / heat for v in student]
    order = sorted(range(len(teacher)), key=lambda v: -teacher[v])
    kept, mass = [], 0.0
    for v in order[: getattr(signal, "top_k", len(teacher))]:
        if mass >= getattr(signal, "top_p", math.inf) and kept:
            break
        kept.append(v)
        mass += math.exp(cold_logprobs[v])
    student_lse = lse(student)
    theirs, ours = [teacher[v] for v in kept], [student[v] for v in kept]
    on_student = [v - student_lse for v in ours]
    if getattr(signal, "tail", "bucket") == "renormalize":
        return Word([v - lse(theirs) for v in theirs], on_student, theirs, ours)
    on_teacher = [v - lse(teacher) for v in theirs]
    rest = [v for v in range(len(teacher)) if v not in kept]
    if rest:
        on_teacher.append(lse([teacher[v] for v in rest]) - lse(teacher))
        on_student.append(lse([student[v] for v in rest]) - student_lse)
    return Word(on_teacher, on_student, theirs, ours)
