"""`pdx predict`: intervals against students held out of real sweeps, and when it keeps silent.

`data/demo_runs.csv` is the table of runs that the report of `pdx train -m sweep=demo` wrote at
commit 280588f (28 runs, two CPU cores, torch 2.13.0, two seeds), with the columns read here. The
Chinchilla points are the public data set of `../shared/data/laws`, whose SOURCE.md says where from.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pdx.analysis.laws import law_named
from pdx.analysis.laws.chinchilla import ChinchillaGamma
from pdx.analysis.laws.distillation import Distillation
from pdx.analysis.predictions.finished import of_teacher, read_runs, usual_tokens
from pdx.analysis.predictions.forecast import Target, forecast
from pdx.analysis.predictions.predict import Prediction, predict
from pdx.analysis.predictions.recommend import recommend
from pdx.analysis.questions.gains import crossing, slope_of
from pdx.analysis.tables.prediction import summary
from pdx.cli import main
from pdx.errors import SweepError

SIZE = "num_params_non_embedding"
DEMO = Path(__file__).parent / "data" / "demo_runs.csv"
CHINCHILLA = Path(__file__).parents[2] / "shared" / "data" / "laws" / "chinchilla.csv"
METRIC = "val/loss"
TOKENS = 163_840


def flops_6nd(num_params: float, num_tokens: float) -> tuple[float, float, str]:
    return 6 * num_params * num_tokens, num_params, "6 N D"


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return read_runs(DEMO, None, METRIC)


def made(
    gains: dict[str, list[float]],
    noise: float = 0.002,
    sizes: tuple[float, ...] = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8),
    seeds: int = 3,
) -> pd.DataFrame:
    """Runs at 20 tokens a parameter, of a control and of recipes with a gain at each size."""
    rng, rows = np.random.default_rng(0), []
    for recipe, gain in {"plain": [0.0] * len(sizes), **gains}.items():
        for num, better in zip(sizes, gain, strict=True):
            for seed in range(seeds):
                loss = 1.7 + 60 * num**-0.3 - better + noise * rng.normal()
                rows.append(
                    {
                        "recipe": recipe,
                        "seed": str(seed),
                        "is_control": recipe == "plain",
                        SIZE: num,
                        "num_tokens": 20 * num,
                        METRIC: loss,
                    }
                )
    return pd.DataFrame(rows)


def asked(runs: pd.DataFrame, num_params: float, **kw: float) -> Prediction:
    target = Target(num_params=num_params, num_tokens=kw.get("num_tokens", 20 * num_params))
    return predict(runs, target, "made", METRIC, flops_6nd, num_resamples=100)


def test_a_law_with_as_many_parameters_as_settings_is_refused() -> None:
    """It goes through every mean, and its residuals say nothing of how far off it may be."""
    runs = made({}, sizes=(1e6, 3e6, 1e7))
    longer = runs.assign(num_tokens=2 * runs["num_tokens"], **{METRIC: runs[METRIC] - 0.1})
    target = Target(num_params=1e9, num_tokens=2e10)
    for sizes in ([1e6, 3e6], [1e6, 3e6, 1e7]):
        known = pd.concat([runs, longer[longer[SIZE].isin(sizes)]])
        found = forecast(known, "plain", target, METRIC, num_resamples=5)
        why = "5 distinct settings for 5 parameters: nothing is left to test it by"
        assert (found.refused.get("chinchilla") == why) == (len(sizes) == 2), found.refused


@pytest.mark.parametrize("out", [["s300k"], ["s100k", "s300k"]])
def test_the_largest_students_of_a_real_sweep_lie_in_their_intervals(
    demo: pd.DataFrame, out: list[str]
) -> None:
    held = demo[demo["size"].isin(out)]
    covered, widths = [], []
    for (recipe, num, tokens), runs in held.groupby(["recipe", SIZE, "num_tokens"]):
        known = demo[~demo["size"].isin(out) & (demo["recipe"] == recipe)]
        target = Target(num_params=float(num), num_tokens=float(tokens))
        found = forecast(known, str(recipe), target, METRIC, num_resamples=200)
        low, high = found.interval
        covered += [low < loss < high for loss in runs[METRIC]]
        widths.append((high - low) / found.loss)
    assert len(covered) == len(held) >= 4
    assert np.mean(covered) >= 0.9  # all of them here; of few runs one may fall out
    assert max(widths) < 0.3, "an interval that covers everything says nothing"


@pytest.mark.skipif(not CHINCHILLA.exists(), reason="needs the public data beside the checkout")
def test_the_largest_compute_of_chinchillas_points_lies_in_its_intervals() -> None:
    points = pd.read_csv(CHINCHILLA).sort_values("loss")[:-5]
    runs = points.rename(columns={"N": SIZE, "D": "num_tokens", "loss": METRIC})
    runs = runs.assign(C=6 * runs[SIZE] * runs["num_tokens"], seed="0").sort_values("C")
    known, held = runs[:-24], runs[-24:]
    covered = []
    for row in held[2::4].to_dict("records"):
        target = Target(num_params=row[SIZE], num_tokens=row["num_tokens"])
        found = forecast(known, "all", target, METRIC, num_resamples=100)
        low, high = found.interval
        covered.append(low < row[METRIC] < high)
        assert (high - low) / found.loss < 0.1
    assert sum(covered) >= 5, covered


def test_a_clear_and_steady_gain_is_recommended_and_priced() -> None:
    found = asked(made({"good": [0.2] * 6, "poor": [0.05] * 6}), 1e9)
    assert found.recommendation.recipe == "good" and not found.recommendation.reasons
    assert len(found.recommendation.checks) == 4  # laws, two rivals, without the largest
    truth = 1.7 + 60 * 1e9**-0.3
    for recipe, gain in {"plain": 0.0, "good": 0.2, "poor": 0.05}.items():
        low, high = found.forecasts[recipe].interval
        assert low < truth - gain < high
        for law in found.forecasts[recipe].by_law:  # one more run scatters, the mean does not
            assert law.interval[1] - law.interval[0] > law.curve[1] - law.curve[0]
    assert found.cost["good"]["flops_train_exact"] == 6 * 1e9 * 2e10
    assert "recommended at equal student tokens: good" in summary(found)


def test_beyond_a_decade_the_law_itself_is_doubted() -> None:
    runs = made({"good": [0.2] * 6})
    near, far = asked(runs, 2.9e9), asked(runs, 3.1e9)
    assert near.decades["N"] < 1 < far.decades["N"]
    text = "interval leaves out the error of the laws themselves"
    assert text not in " ".join(near.warnings) and text in " ".join(far.warnings)


def test_a_gain_that_fades_with_size_is_not_recommended() -> None:
    gains = [0.30, 0.25, 0.20, 0.15, 0.10, 0.05]
    found = asked(made({"good": gains}, noise=0.02), 5e8).recommendation
    assert found.recipe is None
    (slope,) = found.slopes
    assert slope.per_decade[2] < 0 and slope.zero_at is not None
    assert 3e8 < slope.zero_at[0] < 2e9
    assert any("may be nothing or a loss" in reason for reason in found.reasons)


def test_a_rank_that_hangs_on_the_largest_size_is_not_recommended() -> None:
    runs = made({"good": [-0.02, -0.02, -0.02, -0.02, -0.02, 0.3]})
    target = Target(num_params=1e9, num_tokens=2e10)
    forecasts = {
        name: forecast(runs[runs["recipe"] == name], name, target, METRIC, 50)
        for name in ("plain", "good")
    }
    found = recommend(runs, forecasts, target, METRIC)
    assert found.recipe is None and found.first == "good"
    assert any("without the largest size" in reason for reason in found.reasons)


def test_laws_that_disagree_on_the_first_withhold() -> None:
    sizes = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8)
    runs = made({"curved": [0.0] * 6}, noise=0.0005, sizes=sizes)
    bent = runs["recipe"] == "curved"
    runs.loc[bent, METRIC] = 1.0 + 16.5 * runs.loc[bent, SIZE] ** -0.1326
    found = asked(runs, 1e11)
    by = {n: {o.law: o.loss for o in f.by_law} for n, f in found.forecasts.items()}
    assert (by["curved"]["power"] < by["plain"]["power"]) != (
        by["curved"]["power_offset"] < by["plain"]["power_offset"]
    )
    assert found.recommendation.recipe is None
    assert any("laws disagree" in reason for reason in found.recommendation.reasons)


def test_tokens_that_no_run_has_are_refused_with_what_is_missing(demo: pd.DataFrame) -> None:
    target = Target(num_params=3e5, num_tokens=2 * TOKENS)
    found = predict(demo, target, "demo", METRIC, flops_6nd, num_resamples=100)
    taught = found.forecasts["forward_kl"]
    assert taught.best is None and "missing: runs at D" in taught.refused["chinchilla"]
    assert found.forecasts["no distillation"].best is not None
    assert found.recommendation.recipe is None
    json.dumps(found.to_json(), allow_nan=True)


def test_with_the_teacher_charged_the_control_may_train_longer(demo: pd.DataFrame) -> None:
    own = demo[(demo["size"] == "s300k") & (demo["recipe"] == "forward_kl")].iloc[0]

    def flops(num_params: float, num_tokens: float) -> tuple[float, float, str]:
        return own["flops_train_exact"], own["num_params_total"], "as run"

    target = Target(num_params=own[SIZE], num_tokens=TOKENS)
    found = predict(demo, target, "demo", METRIC, flops, num_resamples=100)
    cost = found.cost["forward_kl"]
    for name in ("flops_teacher_inference_exact", "flops_teacher_training_exact", "store_bytes"):
        assert cost[name] == pytest.approx(own[name])
    inference, training = found.charged
    extra = own["flops_teacher_inference_exact"] / own["flops_train_exact"]
    assert inference["control_tokens"] == pytest.approx(TOKENS * (1 + extra))
    assert training["control_loss"] < inference["control_loss"]
    assert training["decades_beyond"]["D"] > inference["decades_beyond"]["D"] == 0


def test_a_teacher_that_no_run_had_is_predicted_by_these_controls() -> None:
    """Students without a teacher are not the paper's: an L_S of its table 6 would be far off."""
    own = {"E": 1.5, "A": 900.0, "B": 3000.0, "alpha": 0.33, "beta": 0.35, "gamma": 0.8}
    shape = {"A": 900.0, "B": 3000.0, "alpha": 0.33, "beta": 0.35, "gamma": 0.8}
    shape |= {"c0": 1.5, "c1": 30.0, "f1": 0.2, "d1": 1.3}
    law, rng, rows = Distillation(tuple(own.items())), np.random.default_rng(0), []

    def loss(n: float, d: float, teacher: float | None) -> float:
        at = {"N": np.array([n]), "D": np.array([d])}
        if teacher is None:
            return float(ChinchillaGamma().predict(own, at)[0])
        return float(law.predict(shape, {**at, "L_T": np.array([teacher])})[0])

    for n in (1e7, 4e7, 1.6e8, 6.4e8):
        for d in (2e8, 1e9, 5e9):
            for teacher in (None, 2.2, 2.5, 2.8, 3.1):
                usual = {"recipe": "kd" if teacher else "plain", "seed": "0", SIZE: n}
                usual |= {"is_control": teacher is None, "num_tokens": d}
                usual |= {"val/teacher_loss": teacher, "teacher_id": str(teacher)}
                usual |= {"flops_teacher_inference_exact": 1e9 * d * bool(teacher)}
                rows.append({**usual, METRIC: loss(n, d, teacher) + 0.002 * rng.normal()})
    runs = pd.DataFrame(rows)
    target = Target(num_params=3e8, num_tokens=2e9, teacher_loss=2.35)
    found = predict(runs, target, "made", METRIC, flops_6nd, num_resamples=100)
    kd = found.forecasts["kd"]
    assert kd.best is not None and kd.best.law == "distillation", kd.refused
    low, high = kd.interval
    assert low < loss(3e8, 2e9, 2.35) < high and (high - low) / kd.loss < 0.1
    assert kd.best.fit.supervised is not None
    assert kd.best.fit.supervised["E"] == pytest.approx(1.5, abs=0.15), "the controls', not table 6"
    assert any("by the law of these controls" in text for text in found.warnings)
    assert "laws that do not compare" in found.recommendation.reasons[0]
    unknown = runs.assign(**{"val/teacher_loss": np.nan})
    mute = predict(unknown, target, "made", METRIC, flops_6nd, num_resamples=100).forecasts["kd"]
    assert "no run tells its teacher's loss" in mute.refused["distillation"]

    few = runs[~runs["is_control"] | (runs["num_tokens"] == 1e9)]
    taught = predict(few, target, "made", METRIC, flops_6nd, num_resamples=100).forecasts["kd"]
    assert taught.best is None and "students without a teacher" in taught.refused["distillation"]


