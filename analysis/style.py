"""How figures look: paper sizes, a palette that colour-blind readers can tell apart, axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from .aggregate import human
from .results import Results

DOUBLE_COLUMN_INCHES = 7.0
CONTROL_COLOUR = "#555555"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("o", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
HALO = [withStroke(linewidth=1.5, foreground="white")]
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
    """A figure with its file name, title and caption."""

    name: str
    title: str
    caption: str
    figure: Figure


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


def size_axis(axes: Axes, sizes: Sequence[float], label: str | None) -> None:
    """Logarithmic, with a tick at each size that has room for its name."""
    sizes = sorted(set(sizes))
    axes.set_xscale("log")
    low, high = min(sizes), max(sizes)
    pad = (high / low) ** 0.08 if high > low else 2.0
    axes.set_xlim(low / pad, high * pad)
    room = 0.13 * np.log(high / low) if high > low else 0.0
    ticks = []
    for size in sizes:
        if not ticks or np.log(size / ticks[-1]) >= room:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human(round(value))))
    if label:
        axes.set_xlabel(label)


def number_axis(axes: Axes, label: str, values: Sequence[float]) -> None:
    """A tick at each value that has room; logarithmic where they span more than threefold."""
    values = sorted(set(values))
    log = values[0] > 0 and values[-1] / values[0] > 3
    places = np.log(values) if log else np.asarray(values)
    if log:
        axes.set_xscale("log")
    ticks, last = [], -np.inf
    for value, place in zip(values, places, strict=True):
        if place - last >= 0.15 * (places[-1] - places[0]):
            ticks.append(value)
            last = place
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel(label)


def flops_axis(axes: Axes, label: str) -> None:
    """Logarithmic; within a decade or so, ticks at 1, 2 and 5."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 30:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low > 5 else (1, 2, 5)))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
        )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def frame_y(
    axes: Axes, values: Sequence[float], bars: Sequence[float] = (), headroom: float = 0.0
) -> None:
    """Limits that hold every value, and bars as far as they do not squash the values."""
    finite = np.asarray([v for v in values if np.isfinite(v)])
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    span = max(high - low, 0.02 * max(abs(high), abs(low)), 1e-6)
    reach = np.asarray([v for v in bars if np.isfinite(v)])
    if len(reach):
        low = max(min(low, float(reach.min())), low - 0.6 * span)
        high = min(max(high, float(reach.max())), high + 0.6 * span)
    pad = 0.06 * span if high - low >= span else span
    axes.set_ylim(low - pad, high + pad + headroom * span)


def error_bars(
    axes: Axes,
    x: Sequence[float],
    *ends: Sequence[float],
    colour: str,
    marker: str,
    label: str | None = None,
    line: str = "",
) -> None:
    """Means with intervals (mean, low, high); one without an interval (one seed) is hollow."""
    at, mean, low, high = (np.asarray(values, dtype=float) for values in (x, *ends))
    known = np.isfinite(low)
    if line:
        axes.plot(at, mean, line, color=colour, linewidth=1.0, zorder=2)
    axes.errorbar(
        at[known],
        mean[known],
        yerr=[(mean - low)[known], (high - mean)[known]],
        fmt="none",
        ecolor=colour,
        elinewidth=0.9,
        capsize=2,
        zorder=3,
    )
    axes.plot(
        at[known], mean[known], marker, color=colour, label=label if known.any() else None, zorder=4
    )
    axes.plot(
        at[~known],
        mean[~known],
        marker,
        color=colour,
        markerfacecolor="white",
        label=None if known.any() else label,
        zorder=4,
    )


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
        widest = max(len(name) for name in order) + 8  # 8: the handle and the gap, in letters
        columns = max(1, min(len(order), int(20 * figure.get_figwidth() / widest)))
        figure.legend(
            [found[name] for name in order], order, loc="outside lower center", ncols=columns
        )


def save(figure: Figure, out_dir: Path, name: str) -> tuple[Path, Path]:
    """Write PNG (200 dpi) and PDF; neither holds a date, so equal figures are equal files."""
    out_dir.mkdir(parents=True, exist_ok=True)
    png, pdf = out_dir / f"{name}.png", out_dir / f"{name}.pdf"
    with rc_context(RC):
        figure.savefig(png, dpi=200, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf
