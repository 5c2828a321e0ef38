"""What bad input to the data axis gets, and the source whose best loss is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data import SMALL, component, words, write_corpus

from pdx.data import prepare
from pdx.errors import ConfigError, DataError
from pdx.paths import Outputs


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        ("stdlib", {"seq_len": 0}, r"data\.seq_len=0: must be >= 1"),
        ("stdlib", {"stride": 0}, r"data\.stride=0: must be >= 1, or null"),
        ("stdlib", {"val_frac": 0.0}, r"data\.val_frac=0\.0: must lie strictly between 0 and 1"),
        ("stdlib", {"test_frac": 1.5}, r"data\.test_frac=1\.5: must lie strictly between"),
        ("stdlib", {"val_frac": 0.5, "test_frac": 0.5}, r"data\.val_frac \+ data\.test_frac=1"),
        ("stdlib", {"teacher_frac": 1.0}, r"data\.teacher_frac=1\.0: must be >= 0 and < 1"),
        ("stdlib", {"split_seed": -1}, r"data\.split_seed=-1: must be >= 0"),
        ("stdlib", {"vocab_size": 256}, r"data\.vocab_size=256: must be from 257"),
        ("stdlib", {"vocab_size": None}, r"data\.vocab_size=None: must be from 257"),
        ("stdlib", {"tokenizer": ""}, r"data\.tokenizer='': must be bpe, a directory or a hub"),
        ("stdlib", {"tokenizer": "gpt2"}, r"vocab_size=1024: must be null with .*tokenizer=gpt2"),
        ("stdlib", {"seq_lenn": 1}, r"data\.seq_lenn: unknown field .*Did you mean 'seq_len'"),
        ("stdlib", {"seq_len": "x"}, r"data\.seq_len"),
        ("files", {"paths": []}, r"data\.paths=\[\]: must name at least one glob"),
        ("files", {"group_by": "x"}, r"data\.group_by=x: must be directory or document"),
        ("hub", {"name": ""}, r"data\.name='': must be a dataset's name"),
        ("hub", {"max_documents": 0}, r"data\.max_documents=0: must be >= 1, or null"),
        ("synthetic", {"vocab_size": 1}, r"data\.vocab_size=1: must be from 2 to 256"),
        ("synthetic", {"order": 3}, r"data\.order=3: must be 1 or 2"),
        ("synthetic", {"concentration": 0.0}, r"data\.concentration=0\.0: must be from 0\.01"),
        ("synthetic", {"num_tokens_val": 0}, r"num_tokens_val=0: must be >= seq_len=64\.$"),
        ("synthetic", {"num_tokens_teacher": 9}, r"=9: must be >= seq_len=64, or 0 for no teach"),
        ("synthetic", {"seed": -1}, r"data\.seed=-1: must be >= 0"),
        ("synthetic", {"seq_len": 0}, r"data\.seq_len=0: must be >= 1"),
    ],
)
def test_a_bad_value_is_refused(value: str, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        component(value, **changes)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twenty texts, and one file of each way to be bad."""
    rng = np.random.default_rng(0)
    write_corpus(tmp_path / "good", [words(rng, 200) for _ in range(20)])
    bad = {
        "bytes.txt": b"\xff\xfe",
        "blank.txt": b" \n\n",
        "image.png": b"\x89PNG",
        "syntax.jsonl": b'{"text": "a"}\n{"text": \n',
        "field.jsonl": b'{"body": "a", "id": 1}\n',
        "number.jsonl": b'{"text": 3}\n',
        "surrogate.jsonl": b'{"text": "\\ud800"}\n',
        "broken.parquet": b"PAR1 no",
    }
    for name, payload in bad.items():
        (tmp_path / name).write_bytes(payload)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("none/*.txt", {}, r"data\.paths=.*/none/\*\.txt: matches nothing; a glob must match"),
        ("good", {}, r"data\.paths=.*/good: matches only directories; add /\*\*/\*\.txt"),
        ("image.png", {}, r"matches .*image\.png, which is none of \.txt, .*narrow the glob"),
        ("bytes.txt", {}, r"data\.paths: .*bytes\.txt cannot be read \(.*mend it"),
        ("blank.txt", {}, r"data\.paths=\[.*blank\.txt'\]: holds no text"),
        ("syntax.jsonl", {}, r"syntax\.jsonl:2 cannot be read"),
        ("field.jsonl", {}, r"data\.text_field=text: .*field\.jsonl:1 has no .*it has body, id"),
        ("number.jsonl", {}, r"data\.text_field=text: .*number\.jsonl:1 holds int, not text"),
        ("surrogate.jsonl", {}, r"document surrogate\.jsonl:1 is not valid Unicode"),
        ("broken.parquet", {}, r"data\.paths: .*broken\.parquet cannot be read"),
        ("good/*", {"val_frac": 0.01}, r"data\.val_frac=0\.01: the split 'val' has no document;"),
        ("good/*", {"test_frac": 0.01}, r"=0\.01: the split 'test' .* 20 documents in 20 groups"),
        ("good/*", {"teacher_frac": 0.01}, r"data\.teacher_frac=0\.01: the split 'teacher' has no"),
        ("good/*", {"seq_len": 4096}, r"data\.seq_len=4096: the split '\w+' has only \d+ tokens"),
        ("good/*", {"vocab_size": 60000}, r"data\.vocab_size=60000: the train text only gives \d+"),
    ],
)
def test_a_bad_corpus_is_refused(corpus: Path, path: str, changes: dict[str, Any], message: str):
    data = component("files", **{**SMALL, "paths": [f"{corpus}/{path}"], **changes})
    with pytest.raises(DataError, match=message):
        prepare(data, Outputs(corpus / "out"))
    assert not list((corpus / "out").glob("data/[!.]*")) + list((corpus / "out").glob("data/.tmp*"))


