"""Approach 2: at each budget of compute a parabola of the loss in log N, and its minimum.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2. What we add: budgets are found in the
data, a slope in log C where the runs of one are not quite at equal compute, and two tests that a
parabola must pass before its minimum counts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from ..fitting.levels import SAME, levels_of

Array = NDArray[np.float64]
ONE_BUDGET = 1.15  # largest over smallest compute of the runs that count as one budget
LEAST_SIZES = 4  # three make a parabola; the fourth tests it
LEAST_BUDGETS = 3
SURE = 0.95  # confidence in a positive curvature


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One isoFLOP curve.

    Attributes:
        flops: geometric mean over its runs; rows: which points they are.
        N, loss: at the minimum; coefficients: of loss = k0 + k1 x + k2 x^2, x = log(N / N_mid).
        refused: why its minimum does not count; empty where it does.
    """

    flops: float
    rows: NDArray[np.intp]
    N: float
    loss: float
    N_mid: float
    coefficients: tuple[float, float, float]
    refused: str


def budgets_of(C: Array, N: Array) -> list[NDArray[np.intp]]:
    """Rows [k] of each budget: windows of compute with the most sizes first, lowest C first."""
    order = np.argsort(C)
    left, found = order, []
    while len(left) >= LEAST_SIZES:
        ends = np.searchsorted(C[left], C[left] * ONE_BUDGET, side="right")
        sizes = [len(levels_of(N[left[i:end]])) for i, end in enumerate(ends)]
        best = int(np.argmax(sizes))
        if sizes[best] < LEAST_SIZES:
            break
        found.append(left[best : ends[best]])
        low, high = C[left[best]] / ONE_BUDGET, C[left[ends[best] - 1]] * ONE_BUDGET
        left = left[(C[left] < low) | (C[left] > high)]  # what is near a budget is not another
    return sorted(found, key=lambda rows: C[rows[0]])


def parabola(C: Array, N: Array, loss: Array, rows: NDArray[np.intp]) -> Budget:
    """The least-squares parabola of one budget, tested."""
    c, n, y = C[rows], N[rows], loss[rows]
    middle, flops = float(np.exp(np.log(n).mean())), float(np.exp(np.log(c).mean()))
    x = np.log(n / middle)
    basis = [np.ones_like(x), x, x**2]
    if c.max() > c.min() * (1 + SAME):
        basis.append(np.log(c / flops))
    design = np.column_stack(basis)
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=1e-10)
    k0, k1, k2 = (float(v) for v in found[:3])
    bottom = -k1 / (2 * k2) if k2 else 0.0
    sizes = levels_of(n)
    refused = ""
    if rank < len(basis) or len(sizes) < LEAST_SIZES:
        refused = f"{len(sizes)} sizes; {LEAST_SIZES} or more are needed to test a parabola"
    elif k2 <= _uncertain(design, y, found):
        refused = (
            f"its curvature is not above zero with {SURE:.0%} confidence; add runs at "
            f"N such as {sizes[0] / 2:.2g} and {2 * sizes[-1]:.2g}"
        )
    elif not sizes[1] <= middle * np.exp(bottom) <= sizes[-2]:
        below = middle * np.exp(bottom) < sizes[1]
        edge, more = (sizes[0], sizes[0] / 2) if below else (sizes[-1], 2 * sizes[-1])
        refused = (
            f"its minimum is not inside the sizes run, but at the "
            f"{'smallest' if below else 'largest'}, {edge:.2g}; add runs at N such as "
            f"{more:.2g} and {more * more / edge:.2g}"
        )
    return Budget(
        flops=flops,
        rows=rows,
        N=float(middle * np.exp(np.clip(bottom, -50, 50))),
        loss=k0 + k1 * bottom + k2 * bottom**2,
        N_mid=middle,
        coefficients=(k0, k1, k2),
        refused=refused,
    )


def minima(
    C: Array, N: Array, loss: Array, budgets: list[NDArray[np.intp]], counts: Array
) -> Array:
    """N at the minimum of each budget [k] with its runs counted so often; NaN where there is none.

    A resample is asked for a minimum between its smallest and largest size, not for the tests.
    """
    found = np.full(len(budgets), np.nan)
    for k, rows in enumerate(budgets):
        drawn = np.repeat(rows, counts[rows].astype(int))
        if len(np.unique(N[drawn])) < LEAST_SIZES - 1:
            continue
        at = parabola(C, N, loss, drawn)
        inside = N[drawn].min() <= at.N <= N[drawn].max()
        found[k] = at.N if at.coefficients[2] > 0 and inside else np.nan
    return found


def _uncertain(design: Array, y: Array, found: NDArray[Any]) -> float:
    """The curvature that chance alone would exceed in 1 - SURE of cases."""
    free = len(y) - design.shape[1]
    if free < 1:
        return np.inf
    variance = float(((y - design @ found) ** 2).sum()) / free
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[2, 2])
    return float(student_t.ppf(SURE, free) * error)
