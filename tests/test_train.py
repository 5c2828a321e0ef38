"""The loop against its hand-written twin, against itself after a kill, and at its end."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numerics import component, taught, word
from torch import Tensor

from pdx import checkpoint, train
from pdx.checkpoint import Keeper, Paused
from pdx.config import Run
from pdx.data import window_order
from pdx.env import Env
from pdx.errors import DataError, Diverged, StoreError
from pdx.execute import execute
from pdx.feed import Feed
from pdx.frozen import freeze, load_model
from pdx.shared import Shared
from pdx.signal import Lesson
from pdx.train import train as train_loop

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def outputs(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with a trained teacher of sharp opinions."""
    outputs = tmp_path_factory.mktemp("train")
    taught(*tiny_at(outputs, *TEACHER))
    return outputs


TEACHER = ["teacher.init_std=0.3", "teacher.num_tokens=8192"]


def run_loop(run: Run, student: Any, feed: Any, **given: Any) -> list[tuple[int, dict[str, float]]]:
    """The loop without evaluation; returns what it reported."""
    reported: list[tuple[int, dict[str, float]]] = []

    def report(step: int, metrics: dict[str, float]) -> bool:
        reported.append((step, metrics))
        return False

    train_loop(run, student, feed, lambda: {}, report, Forgetful(), **given)
    return reported


class Forgetful(Keeper):
    """Never saves."""

    def __init__(self) -> None:
        super().__init__(Path(), 0.0)

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        """As when a report stops the run."""


# ---- the twin --------------------------------------------------------------------------------


