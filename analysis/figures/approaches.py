"""Approaches 1, 2 and 3 as a figure: curves and their envelope, parabolas, the three lines."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes

from ..questions.optimal_size import OptimalSize, Sample
from ..questions.results import Results
from ..runs.seeds import LEVEL
from ..scaling.approaches import Approach
from ..scaling.ask import Answer
from .fit import COLOURS, check_suffix, logarithmic
from .style import CONTROL_COLOUR, MARKERS, PALETTE, RC, Drawn, new_figure, set_title, styled

LETTERS = 36  # of a line that fits into a panel
MOST_RECIPES = 3  # that have a figure each; the table has all


def draw_approaches(found: Answer, path: Path, level: float) -> None:
    """Write the figure of `pdx fit --approaches`; one that was refused says so in its panel.

    Raises:
        ConfigError: a file type that is not drawn.
    """
    metadata = check_suffix(path)
    points = found.points
    sample = Sample(
        N=points.columns["N"], D=points.columns["D"], loss=points.loss, runs=points.runs
    )
    with rc_context(RC):
        figure, panels = new_figure(1, 3, 2.9)
        _panels(panels, found.approaches, sample, sample, level)
        figure.suptitle(_title(found.approaches), fontweight="bold", x=0.01, ha="left")
        note = f"{found.fit.num_points} points ({found.fit.data_filter}); C = 6ND; "
        note += f"bands: {level:.0%}, resampled by run; data {found.fit.data_digest}"
        figure.text(0.01, -0.02, note, fontsize=6.5, color="#444444", va="top")
        figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.06, metadata=metadata)


def optimal_size_figures(results: Results) -> list[Drawn]:
    """The same of a sweep's recipes, where two approaches or more have something to show."""
    several = [one for one in results.optimal if sum(not a.refused for a in one.approaches) > 1]
    return [
        _of_recipe(one, f"optimal_size_{k}" if k else "optimal_size")
        for k, one in enumerate(several[:MOST_RECIPES])
    ]


@styled
def _of_recipe(one: OptimalSize, name: str) -> Drawn:
    figure, panels = new_figure(1, 3, 2.9)
    _panels(panels, one.approaches, one.curves, one.ends, LEVEL)
    title = f"Compute-optimal size, {one.recipe}: {_title(one.approaches)}"
    set_title(figure, title)
    first = one.approaches[0]
    what = "evaluations during training" if first.warnings else "ends of runs"
    caption = (
        f"Left: {what}, a line a run (or a size and seed), and the compute between which the best "
        "size lies between two others. Middle: runs at equal compute, the parabola through them, "
        "and its minimum where it passes the tests (grey, dotted: it does not). Right: the best N "
        f"by each approach; bands: {LEVEL:.0%}, by resampled runs. N: {one.definition}; C = 6ND."
    )
    return Drawn(name=name, title=title, caption=caption, figure=figure, data=_data(one))


def _data(one: OptimalSize) -> pd.DataFrame:
    """What approach 1 read, the ends of runs, and the optima of each approach."""
    parts = []
    for what, sample in (("curves", one.curves), ("runs", one.ends)):
        columns = {"N": sample.N, "D": sample.D, "C": sample.flops, "loss": sample.loss}
        parts.append(pd.DataFrame({"what": what, "run": sample.runs, **columns}))
    for approach in one.approaches:
        if approach.optima:
            flops, sizes = np.array(approach.optima).T
            best = {"what": f"optimum by {approach.name}", "C": flops, "N": sizes}
            parts.append(pd.DataFrame({**best, "D": flops / 6 / sizes}))
    return pd.concat(parts, ignore_index=True)


def _title(approaches: Sequence[Approach]) -> str:
    said = ", ".join(f"{one.a:.3f} ({one.name[2:]})" for one in approaches if not one.refused)
    return f"best N grows as C to the power of {said}"


def _panels(
    panels: list[Axes], approaches: Sequence[Approach], curves: Sample, ends: Sample, level: float
) -> None:
    _curves(panels[0], curves, approaches[0])
    _parabolas(panels[1], ends, approaches[1])
    _lines(panels[2], approaches, ends, level)


def _curves(axes: Axes, points: Sample, envelope: Approach) -> None:
    """Every run's curve, coloured by size, and where the envelope touches."""
    axes.set_title("1 envelope", loc="left")
    if _says_why(axes, envelope):
        return
    N, D = points.N, points.D
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


def _parabolas(axes: Axes, points: Sample, isoflop: Approach) -> None:
    """Each budget's runs, its parabola, and the minimum where it counts."""
    axes.set_title("2 isoFLOP", loc="left")
    if _says_why(axes, isoflop):
        return
    N = points.N
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


def _lines(axes: Axes, approaches: Sequence[Approach], points: Sample, level: float) -> None:
    """N* over C: each approach's optima, line and band."""
    grid = np.geomspace(points.flops.min(), points.flops.max(), 60)
    for k, one in enumerate(approaches):
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
        said = fill(f"refused: {one.refused.split(';')[0]}", LETTERS)
        text = axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center")
        text.set(fontsize=6.5, color=CONTROL_COLOUR, in_layout=False)  # it asks for no room
        axes.set_xticks([])
        axes.set_yticks([])
    return one.refused
