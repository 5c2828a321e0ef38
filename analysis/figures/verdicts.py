"""The forest plot of verdicts: each claim's effect, its interval, and what was published."""

from textwrap import fill
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..questions.results import Results
from ..questions.verdicts import CANNOT, LEVEL, NO_EFFECT, NONE, OPPOSITE, SAME, UNDEFINED
from ..tables.verdicts import verdicts_frame
from .style import PALETTE, Drawn, new_figure, set_title, styled

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
