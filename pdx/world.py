"""The processes of a run over several devices: started here, or joined where torchrun did.

The process that executes a run is rank 0. The others serve it: they wait for a run's config, take
part in it, and wait for the next (a teacher is trained before its student is).
"""

# pyright: reportPrivateImportUsage=false
# (torch documents the stores of torch.distributed and does not list them as exported)

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from pdx.checkpoint import Paused
from pdx.checks import check_ranks
from pdx.config import Run, config_of, run_of_resolved
from pdx.device import device_of
from pdx.env import Env
from pdx.errors import ConfigError, PdxError, RankLost
from pdx.forked import belong_to_parent
from pdx.known import know, known
from pdx.ranks import Ranks

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PRELOAD = ["torch.distributed", "transformers.models.llama.modeling_llama", "pdx.execute"]
FOREVER = timedelta(days=3650)  # between two runs rank 0 may capture a store
COLLECTIVE = timedelta(hours=1)  # within one it may write a large checkpoint
GRACE_SECONDS = 10.0  # a connection breaks a moment before its process is seen to be gone


def of_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return all(key in os.environ for key in TORCHRUN) and os.environ["WORLD_SIZE"] != "1"


def num_ranks(run: Run, env: Env) -> int:
    """How many processes train ``run``.

    Raises:
        ConfigError: a batch that they cannot share evenly, or more of them than GPUs.
    """
    count, here = env.gpus_per_run, env.gpus_per_run
    if of_torchrun():
        count, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if env.gpus_per_run not in (1, count):
            raise ConfigError(
                f"env.gpus_per_run={env.gpus_per_run}: torchrun started {count} processes; leave "
                "it out, or give torchrun the same number."
            )
    check_ranks(run, count, env.sharding)
    if here > 1 and device_of(env).type == "cuda" and torch.cuda.device_count() < here:
        raise ConfigError(
            f"env.gpus_per_run={here}: {torch.cuda.device_count()} GPUs are visible to this run; "
            "use fewer, or give it more (CUDA_VISIBLE_DEVICES, env.gpus)."
        )
    return count


@contextmanager
def world(run: Run, env: Env) -> Iterator[Ranks]:
    """The ranks of ``run``, this process the first; the others take part until the block ends.

    Raises:
        RankLost: one of them is gone.
        MemoryError: one of them ran out of memory.
    """
    count = num_ranks(run, env)
    if count == 1:
        yield Ranks.alone(device_of(env))
        return
    joined = _joined()
    team = joined or _Team.start(count)
    num_threads = torch.get_num_threads()
    failed = True
    try:
        team.post(run, env)
        yield _enter(team.store, 0, count, env)
        failed = False
    except RuntimeError as err:  # what a collective raises where a rank is gone
        of_ours = isinstance(err, (PdxError, torch.OutOfMemoryError))
        if not of_ours and (loss := team.loss()) is not None:
            raise loss from err
        raise
    finally:
        torch.set_num_threads(num_threads)
        if joined is None:
            team.end(kill=failed)


def follow() -> None:
    """Serve rank 0 of the world that torchrun made, until it has no more runs."""
    store, rank, count = _rendezvous()
    _serve(store, rank, count)


def dismiss() -> None:
    """Let the processes that torchrun started go home: rank 0 has no more runs."""
    team = _joined()
    if team is not None:
        team.end(kill=False)


