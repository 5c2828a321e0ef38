"""Several runs in one process: the same runs as one by one, and no business of each other's."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pdx.checkpoint import Paused
from pdx.config import Run
from pdx.env import Env
from pdx.execute import execute
from pdx.frozen import FrozenTeacher
from pdx.store.reader import Store
from pdx.together import Group

Tiny = Callable[..., tuple[Run, Env]]
LENGTH = ["train.num_tokens=4096", "train.micro_batch_size=4", "train.num_evals=2"]
STORED = [
    ["loss=forward_kl"],
    ["loss=jsd", "student=s30k", "signal.top_k=4"],
    ["loss=reverse_kl", "mix=period", "optim.peak_lr=0.01"],  # silent at some steps
    ["loss=forward_kl", "routing=by_domain", "routing.domains=[sure]"],
    ["loss=forward_kl", "routing=by_domain", "routing.domains=[open]"],
    ["loss=none"],
]
LIVE = [
    ["loss=forward_kl"],
    ["loss=jsd", "student=s30k", "schedule=cosine"],
    ["loss=forward_kl", "signal=full"],
    ["loss=tail_aware", "signal=full", "loss.top_k=4"],
    ["loss=tail_aware", "signal=full", "loss.top_k=8"],
    ["loss=forward_kl", "routing=by_domain", "routing.domains=[open]"],
    ["loss=forward_kl", "temperature=by_entropy", "routing=high_entropy"],
    ["loss=forward_kl", "hidden=mse", "hidden.projection=true"],
]


@pytest.fixture(scope="module", autouse=True)
def _three_chunks_a_micro_batch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pdx.reduce.CHUNK_ELEMENTS", 32 * 100)
        yield


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def runs_of(tiny_at: Tiny, outputs: Path) -> Callable[..., list[tuple[Run, Env]]]:
    """Runs that read the same batches, by what else they are."""

    def inner(settings: list[list[str]], *more: str) -> list[tuple[Run, Env]]:
        return [tiny_at(outputs, *LENGTH, *more, *own) for own in settings]

    return inner


@pytest.fixture(scope="module")
def alone(runs_of: Any, outputs: Path) -> Callable[[bool], tuple[list[tuple[Run, Env]], Path]]:
    """The runs of a group, and where each has been run by itself."""

    @cache
    def inner(live: bool) -> tuple[list[tuple[Run, Env]], Path]:
        runs = runs_of(LIVE, "store=none") if live else runs_of(STORED)
        root = outputs / f"alone-{live}"
        for number, (run, env) in enumerate(runs):
            result = execute(run, env, quiet=True, run_dir=root / str(number))
            assert result["provenance"]["num_students"] == 1
        return runs, root

    return inner


def together(
    runs: list[tuple[Run, Env]], root: Path, **each: Mapping[int, Callable[..., bool]]
) -> list[Any]:
    """What each run of a group comes to, or the error that it ends in.

    Args:
        each: of the arguments of ``execute``, by number of the run.
    """
    group = Group(len(runs))

    def one(number: int) -> Any:
        more: dict[str, Any] = {k: v[number] for k, v in each.items() if number in v}
        run, env = runs[number]
        with group.seat(number) as seat:
            try:
                return execute(run, env, quiet=True, run_dir=root / str(number), seat=seat, **more)
            except (Paused, ValueError) as err:
                return err

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(one, range(len(runs))))


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
    alone: Any, tmp_path: Path, live: bool, monkeypatch: pytest.MonkeyPatch
):
    """To the last bit; and what they share is made once for all of them."""
    runs, root = alone(live)
    calls: Counter[str] = Counter()

    def counted(cls: Any, name: str) -> None:
        really = getattr(cls, name)

        def count(self: Any, *args: Any) -> Any:
            calls[name] += 1
            return really(self, *args)

        monkeypatch.setattr(cls, name, count)

    for cls, name in ((Store, "rows"), (FrozenTeacher, "hidden"), (FrozenTeacher, "logits")):
        counted(cls, name)
    for number, result in enumerate(together(runs, tmp_path)):
        assert result["status"] == "complete"
        assert result["provenance"]["num_students"] == len(runs)
        assert_same(tmp_path / str(number), root / str(number))
    num_batches = runs[0][0].num_steps * 2
    if live:  # for all; again for entropies, for two tails, for the last, which asks for layers
        assert calls == {"hidden": num_batches, "logits": 3 * (1 + 1 + 2 + 1) * num_batches}
    else:  # one for those that ask at every step, and again for the one that does not
        run = runs[2][0]
        asked = [run.kd_weight((s + 0.5) / run.num_steps) > 0 for s in range(run.num_steps)]
        assert calls == {"rows": num_batches + 2 * sum(asked)} and len(set(asked)) == 2


def test_what_ends_one_run_ends_no_other(alone: Any, tmp_path: Path, tiny_at: Tiny):
    """One fails between two steps, one diverges, one is stopped."""
    runs, root = alone(True)
    _, env = runs[0]
    hot = tiny_at(Path(env.outputs), *LENGTH, "store=none", "loss=jsd", "optim.peak_lr=1e12")

    def fails(step: int, metrics: dict[str, float]) -> bool:
        if step == 5:
            raise ValueError("MLflow is gone")
        return False

    group = [runs[0], runs[1], hot, runs[2], runs[0]]
    broken, fine, diverged, stopped, fine_too = together(
        group, tmp_path, observe={0: fails, 3: lambda step, metrics: step == 6}
    )
    assert str(broken) == "MLflow is gone"
    assert diverged["status"] == "diverged" and stopped["status"] == "pruned"
    assert fine["status"] == fine_too["status"] == "complete"
    assert_same(tmp_path / "1", root / "1")
    assert_same(tmp_path / "4", root / "0")


@pytest.mark.parametrize("live", [False, True])
def test_runs_go_on_from_different_steps(alone: Any, tmp_path: Path, live: bool):
    """Told to end, each is saved where it stands; whoever is behind the others catches up first."""
    runs, root = alone(live)
    runs = runs[:3]

    def after(num_asked: int) -> Callable[[], bool]:
        asked = iter(range(num_asked))
        return lambda: next(asked, None) is None

    ends = together(runs, tmp_path, must_end={0: after(5), 1: after(1), 2: after(3)})
    assert all(isinstance(end, Paused) for end in ends)
    assert len({str(end) for end in ends}) == 3, "at different steps"
    assert all(r["status"] == "complete" for r in together(runs, tmp_path))
    for number in range(3):
        assert_same(tmp_path / str(number), root / str(number))


def test_the_one_behind_goes_first_and_one_at_a_time():
    """Ten runs that begin and end at different places, one of which cannot make what it asks."""
    group, said, busy = Group(10), [], [0]

    def make(number: int, place: int) -> int:
        if number == 3:
            raise ValueError(place)
        return number

    def one(number: int) -> None:
        with group.seat(number) as seat:
            for place in range(number % 3, 6 + number):
                for part in ((place,), (place, 1)):
                    with suppress(ValueError):
                        made = seat.once(part, "x", partial(make, number, place))
                        said.append((part, number, made))
                    busy[0] += 1
                    assert busy[0] == 1
                    time.sleep(1e-4)
                    busy[0] -= 1
                assert seat.keep("kept", lambda: number) == 0

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, reversed(range(10))))
    assert said == sorted(said)
    for part in {part for part, _, _ in said}:
        here = [(number, made) for at, number, made in said if at == part]
        assert {made for _, made in here} == {here[0][0]}, "made by the first, had by all"
    # Of run 3 alone, at the last place, where it is the first: what the next one makes itself.
    assert len(said) == 2 * sum(6 + n - n % 3 for n in range(10)) - 2