@pytest.mark.parametrize(("gain", "best"), [(0.5, "kd"), (0.0, "plain"), (0.16, None)])
def test_with_the_teacher_charged_the_better_use_of_compute_is_named_if_it_is_sure(
    gain: float, best: str | None
) -> None:
    """The teacher's passes cost as much as the student: the control may have twice the tokens."""
    law, rng, rows = law_named("chinchilla"), np.random.default_rng(0), []
    truth = {"E": 1.7, "A": 60.0, "B": 200.0, "alpha": 0.3, "beta": 0.3}
    for num in (1e6, 3e6, 1e7, 3e7, 1e8):
        for tokens in (2e7, 4e7, 8e7, 1.6e8):
            at = {"N": np.array([num]), "D": np.array([tokens])}
            plain = float(law.predict(truth, at)[0])
            for seed, recipe in product("012", ("plain", "kd")):
                flops = 6 * num * tokens
                usual = {"recipe": recipe, "seed": seed, "is_control": recipe == "plain"}
                usual |= {SIZE: num, "num_tokens": tokens, "flops_train_exact": flops}
                usual["flops_teacher_inference_exact"] = flops * (recipe == "kd")
                usual["teacher_id"] = "t" if recipe == "kd" else None
                loss = plain - gain * (recipe == "kd") + 0.002 * rng.normal()
                rows.append({**usual, METRIC: loss})
    runs = pd.DataFrame(rows)
    runs = runs[(runs["recipe"] == "plain") | (runs["num_tokens"] < 1e8)]
    target = Target(num_params=5e7, num_tokens=8e7)
    found = predict(runs, target, "made", METRIC, flops_6nd, num_resamples=100)
    inference = found.charged[0]
    assert inference["accounting"] == "teacher_inference"
    advice = inference["recommendation"]
    assert advice["recipe"] == best, advice
    said = summary(found)
    if best is None:
        assert advice["reasons"] and "none recommended of kd or plain" in said
    else:
        assert len(advice["checks"]) == 4 and "recommended of kd or plain, +" in said
    few = runs[(runs["recipe"] == "kd") | (runs["num_tokens"] < 3e7) | (runs[SIZE] < 5e6)]
    unsure = predict(few, target, "made", METRIC, flops_6nd, num_resamples=100).charged[0]
    assert unsure["recommendation"]["recipe"] is None
    json.dumps(found.to_json())


def test_the_crossing_holds_the_truth_as_often_as_it_says() -> None:
    rng, hits, num = np.random.default_rng(0), 0, 400
    x = np.array([-1.0, -0.6, -0.2, 0.3, 0.7])
    design = np.column_stack([np.ones(5), x])
    for _ in range(num):
        y = 0.3 - 0.5 * x + 0.05 * rng.normal(size=5)
        line, *_ = np.linalg.lstsq(design, y, rcond=None)
        spread = ((y - design @ line) ** 2).sum() / 3
        found = crossing(line, spread * np.linalg.inv(design.T @ design), 3.182, 1.0)
        if found is None:
            hits += 1  # anywhere
            continue
        low, high = (
            value if value else end for value, end in zip(found[1:], (0, np.inf), strict=True)
        )
        hits += low <= 10**0.6 <= high
    assert 0.92 <= hits / num <= 0.98


def test_pairs_are_of_equal_size_tokens_and_seed() -> None:
    runs = made({"good": [0.1] * 6}, noise=0.0)
    runs[METRIC] += runs["seed"].astype(float)  # seeds move together
    slope = slope_of(runs, "good", "plain", 1e9, METRIC)
    assert slope is not None and slope.num_pairs == 18
    assert slope.at_target[0] == pytest.approx(0.1) and slope.per_decade[0] == pytest.approx(0.0)
    assert slope_of(runs[runs[SIZE] > 5e7], "good", "plain", 1e9, METRIC) is None


def test_what_cannot_be_read_says_what_to_do(demo: pd.DataFrame, tmp_path: Path) -> None:
    two = demo.copy()
    first = two.index[two["recipe"] == "forward_kl"][0]
    two.loc[first, "teacher_id"] = "abc"
    with pytest.raises(SweepError, match="have 2 teachers; name one of"):
        of_teacher(two, None)
    assert len(of_teacher(two, "ab")) == 19
    with pytest.raises(SweepError, match="teacher=zz: names 0"):
        of_teacher(two, "zz")
    several = pd.concat([demo, demo.assign(num_tokens=demo["num_tokens"] * 2)])
    with pytest.raises(SweepError, match="several token counts"):
        usual_tokens(several, 1e6)
    assert usual_tokens(demo, 1e6) == TOKENS
    demo.drop(columns="recipe").to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(SweepError, match="has no column recipe"):
        read_runs(tmp_path / "bad.csv", None, METRIC)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep=nothing", "student=s1m"], "sweep=nothing: none of this name"),
        ([str(DEMO)], "either student=NAME or student.params"),
        ([str(DEMO), "student=s2m"], "student=s2m: no such file in conf/student. Did you mean"),
        ([str(DEMO), "student.params=-1"], "must be positive"),
        ([str(DEMO), "tokens=1"], "tokens=1: not known here"),
        ([str(DEMO), "sweep=demo", "student=s1m"], "one sweep at a time"),
        ([str(DEMO), "student=s1m", "resamples=3"], "resamples=3: too few"),
    ],
)
def test_bad_arguments(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["predict", *arguments, f"env.outputs={tmp_path}"]) == 1
    assert said in capsys.readouterr().err


def test_the_command_prints_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    assert main(["predict", str(DEMO), "student=s300k", "resamples=100", f"json={out}"]) == 0
    shown = capsys.readouterr().out
    for part in ("305k non-embedding parameters, 164k tokens", "logits store", "equal compute"):
        assert part in shown
    raw = json.loads(out.read_text())
    (taught,) = (one for one in raw["forecasts"] if one["recipe"] == "forward_kl")
    low, high = taught["interval"]
    assert low < taught["loss"] < high
    exact = pd.read_csv(DEMO).query("size == 's300k'")["flops_train_exact"].iloc[0]
    assert raw["cost"]["forward_kl"]["flops_train_exact"] == pytest.approx(exact)
    assert raw["command"].startswith("pdx predict ") and raw["definitions"]["N"] == SIZE
