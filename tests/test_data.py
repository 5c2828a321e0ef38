"""Tokens: windows, the shift, the order of training, bytes, and a directory that is whole."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from omegaconf import OmegaConf

from pdx.build import build
from pdx.data import TokenSet, prepare, window_order
from pdx.data.shards import ShardWriter
from pdx.data.tokenizer import Encoder, tokenizer_digest, wrap
from pdx.errors import DataError
from pdx.known import know, known
from pdx.paths import Outputs, conf_dir

SMALL = {"seq_len": 16, "vocab_size": 300, "val_frac": 0.1, "test_frac": 0.1}


def component(value: str, **changes: Any) -> Any:
    """A component as the command line builds it."""
    node = OmegaConf.load(conf_dir() / "data" / f"{value}.yaml")
    return build(OmegaConf.merge(node, changes), "data")  # type: ignore[arg-type]


def words(rng: np.random.Generator, num: int) -> str:
    """Text of lines of eight made-up words."""
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=(num, 5))
    flat = ["".join(row) for row in letters]
    return "\n".join(" ".join(flat[i : i + 8]) for i in range(0, num, 8)) + "\n"


def write_corpus(directory: Path, texts: list[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (directory / f"{number:03}.txt").write_text(text, encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A corpus whose token ids are given: two documents, id 9 ends each."""

    stride: int
    document_mask: bool

    version: ClassVar[int] = 1
    documents = ((0, 1, 2, 9), (3, 4, 5, 6, 7, 9))

    def content(self) -> dict[str, Any]:
        return {}

    def build(self, directory: Path) -> dict[str, Any]:
        splits = {}
        for split in ("student", "teacher"):
            writer = ShardWriter(directory, split, dtype="uint16", seq_len=4, **self.__dict__)
            for ids in self.documents:
                writer.add(np.array(ids), np.array([i + 1 for i in ids[:-1]] + [0]))
                writer.flush()
            splits[split] = writer.finish()
        facts = {"vocab_size": 10, "eos_id": 9, "seq_len": 4, "tokenizer_digest": "-"}
        return {**facts, **self.__dict__, "dtype": "uint16", "splits": splits}


def given(tmp_path: Path, stride: int, document_mask: bool = False) -> TokenSet:
    return prepare(Given(stride=stride, document_mask=document_mask), Outputs(tmp_path))


# ---- windows -------------------------------------------------------------------------


def test_windows_and_shift(tmp_path: Path):
    windows = given(tmp_path, stride=4).windows("student")  # stream: 0 1 2 9 3 4 5 6 7 9
    assert (windows.num_windows, windows.num_tokens, windows.num_unique_tokens) == (2, 8, 8)
    batch = windows.batch(np.array([1, 0]))
    assert batch.tokens_BL.tolist() == [[3, 4, 5, 6], [0, 1, 2, 9]]
    assert batch.targets_BL.tolist() == [[4, 5, 6, 7], [1, 2, 9, 3]]
    assert batch.mask_BL.all() and batch.document_BL is None
    assert str(batch.targets_BL.dtype) == "torch.int64" and str(batch.mask_BL.dtype) == "torch.bool"
    assert windows.ids(np.array([0])).tolist() == [[0, 1, 2, 9, 3]]
    # a token's bytes are its id + 1, eos has none
    assert windows.window_bytes(np.array([1, 0])).tolist() == [5 + 6 + 7 + 8, 2 + 3 + 0 + 4]
    assert windows.num_bytes == 26 + 9


def test_overlapping_windows_are_counted_as_used(tmp_path: Path):
    windows = given(tmp_path, stride=2).windows("student")
    assert windows.ids(np.arange(3))[:, 0].tolist() == [0, 2, 3]
    assert (windows.num_windows, windows.num_tokens, windows.num_unique_tokens) == (3, 12, 8)
    assert windows.window_bytes(np.arange(3)).tolist() == [9, 0 + 4 + 5 + 6, 26]


def test_document_mask(tmp_path: Path):
    windows = given(tmp_path, stride=4, document_mask=True).windows("student")
    batch = windows.batch(np.array([0, 1]))
    assert batch.mask_BL.tolist() == [[True, True, True, False], [True] * 4]
    assert batch.document_BL is not None
    assert batch.document_BL.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert windows.window_bytes(np.array([0, 1])).tolist() == [2 + 3, 26]
    shifted = given(tmp_path, stride=1, document_mask=True).windows("student")
    batch = shifted.batch(np.array([2]))  # 2 9 | 3 4 -> 5
    assert batch.document_BL is not None
    assert batch.document_BL.tolist() == [[0, 0, 1, 1]]
    assert batch.mask_BL.tolist() == [[True, False, True, True]]


def test_several_splits_follow_each_other(tmp_path: Path):
    token_set = given(tmp_path, stride=4)
    both, one = token_set.windows("student", "teacher"), token_set.windows("student")
    assert both.num_windows == 4 and both.num_bytes == 2 * one.num_bytes
    assert both.ids(np.array([3, 0, 2])).tolist() == one.ids(np.array([1, 0, 0])).tolist()
    assert len({both.digest, one.digest, token_set.windows("teacher").digest}) == 3
    for index in (4, -1):
        with pytest.raises(IndexError):
            both.ids(np.array([index]))
    with pytest.raises(DataError, match=r"split=val: .* has none; it has student, teacher"):
        token_set.windows("val")


def test_a_truncated_shard_is_named(tmp_path: Path):
    token_set = given(tmp_path, stride=4)
    shard = token_set.dir / "student.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"student\.bin: holds 18 bytes, its manifest says 20"):
        token_set.windows("student").ids(np.array([0]))


# ---- order ---------------------------------------------------------------------------


def test_window_order_is_a_permutation_of_the_prefix_in_each_epoch():
    order = window_order(100, 13, 0, 0, 39)
    epochs = order.reshape(3, 13)
    for epoch in epochs:
        assert sorted(epoch) == list(range(13))
    assert len({tuple(e) for e in epochs}) == 3
    assert not np.array_equal(epochs[0], window_order(100, 13, 1, 0, 13))
    assert not np.array_equal(epochs[0], np.arange(13))


def test_window_order_is_pure_and_stays_the_same_between_versions():
    whole = window_order(20, 7, 3, 0, 40)
    for start in (0, 5, 6, 7, 30):  # resuming anywhere gives the same sequences
        assert np.array_equal(window_order(20, 7, 3, start, 10), whole[start : start + 10])
    assert whole[:10].tolist() == ORDER
    with pytest.raises(DataError, match="num_used=21: must be from 1 to the 20 windows"):
        window_order(20, 21, 0, 0, 1)


ORDER = [
    0,
    4,
    1,
    5,
    6,
    3,
    2,
    0,
    6,
    2,
]  # golden: a change reorders everyone's training ("Numbers changed")


# ---- whole or absent -----------------------------------------------------------------


SCRIPT = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from pdx.data import prepare
from pdx.paths import Outputs

@dataclass(frozen=True, kw_only=True)
class Slow:
    version: ClassVar[int] = 1
    def content(self): return {}
    def build(self, directory):
        (directory / "student.bin").write_bytes(b"half")
        if sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)
        (Path(sys.argv[1]) / f"built-{os.getpid()}").touch()
        return {"vocab_size": 1, "eos_id": 0, "seq_len": 1, "tokenizer_digest": "-", "splits": {}}

print(prepare(Slow(), Outputs(Path(sys.argv[1]))).dir)
"""


def start(tmp_path: Path, mode: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), mode]
    env = {**os.environ, "PYTHONPATH": str(conf_dir().parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)


def test_two_processes_make_it_once(tmp_path: Path):
    both = [start(tmp_path, "live") for _ in range(2)]
    found = {p.communicate(timeout=60)[0] for p in both}
    assert len(found) == 1 and all(p.returncode == 0 for p in both)
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_killed_halfway_leaves_nothing_half_written(tmp_path: Path):
    killed = start(tmp_path, "die")
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert list((tmp_path / "data").glob(".tmp-*/student.bin"))  # it did die half-way
    assert not list((tmp_path / "data").glob("[!.]*"))
    again = start(tmp_path, "live")
    directory = Path(again.communicate(timeout=60)[0].strip())
    assert (directory / "manifest.json").exists()
    assert not list((tmp_path / "data").glob(".tmp-*"))


def test_preparing_twice_tokenises_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    write_corpus(tmp_path / "in", [words(rng, 200) for _ in range(20)])
    data = component("files", **SMALL, paths=[f"{tmp_path}/in/*.txt"])
    first = prepare(data, Outputs(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(type(data), "build", lambda *_: pytest.fail("tokenised again"))
        again = prepare(data, Outputs(tmp_path / "out"))
    assert again.manifest == first.manifest and not list(first.dir.glob("spool*"))
    elsewhere = prepare(data, Outputs(tmp_path / "out2"))  # the same bytes, made anew
    for name in ("student.bin", "val.bin", "tokenizer/tokenizer.json"):
        assert (elsewhere.dir / name).read_bytes() == (first.dir / name).read_bytes()
    (tmp_path / "in" / "000.txt").write_text("another text\n" * 40)
    assert prepare(data, Outputs(tmp_path / "out")).digest == first.digest  # read once a process
    with pytest.raises(DataError, match=r"data\.paths=.*: changed since it was first read here"):
        prepare(data, Outputs(tmp_path / "out3"))  # its tokens would have another text's name
    monkeypatch.setattr("pdx.known._KNOWN", {})  # as in another process
    assert prepare(data, Outputs(tmp_path / "out")).digest != first.digest


def test_what_one_process_read_of_a_corpus_others_take_on_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(0)
    write_corpus(tmp_path / "in", [words(rng, 200) for _ in range(20)])
    data = component("files", **SMALL, paths=[f"{tmp_path}/in/*.txt"])
    monkeypatch.setattr("pdx.known._KNOWN", {})
    first = prepare(data, Outputs(tmp_path / "out"))
    handed = json.loads(json.dumps(known()))
    monkeypatch.setattr("pdx.known._KNOWN", {})
    know(handed)
    monkeypatch.setattr(type(data), "content", lambda _: pytest.fail("read the corpus again"))
    assert prepare(data, Outputs(tmp_path / "out")).digest == first.digest


# ---- tokens and bytes ----------------------------------------------------------------


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable alphabet of bytes, written out anew."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}


def test_bytes_are_exact_and_text_survives(tmp_path: Path):
    rng = np.random.default_rng(1)
    texts = [
        words(rng, 200) + f"na\u00efve \u2603 \U0001d11e {n} <|endoftext|> \r\n" for n in range(20)
    ]
    write_corpus(tmp_path / "in", texts)
    (tmp_path / "in" / "empty.txt").write_text("  \n")
    data = component("files", **SMALL, paths=[f"{tmp_path}/in/*.txt"], stride=5, document_mask=True)
    token_set = prepare(data, Outputs(tmp_path / "out"))
    tokenizer = token_set.tokenizer()
    assert tokenizer.eos_token_id == token_set.eos_id and len(tokenizer) == 300
    assert tokenizer_digest(tokenizer) == token_set.tokenizer_digest
    alphabet = byte_of_character()
    seen = Counter()
    for split in ("student", "teacher", "val", "test"):
        ids = np.fromfile(token_set.dir / f"{split}.bin", dtype=np.uint16).tolist()
        tokens = tokenizer.convert_ids_to_tokens(ids)
        raw = [b"" if t == "<|endoftext|>" else bytes(alphabet[c] for c in t) for t in tokens]
        ends = [i for i, token in enumerate(ids) if token == token_set.eos_id]
        for before, end in zip([-1, *ends], ends, strict=False):
            seen[b"".join(raw[before + 1 : end]).decode()] += 1
        windows = token_set.windows(split)
        by_hand = [
            sum(len(raw[w * 5 + i + 1]) for i in range(16) if ids[w * 5 + i] != token_set.eos_id)
            for w in range(windows.num_windows)
        ]
        assert windows.window_bytes(np.arange(windows.num_windows)).tolist() == by_hand
        assert windows.num_bytes == sum(by_hand)
        mask = windows.batch(np.arange(windows.num_windows)).mask_BL.numpy()
        inputs = windows.ids(np.arange(windows.num_windows))[:, :-1]
        assert np.array_equal(mask, inputs != token_set.eos_id)
    assert seen == Counter(texts)  # each document once, whole, and only eos ends one


def test_bytes_of_a_tokenizer_that_is_not_byte_level():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {"[UNK]": 0, "</s>": 1, "\u2581the": 2, "\u2581ti": 3, "ger": 4, "\u2581e": 5}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.model.continuing_subword_prefix = ""
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    encoder = Encoder(wrap(tokenizer, eos_token="</s>"))
    text = "the tiger \u00e9 \u2603 </s>"
    (ids, counts), (none, no_counts) = encoder.encode([text, ""])
    assert ids.tolist()[:4] == [2, 3, 4, 5] and 1 not in ids
    assert counts.tolist()[:4] == [3, 3, 3, 3]  # " e" with its accent is 3 bytes
    assert counts.sum() == len(text.encode())
    assert len(none) == len(no_counts) == 0
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # which drops what is between words
    ((_, counts),) = Encoder(wrap(tokenizer, eos_token="</s>")).encode(["ger  ger \n"])
    assert counts.tolist() == [3, 7]
