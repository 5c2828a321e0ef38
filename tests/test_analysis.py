"""The analysis on sweeps whose truth is known: laws, intervals, accountings, figures, report."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pdx.analysis.figures.panels import draw_all
from pdx.analysis.fitting.fit import Fit, fit
from pdx.analysis.laws import law_named
from pdx.analysis.questions.results import Results, analyse
from pdx.analysis.report import remake_command, shown_command, write_report
from pdx.analysis.runs.accounting import ACCOUNTINGS
from pdx.analysis.runs.labels import human, label_runs, roles
from pdx.analysis.runs.seeds import mean_interval
from pdx.analysis.runs.table import load_plan, load_runs, write_table
from pdx.analysis.tables.sentences import does_not_show, shows
from pdx.errors import SweepError

SIZES = {"s10k": 11_000, "s30k": 31_000, "s100k": 98_000, "s300k": 310_000, "s1m": 980_000}
NUM_TOKENS = 1_000_000
NUM_PARAMS_TEACHER = 100_000
GAIN = 0.2


def true_loss(num_params: float, num_tokens: float) -> float:
    """The control's loss: linear in log tokens, so that interpolation in log tokens is exact."""
    return 2.0 + 30.0 * num_params**-0.3 - 0.1 * np.log(num_tokens / NUM_TOKENS)


