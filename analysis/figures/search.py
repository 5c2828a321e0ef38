"""Figures of searches: runs over all that was varied, what mattered, two objectives at once."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import FixedLocator, NullLocator

from ..questions.importance import importances, searched
from ..questions.results import Results
from ..runs.labels import human
from ..tables.labels import metric_label
from .style import PALETTE, Drawn, new_figure, set_title, shared_legend, styled, styles

MAX_TEXTS = 8  # values named on one axis
MAX_RECIPES = 8  # that a front tells apart by colour
UNSET = -0.12  # where a setting stands that a run does not have
# the lightest fifth of the map would not be seen on white
COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, 256)))


@styled
def parallel_coordinates(results: Results) -> Drawn | None:
    """Every run of a search as a line through its values, coloured by loss."""
    names = searched(results)
    if not names:
        return None
    runs = results.complete.sort_values(results.metric, ascending=False)
    losses = runs[results.metric].to_numpy(dtype=float)
    figure, (axes,) = new_figure(1, 1, 3.0)
    low, high = losses.min(), np.quantile(losses, 0.9)  # a few bad runs would take all colours
    norm = Normalize(low, high if high > low else low + 1e-6, clip=True)
    places = np.column_stack([_place(runs[name])[0] for name in names])
    for row, loss in zip(places, losses, strict=True):
        axes.plot(range(len(names)), row, color=COLOURS(norm(loss)), linewidth=0.9, alpha=0.75)
    axes.plot(range(len(names)), places[-1], color="black", linewidth=1.8, label="_best")
    for k, name in enumerate(names):
        axes.axvline(k, color="#999999", linewidth=0.6, zorder=0)
        for at, text in zip(*_place(runs[name])[1:], strict=True):
            axes.annotate(
                text,
                (k, at),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=6,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.5},
                zorder=6,
            )
    axes.grid(False)
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.set_ylim(UNSET - 0.05 if (places < 0).any() else -0.05, 1.05)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(FixedLocator(list(range(len(names)))))
    axes.set_xticklabels([name.replace(".", ".\n", 1) for name in names])
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, pad=0.01, extend="max")
    bar.set_label(metric_label(results.metric))
    title = f"The search: {len(runs)} runs over {len(names)} settings"
    set_title(figure, title)
    caption = (
        "A line is a run, coloured by its loss (dark: low; the worst tenth share one colour); the "
        "best is black. Numbers that span more than tenfold are on a logarithmic axis; 'unset' is "
        "a setting that the run does not have. Runs that diverged or were pruned are not drawn."
    )
    data = runs[["run_id", *names, results.metric]]
    return Drawn(
        name="parallel_coordinates", title=title, caption=caption, figure=figure, data=data
    )


@styled
def importance(results: Results) -> Drawn | None:
    """How much of the loss's variance each setting explains."""
    table = importances(results)
    if table is None:
        return None
    figure, (axes,) = new_figure(1, 1, 0.9 + 0.3 * len(table), width=4.6)
    at = np.arange(len(table))[::-1]
    axes.barh(at, table["share"], height=0.55, color=PALETTE[0], alpha=0.85)
    ends = [table["share"] - table["low"], table["high"] - table["share"]]
    axes.errorbar(table["share"], at, xerr=ends, fmt="none", ecolor="#222222", capsize=2)
    axes.plot(table["chance"], at, "|", color=PALETTE[1], markersize=11, label="95% of chance")
    axes.set_yticks(at, table["setting"])
    axes.set_xlim(left=min(0.0, float(table["low"].min()) - 0.02))
    axes.set_xlabel("share of the variance of loss (omega squared)")
    shared_legend(figure, [axes])
    title = "What mattered in the search"
    set_title(figure, title)
    caption = (
        "Share of the variance of the loss that a setting explains by itself in an additive model "
        "of all settings (numbers cut into up to four groups), less what chance would. Bars: 95% "
        "by half samples. Orange: the 95th percentile where the setting is shuffled; a bar that "
        "does not pass it is no finding. Interactions have a figure of their own."
    )
    return Drawn(name="importance", title=title, caption=caption, figure=figure, data=table)


