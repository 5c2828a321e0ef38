"""Seeds of the teacher and of what is drawn from it: axes of their own, and what intervals say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_search import SEARCH, plan_of, write
from test_verdicts import claim

from pdx.analysis.questions.contrasts import over_teachers
from pdx.analysis.questions.verdicts import CANNOT, SAME, Verdict, judge
from pdx.analysis.runs.accounting import ACCOUNTINGS
from pdx.analysis.runs.controls import compare, differences
from pdx.analysis.runs.labels import label_runs, roles
from pdx.analysis.runs.seeds import aggregate
from pdx.analysis.runs.table import Plan as Table
from pdx.config import Run
from pdx.errors import SweepError
from pdx.feed import Feed
from pdx.shared import Shared
from pdx.sweep.definition import Definition
from pdx.sweep.plan import Plan

__all__ = ["plan_of", "write"]

# ---- what each seed changes, and nothing else ----------------------------------------------------

DRAWN = ["signal=sampled", "store=sampled", "signal.num_draws=8", "store.num_draws=8"]
WRITTEN = ["text=teacher_samples", "loss=none"]
SEEDS = [
    ([], ["teacher.seed=9"], {"teacher"}),
    (DRAWN, ["signal.seed=9", "store.seed=9"], {"signal"}),
    (WRITTEN, ["text.seed=9"], {"text"}),
    ([], ["train.seed=9"], {"train"}),
]


@pytest.mark.parametrize(("base", "seeds", "named"), SEEDS, ids=lambda v: " ".join(v))
def test_a_seed_changes_what_it_names_and_nothing_else(
    tiny: Callable[..., tuple[Run, Any]], base: list[str], seeds: list[str], named: set[str]
):
    base = [*base, "teacher@eval_teacher=none"]
    one, other = (tiny(*base, *more)[0] for more in ([], seeds))
    assert one.run_id != other.run_id
    assert {k for k in one.identity if one.identity[k] != other.identity[k]} == named


@pytest.mark.parametrize(
    ("base", "seeds"), [(b, s) for b, s, named in SEEDS if "text" not in named]
)
def test_students_begin_and_read_alike_whatever_teacher_and_draws(
    tiny: Callable[..., tuple[Run, Any]], base: list[str], seeds: list[str]
):
    """But for the student's own seed: the other runs of a pair differ in what is taught alone."""
    read, began, stored = [], [], []
    for more in ([], seeds):
        shared = Shared.of(*tiny(*base, *more))
        run, windows = shared.run, shared.train_windows
        batches = Feed(run, windows, torch.device("cpu"))(3)
        read.append(np.concatenate([batch.index_B for batch in batches]).tolist())
        model = run.student.init(32, run.data.seq_len, run.train.seed)
        began.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        stored.append((shared.store_manifest, shared.store_dir, run.teacher_id(run.teacher)))
    own = seeds == ["train.seed=9"]
    assert (read[0] != read[1]) == own
    assert torch.equal(*began) != own
    (manifest, directory, teacher), (others, another, its_teacher) = stored
    apart = {k for k in manifest if manifest[k] != others[k]}
    if own:
        assert not apart and directory == another
    elif seeds == ["teacher.seed=9"]:
        assert teacher != its_teacher and directory != another and apart == {"teacher_id"}
    else:
        assert teacher == its_teacher and directory != another and len(apart) == 1


def test_controls_are_not_run_for_each_teacher_or_draw(
    write: Callable[..., Definition], plan_of: Callable[..., Plan]
):
    axes = {"loss": ["forward_kl"], "teacher.seed": [1, 2, 3]}
    axes |= {"signal.seed": [5, 6], "store.seed": [5, 6]}
    block = {"axes": axes, "zip": [["signal.seed", "store.seed"]], "seeds": [0, 1]}
    drawn = ["signal=head_sampled", "store=head_sampled", "teacher@eval_teacher=none"]
    plan = plan_of(write(*drawn, **block, control=["loss=none"]))
    controls = [p.params for p in plan.points if p.role == "control"]
    assert controls == [{"train.seed": seed, "loss": "none"} for seed in (0, 1)]
    taught = [p for p in plan.points if p.role == "axis"]
    assert len(taught) == 3 * 2 * 2 and len({p.facts["teacher_id"] for p in taught}) == 3


