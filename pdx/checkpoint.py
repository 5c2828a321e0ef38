"""Exactly what resuming needs, saved whole or not at all."""

import io
import pickle
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pdx.errors import StoreError
from pdx.files import write_bytes
from pdx.ranks import Ranks

FILE = "checkpoint.pt"
FORMAT = 2  # to be raised when what a checkpoint holds changes
# What torch was seen to raise for empty, cut and overwritten files.
DAMAGED = (
    AssertionError,
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)


class Paused(Exception):
    """The process was asked to end: its run is saved, and goes on from there another time."""


class Keeper:
    """When a run saves a checkpoint, and whether it goes on after that.

    Args:
        seconds: least time between two checkpoints.
        must_end: asked at every step; once it holds the run is saved and ``Paused`` raised.
        ranks: rank 0 writes, and its clock and its word on ``must_end`` hold for all.
    """

    def __init__(
        self,
        run_dir: Path,
        seconds: float,
        must_end: Callable[[], bool] = lambda: False,
        ranks: Ranks | None = None,
    ) -> None:
        self.run_dir, self.seconds, self.must_end = run_dir, seconds, must_end
        self.ranks = ranks or Ranks.alone(torch.device("cpu"))
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint should be saved now."""
        late = time.monotonic() - self._saved > self.seconds
        return self.ranks.agree(late or self.must_end())

    def save(self, state: dict[str, Any]) -> None:
        """Save a checkpoint.

        Raises:
            Paused: this process must end; nothing was lost.
        """
        if self.ranks.leads:
            save(self.run_dir, state)
        self._saved = time.monotonic()
        if self.ranks.agree(self.must_end()):
            raise Paused(f"paused at step {state['step']}; the checkpoint is kept.")


def save(run_dir: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint."""
    buffer = io.BytesIO()
    torch.save(state | {"format": FORMAT}, buffer)
    write_bytes(run_dir / FILE, buffer.getvalue())


def load(run_dir: Path, device: torch.device) -> dict[str, Any] | None:
    """The run's checkpoint, or None; one of another version of pdx counts as none.

    Raises:
        StoreError: a file that is no checkpoint.
    """
    path = run_dir / FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state.pop("format", None) == FORMAT:
            return state
    except DAMAGED as err:
        raise StoreError(
            f"{path}: cannot be read ({type(err).__name__}); delete it to train from the start."
        ) from err
    print(f"{path}: of another version of pdx; the run starts anew", file=sys.stderr)
    return None


def drop(run_dir: Path) -> None:
    """Forget the checkpoint of a run that is over."""
    (run_dir / FILE).unlink(missing_ok=True)