def make_sweep(
    root: Path,
    sizes: dict[str, int] = SIZES,
    seeds: tuple[int, ...] = (0, 1),
    recipes: dict[str, float] | None = None,
    controls: dict[float, tuple[str, ...]] | None = None,
    rates: tuple[float, ...] = (),
    noise: float = 0.0,
    seed_noise: float = 0.01,
    teacher_tokens: float = 0.5e6,
) -> tuple[Path, Path]:
    """Write plan.json and the folders of finished runs; returns (sweep_dir, runs_dir).

    Args:
        recipes: gain of each loss over the control.
        controls: for each token multiple, the sizes that have a control there.
        noise: standard deviation per run; seed_noise: shared by all runs of one seed.
    """
    recipes = {"forward_kl": GAIN} if recipes is None else recipes
    controls = (
        {1: tuple(sizes), 2: tuple(sizes), 4: tuple(sizes)[:2]} if controls is None else controls
    )
    rng = np.random.default_rng(0)
    by_seed = {seed: seed_noise * rng.normal() for seed in seeds}
    points: list[dict[str, Any]] = []
    specs = [
        ("axis", size, loss, 1, rate)
        for size in sizes
        for loss in recipes
        for rate in rates or (None,)
    ]
    specs += [
        ("control", size, "none", m, rate)
        for m, names in controls.items()
        for size in names
        for rate in rates or (None,)
    ]
    for role, size, loss, multiple, rate in specs:
        for seed in seeds:
            num, tokens = sizes[size], int(NUM_TOKENS * multiple)
            params: dict[str, Any] = {"student": size, "loss": loss, "train.seed": seed}
            if role == "control" and multiple != 1:
                params["train.num_tokens"] = tokens
            if rate is not None:
                params["optim.peak_lr"] = rate
            taught = loss != "none"
            facts = {
                "num_params_total": 2 * num,
                "num_params_non_embedding": num,
                "num_tokens": tokens,
                "num_unique_tokens": tokens,
                "num_epochs": 1.0,
                "seq_len": 128,
                "vocab_size": 1024,
                "flops_train_exact": 6.0 * num * tokens,
                "flops_train_6nd": 6.0 * num * tokens,
                "flops_teacher_inference_exact": 2.0 * NUM_PARAMS_TEACHER * tokens * taught,
                "flops_teacher_training_exact": 6.0 * NUM_PARAMS_TEACHER * teacher_tokens * taught,
                "data_digest": "d0",
                "teacher_id": "t0" if taught else None,
            }
            loss_value = true_loss(num, tokens) + by_seed[seed] + noise * rng.normal()
            loss_value -= recipes.get(loss, 0.0)
            loss_value += 0.0 if rate is None else 0.05 * np.log2(rate / 0.004) ** 2
            run_id = f"{len(points):012x}"
            target = f"pdx.losses.{loss}.Loss"
            points.append(
                {
                    "run_id": run_id,
                    "role": role,
                    "params": params,
                    "overrides": [],
                    "facts": facts,
                    "config": {
                        "loss": {"_target_": target},
                        "optim": {"peak_lr": rate or 0.004},
                        "eval": {"num_tokens": 8192, "num_tokens_during_training": 4096},
                    },
                }
            )
            metrics = {
                "val/loss": loss_value,
                "test/loss": loss_value + 0.01,
                "train/loss": loss_value,
                "val/bits_per_byte": loss_value * 0.6,
                "val/teacher_kl": loss_value - 2.0,
                "val/top1_agreement": 1 / loss_value,
                "val/ece": 0.02,
                "val/teacher_loss": 2.4,
            }
            folder = root / "runs" / run_id
            folder.mkdir(parents=True)
            result = {
                "run_id": run_id,
                "status": "complete",
                "reason": None,
                "seconds": 10.0,
                "metrics": metrics,
                "facts": facts,
                "provenance": {"git_commit": "abc1234", "git_dirty": False, "host": "box"},
            }
            (folder / "result.json").write_text(json.dumps(result))
            lines = [
                {"step": i, "tokens": tokens * i // 4, "val/loss": loss_value + 0.5 / i}
                for i in range(1, 5)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    axes = ["student", "loss", *(["optim.peak_lr"] if rates else []), "train.seed"]
    plan = {
        "name": "demo",
        "scale": "cpu",
        "digest": "9ac1",
        "question": "Does <it> help & when?",
        "command": "pdx train -m sweep=demo scale=cpu",
        "axes": axes,
        "seed_axis": "train.seed",
        "points": points,
    }
    sweep_dir = root / "sweeps" / "demo-cpu-9ac1"
    sweep_dir.mkdir(parents=True)
    (sweep_dir / "plan.json").write_text(json.dumps(plan))
    return sweep_dir, root / "runs"


def edit_result(runs_dir: Path, run_id: str, **changes: Any) -> None:
    path = runs_dir / run_id / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run_ids(sweep_dir: Path, **params: Any) -> list[str]:
    wanted = {key.replace("__", "."): value for key, value in params.items()}
    return [
        point["run_id"]
        for point in load_plan(sweep_dir).points
        if all(point["params"].get(key) == value for key, value in wanted.items())
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_sweep(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def results(demo: tuple[Path, Path]) -> Results:
    return analyse(*demo, num_resamples=50)


# Aggregation


def test_student_t_interval_and_none_from_one_seed() -> None:
    found = mean_interval(np.array([1.0, 2.0, 4.0]))
    assert (found.mean, found.num) == (pytest.approx(7 / 3), 3)
    assert found.high - found.mean == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / 3**0.5)
    lone = mean_interval(np.array([1.5, np.nan]))
    assert (lone.mean, lone.num) == (1.5, 1) and np.isnan(lone.low)


def test_groups_are_everything_but_the_seed(results: Results) -> None:
    table = results.aggregated
    assert len(table) == 5 + 5 + 5 + 2  # forward_kl; control at 1x, 2x, 4x
    assert set(table["val/loss/num"]) == {2}
    assert set(table["series"]) == {
        "forward_kl",
        "no distillation",
        "no distillation, 2x tokens",
        "no distillation, 4x tokens",
    }


def test_recipe_takes_in_other_axes_and_leaves_out_size_seed_rate_and_tokens(
    tmp_path: Path,
) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, sizes={"s10k": 11_000}, rates=(0.004,))
    path = sweep_dir / "plan.json"
    raw = json.loads(path.read_text())
    for point in raw["points"]:
        if point["role"] == "axis":
            point["params"] |= {"signal.top_k": 4, "signal": "topk"}
    path.write_text(json.dumps(raw))
    labelled = label_runs(load_runs(sweep_dir, runs_dir), load_plan(sweep_dir))
    assert set(labelled["recipe"]) == {"forward_kl, top_k=4, signal=topk", "no distillation"}
    assert roles(load_plan(sweep_dir)).recipe == ("loss", "signal.top_k", "signal")


def test_a_text_that_a_teacher_made_is_no_control(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, sizes={"s10k": 11_000}, controls={1: ("s10k",)})
    path = sweep_dir / "plan.json"
    raw = json.loads(path.read_text())
    made, plain = (p for p in raw["points"] if p["params"]["loss"] == "none")
    made["config"]["text"] = {"_target_": "pdx.texts.teacher_samples.TeacherSamples"}
    plain["config"]["text"] = {"_target_": "pdx.texts.corpus.Corpus"}
    for point in (made, plain):
        point["role"] = "axis"
        point["params"]["text"] = point["config"]["text"]["_target_"].split(".")[2]
    path.write_text(json.dumps(raw))
    labelled = label_runs(load_runs(sweep_dir, runs_dir), load_plan(sweep_dir))
    is_control = labelled.set_index("run_id")["is_control"]
    assert not is_control[made["run_id"]], "its text holds the teacher's word"
    assert is_control[plain["run_id"]]


# Paired differences and accountings


def test_paired_differences_are_exact_though_seeds_differ(results: Results) -> None:
    assert results.complete["val/loss"].groupby(results.complete["setting"]).std().min() > 1e-3
    table = results.paired["student_tokens"]
    assert list(table["num_pairs"]) == [2] * 5
    np.testing.assert_allclose(table["difference"].astype(float), -GAIN, rtol=1e-9)
    np.testing.assert_allclose(table["difference/high"].astype(float), -GAIN, rtol=1e-6)


def test_pairs_have_the_same_seed(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, seed_noise=0.5)
    edit_result(
        runs_dir,
        run_ids(sweep_dir, student="s10k", loss="none", train__seed=1)[0],
        status="diverged",
        reason="loss is nan",
    )
    table = analyse(sweep_dir, runs_dir, num_resamples=5).paired["student_tokens"]
    row = table[table["size"] == "s10k"].iloc[0]
    assert (row["num_pairs"], row["num_runs"]) == (1, 2)
    assert row["difference"] == pytest.approx(-GAIN)


def test_control_at_equal_compute_is_interpolated_exactly(results: Results) -> None:
    """The synthetic control is linear in log tokens, so the value is known."""
    table = results.compared["teacher_inference"]
    row = table[(table["size"] == "s100k") & (table["seed"] == "0")].iloc[0]
    multiple = 1 + 2 * NUM_PARAMS_TEACHER / (6 * SIZES["s100k"])
    assert row["needed_multiple"] == pytest.approx(multiple)
    gained = 0.1 * np.log(multiple)
    assert row["difference"] == pytest.approx(-GAIN + gained, abs=1e-9)
    taught = results.compared["teacher_training"]
    row = taught[(taught["size"] == "s100k") & (taught["seed"] == "0")].iloc[0]
    multiple += NUM_PARAMS_TEACHER * 0.5e6 / (SIZES["s100k"] * NUM_TOKENS)
    assert row["needed_multiple"] == pytest.approx(multiple)
    assert row["difference"] == pytest.approx(-GAIN + 0.1 * np.log(multiple), abs=1e-9)


def test_nothing_is_extrapolated(results: Results) -> None:
    table = results.compared["teacher_inference"]
    beyond = table[table["size"] == "s10k"]  # needs 4.03x, measured up to 4x
    assert beyond["difference"].isna().all()
    assert set(beyond["why_not"]) == {"needs 4.03x control tokens; measured up to 4x"}
    needed, measured = table["needed_multiple"], table["measured_multiple"]
    assert (table["difference"].notna() == (needed <= measured * 1.001)).all()
    paired = results.paired["teacher_inference"].set_index("size")
    assert paired.loc["s10k", "num_pairs"] == 0 and "4.03x" in paired.loc["s10k", "why_not"]


def test_a_teacher_whose_cost_is_not_recorded_is_not_free(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path)
    for run_id in run_ids(sweep_dir, loss="forward_kl"):
        facts = json.loads((runs_dir / run_id / "result.json").read_text())["facts"]
        edit_result(runs_dir, run_id, facts=facts | {"flops_teacher_training_exact": 0})
    found = analyse(sweep_dir, runs_dir, num_resamples=5)
    assert found.paired["teacher_training"]["num_pairs"].sum() == 0
    assert "not recorded" in found.paired["teacher_training"]["why_not"].iloc[0]
    assert found.paired["teacher_inference"]["num_pairs"].sum() > 0


def test_controls_of_other_data_are_not_compared_with(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, sizes={"s10k": 11_000})
    for run_id in run_ids(sweep_dir, loss="none"):
        facts = json.loads((runs_dir / run_id / "result.json").read_text())["facts"]
        edit_result(runs_dir, run_id, facts=facts | {"data_digest": "other"})
    found = analyse(sweep_dir, runs_dir).paired["student_tokens"]
    assert found["num_pairs"].sum() == 0 and "data" in found["why_not"].iloc[0]


# The table of runs


def test_table_is_typed_and_written_twice(demo: tuple[Path, Path], tmp_path: Path) -> None:
    runs = load_runs(*demo)
    kinds = {name: str(runs[name].dtype) for name in runs}
    assert kinds["num_tokens"] == kinds["train.seed"] == "Int64"
    assert kinds["val/loss"] == "Float64" and kinds["student"] == "string"
    assert kinds["provenance.git_dirty"] == "boolean"
    write_table(runs, tmp_path)
    again = pd.read_parquet(tmp_path / "runs.parquet")
    assert len(again) == len(runs) and (again["run_id"] == runs["run_id"]).all()
    assert (tmp_path / "runs.csv").read_text().count("\n") == len(runs) + 1


@pytest.mark.parametrize("how", ["missing", "pruned"])
def test_runs_without_a_result_and_diverged_ones_are_counted_and_kept_out(
    tmp_path: Path, how: str
) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path)
    gone, lost = run_ids(sweep_dir, student="s30k", loss="forward_kl")
    (runs_dir / gone / "result.json").unlink()
    end = {"state": how if how == "pruned" else "fail", "reason": ""}
    (sweep_dir / "outcomes.json").write_text(json.dumps({gone: end}))
    edit_result(runs_dir, lost, status="diverged", reason="loss is nan", metrics={"val/loss": 99.0})
    found = analyse(sweep_dir, runs_dir, num_resamples=5)
    total = len(found.runs)
    none = {"missing": 0, "pruned": 0}
    assert found.counts == {"complete": total - 2, "diverged": 1} | none | {how: 1}
    assert found.complete["val/loss"].max() < 10
    curve = next(c for c in found.curves if c.series == "forward_kl")
    assert set(curve.points["size"]) == set(SIZES) - {"s30k"}
    assert not curve.drawn or curve.drawn.law == "power"  # four sizes bear no offset
    assert any("needs 5" in reason for reason in curve.refused)


def test_no_plan_no_run_and_no_metric_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"no plan\.json.*pdx train -m"):
        load_runs(tmp_path, tmp_path)
    sweep_dir, runs_dir = make_sweep(tmp_path, sizes={"s10k": 11_000})
    with pytest.raises(SweepError, match=r"no finished run has it; known: .*val/loss"):
        analyse(sweep_dir, runs_dir, metric="val/lose")
    (runs_dir / "000000000000" / "result.json").write_text("{half")
    with pytest.raises(SweepError, match=r"result\.json: is not JSON"):
        load_runs(sweep_dir, runs_dir)
    for path in runs_dir.rglob("result.json"):
        path.unlink()
    with pytest.raises(SweepError, match=r"has finished.*run `pdx train -m sweep=demo scale=cpu`"):
        load_runs(sweep_dir, runs_dir)


