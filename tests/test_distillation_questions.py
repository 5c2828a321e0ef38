"""The distillation questions on runs whose truth is known, and the law's own optimum."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pdx.analysis.laws.chinchilla import ChinchillaGamma
from pdx.analysis.laws.distillation import PAPER, Distillation
from pdx.analysis.predictions.taught import fit_taught, fit_untaught
from pdx.analysis.questions.gain_trends import RATIO, TEACHER_SIZE, trends
from pdx.analysis.questions.multiplier import multipliers
from pdx.analysis.questions.teachers import CANNOT_TELL, best_teachers, gap
from pdx.analysis.runs.accounting import ALL_ACCOUNTINGS, SECONDS, WALL_TIME
from pdx.analysis.runs.controls import compare
from pdx.analysis.runs.labels import TEACHER_LOSS, Roles, human
from pdx.analysis.scaling.split import best_teacher_loss, split_budget
from pdx.analysis.tables.distillation import distillation_tables

SIZE = "num_params_non_embedding"
ROLES = Roles(seed="seed", sizes=("student",), learning_rates=(), tokens=(), recipe=())
TEACHERS = {"big": (1e9, 2.0), "mid": (3e8, 2.2), "low": (1e8, 2.4), "wee": (3e7, 2.6)}


def results(rows: list[dict[str, Any]], noise: float = 0.001, seeds: int = 3) -> Any:
    """What the questions read of a sweep's results."""
    rng, runs = np.random.default_rng(0), []
    for i, row in enumerate(rows):
        for seed in range(seeds):
            usual = {"series": row["recipe"], "token_multiple": 1.0, "learning_rate": 1e-3}
            size = {"size": f"{row[SIZE]:g}", "seed": str(seed), "run_id": f"{i}-{seed}"}
            flops = {"flops_train_exact": 6 * row[SIZE] * row["num_tokens"]}
            flops["flops_train_6nd"] = flops["flops_train_exact"]
            loss = {"val/loss": row["loss"] + noise * rng.normal()}
            runs.append({**usual, **size, **flops, **row, **loss})
    chosen = pd.DataFrame(runs)
    chosen["is_control"] = chosen["recipe"] == "none"
    compared = {a.key: compare(chosen, ROLES, a, "val/loss") for a in ALL_ACCOUNTINGS}
    return SimpleNamespace(chosen=chosen, compared=compared, roles=ROLES, metric="val/loss")


def plain(size: float, tokens: float, loss: float) -> dict[str, Any]:
    return {"recipe": "none", SIZE: size, "num_tokens": tokens, "loss": loss, "teacher_id": None}


def taught(
    size: float, tokens: float, loss: float, teacher: str = "big", inference: float = 0.0
) -> dict[str, Any]:
    num, teacher_loss = TEACHERS[teacher]
    return {
        "recipe": "kd",
        SIZE: size,
        "num_tokens": tokens,
        "loss": loss,
        "teacher_id": teacher,
        TEACHER_SIZE: num,
        TEACHER_LOSS: teacher_loss,
        "flops_teacher_inference_exact": inference or 2 * num * tokens,
        "flops_teacher_training_exact": 6 * num * 20 * num,
    }


def test_a_gain_that_grows_with_size_pays_from_where_it_was_planted() -> None:
    sizes = (1e6, 3e6, 1e7, 3e7, 1e8)
    rows = [plain(n, 1e8, 3.0) for n in sizes]
    rows += [taught(n, 1e8, 3.0 - 0.1 * np.log10(n / 1e7)) for n in sizes]
    (found,) = trends(results(rows))
    assert found.variable.key == SIZE and len(found.levels) == 5
    assert found.slope is not None and found.slope[1] < 0.1 < found.slope[2]
    assert found.pays_from is not None
    at, low, high = found.pays_from
    assert low is not None and high is not None and low < 1e7 < high
    assert at == pytest.approx(1e7, rel=0.05) and "pays from 1" in found.says


