"""What can be said here of each published claim: one of six words, and what it rests on."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .contrasts import Contrast, Noise, contrast, holm, over_teachers, pooled_noise

SAME, OPPOSITE = "same direction on held-out loss", "opposite"
NONE, CANNOT = "no difference within the margin", "cannot tell"
NOT_TESTABLE, UNDEFINED = "not testable here", "definition unresolved"
WORDS = (SAME, OPPOSITE, NONE, CANNOT, NOT_TESTABLE, UNDEFINED)
NO_EFFECT = "no difference"  # what a claim may expect, besides lower and higher
CHOSEN_ON, JUDGED_ON = "val/loss", "test/loss"
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting at the learning rate with the lowest mean val loss.

    Attributes:
        losses: test loss by seed and the teacher's seed ("": it has one teacher, or none).
        at_edge: whether that rate is the least or the largest that was planned.
        num_rates: how many were planned.
    """

    losses: dict[tuple[str, str], float]
    rate: float
    at_edge: bool
    num_rates: int
    teachers: frozenset[str]


def judge(claims: Sequence[Mapping[str, Any]], runs: pd.DataFrame) -> list[Verdict]:
    """Every claim of a plan, on all of its runs, finished or not.

    Args:
        runs: ``run_id``, ``status``, ``seed``, ``learning_rate``, ``recipe``, ``size``,
            ``num_tokens``, val and test loss; ``teacher_id`` where there is one.
    """
    runs = runs.assign(**{m: float("nan") for m in (CHOSEN_ON, JUDGED_ON) if m not in runs})
    noise = sweep_noise(runs)
    found = [_contrast_of(claim, runs, noise) for claim in claims]
    p_values: list[float] = []
    for claim, (effect, *_) in zip(claims, found, strict=True):
        if effect is not None:
            p_values += [_p_difference(claim, effect), effect.p_within(claim["margin"])]
    adjusted = iter(holm(p_values))
    verdicts = []
    for claim, (effect, cells, shared) in zip(claims, found, strict=True):
        p = (next(adjusted), next(adjusted)) if effect is not None else (None, None)
        verdicts.append(_verdict(claim, effect, cells, shared, p))
    return verdicts


def sweep_noise(runs: pd.DataFrame) -> Noise:
    """Noise of test losses over every setting of the sweep, each at its own learning rate."""
    chosen = []
    for setting, group in runs.groupby(["recipe", "size", "num_tokens"], sort=False):
        rate = best_rate(group)
        if rate is not None:
            at = group[_done(group) & (group["learning_rate"].astype(float) == rate)]
            chosen.append(at.assign(setting=str(setting)))
    if not chosen:
        return Noise(sd=float("nan"), dof=0)
    return pooled_noise(pd.concat(chosen), JUDGED_ON)


def best_rate(runs: pd.DataFrame) -> float | None:
    """The learning rate of the lowest mean val loss, among those with the most finished seeds."""
    done = runs[_done(runs)]
    if done.empty:
        return None
    rates = done["learning_rate"].astype(float)
    scores = done[CHOSEN_ON].astype(float).groupby(rates).agg(["count", "mean"])
    scores = scores[scores["count"] == scores["count"].max()]
    return float(scores["mean"].idxmin())


def _done(runs: pd.DataFrame) -> pd.Series:
    return (runs["status"] == "complete") & runs[CHOSEN_ON].notna() & runs[JUDGED_ON].notna()


def shared_rate(cells: Sequence[pd.DataFrame]) -> float | None:
    """The rate at which the cells' mean val losses are lowest together, of those that all tried."""
    losses = []
    for runs in cells:
        done = runs[_done(runs)]
        rates = done["learning_rate"].astype(float)
        losses.append(done[CHOSEN_ON].astype(float).groupby(rates).mean())
    together = pd.concat(losses, axis=1, join="inner").mean(axis=1)
    return None if together.empty else float(together.idxmin())


def _cell(runs: pd.DataFrame, rate: float | None) -> Cell | None:
    if rate is None:
        return None
    planned = sorted(set(runs["learning_rate"].dropna().astype(float)))
    at = runs[_done(runs) & (runs["learning_rate"].astype(float) == rate)]
    taught = at["teacher_seed"] if "teacher_seed" in at else at["seed"].map(lambda _: "")
    # seeds of what is drawn from a teacher are averaged: one pair for each of the student's
    losses = at[JUDGED_ON].astype(float).groupby([at["seed"], taught]).mean()
    teachers = at["teacher_id"].dropna() if "teacher_id" in at else []
    return Cell(
        losses={(str(s), str(t)): float(loss) for (s, t), loss in losses.items()},
        rate=rate,
        at_edge=len(planned) > 1 and rate in (planned[0], planned[-1]),
        num_rates=len(planned),
        teachers=frozenset(str(t) for t in teachers),
    )


def _contrast_of(
    claim: Mapping[str, Any], runs: pd.DataFrame, noise: Noise
) -> tuple[Contrast | None, dict[str, Cell], tuple[Contrast | None, float | None]]:
    """The effect, its cells at their own best rates, and the effect at one rate for all."""
    if claim["not_testable"]:
        return None, {}, (None, None)
    own = [runs[runs["run_id"].isin(spec["runs"])] for spec in claim["cells"]]
    signs = [spec["sign"] for spec in claim["cells"]]
    cells = [_cell(one, best_rate(one)) for one in own]
    rate = shared_rate(own)
    shared = _signed(signs, [_cell(one, rate) for one in own], noise)
    names = [spec["name"] for spec in claim["cells"]]
    known = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
    return _signed(signs, cells, noise), known, (shared, None if shared is None else rate)


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
    claim: Mapping[str, Any],
    effect: Contrast | None,
    cells: dict[str, Cell],
    shared: tuple[Contrast | None, float | None],
    p: tuple[float, float] | tuple[None, None],
) -> Verdict:
    word, notes = CANNOT, []
    if claim["not_testable"]:
        word, notes = NOT_TESTABLE, [claim["not_testable"]]
    elif effect is None:
        notes = ["fewer than two pairs of finished runs"]
    else:
        word, notes = _decide(claim, effect, cells, p), _rests_on(effect, cells)
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
        shared=shared[0],
        shared_rate=shared[1],
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
