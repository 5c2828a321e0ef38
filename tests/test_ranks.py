"""One run over several processes is the run of one: losses, weights, checkpoints and ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import TINY
from numerics import taught
from test_train import Forgetful, Part, Uneven, beside, folder

from pdx import evaluate, world
from pdx.checkpoint import Paused, load
from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError, PdxError, RankLost
from pdx.evaluate import Reference, compare, held_out_loss
from pdx.execute import execute
from pdx.losses.forward_kl import ForwardKL
from pdx.ranks import Ranks
from pdx.shared import Shared
from pdx.spread import spread
from pdx.train import train

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")
ALONE = Ranks.alone(CPU)
SHARDINGS = ["replicate", "fsdp"]


# ---- the loop, in float64: nothing but arithmetic that differs can show ------------------------


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(ranks, *arguments)`` in ``count`` processes; what each returned."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(world.PRELOAD)
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = []
    for rank, (_, theirs) in enumerate(pipes):
        given = (server.port, rank, count, theirs, function, arguments)
        processes.append(context.Process(target=_on_rank, args=given))
        processes[-1].start()
        theirs.close()
    answers = [ours.recv() for ours, _ in pipes]  # raises where one has died
    for process in processes:
        process.join()
    return answers


def _on_rank(
    port: int, rank: int, count: int, pipe: Any, function: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    pipe.send(function(Ranks(rank, count, CPU), *arguments))
    dist.destroy_process_group()


class Share(Uneven):
    """This rank's rows of batches whose masks leave ranks very different counts, and one none."""

    def __init__(self, size: int, ranks: Ranks) -> None:
        super().__init__(size)
        self.ranks = ranks

    def __call__(self, step: int) -> list[Part]:
        parts = super().__call__(step)
        each = len(parts) // self.ranks.world_size
        return parts[self.ranks.rank * each :][:each]


def trained(ranks: Ranks, run: Run, sharding: str, size: int) -> tuple[dict[str, Any], list[Any]]:
    """Weights in float64 (on rank 0) and the curve."""
    student = run.student.init(32, 64, 0).double()
    over, curve = spread(student, ranks, sharding), []

    def report(step: int, metrics: dict[str, float]) -> bool:
        curve.append([metrics[f"train/{name}"] for name in ("loss", "ce_loss", "kd_loss")])
        return False

    train(run, student, Share(size, ranks), dict, report, Forgetful(), spread=over)  # type: ignore
    return {k: v.numpy() for k, v in over.weights().items()}, curve


def trained_all(ranks: Ranks, cases: list[Any]) -> list[Any]:
    """Several trainings in one set of processes."""
    return [trained(ranks, *case) for case in cases]


@pytest.mark.parametrize(("count", "size"), [(2, 2), (4, 2)])
def test_ranks_train_as_one_process(tiny: Tiny, count: int, size: int):
    """Masks differ between ranks: a mean of their means would show; the gradient is clipped."""
    cases: list[Any] = []
    for tie in ("true", "false"):
        settings = ["train.num_tokens=2048", "student.init_std=0.2", "optim.clip_norm=0.3"]
        run, _ = tiny(*settings, f"student.tie_embeddings={tie}")
        cases += [(run, sharding, size) for sharding in SHARDINGS]
    wanted = [trained(ALONE, case[0], "replicate", 8) for case in cases]
    for found in on_ranks(count, trained_all, cases):
        for (weights, curve), (wanted_weights, wanted_curve) in zip(found, wanted, strict=True):
            assert curve == [pytest.approx(point, rel=1e-6) for point in wanted_curve]
            for name, weight in weights.items():
                if weight.size:  # others than rank 0 get no weights of a sharded student
                    assert weight == pytest.approx(wanted_weights[name], rel=0, abs=1e-12), name
    assert wanted[0][1][0] != wanted[0][1][-1]


def evaluated(ranks: Ranks, run: Run, env: Env, sharding: str) -> list[dict[str, float]]:
    """Held-out figures of fresh weights, in batches of five windows: the last ones are few."""
    evaluate.EVAL_BATCH_TOKENS = 5 * 64
    shared = Shared.of(run, env)
    val, reference = shared.token_set.windows("val"), shared.reference()
    assert isinstance(reference, Reference)
    student = run.student.init(32, 64, 0)
    spread(student, ranks, sharding)
    return [held_out_loss(student, val, 3200, ranks), compare(student, reference, val, 10, ranks)]


def evaluated_both(ranks: Ranks, run: Run, env: Env) -> list[Any]:
    """Both ways of holding the student."""
    return [evaluated(ranks, run, env, sharding) for sharding in SHARDINGS]


