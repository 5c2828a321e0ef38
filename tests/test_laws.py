"""Every law against an oracle in plain floats, its gradient, and its own parameters again."""

import json
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from pdx.analysis.fitting.bootstrap import bootstrap
from pdx.analysis.fitting.fit import Fit, FitError, fit, problem_of
from pdx.analysis.fitting.objectives import KINDS, Objective
from pdx.analysis.fitting.solve import solve
from pdx.analysis.fitting.validate import cross_validate, fitter_like, folds_of
from pdx.analysis.laws import UnknownLaw, law_named, laws
from pdx.analysis.laws.law import Law
from pdx.analysis.laws.user import user_law
from pdx.analysis.scaling.allocation import allocate

LAWS = laws()
SUPERVISED = {"E": 1.22, "A": 3355.0, "B": 18186.0, "alpha": 0.408, "beta": 0.431, "gamma": 0.452}
CHINCHILLA = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
DISTILLATION = {
    **{"A": 2243.0, "B": 24181.0, "alpha": 0.321, "beta": 0.637, "gamma": 0.764},
    **{"c0": 2.549, "c1": 522.6, "f1": 0.09, "d1": 1.315},
}

# The parameters that synthetic data are made of.
TRUTH: dict[str, dict[str, float]] = {
    "power": {"A": 30.0, "alpha": 0.1},
    "power_offset": {"E": 1.8, "A": 300.0, "alpha": 0.3},
    "chinchilla": CHINCHILLA,
    "chinchilla_tied": {"E": 1.8, "A": 480.0, "B": 1500.0, "alpha": 0.35},
    "chinchilla_gamma": SUPERVISED,
    "supervised_gamma": SUPERVISED,
    "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "aN": 0.076, "aD": 0.095},
    "kaplan_offset": {"E": 1.2, "Nc": 6e8, "Dc": 2e10, "aN": 0.25, "aD": 0.3},
    "overtraining": {"E": 1.5, "a": 113.7, "b": 189.5, "c": -0.2425},
    "loss_to_error": {"eps": 0.857, "k": 2.2, "gamma": 0.71},
    "data_constrained": {**CHINCHILLA, "R_D": 15.4, "R_N": 5.3},
    "distillation": DISTILLATION,
}


def chinchilla(p: dict[str, float], N: float, D: float) -> float:
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]


def gamma(p: dict[str, float], N: float, D: float) -> float:
    return p["E"] + (p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]) ** p["gamma"]


def kaplan(p: dict[str, float], N: float, D: float) -> float:
    return ((p["Nc"] / N) ** (p["aN"] / p["aD"]) + p["Dc"] / D) ** p["aD"]


def data_constrained(p: dict[str, float], N: float, D: float, U: float) -> float:
    U = min(U, D)
    best_N = (p["alpha"] * p["A"] / (p["beta"] * p["B"]) * U ** p["beta"]) ** (1 / p["alpha"])
    U_N = min(N, best_N)
    worth_N = U_N + U_N * p["R_N"] * (1 - math.exp(-(N / U_N - 1) / p["R_N"]))
    worth_D = U + U * p["R_D"] * (1 - math.exp(-(D / U - 1) / p["R_D"]))
    return chinchilla(p, worth_N, worth_D)


def distillation(p: dict[str, float], N: float, D: float, L_T: float) -> float:
    bracket = 1 + (L_T / (gamma(SUPERVISED, N, D) * p["d1"])) ** (1 / p["f1"])
    own = (p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]) ** p["gamma"]
    return L_T + L_T ** -p["c0"] * bracket ** (-p["c1"] * p["f1"]) * own


# One line a law, in plain floats, sharing no code with it.
ORACLES: dict[str, Callable[..., float]] = {
    "power": lambda p, x: p["A"] / x ** p["alpha"],
    "power_offset": lambda p, x: p["E"] + p["A"] / x ** p["alpha"],
    "chinchilla": chinchilla,
    "chinchilla_tied": lambda p, N, D: chinchilla({**p, "beta": p["alpha"]}, N, D),
    "chinchilla_gamma": gamma,
    "supervised_gamma": gamma,
    "kaplan": kaplan,
    "kaplan_offset": lambda p, N, D: p["E"] + kaplan(p, N, D),
    "overtraining": lambda p, N, D: (
        p["E"] + p["a"] * N ** p["c"] + p["b"] * 6 ** (p["c"] / 2) * (D / N * N) ** p["c"]
    ),
    "loss_to_error": lambda p, L: p["eps"] - p["k"] * math.exp(-p["gamma"] * L),
    "data_constrained": data_constrained,
    "distillation": distillation,
}


