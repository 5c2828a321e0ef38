"""Any callable as a law: ``def mine(N, D, *, E=1.5, A=400.0, alpha=0.3): return E + ...``."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .law import Array, Columns, Law

STEP = 6e-6  # near the cube root of the rounding of float64
LOW = 1e-9  # a prediction below it has no logarithm to speak of


def user_law(function: Callable[..., Any]) -> Law:
    """A law of a function's positional arguments (columns) and keyword-only ones (parameters).

    Nothing is known of the parameters, so they are moved as they are, without bounds, from their
    defaults and from multiples of them; derivatives are central differences. Scale them in the
    function so that each is near one.

    Raises:
        TypeError: no columns, no parameters, or a parameter without a number as its default.
    """
    given = inspect.signature(function).parameters.values()
    first = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
    reads = tuple(p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    if not reads or not first or not all(isinstance(v, int | float) for v in first.values()):
        raise TypeError(
            f"{function.__name__}{inspect.signature(function)}: a law is a function of columns, "
            "with a keyword-only argument for each parameter whose default is where to start: "
            "def mine(N, D, *, E=1.5, A=400.0, alpha=0.3)."
        )

    class UserLaw(Law):
        """The function as a law."""

        name: ClassVar[str] = function.__name__
        formula: ClassVar[str] = (inspect.getdoc(function) or function.__name__).splitlines()[0]
        source: ClassVar[str] = "user-supplied"
        columns: ClassVar[tuple[str, ...]] = reads
        coordinates: ClassVar[tuple[str, ...]] = tuple(first)

        def prepare(self, columns: Columns) -> dict[str, Array]:
            """Columns as they are."""
            return {name: np.asarray(columns[name], dtype=np.float64) for name in reads}

        def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
            """Logarithm of the predicted loss, and its derivative by central differences."""
            slopes = []
            for i in range(theta_RP.shape[1]):
                step = np.zeros_like(theta_RP)
                step[:, i] = STEP * np.maximum(np.abs(theta_RP[:, i]), 1e-2)
                rise = self._log(theta_RP + step, logs) - self._log(theta_RP - step, logs)
                slopes.append(rise / (2 * step[:, i, None]))
            return self._log(theta_RP, logs), np.stack(slopes, 1)

        def bounds(self, logs: Columns, loss: Array) -> Array:
            """None that anyone could hit."""
            return np.tile([-1e12, 1e12], (len(first), 1))

        def starts(self, logs: Columns, loss: Array) -> Array:
            """The defaults, and each of them halved and doubled."""
            own = np.array(list(first.values()), dtype=np.float64)
            moved = [
                own * np.where(np.arange(len(own)) == i, f, 1.0)
                for i in range(len(own))
                for f in (0.5, 2.0)
            ]
            return np.array([own, *moved])

        def _log(self, theta_RP: Array, logs: Columns) -> Array:
            parameters = {name: theta_RP[:, i, None] for i, name in enumerate(first)}
            with np.errstate(all="ignore"):
                loss = function(*(logs[name] for name in reads), **parameters)
            shape = (len(theta_RP), len(logs[reads[0]]))
            loss = np.broadcast_to(np.asarray(loss, dtype=np.float64), shape)
            return np.log(np.where(np.isfinite(loss), np.maximum(loss, LOW), 1e12))

    return UserLaw()
