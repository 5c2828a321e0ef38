"""Settings that matter together: found where they do, and not where they do not."""

import html

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report_any import read, run, search

from pdx.analysis.figures.interactions import interaction_map
from pdx.analysis.figures.panels import FIGURES
from pdx.analysis.questions.interactions import LEAST_RUNS, interactions, pairs_of
from pdx.analysis.report import render
from pdx.analysis.tables.interactions import interactions_table
from pdx.analysis.tables.results import optimal_size_table

SD = 0.05
FEW = 299  # permutations, where many searches are looked at


def draws(num: int, seed: int) -> dict[str, pd.Series]:
    """Settings as a search has them: categories, numbers, one that some runs lack."""
    rng = np.random.default_rng(seed)
    rate = 10 ** rng.uniform(-4, -2, num)
    mix = rng.choice(["constant", "wsd", "linear"], num)
    weight = pd.Series(rng.uniform(0.3, 1.0, num)).where(mix != "linear")
    return {
        "loss": pd.Series(rng.choice(["kl", "ce", "jsd"], num)),
        "top_k": pd.Series(rng.choice([10, 50, 100], num)),
        "mix": pd.Series(mix),
        "kd_weight": weight,
        "peak_lr": pd.Series(rate),
    }


def alone(columns: dict[str, pd.Series], seed: int) -> np.ndarray:
    """A loss that each setting moves by itself, one of them along a curve."""
    rng = np.random.default_rng(1000 + seed)
    rate = np.log10(columns["peak_lr"].to_numpy(dtype=float)) + 3
    loss = 3 + 0.2 * (columns["loss"] == "kl") + 0.1 * (columns["top_k"] == 10) + 0.4 * rate**2
    return loss.to_numpy(dtype=float) + 0.2 * rate + SD * rng.normal(size=len(rate))


def found(table: pd.DataFrame | None) -> list[tuple[str, str]]:
    assert table is not None
    return [
        (str(a), str(b)) for a, b, p in table[["setting", "beside", "p"]].to_numpy() if p <= 0.05
    ]


def test_two_settings_that_matter_together_are_found_and_no_others():
    columns = draws(120, 0)
    both = (columns["loss"] == "ce") & (columns["top_k"] == 100)
    table = pairs_of(columns, alone(columns, 0) - 0.4 * both.to_numpy())
    assert found(table) == [("loss", "top_k")]
    assert table is not None
    first = table.iloc[0]
    assert first["lowest"] == "loss=ce, top_k=100" and first["by_how_much"] < -0.1
    assert first["share"] > first["chance"]
    assert (table["setting"] == table["beside"]).sum() == 5
    shares = table[table["setting"] == table["beside"]].set_index("setting")["share"]
    assert shares.idxmax() == "peak_lr" and abs(shares["mix"]) < 0.05


def test_a_number_and_a_category_that_matter_together_are_found():
    columns = draws(120, 1)
    rate = np.log10(columns["peak_lr"].to_numpy(dtype=float)) + 3
    tilt = np.where(columns["mix"] == "wsd", 0.25, -0.1) * rate
    assert found(pairs_of(columns, alone(columns, 1) + tilt)) == [("mix", "peak_lr")]


def test_without_an_interaction_families_of_pairs_err_as_often_as_they_say():
    """20 searches without one: at 5% one finds some; more than the bound, one in 1,000."""
    wrong = 0
    for seed in range(20):
        columns = draws(100, seed)
        wrong += bool(found(pairs_of(columns, alone(columns, seed), seed, FEW)))
    assert wrong <= int(stats.binom.ppf(0.999, 20, 0.05))


def test_a_slope_inside_a_quarter_is_no_interaction_where_a_search_draws_unevenly():
    """One schedule is drawn at higher rates, as a sampler does that has found its best there."""
    wrong = 0
    for seed in range(8):
        columns = draws(140, seed)
        late = (columns["mix"] == "wsd").to_numpy()
        rate = columns["peak_lr"].to_numpy(dtype=float)
        columns["peak_lr"] = pd.Series(np.where(late, np.sqrt(rate * 1e-2), rate))
        wrong += ("mix", "peak_lr") in found(pairs_of(columns, alone(columns, seed), seed, FEW))
    assert wrong <= 2


def test_one_bad_run_is_no_interaction():
    columns = draws(100, 3)
    loss = alone(columns, 3)
    loss[17] += 5.0
    assert found(pairs_of(columns, loss)) == []


def test_the_share_is_that_of_a_balanced_table_by_the_textbook():
    rng = np.random.default_rng(4)
    a, b = (np.repeat(np.arange(3), 24), np.tile(np.repeat(np.arange(2), 12), 3))
    y = rng.normal(size=72) + 0.8 * (a == 1) * (b == 1) + a - b
    table = pairs_of({"a": pd.Series(a), "b": pd.Series(b)}, y)
    assert table is not None
    cells = np.array([[y[(a == i) & (b == j)].mean() for j in range(2)] for i in range(3)])
    apart = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    within = sum(
        ((y[(a == i) & (b == j)] - cells[i, j]) ** 2).sum() for i in range(3) for j in (0, 1)
    )
    noise, total = within / (72 - 6), ((y - y.mean()) ** 2).sum()
    assert table.loc[0, "share"] == pytest.approx((12 * (apart**2).sum() - 2 * noise) / total)
    ratio = 12 * (apart**2).sum() / 2 / noise
    assert table.loc[0, "p"] == pytest.approx(float(stats.f.sf(ratio, 2, 66)), abs=0.03)
    assert table.loc[0, "lowest"] == f"a={np.argmin(apart) // 2}, b={np.argmin(apart) % 2}"
    assert table.loc[0, "by_how_much"] == pytest.approx(apart.min())


def test_what_too_few_runs_have_together_is_not_told():
    columns = draws(100, 5)
    loss = alone(columns, 5)
    one = pd.Series(["x"] * 98 + ["y"] * 2)
    table = pairs_of({**columns, "rare": one}, loss)
    assert table is not None
    pairs = table[(table["beside"] == "rare") & (table["setting"] != "rare")]
    assert len(pairs) == 5 and pairs["p"].isna().all(), "nor told by those that lack the two"
    assert pairs_of({k: v[:30] for k, v in columns.items()}, loss[:30]) is None


def test_a_report_tells_what_mattered_together_or_why_not():
    runs = search(90)
    for one in runs:
        both = one["params"]["tail"] == "drop" and int(one["params"]["top_k"]) == 64
        one["metrics"]["eval_loss"] -= 0.3 * both
    results = read(runs)
    drawn = interaction_map(results)
    assert drawn is not None and drawn.name == "interactions" and interaction_map in FIGURES
    assert [set(pair) for pair in found(drawn.data)] == [{"tail", "top_k"}]
    page = html.unescape(render(results, [], [], optimal_size_table(results)))
    assert "What mattered together" in page and "none beyond chance" in page
    few = read(search(LEAST_RUNS - 1))
    assert interactions(few) is None and interaction_map(few) is None
    said = interactions_table(few)
    assert said is not None and said.note.startswith(
        f"Not told: {LEAST_RUNS - 1} runs; {LEAST_RUNS}"
    )


def test_two_that_come_from_a_grid_without_noise_are_no_reason_to_fail():
    runs = [
        run(
            i,
            {"params": 1000, "tokens": 64, "a": i % 5, "b": i % 7, "c": i % 3},
            {"eval_loss": 3.0},
        )
        for i in range(60)
    ]
    assert interactions(read(runs)) is None, "nothing varies"
