"""Verdicts on tables of runs whose truth is known, and the claims that sweep files make."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from test_analysis import make_sweep, run_ids

from pdx.analysis.figures.verdicts import verdict_forest
from pdx.analysis.questions.cells import sweep_noise
from pdx.analysis.questions.contrasts import Contrast, Noise, contrast, holm, pooled_noise
from pdx.analysis.questions.results import analyse
from pdx.analysis.questions.verdicts import (
    CANNOT,
    NONE,
    NOT_TESTABLE,
    OPPOSITE,
    SAME,
    UNDEFINED,
    Verdict,
    judge,
)
from pdx.analysis.report import render
from pdx.analysis.tables.results import optimal_size_table
from pdx.analysis.tables.verdicts import verdicts_frame
from pdx.errors import SweepError
from pdx.paths import sweeps_dir
from pdx.sweep.claims import Claim, claims_in, hold
from pdx.sweep.plan import Point

RATES = (0.001, 0.002, 0.004)
SD, SEED_SD = 0.004, 0.5


def table(
    effects: dict[str, float], seeds: int = 8, best: dict[str, float] | None = None, sd: float = SD
) -> pd.DataFrame:
    """Runs of cells with these effects on test; a seed moves all of its runs, far more than any.

    Args:
        best: by cell, the learning rate with the lowest val loss (0.002).
    """
    rng, rows = np.random.default_rng(3), []
    by_seed = SEED_SD * rng.normal(size=seeds)
    for cell, effect in effects.items():
        for rate in RATES:
            off = 0.2 * abs(np.log2(rate / (best or {}).get(cell, 0.002)))
            for seed in range(seeds):
                loss = 3.0 + effect + by_seed[seed] + off + sd * rng.normal()
                rows.append(
                    {
                        "run_id": f"{cell} {rate} {seed}",
                        "status": "complete",
                        "recipe": cell,
                        "size": "s",
                        "num_tokens": 1000,
                        "seed": str(seed),
                        "learning_rate": rate,
                        "teacher_id": None if cell == "control" else "t0",
                        "val/loss": loss - 0.3,
                        "test/loss": loss,
                    }
                )
    return pd.DataFrame(rows)


def claim(runs: pd.DataFrame, cell: str, expect: str = "lower", **changes: Any) -> dict[str, Any]:
    """As a plan keeps it: ``cell`` against ``control``."""
    ids = {name: list(group["run_id"]) for name, group in runs.groupby("recipe")}
    cells = [
        {"name": "treatment", "sign": 1, "values": {}, "runs": ids[cell]},
        {"name": "control", "sign": -1, "values": {}, "runs": ids["control"]},
    ]
    words = {"name": cell, "says": f"{cell} helps.", "source": "us", "published": "+1%"}
    rest = {"expect": expect, "margin": 0.01, "confounds": [], "undefined": []}
    return words | rest | {"unresolved": None, "not_testable": None, "cells": cells} | changes


def verdict_of(runs: pd.DataFrame, *args: Any, **changes: Any) -> Verdict:
    return judge([claim(runs, *args, **changes)], runs)[0]


def runs_of(effect: float, **changes: Any) -> pd.DataFrame:
    return table({"control": 0.0, "other": 0.1, "treatment": effect}, **changes)


# ---- the six words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "expect", "word"),
    [
        (-0.1, "lower", SAME),
        (0.1, "higher", SAME),
        (0.1, "lower", OPPOSITE),
        (-0.1, "higher", OPPOSITE),
        (0.1, "no difference", OPPOSITE),
        (0.0, "no difference", NONE),
        (0.0, "lower", NONE),
        (-0.002, "lower", NONE),
        (-0.01, "no difference", CANNOT),
    ],
)
def test_a_clear_effect_gets_its_word(effect: float, expect: str, word: str):
    found = verdict_of(runs_of(effect), "treatment", expect)
    assert found.word == word
    assert found.effect is not None
    low, high = found.effect.interval()
    assert low < effect < high, "of test, paired, and not of the seeds' own spread"
    assert "given this teacher" in found.notes


@pytest.mark.parametrize(
    ("raised", "rate", "there", "own"), [(0.004, 0.002, 0.1, -0.1), (0.002, 0.004, -0.3, -0.15)]
)
def test_beside_each_at_its_own_rate_stands_all_at_one(
    raised: float, rate: float, there: float, own: float
):
    """A recipe that wants twice the control's rate: at one rate it gains more, or loses."""
    runs = runs_of(-0.1, best={"treatment": 0.004})
    where = (runs["recipe"] == "control") & (runs["learning_rate"] == raised)
    runs.loc[where, ["val/loss", "test/loss"]] += 0.05  # else two rates would do as well
    found = verdict_of(runs, "treatment")
    assert found.effect is not None and found.shared is not None and found.shared_rate == rate
    assert found.effect.mean == pytest.approx(own, abs=0.01)
    assert found.shared.mean == pytest.approx(there, abs=0.01)
    apart = runs[(runs["recipe"] != "control") ^ (runs["learning_rate"] == 0.002)]
    found = verdict_of(apart, "treatment")
    assert found.effect is not None and (found.shared, found.shared_rate) == (None, None)


