"""A search confirms its winners: which, on which seeds, once; and what the report says of them."""

import html
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from test_search import RANDOM, plan_of, write

from pdx.analysis.questions.confirmed import HIGHER, LOWER, Confirmed
from pdx.analysis.questions.results import Results, analyse
from pdx.analysis.questions.verdicts import CANNOT
from pdx.analysis.report import render
from pdx.analysis.tables.confirmed import confirmed_frame
from pdx.analysis.tables.results import optimal_size_table
from pdx.analysis.tables.sentences import shows
from pdx.config import run_of_resolved
from pdx.env import Env
from pdx.errors import SweepError
from pdx.files import read_json, write_json
from pdx.sweep.confirm import Confirm, confirm_of, decided_runs
from pdx.sweep.definition import Definition
from pdx.sweep.describe import describe
from pdx.sweep.plan import Plan, Point, drawn_points, load_plan, save_point
from pdx.sweep.planner import GRID
from pdx.sweep.progress import snapshot
from pdx.sweep.queue import Queue
from pdx.sweep.search import Method
from pdx.sweep.standing import standing_of
from pdx.sweep.winners import confirm_search

__all__ = ["plan_of", "write"]

AXES = {
    "loss": ["forward_kl", "soft_ce", "mse"],
    "schedule": ["cosine", "wsd"],
    "optim.peak_lr": "tag(log, interval(1e-4, 1e-1))",
}
CONTROL = [["loss=none", "schedule=cosine,wsd", "optim.peak_lr=0.1,0.2,0.3"]]
WORTH = {"forward_kl": 3.0, "soft_ce": 2.0, "mse": 1.0, "cosine": 0.0, "wsd": 0.25}
CONFIRM = Confirm(2, [8, 9, 10])
SEARCH = replace(GRID, sampler=RANDOM, num_runs=24, confirm=CONFIRM)


def value_of(point: Point) -> float:
    """What a run is told to have measured: mse is best, then wsd, then a rate near 0.01."""
    params = point.params
    if params["loss"] == "none":
        return 5.0 + abs(params["optim.peak_lr"] - 0.2) + WORTH[params["schedule"]]
    near = abs(np.log10(params["optim.peak_lr"]) + 2) / 100
    return WORTH[params["loss"]] - WORTH[params["schedule"]] + near


def run_all(queue: Queue, measured: Callable[[Point], float] = value_of) -> list[Point]:
    """Be the only worker until nothing is left; the points that were run."""
    sampler = optuna.samplers.RandomSampler(seed=len(queue.trials()))
    points = {p.run_id: p for p in [*queue.plan.points, *drawn_points(queue.directory)]}
    ran = []
    while trial := queue.take("me"):
        run_id = trial.user_attrs.get("run_id")
        points |= {p.run_id: p for p in drawn_points(queue.directory)}
        point = points[run_id] if run_id else queue.draw(trial, sampler, points)
        assert point
        save_point(queue.directory, point) if run_id is None else None
        queue.tell_complete(trial, [measured(point)], "complete")
        ran.append(point)
    return ran


@pytest.fixture
def searched(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
) -> Callable[..., tuple[Queue, Env]]:
    """The queue of a search with two control settings; ``over``: all of it has been run."""

    def inner(method: Method = SEARCH, over: bool = True, **how: Any) -> tuple[Queue, Env]:
        plan = plan_of(write(axes=AXES, control=how.pop("control", CONTROL)), method)
        plan.save(tmp_path / "sweep")
        queue = Queue(tmp_path / "sweep", load_plan(tmp_path / "sweep"), **how)
        queue.enqueue({p.run_id for p in plan.points})
        if over:
            run_all(queue)
        return queue, run_of_resolved(next(iter(plan.search.templates.values())))[1]

    return inner


