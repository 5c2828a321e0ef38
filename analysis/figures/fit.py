"""The figure of `pdx fit`: the data with the law, predicted against measured, and residuals."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from pdx.errors import ConfigError

from ..fitting.levels import levels_of, with_compute
from ..scaling.ask import Answer
from .style import CONTROL_COLOUR, PALETTE, RC, new_figure

Array = NDArray[np.float64]
COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, 256)))  # no pale yellow
NUM_CURVES = 6
LABELS = {
    "N": "parameters N",
    "D": "training tokens D",
    "C": "training FLOPs C",
    "L_T": "teacher loss (nats/token)",
    "L": "loss (nats/token)",
    "U": "unique tokens U",
}
SUFFIXES = (".png", ".pdf", ".svg")


def draw_fit(found: Answer, path: Path) -> None:
    """Write one figure of three panels.

    Raises:
        ConfigError: a file type that is not drawn.
    """
    metadata = check_suffix(path)
    with rc_context(RC):
        figure, panels = new_figure(1, 3, 2.75)
        data, agreement, residuals = panels
        _curves(figure, data, found)
        _agreement(agreement, found)
        _residuals(residuals, found)
        title = f"{found.fit.law}: {found.fit.formula}"
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
        figure.text(0.01, -0.02, _caption(found), fontsize=6.5, color="#444444", va="top")
        figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.06, metadata=metadata)


def check_suffix(path: Path) -> dict[str, Any]:
    """What to write into a file of this type so that equal figures are equal files.

    Raises:
        ConfigError: a file type that is not drawn.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--figure {path}: its ending must be one of {', '.join(SUFFIXES)}.")
    if path.suffix == ".pdf":
        return {"CreationDate": None}
    return {"Software": None} if path.suffix == ".png" else {}


def _curves(figure: Figure, axes: Axes, found: Answer) -> None:
    """Loss against the law's first column; the others held at a few levels, by colour."""
    law, points = found.law, found.points
    columns = {name: points.columns[name] for name in law.columns}
    first = "C" if {"N", "D"} <= set(columns) else law.columns[0]
    x = with_compute(columns)[first]
    if first != "C":
        colour = np.full(len(x), PALETTE[0])
        axes.scatter(x, points.loss, s=9, c=colour, zorder=3, linewidths=0)
        grid = np.geomspace(x.min(), x.max(), 200)
        axes.plot(grid, found.fit.predict({first: grid}, law), color="black", zorder=2)
        if found.fit.draws:
            low, high = found.fit.band({first: grid}, law=law)
            axes.fill_between(grid, low, high, color=PALETTE[0], alpha=0.18, linewidth=0)
        source = found.fit.names.get(first, first)
        axes.set_xlabel(LABELS.get(source, source))
    else:
        N = columns["N"]
        norm = LogNorm(N.min(), N.max())
        axes.scatter(x, points.loss, s=7, c=N, cmap=COLOURS, norm=norm, zorder=3, linewidths=0)
        if set(columns) == {"N", "D"}:
            _isolines(axes, found, columns, norm)
        bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, pad=0.02, aspect=30)
        bar.set_label(LABELS["N"], fontsize=7)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        axes.set_xlabel(LABELS["C"] + " = 6ND")
    if len(found.held):
        own = {name: found.held.columns[name] for name in law.columns}
        at = with_compute(own)[first]
        axes.scatter(at, found.held.loss, s=14, facecolors="none", edgecolors=PALETTE[1],
                     linewidths=0.8, zorder=4, label="held out")  # fmt: skip
        axes.legend(loc="upper right")
    logarithmic(axes, x)
    axes.set_title("data and law", loc="left")
    axes.set_ylabel("loss (nats/token)")