def test_what_has_no_runs_or_is_said_to_be_untestable_is_not_guessed():
    runs = runs_of(-0.1)
    assert verdict_of(runs, "treatment", not_testable="no accuracies").word == NOT_TESTABLE
    missing = runs.assign(status=np.where(runs["recipe"] == "treatment", "missing", runs["status"]))
    found = verdict_of(missing, "treatment")
    assert (found.word, found.effect) == (CANNOT, None)
    assert judge([claim(runs, "treatment")], runs.drop(columns="test/loss"))[0].word == CANNOT


def test_a_definition_that_is_not_to_be_had_says_what_holds_for_ours():
    runs = runs_of(-0.1)
    for given in ({"undefined": ["mix WSD"]}, {"unresolved": "its fractions"}):
        found = verdict_of(runs, "treatment", **given)
        assert (found.word, found.own_word) == (UNDEFINED, SAME)


@pytest.mark.parametrize("cell", ["treatment", "control"])
@pytest.mark.parametrize("edge", [0.001, 0.004])
def test_a_best_learning_rate_at_the_edge_decides_nothing(cell: str, edge: float):
    found = verdict_of(runs_of(-0.1, best={cell: edge}), "treatment")
    assert found.word == CANNOT
    assert f"best learning rate of {cell} at the edge ({edge:g})" in found.notes


def test_fewer_than_eight_pairs_explore():
    found = verdict_of(runs_of(-0.1, seeds=7), "treatment")
    assert found.word == CANNOT and "7 pairs explore; 8 decide" in found.notes


def test_one_learning_rate_is_said_and_decides():
    runs = runs_of(-0.1)
    found = verdict_of(runs[runs["learning_rate"] == 0.002], "treatment")
    assert found.word == SAME
    assert any(note.startswith("learning rate not tuned here: 0.002") for note in found.notes)


def test_rates_are_chosen_on_val_and_judged_on_test():
    runs = runs_of(0.0)
    picked = (runs["recipe"] == "treatment") & (runs["learning_rate"] == 0.002)
    runs.loc[picked, "test/loss"] += 0.1  # best on val, and not on test
    assert verdict_of(runs, "treatment").word == OPPOSITE


def test_a_rate_at_which_a_seed_diverged_is_passed_over():
    runs = runs_of(-0.1)
    gone = (runs["run_id"] == "treatment 0.002 0") | (runs["learning_rate"] == 0.001)
    runs.loc[gone, "status"] = "diverged"
    found = verdict_of(runs, "treatment")
    assert "best learning rate of treatment at the edge (0.004)" in found.notes


def test_helps_more_than_is_a_difference_of_differences():
    effects = {"control": 0.0, "kd": -0.2, "control wsd": -0.05, "kd wsd": -0.35}
    runs = table(effects)
    ids = {name: list(group["run_id"]) for name, group in runs.groupby("recipe")}
    signs = {"kd wsd": 1, "kd": -1, "control wsd": -1, "control": 1}
    cells = [{"name": n, "sign": s, "values": {}, "runs": ids[n]} for n, s in signs.items()]
    found = verdict_of(runs, "kd", cells=cells)
    assert found.word == SAME and found.effect is not None
    assert found.effect.mean == pytest.approx(-0.1, abs=3 * found.effect.error)


def test_holm_changes_a_verdict():
    """One test of two at p = 0.01 holds; among ten claims of nothing it does not."""
    names = [f"null {i}" for i in range(10)]
    runs = table({"control": 0.0, "treatment": 0.0, **dict.fromkeys(names, 0.0)}, sd=0.05)
    noise = sweep_noise(runs)
    alone = judge([claim(runs, "treatment")], runs)[0].effect
    assert alone is not None
    wanted = float(stats.t.isf(0.005, noise.dof)) * alone.error
    runs.loc[runs["recipe"] == "treatment", "test/loss"] -= wanted + alone.mean
    one = judge([claim(runs, "treatment")], runs)[0]
    assert one.p_difference == pytest.approx(0.02, rel=0.05) and one.word == SAME
    family = judge([claim(runs, name) for name in ["treatment", *names]], runs)
    assert family[0].word == CANNOT and family[0].effect == one.effect


