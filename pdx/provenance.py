"""What made a run: code, versions, machine."""

import os
import platform
import socket
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdx.known import once

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


def _cpu() -> str:
    """What it is called, and how many of its cores are ours."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {(names or [platform.machine()])[0]}"


def checkout() -> dict[str, str | None]:
    """``commit`` and uncommitted ``diff`` of pdx's own checkout, asked of git once a sweep."""
    read = {"commit": ("rev-parse", "HEAD"), "diff": ("diff", "HEAD")}
    return once("checkout", lambda: {name: _git(*words) for name, words in read.items()})


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """Commit, versions and machine; the same for every run of a process."""
    commit, diff = checkout()["commit"], checkout()["diff"]
    return {
        "git_commit": commit.strip() if commit else None,
        "git_dirty": bool(diff) if commit else None,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "cpu": _cpu(),
        **{package: _version(package) for package in PACKAGES},
    }
