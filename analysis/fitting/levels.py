"""What points must be before a law is fitted to them: numbers, and enough distinct ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdx.errors import PdxError

from ..laws.law import Law

Array = NDArray[np.float64]
SAME = 0.01  # relative distance below which two values are one level


class FitError(PdxError, ValueError):
    """Data that cannot bear the law asked of them; the message says what is missing."""


def as_columns(
    law: Law, columns: Mapping[str, Any], loss: Any, weights: Any
) -> tuple[dict[str, Array], Array, Array]:
    """Vectors of one length of finite positive numbers: columns, loss, weights; or a refusal."""
    y = np.asarray(loss, dtype=np.float64)
    at = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    w = np.ones_like(y) if weights is None else np.asarray(weights, dtype=np.float64)
    missing = [name for name in law.columns if name not in at]
    if missing:
        raise FitError(f"{', '.join(missing)}: not given; law={law.name} reads {law.columns}.")
    for name, values in {**at, "loss": y, "weights": w}.items():
        if values.ndim != 1 or values.shape != y.shape:  # (n, 1) minus (n,) would broadcast
            raise ValueError(f"{name} has shape {values.shape}; all must be ({y.size},)")
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise FitError(
                f"{name}: {bad.sum()} of {len(y)} points are not finite and positive; "
                "leave diverged runs out before fitting."
            )
    return at, y, w


def with_compute(columns: Mapping[str, Array]) -> dict[str, Array]:
    """The columns, and C = 6 N D where N and D are among them and C is not."""
    if {"N", "D"} <= set(columns):
        return {"C": 6.0 * columns["N"] * columns["D"], **columns}
    return dict(columns)


def levels_of(values: Array) -> Array:
    """The distinct values [k], those within 1% of a level's lowest counted with it."""
    found: list[float] = []
    for value in np.sort(values):
        if not found or value > found[-1] * (1 + SAME):
            found.append(float(value))
    return np.array(found)


def num_levels(law: Law, columns: Mapping[str, Array]) -> dict[str, int]:
    """How many levels there are of everything that the law asks levels of, and of its columns."""
    names = dict.fromkeys([*law.levels, *law.columns])
    return {name: len(levels_of(_value(name, columns))) for name in names}


def check_levels(law: Law, columns: Mapping[str, Array], loss: Array, num_given: int) -> None:
    """Refuse points that cannot tell the law's parameters apart, and say which runs are missing.

    Args:
        num_given: how many parameters are fixed or tied; each makes one level less needed.

    Raises:
        FitError: too few levels of a column or of a ratio, or too few distinct points.
    """
    problems = []
    for name, asked in law.levels.items():
        needed, found = max(1, asked - num_given), levels_of(_value(name, columns))
        if len(found) < needed:
            problems.append(_missing(law, name, found, needed))
    free = len(law.coordinates) - num_given
    points = len({tuple(row) for row in np.column_stack(list(columns.values()))})
    if points < free:
        problems.append(
            f"{points} distinct points for {free} parameters; add {free - points + 1} or more"
        )
    if problems:
        raise FitError(
            f"law={law.name}: {'; '.join(problems)}. Points alone do not count; add those runs, "
            "or fix parameters (--fix NAME=VALUE), or fit a law with fewer parameters, such as "
            "power or power_offset."
        )


def _missing(law: Law, name: str, found: Array, needed: int) -> str:
    short = ", ".join(f"{value:.3g}" for value in found)
    text = f"{len(found)} distinct levels of {name} ({short}); needs {needed} or more; "
    if len(found) == 1:
        text = text.replace("levels", "level", 1)
    if name == "D/N":
        return text + (
            "with one ratio of tokens to parameters alpha and beta cannot be told apart; missing: "
            f"runs at another D/N, such as {found[0] * 4:.3g}, for two or more sizes"
        )
    if law.scales and set(law.columns) >= {"N", "D"} and name in ("N", "D"):
        other = "D" if name == "N" else "N"
        why = (
            "alpha and beta cannot be told apart"
            if len(found) == 1
            else f"too few for {name}'s coefficient, exponent and its part of E"
        )
        more = ", ".join(f"{found[-1] * 4 ** (i + 1):.3g}" for i in range(needed - len(found)))
        return text + f"{why}; missing: runs at {name} such as {more}, for two or more {other}"
    return text + f"add {needed - len(found)}"


def _value(name: str, columns: Mapping[str, Array]) -> Array:
    over, _, under = name.partition("/")
    return columns[over] / columns[under] if under else columns[over]