# ---- the numbers ---------------------------------------------------------------------------------


def test_pooled_noise_is_the_residual_of_a_two_way_table():
    runs = table({"control": 0.0, "a": 0.1, "b": 0.2})
    runs = runs[runs["learning_rate"] == 0.002].assign(setting=lambda r: r["recipe"])
    found = pooled_noise(runs, "test/loss")
    y = runs.pivot(index="recipe", columns="seed", values="test/loss").to_numpy()
    rest = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    assert found.dof == 2 * 7
    assert found.sd == pytest.approx(np.sqrt((rest**2).sum() / found.dof))


def test_without_a_sweep_to_pool_over_a_contrast_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 9))
    cells = [(1, {str(i): v for i, v in enumerate(one)}), (-1, dict(enumerate(map(float, other))))]
    cells[1] = (-1, {str(k): v for k, v in cells[1][1].items()})
    found = contrast(cells, Noise(sd=float("nan"), dof=0))
    assert found is not None and found.own_noise
    paired = stats.ttest_rel(one, other)
    assert found.p_zero() == pytest.approx(paired.pvalue)
    assert found.interval() == pytest.approx(tuple(paired.confidence_interval()))


def test_a_contrast_far_noisier_than_the_sweep_has_its_own_variance():
    runs = runs_of(-0.1)
    noisy = (runs["recipe"] == "treatment") & (runs["learning_rate"] == 0.002)
    quiet = verdict_of(runs, "treatment").effect
    runs = pd.concat([runs, table({f"more {i}": 0.0 for i in range(12)})])
    shift = np.where(runs["seed"].astype(int) % 2 == 0, 0.15, -0.15)
    runs.loc[noisy.reindex(runs.index, fill_value=False).to_numpy(), "test/loss"] += shift[
        noisy.reindex(runs.index, fill_value=False).to_numpy()
    ]
    found = verdict_of(runs.reset_index(drop=True), "treatment").effect
    assert quiet is not None and found is not None
    assert found.own_noise and found.error > 5 * quiet.error


def test_recipes_that_are_equal_run_by_run_differ_by_nothing():
    """NLL and forward KL under a full student softmax: one gradient, the same run to the bit."""
    losses = {str(seed): float(loss) for seed, loss in enumerate(np.linspace(4.5, 4.8, 8))}
    found = contrast([(1, losses), (-1, losses)], Noise(sd=0.1, dof=40))
    assert found is not None and found.own_noise
    assert found.p_zero() == 1 and found.p_within(0.01) < 1e-6
    assert found.interval() == pytest.approx((0, 0), abs=1e-8)
    apart = {seed: loss + 0.1 for seed, loss in losses.items()}
    found = contrast([(1, apart), (-1, losses)], Noise(sd=0.1, dof=40))
    assert found is not None and found.p_zero() < 1e-6


def test_holm_is_the_closed_test_of_bonferroni():
    p = np.random.default_rng(1).uniform(size=6) ** 3
    for i, adjusted in enumerate(holm(p.tolist())):
        others = [k for k in range(6) if k != i]
        subsets = [(i, *s) for n in range(6) for s in combinations(others, n)]
        assert adjusted == pytest.approx(max(min(1, len(s) * min(p[list(s)])) for s in subsets))


def test_equivalence_is_two_one_sided_tests():
    found = Contrast(mean=0.004, error=0.002, dof=14, num_pairs=8, own_noise=False)
    low, high = found.interval(0.90)
    assert (found.p_within(0.01) < 0.05) == (low > -0.01 and high < 0.01)
    assert found.p_within(high) == pytest.approx(0.05), "the margin that the 90% interval touches"
    assert found.p_beyond(0.004) == pytest.approx(0.5, abs=0.001)


