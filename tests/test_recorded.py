"""Logits recorded while the teacher is itself trained: from its own steps, at no extra pass."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numerics import component

from pdx import train as loop
from pdx.checkpoint import Paused
from pdx.config import Run
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.execute import execute
from pdx.facts import facts_of
from pdx.feed import Feed
from pdx.models import layer_states
from pdx.shared import Shared
from pdx.store.codecs.topk import LOGIT_STEP
from pdx.store.reader import Store
from pdx.store.recorder import Recorder

Tiny = Callable[..., tuple[Run, Env]]
CPU = torch.device("cpu")
# 32 steps of 8 windows; shards of 12, so that no step ends where a shard does.
PART = ["text=teacher_part", "store.shard_tokens=768", "train.num_tokens=1024"]
RECORDED = [*PART, "store.recorded=[0.25,0.75]", "text.start_frac=0.5", "text.end_frac=0.625"]


@pytest.fixture(scope="module")
def recorded(tiny_at: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A run on a recorded part, and all that it needs made."""
    shared = Shared.of(*tiny_at(tmp_path_factory.mktemp("recorded") / "out", *RECORDED))
    shared.ensure(shared.run.num_windows)
    return shared


def steps_of_teacher(shared: Shared, num_steps: int) -> list[tuple[np.ndarray, torch.Tensor]]:
    """A twin of the teacher's training: ids and logits of each step, before its update."""
    training = shared.run.teacher.run(shared.run)
    windows = shared.token_set.windows("teacher")
    model = training.student.init(32, 64, training.train.seed)
    optimizer = training.optim.init(model)
    feed, said = Feed(training, windows, CPU), []
    for step in range(num_steps):
        (batch,) = feed(step)
        logits_BLV = model(batch.tokens_BL).logits
        said.append((windows.ids(batch.index_B), logits_BLV.detach().clone()))
        torch.nn.functional.cross_entropy(
            logits_BLV.flatten(0, 1), batch.targets_BL.flatten()
        ).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * training.schedule((step + 0.5) / training.num_steps)
        optimizer.step()
        optimizer.zero_grad()
    return said


def test_a_student_reads_what_the_teacher_said_of_these_tokens_at_that_step(recorded: Shared):
    """Steps 16 to 19 of 32, by a twin of the teacher's loop; of a recording of 8 to 23."""
    twin = steps_of_teacher(recorded, 20)[16:]
    windows, store = recorded.train_windows, recorded.open_store()
    assert windows.num_windows == 32 and store.layout.num_windows == 128
    index_B = np.arange(32)
    ids = np.concatenate([ids for ids, _ in twin])
    assert np.array_equal(windows.ids(index_B), ids)
    rows = store.rows(index_B, windows.ids(index_B), 0)
    wanted_NV = torch.cat([logits for _, logits in twin]).flatten(0, 1)
    torch.testing.assert_close(
        rows.logits_NK, wanted_NV.gather(-1, rows.ids_NK), rtol=0, atol=1.1 * LOGIT_STEP
    )
    torch.testing.assert_close(
        rows.facts.lse[1.0] - rows.logits_NK.logsumexp(-1), torch.zeros(32 * 64), rtol=0, atol=1e-4
    )  # all of 32 tokens are kept: the mass is all there
    earlier = steps_of_teacher(recorded, 1)[0][1].flatten(0, 1)
    assert float((earlier[:512] - wanted_NV[:512]).abs().mean()) > 0.1


def test_recording_changes_nothing_and_adds_no_pass(
    tiny: Tiny, recorded: Shared, monkeypatch: pytest.MonkeyPatch
):
    run, env = tiny(*RECORDED)
    training, passes = run.teacher.run(run), []

    def counted(model: Any, *args: Any) -> Any:
        passes.append(len(args[0]))
        return layer_states(model, *args)

    monkeypatch.setattr(loop, "layer_states", counted)
    plain = execute(training, env, quiet=True)
    assert passes == [8] * training.num_steps
    result = recorded.env.paths.runs / training.run_id
    assert result.is_dir()
    ours, theirs = (
        root / training.run_id / "model" / "model.safetensors"
        for root in (env.paths.runs, recorded.env.paths.runs)
    )
    assert plain["status"] == "complete" and ours.read_bytes() == theirs.read_bytes()
    passes.clear()
    Shared.of(run, env).ensure(run.num_windows)  # it was trained: once more, to be recorded
    assert passes == [8] * training.num_steps
    store = Shared.of(run, env).store_dir
    assert {p.name for p in store.iterdir()} == {p.name for p in recorded.store_dir.iterdir()}, (
        "no parts, no second teacher"
    )
    for shard in sorted(store.glob("shard-*.bin")):
        assert shard.read_bytes() == (recorded.store_dir / shard.name).read_bytes()


