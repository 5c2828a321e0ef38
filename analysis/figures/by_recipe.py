"""The main figures of a sweep at one size: a row per recipe, best first; names can be read."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..questions.results import QUALITY_METRICS, Results
from ..runs.accounting import ACCOUNTINGS
from ..runs.seeds import ENOUGH_SEEDS, aggregate, bar_ends
from ..tables.labels import METRIC_LABELS, metric_label, slice_name
from .captions import caption_bars
from .style import CONTROL_COLOUR, PALETTE, Drawn, new_figure, set_title, styled

LETTERS = 40  # of a line of a recipe's name
LABEL_LETTERS = 72  # of a line of the panels' labels, side by side
LINE_INCHES, ROW_INCHES = 0.11, 0.13  # of such a line, and of what is between two names


@styled
def loss_by_recipe(results: Results) -> Drawn | None:
    """Each recipe's loss, and its paired difference under each accounting that has pairs."""
    table = aggregate(results.chosen, [results.metric])
    order = _order(table, results)
    if not order:
        return None
    shown = [a for a in ACCOUNTINGS if _has_pairs(results.paired[a.key])]
    figure, panels = _rows(order, 1 + len(shown))
    means = _at(table, order)
    _dots(panels[0], means, results.metric, means["is_control"].to_list())
    for row, series in enumerate(order):
        seeds = results.chosen[results.chosen["series"] == series][results.metric].astype(float)
        panels[0].plot(seeds, [row] * len(seeds), ".", color="#999999", markersize=2.5, zorder=2)
    letters = LABEL_LETTERS // len(panels)
    panels[0].set_xlabel(fill(metric_label(results.metric), letters))
    pairs: list[int] = []
    for axes, accounting in zip(panels[1:], shown, strict=True):
        paired = results.paired[accounting.key]
        paired = paired[paired["num_pairs"] > 0]
        axes.axvline(0, color="#333333", linewidth=0.8, zorder=1)
        _dots(axes, _at(paired, order), "difference", [False] * len(order))
        axes.set_title(accounting.label)
        axes.set_xlabel(fill("loss minus the control's (nats/token)", letters))
        pairs += paired["num_pairs"].astype(int).to_list()
    title = f"Loss by recipe at {results.sizes[0]} parameters, {slice_name(results)}"
    set_title(figure, title)
    caption = (
        "Best first; the control in grey. Means over seeds, grey dots single seeds. "
        f"{caption_bars(means[f'{results.metric}/num'].dropna().astype(int).to_list() + pairs)} "
        + (
            "Differences are paired: same size, seed and data, so the same initialisation and data "
            "order; below zero the recipe is better. "
            + " ".join(f"'{a.label}': {a.meaning}." for a in shown)
            if shown
            else "No control of the same size, seed, data and tokens to compare with."
        )
    )
    return Drawn(name="loss_by_recipe", title=title, caption=caption, figure=figure, data=means)


@styled
def quality_by_recipe(results: Results) -> Drawn | None:
    """What loss does not say: KL to the teacher, agreement, calibration, bits per byte."""
    chosen = results.chosen
    metrics = [m for m in QUALITY_METRICS if m in chosen and chosen[m].notna().any()]
    order = _order(aggregate(chosen, [results.metric]), results)
    if not metrics or not order:
        return None
    means = _at(aggregate(chosen, metrics), order)
    figure, panels = _rows(order, len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        _dots(axes, means, metric, means["is_control"].to_list())
        axes.set_xlabel(METRIC_LABELS.get(metric, metric), fontsize=7)
    title = f"Quality by recipe at {results.sizes[0]} parameters, {slice_name(results)}"
    set_title(figure, title)
    seeds = [int(n) for m in metrics for n in means[f"{m}/num"].dropna()]
    caption = (
        "Measured on held-out text against the dense teacher at temperature 1, in the order of the "
        f"figure of losses. Lower is better but for agreement. {caption_bars(seeds)}"
    )
    return Drawn(name="quality_by_recipe", title=title, caption=caption, figure=figure, data=means)


def _order(table: pd.DataFrame, results: Results) -> list[str]:
    """Series at the usual number of tokens, best first."""
    usual = table[(table["token_multiple"] - 1).abs() < 0.005]
    return usual.sort_values(results.metric)["series"].astype(str).to_list()


def _at(table: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """A row per series in their order; empty where the table has none."""
    return table.drop_duplicates("series").set_index("series").reindex(order).reset_index()


def _has_pairs(paired: pd.DataFrame) -> bool:
    return bool(len(paired)) and bool((paired["num_pairs"] > 0).any())


def _rows(order: list[str], num_panels: int) -> tuple[Figure, list[Axes]]:
    names = [fill(name, LETTERS) for name in order]
    lines = sum(name.count("\n") + 1 for name in names)
    height = max(1.9, LINE_INCHES * lines + ROW_INCHES * len(names) + 1.0)
    figure, panels = new_figure(1, num_panels, height, share_y=True)
    panels[0].set_yticks(range(len(names)), names, fontsize=6.5)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    return figure, panels


def _dots(axes: Axes, table: pd.DataFrame, name: str, is_control: list[bool]) -> None:
    """A mean a row; a bar from three seeds on, hollow where there is one."""
    mean, num = (table[c].to_numpy(dtype=float) for c in (name, f"{name}/num"))
    low, high = bar_ends(table, name)
    for row in np.flatnonzero(np.isfinite(mean)):
        colour = CONTROL_COLOUR if is_control[row] else PALETTE[0]
        if num[row] >= ENOUGH_SEEDS:
            axes.plot([low[row], high[row]], [row, row], "-", color=colour, linewidth=1.0, zorder=3)
        face = "white" if num[row] < 2 else colour
        axes.plot(mean[row], row, "o", color=colour, markerfacecolor=face, zorder=4)