def test_levels_and_powers_are_what_they_say():
    rng, num, size = np.random.default_rng(2), 8, 1500
    noise, margin = Noise(sd=0.005, dof=40), 0.01
    scale = np.sqrt(rng.chisquare(40, size) / 40)
    seen, covered, excluded = [], [], []
    for k in range(size):
        sides = 0.005 * rng.normal(size=(2, num))
        sides[0] += margin * (k % 2)
        cells = [
            (s, {str(i): v for i, v in enumerate(x)}) for s, x in zip((1, -1), sides, strict=True)
        ]
        found = contrast(cells, Noise(sd=noise.sd * scale[k], dof=40))
        assert found is not None
        if k % 2:
            seen.append(found.p_zero() < 0.05)
        else:
            excluded.append(found.p_within(margin) < 0.05)
        low, high = found.interval()
        covered.append(low < margin * (k % 2) < high)
    known = Contrast(mean=0, error=0.005 * np.sqrt(2 / num), dof=40, num_pairs=8, own_noise=False)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    assert np.mean(seen) == pytest.approx(known.power_to_see(margin), abs=0.03)
    assert np.mean(excluded) == pytest.approx(known.power_to_exclude(margin), abs=0.03)


# ---- in the report -------------------------------------------------------------------------------


def test_the_report_has_the_table_the_figure_and_the_numbers(tmp_path: Path):
    one = {"s10k": 11_000}
    controls = {1.0: ("s10k",)}
    sweep_dir, runs_dir = make_sweep(
        tmp_path, sizes=one, seeds=tuple(range(8)), rates=RATES, controls=controls
    )
    plan = json.loads((sweep_dir / "plan.json").read_text())
    cells = [
        {"name": name, "sign": sign, "values": {}, "runs": run_ids(sweep_dir, **at)}
        for name, sign, at in (
            ("treatment", 1, {"student": "s10k", "loss": "forward_kl"}),
            ("control", -1, {"student": "s10k", "loss": "none"}),
        )
    ]
    words = {"name": "kd", "says": "It <helps>.", "source": "a paper", "published": "+1.6%"}
    rest = {"expect": "lower", "margin": 0.01, "undefined": [], "confounds": ["the weather"]}
    rest |= {"unresolved": None, "not_testable": None, "cells": cells}
    (sweep_dir / "plan.json").write_text(json.dumps({**plan, "claims": [words | rest]}))
    results = analyse(sweep_dir, runs_dir, num_resamples=5)
    figure = verdict_forest(results)
    assert figure is not None and figure.name == "verdicts"
    html = render(results, [], [], optimal_size_table(results))
    assert "<h2>Verdicts</h2>" in html and "It &lt;helps&gt;." in html
    assert "confounded: the weather" in html
    row = verdicts_frame(results).iloc[0]
    assert (row["claim"], row["published"], row["num_pairs"]) == ("kd", "+1.6%", 8)
    assert row["effect"] == pytest.approx(-0.2)


# ---- in a sweep file -----------------------------------------------------------------------------

GOOD = {
    "says": "It helps.",
    "source": "us",
    "published": "+1%",
    "treatment": {"loss": "forward_kl"},
    "control": {"loss": "none"},
    "expect": "lower",
}
POINTS = [
    Point(f"{loss} {student} {rate} {seed}", "axis", params, [], {}, {})
    for loss in ("forward_kl", "none")
    for student in ("s10k", "s30k")
    for rate in (0.1, 0.2)
    for seed in (0, 1)
    for params in [
        {"loss": loss, "student": student, "optim.peak_lr": rate, "train.seed": seed},
    ]
]


def read(shared: dict[str, Any], own: dict[str, Any] | None = None) -> tuple[Claim, ...]:
    return claims_in(Path("sweeps/x.yaml"), {"claims": shared}, {"claims": own or {}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expects": "lower"}, r"claims\.a\.expects: unknown key\. Did you mean 'expect'\?"),
        ({"expect": "better"}, r"claims\.a\.expect=better: must be .*: lower, higher, no differ"),
        ({"source": ""}, r"claims\.a: lacks source; state it, or say by not_testable why"),
        ({"control": None}, r"claims\.a: lacks control; state it"),
        ({"treatment": "loss=mse"}, r"claims\.a\.treatment=loss=mse: must be values by axis"),
        ({"margin": 0}, r"claims\.a\.margin=0: must be nats per token > 0"),
        ({"beyond": {"control": {}}}, r"claims\.a\.beyond=.*: must have a treatment and a control"),
        ({"confounds": "all"}, r"claims\.a\.confounds=all: must be a list of sentences"),
    ],
)
def test_a_claim_that_is_not_whole_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(SweepError, match=message):
        read({"a": GOOD | change})
    with pytest.raises(SweepError, match="claims: must name claims, each with its fields"):
        read({"a": "it helps"})


