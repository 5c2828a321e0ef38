"""The figure of the distillation questions: gain against each variable that was varied."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..questions.gain_trends import Trend, trends
from ..questions.results import Results
from ..runs.labels import SIZE_NAME, human
from ..runs.seeds import interval_columns
from .axes import frame_y, size_axis
from .captions import caption_bars
from .style import MARKERS, PALETTE, Drawn, error_bars, new_figure, set_title, styled

MAX_LINES = 6  # of one panel


@styled
def gain_by_variable(results: Results) -> Drawn | None:
    """A panel per variable, a line per setting of all the others."""
    found = [one for one in trends(results) if len(one.levels) > 2]
    labels = list(dict.fromkeys(one.variable.label for one in found))
    if not any(one.variable.key != SIZE_NAME for one in found):
        return None  # gain_by_size shows it, under every accounting
    columns = min(len(labels), 3)
    rows = -(-len(labels) // columns)
    width = 7.0 if columns > 1 else 4.2
    figure, panels = new_figure(rows, columns, 2.5 * rows + 0.4, width=width)
    for axes in panels[len(labels) :]:
        axes.set_visible(False)
    shown: list[Trend] = []
    for axes, label in zip(panels, labels, strict=False):
        own = [one for one in found if one.variable.label == label][:MAX_LINES]
        _panel(axes, own)
        axes.set_xlabel(label)
        shown += own
    for axes in panels[::columns]:
        axes.set_ylabel("gain of distillation (nats/token)\nabove 0: better than the control")
    title = "What distillation gains, and against what"
    set_title(figure, title)
    nums = [m.num for one in shown for m in one.levels.values()]
    more = len(found) - len(shown)
    caption = (
        "The control's loss minus the recipe's at the same size, tokens, seed and data; each line "
        "varies one thing alone. Dashed: least squares through the means of levels, in the "
        "logarithm of the variable. A tick on the zero line: where the fit crosses it, with "
        f"Fieller's 95% interval, where that lies among the runs. {caption_bars(nums)}"
        + (f" {more} more lines are in the tables." if more else "")
    )
    data = pd.DataFrame(
        [
            {"against": one.variable.label, "held": one.held, "at": at, **vars(mean)}
            for one in found
            for at, mean in one.levels.items()
        ]
    )
    return Drawn(name="gain_by_variable", title=title, caption=caption, figure=figure, data=data)


def _panel(axes: Axes, own: list[Trend]) -> None:
    axes.axhline(0, color="#333333", linewidth=0.8, zorder=1, label="_zero")
    means: list[float] = [0.0]
    bars: list[float] = []
    places = sorted({at for one in own for at in one.levels})
    for i, one in enumerate(own):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        table = pd.DataFrame(
            [{"x": at, **interval_columns("gain", m)} for at, m in one.levels.items()]
        )
        bars += error_bars(axes, table, "x", "gain", (colour, marker, ""), one.held)
        means += table["gain"].tolist()
        x = np.log10(table["x"].to_numpy(dtype=float))
        line = np.polyfit(x, table["gain"].to_numpy(dtype=float), 1)
        axes.plot(10**x, np.polyval(line, x), "--", color=colour, linewidth=0.9, zorder=2)
        zero = one.pays_from
        if zero and places[0] <= zero[0] <= places[-1]:
            ends = [places[0] if zero[1] is None else max(zero[1], places[0])]
            ends += [places[-1] if zero[2] is None else min(zero[2], places[-1])]
            axes.plot(ends, [0, 0], color=colour, linewidth=2.5, alpha=0.5, zorder=2)
            axes.plot([zero[0]], [0], "|", color=colour, markersize=9, zorder=4)
    size_axis(axes, {at: human(at) for at in places}, None)
    frame_y(axes, means, bars)
    axes.legend(loc="best", fontsize=6)
