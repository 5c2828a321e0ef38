"""A sweep before it runs: what a file or a command line asks for, and the plan that it becomes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY
from hydra.core.override_parser.overrides_parser import OverridesParser

from pdx.config import run_of_resolved
from pdx.errors import ConfigError, SweepError
from pdx.paths import sweeps_dir
from pdx.sweep.confirm import Confirm
from pdx.sweep.definition import Definition, define
from pdx.sweep.describe import describe, status_of
from pdx.sweep.plan import Plan, load_plan, pending
from pdx.sweep.planner import GRID as GRID_METHOD
from pdx.sweep.planner import make_plan
from pdx.sweep.search import Method
from pdx.sweep.settings import quote

QUESTION = {"question": "Does it?"}
GRID = {
    "base": ["schedule=cosine"],
    "axes": {"student": ["s10k", "s30k"], "signal.top_k": [2, 8]},
    "seeds": [0, 1, 2],
    "control": ["loss=none"],
    "expected_runs": 18,
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write sweeps/NAME.yaml of a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()

    def inner(name: str = "mine", text: str | None = None, **content: Any) -> None:
        path = Path("sweeps") / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump(QUESTION | content, sort_keys=False) if text is None else text
        )

    return inner


@pytest.fixture
def plan_of(compose_cfg: Callable[..., Any], tmp_path: Path) -> Callable[..., Plan]:
    """Plan a definition over the tiny config."""

    def inner(definition: Definition, tiny: list[str] = TINY) -> Plan:
        def compose(overrides: list[str]) -> Any:
            return compose_cfg(*tiny, f"env.outputs={tmp_path / 'out'}", *overrides)

        return make_plan(definition, compose)[0]

    return inner


def grid(*overrides: str, **changes: Any) -> Definition:
    """An ad-hoc grid, as the command line gives it."""
    return replace(define(None, None, overrides, "pdx train -m"), **changes)


# ---- what was asked ------------------------------------------------------------------------------


def test_a_file_states_question_base_axes_seeds_control_and_count(write: Callable[..., None]):
    write(base=["loss=mse"], scales={"cpu": GRID, "gpu": {"axes": {"student": ["s60m"]}}})
    found = define("mine", None, [], "the command")
    assert (found.name, found.scale, found.question) == ("mine", "cpu", "Does it?")
    assert found.base == ("loss=mse", "schedule=cosine")
    shown = {key: [s.value for s in settings] for key, settings in found.axes.items()}
    assert shown == {"student": ["s10k", "s30k"], "signal.top_k": [2, 8], "train.seed": [0, 1, 2]}
    assert [[s.override for s in block["loss"]] for block in found.controls] == [["loss=none"]]
    assert (found.expected_runs, found.command) == (18, "the command")
    assert list(define("mine", "gpu", [], "").axes) == ["student"]


@pytest.mark.parametrize("written", [[1, 4], "1,4", "choice(1,4)", "range(1,5,3)"])
def test_an_axis_is_a_list_or_hydras_grammar(write: Callable[..., None], written: Any):
    write(scales={"cpu": {"axes": {"signal.top_k": written}}})
    (settings,) = define("mine", None, [], "").axes.values()
    assert [(s.value, s.override) for s in settings] == [
        (1, "signal.top_k=1"),
        (4, "signal.top_k=4"),
    ]


def test_the_command_line_goes_on_top_of_the_file(write: Callable[..., None]):
    write(scales={"cpu": GRID})
    found = define(
        "mine", None, ["student=s60k", "optim.peak_lr=1e-3,1e-2", "mix.kd_weight=0.5"], ""
    )
    assert list(found.axes) == ["signal.top_k", "train.seed", "optim.peak_lr"]
    assert found.base == ("schedule=cosine", "student=s60k", "mix.kd_weight=0.5")
    assert found.expected_runs is None, "the file counts another grid"
    assert define("mine", None, ["mix.kd_weight=0.5"], "").expected_runs == 18, "still its grid"


AWKWARD = [
    *("a b", "c,d", "it's", 'a "quote"', "back\\slash", "ends in \\", "a\\'b", "null", "True", ""),
    *("a=b", "{x: y}", "(x)", "[x]", "ümlaut", "$x", "#x", "a: b", " edge ", "1 2", "x@y", "*"),
    *(None, True, False, 3, -1.5, 1e-05, [1, 2], ["a b", "c,d"], [], ["it's"], [None, [True]]),
]


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
def test_every_value_of_a_file_reaches_hydra_as_it_stands(write: Callable[..., None], value: Any):
    write(scales={"cpu": {"axes": {"+data.x": [value, "other"]}}})
    setting, other = define("mine", None, [], "").axes["+data.x"]
    (read,) = OverridesParser.create().parse_overrides([setting.override])
    assert read.value() == value == setting.value
    assert type(read.value()) is type(value)
    assert (setting.key, other.override) == ("data.x", "+data.x=other")


def test_awkward_values_of_a_command_line_reach_the_config(compose_cfg: Callable[..., Any]):
    written = ["a b", "c,d", "it's", "back\\slash", None, [1, "x y"], {"a": 1}]
    listed = ",".join(quote(v) for v in written[:-1]) + ",{a:1}"
    (settings,) = grid(f"+data.x={listed}").axes.values()
    assert [s.value for s in settings] == written
    assert [compose_cfg(*TINY, s.override).data.x for s in settings] == written


def test_a_number_that_yaml_calls_a_string_is_a_number(write: Callable[..., None]):
    write(scales={"cpu": {"axes": {"optim.peak_lr": yaml.safe_load("[1e-3, 3.0e-3]")}}})
    (settings,) = define("mine", None, [], "").axes.values()
    assert [s.value for s in settings] == [0.001, 0.003]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("mien", None), r"sweep=mien: no such file .*Did you mean 'mine'\? Known: .*demo.*mine"),
        (("mine", "cpuu"), r"scale=cpuu: .* Did you mean 'cpu'\? Known: cpu"),
        ((None, "cpu"), r"scale=cpu: names a block of a sweep file; add sweep=NAME"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    write: Callable[..., None], asked: tuple[str | None, str | None], message: str
):
    write(scales={"cpu": GRID})
    with pytest.raises(SweepError, match=message):
        define(*asked, [], "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"scalse": {}, "scales": {"cpu": GRID}}, r"scalse: unknown key. Did you mean 'scales'"),
        ({"scales": {"cpu": {"axis": {}}}}, r"scales\.cpu\.axis: unknown key. Did you mean 'axes'"),
        ({"scales": {}}, r"must state `question` in words, and `scales`"),
        ({"scales": {"cpu": {"axes": {"student": []}}}}, r"axes\.student=\[\]: must be a list of"),
        ({"scales": {"cpu": {"axes": {"student": 3}}}}, r"axes\.student=3: must be a list of"),
        ({"scales": {"cpu": {"seeds": 3}}}, r"axes\.train\.seed=3: must be a list of"),
        ({"scales": {"cpu": {"axes": ["student"]}}}, r"axes: must name values by axis"),
        ({"scales": {"cpu": {"control": {"loss": "none"}}}}, r"control: must be a list of overr"),
        ({"scales": {"cpu": {"control": "loss=none"}}}, r"control: must be a list of overrides"),
        ({"scales": {"cpu": {"base": "loss=none"}}}, r"base: must be a list of overrides such as"),
        ({"scales": {"cpu": {"control": ["loss"]}}}, r"loss: is no override \(.*write key=value"),
        ({"text": "a: [b"}, r"mine\.yaml: is no YAML"),
        ({"text": "scales: {cpu: {}}"}, r"must state `question` in words"),
    ],
)
def test_a_bad_file_is_refused(write: Callable[..., None], content: dict[str, Any], message: str):
    write(**content)
    with pytest.raises(SweepError, match=message):
        define("mine", None, [], "")


def test_an_interval_is_for_a_search():
    with pytest.raises(
        SweepError, match=r"peak_lr=interval\(0.0, 1.0\): an interval is for a search"
    ):
        _ = grid("optim.peak_lr=interval(0, 1)").grid_axes


# ---- the plan ------------------------------------------------------------------------------------


def test_the_grid_is_the_product_of_its_axes(plan_of: Callable[..., Plan]):
    plan = plan_of(grid("student=s10k,s30k", "loss=forward_kl,soft_ce"))
    chosen = [tuple(p.params.values()) for p in plan.points]
    assert chosen == [(s, x) for s in ("s10k", "s30k") for x in ("forward_kl", "soft_ce")]
    assert len({p.run_id for p in plan.points}) == 4
    assert {p.role for p in plan.points} == {"axis"}
    for point in plan.points:  # resolved: a worker needs no conf/ to make the same run of it
        assert run_of_resolved(point.config)[0].run_id == point.run_id
        assert point.config["loss"]["_target_"].split(".")[-2] == point.params["loss"]


def test_a_control_is_crossed_with_what_it_reads_and_does_not_set(
    plan_of: Callable[..., Plan], write: Callable[..., None]
):
    """Plain language modelling reads student and seed, not K; it sets its own tokens."""
    axes = {"student": ["s10k", "s30k"], "signal.top_k": [2, 8], "train.num_tokens": [8192, 4096]}
    control = ["loss=none", "train.num_tokens=8192,16384"]
    write(scales={"cpu": {"axes": axes, "seeds": [0, 1], "control": control, "expected_runs": 24}})
    plan = plan_of(define("mine", None, [], ""))
    points = [p for p in plan.points if p.role == "control"]
    assert len(plan.points) - len(points) == 16
    assert [p.params for p in points] == [
        {"student": s, "train.seed": seed, "loss": "none", "train.num_tokens": n}
        for s in ("s10k", "s30k")
        for seed in (0, 1)
        for n in (8192, 16384)
    ]


def test_a_control_is_not_crossed_with_a_field_that_it_does_not_have(
    plan_of: Callable[..., Plan], write: Callable[..., None]
):
    """With signal=full there is no top_k, as with loss=none there is no field of a loss."""
    block = {"axes": {"signal.top_k": [2, 8]}, "seeds": [0, 1], "control": ["signal=full"]}
    write(scales={"cpu": block | {"expected_runs": 6}})
    tiny = [o for o in TINY if not o.startswith("signal.")]

    plan = plan_of(define("mine", None, [], ""), tiny)
    assert [p.params for p in plan.points[4:]] == [
        {"train.seed": seed, "signal": "full"} for seed in (0, 1)
    ]


def test_a_control_that_stands_in_the_grid_is_run_once(
    plan_of: Callable[..., Plan], write: Callable[..., None]
):
    axes = {"loss": ["forward_kl", "none"], "student": ["s10k", "s30k"]}
    write(scales={"cpu": {"axes": axes, "control": ["loss=none"], "expected_runs": 4}})
    plan = plan_of(define("mine", None, [], ""))
    assert [p.role for p in plan.points] == ["axis"] * 4


def test_several_control_blocks_make_each_its_own_grid(
    plan_of: Callable[..., Plan], write: Callable[..., None]
):
    control = [["loss=none"], ["loss=none", "student=s10k", "train.num_tokens=8192"]]
    block = {"axes": {"student": ["s10k", "s30k"]}, "control": control, "expected_runs": 5}
    write(scales={"cpu": block})
    plan = plan_of(define("mine", None, [], ""))
    assert [p.params for p in plan.points[2:]] == [
        {"student": "s10k", "loss": "none"},
        {"student": "s30k", "loss": "none"},
        {"loss": "none", "student": "s10k", "train.num_tokens": 8192},
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["loss=none", "student=s10k,s30k", "signal.top_k=2,8"],
            r"axes signal\.top_k: change noth",
        ),
        (["loss=none,forward_kl", "mix.kd_weight=0.5,1.0"], r"axes mix\.kd_weight: change nothing"),
        (["env.num_workers=1,2"], r"axes env\.num_workers: change nothing"),
        (["loss=forward_kl,forward_kl"], r"axes loss: name \[loss=forward_kl\] twice"),
    ],
)
def test_an_axis_that_changes_nothing_is_an_error_that_names_it(
    plan_of: Callable[..., Plan], overrides: list[str], message: str
):
    with pytest.raises(SweepError, match=message):
        plan_of(grid(*overrides))


def test_a_wrong_count_is_an_error(plan_of: Callable[..., Plan]):
    with pytest.raises(SweepError, match=r"plans 2 runs and expected_runs=3; correct the axes or"):
        plan_of(grid("student=s10k,s30k", expected_runs=3))


def test_a_point_that_cannot_run_is_refused_by_name(plan_of: Callable[..., Plan]):
    with pytest.raises(ConfigError, match=r"signal\.top_k=64: must .*\(at: .*signal\.top_k=64"):
        plan_of(grid("signal.top_k=2,64", "student=s10k,s30k"))


def test_a_varied_teacher_asks_for_a_reference_of_its_own(plan_of: Callable[..., Plan]):
    varied = ["teacher.num_layers=1,2"]
    with pytest.raises(SweepError, match=r"teacher@eval_teacher=same: .* name one for all"):
        plan_of(grid(*varied))
    assert len(plan_of(grid(*varied, "teacher@eval_teacher=none")).points) == 2
    assert len(plan_of(grid("student=s10k,s30k")).points) == 2, "one teacher for all"


def test_a_sweep_is_named_by_what_would_run_and_nothing_else(
    plan_of: Callable[..., Plan],
):
    one = plan_of(grid("student=s10k,s30k", "loss=mse,soft_ce"))
    reordered = plan_of(grid("loss=soft_ce,mse", "student=s30k,s10k", "env.num_workers=1"))
    assert reordered.sweep_id == one.sweep_id
    changed = [
        plan_of(grid("student=s10k,s60k", "loss=mse,soft_ce")),
        plan_of(grid("student=s10k,s30k", "loss=mse,soft_ce,forward_kl")),
        plan_of(grid("student=s10k,s30k", "loss=mse,soft_ce", "train.seed=1")),
    ]
    assert len({p.sweep_id for p in [one, *changed]}) == 4
    assert one.sweep_id.startswith("grid-any-")


def test_a_plan_is_read_back_as_it_was_saved(plan_of: Callable[..., Plan], tmp_path: Path):
    plan = plan_of(grid("student=s10k,s30k", "teacher@eval_teacher=none"))
    plan.save(tmp_path / "kept")
    assert load_plan(tmp_path / "kept") == plan


def test_the_plan_counts_what_is_shared_once(compose_cfg: Callable[..., Any], tmp_path: Path):
    """Eight runs read two teachers' stores; hours are FLOPs at the stated throughput."""

    def compose(overrides: list[str]) -> Any:
        return compose_cfg(*TINY, f"env.outputs={tmp_path}", "env.tflops=0.5", *overrides)

    teachers = ("teacher.hidden_size=16,32", "teacher@eval_teacher=none")
    plan, env = make_plan(grid("student=s10k,s30k", "train.seed=0,1", *teachers), compose)
    by_teacher = {p.facts["teacher_id"]: p.facts for p in plan.points}
    training = {k: f["flops_teacher_training_exact"] for k, f in by_teacher.items()}
    capture = sum(f["flops_teacher_inference_exact"] for f in by_teacher.values())
    size = sum(f["store_bytes"] for f in by_teacher.values())
    students = sum(p.facts["flops_train_exact"] for p in plan.points)
    assert len(plan.points) == 8 and len(by_teacher) == 2
    text = describe(plan, env)
    assert f"2 teachers (0 made; training {sum(training.values()):.1e} FLOPs)" in text
    assert f"2 stores (capture {capture:.1e} FLOPs)" in text
    assert f"stores about {size / 2**30:.2f} GiB" in text
    hour = 0.5e12 * 3600
    assert f"env.tflops=0.5: {students / hour:.4g} for the runs that are to do" in text
    assert f"at most {(sum(training.values()) + capture) / hour:.4g} for teachers" in text

    made, other = training
    env.paths.result(made).parent.mkdir(parents=True)
    env.paths.result(made).write_text("{}")
    text = describe(plan, env)
    assert "(1 made" in text and f"at most {(training[other] + capture) / hour:.4g} for" in text


