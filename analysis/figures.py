"""The figures: each a function of `Results` that returns a matplotlib Figure, or None if empty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from .aggregate import NO_DISTILLATION, aggregate, human, mean_interval
from .compute import ACCOUNTINGS, Accounting, total_flops
from .results import QUALITY_METRICS, SIZE_NAME, Curve, Results, best_values, numeric_params
from .style import RC, Style, error_bars, frame_y, new_figure, number_axis, save, size_axis

__all__ = ["FIGURES", "Drawn", "draw_all", "metric_label", "save", "slice_name"]
SIZE_LABEL = "student parameters, non-embedding"
MAX_PANELS = 6
HALO = [withStroke(linewidth=2, foreground="white")]
METRIC_LABELS = {
    "val/loss": "held-out loss (nats/token)",
    "test/loss": "test loss (nats/token)",
    "val/teacher_kl": "KL(teacher || student)\n(nats/token)",
    "val/top1_agreement": "top-1 agreement with\nthe teacher (share)",
    "val/ece": "expected calibration\nerror (share)",
    "val/bits_per_byte": "held-out bits per byte",
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with its file name, title and caption."""

    name: str
    title: str
    caption: str
    figure: Figure


def metric_label(metric: str) -> str:
    """A metric in words, with its unit."""
    return METRIC_LABELS.get(metric, f"{metric} (nats/token)" if "loss" in metric else metric)


