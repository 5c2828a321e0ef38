"""How figures look: paper sizes, a palette that colour-blind readers can tell apart, axes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .aggregate import human

DOUBLE_COLUMN_INCHES = 7.0
CONTROL_COLOUR = "#555555"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("o", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
RC = {
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


def new_figure(
    rows: int, columns: int, height: float, share_x: bool = False, share_y: bool = False,
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


def number_axis(axes: Axes, label: str | None, values: Sequence[float]) -> None:
    """Logarithmic where the values are positive and span more than a factor of three."""
    values = [value for value in values if np.isfinite(value)]
    if values and min(values) > 0 and max(values) / min(values) > 3:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if label:
        axes.set_xlabel(label)


def frame_y(axes: Axes, values: Sequence[float], bars: Sequence[float] = ()) -> None:
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
    axes.set_ylim(low - pad, high + pad)


def error_bars(
    axes: Axes, x: Sequence[float], mean: Sequence[float], low: Sequence[float],
    high: Sequence[float], *, colour: str, marker: str, label: str | None = None, line: str = "",
) -> None:
    """Means with intervals; a mean without an interval (one seed) is drawn hollow."""
    x, mean = np.asarray(x, dtype=float), np.asarray(mean, dtype=float)
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    known = np.isfinite(low)
    if line:
        axes.plot(x, mean, line, color=colour, linewidth=1.0, zorder=2)
    axes.errorbar(
        x[known], mean[known], yerr=[(mean - low)[known], (high - mean)[known]], fmt="none",
        ecolor=colour, elinewidth=0.9, capsize=2, zorder=3,
    )
    axes.plot(x[known], mean[known], marker, color=colour, label=label if known.any() else None,
              zorder=4)
    axes.plot(x[~known], mean[~known], marker, color=colour, markerfacecolor="white",
              label=None if known.any() else label, zorder=4)


def save(figure: Figure, out_dir: Path, name: str) -> tuple[Path, Path]:
    """Write PNG (200 dpi) and PDF; neither holds a date, so equal figures are equal files."""
    out_dir.mkdir(parents=True, exist_ok=True)
    png, pdf = out_dir / f"{name}.png", out_dir / f"{name}.pdf"
    with rc_context(RC):
        figure.savefig(png, dpi=200, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf
