"""Corpora: what is read, which split it goes to, what bad input gets, and the exact source."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data import SMALL, component, words, write_corpus

from pdx.data import prepare
from pdx.data.corpus import SPLITS
from pdx.data.split import Sketches, assign, clusters, leaks
from pdx.data.tokenizer import Encoder, train_bpe
from pdx.errors import DataError
from pdx.paths import Outputs

SHARES = {"val": 0.1, "test": 0.1, "teacher": 0.5}


def edited(rng: np.random.Generator, text: str, every: int = 10) -> str:
    """A near-copy: every tenth line rewritten, the first three dropped."""
    lines = text.splitlines()
    for number in range(int(rng.integers(every)), len(lines), every):
        lines[number] = words(rng, 8).strip()
    return "\n".join(lines[3:])


def sketched(texts: list[str], **options: Any) -> Sketches:
    sketches = Sketches(**options)
    for text in texts:
        sketches.add(text)
    return sketches


# ---- splits --------------------------------------------------------------------------


@pytest.mark.parametrize("num_words", [40, 100, 800])  # 5 and 12 lines are read as words
@pytest.mark.parametrize("max_shingles", [10**9, 3000])
def test_no_near_duplicate_crosses_splits(num_words: int, max_shingles: int):
    rng = np.random.default_rng(0)
    header = words(rng, 80) if num_words == 800 else ""  # boilerplate of all files
    bodies = [words(rng, num_words) for _ in range(40)]
    if num_words == 40:  # one changed word, no lines
        copies = [" ".join(b.split()[:-1]) + " changed" for b in bodies[:20]]
    else:
        copies = [header + edited(rng, b) for b in bodies[:20]]
        bodies = [header + b for b in bodies]
    family = words(rng, 800)
    families = [edited(rng, family, 20) for _ in range(30)]  # more than RARE copies of one text
    texts = [*bodies, *copies, *families]
    sketches = sketched(texts, max_shingles=max_shingles)
    assert (sketches.sample_one_in > 1) == (max_shingles == 3000)
    cluster_of = clusters(sketches, [str(n) for n in range(len(texts))])
    assert np.array_equal(cluster_of[:20], cluster_of[40:60])
    assert len(set(cluster_of[60:])) == 1
    assert len(set(cluster_of[:40])) == 40  # ... and the header joins nothing
    sizes = np.array([len(t) for t in texts])
    if num_words == 800 and max_shingles == 10**9:
        for seed in range(5):
            split_of = assign(cluster_of, sizes, SHARES, seed)
            leak = leaks(sketches, split_of)
            # val holds 6 or more bodies of 96 own shingles, and all have the header's six
            assert 0 < (leak["val_in_train"]["five_line"] or 0) < 0.02
            for copy in range(20):
                assert split_of[copy] == split_of[40 + copy]


def test_short_copies_are_found_however_many_documents_there_are():
    rng = np.random.default_rng(5)
    texts = [words(rng, 40) for _ in range(200)]
    copies = [" ".join(text.split()[1:]) for text in texts]
    sketches = sketched(texts + copies, max_shingles=400)
    assert sketches.sample_one_in >= 1000
    cluster_of = clusters(sketches, [str(n) for n in range(400)])
    assert np.array_equal(cluster_of[:200], cluster_of[200:]) and len(set(cluster_of)) == 200


def test_leaks_are_measured():
    rng = np.random.default_rng(1)
    text = words(rng, 80)  # 10 lines: 6 shingles of lines
    half = "\n".join(text.splitlines()[:7]) + "\n" + words(rng, 24)  # 3 of 6 are the same
    split_of = np.array([SPLITS.index(s) for s in ("student", "teacher", "val", "test")])
    found = leaks(sketched([text, words(rng, 80), half, text]), split_of)
    assert found["val_in_train"]["five_line"] == 0.5
    assert found["test_in_train"] == {"five_line": 1.0, "word": 1.0}
    assert found["student_in_teacher"]["five_line"] == 0.0


def test_shares_are_met_by_bytes_and_groups_stay_whole():
    rng = np.random.default_rng(2)
    sizes = rng.integers(100, 10_000, size=2000)
    sizes[0] = sizes[1:].sum() // 3  # a giant, which cannot be held out
    cluster_of = np.concatenate([[0], rng.integers(1, 500, size=1999)])
    cluster_of = np.unique(cluster_of, return_inverse=True)[1]
    seen = set()
    for seed in range(3):
        split_of = assign(cluster_of, sizes, {"val": 0.04, "test": 0.1, "teacher": 0.5}, seed)
        share = np.bincount(split_of, weights=sizes, minlength=4) / sizes.sum()
        wanted = {"val": 0.04, "test": 0.1, "teacher": 0.43, "student": 0.43}
        for split, fraction in wanted.items():
            assert share[SPLITS.index(split)] == pytest.approx(fraction, abs=0.005)
        for cluster in range(cluster_of.max() + 1):
            assert len(set(split_of[cluster_of == cluster])) == 1
        seen.add(split_of.tobytes())
        again = assign(cluster_of, sizes, {"val": 0.04, "test": 0.1, "teacher": 0.5}, seed)
        assert np.array_equal(split_of, again)
    assert len(seen) == 3
    half = np.array([55, 9, 9, 9, 9, 9])  # closest to 30 would often be the giant alone
    for seed in range(10):
        alone = assign(np.arange(6), half, {"val": 0.3, "test": 0.1, "teacher": 0}, seed)
        assert SPLITS[alone[0]] == "student"
    no_teacher = assign(cluster_of, sizes, {"val": 0.1, "test": 0.1, "teacher": 0}, 0)
    assert SPLITS.index("teacher") not in no_teacher


def test_stdlib_splits_leak_little():
    data = component("stdlib")
    documents = list(data.documents())
    assert len(documents) > 300 and len(data.identity()) == 64
    names = {d.name for d in documents}
    assert {"json/decoder.py", "argparse.py"} <= names
    assert not [n for n in names if re.search(r"site-packages|__pycache__|(^|/)tests?/", n)]
    assert len(list(component("stdlib", include_tests=True)._texts())) >= len(documents)
    sketches = sketched([d.text for d in documents])
    cluster_of = clusters(sketches, [d.group for d in documents])
    sizes = np.array([len(d.text) for d in documents])
    split_of = assign(cluster_of, sizes, {"val": 0.04, "test": 0.04, "teacher": 0.5}, 0)
    by_directory: dict[str, set[int]] = {}
    for document, split in zip(documents, split_of, strict=True):
        by_directory.setdefault(document.group, set()).add(int(split))
    assert all(len(splits) == 1 for splits in by_directory.values())
    assert len(by_directory["encodings"]) == 1
    for kinds in leaks(sketches, split_of).values():
        assert (kinds["five_line"] or 0) < 0.005


def test_the_tokenizer_learns_from_train_alone(tmp_path: Path):
    rng = np.random.default_rng(2)
    names = ["".join(rng.choice(list("bcdfghjklm"), 6)) for _ in range(30)]
    write_corpus(tmp_path / "in", [f"{name}\n" * 300 for name in names])
    changes = {**SMALL, "vocab_size": 340, "paths": [f"{tmp_path}/in/*.txt"]}
    token_set = prepare(component("files", **changes), Outputs(tmp_path / "out"))
    tokenizer = token_set.tokenizer()
    whole = {n for n in names if len(tokenizer.encode(n, add_special_tokens=False)) == 1}
    held_out = set()
    for split in ("val", "test"):
        ids = np.fromfile(token_set.dir / f"{split}.bin", dtype=np.uint16)
        held_out |= {n for n in names if n in tokenizer.decode(ids)}
    assert len(held_out) >= 2 and whole
    assert not whole & held_out


def test_bytes_of_a_byte_level_tokenizer_that_normalises():
    from tokenizers import normalizers

    tokenizer = train_bpe(iter(["some text"]), 260)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    ((ids, counts),) = Encoder(tokenizer).encode(["e\u0301x"])  # two characters made one
    assert len(ids) == 3 and counts.sum() == 4


# ---- what is read --------------------------------------------------------------------


def texts_of(data: Any) -> list[str]:
    return [d.text for d in data.documents()]


def test_files_of_all_kinds(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_corpus(tmp_path / "a" / "deep", ["one", "two"])
    (tmp_path / "top.md").write_text("three")
    lines = [json.dumps({"body": "four"}), "", json.dumps({"body": "five"})]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"body": ["six", "seven"], "n": [1, 2]}), tmp_path / "r.parquet")
    changes = {"paths": [f"{tmp_path}/**/*.*", f"{tmp_path}/top.md"], "text_field": "body"}
    data = component("files", **changes)
    found = {d.text: d.group for d in data.documents()}
    assert sorted(found) == sorted(["one", "two", "three", "four", "five", "six", "seven"])
    assert found["one"] == found["two"] == "a/deep"
    assert len(set(found.values())) == 6
    free = {d.group for d in component("files", **changes, group_by="document").documents()}
    assert len(free) == 7
    before = data.identity()
    (tmp_path / "top.md").write_text("other")
    assert data.identity() != before


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local dataset of two shards, and a cache of its own."""
    import datasets.config
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(3)
    (tmp_path / "in").mkdir()
    for shard in range(2):
        texts = [words(rng, 200) for _ in range(20)]
        pq.write_table(pa.table({"text": texts, "n": range(20)}), tmp_path / f"in/{shard}.parquet")
    return tmp_path / "in"


def test_hub_reads_the_same_streaming_or_not(parquet: Path, tmp_path: Path):
    changes = {**SMALL, "name": str(parquet), "subset": None, "tokenizer": "bpe"}
    all_of_it, streamed = (component("hub", **changes, streaming=s) for s in (False, True))
    assert texts_of(all_of_it) == texts_of(streamed) and len(texts_of(streamed)) == 40
    assert len(texts_of(component("hub", **changes, max_documents=7))) == 7
    token_sets = [prepare(d, Outputs(tmp_path / "out")) for d in (all_of_it, streamed)]
    bins = [(t.dir / "student.bin").read_bytes() for t in token_sets]
    assert bins[0] == bins[1] and token_sets[0].digest != token_sets[1].digest
    before = streamed.identity()
    (parquet / "1.parquet").unlink()
    assert streamed.identity() != before
    assert component("hub", revision="a" * 40).identity() == "a" * 40  # no network is asked


def test_hub_says_what_it_cannot_read(parquet: Path):
    name = {"name": str(parquet), "subset": None}
    for changes, message in [
        ({"split": "banana"}, r"data\.name=.*split=banana\): cannot be read \(.*banana"),
        ({"subset": "nope"}, r"subset=nope.*cannot be read \(.*nope.*check name, subset"),
        ({"text_field": "body"}, r"data\.text_field=body: row 0 of .*its columns are n, text"),
        ({"text_field": "n"}, r"data\.text_field=n: row 0 .* no such text"),
    ]:
        with pytest.raises(DataError, match=message):
            texts_of(component("hub", **{**name, **changes}))