@pytest.mark.parametrize("seed", ["teacher.seed", "signal.seed", "text.seed"])
def test_a_search_takes_the_luck_of_no_seed(
    write: Callable[..., Definition], plan_of: Callable[..., Plan], seed: str
):
    with pytest.raises(SweepError, match=rf"{seed}: a search would take the luckiest seed"):
        plan_of(write(axes={seed: [0, 1], "student": ["s10k", "s30k"]}), SEARCH)


# ---- what intervals say --------------------------------------------------------------------------

SEED_SD, TEACHER_SD, SD = 0.5, 0.03, 0.004


def taught_by(
    teachers: list[str], effect: float = -0.1, seeds: int = 4, zipped: bool = False, draw: int = 0
) -> pd.DataFrame:
    """Runs of a control and of students of these teachers, each of which is better or worse."""
    rng, rows = np.random.default_rng(draw), []
    by_seed = SEED_SD * rng.normal(size=max(seeds, len(teachers)))
    luck = {teacher: TEACHER_SD * rng.normal() for teacher in teachers}
    pairs = [(s, t) for s in range(seeds) for t in teachers]
    if zipped:
        pairs = list(enumerate(teachers))
    runs = [("control", s, "") for s in sorted({s for s, _ in pairs})]
    runs += [("treatment", s, t) for s, t in pairs]
    for cell, seed, teacher in runs:
        mean = 0.0 if cell == "control" else effect + luck[teacher]
        loss = 3.0 + by_seed[seed] + mean + SD * rng.normal()
        row = {"run_id": f"{cell} {seed} {teacher}", "status": "complete", "recipe": cell}
        row |= {"size": "s", "num_tokens": 1000, "seed": str(seed), "learning_rate": 0.002}
        row |= {"teacher_seed": teacher, "teacher_id": f"id{teacher}" if teacher else None}
        rows.append(row | {"val/loss": loss, "test/loss": loss})
    return pd.DataFrame(rows)


def verdict_of(runs: pd.DataFrame) -> Verdict:
    return judge([claim(runs, "treatment")], runs)[0]


def test_an_interval_of_one_teachers_students_is_given_this_teacher():
    runs = taught_by(["1"], seeds=8)
    found = verdict_of(runs)
    assert found.effect is not None and found.effect.num_pairs == 8
    assert "given this teacher" in found.notes


@pytest.mark.parametrize("zipped", [False, True], ids=["crossed", "a teacher each"])
def test_an_interval_over_teachers_is_the_t_interval_of_their_means(zipped: bool):
    teachers = [str(t) for t in range(8)]
    runs = taught_by(teachers, zipped=zipped)
    found = verdict_of(runs)
    losses = runs.set_index(["recipe", "seed", "teacher_seed"])["test/loss"]
    gains = {
        t: np.mean(
            [
                losses["treatment", s, t] - losses["control", s, ""]
                for s in (runs.loc[runs["teacher_seed"] == t, "seed"])
            ]
        )
        for t in teachers
    }
    plain = stats.ttest_1samp(list(gains.values()), 0.0)
    assert found.effect is not None and found.effect.num_pairs == 8
    assert found.effect.p_zero() == pytest.approx(float(plain.pvalue))
    assert found.effect.interval() == pytest.approx(tuple(plain.confidence_interval()))
    assert found.word == SAME
    assert not [note for note in found.notes if note.startswith("given")]
    assert "over 8 teachers, students averaged within each" in found.notes


def test_more_students_of_few_teachers_decide_nothing_about_teachers():
    """As many runs as one will: three teachers are three."""
    found = verdict_of(taught_by(["1", "2", "3"], seeds=40))
    assert found.effect is not None and found.effect.num_pairs == 3 and found.effect.dof == 2
    assert found.word == CANNOT and "3 teachers explore; 8 decide" in found.notes


def test_intervals_over_teachers_cover_what_no_teacher_in_particular_gives():
    """Over many sweeps: those over teachers hold the effect; given one teacher they do not."""
    held = {"over": 0, "given": 0}
    for draw in range(60):
        over = verdict_of(taught_by([str(t) for t in range(8)], seeds=3, draw=draw)).effect
        given = verdict_of(taught_by(["1"], seeds=24, draw=draw)).effect
        for name, effect in (("over", over), ("given", given)):
            assert effect is not None
            low, high = effect.interval()
            held[name] += low < -0.1 < high
    assert held["over"] >= 52, "95% of 60 is 57, less three standard deviations"
    assert held["given"] < 20


