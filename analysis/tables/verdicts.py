"""Verdicts as a reader sees them: a row a claim, and every number of it."""

from typing import Any

import pandas as pd

from ..questions.results import Results
from ..questions.verdicts import Verdict
from .table import Table, interval_text


def verdicts_table(results: Results) -> Table | None:
    """Claim, source, published effect, effect here, power, verdict, and what it rests on."""
    if not results.verdicts:
        return None
    rows = tuple(
        (
            _lines(verdict.says, verdict.source),
            verdict.published,
            _lines(_effect(verdict), _shared(verdict)),
            "" if verdict.effect is None else str(verdict.effect.num_pairs),
            "" if verdict.power is None else f"{verdict.power:.0%}",
            _lines(verdict.word, *verdict.notes),
        )
        for verdict in results.verdicts
    )
    columns = ("claim, source", "published", "effect here [95%]", "pairs", "power", "verdict")
    margins = ", ".join(f"{m:g}" for m in sorted({v.margin for v in results.verdicts}))
    note = (
        f"Effects in nats per token of test loss, treatment minus control; margin {margins}. "
        "Each is at its own best learning rate; under it, all at the one best for them together. "
        "Power: the chance that so many pairs show a difference as large as the margin, or, where "
        "none is claimed, exclude it."
    )
    return Table(title="Verdicts", note=note, columns=columns, rows=rows)


def verdicts_frame(results: Results) -> pd.DataFrame:
    """One row per claim, every number."""
    return pd.DataFrame([_row(verdict) for verdict in results.verdicts])


def _row(verdict: Verdict) -> dict[str, Any]:
    effect = verdict.effect
    low, high = effect.interval() if effect else (None, None)
    at_one = verdict.shared
    shared_low, shared_high = at_one.interval() if at_one else (None, None)
    return {
        "claim": verdict.name,
        "says": verdict.says,
        "source": verdict.source,
        "published": verdict.published,
        "expect": verdict.expect,
        "margin": verdict.margin,
        "effect": effect and effect.mean,
        "effect/low": low,
        "effect/high": high,
        "effect_at_one_rate": at_one and at_one.mean,
        "effect_at_one_rate/low": shared_low,
        "effect_at_one_rate/high": shared_high,
        "one_rate": verdict.shared_rate,
        "standard_error": effect and effect.error,
        "degrees_of_freedom": effect and effect.dof,
        "num_pairs": effect.num_pairs if effect else 0,
        "p_difference_holm": verdict.p_difference,
        "p_equivalence_holm": verdict.p_equivalence,
        "power": verdict.power,
        "verdict": verdict.word,
        "verdict_of_our_definition": verdict.own_word,
        "notes": "; ".join(verdict.notes),
    }


def _lines(*texts: str) -> str:
    return "\n".join(filter(None, texts))


def _effect(verdict: Verdict) -> str:
    if verdict.effect is None:
        return ""
    return interval_text(verdict.effect.mean, *verdict.effect.interval())


def _shared(verdict: Verdict) -> str:
    if verdict.shared is None:
        return ""
    effect = interval_text(verdict.shared.mean, *verdict.shared.interval())
    return f"at {verdict.shared_rate:g}: {effect}"
