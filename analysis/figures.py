"""The main figures: loss and gain against size, loss against compute, under three accountings."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .aggregate import mean_interval
from .captions import (
    SIZE_LABEL,
    caption_loss,
    caption_missing,
    metric_label,
    slice_name,
    span,
)
from .compute import ACCOUNTINGS, total_flops
from .results import SIZE_NAME, Curve, Results
from .style import (
    HALO,
    Drawn,
    Style,
    error_bars,
    flops_axis,
    frame_y,
    new_figure,
    set_title,
    shared_legend,
    size_axis,
    styled,
    styles,
)


@styled
def loss_by_size(results: Results) -> Drawn:
    """Loss against student size under the three accountings, with fits and bands."""
    style = styles(results)
    charged = any(len(table) for table in results.compared.values()) and any(
        results.complete["is_control"]
    )
    shown = ACCOUNTINGS if charged else ACCOUNTINGS[:1]
    figure, panels = new_figure(1, len(shown), 2.9, share_y=True, width=7.0 if charged else 4.2)
    sizes = results.chosen[SIZE_NAME].astype(float).tolist()
    bars: list[float] = []
    for axes, accounting in zip(panels, shown, strict=True):
        curves = [c for c in results.curves if c.accounting == accounting.key]
        for curve in sorted(curves, key=lambda c: not c.is_control):
            bars += _draw_curve(axes, curve, style)
        size_axis(axes, sizes, SIZE_LABEL)
        if charged:
            axes.set_title(accounting.label)
    values = np.concatenate([c.points["loss"].to_numpy() for c in results.curves])
    frame_y(panels[0], values.tolist(), bars)
    _teacher_line(panels, results)
    if charged:
        for axes, accounting in zip(panels, shown, strict=True):
            _mark_missing(axes, results.paired[accounting.key], sizes)
    panels[0].set_ylabel(metric_label(results.metric))
    shared_legend(figure, panels)
    title = (
        f"Loss against student size: a slice at {slice_name(results)}, not a scaling law in N and D"
    )
    set_title(figure, title)
    return Drawn(
        name="loss_by_size", title=title, figure=figure, caption=caption_loss(results, charged)
    )


@styled
def gain_by_size(results: Results) -> Drawn | None:
    """Paired difference to the control under the three accountings."""
    if not any(table["num_pairs"].gt(0).any() for table in results.paired.values() if len(table)):
        return None
    style = styles(results)
    figure, panels = new_figure(1, 3, 2.6, share_y=True)
    sizes = results.chosen[SIZE_NAME].astype(float).tolist()
    means, bars = [0.0], []
    for axes, accounting in zip(panels, ACCOUNTINGS, strict=True):
        axes.axhline(0, color="#333333", linewidth=0.8, zorder=1, label="_zero")
        table = results.paired[accounting.key]
        for series, group in table.groupby("series", sort=False):
            seen = group[group["num_pairs"] > 0]
            colour, marker, line = style[group["recipe"].iloc[0]]
            if len(seen):
                columns = (seen[f"difference{end}"] for end in ("", "/low", "/high"))
                error_bars(
                    axes,
                    seen[SIZE_NAME],
                    *columns,
                    colour=colour,
                    marker=marker,
                    label=str(series),
                    line=line,
                )
            means += seen["difference"].tolist()
            bars += [*seen["difference/low"].tolist(), *seen["difference/high"].tolist()]
        size_axis(axes, sizes, SIZE_LABEL)
        axes.set_title(accounting.label)
    frame_y(panels[0], means, bars)
    for axes, accounting in zip(panels, ACCOUNTINGS, strict=True):
        _mark_missing(axes, results.paired[accounting.key], sizes)
    panels[0].set_ylabel(
        "loss minus the control's (nats/token)\nbelow 0: better than the control", fontsize=7
    )
    shared_legend(figure, panels)
    title = "What the teacher bought: paired difference to the control"
    set_title(figure, title)
    pairs = sorted({int(n) for t in results.paired.values() for n in t["num_pairs"] if n})
    caption = (
        "Loss of the recipe minus that of the control with the same size, seed and data (same "
        "initialisation and data order): below zero the recipe is better. Bars are Student-t 95% "
        f"intervals over pairs (n = {span(pairs)}; hollow: one pair, no interval; bars that leave "
        f"the frame are cut). {caption_missing(results)} Accountings as in the first figure."
    )
    return Drawn(name="gain_by_size", title=title, caption=caption, figure=figure)


@styled
def loss_by_compute(results: Results) -> Drawn | None:
    """Loss against training FLOPs under the three accountings, all runs."""
    if "flops_train_exact" not in results.chosen:
        return None
    style = styles(results)
    distilled = not results.chosen["is_control"].all()
    shown = ACCOUNTINGS if distilled else ACCOUNTINGS[:1]
    figure, panels = new_figure(
        1, len(shown), 2.9, share_x=True, share_y=True, width=7.0 if distilled else 4.2
    )
    losses = results.chosen[results.metric].astype(float)
    for axes, accounting in zip(panels, shown, strict=True):
        runs = results.chosen.assign(_flops=total_flops(results.chosen, accounting), _loss=losses)
        controls = runs[runs["is_control"]]
        for (recipe, _), group in controls.groupby(["recipe", "size"], sort=False):
            means = group.groupby("num_tokens")[["_flops", "_loss"]].mean()
            colour, marker, _ = style[str(recipe)]
            axes.plot(
                means["_flops"],
                means["_loss"],
                "-",
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=0.8,
                label=str(recipe),
                zorder=2,
            )
            axes.annotate(
                str(group["size"].iloc[0]),
                tuple(means.iloc[0]),
                fontsize=6,
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                color=colour,
                path_effects=HALO,
                zorder=1,
            )
        for recipe, group in runs[~runs["is_control"]].groupby("recipe", sort=False):
            means = group.groupby([SIZE_NAME, "num_tokens"])[["_flops", "_loss"]].mean()
            colour, marker, line = style[str(recipe)]
            axes.plot(
                means["_flops"],
                means["_loss"],
                line,
                color=colour,
                marker=marker,
                linewidth=0.8,
                label=str(recipe),
                zorder=3,
            )
            axes.plot(group["_flops"], group["_loss"], ".", color=colour, alpha=0.5, markersize=3)
        axes.plot(
            controls["_flops"], controls["_loss"], ".", color="#555555", alpha=0.5, markersize=3
        )
        flops_axis(axes, "training FLOPs (exact)")
        axes.set_title(accounting.label if distilled else "")
    frame_y(panels[0], losses.tolist(), headroom=0.08)
    panels[0].set_ylabel(metric_label(results.metric))
    shared_legend(figure, panels)
    title = "Loss against training compute"
    set_title(figure, title)
    caption = (
        "Means over seeds (small dots: single seeds). Grey lines join the controls of one size "
        "over their token counts; coloured lines join a recipe's sizes. FLOPs are exact counts, "
        "not 6ND. Lower and further left is better. Panels differ in what a distilled run is "
        "charged with, as in the first figure; controls are charged with their own training alone."
    )
    return Drawn(name="loss_by_compute", title=title, caption=caption, figure=figure)


def _draw_curve(axes: Axes, curve: Curve, style: Style) -> list[float]:
    """Seeds, means with intervals, fit and band; returns the bars' ends."""
    points = curve.points
    if points.empty:
        return []
    colour, marker, line = style[curve.recipe]
    if curve.charged:
        marker, line = "D", "--"  # in a recipe's own colour where recipes cost differently
    rows = []
    for x, group in points.groupby("x"):
        interval = mean_interval(group["loss"])
        rows.append((x, interval.mean, interval.low, interval.high))
    x, mean, low, high = (list(column) for column in zip(*rows, strict=True))
    axes.plot(points["x"], points["loss"], ".", color=colour, alpha=0.45, markersize=3, zorder=2)
    error_bars(axes, x, mean, low, high, colour=colour, marker=marker, label=curve.series)
    fitted = curve.drawn
    if fitted is None:
        axes.plot(x, mean, line, color=colour, linewidth=0.6, zorder=2)
    else:
        grid = np.geomspace(*fitted.x_range, 100)
        axes.plot(grid, fitted.predict(grid), line, color=colour, zorder=2)
        if fitted.bootstrap is not None:
            band_low, band_high = fitted.band(grid)
            axes.fill_between(grid, band_low, band_high, color=colour, alpha=0.15, linewidth=0)
    return [*low, *high]