def test_one_cell_with_one_teacher_is_still_given_it():
    runs = taught_by([str(t) for t in range(8)])
    other = taught_by([""], effect=0.0).assign(
        recipe="other", run_id=lambda r: "other " + r["run_id"], teacher_id="id0"
    )
    runs = pd.concat([runs, other], ignore_index=True)
    ids = {name: list(group["run_id"]) for name, group in runs.groupby("recipe")}
    cells = [
        {"name": "treatment", "sign": 1, "values": {}, "runs": ids["treatment"]},
        {"name": "control", "sign": -1, "values": {}, "runs": ids["other"]},
    ]
    (found,) = judge([claim(runs, "treatment", cells=cells)], runs)
    assert "given the one teacher of control" in found.notes


def test_teachers_that_cells_do_not_share_are_left_out():
    one = {(s, t): 1.0 for s in "ab" for t in "123"}
    other = {(s, t): 3.0 for s in "abc" for t in "234"}
    cells, by_teacher = over_teachers([(1, one), (-1, other), (1, {("a", ""): 5.0})])
    assert by_teacher
    assert cells == [
        (1, {"2": 1.0, "3": 1.0}),
        (-1, {"2": 3.0, "3": 3.0}),
        (1, {"2": 5.0, "3": 5.0}),
    ]


def labelled(params: list[dict[str, Any]], losses: list[float]) -> tuple[pd.DataFrame, Any]:
    """Runs with these parameters and losses, as an analysis labels them."""
    points, rows = [], []
    for i, (given, loss) in enumerate(zip(params, losses, strict=True)):
        role = "control" if given["loss"] == "none" else "axis"
        points.append({"run_id": str(i), "role": role, "params": given, "config": {}})
        rows.append({"run_id": str(i), "role": role, "num_params_non_embedding": 1000} | given)
        rows[-1] |= {"num_tokens": 64, "learning_rate": 0.1, "val/loss": loss}
    axes = tuple(dict.fromkeys(key for given in params for key in given))
    plan = Table(
        name="x",
        scale=None,
        digest="",
        question="",
        command="",
        axes=axes,
        seed_axis="train.seed",
        points=tuple(points),
    )
    return label_runs(pd.DataFrame(rows), plan), roles(plan)


def test_tables_are_over_teachers_and_average_draws():
    grid = [(s, t, d) for s in range(4) for t in (1, 2, 3) for d in (7, 8)]
    losses = {(s, t, d): s + 10.0 * t**2 + 0.1 * d for s, t, d in grid}
    params = [{"loss": "none", "train.seed": s} for s in range(4)]
    params += [
        {"loss": "mse", "train.seed": s, "teacher.seed": t, "signal.seed": d, "store.seed": d}
        for s, t, d in grid
    ]
    runs, which = labelled(params, [float(s) for s in range(4)] + list(losses.values()))
    assert set(runs["recipe"]) == {"no distillation", "mse"}, "one recipe under every seed"
    table = aggregate(runs, ["val/loss"]).set_index("recipe")
    assert (
        table.loc["mse", "val/loss/num"] == 3 and table.loc["no distillation", "val/loss/num"] == 4
    )
    means = [np.mean([v for (_, t, _), v in losses.items() if t == one]) for one in (1, 2, 3)]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert table.loc["mse", "val/loss/low"] == pytest.approx(low)
    assert table.loc["mse", "val/loss/high"] == pytest.approx(high)
    (pair,) = differences(compare(runs, which, ACCOUNTINGS[0], "val/loss")).to_dict("records")
    gains = [10.0 * t**2 + 0.75 for t in (1, 2, 3)]
    assert (pair["num_pairs"], pair["num_runs"]) == (3, 3)
    assert pair["difference"] == pytest.approx(np.mean(gains))
    assert pair["difference/high"] == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(gains), stats.sem(gains))[1]
    )
    assert pair["control_loss/num"] == 4, "four controls, however many students stand beside each"


def test_several_draws_for_a_seed_are_one_seed():
    params = [
        {"loss": "mse", "train.seed": s, "signal.seed": d} for s in range(4) for d in range(5)
    ]
    runs, _ = labelled(params, [float(p["train.seed"]) for p in params])
    (row,) = aggregate(runs, ["val/loss"]).to_dict("records")
    assert row["val/loss/num"] == 4
    plain = stats.t.interval(0.95, 3, 1.5, stats.sem([0, 1, 2, 3]))
    assert (row["val/loss/low"], row["val/loss/high"]) == pytest.approx(plain)