# ---- which are run again -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["journal", "database"])
def test_the_best_settings_and_their_controls_run_again_on_fresh_seeds(
    searched: Callable[..., tuple[Queue, Env]], tmp_path: Path, where: str
):
    url = None if where == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    queue, env = searched(storage_url=url)
    found = {p.run_id: p for p in drawn_points(queue.directory)}
    points = confirm_search(queue, env)
    assert points is not None and {p.role for p in points} == {"confirm"}
    pairs = read_json(queue.directory / "confirm.json")["pairs"]
    best = min((p for p in found.values()), key=value_of)
    assert pairs[0]["winner"]["searched"] == [best.run_id]
    chosen = [
        (p["winner"]["params"]["loss"], p["winner"]["params"]["schedule"], p["control"]["params"])
        for p in pairs
    ]
    assert chosen == [
        ("mse", s, {"loss": "none", "schedule": s, "optim.peak_lr": 0.2}) for s in ("wsd", "cosine")
    ], "distinct in what is listed, each beside the control of its schedule at its own best rate"
    assert [p["control"]["rates"] for p in pairs] == [[0.1, 0.2, 0.3]] * 2
    assert len(points) == 2 * 2 * 3 == queue.num_waiting()
    again = [p for p in points if p.run_id in pairs[0]["winner"]["runs"]]
    assert [p.config["train"]["seed"] for p in again] == [8, 9, 10]
    for point in again:
        config = point.config | {"train": point.config["train"] | {"seed": 0}}
        seed = best.config["train"]["seed"]
        assert config == best.config | {"train": best.config["train"] | {"seed": 0}} and seed == 0
        assert run_of_resolved(point.config)[0].run_id == point.run_id
        assert point.params == best.params | {"train.seed": point.config["train"]["seed"]}


def test_asked_again_it_is_the_same_and_nothing_is_queued_twice(
    searched: Callable[..., tuple[Queue, Env]],
):
    queue, env = searched()
    first = confirm_search(queue, env)
    assert first
    lost = queue.take("me")  # killed in the midst: two were told, one is lost, the rest waits
    told = queue.take("me")
    assert lost and told
    queue.tell_complete(told, [1.0], "complete")
    queue.tell_failed(lost, "out of memory")
    other = Queue(queue.directory, load_plan(queue.directory))  # the next command's
    assert other.enqueue(set()) == 0
    for run_id in (told.user_attrs["run_id"],):
        write_json(env.paths.result(run_id), {})
    again = confirm_search(other, env)
    assert again and [p.run_id for p in again] == [p.run_id for p in first]
    waiting = len(first) - 1
    assert other.num_waiting() == waiting, "the failed one again, the finished one not"
    assert len(run_all(other)) == waiting
    for point in again:
        write_json(env.paths.result(point.run_id), {})
    confirm_search(other, env)
    now = standing_of(other)
    assert other.num_waiting() == 0 and now.counts["to_do"] == 0
    assert now.counts["complete"] == now.num_runs == 6 + 24 + 12
    assert other.drawn is not None
    assert len(other.drawn.get_trials()) == len(queue.drawn.get_trials()), "no sampler sees them"  # pyright: ignore


def test_a_run_that_is_lost_goes_back_to_those_that_confirm(
    searched: Callable[..., tuple[Queue, Env]],
):
    queue, env = searched()
    points = confirm_search(queue, env)
    assert points
    trial = queue.take("me")
    assert trial and queue.lose(trial, 2, "lost")
    roles = {t.user_attrs["role"] for t in queue.trials() if t.state.name == "WAITING"}
    assert roles == {"confirm"} and queue.num_waiting() == len(points)
    assert queue.num_tickets() == 0


def test_a_search_that_is_not_over_confirms_nothing(searched: Callable[..., tuple[Queue, Env]]):
    queue, env = searched(over=False)
    assert confirm_search(queue, env) is None, "nothing has run"
    held = queue.take("me")  # a control
    assert held
    run_all(queue)
    assert confirm_search(queue, env) is None, "a control runs"
    queue.tell_failed(held, "no memory")
    assert confirm_search(queue, env) is None, "a control has failed"
    now = standing_of(queue)
    assert now.waits_to_confirm and now.num_runs == 6 + 24 + 12
    assert snapshot(queue, env).line.count("(up to 12 to confirm)") == 1
    assert not (queue.directory / "confirm.json").exists()
    queue.enqueue({held.user_attrs["run_id"]})
    run_all(queue)
    assert confirm_search(queue, env) and not standing_of(queue).waits_to_confirm


