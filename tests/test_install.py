"""Installed, pdx works away from its checkout: wheel, editable, and on the next Hydra."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import TINY

pytestmark = pytest.mark.install

ROOT = Path(__file__).parent.parent
IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "outputs", "build", "dist", "*.egg-info", "node_modules"
)
OURS = {"pdx", "hydra_plugins"}


def command(*arguments: object, cwd: Path, status: int = 0) -> str:
    """Run a program as a user would, with nothing of this environment's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PDX", "MLFLOW"))}
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == status, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout


class Venv:
    """A fresh environment that sees the libraries of this one, and not its pdx."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        (self.packages,) = folder.glob("lib/python3*/site-packages")
        # Folders named in a .pth file are searched, and their own .pth files, of which an editable
        # pdx is one, are not read.
        (self.packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    def pip(self, *arguments: object) -> str:
        """This environment's pip, at work on that one."""
        python = self.folder / "bin" / "python"
        given = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
        return command(*given, *arguments, cwd=self.folder)

    def python(self, code: str) -> str:
        """Run Python code there, away from the checkout."""
        return command(self.folder / "bin" / "python", "-c", code, cwd=self.folder).strip()

    def pdx(self, *arguments: str) -> str:
        """Run a command there, away from the checkout."""
        return command(self.folder / "bin" / "pdx", *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("source") / "pdx"
    shutil.copytree(ROOT, folder, ignore=IGNORED)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    command(sys.executable, *build, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Venv:
    """Pdx in an environment of its own, both ways."""
    venv = Venv(tmp_path_factory.mktemp(request.param) / "venv")
    offline = ["install", "--no-deps", "--no-index", "--no-build-isolation"]
    if request.param == "wheel":
        venv.pip(*offline, request.getfixturevalue("wheel"))
    else:
        venv.pip(*offline, "-e", source)
    return venv


def test_the_wheel_holds_everything_under_our_own_names(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (record,) = (n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
        recorded = archive.read(record).decode()
    assert {name.split("/")[0] for name in names} == OURS, "no generic name in site-packages"
    assert {line.split("/")[0] for line in recorded.split() if ".dist-info/" not in line} == OURS
    assert "hydra_plugins/__init__.py" not in names, "a namespace that others share"
    shipped = set(names)
    moved = {"analysis": "pdx/analysis", "conf": "pdx/conf", "sweeps": "pdx/sweeps"}
    for folder in ("pdx", "hydra_plugins", *moved):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".j2"):
                inside = file.relative_to(ROOT / folder).as_posix()
                assert f"{moved.get(folder, folder)}/{inside}" in shipped


def test_it_works_away_from_the_checkout(installed: Venv):
    where = Path(installed.python("import pdx; print(pdx.__file__)"))
    assert ROOT not in where.parents, "this is the checkout's pdx"
    for name in ("analysis", "conf", "sweeps", "tests"):
        found = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        assert installed.python(found) == "None", f"{name} is a name that anyone may want"

    listed = installed.pdx("axes")
    for file in (ROOT / "conf").glob("*/*.yaml"):
        assert f"\n  {file.stem} " in listed
    (name,) = [p.stem for p in (ROOT / "sweeps").glob("demo.yaml")]
    assert " runs, 0 done (*)" in installed.pdx("plan", "-m", f"sweep={name}")
    assert "val/bits_per_byte" in installed.pdx("train", *TINY, "loss=none", "student=s30k")


def test_a_sweep_finds_its_plugins(installed: Venv):
    said = installed.pdx("train", "-m", *TINY, "student=s10k,s30k", "env.num_workers=1")
    assert "compare in MLflow" in said
    (plan,) = (installed.folder / "outputs" / "sweeps").glob("*/plan.json")
    run_ids = [p["run_id"] for p in json.loads(plan.read_text())["points"]]
    assert len(run_ids) == 2
    for run_id in run_ids:
        result = installed.folder / "outputs" / "runs" / run_id / "result.json"
        assert json.loads(result.read_text())["status"] == "complete"
    assert (plan.parent / "report" / "report.html").exists(), "pdx.analysis and its template"


def test_hydras_next_version_runs_a_sweep(wheel: Path, tmp_path: Path):
    venv = Venv(tmp_path / "venv")
    try:
        venv.pip("install", "--ignore-installed", "hydra-core==1.4.0rc3")
    except AssertionError as err:
        if "No matching distribution" not in str(err) and "Could not find" not in str(err):
            raise
        pytest.skip("no index that serves hydra-core 1.4.0rc3")
    venv.pip("install", "--no-deps", "--no-index", wheel)
    assert venv.python("import hydra; print(hydra.__version__)") == "1.4.0rc3"
    assert "pdx.losses.mse" in venv.pdx("train", "--cfg", "job", "loss=mse")
    said = venv.pdx("train", "-m", *TINY, "student=s10k,s30k", "env.num_workers=1")
    assert "compare in MLflow" in said
    assert len(list((venv.folder / "outputs").glob("runs/*/model"))) == 3, "two and their teacher"


@pytest.mark.parametrize("pinned", [True, False], ids=["constraints", "metadata alone"])
def test_pip_resolves_optuna_5_and_no_pre_release_of_hydra(
    source: Path, tmp_path: Path, pinned: bool
):
    """With hydra-optuna-sweeper, pip would choose optuna 2.10; with any plugin, Hydra's rc."""
    venv = Venv(tmp_path / "venv")
    constraints = ["-c", source / "constraints.txt"] if pinned else []
    asked = ["install", "--dry-run", "--ignore-installed", "--report", tmp_path / "report.json"]
    venv.pip(*asked, *constraints, f"{source}[joblib,slurm,ray,postgres,dashboard]")
    report = json.loads((tmp_path / "report.json").read_text())
    chosen = {i["metadata"]["name"]: i["metadata"]["version"] for i in report["install"]}
    assert chosen["optuna"].startswith("5.")
    assert chosen["hydra-core"].startswith("1.3.")
    assert "hydra-optuna-sweeper" not in chosen
    if pinned:
        assert chosen["torch"].split("+")[0] == "2.13.0"
        lines = (source / "constraints.txt").read_text().split()
        named = {line.split("==")[0].lower() for line in lines if "==" in line}
        missing = {n.lower().replace("_", "-") for n in chosen} - {
            n.replace("_", "-") for n in named
        }
        assert missing <= {"pdx", "setuptools"}, "a package that no line of constraints.txt holds"
