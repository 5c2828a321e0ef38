"""Axes of figures: ticks that can be read, limits that hold what matters, labels in free places."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from ..runs.labels import SIZE_NAME

LETTER_INCHES = 0.058  # mean width of a letter at 7 points, and a little more
SMALL_LETTER_INCHES = 0.052  # the same at 6 points
ROTATIONS = ((45, 0.16), (90, 0.11))  # degrees, and the inches that a line of text then takes
HALO = [withStroke(linewidth=1.5, foreground="white")]
OFFSETS = ((0, 7), (0, -7), (8, 0), (-8, 0), (8, 6), (-8, 6), (8, -6), (-8, -6), (0, 13), (0, -13))


def size_axis(axes: Axes, names: Mapping[float, str], label: str | None) -> None:
    """Logarithmic, with a tick at each size; names are turned where they have no room."""
    sizes = sorted(names)
    axes.set_xscale("log")
    low, high = sizes[0], sizes[-1]
    pad = (high / low) ** 0.08 if high > low else 2.0
    axes.set_xlim(low / pad, high * pad)
    gaps = _gaps(axes, sizes)
    shown = {size: names[size] for size in _apart(sizes, gaps, ROTATIONS[-1][1])}
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown.get(value, "")))
    if _crowded(gaps, [len(names[size]) for size in sizes], LETTER_INCHES):
        turn = next((turn for turn, room in ROTATIONS if min(gaps) >= room), ROTATIONS[-1][0])
        for text in axes.get_xticklabels():
            text.set(rotation=turn, rotation_mode="anchor", ha="right", va="center")
    if label:
        axes.set_xlabel(label)


def number_axis(axes: Axes, label: str, values: Sequence[float]) -> None:
    """A tick at each value that has room; logarithmic where they span more than threefold."""
    values = sorted(set(values))
    log = values[0] > 0 and values[-1] / values[0] > 3
    places = np.log(values) if log else np.asarray(values)
    if log:
        axes.set_xscale("log")
    ticks, last = [], -np.inf
    for value, place in zip(values, places, strict=True):
        if place - last >= 0.15 * (places[-1] - places[0]):
            ticks.append(value)
            last = place
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel(label)


def flops_axis(axes: Axes, label: str) -> None:
    """Logarithmic; ticks at 1, 2 and 5 within a decade, at 1 and 3 within three."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    parts = (1, 2, 5) if high / low < 10 else (1, 3) if high / low < 1000 else (1,)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [part * 10.0**decade for decade in decades for part in parts]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def frame_y(
    axes: Axes, values: Sequence[float], bars: Sequence[float] = (), headroom: float = 0.0
) -> None:
    """Limits that hold every value, and bars as far as they do not squash the values."""
    finite = np.asarray([v for v in values if np.isfinite(v)])
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    span = max(high - low, 0.02 * max(abs(high), abs(low)), 1e-6)
    reach = np.asarray([v for v in bars if np.isfinite(v)])
    if len(reach):
        low = max(min(low, float(reach.min())), low - 0.6 * span)
        high = min(max(high, float(reach.max())), high + 0.6 * span)
    pad = 0.06 * span if high - low >= span else span
    axes.set_ylim(low - pad, high + pad + headroom * span)


