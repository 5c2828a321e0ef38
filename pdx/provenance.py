"""What made a run: code, versions, machine."""

import platform
import socket
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("pdx", "torch", "transformers", "datasets", "hydra-core", "optuna", "mlflow", "numpy")


def _git(*arguments: str) -> str | None:
    """Output of git in pdx's own checkout; None where it is no checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def git_diff() -> str | None:
    """Uncommitted changes of pdx's own checkout."""
    return _git("diff", "HEAD")


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """Commit, versions and host; the same for every run of a process."""
    commit = _git("rev-parse", "HEAD")
    return {
        "git_commit": commit.strip() if commit else None,
        "git_dirty": bool(git_diff()) if commit else None,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        **{package: _version(package) for package in PACKAGES},
    }
