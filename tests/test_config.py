"""Every value builds, files say everything, bad input is named, and a hash means content."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from numerics import component, values
from omegaconf import OmegaConf

from pdx import paths
from pdx.build import build, check, find_class
from pdx.config import Run, config_of, identity, resolved, run_of, run_of_resolved
from pdx.device import device_of
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.shared import Shared

Compose = Callable[..., Any]
Tiny = Callable[..., tuple[Run, Env]]
GOLDEN = Path(__file__).parent / "golden" / "config_keys.txt"
CONF = paths.conf_dir()
HYDRAS_OWN = CONF / "hydra"  # how sweeps are run: no axis of a run
FILES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and HYDRAS_OWN not in path.parents
)
PRIMITIVES = {"int", "float", "str", "bool", "list[str]", "list[float]", "list[int]"}
PRIMITIVES |= {"bool | None", "str | None", "int | None", "float | None"}
ANY_TYPE = {"env/local.gpus", "env/local.num_workers"}  # a number or a word
# What a value needs of other axes, and what cannot have a default.
GIVEN = {
    "teacher/pretrained": ["teacher.path=org/name"],
    "teacher/none": ["loss=none"],
    "text/teacher_part": ["train.num_tokens=300000"],
    "hidden/mse": ["store=none"],
    "hidden/cosine": ["store=none"],
    "text/selected": ["teacher@weak_teacher=trained", "weak_teacher.num_layers=2"],
    "signal/sampled": ["store=sampled"],
    "store/sampled": ["signal=sampled"],
    "signal/head_sampled": ["store=head_sampled"],
    "store/head_sampled": ["signal=head_sampled"],
    "signal/topp": ["store=none"],
    "loss/tail_aware": ["signal=full"],
    "loss/masked_mse": ["signal=full"],
    "temperature/by_entropy": ["signal.tail=renormalize"],
    "temperature/by_deviation": ["signal.tail=support"],
    "temperature/scheduled": ["signal.tail=renormalize"],
    "temperature/normkd": ["signal.tail=decoupled"],
}


def spelled(kind: Any) -> str:
    """A field's type as its source writes it."""
    return kind.__name__ if type(kind) is type else str(kind).removeprefix("typing.")


def node(file: Path) -> Any:
    return OmegaConf.load(CONF / file)


def key(file: Path) -> str:
    return str(file.with_suffix(""))


# ---- files -----------------------------------------------------------------------------------


def test_axes_are_folders_and_fields():
    folders = {file.parent.as_posix() for file in FILES}
    assert folders == {f.name for f in fields(Run)} - {"eval_teacher", "weak_teacher"} | {"env"}
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=key)
def test_a_file_states_every_field_and_the_class_none(file: Path):
    cls, stated = find_class(node(file)._target_, str(file), ()), node(file)
    assert {*stated} == {"_target_", *(f.name for f in fields(cls))}
    for field in fields(cls):
        assert field.default is MISSING and field.default_factory is MISSING, field.name
        name = f"{key(file)}.{field.name}"
        assert field.kw_only and (spelled(field.type) in PRIMITIVES or name in ANY_TYPE), name
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert isinstance(cls.version, int)  # type: ignore[attr-defined]
    assert "version" not in {f.name for f in fields(cls)}
    assert (CONF / file).read_text().startswith("# "), "one comment line: what it is, source"
    assert (cls.__doc__ or "").strip() and not (cls.__doc__ or "").startswith(f"{cls.__name__}(")


@pytest.mark.parametrize("file", FILES, ids=key)
def test_every_value_of_every_axis_builds(compose_cfg: Compose, file: Path):
    """As the command line composes it, beside the defaults of all other axes."""
    axis, value = file.parent.as_posix(), file.stem
    group = "teacher@eval_teacher" if key(file) == "teacher/same" else axis
    run, env = run_of(compose_cfg(f"{group}={value}", *GIVEN.get(key(file), [])))
    name = "eval_teacher" if "@" in group else axis
    built = env if axis == "env" else getattr(run, name)
    assert (
        is_dataclass(built)
        and f"{type(built).__module__}.{type(built).__name__}" == node(file)._target_
    )