def test_asked_for_more_draws_the_winners_are_found_anew(
    searched: Callable[..., tuple[Queue, Env]],
):
    queue, env = searched()
    confirm_search(queue, env)
    run_all(queue)
    plan = replace(queue.plan, method=replace(SEARCH, num_runs=26))
    assert plan.sweep_id == queue.plan.sweep_id
    longer = Queue(queue.directory, plan)
    assert longer.enqueue(set()) == 2 and decided_runs(longer.directory, plan) is None
    assert confirm_search(longer, env) is None
    run_all(longer, lambda point: -1.0 if point.role == "search" else value_of(point))
    points = confirm_search(longer, env)
    assert points
    winner = read_json(longer.directory / "confirm.json")["pairs"][0]["winner"]
    (trial,) = [t for t in longer.trials() if t.user_attrs["run_id"] == winner["searched"][0]]
    assert trial.values == [-1.0]


def test_what_diverged_or_breaks_a_bound_wins_nothing(searched: Callable[..., tuple[Queue, Env]]):
    queue, env = searched(replace(SEARCH, constraints={"flops": 1.0}), over=False)
    sampler, bad = optuna.samplers.RandomSampler(seed=1), set()
    points = {p.run_id: p for p in queue.plan.points}
    while trial := queue.take("me"):
        run_id = trial.user_attrs.get("run_id")
        point = points[run_id] if run_id else queue.draw(trial, sampler, points)
        assert point
        if point.role == "search":
            save_point(queue.directory, point)
            if len(bad) < 20:  # better than all others, and no winner
                bad.add(point.run_id)
                if len(bad) % 3 == 0:
                    queue.tell_pruned(trial)
                    continue
                trial.set_constraint("flops", 1.0 if len(bad) % 3 == 1 else -1.0)
                status = "diverged" if len(bad) % 3 == 2 else "complete"
                queue.tell_complete(trial, [-9.0], status)
                continue
        queue.tell_complete(trial, [value_of(point)], "complete")
    assert confirm_search(queue, env)
    pairs = read_json(queue.directory / "confirm.json")["pairs"]
    assert pairs and not {p["winner"]["searched"][0] for p in pairs} & bad


def test_the_highest_of_what_is_to_be_large_wins(searched: Callable[..., tuple[Queue, Env]]):
    queue, env = searched(replace(SEARCH, objectives=["-val/top1_agreement"]))
    confirm_search(queue, env)
    pairs = read_json(queue.directory / "confirm.json")["pairs"]
    assert [p["winner"]["params"]["loss"] for p in pairs] == ["forward_kl"] * 2
    assert pairs[0]["control"]["params"]["optim.peak_lr"] in (0.1, 0.3)


def test_without_a_control_the_winners_run_alone(searched: Callable[..., tuple[Queue, Env]]):
    queue, env = searched(control=[])
    points = confirm_search(queue, env)
    assert points is not None and len(points) == 6 == queue.plan.num_confirm
    assert all(p["control"] is None for p in read_json(queue.directory / "confirm.json")["pairs"])


# ---- what is asked for ---------------------------------------------------------------------------


def test_a_plan_counts_and_says_what_may_confirm(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], tmp_path: Path
):
    search = {"sampler": "random", "num_runs": 24, "confirm": {"num_winners": 2, "seeds": [8, 9]}}
    definition = write(axes=AXES, control=CONTROL, search=search, expected_runs=38)
    assert definition.sweeper[2:] == (
        "hydra.sweeper.confirm.num_winners=2",
        "hydra.sweeper.confirm.seeds=[8,9]",
    )
    plan = plan_of(definition, replace(SEARCH, confirm=Confirm(2, [8, 9])))
    assert plan.num_runs == 38 and plan.num_confirm == 8
    _, env = run_of_resolved(plan.points[0].config)
    assert "confirm: then up to 8 runs, the best 2 settings" in describe(plan, env)
    assert "on seeds 8, 9" in describe(plan, env)
    bare = write(axes=AXES, control=CONTROL)
    without = plan_of(bare, replace(SEARCH, confirm=None))
    assert plan.sweep_id == without.sweep_id, "a search that was run may be confirmed later"
    plan.save(tmp_path / "kept")
    assert load_plan(tmp_path / "kept").method == plan.method
    file = tmp_path / "kept" / "plan.json"
    old = read_json(file)
    old["method"].pop("confirm")  # of before there was any
    write_json(file, old)
    assert load_plan(tmp_path / "kept").method.confirm is None


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (replace(SEARCH, confirm=Confirm(2, [0, 8])), r"confirm\.seeds=\[0, 8\]: .* uses \[0\]"),
        (replace(SEARCH, confirm=Confirm(2, [8])), r"confirm\.seeds=\[8\]: must be two seeds"),
        (replace(SEARCH, confirm=Confirm(2, [8, 8])), r"must be two seeds or more, each once"),
        (replace(SEARCH, confirm=Confirm(0, [8, 9])), r"num_winners=0: must be at least 1"),
        (
            replace(SEARCH, objectives=["val/loss", "flops_train_exact"]),
            r"confirm: takes the best by one objective, .* have a front",
        ),
        (replace(GRID, confirm=CONFIRM), r"confirm: runs the best of a search .* this is a grid"),
    ],
)
def test_what_confirms_nothing_is_refused(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], method: Method, message: str
):
    axes = AXES if method.is_search else {"loss": ["mse", "none"]}
    with pytest.raises(SweepError, match=message):
        plan_of(write(axes=axes), method)