def _mark_missing(axes: Axes, paired: pd.DataFrame, sizes: Sequence[float]) -> None:
    """Hatch the sizes that have no fair control, and say what one would have taken."""
    if paired.empty:
        return
    steps = np.diff(np.log(sorted(set(sizes))))
    half = np.exp(0.42 * steps.min()) if len(steps) else 1.5
    for size, group in paired.groupby(SIZE_NAME):
        if (group["num_pairs"] > 0).any():
            continue
        size = float(str(size))
        axes.axvspan(
            size / half,
            size * half,
            facecolor="#f4f4f4",
            hatch="////",
            edgecolor="#cccccc",
            linewidth=0,
            zorder=0,
        )
        needed, seen = group["needed_multiple"].min(), group["measured_multiple"].max()
        text = "no control" if np.isnan(needed) else f"needs {needed:.3g}x, has {seen:.3g}x"
        low, high = axes.get_ylim()
        below = group["loss"].mean() > (low + high) / 2  # keep clear of the recipe's own point
        axes.text(
            size,
            0.03 if below else 0.97,
            text,
            rotation=90,
            ha="center",
            fontsize=6,
            va="bottom" if below else "top",
            transform=axes.get_xaxis_transform(),
            color="#444444",
            zorder=5,
            path_effects=HALO,
        )


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
