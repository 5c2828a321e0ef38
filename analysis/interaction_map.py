"""Settings that matter together, as a reader sees them: the heat map, and its table."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false

import numpy as np
from matplotlib import colormaps

from .importance import searched
from .interactions import (
    LEAST_IN_CELL,
    LEAST_LEFT,
    LEAST_RUNS,
    LEVEL,
    NUM_PERMUTATIONS,
    drawn_runs,
    interactions,
)
from .records import Table
from .results import Results
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


def interactions_table(results: Results) -> Table | None:
    """A row per pair; or why there is none. None where the sweep is no search."""
    if not searched(results):
        return None
    title, table = "What mattered together", interactions(results)
    if table is None:
        note = (
            f"Not told: {len(drawn_runs(results))} runs; {LEAST_RUNS} or more are needed, of which "
            f"the settings by themselves must leave {LEAST_LEFT} degrees of freedom."
        )
        return Table(title=title, note=note, columns=(), rows=())
    pairs = table[table["setting"] != table["beside"]]
    rows = tuple(
        (
            f"{row['setting']} x {row['beside']}",
            *(("", "", "") if np.isnan(row["p"]) else _numbers(row)),
            _word(row["p"]),
            "" if np.isnan(row["p"]) else f"{row['lowest']} ({row['by_how_much']:+.4f})",
        )
        for row in pairs.to_dict("records")
    )
    note = (
        "What two settings explain together of the variance of loss, beyond what each does alone, "
        "less what chance would; beside it the 95th percentile of what shuffled residuals give "
        f"({NUM_PERMUTATIONS} permutations), p with Holm over all pairs. Numbers are cut into up "
        f"to four groups; values that fewer than {LEAST_IN_CELL} runs have together are left out, "
        "and so are runs without one of the two settings. "
        "Last: where the loss lies furthest below what both do alone, in nats per token; of a pair "
        "that is no finding it is noise. A search draws where it is good: what it hardly drew is "
        "not told."
    )
    columns = ("settings", "share", "95% of chance", "p (Holm)", "finding", "lowest beyond both")
    return Table(title=title, note=note, columns=columns, rows=rows)


def _numbers(row: dict) -> tuple[str, str, str]:
    return f"{row['share']:.3f}", f"{row['chance']:.3f}", f"{row['p']:.2g}"


def _word(p: float) -> str:
    if np.isnan(p):
        return "too few runs"
    return "together" if p <= LEVEL else "none beyond chance"
