"""The files of sweeps/: one question each, found by name, checked before anything is composed."""

from pathlib import Path
from typing import Any

import yaml

from pdx.build import did_you_mean
from pdx.errors import SweepError
from pdx.paths import sweeps_dir
from pdx.sweep.settings import quote

FILE_KEYS = {"question", "base", "claims", "scales"}
SCALE_KEYS = {
    *("setup", "base", "claims", "axes", "seeds", "zip", "when", "forbid", "control"),
    *("expected_runs", "search", "budget"),
}


def find_sweep(name: str) -> Path:
    """A sweep file by name: in the working directory's sweeps/ first, then pdx's own."""
    return _find(f"sweep={name}", name, [Path("sweeps"), sweeps_dir()])


def _find(said: str, name: str, folders: list[Path]) -> Path:
    """NAME.yaml in the first folder that has it."""
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise SweepError(
        f"{said}: no such file in {folders[0].name}/.{did_you_mean(name, known)} "
        f"Known: {', '.join(known)}."
    )


def load_sweep(path: Path) -> dict[str, Any]:
    """A sweep file's content, its keys checked."""
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


def choose_scale(path: Path, text: dict[str, Any], scale: str | None) -> tuple[str, dict[str, Any]]:
    """A block of the file by name; the first is the default."""
    scales = text["scales"]
    if scale is None:
        scale = str(next(iter(scales)))
    if scale not in scales:
        raise SweepError(
            f"scale={scale}: {path} has no such block.{did_you_mean(scale, scales)} "
            f"Known: {', '.join(scales)}."
        )
    return scale, scales[scale] or {}


def setup_in(path: Path, block: dict[str, Any]) -> list[str]:
    """The overrides of a scale's ``setup``: what its sweeps have in common, and so share runs.

    A list in setups/NAME.yaml beside the sweep file, or among pdx's own sweeps.
    """
    name = block.get("setup")
    if name is None:
        return []
    folders = [path.parent / "setups", sweeps_dir() / "setups"]
    found = _find(f"{path}: setup={name}", str(name), folders)
    return overrides_in(found, "the file", yaml.safe_load(found.read_text()))


def overrides_in(path: Path, key: str, value: Any) -> list[str]:
    """A list of overrides."""
    if value is not None and not isinstance(value, list):
        raise SweepError(f"{path}: {key}: must be a list of overrides such as [data=stdlib].")
    return [str(v) for v in value or []]


def axes_in(path: Path, block: dict[str, Any], seed_axis: str) -> dict[str, Any]:
    """Values by axis, the seeds last."""
    axes = block.get("axes") or {}
    if not isinstance(axes, dict):
        raise SweepError(
            f"{path}: axes: must name values by axis, such as `student: [s10k, s30k]`."
        )
    return axes | ({seed_axis: block["seeds"]} if "seeds" in block else {})


def controls_in(path: Path, block: dict[str, Any]) -> list[list[str]]:
    """One list of overrides, or a list of such lists."""
    value = block.get("control") or []
    if isinstance(value, list):
        if all(isinstance(v, str) for v in value):
            return [value] if value else []
        if all(isinstance(v, list) for v in value):
            return value
    raise SweepError(
        f"{path}: control: must be a list of overrides such as [loss=none], or a list of those."
    )


def sweeper_overrides(path: Path, block: dict[str, Any]) -> list[str]:
    """``search`` and ``budget`` as the overrides of hydra.sweeper that say the same."""
    overrides = []
    for part, prefix in (("search", ""), ("budget", "budget.")):
        given = block.get(part) or {}
        if not isinstance(given, dict):
            raise SweepError(
                f"{path}: {part}: must be settings by name, such as `{EXAMPLE[part]}`."
            )
        confirm = given.get("confirm")
        if part == "search" and isinstance(confirm, dict):  # one by one: any may be overridden
            given = {k: v for k, v in given.items() if k != "confirm"}
            given |= {f"confirm.{key}": value for key, value in confirm.items()}
        for key, value in given.items():
            group = key in ("sampler", "pruner")
            overrides.append(
                f"hydra/sweeper/{key}={value}"
                if group
                else f"hydra.sweeper.{prefix}{key}={_written(value)}"
            )
    return overrides


EXAMPLE = {"search": "{sampler: tpe, num_runs: 40}", "budget": "{gpu_hours: 100}"}


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote(k)}:{quote(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(quote(v) for v in value) + "]"
    return quote(value)
