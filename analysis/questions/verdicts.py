"""What can be said here of each published claim: one of six words, and what it rests on."""

# pandas infers unions that no data frame of ours takes.
# pyright: reportArgumentType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .cells import CHOSEN_ON, JUDGED_ON, Cell, best_rate, cell_at, shared_rate, sweep_noise
from .contrasts import Contrast, Noise, contrast, holm, over_teachers

SAME, OPPOSITE = "same direction on held-out loss", "opposite"
NONE, CANNOT = "no difference within the margin", "cannot tell"
NOT_TESTABLE, UNDEFINED = "not testable here", "definition unresolved"
WORDS = (SAME, OPPOSITE, NONE, CANNOT, NOT_TESTABLE, UNDEFINED)
NO_EFFECT = "no difference"  # what a claim may expect, besides lower and higher
DECIDING_PAIRS = 8  # fewer explore
LEVEL = 0.05  # of the whole family of a file's claims


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim, judged.

    Attributes:
        word: one of ``WORDS``; own_word: where the source's definition is not to be had, what
            holds for pdx's.
        effect: test loss of the treatment minus the control's, nats per token, each at its own best
            learning rate; None: no pairs. Its pairs are seeds, or teachers where the cells have
            several seeds of them.
        shared, shared_rate: the same with all at the one rate that is best for them together; None
            where no rate was tried for all.
        p_difference, p_equivalence: Holm-adjusted over the file's claims.
        power: chance to see a difference as large as the margin, or to exclude it for one of none.
        notes: what the word rests on; confounds last.
    """

    name: str
    says: str
    source: str
    published: str
    expect: str | None
    margin: float
    word: str
    own_word: str | None
    effect: Contrast | None
    shared: Contrast | None
    shared_rate: float | None
    p_difference: float | None
    p_equivalence: float | None
    power: float | None
    notes: tuple[str, ...]


def judge(claims: Sequence[Mapping[str, Any]], runs: pd.DataFrame) -> list[Verdict]:
    """Every claim of a plan, on all of its runs, finished or not.

    Args:
        runs: ``run_id``, ``status``, ``seed``, ``learning_rate``, ``recipe``, ``size``,
            ``num_tokens``, val and test loss; ``teacher_id`` where there is one.
    """
    runs = runs.assign(**{m: float("nan") for m in (CHOSEN_ON, JUDGED_ON) if m not in runs})
    noise = sweep_noise(runs)
    found = [_found_of(claim, runs, noise) for claim in claims]
    p_values: list[float] = []
    for claim, one in zip(claims, found, strict=True):
        if one.effect is not None:
            p_values += [_p_difference(claim, one.effect), one.effect.p_within(claim["margin"])]
    adjusted = iter(holm(p_values))
    verdicts = []
    for claim, one in zip(claims, found, strict=True):
        p = (next(adjusted), next(adjusted)) if one.effect is not None else (None, None)
        verdicts.append(_verdict(claim, one, p))
    return verdicts


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the runs say of a claim, before it is put into a word.

    Attributes:
        cells: by name, each at its own best rate; those with finished runs.
        effect, shared, shared_rate: as in ``Verdict``.
    """

    effect: Contrast | None = None
    cells: Mapping[str, Cell] = field(default_factory=dict)
    shared: Contrast | None = None
    shared_rate: float | None = None


def _found_of(claim: Mapping[str, Any], runs: pd.DataFrame, noise: Noise) -> _Found:
    if claim["not_testable"]:
        return _Found()
    own = [runs[runs["run_id"].isin(spec["runs"])] for spec in claim["cells"]]
    signs = [spec["sign"] for spec in claim["cells"]]
    cells = [cell_at(one, best_rate(one)) for one in own]
    rate = shared_rate(own)
    shared = _signed(signs, [cell_at(one, rate) for one in own], noise)
    names = [spec["name"] for spec in claim["cells"]]
    return _Found(
        effect=_signed(signs, cells, noise),
        cells={name: cell for name, cell in zip(names, cells, strict=True) if cell is not None},
        shared=shared,
        shared_rate=None if shared is None else rate,
    )


