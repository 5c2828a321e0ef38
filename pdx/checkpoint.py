"""Exactly what resuming needs, saved whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch

from pdx.errors import StoreError
from pdx.files import write_bytes

FILE = "checkpoint.pt"


def save(run_dir: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(run_dir / FILE, buffer.getvalue())


def load(run_dir: Path, device: torch.device) -> dict[str, Any] | None:
    """The run's checkpoint, or None.

    Raises:
        StoreError: a file that is no checkpoint.
    """
    path = run_dir / FILE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as err:  # torch raises many kinds for a damaged file
        raise StoreError(
            f"{path}: cannot be read ({type(err).__name__}); delete it to train from the start."
        ) from err


def drop(run_dir: Path) -> None:
    """Forget the checkpoint of a run that is over."""
    (run_dir / FILE).unlink(missing_ok=True)