def test_held_out_figures_are_those_of_one_process(
    reference: tuple[Run, Env, Any], monkeypatch: pytest.MonkeyPatch
):
    """Ten batches over four ranks, seven over two: some rank has none of its own at the end."""
    run, env, _ = reference
    monkeypatch.setattr(evaluate, "EVAL_BATCH_TOKENS", evaluate.EVAL_BATCH_TOKENS)
    wanted = [pytest.approx(v, rel=1e-6) for v in evaluated(ALONE, run, env, "replicate")]
    for found in on_ranks(4, evaluated_both, run, env):
        assert found == [wanted, wanted]


# ---- a whole run: stored and live signal, checkpoints ------------------------------------------

# 104 steps, a report every other: sums of a checkpoint between two must carry over.
RUN = ["train.num_tokens=13312", "train.batch_size=2", "train.micro_batch_size=1"]
RUN += ["train.num_evals=2", "student.init_std=0.2"]
RUN += ["teacher.init_std=0.3", "teacher.num_tokens=8192", "eval.num_tokens_teacher=4096"]
PAUSE = 51


@pytest.fixture(scope="module")
def reference(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Env, Any]:
    """A run of one process, uninterrupted."""
    run, env = taught(*tiny_at(tmp_path_factory.mktemp("ranks"), *RUN))
    execute(run, env, quiet=True)
    return run, env, folder(env, run)


def over(env: Env, root: Path, count: int, sharding: str = "replicate") -> Env:
    """The same data, teacher and store; other outputs, and as many processes a run."""
    root.mkdir(exist_ok=True)
    env = env if (root / "data").exists() else beside(env, root)
    return replace(env, outputs=str(root), gpus_per_run=count, sharding=sharding)


