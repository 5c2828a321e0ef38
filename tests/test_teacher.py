"""Teachers: a pretrained one goes the same way as one trained here, and what is refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics import Said, component, context, taught

from pdx.config import Run, run_of
from pdx.data.tokenizer import wrap
from pdx.env import Env
from pdx.errors import ConfigError, DataError, Diverged
from pdx.execute import execute
from pdx.facts import facts_of
from pdx.frozen import freeze, load_model
from pdx.live import LiveSignal
from pdx.shared import Shared
from pdx.sparse import SparseSignal
from pdx.store.codecs.topk import LOGIT_STEP
from pdx.teacher import DATA_SPLITS, weights_digest

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")
FEW = ["train.num_tokens=4096", "eval.num_tokens_teacher=640"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def plain(tiny_at: Tiny, outputs: Path) -> Shared:
    """A run without a teacher: the tokens that all of these share."""
    return Shared.of(*tiny_at(outputs, *FEW, "loss=none", "teacher=none"))


@pytest.fixture
def save(plain: Shared, tmp_path: Path) -> Callable[..., Path]:
    """Save a model of random weights, and the data's tokenizer with it."""

    def inner(name: str = "saved", tokenizer: Any = None, **changes: Any) -> Path:
        from transformers import MistralConfig, MistralForCausalLM

        torch.manual_seed(3)
        settings = {
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
        }
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4}
        model = MistralForCausalLM(MistralConfig(**{**settings, **heads, **changes}))
        model.save_pretrained(tmp_path / name)
        (tokenizer or plain.token_set.tokenizer()).save_pretrained(tmp_path / name)
        return tmp_path / name

    return inner


@pytest.fixture
def given(tiny_at: Tiny, outputs: Path) -> Callable[..., Shared]:
    """A run with a pretrained teacher."""

    def inner(path: Path | str, *overrides: str) -> Shared:
        settings = [*FEW, "teacher=pretrained", f"teacher.path={path}", *overrides]
        return Shared.of(*tiny_at(outputs, *settings))

    return inner


def load(shared: Shared) -> Any:
    return shared.load_teacher(shared.run.teacher)


# ---- pretrained ------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["topk", "full"])
def test_a_saved_teacher_goes_the_whole_way(
    save: Callable[..., Path],
    given: Callable[..., Shared],
    capsys: pytest.CaptureFixture[str],
    signal: str,
):
    """Capture, train, evaluate: as with a teacher trained here."""
    path = save()
    shared = given(path, f"signal={signal}", "store.shard_tokens=2048")
    result = execute(shared.run, shared.env, quiet=True)
    assert "may have read the validation text" in capsys.readouterr().err
    assert result["status"] == "complete"
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path)
    val = shared.token_set.windows("val").batch(np.arange(10))
    with torch.no_grad():
        logits = model(val.tokens_BL).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), val.targets_BL.flatten())
    assert result["metrics"]["val/teacher_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert math.isfinite(result["metrics"]["val/teacher_kl"])
    facts = result["facts"]
    params = sum(p.numel() for p in model.parameters()) - 2 * 32 * 16
    assert facts["teacher_num_params_non_embedding"] == params
    assert facts["flops_teacher_training_exact"] is None  # nobody knows it here
    assert facts["flops_teacher_inference_exact"] > 0
    if signal == "topk":
        store = shared.open_store()
        index_B = np.array([7, 40])
        rows = store.rows(index_B, shared.train_windows.ids(index_B), 0)
        batch = shared.train_windows.batch(index_B)
        with torch.no_grad():
            top = model(batch.tokens_BL).logits.reshape(-1, 32).topk(32)
        torch.testing.assert_close(rows.logits_NK, top.values, rtol=0, atol=LOGIT_STEP)


def test_it_is_named_by_its_weights_not_by_its_place(
    save: Callable[..., Path], given: Callable[..., Shared], tmp_path: Path
):
    path = save()
    first = given(path)
    moved = given(shutil.copytree(path, tmp_path / "moved"))
    assert moved.run.run_id == first.run.run_id and moved.store_dir == first.store_dir
    model = load_model(path, "float32")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "moved")
    other = given(tmp_path / "moved")
    assert other.run.run_id != first.run.run_id and other.store_dir != first.store_dir
    assert given(path, "teacher.dtype=bfloat16").store_dir != first.store_dir