def design(law: Law) -> dict[str, np.ndarray]:
    """Runs that identify the law: every size with every budget (and teacher, and repetition)."""
    if law.columns == ("x",):
        return {"x": np.repeat(np.geomspace(1e7, 1e10, 8), 3)}
    if law.columns == ("L",):
        return {"L": np.linspace(2.0, 5.5, 24)}
    sizes, ratios = np.geomspace(1e8, 1e10, 6), np.geomspace(5, 320, 5)
    third: tuple[float, ...] = (1.0,)
    if "U" in law.columns:
        ratios, third = np.geomspace(1, 320, 6), (1.0, 5.0, 25.0, 120.0)
    if "L_T" in law.columns:
        third = (1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0)
    rows = np.array([(N, r * N, t) for N, r, t in product(sizes, ratios, third)])
    last = {"U": rows[:, 1] / rows[:, 2], "L_T": rows[:, 2]}
    columns = {"N": rows[:, 0], "D": rows[:, 1], **last}
    return {name: columns[name] for name in law.columns}


def synthetic(law: Law, noise: float, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    columns = design(law)
    rng = np.random.default_rng(seed)
    exact = law.predict(TRUTH[law.name], columns)
    return columns, exact * np.exp(noise * rng.normal(size=len(exact)))


def test_every_law_of_the_folder_has_an_oracle_and_a_truth() -> None:
    assert set(LAWS) == set(ORACLES) == set(TRUTH) and len(LAWS) == 12
    for law in LAWS.values():
        assert law.source and law.formula and "Units:" in (type(law).__doc__ or "")
        assert set(law.parameters) >= set(TRUTH[law.name])


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_is_its_oracle(law: Law) -> None:
    columns = design(law)
    rows = zip(*(columns[name].tolist() for name in law.columns), strict=True)
    expected = [ORACLES[law.name](TRUTH[law.name], *row) for row in rows]
    np.testing.assert_allclose(law.predict(TRUTH[law.name], columns), expected, rtol=1e-10)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_gradient_is_the_derivative(law: Law) -> None:
    columns = design(law)
    logs = law.prepare(columns)
    shifts = law.shifts(logs)
    logs = {name: value - shifts[name] for name, value in logs.items()}
    truth = law.theta(TRUTH[law.name], shifts)
    rng = np.random.default_rng(1)
    for theta in (truth, truth * (1 + 0.05 * rng.uniform(-1, 1, len(truth)))):
        jacobian = law.evaluate(theta[None], logs)[1][0]
        for i in range(len(theta)):
            step = np.zeros_like(theta)
            step[i] = 1e-5 * max(abs(theta[i]), 0.01)
            up, down = (law.evaluate((theta + s)[None], logs)[0][0] for s in (step, -step))
            slope = (up - down) / (2 * step[i])
            scale = np.abs(slope).max()
            np.testing.assert_allclose(jacobian[i], slope, rtol=2e-5, atol=2e-6 * scale + 1e-11)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_parameters_and_coordinates_are_each_others_inverse(law: Law) -> None:
    shifts = dict.fromkeys(law.columns, 0.0) | {n: 21.0 for n, _ in law.scales.values()}
    shifts |= {"D": 21.0, "U": 21.0} if "U" in law.columns else {}
    again = law.natural(law.theta(TRUTH[law.name], shifts), shifts)
    for name, value in TRUTH[law.name].items():
        assert float(again[name]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("kind", ["huber", "mse_log"])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_recovers_its_own_parameters(law: Law, kind: Any) -> None:
    columns, loss = synthetic(law, noise=0.0)
    found = fit(law, columns, loss, objective=Objective(kind=kind))
    assert found.converged and not found.bounds_hit and not found.unidentified, found
    np.testing.assert_allclose(found.predict(columns), loss, rtol=1e-6)
    for name, value in TRUTH[law.name].items():
        assert found.parameters[name] == pytest.approx(value, rel=2e-3), name


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_is_recovered_through_noise(law: Law) -> None:
    """The fit is at least as good as the truth, and nearer to it than the data are."""
    noise = 0.003
    columns, loss = synthetic(law, noise)
    exact = law.predict(TRUTH[law.name], columns)
    for kind in ("huber", "mse_log"):
        found = fit(law, columns, loss, objective=Objective(kind=kind))
        of_truth = Objective(kind=kind).value(np.log(exact / loss), np.ones(len(loss)))
        assert found.converged, found.why
        assert found.starts_at_optimum > 0.1, "ridges are walked along, not only by the best"
        assert found.objective <= of_truth
        off = np.log(found.predict(columns) / exact)
        allowed = noise * math.sqrt((len(law.coordinates) + 4) / len(loss)) * 1.7
        assert np.sqrt(np.mean(off**2)) < allowed


def test_a_users_function_is_a_law_like_any_other() -> None:
    def mine(N: Any, D: Any, *, E: float = 1.5, a: float = 1.0, b: float = 1.0) -> Any:
        """L = E + 500 a / N^0.35 + 2000 b / D^0.37."""
        return E + 500 * a / N**0.35 + 2000 * b / D**0.37

    columns = design(LAWS["chinchilla"])
    found = fit(user_law(mine), columns, mine(**columns, E=1.9, a=0.8, b=1.3))
    assert found.converged and found.formula == "L = E + 500 a / N^0.35 + 2000 b / D^0.37."
    wanted = {"E": 1.9, "a": 0.8, "b": 1.3}
    assert found.parameters == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(TypeError, match="keyword-only"):
        user_law(lambda N, D: N)


def test_an_unknown_law_names_the_nearest() -> None:
    with pytest.raises(UnknownLaw, match="Did you mean 'chinchilla'"):
        law_named("chinchila")


# ---- objectives and solver -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asymmetry", [0.5, 0.9])
def test_an_objective_is_its_definition(kind: Any, asymmetry: float) -> None:
    residuals = [-0.5, -0.0004, 0.0, 0.0009, 0.02]
    weights = [1.0, 2.0, 1.0, 0.5, 3.0]
    total = 0.0
    for r, w in zip(residuals, weights, strict=True):
        w *= 2 * asymmetry if r > 0 else 2 * (1 - asymmetry)
        size = abs(r)
        if kind == "huber":
            total += w * (size**2 / 2 if size < 1e-3 else 1e-3 * (size - 1e-3 / 2))
        else:
            total += w * (size if kind == "lad" else size**2)
    if kind in ("mse", "mse_log"):
        sides = [2 * asymmetry if r > 0 else 2 * (1 - asymmetry) for r in residuals]
        total /= sum(w * s for w, s in zip(weights, sides, strict=True))
    objective = Objective(kind=kind, asymmetry=asymmetry)
    got = objective.value(np.array(residuals), np.array(weights))
    assert float(got) == pytest.approx(total, rel=1e-12)


def test_least_squares_of_a_straight_line_is_the_straight_line() -> None:
    columns, loss = synthetic(LAWS["power"], noise=0.02)
    slope, intercept = np.polyfit(np.log(columns["x"]), np.log(loss), 1)
    found = fit(LAWS["power"], columns, loss)
    assert found.parameters["alpha"] == pytest.approx(-slope, rel=1e-8)
    assert found.parameters["A"] == pytest.approx(np.exp(intercept), rel=1e-7)


def test_least_absolute_deviations_of_a_constant_slope_is_the_median() -> None:
    columns, loss = synthetic(LAWS["power"], noise=0.05)
    columns, loss = {k: v[:-1] for k, v in columns.items()}, loss[:-1]  # an odd number
    found = fit(LAWS["power"], columns, loss, objective=Objective(kind="lad"), fixed={"alpha": 0.1})
    median = np.median(np.log(loss) + 0.1 * np.log(columns["x"]))
    assert math.log(found.parameters["A"]) == pytest.approx(median, abs=1e-7)
    assert found.converged and found.starts_at_optimum == 1.0


def test_asymmetry_is_a_quantile() -> None:
    law = LAWS["power"]
    columns, loss = synthetic(law, noise=0.05)
    low = fit(law, columns, loss, objective=Objective(kind="lad", asymmetry=0.9))
    above = (loss > low.predict(columns) * (1 + 1e-6)).mean()
    assert 0.75 <= above <= 0.92  # 24 points, two parameters


def test_huber_is_not_moved_by_an_outlier_and_least_squares_is() -> None:
    law = LAWS["power"]
    columns, loss = synthetic(law, noise=0.0)
    loss[0] *= 1.5
    robust = fit(law, columns, loss, objective=Objective())
    assert robust.parameters["alpha"] == pytest.approx(0.1, abs=1e-4)
    assert abs(fit(law, columns, loss).parameters["alpha"] - 0.1) > 0.003


def test_a_weight_of_two_is_a_point_twice() -> None:
    law = LAWS["chinchilla"]
    columns, loss = synthetic(law, noise=0.01)
    twice = np.arange(len(loss)) % 3 == 0
    weighted = fit(law, columns, loss, weights=1.0 + twice, objective=Objective())
    more = {name: np.append(v, v[twice]) for name, v in columns.items()}
    doubled = fit(law, more, np.append(loss, loss[twice]), objective=Objective())
    assert weighted.objective == pytest.approx(doubled.objective, rel=1e-9)
    assert weighted.parameters == pytest.approx(doubled.parameters, rel=1e-5)


def test_fixed_and_tied_parameters() -> None:
    law = LAWS["chinchilla"]
    columns, loss = synthetic(law, noise=0.005)
    fixed = fit(law, columns, loss, fixed={"A": 500.0, "E": 1.7})
    assert fixed.parameters["A"] == pytest.approx(500.0) and fixed.parameters["E"] == 1.7
    assert fixed.num_free == 3 and fixed.converged
    tied = fit(law, columns, loss, tied={"beta": "alpha"})
    own = fit(LAWS["chinchilla_tied"], columns, loss)
    assert tied.objective == pytest.approx(own.objective, rel=1e-9)
    assert tied.parameters["beta"] == tied.parameters["alpha"]
    assert tied.parameters["A"] == pytest.approx(own.parameters["A"], rel=1e-5)
    none = fit(law, columns, loss, fixed={"E": 0.0})
    assert none.parameters["E"] == 0 and none.objective > own.objective
    with pytest.raises(FitError, match="its coordinates are E, A, B, alpha, beta"):
        fit(law, columns, loss, fixed={"gamma": 1.0})


def test_loss_that_grows_with_size_hits_a_bound_and_says_so() -> None:
    columns, loss = synthetic(LAWS["power"], noise=0.0)
    assert fit(LAWS["power"], columns, 1 / loss).bounds_hit == ("alpha at its lower bound",)


def test_rows_solved_together_are_rows_solved_alone() -> None:
    law, objective = LAWS["chinchilla"], Objective()
    columns, loss = synthetic(law, noise=0.01)
    problem, _ = problem_of(law, columns, loss, objective, {}, {})
    starts = law.starts(problem.logs, loss)[:5]
    weights = np.random.default_rng(0).integers(0, 3, (5, len(loss))).astype(float)
    together = solve(problem, starts, weights, 0.1)
    for i in range(5):
        alone = solve(problem, starts[i : i + 1], weights[i : i + 1], 0.1)
        assert alone.value[0] == pytest.approx(together.value[i], rel=1e-9)
        np.testing.assert_allclose(alone.theta[0], together.theta[i], rtol=1e-5)


@pytest.mark.parametrize(("name", "needed"), [("power", 3), ("power_offset", 5)])
def test_too_few_sizes_are_refused_with_what_is_missing(name: str, needed: int) -> None:
    x = np.repeat(np.geomspace(1e4, 1e6, needed - 1), 4)  # many points, few sizes
    with pytest.raises(FitError, match=rf"{needed - 1} distinct .* {needed} or more; add 1"):
        fit(LAWS[name], {"x": x}, x**-0.1)
    more = np.geomspace(1e4, 1e6, needed)
    assert fit(LAWS[name], {"x": more}, more**-0.1).num_levels == {"x": needed}


def test_six_sizes_with_one_number_of_tokens_are_refused_for_alpha_and_beta() -> None:
    N = np.geomspace(1e8, 1e10, 6)
    loss = LAWS["chinchilla"].predict(CHINCHILLA, {"N": N, "D": np.full(6, 1e10)})
    with pytest.raises(FitError) as err:
        fit(LAWS["chinchilla"], {"N": N, "D": np.full(6, 1e10)}, loss)
    assert "alpha and beta cannot be told apart" in str(err.value)
    assert "1 distinct level of D (1e+10)" in str(err.value)
    assert "missing: runs at D such as 4e+10, 1.6e+11, for two or more N" in str(err.value)
    with pytest.raises(FitError, match="another D/N, such as 80"):  # D moves, but only with N
        fit(LAWS["chinchilla"], {"N": N, "D": 20 * N}, loss)
    given = fit(LAWS["chinchilla"], {"N": N, "D": np.full(6, 1e10)}, loss,
                fixed={"B": 2100.0, "beta": 0.37})  # fmt: skip
    assert given.parameters["alpha"] == pytest.approx(0.35, rel=1e-3)


def test_points_without_a_logarithm_and_broadcasts_are_refused() -> None:
    columns, loss = synthetic(LAWS["power"], noise=0.0)
    with pytest.raises(FitError, match="1 of 24 points"):
        fit(LAWS["power"], columns, np.where(np.arange(24) == 3, np.nan, loss))
    with pytest.raises(ValueError, match="must be"):
        fit(LAWS["power"], columns, loss[:, None])


# ---- the record ----------------------------------------------------------------------------------


def test_a_fit_round_trips_through_json() -> None:
    columns, loss = synthetic(LAWS["power_offset"], noise=0.01)
    found = fit(LAWS["power_offset"], columns, loss)
    found = bootstrap(found, columns, loss, num_resamples=30)
    assert Fit.from_json(json.loads(json.dumps(found.to_json()))) == found
    other = fit(LAWS["power_offset"], columns, loss * 1.0001)
    assert other.data_digest != found.data_digest
    order = np.random.default_rng(0).permutation(len(loss))
    same = fit(LAWS["power_offset"], {"x": columns["x"][order]}, loss[order])
    assert same.data_digest == found.data_digest


def test_the_bootstrap_keeps_the_checkpoints_of_a_run_together() -> None:
    """Ten copies of each run as its checkpoints leave the error; as runs they would shrink it."""
    law = LAWS["power"]
    columns, loss = synthetic(law, noise=0.02)
    ten = {"x": np.repeat(columns["x"], 10)}
    fitted = fit(law, ten, np.repeat(loss, 10))
    runs = np.repeat(np.arange(len(loss)), 10)
    alone = bootstrap(fit(law, columns, loss), columns, loss, num_resamples=400)
    kept = bootstrap(fitted, ten, np.repeat(loss, 10), num_resamples=400, runs=runs)
    loose = bootstrap(fitted, ten, np.repeat(loss, 10), num_resamples=400)
    error = alone.standard_errors["alpha"]
    assert kept.standard_errors["alpha"] == pytest.approx(error, rel=1e-6)
    assert loose.standard_errors["alpha"] < 0.5 * error


@pytest.mark.parametrize("apart", ["sizes", "seeds"])
def test_two_level_resampling_sees_misfit_by_size_and_spread_by_seed(apart: str) -> None:
    x = np.repeat(np.geomspace(1e4, 3e6, 7), 2)
    at = np.arange(14)
    wave = np.sin(at // 2) if apart == "sizes" else np.where(at % 2, 1, -1)
    loss = 30 * x**-0.3 * np.exp(0.02 * wave)
    fitted = fit(LAWS["power"], {"x": x}, loss)
    found = bootstrap(fitted, {"x": x}, loss, num_resamples=60, scheme="levels")
    low, high = found.intervals["alpha"]
    assert low is not None and high is not None and high - low > 1e-3
    assert len(set(found.draws)) > 10


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_standard_errors_and_intervals_are_those_of_a_straight_line(level: float) -> None:
    """Least squares has them in closed form; 48 runs, half of them with twice the weight."""
    law = LAWS["power"]
    x = np.repeat(np.geomspace(1e4, 3e6, 8), 6)
    loss = 30 * x**-0.1 * np.exp(0.02 * np.random.default_rng(3).normal(size=48))
    weights = np.where(np.arange(48) % 2, 1.0, 4.0)
    found = bootstrap(
        fit(law, {"x": x}, loss, weights=weights), {"x": x}, loss,
        num_resamples=2000, level=level, weights=weights,
    )  # fmt: skip
    design = np.column_stack([np.ones(48), -np.log(x)])
    bread = np.linalg.inv(design.T @ (design * weights[:, None]))
    off = (np.log(loss) - design @ bread @ (design.T @ (weights * np.log(loss)))) * weights
    error = math.sqrt((bread @ (design.T * off**2) @ design @ bread)[1, 1])  # White 1980
    assert found.standard_errors["alpha"] == pytest.approx(error, rel=0.1)
    low, high = found.intervals["alpha"]
    assert low is not None and high is not None
    width = {0.5: 1.349, 0.8: 2.563, 0.95: 3.920}[level]
    assert high - low == pytest.approx(width * error, rel=0.12)


def test_aicc_is_its_definition() -> None:
    columns, loss = synthetic(LAWS["power"], noise=0.02)
    found = fit(LAWS["power"], columns, loss)
    square = np.mean(np.log(loss / found.predict(columns)) ** 2)
    # 24 points; A, alpha and the variance are three parameters
    by_hand = 24 * math.log(square) + 2 * 3 + 2 * 3 * 4 / (24 - 3 - 1)
    assert found.aicc == pytest.approx(by_hand, rel=1e-9)


def test_a_fold_is_not_fitted_and_holds_whole_runs() -> None:
    law = LAWS["power"]
    columns, loss = synthetic(law, noise=0.02)
    runs = np.repeat(np.arange(8), 3)
    folds = folds_of(runs, 4, seed=0)
    assert sorted(np.bincount(folds)) == [6, 6, 6, 6]
    assert all(len(set(folds[runs == run])) == 1 for run in range(8))
    again = fitter_like(fit(law, columns, loss))
    got = cross_validate(law, columns, loss, np.ones(24), folds, again)
    square = 0.0
    for fold in range(4):
        out = folds == fold
        slope, height = np.polyfit(np.log(columns["x"][~out]), np.log(loss[~out]), 1)
        square += ((np.log(loss[out]) - height - slope * np.log(columns["x"][out])) ** 2).sum()
    assert got == pytest.approx(math.sqrt(square / 24), rel=1e-7)


@pytest.mark.parametrize("name", ["chinchilla", "chinchilla_gamma", "data_constrained"])
def test_the_allocation_is_the_least_loss_of_its_budget(name: str) -> None:
    """Against a search along C = 6 N D, with exponents that differ."""
    law = LAWS[name]
    columns, loss = synthetic(law, noise=0.0)
    found = fit(law, columns, loss)
    (small, large) = (allocate(found, C) for C in (1e20, 1e22))
    assert small is not None and large is not None
    N = np.geomspace(0.3, 3, 2001) * large["N"]
    D = 1e22 / (6 * N)
    losses = found.predict({"N": N, "D": D, **({"U": D} if "U" in law.columns else {})})
    assert N[losses.argmin()] == pytest.approx(large["N"], rel=0.01)
    assert large["loss"] == pytest.approx(losses.min(), rel=1e-8)
    assert large["a"] == pytest.approx(math.log(large["N"] / small["N"]) / math.log(100))
    assert large["a"] + large["b"] == pytest.approx(1.0) and 6 * large["N"] * large["D"] > 9.9e21


def test_the_irreducible_loss_is_never_negative() -> None:
    """Losses that a negative E would fit best."""
    law = LAWS["chinchilla"]
    columns = design(law)
    loss = law.predict({**CHINCHILLA, "E": 0.2}, columns) - 0.3
    found = fit(law, columns, loss)
    assert found.parameters["E"] == 0 and found.bounds_hit == ("E at its lower bound",)
    drawn = bootstrap(found, columns, loss, num_resamples=40)
    assert min(draw[0] for draw in drawn.draws) >= 0


# ---- what data do not identify -------------------------------------------------------------------


def test_repetitions_too_few_to_matter_are_reported_with_their_profile() -> None:
    law = LAWS["data_constrained"]
    sizes, ratios = np.geomspace(1e8, 1e10, 5), np.geomspace(10, 160, 4)
    rows = np.array([(N, r * N, r * N / e) for N, r, e in product(sizes, ratios, (1.0, 1.05))])
    columns = dict(zip(("N", "D", "U"), rows.T, strict=True))
    exact = law.predict(TRUTH["data_constrained"], columns)
    loss = exact * np.exp(0.004 * np.random.default_rng(0).normal(size=len(exact)))
    found = fit(law, columns, loss, objective=Objective())
    assert "R_D" in found.unidentified and "log_R_D" in found.profiles
    flat = found.profiles["log_R_D"]
    assert None in flat["interval"], "the profile does not close"
    assert len(flat["values"]) == len(flat["objective"]) > 10
    wide = fit(law, *synthetic(law, noise=0.004))  # many repetitions, many excess parameters
    assert not wide.unidentified


def test_where_the_jacobian_is_too_sure_the_profile_and_the_resamples_decide() -> None:
    """Two epochs at most: R_D comes out at 4.9 and 3.2 for a truth of 15.4."""
    law = LAWS["data_constrained"]
    sizes, ratios = np.geomspace(1e8, 1e10, 5), np.geomspace(10, 160, 4)
    rows = np.array([(N, r * N, r * N / e) for N, r, e in product(sizes, ratios, (1.0, 2.0))])
    columns = dict(zip(("N", "D", "U"), rows.T, strict=True))
    exact = law.predict(TRUTH["data_constrained"], columns)

    def noisy(seed: int) -> Any:
        return exact * np.exp(0.004 * np.random.default_rng(seed).normal(size=len(exact)))

    by_jacobian = fit(law, columns, noisy(0), objective=Objective(), with_profiles=False)
    assert not by_jacobian.unidentified and by_jacobian.parameters["R_D"] < 6  # type: ignore
    by_profile = fit(law, columns, noisy(0), objective=Objective())
    assert by_profile.unidentified == ("R_D",)
    assert by_profile.profiles["log_R_D"]["interval"][1] is None
    sure = fit(law, columns, noisy(4), objective=Objective(), with_profiles=False)
    assert not sure.unidentified and sure.parameters["R_D"] < 4  # type: ignore
    resampled = bootstrap(sure, columns, noisy(4), num_resamples=200)
    assert "R_D" in resampled.unidentified
    assert any("resamples scatter too far: R_D" in warning for warning in resampled.warnings)


def test_the_distillation_law_reports_c1_and_d1_as_unidentified() -> None:
    law = LAWS["distillation"]
    columns, loss = synthetic(law, noise=0.002)
    strong = columns["L_T"] < 2.3  # the bracket stays an exponential
    columns, loss = {n: v[strong] for n, v in columns.items()}, loss[strong]
    found = fit(law, columns, loss, objective=Objective())
    assert "c1" in found.unidentified and not {"f1", "kappa", "c0"} & set(found.unidentified)
    assert found.profiles and found.ridges


def test_the_distillation_law_at_the_papers_coefficients() -> None:
    """Test vectors from the printed coefficients at D = 20 N."""
    law = LAWS["distillation"]
    for N, L_S, at_2, at_22, at_24, best, lowest in (
        (143e6, 2.8892, 2.5994, 2.6380, 2.6941, 1.912, 2.5943),
        (546e6, 2.5149, 2.3755, 2.4119, 2.4754, 1.776, 2.3541),
        (1.82e9, 2.2509, 2.1828, 2.2473, 2.4027, 1.675, 2.156),
        (7.75e9, 2.0036, 2.0272, 2.2005, 2.4000, 1.565, 1.9424),
    ):
        D = 20 * N
        one = {"N": np.array([N]), "D": np.array([D])}
        alone = LAWS["supervised_gamma"].predict(SUPERVISED, one)
        assert alone[0] == pytest.approx(L_S, abs=1e-4)
        teachers = np.array([2.0, 2.2, 2.4])
        three = {"N": np.full(3, N), "D": np.full(3, D), "L_T": teachers}
        got = law.predict(DISTILLATION, three)
        np.testing.assert_allclose(got, [at_2, at_22, at_24], atol=1e-4)
        many = np.linspace(1.2, 2.4, 12001)
        line = {"N": np.full(12001, N), "D": np.full(12001, D), "L_T": many}
        losses = law.predict(DISTILLATION, line)
        assert losses.min() == pytest.approx(lowest, abs=1e-4)
        assert many[losses.argmin()] == pytest.approx(best, abs=2e-3)