def assert_run(env: Env, run: Run, wanted: Any) -> None:
    """Same curve and held-out figures, and the same weights, up to the order of float32 sums."""
    metrics, curve, weights = folder(env, run)
    wanted_metrics, wanted_curve, wanted_weights = wanted
    assert metrics == pytest.approx(wanted_metrics, rel=1e-4)
    assert curve == [pytest.approx(line, rel=1e-4) for line in wanted_curve]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted_weights[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_run_over_two_processes_is_the_run(
    reference: tuple[Run, Env, Any], tmp_path: Path, sharding: str
):
    """Each reads its own windows of the store; memory and devices are accounted for."""
    run, env, wanted = reference
    result = execute(run, env := over(env, tmp_path, 2, sharding), quiet=True)
    assert_run(env, run, wanted)
    assert result["provenance"]["num_ranks"] == 2
    assert result["provenance"]["sharding"] == sharding


def test_a_live_teacher_runs_on_each(tiny_at: Tiny, reference: tuple[Run, Env, Any]):
    """And where the teacher is not there yet, it too is trained over both."""
    root = reference[1].paths.root.parent / "live"
    settings = [*RUN, "store=none", "train.num_tokens=4096", "teacher.num_tokens=1024"]
    alone, env_alone = tiny_at(root / "1", *settings)
    execute(alone, env_alone, quiet=True)
    both, env_both = tiny_at(root / "2", *settings, "env.gpus_per_run=2")
    assert both.run_id == alone.run_id
    execute(both, env_both, quiet=True)
    assert_run(env_both, both, folder(env_alone, alone))
    teacher = alone.teacher.run(alone)
    assert_run(env_both, teacher, folder(env_alone, teacher))


@pytest.mark.parametrize(
    ("before", "after"), [((2, "replicate"), (1, "replicate")), ((1, "replicate"), (2, "fsdp"))]
)
def test_any_number_of_ranks_goes_on_from_any_other(
    reference: tuple[Run, Env, Any], tmp_path: Path, before: Any, after: Any
):
    """Paused between two reports, by rank 0's word alone."""
    run, env, wanted = reference
    asked: list[int] = []

    def must_end() -> bool:
        asked.append(1)
        return len(asked) >= PAUSE

    with pytest.raises(Paused, match=rf"^paused at step {PAUSE};"):
        execute(run, over(env, tmp_path, *before), quiet=True, must_end=must_end)
    execute(run, env := over(env, tmp_path, *after), quiet=True)
    assert_run(env, run, wanted)


def test_a_pruned_run_of_shards_goes_on_alone(reference: tuple[Run, Env, Any], tmp_path: Path):
    run, env, wanted = reference
    stop: Callable[[int, Any], bool] = lambda step, _: step == 50  # noqa: E731
    result = execute(run, over(env, tmp_path, 2, "fsdp"), stop, quiet=True)
    assert result["status"] == "pruned"
    state = load(tmp_path / "runs" / run.run_id, CPU)
    assert state is not None and state["step"] == 50
    execute(run, env := over(env, tmp_path, 1), quiet=True)
    assert_run(env, run, wanted)


def test_a_killed_rank_ends_the_run_which_goes_on(reference: tuple[Run, Env, Any], tmp_path: Path):
    run, env, wanted = reference
    env = replace(over(env, tmp_path, 2), checkpoint_seconds=0.0)

    def kill(step: int, _: Any) -> bool:
        if step == 20:
            (other,) = multiprocessing.active_children()
            assert other.pid is not None
            os.kill(other.pid, signal.SIGKILL)
        return False

    with pytest.raises(RankLost, match=r"^rank 1 of the run ended with exit code -9"):
        execute(run, env, kill, quiet=True)
    assert not multiprocessing.active_children()
    assert not env.paths.result(run.run_id).exists()
    execute(run, env, quiet=True)
    assert_run(env, run, wanted)


def test_a_rank_whose_forkserver_was_killed_is_lost(monkeypatch: pytest.MonkeyPatch):
    def refused(_fds: object) -> object:
        raise ConnectionRefusedError

    monkeypatch.setattr(forkserver, "connect_to_new_process", refused)
    threads = torch.get_num_threads()
    with pytest.raises(RankLost, match=r"^a rank of the run could not be started \(Connection"):
        world._Team.start(2)
    torch.set_num_threads(threads)


# ---- what befalls one rank only ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Breaks(ForwardKL):
    """Does something on rank 1, and nothing on others."""

    does: str

    def __call__(self, student_logits_CV: Any, teacher: Any) -> Any:
        loss_C = super().__call__(student_logits_CV, teacher)
        if dist.is_initialized() and dist.get_rank() == 1:
            if self.does == "memory":
                raise MemoryError("no room")
            if self.does == "error":
                raise PdxError("no sense")
            return loss_C * float("nan")
        return loss_C


def breaking(reference: tuple[Run, Env, Any], root: Path, does: str) -> tuple[Run, Env]:
    """The reference's run with such a loss, over two processes."""
    run, env, _ = reference
    broken = replace(run, loss=Breaks(does=does))
    return broken, replace(over(env, root, 2), packages=["test_ranks"])


def test_what_diverged_on_one_rank_diverged(reference: tuple[Run, Env, Any], tmp_path: Path):
    result = execute(*breaking(reference, tmp_path, "nan"), quiet=True)
    assert result["status"] == "diverged" and result["reason"].startswith("by step 2:")
    assert result["metrics"]["val/loss"] == pytest.approx(3.4657, abs=1e-4)  # ln 32


@pytest.mark.parametrize(
    ("does", "error", "said"),
    [("memory", MemoryError, "MemoryError: no room"), ("error", PdxError, "PdxError: no sense")],
)
def test_why_a_rank_failed_is_told(
    reference: tuple[Run, Env, Any], tmp_path: Path, does: str, error: type[Exception], said: str
):
    with pytest.raises(error, match=rf"^rank 1: {said}$") as info:
        execute(*breaking(reference, tmp_path, does), quiet=True)
    assert not isinstance(info.value, RankLost)


# ---- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["env.gpus_per_run=3"], r"env.gpus_per_run=3: does not divide train.batch_size=8, .*"
         r"use one of 1, 2, 4, 8, or another train.batch_size"),
        (["env.gpus_per_run=8", "teacher.batch_size=4"],
         r"env.gpus_per_run=8: does not divide teacher.batch_size=4"),
        (["env.gpus_per_run=0"], r"env.gpus_per_run=0: must be at least 1"),
        (["env.sharding=zero"], r"env.sharding=zero: must be one of replicate, fsdp"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused_at_once(tiny: Tiny, settings: list[str], said: str):
    with pytest.raises(ConfigError, match=rf"^{said}"):
        tiny(*settings)


def test_torchrun_and_the_config_must_agree(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    for key in world.TORCHRUN:
        monkeypatch.setenv(key, "4")
    run, env = tiny("env.gpus_per_run=2")
    with pytest.raises(ConfigError, match=r"^env.gpus_per_run=2: torchrun started 4 processes; "):
        world.num_ranks(run, env)
    assert world.num_ranks(run, replace(env, gpus_per_run=1)) == 4


@pytest.mark.slow
def test_two_agents_of_torchrun_are_one_run(reference: tuple[Run, Env, Any], tmp_path: Path):
    """Two nodes on one host: each has a launcher of its own; rank 0 of the first writes."""
    run, env, wanted = reference
    env = over(env, tmp_path, 1)
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = server.port
    del server
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    command = ["-m", "pdx", "train", *TINY, *RUN]
    command += [f"env.outputs={tmp_path}", "env.sharding=fsdp"]
    agents = [
        subprocess.Popen(
            [*launcher, f"--node-rank={node}", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for node in (0, 1)
    ]
    said = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)[-4000:]
    assert [f"{run.run_id} complete" in words for words in said] == [True, False]
    assert_run(env, run, wanted)
