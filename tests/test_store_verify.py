"""``pdx verify``: what is wrong with a store is named, whatever it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numerics import taught

from pdx.config import Run
from pdx.env import Env
from pdx.errors import StoreError
from pdx.files import read_json, write_json
from pdx.frozen import load_model
from pdx.shared import Shared
from pdx.store.format import shard_path

Tiny = Callable[..., tuple[Run, Env]]
SETTINGS = [
    "train.num_tokens=16384",
    "teacher.init_std=0.4",
    "teacher.num_tokens=2048",
    "store.shard_tokens=6400",
]
KINDS = {
    "topk": ["store.top_k=8"],
    "sampled": ["store=sampled", "signal=sampled"],
    "head_sampled": ["store=head_sampled", "signal=head_sampled", "signal.top_k=8"],
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module", params=sorted(KINDS))
def shared(tiny_at: Tiny, outputs: Path, request: pytest.FixtureRequest) -> Shared:
    shared = Shared.of(*taught(*tiny_at(outputs, *SETTINGS, *KINDS[request.param])))
    shared.open_store()
    return shared


def test_a_whole_store_passes_and_says_how_near_it_is(shared: Shared):
    verdict = shared.verify_store()
    assert verdict.num_windows == 256 and verdict.num_compared == 16
    assert verdict.stored < 1e-3 and verdict.control < 1e-3 and verdict.apart <= 0.01
    assert "256 windows: every checksum and every token digest holds" in str(verdict)


def test_a_flipped_bit_anywhere_is_named(copied: Shared):
    path = shard_path(copied.store_dir, 1)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0b100
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"shard-00001.bin: the block of window 199 was altered"):
        copied.verify_store()


def test_a_missing_shard_is_named(copied: Shared):
    shard_path(copied.store_dir, 2).unlink()
    with pytest.raises(StoreError, match=r"shard-00002.bin: is missing"):
        copied.verify_store()


@pytest.mark.parametrize("key", ["teacher_id", "tokenizer_digest", "windows_digest"])
def test_another_teacher_or_tokenizer_is_named(copied: Shared, key: str):
    manifest = read_json(copied.store_dir / "manifest.json")
    write_json(copied.store_dir / "manifest.json", manifest | {key: "other"})
    with pytest.raises(StoreError, match=rf"{key}: captured with 'other', this run uses '\w+'"):
        copied.verify_store()


def test_a_teacher_whose_weights_changed_under_its_name_is_found(copied: Shared):
    directory = copied.teacher_dir(copied.run.teacher)
    model = load_model(directory, "float32")
    model.lm_head.weight.data.mul_(1.3)
    model.save_pretrained(directory)
    with pytest.raises(StoreError, match=r"its rows are not this teacher's: [\d.]+% of positions"):
        copied.verify_store()


def test_a_shifted_token_is_found(copied: Shared, monkeypatch: pytest.MonkeyPatch):
    """One token is gone from the middle of the text: all that follows has moved by one."""
    from pdx.data import Windows

    ids = Windows.ids

    def shifted(self: Windows, index_B: np.ndarray) -> np.ndarray:
        found = ids(self, index_B).copy()
        found[np.asarray(index_B) >= 37] = np.roll(found[np.asarray(index_B) >= 37], -1, axis=-1)
        return found

    monkeypatch.setattr(Windows, "ids", shifted)
    with pytest.raises(StoreError, match=r"window 37 was captured for other tokens"):
        copied.verify_store()