def mark_missing(axes: Axes, paired: pd.DataFrame, first: bool) -> float:
    """Hatch the sizes that have no fair control; above them, what one would take and what was had.

    Args:
        first: whether this panel also names the two rows of numbers.

    Returns:
        Points that this takes above the frame.
    """
    gaps = _gaps(axes, sorted(set(paired[SIZE_NAME].astype(float))))
    low, high = np.log(axes.get_xlim())
    half = np.exp(0.42 * min(gaps) * (high - low) / _width_inches(axes)) if gaps else 1.2
    cells: dict[float, tuple[str, str]] = {}
    for key, group in paired.groupby(SIZE_NAME):
        if (group["num_pairs"] > 0).any():
            continue
        size = float(str(key))
        axes.axvspan(
            size / half,
            size * half,
            facecolor="#f4f4f4",
            hatch="////",
            edgecolor="#cccccc",
            linewidth=0,
            zorder=0,
        )
        needed, had = group["needed_multiple"].min(), group["measured_multiple"].max()
        close = abs(needed / had - 1) < 0.05  # else they would read the same
        cells[size] = (_times(needed, 3 if close else 2), _times(had))
    letters = [max(map(len, pair)) for pair in cells.values()]
    turn = 90 if _crowded(_gaps(axes, list(cells)), letters, SMALL_LETTER_INCHES) else 0
    if first:
        cells[axes.get_xlim()[0]] = ("needs", "has")
    for place, pair in cells.items():
        align = "right" if pair[0] == "needs" else "center"
        for text, above in ((" / ".join(pair), 2),) if turn else zip(pair, (9, 2), strict=True):
            axes.annotate(
                text,
                (place, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-3 if align == "right" else 0, above),
                textcoords="offset points",
                ha=align,
                va="bottom",
                rotation=turn,
                fontsize=6,
                color="#444444",
                annotation_clip=False,
            )
    return 72 * SMALL_LETTER_INCHES * (2 * max(letters) + 3) if turn else 17.0


def place_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> list[Annotation]:
    """Name points (x, y, text, colour) where neither marks nor other names nor the frame are.

    To be called last: it needs the figure's final layout. A name that finds no place is left out.
    """
    figure = _figure(axes)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg has one
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    marks, strokes = [], []
    for line in axes.lines:
        if line.get_transform() != axes.transData:
            continue  # a line across the panel
        points = axes.transData.transform(np.column_stack(line.get_data()).astype(float))
        half = scale * line.get_markersize() / 2
        if line.get_marker() not in ("None", ""):
            marks += [Bbox([point - half, point + half]) for point in points]
        if line.get_linestyle() != "None":
            strokes += [np.linspace(*ends, 30) for ends in pairwise(points)]
    path = np.concatenate(strokes) if strokes else np.zeros((0, 2))
    placed, taken = [], list(marks)
    for x, y, text, colour in labels:
        found = []
        for offset in OFFSETS:
            name = axes.annotate(
                text,
                (x, y),
                xytext=offset,
                textcoords="offset points",
                fontsize=6,
                color=colour,
                ha={0: "center", 8: "left", -8: "right"}[offset[0]],
                va="center",
                path_effects=HALO,
                zorder=5,
            )
            name.set_in_layout(False)
            box = name.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside &= frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken):
                crossed = sum(box.contains(*point) for point in path)
                found.append((crossed, len(found), name, box))
            else:
                name.remove()
        found.sort(key=lambda f: f[:2])
        for _, _, name, _ in found[1:]:
            name.remove()
        if found:
            placed.append(found[0][2])
            taken.append(found[0][3])
    return placed


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _times(multiple: float, digits: int = 2) -> str:
    """8.87 -> 8.9x, 152.8 -> 153x."""
    if np.isnan(multiple):
        return "?"
    return f"{multiple:.{max(digits, len(str(int(multiple))))}g}x"


def _crowded(gaps: Sequence[float], letters: Sequence[int], letter_inches: float) -> bool:
    """Whether texts of so many letters, centred so far from each other, would touch."""
    pairs = zip(gaps, pairwise(letters), strict=True)
    return any(gap < letter_inches * (sum(two) + 1) / 2 for gap, two in pairs)


def _width_inches(axes: Axes) -> float:
    """About what a panel measures, before it is laid out."""
    spec = axes.get_subplotspec()
    columns = spec.get_gridspec().ncols if spec else 1
    return 0.8 * _figure(axes).get_figwidth() / columns


def _gaps(axes: Axes, places: Sequence[float]) -> list[float]:
    """Inches between neighbours on a logarithmic axis."""
    low, high = np.log(axes.get_xlim())
    return [float(g) for g in np.diff(np.log(places)) / (high - low) * _width_inches(axes)]


def _apart(places: Sequence[float], gaps: Sequence[float], room: float) -> list[float]:
    """The places that leave ``room`` inches to the last one taken."""
    taken, since = [places[0]], 0.0
    for place, gap in zip(places[1:], gaps, strict=True):
        since += gap
        if since >= room:
            taken.append(place)
            since = 0.0
    return taken
