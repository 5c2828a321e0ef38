"""Corpora, tokenizers and teachers behind URLs: the same as on this machine, or refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numerics import component
from served import serve
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from pdx.data import tokenizer
from pdx.data.files import Files
from pdx.errors import DataError
from pdx.remote import cache_dir, fetch
from pdx.teacher import Pretrained, weights_digest

SETTINGS = {"seq_len": 8, "vocab_size": 300, "stride": None}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL at which it is served."""
    monkeypatch.setenv("PDX_CACHE", str(tmp_path / "cache"))
    another_process(monkeypatch)
    directory = tmp_path / "served"
    directory.mkdir()
    with serve(directory) as url:
        yield directory, url


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was asked before, as a new process does not know it."""
    monkeypatch.setattr("pdx.known._KNOWN", {})


def corpus(directory: Path) -> None:
    for folder, names in {"a": ["1.txt", "2.md"], "b": ["3.txt"]}.items():
        (directory / folder).mkdir()
        for name in names:
            (directory / folder / name).write_text(f"text of {name}\n" * 5)


def files(*paths: str) -> Files:
    return component("data", "files", **SETTINGS, paths=list(paths))


def test_a_corpus_behind_a_url_is_the_same_corpus(served: tuple[Path, str]):
    directory, url = served
    corpus(directory)
    here, there = files(f"{directory}/**/*.*"), files(f"{url}/**/*.*")
    assert list(there.documents()) == list(here.documents())
    assert there.identity() == here.identity()


def test_a_file_that_changes_is_fetched_by_the_next_process(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
):
    directory, url = served
    corpus(directory)
    data = files(f"{url}/a/*.txt")
    before = data.identity()
    (directory / "a" / "1.txt").write_text("another text, and a longer one\n" * 5)
    assert data.identity() == before, "one process sees one corpus"
    another_process(monkeypatch)
    assert data.identity() != before
    assert [d.text for d in data.documents()] == ["another text, and a longer one\n" * 5]


def test_a_transfer_that_breaks_off_leaves_nothing(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
):
    directory, url = served
    (directory / "broken.txt").write_text("some text\n" * 1000)
    with pytest.raises(DataError, match=r"data\.paths=http.*broken.*: cannot be reached \("):
        fetch("data.paths", f"{url}/broken*.txt")
    assert not [path for path in cache_dir().rglob("*") if path.suffix != ".lock"]


def test_a_teacher_behind_a_url_is_the_same_teacher(served: tuple[Path, str]):
    directory, url = served
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory / "teacher")
    vocab = {"<eos>": 0, "<unk>": 1} | {chr(97 + i): i + 2 for i in range(14)}
    ours = tokenizer.wrap(Tokenizer(models.WordLevel(vocab, unk_token="<unk>")), eos_token="<eos>")
    ours.save_pretrained(directory / "teacher")
    (directory / "teacher" / "pytorch_model.bin").write_bytes(b"never loaded")
    teacher = Pretrained(path=f"{url}/teacher/", revision=None, dtype="auto", padding="refuse")
    assert teacher.directory is not None
    assert weights_digest(teacher.directory) == weights_digest(directory / "teacher")
    assert not list(teacher.directory.glob("*.bin")), "a pickle was fetched"
    theirs = tokenizer.load_pretrained(f"{url}/teacher")
    assert tokenizer.tokenizer_digest(theirs) == tokenizer.tokenizer_digest(ours)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{url}/none/*.txt", r"data\.paths=http.*: (matches no file|cannot be reached)"),
        (
            "{url}/a",
            r"data\.paths=http.*: matches no file of .txt.* a directory is written with /\*",
        ),
        ("http://127.0.0.1:1/*.txt", r"data\.paths=http.*: cannot be reached \("),
        ("nosuch://x/*.txt", r"data\.paths=nosuch://x/\*\.txt: cannot be reached \(.*nosuch"),
        ("oss://bucket/*.txt", r"data\.paths=oss://.*: its protocol needs a package \(.*ossfs"),
    ],
)
def test_what_cannot_be_fetched_is_refused(served: tuple[Path, str], url: str, message: str):
    corpus(served[0])
    with pytest.raises(DataError, match=message):
        files(url.format(url=served[1])).identity()


def test_a_store_of_objects_is_read_as_a_web_server_is(served: tuple[Path, str]):
    """Object stores have keys and no folders; fsspec's own in memory stands for one."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("x/1.txt", "x/y/2.txt"):
        memory.pipe(f"/bucket/{name}", b"text of an object\n" * 4)
    found = fetch("data.paths", "memory://bucket/x/**/*.txt")
    assert sorted(p.relative_to(found).as_posix() for p in found.rglob("*.txt")) == [
        "1.txt",
        "y/2.txt",
    ]
    assert np.all([p.read_bytes() == b"text of an object\n" * 4 for p in found.rglob("*.txt")])