def test_half_precision_teacher(save: Callable[..., Path], given: Callable[..., Shared]):
    shared = given(save(), "teacher.dtype=bfloat16")
    teacher = load(shared)
    batch = shared.train_windows.batch(np.arange(2))
    hidden = teacher.hidden(batch)
    assert hidden.dtype == torch.bfloat16
    run = shared.run
    asked = context(Said(run.signal, run.temperature), 128)
    live = LiveSignal(hidden_ND=hidden, head=teacher.logits, signal=run.signal, context=asked)
    sparse = live.chunk(0, 128)
    assert isinstance(sparse, SparseSignal)
    assert sparse.logits_NK.dtype == torch.float32
    result = execute(shared.run, shared.env, quiet=True)
    assert math.isfinite(result["metrics"]["val/teacher_kl"])


def test_padded_vocabulary_is_refused_unless_it_is_masked(
    save: Callable[..., Path], given: Callable[..., Shared]
):
    path = save(vocab_size=40)
    with pytest.raises(ConfigError) as refused:
        load(given(path))
    assert "teacher.padding=refuse: its head has 40 rows and the tokenizer has 32 tokens" in str(
        refused.value
    )
    assert "if the 8 surplus rows are padding, set teacher.padding=mask" in str(refused.value)
    shared = given(path, "teacher.padding=mask", "signal.top_k=32", "store.shard_tokens=2048")
    teacher = load(shared)
    assert teacher.head.vocab_size == 32
    store, index_B = shared.open_store(), np.array([0, 9])
    rows = store.rows(index_B, shared.train_windows.ids(index_B), 0)
    with torch.no_grad():
        wanted = (
            teacher.model(shared.train_windows.batch(index_B).tokens_BL)
            .logits[..., :32]
            .flatten(0, 1)
        )
    # Minus infinity on the padding: a softmax over the tokenizer's 32 alone.
    assert int(rows.ids_NK.max()) == 31 and rows.ids_NK.shape[-1] == 32
    torch.testing.assert_close(rows.facts.lse[1.0], wanted.logsumexp(-1), rtol=1e-5, atol=1e-5)
    result = execute(shared.run, shared.env, quiet=True)
    assert math.isfinite(result["metrics"]["val/teacher_kl"])


def test_a_head_smaller_than_the_tokenizer_is_refused(
    save: Callable[..., Path], given: Callable[..., Shared]
):
    for padding in ("refuse", "mask"):
        with pytest.raises(
            ConfigError, match=r"teacher.path: its head has 31 rows and the tokenizer has 32"
        ):
            load(given(save(padding, vocab_size=31), f"teacher.padding={padding}"))


def test_another_tokenizer_is_refused(save: Callable[..., Path], given: Callable[..., Shared]):
    from tokenizers import Tokenizer, models

    other = wrap(Tokenizer(models.WordLevel({chr(65 + i): i for i in range(32)}, unk_token="A")))
    path = save(tokenizer=other)
    with pytest.raises(ConfigError) as refused:
        load(given(path))
    assert f"teacher.path={path}: its tokenizer " in str(refused.value)
    assert f"set data.tokenizer={path} (and data.vocab_size=null)" in str(refused.value)


def test_no_tokenizer_is_refused(save: Callable[..., Path], given: Callable[..., Shared]):
    path = save()
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        ConfigError, match=r"cannot be loaded .*; name a directory that save_pretrained wrote"
    ):
        load(given(path))


def test_pickled_weights_are_never_loaded(save: Callable[..., Path], given: Callable[..., Shared]):
    path = save()
    state = load_model(path, "float32").state_dict()
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    shared = given(path, "loss=none")  # evaluation names the teacher: refused before any training
    with pytest.raises(
        ConfigError, match=r"holds no config.json with \*.safetensors; save it with"
    ):
        _ = shared.run.run_id
    with pytest.raises((OSError, ValueError), match="safetensors"):
        load_model(path, "float32")


