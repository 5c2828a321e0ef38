"""Bands and intervals by refitting resampled runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .fit import Bootstrap, Fit, as_points
from .laws import LAWS
from .solve import GRADIENT_TOLERANCE, Problem

Array = NDArray[np.float64]
SCHEME = (
    "two levels: sizes drawn with replacement, then within each drawn size its seeds with "
    "replacement; draws with fewer distinct sizes than the law has constants are drawn again"
)


def bootstrap(
    fitted: Fit,
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    *,
    num_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Fit:
    """The same fit with percentile intervals over sizes and seeds.

    A run is the unit (its checkpoints are not independent). Sizes are resampled because the law's
    misfit at one size is an error too; with one seed a size that is all there is. Every resample
    starts from the fit and from one start of the law's own, since a lone start can end in a worse
    basin. Percentiles, not standard errors: A is heavy-tailed. With few sizes the band is rough.
    """
    law = LAWS[fitted.law]
    x, y = as_points(x, y)
    counts, num_rejected = _resample(x, len(fitted.theta), num_resamples, seed)
    problem = Problem(law, x / fitted.x_scale, y / fitted.y_scale, fitted.objective, fitted.delta)
    own = law.starts(problem.x, np.exp(problem.log_y))[0]
    ends = [
        problem.polish(np.tile(start, (num_resamples, 1)), counts)
        for start in (np.array(fitted.theta), own)
    ]
    second = ends[1][1] < ends[0][1] * (1 - 1e-9)
    theta = np.where(second[:, None], ends[1][0], ends[0][0])
    cosine = np.where(second, ends[1][2], ends[0][2])
    constants = law.natural(theta, fitted.x_scale, fitted.y_scale)
    tail = 50 * (1 - level)
    intervals = {}
    for name, values in constants.items():
        low, high = np.percentile(values, [tail, 100 - tail])
        intervals[name] = (float(low), float(high))
    result = Bootstrap(
        num_resamples=num_resamples,
        num_rejected=num_rejected,
        num_unconverged=int((cosine > 100 * GRADIENT_TOLERANCE).sum()),
        level=level,
        seed=seed,
        scheme=SCHEME,
        intervals=intervals,
        draws=tuple(tuple(float(value) for value in row) for row in theta),
    )
    return replace(fitted, bootstrap=result)


def _resample(x: Array, num_constants: int, num: int, seed: int) -> tuple[Array, int]:
    """How often each run is drawn [num, n], and how many draws were thrown away."""
    rng = np.random.default_rng(seed)
    runs_of = [np.flatnonzero(x == level) for level in np.unique(x)]
    counts, num_rejected = np.zeros((num, len(x))), 0
    for row in counts:
        while True:
            drawn = rng.integers(len(runs_of), size=len(runs_of))
            if len(set(drawn.tolist())) >= min(num_constants, len(runs_of)):
                break
            num_rejected += 1
        for which in drawn:
            runs = runs_of[which]
            np.add.at(row, rng.choice(runs, size=len(runs)), 1.0)
    return counts, num_rejected
