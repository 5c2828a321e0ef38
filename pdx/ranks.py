"""The processes that train one student together: who this one is, what they add and agree on."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """One process's place among those of a run; every method is called by all of them alike.

    Flags and counts go from host to host (gloo) and tensors from device to device (NCCL on GPUs):
    what is asked at every step makes no GPU wait.

    Attributes:
        rank: 0 writes, reports and decides.
        device: what this rank computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def alone(cls, device: torch.device) -> "Ranks":
        """The only process of a run."""
        return cls(0, 1, device)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, reports and decides."""
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Rank 0's flag, on every rank: clocks and queues may be read by one only."""
        if self.world_size == 1:
            return flag
        word = torch.tensor(int(flag))
        dist.broadcast(word, src=0)
        return bool(word)

    def total(self, count: int) -> int:
        """The sum of a count over the ranks."""
        return self._reduced(count, dist.ReduceOp.SUM)

    def most(self, count: int) -> int:
        """The largest of a count over the ranks."""
        return self._reduced(count, dist.ReduceOp.MAX)

    def _reduced(self, count: int, op: dist.ReduceOp.RedOpType) -> int:
        if self.world_size == 1:
            return count
        word = torch.tensor(count)
        dist.all_reduce(word, op)
        return int(word)

    def add(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.world_size > 1:
            for work in [dist.all_reduce(t, async_op=True) for t in tensors]:
                assert work is not None
                work.wait()
