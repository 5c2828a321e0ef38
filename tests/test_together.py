"""Several runs in one process: the same runs as one by one, and no business of each other's."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pdx.checkpoint import Paused
from pdx.config import Run
from pdx.env import Env
from pdx.errors import StoreError
from pdx.execute import execute
from pdx.frozen import FrozenTeacher
from pdx.store.reader import Store
from pdx.together import Group, Seat

Tiny = Callable[..., tuple[Run, Env]]
LENGTH = ["train.num_tokens=6144", "train.micro_batch_size=4", "train.num_evals=2"]
STORED = [
    ["loss=forward_kl"],
    ["loss=jsd", "student=s30k", "signal.top_k=4"],
    ["loss=reverse_kl", "mix=period", "optim.peak_lr=0.01"],  # silent at some steps
    ["loss=none"],
]
LIVE = [
    ["loss=forward_kl"],
    ["loss=jsd", "student=s30k", "schedule=cosine"],
    ["loss=forward_kl", "signal=full"],
    ["loss=forward_kl", "temperature=by_entropy", "routing=high_entropy"],
    ["loss=forward_kl", "hidden=mse", "hidden.projection=true"],
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def runs_of(tiny_at: Tiny, outputs: Path) -> Callable[..., list[tuple[Run, Env]]]:
    """Runs that read the same batches, by what else they are."""

    def inner(settings: list[list[str]], *more: str) -> list[tuple[Run, Env]]:
        return [tiny_at(outputs, *LENGTH, *more, *own) for own in settings]

    return inner


def together(
    runs: list[tuple[Run, Env]], root: Path, does: Callable[..., Any] = execute
) -> list[Any]:
    """What each run of a group comes to, or the error that it ends in."""
    group = Group(len(runs))

    def one(number: int) -> Any:
        run, env = runs[number]
        with group.seat(number) as seat:
            try:
                return does(run, env, quiet=True, run_dir=root / str(number), seat=seat)
            except (Paused, StoreError, ValueError) as err:
                return err

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(one, range(len(runs))))


def one_by_one(runs: list[tuple[Run, Env]], root: Path) -> list[Any]:
    return [
        execute(run, env, quiet=True, run_dir=root / str(number))
        for number, (run, env) in enumerate(runs)
    ]


def learnt(directory: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """All that a run says of itself but for how fast it was, and its weights."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((directory / "result.json").read_text())
    said = [*lines, result["metrics"]]
    said = [{k: v for k, v in one.items() if not k.startswith("perf/")} for one in said]
    return said, load_file(directory / "model" / "model.safetensors")


def assert_same(ours: Path, theirs: Path) -> None:
    (said, weights), (wanted, wanted_weights) = learnt(ours), learnt(theirs)
    assert said == wanted and len(said) > 3
    assert weights.keys() == wanted_weights.keys()
    assert all(torch.equal(weights[key], wanted_weights[key]) for key in weights)


@pytest.mark.parametrize("live", [False, True])
def test_runs_of_a_group_are_the_runs(
    runs_of: Any, tmp_path: Path, live: bool, monkeypatch: pytest.MonkeyPatch
):
    """To the last bit; and what they share is made once for all of them."""
    runs = runs_of(LIVE, "store=none") if live else runs_of(STORED)
    calls: list[str] = []

    def counted(cls: Any, name: str) -> None:
        really = getattr(cls, name)

        def count(self: Any, *args: Any) -> Any:
            calls.append(name)
            return really(self, *args)

        monkeypatch.setattr(cls, name, count)

    results = one_by_one(runs, tmp_path / "alone")
    counted(*((FrozenTeacher, "hidden") if live else (Store, "rows")))
    for number, result in enumerate(together(runs, tmp_path / "group")):
        assert result["status"] == "complete"
        assert result["provenance"]["num_students"] == len(runs)
        assert results[number]["provenance"]["num_students"] == 1
        assert_same(tmp_path / "group" / str(number), tmp_path / "alone" / str(number))
    run, num_batches = runs[2][0], runs[0][0].num_steps * 2
    if live:  # one body for all, but for the last run, which asks for its layers too
        assert len(calls) == num_batches
    else:  # all rows for those that ask at every step, and once more for the one that does not
        asked = [run.kd_weight((s + 0.5) / run.num_steps) > 0 for s in range(run.num_steps)]
        assert len(calls) == num_batches + 2 * sum(asked) and len(set(asked)) == 2
