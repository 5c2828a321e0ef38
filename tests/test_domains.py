"""Domains: told of every token, kept beside the tokens, read by routing and by evaluation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from measured import Masked
from numerics import component, taught
from test_data import SMALL, words

from pdx.config import Run
from pdx.data import TokenSet, prepare
from pdx.data.chosen import Chosen
from pdx.data.domains import LabelWriter, labels_of, metric_name, of_tokens
from pdx.data.stdlib import prose_and_code
from pdx.env import Env
from pdx.errors import ConfigError, DataError
from pdx.evaluate import held_out_loss
from pdx.execute import execute
from pdx.feed import Feed
from pdx.paths import Outputs
from pdx.probes import by_domain, probe
from pdx.ranks import Ranks
from pdx.shared import Shared

TinyAt = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")
SOURCE = '''\
"""A text of the module: it's "quoted" # and no comment."""

import re  # why
PATTERN = "no # comment"; OTHER = \'\'\'nor
# this\'\'\'

def f(x):
    r"""What it does,
    and \\""" how."""
    return x["#"]  # so

    # on its own
'''
PROSE = [
    '"""A text of the module: it\'s "quoted" # and no comment."""',
    "# why",
    'r"""What it does,\n    and \\""" how."""',
    "# so",
    "# on its own",
]


# ---- what a token is of ------------------------------------------------------------------------


def test_prose_is_told_from_code():
    """By hand; and whatever the text, the first span begins it and none goes back."""
    assert [text for text, name in cut(SOURCE) if name == "prose"] == PROSE
    assert "".join(text for text, _ in cut(SOURCE)) == SOURCE
    for odd in ("", "x", "'", '"""', "# \u00e9", '"""\u00e9', "'''a''' '", "\\#", '"\\'):
        starts = [start for start, _ in prose_and_code(odd)]
        assert starts[0] == 0 and starts == sorted(starts)
        assert "".join(text for text, _ in cut(odd)) == odd
    assert cut("# \u00e9\u00e9\nx")[1:] == [("# \u00e9\u00e9", "prose"), ("\nx", "code")]


def cut(text: str) -> list[tuple[str, str]]:
    spans, raw = prose_and_code(text), text.encode()
    ends = [start for start, _ in spans[1:]] + [len(raw)]
    return [(raw[s:e].decode(), name) for (s, name), e in zip(spans, ends, strict=True)]


def test_a_token_is_of_the_span_of_its_last_byte():
    """Byte by byte in plain Python; tokens without bytes are of what stands before them."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        starts = [0, *sorted(rng.choice(np.arange(1, 30), 4, replace=False).tolist())]
        owner = [max(i for i, s in enumerate(starts) if s <= byte) for byte in range(40)]
        num_bytes = rng.integers(0, 5, 12)
        wanted, end = [], 0
        for count in num_bytes.tolist():
            end += count
            wanted.append(owner[max(end - 1, 0)])
        assert of_tokens([(s, "x") for s in starts], num_bytes).tolist() == wanted


# ---- from a corpus to its windows --------------------------------------------------------------


def write(directory: Path, num: int = 24) -> dict[str, Any]:
    """Low letters in low/*.txt, high ones in high/*.md: what a token is of can be seen in it."""
    rng, low, high = np.random.default_rng(0), "abcdefghijklm", "nopqrstuvwxyz"
    to_low, to_high = str.maketrans(high, low), str.maketrans(low, high)
    for name, suffix, table in (("low", "txt", to_low), ("high", "md", to_high)):
        (directory / name).mkdir(parents=True)
        for number in range(num):
            text = words(rng, 30).translate(table)
            (directory / name / f"{number:02}.{suffix}").write_text(text)
    return {**SMALL, "paths": [f"{directory}/**/*.*"], "group_by": "document"}


def labelled(data: Any, outputs: Path) -> TokenSet:
    token_set = prepare(data, Outputs(outputs))
    token_set.labels = labels_of(data, token_set)
    return token_set


@pytest.mark.parametrize("by", ["directory", "suffix"])
def test_every_target_is_of_the_domain_that_it_shows(tmp_path: Path, by: str):
    """Also where one window holds documents of both; an eos is of the document that it ends."""
    data = component("data", "files", **write(tmp_path / "in"), domains=by)
    token_set = labelled(data, tmp_path / "out")
    names = {"directory": {"l": "low", "h": "high"}, "suffix": {"l": "txt", "h": "md"}}[by]
    tokenizer = token_set.tokenizer()
    assert token_set.labels is not None and token_set.labels.names == sorted(names.values())
    both = 0
    for splits in (("val",), ("student", "teacher")):
        windows = token_set.windows(*splits)
        index_B = np.arange(windows.num_windows)[::-1]
        ids, found = windows.ids(index_B), windows.domains(index_B)
        assert found.shape == (windows.num_windows, 16)
        for row, labels in zip(ids.tolist(), found.tolist(), strict=True):
            seen: str | None = None
            for i, token in enumerate(row):
                letters = tokenizer.decode([token]).strip() if token != token_set.eos_id else ""
                if letters.isalpha():
                    seen = names["l" if letters[0] <= "m" else "h"]
                if seen is not None and i > 0:
                    assert token_set.labels.names[labels[i - 1]] == seen
                seen = None if token == token_set.eos_id else seen
            both += len({*labels}) == 2
        for name in names.values():
            within = windows.within(index_B, [name])
            assert np.array_equal(within, found == token_set.labels.names.index(name))
            backwards = Chosen(windows, len(index_B), index_B.__getitem__, "backwards")
            assert np.array_equal(backwards.within(np.arange(len(index_B)), [name]), within)
    assert both, "no window holds both"


def test_tokens_without_labels_get_them_and_stay_what_they_are(tmp_path: Path):
    """A cache that was made before anyone asked is labelled as one that is made now."""
    settings = write(tmp_path / "in")
    plain, data = (component("data", "files", **settings, domains=d) for d in (None, "suffix"))
    outputs = tmp_path / "old"
    before = prepare(plain, Outputs(outputs))
    assert before.labels is None and not (before.dir / "domains").exists()
    there = {p: p.stat().st_mtime_ns for p in before.dir.glob("[!.]*.*")}
    late, early = labelled(data, outputs), labelled(data, tmp_path / "new")
    assert late.dir == before.dir and late.digest == early.digest
    assert {p: p.stat().st_mtime_ns for p in before.dir.glob("[!.]*.*")} == there
    for split in ("student", "teacher", "val", "test"):
        index_B = np.arange(early.windows(split).num_windows)
        ours, theirs = early.windows(split).domains(index_B), late.windows(split).domains(index_B)
        assert np.array_equal(ours, theirs)
    other = labelled(component("data", "files", **settings, domains="directory"), outputs)
    assert other.dir == late.dir and other.labels is not None
    assert other.labels.names == ["high", "low"], "one choice was read for another"
    shard = before.dir / "val.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\1\0")
    for made in (before.dir / "domains").glob("*/*"):
        made.unlink()
    for folder in (before.dir / "domains").iterdir():
        folder.rmdir()
    with pytest.raises(DataError, match=r"val.bin: the text does not give these tokens any more"):
        labels_of(data, before)


def test_records_say_their_domain(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    rows = [{"text": f"text {i}", "of": "ab"[i % 2]} for i in range(4)]
    (tmp_path / "in/r.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/r.parquet")
    paths = {"paths": [f"{tmp_path}/in/*"]}
    data = component("data", "files", **paths, domains="field:of")
    assert [(d.text, d.spans) for d in data.documents()] == [
        (r["text"], ((0, r["of"]),)) for r in rows * 2
    ]
    same = component("data", "files", **paths, domains="field:text")
    assert [d.spans for d in same.documents()] == [((0, r["text"]),) for r in rows * 2]
    hub = {"name": str(tmp_path / "in"), "subset": None, "domains": "of"}
    found = [(d.text, d.spans) for d in component("data", "hub", **hub).documents()]
    assert found and {*found} <= {(r["text"], ((0, r["of"]),)) for r in rows}


def test_the_markov_source_knows_what_it_leaves_open():
    """From its transitions in plain Python; about half of all symbols are of each."""
    for order in (1, 2):
        source = component("data", "synthetic", vocab_size=32, order=order)
        rows, stream = source.transitions(), source.sample(4000, 0)
        entropy_of = [
            -math.fsum(p * math.log(p) for p in rows[tuple(stream[i - order : i])] if p > 0)
            for i in range(order, len(stream))
        ]
        found = source.labels(stream)
        assert found[:order].tolist() == [0] * order
        parts = [
            [e for e, f in zip(entropy_of, found[order:], strict=True) if f == d] for d in (0, 1)
        ]
        assert max(parts[1]) < min(parts[0]), "sure ones are all surer than open ones"
        assert 0.35 < len(parts[1]) / len(entropy_of) < 0.65


@pytest.mark.parametrize(
    ("path", "by", "message"),
    [
        ("in/a.txt", "directory", r"data.domains=directory: .*/in/a.txt lies in no directory belo"),
        ("in/a.txt", "field:of", r"data.domains=field:of: .*/in/a.txt is a text and has no fields"),
        (
            "in/a.jsonl",
            "field:no",
            r"data.domains=field:no: .*a.jsonl:1 has no such field; it has t",
        ),
    ],
)
def test_what_tells_no_domain_is_refused(tmp_path: Path, path: str, by: str, message: str):
    (tmp_path / "in").mkdir()
    (tmp_path / path).write_text(json.dumps({"text": "words"}))
    data = component("data", "files", paths=[str(tmp_path / path)], domains=by)
    with pytest.raises(DataError, match=message):
        list(data.documents())


def test_settings_that_mean_nothing_are_refused(tmp_path: Path):
    for value, by in (
        ("files", "folder"),
        ("files", "field:"),
        ("stdlib", "x"),
        ("synthetic", "x"),
    ):
        with pytest.raises(ConfigError, match=rf"^data.domains={by}: must be "):
            component("data", value, domains=by)
    many = [f"d{i}" for i in range(65)]
    with pytest.raises(DataError, match=r"^data.domains=url: the text has 65 domains, such as d0,"):
        LabelWriter(tmp_path, SimpleNamespace(domains="url"), many)
    assert [metric_name(n) for n in ("C++", "C#", "sv.SE-1_a")] == ["Cx2bx2b", "Cx23", "sv.SE-1_a"]


# ---- who reads them ----------------------------------------------------------------------------

SHORT = ["train.num_tokens=2048", "eval.num_tokens=2000", "eval.num_tokens_teacher=512"]


@pytest.fixture(scope="module")
def outputs(tiny_at: TinyAt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the one teacher of all runs in it."""
    directory = tmp_path_factory.mktemp("domains") / "out"
    taught(*tiny_at(directory))
    return directory


@pytest.mark.parametrize("store", ["topk", "none"])
def test_the_teacher_speaks_in_its_domains_alone(tiny_at: TinyAt, outputs: Path, store: str):
    """From a store and live: at what the corpus's own labels say, window by window."""
    for names in (["open"], ["sure"], ["sure", "open"]):
        asked = f"routing.domains=[{','.join(names)}]"
        run, env = tiny_at(outputs, "routing=by_domain", asked, f"store={store}")
        shared = Shared.of(run, env)
        teacher = None if run.is_stored else shared.load_teacher(run.teacher)
        stored = shared.open_store() if run.is_stored else None
        feed = Feed(run, shared.train_windows, CPU, stored, teacher)
        for batch in feed(0):
            found = feed.lesson(batch, 0.5).taught_BL
            stream = run.data.sample(run.data.num_tokens_student + 1, 0)
            open_N = run.data.labels(stream) == 0
            for b, window in enumerate(batch.index_B.tolist()):
                first = window * run.data.seq_len + 1  # of the targets
                here = open_N[first : first + run.data.seq_len]
                wanted = {"open": here, "sure": ~here}
                assert found is not None
                assert found[b].tolist() == np.any([wanted[n] for n in names], 0).tolist()
    assert component("routing", "by_domain")(
        None, torch.ones(1, 3) > 0, torch.tensor([[True, False, True]])
    ).tolist() == [[True, False, True]]


def test_all_domains_are_everywhere(tiny_at: TinyAt, outputs: Path):
    results = []
    for routing in (["routing=everywhere"], ["routing=by_domain", "routing.domains=[open,sure]"]):
        run, env = tiny_at(outputs, *SHORT, *routing)
        results.append(execute(run, env, quiet=True)["metrics"]["val/loss"])
    assert results[0] == results[1]
    run, env = tiny_at(outputs, *SHORT, "routing=by_domain", "routing.domains=[open]")
    assert execute(run, env, quiet=True)["metrics"]["val/loss"] != results[0]


class MaskedDomains(Masked):
    def domains(self, index_B: np.ndarray) -> np.ndarray:
        return self.windows.domains(index_B)


@pytest.mark.parametrize("mask", [False, True])
def test_loss_by_domain_is_its_oracle(tiny_at: TinyAt, outputs: Path, mask: bool):
    run, env = tiny_at(outputs, "eval=full", "student.init_std=0.3")
    shared = Shared.of(run, env)
    student, whole = run.student.init(32, 64, seed=0).train(), shared.token_set.windows("val")
    val: Any = MaskedDomains(whole) if mask else whole
    alone, labels = Ranks.alone(CPU), shared.token_set.labels
    assert labels is not None
    found = by_domain(student, val, 2000, labels.names, alone)
    nats_BL, _, mask_BL = probe(student, val, 31, alone)
    open_BL = run.data.labels(run.data.sample(4097, 2))[1 : 31 * 64 + 1].reshape(31, 64) == 0
    for name, of_BL in (("open", open_BL), ("sure", ~open_BL)):
        nats = nats_BL[mask_BL & torch.from_numpy(of_BL)]
        assert found[f"tokens_domain_{name}"] == len(nats) > 300
        assert found[f"loss_domain_{name}"] == pytest.approx(float(nats.mean()), rel=1e-6)
    total = sum(found[f"loss_domain_{n}"] * found[f"tokens_domain_{n}"] for n in labels.names)
    mean = held_out_loss(student, val, 2000, alone)["loss"]
    assert total / int(mask_BL.sum()) == pytest.approx(mean, rel=1e-6) and student.training
    assert not {"loss_domain_none"} & {*by_domain(student, val, 64, [*labels.names, "none"], alone)}


def test_a_run_says_them_where_its_corpus_does(tiny_at: TinyAt, outputs: Path):
    few = ["eval=full", "eval.num_probe_windows=0", "loss=none", *SHORT]
    told = execute(*tiny_at(outputs, *few), quiet=True)["metrics"]
    assert {"val/loss_domain_open", "val/tokens_domain_sure"} <= {*told}
    untold = execute(*tiny_at(outputs, *few, "data.domains=null"), quiet=True)["metrics"]
    assert not any("domain" in name for name in untold) and untold["val/loss"] == told["val/loss"]


def test_only_who_reads_domains_is_named_by_them(tiny_at: TinyAt, tmp_path: Path):
    def ids(*overrides: str) -> tuple[str, str]:
        told = tiny_at(tmp_path, *overrides)[0]
        untold = tiny_at(tmp_path, *overrides, "data.domains=null")[0]
        assert "domains" not in untold.identity
        assert told.teacher_id(told.teacher) == untold.teacher_id(untold.teacher)
        return told.run_id, untold.run_id

    for overrides in ([], ["routing=high_entropy"], ["loss=none"]):
        assert len({*ids(*overrides)}) == 1
    assert len({*ids("eval=full")}) == 2
    routed = ["routing=by_domain", "routing.domains=[open]"]
    assert len({*ids("loss=none", *routed)}) == 1, "a control that hears no teacher is shared"
    run = tiny_at(tmp_path, *routed)[0]
    assert run.identity["domains"] == {"format": 1, "domains": "entropy"}


def test_domains_that_are_not_there_are_refused(tiny_at: TinyAt, tmp_path: Path):
    routed = "routing=by_domain"
    for overrides, message in (
        (
            [],
            r"^routing.domains=\['prose'\]: the text has no domain 'prose'. It has open, sure; na",
        ),
        (["routing.domains=[opem]"], r"'opem'. Did you mean 'open'\?"),
        (
            ["data.domains=null"],
            r"^data.domains=null: routing.domains=\['prose'\] are told apart by",
        ),
        (["routing.domains=[]"], r"^routing.domains=\[\]: must name domains, each once; use rout"),
        (["routing.domains=[open,open]"], r"must name domains, each once"),
        (
            ["routing.domains=[open]", "text=teacher_samples"],
            r"^routing.domains=\['open'\]: what a teacher writes is of no domain; use another",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_at(tmp_path, routed, *overrides)
    settings = write(tmp_path / "in")
    files = [f"data.{k}={v}" for k, v in settings.items() if k != "paths"]
    files += [f"data.paths=['{tmp_path}/in/**/*.*']", "data=files", "data.domains=suffix"]
    run, env = tiny_at(tmp_path / "out", *files, "train=debug", "train.num_tokens=128", routed)
    with pytest.raises(ConfigError, match=r"no domain 'prose'. It has md, txt; name some of these"):
        Shared.of(run, env)
