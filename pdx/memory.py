"""Whether this machine can hold what a run trains: a floor, known before anything is made."""

import os
from pathlib import Path
from typing import NamedTuple

from pdx.config import Run
from pdx.data.tokens import find
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.facts import shape_of
from pdx.teacher import TrainedHere

# Weights, gradients and AdamW's two moments, float32 each; activations come on top.
BYTES_PER_PARAMETER = 16
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's or a scheduler's, less than all


class Room(NamedTuple):
    """What a process can have, in bytes, and where."""

    num_bytes: int
    where: str


def room(env: Env) -> Room:
    """The memory of the device that runs go to here: its first GPU's, or the machine's."""
    import torch

    if env.device != "cpu" and torch.cuda.is_available():
        return Room(torch.cuda.get_device_properties(0).total_memory, "a GPU of this machine")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    return Room(min(physical, physical if limit == "max" else int(limit)), "this machine")


def bytes_to_train(num_params: int, env: Env) -> int:
    """The least that one process takes to train a model, whatever its batches."""
    shards = env.gpus_per_run if env.sharding == "fsdp" else 1
    return num_params * BYTES_PER_PARAMETER // shards


def check_memory(run: Run, env: Env, here: Room | None = None) -> None:
    """Refuse a student, or a teacher that is still to be trained here, that cannot be held.

    Raises:
        ConfigError: with what it takes and what there is.
    """
    token_set = find(run.data, env.paths)
    vocab_size = token_set.vocab_size if token_set else run.data.vocab_size
    if vocab_size is None:  # known once the tokenizer is read
        return
    trained = [("student", run.student)]
    for teacher in (run.teacher, run.evaluation_teacher):
        if isinstance(teacher, TrainedHere):
            made = env.paths.model(run.teacher_id(teacher)).is_dir()
            trained += [] if made else [("teacher", teacher.architecture(run))]
    here = here or room(env)
    for key, component in trained:
        shape = shape_of(component, vocab_size)
        if shape is None:
            continue
        needed = bytes_to_train(shape.num_params_total, env)
        if needed > here.num_bytes:
            raise ConfigError(
                f"{key}: its {shape.num_params_total / 1e6:,.0f}M parameters take at least "
                f"{needed / 2**30:.1f} GiB to train (weights, gradients and AdamW's moments in "
                f"float32; activations come on top) and {here.where} has "
                f"{here.num_bytes / 2**30:.1f} GiB; use a smaller one (a sweep's scale=cpu or "
                "gpu), a larger machine, or env.sharding=fsdp over several GPUs "
                "(env.gpus_per_run)."
            )
