"""4,000 bootstrap fits of 240 points: all at once, against scipy's one at a time."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import harness
from harness import Case

DATA = Path(__file__).parents[2] / "shared" / "data" / "laws" / "chinchilla.csv"
OURS, SCIPY, CURVE = (
    "pdx, all resamples at once, two starts each",
    "scipy L-BFGS-B, one at a time, analytic gradient",
    "scipy L-BFGS-B, one at a time, numerical gradient",
)
CASES = (OURS, SCIPY, CURVE)
NUM_RESAMPLES = 4000
GOAL_SECONDS = 5.0
SCALE = 1e3  # of the objective: L-BFGS-B's stopping rule is absolute below 1


def points() -> tuple[Any, Any, Any]:
    """N, D and loss of the 240 points; synthetic ones of the same law without the file."""
    import numpy as np

    if DATA.exists():
        table = np.genfromtxt(DATA, delimiter=",", names=True)
        table = np.sort(table, order="loss")[:240]
        return table["N"], table["D"], table["loss"]
    rng = np.random.default_rng(0)
    N = np.exp(rng.uniform(np.log(6e7), np.log(1.6e10), 240))
    D = N * np.exp(rng.uniform(np.log(1), np.log(300), 240))
    loss = 1.817 + 477.8 / N**0.3473 + 2143.4 / D**0.3672
    return N, D, loss * np.exp(0.007 * rng.standard_t(3, 240))


def ours(num: int) -> dict[str, float]:
    """Standard errors by the package's own bootstrap."""
    from pdx.analysis.fitting.bootstrap import bootstrap
    from pdx.analysis.fitting.fit import fit
    from pdx.analysis.fitting.objectives import Objective
    from pdx.analysis.laws import law_named

    N, D, loss = points()
    columns = {"N": N, "D": D}
    fitted = fit(law_named("chinchilla"), columns, loss, objective=Objective())
    found = bootstrap(fitted, columns, loss, num_resamples=num)
    return {name: error or 0.0 for name, error in found.standard_errors.items()}


def one_at_a_time(num: int, analytic: bool) -> dict[str, float]:
    """The published procedure: L-BFGS-B on the sum of Huber, from the optimum of all points."""
    import numpy as np
    from scipy.optimize import minimize

    N, D, loss = points()
    log_N, log_D, log_L = np.log(N), np.log(D), np.log(loss)

    def objective(theta: Any, weights: Any) -> Any:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * log_N, b - beta * log_D, np.full_like(log_N, e)])
        top = terms.max(0)
        parts = np.exp(terms - top)
        total = parts.sum(0)
        residuals = top + np.log(total) - log_L
        size = np.abs(residuals)
        inside = np.minimum(size, 1e-3)
        value = SCALE * (weights * inside * (size - inside / 2)).sum()
        if not analytic:
            return value
        psi = SCALE * weights * np.clip(residuals, -1e-3, 1e-3)
        share = psi * parts / total
        by = [share[0].sum(), share[1].sum(), share[2].sum()]
        return value, np.array([*by, -(share[0] * log_N).sum(), -(share[1] * log_D).sum()])

    start = np.array([6.1693, 7.6702, 0.5973, 0.34731, 0.36717])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num):
        weights = np.bincount(rng.integers(240, size=240), minlength=240).astype(float)
        end = minimize(
            objective,
            start,
            args=(weights,),
            jac=analytic,
            method="L-BFGS-B",
            options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 2000},
        )
        found.append(end.x)
    a, b, e, alpha, beta = np.array(found).T
    drawn = {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta}
    return {name: float(values.std(ddof=1)) for name, values in drawn.items()}


def run_case(name: str, num: int) -> dict[str, float]:
    """CPU seconds and standard errors; imports and one small bootstrap come before."""
    work = {
        OURS: ours,
        SCIPY: lambda n: one_at_a_time(n, True),
        CURVE: lambda n: one_at_a_time(n, False),
    }[name]
    work(20)
    errors: dict[str, float] = {}
    # The numerical gradient takes minutes: a tenth of it is measured, and multiplied.
    part = 10 if name == CURVE else 1
    taken = harness.seconds(lambda: errors.update(work(num // part))) * part
    return {"seconds": taken, **errors}


def main() -> None:
    """Every case in turn, then the JSON and the table."""
    own = argparse.ArgumentParser(description=__doc__)
    own.add_argument("--case", choices=CASES)
    own.add_argument("--repeats", type=int, default=3)
    own.add_argument("--resamples", type=int, default=NUM_RESAMPLES)
    own.add_argument("--device", default="cpu", help="fits run on the CPU, whatever this says")
    options = own.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.resamples)))
        return
    size = ["--resamples", str(options.resamples)]
    cases = [Case(name=n, argv=[sys.argv[0], "--case", n, *size]) for n in CASES]
    measured = harness.interleave(cases, options.repeats)
    rows = []
    for name in CASES:
        errors = measured[name][0]
        rows.append(
            [
                name,
                harness.shown(harness.figure(measured, name, "seconds")),
                harness.shown(harness.ratio(measured, name, OURS, "seconds"), 1),
                *(f"{errors[key]:.4f}" for key in ("E", "alpha", "beta")),
            ]
        )
    best = harness.figure(measured, OURS, "seconds")
    met = "met" if best["median"] <= GOAL_SECONDS else "not met"
    text = (
        "## Scaling laws: the bootstrap of a fit\n\n"
        f"{options.resamples:,} bootstrap fits of Chinchilla's 240 points, Huber(1e-3), five "
        "parameters, CPU seconds on one core. The numerical gradient is a tenth of the work, "
        "times ten.\n\n"
        f"- time: goal at most {GOAL_SECONDS:g} s; measured {harness.shown(best)} s: {met}.\n\n"
        + harness.table(
            ["", "seconds", "x pdx", "s.e. of E", "s.e. of alpha", "s.e. of beta"], rows
        )
        + f"\n\n{harness.machine_line()}"
    )
    harness.save("fit", {"resamples": options.resamples, "measured": measured})
    harness.write_section("fit", text)
    print(text)


if __name__ == "__main__":
    main()