def twin(run: Run, model: Any, raw: np.ndarray, teacher: Any = None) -> None:
    """The same training in plain PyTorch: one batch, whole logits, one mean, no chunks.

    Full distillation at temperature.value on both sides, as Hinton wrote it, or none.
    """
    length, size, optim = run.data.seq_len, run.train.batch_size, run.optim
    decayed = [p for n, p in model.named_parameters() if "norm" not in n]
    others = [p for n, p in model.named_parameters() if "norm" in n]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
    )
    num_steps = run.train.num_tokens // (size * length)
    num_windows = (len(raw) - 1) // length
    weight = run.mix.kd_weight if teacher is not None else 0.0
    heat = run.temperature.value
    for step in range(num_steps):
        order = window_order(
            num_windows, min(num_windows, num_steps * size), run.train.seed, step * size, size
        )
        windows = torch.from_numpy(
            np.stack([raw[i * length : i * length + length + 1] for i in order])
        )
        logits = model(windows[:, :-1]).logits
        loss = (1 - weight) * F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        if teacher is not None:
            with torch.no_grad():
                theirs = teacher(windows[:, :-1]).logits
            kl = F.kl_div(
                (logits / heat).log_softmax(-1),
                (theirs / heat).log_softmax(-1),
                log_target=True,
                reduction="sum",
            )
            loss = loss + weight * heat**2 * kl / windows[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        done = (step + 0.5) / num_steps
        for group in adamw.param_groups:  # linear up over 25%, then linear down to 10%
            group["lr"] = optim.peak_lr * (
                done / 0.25 if done < 0.25 else 1 - 0.9 * (done - 0.25) / 0.75
            )
        adamw.step()
        adamw.zero_grad()


TWIN = [
    "train.num_tokens=6144",
    "schedule=linear",
    "schedule.warmup_frac=0.25",
    "schedule.final_frac=0.1",
]
TWIN += ["student.init_std=0.2", "optim.clip_norm=0.3", "train.seed=7"]


def assert_same(student: Any, other: Any, tolerance: float) -> None:
    for (name, found), (_, wanted) in zip(
        student.named_parameters(), other.named_parameters(), strict=True
    ):
        torch.testing.assert_close(
            found, wanted, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize("loss", ["none", "forward_kl"])
@pytest.mark.parametrize("tie", [True, False])
def test_the_loop_is_its_hand_written_twin(
    tiny_at: Tiny, outputs: Path, loss: str, micro_batch_size: int, tie: bool
):
    """In float64, so that nothing but arithmetic that differs can show."""
    settings = [
        f"loss={loss}",
        f"train.micro_batch_size={micro_batch_size}",
        f"student.tie_embeddings={tie}",
    ]
    settings += [
        "signal=full",
        "temperature.value=2.0",
        "temperature.temper_student=true",
        "mix.kd_weight=0.6",
    ]
    run, env = tiny_at(outputs, *TEACHER, *TWIN, *settings)
    shared = Shared.of(run, env)
    student = run.student.init(32, 64, run.train.seed).double()
    other = run.student.init(32, 64, run.train.seed).double()
    assert student.training and other.training
    teacher = load_model(shared.teacher_dir(run.teacher), "float32").double()
    frozen = None if loss == "none" else freeze(teacher, shared.token_set, CPU, "refuse")
    feed = Feed(run, shared.train_windows, CPU, None, frozen)
    reported = run_loop(run, student, feed)
    raw = np.fromfile(shared.token_set.dir / "student.bin", dtype="<u2").astype(np.int64)
    twin(run, other, raw, teacher if loss != "none" else None)
    assert_same(student, other, 1e-9)
    assert [step for step, _ in reported] == list(range(1, 13))


class Part(NamedTuple):
    """A micro-batch of the fake feed below."""

    tokens_BL: Tensor
    targets_BL: Tensor
    mask_BL: Tensor
    document_BL: Tensor | None
    num_valid: int


class Uneven:
    """Micro-batches of which some hold few valid tokens and some none."""

    device = CPU

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, step: int) -> list[Part]:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(32, (8, 17), generator=generator)
        mask = torch.rand(8, 16, generator=generator) < torch.linspace(0, 1, 8)[:, None] ** 2
        mask[1] = False
        cut = [slice(i, i + self.size) for i in range(0, 8, self.size)]
        return [Part(ids[c, :-1], ids[c, 1:], mask[c], None, int(mask[c].sum())) for c in cut]

    def lesson(self, batch: Part, fraction: float) -> Lesson:
        one_hot = 5.0 * F.one_hot(batch.targets_BL.flatten(), 32).double()
        return Lesson(word(component("signal", "full"), one_hot), None)

    autocast = staticmethod(nullcontext)


def test_micro_batch_size_does_not_change_training(tiny: Tiny):
    """Masks differ between micro-batches: a mean of their means would show."""
    students, curves = [], []
    for size in (8, 4, 1):
        run, _ = tiny("train.num_tokens=4096", "student.init_std=0.2")
        student = run.student.init(32, 64, 0).double()
        reported = run_loop(run, student, Uneven(size))
        students.append(student)
        curves.append(
            [[m["train/loss"], m["train/ce_loss"], m["train/kd_loss"]] for _, m in reported]
        )
    for student, curve in zip(students[1:], curves[1:], strict=True):
        assert_same(student, students[0], 1e-9)
        assert np.asarray(curve) == pytest.approx(np.asarray(curves[0]), rel=1e-5)


def test_reported_losses_are_means_over_valid_tokens_since_the_last_report(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, "NUM_LOGS", 3)
    run, _ = tiny(
        "train.num_tokens=3584", "student.init_std=0.2", "optim.peak_lr=1e-12", "mix.kd_weight=0.25"
    )
    student, feed = run.student.init(32, 64, 0), Uneven(4)
    reported = run_loop(run, student, feed)
    assert [step for step, _ in reported] == [2, 4, 6, 7]
    first = 0
    for step, metrics in reported:
        nats, count = 0.0, 0
        for part in (part for s in range(first, step) for part in feed(s)):
            logits = student(part.tokens_BL).logits.detach().double()
            nats += float(
                F.cross_entropy(
                    logits[part.mask_BL], part.targets_BL[part.mask_BL], reduction="sum"
                )
            )
            count += part.num_valid
        first = step
        assert metrics["train/ce_loss"] == pytest.approx(nats / count, rel=1e-5)
        mixed = 0.75 * metrics["train/ce_loss"] + 0.25 * metrics["train/kd_loss"]
        assert metrics["train/loss"] == pytest.approx(mixed, rel=1e-5)
        assert metrics["tokens"] == step * 512
        done = (step - 0.5) / 7
        assert metrics["train/lr"] == pytest.approx(1e-12 * run.schedule(done))


def test_only_matrices_are_decayed(tiny: Tiny):
    run, _ = tiny()
    model = run.student.init(32, 64, 0)
    decays = {
        id(p): g["weight_decay"] for g in run.optim.init(model).param_groups for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.0 if "norm" in name else 0.1), name


def test_learning_rate_of_another_width(tiny: Tiny):
    """Halved where the model is twice as wide as what it is for; reported as it was used."""
    for width, factor in (("null", 1.0), ("12", 0.5), ("24", 1.0), ("48", 2.0)):
        settings = [f"optim.lr_reference_width={width}", "optim.peak_lr=0.003", "loss=none"]
        run, _ = tiny("student.hidden_size=24", "train.num_tokens=2048", *settings)
        reported = run_loop(run, run.student.init(32, 64, 0), Uneven(8))
        wanted = [0.003 * factor * run.schedule((step + 0.5) / 4) for step in range(4)]
        assert [m["train/lr"] for _, m in reported] == pytest.approx(wanted)


# ---- resume ----------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing below the test may catch it."""


RESUME = [*TEACHER, "env.checkpoint_seconds=0", "train.num_evals=2", "train.micro_batch_size=4"]
RESUME += ["train.num_tokens=10240", "train.max_epochs=1.0", "student.init_std=0.2"]  # 20 steps


def folder(env: Env, run: Run) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Tensor]]:
    """What a run left behind, less what depends on the clock."""
    directory = env.paths.runs / run.run_id
    result = json.loads((directory / "result.json").read_text())
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {k: v for k, v in x.items() if not k.startswith("perf/")}
        for x in (result["metrics"], *lines)
    ]
    weights = load_model(directory / "model", "float32").state_dict()
    assert not (directory / checkpoint.FILE).exists()
    return timeless[0], timeless[1:], weights