def test_each_variable_is_looked_at_with_the_others_standing_still() -> None:
    rows = []
    for n in (1e7, 3e7, 1e8):
        rows.append(plain(n, 1e8, 3.0))
        for name, (num, _) in TEACHERS.items():
            gain = 0.05 * np.log10(num / 1e8) + 0.02 * np.log10(n / 1e7) + 0.2
            rows.append(taught(n, 1e8, 3.0 - gain, name))
    found = trends(results(rows))
    by = {(t.variable.key, t.held): t for t in found}
    assert {key for key, _ in by} == {SIZE, TEACHER_SIZE, TEACHER_LOSS, RATIO}
    for one in found:
        assert one.slope is not None
        if one.variable.key == SIZE:
            assert one.slope[0] == pytest.approx(0.02, abs=0.003)
        if one.variable.key == TEACHER_SIZE:
            assert one.slope[0] == pytest.approx(0.05, abs=0.003)
    assert sum(t.variable.key == TEACHER_SIZE for t in found) == 3  # one for each student


def test_two_levels_are_no_trend() -> None:
    rows = [plain(n, 1e8, 3.0) for n in (1e6, 1e8)]
    rows += [taught(n, 1e8, 2.9) for n in (1e6, 1e8)]
    (found,) = trends(results(rows))
    assert found.slope is None and "no trend can be told" in found.says


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        (lambda x: 0.2 * x**2, "a gap: best near"),
        (lambda x: -0.2 * x, "cannot tell: the curvature"),
        (lambda x: 0.2 * (x - 1.4) ** 2, "is not surely inside"),
    ],
)
def test_a_capacity_gap_needs_an_interior_minimum(curve: Any, says: str) -> None:
    x = np.repeat(np.linspace(-1, 1, 6), 3)
    loss = 3.0 + curve(x) + 0.002 * np.random.default_rng(1).normal(size=18)
    found = gap(1e8 * 10**x, loss, "kd", "s", TEACHER_SIZE)
    assert says in found.says, found.says
    assert (found.optimum is not None) == says.startswith("a gap")
    if found.optimum:
        low, high = found.optimum[1:]
        assert low is not None and high is not None and low < 1e8 < high
        assert high / low < 1.5


def test_three_teachers_cannot_show_a_gap() -> None:
    teacher = np.array([1e7, 1e8, 1e9])
    found = gap(teacher, np.array([3.2, 3.0, 3.2]), "kd", "s", TEACHER_SIZE)
    assert found.optimum is None and found.says.startswith(CANNOT_TELL)


def test_worth_in_compute_is_exact_where_measured_and_a_bound_beyond() -> None:
    n, d = 1e7, 1e8
    rows = [plain(n, d * m, 3.0 - 0.1 * np.log2(m)) for m in (1, 2, 4)]
    worth_two = [*rows, taught(n, d, 2.9, inference=6 * n * d)]
    found = {m.accounting: m for m in multipliers(results(worth_two, noise=1e-6))}
    assert found["student_tokens"].value == pytest.approx(2.0, rel=1e-3)
    assert found["teacher_inference"].value == pytest.approx(1.0, rel=1e-3)
    assert found["student_tokens"].low < 2.0 < found["student_tokens"].high
    own, training = 6 * n * d, 6 * 1e9 * 20e9
    alone = found["teacher_training_only"].value
    assert alone == pytest.approx(2 * own / (own + training), rel=1e-3)
    assert found["teacher_training"].value < alone
    (beyond, *_) = multipliers(results([*rows, taught(n, d, 2.5)], noise=1e-6))
    assert beyond.text == "> 4x (the most it was given)" and np.isnan(beyond.value)
    (less, *_) = multipliers(results([*rows, taught(n, d, 3.3)], noise=1e-6))
    assert less.text == "< 1x (the least it was given)"


def test_bounds_of_some_pairs_bound_all_of_them() -> None:
    n, d = 1e7, 1e8
    rows = [plain(n, d * m, 3.0 - 0.1 * np.log2(m)) for m in (1, 2, 4)]
    found = results([*rows, taught(n, d, 2.85)], noise=1e-9)
    last = found.chosen.index[-1]
    found.chosen.loc[last, "val/loss"] = 2.5
    (mixed, *_) = multipliers(found)
    assert mixed.mixed and mixed.above == pytest.approx(2**1.5, rel=1e-3)
    assert "in some pairs beyond" in mixed.text


