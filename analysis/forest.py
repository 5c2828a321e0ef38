"""Verdicts as a reader sees them: the forest plot of claims, and their table."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .reading import interval_text
from .records import Table
from .results import Results
from .style import PALETTE, Drawn, new_figure, set_title, styled
from .verdicts import CANNOT, LEVEL, NO_EFFECT, NONE, OPPOSITE, SAME, UNDEFINED, Verdict

COLOURS = {
    SAME: PALETTE[2],
    OPPOSITE: PALETTE[1],
    NONE: PALETTE[0],
    CANNOT: "#777777",
    UNDEFINED: PALETTE[3],
}
PUBLISHED = {"lower": "<", "higher": ">", NO_EFFECT: "D"}  # markers at the panel's edge
ROW_INCHES, LETTERS = 0.34, 46


@styled
def verdict_forest(results: Results) -> Drawn | None:
    """Each claim's effect with its interval, the margin, and the direction that was published."""
    shown = [v for v in results.verdicts if v.effect is not None]
    if not shown:
        return None
    figure, (axes,) = new_figure(1, 1, ROW_INCHES * len(shown) + 1.3)
    margins = {v.margin for v in shown}
    ends = [0.0, *(m for m in margins), *(-m for m in margins)]
    for row, verdict in enumerate(shown):
        effect, colour = verdict.effect, COLOURS[verdict.word]
        assert effect is not None
        low, high = effect.interval()
        ends += [low, high]
        margin = verdict.margin
        axes.barh(row, 2 * margin, left=-margin, height=1.0, color="#ececec", zorder=0)
        axes.plot([low, high], [row, row], "-", color=colour, linewidth=1.2, zorder=2)
        axes.plot(effect.mean, row, "o", color=colour, zorder=3)
    low, high = min(ends), max(ends)
    pad = 0.12 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    places = {"lower": 0.015, "higher": 0.985, NO_EFFECT: 0.015}
    for row, verdict in enumerate(shown):
        axes.plot(
            places[str(verdict.expect)],
            row,
            PUBLISHED[str(verdict.expect)],
            transform=axes.get_yaxis_transform(),
            color="#333333",
            markerfacecolor="white",
            markersize=5,
            clip_on=False,
            zorder=4,
        )
    axes.axvline(0, color="#333333", linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(shown)), [fill(v.says, LETTERS) for v in shown], fontsize=6.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("test loss of the treatment minus the control's (nats/token)")
    used = [word for word in COLOURS if any(v.word == word for v in shown)]
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[w], marker="o", linestyle="-", label=w) for w in used
    ]
    handles.append(Patch(color="#ececec", label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    title = "Published claims, and what held-out loss says of them here"
    set_title(figure, title)
    caption = (
        "Points are mean paired differences on test, bars 95% intervals of each by itself, from "
        "noise pooled over the sweep; learning rates chosen on val. Hollow marks at the edge: "
        "published to be lower (left), higher (right), no different (diamond). Colours are "
        f"verdicts, at a family-wise level of {LEVEL:g} (Holm)."
    )
    data = verdicts_frame(results)
    return Drawn(name="verdicts", title=title, caption=caption, figure=figure, data=data)


def verdicts_table(results: Results) -> Table | None:
    """Claim, source, published effect, effect here, power, verdict, and what it rests on."""
    if not results.verdicts:
        return None
    rows = tuple(
        (
            verdict.says,
            verdict.source,
            verdict.published,
            _effect(verdict),
            _shared(verdict),
            "" if verdict.effect is None else str(verdict.effect.num_pairs),
            "" if verdict.power is None else f"{verdict.power:.0%}",
            verdict.word,
            "; ".join(verdict.notes),
        )
        for verdict in results.verdicts
    )
    effects = ("effect here [95%]", "all at one rate")
    columns = ("claim", "source", "published", *effects, "pairs", "power", "verdict")
    margins = ", ".join(f"{m:g}" for m in sorted({v.margin for v in results.verdicts}))
    note = (
        f"Effects in nats per token of test loss, treatment minus control; margin {margins}. "
        "Each is at its own best learning rate; beside it, all at the one best for them together. "
        "Power: the chance that so many pairs show a difference as large as the margin, or, where "
        "none is claimed, exclude it."
    )
    return Table(title="Verdicts", note=note, columns=(*columns, "beside it"), rows=rows)


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


def _effect(verdict: Verdict) -> str:
    if verdict.effect is None:
        return ""
    return interval_text(verdict.effect.mean, *verdict.effect.interval(), digits=4)


def _shared(verdict: Verdict) -> str:
    if verdict.shared is None:
        return ""
    effect = interval_text(verdict.shared.mean, *verdict.shared.interval(), digits=4)
    return f"{effect} at {verdict.shared_rate:g}"
