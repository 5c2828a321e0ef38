"""The main figures: loss and gain against size, under three accountings."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..questions.curves import Curve
from ..questions.results import Results
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import SIZE_NAME
from ..runs.seeds import interval_columns, mean_interval
from ..tables.labels import metric_label, size_label, slice_name
from .axes import frame_y, mark_missing, size_axis
from .captions import caption_bars, caption_loss, caption_missing
from .style import Drawn, Style, error_bars, new_figure, set_title, shared_legend, styled, styles


@styled
def loss_by_size(results: Results) -> Drawn:
    """Loss against student size under the three accountings, with fits and bands."""
    style = styles(results)
    charged = any(len(table) for table in results.compared.values()) and any(
        results.complete["is_control"]
    )
    shown = ACCOUNTINGS if charged else ACCOUNTINGS[:1]
    figure, panels = new_figure(1, len(shown), 3.1, share_y=True, width=7.0 if charged else 4.2)
    bars: list[float] = []
    for axes, accounting in zip(panels, shown, strict=True):
        curves = [c for c in results.curves if c.accounting == accounting.key]
        for curve in sorted(curves, key=lambda c: not c.is_control):
            bars += _draw_curve(axes, curve, style)
        size_axis(axes, results.size_names, size_label(results))
    values = np.concatenate([c.points["loss"].to_numpy() for c in results.curves])
    frame_y(panels[0], values.tolist(), bars)
    _teacher_line(panels, results)
    if charged:
        _mark_accountings(panels, results)
    panels[0].set_ylabel(metric_label(results.metric))
    shared_legend(figure, panels)
    title = (
        f"Loss against student size: a slice at {slice_name(results)}, not a scaling law in N and D"
    )
    set_title(figure, title)
    return Drawn(
        name="loss_by_size",
        title=title,
        figure=figure,
        caption=caption_loss(results, charged),
        data=pd.concat(
            [c.points.assign(accounting=c.accounting, series=c.series) for c in results.curves]
        ),
    )


@styled
def gain_by_size(results: Results) -> Drawn | None:
    """Paired difference to the control under the three accountings."""
    if not any(table["num_pairs"].gt(0).any() for table in results.paired.values() if len(table)):
        return None
    style = styles(results)
    figure, panels = new_figure(1, 3, 2.9, share_y=True)
    means, bars = [0.0], []
    for axes, accounting in zip(panels, ACCOUNTINGS, strict=True):
        axes.axhline(0, color="#333333", linewidth=0.8, zorder=1, label="_zero")
        table = results.paired[accounting.key]
        for series, group in table.groupby("series", sort=False):
            seen = group[group["num_pairs"] > 0]
            if len(seen):
                look = style[seen["recipe"].iloc[0]]
                bars += error_bars(axes, seen, SIZE_NAME, "difference", look, str(series))
            means += seen["difference"].tolist()
        size_axis(axes, results.size_names, size_label(results))
    frame_y(panels[0], means, bars)
    _mark_accountings(panels, results)
    panels[0].set_ylabel(
        "loss minus the control's (nats/token)\nbelow 0: better than the control", fontsize=7
    )
    shared_legend(figure, panels)
    title = "What the teacher bought: paired difference to the control"
    set_title(figure, title)
    pairs = [int(n) for t in results.paired.values() for n in t["num_pairs"] if n]
    caption = (
        "Loss of the recipe minus that of the control with the same size, seed and data (same "
        f"initialisation and data order): below zero the recipe is better. {caption_bars(pairs)} "
        f"{caption_missing(results)} Accountings as in the first figure."
    )
    data = pd.concat([t.assign(accounting=a) for a, t in results.paired.items() if len(t)])
    return Drawn(name="gain_by_size", title=title, caption=caption, figure=figure, data=data)


def _draw_curve(axes: Axes, curve: Curve, style: Style) -> list[float]:
    """Seeds, means with bars, fit and band; returns what they reach to."""
    points = curve.points
    if points.empty:
        return []
    colour, marker, line = style[curve.recipe]
    if curve.charged:
        marker, line = "D", "--"  # in a recipe's own colour where recipes cost differently
    means = pd.DataFrame(
        [
            {"x": x, **interval_columns("loss", mean_interval(group["loss"]))}
            for x, group in points.groupby("x")
        ]
    )
    axes.plot(points["x"], points["loss"], ".", color=colour, alpha=0.45, markersize=3, zorder=2)
    ends = error_bars(axes, means, "x", "loss", (colour, marker, ""), curve.series)
    fitted = curve.drawn
    if fitted is None:
        axes.plot(means["x"], means["loss"], line, color=colour, linewidth=0.6, zorder=2)
        return ends
    grid = np.geomspace(*fitted.ranges["x"], 100)
    axes.plot(grid, fitted.predict({"x": grid}), line, color=colour, zorder=2)
    if fitted.bootstrap is not None:
        low, high = fitted.band({"x": grid})
        axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1)
        ends += [low.min(), high.max()]
    return ends


def _mark_accountings(panels: list[Axes], results: Results) -> None:
    """Name each panel's accounting, and mark the sizes that have no fair control under it."""
    taken: list[float] = []
    for axes, accounting in zip(panels, ACCOUNTINGS, strict=True):
        table = results.paired[accounting.key]
        if len(table) and not table.groupby(SIZE_NAME)["num_pairs"].max().all():
            taken.append(mark_missing(axes, table, first=not taken))
    for axes, accounting in zip(panels, ACCOUNTINGS, strict=True):
        axes.set_title(accounting.label, pad=4 + max(taken, default=2))


def _teacher_line(panels: list[Axes], results: Results) -> None:
    """The teacher's own loss, where it is one number and near enough to be seen."""
    if results.metric != "val/loss" or "val/teacher_loss" not in results.chosen:
        return
    teacher = results.chosen["val/teacher_loss"].dropna().astype(float)
    low, high = panels[0].get_ylim()
    if teacher.empty or np.ptp(teacher) > 0.002 or teacher.mean() < low - 0.4 * (high - low):
        return
    for axes in panels:
        axes.axhline(
            float(teacher.mean()),
            color="#777777",
            linewidth=0.9,
            linestyle=":",
            label="teacher",
            zorder=1,
        )
    panels[0].set_ylim(min(low, float(teacher.mean()) - 0.04 * (high - low)), high)