@pytest.mark.parametrize("name", values("data"))
def test_every_data_value_feeds_the_defaults(compose_cfg: Compose, name: str, tmp_path: Path):
    """Student, teacher and signal as they come, where the value needs no text of the user's."""
    cfg = compose_cfg(f"data={name}", "train.num_tokens=20000", f"env.outputs={tmp_path}")
    if {"paths", "name"} & {*cfg.data}:
        pytest.skip("needs text that the user names")
    run, env = run_of(cfg)
    for shared in (Shared.of(run, env), Shared.of(run.evaluation_teacher.run(run), env)):
        assert shared.num_epochs <= 1


def test_the_config_surface_is_golden():
    """One line a key; a change here is a change of what users may write."""
    lines = []
    for file in FILES:
        cls = find_class(node(file)._target_, str(file), ())
        surface = sorted(f"{key(file)}.{f.name}: {spelled(f.type)}" for f in fields(cls))
        lines += surface or [key(file)]
    found = "\n".join(lines) + "\n"
    if os.environ.get("PDX_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found)
    changed = {*found.splitlines()} ^ {*GOLDEN.read_text().splitlines()}
    assert not changed, (
        "the config surface changed; if meant, run with PDX_WRITE_GOLDEN=1 and commit"
    )


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.num_tokens=4095"],
            r"train.num_tokens=4095: must hold one step of train.batch_size \* data.seq_len = 4096 "
            r"tokens; set at least 4096.",
        ),
        (["train.batch_size=0"], r"train.batch_size=0: must be at least 1."),
        (
            ["train.micro_batch_size=3"],
            r"train.micro_batch_size=3: must divide train.batch_size=16.",
        ),
        (
            ["train.micro_batch_size=0"],
            r"train.micro_batch_size=0: must divide train.batch_size=16.",
        ),
        (
            ["train.split=val"],
            r"train.split=val: must be one of student, teacher, student\+teacher.",
        ),
        (["train.max_epochs=0"], r"train.max_epochs=0.0: must be > 0."),
        (["train.num_evals=0"], r"train.num_evals=0: must be at least 1."),
        (["train.precision=fp8"], r"train.precision=fp8: must be float32 or bfloat16."),
        (
            ["train.num_tokens=many"],
            r"train.num_tokens=many: must be a whole number.$",
        ),
        (
            ["train.num_tokens=1.5"],
            r"train.num_tokens=1.5: must be a whole number.$",
        ),
        (["train.num_tokens=null"], r"train.num_tokens=null: must be a whole number.$"),
        (["data.stride=x"], r"data.stride=x: must be a whole number or null.$"),
        (["optim.peak_lr=high"], r"optim.peak_lr=high: must be a number.$"),
        (["store.temperatures=[1,x]"], r"store.temperatures=\[1, 'x'\]: must be a list, each item"),
        (["+los=none"], r"los=none: unknown key. Did you mean 'loss'\? Known: data, .*, env.$"),
        (["+foo=1"], r"foo=1: unknown key. Known: "),
        (["env.outputs=/proc/nope"], r"env.outputs=/proc/nope: nothing can be written there \("),
        (["env.outputs=/dev/null"], r"env.outputs=/dev/null: nothing can be written there \(Not a"),
        (
            ["temperature.temper_student=perhaps"],
            r"temperature.temper_student=perhaps: must be true or false.$",
        ),
        (["optim.peak_lr=0"], r"optim.peak_lr=0.0: must be > 0."),
        (["optim.peak_lr=nan"], r"optim.peak_lr=nan: must be > 0."),
        (["optim.beta1=1.0"], r"optim.beta1=1.0: must lie in \[0, 1\)."),
        (["optim.beta2=-0.1"], r"optim.beta2=-0.1: must lie in \[0, 1\)."),
        (["optim.eps=0"], r"optim.eps=0.0: must be > 0."),
        (["optim.weight_decay=-1"], r"optim.weight_decay=-1.0: must be >= 0."),
        (["optim.clip_norm=0"], r"optim.clip_norm=0.0: must be > 0."),
        (["mix.kd_weight=1.5"], r"mix.kd_weight=1.5: must lie in \[0, 1\]."),
        (
            ["teacher=none"],
            r"teacher=none: ForwardKL needs a teacher; use teacher=trained or "
            r"teacher=pretrained, or loss=none.",
        ),
        (
            ["teacher=same"],
            r"teacher=same: means the run's own teacher, and is for eval_teacher only; use",
        ),
        (["teacher=pretrained"], r"teacher.path=\?\?\?: must be given; pass teacher.path=VALUE."),
        (
            ["signal.top_k=65"],
            r"signal.top_k=65: the store keeps store.top_k=64 .*capture with store.top_k=65.",
        ),
        (
            ["signal.top_k=2000", "store.top_k=2000"],
            r"signal.top_k=2000: must not exceed the vocabulary, data.vocab_size=1024; "
            r"use signal.top_k=1024 or less.$",
        ),
        (
            ["temperature.value=3.0"],
            r"temperature.value=3.0: tail=bucket needs the rest mass at this temperature",
        ),
        (
            ["signal=full", "+signal.tail=bucket"],
            r"signal.tail: signal=full cuts nothing off, so there is no tail; use signal=topk",
        ),
        (
            ["signal=sampled", "store=sampled", "+signal.top_p=0.9"],
            r"signal.top_p: draws know the mass of no other token; use signal=topp or .*store=topk",
        ),
        (
            ["loss=tail_aware"],
            r"signal=topk: TailAwareKL reads the teacher at every token, which no .*signal=full",
        ),
        *(
            (
                [f"loss={loss}", f"signal.tail={tail}"],
                rf"signal.tail={tail}: \w+ compares distributions that must both sum to one on the",
            )
            for loss in ("reverse_kl", "jsd", "skewed_forward_kl", "total_variation", "mse_probs")
            for tail in ("renormalize", "drop", "to_label")
        ),
        (["env.device=tpu"], r"env.device=tpu: must be auto, cpu or cuda."),
        (
            ["env.gpus=all"],
            r"env.gpus=all: must be auto, null or a list of indices such as \[0,1\].",
        ),
        (["env.num_workers=0"], r"env.num_workers=0: must be auto or at least 1."),
        (["env.max_retries=-1"], r"env.max_retries=-1: must be >= 0."),
        *(
            (
                [f"env.{key}='{url}'"],
                rf"env.{key}=\w+://me:...@[a-z.0-9:]+/x: holds a password, which .*{instead}",
            )
            for key, url, instead in (
                ("storage", "postgresql://me:secret@127.0.0.1:1/x", "pgpass"),
                ("storage", "postgresql://me:a/secret@host/x", "pgpass"),
                ("tracking_uri", "https://me:secret@host/x", "MLFLOW_TRACKING_PASSWORD"),
            )
        ),
        (["data=synthetic", "data.vocab_size=300"], r"data.vocab_size=300: must be from 2 to 256."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_names_key_value_and_what_is_allowed(
    compose_cfg: Compose, overrides: list[str], message: str
):
    with pytest.raises(ConfigError, match=f"^{message}") as refused:
        run_of(compose_cfg(*overrides))
    assert "secret" not in str(refused.value)


GOOD = {
    "_target_": "pdx.signals.topk.TopK",
    "top_k": 5,
    "tail": "bucket",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topk": 2},
            r"signal.topk: unknown field of TopK. Did you mean 'top_k'\? Known: tail, top_k.$",
        ),
        ({"xyz": 2.0}, r"signal.xyz: unknown field of TopK. Known: tail, "),
        ({"tail": None}, r"signal.tail=null: must be text.$"),
        (
            {"top_k": "5.5"},
            r"signal.top_k=5.5: must be a whole number.$",
        ),
        (
            {"_target_": "os.system"},
            r"signal._target_=os.system: targets must live under 'pdx.' or in a "
            r"package named in env.packages=\[\]; add",
        ),
        (
            {"_target_": "pdxevil.signal.TopK"},
            r"signal._target_=pdxevil.signal.TopK: targets must live under",
        ),
        (
            {"_target_": "pdx.signals.Nothing"},
            r"signal._target_=pdx.signals.Nothing: cannot be imported .*; name a class as module",
        ),
        ({"_target_": "pdx.nothing.TopK"}, r"signal._target_=pdx.nothing.TopK: cannot be imported"),
        (
            {"_target_": "pdx.build.build"},
            r"signal._target_=pdx.build.build: is no dataclass; a component is",
        ),
        ({"_target_": "pdx"}, r"signal._target_=pdx: cannot be imported"),
    ],
)
def test_build_refuses(changes: dict[str, Any], message: str):
    build(OmegaConf.create(GOOD), "signal")
    with pytest.raises(ConfigError, match=f"^{message}"):
        build(OmegaConf.create(GOOD | changes), "signal")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_build_wants_every_field(name: str):
    with pytest.raises(ConfigError, match=rf"^signal.{name}: missing; "):
        build(OmegaConf.create({k: v for k, v in GOOD.items() if k != name}), "signal")