@pytest.mark.parametrize(
    "given", [{"num_winners": 2, "seeds": []}, {"num_winners": None, "seeds": [1, 2]}]
)
def test_half_a_confirmation_is_refused(given: dict[str, Any]):
    with pytest.raises(SweepError, match="needs both num_winners and seeds"):
        confirm_of(given)
    assert confirm_of({"num_winners": None, "seeds": []}) is None is confirm_of(None)


# ---- what the report says ------------------------------------------------------------------------

SEEDS = list(range(8, 16))
SD = 0.004


def report_of(
    root: Path,
    effects: list[float],
    seeds: list[int] = SEEDS,
    rate: float = 0.2,
    luck: float = 0.05,
    test_in_search: float = 1.0,
    decided: bool = True,
    draw: int = 0,
) -> Results:
    """A search whose winners have these effects on test, and looked better by ``luck`` on val."""
    rng = np.random.default_rng(draw)
    by_seed = {seed: 0.5 * rng.normal() for seed in [0, *seeds]}
    points, pairs = [], []

    def add(role: str, params: dict[str, Any], seed: int, loss: float, test: float) -> str:
        run_id = f"{role}-{len(points):03}"
        facts = {"num_params_non_embedding": 1000, "num_tokens": 64, "teacher_id": "t0"}
        facts |= {"flops_train_exact": 1e6, "flops_teacher_inference_exact": 1e5}
        given = params | ({} if seed == 0 else {"train.seed": seed})
        config = {"loss": {"_target_": f"pdx.losses.{params['loss']}.X"}, "optim": {"peak_lr": 0.1}}
        points.append(
            {
                "run_id": run_id,
                "role": role,
                "params": given,
                "overrides": [],
                "config": config,
                "facts": facts,
            }
        )
        metrics = {"val/loss": loss + by_seed[seed], "test/loss": test + by_seed[seed]}
        result = {"status": "complete", "seconds": 1.0, "facts": {}, "metrics": metrics}
        write_json(root / "runs" / run_id / "result.json", result | {"provenance": {}})
        return run_id

    def noise() -> float:
        return float(SD * rng.normal())

    control = {"loss": "none", "optim.peak_lr": rate}
    seen = [add("control", control, 0, 3.0, 3.0)]
    for i in range(20):
        params = {"loss": "mse", "optim.peak_lr": 0.001 * (i + 1)}
        add("search", params, 0, 3.0 + rng.normal(), test_in_search * rng.normal())
    runs = [add("confirm", control, s, 3.0 + noise(), 3.2 + noise()) for s in seeds]
    beside = {"params": control, "searched": seen, "runs": runs, "rates": [0.1, 0.2, 0.3]}
    for i, effect in enumerate(effects):
        params = {"loss": "soft_ce", "optim.peak_lr": 0.01 * (i + 1)}
        first = add("search", params, 0, 3.0 + effect - luck, test_in_search)
        runs = [
            add("confirm", params, s, 3.0 + effect + noise(), 3.2 + effect + noise()) for s in seeds
        ]
        winner = {"params": params, "searched": [first], "runs": runs, "rates": []}
        pairs.append({"winner": winner, "control": beside})
    question = {"num_runs": 20 + len(effects), "num_winners": len(effects), "seeds": seeds}
    confirm = {k: question[k] for k in ("num_winners", "seeds")}
    method = {"num_runs": question["num_runs"], "objectives": ["val/loss"], "confirm": confirm}
    plan = {"name": "s", "scale": "cpu", "digest": "d", "question": "?", "command": "pdx train -m"}
    plan |= {"axes": ["loss", "optim.peak_lr"], "seed_axis": "train.seed", "points": points}
    write_json(root / "sweep" / "plan.json", plan | {"method": method})
    if decided:
        write_json(root / "sweep" / "confirm.json", {"of": question, "runs": [], "pairs": pairs})
    return analyse(root / "sweep", root / "runs", num_resamples=0)


