"""Export, axes, and what the output directory holds."""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from pdx.build import build, did_you_mean
from pdx.data.tokens import find
from pdx.errors import ConfigError, PdxError
from pdx.files import digest, free_lock, publish, read_json
from pdx.paths import Outputs, conf_dir

HYDRAS_OWN = ("hydra",)
MAX_LISTED = 8


def find_run(paths: Outputs, run_id: str) -> Path:
    """A finished run's folder, by its id or the id's first letters."""
    found = sorted(p.parent for p in paths.runs.glob(f"{run_id}*/result.json"))
    if len(found) != 1:
        results = [read_json(p) for p in sorted(paths.runs.glob("*/result.json"))]
        teachers = {result["facts"]["teacher_id"] for result in results}
        known = [_described(paths, r, r["run_id"] in teachers) for r in results[:MAX_LISTED]]
        if len(results) > MAX_LISTED:
            known.append(f"{len(results) - MAX_LISTED} more")
        raise ConfigError(
            f"RUN={run_id}: {'no' if not found else len(found)} finished runs in {paths.runs} "
            f"begin so; known are {'; '.join(known) or 'none'}."
        )
    return found[0]


def _described(paths: Outputs, result: dict[str, Any], is_teacher: bool) -> str:
    """A run's id, recipe, size and tokens."""
    run_id, facts = result["run_id"], result["facts"]
    config = yaml.safe_load((paths.runs / run_id / "config.yaml").read_text())
    loss = config["loss"]["_target_"].split(".")[-2]
    return (
        f"{run_id} ({'a teacher' if is_teacher else f'loss={loss}'}, "
        f"{facts['num_params_non_embedding'] or 0:,} parameters, {facts['num_tokens']:,} tokens, "
        f"seed {config['train']['seed']})"
    )


def export(paths: Outputs, run_id: str, directory: Path) -> str:
    """Write a run's student and tokenizer as ``save_pretrained`` does."""
    run_dir = find_run(paths, run_id)
    if not (run_dir / "model").is_dir():
        raise ConfigError(f"RUN={run_id}: diverged and has no weights; export another.")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"DIR={directory}: exists and is not empty; name a new folder.")
    result = read_json(run_dir / "result.json")
    tokenizer = paths.data / result["facts"]["data_digest"] / "tokenizer"
    if directory.exists():
        directory.rmdir()
    with publish(directory) as temporary:
        for source in (run_dir / "model", tokenizer):
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    return (
        f"{directory}: student of run {run_dir.name} with its tokenizer; "
        f"AutoModelForCausalLM.from_pretrained({str(directory)!r}) loads it."
    )


def axes(axis: str | None = None) -> str:
    """Every axis and its values, or those of one axis, read from the files.

    Raises:
        ConfigError: no such axis.
    """
    folders = {
        p.name: p
        for p in sorted(conf_dir().iterdir())
        if p.is_dir() and p.name not in HYDRAS_OWN and not p.name.startswith("_")
    }
    if axis is not None and axis not in folders:
        raise ConfigError(
            f"AXIS={axis}: no such axis.{did_you_mean(axis, folders)} Known: {', '.join(folders)}."
        )
    lines = []
    for folder in folders.values() if axis is None else [folders[axis]]:
        lines.append(f"{folder.name}/")
        for file in sorted(folder.glob("*.yaml"), key=lambda file: _by_number(file.stem)):
            first = file.read_text().splitlines()[0]
            lines.append(f"  {file.stem:12} {first.lstrip('# ')}")
            fields = yaml.safe_load(file.read_text())
            settings = ", ".join(f"{k}={v}" for k, v in fields.items() if k != "_target_")
            if settings:
                lines.append(f"  {'':12}   {settings}")
    return "\n".join(lines)


