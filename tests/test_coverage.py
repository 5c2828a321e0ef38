"""Intervals are what they say: coverage over synthetic data whose truth is known (slow)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pdx.analysis.figures.style import CONTROL_COLOUR, PALETTE, RC, new_figure
from pdx.analysis.fitting.bootstrap import bootstrap
from pdx.analysis.fitting.fit import fit
from pdx.analysis.fitting.objectives import Objective
from pdx.analysis.laws import law_named
from pdx.analysis.scaling.allocation import allocate

DOCS = Path(__file__).parents[1] / "docs"
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
NUM_SETS, NUM_RESAMPLES, NOISE, FLOPS = 200, 500, 0.005, 1e22


def one_set(seed: int) -> tuple[float, float, float]:
    """N* at 1e22 FLOPs from 120 runs of 1e18 to 3e21 FLOPs, with the ends of its interval."""
    law = law_named("chinchilla")
    rng = np.random.default_rng(seed)
    C = np.repeat(np.geomspace(1e18, 3e21, 12), 10)
    ratio = np.tile(np.geomspace(2, 200, 10), 12)
    N = np.sqrt(C / (6 * ratio))
    columns = {"N": N, "D": ratio * N}
    loss = law.predict(TRUTH, columns) * np.exp(NOISE * rng.normal(size=len(N)))
    fitted = fit(law, columns, loss, objective=Objective(), with_profiles=False)
    found = bootstrap(fitted, columns, loss, num_resamples=NUM_RESAMPLES, seed=seed)
    point = allocate(found, FLOPS)
    assert point is not None and fitted.converged
    low, high = point["intervals"]["N"]
    return point["N"], low, high


@pytest.mark.slow
def test_95_percent_intervals_of_the_optimal_size_cover_it_about_as_often() -> None:
    """PDX_WRITE_GOLDEN=1 rewrites docs/coverage.json and docs/coverage.png."""
    found = np.array([one_set(seed) for seed in range(NUM_SETS)])
    point = allocate_truth()
    covered = (found[:, 1] <= point) & (point <= found[:, 2])
    width = np.log(found[:, 2] / found[:, 1])
    spread = np.log(found[:, 0]).std(ddof=1)
    warranted = 2 * 1.96 * spread  # an interval this wide would cover 95% of such estimates
    numbers = {
        "num_sets": NUM_SETS,
        "num_resamples": NUM_RESAMPLES,
        "coverage": float(covered.mean()),
        "median_width_over_warranted": float(np.median(width) / warranted),
        "true_N": point,
        "mean_log_error": float(np.log(found[:, 0] / point).mean()),
    }
    if os.environ.get("PDX_WRITE_GOLDEN"):
        (DOCS / "coverage.json").write_text(json.dumps(numbers, indent=1) + "\n")
        draw(found, point, covered, numbers)
    assert 0.92 <= numbers["coverage"] <= 0.98, numbers
    assert 0.8 <= numbers["median_width_over_warranted"] <= 1.25, numbers


def allocate_truth() -> float:
    """N* in closed form."""
    a, b = TRUTH["alpha"], TRUTH["beta"]
    G = (a * TRUTH["A"] / (b * TRUTH["B"])) ** (1 / (a + b))
    return G * (FLOPS / 6) ** (b / (a + b))


def draw(found: np.ndarray, truth: float, covered: np.ndarray, numbers: dict) -> None:
    """Every interval, sorted by its estimate, over the truth."""
    from matplotlib import rc_context

    with rc_context(RC):
        figure, (axes,) = new_figure(1, 1, 2.6)
        order = np.argsort(found[:, 0])
        for hit, colour, label in ((True, PALETTE[0], "covers"), (False, PALETTE[1], "misses")):
            at = np.flatnonzero(covered[order] == hit)
            estimate, low, high = found[order][at].T
            axes.vlines(at, low / 1e9, high / 1e9, color=colour, linewidth=1.2, label=label)
            axes.plot(at, estimate / 1e9, ".", color=colour, markersize=2)
        axes.axhline(truth / 1e9, color=CONTROL_COLOUR, linewidth=0.9)
        axes.annotate(
            "truth", (numbers["num_sets"], truth / 1e9), xytext=(2, 2), textcoords="offset points"
        )
        axes.set_xlabel("synthetic data sets, by their estimate of the compute-optimal N*")
        axes.set_ylabel("N* at 1e22 FLOPs (1e9)")
        axes.set_title(
            f"95% intervals cover {numbers['coverage']:.1%} of the time; median width "
            f"{numbers['median_width_over_warranted']:.2f} of what the estimates' spread warrants",
            loc="left",
        )
        axes.legend(loc="upper left", ncols=2)
        axes.margins(x=0.02)
        figure.savefig(DOCS / "coverage.png", dpi=160, metadata={"Software": None})
