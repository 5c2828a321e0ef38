"""Kaplan's law of N and D, as published and with an irreducible loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .chinchilla import LEVELS, power_of_sum
from .law import Array, Columns, Law, box
from .projection import grid, nonnegative


@dataclass(frozen=True)
class KaplanOffset(Law):
    """L = E + ((Nc / N)^(aN / aD) + Dc / D)^aD.

    Units: L and E in nats per token, Nc in parameters, Dc in tokens.

    Source: Kaplan et al. 2020, arXiv:2001.08361, equation 1.5, with E added.
    """

    name: ClassVar[str] = "kaplan_offset"
    formula: ClassVar[str] = "L = E + ((Nc / N)^(aN / aD) + Dc / D)^aD"
    source: ClassVar[str] = "Kaplan et al. 2020, arXiv:2001.08361, equation 1.5, with E added"
    columns: ClassVar[tuple[str, ...]] = ("N", "D")
    coordinates: ClassVar[tuple[str, ...]] = ("E", "log_Nc", "log_Dc", "aN", "aD")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"Nc": ("N", ""), "Dc": ("D", "")}
    levels: ClassVar[dict[str, int]] = LEVELS

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        E = theta_RP[:, 0, None]
        log_term, by_term = kaplan_term(theta_RP[:, 1:], logs)
        term = np.exp(log_term)
        jacobian = np.empty((len(theta_RP), 5, len(logs["N"])))
        jacobian[:, 0] = 1.0 / (E + term)
        jacobian[:, 1:] = by_term * (term * jacobian[:, 0])[:, None]
        return np.log(E + term), jacobian

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """(Nc / N)^(aN / aD) + Dc / D as two powers."""
        ratio = parameters["aN"] / parameters["aD"]
        return parameters["Nc"] ** ratio, parameters["Dc"], ratio, np.ones_like(ratio)

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """The exponents away from 0: their ratio enters."""
        limits = {"E": (0.0, float(loss.min())), "aN": (1e-3, 5.0), "aD": (1e-3, 5.0)}
        return box(self, **limits)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """For each E and pair of exponents, both terms by projection."""
        exponents = grid((0.0, 0.5, 0.8), (0.05, 0.1, 0.3, 0.6), (0.05, 0.1, 0.3, 0.6))
        E = exponents[:, :1] * loss.min()
        aN, aD = exponents[:, 1:2], exponents[:, 2:3]
        rest = (loss - E) ** (1 / aD)
        basis = np.stack([np.exp(-aN / aD * logs["N"]) / rest, np.exp(-logs["D"]) / rest], 1)
        found = np.log(nonnegative(basis, np.ones_like(loss)))
        log_Nc = np.clip(found[:, :1] * aD / aN, -60, 60)
        return np.column_stack([E, log_Nc, np.clip(found[:, 1], -60, 60), aN, aD])


@dataclass(frozen=True)
class Kaplan(KaplanOffset):
    """L = ((Nc / N)^(aN / aD) + Dc / D)^aD: nothing is irreducible.

    Units: L in nats per token, Nc in parameters, Dc in tokens.

    Source: Kaplan et al. 2020, arXiv:2001.08361, equation 1.5.
    """

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = ((Nc / N)^(aN / aD) + Dc / D)^aD"
    source: ClassVar[str] = "Kaplan et al. 2020, arXiv:2001.08361, equation 1.5"
    coordinates: ClassVar[tuple[str, ...]] = ("log_Nc", "log_Dc", "aN", "aD")

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        return kaplan_term(theta_RP, logs)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """Those of the law with an offset where it starts from none."""
        starts = super().starts(logs, loss)
        return starts[starts[:, 0] == 0, 1:]


def kaplan_term(theta_R4: Array, logs: Columns) -> tuple[Array, Array]:
    """Log of ((Nc / N)^(aN / aD) + Dc / D)^aD [R, n], and its derivative [R, 4, n].

    It is `power_of_sum` with A = Nc^(aN / aD), alpha = aN / aD, B = Dc, beta = 1, gamma = aD.
    """
    log_Nc, log_Dc, aN, aD = theta_R4.T
    ratio = aN / aD
    general = np.stack([ratio * log_Nc, log_Dc, ratio, np.ones_like(ratio), aD], 1)
    log_term, by = power_of_sum(general, logs)
    by_ratio = by[:, 0] * log_Nc[:, None] + by[:, 2]
    jacobian = np.empty((len(theta_R4), 4, by.shape[-1]))
    jacobian[:, 0] = by[:, 0] * ratio[:, None]
    jacobian[:, 1] = by[:, 1]
    jacobian[:, 2] = by_ratio / aD[:, None]
    jacobian[:, 3] = by[:, 4] - by_ratio * (ratio / aD)[:, None]
    return log_term, jacobian
