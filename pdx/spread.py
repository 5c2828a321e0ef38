"""One student over several ranks: whole on each, or a shard on each.

Every rank reads its own windows of a step's batch and divides by the valid tokens of the whole
batch, so gradients are added over ranks, never averaged (docs/decisions/0008).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pdx.models import Head, head_of, whole
from pdx.ranks import Ranks


class Replica:
    """A whole student on every rank: gradients are added after the step's last micro-batch."""

    def __init__(self, student: Any, ranks: Ranks) -> None:
        self.student, self.ranks = student.to(ranks.device), ranks
        self._head = head_of(student)

    def head(self) -> Head:
        """The head as this step's chunks use it."""
        return self._head

    def add_gradients(self) -> None:
        """Sum ``.grad`` over the ranks, once a step."""
        self.ranks.add(*(p.grad for p in self.student.parameters() if p.grad is not None))

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole weights and optimizer state, in one form for any number of ranks."""
        return {"student": self.student.state_dict(), "optimizer": optimizer.state_dict()}

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave, on however many ranks that was."""
        self.student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor]:
        """The whole state dict, on rank 0."""
        return self.student.state_dict()


class Sharded(Replica):
    """A shard of every parameter on each rank (FSDP2): for students too large for one GPU.

    The body's layers gather and scatter themselves. The head is used outside any module's forward,
    chunk by chunk (``pdx.reduce``): it is gathered once a step as a leaf of its own, whose gradient
    is added and scattered once a step.
    """

    def __init__(self, student: Any, ranks: Ranks) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        self.student, self.ranks = student, ranks
        self._mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
        tied = student.get_output_embeddings().weight is student.get_input_embeddings().weight
        body = student.base_model
        layers = [m for m in body.modules() if type(m).__name__ in student._no_split_modules]
        for module in [*layers, body]:
            self._shard(module)
        output = student.get_output_embeddings()
        if tied:
            output.weight = student.get_input_embeddings().weight
        for name, parameter in list(output.named_parameters()):
            if not hasattr(parameter, "full_tensor"):
                whole_on_device = parameter.detach().to(ranks.device)
                sharded = distribute_tensor(
                    whole_on_device, self._mesh, [Shard(0)], src_data_rank=None
                )
                setattr(output, name, nn.Parameter(sharded))
        self._head_parameters = [output.weight]
        if getattr(output, "bias", None) is not None:
            self._head_parameters.append(output.bias)
        self._leaves: list[Tensor] = []

    def _shard(self, module: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        # It moves parameters to the device as it cuts them: no device ever holds the whole student.
        # Resharded after forward, the root too: whatever reads parameters next finds shards.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)  # the loss is divided by the global count already
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def head(self) -> Head:
        """The head gathered for this step, as leaves whose gradients ``add_gradients`` scatters."""
        with torch.no_grad():
            head = head_of(self.student)
        self._leaves = [
            t.detach().requires_grad_() for t in (head.weight_VD, head.bias_V) if t is not None
        ]
        bias_V = None if head.bias_V is None else self._leaves[1]
        return replace(head, weight_VD=self._leaves[0], bias_V=bias_V)

    def add_gradients(self) -> None:
        """Add and scatter the head's gradient; the body's came so out of each backward pass."""
        from torch.distributed.tensor import DTensor, Partial

        for parameter, leaf in zip(self._head_parameters, self._leaves, strict=True):
            assert leaf.grad is not None
            grad = DTensor.from_local(leaf.grad, self._mesh, [Partial()])
            grad = grad.redistribute(placements=parameter.placements)
            # Tied to the embedding, it has that one's gradient already.
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        self._leaves = []

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As of a replica: gathered to rank 0, tensor by tensor."""
        saved = optimizer.state_dict()
        states = {
            index: dict(zip(state, self._gathered(state.values()), strict=True))
            for index, state in saved["state"].items()
        }
        return {"student": self.weights(), "optimizer": saved | {"state": states}}

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Each rank takes its shard of whole weights and optimizer state."""
        ours = self.student.state_dict()
        theirs = {k: self._shard_of(v, ours[k]) for k, v in state["student"].items()}
        self.student.load_state_dict(theirs)
        saved = state["optimizer"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states = {
            index: {k: self._shard_of(v, parameters[index]) for k, v in entry.items()}
            for index, entry in saved["state"].items()
        }
        optimizer.load_state_dict(saved | {"state": states})

    def weights(self) -> dict[str, Tensor]:
        """The whole state dict on rank 0; on others the names of it."""
        sharded = self.student.state_dict()
        return dict(zip(sharded, self._gathered(sharded.values()), strict=True))

    def _gathered(self, tensors: Iterable[Any]) -> list[Tensor]:
        """Whole tensors in host memory on rank 0, nothing elsewhere; what is shared stays so."""
        seen: dict[int, Tensor] = {}
        gathered = []
        for tensor in tensors:
            key = tensor.to_local().data_ptr() if hasattr(tensor, "to_local") else id(tensor)
            if key not in seen or not tensor.numel():
                full = whole(tensor)
                seen[key] = full.cpu() if self.ranks.leads else full.new_empty(0)
            gathered.append(seen[key])
        return gathered

    def _shard_of(self, full: Any, like: Any) -> Any:
        """This rank's part of ``full``, cut as ``like`` is; numbers of no such shape are kept."""
        from torch.distributed.tensor import distribute_tensor

        if not hasattr(like, "placements") or full.shape != like.shape:
            return full
        full = full.to(self.ranks.device)
        # Every rank has read the same file: none waits for another's copy.
        return distribute_tensor(full, self._mesh, like.placements, src_data_rank=None)


def spread(student: Any, ranks: Ranks, sharding: str) -> Replica:
    """The student over the ranks; one that is alone holds it whole."""
    alone = ranks.world_size == 1
    return Replica(student, ranks) if alone or sharding == "replicate" else Sharded(student, ranks)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], clip_norm: float) -> Tensor:
    """Scale gradients down to a norm over all shards; return the norm that they had."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = whole(get_total_norm([g for p in parameters if (g := p.grad) is not None]))
    clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm
