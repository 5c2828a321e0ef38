"""Where things are: the package's own configs, and what runs leave behind."""

import os
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    """A folder of the checkout, or its copy inside an installed package."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def conf_dir() -> Path:
    """The axes: one folder per axis, one file per value."""
    return _shipped("conf")


def sweeps_dir() -> Path:
    """The questions that ship with pdx."""
    return _shipped("sweeps")


def default_outputs() -> str:
    """What env.outputs is where nobody names it."""
    return os.environ.get("PDX_OUTPUTS", "outputs")


@dataclass(frozen=True)
class Outputs:
    """The output directory; everything in it is addressed by the digest of what made it."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def teachers(self) -> Path:
        return self.root / "teachers"

    @property
    def stores(self) -> Path:
        return self.root / "stores"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def result(self, run_id: str) -> Path:
        """The file that a run writes last: it is finished if and only if this exists."""
        return self.runs / run_id / "result.json"

    def model(self, run_id: str) -> Path:
        """Where the weights of a model that was trained here are, once it is whole."""
        return self.runs / run_id / "model"

    def run_lock(self, run_id: str) -> Path:
        """The file that the process of a run holds locked for as long as it lives."""
        return self.runs / run_id / ".lock"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's default here: one SQLite file beside the runs."""
        return f"sqlite:///{self.root.resolve() / 'mlflow.db'}"
