"""`pdx fit` as a function: a file and what to ask of it in, one JSON object out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdx.files import for_json

from ..fitting.bootstrap import bootstrap
from ..fitting.fit import fit
from ..fitting.fitted import Fit
from ..fitting.levels import FitError
from ..fitting.objectives import Objective
from ..fitting.validate import (
    compare,
    cross_validate,
    fitter_like,
    folds_of,
    held_out,
    residual_trends,
)
from ..laws.law import Law
from .approaches import Approach, disagreement, envelope, isoflop, surface
from .doubts import doubts
from .extrapolation import allocations, prediction
from .points import Points, Request, read_points
from .suspicions import outliers

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of a file.

    Attributes:
        laws: the law to fit, then those to compare it with.
        num_resamples: 0 for no bootstrap; level: of intervals.
        flops: budgets of compute to allocate.
        targets: points at which to predict the loss, each by the names of the law's columns.
        num_folds: 0 for no cross-validation.
        with_approaches: whether to put approaches 1, 2 and 3 side by side.
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
    with_approaches: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A fit, the points that it is of, and what else was asked, ready for JSON."""

    fit: Fit
    law: Law
    points: Points
    held: Points
    extra: dict[str, Any]
    approaches: tuple[Approach, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fit's own JSON, and the rest beside it."""
        return for_json({**self.fit.to_json(), **self.extra, "aicc": self.fit.aicc})


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
    warnings = (*warnings, *doubts(fitted, law, points), *outliers(residuals, points.rows))
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
    extra["allocation"] = allocations(fitted, law, ask.flops)
    extra["predictions"] = [prediction(fitted, law, target, ask.level) for target in ask.targets]
    beyond = [item.get("warning") for item in (*extra["allocation"], *extra["predictions"])]
    fitted = replace(fitted, warnings=(*fitted.warnings, *dict.fromkeys(w for w in beyond if w)))
    found = _approaches(fitted, law, points, ask) if ask.with_approaches else ()
    if found:
        extra["approaches"] = [one.to_json(ask.flops, ask.level) for one in found]
        furthest = max([*ask.flops, fitted.ranges["C"][1]])
        extra["disagreement"] = disagreement(found, furthest, ask.level)
        doubted = [text for one in found for text in one.warnings]
        fitted = replace(fitted, warnings=(*fitted.warnings, *doubted))
    return Answer(fit=fitted, law=law, points=points, held=held, extra=extra, approaches=found)


def _approaches(fitted: Fit, law: Law, points: Points, ask: Ask) -> tuple[Approach, ...]:
    missing = [name for name in ("N", "D") if name not in points.columns]
    if missing:
        raise FitError(
            f"--approaches: reads N and D, and law={law.name} does not read {', '.join(missing)}; "
            "use --law chinchilla."
        )
    given = (points.columns, points.loss, points.runs, ask.num_resamples, ask.seed)
    return envelope(*given), isoflop(*given), surface(fitted, law)


def _own(points: Points, law: Law) -> dict[str, Array]:
    """The columns that a law reads, and a measured L_S where it can use one."""
    extra = ("L_S",) if "L_T" in law.columns else ()
    return {n: points.columns[n] for n in (*law.columns, *extra) if n in points.columns}


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