@styled
def pareto_front(results: Results) -> Drawn | None:
    """Two objectives of a search: which runs no other beats in both."""
    if len(results.plan.objectives) != 2:
        return None
    names = [name.removeprefix("-") for name in results.plan.objectives]
    if any(name not in results.complete for name in names):
        return None
    runs = results.complete[results.complete[names].notna().all(axis=1)]
    signs = [-1.0 if name.startswith("-") else 1.0 for name in results.plan.objectives]
    values = runs[names].to_numpy(dtype=float)
    best = front(values * signs)
    figure, (axes,) = new_figure(1, 1, 3.0, width=4.6)
    style = styles(results)
    few = runs["recipe"].nunique() <= MAX_RECIPES
    for recipe, group in runs.groupby("recipe", sort=False):
        colour, marker, _ = style[str(recipe)] if few else ("#8a8a8a", "o", "")
        xy = group[names].to_numpy(dtype=float)
        label = str(recipe) if few else "run"
        axes.plot(xy[:, 0], xy[:, 1], marker, color=colour, alpha=0.6, label=label)
    order = np.flatnonzero(best)[np.argsort(values[best, 0])]
    where = "post" if signs[0] > 0 else "pre"
    axes.step(
        values[order, 0],
        values[order, 1],
        where=where,
        color="black",
        linewidth=1.2,
        marker="o",
        markersize=4.5,
        zorder=4,
        label="front",
    )
    for axis, column in zip((axes.set_xscale, axes.set_yscale), values.T, strict=True):
        if column.min() > 0 and column.max() / column.min() > 20:
            axis("log")
    words = {1.0: "lower is better", -1.0: "higher is better"}
    axes.set_xlabel(f"{metric_label(names[0])}: {words[signs[0]]}")
    axes.set_ylabel(f"{metric_label(names[1])}: {words[signs[1]]}")
    shared_legend(figure, [axes])
    title = f"Pareto front: {int(best.sum())} of {len(runs)} runs"
    set_title(figure, title)
    caption = (
        "Points are single runs; the black steps join those that no other run beats in both "
        "objectives. A front of single runs is partly luck: the lowest of many draws."
    )
    data = runs[["run_id", "recipe", "size", "seed", *names]].assign(on_front=best)
    return Drawn(name="pareto_front", title=title, caption=caption, figure=figure, data=data)


def front(values: np.ndarray) -> np.ndarray:
    """Which rows [n] of values [n, 2], both to be minimized, no other row dominates."""
    no_worse = (values[None] <= values[:, None]).all(-1)
    better = (values[None] < values[:, None]).any(-1)
    return ~(no_worse & better).any(1)


def _place(column: pd.Series) -> tuple[np.ndarray, list[float], list[str]]:
    """Where each value stands on an axis from 0 to 1; and the places that are named, with names.

    A run without the setting stands below the axis, so that its line goes on.
    """
    unset = column.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(dtype=float)
        shown = np.unique(values[np.isfinite(values)])
        log = shown[0] > 0 and shown[-1] / shown[0] > 10
        low, high = (np.log(shown[[0, -1]]) if log else shown[[0, -1]]).tolist()
        scale = (lambda v: np.log(v)) if log else (lambda v: v)
        if len(shown) > MAX_TEXTS:
            shown = shown[[0, -1]]
        span = high - low or 1.0
        at = [(float(scale(v)) - low) / span for v in shown]
        places, names = (scale(values) - low) / span, [human(float(v)) for v in shown]
    else:
        texts = column.astype(str)
        names = sorted(texts[~unset].unique())
        by_name = {name: k / max(len(names) - 1, 1) for k, name in enumerate(names)}
        places = texts.map(by_name).to_numpy(dtype=float)
        names = names if len(names) <= MAX_TEXTS else [names[0], names[-1]]
        at = [by_name[name] for name in names]
    if unset.any():
        places, at, names = np.where(unset, UNSET, places), [*at, UNSET], [*names, "unset"]
    return places, at, names
