"""What a sweep is before anything is composed: a file of sweeps/, or a grid on the command line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
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
    sweep: str | None, scale: str | None, overrides: Sequence[str], command: str
) -> Definition:
    """A sweep file's definition with the command line's overrides on top, or an ad-hoc grid.

    Raises:
        SweepError: no such file or scale, unknown keys, nothing to sweep over, bad grammar.
    """
    block: dict[str, Any] = {}
    question, base = "An ad-hoc grid.", []
    if sweep is not None:
        path = find_sweep(sweep)
        text = _load(path)
        scale, block = _scale(path, text, scale)
        question = str(text["question"]).strip()
        base = [
            *_overrides(path, "base", text.get("base")),
            *_overrides(path, "base", block.get("base")),
        ]
    elif scale is not None:
        raise SweepError(f"scale={scale}: names a block of a sweep file; add sweep=NAME.")
    axes = {key: _settings(key, values) for key, values in (block.get("axes") or {}).items()}
    if "seeds" in block:
        axes[SEED_AXIS] = _settings(SEED_AXIS, block["seeds"])
    for override in _parse(overrides):
        settings = _expand(override)
        only = settings[0]
        if len(settings) > 1:
            axes[only.key] = settings
        else:
            axes.pop(only.key, None)
            base.append(only.override)
    blocks = block.get("control") or []
    blocks = [blocks] if blocks and isinstance(blocks[0], str) else blocks
    controls = tuple({s[0].key: s for s in map(_expand, _parse(b))} for b in blocks)
    return Definition(
        name=sweep or "grid",
        scale=scale or NO_SCALE,
        question=question,
        base=tuple(base),
        axes=axes,
        controls=controls,
        expected_runs=None if overrides else block.get("expected_runs"),
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


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides([str(o) for o in overrides])
    except OverrideParseException as err:
        raise SweepError(
            f"{err.override}: is no override ({err.message}); write key=value."
        ) from err


def _settings(key: str, values: Any) -> tuple[Setting, ...]:
    """An axis of a sweep file: a list is a grid, a string is Hydra's grammar."""
    if isinstance(values, str):
        (override,) = _parse([f"{key}={values}"])
        return _expand(override)
    if not isinstance(values, list) or not values:
        raise SweepError(f"axes.{key}={values}: must be a list of values, or Hydra's grammar.")
    return tuple(_expand(_parse([f"{key}={_quote(v)}"])[0])[0] for v in values)


def _quote(value: Any) -> str:
    """A YAML value as Hydra's grammar reads it back."""
    if isinstance(value, str):
        plain = value.replace("_", "").replace("/", "").replace(".", "").replace("-", "").isalnum()
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def _expand(override: Override) -> tuple[Setting, ...]:
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
    parsed = _parse(written)
    return tuple(Setting(shown, p.value(), w) for p, w in zip(parsed, written, strict=True))