def test_a_missing_axis_is_named(compose_cfg: Compose):
    cfg = resolved(compose_cfg())
    del cfg["mix"]
    with pytest.raises(
        ConfigError, match=r"^mix: missing from the config; name a value of this axis."
    ):
        run_of_resolved(cfg)


def test_check_takes_its_condition_first():
    check(True, "a", 1, "must be 1")
    with pytest.raises(ConfigError, match=r"^a=2: must be 1\.$"):
        check(False, "a", 2, "must be 1")
    with pytest.raises(AssertionError, match="the condition comes first"):
        check("a", 2, False, "must be 1")  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, env = tiny("env.device=cuda")
    with pytest.raises(ConfigError, match=r"^env.device=cuda: torch sees no GPU .*env.device=cpu"):
        device_of(env)


@dataclass(frozen=True, kw_only=True)
class SaysNothing:
    """A class without what pdx asks of one."""


@pytest.mark.parametrize(
    ("axis", "lacking"),
    [
        ("mix", "version"),
        (
            "loss",
            "version, needs_teacher, needs_closed_signal, needs_full_signal, needs_logits, "
            "is_divergence, is_shift_invariant",
        ),
    ],
)
def test_a_class_must_say_what_pdx_asks(axis: str, lacking: str):
    target = f"{__name__}.SaysNothing"
    with pytest.raises(ConfigError, match=rf"^{axis}._target_={target}: does not say {lacking};"):
        find_class(target, axis, [__name__])