@pytest.fixture(scope="module")
def uninterrupted(tiny_at: Tiny, outputs: Path) -> Iterator[tuple[Run, Env, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "NUM_LOGS", 5)
        run, env = tiny_at(outputs, *RESUME)
        execute(run, env, quiet=True)
    yield run, env, folder(env, run)


def beside(env: Env, root: Path) -> Env:
    """Other outputs over the same data, stores and teachers."""
    for name in ("data", "stores", "teachers"):
        (root / name).symlink_to(env.paths.root / name)
    return replace(env, outputs=str(root))


@pytest.mark.parametrize("step", [1, 7, 8, 10, 20])
def test_resumed_is_uninterrupted_bit_for_bit(
    uninterrupted: tuple[Run, Env, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """Killed after the checkpoint of a step: any, one that logs, one that evaluates, the last."""
    run, env, wanted = uninterrupted
    monkeypatch.setattr(train, "NUM_LOGS", 5)
    env = beside(env, tmp_path)
    save = checkpoint.save

    def dying(run_dir: Path, state: dict[str, Any]) -> None:
        save(run_dir, state)
        if state["step"] == step:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(Killed):
        execute(run, env, quiet=True)
    (line,) = (tmp_path / "runs").glob("*/metrics.jsonl")
    with open(line, "a") as log:  # what a killed process may also have written
        log.write(json.dumps({"step": step, "train/loss": 1.0}) + '\n{"step": 99, "trai')
    monkeypatch.setattr(checkpoint, "save", save)
    execute(run, env, quiet=True)
    metrics, lines, weights = folder(env, run)
    assert (metrics, lines) == wanted[:2]
    assert all(torch.equal(weights[key], wanted[2][key]) for key in wanted[2])
    assert [entry["step"] for entry in lines] == [4, 8, 10, 12, 16, 20]


@pytest.mark.parametrize("step", [1, 8, 20])
def test_a_run_that_must_end_is_saved_at_once_and_goes_on(
    uninterrupted: tuple[Run, Env, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    run, env, wanted = uninterrupted
    monkeypatch.setattr(train, "NUM_LOGS", 5)
    env, asked = replace(beside(env, tmp_path), checkpoint_seconds=1e9), []

    def must_end() -> bool:
        asked.append(1)
        return len(asked) >= step

    with pytest.raises(Paused, match=rf"^paused at step {step};"):
        execute(run, env, quiet=True, must_end=must_end)
    assert not env.paths.result(run.run_id).exists()
    execute(run, env, quiet=True)
    metrics, lines, weights = folder(env, run)
    assert (metrics, lines) == wanted[:2]
    assert all(torch.equal(weights[key], wanted[2][key]) for key in wanted[2])


@pytest.mark.parametrize("step", [4, 10, 16])
def test_a_pruned_run_has_no_result_and_goes_on_where_it_is_wanted_whole(
    uninterrupted: tuple[Run, Env, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    run, env, wanted = uninterrupted
    monkeypatch.setattr(train, "NUM_LOGS", 5)
    env, seen = beside(env, tmp_path), []
    result = execute(run, env, lambda at, _: bool(seen.append(at)) or at == step, quiet=True)
    assert result["status"] == "pruned" and seen[-1] == step
    assert "test/loss" not in result["metrics"]
    assert not env.paths.result(run.run_id).exists()
    execute(run, env, quiet=True)
    metrics, lines, weights = folder(env, run)
    assert (metrics, lines) == wanted[:2]
    assert all(torch.equal(weights[key], wanted[2][key]) for key in wanted[2])


def test_a_run_stopped_at_its_last_step_is_complete(
    uninterrupted: tuple[Run, Env, Any], tmp_path: Path
):
    run, env, _ = uninterrupted
    env = beside(env, tmp_path)
    result = execute(run, env, lambda at, _: at == run.num_steps, quiet=True)
    assert result["status"] == "complete" and env.paths.result(run.run_id).exists()


def test_what_evaluation_will_need_is_made_before_the_first_step(tiny: Tiny):
    run, env = tiny("loss=none", "teacher.num_tokens=999936")
    with pytest.raises(DataError, match=r"^teacher\.num_tokens=999936: is .* epochs"):
        execute(run, env, quiet=True)
    assert not list(env.paths.runs.glob("*/metrics.jsonl"))


def test_a_finished_run_is_returned_as_it_stands(uninterrupted: tuple[Run, Env, Any]):
    run, env, _ = uninterrupted
    path = env.paths.runs / run.run_id / "result.json"
    before = (path.stat().st_mtime_ns, path.read_bytes())
    result = execute(run, env, quiet=True)
    assert result == json.loads(before[1]) and result["status"] == "complete"
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_a_checkpoint_of_another_version_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
    checkpoint.save(tmp_path, {"step": 3})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, CPU) is None
    assert "of another version of pdx; the run starts anew" in capsys.readouterr().err
    torch.save({"step": 3}, tmp_path / checkpoint.FILE)  # the first had no number
    assert checkpoint.load(tmp_path, CPU) is None


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    checkpoint.save(tmp_path, {"step": 3})
    assert checkpoint.load(tmp_path, CPU) == {"step": 3}
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        StoreError, match=r"checkpoint.pt: cannot be read .*; delete it to train from the start"
    ):
        checkpoint.load(tmp_path, CPU)
    checkpoint.drop(tmp_path)
    assert checkpoint.load(tmp_path, CPU) is None


# ---- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [["optim.peak_lr=1e30"], ["optim.peak_lr=1e38", "train.num_tokens=512"]]
)
def test_a_diverged_run_is_a_measurement(tiny_at: Tiny, outputs: Path, settings: list[str]):
    """Also where only the very last update was its end: no NaN reaches the result."""
    run, env = tiny_at(
        outputs, *TEACHER, "loss=none", "schedule=constant", "schedule.warmup_frac=0", *settings
    )
    result = execute(run, env, quiet=True)
    assert result["status"] == "diverged" and "not finite" in result["reason"]
    assert "lower optim.peak_lr or warm up longer" in result["reason"]
    assert result["metrics"]["val/loss"] == pytest.approx(math.log(32))
    assert all(math.isfinite(value) for value in result["metrics"].values())
    directory = env.paths.runs / run.run_id
    assert not (directory / "model").exists() and not (directory / checkpoint.FILE).exists()
    json.loads(
        (directory / "result.json").read_text(), parse_constant=lambda _: pytest.fail("not JSON")
    )
    assert execute(run, env, quiet=True) == result


def test_one_bad_gradient_is_enough(tiny: Tiny):
    """An infinite gradient between two reports is not forgotten when later losses are finite."""
    run, _ = tiny("train.num_tokens=4096", "loss=none")

    class Bad(Uneven):
        def __call__(self, step: int) -> list[Part]:
            for hook in hooks:
                hook.remove()
            hooks.clear()
            if step == 2:
                hooks.append(student.lm_head.weight.register_hook(lambda grad: grad * math.inf))
            return super().__call__(step)

    hooks: list[Any] = []
    student = run.student.init(32, 64, 0)
    with pytest.raises(
        Diverged, match=r"by step 3: gradient or loss is not finite; lower optim.peak_lr"
    ):
        run_loop(run, student, Bad(8))


def test_report_may_stop_it(tiny: Tiny):
    run, _ = tiny("train.num_tokens=4096", "loss=none")
    steps: list[int] = []

    def report(step: int, metrics: dict[str, float]) -> bool:
        steps.append(step)
        return step == 3

    student = run.student.init(32, 64, 0)
    train_loop(run, student, Uneven(8), lambda: {}, report, Forgetful())  # type: ignore[arg-type]
    assert steps == [1, 2, 3]


def test_evaluations_are_spread_and_the_last_is_at_the_end(tiny: Tiny):
    run, _ = tiny("train.num_tokens=5120", "train.num_evals=3", "loss=none")
    seen = []
    student = run.student.init(32, 64, 0)
    train_loop(
        run,
        student,
        Uneven(8),  # type: ignore[arg-type]
        lambda: {"val/loss": 1.0},
        lambda step, metrics: bool(seen.append(step)) if "val/loss" in metrics else False,
        Forgetful(),
    )
    assert seen == [3, 7, 10]


# ---- what it trains --------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["full", "topk", "topp_topk"])
def test_distillation_learns(tiny_at: Tiny, outputs: Path, signal: str):
    """Live and stored signals alike bring the student nearer to the teacher than it began."""
    run, env = tiny_at(
        outputs, *TEACHER, f"signal={signal}", "loss=forward_kl", "train.num_tokens=32768"
    )
    result = execute(run, env, quiet=True)
    lines = (env.paths.runs / run.run_id / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert result["metrics"]["train/kd_loss"] < 0.9 * first["train/kd_loss"]
    assert result["metrics"]["val/top1_agreement"] > 2 / 32
    assert 0 < result["metrics"]["perf/wait_frac"] < 1
    assert result["metrics"]["perf/setup_seconds"] > 0
    assert result["facts"]["flops_teacher_inference_exact"] > 0


def test_repeats_are_asked_for_and_new_orders(tiny: Tiny):
    run, env = tiny("loss=none", "train.num_tokens=81920")
    with pytest.raises(DataError) as refused:
        Shared.of(run, env)
    assert "train.num_tokens=81920: is 2.50 epochs of the 32,768 tokens of split 'student'" in str(
        refused.value
    )
    assert "train.max_epochs=2.50" in str(refused.value)
    run, env = tiny("loss=none", "train.num_tokens=81920", "train.max_epochs=2.5")
    shared = Shared.of(run, env)
    feed = Feed(run, shared.train_windows, CPU)
    epochs = [
        np.concatenate([feed(s)[0].index_B for s in range(e * 64, e * 64 + 64)]) for e in (0, 1)
    ]
    assert all(sorted(epoch) == list(range(512)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert (shared.num_epochs, shared.num_unique_tokens) == (2.5, 32768)


def test_seeds_of_a_short_run_share_its_windows(tiny: Tiny):
    """A prefix of the split, so that one capture serves all seeds; another order, other weights."""
    seen = []
    for seed in (0, 1):
        run, env = tiny("loss=none", "train.num_tokens=4096", f"train.seed={seed}")
        feed = Feed(run, Shared.of(run, env).train_windows, CPU)
        seen.append(np.concatenate([feed(step)[0].index_B for step in range(run.num_steps)]))
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(64))
    assert not np.array_equal(seen[0], seen[1])
