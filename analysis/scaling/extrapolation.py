"""What a fit is asked: how to spend a budget, and the loss at a point that nobody has run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..fitting.fitted import Fit
from ..fitting.levels import FitError
from ..fitting.validate import decades_beyond
from ..laws.law import Law
from .allocation import allocate


def allocations(fitted: Fit, law: Law, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """N, D and the loss where each budget of compute is spent best.

    Raises:
        FitError: a law without terms of N and D.
    """
    found = []
    for flops in budgets:
        point = allocate(fitted, flops, law)
        if point is None:
            raise FitError(
                f"--compute {flops:g}: law={law.name} has no terms of N and D to weigh; "
                "use chinchilla, chinchilla_tied, chinchilla_gamma, kaplan or overtraining."
            )
        at = {name: np.array([point[name]]) for name in ("N", "D")}
        point["decades_beyond"] = decades_beyond(fitted, at)
        warning = far_outside(point["decades_beyond"])
        found.append({**point, "warning": f"C = {flops:.3g} {warning}" if warning else None})
    return found


def prediction(fitted: Fit, law: Law, target: Mapping[str, float], level: float) -> dict[str, Any]:
    """The loss at a target, with its interval and how far it lies outside the data.

    Raises:
        FitError: the target lacks a column of the law.
    """
    missing = [name for name in law.columns if name not in target]
    if missing:
        raise FitError(f"--at {dict(target)}: gives no {', '.join(missing)}; law={law.name}.")
    at = {name: np.array([value]) for name, value in target.items()}
    found: dict[str, Any] = {**target, "loss": float(fitted.predict(at, law)[0])}
    if fitted.draws:
        low, high = fitted.band(at, level, law)
        found["interval"] = [float(low[0]), float(high[0])]
    found["decades_beyond"] = decades_beyond(fitted, at)
    warning = far_outside(found["decades_beyond"])
    where = ", ".join(f"{name} = {value:.3g}" for name, value in target.items())
    return {**found, "warning": f"{where} {warning}" if warning else None}


def far_outside(decades: Mapping[str, float]) -> str | None:
    """What is to be said of a point more than a decade outside the data, if it is."""
    far = {name: value for name, value in decades.items() if value > 1 and name != "loss"}
    if not far:
        return None
    how_far = ", ".join(f"{value:.1f} decades in {name}" for name, value in far.items())
    return (
        f"extrapolates {how_far} beyond the data: intervals leave out the error of the law itself"
    )
