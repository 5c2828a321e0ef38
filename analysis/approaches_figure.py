"""The figure of `pdx fit --approaches`: curves and their envelope, parabolas, the three lines."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from .approaches import Approach
from .ask import Answer
from .fit_figure import COLOURS, check_suffix, logarithmic
from .style import CONTROL_COLOUR, MARKERS, PALETTE, RC, new_figure


def draw_approaches(found: Answer, path: Path, level: float) -> None:
    """Write one figure of three panels; an approach that was refused says so in its panel.

    Raises:
        ConfigError: a file type that is not drawn.
    """
    metadata = check_suffix(path)
    with rc_context(RC):
        figure, (curves, parabolas, lines) = new_figure(1, 3, 2.9)
        first, second, _ = found.approaches
        _curves(curves, found, first)
        _parabolas(parabolas, found, second)
        _lines(lines, found, level)
        given = [one for one in found.approaches if not one.refused]
        said = ", ".join(f"{one.a:.3f} ({one.name[2:]})" for one in given)
        title = f"compute-optimal N grows as C to the power of {said}"
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
        note = f"{found.fit.num_points} points ({found.fit.data_filter}); C = 6ND; "
        note += f"bands: {level:.0%}, resampled by run; data {found.fit.data_digest}"
        figure.text(0.01, -0.02, note, fontsize=6.5, color="#444444", va="top")
        figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.06, metadata=metadata)


def _curves(axes: Axes, found: Answer, envelope: Approach) -> None:
    """Every run's curve, coloured by size, and where the envelope touches."""
    axes.set_title("1 envelope", loc="left")
    if _says_why(axes, envelope):
        return
    points = found.points
    N, D = points.columns["N"], points.columns["D"]
    span = np.log(N / N.min()) / max(float(np.log(N.max() / N.min())), 1e-9)
    for run in np.unique(points.runs):
        own = np.flatnonzero(points.runs == run)
        own = own[np.argsort(D[own])]
        axes.plot(6 * N[own] * D[own], points.loss[own], color=COLOURS(span[own[0]]), linewidth=0.7)
    flops = np.array([C for C, _ in envelope.optima])
    for C in (flops.min(), flops.max()):
        axes.axvline(C, color=CONTROL_COLOUR, linewidth=0.7, linestyle=":")
    text = "envelope between\nthe dotted lines\n(dark: small N)"
    axes.text(0.93, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=6)
    logarithmic(axes, 6 * N * D)
    axes.set_xlabel("training FLOPs C")
    axes.set_ylabel("loss (nats/token)")


def _parabolas(axes: Axes, found: Answer, isoflop: Approach) -> None:
    """Each budget's runs, its parabola, and the minimum where it counts."""
    axes.set_title("2 isoFLOP", loc="left")
    if _says_why(axes, isoflop):
        return
    points = found.points
    N = points.columns["N"]
    for k, budget in enumerate(isoflop.budgets):
        colour = COLOURS(k / max(len(isoflop.budgets) - 1, 1))
        counts = not budget.refused
        colour = colour if counts else "#b5b5b5"
        at = N[budget.rows]
        axes.scatter(at, points.loss[budget.rows], s=5, color=colour, linewidths=0, zorder=2)
        grid = np.geomspace(at.min(), at.max(), 60)
        x = np.log(grid / budget.N_mid)
        k0, k1, k2 = budget.coefficients
        line = k0 + k1 * x + k2 * x**2
        axes.plot(grid, line, color=colour, linewidth=0.9, linestyle="-" if counts else ":")
        if counts:
            axes.plot(budget.N, budget.loss, "D", color="black", markersize=3, zorder=4)
    logarithmic(axes, N)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("loss (nats/token)")


def _lines(axes: Axes, found: Answer, level: float) -> None:
    """N* over C: each approach's optima, line and band."""
    low, high = found.fit.ranges["C"]
    grid = np.geomspace(low, high, 60)
    for k, one in enumerate(found.approaches):
        if one.refused:
            continue
        axes.plot(grid, one.size(grid), color=PALETTE[k], label=f"{one.name}: a = {one.a:.3f}")
        band = one.band(grid, level)
        if band is not None:
            axes.fill_between(grid, *band, color=PALETTE[k], alpha=0.15, linewidth=0)
        if one.optima:
            flops, sizes = np.array(one.optima).T
            axes.plot(flops, sizes, MARKERS[k], color=PALETTE[k], markersize=2.5)
    axes.set_title("side by side", loc="left")
    logarithmic(axes, grid)
    axes.set_yscale("log")
    axes.set_xlabel("training FLOPs C")
    axes.set_ylabel("compute-optimal N")
    axes.legend(loc="upper left")


def _says_why(axes: Axes, one: Approach) -> Any:
    """Write a refusal into the panel."""
    if one.refused:
        head = one.refused.split(";")[0]
        axes.text(0.5, 0.5, f"refused:\n{head}", transform=axes.transAxes, ha="center",
                  va="center", wrap=True, fontsize=6.5, color=CONTROL_COLOUR)  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
    return one.refused