def test_no_tokens_for_a_teacher(corpus: Path):
    data = component("files", **SMALL, teacher_frac=0.0, paths=[f"{corpus}/good/*"])
    token_set = prepare(data, Outputs(corpus / "out"))
    assert not (token_set.dir / "teacher.bin").exists()
    with pytest.raises(DataError, match=r"split=teacher: .*data\.teacher_frac .* is 0, raise it"):
        token_set.windows("student", "teacher")


# ---- synthetic -----------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_synthetic_losses_are_those_of_a_long_sample(order: int):
    size = 6
    data = component("synthetic", vocab_size=size, order=order, concentration=0.5, seq_len=3)
    sample = data.sample(1_000_000, 0).tolist()
    assert min(sample) >= 0 and max(sample) < size
    measured = []
    for context in range(3):  # the plain count: -mean log p(next | context), p from the sample
        ways: dict[tuple[int, ...], dict[int, int]] = {}
        for i in range(context, len(sample)):
            after = ways.setdefault(tuple(sample[i - context : i]), {})
            after[sample[i]] = after.get(sample[i], 0) + 1
        total = 0.0
        for after in ways.values():
            seen = sum(after.values())
            total -= sum(n * np.log(n / seen) for n in after.values())
        measured.append(total / (len(sample) - context))
        assert data.context_loss(context) == pytest.approx(measured[-1], abs=0.004)
    assert data.entropy_rate() == data.context_loss(order) == data.context_loss(9)
    assert data.window_loss() == pytest.approx((measured[1] + 2 * measured[2]) / 3, abs=0.004)
    if order == 2:
        assert measured[0] - measured[1] > 0.02 and measured[1] - measured[2] > 0.05


def test_a_synthetic_chain_by_hand(monkeypatch: pytest.MonkeyPatch):
    data = component("synthetic", vocab_size=2, order=1, concentration=1.0)
    rows = np.array([[0.9, 0.1], [0.3, 0.7]])  # stays 3/4 of the time in state 0
    monkeypatch.setattr("pdx.data.synthetic._transitions", lambda *_: rows)
    from pdx.data.synthetic import _stationary

    _stationary.cache_clear()
    assert data.stationary() == pytest.approx([0.75, 0.25])
    by_hand = -0.75 * (0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    by_hand += -0.25 * (0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert data.entropy_rate() == pytest.approx(by_hand, rel=1e-12)
    rows[:] = np.eye(2)
    _stationary.cache_clear()
    with pytest.raises(ConfigError, match=r"data\.concentration=1\.0: this chain .* falls apart"):
        data.entropy_rate()
    _stationary.cache_clear()


def test_synthetic_splits_are_exact_and_independent(tmp_path: Path):
    sizes = {"student": 4096, "teacher": 2048, "val": 640, "test": 64}
    sized = {f"num_tokens_{k}": v for k, v in sizes.items()}
    data = component("synthetic", vocab_size=32, **sized)
    token_set = prepare(data, Outputs(tmp_path))
    streams = {}
    for split, num in sizes.items():
        windows = token_set.windows(split)
        assert (windows.num_tokens, windows.num_unique_tokens, windows.num_bytes) == (num,) * 3
        assert windows.batch(np.arange(1)).mask_BL.all()
        streams[split] = np.fromfile(token_set.dir / f"{split}.bin", dtype=np.uint16)
        assert len(streams[split]) == num + 1
    agree = (streams["student"][:640] == streams["val"][:640]).mean()
    assert agree < 0.2
    assert token_set.eos_id is None and token_set.vocab_size == 32
    tokenizer = token_set.tokenizer()
    text = tokenizer.decode(streams["test"])
    assert len(text) == 65 and tokenizer(text)["input_ids"] == streams["test"].tolist()
    assert token_set.manifest["window_loss"] == data.window_loss()