def test_a_scale_names_the_cells_of_a_claim_in_words():
    words = {k: GOOD[k] for k in ("says", "source", "published", "expect")}
    (found,) = read({"a": words}, {"a": {"treatment": {"loss": "mse"}, "control": {"loss": "jsd"}}})
    assert (found.says, found.treatment) == ("It helps.", {"loss": "mse"})
    (found,) = read({"a": GOOD}, {"a": {"not_testable": "too small"}})
    assert found.not_testable == "too small" and found.cells == []


def test_a_cell_is_the_runs_of_one_setting_at_every_rate_and_seed():
    cells = {"treatment": {"loss": "forward_kl", "student": "s10k"}}
    cells["control"] = {"loss": "none", "student": "s10k"}
    undefined = {POINTS[0].run_id: ["mix WSD", "loss Same"], POINTS[8].run_id: ["loss Same"]}
    (held,) = hold(read({"a": GOOD | cells}), POINTS, undefined, strict=True)
    assert [(c["name"], c["sign"], len(c["runs"])) for c in held["cells"]] == [
        ("treatment", 1, 4),
        ("control", -1, 4),
    ]
    assert held["undefined"] == ["mix WSD"], "what both sides share is not what the claim is about"


def test_a_cell_of_two_settings_or_of_none_is_refused():
    with pytest.raises(SweepError, match=r"a\.treatment=.*several settings.* differ in student;"):
        hold(read({"a": GOOD}), POINTS, {}, strict=True)
    nowhere = GOOD | {"treatment": {"loss": "mse"}}
    with pytest.raises(
        SweepError, match=r"a\.treatment=.*no run .* loss: \['forward_kl', 'none'\]"
    ):
        hold(read({"a": nowhere}), POINTS, {}, strict=True)
    one = [p for p in POINTS if p.params["student"] == "s10k"]
    (held,) = hold(read({"a": nowhere}), one, {}, strict=False)
    assert [len(c["runs"]) for c in held["cells"]] == [0, 4], "another grid than the file's"


def test_a_planned_component_without_a_definition_is_told_to_its_claim(
    compose_cfg: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from conftest import TINY

    from pdx.sweep.definition import define
    from pdx.sweep.plan import load_plan
    from pdx.sweep.planner import make_plan

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "setups").mkdir(parents=True)
    (tmp_path / "sweeps" / "setups" / "mine.yaml").write_text("- train.num_tokens=8192\n")
    block = {
        "setup": "mine",
        "axes": {
            "mix": ["constant", "linear_up", "wsd"],
            "schedule": ["cosine", "cosine", "wsd"],
            "mix.kd_weight": [1.0],
        },
        "zip": [["mix", "schedule"]],
        "when": {"mix.kd_weight": {"mix": ["constant", "wsd"]}},
        "seeds": [0, 1],
        "control": ["loss=none"],
        "expected_runs": 10,
    }
    claims = {
        "shape": GOOD | {"treatment": {"mix": "wsd"}, "control": {"mix": "constant"}},
        "schedule": GOOD
        | {
            "treatment": {"loss": "none", "schedule": "wsd"},
            "control": {"loss": "none", "schedule": "cosine"},
        },
    }
    content = {"question": "Does it?", "claims": claims, "scales": {"cpu": block}}
    Path("sweeps/mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def compose(overrides: list[str]) -> Any:
        return compose_cfg(*TINY, f"env.outputs={tmp_path / 'out'}", *overrides)

    plan, _ = make_plan(define("mine", "cpu", [], ""), compose)
    assert {p.facts["num_tokens"] for p in plan.points} == {8192}, "of the setup"
    controls = [p.params for p in plan.points if p.role == "control"]
    assert [sorted(p) for p in controls] == [["loss", "schedule", "train.seed"]] * 4
    assert {c["name"]: c["undefined"] for c in plan.claims} == {
        "shape": ["mix WSD"],
        "schedule": [],
    }
    plan.save(tmp_path / "out")
    assert load_plan(tmp_path / "out").claims == plan.claims
    with pytest.raises(SweepError, match=r"setup=mien: no such file.*Did you mean 'mine'"):
        content["scales"]["cpu"]["setup"] = "mien"
        Path("sweeps/mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        define("mine", "cpu", [], "")


def test_a_confound_is_a_whole_sentence() -> None:
    """A comma in a plain list of YAML parts it: what has one is quoted."""
    for file in sorted(sweeps_dir().glob("*.yaml")):
        assert not re.search(r"confounds: \[[^\"\]]*,", file.read_text()), file.name
