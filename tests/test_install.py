"""pdx installed as users install it, used away from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import TINY

pytestmark = pytest.mark.install
ROOT = Path(__file__).resolve().parent.parent
GENERIC = {"analysis", "conf", "sweeps", "tests", "benchmarks", "docs"}


def pip(python: Path, *arguments: str) -> str:
    """Run pip; return what it said."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def environment(root: Path) -> Path:
    """A fresh environment that sees what this one has installed, except pdx; its Python."""
    venv.create(root, with_pip=True)
    python = root / "bin" / "python"
    site = next((root / "lib").glob("python*/site-packages"))
    # A plain path entry adds the libraries; .pth files there, such as pdx's own, are not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def wheel(tmp_path: Path) -> Path:
    """The built wheel."""
    pip(Path(sys.executable), "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT))
    (built,) = (tmp_path / "dist").glob("*.whl")
    return built


def pdx(python: Path, cwd: Path, *arguments: str) -> str:
    """Run the installed command line away from the checkout."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environ["PDX_OUTPUTS"] = str(cwd / "out")
    done = subprocess.run(
        [str(python.parent / "pdx"), *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def works(python: Path, cwd: Path) -> None:
    """Axes, plan, a run, a sweep with plugin, workers and report."""
    assert "forward_kl" in pdx(python, cwd, "axes")
    assert "28 runs" in pdx(python, cwd, "plan", "-m", "sweep=demo")
    assert "val/loss" in pdx(python, cwd, "train", *TINY)
    said = pdx(python, cwd, "train", "-m", "loss=forward_kl,soft_ce", *TINY)
    report = Path(said.split("report: ")[1].splitlines()[0])
    assert (cwd / report).is_file()


def test_a_wheel_works_away_from_the_checkout(tmp_path: Path):
    built = wheel(tmp_path)
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert top & GENERIC == set(), "generic names in site-packages"
    assert {"pdx", "hydra_plugins"} <= top
    for needed in ("pdx/conf/config.yaml", "pdx/sweeps/demo.yaml", "pdx/analysis/report.html.j2"):
        assert needed in names
    python = environment(tmp_path / "venv")
    pip(python, "install", "--no-deps", str(built))
    where = "import pdx, pdx.analysis.report as r; print(pdx.__file__); print(r.__file__)"
    said = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.count(str(tmp_path / "venv")) == 2, said.stdout + said.stderr
    works(python, tmp_path)


def test_an_editable_install_works(tmp_path: Path):
    python = environment(tmp_path / "venv")
    pip(python, "install", "--no-deps", "-e", str(ROOT))
    works(python, tmp_path)


def test_requirements_resolve_to_what_they_should(tmp_path: Path):
    """Optuna 5 and a stable Hydra, never Optuna 2.10 or a pre-release."""
    report = tmp_path / "report.json"
    arguments = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    pip(Path(sys.executable), *arguments, "-c", str(ROOT / "constraints.txt"), str(ROOT))
    found = {
        item["metadata"]["name"].lower(): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    assert found["optuna"].startswith("5.") and found["hydra-core"].startswith("1.3.")
    assert "hydra-optuna-sweeper" not in found


def test_hydras_pre_release_runs_the_same_sweep(tmp_path: Path):
    python = environment(tmp_path / "venv")
    pip(python, "install", "--no-deps", str(wheel(tmp_path)))
    try:
        pip(python, "install", "--ignore-installed", "hydra-core==1.4.0rc3")
    except AssertionError as err:
        pytest.skip(f"hydra-core 1.4.0rc3 cannot be installed here: {str(err)[-200:]}")
    works(python, tmp_path)