class _Team:
    """Rank 0's hold on the others: the store through which they are called, and their processes."""

    def __init__(self, store: dist.Store, processes: list[Any]) -> None:
        self.store, self.processes, self._num_posted = store, processes, 0

    @classmethod
    def start(cls, count: int) -> "_Team":
        """Start ranks 1 to ``count`` - 1 on this machine."""
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)  # without effect where a worker has its own
        num_threads = max(1, torch.get_num_threads() // count)
        torch.set_num_threads(num_threads)
        processes = []
        for rank in range(1, count):
            arguments = (store.port, rank, count, num_threads, dict(os.environ))
            processes.append(context.Process(target=_main, args=arguments))
        team = cls(store, processes)
        try:
            for process in processes:
                process.start()
            team._await()
        except BaseException as err:
            team.end(kill=True)
            if isinstance(err, (EOFError, OSError)):  # the forkserver was killed as it was asked
                raise RankLost(f"a rank of the run could not be started ({err!r}).") from err
            raise
        return team

    def _await(self) -> None:
        """Wait until all have come: a group is not formed with one that never will."""
        for rank in range(1, len(self.processes) + 1):
            while not self.store.check([f"ready/{rank}"]):
                if any(p.exitcode is not None for p in self.processes):
                    raise self.loss() or AssertionError
                time.sleep(0.01)

    def post(self, run: Run, env: Env) -> None:
        """Call everyone to a run."""
        self._post(json.dumps([config_of(run, env), known()]))

    def _post(self, message: str) -> None:
        self.store.set(f"run/{self._num_posted}", message)
        self._num_posted += 1

    def loss(self) -> Exception | None:
        """Why a rank is gone, as an error; None where all of ours live, or none is ours."""
        deadline = time.monotonic() + GRACE_SECONDS
        while self.processes and time.monotonic() < deadline:
            codes = {rank: p.exitcode for rank, p in enumerate(self.processes, 1)}
            gone = {rank: code for rank, code in codes.items() if code is not None}
            told = [rank for rank in gone if self.store.check([f"failed/{rank}"])]
            if told:
                kind, reason = json.loads(self.store.get(f"failed/{told[0]}"))
                error = MemoryError if kind == "oom" else PdxError
                return error(f"rank {told[0]}: {reason}")
            if gone:
                rank = min(gone, key=lambda r: gone[r])  # killed ones first: the others followed
                return RankLost(f"rank {rank} of the run ended with exit code {gone[rank]}.")
            time.sleep(0.02)
        return None

    def end(self, kill: bool) -> None:
        """Send everyone home, and see them off."""
        if not kill:
            self._post("")
        for process in self.processes:
            if kill and process.pid is not None:
                process.kill()
            if process.pid is not None:
                process.join()
        if dist.is_initialized():
            dist.destroy_process_group()


def _main(port: int, rank: int, count: int, num_threads: int, environ: dict[str, str]) -> None:
    """A started rank's process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    belong_to_parent(environ)
    torch.set_num_threads(num_threads)
    store = dist.TCPStore("127.0.0.1", port, timeout=COLLECTIVE)
    store.set(f"ready/{rank}", "")
    _serve(store, rank, count)


def _serve(store: dist.Store, rank: int, count: int) -> None:
    from pdx.execute import take_part

    number = 0
    while True:
        store.wait([f"run/{number}"], FOREVER)
        message = store.get(f"run/{number}")
        if not message:
            break
        config, given = json.loads(message)
        know(given)
        run, env = run_of_resolved(config)
        try:
            with suppress(Paused):
                take_part(run, env, _enter(store, rank, count, env))
        except (PdxError, MemoryError, torch.OutOfMemoryError) as err:
            kind = "error" if isinstance(err, PdxError) else "oom"
            store.set(f"failed/{rank}", json.dumps([kind, f"{type(err).__name__}: {err}"]))
            raise
        number += 1
    if dist.is_initialized():
        dist.destroy_process_group()


def _enter(store: dist.Store, rank: int, count: int, env: Env) -> Ranks:
    """This process's place, in the group that all of them form once."""
    device = device_of(env)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) if of_torchrun() else rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        group = dist.PrefixStore("group", store)
        dist.init_process_group(
            backend, store=group, rank=rank, world_size=count, timeout=COLLECTIVE
        )
    return Ranks(rank, count, device)


@cache
def _rendezvous() -> tuple[dist.Store, int, int]:
    store, rank, count = next(dist.rendezvous("env://"))
    num_threads = len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, num_threads))
    return store, rank, count


@cache
def _joined() -> _Team | None:
    """The team that torchrun started; None where it did not."""
    return _Team(_rendezvous()[0], []) if of_torchrun() else None
