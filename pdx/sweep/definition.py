"""What a sweep is before anything is composed: a file of sweeps/, or a grid on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from pdx.errors import SweepError
from pdx.sweep.claims import Claim, claims_in
from pdx.sweep.settings import Axis, Interval, Setting, axis_of, expand, only, parse
from pdx.sweep.space import Rules, rules_of
from pdx.sweep.sweepfile import (
    axes_in,
    choose_scale,
    controls_in,
    find_sweep,
    load_sweep,
    overrides_in,
    setup_in,
    sweeper_overrides,
)

SEED_AXIS = "train.seed"
NO_SCALE = "any"


@dataclass(frozen=True)
class Definition:
    """A question, as it was asked.

    Attributes:
        base: overrides of every point.
        axes: for each axis its settings, or the interval that a search draws from.
        rules: what ties axes to each other.
        controls: blocks of overrides, each of them a small grid of its own; crossed with the axes
            that it reads and does not set.
        sweeper: overrides of hydra.sweeper that the file gives (its search and its budget).
        claims: what the file holds its runs against.
    """

    name: str
    scale: str
    question: str
    base: tuple[str, ...]
    axes: dict[str, Axis]
    controls: tuple[dict[str, tuple[Setting, ...]], ...]
    expected_runs: int | None
    command: str
    rules: Rules = field(default_factory=Rules)
    sweeper: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def grid_axes(self) -> dict[str, tuple[Setting, ...]]:
        """The axes that are lists.

        Raises:
            SweepError: one is an interval, and there is no search to draw from it.
        """
        for axis in self.axes.values():
            if isinstance(axis, Interval):
                raise SweepError(
                    f"{axis.key}=interval({axis.low}, {axis.high}): an interval is for a search, "
                    "and this is a grid; list values, use range(start, stop, step) or choice(...), "
                    "or search with hydra/sweeper/sampler=tpe."
                )
        return {key: axis for key, axis in self.axes.items() if not isinstance(axis, Interval)}


def define(
    sweep: str | None,
    scale: str | None,
    overrides: Sequence[str],
    command: str,
    parser: OverridesParser | None = None,
) -> Definition:
    """A sweep file's definition with the command line's overrides on top, or an ad-hoc grid.

    Args:
        parser: Hydra's; one that knows where configs are also reads ``glob(...)``.

    Raises:
        SweepError: no such file or scale, unknown keys, nothing to sweep over, bad grammar.
    """
    block: dict[str, Any] = {}
    question, base, where = "An ad-hoc grid.", [], Path()
    claims: tuple[Claim, ...] = ()
    parser = parser or OverridesParser.create()
    if sweep is not None:
        where = find_sweep(sweep)
        text = load_sweep(where)
        scale, block = choose_scale(where, text, scale)
        question = str(text["question"]).strip()
        claims = claims_in(where, text, block)
        base = [
            *setup_in(where, block),
            *overrides_in(where, "base", text.get("base")),
            *overrides_in(where, "base", block.get("base")),
        ]
    elif scale is not None:
        raise SweepError(f"scale={scale}: names a block of a sweep file; add sweep=NAME.")
    axes = {k: axis_of(parser, k, v) for k, v in axes_in(where, block, SEED_AXIS).items()}
    rules = rules_of(block, axes)
    expected = block.get("expected_runs")
    for override in parse(parser, overrides):
        axis = expand(parser, override)
        swept = isinstance(axis, Interval) or len(axis) > 1
        key = axis.key if isinstance(axis, Interval) else only(axis).key
        if swept or key in axes:
            expected = None  # another grid than the one that the file counts
        if key in axes:
            rules = rules.unzipped(key)
        if swept or key in rules.read:
            axes[key] = axis
        else:
            axes.pop(key, None)
            base.append(only(axis).override)
    return Definition(
        name=sweep or "grid",
        scale=scale or NO_SCALE,
        question=question,
        base=tuple(base),
        axes=axes,
        controls=tuple(_control(parser, b) for b in controls_in(where, block)),
        expected_runs=expected,
        command=command,
        rules=rules,
        sweeper=tuple(sweeper_overrides(where, block)),
        claims=claims,
    )


def _control(parser: OverridesParser, block: Sequence[str]) -> dict[str, tuple[Setting, ...]]:
    settings = {}
    for override in parse(parser, block):
        axis = expand(parser, override)
        if isinstance(axis, Interval):
            raise SweepError(f"control: {override.input_line}: list values; a control is a grid.")
        settings[only(axis).key] = axis
    return settings