# Figures and report


def test_figures_have_their_panels_and_curves(results: Results) -> None:
    drawn = {figure.name: figure.figure for figure in draw_all(results)}
    assert list(drawn) == [
        "loss_by_size",
        "gain_by_size",
        "quality_by_size",
        "loss_by_compute",
        "learning_curves",
    ]
    loss = drawn["loss_by_size"].axes
    assert [axes.get_title() for axes in loss] == [a.label for a in ACCOUNTINGS]
    for axes, controls in zip(
        loss, ("no distillation", "control at equal", "control at equal"), strict=True
    ):
        labels = axes.get_legend_handles_labels()[1]
        assert "forward_kl" in labels and any(name.startswith(controls) for name in labels)
        curves = [line for line in axes.lines if len(line.get_xdata()) == 100]
        assert len(curves) == 2  # a fit each
        assert len(axes.collections) >= 2  # a band each
    hatched = [[p for p in axes.patches if p.get_hatch()] for axes in loss]
    assert len(hatched[0]) == 0 and len(hatched[1]) >= 1
    above = [text.get_text() for text in loss[1].texts]
    assert above == ["4.03x", "4x", "needs", "has"]
    assert "not a scaling law in N and D" in drawn["loss_by_size"].get_suptitle()
    gain = drawn["gain_by_size"].axes
    assert len(gain) == 3 and all(any(ln.get_label() == "_zero" for ln in ax.lines) for ax in gain)
    assert len(drawn["loss_by_compute"].axes) == 3 and len(drawn["quality_by_size"].axes) == 4
    assert sum(axes.get_visible() for axes in drawn["learning_curves"].axes) == 5


