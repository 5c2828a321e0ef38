"""Hidden states in eight bits a coordinate: steps of each group of coordinates, and how many."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdx.store.format import block_of, planes_of

GROUP = 64  # coordinates of one step: a few are far larger than the rest, and cost these alone
LEVELS = 127  # of an int8, to either side
LEAST = 1e-30  # step of a group of nothing but zeros


class States(NamedTuple):
    """Hidden states of one layer at whole windows, as they are stored.

    Shape:
        codes_BLD int8 and steps_BLG float32, a step for each ``GROUP`` coordinates.
    """

    codes_BLD: Tensor
    steps_BLG: Tensor

    def to(self, device: torch.device) -> "States":
        """The same on another device."""
        return States(self.codes_BLD.to(device), self.steps_BLG.to(device))

    def values(self) -> Tensor:
        """The states, float32 [B, L, D]: each within half a step of the truth."""
        width = self.codes_BLD.shape[-1]
        return self.codes_BLD * self.steps_BLG.repeat_interleave(GROUP, -1)[..., :width]


def quantise(states_BLD: Tensor) -> States:
    """To the nearest step: off by at most 1/254 of the largest coordinate of the group."""
    states_BLD = states_BLD.float()
    width = states_BLD.shape[-1]
    surplus = -width % GROUP
    grouped = torch.nn.functional.pad(states_BLD, (0, surplus)).unflatten(-1, (-1, GROUP))
    steps_BLG = (grouped.abs().amax(-1) / LEVELS).clamp(min=LEAST)
    codes = (grouped / steps_BLG[..., None]).round_().to(torch.int8)
    return States(codes.flatten(-2)[..., :width], steps_BLG)


def encode(codes_LD: np.ndarray, steps_LG: np.ndarray) -> bytes:
    """The block of one window."""
    return block_of([steps_LG.astype("<f4").tobytes(), codes_LD.astype(np.int8).tobytes()])


def decode(blocks: list[memoryview], length: int) -> States:
    """Several windows of ``length`` positions."""
    steps, codes = zip(*(planes_of(block, 2) for block in blocks), strict=True)
    return States(
        torch.from_numpy(np.stack([np.frombuffer(p, np.int8).reshape(length, -1) for p in codes])),
        torch.from_numpy(np.stack([np.frombuffer(p, "<f4").reshape(length, -1) for p in steps])),
    )


def bytes_per_position(width: int) -> int:
    """Of one layer."""
    return width + 4 * -(-width // GROUP)