def test_a_pretrained_tokenizer_is_taken_as_it_is(tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    from pdx.data.tokenizer import tokenizer_digest, wrap

    rng = np.random.default_rng(4)
    write_corpus(tmp_path / "in", [words(rng, 200) for _ in range(20)])
    letters = {c: n for n, c in enumerate(["<unk>", "<end>", *"abcdefghijklmnopqrstuvwxyz"])}
    backend = Tokenizer(models.WordPiece(letters, unk_token="<unk>"))
    backend.model.continuing_subword_prefix = ""
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    made = wrap(backend, eos_token="<end>", unk_token="<unk>")
    made.save_pretrained(str(tmp_path / "letters"))
    wrap(backend, unk_token="<unk>").save_pretrained(str(tmp_path / "no_eos"))
    changes = {**SMALL, "paths": [f"{tmp_path}/in/*.txt"], "vocab_size": None}
    outputs = Outputs(tmp_path / "out")
    data = component("files", **changes, tokenizer=str(tmp_path / "letters"))
    token_set = prepare(data, outputs)
    assert (token_set.vocab_size, token_set.eos_id) == (28, 1)
    assert token_set.tokenizer_digest == tokenizer_digest(made)
    assert token_set.manifest["splits"]["val"]["num_documents"] == 2
    bytes_a_token = token_set.windows("val").num_bytes / token_set.windows("val").num_tokens
    assert bytes_a_token == pytest.approx(6 / 5, rel=0.01)  # five letters and a space or newline
    with pytest.raises(DataError, match=r"data\.tokenizer=.*no_eos: has no eos token.*set one"):
        prepare(component("files", **changes, tokenizer=str(tmp_path / "no_eos")), outputs)
    with pytest.raises(DataError, match=r"data\.tokenizer=.*/nowhere: cannot be loaded"):
        prepare(component("files", **changes, tokenizer=str(tmp_path / "nowhere")), outputs)
