"""Where the teacher speaks: of each window its own share, whatever the batch."""

from collections.abc import Callable

import pytest
import torch
from numerics import component, taught, values

from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.execute import execute
from pdx.feed import Feed
from pdx.rows import entropy
from pdx.shared import Shared
from pdx.sparse import SparseSignal

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")


def test_everywhere_is_everywhere():
    assert component("routing", "everywhere")(None, None, torch.ones(2, 3) > 0) is None


@pytest.mark.parametrize("skip_frac", [0.1, 0.15, 0.3, 0.5, 0.99])
def test_the_lowest_entropies_of_each_window_are_skipped(skip_frac: float):
    """By sorting each window's valid positions in plain Python."""
    generator = torch.Generator().manual_seed(0)
    entropy_BL = torch.rand(5, 40, generator=generator)
    entropy_BL[3] = 1.0  # all equal: the first go
    mask_BL = torch.rand(5, 40, generator=generator) < 0.7
    mask_BL[4] = False
    found = component("routing", "high_entropy", skip_frac=skip_frac)(entropy_BL, None, mask_BL)
    for b in range(5):
        valid = [i for i in range(40) if mask_BL[b, i]]
        surest = sorted(valid, key=lambda i, b=b: float(entropy_BL[b, i]))
        skipped = surest[: int(len(valid) * skip_frac + 1e-6)]
        assert found[b].tolist() == [i in valid and i not in skipped for i in range(40)]


def test_a_window_is_routed_alike_in_every_batch():
    entropy_BL, mask_BL = torch.rand(6, 32), torch.rand(6, 32) < 0.8
    routing = component("routing", "high_entropy")
    whole = routing(entropy_BL, None, mask_BL)
    for size in (1, 2, 3):
        parts = [
            routing(e, None, m)
            for e, m in zip(entropy_BL.split(size), mask_BL.split(size), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_entropy_is_its_definition():
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -2000.0, -2000.0, -2000.0]])
    assert entropy(rows).tolist() == pytest.approx([torch.tensor(4.0).log().item(), 0.0], abs=1e-6)


def test_store_and_live_teacher_are_silent_at_the_same_positions(tiny: Tiny):
    """The store's column of entropies, and the live teacher's own."""
    masks = []
    for store in ("topk", "none"):
        run, env = tiny("routing=high_entropy", "routing.skip_frac=0.3", f"store={store}")
        shared = Shared.of(*taught(run, env))
        teacher = None if run.is_stored else shared.load_teacher(run.teacher)
        stored = shared.open_store() if run.is_stored else None
        feed = Feed(run, shared.train_windows, CPU, stored, teacher)
        batch = feed(0)[0]
        masks.append(feed.lesson(batch, 0.5).taught_BL)
    assert masks[0] is not None and torch.equal(masks[0], masks[1])
    assert float(masks[0].float().mean()) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("name", values("routing"))
def test_a_run_is_routed(tiny: Tiny, name: str):
    more = ["routing.domains=[open]"] if name == "by_domain" else []
    run, env = tiny("train.num_tokens=2048", f"routing={name}", *more)
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete" and run.identity["routing"]


@pytest.mark.parametrize("store", ["topk", "none", "sampled", "drawn live"])
@pytest.mark.parametrize("shift", [1, -3])
def test_a_placebo_is_the_true_word_at_the_wrong_place(tiny: Tiny, store: str, shift: int):
    """From a store, live, and drawn alike: the rows of the same window, moved around its end."""
    drawn = store in ("sampled", "drawn live")
    signal = ["signal=sampled", "signal.num_draws=7"] if drawn else []
    store = "none" if store == "drawn live" else store
    words = []
    for routing in ("everywhere", "placebo"):
        more = [f"routing.shift={shift}"] if routing == "placebo" else []
        run, env = tiny(f"store={store}", f"routing={routing}", *signal, *more)
        shared = Shared.of(*taught(run, env))
        stored = shared.open_store() if run.is_stored else None
        teacher = None if run.is_stored else shared.load_teacher(run.teacher)
        feed = Feed(run, shared.train_windows, CPU, stored, teacher)
        batch = feed(0)[0]
        word = feed.lesson(batch, 0.5).signal
        assert word is not None
        part = word.chunk(0, batch.targets_BL.numel())
        assert isinstance(part, SparseSignal)
        words.append((part, batch.targets_BL))
    (true, targets_BL), (moved, same_BL) = words
    assert torch.equal(targets_BL, same_BL) and torch.equal(moved.targets_N, true.targets_N)
    for b, window in enumerate(torch.arange(targets_BL.numel()).view_as(targets_BL).tolist()):
        for i, at in enumerate(window):
            said = window[(i - shift) % len(window)]
            assert torch.equal(moved.keep_NK[at], true.keep_NK[said]), (b, i)
            kept = true.keep_NK[said]
            assert torch.equal(moved.ids_NK[at][kept], true.ids_NK[said][kept])
            assert torch.equal(moved.logits_NK[at][kept], true.logits_NK[said][kept])
    assert moved.chunk(3, 9).targets_N.tolist() == targets_BL.reshape(-1)[3:9].tolist()


def test_nothing_else_is_shifted():
    for name in values("routing"):
        assert (component("routing", name).shift != 0) == (name == "placebo")


def test_a_shift_that_shifts_nothing_is_refused(tiny: Tiny):
    with pytest.raises(ConfigError, match=r"^routing.shift=0: must not be 0; use routing=everywh"):
        component("routing", "placebo", shift=0)
    with pytest.raises(ConfigError, match=r"^routing.shift=-128: must not be a multiple of data."):
        tiny("routing=placebo", "routing.shift=-128")


def test_out_of_range():
    for wrong in (0.0, 1.0):
        with pytest.raises(ConfigError, match=rf"^routing.skip_frac={wrong}: must lie strictly .*"):
            component("routing", "high_entropy", skip_frac=wrong)
