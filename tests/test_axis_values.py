"""One short run of every value of the axes that shape the loss."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from numerics import TAILS, taught, values

from pdx.config import Run
from pdx.env import Env
from pdx.execute import execute

TinyAt = Callable[..., tuple[Run, Env]]

# A second teacher that is the first one in small.
WEAK = [
    f"weak_teacher.{key}"
    for key in ("hidden_size=16", "ffn_size=16", "num_layers=1", "num_heads=2", "num_kv_heads=2")
]
WEAK += ["weak_teacher.num_tokens=2048", "weak_teacher.batch_size=8"]

# What a value needs of other axes.
BESIDE = {
    "hidden=cosine": ["store=none"],
    "hidden=mse": ["store=none"],
    "text=selected": ["teacher@weak_teacher=trained", "text.pool_windows=16", *WEAK],
    "signal=sampled": ["store=sampled"],
    "signal=head_sampled": ["store=head_sampled"],
    "signal=topp": ["store=topk", "store.top_k=null", "store.top_p=0.95"],
    "routing=by_domain": ["routing.domains=[open]"],  # the synthetic corpus's
    "loss=tail_aware": ["signal=full"],
    "loss=masked_mse": ["signal=full"],
    "temperature=scheduled": ["signal.tail=renormalize"],
    "temperature=by_entropy": ["signal.tail=renormalize"],
    "temperature=by_deviation": ["signal.tail=support"],
    "temperature=normkd": ["signal.tail=decoupled"],
}
AXES = ("text", "hidden", "signal", "temperature", "loss", "mix", "routing", "schedule")
RUNS = [[f"{axis}={value}"] for axis in AXES for value in values(axis)]
RUNS += [[f"signal.tail={tail}"] for tail in TAILS]
RUNS += [["loss=tail_aware", "loss.per_sequence=false"]]
# What a store cannot serve, from a live teacher.
RUNS += [
    ["temperature=by_entropy", "store=none"],
    ["temperature=normkd", "store=none"],
    ["signal=sampled", "signal.proposal_power=0.8", "store=none"],
    ["signal=topp", "store=none"],
    ["text=teacher_samples", "signal=sampled", "store=sampled"],
    ["text=teacher_samples", "loss=none"],
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, tiny_at: TinyAt) -> Path:
    """With the one teacher of all runs in it."""
    directory = tmp_path_factory.mktemp("axes") / "out"
    taught(*tiny_at(directory))
    return directory


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_a_short_run(tiny_at: TinyAt, outputs: Path, overrides: list[str]):
    more = BESIDE.get(overrides[0], []) if "store=none" not in overrides[1:] else []
    if overrides == ["temperature=normkd", "store=none"]:
        more = ["signal.tail=bucket"]
    short = ["train.num_tokens=1536", "eval.num_tokens=512", "eval.num_tokens_teacher=512"]
    run, env = tiny_at(outputs, *short, *overrides, *more)
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete"
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert result["metrics"]["train/ce_loss"] > 0
