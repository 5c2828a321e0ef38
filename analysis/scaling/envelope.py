"""Approach 1: at equal compute along the curves of many sizes, the size that has the lowest loss.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.1. We deviate in that the lowest curve
counts only between a smaller and a larger one, and its size is refined by the parabola through
these three: the steps from size to size would otherwise flatten the exponent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..fitting.levels import levels_of

Array = NDArray[np.float64]
NUM_BUDGETS = 48
LEAST_BEST = 3  # sizes that must each be the best somewhere


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Log loss of every run on one grid of compute; infinite where a run has no curve.

    Attributes:
        flops: [G]; log_loss: [K, G]; size: of each run, an index into sizes [K]; sizes: [S].
    """

    flops: Array
    log_loss: Array
    size: NDArray[np.intp]
    sizes: Array


def curves_of(C: Array, N: Array, loss: Array, run: NDArray[np.intp]) -> Curves:
    """Each run's checkpoints, joined by straight lines in log C and log loss."""
    several = [k for k in range(run.max() + 1) if (run == k).sum() > 1]
    sizes = levels_of(N)
    if not several:
        return Curves(flops=C[:0], log_loss=np.empty((0, 0)), size=run[:0], sizes=sizes)
    inside = np.isin(run, several)
    flops = np.geomspace(C[inside].min(), C[inside].max(), NUM_BUDGETS)
    log_loss = np.full((run.max() + 1, NUM_BUDGETS), np.inf)
    size = np.zeros(run.max() + 1, dtype=np.intp)
    for k in range(run.max() + 1):
        own = np.flatnonzero(run == k)
        own = own[np.argsort(C[own])]
        size[k] = np.searchsorted(sizes, N[own[0]], side="right") - 1
        if len(own) > 1:
            seen = (flops >= C[own[0]] * (1 - 1e-9)) & (flops <= C[own[-1]] * (1 + 1e-9))
            line = np.interp(np.log(flops[seen]), np.log(C[own]), np.log(loss[own]))
            log_loss[k, seen] = line
    return Curves(flops=flops, log_loss=log_loss, size=size, sizes=sizes)


def lowest(curves: Curves, present: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.intp]]:
    """Compute [m], the best N there [m], and the index of the size that is lowest [m].

    Args:
        present: which runs count [K].
    """
    kept = np.unique(curves.size[present])
    best = np.array(
        [curves.log_loss[present & (curves.size == s)].min(axis=0) for s in kept]
    )  # [S', G]
    if len(kept) < 3:
        return curves.flops[:0], curves.flops[:0], kept[:0]
    at, grid = best.argmin(axis=0), np.arange(best.shape[1])
    # the nearest smaller and larger size that has a curve here; -1 and S' where there is none
    rank, num = np.arange(len(kept))[:, None], len(kept)
    alive = np.isfinite(best)
    smaller = np.maximum.accumulate(np.where(alive, rank, -1), axis=0)
    larger = np.minimum.accumulate(np.where(alive, rank, num)[::-1], axis=0)[::-1]
    left = np.where(at > 0, smaller[at - 1, grid], -1)
    right = np.where(at < num - 1, larger[np.minimum(at + 1, num - 1), grid], num)
    inner = np.flatnonzero((left >= 0) & (right < num))
    at, left, right = at[inner], left[inner], right[inner]
    low, mid, high = best[left, inner], best[at, inner], best[right, inner]
    x = np.log(curves.sizes[kept])
    to_left, to_right = x[at] - x[left], x[right] - x[at]
    # the vertex of the parabola through three points
    fall, rise = (low - mid) / to_left, (high - mid) / to_right
    moved = 0.5 * (fall * to_right - rise * to_left) / np.maximum(fall + rise, 1e-300)
    return curves.flops[inner], np.exp(x[at] + moved), kept[at]


def missing(curves: Curves) -> str:
    """Why there is no envelope; empty where there is one."""
    if not len(curves.flops):
        return (
            "each run has one point; needs curves: several checkpoints a run, and --run COLUMN to "
            "say which run a row is of"
        )
    best = np.unique(lowest(curves, np.ones(len(curves.size), dtype=bool))[2])
    if len(best) >= LEAST_BEST:
        return ""
    low, high = curves.sizes[0] / 2, curves.sizes[-1] * 2
    return (
        f"{len(best)} of {len(curves.sizes)} sizes are ever the best between a smaller and a "
        f"larger one at equal compute; needs {LEAST_BEST}; add curves at N such as {low:.2g} and "
        f"{high:.2g}, and longer ones of the sizes run"
    )