def test_the_plan_in_words_counts_what_there_is_to_do(
    compose_cfg: Callable[..., Any], tmp_path: Path
):
    def compose(overrides: list[str]) -> Any:
        return compose_cfg(*TINY, f"env.outputs={tmp_path / 'out'}", *overrides)

    plan, env = make_plan(grid("student=s10k,s30k", "loss=forward_kl,none"), compose)
    env.paths.result(plan.points[0].run_id).parent.mkdir(parents=True)
    env.paths.result(plan.points[0].run_id).write_text("{}")
    text = describe(plan, env)
    assert [p.run_id for p in pending(plan, env)] == [p.run_id for p in plan.points[1:]]
    assert "memory: the largest student takes at least 0.00 GiB to train; this machine has" in text
    rows = {line.split()[-2:][0]: line for line in text.splitlines() if "student=" in line}
    assert len([line for line in text.splitlines() if line.startswith("*")]) == 1
    assert f"* {plan.points[0].run_id}" in text
    assert "4 runs, 1 done (*), 3 to do" in text
    assert "tokens: 65.54k over all runs" in text
    assert "shared, made once: 1 teachers (0 made; training" in text and "and 1 stores" in text
    assert "student=s10k" in rows
    plain = next(line for line in text.splitlines() if "student=s30k loss=none" in line)
    assert plain.split()[:8] == [
        plan.points[3].run_id,
        "axis",
        "30.94k",
        "16.38k",
        "-",
        "4.3e+09",
        "0",
        "student=s30k",
    ]
    assert "3 of 4 to do" in status_of(plan, env), "not started, and one run known from elsewhere"