def _signed(signs: Sequence[int], cells: Sequence[Cell | None], noise: Noise) -> Contrast | None:
    if any(cell is None for cell in cells):
        return None
    found = [(s, cell.losses) for s, cell in zip(signs, cells, strict=True) if cell is not None]
    pairs, by_teacher = over_teachers(found)
    # noise pooled over a sweep is of runs given their teacher, and says nothing of teachers
    return contrast(pairs, Noise(sd=float("nan"), dof=0) if by_teacher else noise)


def _p_difference(claim: Mapping[str, Any], effect: Contrast) -> float:
    """Against zero; where no difference is claimed, against the margin."""
    return effect.p_beyond(claim["margin"]) if claim["expect"] == NO_EFFECT else effect.p_zero()


def _verdict(
    claim: Mapping[str, Any], found: _Found, p: tuple[float, float] | tuple[None, None]
) -> Verdict:
    word, notes, effect = CANNOT, [], found.effect
    if claim["not_testable"]:
        word, notes = NOT_TESTABLE, [claim["not_testable"]]
    elif effect is None:
        notes = ["fewer than two pairs of finished runs"]
    else:
        word, notes = _decide(claim, effect, found.cells, p), _rests_on(effect, found.cells)
    own_word, undefined = None, [*claim["undefined"]]
    undefined += [claim["unresolved"]] if claim["unresolved"] else []
    if undefined and word != NOT_TESTABLE:
        own_word, word = word, UNDEFINED
        notes.insert(0, f"not to be had: {', '.join(undefined)}; with pdx's own: {own_word}")
    margin, power = claim["margin"], None
    if effect is not None:
        exclude = claim["expect"] == NO_EFFECT
        power = effect.power_to_exclude(margin) if exclude else effect.power_to_see(margin)
    return Verdict(
        name=claim["name"],
        says=claim["says"],
        source=claim["source"],
        published=claim["published"],
        expect=claim["expect"],
        margin=margin,
        word=word,
        own_word=own_word,
        effect=effect,
        shared=found.shared,
        shared_rate=found.shared_rate,
        p_difference=p[0],
        p_equivalence=p[1],
        power=power,
        notes=(*notes, *(f"confounded: {c}" for c in claim["confounds"])),
    )


def _decide(
    claim: Mapping[str, Any],
    effect: Contrast,
    cells: Mapping[str, Cell],
    p: tuple[float, float] | tuple[None, None],
) -> str:
    """The word, where the definition is known and there is something to compare."""
    p_difference, p_equivalence = p
    assert p_difference is not None and p_equivalence is not None
    if effect.num_pairs < DECIDING_PAIRS or any(cell.at_edge for cell in cells.values()):
        return CANNOT
    if p_equivalence <= LEVEL:
        return NONE
    if p_difference > LEVEL:
        return CANNOT
    if claim["expect"] == NO_EFFECT:
        return OPPOSITE
    return SAME if (effect.mean < 0) == (claim["expect"] == "lower") else OPPOSITE


def _rests_on(effect: Contrast, cells: Mapping[str, Cell]) -> list[str]:
    notes = []
    for name, cell in cells.items():
        if cell.at_edge:
            notes.append(f"best learning rate of {name} at the edge ({cell.rate:g})")
    if any(cell.num_rates == 1 for cell in cells.values()):
        one = [f"{c.rate:g} for {name}" for name, c in cells.items() if c.num_rates == 1]
        notes.append(f"learning rate not tuned here: {', '.join(one)}")
    _, by_teacher = over_teachers([(1, cell.losses) for cell in cells.values()])
    if effect.num_pairs < DECIDING_PAIRS:
        what = "teachers" if by_teacher else "pairs"
        notes.append(f"{effect.num_pairs} {what} explore; {DECIDING_PAIRS} decide")
    if by_teacher:
        notes.append(f"over {effect.num_pairs} teachers, students averaged within each")
    notes += _given(cells)
    if effect.own_noise and not by_teacher:
        notes.append("noise unlike that of the sweep's other settings: its own variance")
    return notes


def _given(cells: Mapping[str, Cell]) -> list[str]:
    """Which cells have one teacher: another seed of it may say otherwise."""
    alone = {name: cell.teachers for name, cell in cells.items() if len(cell.teachers) == 1}
    if not alone:
        return []
    if any(len(cell.teachers) > 1 for cell in cells.values()):
        return [f"given the one teacher of {', '.join(alone)}"]
    one = len(frozenset().union(*alone.values())) == 1
    return ["given this teacher" if one else "given these teachers"]
