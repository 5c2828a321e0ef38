"""Hidden states in the store: within their bound, beside rows that stay, read from there."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics import taught

from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError, StoreError
from pdx.execute import execute
from pdx.facts import facts_of
from pdx.frozen import load_model
from pdx.prepare import ensure_all
from pdx.shared import Shared
from pdx.store.format import shard_path
from pdx.store.states import GROUP, LEVELS, quantise
from pdx.store.writer import write_shard

Tiny = Callable[..., tuple[Run, Env]]

# 128 windows of 64 tokens in two shards; a teacher of large weights, wider than one group.
SETTINGS = [
    "train.num_tokens=8192",
    "store.shard_tokens=6400",
    "teacher.init_std=0.4",
    "teacher.hidden_size=72",
    "teacher.num_tokens=2048",
    "eval.num_tokens=512",
    "eval.num_tokens_teacher=0",
]
LAYERS = [0, 1, -1]
KEPT = f"store.hidden_layers={LAYERS}".replace(" ", "")
MATCHED = ["hidden=mse", "hidden.student_layers=[0,-1]", "hidden.teacher_layers=[1,-1]"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def shared(tiny_at: Tiny, outputs: Path) -> Shared:
    """A run whose store is captured with hidden states."""
    shared = Shared.of(*taught(*tiny_at(outputs, *SETTINGS, KEPT)))
    shared.open_store()
    return shared


@pytest.fixture(scope="module")
def exact(shared: Shared) -> list[torch.Tensor]:
    """The states of every layer and window, from transformers alone."""
    model = load_model(shared.teacher_dir(shared.run.teacher), "float32")
    ids = torch.from_numpy(shared.train_windows.ids(np.arange(128))[:, :-1])
    with torch.no_grad():
        return list(model(ids, output_hidden_states=True).hidden_states)


def machine(shared: Shared, outputs: Path, run: Run | None = None, **env: Any) -> Shared:
    """The same tokens and teacher, with nothing captured yet."""
    outputs.mkdir()
    for name in ("data", "runs"):
        (outputs / name).symlink_to(getattr(shared.env.paths, name))
    return Shared.of(run or shared.run, replace(shared.env, outputs=str(outputs), **env))


def files(shared: Shared) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(shared.store_dir.glob("*.bin"))}


# ---- the bound -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 24, GROUP, GROUP + 1, 3 * GROUP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_coordinate_is_within_half_a_step_of_its_group(width: int, dtype: torch.dtype):
    """Whatever is large, or nothing, beside it in another group."""
    states = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
    states[0, 0] = 0.0
    states[0, 1, 0] = 3e4
    states[1, 2] *= 1e-12
    states = states.to(dtype)
    kept = quantise(states)
    assert kept.codes_BLD.dtype == torch.int8 and int(kept.codes_BLD.abs().max()) == LEVELS
    found = kept.values()
    assert found.dtype == torch.float32 and found.shape == states.shape
    for start in range(0, width, GROUP):
        true, near = (x[..., start : start + GROUP].double() for x in (states, found))
        bound = true.abs().amax(-1, keepdim=True) / (2 * LEVELS)
        assert ((near - true).abs() <= bound * (1 + 1e-5)).all()
    assert (found[0, 0] == 0).all()


def test_what_is_read_is_what_the_teacher_was_at(shared: Shared, exact: list[torch.Tensor]):
    store, index_B = shared.open_store(), np.array([127, 0, 99, 100])
    found = store.states(index_B, shared.train_windows.ids(index_B), LAYERS)
    for layer, states in zip(LAYERS, found, strict=True):
        wanted = exact[layer][index_B.tolist()]
        assert store.hidden_size(layer) == 72
        bound = torch.stack(
            [wanted[..., :GROUP].abs().amax(-1), wanted[..., GROUP:].abs().amax(-1)]
        )
        off = (states.values() - wanted).abs()
        off = torch.stack([off[..., :GROUP].amax(-1), off[..., GROUP:].amax(-1)])
        assert (off <= bound / (2 * LEVELS) * (1 + 1e-3) + 1e-6).all()
        assert off.max() > 0


# ---- beside the rows -------------------------------------------------------------------------


def test_rows_and_names_know_nothing_of_them(
    tiny_at: Tiny, shared: Shared, tmp_path: Path, outputs: Path
):
    """The same store, the same bytes, the same runs; and a store without gets them beside it."""
    run, _ = tiny_at(outputs, *SETTINGS)
    assert run.run_id == shared.run.run_id
    plain = machine(shared, tmp_path / "plain", run)
    assert plain.store_manifest == shared.store_manifest
    plain.open_store()
    rows = files(plain)
    assert list(rows) == ["shard-00000.bin", "shard-00001.bin"]
    whole = files(shared)
    assert len(whole) == 2 * (1 + len(LAYERS)) and {n: whole[n] for n in rows} == rows
    stamps = [f.stat().st_mtime_ns for f in sorted(plain.store_dir.glob("shard-*.bin"))]
    replace(plain, run=shared.run).open_store()
    assert files(plain) == whole
    assert stamps == [f.stat().st_mtime_ns for f in sorted(plain.store_dir.glob("shard-*.bin"))]
    assert not list(plain.store_dir.glob("*.lock"))


def test_runs_that_share_a_store_get_all_that_they_ask_for(
    tiny_at: Tiny, shared: Shared, tmp_path: Path
):
    """One that asks for no hidden states stands first."""
    from pdx.config import config_of

    made = machine(shared, tmp_path / "sweep")
    settings = [s for s in SETTINGS if "num_tokens=8192" not in s] + ["train.num_tokens=6400"]
    runs = [tiny_at(tmp_path / "sweep", *settings, *more) for more in ([], [KEPT])]
    ensure_all([config_of(*run) for run in runs])
    assert len(list(made.store_dir.glob("hidden*-00000.bin"))) == len(LAYERS)


def test_plan_counts_their_bytes(tiny_at: Tiny, shared: Shared, outputs: Path):
    run, env = tiny_at(outputs, *SETTINGS)
    plain, kept = (facts_of(r, env)["store_bytes"] for r in (run, shared.run))
    assert kept - plain == 8192 * len(LAYERS) * (72 + 4 * 2)
    on_disk = sum(len(raw) for name, raw in files(shared).items() if name.startswith("hidden"))
    assert on_disk / 12800 == pytest.approx((kept - plain) / 8192, rel=0.01)  # whole shards


def test_they_are_shared_behind_a_url(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = f"file://{tmp_path}/bucket"
    machine(shared, tmp_path / "one", shared_stores=url).ensure_store(128)
    monkeypatch.setattr(Shared, "load_teacher", lambda *_: pytest.fail("asked the teacher again"))
    two = machine(shared, tmp_path / "two", shared_stores=url)
    two.ensure_store(128)
    assert files(two) == files(shared)


# ---- read by a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("kd_weight", [0.0, 0.5])
def test_a_run_from_the_store_is_the_live_one_within_the_bound(
    tiny_at: Tiny, outputs: Path, shared: Shared, kd_weight: float
):
    settings = [*SETTINGS, *MATCHED, f"mix.kd_weight={kd_weight}", "train.micro_batch_size=4"]
    found, ids = [], []
    for more in ([KEPT], ["store=none"]):
        kept = [s for s in settings if more == [KEPT] or not s.startswith("store.")]
        run, env = tiny_at(outputs, *kept, *more)
        found.append(execute(run, env, quiet=True)["metrics"])
        ids.append(run.run_id)
    assert ids[0] != ids[1], "what a run computes with is part of what it is"
    stored, live = found
    for key in ("train/hidden_loss", "train/loss", "val/loss", "test/loss"):
        assert stored[key] == pytest.approx(live[key], rel=2e-3), key
    assert stored["train/hidden_loss"] != live["train/hidden_loss"]


def test_what_is_kept_besides_makes_no_other_run(tiny_at: Tiny, outputs: Path):
    fewer, more = (
        tiny_at(outputs, *SETTINGS, *MATCHED, f"store.hidden_layers={layers}")[0]
        for layers in ("[1,-1]", "[0,1,-1]")
    )
    assert fewer.run_id == more.run_id
    assert fewer.identity["store_hidden_precision"] == {"group": 64, "levels": 127}


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["hidden=mse"],
            r"hidden.teacher_layers=\[-1\]: the store keeps hidden states of store.hidden_layers="
            r"\[\]; capture with store.hidden_layers=\[-1\], or use store=none for a live teacher",
        ),
        (
            [*MATCHED, "store.hidden_layers=[0,-1]"],
            r"hidden.teacher_layers=\[1, -1\]: the store keeps .*=\[0, -1\]; capture with "
            r"store.hidden_layers=\[0,-1,1\], or use store=none",
        ),
        (
            ["store.hidden_layers=[3]"],
            r"store.hidden_layers=3: must be from 0 \(the embedding\) to 2, or from the end down",
        ),
        (
            ["store.hidden_layers=[-1,-1]"],
            r"store.hidden_layers=\[-1, -1\]: must name each layer once",
        ),
        (
            ["store.hidden_layers=[-1]", "store.recorded=[0.5,1.0]", "text=teacher_part"],
            r"store.hidden_layers=\[-1\]: must be \[\] with store.recorded=\[0.5, 1.0\], which",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_at_plan_time(tiny: Tiny, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        tiny(*overrides)


def test_a_pretrained_teachers_layers_are_checked_before_it_is_asked(
    tiny_at: Tiny, shared: Shared, tmp_path: Path
):
    """Nothing is known of them before it is loaded."""
    where = shared.teacher_dir(shared.run.teacher)
    tokenizer = shared.token_set.dir / "tokenizer"
    shutil.copytree(where, tmp_path / "teacher")
    shutil.copytree(tokenizer, tmp_path / "teacher", dirs_exist_ok=True)
    settings = [s for s in SETTINGS if not s.startswith("teacher.")]
    settings += ["teacher=pretrained", f"teacher.path={tmp_path / 'teacher'}"]
    other = Shared.of(*tiny_at(tmp_path / "out", *settings, "store.hidden_layers=[5]"))
    with pytest.raises(ConfigError, match=r"^store.hidden_layers=5: must be from 0 .* to 2, or"):
        other.open_store()
    assert not list(other.store_dir.glob("*.bin"))


def test_a_whole_store_passes(shared: Shared):
    verdict = shared.verify_store()
    assert verdict.states_apart == 0 and "0.00% of positions more than 5% apart" in str(verdict)


def test_a_flipped_bit_is_named(copied: Shared):
    path = shard_path(copied.store_dir, 0, -1)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0b100
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"hidden-01-00000.bin: the block of window 99 was alt"):
        copied.verify_store()


def test_a_missing_file_is_named_and_captured_anew_alone(copied: Shared):
    path, before = shard_path(copied.store_dir, 0, 1), files(copied)
    path.unlink()
    with pytest.raises(StoreError, match=r"hidden001-00000.bin: is missing; run the same command"):
        copied.verify_store()
    copied.open_store()
    assert files(copied) == before


@pytest.mark.parametrize("other", [None, 0])
def test_another_file_in_its_place_is_found(copied: Shared, other: int | None):
    shutil.copy(shard_path(copied.store_dir, 1, other), shard_path(copied.store_dir, 1, -1))
    with pytest.raises(
        StoreError, match=r"hidden-01-00001.bin: is no shard of hidden states of layer -1 of format"
    ):
        copied.open_store()


def test_other_tokens_are_found(shared: Shared):
    index_B = np.array([3])
    ids = shared.train_windows.ids(index_B)
    with pytest.raises(StoreError, match=r"hidden000-00000.bin: window 3 was captured for other"):
        shared.open_store().states(index_B, ids[:, ::-1], [0])


def test_states_that_are_not_the_teachers_are_found(copied: Shared):
    """Every checksum holds, and the rows are its own."""
    store = copied.open_store()
    blocks, digests = zip(*(store.shard(0, 0).block(w) for w in range(100)), strict=True)
    write_shard(store, 0, [bytes(block) for block in blocks], list(digests), 1)
    with pytest.raises(
        StoreError, match=r"its hidden states are not this teacher's: [\d.]+% of pos"
    ):
        copied.verify_store()