def test_the_best_teacher_is_sure_only_where_its_lead_is() -> None:
    rows = [plain(1e7, 1e8, 3.0)]
    rows += [
        taught(1e7, 1e8, loss, name) for name, loss in {"big": 2.9, "mid": 2.7, "low": 2.8}.items()
    ]
    sure = best_teachers(results(rows))[0]
    assert sure.teacher.startswith("mid") and str(sure.next_teacher).startswith("low")
    assert sure.is_sure and sure.behind.mean == pytest.approx(0.1, abs=0.01)
    assert not best_teachers(results(rows, noise=0.3))[0].is_sure
    rows[1]["loss"] = 2.5
    free, *rest = best_teachers(results(rows))
    charged = [b for b in rest if "inference charged" in b.within]
    assert free.teacher.startswith("big"), "where nothing is charged nothing is over the budget"
    assert charged and all(not b.teacher.startswith("big") for b in charged), "over the budget"


# The law's own optimum. Vectors of Busbridge et al. 2025, table 6, at D = 20 N.
TABLE_6 = {
    **{"A": 2243.0, "B": 24181.0, "alpha": 0.321, "beta": 0.637, "gamma": 0.764},
    **{"c0": 2.549, "c1": 522.6, "f1": 0.090, "d1": 1.315},
}


def paper(at: Any) -> np.ndarray:
    return Distillation().predict(TABLE_6, at)


@pytest.mark.parametrize(
    ("num_params", "teacher", "loss"),
    [
        (143e6, 1.912, 2.5943),
        (546e6, 1.776, 2.3541),
        (1.82e9, 1.675, 2.156),
        (7.75e9, 1.565, 1.9424),
    ],
)
def test_the_papers_best_teacher_of_each_student(
    num_params: float, teacher: float, loss: float
) -> None:
    found = best_teacher_loss(paper, num_params, 20 * num_params)
    assert found == (pytest.approx(teacher, abs=2e-3), pytest.approx(loss, abs=2e-3))


def test_the_papers_law_splits_budgets_as_the_paper_says() -> None:
    ask = {"taught": paper, "supervised": dict(PAPER), "num_params": 1e9}
    free = split_budget(1e21, **ask, charges_inference=False, charges_training=False)
    reused = split_budget(1e21, **ask, charges_inference=True, charges_training=False)
    whole = split_budget(1e21, **ask)
    assert free.pays and free.loss < reused.loss < whole.loss
    assert not whole.pays, "with its training charged to one student the teacher never pays"
    for found in (free, reused, whole):
        assert sum(found.shares.values()) == pytest.approx(1.0)
        spent = 6 * found.N * found.D
        spent += 2 * found.N_T * found.D * found.charges_inference
        spent += 6 * found.N_T * found.D_T * found.charges_training
        assert spent == pytest.approx(1e21, rel=1e-9)
    assert free.shares["student"] == 1.0 and whole.shares["student"] < 1.0


def test_no_neighbour_of_a_split_is_better() -> None:
    found = split_budget(1e21, paper, dict(PAPER))
    law = ChinchillaGamma()
    assert not found.at_edge
    for factors in np.random.default_rng(0).uniform(0.8, 1.25, (200, 3)):
        N, N_T, D_T = np.array([found.N, found.N_T, found.D_T]) * factors
        D = (1e21 - 6 * N_T * D_T) / (6 * N + 2 * N_T)
        if D <= 0:
            continue
        L_T = law.predict(dict(PAPER), {"N": np.array([N_T]), "D": np.array([D_T])})
        at = {"N": np.array([N]), "D": np.array([D]), "L_T": L_T}
        assert paper(at)[0] >= found.loss * (1 - 1e-6)


def test_tables_hold_every_question_and_say_what_is_missing() -> None:
    rows = []
    for n in (1e7, 3e7, 1e8):
        drop = 0.1 * np.log10(n / 1e7)
        rows += [plain(n, 1e8 * m, 3.0 - 0.05 * np.log2(m) - drop) for m in (1, 2)]
        rows += [taught(n, 1e8, 2.97 - drop, name) for name in TEACHERS]
    tables = {t.title: t for t in distillation_tables(results(rows))}
    assert list(tables) == [
        "Worth in compute at equal loss",
        "Gain of distillation",
        "Capacity gap",
        "Best teacher tried",
        "Allocation of a budget",
    ]
    assert all(len(row) == len(t.columns) for t in tables.values() for row in t.rows)
    assert "distillation law was not fitted" in tables["Allocation of a budget"].note
    assert distillation_tables(results([plain(1e7, 1e8, 3.0)])) == []


