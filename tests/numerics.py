"""What the tests of the numerics share: components by name, and signals of given logits."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from pdx import paths
from pdx.build import build
from pdx.live import LiveSignal
from pdx.signal import Context

VOCAB = 12
TAIL_MASS = 0.25  # what a loss is told of its window


def values(axis: str) -> list[str]:
    """Every value of an axis, read from the files; never none."""
    found = sorted(path.stem for path in (paths.conf_dir() / axis).rglob("*.yaml"))
    assert found, f"conf/{axis} holds no value"
    return found


def component(axis: str, value: str, /, **changes: Any) -> Any:
    """A component as the command line builds it."""
    node = OmegaConf.load(paths.conf_dir() / axis / f"{value}.yaml")
    return build(OmegaConf.merge(node, changes), axis)  # type: ignore[arg-type]


def taught(run: Any, env: Any) -> tuple[Any, Any]:
    """The same run, its teacher trained: without MLflow, whose database takes seconds to make."""
    from pdx.execute import execute

    execute(run.teacher.run(run), env, quiet=True)
    return run, env


@dataclass(frozen=True)
class Said:
    """A signal and the temperature at which it speaks; the signal's own fields are to hand."""

    signal: Any
    heat: Any = field(default_factory=lambda: component("temperature", "constant"))
    fraction: float = 0.25

    def __getattr__(self, name: str) -> Any:
        return getattr(self.signal, name)

    def but(self, **changes: Any) -> "Said":
        """With other fields of the signal."""
        return replace(self, signal=replace(self.signal, **changes))


def draws(signal: Any) -> bool:
    """Whether the signal leaves to chance which tokens it speaks of."""
    return signal.stored and signal.rows != "topk"


def fits(signal: Any) -> Any:
    """A signal of any size, cut to the tests' vocabulary."""
    has = "top_k" in {f.name for f in fields(signal)}
    return replace(signal, top_k=min(signal.top_k, 5)) if has else signal


# Every signal, tail and side of temperature: those of conf/ as they are, and what they can be. What
# draws has laws of its own, of averages (tests/test_draws.py).
TAILS = ("renormalize", "bucket", "to_label", "smooth", "drop", "support", "decoupled")
_CONF = {f"conf/{name}": Said(fits(component("signal", name))) for name in values("signal")}
DRAWN: dict[str, Any] = {k: said for k, said in _CONF.items() if draws(said)}
DRAWN["sampled-power0.8"] = Said(component("signal", "sampled", proposal_power=0.8))
SIGNALS: dict[str, Any] = {k: said for k, said in _CONF.items() if not draws(said)}
for _t, _both in ((1.0, False), (2.0, False), (2.0, True), (0.5, True)):
    _heat = component("temperature", "constant", value=_t, temper_student=_both)
    _name = f"t{_t:g}{'_both' if _both else ''}"
    SIGNALS[f"full-{_name}"] = Said(component("signal", "full"), _heat)
    for _tail in TAILS:
        if _tail == "decoupled" and _t != 1 and not _both:
            continue  # refused: it tempers both sides
        _cut = {"top_k": 5, "tail": _tail}
        SIGNALS[f"topk-{_tail}-{_name}"] = Said(component("signal", "topk", **_cut), _heat)
        _cut["top_p"] = 0.8
        SIGNALS[f"topp-{_tail}-{_name}"] = Said(component("signal", "topp_topk", **_cut), _heat)
for _name in values("temperature"):
    if _name == "constant":
        continue
    _heat = component("temperature", _name)
    SIGNALS[f"full-{_name}"] = Said(component("signal", "full"), _heat)
    for _tail in ("renormalize", "bucket"):
        _cut = {"top_k": 5, "tail": _tail, "top_p": 0.8}
        SIGNALS[f"topp-{_tail}-{_name}"] = Said(component("signal", "topp_topk", **_cut), _heat)


def logits(seed: int, num: int = 6, vocab: int = VOCAB, scale: float = 2.0) -> Tensor:
    """Reproducible logits [num, vocab], float32."""
    return scale * torch.randn(num, vocab, generator=torch.Generator().manual_seed(seed))


def labels(num: int, vocab: int = VOCAB) -> Tensor:
    """The true next token of each position."""
    return (7 * torch.arange(num) + 3) % vocab


def context(said: Said, num: int, vocab: int = VOCAB, offset_N: Tensor | None = None) -> Context:
    """What the signal is told, with these labels; positions count from 0 if not given."""
    return Context(
        temperature=said.heat,
        fraction=said.fraction,
        targets_N=labels(num, vocab),
        offset_N=torch.arange(num) if offset_N is None else offset_N,
        tail_N=torch.full((num,), TAIL_MASS),
    )