def words(found: tuple[Confirmed, ...]) -> list[str]:
    return [one.word for one in found]


def test_fresh_seeds_decide_paired_and_the_search_does_not(tmp_path: Path):
    results = report_of(tmp_path / "a", [-0.1, 0.0, 0.1])
    assert words(results.confirmed) == [LOWER, CANNOT, HIGHER]
    for one, effect in zip(results.confirmed, [-0.1, 0.0, 0.1], strict=True):
        assert one.effect is not None and one.effect.num_pairs == 8
        low, high = one.effect.interval()
        assert low < effect < high and high - low < 8 * SD, "a seed moves both, and cancels"
        assert one.test.high - one.test.low > 0.2, "and does not where it is not paired"
    other = report_of(tmp_path / "b", [-0.1, 0.0, 0.1], test_in_search=-50.0)
    assert [one.effect for one in other.confirmed] == [one.effect for one in results.confirmed]


def test_the_optimism_of_the_search_is_what_its_luck_was(tmp_path: Path):
    (one,) = report_of(tmp_path, [-0.1], luck=0.05).confirmed
    assert one.searched_gain == pytest.approx(-0.15)
    assert one.fresh_gain.low < -0.1 < one.fresh_gain.high
    assert one.optimism == pytest.approx(0.05, abs=3 * SD)


def test_runs_that_confirm_are_in_no_other_table(tmp_path: Path):
    results = report_of(tmp_path, [-0.1])
    assert set(results.complete["role"]) == {"search", "control"}
    assert set(results.chosen["role"]) <= {"search", "control"}
    assert (results.runs["role"] == "confirm").sum() == 16, "but in runs.csv"
    assert results.aggregated["val/loss/num"].max() == 1


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"seeds": SEEDS[:7]}, "7 pairs explore; 8 decide"),
        ({"rate": 0.3}, "the control's best learning rate is at the edge (0.3)"),
        ({"rate": 0.1}, "the control's best learning rate is at the edge (0.1)"),
    ],
)
def test_what_decides_nothing_says_why(tmp_path: Path, changes: dict[str, Any], doubt: str):
    (one,) = report_of(tmp_path, [-0.1], **changes).confirmed
    assert one.word == CANNOT and doubt in one.notes
    assert "given this teacher" in one.notes


def test_holm_is_over_the_winners(tmp_path: Path):
    alone = report_of(tmp_path / "a", [-0.005]).confirmed[0]
    three = report_of(tmp_path / "b", [-0.005, 0.2, 0.0]).confirmed
    assert alone.p is not None and all(one.p is not None for one in three)
    assert three[1].p == pytest.approx(3 * three[1].effect.p_zero(), abs=0)  # pyright: ignore


def test_the_report_has_the_table_and_says_it_first(tmp_path: Path):
    results = report_of(tmp_path, [-0.1, 0.0])
    page = html.unescape(render(results, [], [], optimal_size_table(results)))
    assert "The best of the search, on fresh seeds" in page
    first = page.index("On fresh seeds [loss=soft_ce")
    assert page.index("What this shows") < first < page.index("What it does not show")
    frame = confirmed_frame(results)
    assert frame["optimism"].to_list() == [one.optimism for one in results.confirmed]
    assert frame["verdict"].to_list() == [LOWER, CANNOT]


def test_a_search_that_is_not_over_says_that_nothing_is_confirmed(tmp_path: Path):
    results = report_of(tmp_path, [-0.1], decided=False)
    assert results.confirmed == ()
    said = " ".join(shows(results))
    assert "not confirmed on fresh seeds (the search is not over)" in said
    assert "ends below the control" not in said
    stale = {"of": {"num_runs": 3, "num_winners": 1, "seeds": SEEDS}, "runs": [], "pairs": [1]}
    (tmp_path / "sweep" / "confirm.json").write_text(json.dumps(stale))
    assert analyse(tmp_path / "sweep", tmp_path / "runs", num_resamples=0).confirmed == ()
