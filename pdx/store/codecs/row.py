"""What every codec gives and takes."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from pdx.store import kernels

Columns = dict[str, np.ndarray]  # of one window, on the host
Planes = list[bytes]
Window = list[memoryview]  # its planes


class Entries(NamedTuple):
    """Decoded rows, one after the other.

    Attributes:
        ids_E: token ids.
        weights_E: float32: logits, or log-weights of draws.
        num_N: entries of each row, or None where all rows are as long.
    """

    ids_E: np.ndarray
    weights_E: np.ndarray
    num_N: np.ndarray | None


class Codec(Protocol):
    """A kind of rows.

    Attributes:
        num_planes: of a window, as ``encode`` gives them.
        num_draws: of a position, 0 where nothing is drawn.
    """

    num_planes: ClassVar[int]

    @property
    def num_draws(self) -> int: ...

    def reduce(
        self,
        logits_CV: Tensor,
        lse_C: Tensor,
        offset_C: Tensor,
        mass_CV: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What of a chunk of logits leaves the device; offsets count the split's positions.

        Args:
            mass_CV: ``pdx.draws.masses`` of the logits, where somebody has made them already.
        """
        ...

    def encode(self, columns: Columns) -> Planes:
        """One window's rows, from the columns that ``reduce`` made; may move logsumexp columns."""
        ...

    def decode(
        self, windows: list[Window], num_rows: int, offset_B: np.ndarray, num_draws: int
    ) -> Entries:
        """The rows of several windows; of draws, if there are any, the first ``num_draws``.

        Args:
            num_rows: of each window.
            offset_B: of each window's first position.
        """
        ...

    def argmax(self, planes: list[memoryview], num_rows: int) -> np.ndarray:
        """The teacher's first choice, int32 [N]."""
        ...

    def bytes_per_row(self) -> float:
        """About what one row takes, before it is known."""
        ...


def concatenate(parts: list[Entries]) -> Entries:
    """The rows of several windows as one."""
    if len(parts) == 1:
        return parts[0]
    num = [p.num_N for p in parts if p.num_N is not None]
    return Entries(
        np.concatenate([p.ids_E for p in parts]),
        np.concatenate([p.weights_E for p in parts]),
        np.concatenate(num) if num else None,
    )


def dense(entries: Entries, num_rows: int, nothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded to one length: ids int64 and weights float32, [N, K].

    Padding repeats the row's first id at weight ``nothing``: an id that is there can hide no other.
    """
    ids_E, weights_E, num_N = entries
    if num_N is None:
        shape = (num_rows, len(ids_E) // num_rows)
        return ids_E.reshape(shape).astype(np.int64), weights_E.reshape(shape)
    ids_NK = np.empty((num_rows, int(num_N.max())), np.int64)
    weights_NK = np.empty(ids_NK.shape, np.float32)
    kernels.pad(ids_E, weights_E, num_N, np.float32(nothing), ids_NK, weights_NK)
    return ids_NK, weights_NK