def test_a_teacher_killed_while_it_is_recorded_goes_on(tiny: Tiny, recorded: Shared):
    run, env = tiny(*RECORDED, "env.checkpoint_seconds=0")
    shared = Shared.of(run, env)
    kind, layout, directory = run.store, shared.layout, shared.store_dir
    Store.write_manifest(directory, shared.store_manifest)
    recorder = Recorder(Store(directory, kind, layout, 32), 64, 192)
    training = run.teacher.run(run)
    for _ in range(2):  # in the midst of the part, twice
        asked: list[int] = []
        with pytest.raises(Paused):
            execute(
                training,
                env,
                quiet=True,
                must_end=lambda asked=asked: asked.append(1) or len(asked) > 9,
                record=recorder,
            )
    assert not recorder.is_complete and any(recorder.parts.iterdir())
    shared.ensure(run.num_windows)
    for shard in sorted(directory.glob("shard-*.bin")):
        assert shard.read_bytes() == (recorded.store_dir / shard.name).read_bytes()


@pytest.mark.parametrize("kind", ["topk", "sampled", "head_sampled"])
def test_a_run_on_a_recorded_part(tiny_at: Tiny, recorded: Shared, kind: str):
    outputs = recorded.env.paths.root
    signal = [] if kind == "topk" else [f"signal={kind}"]
    short = ["eval.num_tokens=512", "eval.num_tokens_teacher=512"]
    run, env = tiny_at(outputs, *PART, *short, "store.recorded=[0.5,1.0]", f"store={kind}", *signal)
    result = execute(run, env, quiet=True)
    assert result["status"] == "complete"
    assert result["facts"]["flops_teacher_inference_exact"] == 0
    assert result["facts"]["flops_teacher_training_exact"] > 0


def test_the_control_the_finished_teacher_and_the_recording_read_the_same_tokens(
    tiny_at: Tiny, recorded: Shared
):
    outputs = recorded.env.paths.root
    part = [*PART, *RECORDED[-2:]]
    ids, runs = [], []
    for more in (["loss=none"], [], ["store=none"], RECORDED[3:4]):
        settings = [s for s in part if more != ["store=none"] or not s.startswith("store.")]
        shared = Shared.of(*tiny_at(outputs, *settings, *more))
        ids.append(shared.train_windows.ids(np.arange(32)))
        runs.append(shared)
    assert all(np.array_equal(ids[0], other) for other in ids[1:])
    assert len({shared.run.run_id for shared in runs}) == 4
    assert len({shared.store_dir for shared in (runs[1], runs[3])}) == 2
    facts = facts_of(runs[0].run, runs[0].env, runs[0].token_set)
    assert facts["teacher_id"] is None and facts["flops_teacher_inference_exact"] == 0
    wider = tiny_at(outputs, *part, "store.recorded=[0.0,1.0]")[0]
    assert wider.run_id == runs[3].run.run_id  # what else was recorded changes no number


def test_a_live_teacher_hears_of_no_recording(recorded: Shared):
    assert component("text", "teacher_part").part == (0.75, 1.0)
    shutil.rmtree(recorded.store_dir / "nothing", ignore_errors=True)
    with pytest.raises(ConfigError, match=r"^store.recorded=\[0.25, 0.75\]: what a teacher said"):
        recorded.verify_store()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["store.recorded=[0.5,1.0]"],
            r"text=corpus: store.recorded=\[0.5, 1.0\] holds what the teacher said of its own tra",
        ),
        (
            [*PART, "store.recorded=[0.5,1.0]", "text.start_frac=0.25"],
            r"text.start_frac=0.25, text.end_frac=1.0: lie outside of the recorded part .*"
            r"store.recorded=\[0.5, 1.0\]; take a part of it, or record store.recorded=\[0.25, 1.0",
        ),
        (
            [*PART, "train.num_tokens=8192"],
            r"train.num_tokens=8192: the part of the teacher's training from 0.75 to 1.0 holds 40",
        ),
        ([*PART, "text.start_frac=1.0"], r"text.start_frac=1.0: must lie in \[0, 1\)."),
        (
            [*PART, "text.end_frac=0.5"],
            r"text.end_frac=0.5: must be above text.start_frac=0.75 and",
        ),
        ([*PART, "loss=none", "teacher=none"], r"text=teacher_part: is what a teacher read when"),
        (
            ["store.recorded=[1.0,0.5]"],
            r"store.recorded=\[1.0, 0.5\]: must be \[\] to capture from",
        ),
        (["store.recorded=[0.5]"], r"store.recorded=\[0.5\]: must be \[\] to capture from the fin"),
        (
            [*RECORDED, "env.gpus_per_run=2"],
            r"env.gpus_per_run=2: a teacher is recorded in one pro",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_at_plan_time(tiny: Tiny, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        tiny(*overrides)


def test_more_epochs_of_a_part_are_asked_for(tiny: Tiny):
    run, _ = tiny(*PART, "train.num_tokens=8192", "train.max_epochs=2")
    assert run.num_windows == 128


def test_the_part_is_of_whole_steps(tiny: Tiny):
    run, _ = tiny(*PART)
    assert run.text.sequences(run) == (192, 256)
    odd = component("text", "teacher_part", start_frac=0.3, end_frac=0.34)
    assert odd.sequences(run) == (80, 88)
