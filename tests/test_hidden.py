"""Matching of hidden states: its term, its gradient through the body, its parameters, refusals."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import component, taught

from pdx.checkpoint import Paused, load
from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.execute import execute
from pdx.facts import facts_of
from pdx.feed import Feed
from pdx.hiddens.matched import Matcher
from pdx.models import head_of, hidden_states, layer_states
from pdx.reduce import backward
from pdx.shared import Shared

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")
NAMES = ("cosine", "mse")
LIVE = ["store=none", "train.num_tokens=2048", "eval.num_tokens=512", "eval.num_tokens_teacher=512"]
LAYERS = ["hidden.student_layers=[0,1,-1]", "hidden.teacher_layers=[0,2,-1]"]


def plainly(name: str, ours: list[float], theirs: list[float]) -> float:
    """At one position, in plain Python floats."""
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours)
    dot = sum(a * b for a, b in zip(ours, theirs, strict=True))
    return 1 - dot / math.sqrt(sum(a * a for a in ours) * sum(b * b for b in theirs))


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the term --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("projection", [True, False])
def test_the_term_is_its_definition(name: str, projection: bool):
    """Two pairs of layers, a mask, a matrix: all spelled out."""
    pairs = {"student_layers": [0, 1], "teacher_layers": [1, 2]}
    hidden = component("hidden", name, projection=projection, **pairs)
    width = 3 if projection else 4
    ours, theirs = (
        [rand(2, 3, width, seed=i) for i in (1, 2)],
        [rand(2, 3, 4, seed=i) for i in (3, 4)],
    )
    mask_BL = torch.tensor([[1, 0, 1], [1, 1, 0]]).bool()
    matcher = Matcher(hidden, width, 4, seed=5).double()
    assert len(matcher.maps) == (2 if projection else 0)
    wanted = 0.0
    for i in range(2):
        for b in range(2):
            for at in range(3):
                if mask_BL[b, at]:
                    state = ours[i][b, at]
                    if projection:
                        state = torch.stack([(row * state).sum() for row in matcher.maps[i]])
                    wanted += plainly(name, state.tolist(), theirs[i][b, at].tolist()) / 2
    assert float(matcher(ours, theirs, mask_BL).detach()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_where_states_agree_and_masked_ones_get_no_gradient(name: str):
    matcher = Matcher(component("hidden", name, projection=False), 4, 4, 0)
    states = rand(2, 3, 4).float()
    mask_BL = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    assert float(matcher([states], [states], mask_BL)) == pytest.approx(0.0, abs=1e-5)
    away = (states + rand(2, 3, 4, seed=1).float()).requires_grad_()
    apart = matcher([away], [states], mask_BL)
    apart.backward()
    assert apart.item() > 0.1 and away.grad is not None
    assert (away.grad[~mask_BL] == 0).all() and (away.grad[mask_BL].abs().sum(-1) > 0).all()
    doubled = matcher([2 * away.detach()], [states], mask_BL)
    assert (abs(float(doubled) - apart.item()) < 1e-5) == (name == "cosine")


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_upcast(name: str):
    matcher = Matcher(component("hidden", name), 4, 6, 0)
    ours, theirs = rand(2, 3, 4).bfloat16(), rand(2, 3, 6, seed=1).bfloat16()
    mask_BL = torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        found = matcher([ours], [theirs], mask_BL)
    assert found.dtype == torch.float32
    assert torch.equal(found, matcher([ours.float()], [theirs.float()], mask_BL))


# ---- through the body ------------------------------------------------------------------------


def test_layers_are_counted_as_said(tiny: Tiny):
    run, _ = tiny()
    model = run.student.init(32, 64, 0)
    tokens_BL = torch.arange(32).view(2, 16)
    with torch.no_grad():
        last_BLD, (embedding, first, final) = layer_states(model, tokens_BL, None, [0, 1, -1])
        assert torch.equal(embedding, model.get_input_embeddings()(tokens_BL))
        assert torch.equal(final, last_BLD)
        assert torch.equal(last_BLD, hidden_states(model, tokens_BL))
        assert not torch.equal(first, embedding) and not torch.equal(first, final)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kd_weight", [0.0, 0.4])
def test_gradients_are_autograds_of_the_whole_loss(tiny: Tiny, name: str, kd_weight: float):
    """A twin without chunks and gradients by hand: one graph, micro-batches or not."""
    run, env = tiny(
        *LIVE, f"hidden={name}", *LAYERS, "hidden.weight=0.3", "train.micro_batch_size=4"
    )
    shared = Shared.of(*taught(run, env))
    feed = Feed(run, shared.train_windows, CPU, None, shared.load_teacher(run.teacher))
    batches = feed(0)
    num_valid = sum(b.num_valid for b in batches)
    student = run.student.init(32, 64, 0)
    matcher = run.hidden.init(student, feed, 3)
    layers, terms = run.hidden.student_layers, []
    for batch in batches:
        lesson = feed.lesson(batch, 0.5)
        hidden_BLD, states = layer_states(student, batch.tokens_BL, None, layers)
        match = matcher(states, lesson.states, batch.mask_BL)
        head, targets_BL, mask_BL = head_of(student), batch.targets_BL, batch.mask_BL
        signal = lesson.signal if kd_weight else None
        sums = backward(
            hidden_BLD,
            head,
            targets_BL,
            mask_BL,
            signal,
            run.loss,
            kd_weight,
            num_valid,
            beside=match,
            beside_weight=0.3,
        )
        terms.append(float(sums.loss))
    found = {n: p.grad for n, p in (*student.named_parameters(), *matcher.named_parameters())}
    twin = run.student.init(32, 64, 0)
    other = run.hidden.init(twin, feed, 3)
    total = torch.zeros(())
    for batch in batches:
        lesson = feed.lesson(batch, 0.5)
        output = twin(batch.tokens_BL, output_hidden_states=True)
        logits_NV = output.logits.flatten(0, 1)
        ce = torch.nn.functional.cross_entropy(
            logits_NV, batch.targets_BL.flatten(), reduction="sum"
        )
        assert lesson.signal is not None
        kd = run.loss(logits_NV, lesson.signal).sum()
        match = other([output.hidden_states[i] for i in layers], lesson.states, batch.mask_BL)
        total = total + (1 - kd_weight) * ce + kd_weight * kd + 0.3 * match
    (total / num_valid).backward()
    assert sum(terms) == pytest.approx(total.item(), rel=1e-5)
    for n, p in (*twin.named_parameters(), *other.named_parameters()):
        torch.testing.assert_close(found[n], p.grad, rtol=1e-3, atol=1e-6)
    assert all(float(found[f"maps.{i}"].abs().max()) > 0 for i in range(3))


# ---- a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_learns_its_projection_and_is_taken_up_where_it_was_killed(tiny: Tiny, name: str):
    settings = [*LIVE, f"hidden={name}", *LAYERS, "mix.kd_weight=0.5", "train.num_evals=4"]
    run, env = tiny(*settings, "env.checkpoint_seconds=0")
    whole = execute(run, env, quiet=True)
    lines = (env.paths.runs / run.run_id / "metrics.jsonl").read_text()
    assert lines.count("train/hidden_loss") == lines.count("train/kd_loss") > 1
    (env.paths.result(run.run_id)).unlink()
    asked: list[int] = []
    with pytest.raises(Paused):
        execute(run, env, quiet=True, must_end=lambda: asked.append(1) or len(asked) > 1)
    state = load(env.paths.runs / run.run_id, CPU)
    assert state is not None and 0 < state["step"] < run.num_steps
    drawn = Matcher(run.hidden, 24, 32, run.train.seed).maps[0]
    assert float((state["matcher"]["maps.0"] - drawn.detach()).abs().max()) > 0
    again = execute(run, env, quiet=True)
    same = ("val/loss", "test/loss", "train/hidden_loss", "train/loss", "val/teacher_kl")
    assert {k: again["metrics"][k] for k in same} == {k: whole["metrics"][k] for k in same}


def test_matching_is_no_part_of_runs_without_it(tiny: Tiny):
    plain, _ = tiny(*LIVE)
    assert "hidden" not in plain.identity
    matched = {tiny(*LIVE, f"hidden={n}")[0].run_id for n in NAMES}
    matched.add(tiny(*LIVE, "hidden=mse", "hidden.weight=2.0")[0].run_id)
    assert len(matched | {plain.run_id}) == 4


def test_projections_are_charged(tiny: Tiny):
    facts = [facts_of(*tiny(*LIVE, *more)) for more in ([], ["hidden=mse", *LAYERS])]
    more = facts[1]["flops_train_exact"] - facts[0]["flops_train_exact"]
    assert more == 3 * (3 * 2 * 24 * 32) * 2048


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["hidden=cosine", "loss=none"],
            r"hidden=cosine: is a second term beside a loss that reads",
        ),
        (
            ["hidden=mse", "store=none", "hidden.projection=false"],
            r"hidden.projection=False: the student is 24 wide and the teacher 32; set hidden.pro",
        ),
        (
            ["hidden=mse", "store=none", "hidden.student_layers=[3]"],
            r"hidden.student_layers=3: must be from 0 \(the embedding\) to 2, or from the end down",
        ),
        (
            ["hidden=mse", "store=none", "hidden.teacher_layers=[-4]"],
            r"hidden.teacher_layers=-4: must be from 0 \(the embedding\) to 2, or from the end",
        ),
        (
            ["hidden=mse", "store=none", "hidden.teacher_layers=[1,2]"],
            r"hidden.teacher_layers=\[1, 2\]: must be as many as hidden.student_layers=\[-1\].",
        ),
        (
            ["hidden=mse", "store=none", "hidden.student_layers=[]"],
            r"hidden.student_layers=\[\]: must name a layer or more.",
        ),
        (
            ["hidden=mse", "store=none", "hidden.weight=0"],
            r"hidden.weight=0.0: must be > 0; use hid",
        ),
        (
            ["hidden=mse", "store=none", "routing=placebo"],
            r"hidden=mse: routing=placebo moves the teacher's words and not its hidden states",
        ),
        (
            ["hidden=mse", "store=none", "env.gpus_per_run=2", "env.sharding=fsdp"],
            r"env.sharding=fsdp: projections of hidden states are whole on every process; use",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_at_plan_time(tiny: Tiny, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        tiny(*overrides)


def test_equal_widths_need_no_projection(tiny: Tiny):
    run, _ = tiny(
        "hidden=cosine", "store=none", "hidden.projection=false", "teacher.hidden_size=24"
    )
    assert isinstance(run.hidden.compare(torch.ones(1, 1, 24), torch.ones(1, 1, 24)), torch.Tensor)


def test_a_pretrained_teacher_is_checked_when_it_is_there(tiny: Tiny):
    """Nothing is known of its layers before."""

    class Config:
        hidden_size, num_hidden_layers = 24, 1

    class Model:
        config = Config

    class Teacher:
        model = Model

    class Holder:
        teacher, device = Teacher, CPU

    hidden: Any = component("hidden", "mse", teacher_layers=[2])
    with pytest.raises(ConfigError, match=r"^hidden.teacher_layers=2: must be from 0"):
        hidden.init(Model, Holder, 0)
    assert component("hidden", "mse").init(Model, Holder, 0).maps[0].shape == (24, 24)
