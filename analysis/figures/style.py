"""How figures look: paper sizes, a palette that colour-blind readers can tell apart, bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..questions.results import Results
from ..runs.seeds import ENOUGH_SEEDS, bar_ends

DOUBLE_COLUMN_INCHES = 7.0
CONTROL_COLOUR = "#555555"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("o", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
MAX_NAMED = 12  # in a legend; nobody tells more apart
LEGEND_ROW_INCHES = 0.15
RC: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 8.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "hatch.color": "#b0b0b0",
    "pdf.fonttype": 42,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with its file name, title, caption, and the numbers that it shows."""

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw under the package's settings and leave the caller's alone."""

    @wraps(draw)
    def inside(*args: Any) -> Any:
        with rc_context(RC):
            return draw(*args)

    return inside


class Style:
    """Colour, marker and line of a recipe: the same in every figure of a report."""

    def __init__(self, recipes: Sequence[str], controls: Sequence[str]) -> None:
        others = [recipe for recipe in recipes if recipe not in controls]
        self.of = {}
        for i, recipe in enumerate(controls):
            self.of[recipe] = (CONTROL_COLOUR, "s", LINES[i % len(LINES)])
        for i, recipe in enumerate(others):
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            self.of[recipe] = (colour, marker, LINES[i // len(PALETTE) % len(LINES)])

    def __getitem__(self, recipe: str) -> tuple[str, str, str]:
        """(colour, marker, line)."""
        return self.of.get(recipe, (CONTROL_COLOUR, "s", "-"))


def styles(results: Results) -> Style:
    """One look per recipe for the whole report."""
    controls = results.complete[results.complete["is_control"]]
    return Style(results.recipes, list(dict.fromkeys(controls["recipe"])))


def new_figure(
    rows: int,
    columns: int,
    height: float,
    share_x: bool = False,
    share_y: bool = False,
    width: float = DOUBLE_COLUMN_INCHES,
) -> tuple[Figure, list[Axes]]:
    """A figure that no global state knows of, and its panels in reading order."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    return figure, [axes[r, c] for r in range(rows) for c in range(columns)]


def error_bars(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    name: str,
    look: tuple[str, str, str],
    label: str | None = None,
) -> list[float]:
    """Means of ``table[name]`` with bars; returns where the bars end.

    From three seeds on a bar is the t interval, with caps; two seeds are dots that a line joins;
    the mean of one is hollow. ``look`` is (colour, marker, line), without a line if it is empty.
    """
    colour, marker, line = look
    at, mean, num = (table[c].to_numpy(dtype=float) for c in (x, name, f"{name}/num"))
    low, high = bar_ends(table, name)
    if line:
        axes.plot(at, mean, line, color=colour, linewidth=1.0, zorder=2)
    for chosen, caps in ((num >= ENOUGH_SEEDS, 2), ((num > 1) & (num < ENOUGH_SEEDS), 0)):
        if not chosen.any():
            continue
        axes.errorbar(
            at[chosen],
            mean[chosen],
            yerr=[(mean - low)[chosen], (high - mean)[chosen]],
            fmt="none",
            ecolor=colour,
            elinewidth=0.9,
            capsize=caps,
            zorder=3,
        )
        if not caps:
            ends = np.concatenate([low[chosen], high[chosen]])
            axes.plot(np.tile(at[chosen], 2), ends, ".", color=colour, markersize=3.5, zorder=3)
    lone = num < 2
    for chosen, face in ((~lone, colour), (lone, "white")):
        axes.plot(
            at[chosen],
            mean[chosen],
            marker,
            color=colour,
            markerfacecolor=face,
            label=label if chosen.any() and (face == colour or lone.all()) else None,
            zorder=4,
        )
    return [*low, *high]


def set_title(figure: Figure, title: str) -> None:
    """A title, broken where the figure is too narrow for it."""
    letters = int(13.5 * figure.get_figwidth())
    figure.suptitle(fill(title.replace(" = ", "\u00a0=\u00a0"), letters), fontweight="bold")


def shared_legend(figure: Figure, panels: list[Axes]) -> None:
    """One legend below all panels, each name once."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles: list[Any]
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            line = "-" if handle.get_linestyle() == "None" else handle.get_linestyle()
            line = "--" if handle.get_marker() == "D" and label.startswith("control") else line
            face = handle.get_color()  # hollow stands for one seed, not for the recipe
            found.setdefault(
                label,
                Line2D(
                    [],
                    [],
                    color=handle.get_color(),
                    marker=handle.get_marker(),
                    linestyle=line,
                    markerfacecolor=face,
                ),
            )
    if found:
        order = sorted(found, key=lambda name: name == "teacher")
        if len(order) > MAX_NAMED:  # a search, of which every run is a recipe of its own
            more = f"and {len(order) - MAX_NAMED + 1} more"
            found[more] = Line2D([], [], linestyle="")
            order = [*order[: MAX_NAMED - 1], more]
        widest = max(len(name) for name in order) + 8  # 8: the handle and the gap, in letters
        columns = max(1, min(len(order), int(20 * figure.get_figwidth() / widest)))
        more_rows = max(0, -(-len(order) // columns) - 2)  # panels keep their height
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * more_rows)
        figure.legend(
            [found[name] for name in order], order, loc="outside lower center", ncols=columns
        )


def save(drawn: Drawn, out_dir: Path) -> tuple[Path, Path, Path]:
    """Write PNG (200 dpi), PDF and data; none holds a date, so equal figures are equal files."""
    out_dir.mkdir(parents=True, exist_ok=True)
    png, pdf, data = (out_dir / f"{drawn.name}.{kind}" for kind in ("png", "pdf", "csv"))
    with rc_context(RC):
        drawn.figure.savefig(png, dpi=200, metadata={"Software": None})
        drawn.figure.savefig(pdf, metadata={"CreationDate": None})
    drawn.data.to_csv(data, index=False)
    return png, pdf, data


def as_svg(figure: Figure) -> bytes:
    """The figure for a page: sharp at any size, text as outlines, equal for equal figures."""
    held = BytesIO()
    with rc_context({**RC, "svg.hashsalt": "pdx", "svg.fonttype": "path"}):
        figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return held.getvalue()
