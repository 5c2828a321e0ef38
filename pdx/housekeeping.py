"""Export, axes, and what the output directory holds."""

import shutil
from pathlib import Path

import yaml

from pdx.errors import ConfigError
from pdx.files import free_lock, publish, read_json
from pdx.paths import Outputs, conf_dir

HYDRAS_OWN = ("hydra",)


def find_run(paths: Outputs, run_id: str) -> Path:
    """A finished run's folder, by its id or the id's first letters."""
    found = sorted(p.parent for p in paths.runs.glob(f"{run_id}*/result.json"))
    if len(found) != 1:
        known = ", ".join(sorted(p.parent.name for p in paths.runs.glob("*/result.json"))[:8])
        raise ConfigError(
            f"RUN={run_id}: {'no' if not found else len(found)} finished runs in {paths.runs} "
            f"begin so; known are {known or 'none'}."
        )
    return found[0]


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


def axes() -> str:
    """Every axis and its values, read from the files."""
    lines = []
    for folder in sorted(p for p in conf_dir().iterdir() if p.is_dir()):
        if folder.name in HYDRAS_OWN or folder.name.startswith("_"):
            continue
        lines.append(f"{folder.name}/")
        for file in sorted(folder.glob("*.yaml")):
            first = file.read_text().splitlines()[0]
            lines.append(f"  {file.stem:12} {first.lstrip('# ')}")
            fields = yaml.safe_load(file.read_text())
            settings = ", ".join(f"{k}={v}" for k, v in fields.items() if k != "_target_")
            if settings:
                lines.append(f"  {'':12}   {settings}")
    return "\n".join(lines)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def collect(paths: Outputs, delete: bool) -> str:
    """What everything takes, and what no sweep needs; with ``delete`` the latter is removed.

    A sweep needs the runs of its plan, and their data, teachers and stores. Runs, teachers and
    stores that no plan names were made by single runs or by sweeps that are gone.

    Raises:
        ConfigError: asked to delete while something runs in this output directory.
    """
    if delete:
        _refuse_while_in_use(paths)
    needed: set[str] = set()
    for file in paths.sweeps.glob("*/plan.json"):
        for point in read_json(file)["points"]:
            needed.add(point["run_id"])
            needed.update(v for v in (point["facts"]["teacher_id"],) if v)
    for file in paths.runs.glob("*/result.json"):
        if file.parent.name in needed:
            needed.add(read_json(file)["facts"]["data_digest"])
    lines, freed = [], 0
    for kind in ("data", "runs", "teachers", "stores"):
        for folder in sorted(getattr(paths, kind).glob("*")):
            if not folder.is_dir():
                continue
            size = _size(folder)
            use = "half-made" if folder.name.startswith(".tmp-") else _use(kind, folder, needed)
            lines.append(f"{size / 2**20:10.1f} MiB  {kind}/{folder.name}  {use}")
            if use != "needed":
                freed += size
                if delete:
                    shutil.rmtree(folder)
    checkpoints = sum(_size(p) for p in paths.runs.glob("*/checkpoint.pt"))
    lines.append(f"{checkpoints / 2**20:10.1f} MiB  checkpoints of unfinished runs (in runs/)")
    verb = "freed" if delete else "would be freed by `pdx gc --delete`"
    return "\n".join([*lines, f"{freed / 2**20:10.1f} MiB  {verb}"])


def _refuse_while_in_use(paths: Outputs) -> None:
    for lock in paths.root.rglob("*.lock"):
        if not lock.is_symlink() and not free_lock(lock):  # Optuna's own are symbolic links
            raise ConfigError(
                f"env.outputs={paths.root}: a process is at work here (it holds {lock}); wait for "
                "its end, or stop it; without --delete gc only lists."
            )


def _use(kind: str, folder: Path, needed: set[str]) -> str:
    if kind == "stores":
        manifest = folder / "manifest.json"
        owner = read_json(manifest)["teacher_id"] if manifest.exists() else None
        return "needed" if owner in needed else "no sweep needs it"
    return "needed" if folder.name in needed else "no sweep needs it"
