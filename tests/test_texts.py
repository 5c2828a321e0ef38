"""What a student trains on: the corpus, the teacher's own text, or the part that it prefers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics import component, taught

from pdx.config import Run
from pdx.draws import draw
from pdx.env import Env
from pdx.errors import ConfigError, DataError
from pdx.facts import facts_of
from pdx.shared import Shared
from pdx.texts.selected import Picked, log_likelihoods
from pdx.texts.teacher_samples import TeacherSamples, Written

Tiny = Callable[..., tuple[Run, Env]]
SAMPLES = ["loss=none", "text=teacher_samples", "text.num_prompt_tokens=3", "train.num_tokens=4096"]
WEAK = ["hidden_size=16", "ffn_size=16", "num_layers=1", "num_heads=2", "num_kv_heads=2"]
SELECTED = ["loss=none", "text=selected", "text.pool_windows=16", "text.keep_frac=0.3"]
SELECTED += ["train.num_tokens=2560", "teacher@weak_teacher=trained", "weak_teacher.seed=5"]
SELECTED += [f"weak_teacher.{k}" for k in (*WEAK, "num_tokens=2048", "batch_size=8")]


@pytest.fixture(scope="module")
def outputs(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a teacher in it that has learnt something."""
    directory = tmp_path_factory.mktemp("texts") / "out"
    taught(*tiny_at(directory, "teacher.peak_lr=0.02"))
    return directory


@pytest.fixture
def given(tiny_at: Tiny, outputs: Path) -> Callable[..., Shared]:
    return lambda *overrides: Shared.of(*tiny_at(outputs, "teacher.peak_lr=0.02", *overrides))


# ---- the teacher's own text ------------------------------------------------------------------


def plainly(teacher: Any, text: TeacherSamples, prompts: list[list[int]], length: int) -> list:
    """Token by token, each from a whole pass without a cache."""
    out = []
    for number, prompt in enumerate(prompts):
        said = list(prompt)
        while len(said) < length:
            with torch.no_grad():
                logits_V = teacher.model(torch.tensor([said])).logits[0, -1].float()
            at = torch.tensor([number * length + len(said)])
            said.append(int(draw(logits_V[None] / text.temperature, at, 1, text.seed)))
        out.append(said)
    return out


@pytest.mark.parametrize("heat", [0.7, 1.0])
def test_a_cache_and_a_batch_change_nothing(given: Callable[..., Shared], heat: float):
    shared = given(*SAMPLES)
    teacher = shared.load_teacher(shared.run.teacher)
    text = component("text", "teacher_samples", temperature=heat, seed=4)
    prompts = torch.arange(15).view(5, 3)
    offset_B = torch.arange(5) * 20
    found = text.go_on(teacher, prompts, 20, offset_B)
    assert found.tolist() == plainly(teacher, text, prompts.tolist(), 20)
    alone = torch.cat(
        [text.go_on(teacher, prompts[i : i + 1], 20, offset_B[[i]]) for i in range(5)]
    )
    assert torch.equal(found, alone)