@dataclass(frozen=True, kw_only=True)
class NeedsBoth:
    """A loss that compares two distributions."""

    needs_teacher: ClassVar[bool] = True
    needs_closed_signal: ClassVar[bool] = True
    needs_full_signal: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    is_divergence: ClassVar[bool] = True
    is_shift_invariant: ClassVar[bool] = True
    version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class WithoutTeacher(NeedsBoth):
    """A loss that no teacher is asked for, and that does not say how much it weighs."""

    needs_teacher: ClassVar[bool] = False


def test_a_loss_without_a_teacher_says_its_weight():
    with pytest.raises(ConfigError, match=r"WithoutTeacher: does not say own_weight; give"):
        find_class(f"{__name__}.WithoutTeacher", "loss", [__name__])


def test_a_loss_that_needs_a_closed_signal_refuses_others(tiny: Tiny):
    for closed in (["signal.tail=bucket"], ["signal=full"]):
        replace(tiny(*closed)[0], loss=NeedsBoth())
    run, _ = tiny("signal.tail=renormalize")
    with pytest.raises(ConfigError) as refused:
        replace(run, loss=NeedsBoth())
    assert str(refused.value) == (
        "signal.tail=renormalize: NeedsBoth compares distributions that must both sum to one on "
        "the support; use signal.tail=bucket or signal=full."
    )


