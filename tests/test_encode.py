"""Encoding in several processes: the same ids, in order, and nothing done twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numerics import component

from pdx.data import encode, prepare, text
from pdx.data.encode import Parts, Texts, num_workers
from pdx.data.tokenizer import EOS, Encoder, train_bpe
from pdx.paths import Outputs

WORDS = ["the", "cat", "sat", "on", "a", "mat", "été", "and", "12", "more,", "then", "left"]
DOCUMENTS = [" ".join(WORDS[i % 7 : 3 + i % 9]) + f" {i}" for i in range(40)]
DOCUMENTS[11] = f"an end {EOS} that is text"
CHUNKS = [list(range(i, min(i + 6, 40))) for i in range(0, 40, 6)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(train_bpe(iter(DOCUMENTS * 3), 280))


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    payloads = [document.encode() for document in DOCUMENTS]
    (tmp_path / "spool").write_bytes(b"".join(payloads))
    return Texts(tmp_path / "spool", np.cumsum([0, *map(len, payloads)]))


def flat(parts: Parts) -> list[list[int]]:
    """Ids and bytes of every document, one after the other."""
    found = [pair for part in parts.read("student", CHUNKS) for pair in part]
    return [[*ids.tolist(), -1, *counts.tolist()] for ids, counts in found]


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_what_the_encoder_says(
    encoder: Encoder, texts: Texts, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
):
    """Special tokens in the text are text, also after the way into another process."""
    monkeypatch.setattr(encode, "num_workers", lambda num_chunks: workers)
    wanted = [[*ids.tolist(), -1, *n.tolist()] for ids, n in encoder.encode(DOCUMENTS)]
    parts = Parts(tmp_path / "parts", encoder, texts)
    assert flat(parts) == wanted
    parts.remove()
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_only_missing_parts_are_encoded(
    encoder: Encoder, texts: Texts, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(encode, "num_workers", lambda num_chunks: workers)
    parts = Parts(tmp_path / "parts", encoder, texts)
    wanted = flat(parts)
    files = sorted((tmp_path / "parts").iterdir())
    assert len(files) == len(CHUNKS)
    before = {path: path.stat().st_ino for path in files}
    gone = files[::2]
    for path in gone:
        path.unlink()
    (tmp_path / "parts" / "student-0000000.tmp.npz").write_bytes(b"cut off")
    assert flat(parts) == wanted
    kept = [path for path in files if path not in gone]
    assert all(path.stat().st_ino == before[path] for path in kept)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its open file
def test_a_preparation_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same tokens as without the kill; the chunks that were finished are not encoded again."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        words = rng.choice(WORDS, 300)
        (corpus / f"{i}.txt").write_text("\n".join(" ".join(w) for w in np.split(words, 30)))
    data = component(
        "data",
        "files",
        paths=[f"{corpus}/*.txt"],
        group_by="document",
        vocab_size=280,
        seq_len=16,
        val_frac=0.1,
        test_frac=0.1,
    )
    monkeypatch.setattr(text, "CHUNK_BYTES", 4000)
    written: list[Path] = []
    write = encode._write

    def killed(path: Path, *rest: Any) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(encode, "num_workers", lambda num_chunks: 1)
    monkeypatch.setattr(encode, "_write", killed)
    outputs = Outputs(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prepare(data, outputs)
    first = list(written)
    assert len(first) == 7
    written[:] = [tmp_path] * 8  # no more kills
    done = prepare(data, outputs)
    assert not set(first) & set(written[8:]) and len(written) > 8
    assert not list(outputs.data.glob(".parts-*"))
    other = prepare(data, Outputs(tmp_path / "other"))
    for split in ("student", "val", "test"):
        ours, theirs = (d.dir / f"{split}.bin" for d in (done, other))
        assert ours.read_bytes() == theirs.read_bytes()


def test_little_text_needs_no_processes():
    assert num_workers(0) == num_workers(1) == 1
