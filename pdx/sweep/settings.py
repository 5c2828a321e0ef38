"""Overrides with values: what Hydra reads of a command line, and of an axis in a sweep file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
)
from hydra.errors import OverrideParseException

from pdx.errors import SweepError


@dataclass(frozen=True)
class Setting:
    """One override with one value: how Hydra reads it, and what a table shows."""

    key: str
    value: Any
    override: str


@dataclass(frozen=True)
class Interval:
    """Numbers that a search draws from.

    Attributes:
        step: None for every number in between; both ends may be drawn.
        log: drawn evenly in the logarithm.
    """

    key: str
    low: float
    high: float
    step: float | None
    log: bool

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def setting(self, value: float) -> Setting:
        """The override that sets a drawn value."""
        return Setting(self.key, value, f"{self.key}={value!r}")


Axis = tuple[Setting, ...] | Interval


def parse(parser: OverridesParser, overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        SweepError: what is no override.
    """
    try:
        return parser.parse_overrides([str(o) for o in overrides])
    except OverrideParseException as err:
        raise SweepError(grammar_error(err)) from err


def grammar_error(err: OverrideParseException) -> str:
    """What Hydra says of an override that it cannot read."""
    said = " ".join(str(err.message).partition("\nSee ")[0].split())
    return (
        f"{err.override}: is no override ({said}); write key=value, and quote what has spaces or "
        "commas, such as key='a, b'."
    )


def axis_of(parser: OverridesParser, key: str, values: Any) -> Axis:
    """An axis of a sweep file: a list is a grid, a string is Hydra's grammar."""
    if isinstance(values, str):
        return expand(parser, parse(parser, [f"{key}={values}"])[0])
    if not isinstance(values, list) or not values:
        raise SweepError(f"axes.{key}={values}: must be a list of values, or Hydra's grammar.")
    written = parse(parser, [f"{key}={quote(v)}" for v in values])
    return tuple(only(expand(parser, override)) for override in written)


def quote(value: Any) -> str:
    """A YAML value as Hydra's grammar reads it back."""
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[\w./-]+", value, re.ASCII) and value.lower() not in (
        "null",
        "true",
        "false",
    ):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def only(axis: Axis) -> Setting:
    """The first value of an axis that is a list."""
    assert not isinstance(axis, Interval)
    return axis[0]


def expand(parser: OverridesParser, override: Override) -> Axis:
    """An override's values, one setting each, or the interval that it names."""
    key = override.get_key_element()
    shown = key.lstrip("+~")
    if not override.is_sweep_override():
        line = override.input_line or f"{key}={override.value()}"
        return (Setting(shown, override.value(), line),)
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        assert swept.start is not None and swept.end is not None
        return Interval(shown, swept.start, swept.end, None, "log" in swept.tags)
    written = [f"{key}={text}" for text in override.sweep_string_iterator()]
    parsed = parse(parser, written)
    if not parsed:
        raise SweepError(f"{override.input_line}: names no value; list values, or widen it.")
    return tuple(Setting(shown, p.value(), w) for p, w in zip(parsed, written, strict=True))
