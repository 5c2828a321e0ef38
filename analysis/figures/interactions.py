"""The heat map of settings that matter together."""

import numpy as np
from matplotlib import colormaps

from ..questions.interactions import LEVEL, drawn_runs, interactions
from ..questions.results import Results
from .style import Drawn, new_figure, set_title, styled

CELL_INCHES = 0.55


@styled
def interaction_map(results: Results) -> Drawn | None:
    """Shares of the variance of loss: of each setting on the diagonal, of pairs below it."""
    table = interactions(results)
    if table is None:
        return None
    names = list(table.loc[table["setting"] == table["beside"], "setting"])
    place = {name: k for k, name in enumerate(names)}
    shares, marks = np.full((len(names), len(names)), np.nan), {}
    for row in table.to_dict("records"):
        low, high = sorted((place[row["setting"]], place[row["beside"]]))
        shares[high, low] = row["share"]
        marks[high, low] = row["p"] <= LEVEL
    figure, (axes,) = new_figure(1, 1, CELL_INCHES * len(names) + 1.4, width=6.2)
    colours = colormaps["Blues"].with_extremes(bad="white")
    top = max(0.05, float(np.nanmax(shares)))
    image = axes.imshow(np.clip(shares, 0, top), cmap=colours, vmin=0.0, vmax=top, aspect="auto")
    for (high, low), seen in marks.items():
        share = shares[high, low]
        axes.text(
            low,
            high,
            "?" if np.isnan(share) else f"{max(share, 0.0):.0%}" + ("*" if seen else ""),
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold" if seen or high == low else "normal",
            color="white" if share > 0.6 * top else "black",
        )
    axes.set_xticks(range(len(names)), [n.replace(".", ".\n", 1) for n in names], fontsize=6.5)
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    axes.grid(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("share of the variance of loss")
    title = "What mattered together in the search"
    set_title(figure, title)
    caption = (
        f"Of {len(drawn_runs(results))} runs. Diagonal: what a setting explains by itself. Below "
        "it: what two explain together beyond that, less what chance would (omega squared). "
        f"Stars: p <= {LEVEL:g} by permutation, Holm over all pairs; without one it is no finding. "
        "'?': too few runs have their values together."
    )
    return Drawn(name="interactions", title=title, caption=caption, figure=figure, data=table)
