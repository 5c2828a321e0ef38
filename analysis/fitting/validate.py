"""Is a fit to be believed: points it has not seen, other laws, what its residuals still know."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ..laws.law import Law
from .fit import fit
from .fitted import Fit
from .levels import FitError, check_levels, with_compute

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
Fitter = Callable[[Law, Columns, Array, Array], Fit]
CLEAR_TREND = 0.01  # probability of a rank correlation this large by chance


def held_out(fitted: Fit, columns: Columns, loss: Array, law: Law) -> dict[str, Any]:
    """Errors on points that the fit has not seen.

    Returns:
        ``rmse_log``; ``predicted`` and ``relative_error`` of each point, |predicted - measured| /
        measured; ``mean_relative_error``; ``decades_beyond`` the fitted range of each column.
    """
    predicted = fitted.predict(columns, law)
    relative = np.abs(predicted - loss) / loss
    return {
        "num_points": len(loss),
        "rmse_log": float(np.sqrt(np.mean(np.log(predicted / loss) ** 2))),
        "mean_relative_error": float(relative.mean()),
        "measured": loss.tolist(),
        "predicted": predicted.tolist(),
        "relative_error": relative.tolist(),
        "decades_beyond": decades_beyond(fitted, columns),
    }


def decades_beyond(fitted: Fit, columns: Columns) -> dict[str, float]:
    """How far the furthest point lies outside the fitted range of each column, in decades.

    Where N and D are read, C = 6 N D counts as a column too.
    """
    found, columns = {}, with_compute(columns)
    for name, (low, high) in fitted.ranges.items():
        if name not in columns:
            continue
        above = np.log10(np.max(columns[name]) / high)
        below = np.log10(low / np.min(columns[name]))
        found[name] = round(float(max(above, below, 0.0)), 4)
    return found


def folds_of(runs: Array, num_folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each point: runs shuffled, then dealt out, so that one run is in one fold."""
    names, run = np.unique(runs, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), dtype=np.intp)
    fold[order] = np.arange(len(names)) * num_folds // len(names)
    return fold[run.reshape(-1)]


def cross_validate(
    law: Law, columns: Columns, loss: Array, weights: Array, folds: Any, fitter: Fitter
) -> float:
    """Root mean square log residual over all points, each predicted by a fit without its fold."""
    residuals = np.empty(len(loss))
    for fold in np.unique(folds):
        out = folds == fold
        kept = {name: values[~out] for name, values in columns.items()}
        found = fitter(law, kept, loss[~out], weights[~out])
        seen = found.predict({name: values[out] for name, values in columns.items()}, law)
        residuals[out] = np.log(seen / loss[out])
    return float(np.sqrt(np.mean(residuals**2)))


def compare(
    laws: Sequence[Law],
    columns: Columns,
    loss: Array,
    weights: Array,
    folds: Any,
    test: tuple[Columns, Array] | None,
    fitter: Fitter,
) -> list[dict[str, Any]]:
    """One row a law: AICc, k-fold error, and the error beyond the data; best AICc first.

    The order in sample and the order beyond it are different questions, and differ on real data.
    """
    rows = []
    for law in laws:
        own = {name: columns[name] for name in law.columns if name in columns}
        try:
            check_levels(law, own, loss, 0)
            found = fitter(law, own, loss, weights)
        except (FitError, KeyError) as err:
            rows.append({"law": law.name, "refused": str(err)})
            continue
        row = {
            "law": law.name,
            "num_parameters": found.num_free,
            "aicc": found.aicc,
            "rmse_log": found.rms_log_residual,
            "rmse_log_folds": cross_validate(law, own, loss, weights, folds, fitter),
            "rmse_log_held_out": None,
            "converged": found.converged,
            "unidentified": list(found.unidentified),
            "gamma": found.parameters.get("gamma"),
        }
        if test is not None:
            row["rmse_log_held_out"] = held_out(found, test[0], test[1], law)["rmse_log"]
        rows.append(row)
    return sorted(rows, key=lambda row: row.get("aicc", np.inf))


def residual_trends(fitted: Fit, columns: Columns, loss: Array, law: Law) -> dict[str, Any]:
    """Rank correlation of the residuals with every variable: what the law has not taken up."""
    residuals = np.log(loss / fitted.predict(columns, law))
    variables = with_compute(columns)
    if {"N", "D"} <= set(columns):
        variables["D/N"] = columns["D"] / columns["N"]
    variables["predicted loss"] = fitted.predict(columns, law)
    found = {}
    for name, values in variables.items():
        if len(loss) < 4 or np.ptp(values) == 0 or np.ptp(residuals) == 0:
            continue
        rank, chance = spearmanr(values, residuals)
        found[name] = {
            "spearman": float(rank),
            "p": float(chance),
            "clear": bool(chance < CLEAR_TREND),
        }
    return found


def fitter_like(fitted: Fit) -> Fitter:
    """Fits with the objective and the starts of another fit, without its profiles."""
    objective, seed = fitted.objective_function, fitted.seed

    def again(law: Law, columns: Columns, loss: Array, weights: Array) -> Fit:
        same = law.name == fitted.law
        return fit(
            law,
            columns,
            loss,
            objective=objective,
            weights=weights,
            fixed=fitted.fixed if same else None,
            tied=fitted.tied if same else None,
            num_starts=fitted.num_starts if same else 0,
            with_profiles=False,
            seed=seed,
        )

    return again