@pytest.mark.parametrize("signal", ["sampled", "head_sampled"])
def test_a_loss_on_logits_refuses_counts(compose_cfg: Compose, signal: str):
    given = [f"signal={signal}", f"store={signal}"]
    run_of(compose_cfg(*given, "loss=forward_kl"))
    said = rf"^signal={signal}: MeanSquaredError compares logits, and .*; use signal=topk"
    with pytest.raises(ConfigError, match=said):
        run_of(compose_cfg(*given, "loss=mse"))


def test_a_package_that_the_user_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose_cfg: Compose
):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Ramp:\n"
        "    top: float\n    version: ClassVar[int] = 1\n\n"
        "    def __call__(self, fraction):\n        return self.top * fraction\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = resolved(compose_cfg())
    cfg["mix"] = {"_target_": "mine.Ramp", "top": 0.5}
    with pytest.raises(
        ConfigError, match=r"^mix._target_=mine.Ramp: targets must live .*env.packages=\[\]"
    ):
        run_of_resolved(cfg)
    cfg["env"]["packages"] = ["mine"]
    run, _ = run_of_resolved(cfg)
    assert run.mix(0.5) == 0.25 and run.identity["mix"]["_target_"] == "mine.Ramp"


# ---- what a run is ---------------------------------------------------------------------------

SHARED = {"student", "loss", "schedule", "optim", "train", "eval", "data", "eval_teacher"}


def run_id(tiny: Tiny, *overrides: str) -> str:
    return tiny(*overrides)[0].run_id


def test_identity_is_every_field_of_what_is_read(tiny: Tiny):
    for loss, more in (
        ("none", set()),
        ("forward_kl", {"signal", "temperature", "mix", "routing", "teacher", "store_precision"}),
    ):
        run, _ = tiny(f"loss={loss}")
        assert {*run.identity} == SHARED | more
        for axis in {*run.identity} - {"data", "teacher", "eval_teacher", "store_precision"}:
            part = getattr(run, axis)
            assert run.identity[axis] == identity(part)
            assert {f.name for f in fields(part)} | {"_target_", "version"} == {*run.identity[axis]}
        told = {**identity(run.data)}
        told.pop("domains")  # no part of the tokens: who reads them is named by them besides
        assert told.items() <= run.identity["data"].items()


def test_controls_are_shared_by_all_that_they_do_not_read(tiny: Tiny):
    """A run that reads no teacher is one run, whatever signal, mix, store and teacher are named."""
    evaluated = ["loss=none", "teacher@eval_teacher=trained"]
    control = run_id(tiny, *evaluated)
    changes = [
        "signal.top_k=3",
        "signal=full",
        "temperature.value=7.0",
        "mix.kd_weight=0.1",
        "routing=high_entropy",
        "store=none",
    ]
    changes += [
        "store.top_k=9",
        "store.temperatures=[1.0]",
        "teacher.seed=9",
        "teacher.num_layers=1",
        "teacher=none",
    ]
    changes += ["signal=topp_topk", "env.device=cpu", "env.num_workers=7", "env.experiment=x"]
    for change in changes:
        assert run_id(tiny, *evaluated, change) == control, change
    others = ["student=s30k", "train.seed=1", "optim.peak_lr=0.1", "schedule=cosine", "data.seed=1"]
    others += [
        "train.num_tokens=8192",
        "eval.num_tokens=1024",
        "eval_teacher.seed=9",
        "loss=forward_kl",
    ]
    found = {run_id(tiny, *evaluated, change) for change in others}
    assert len(found | {control}) == len(others) + 1


