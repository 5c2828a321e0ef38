"""`pdx fit` as a function: a file and what to ask of it in, one JSON object out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .allocation import allocate
from .bootstrap import bootstrap
from .fit import fit
from .fitted import Fit
from .laws import law_named
from .laws.law import Law
from .levels import FitError
from .objectives import Objective
from .points import Points, Request, read_points
from .suspicions import outliers
from .validate import (
    compare,
    cross_validate,
    decades_beyond,
    fitter_like,
    folds_of,
    held_out,
    residual_trends,
)

Array = NDArray[np.float64]
FEW_RUNS = 3  # runs per fitted parameter, below which intervals are short


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of a file.

    Attributes:
        laws: the law to fit, then those to compare it with.
        num_resamples: 0 for no bootstrap; level: of intervals.
        flops: budgets of compute to allocate.
        targets: points at which to predict the loss, each by the names of the law's columns.
        num_folds: 0 for no cross-validation.
    """

    path: Path
    request: Request
    laws: Sequence[Law]
    objective: Objective
    fixed: Mapping[str, float] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    num_resamples: int = 0
    level: float = 0.95
    flops: Sequence[float] = ()
    targets: Sequence[Mapping[str, float]] = ()
    num_folds: int = 10
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A fit, the points that it is of, and what else was asked, ready for JSON."""

    fit: Fit
    law: Law
    points: Points
    held: Points
    extra: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The fit's own JSON, and the rest beside it."""
        return _finite({**self.fit.to_json(), **self.extra, "aicc": self.fit.aicc})


def answer(ask: Ask) -> Answer:
    """Read, fit, resample, validate.

    Raises:
        FitError: the file, a condition, or the points cannot bear it.
    """
    law = ask.laws[0]
    points, held, warnings = read_points(ask.path, ask.request, ask.laws)
    columns = _own(points, law)
    fitted = fit(
        law,
        columns,
        points.loss,
        objective=ask.objective,
        weights=points.weights,
        fixed=ask.fixed,
        tied=ask.tied,
        seed=ask.seed,
        names=points.names,
        data_filter=_filter(ask),
    )
    residuals = np.log(points.loss / fitted.predict(columns, law))
    warnings = (*warnings, *_doubts(fitted, law, points), *outliers(residuals, points.rows))
    fitted = replace(fitted, warnings=warnings)
    if ask.num_resamples:
        fitted = bootstrap(
            fitted,
            columns,
            points.loss,
            num_resamples=ask.num_resamples,
            level=ask.level,
            seed=ask.seed,
            runs=points.runs,
            weights=points.weights,
            law=law,
        )
    extra: dict[str, Any] = {"residuals": residual_trends(fitted, columns, points.loss, law)}
    again = fitter_like(fitted)
    runs = len(set(points.runs.tolist()))
    folds = folds_of(points.runs, min(ask.num_folds, runs), ask.seed) if ask.num_folds else None
    if folds is not None and len(ask.laws) == 1:
        extra["rmse_log_folds"] = _folds(law, points, folds, again)
    if len(held):
        extra["held_out"] = held_out(fitted, _own(held, law), held.loss, law)
        extra["held_out"]["rows"] = held.rows.tolist()
    if len(ask.laws) > 1:
        if folds is None:
            folds = np.arange(len(points))
        test = (held.columns, held.loss) if len(held) else None
        extra["comparison"] = compare(
            ask.laws, points.columns, points.loss, points.weights, folds, test, again
        )
    extra["allocation"] = _allocations(fitted, law, ask)
    extra["predictions"] = [_prediction(fitted, law, target, ask.level) for target in ask.targets]
    beyond = [item.get("warning") for item in (*extra["allocation"], *extra["predictions"])]
    fitted = replace(fitted, warnings=(*fitted.warnings, *dict.fromkeys(w for w in beyond if w)))
    return Answer(fit=fitted, law=law, points=points, held=held, extra=extra)


def far_outside(decades: Mapping[str, float]) -> str | None:
    """What is to be said of a point more than a decade outside the data, if it is."""
    far = {name: value for name, value in decades.items() if value > 1 and name != "loss"}
    if not far:
        return None
    how_far = ", ".join(f"{value:.1f} decades in {name}" for name, value in far.items())
    return (
        f"extrapolates {how_far} beyond the data: intervals leave out the error of the law itself"
    )


def _own(points: Points, law: Law) -> dict[str, Array]:
    """The columns that a law reads, and a measured L_S where it can use one."""
    extra = ("L_S",) if "L_T" in law.columns else ()
    return {n: points.columns[n] for n in (*law.columns, *extra) if n in points.columns}


def _doubts(fitted: Fit, law: Law, points: Points) -> tuple[str, ...]:
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


def _allocations(fitted: Fit, law: Law, ask: Ask) -> list[dict[str, Any]]:
    found = []
    for flops in ask.flops:
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


def _prediction(fitted: Fit, law: Law, target: Mapping[str, float], level: float) -> dict[str, Any]:
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


def _folds(law: Law, points: Points, folds: Any, again: Any) -> float | None:
    """The error of folds, or none where leaving one out leaves too little."""
    try:
        return cross_validate(law, _own(points, law), points.loss, points.weights, folds, again)
    except FitError:
        return None


def _filter(ask: Ask) -> str:
    parts = [ask.request.keep or "all rows"]
    if ask.request.hold_out:
        parts.append(f"held out: {ask.request.hold_out}")
    return "; ".join(parts)


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def supervised_by(law: Law, found: Fit) -> Law:
    """A distillation law whose students without a teacher follow another fit."""
    if not hasattr(law, "supervised"):
        raise FitError(f"--supervised: is for law=distillation, not for {law.name}.")
    wanted = ("E", "A", "B", "alpha", "beta", "gamma")
    parameters = {"gamma": 1.0, "beta": found.parameters.get("alpha"), **found.parameters}
    if any(parameters.get(name) is None for name in wanted):
        raise FitError(
            f"--supervised: a fit of law={found.law} has no {', '.join(wanted)}; "
            "give one of supervised_gamma, chinchilla_gamma or chinchilla."
        )
    pairs = tuple((name, float(parameters[name] or 0.0)) for name in wanted)
    return replace(law, supervised=pairs)  # type: ignore[call-arg]


def laws_named(names: Sequence[str]) -> list[Law]:
    """Laws by name, each once."""
    return [law_named(name) for name in dict.fromkeys(names)]