SHIPPED = [
    (path.stem, scale)
    for path in sorted(sweeps_dir().glob("*.yaml"))
    for scale in yaml.safe_load(path.read_text())["scales"]
]


def searched(definition: Definition) -> Method:
    """The method of a file that has a ``search``, and a grid's."""
    given = dict(o.split("=", 1) for o in definition.sweeper)
    if "hydra/sweeper/sampler" not in given:
        return GRID_METHOD
    num_runs = int(given["hydra.sweeper.num_runs"])
    asked = {k: given[f"hydra.sweeper.confirm.{k}"] for k in ("num_winners", "seeds")}
    confirm = Confirm(int(asked["num_winners"]), json.loads(asked["seeds"]))
    sampler = {"_target_": "a.Sampler"}
    return replace(GRID_METHOD, sampler=sampler, num_runs=num_runs, confirm=confirm)


@pytest.mark.parametrize(("name", "scale"), SHIPPED)
def test_every_shipped_sweep_plans_the_runs_that_it_counts(
    compose_cfg: Callable[..., Any], tmp_path: Path, name: str, scale: str
):
    definition = define(name, scale, [], "")
    assert definition.expected_runs, "a shipped sweep states its count"

    def compose(overrides: list[str]) -> Any:
        kept = [o for o in overrides if not o.startswith("data")]  # a hub needs a network
        return compose_cfg(f"env.outputs={tmp_path}", *kept)

    plan, _ = make_plan(definition, compose, searched(definition))
    assert plan.num_runs == definition.expected_runs
    for claim in plan.claims:
        runs = [len(cell["runs"]) for cell in claim["cells"]]
        assert (all(runs) and runs) or claim["not_testable"], (
            f"{claim['name']} has nothing to rest on"
        )


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_the_isoflop_sweep_holds_its_compute(
    compose_cfg: Callable[..., Any], tmp_path: Path, scale: str
):
    """Each budget is one 6ND to 1%, as `pdx fit --approaches` wants it, with 5 sizes or more."""
    from pdx.analysis.scaling.parabolas import budgets_of

    def compose(overrides: list[str]) -> Any:
        kept = [o for o in overrides if not o.startswith("data")]  # a hub needs a network
        return compose_cfg(f"env.outputs={tmp_path}", *kept)

    plan, _ = make_plan(define("isoflop", scale, [], ""), compose)
    vocab = {"cpu": 1024, "gpu": 50257}[scale]  # of the BPE, and of gpt2
    N = np.array(
        [
            p.facts["num_params_non_embedding"] + vocab * p.config["student"]["hidden_size"]
            for p in plan.points
        ],
        dtype=float,
    )
    D = np.array([p.facts["num_tokens"] for p in plan.points], dtype=float)
    budgets = budgets_of(6 * N * D, N)
    assert len(budgets) == 3 and sum(len(rows) for rows in budgets) == len(N)
    for rows in budgets:
        assert np.ptp((N * D)[rows]) < 0.01 * (N * D)[rows].mean() and len(rows) >= 5