def slice_name(results: Results) -> str:
    """What is held fixed along the size axis, in words."""
    usual = results.chosen[(results.chosen["token_multiple"] - 1).abs() < 0.005]
    usual = usual if len(usual) else results.chosen
    tokens = usual["num_tokens"].astype(float)
    ratio = tokens / usual[SIZE_NAME].astype(float)
    if tokens.max() <= tokens.min() * 1.01:
        return f"fixed tokens (D = {human(tokens.median())})"
    if ratio.max() <= ratio.min() * 1.05:
        return f"fixed tokens per parameter (D/N = {ratio.median():.3g})"
    return f"D from {human(tokens.min())} to {human(tokens.max())} tokens"


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw under the package's settings and leave the caller's alone."""

    @wraps(draw)
    def inside(*args: Any) -> Any:
        with rc_context(RC):
            return draw(*args)

    return inside


def styles(results: Results) -> Style:
    """One look per recipe for the whole report."""
    controls = results.complete[results.complete["is_control"]]
    return Style(results.recipes, list(dict.fromkeys(controls["recipe"])))


@_styled
def loss_by_size(results: Results) -> Drawn:
    """Loss against student size under the three accountings, with fits and bands."""
    style = styles(results)
    charged = any(len(table) for table in results.compared.values()) and any(
        results.complete["is_control"]
    )
    shown = ACCOUNTINGS if charged else ACCOUNTINGS[:1]
    figure, panels = new_figure(
        1, len(shown), 2.9, share_y=True, width=7.0 if charged else 4.2
    )
    sizes = results.chosen[SIZE_NAME].astype(float).tolist()
    bars: list[float] = []
    for axes, accounting in zip(panels, shown, strict=True):
        curves = [c for c in results.curves if c.accounting == accounting.key]
        for curve in sorted(curves, key=lambda c: not c.is_control):
            bars += _draw_curve(axes, curve, style)
        size_axis(axes, sizes, SIZE_LABEL)
        if charged:
            axes.set_title(accounting.label)
            _mark_missing(axes, results.paired[accounting.key], sizes)
    values = np.concatenate([c.points["loss"].to_numpy() for c in results.curves])
    _teacher_line(panels, results, values)
    frame_y(panels[0], [*values.tolist()], bars)
    panels[0].set_ylabel(metric_label(results.metric))
    _shared_legend(figure, panels)
    title = (
        f"Loss against student size: a slice at {slice_name(results)}, "
        "not a scaling law in N and D"
    )
    figure.suptitle(title, fontweight="bold")
    return Drawn(
        name="loss_by_size", title=title, figure=figure, caption=_caption_loss(results, charged)
    )


@_styled
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
                error_bars(axes, seen[SIZE_NAME], *columns, colour=colour, marker=marker,
                           label=str(series), line=line)
            means += seen["difference"].tolist()
            bars += [*seen["difference/low"].tolist(), *seen["difference/high"].tolist()]
        size_axis(axes, sizes, SIZE_LABEL)
        axes.set_title(accounting.label)
        _mark_missing(axes, table, sizes)
    frame_y(panels[0], means, bars)
    panels[0].set_ylabel("loss minus the control's (nats/token)\nbelow 0: better than the control",
                         fontsize=7)
    _shared_legend(figure, panels)
    title = "What the teacher bought: paired difference to the control"
    figure.suptitle(title, fontweight="bold")
    pairs = sorted({int(n) for t in results.paired.values() for n in t["num_pairs"] if n})
    caption = (
        "Loss of the recipe minus that of the control with the same size, seed and data (same "
        "initialisation and data order): below zero the recipe is better. Bars are Student-t 95% "
        f"intervals over pairs (n = {_span(pairs)}; hollow: one pair, no interval; bars that leave "
        f"the frame are cut). {_caption_missing(results)} Accountings as in the first figure."
    )
    return Drawn(name="gain_by_size", title=title, caption=caption, figure=figure)


@_styled
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
            axes.plot(means["_flops"], means["_loss"], "-", color=colour, marker=marker,
                      markersize=3.5, linewidth=0.8, label=str(recipe), zorder=2)
            axes.annotate(str(group["size"].iloc[0]), tuple(means.iloc[0]), fontsize=6,
                          textcoords="offset points", xytext=(0, 4), ha="center", color=colour,
                          path_effects=HALO, zorder=6)
        for recipe, group in runs[~runs["is_control"]].groupby("recipe", sort=False):
            means = group.groupby([SIZE_NAME, "num_tokens"])[["_flops", "_loss"]].mean()
            colour, marker, line = style[str(recipe)]
            axes.plot(means["_flops"], means["_loss"], line, color=colour, marker=marker,
                      linewidth=0.8, label=str(recipe), zorder=3)
            axes.plot(group["_flops"], group["_loss"], ".", color=colour, alpha=0.5, markersize=3)
        axes.plot(controls["_flops"], controls["_loss"], ".", color="#555555", alpha=0.5,
                  markersize=3)
        axes.set_xscale("log")
        axes.set_xlabel("training FLOPs (exact)")
        axes.set_title(accounting.label if distilled else "")
    frame_y(panels[0], losses.tolist())
    panels[0].set_ylabel(metric_label(results.metric))
    _shared_legend(figure, panels)
    title = "Loss against training compute"
    figure.suptitle(title, fontweight="bold")
    caption = (
        "Means over seeds (small dots: single seeds). Grey lines join the controls of one size "
        "over their token counts; coloured lines join a recipe's sizes. FLOPs are exact counts, "
        "not 6ND. Lower and further left is better. Panels differ in what a distilled run is "
        "charged with, as in the first figure; controls are charged with their own training alone."
    )
    return Drawn(name="loss_by_compute", title=title, caption=caption, figure=figure)


@_styled
def quality_by_size(results: Results) -> Drawn | None:
    """KL to the teacher, agreement, calibration and bits per byte by recipe and size."""
    metrics = [
        m for m in QUALITY_METRICS if m in results.chosen and results.chosen[m].notna().any()
    ]
    if not metrics:
        return None
    style = styles(results)
    columns = min(len(metrics), 2)
    rows = -(-len(metrics) // columns)
    figure, panels = new_figure(rows, columns, 2.1 * rows + 0.5, share_x=True)
    for axes in panels[len(metrics):]:
        axes.set_visible(False)
    table = aggregate(results.chosen, metrics)
    sizes = table[SIZE_NAME].tolist()
    for i, (axes, metric) in enumerate(zip(panels, metrics, strict=False)):
        usual = table[(table["token_multiple"] - 1).abs() < 0.005]
        for series, group in usual.groupby("series", sort=False):
            colour, marker, line = style[group["recipe"].iloc[0]]
            columns_ = (group[f"{metric}{end}"] for end in ("", "/low", "/high"))
            error_bars(axes, group[SIZE_NAME], *columns_, colour=colour, marker=marker,
                       label=str(series), line=line)
        frame_y(axes, usual[metric].tolist(),
                [*usual[f"{metric}/low"].tolist(), *usual[f"{metric}/high"].tolist()])
        size_axis(axes, sizes, SIZE_LABEL if i >= len(metrics) - columns else None)
        axes.set_ylabel(metric_label(metric))
    _shared_legend(figure, panels)
    title = f"Quality by student size, at {slice_name(results)}"
    figure.suptitle(title, fontweight="bold")
    caption = (
        "Measured on held-out text against the dense teacher at temperature 1. Lower is better "
        "but for agreement. Bars: Student-t 95% intervals over seeds."
    )
    return Drawn(name="quality_by_size", title=title, caption=caption, figure=figure)


@_styled
def learning_curves(results: Results) -> Drawn | None:
    """Loss during training against student tokens, a panel per size."""
    if results.learning.groupby("run_id").size().lt(2).all() or results.learning.empty:
        return None
    style = styles(results)
    sizes = [s for s in results.sizes if (results.learning["size"] == s).any()]
    if len(sizes) > MAX_PANELS:
        sizes = [sizes[i] for i in np.linspace(0, len(sizes) - 1, MAX_PANELS).round().astype(int)]
    columns = min(len(sizes), 3)
    rows = -(-len(sizes) // columns)
    figure, panels = new_figure(rows, columns, 2.0 * rows + 0.6, share_y=True)
    for axes in panels[len(sizes):]:
        axes.set_visible(False)
    for axes, size in zip(panels, sizes, strict=False):
        here = results.learning[results.learning["size"] == size]
        for _, run in here.groupby("run_id", sort=False):
            run = run.sort_values("tokens")
            colour, _, line = style[run["recipe"].iloc[0]]
            axes.plot(run["tokens"], run[results.metric].astype(float), line, color=colour,
                      linewidth=0.9, alpha=0.8, label=run["recipe"].iloc[0])
        axes.set_title(str(size))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: human(v) if v else "0"))
    for axes in panels[max(len(sizes) - columns, 0) : len(sizes)]:
        axes.set_xlabel("student tokens")
    for axes in panels[::columns]:
        axes.set_ylabel(metric_label(results.metric))
    _shared_legend(figure, panels)
    title = "Learning curves"
    figure.suptitle(title, fontweight="bold")
    caption = (
        f"{metric_label(results.metric).capitalize()} during training, one line per run. Evaluations "
        "during training may use fewer tokens than the final one."
    )
    return Drawn(name="learning_curves", title=title, caption=caption, figure=figure)


@_styled
def loss_by_param(results: Results, param: str) -> Drawn | None:
    """Loss against one swept number, a panel per size; the best value is ringed."""
    runs = results.complete if param in results.roles.learning_rates else results.chosen
    table, best = best_values(runs, results.roles, param, results.metric)
    if best.empty:
        return None
    controls = set(table.loc[table["is_control"], "recipe"])
    recipes = list(dict.fromkeys(table["recipe"]))
    style = Style(recipes, [r for r in recipes if r in controls])
    sizes = [size for size in results.sizes if (best["size"] == size).any()]
    if len(sizes) > MAX_PANELS:
        sizes = [sizes[i] for i in np.linspace(0, len(sizes) - 1, MAX_PANELS).round().astype(int)]
    columns = min(len(sizes), 3)
    rows = -(-len(sizes) // columns)
    figure, panels = new_figure(rows, columns, 2.1 * rows + 0.6)
    for axes in panels[len(sizes):]:
        axes.set_visible(False)
    metric = results.metric
    for axes, size in zip(panels, sizes, strict=False):
        here = table[table["size"] == size]
        for recipe, group in here.groupby("recipe", sort=False):
            group = group.sort_values("value")
            colour, marker, line = style[str(recipe)]
            ends = (group[f"{metric}{end}"] for end in ("", "/low", "/high"))
            error_bars(axes, group["value"], *ends, colour=colour, marker=marker,
                       label=str(recipe), line=line)
            lowest = group.loc[group[metric].idxmin()]
            axes.plot(lowest["value"], lowest[metric], "o", markersize=9, color=colour,
                      markerfacecolor="none", label="_best")
        frame_y(axes, here[metric].tolist(),
                [*here[f"{metric}/low"].tolist(), *here[f"{metric}/high"].tolist()])
        number_axis(axes, param, here["value"].tolist())
        axes.set_title(str(size))
    for axes in panels[::columns]:
        axes.set_ylabel(metric_label(metric))
    _shared_legend(figure, panels)
    title = f"Loss against {param}"
    figure.suptitle(title, fontweight="bold")
    edge = best[best["at_edge"]]
    caption = (
        "Means over seeds with Student-t 95% intervals; the lowest mean is ringed. "
        + (f"In {len(edge)} of {len(best)} cases the best value lies at the edge of its range: "
           "the optimum may lie beyond." if len(edge) else "No best value lies at an edge.")
    )
    return Drawn(name=f"loss_by_{param.replace('.', '_')}", title=title, caption=caption,
                 figure=figure)


FIGURES = (loss_by_size, gain_by_size, loss_by_compute, quality_by_size, learning_curves)


def draw_all(results: Results) -> list[Drawn]:
    """Every figure that the runs can fill."""
    drawn = [draw(results) for draw in FIGURES]
    drawn += [loss_by_param(results, param) for param in numeric_params(results)]
    return [figure for figure in drawn if figure is not None]


def _draw_curve(axes: Axes, curve: Curve, style: Style) -> list[float]:
    """Seeds, means with intervals, fit and band; returns the bars' ends."""
    points = curve.points
    if points.empty:
        return []
    colour, marker, line = style[curve.recipe]
    if curve.is_control and curve.accounting != ACCOUNTINGS[0].key:
        marker, line = "D", "--"  # in a recipe's own colour where recipes cost differently
    rows = []
    for x, group in points.groupby("x"):
        interval = mean_interval(group["loss"])
        rows.append((x, interval.mean, interval.low, interval.high))
    x, mean, low, high = (list(column) for column in zip(*rows, strict=True))
    axes.plot(points["x"], points["loss"], ".", color=colour, alpha=0.45, markersize=3, zorder=2)
    error_bars(axes, x, mean, low, high, colour=colour, marker=marker, label=curve.series)
    fitted = curve.drawn
    if fitted is not None:
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
        axes.axvspan(size / half, size * half, facecolor="#f4f4f4", hatch="////",
                     edgecolor="#cccccc", linewidth=0, zorder=0)
        needed, seen = group["needed_multiple"].min(), group["measured_multiple"].max()
        text = "no control" if np.isnan(needed) else f"needs {needed:.2g}x, has {seen:.2g}x"
        axes.text(size, 0.03, text, rotation=90, ha="center", va="bottom", fontsize=6,
                  transform=axes.get_xaxis_transform(), color="#444444", zorder=1,
                  path_effects=HALO)


