"""The device that a process computes on, how many threads it may use, how much memory it took."""

import os
import resource

import torch

from pdx.env import Env
from pdx.errors import ConfigError


def device_of(env: Env) -> torch.device:
    """The device that this process computes on.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    has_cuda = torch.cuda.is_available()
    if env.device == "cuda" and not has_cuda:
        built = f"torch {torch.__version__}, built " + (
            f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        )
        raise ConfigError(
            f"env.device=cuda: torch sees no GPU here ({built}); use env.device=cpu or auto, or a "
            "machine with a driver and a torch for it."
        )
    return torch.device(("cuda" if has_cuda else "cpu") if env.device == "auto" else env.device)


def use_threads(num_threads: int | None) -> None:
    """One thread beside other runs; all cores, or OMP_NUM_THREADS, for a run that is alone."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    alone = int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads or alone)


def reset_peak_memory(device: torch.device) -> None:
    """Measure from here on; of a process on a CPU it is always since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