def _by_number(name: str) -> tuple[str, float]:
    """Sorts s30k before s100k before s3m, and peng_670m before peng_1p9b."""
    found = re.fullmatch(r"(\D*)(\d+)(?:p(\d+))?([kmb])", name)
    if not found:
        return name, 0.0
    word, whole, part, unit = found.groups()
    return word, float(f"{whole}.{part or 0}") * {"k": 1e3, "m": 1e6, "b": 1e9}[unit]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def collect(paths: Outputs, delete: bool, runs: bool = False) -> str:
    """What everything takes, and what nothing needs; with ``delete`` the latter is removed.

    A sweep needs the runs of its plan and those that its search drew, and their data, teachers and
    stores. So does a finished single run, unless ``runs`` asks for these to go too.

    Raises:
        ConfigError: asked to delete while something runs in this output directory.
    """
    if delete:
        _refuse_while_in_use(paths)
    planned, single = _of_sweeps(paths), set()
    for file in paths.runs.glob("*/result.json"):
        needs = {file.parent.name, *_shared(read_json(file)["facts"])}
        if file.parent.name in planned:
            planned |= needs
        elif not runs:
            single |= needs
    lines, freed = [], 0
    for kind in ("data", "runs", "teachers", "stores"):
        for folder in sorted(getattr(paths, kind).glob("*")):
            if not folder.is_dir():
                continue
            size, name = _size(folder), _owner(kind, folder)
            if name in planned or name in single:
                use = "needed" if name in planned else "needed by a single run (goes with --runs)"
            else:
                use = "half-made" if folder.name.startswith(".tmp-") else "no sweep needs it"
                freed += size
                if delete:
                    shutil.rmtree(folder)
                    use += ", deleted"
            lines.append(f"{size / 2**20:10.1f} MiB  {kind}/{folder.name}  {use}")
    checkpoints = sum(_size(p) for p in paths.runs.glob("*/checkpoint.pt"))
    lines.append(f"{checkpoints / 2**20:10.1f} MiB  checkpoints of unfinished runs (in runs/)")
    verb = f"would be freed by `pdx gc --delete{' --runs' if runs else ''}`"
    return "\n".join([*lines, f"{freed / 2**20:10.1f} MiB  {'freed' if delete else verb}"])


def _of_sweeps(paths: Outputs) -> set[str]:
    """Runs, teachers and data that plans name, and the runs that searches drew."""
    points = [p for file in paths.sweeps.glob("*/plan.json") for p in read_json(file)["points"]]
    points += [read_json(file) for file in paths.sweeps.glob("*/points/*.json")]
    needed: set[str] = set()
    configs: dict[str, dict[str, Any]] = {}
    for point in points:
        needed |= {point["run_id"], *_shared(point["facts"])}
        if not point["facts"].get("data_digest"):  # planned before its data were made
            configs[digest(point["config"]["data"])] = point["config"]
    return needed.union(*(_data_of(config, paths) for config in configs.values()))


def _data_of(config: dict[str, Any], paths: Outputs) -> set[str]:
    """The data that a planned config finds by now; all data if this version cannot read it."""
    try:
        packages = config.get("env", {}).get("packages", ())
        found = find(build(OmegaConf.create({**config["data"]}), "data", packages), paths)
    except PdxError:
        return {folder.name for folder in paths.data.glob("*")}
    return {found.digest} if found else set()


def _shared(facts: dict[str, Any]) -> set[str]:
    """What a run rests on beside itself."""
    return {name for key in ("data_digest", "teacher_id") if (name := facts.get(key))}


def _owner(kind: str, folder: Path) -> str | None:
    """By what name a folder is needed: its own, or for a store its teacher's."""
    manifest = folder / "manifest.json"
    if kind != "stores":
        return folder.name
    return read_json(manifest)["teacher_id"] if manifest.exists() else None


def _refuse_while_in_use(paths: Outputs) -> None:
    for lock in paths.root.rglob("*.lock"):
        if not lock.is_symlink() and not free_lock(lock):  # Optuna's own are symbolic links
            raise ConfigError(
                f"env.outputs={paths.root}: a process is at work here (it holds {lock}); wait for "
                "its end, or stop it; without --delete gc only lists."
            )
