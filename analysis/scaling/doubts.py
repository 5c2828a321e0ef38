"""What a fit says against itself, in sentences that travel with the result."""

import numpy as np

from ..fitting.fitted import Fit
from ..laws.law import Law
from .points import Points

FEW_RUNS = 3  # runs per fitted parameter, below which intervals are short


def doubts(fitted: Fit, law: Law, points: Points) -> tuple[str, ...]:
    """What the fit itself says against it."""
    found = [] if fitted.converged else [f"not converged: {fitted.why}"]
    found += [f"{hit}" for hit in fitted.bounds_hit]
    if fitted.unidentified:
        names = ", ".join(fitted.unidentified)
        found.append(
            f"not identified by these data: {names}; their values mean nothing one by one "
            "(see ridges and profiles)"
        )
    if fitted.starts_at_optimum < 0.1:
        found.append(
            f"only {fitted.starts_at_optimum:.0%} of {fitted.num_starts} starts reached the best "
            "objective; there may be a better one"
        )
    runs = len(set(points.runs.tolist()))
    if runs < FEW_RUNS * fitted.num_free:
        found.append(
            f"{runs} runs for {fitted.num_free} parameters: bootstrap intervals are too narrow "
            "where runs are this few"
        )
    if fitted.supervised is not None:
        found.append(
            "L_S is from the supervised law with the coefficients of "
            + ("the paper's table 6" if type(law)() == law else "the fit given")
            + "; they hold for its data and tokenizer; give --supervised FIT.json or a column L_S"
            if type(law)() == law
            else "L_S is from the supervised fit given by --supervised"
        )
    if "x" in points.names and law.columns == ("x",):
        others = [
            name
            for name in ("N", "D")
            if name in points.columns and np.ptp(np.log(points.columns[name])) > 0.01
        ]
        if len(others) > 1:
            found.append(f"x is {points.names['x']}; other variables move with it")
    return tuple(found)