def test_it_begins_as_the_corpus_and_goes_on_as_the_teacher(given: Callable[..., Shared]):
    """Draws of a model cost it its own entropy a token, on average."""
    shared = given(*SAMPLES)
    shared.ensure(shared.run.num_windows)
    windows, base = shared.train_windows, shared.token_set.windows("student")
    assert isinstance(windows, Written) and windows.num_windows == base.num_windows
    index = np.arange(256)
    ours, theirs = windows.ids(index), base.ids(index)
    assert ours.shape == theirs.shape and np.array_equal(ours[:, :3], theirs[:, :3])
    assert (ours[:, 3:] != theirs[:, 3:]).mean() > 0.5
    teacher = shared.load_teacher(shared.run.teacher)
    batch = windows.batch(index)
    with torch.no_grad():
        logprobs = teacher.model(batch.tokens_BL).logits.float().log_softmax(-1)[:, 2:]
    said = logprobs.gather(-1, batch.targets_BL[:, 2:, None])[..., 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    surprise = said + entropy
    error = float(surprise.std()) / math.sqrt(surprise.numel())
    assert abs(float(surprise.mean())) < 4 * error < 0.05


def test_it_is_taken_up_where_it_was_killed(
    given: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
):
    """Block by block; whoever makes the rest, it is the same text."""
    monkeypatch.setattr("pdx.texts.teacher_samples.BLOCK_TOKENS", 1024)
    shared = given(*SAMPLES, "text.seed=7")
    windows = shared.train_windows
    assert isinstance(windows, Written)
    with pytest.raises(DataError, match=r"block-000000.npy: is missing; run the same command"):
        windows.ids(np.arange(1))
    shared.ensure(20)
    assert windows.blocks.missing(32) == [] and windows.blocks.missing(33) == [2]
    first = windows.ids(np.arange(20))
    windows.blocks.path(1).unlink()
    shared.ensure(64)
    again = shared.train_windows.ids(np.arange(64))
    assert np.array_equal(again[:20], first) and len(np.unique(again[:, 3:], axis=0)) == 64


def test_generation_is_charged_and_is_the_only_cost_of_the_teacher(given: Callable[..., Shared]):
    plain, sampled = given("loss=none", *SAMPLES[3:]), given(*SAMPLES)
    stored = given("loss=forward_kl", *SAMPLES[3:])
    facts = [facts_of(s.run, s.env, s.token_set) for s in (plain, sampled, stored)]
    assert facts[0]["flops_teacher_inference_exact"] == 0 and facts[0]["teacher_id"] is None
    for key in ("flops_teacher_inference_exact", "flops_teacher_training_exact", "teacher_id"):
        assert facts[1][key] == facts[2][key]
    assert facts[1]["store_bytes"] == 0
    assert plain.run.run_id != sampled.run.run_id
    assert sampled.run.run_id != given(*SAMPLES, "teacher.seed=3").run.run_id


# ---- difference sampling ---------------------------------------------------------------------


def test_selected_windows_are_those_of_the_largest_difference(given: Callable[..., Shared]):
    """Ranked in plain Python by whole logits; longer trainings go on where shorter ones end."""
    shared = given(*SELECTED)
    run, base = shared.run, shared.token_set.windows("student")
    shared.ensure(7)
    windows = shared.train_windows
    assert isinstance(windows, Picked) and windows.num_windows == base.num_windows // 16 * 5
    models = [shared.load_teacher(t).model for t in (run.teacher, run.weak_teacher)]
    wanted: list[int] = []
    for pool in range(2):
        scores = {}
        for w in range(pool * 16, pool * 16 + 16):
            batch = base.batch(np.array([w]))
            with torch.no_grad():
                of = [m(batch.tokens_BL).logits.float().log_softmax(-1) for m in models]
            said = [float(x.gather(-1, batch.targets_BL[..., None]).double().sum()) for x in of]
            scores[w] = said[0] - said[1]
        wanted += sorted(sorted(scores, key=lambda w: -scores[w])[:5])
    index = np.arange(10)
    assert np.array_equal(windows.ids(index), base.ids(np.array(wanted)))
    assert torch.equal(windows.batch(index).targets_BL, base.batch(np.array(wanted)).targets_BL)
    shared.ensure(40)
    assert np.array_equal(shared.train_windows.ids(index), base.ids(np.array(wanted)))


def test_masked_targets_do_not_count_in_a_score(given: Callable[..., Shared]):
    shared = given(*SELECTED)
    teacher, base = shared.load_teacher(shared.run.teacher), shared.token_set.windows("student")

    class Half:
        seq_len = base.seq_len

        @staticmethod
        def batch(index: np.ndarray) -> Any:
            batch = base.batch(index)
            return batch._replace(mask_BL=torch.arange(base.seq_len) < batch.mask_BL * 32)

    index = np.arange(3)
    batch = base.batch(index)
    with torch.no_grad():
        logprobs = teacher.model(batch.tokens_BL).logits.float().log_softmax(-1)
    said = logprobs.gather(-1, batch.targets_BL[..., None])[..., 0].double()
    found = log_likelihoods(teacher, Half(), index)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, said[:, :32].sum(-1), rtol=1e-5)


def test_scoring_is_charged_for_both_models_and_whole_pools(given: Callable[..., Shared]):
    shared = given(*SELECTED)
    facts = facts_of(shared.run, shared.env, shared.token_set)
    tokens, models = facts["num_unique_tokens"] / 5 * 16, []
    for teacher in (shared.run.teacher, shared.run.weak_teacher):
        shape = teacher.model.shape(32)
        models.append((shape.flops_forward_per_token(64), shape.flops_train_exact(1, 64)))
    read = tokens * sum(forward for forward, _ in models)
    assert facts["flops_teacher_inference_exact"] == pytest.approx(read)
    trained = models[0][1] * 16384 + models[1][1] * 2048
    assert facts["flops_teacher_training_exact"] == pytest.approx(trained)


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["text=teacher_samples", "loss=none", "teacher=none"], r"teacher=none: text=teacher_samp"),
        (["text=selected", "loss=none"], r"teacher@weak_teacher=none: text=selected is made by it"),
        (["teacher@weak_teacher=same"], r"weak_teacher=same: means the run's own teacher"),
        ([*SAMPLES, "text.num_prompt_tokens=65"], r"text.num_prompt_tokens=65: must be at most da"),
        ([*SAMPLES, "text.num_prompt_tokens=0"], r"text.num_prompt_tokens=0: must be at least 1"),
        ([*SAMPLES, "text.temperature=0"], r"text.temperature=0.0: must be > 0"),
        ([*SELECTED, "text.keep_frac=1.0"], r"text.keep_frac=1.0: must lie strictly between 0"),
        ([*SELECTED, "text.keep_frac=0.01"], r"text.pool_windows=16: must hold windows to keep"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_at_plan_time(tiny: Tiny, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        tiny(*overrides)


def test_a_teacher_is_not_compared_with_itself(tiny: Tiny):
    same = ["num_layers=2", "hidden_size=32", "ffn_size=64", "num_heads=2", "num_kv_heads=2"]
    same += ["num_tokens=16384", "batch_size=8"]
    with pytest.raises(ConfigError, match=r"^teacher@weak_teacher: is the teacher itself, so eve"):
        tiny(
            "text=selected",
            "loss=none",
            "teacher@weak_teacher=trained",
            *(f"weak_teacher.{k}" for k in same),
        )


def test_a_corpus_with_documents_is_no_prompt(compose_cfg: Callable[..., Any]):
    from pdx.config import run_of

    with pytest.raises(ConfigError, match=r"^text=teacher_samples: what a teacher writes has no d"):
        run_of(compose_cfg("text=teacher_samples", "data.document_mask=true"))


def test_pools_larger_than_the_split(given: Callable[..., Shared]):
    with pytest.raises(ConfigError, match=r"^text.pool_windows=1024: the split has 512 windows"):
        given(*SELECTED, "text.pool_windows=1024")
