"""How a fitted surface would split a budget of compute between parameters and tokens.

Compute is C = 6 N D. With G = (alpha A / (beta B))^(1 / (alpha + beta)), the loss at given C is
least at N = G (C / 6)^a and D = (C / 6)^b / G, a = beta / (alpha + beta), b = alpha / (alpha +
beta).

Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 4.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fitting.fitted import Fit, plain
from ..laws.law import Law

Array = NDArray[np.float64]
BLOCK = 32


def allocate(fitted: Fit, flops: float, law: Law | None = None) -> dict[str, Any] | None:
    """N, D, D/N, the loss there and the exponents a and b, with joint intervals from the draws.

    None for a law that has no two terms to weigh against each other.
    """
    law = law or fitted.law_itself()
    point = optimum(law, fitted, np.array([fitted.theta]), flops)
    if point is None:
        return None
    found: dict[str, Any] = {"C": flops, **plain({k: v[0] for k, v in point.items()})}
    if fitted.bootstrap and fitted.draws:
        tail = 50 * (1 - fitted.bootstrap["level"])
        draws = optimum(law, fitted, np.array(fitted.draws), flops) or {}
        found["intervals"] = {
            name: [float(v) for v in np.percentile(values, [tail, 100 - tail])]
            for name, values in draws.items()
        }
    return found


def optimum(law: Law, fitted: Fit, theta_RP: Array, flops: float) -> dict[str, Array] | None:
    """The same for many solutions [R, P] of a fit, each an array [R]."""
    terms = law.terms(law.natural(theta_RP, fitted.shifts))
    if terms is None:
        return None
    A, B, alpha, beta = terms
    with np.errstate(all="ignore"):
        G = np.exp((np.log(alpha * A) - np.log(beta * B)) / (alpha + beta))
        a, b = beta / (alpha + beta), alpha / (alpha + beta)
        N, D = G * (flops / 6) ** a, (flops / 6) ** b / G
    at = {"N": N, "D": D, **({"U": D} if "U" in law.columns else {})}
    losses = []
    for i in range(0, len(N), BLOCK):  # every draw at its own optimum: the diagonal of a block
        some = {name: values[i : i + BLOCK] for name, values in at.items()}
        losses.append(np.diagonal(fitted.curves(theta_RP[i : i + BLOCK], some, law)))
    return {"N": N, "D": D, "D/N": D / N, "a": a, "b": b, "loss": np.concatenate(losses)}
