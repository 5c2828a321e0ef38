"""The further figures: quality, learning curves, and loss against each swept number."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np
from matplotlib.ticker import FuncFormatter

from ..questions.results import QUALITY_METRICS, Results
from ..questions.swept import best_values, numeric_params
from ..runs.labels import SIZE_NAME, human
from ..runs.seeds import aggregate
from ..tables.labels import metric_label, size_label, slice_name
from .approaches import optimal_size_figures
from .axes import frame_y, number_axis, size_axis
from .by_compute import loss_by_compute
from .by_recipe import loss_by_recipe, quality_by_recipe
from .by_size import gain_by_size, loss_by_size
from .captions import caption_bars
from .gain_trends import gain_by_variable
from .interactions import interaction_map
from .search import importance, parallel_coordinates, pareto_front
from .style import (
    LINES,
    Drawn,
    Style,
    error_bars,
    new_figure,
    set_title,
    shared_legend,
    styled,
    styles,
)
from .verdicts import verdict_forest

MAX_PANELS = 6


@styled
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
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    table = aggregate(results.chosen, metrics)
    usual = table[(table["token_multiple"] - 1).abs() < 0.005]
    for i, (axes, metric) in enumerate(zip(panels, metrics, strict=False)):
        bars: list[float] = []
        for series, group in usual.groupby("series", sort=False):
            look = style[group["recipe"].iloc[0]]
            bars += error_bars(axes, group, SIZE_NAME, metric, look, str(series))
        frame_y(axes, usual[metric].tolist(), bars)
        size_axis(
            axes, results.size_names, size_label(results) if i >= len(metrics) - columns else None
        )
        axes.set_ylabel(metric_label(metric))
    shared_legend(figure, panels)
    title = f"Quality by student size, at {slice_name(results)}"
    set_title(figure, title)
    caption = (
        "Measured on held-out text against the dense teacher at temperature 1. Lower is better "
        f"but for agreement. {caption_bars(usual[f'{metrics[0]}/num'].astype(int).tolist())}"
    )
    return Drawn(name="quality_by_size", title=title, caption=caption, figure=figure, data=usual)


@styled
def learning_curves(results: Results) -> Drawn | None:
    """Loss during training against student tokens, a panel per size."""
    if results.learning.groupby("run_id").size().lt(2).all() or results.learning.empty:
        return None
    style = styles(results)
    others = sorted({m for m in results.learning["token_multiple"] if abs(m - 1) >= 0.005})
    dashes = {multiple: LINES[1 + i % (len(LINES) - 1)] for i, multiple in enumerate(others)}
    sizes = [s for s in results.sizes if (results.learning["size"] == s).any()]
    if len(sizes) > MAX_PANELS:
        sizes = [sizes[i] for i in np.linspace(0, len(sizes) - 1, MAX_PANELS).round().astype(int)]
    columns = min(len(sizes), 3)
    rows = -(-len(sizes) // columns)
    figure, panels = new_figure(rows, columns, 2.0 * rows + 0.6, share_y=True)
    for axes in panels[len(sizes) :]:
        axes.set_visible(False)
    for axes, size in zip(panels, sizes, strict=False):
        here = results.learning[results.learning["size"] == size]
        for (series, _), run in here.groupby(["series", "run_id"], sort=False):
            run = run.sort_values("tokens")
            colour, _, line = style[run["recipe"].iloc[0]]
            multiple = run["token_multiple"].iloc[0]
            axes.plot(
                run["tokens"],
                run[results.metric].astype(float),
                line if abs(multiple - 1) < 0.005 else dashes[multiple],
                color=colour,
                linewidth=0.9,
                alpha=0.8,
                label=str(series),
            )
        axes.set_title(str(size))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: human(v) if v else "0"))
        axes.set_xlabel("student tokens")
    for axes in panels[::columns]:
        axes.set_ylabel(metric_label(results.metric))
    shared_legend(figure, panels)
    title = "Learning curves"
    set_title(figure, title)
    caption = f"{metric_label(results.metric).capitalize()} during training, one line per run"
    during, final = (_counts(results, f"eval_tokens{s}") for s in ("_during_training", ""))
    caption += (
        f", by evaluations on {during} tokens each; the tables hold the final evaluation, on "
        f"{final} tokens, so the last point of a curve is another number."
        if during and final
        else "; the tables hold the final evaluation, which may be another number than the last."
    )
    data = results.learning[["run_id", "series", "size", "seed", "tokens", results.metric]]
    return Drawn(name="learning_curves", title=title, caption=caption, figure=figure, data=data)


def _counts(results: Results, name: str) -> str:
    """The token counts that runs of the figure evaluate on."""
    counts = sorted(set(results.learning[name].dropna().astype(int)))
    return " or ".join(f"the first {count:,}" for count in counts)


@styled
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
    for axes in panels[len(sizes) :]:
        axes.set_visible(False)
    metric = results.metric
    for axes, size in zip(panels, sizes, strict=False):
        here = table[table["size"] == size]
        bars: list[float] = []
        for recipe, group in here.groupby("recipe", sort=False):
            group = group.sort_values("value")
            look = style[str(recipe)]
            bars += error_bars(axes, group, "value", metric, look, str(recipe))
            if len(group) == 1:  # the lowest of one is no best value
                continue
            lowest = group.loc[group[metric].idxmin()]
            axes.plot(
                lowest["value"],
                lowest[metric],
                "o",
                markersize=9,
                color=look[0],
                markerfacecolor="none",
                label="_best",
            )
        frame_y(axes, here[metric].tolist(), bars)
        number_axis(axes, param, here["value"].tolist())
        axes.set_title(str(size))
    for axes in panels[::columns]:
        axes.set_ylabel(metric_label(metric))
    shared_legend(figure, panels)
    title = f"Loss against {param}"
    set_title(figure, title)
    edge = best[best["at_edge"]]
    bars_say = caption_bars(table[f"{metric}/num"].astype(int).tolist())
    caption = f"Means over seeds; the lowest is ringed. {bars_say} " + (
        f"In {len(edge)} of {len(best)} cases the best value lies at the edge of its range: "
        "the optimum may lie beyond."
        if len(edge)
        else "No best value lies at an edge."
    )
    name = f"loss_by_{param.replace('.', '_')}"
    return Drawn(name=name, title=title, caption=caption, figure=figure, data=table)


ONE_SIZE = (loss_by_recipe, quality_by_recipe)
BY_SIZE = (loss_by_size, gain_by_size, quality_by_size)
FIGURES = (
    gain_by_variable,
    loss_by_compute,
    learning_curves,
    parallel_coordinates,
    importance,
    interaction_map,
    pareto_front,
)


def draw_all(results: Results) -> list[Drawn]:
    """Every figure that the runs can fill."""
    first = ONE_SIZE if len(results.sizes) == 1 else BY_SIZE
    drawn = [verdict_forest(results), *(draw(results) for draw in (*first, *FIGURES))]
    drawn += [loss_by_param(results, param) for param in numeric_params(results)]
    drawn += optimal_size_figures(results)
    return [figure for figure in drawn if figure is not None]
