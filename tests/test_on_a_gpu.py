"""The same runs on the host and on a GPU that is pretended: nothing is on the wrong device."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretended_gpu
import pytest

from pdx.config import Run
from pdx.env import Env
from pdx.execute import execute
from pdx.shared import Shared

TinyAt = Callable[..., tuple[Run, Env]]
OnAGPU = Callable[..., dict[str, Any]]

SHORT = ["train.num_tokens=1536", "train.micro_batch_size=4"]
SHORT += ["eval.num_tokens=512", "eval.num_tokens_teacher=512"]
# What reads or makes tensors of its own, once each; the rest of the axes is arithmetic on these.
VARIANTS = [
    ["loss=none", "train.precision=bfloat16", "train.compile=true"],
    ["loss=forward_kl", "eval=full"],
    ["loss=jsd", "signal=full", "train.precision=bfloat16"],
    ["loss=tail_aware", "signal=full"],
    ["loss=forward_kl", "signal=sampled", "store=sampled"],
    ["loss=forward_kl", "signal=head_sampled", "store=head_sampled"],
    ["loss=mse", "signal=topp", "store=topk", "store.top_k=null", "store.top_p=0.95"],
    ["loss=forward_kl", "signal=sampled", "signal.proposal_power=0.8", "store=none"],
    ["loss=forward_kl", "signal.tail=to_label"],
    ["loss=forward_kl", "signal.tail=smooth", "routing=placebo"],
    ["loss=forward_kl", "routing=high_entropy", "store=none"],
    ["loss=forward_kl", "routing=by_domain", "routing.domains=[open]"],
    ["loss=forward_kl", "temperature=by_entropy", "signal.tail=renormalize"],
    ["loss=forward_kl", "temperature=by_deviation", "signal.tail=support"],
    ["loss=forward_kl", "temperature=normkd", "store=none"],
    ["loss=forward_kl", "hidden=mse", "store=none"],
    ["loss=forward_kl", "hidden=cosine", "store.hidden_layers=[-1]"],
    ["loss=none", "text=teacher_samples"],
]
GROUP = [["loss=reverse_kl", "mix=period"], ["loss=forward_kl"], ["loss=none"]]
ROOM = {"float32": {"abs": 2e-5, "rel": 2e-4}}  # chunks are of other lengths there,
ROOM["bfloat16"] = {"abs": 2e-3, "rel": 2e-2}  # and logits are not rounded

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def on_a_gpu(tmp_path_factory: pytest.TempPathFactory) -> OnAGPU:
    """What of ``on_a_gpu.py``, and its arguments -> what it found."""
    library = pretended_gpu.build(tmp_path_factory.mktemp("gpu"))

    def inner(what: str, *arguments: Any) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, pretended_gpu.HERE / "on_a_gpu.py", library, what],
            input=json.dumps(arguments, default=str),
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(pretended_gpu.HERE.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return inner


def of_the_run(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("perf/")}


def test_a_run_on_a_gpu_is_the_run_on_the_host(tiny_at: TinyAt, tmp_path: Path, on_a_gpu: OnAGPU):
    there = on_a_gpu("runs", tmp_path / "gpu", [[*SHORT, *v] for v in VARIANTS])
    assert len(there) == len(VARIANTS)
    for variant in VARIANTS:
        run, env = tiny_at(tmp_path / "host", *SHORT, *variant)
        here = of_the_run(execute(run, env, quiet=True)["metrics"])
        found = of_the_run(there[" ".join([*SHORT, *variant])])
        assert found == pytest.approx(here, **ROOM[run.train.precision]), variant


def test_runs_that_take_turns_on_a_gpu_are_those_one_by_one(tmp_path: Path, on_a_gpu: OnAGPU):
    one_by_one = on_a_gpu("runs", tmp_path / "one", [[*SHORT, *v] for v in GROUP])
    together = on_a_gpu("group", tmp_path / "all", [[*SHORT, *v] for v in GROUP])
    for name, metrics in one_by_one.items():
        assert of_the_run(together[name]) == of_the_run(metrics)


def test_a_store_of_the_host_is_verified_on_a_gpu(
    tiny_at: TinyAt, tmp_path: Path, on_a_gpu: OnAGPU
):
    run, env = tiny_at(tmp_path, *SHORT)
    Shared.of(run, env).ensure(run.num_windows)
    said = on_a_gpu("verify", tmp_path, SHORT)["says"]
    assert "every checksum and every token digest holds" in said and "fresh teacher pass" in said


def test_what_a_gpu_is_asked_by_the_benchmarks_runs(tmp_path: Path, on_a_gpu: OnAGPU):
    """No time is measured here: a GPU is rare, and its session is not to end in a traceback."""
    found = on_a_gpu("benchmarks", tmp_path)
    assert len(found["capture"]) == 9 and len(found["loss"]) == 8
    assert all(case["ms_per_step"] > 0 for case in found["step"].values())
    assert all(case["ms"] > 0 for case in found["students"].values())


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(on_a_gpu: OnAGPU):
    said = on_a_gpu("mixed", None)
    assert "cuda:0 and cpu" in said["add"] and "cuda:0 and cpu" in said["index"]
    assert "numpy" in said["numpy"]
    assert said["early"] == [-1, -1] and said["in time"] == [2, 2]
