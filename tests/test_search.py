"""Conditions, pairs and bans between axes; searches, their samplers and pruners."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import TINY

from pdx.config import resolved, run_of_resolved
from pdx.errors import ConfigError, SweepError
from pdx.paths import conf_dir
from pdx.sweep.across_seeds import AcrossSeeds
from pdx.sweep.composer import Composer
from pdx.sweep.definition import Definition, define
from pdx.sweep.optuna_parts import build_part
from pdx.sweep.plan import Plan, drawn_points, load_plan, save_point
from pdx.sweep.planner import GRID, make_plan
from pdx.sweep.pruning import Pruning, peers_of
from pdx.sweep.queue import Queue
from pdx.sweep.search import BAD, Method
from pdx.sweep.standing import standing_of

HYDRA = conf_dir() / "hydra" / "sweeper"
RANDOM = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
SEARCH = replace(GRID, sampler=RANDOM, num_runs=4)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Definition]:
    """A definition from a sweep file with one scale."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()

    def inner(*overrides: str, **block: Any) -> Definition:
        content = {"question": "Does it?", "scales": {"cpu": block}}
        Path("sweeps/mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return define("mine", None, overrides, "pdx train -m sweep=mine")

    return inner


@pytest.fixture
def plan_of(compose_cfg: Callable[..., Any], tmp_path: Path) -> Callable[..., Plan]:
    """Plan a definition over the tiny config."""

    def inner(definition: Definition, method: Method = GRID) -> Plan:
        def compose(overrides: list[str]) -> Any:
            return compose_cfg(*TINY, f"env.outputs={tmp_path / 'out'}", *overrides)

        return make_plan(definition, compose, method)[0]

    return inner


def params(plan: Plan) -> list[dict[str, Any]]:
    return [p.params for p in plan.points]


# ---- composing -----------------------------------------------------------------------------------


OVERRIDES = [
    ["student=s30k", "optim.peak_lr=0.01", "train.seed=3"],
    ["loss=none", "teacher@eval_teacher=none"],
    ["schedule=cosine", "mix.kd_weight=0.5"],
    ["store.temperatures=[1.0,2.0]", "temperature.value=2.0"],
    ["+data.extra=3"],
    ["env.packages=[a,b]", "env.tracking_uri=null"],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=lambda o: o[0])
def test_a_point_is_composed_as_hydra_composes_it(
    compose_cfg: Callable[..., Any], overrides: list[str]
):
    composer = Composer(lambda given: compose_cfg(*TINY, *given))
    axes = define(None, None, [f"{o.partition('=')[0]}={_twice(o)}" for o in overrides], "").axes
    chosen = [axis[0] for axis in axes.values() if isinstance(axis, tuple)]
    assert composer([], chosen) == resolved(compose_cfg(*TINY, *overrides))


def _twice(override: str) -> str:
    """A sweep of the value and of itself: what makes an axis of an override."""
    value = override.partition("=")[2]
    return f"{value},{value}"


def test_points_that_differ_in_fields_are_composed_once(compose_cfg: Callable[..., Any]):
    calls = []

    def compose(given: list[str]) -> Any:
        calls.append(given)
        return compose_cfg(*TINY, *given)

    rates = ",".join(str(i / 1000) for i in range(1, 9))
    grid = define(None, None, ["student=s10k,s30k", f"optim.peak_lr={rates}"], "")
    plan, _ = make_plan(grid, compose)
    assert len(plan.points) == 16 and len(calls) == 2
    assert {p.config["optim"]["peak_lr"] for p in plan.points} == {i / 1000 for i in range(1, 9)}


# ---- conditions, pairs, bans ---------------------------------------------------------------------


def test_an_axis_under_a_condition_exists_only_there(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {"loss": ["forward_kl", "none"], "mix.kd_weight": [0.5, 0.9]}
    plan = plan_of(write(axes=axes, when={"mix.kd_weight": {"loss": "forward_kl"}}))
    assert params(plan) == [
        {"loss": "forward_kl", "mix.kd_weight": 0.5},
        {"loss": "forward_kl", "mix.kd_weight": 0.9},
        {"loss": "none"},
    ]


def test_conditions_may_rest_on_each_other(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {
        "mix.kd_weight": [0.5, 0.9],
        "signal.top_k": [2, 8],
        "loss": ["none", "mse"],
    }
    when = {"mix.kd_weight": {"signal.top_k": 8}, "signal.top_k": {"loss": ["mse"]}}
    plan = plan_of(write(axes=axes, when=when))
    assert params(plan) == [
        {"loss": "none"},
        {"signal.top_k": 2, "loss": "mse"},
        {"mix.kd_weight": 0.5, "signal.top_k": 8, "loss": "mse"},
        {"mix.kd_weight": 0.9, "signal.top_k": 8, "loss": "mse"},
    ]


def test_axes_that_go_together_are_no_product(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {"student": ["s10k", "s30k"], "loss": ["mse", "soft_ce"], "optim.peak_lr": [0.1, 0.2]}
    block = {"axes": axes, "zip": [["student", "optim.peak_lr"]], "control": ["loss=none"]}
    plan = plan_of(write(**block))
    assert params(plan) == [
        {"student": s, "loss": x, "optim.peak_lr": r}
        for s, r in (("s10k", 0.1), ("s30k", 0.2))
        for x in ("mse", "soft_ce")
    ] + [
        {"student": "s10k", "optim.peak_lr": 0.1, "loss": "none"},
        {"student": "s30k", "optim.peak_lr": 0.2, "loss": "none"},
    ]
    unzipped = plan_of(write("optim.peak_lr=0.1,0.2,0.3", **block))
    assert len([p for p in unzipped.points if p.role == "axis"]) == 12, "given anew on top: a grid"


def test_what_is_forbidden_is_left_out_and_said(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {"student": ["s10k", "s30k"], "signal.top_k": [2, 4, 8]}
    ban = {"student": "s10k", "signal.top_k": [4, 8], "reason": "more than it can learn"}
    plan = plan_of(write(axes=axes, forbid=[ban], control=["loss=none"], expected_runs=6))
    kept = [p for p in params(plan) if p.get("loss") != "none"]
    assert {"student": "s10k", "signal.top_k": 2} in kept and len(kept) == 4
    assert plan.forbidden == {"more than it can learn": 2}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"when": {"loss": {"studnet": "s10k"}}}, r"when\.loss: studnet is no axis .*'student'"),
        ({"when": {"mix.kd_weight": {"loss": "mse"}}}, r"when: mix\.kd_weight is no axis"),
        ({"when": {"loss": {"student": "s60k"}}}, r"when\.loss\.student=s60k: is no value of that"),
        ({"when": {"loss": "mse"}}, r"when\.loss=mse: must be values by axis"),
        (
            {"when": {"loss": {"student": "s10k"}, "student": {"loss": "mse"}}},
            r"when: student, loss each wait for another",
        ),
        ({"zip": [["student", "train.seed"]]}, r"zip=.*student has 2, train\.seed has 3 values"),
        ({"zip": [["student", "loss"], ["loss", "student"]]}, r"zip=.*is in another group"),
        ({"zip": "student"}, r"zip=student: must be a list"),
        ({"forbid": [{"student": "s10k"}]}, r"forbid=.*: must name values by axis and say why"),
        ({"forbid": [{"studnet": "s10k", "reason": "x"}]}, r"forbid: studnet is no axis"),
    ],
)
def test_a_rule_that_names_nothing_is_refused(
    write: Callable[..., Definition], rule: dict[str, Any], message: str
):
    axes = {"student": ["s10k", "s30k"], "loss": ["mse", "soft_ce"]}
    with pytest.raises(SweepError, match=message):
        write(axes=axes, seeds=[0, 1, 2], **rule)


def test_forbidding_everything_is_refused(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    bans = [{"student": ["s10k", "s30k"], "reason": "no"}]
    with pytest.raises(SweepError, match=r"forbid: leaves none of 2 combinations"):
        plan_of(write(axes={"student": ["s10k", "s30k"]}, forbid=bans))


# ---- searches ------------------------------------------------------------------------------------


AXES = {
    "loss": ["forward_kl", "none"],
    "student": ["s10k", "s30k"],
    "optim.peak_lr": "tag(log, interval(1e-4, 1e-1))",
    "mix.kd_weight": "interval(0.1, 0.9)",
}
WHEN = {"mix.kd_weight": {"loss": "forward_kl"}}


@pytest.fixture
def queue(write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path) -> Queue:
    """A search of four runs with one control, all queued."""
    control = ["loss=none", "student=s10k", "optim.peak_lr=0.5"]
    plan = plan_of(write(axes=AXES, when=WHEN, control=control), SEARCH)
    plan.save(tmp_path / "sweep")
    queue = Queue(tmp_path / "sweep", load_plan(tmp_path / "sweep"))
    assert queue.enqueue({p.run_id for p in plan.points}) == 5
    return queue


def draw(queue: Queue, sampler: Any, points: dict[str, Any] | None = None) -> Any:
    trial = queue.take("me")
    assert trial
    return trial, queue.draw(trial, sampler, {} if points is None else points)


def test_a_draw_becomes_a_run_without_reading_conf(queue: Queue):
    control = queue.take("me")
    assert control and control.user_attrs["role"] == "control"
    sampler = optuna.samplers.RandomSampler(seed=1)
    drawn = [draw(queue, sampler) for _ in range(4)]
    assert queue.take("me") is None, "the number of draws is the number that was asked for"
    for trial, point in drawn:
        assert set(point.params) - {"mix.kd_weight"} == {"loss", "student", "optim.peak_lr"}
        assert ("mix.kd_weight" in point.params) == (point.params["loss"] == "forward_kl")
        assert point.config["optim"]["peak_lr"] == point.params["optim.peak_lr"]
        assert 1e-4 <= point.params["optim.peak_lr"] <= 1e-1
        assert run_of_resolved(point.config)[0].run_id == point.run_id
        assert trial.user_attrs["run_id"] == point.run_id
        assert {k: trial.params[k] for k in point.params} == point.params
    assert len({point.params["loss"] for _, point in drawn}) == 2


def test_controls_teach_the_sampler_nothing(queue: Queue):
    assert queue.drawn is not None
    control = queue.take("me")
    assert control
    queue.tell_complete(control, [0.0], "complete")
    assert all(t.values is None for t in queue.drawn.get_trials())
    assert standing_of(queue).counts["complete"] == 1


def test_a_lost_draw_is_run_again_as_it_was_drawn(queue: Queue):
    assert queue.take("me")  # the control
    sampler = optuna.samplers.RandomSampler(seed=1)
    trial, point = draw(queue, sampler)
    save_point(queue.directory, point)
    assert queue.lose(trial, 2, "lost")
    taken = [queue.take("me") for _ in range(4)]
    again = taken[-1]
    assert again and again.user_attrs["run_id"] == point.run_id, "after those never drawn"
    assert again.params == trial.params
    assert [p.run_id for p in drawn_points(queue.directory)] == [point.run_id]


def test_a_search_that_is_to_draw_more_is_the_same_search(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    definition = write(axes=AXES, when=WHEN)
    one, more = plan_of(definition, SEARCH), plan_of(definition, replace(SEARCH, num_runs=9))
    assert one.sweep_id == more.sweep_id
    narrower = write("student=s10k", axes=AXES, when=WHEN)
    other = replace(SEARCH, sampler=RANDOM | {"seed": 1})
    assert (
        len({p.sweep_id for p in (one, plan_of(narrower, SEARCH), plan_of(definition, other))}) == 3
    )


def test_more_draws_are_exactly_as_many_more(queue: Queue):
    sampler = optuna.samplers.RandomSampler(seed=1)
    assert queue.take("me")
    for _ in range(4):
        trial, _ = draw(queue, sampler)
        queue.tell_complete(trial, [1.0], "complete")
    plan = replace(queue.plan, method=replace(queue.plan.method, num_runs=6))
    longer = Queue(queue.directory, plan)
    assert longer.enqueue(set()) == 2
    assert longer.num_waiting() == 2


def test_the_same_run_drawn_twice_does_not_count_twice(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
):
    plan = plan_of(write(axes={"student": ["s10k", "s30k"]}), replace(SEARCH, num_runs=2))
    queue, points = Queue(tmp_path / "sweep", plan), {}
    queue.enqueue(set())
    sampler = optuna.samplers.RandomSampler(seed=4)
    tried = 0
    while (trial := queue.take("me")) and tried < 60:
        tried += 1
        assert queue.draw(trial, sampler, points)
        queue.tell_complete(trial, [1.0], "complete")
    assert len(points) == 2 and tried == 5, "four times the one, then the other"


def test_what_is_forbidden_is_drawn_again(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
):
    axes = {"student": ["s10k", "s30k"], "optim.peak_lr": "interval(0.1, 0.2)"}
    plan = plan_of(write(axes=axes, forbid=[{"student": "s30k", "reason": "no"}]), SEARCH)
    queue, drawn = Queue(tmp_path / "sweep", plan), []
    queue.enqueue(set())
    sampler = optuna.samplers.RandomSampler(seed=0)
    while trial := queue.take("me"):
        if point := queue.draw(trial, sampler, {}):
            drawn.append(point.params["student"])
            queue.tell_complete(trial, [1.0], "complete")
    assert drawn == ["s10k"] * 4


@pytest.mark.parametrize(
    ("block", "method", "message"),
    [
        ({}, SEARCH, r"nothing to search over"),
        (
            {"axes": {"+data.x": [1, 2]}},
            SEARCH,
            r"\+data\.x=1: a search draws plain values of fields that exist",
        ),
        (
            {"axes": {"student": ["s10k", "s30k"], "signal.nonsense": "interval(2, 8)"}},
            SEARCH,
            r"\[student=s10k signal\.nonsense=2\.0\]: a search sets plain .*use `when:`",
        ),
        ({"axes": AXES, "seeds": [0, 1]}, SEARCH, r"train\.seed: .* the luckiest seed"),
        (
            {
                "axes": {"student": ["s10k", "s30k"], "loss": ["mse", "none"]},
                "zip": [["student", "loss"]],
            },
            SEARCH,
            r"zip=\['student', 'loss'\]: goes with a grid",
        ),
        ({"axes": AXES}, replace(SEARCH, num_runs=None), r"num_runs=None: a search needs to know"),
        (
            {"axes": {"student": ["s10k"]}},
            replace(GRID, num_runs=3),
            r"num_runs=3: counts the runs",
        ),
        ({"axes": AXES, "when": WHEN}, GRID, r"=interval\(.*an interval is for a search"),
        (
            {"axes": {"student": ["s10k", "s30k"]}},
            replace(SEARCH, pruner={"_target_": "a.B"}, objectives=["val/loss", "flops"]),
            r"hydra/sweeper/pruner=B: compares val/loss .*objectives=\['val/loss', 'flops'\]",
        ),
        ({"axes": {"student": ["s10k"]}}, replace(SEARCH, objectives=[]), r"objectives=\[\]: name"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    write: Callable[..., Definition],
    plan_of: Callable[..., Plan],
    block: dict[str, Any],
    method: Method,
    message: str,
):
    with pytest.raises(SweepError, match=message):
        plan_of(write(**block), method)


def test_an_end_of_an_interval_that_cannot_run_is_refused_before_anything_runs(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {"mix.kd_weight": "interval(0.5, 1.5)"}
    with pytest.raises(ConfigError, match=r"mix\.kd_weight=1\.5.*\(at: mix\.kd_weight=1\.5\)"):
        plan_of(write(axes=axes), SEARCH)


def test_a_file_says_how_to_search_and_what_it_may_use(write: Callable[..., Definition]):
    search = {"sampler": "tpe", "num_runs": 40, "objectives": ["val/loss", "-val/agreement"]}
    search["constraints"] = {"perf/peak_memory_gib": 70}
    definition = write(axes=AXES, search=search, budget={"gpu_hours": 2.5})
    assert definition.sweeper == (
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.num_runs=40",
        "hydra.sweeper.objectives=[val/loss,-val/agreement]",
        "hydra.sweeper.constraints={perf/peak_memory_gib:70}",
        "hydra.sweeper.budget.gpu_hours=2.5",
    )


@pytest.mark.parametrize("file", sorted(HYDRA.glob("*/*.yaml")), ids=lambda f: f.stem)
def test_every_sampler_and_pruner_builds(file: Path):
    node = yaml.safe_load(file.read_text())
    assert file.read_text().startswith("# ")
    if file.stem in ("grid", "none"):
        assert node is None
        return
    if file.stem == "cmaes":
        pytest.importorskip("cmaes")
    part = build_part(node, f"hydra/sweeper/{file.parent.name}")
    assert type(part).__name__ == node["_target_"].rpartition(".")[2]
    with pytest.raises(SweepError, match=r"cannot be made of .*nonsense"):
        build_part(node | {"nonsense": 1}, "hydra/sweeper/sampler")


def test_a_part_from_elsewhere_is_refused():
    with pytest.raises(SweepError, match=r"_target_=os\.system: must be a class of optuna"):
        build_part({"_target_": "os.system"}, "hydra/sweeper/sampler")


# ---- what is wanted ------------------------------------------------------------------------------


RESULT = {"status": "complete", "facts": {"flops": 5}, "metrics": {"val/loss": 3.0, "acc": 0.5}}


def test_objectives_and_constraints_are_read_from_a_result():
    method = replace(GRID, objectives=["val/loss", "flops", "-acc"], constraints={"flops": 4.0})
    assert method.directions == ["minimize", "minimize", "maximize"]
    assert method.values(RESULT) == [3.0, 5.0, 0.5]
    assert method.violations(RESULT) == {"flops": 1.0}
    gone = {"status": "diverged", "facts": {"flops": 5}, "metrics": {"val/loss": 8.3}}
    assert method.values(gone) == [8.3, 5.0, -BAD], "bad, and finite"
    with pytest.raises(SweepError, match=r"val/los is no number .* Did you mean 'val/loss'\?"):
        replace(GRID, objectives=["val/los"]).values(RESULT)


# ---- pruning -------------------------------------------------------------------------------------


def test_only_runs_of_equal_schedule_and_tokens_are_compared(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    def group(*overrides: str) -> str:
        (point,) = plan_of(define(None, None, overrides, "")).points
        return peers_of(point)

    same = [group(), group("optim.peak_lr=0.1"), group("student=s30k"), group("train.seed=4")]
    assert len(set(same)) == 1
    others = [group("schedule=cosine"), group("train.num_tokens=4096"), group("train.num_evals=5")]
    assert len({same[0], *others}) == 4


MEDIAN = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0)
ASHA = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
HYPERBAND = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4, reduction_factor=2)


@pytest.mark.parametrize("pruner", [MEDIAN, ASHA, HYPERBAND], ids=["median", "asha", "hyperband"])
def test_a_run_is_pruned_against_its_peers_and_nobody_else(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path, pruner: Any
):
    """Twelve good runs of another schedule stop nobody; good runs of one's own do."""
    rates = [round(0.01 * i, 2) for i in range(1, 14)]
    axes = {"optim.peak_lr": rates, "schedule": ["wsd", "cosine"]}
    plan = plan_of(write(axes=axes))
    queue, ends = Queue(tmp_path / "sweep", plan), {}
    queue.enqueue({p.run_id for p in plan.points})
    points = {p.run_id: p for p in plan.points}
    trials = sorted(
        (t for _ in plan.points if (t := queue.take("me"))),
        key=lambda t: (t.params["schedule"] != "cosine", t.params["optim.peak_lr"]),
    )
    for trial in trials:
        point = points[trial.user_attrs["run_id"]]
        log = tmp_path / f"{point.run_id}.jsonl"
        log.write_text("")
        pruning = Pruning(queue.planned, trial._trial_id, pruner, point, log)
        good = trial.params["schedule"] == "cosine"
        loss = (1.0 if good else 5.0) + trial.params["optim.peak_lr"]  # each worse than the last
        steps, evals = point.facts["num_steps"], point.config["train"]["num_evals"]
        stopped = any(
            pruning.should_stop(round(steps * (i + 1) / evals), {"val/loss": loss})
            for i in range(evals)
        )
        ends[trial.params["schedule"], trial.params["optim.peak_lr"]] = stopped
        if stopped:
            queue.tell_pruned(trial)
        else:
            queue.tell_complete(trial, [loss], "complete")
    assert not ends["wsd", 0.01], "the best of its own schedule goes on"
    assert sum(stopped for (kind, _), stopped in ends.items() if kind == "wsd") >= 3
    assert ends["wsd", 0.13] or ends["wsd", 0.12] or ends["wsd", 0.11]


def test_a_run_that_goes_on_tells_what_was_evaluated_before(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
):
    plan = plan_of(write("train.num_evals=4", axes={"student": ["s10k"]}))
    queue = Queue(tmp_path / "sweep", plan)
    queue.enqueue({plan.points[0].run_id})
    trial, log = queue.take("me"), tmp_path / "metrics.jsonl"
    assert trial
    steps = plan.points[0].facts["num_steps"]
    log.write_text(
        "".join(
            f'{{"step": {round(steps * s)}, "val/loss": {v}}}\n'
            for s, v in ((0.25, 4.0), (0.5, 3.0), (0.75, 2.0))
        )
        + f'{{"step": {steps - 1}, "train/loss": 9.0}}\n'
    )
    nobody = optuna.pruners.NopPruner()
    pruning = Pruning(queue.planned, trial._trial_id, nobody, plan.points[0], log)
    assert not pruning.should_stop(steps - 1, {"train/loss": 9.0})
    assert not pruning.should_stop(round(steps * 0.75), {"val/loss": 2.0})
    (kept,) = [t for t in queue.trials() if t.number == trial.number]
    assert kept.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0}


def test_a_setting_that_loses_seed_by_seed_is_given_up(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
):
    """By paired losses: one whose seeds differ as much, but not all one way, goes on."""
    losses = {"0.01": 3.0, "0.02": 3.1, "0.03": 3.0}
    plan = plan_of(write(axes={"optim.peak_lr": [float(r) for r in losses]}, seeds=list(range(8))))
    queue = Queue(tmp_path / "sweep", plan)
    queue.enqueue({p.run_id for p in plan.points})
    points, given_up = {p.run_id: p for p in plan.points}, []
    pruner = AcrossSeeds(p_threshold=0.1, num_startup_seeds=4)
    while trial := queue.take("me"):
        point = points[trial.user_attrs["run_id"]]
        rate, seed = str(point.params["optim.peak_lr"]), point.params["train.seed"]
        if pruner.loses(queue.planned, trial._trial_id, point):
            given_up.append((rate, seed))
            queue.tell_pruned(trial)
            continue
        noise = 0.5 * (-1) ** seed if rate == "0.03" else 0.0
        loss = losses[rate] + seed + noise  # seeds differ by far more than settings do
        queue.tell_complete(trial, [loss], "complete")
    assert given_up == [("0.02", seed) for seed in range(4, 8)]


@pytest.mark.parametrize("num_seeds", [1, 4])
def test_a_test_over_seeds_wants_seeds(num_seeds: int):
    with pytest.raises(SweepError, match=rf"train.seed has {num_seeds} values; use a grid with"):
        AcrossSeeds(p_threshold=0.1, num_startup_seeds=4).check(num_seeds, is_search=False)
    with pytest.raises(SweepError, match="a search has one seed"):
        AcrossSeeds(p_threshold=0.1, num_startup_seeds=4).check(8, is_search=True)


def test_a_rank_test_over_one_curve_is_refused():
    with pytest.raises(SweepError, match="independent measurements; use hydra/sweeper/pruner=wil"):
        build_part({"_target_": "optuna.pruners.WilcoxonPruner"}, "hydra/sweeper/pruner")
