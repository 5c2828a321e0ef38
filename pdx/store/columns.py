"""What of a teacher's pass a store keeps, on its way from the device to the host."""

from collections.abc import Callable, Collection
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pdx.data import Batch, Windows
from pdx.errors import ConfigError
from pdx.frozen import FrozenTeacher
from pdx.reduce import cached_size, chunk_size
from pdx.store.format import Part
from pdx.store.reader import Store
from pdx.store.states import quantise


@torch.no_grad()
def reduce(
    store: Store,
    windows: Windows,
    teacher: FrozenTeacher,
    index_B: np.ndarray,
    parts: Collection[Part] = (None,),
    compiled: bool = False,
) -> tuple[dict[str, Tensor], "torch.cuda.Event | None"]:
    """What parts of a store keep of the windows ``index_B``, on its way to the host.

    Shape:
        [B * L, ...] each.
    """
    batch = windows.batch(index_B).to(teacher.device)
    layers = [part for part in parts if part is not None]
    hidden_ND, states = teacher.states(batch, layers)
    whole = _rows(store, teacher, batch, hidden_ND, index_B, compiled) if None in parts else {}
    for layer, states_BLD in zip(layers, states, strict=True):
        codes_BLD, steps_BLG = quantise(states_BLD)
        whole |= {f"codes@{layer}": codes_BLD.flatten(0, 1)}
        whole |= {f"steps@{layer}": steps_BLG.flatten(0, 1)}
    if teacher.device.type != "cuda":
        return whole, None
    pinned = {
        name: torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(
            column, non_blocking=True
        )
        for name, column in whole.items()
    }
    copied = torch.cuda.Event()
    copied.record()
    return pinned, copied


def _rows(
    store: Store,
    teacher: FrozenTeacher,
    batch: Batch,
    hidden_ND: Tensor,
    index_B: np.ndarray,
    compiled: bool,
) -> dict[str, Tensor]:
    """What a store keeps of the logits, formed chunk by chunk."""
    targets_N = batch.targets_BL.reshape(-1)
    length = store.layout.seq_len
    offsets = torch.from_numpy(index_B)[:, None] * length + torch.arange(length)
    offset_N = offsets.reshape(-1).to(teacher.device)
    size = chunk_size(teacher.head.vocab_size, teacher.device)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(hidden_ND), size):
        stop = start + size
        logits_CV = teacher.logits(hidden_ND[start:stop]).float()
        chunk = (logits_CV, targets_N[start:stop], offset_N[start:stop])
        columns = columns_of(store, *chunk, compiled)
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
    return {name: torch.cat(columns) for name, columns in parts.items()}


def columns_of(
    store: Store, logits_CV: Tensor, targets_C: Tensor, offset_C: Tensor, compiled: bool = False
) -> dict[str, Tensor]:
    """What a store keeps of a chunk of logits, which stay as they are; float32, [C, ...] each."""
    parts: dict[str, list[Tensor]] = {}
    size = cached_size(logits_CV.shape[-1], logits_CV.device)
    for start in range(0, len(logits_CV), size):
        rows = slice(start, start + size)
        known = (logits_CV[rows], targets_C[rows], store.layout.temperatures)
        columns, mass_CV = (_in_one_pass(*known), None) if compiled else float_columns(*known)
        lse_C, offsets = columns["lse@1"], offset_C[rows]
        columns |= store.codec.reduce(logits_CV[rows], lse_C, offsets, mass_CV)
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
    return {name: torch.cat(columns) for name, columns in parts.items()}


def float_columns(
    logits_CV: Tensor, targets_C: Tensor, temperatures: tuple[float, ...]
) -> tuple[dict[str, Tensor], Tensor]:
    """The float32 columns that every kind of store keeps, in as few passes as they need.

    Returns:
        the columns, and the masses, [C, V], that ``pdx.draws.masses`` would make.
    """
    top_C1 = logits_CV.amax(-1, keepdim=True)
    under_CV = logits_CV - top_C1
    mass_CV = under_CV.exp()
    total = {1.0: mass_CV.sum(-1)}
    for heat in temperatures:
        if heat == 0.5:
            total[heat] = torch.linalg.vecdot(mass_CV, mass_CV)
        elif heat == 2.0:
            total[heat] = mass_CV.sqrt().sum(-1)
        elif heat != 1.0:
            total[heat] = (under_CV / heat).exp().sum(-1)
    columns = {f"lse@{t:g}": top_C1[:, 0] / t + total[t].log() for t in temperatures}
    target_C = logits_CV.gather(-1, targets_C[:, None])[:, 0]
    columns["target_logprob"] = target_C - columns["lse@1"]
    mean_C = torch.linalg.vecdot(mass_CV, under_CV) / total[1.0]
    columns["entropy"] = total[1.0].log() - mean_C
    around_CV = under_CV.sub_(under_CV.mean(-1, keepdim=True))  # four times as fast as std()
    columns["logit_std"] = torch.linalg.vector_norm(around_CV, dim=-1) / around_CV.shape[-1] ** 0.5
    return columns, mass_CV


@cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    # Masses are left in the kernel: to write and read them would be most of its time.
    return torch.compile(lambda *args: float_columns(*args)[0])


def _in_one_pass(
    logits_CV: Tensor, targets_C: Tensor, temperatures: tuple[float, ...]
) -> dict[str, Tensor]:
    """``float_columns`` from one kernel, made once for any number of rows.

    Raises:
        ConfigError: no compiler, or one that cannot.
    """
    from torch._dynamo import maybe_mark_dynamic
    from torch._dynamo.exc import TorchDynamoException

    maybe_mark_dynamic(logits_CV, 0)
    maybe_mark_dynamic(targets_C, 0)
    try:
        return _compiled()(logits_CV, targets_C, temperatures)
    except TorchDynamoException as err:
        raise ConfigError(
            f"env.compile_capture: torch.compile failed ({str(err).strip().splitlines()[0]}); "
            "install a C compiler, or set env.compile_capture=false."
        ) from err