def test_remote_code_is_never_run(
    save: Callable[..., Path], given: Callable[..., Shared], tmp_path: Path
):
    path = save()
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config["model_type"] = "evil"
    (path / "config.json").write_text(json.dumps(config))
    (path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(given(path))
    assert not (tmp_path / "ran").exists()


def test_a_directory_that_is_not_there(given: Callable[..., Shared], tmp_path: Path):
    for path in (tmp_path / "missing", "./missing", "'~/missing'"):
        with pytest.raises(
            ConfigError, match=r"no such directory; name one that save_pretrained wrote, or a hub"
        ):
            _ = given(path).run.run_id


def test_a_hub_id_that_cannot_be_had(given: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else it retries for half a minute
    shared = given("no-such-org/no-such-model", "teacher.revision=abc")
    named = shared.run.teacher.identify(shared.run)
    assert (named["path"], named["revision"]) == ("no-such-org/no-such-model", "abc")
    with pytest.raises(
        ConfigError, match=r"teacher.path=no-such-org/no-such-model: cannot be loaded \("
    ):
        load(shared)


def test_a_path_must_be_given(tiny: Tiny):
    with pytest.raises(
        ConfigError, match=r"^teacher.path=\?\?\?: must be given; pass teacher.path=VALUE.$"
    ):
        tiny("teacher=pretrained")


def test_a_head_that_pdx_does_not_know_is_found_out(plain: Shared):
    model = component("student", "s10k", init_std=0.4).init(32, 64, 0)
    forward = model.forward

    def other(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.1
        return output

    freeze(model, plain.token_set, CPU, "refuse")
    model.forward = other
    with pytest.raises(DataError, match="LlamaForCausalLM forms logits otherwise than"):
        freeze(model, plain.token_set, CPU, "refuse")


def test_attention_that_misreads_a_document_mask_is_found_out(
    plain: Shared, monkeypatch: pytest.MonkeyPatch
):
    """Eager attention adds a mask of booleans to its scores; a sliding window is lost with it."""
    from transformers import MistralConfig, MistralForCausalLM

    shape: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    shape |= {"initializer_range": 0.4}

    def model(**changes: Any) -> Any:
        torch.manual_seed(0)
        return MistralForCausalLM(MistralConfig(**shape, **changes))

    kinds = {
        "sdpa": {},
        "eager": {"attn_implementation": "eager"},
        "window": {"sliding_window": 16},
    }
    for changes in kinds.values():
        freeze(model(**changes), plain.token_set, CPU, "refuse")
    monkeypatch.setitem(plain.token_set.manifest, "document_mask", True)
    freeze(model(sliding_window=None), plain.token_set, CPU, "refuse")
    for kind in ("eager", "window"):
        with pytest.raises(
            ConfigError, match=r"data.document_mask=True: the teacher's attention .* does not keep"
        ):
            freeze(model(**kinds[kind]), plain.token_set, CPU, "refuse")


def test_a_teacher_is_frozen(plain: Shared):
    model = component("student", "s10k").init(32, 64, 0).train()
    teacher = freeze(model, plain.token_set, CPU, "refuse")
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.hidden(plain.train_windows.batch(np.arange(1))).requires_grad


def test_weights_digest_reads_the_bytes(tmp_path: Path):
    def write(name: str, content: bytes) -> None:
        tmp_path.joinpath(name).write_bytes(content)

    write("config.json", b"{}")
    write("model.safetensors", b"12345678")
    first = weights_digest(tmp_path)
    write("README.md", b"does not count")
    assert weights_digest(tmp_path) == first
    write("model.safetensors", b"12345679")
    assert weights_digest(tmp_path) != first
    write("model.safetensors", b"12345678")
    write("config.json", b'{"a": 1}')
    assert weights_digest(tmp_path) != first


# ---- trained here ----------------------------------------------------------------------------


def test_a_trained_teacher_is_a_run_like_any_other(tiny: Tiny):
    run, env = taught(*tiny("teacher.num_tokens=4096"))
    shared = Shared.of(run, env)
    directory = shared.teacher_dir(run.teacher)
    assert directory == env.paths.runs / run.teacher.run(run).run_id / "model"
    before = {f.name: f.stat().st_mtime_ns for f in directory.iterdir()}
    teacher = load(shared)
    assert teacher.head.weight_VD.shape == (32, 32)
    assert {f.name: f.stat().st_mtime_ns for f in directory.iterdir()} == before  # trained once
    assert json.loads((directory.parent / "result.json").read_text())["facts"]["teacher_id"] is None


@pytest.mark.parametrize(("data_split", "splits"), sorted(DATA_SPLITS.items()))
def test_which_tokens_a_teacher_reads(tiny: Tiny, data_split: str, splits: str):
    run, env = tiny(f"teacher.data_split={data_split}")
    training = run.teacher.run(run)
    assert training.train.split == splits and training.train.seed == run.teacher.seed
    theirs, ours = Shared.of(training, env).train_windows, Shared.of(run, env).train_windows
    assert (theirs.num_windows, ours.num_windows) == ({"superset": 1024}.get(data_split, 512), 512)
    overlap = {w.tobytes() for w in ours.ids(np.arange(512))} & {
        w.tobytes() for w in theirs.ids(np.arange(theirs.num_windows))
    }
    assert len(overlap) == (0 if data_split == "disjoint" else 512)


def test_what_a_teacher_is_does_not_depend_on_its_students(tiny: Tiny):
    run, _ = tiny()
    wanted = run.teacher.identify(run)
    for change in (
        "student=s30k",
        "signal=full",
        "loss=soft_ce",
        "mix.kd_weight=0.1",
        "train.seed=9",
        "optim.peak_lr=1.0",
        "schedule=cosine",
        "eval.num_tokens=100",
        "train.num_tokens=512",
    ):
        other, _ = tiny(change)
        assert other.teacher.identify(other) == wanted, change
    for change in (
        "teacher.seed=9",
        "teacher.peak_lr=1.0",
        "data.seed=1",
        "teacher.data_split=same",
    ):
        other, _ = tiny(change)
        assert other.teacher.identify(other) != wanted, change


def test_a_teacher_without_tokens_of_its_own(tiny: Tiny):
    run, env = tiny("data.num_tokens_teacher=0")
    with pytest.raises(DataError, match=r"split=teacher: .* has none; .*num_tokens_teacher"):
        execute(run.teacher.run(run), env, quiet=True)


def test_repeats_of_a_teacher_are_asked_for(tiny: Tiny):
    run, env = tiny("teacher.num_tokens=40960")
    with pytest.raises(
        DataError, match=r"^teacher.num_tokens=40960: is 1.25 epochs .*teacher.max_epochs=1.25"
    ):
        Shared.of(run.teacher.run(run), env)


def test_a_diverged_teacher_ends_the_run(tiny: Tiny):
    run, env = taught(*tiny("teacher.peak_lr=1e30", "teacher.num_tokens=4096"))
    shared = Shared.of(run, env)
    assert not shared.teacher_dir(run.teacher).exists()
    with pytest.raises(Diverged, match=r"diverged \(.*not finite.*\); .*teacher.peak_lr"):
        load(shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "teacher.data_split=none",
            "teacher.data_split=none: must be one of disjoint, same, superset.",
        ),
        (
            "teacher.hidden_size=30",
            "teacher.hidden_size=30: must be an even multiple of teacher.num_heads=2",
        ),
        ("teacher=same", "teacher=same: means the run's own teacher, and is for eval_teacher only"),
        ("teacher=none", "teacher=none: ForwardKL needs a teacher; use teacher=trained"),
    ],
)
def test_teachers_out_of_range(compose_cfg: Callable[..., Any], change: str, message: str):
    heads = ["teacher.num_heads=2"] if "." in change else []
    with pytest.raises(ConfigError, match=f"^{message}"):
        run_of(compose_cfg("data=synthetic", "signal.top_k=8", *heads, change))


# ---- of the student's own size ---------------------------------------------------------------


def test_a_twin_is_the_students_architecture_and_no_student(tiny_at: Tiny, outputs: Path):
    small = ["teacher=twin", "teacher.num_tokens=4096", "teacher.batch_size=8"]
    ids = set()
    for student in ("s10k", "s30k"):
        run, env = tiny_at(outputs, *FEW, *small, f"student={student}")
        training = run.teacher.run(run)
        assert training.student == run.student and training.train.split == "teacher"
        assert training.train.seed != run.train.seed
        ids.add(training.run_id)
        facts = facts_of(run, env)
        assert facts["teacher_num_params_non_embedding"] == facts["num_params_non_embedding"]
        assert facts["flops_teacher_training_exact"] > 0
    assert len(ids) == 2
    run, env = tiny_at(outputs, *FEW, *small)
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete" and result["metrics"]["val/teacher_kl"] > 0
