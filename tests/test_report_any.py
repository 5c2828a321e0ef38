"""The report of anybody's MLflow runs, and the figures of searches."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from pdx.analysis.figures.panels import draw_all
from pdx.analysis.figures.search import front, pareto_front
from pdx.analysis.figures.style import new_figure, shared_legend
from pdx.analysis.laws import law_named
from pdx.analysis.questions.importance import _shares, importances
from pdx.analysis.questions.interactions import interactions
from pdx.analysis.questions.results import results_of
from pdx.analysis.report import write_results
from pdx.analysis.runs.foreign import Reading, curves_read
from pdx.analysis.tables.results import optimal_size_table
from pdx.cli import main
from pdx.errors import SweepError

MAP = {"N": "params", "D": "tokens", "loss": "eval_loss", "recipe": "method", "seed": "seed"}
METHODS = ("baseline", "distil")


def run(i: int, params: dict[str, Any], metrics: dict[str, float], **kw: Any) -> dict[str, Any]:
    texts = {name: str(value) for name, value in params.items()}
    usual = {"name": f"run {i}", "state": "FINISHED", "seconds": 60.0, "tags": {}}
    return {"run_id": f"{i:04x}", "params": texts, "metrics": metrics} | usual | kw


def ladder() -> list[dict[str, Any]]:
    """Two methods at five sizes, two seeds: distillation is 0.2 better."""
    found = []
    for size in (1e6, 3e6, 1e7, 3e7, 1e8):
        for method in METHODS:
            for seed in range(2):
                loss = 1.7 + 60 * size**-0.3 - 0.2 * (method == "distil") + 0.01 * seed
                params = {"params": int(size), "tokens": int(20 * size), "method": method}
                found.append(run(len(found), {**params, "seed": seed}, {"eval_loss": loss}))
    return found


def search(num: int = 60) -> list[dict[str, Any]]:
    """Draws of four settings, of which ``lr`` matters most and ``nothing`` not at all."""
    rng, found = np.random.default_rng(0), []
    for i in range(num):
        params = {
            "params": 1_000_000,
            "tokens": 20_000_000,
            "lr": 10 ** rng.uniform(-4, -2),
            "top_k": int(rng.choice([1, 4, 16, 64])),
            "tail": str(rng.choice(["bucket", "drop"])),
            "nothing": float(rng.uniform()),
        }
        loss = 3 + 0.4 * (np.log10(params["lr"]) + 3) ** 2 + 0.1 * (params["tail"] == "drop")
        hours = params["top_k"] / 10 + float(rng.uniform(0, 0.5))
        metrics = {"eval_loss": float(loss + 0.02 * rng.normal()), "hours": hours}
        found.append(run(i, params, metrics))
    return found


def read(runs: list[dict[str, Any]], **kw: Any) -> Any:
    mapping = {n: c for n, c in MAP.items() if any(c in r["params"] or n == "loss" for r in runs)}
    reading = Reading(mapping=mapping, **kw)
    return results_of(runs, reading, "theirs", "pdx report --experiment theirs", num_resamples=20)


def test_foreign_runs_are_compared_fitted_and_defined() -> None:
    results = read(ladder(), control="baseline")
    assert results.counts["complete"] == 20 and set(results.recipes) == {
        "no distillation",
        "distil",
    }
    paired = results.paired["student_tokens"]
    assert paired["difference"].to_numpy(float) == pytest.approx(-0.2)
    assert results.chosen["flops_train_exact"].to_numpy(float) == pytest.approx(
        6.0 * results.chosen["num_params_non_embedding"] * results.chosen["num_tokens"]
    )
    assert results.definitions["N"] == "params, as logged" and "6 N D" in results.definitions["C"]
    assert results.curves[0].drawn is not None


def test_curves_are_read_by_their_tokens_or_else_by_their_steps() -> None:
    runs = ladder()[:4]
    for one in runs:
        one["curves"] = {"eval_loss": {100: 4.0, 200: 3.0, 400: float("nan")}}
    tokens = int(runs[0]["params"]["tokens"])
    by_step = read(runs).learning
    assert by_step["tokens"].tolist() == [tokens / 4, tokens / 2] * 4
    assert by_step["val/loss"].tolist() == [4.0, 3.0] * 4
    for one in runs:
        one["curves"]["tokens"] = {100: 7.0, 200: 9.0}
    assert read(runs).learning["tokens"].tolist() == [7.0, 9.0] * 4
    assert "learning_curves" in {figure.name for figure in draw_all(read(runs))}
    assert curves_read({}) == ["val/loss", "tokens"], "as pdx logs them"
    assert curves_read({"loss": "eval_loss", "curve": "dev"}) == ["dev", "tokens"]


def test_a_ladder_with_curves_is_read_by_all_three_approaches(tmp_path: Path) -> None:
    law = {"E": 1.8, "A": 480.0, "B": 8000.0, "alpha": 0.33, "beta": 0.42}
    chinchilla, rng, runs = law_named("chinchilla"), np.random.default_rng(0), []
    best = (0.33 * 480 / (0.42 * 8000)) ** (1 / 0.75)
    for flops in np.geomspace(1e19, 1e21, 4):
        for factor in np.geomspace(0.2, 5, 7):
            size = best * (flops / 6) ** 0.56 * factor
            shares = np.array([0.1, 0.2, 0.4, 0.7, 1.0])
            at = {"N": np.full(5, size), "D": shares * flops / 6 / size}
            losses = chinchilla.predict(law, at) * np.exp(0.001 * rng.normal(size=5))
            params = {"params": size, "tokens": at["D"][-1], "method": "baseline", "seed": 0}
            one = run(len(runs), params, {"eval_loss": losses[-1]})
            one["curves"] = {"eval_loss": dict(zip(range(1, 6), losses, strict=True))}
            one["curves"]["tokens"] = dict(zip(range(1, 6), at["D"], strict=True))
            runs.append(one)
    results = read(runs)
    (found,) = results.optimal
    for approach in found.approaches:
        assert not approach.refused and approach.a == pytest.approx(0.56, abs=0.04)
    (row, *_) = optimal_size_table(results).rows
    assert row[:2] == ("baseline", "1 envelope")
    assert "before the end of their schedule" in row[-1], "its curves are checkpoints"
    (drawn,) = (f for f in draw_all(results) if f.name == "optimal_size")
    kinds = drawn.data["what"].value_counts()
    assert kinds["curves"] == 5 * 28 and kinds["runs"] == 28 and kinds["optimum by 2 isoFLOP"] == 4
    files = write_results(results, tmp_path)
    assert "<h2>Compute-optimal size</h2>" in files.html.read_text()
    assert "compute_optimal_size.csv" in {path.name for path in files.tables}


def test_ends_of_runs_at_several_tokens_are_curves_without_a_schedule_to_doubt() -> None:
    law, runs = {"E": 1.8, "A": 480.0, "B": 8000.0, "alpha": 0.33, "beta": 0.42}, []
    for size in np.geomspace(3e7, 1e10, 10):
        for tokens in size * np.geomspace(2, 300, 8):
            at = {"N": np.array([size]), "D": np.array([tokens])}
            loss = float(law_named("chinchilla").predict(law, at)[0])
            params = {"params": size, "tokens": tokens, "method": "baseline", "seed": 0}
            runs.append(run(len(runs), params, {"eval_loss": loss}))
    (found,) = read(runs).optimal
    first, second, third = found.approaches
    assert first.warnings == () and first.a == pytest.approx(0.56, abs=0.03)
    assert "budgets" in second.refused and third.a == pytest.approx(0.56, abs=1e-3)
    assert read(ladder()).optimal == (), "one ratio of tokens bears no approach"


def test_runs_that_failed_or_have_no_number_are_counted_and_kept_out() -> None:
    runs = ladder()
    runs[0] |= {"state": "FAILED"}
    runs[1] |= {"metrics": {"eval_loss": float("nan")}}
    runs[2] |= {"metrics": {}}
    assert read(runs, control="baseline").counts == {
        "complete": 17,
        "diverged": 1,
        "pruned": 0,
        "missing": 2,
    }


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"M": "params"}, "not a name of ours"),
        ({**MAP, "N": "parms"}, "the nearest: params"),
        ({"N": "params"}, "says nothing of D, loss"),
    ],
)
def test_a_mapping_that_fits_nothing_is_refused(mapping: dict[str, str], said: str) -> None:
    with pytest.raises(SweepError, match=said):
        results_of(ladder(), Reading(mapping=mapping), "theirs", "pdx report", 20)


def test_no_run_and_no_finished_run_are_refused() -> None:
    with pytest.raises(SweepError, match="holds no run"):
        results_of([], Reading(mapping=MAP), "theirs", "pdx report", 20)
    with pytest.raises(SweepError, match="none of its 20 runs has finished"):
        read([r | {"state": "FAILED"} for r in ladder()])


def test_what_matters_stands_above_chance_and_what_does_not_below() -> None:
    table = importances(read(search()))
    assert table is not None
    by = table.set_index("setting")
    assert by.index[0] == "lr" and by.loc["lr", "share"] > 0.3
    assert by.loc["lr", "low"] > by.loc["lr", "chance"]
    assert by.loc["nothing", "share"] < by.loc["nothing", "chance"] + 0.05
    assert abs(by.loc["nothing", "share"]) < 0.05 < by.loc["tail", "high"]


def test_settings_that_some_runs_lack_are_drawn_and_weighed() -> None:
    """As those of an axis that exists beside some values of another, and those of a control."""
    runs = search()
    for i, one in enumerate(runs):
        one["params"]["form"] = "ab"[i % 2]
        one["metrics"]["eval_loss"] += 0.5 * (i % 2) - 0.5 * (i % 3 == 0 and i % 2)
        if i % 3 == 0:
            one["params"].pop("form")
            one["params"].pop("nothing")
    results = read(runs)
    table = importances(results)
    assert table is not None
    by = table.set_index("setting")
    assert by.loc["lr", "low"] > by.loc["lr", "chance"] and by.loc["form", "share"] > 0.1
    assert {"parallel_coordinates", "importance"} <= {figure.name for figure in draw_all(results)}


def test_settings_that_move_together_are_weighed_as_one() -> None:
    """Each by itself would explain nothing beside the other."""
    runs = search()
    for one in runs:
        one["params"]["store"] = "all" if int(one["params"]["top_k"]) > 4 else "some"
        one["metrics"]["eval_loss"] -= 0.3 * (one["params"]["store"] == "all")
    results = read(runs)
    table = importances(results)
    assert table is not None
    by = table.set_index("setting")
    assert by.loc["top_k (with store)", "low"] > by.loc["top_k (with store)", "chance"]
    assert sorted(by.index) == ["lr", "nothing", "tail", "top_k (with store)"]
    pairs = interactions(results)
    assert pairs is not None and set(pairs["setting"]) == set(by.index)


def test_a_ladder_is_no_search() -> None:
    assert importances(read(ladder(), control="baseline")) is None


def test_the_front_is_of_runs_that_none_beats_in_both() -> None:
    values = np.array([[1, 5], [2, 3], [2, 4], [4, 1], [5, 5], [1, 5]], dtype=float)
    assert front(values).tolist() == [True, True, False, True, False, True]
    rng = np.random.default_rng(0).normal(size=(40, 2))
    brute = [not any((o <= v).all() and (o < v).any() for o in rng) for v in rng]
    assert front(rng).tolist() == brute


def test_a_search_with_two_objectives_is_drawn_whole(tmp_path: Path) -> None:
    results = read(search(), objectives=("val/loss", "hours"))
    drawn = {figure.name: figure for figure in draw_all(results)}
    assert {"parallel_coordinates", "importance", "pareto_front"} <= set(drawn)
    data = drawn["pareto_front"].data
    best = data[data["on_front"]].sort_values("hours")
    assert (best["val/loss"].diff().dropna() < 0).all(), "more hours only for less loss"
    assert list(drawn["parallel_coordinates"].data)[1:-1] == ["lr", "top_k", "tail", "nothing"]
    assert pareto_front(read(search())) is None


def test_a_run_without_a_setting_keeps_its_line() -> None:
    runs = search()
    for one in runs[::2]:
        del one["params"]["top_k"]
    (drawn,) = (f for f in draw_all(read(runs)) if f.name == "parallel_coordinates")
    axes = drawn.figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 61, "every run, and the best again"
    assert all(np.isfinite(line.get_ydata().astype(float)).all() for line in lines)
    below = [line for line in lines if (line.get_ydata() < 0).any()]
    assert 30 <= len(below) <= 31 and "unset" in {text.get_text() for text in axes.texts}


def test_a_long_legend_takes_nothing_from_the_panels() -> None:
    figure, (axes,) = new_figure(1, 1, 3.0, width=4.6)
    for k in range(20):
        axes.plot([0, 1], [k, k], label=f"a recipe of so many words that it has a row: {k}")
    shared_legend(figure, [axes])
    figure.draw_without_rendering()
    assert axes.get_window_extent().height > 1.5 * figure.dpi
    assert len(figure.legends[0].get_texts()) == 12


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MlflowClient, str]:
    """The report of an MLflow experiment that pdx did not write, by the command, attached."""
    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'theirs.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("ladder", artifact_location=(root / "art").as_uri())
    parent = client.create_run(experiment, run_name="parent").info.run_id
    for one in ladder():
        made = client.create_run(experiment, run_name=one["name"])
        params = [Param(name, value) for name, value in one["params"].items()]
        metrics = [Metric("eval_loss", one["metrics"]["eval_loss"], 0, 0)]
        client.log_batch(made.info.run_id, params=params, metrics=metrics)
        for step in (1, 2):  # a curve, of which the last value is the final one
            client.log_metric(made.info.run_id, "dev", 9.0 - step, step=step)
        client.set_terminated(made.info.run_id)
    mapping = ",".join(f"{ours}={theirs}" for ours, theirs in {**MAP, "curve": "dev"}.items())
    arguments = ["--experiment", "ladder", "--map", mapping, "--control", "baseline"]
    arguments += ["--tracking-uri", uri, "--out", str(root / "out"), "--attach", parent]
    assert main(["report", *arguments, "--resamples", "20"]) == 0
    return root / "out", client, parent


def test_any_mlflow_experiment_gets_a_report_attached_to_its_parent(
    report: tuple[Path, MlflowClient, str],
) -> None:
    out, client, parent = report
    attached = {Path(f.path).name for f in client.list_artifacts(parent, "report")}
    written = {p.name for p in out.rglob("*") if p.is_file()}
    assert attached == written >= {"report.html", "runs.parquet", "runs.csv", "loss_by_size.pdf"}
    text = (out / "report.html").read_text()
    assert "pdx report --experiment ladder" in text and "params, as logged" in text
    assert len(pd.read_parquet(out / "runs.parquet")) == 20
    curves = pd.read_csv(out / "figures" / "learning_curves.csv")
    assert len(curves) == 40 and set(curves["val/loss"]) == {8.0, 7.0}, "every step of every run"
    assert "(1 without N or D left out)" in text, "the parent has no numbers"


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_the_report_reads_on_a_desk_and_on_a_phone(
    report: tuple[Path, MlflowClient, str], tmp_path: Path
) -> None:
    page = (report[0] / "report.html").as_uri()
    with Browser(tmp_path) as browser:
        for width in (1100, 390):
            browser.resize(width, 844)
            browser.open(page)
            browser.wait_for("Difference to the control", "Provenance")
            assert browser.ask("document.documentElement.scrollWidth") <= width
            drawn = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
            assert set(browser.ask(drawn)) == {True}
            least = "Math.min(...[...document.images].map(i => i.getBoundingClientRect().width))"
            assert browser.ask(least) > 380, "figures keep a size that can be read, and scroll"
            browser.screenshot(f"report_{width}")


def test_a_share_is_omega_squared_as_the_textbook_has_it() -> None:
    """Of one setting alone, and then what chance gives to a setting is taken off it."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(4), 6)
    loss = 0.3 * group + rng.normal(size=24)
    means = np.array([loss[group == k].mean() for k in range(4)])
    between = 6 * ((means - loss.mean()) ** 2).sum()
    total = ((loss - loss.mean()) ** 2).sum()
    within = (total - between) / (24 - 4)
    (share,) = _shares({"setting": group}, loss)
    assert share == pytest.approx((between - 3 * within) / total)
    nothing = [_shares({"setting": rng.permutation(group)}, loss)[0] for _ in range(400)]
    assert abs(np.mean(nothing)) < 0.03, "3 of 23 degrees of freedom would be 0.13"