def _isolines(axes: Axes, found: Answer, columns: dict[str, Array], norm: LogNorm) -> None:
    """The law along tokens, at a few of the sizes."""
    sizes = levels_of(columns["N"])
    if len(sizes) > NUM_CURVES:
        wanted = np.geomspace(sizes[0], sizes[-1], NUM_CURVES)
        sizes = np.array([sizes[np.abs(np.log(sizes / size)).argmin()] for size in wanted])
    for size in dict.fromkeys(sizes.tolist()):
        near = np.abs(np.log(columns["N"] / size)) < 0.35
        tokens = np.geomspace(columns["D"][near].min(), columns["D"][near].max(), 100)
        at = {"N": np.full(100, size), "D": tokens}
        colour = COLOURS(norm(size))
        axes.plot(6 * size * tokens, found.fit.predict(at, found.law), color=colour, zorder=2)


def _agreement(axes: Axes, found: Answer) -> None:
    """Predicted against measured, with the line on which they agree."""
    for points, colour, label, face in (
        (found.points, PALETTE[0], "fitted", PALETTE[0]),
        (found.held, PALETTE[1], "held out", "none"),
    ):
        if not len(points):
            continue
        own = {name: points.columns[name] for name in found.law.columns}
        predicted = found.fit.predict(own, found.law)
        axes.scatter(points.loss, predicted, s=9, facecolors=face, edgecolors=colour,
                     linewidths=0.6, label=label, zorder=3, alpha=0.8)  # fmt: skip
    ends = axes.get_xlim()
    axes.plot(ends, ends, color=CONTROL_COLOUR, linewidth=0.8, zorder=1)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.set_aspect("equal", adjustable="box")
    axes.set_title("agreement", loc="left")
    axes.set_xlabel("measured loss (nats/token)")
    axes.set_ylabel("predicted loss (nats/token)")
    if len(found.held):
        axes.legend(loc="upper left")


def _residuals(axes: Axes, found: Answer) -> None:
    """Measured over predicted, in per cent, along the variable that it goes with most."""
    columns = {name: found.points.columns[name] for name in found.law.columns}
    variables = with_compute(columns)
    if {"N", "D"} <= set(columns):
        variables["D/N"] = columns["D"] / columns["N"]
    trends = found.extra["residuals"]
    name = max(
        (n for n in variables if n in trends),
        key=lambda n: abs(trends[n]["spearman"]),
        default=next(iter(variables)),
    )
    off = 100 * (found.points.loss / found.fit.predict(columns, found.law) - 1)
    axes.scatter(variables[name], off, s=9, color=PALETTE[2], linewidths=0, zorder=3, alpha=0.85)
    axes.axhline(0, color=CONTROL_COLOUR, linewidth=0.8)
    reach = 1.1 * float(np.abs(off).max()) or 1.0
    axes.set_ylim(-reach, reach)
    logarithmic(axes, variables[name])
    source = found.fit.names.get(name, name) if name == "x" else name
    axes.set_xlabel(LABELS.get(source, "tokens per parameter D/N" if name == "D/N" else source))
    axes.set_ylabel("measured / predicted - 1 (%)")
    trend = trends.get(name)
    axes.set_title("residuals", loc="left")
    if trend:
        text = f"rank correlation {trend['spearman']:+.2f}"
        axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", fontsize=6.5)


def logarithmic(axes: Axes, x: Array) -> None:
    """A logarithmic axis where the values span more than a factor of two."""
    if x.max() > 2 * x.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatterSciNotation())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _caption(found: Answer) -> str:
    """Parameters and what the fit is of, in two lines."""
    fitted = found.fit
    parts = []
    for name, value in fitted.parameters.items():
        text = f"{name} = " + ("-" if value is None else f"{value:.4g}")
        low, high = fitted.intervals.get(name, (None, None))
        if low is not None and high is not None:
            text += f" [{low:.4g}, {high:.4g}]"
        parts.append(text + (" (not identified)" if name in fitted.unidentified else ""))
    lines = ["   ".join(parts[i : i + 5]) for i in range(0, len(parts), 5)]
    lines.append(
        f"{fitted.num_points} points ({fitted.data_filter}); {fitted.objective_definition}; "
        f"{'converged' if fitted.converged else 'NOT CONVERGED'}; data {fitted.data_digest}"
    )
    return "\n".join(lines)