def test_one_size_has_a_row_per_recipe_best_first(tmp_path: Path) -> None:
    found = analyse(*make_sweep(tmp_path, sizes={"s10k": 11_000}), num_resamples=5)
    drawn = {figure.name: figure for figure in draw_all(found)}
    assert (
        list(drawn)[:2] == ["loss_by_recipe", "quality_by_recipe"] and "loss_by_size" not in drawn
    )
    table = drawn["loss_by_recipe"].data
    assert table["val/loss"].is_monotonic_increasing and len(table) == 2
    loss, gain = drawn["loss_by_recipe"].figure.axes
    names = [label.get_text() for label in loss.get_yticklabels()]
    assert names == table["series"].to_list() == ["forward_kl", "no distillation"]
    assert gain.get_title() == "student tokens equal"
    marks = [line for line in gain.lines if line.get_marker() == "o"]
    (mean,) = found.paired["student_tokens"]["difference"]
    assert [tuple(mark.get_data()[0]) for mark in marks] == [(mean,)]
    said = shows(found)
    assert said[0].startswith("At equal student tokens, forward_kl ends below the control at")


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2)])
def test_bars_are_the_range_of_two_seeds_and_the_t_interval_of_three(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    found = analyse(*make_sweep(tmp_path, seeds=seeds, noise=0.02), num_resamples=20)
    figures = {figure.name: figure for figure in draw_all(found)}
    table = found.paired["student_tokens"]
    ends = ("min", "max") if len(seeds) < 3 else ("low", "high")
    axes = figures["gain_by_size"].figure.axes[0]
    bars = [path.vertices[:, 1] for c in axes.containers for path in c[2][0].get_paths()]
    want = table[[f"difference/{end}" for end in ends]].to_numpy(dtype=float)
    np.testing.assert_allclose(sorted(map(tuple, bars)), sorted(map(tuple, want)))
    for name in ("loss_by_size", "gain_by_size", "quality_by_size"):
        said = figures[name].caption
        assert ("Student-t 95% intervals" in said) == (len(seeds) == 3)
        assert ("their range, no interval" in said) == (len(seeds) == 2)
    for axes in figures["loss_by_size"].figure.axes:  # nothing cut: bands and points are seen
        low, high = axes.get_ylim()
        for band in axes.collections:
            heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
            assert low <= heights.min() and heights.max() <= high


def test_every_size_has_a_tick_and_no_name_overlaps_another(tmp_path: Path) -> None:
    sizes = {"s10k": 11_000, "s30k": 31_000, "s60k": 62_000, "s100k": 94_000, "s300k": 305_000}
    found = analyse(*make_sweep(tmp_path, sizes=sizes), num_resamples=5)
    drawn = {f.name: f.figure for f in draw_all(found)}
    for name in ("loss_by_size", "gain_by_size", "loss_by_compute"):
        figure = drawn[name]
        figure.draw_without_rendering()
        for axes in figure.axes:
            ticks = axes.get_xticklabels()
            if name != "loss_by_compute":
                assert [tick.get_text() for tick in ticks] == list(sizes)
                assert all(tick.get_rotation() in (45, 90) for tick in ticks)
            else:
                ticks = [tick for tick in ticks if tick.get_text()]
                assert len(ticks) >= 3
                frame = axes.get_window_extent()
                boxes = [text.get_window_extent() for text in axes.texts]
                assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 for b in boxes)
            texts = [text.get_window_extent() for text in axes.texts]
            assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[:i])
    named = [text.get_text() for text in drawn["loss_by_compute"].axes[0].texts]
    assert sorted(named) == sorted(2 * list(sizes))  # each size's control, and the recipe
    titles = [axes.get_title() for axes in drawn["loss_by_compute"].axes]
    assert titles == ["student only", *(a.label for a in ACCOUNTINGS[1:])]


