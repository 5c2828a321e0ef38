"""What a sweep is before anything is composed: a file of sweeps/, or a grid on the command line."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from pdx.build import did_you_mean
from pdx.errors import SweepError
from pdx.paths import sweeps_dir

SEED_AXIS = "train.seed"
FILE_KEYS = {"question", "base", "scales"}
SCALE_KEYS = {"base", "axes", "seeds", "control", "expected_runs"}
NO_SCALE = "any"


@dataclass(frozen=True)
class Setting:
    """One override with one value: how Hydra reads it, and what a table shows."""

    key: str
    value: Any
    override: str


@dataclass(frozen=True)
class Definition:
    """A question, as it was asked.

    Attributes:
        base: overrides of every point.
        axes: for each axis its settings; the grid is their product.
        controls: blocks of overrides, each of them a small grid of its own; crossed with the axes
            that it reads and does not set.
    """

    name: str
    scale: str
    question: str
    base: tuple[str, ...]
    axes: dict[str, tuple[Setting, ...]]
    controls: tuple[dict[str, tuple[Setting, ...]], ...]
    expected_runs: int | None
    command: str


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
    parser = parser or OverridesParser.create()
    if sweep is not None:
        where = find_sweep(sweep)
        text = _load(where)
        scale, block = _scale(where, text, scale)
        question = str(text["question"]).strip()
        base = [
            *_overrides(where, "base", text.get("base")),
            *_overrides(where, "base", block.get("base")),
        ]
    elif scale is not None:
        raise SweepError(f"scale={scale}: names a block of a sweep file; add sweep=NAME.")
    axes = {k: _settings(parser, k, values) for k, values in _axes(where, block).items()}
    expected = block.get("expected_runs")
    for override in _parse(parser, overrides):
        settings = _expand(parser, override)
        only = settings[0]
        if len(settings) > 1 or only.key in axes:
            expected = None  # another grid than the one that the file counts
        if len(settings) > 1:
            axes[only.key] = settings
        else:
            axes.pop(only.key, None)
            base.append(only.override)
    controls = tuple(
        {s[0].key: s for s in (_expand(parser, o) for o in _parse(parser, b))}
        for b in _controls(where, block.get("control") or [])
    )
    return Definition(
        name=sweep or "grid",
        scale=scale or NO_SCALE,
        question=question,
        base=tuple(base),
        axes=axes,
        controls=controls,
        expected_runs=expected,
        command=command,
    )


def find_sweep(name: str) -> Path:
    """A sweep file by name: in the working directory's sweeps/ first, then pdx's own."""
    folders = [Path("sweeps"), sweeps_dir()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise SweepError(
        f"sweep={name}: no such file in sweeps/.{did_you_mean(name, known)} "
        f"Known: {', '.join(known)}."
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        text = yaml.safe_load(path.read_text())
    except yaml.YAMLError as err:
        raise SweepError(f"{path}: is no YAML: {err}") from err
    if not isinstance(text, dict) or "question" not in text or not text.get("scales"):
        raise SweepError(f"{path}: must state `question` in words, and `scales`, each with `axes`.")
    _refuse_unknown(path, text, FILE_KEYS)
    for name, block in text["scales"].items():
        _refuse_unknown(path, block or {}, SCALE_KEYS, f"scales.{name}.")
    return text


def _refuse_unknown(path: Path, given: dict[str, Any], known: set[str], prefix: str = "") -> None:
    for key in given:
        if key not in known:
            raise SweepError(
                f"{path}: {prefix}{key}: unknown key.{did_you_mean(str(key), known)} "
                f"Known: {', '.join(sorted(known))}."
            )


def _scale(path: Path, text: dict[str, Any], scale: str | None) -> tuple[str, dict[str, Any]]:
    scales = text["scales"]
    if scale is None:
        scale = next(iter(scales))  # the first is the default
    if scale not in scales:
        raise SweepError(
            f"scale={scale}: {path} has no such block.{did_you_mean(scale, scales)} "
            f"Known: {', '.join(scales)}."
        )
    return scale, scales[scale] or {}


def _overrides(path: Path, key: str, value: Any) -> list[str]:
    if value is not None and not isinstance(value, list):
        raise SweepError(f"{path}: {key}: must be a list of overrides such as [data=stdlib].")
    return [str(v) for v in value or []]


def _axes(path: Path, block: dict[str, Any]) -> dict[str, Any]:
    axes = block.get("axes") or {}
    if not isinstance(axes, dict):
        raise SweepError(
            f"{path}: axes: must name values by axis, such as `student: [s10k, s30k]`."
        )
    return axes | ({SEED_AXIS: block["seeds"]} if "seeds" in block else {})


def _controls(path: Path, value: Any) -> list[list[str]]:
    """One list of overrides, or a list of such lists."""
    if isinstance(value, list):
        if all(isinstance(v, str) for v in value):
            return [value] if value else []
        if all(isinstance(v, list) for v in value):
            return value
    raise SweepError(
        f"{path}: control: must be a list of overrides such as [loss=none], or a list of those."
    )


def _parse(parser: OverridesParser, overrides: Sequence[str]) -> list[Override]:
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


def _settings(parser: OverridesParser, key: str, values: Any) -> tuple[Setting, ...]:
    """An axis of a sweep file: a list is a grid, a string is Hydra's grammar."""
    if isinstance(values, str):
        return _expand(parser, _parse(parser, [f"{key}={values}"])[0])
    if not isinstance(values, list) or not values:
        raise SweepError(f"axes.{key}={values}: must be a list of values, or Hydra's grammar.")
    written = _parse(parser, [f"{key}={_quote(v)}" for v in values])
    return tuple(_expand(parser, override)[0] for override in written)


def _quote(value: Any) -> str:
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


def _expand(parser: OverridesParser, override: Override) -> tuple[Setting, ...]:
    """An override's values, one setting each."""
    key = override.get_key_element()
    shown = key.lstrip("+~")
    if not override.is_sweep_override():
        return (
            Setting(shown, override.value(), override.input_line or f"{key}={override.value()}"),
        )
    if not override.is_discrete_sweep():
        raise SweepError(
            f"{override.input_line}: an interval is for a search, and this is a grid; list values, "
            "or use range(start, stop, step) or choice(...)."
        )
    written = [f"{key}={text}" for text in override.sweep_string_iterator()]
    parsed = _parse(parser, written)
    if not parsed:
        raise SweepError(f"{override.input_line}: names no value; list values, or widen it.")
    return tuple(Setting(shown, p.value(), w) for p, w in zip(parsed, written, strict=True))
