"""What a search found, as a reader sees it: the table of its winners, every number of it."""

from typing import Any

import pandas as pd

from ..questions.confirmed import Confirmed
from ..questions.results import Results
from .table import Table, interval_text

COLUMNS = (
    "winner",
    "control",
    "in the search",
    "on fresh seeds [95%]",
    "in the search, against the control",
    "on fresh seeds, against the control [95%]",
    "test [95%]",
    "test, against the control [95%]",
    "pairs",
    "p (Holm)",
    "verdict",
    "beside it",
)


def confirmed_table(results: Results) -> Table | None:
    """A row per winner: what the search saw, what fresh seeds say, and test loss, which decides."""
    if not results.confirmed:
        return None
    objective = results.plan.objectives[0].removeprefix("-")
    note = (
        f"The best settings of the search by {objective} on its one seed, and their controls at "
        "the learning rate that was best for them by the same, each run again on fresh seeds: "
        "nothing above this table is of these runs, and nothing but them decides. "
        f"{objective}, in the search and on fresh seeds, shows the optimism of a search, whose "
        "best is partly luck; what a seed does to both is off in the columns against the control. "
        "Test loss in nats per token, paired by seed; noise pooled over all settings that were "
        "confirmed. Verdicts: family-wise level 0.05 over the winners (Holm)."
    )
    rows = tuple(
        (
            one.label,
            one.control,
            f"{one.searched:.4f}",
            _interval(one, "fresh"),
            f"{one.searched_gain:+.4f}" if one.control else "",
            _interval(one, "fresh_gain"),
            _interval(one, "test"),
            "" if one.effect is None else _around(one.effect.mean, *one.effect.interval()),
            "" if one.effect is None else str(one.effect.num_pairs),
            "" if one.p is None else f"{one.p:.2g}",
            one.word,
            "; ".join(one.notes),
        )
        for one in results.confirmed
    )
    return Table(
        title="The best of the search, on fresh seeds", note=note, columns=COLUMNS, rows=rows
    )


def confirmed_frame(results: Results) -> pd.DataFrame:
    """The same as numbers: one row per winner."""
    return pd.DataFrame([_row(one) for one in results.confirmed])


def _row(one: Confirmed) -> dict[str, Any]:
    low, high = one.effect.interval() if one.effect else (None, None)
    row: dict[str, Any] = {"winner": one.label, "control": one.control, "searched": one.searched}
    row |= {"searched_gain": one.searched_gain, "optimism": one.optimism}
    for name in ("fresh", "fresh_gain", "test"):
        found = getattr(one, name)
        row |= {name: found.mean, f"{name}/low": found.low, f"{name}/high": found.high}
    return row | {
        "effect": one.effect and one.effect.mean,
        "effect/low": low,
        "effect/high": high,
        "num_pairs": one.effect.num_pairs if one.effect else 0,
        "p_holm": one.p,
        "verdict": one.word,
        "notes": "; ".join(one.notes),
    }


def _interval(one: Confirmed, name: str) -> str:
    found = getattr(one, name)
    return _around(found.mean, found.low, found.high)


def _around(mean: float, low: float, high: float) -> str:
    return interval_text(mean, low, high, digits=4)