def test_many_sizes_keep_their_ticks_apart(tmp_path: Path) -> None:
    sizes = {f"s{i}": int(1e4 * 1.5**i) for i in range(16)}
    found = analyse(*make_sweep(tmp_path, sizes=sizes, seeds=(0,)), num_resamples=2)
    for figure in draw_all(found)[:2]:
        figure.figure.draw_without_rendering()
        for axes in figure.figure.axes:
            shown = [t for t in axes.get_xticklabels() if t.get_text()]
            boxes = [text.get_window_extent() for text in (*shown, *axes.texts)]
            assert len(axes.get_xticks()) == 16 and len(shown) >= 8
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_learning_curves_tell_token_counts_apart(results: Results) -> None:
    drawn = {figure.name: figure for figure in draw_all(results)}["learning_curves"]
    lines = {ln.get_label(): ln.get_linestyle() for ln in drawn.figure.axes[0].lines}
    assert lines == {
        "forward_kl": "-",
        "no distillation": "-",
        "no distillation, 2x tokens": "--",
        "no distillation, 4x tokens": "-.",
    }
    assert "the first 4,096 tokens" in drawn.caption and "the first 8,192 tokens" in drawn.caption
    assert all(a.get_xlabel() for a in drawn.figure.axes if a.get_visible())


def test_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path)
    (runs_dir / run_ids(sweep_dir, student="s1m", loss="forward_kl")[0] / "result.json").unlink()
    files = write_report(sweep_dir, runs_dir, num_resamples=20)
    text = files.html.read_text()
    for link in re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)\"", text):
        assert link.startswith("data:")
    assert "url(" not in text and "<script" not in text and "@import" not in text
    assert text.count("data:image/svg+xml;base64,") == 5 == len(files.figures) // 3
    assert text.count("Data, command, definitions") == 5 == text.count("data:text/csv;base64,")
    assert "pdx train -m sweep=demo scale=cpu" in text
    assert "pdx report sweep=demo scale=cpu" in text
    assert "Does &lt;it&gt; help &amp; when?" in text and "<it>" not in text
    assert "-0.200 [-0.200, -0.200] (n = 2)" in text and "Incomplete" in text
    assert "The learning rate was not tuned" in text and "charged whole to every single run" in text
    assert {path.suffix for path in files.figures} == {".png", ".pdf", ".csv"}
    for path in files.figures:
        assert path.stat().st_size > 5000 or len(pd.read_csv(path)) > 2
    assert {path.stem for path in files.tables} >= {"runs", "settings", "differences"}
    assert "Worth in compute at equal loss" in text and "worth_in_compute_at_equal_loss" in {
        path.stem for path in files.tables
    }
    assert 'class="words">' in text  # long cells get room to be read in
    assert files.table.name == "runs.parquet"
    fits = [Fit.from_json(entry["fit"]) for entry in json.loads(files.fits.read_text())]
    control = next(f for f in fits if f.law == "power_offset")
    assert control.bootstrap is not None and control.data_filter and control.versions["scipy"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": {"s10k": 11_000}, "seeds": (0,), "controls": {}}, "no control (loss=none)"),
        (
            {
                "recipes": {"forward_kl": 0.2, "mse": 0.1},
                "seeds": (0,),
                "controls": {},
                "sizes": {"s10k": 11_000, "s30k": 31_000},
            },
            "needs 3 or more",
        ),
        ({"recipes": {}, "sizes": {"s10k": 11_000}}, "no distilled run has finished"),
    ],
)
def test_small_sweeps_get_a_report_that_says_what_is_lacking(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, **options)
    assert said in write_report(sweep_dir, runs_dir, out_dir=tmp_path / "r").html.read_text()


def test_a_swept_learning_rate_is_chosen_drawn_and_judged(tmp_path: Path) -> None:
    sizes = {"s10k": 11_000, "s30k": 31_000}
    sweep_dir, runs_dir = make_sweep(
        tmp_path, sizes=sizes, rates=(0.001, 0.002, 0.004), controls={1: tuple(sizes)}
    )
    found = analyse(sweep_dir, runs_dir)
    assert set(found.chosen["optim.peak_lr"]) == {0.004}
    np.testing.assert_allclose(found.paired["student_tokens"]["difference"].astype(float), -GAIN)
    drawn = {figure.name: figure for figure in draw_all(found)}
    assert (
        "In 4 of 4 cases the best value lies at the edge" in drawn["loss_by_optim_peak_lr"].caption
    )
    edge = run_ids(sweep_dir, optim__peak_lr=0.004, student="s10k", loss="forward_kl")[0]
    edit_result(runs_dir, edge, status="diverged")
    kept = analyse(sweep_dir, runs_dir).chosen
    kept = kept[(kept["size"] == "s10k") & (kept["recipe"] == "forward_kl")]
    assert set(kept["optim.peak_lr"]) == {0.002}  # survivors of a diverging rate do not win


def test_a_rate_whose_rivals_all_diverged_was_swept_all_the_same(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(
        tmp_path, sizes={"s10k": 11_000}, rates=(0.002, 0.004), controls={1: ("s10k",)}
    )
    lost = run_ids(sweep_dir, optim__peak_lr=0.004)
    for run_id in lost:
        edit_result(runs_dir, run_id, status="diverged", reason="loss is nan")
    limits = " ".join(does_not_show(analyse(sweep_dir, runs_dir, num_resamples=2)))
    assert "optim.peak_lr was swept here" in limits and "not tuned here" not in limits
    assert f"{len(lost)} of {2 * len(lost)} runs diverged ({len(lost)} at 0.004)" in limits


def test_a_control_at_another_rate_is_said_to_be(tmp_path: Path) -> None:
    sweep_dir, runs_dir = make_sweep(tmp_path, sizes={"s10k": 11_000})
    path = sweep_dir / "plan.json"
    raw = json.loads(path.read_text())
    for point in raw["points"]:
        if point["params"]["loss"] == "none":
            point["config"]["optim"]["peak_lr"] = 0.002
    path.write_text(json.dumps(raw))
    limits = " ".join(does_not_show(analyse(sweep_dir, runs_dir, num_resamples=2)))
    assert "2 of 2 pairs differ in it (such as 0.004 against the control's 0.002)" in limits


def test_a_shown_command_says_nothing_of_the_machine() -> None:
    command = "pdx train -m sweep=demo 'train.seed=range(8, 16)' '++env.outputs=/me/a b' env.x=1"
    assert shown_command(command) == "pdx train -m sweep=demo 'train.seed=range(8, 16)'"


def test_remake_command() -> None:
    assert remake_command("pdx train -m sweep=demo") == "pdx report sweep=demo"
    assert remake_command("pdx train -m loss=a,b") == "pdx report loss=a,b"


def test_human() -> None:
    assert [human(v) for v in (950, 11_000, 999_900, 1.5e9)] == ["950", "11k", "1M", "1.5B"]


def test_analysis_imports_no_training_stack() -> None:
    code = (
        "import sys, pdx.analysis.report; "
        "print([m for m in ('torch', 'hydra', 'mlflow', 'optuna', 'transformers') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("offset", "better"), [(0.0, "power"), (2.0, "power_offset")])
def test_an_offset_must_be_worth_its_constant(offset: float, better: str):
    sizes = np.repeat([1e4, 3e4, 1e5, 3e5, 1e6], 2)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.003, len(sizes)))
    loss = (offset + 30 * sizes**-0.3) * noise
    fits = [fit(law_named(name), {"x": sizes}, loss) for name in ("power", "power_offset")]
    assert min(fits, key=lambda f: f.aicc).law == better