def test_distilled_runs_are_told_apart_by_what_they_read(tiny: Tiny):
    plain = run_id(tiny)
    changes = [
        "signal.top_k=3",
        "signal=full",
        "signal=topp_topk",
        "temperature.value=2.0",
        "signal.tail=renormalize",
    ]
    changes += [
        "temperature.temper_student=true",
        "mix.kd_weight=0.1",
        "mix=wsd",
        "routing=high_entropy",
        "teacher.seed=9",
        "loss=soft_ce",
        "loss=mse",
    ]
    changes += ["teacher@eval_teacher=none"]
    found = {run_id(tiny, change) for change in changes}
    assert len(found | {plain}) == len(changes) + 1
    assert run_id(tiny, "store=none") not in found | {plain}  # a store keeps logits in steps
    for change in ("store.top_k=20", "env.device=cpu", "env.checkpoint_seconds=1"):
        assert run_id(tiny, change) == plain, change


def test_same_as_evaluation_teacher_is_the_runs_own(tiny: Tiny):
    assert run_id(tiny) == run_id(
        tiny,
        "teacher@eval_teacher=trained",
        *(
            f"eval_teacher.{k}"
            for k in (
                "hidden_size=32",
                "ffn_size=64",
                "num_layers=2",
                "num_heads=2",
                "num_kv_heads=2",
                "num_tokens=16384",
                "batch_size=8",
            )
        ),
    )


# What is no part of a run where it changes nothing.
PRESENT = {"text": ["text=teacher_samples"], "hidden": ["hidden=mse", "store=none"]}
THROUGH_OTHERS = {"teacher", "eval_teacher", "weak_teacher", "store"}


@pytest.mark.parametrize("axis", sorted({f.name for f in fields(Run)} - THROUGH_OTHERS))
def test_a_components_version_is_in_the_hash(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, axis: str
):
    """Changed mathematics never reuses old runs; a teacher's parts count through its own run."""
    present = PRESENT.get(axis, [])
    before = run_id(tiny, *present)
    run, _ = tiny(*present)
    monkeypatch.setattr(type(getattr(run, axis)), "version", 77)
    assert run_id(tiny, *present) != before


def test_the_same_run_from_all_that_is_kept_of_it(compose_cfg: Compose, tiny: Tiny):
    run, env = tiny("optim.eps=1e-08", "train.max_epochs=1e3")
    kept = config_of(run, env)
    as_json = json.loads(json.dumps(kept))
    as_yaml = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(kept))))
    for config in (kept, as_json, as_yaml):
        again, where = run_of_resolved(config)  # type: ignore[arg-type]
        assert (again, where) == (run, env) and again.run_id == run.run_id
    cfg = compose_cfg("data=synthetic", "signal.top_k=8")
    assert run_of_resolved(resolved(cfg))[0].run_id == run_of(cfg)[0].run_id
    assert re.fullmatch(r"[0-9a-f]{12}", run.run_id)


def test_steps_tokens_and_windows(tiny: Tiny):
    run, _ = tiny("train.num_tokens=5000", "train.batch_size=8")
    assert (run.batch_tokens, run.num_steps, run.num_windows) == (512, 9, 72)


def test_no_value_repeats_another(compose_cfg: Compose):
    """Two files that say the same are one value with two names."""
    for axis in sorted({file.parent.as_posix() for file in FILES} - {"env"}):
        said = [
            json.dumps(OmegaConf.to_container(node(Path(axis) / f"{v}.yaml")), sort_keys=True)
            for v in values(axis)
        ]
        assert len({*said}) == len(said), axis
    assert component("train", "debug") != component("train", "default")
