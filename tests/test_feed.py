"""What a step reads: a pure function of the step, whether it is read ahead or on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdx.config import Run
from pdx.env import Env
from pdx.errors import StoreError
from pdx.feed import Feed, MicroBatch
from pdx.rows import Facts, Rows
from pdx.shared import Shared

CPU = torch.device("cpu")
Tiny = Callable[..., tuple[Run, Env]]


class FakeStore:
    """Rows that tell which windows they are of; some cannot be read."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.read: list[int] = []
        self.broken = broken

    def rows(self, index_B: np.ndarray, ids: np.ndarray, num_draws: int | None) -> Rows:
        assert not num_draws, "this signal draws nothing"
        self.read.extend(int(i) for i in index_B)
        if bad := self.broken & set(index_B.tolist()):
            raise StoreError(f"window {bad}: was altered.")
        flat = torch.from_numpy(ids[:, 1:].reshape(-1, 1))
        return Rows(flat, flat.float(), Facts({1.0: flat[:, 0].float()}))


@pytest.fixture(scope="module")
def made(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Shared]:
    outputs: Path = tmp_path_factory.mktemp("feed")
    run, env = tiny_at(outputs, "train.micro_batch_size=4", "train.num_tokens=8192")
    return run, Shared.of(run, env)


def feed_of(made: tuple[Run, Shared], store: Any, read_ahead: int | None = None) -> Feed:
    run, shared = made
    return Feed(run, shared.train_windows, CPU, store, read_ahead=read_ahead)


def same(ours: list[MicroBatch], theirs: list[MicroBatch]) -> bool:
    def flat(batch: MicroBatch) -> list[Any]:
        parts = [torch.from_numpy(batch.index_B), *batch[1:4], torch.tensor(batch.num_valid)]
        return (
            parts if batch.rows is None else [*parts, batch.rows.ids_NK, batch.rows.facts.lse[1.0]]
        )

    pairs = [(flat(a), flat(b)) for a, b in zip(ours, theirs, strict=True)]
    return all(
        len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in pairs
    )


@pytest.mark.parametrize("read_ahead", [1, 2, 100])
@pytest.mark.parametrize("order", ["in turn", "from the middle", "back and forth"])
def test_reading_ahead_changes_nothing(made: tuple[Run, Shared], read_ahead: int, order: str):
    """Also for a run that is taken up at some step, or asked for one step twice."""
    last = made[0].num_steps
    steps = {
        "in turn": list(range(last)),
        "from the middle": list(range(last // 2, last)),
        "back and forth": [3, 4, 4, 0, 9, 8, 1],
    }[order]
    plain, ahead = feed_of(made, FakeStore(), 0), feed_of(made, FakeStore(), read_ahead)
    assert len(steps) > 1 and len(plain(0)) > 1
    for step in steps:
        assert same(ahead(step), plain(step)), step
    assert ahead.wait_seconds > 0 and plain.wait_seconds > 0


def test_an_error_is_raised_by_the_step_that_needed_it(made: tuple[Run, Shared]):
    broken = int(feed_of(made, None, 0)(5)[0].index_B[0])
    feed = feed_of(made, FakeStore(frozenset({broken})), 3)
    for step in range(5):
        feed(step)
    with pytest.raises(StoreError, match="was altered"):
        feed(5)
    assert same(feed(6), feed_of(made, FakeStore(), 0)(6))


def test_no_more_is_read_than_was_allowed(made: tuple[Run, Shared]):
    """Two steps ahead at most, each once, and none after the last."""
    run, _ = made
    store = FakeStore()
    feed = feed_of(made, store, 2)
    size = run.train.batch_size
    for step in range(run.num_steps):
        feed(step)
        assert len(store.read) <= size * min(step + 3, run.num_steps)
    assert len(store.read) == size * run.num_steps


def test_a_cpu_reads_on_the_spot(made: tuple[Run, Shared]):
    store = FakeStore()
    feed_of(made, store)(0)
    assert len(store.read) == made[0].train.batch_size


@pytest.mark.parametrize("overrides", [["loss=none"], ["mix.kd_weight=0.0"]])
def test_a_teacher_that_counts_for_nothing_is_not_read(
    tiny_at: Tiny, made: tuple[Run, Shared], overrides: list[str]
):
    run, _ = tiny_at(Path(made[1].env.outputs), "train.num_tokens=8192", *overrides)
    store = FakeStore()
    (batch,) = feed_of((run, made[1]), store)(0)
    assert batch.rows is None and store.read == []


def test_rows_are_those_of_the_batch(made: tuple[Run, Shared]):
    for batch in feed_of(made, FakeStore(), 2)(0):
        assert batch.rows is not None
        assert torch.equal(batch.rows.ids_NK[:, 0], batch.targets_BL.reshape(-1))