def word(said: Any, teacher_NV: Tensor, offset_N: Tensor | None = None) -> Any:
    """The signal of a teacher with these logits, live."""
    said = said if isinstance(said, Said) else Said(said)
    asked = context(said, *teacher_NV.shape, offset_N=offset_N)
    return LiveSignal(
        hidden_ND=teacher_NV, head=lambda hidden: hidden, signal=said.signal, context=asked
    )


# ---- the same word in plain Python floats: nothing of pdx is used below -----------------------


class Word(NamedTuple):
    """One position: log-probabilities on the support, and logits on what is kept (tempered)."""

    teacher: list[float]
    student: list[float]
    teacher_logits: list[float]
    student_logits: list[float]
    scale: float


def lse(values: list[float]) -> float:
    """Log sum exp; minus infinity of nothing."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))


def spread(logits: list[float]) -> float:
    """Standard deviation, by n."""
    mean = sum(logits) / len(logits)
    return math.sqrt(sum((v - mean) ** 2 for v in logits) / len(logits))


def temperatures(
    heat: Any, fraction: float, teacher: list[float], student: list[float]
) -> tuple[float, float, float]:
    """Of the teacher, of the student, and what multiplies the loss: each value in its words."""
    name = type(heat).__name__
    logprobs = [v - lse(teacher) for v in teacher]
    if name == "NormKD":
        hot = heat.norm * spread(teacher)
        return hot, heat.norm * spread(student), hot**2
    if name == "WTTM":
        return heat.value, 1.0, sum(math.exp(p) ** (1 / heat.value) for p in logprobs)
    if name == "Constant":
        hot = heat.value
    elif name == "Scheduled":
        hot = heat.start + fraction * (heat.end - heat.start)
    elif name == "ByEntropy":
        perplexity = math.exp(-sum(math.exp(p) * p for p in logprobs))
        hot = heat.sure + (heat.unsure - heat.sure) * (1 - 1 / perplexity)
    elif name == "ByDeviation":
        hot = heat.sure + (heat.unsure - heat.sure) / (1 + spread(teacher))
    else:
        raise AssertionError(f"say in words what temperature {name} does (tests/numerics.py)")
    return (hot, hot, hot**2) if heat.temper_student else (hot, 1.0, 1.0)


def spell(
    said: Any,
    teacher: list[float],
    student: list[float],
    label: int,
    own: list[float] | None = None,
) -> Word:
    """What a signal says of one position, from its definition in words.

    ``own``: the logits that a student's temperature is taken from, where not ``student``.
    """
    hot, of_student, scale = temperatures(said.heat, said.fraction, teacher, own or student)
    tail = getattr(said, "tail", "bucket")
    cold_logprobs = [v - lse(teacher) for v in teacher]
    order = sorted(range(len(teacher)), key=lambda v: -teacher[v])
    kept, mass = [], 0.0
    for v in order[: getattr(said, "top_k", len(teacher))]:
        if mass >= getattr(said, "top_p", math.inf) and kept:
            break
        kept.append(v)
        mass += math.exp(cold_logprobs[v])
    rest = [v for v in order if v not in kept]
    sides, on_kept = [], []
    for side, heat in ((teacher, hot), (student, of_student)):
        warm = [v / heat for v in side]
        on_kept.append([warm[v] for v in kept])
        whole = lse(warm)
        of_v = [v - whole for v in warm]
        if tail == "decoupled":
            cold = [v - lse(side) for v in side]
            inside = lse([cold[v] for v in kept])
            parts = [inside + warm[v] - lse([warm[w] for w in kept]) for v in kept]
            sides.append(parts + ([lse([cold[v] for v in rest])] if rest else []))
        elif tail == "support":
            sides.append([warm[v] - lse([warm[w] for w in kept]) for v in kept])
        elif side is student:
            more = {"to_label": [label] if label in rest else [], "smooth": rest}.get(tail, [])
            parts = [of_v[v] for v in kept + more]
            sides.append(
                parts + ([lse([of_v[v] for v in rest])] if rest and tail == "bucket" else [])
            )
        else:
            left = lse([of_v[v] for v in rest])
            parts = [of_v[v] for v in kept]
            if tail == "renormalize":
                parts = [p - lse(parts) for p in parts]
            elif tail == "bucket" and rest:
                parts.append(left)
            elif tail == "smooth":
                parts += [left - math.log(len(rest))] * len(rest)
            elif tail == "to_label" and label in rest:
                parts.append(left)
            elif tail == "to_label":
                at = kept.index(label)
                parts[at] = lse([parts[at], left])
            sides.append(parts)
    return Word(*sides, *on_kept, 1.0 if tail == "decoupled" else scale)