def taught_runs(noise: float) -> Any:
    """Runs by the paper's law, of four sizes, three ratios of tokens and four teachers."""
    law, rows = ChinchillaGamma(), []
    for n in (2e8, 6e8, 2e9, 6e9):
        for m in (10, 40, 160):
            at = {"N": np.array([n]), "D": np.array([m * n])}
            rows.append(plain(n, m * n, float(law.predict(dict(PAPER), at)[0])))
            for name, (_, teacher_loss) in TEACHERS.items():
                loss = paper({**at, "L_T": np.array([teacher_loss])})[0]
                rows.append(taught(n, m * n, float(loss), name))
    return results(rows, noise=noise, seeds=1)


def test_a_budget_is_split_by_a_law_fitted_to_the_runs() -> None:
    found = taught_runs(noise=0.002)
    of = found.chosen.groupby("recipe")
    _, fitted = fit_taught(
        of.get_group("kd"), fit_untaught(of.get_group("none"), "val/loss"), "val/loss"
    )
    assert fitted.rms_log_residual < 2e-3
    *_, split, best = distillation_tables(found)
    assert (split.title, best.title) == ("Allocation of a budget", "Best teacher by the law")
    assert len(split.rows) == 8 and split.columns[2] == "charged"
    assert {row[2] for row in split.rows} == {"free", "its inference", "its training", "both"}
    budget = float(np.median(found.chosen.query("recipe == 'kd'")["flops_train_6nd"]))
    for row in split.rows[:4]:
        truth = split_budget(
            budget,
            paper,
            dict(PAPER),
            charges_inference=row[2] in ("its inference", "both"),
            charges_training=row[2] in ("its training", "both"),
        )
        if row[2] in ("free", "its inference"):
            assert "no teacher tried was so" in row[12], "a better one would always be better"
            continue
        value, low, high = (float(v) for v in re.findall(r"[\d.]+", row[8]))
        assert low <= value <= high and value == pytest.approx(truth.loss, rel=0.01)
        assert 0.99 * low < truth.loss < 1.01 * high and "no teacher" not in row[12]
        assert row[11].startswith("yes" if truth.pays else "no"), row
    for row in best.rows:
        value, low, high = (float(v) for v in re.findall(r"[\d.]+", row[3]))
        num = float(row[1])
        if row[2] != human(40 * num):
            continue
        truth, _ = best_teacher_loss(paper, num, 40 * num)
        assert low <= value <= high and (value == pytest.approx(truth, rel=0.1) or row[5])


def test_equal_wall_time_gives_the_control_the_seconds_that_the_recipe_took() -> None:
    """Half as fast again: 1.5 times the tokens. One run that the machine held up says nothing."""
    rows = [plain(1e6, tokens, loss) for tokens, loss in ((1e8, 3.0), (2e8, 2.8))]
    rows.append(taught(1e6, 1e8, 2.9))
    found = results(rows, seeds=3)
    slow = found.chosen["recipe"].map({"none": 1.0, "kd": 1.5})
    held_up = (found.chosen["recipe"] == "kd") & (found.chosen["seed"] == "0")
    found.chosen[SECONDS] = slow.mask(held_up, 9.0) * found.chosen["num_tokens"]
    compared = compare(found.chosen, ROLES, WALL_TIME, "loss")
    assert compared["needed_multiple"].tolist() == pytest.approx([1.5] * 3)
    wanted = 3.0 - 0.2 * np.log(1.5) / np.log(2)
    assert compared["control_loss"].tolist() == pytest.approx([wanted] * 3)
    (worth,) = [one for one in multipliers(found) if one.accounting == WALL_TIME.key]
    assert worth.value == pytest.approx(2**0.5 / 1.5, rel=0.02)

    grouped = found.chosen.assign(**{"provenance.num_students": 8})
    assert compare(grouped, ROLES, WALL_TIME, "loss")["needed_multiple"].isna().all()
    silent = compare(found.chosen.drop(columns=SECONDS), ROLES, WALL_TIME, "loss")
    assert silent["difference"].isna().all()
    assert set(silent["why_not"]) == {"seconds were not recorded, so they cannot be charged"}