def _teacher_line(panels: list[Axes], results: Results, values: np.ndarray) -> None:
    """The teacher's own loss, where it is one number and near enough to be seen."""
    if results.metric != "val/loss" or "val/teacher_loss" not in results.chosen:
        return
    teacher = results.chosen["val/teacher_loss"].dropna().astype(float)
    if teacher.empty or np.ptp(teacher) > 0.002:
        return
    for axes in panels:
        axes.axhline(float(teacher.mean()), color="#999999", linewidth=0.8, linestyle=(0, (1, 2)),
                     label="teacher", zorder=1)


def _shared_legend(figure: Figure, panels: list[Axes]) -> None:
    """One legend below all panels, each name once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            line = "-" if handle.get_linestyle() == "None" else handle.get_linestyle()
            line = "--" if handle.get_marker() == "D" and label.startswith("control") else line
            face = handle.get_color()  # hollow stands for one seed, not for the recipe
            found.setdefault(label, Line2D(
                [], [], color=handle.get_color(), marker=handle.get_marker(), linestyle=line,
                markerfacecolor=face,
            ))
    if found:
        order = sorted(found, key=lambda name: name == "teacher")
        letters = sum(len(name) + 8 for name in order)
        columns = len(order) if letters < 100 else max(len(order) // 2, 1) if letters < 200 else 3
        figure.legend([found[name] for name in order], order, loc="outside lower center",
                      ncols=columns)


def _caption_accounting() -> str:
    return " ".join(f"'{a.label}': {a.meaning}." for a in ACCOUNTINGS) + (
        " The control at equal compute is read off straight lines in log tokens between its "
        "measured token counts (which lie slightly above a convex curve, in favour of "
        "distillation) and never extrapolated."
    )


def _caption_loss(results: Results, charged: bool) -> str:
    laws = sorted({c.drawn.law for c in results.curves if c.drawn is not None})
    fits = (
        "Lines are fits of " + " or ".join(
            {"power_law": "L = A N^-alpha", "power_law_offset": "L = E + A N^-alpha"}[law]
            for law in laws
        ) + ", shaded bands their 95% bootstrap over sizes and seeds; drawn over the measured "
        "range only."
        if laws else "No curve is fitted: too few distinct sizes."
    )
    seeds = sorted({
        int(n) for c in results.curves for n in c.points.groupby("x")["seed"].nunique()
    })
    text = (
        f"Points are means over seeds (n = {_span(seeds)}; small dots: single seeds; hollow: one "
        f"seed, no interval), bars Student-t 95% intervals, cut where they leave the frame. {fits} "
        f"N counts {SIZE_LABEL}; this is a slice at {slice_name(results)} and says nothing of how "
        "loss depends on tokens."
    )
    if not charged:
        text += (f" There is no run with loss=none ('{NO_DISTILLATION}') to compare with, so "
                 "nothing can be said here about what the teacher bought or cost.")
        return text
    teacher = " Dotted: the teacher's own loss." if "val/teacher_loss" in results.chosen else ""
    return f"{text} {_caption_accounting()} {_caption_missing(results)}{teacher}"


def _caption_missing(results: Results) -> str:
    """What hatching means, where there is any."""
    missing = any((t["num_pairs"] == 0).any() for t in results.paired.values() if len(t))
    return (
        "Hatched, 'needs 7x, has 4x': a fair control would need 7 times the recipe's tokens and "
        "was measured up to 4 times; no point is drawn." if missing else ""
    )


def _span(numbers: Sequence[int]) -> str:
    """[2, 3] -> '2 to 3'."""
    if not numbers:
        return "0"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
