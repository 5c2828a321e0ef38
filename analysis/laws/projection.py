"""Variable projection: given exponents, the offset and the coefficients follow by linear algebra.

Every law here is linear in E, A and B once its exponents are set; the least-squares solution in
relative loss, over all exponents of a grid at once, is where fits of any objective start.

Source: Golub, Pereyra 1973, SIAM J. Numer. Anal. 10(2).
"""

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SMALLEST = 1e-4  # share of the loss that a term starts with, where least squares gives it none


def nonnegative(basis_GKn: Array, loss: Array) -> Array:
    """Coefficients [G, K], none negative, of the K terms that predict ``loss`` best.

    With few terms every subset can be tried, so the answer is exact.
    """
    scaled = basis_GKn / loss
    num = scaled.shape[1]
    gram = scaled @ scaled.transpose(0, 2, 1)
    right = scaled.sum(-1)
    best = np.zeros(right.shape)
    value = np.zeros(len(right))  # twice the fall of the objective from all zero
    for size in range(1, num + 1):
        for chosen in combinations(range(num), size):
            at = np.array(chosen)
            square = gram[:, at[:, None], at] + 1e-13 * gram[:, at, at].max(-1)[:, None, None] * (
                np.eye(size)
            )
            found = np.linalg.solve(square, right[:, at, None])[..., 0]
            gain = (found * right[:, at]).sum(-1)
            better = (found >= 0).all(-1) & (gain > value)
            value = np.where(better, gain, value)
            trial = np.zeros_like(best)
            trial[:, at] = found
            best = np.where(better[:, None], trial, best)
    floor = SMALLEST / np.maximum(scaled.mean(-1), 1e-300)
    return np.maximum(best, floor)


def grid(*values: tuple[float, ...]) -> Array:
    """Every combination [G, len(values)]."""
    return np.array(list(product(*values)), dtype=np.float64)
