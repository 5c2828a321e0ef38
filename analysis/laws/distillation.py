"""The distillation law, in coordinates that data identify."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .chinchilla import ChinchillaGamma, power_of_sum, with_gamma
from .law import Array, Columns, Law, Shifts, box
from .projection import grid, nonnegative

# Busbridge et al. 2025, table 6: what a student of N and D would reach without a teacher.
PAPER = (
    ("E", 1.220),
    ("A", 3355.0),
    ("B", 18186.0),
    ("alpha", 0.408),
    ("beta", 0.431),
    ("gamma", 0.452),
)
WORTH_A_LOOK = 0.01  # share of the loss above the teacher's, below which a run says nothing of A, B


@dataclass(frozen=True)
class Distillation(Law):
    """L = L_T + L_T^-c0 [1 + (L_T / (L_S d1))^(1/f1)]^(-c1 f1) (A / N^alpha + B / D^beta)^gamma.

    L_S is the loss that the student would reach without a teacher: a column of that name, or the
    supervised law at ``supervised``.

    Where L_T / (L_S d1) stays below one, the bracket is exp(-kappa (L_T / L_S)^(1/f1)) with
    kappa = c1 f1 d1^(-1/f1), and c1 and d1 cannot be told apart. The coordinates are therefore
    kappa, f1 and q = 1 / (c1 f1): the bracket is [1 + kappa q (L_T / L_S)^(1/f1)]^(-1/q), of which
    q = 0 is that limit. c1 and d1 are derived, and mean nothing where q is not identified.

    Units: losses in nats per token; N non-embedding parameters, D tokens.

    Source: Busbridge et al. 2025, arXiv:2502.08606, equation 8 and table 6.
    """

    supervised: tuple[tuple[str, float], ...] = PAPER

    name: ClassVar[str] = "distillation"
    formula: ClassVar[str] = (
        "L = L_T + L_T^-c0 [1 + (L_T / (L_S d1))^(1/f1)]^(-c1 f1) (A/N^alpha + B/D^beta)^gamma"
    )
    source: ClassVar[str] = "Busbridge et al. 2025, arXiv:2502.08606, equation 8 and table 6"
    columns: ClassVar[tuple[str, ...]] = ("N", "D", "L_T")
    coordinates: ClassVar[tuple[str, ...]] = (
        *("log_A", "log_B", "alpha", "beta", "gamma", "c0", "log_kappa", "log_f1", "q"),
    )
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("N", "alpha"), "B": ("D", "beta")}
    levels: ClassVar[dict[str, int]] = {"N": 3, "D": 3, "D/N": 2, "L_T": 3}

    def prepare(self, columns: Columns) -> dict[str, Array]:
        """Logarithms of N, D, L_T and of the supervised student's loss."""
        logs = super().prepare(columns)
        given = columns.get("L_S")
        if given is None:
            given = ChinchillaGamma().predict(dict(self.supervised), columns)
        return logs | {"L_S": np.log(given)}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        c0, log_kappa, log_f1, q = (theta_RP[:, i, None] for i in (5, 6, 7, 8))
        log_term, by_term = power_of_sum(theta_RP[:, :5], logs)
        log_T = logs["L_T"]
        power = (log_T - logs["L_S"]) / np.exp(log_f1)
        strength = np.exp(np.clip(log_kappa + power, -300, 300))  # kappa (L_T / L_S)^(1/f1)
        left = strength / (1.0 + q * strength)
        own = np.exp(log_term - c0 * log_T - np.log1p(q * strength) / q)
        loss = np.exp(log_T) + own
        share = (own / loss)[:, None]
        jacobian = np.empty((len(theta_RP), 9, len(log_T)))
        jacobian[:, :5] = by_term * share
        jacobian[:, 5:] = share
        jacobian[:, 5] *= -log_T
        jacobian[:, 6] *= -left
        jacobian[:, 7] *= left * power
        jacobian[:, 8] *= _by_q(q, strength)
        return np.log(loss), jacobian

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """Q = 0 is the limit that data rarely tell from the truth."""
        limits = {"log_kappa": (-15.0, 15.0), "log_f1": (float(np.log(0.01)), float(np.log(5.0)))}
        return box(self, gamma=(0.02, 5.0), c0=(-5.0, 10.0), q=(1e-6, 20.0), **limits)

    def move(self, theta_RP: Array, step_RP: Array) -> Array:
        """Along the valley of gamma; see `with_gamma`."""
        return theta_RP + with_gamma(theta_RP, step_RP, slice(0, 4), 4)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """For each shape of the bracket and set of exponents, A and B by projection."""
        shape = grid((0.0, 2.0), (0.0, 1.0), (-3.0, -2.3, -1.2), (0.02, 0.3))
        exponents = grid((0.3, 0.6), (0.3, 0.6), (0.5, 1.0))
        c0, log_kappa, log_f1, q = np.repeat(shape, len(exponents), 0).T[:, :, None]
        alpha, beta, gamma = np.tile(exponents, (len(shape), 1)).T[:, :, None]
        above = 1.0 - np.exp(logs["L_T"]) / loss
        seen = above > min(WORTH_A_LOOK, float(np.median(above)))
        at = {name: values[seen] for name, values in logs.items()}
        strength = np.exp(log_kappa + (at["L_T"] - at["L_S"]) / np.exp(log_f1))
        log_rest = np.log(np.maximum(above * loss, 1e-6))[seen] + c0 * at["L_T"]
        rest = np.exp((log_rest + np.log1p(q * strength) / q) / gamma)
        basis = np.stack([np.exp(-alpha * at["N"]) / rest, np.exp(-beta * at["D"]) / rest], 1)
        found = np.log(nonnegative(basis, np.ones(seen.sum())))
        return np.column_stack([found, alpha, beta, gamma, c0, log_kappa, log_f1, q])

    def natural(self, theta: Array, shifts: Shifts) -> dict[str, Array]:
        """The paper's parameters, and kappa, which is what data identify of c1, f1 and d1."""
        found = super().natural(theta, shifts)
        q = found.pop("q")
        found["c1"] = 1.0 / (q * found["f1"])
        found["d1"] = (found["kappa"] * q) ** -found["f1"]
        return found

    def theta(self, parameters: Mapping[str, float], shifts: Shifts) -> Array:
        """From c1, f1, d1; kappa is ignored, for it follows."""
        c1, f1, d1 = (parameters[name] for name in ("c1", "f1", "d1"))
        own = {"kappa": c1 * f1 * d1 ** (-1 / f1), "q": 1.0 / (c1 * f1)}
        return super().theta({**parameters, **own}, shifts)


def _by_q(q: Array, strength: Array) -> Array:
    """Derivative of -log(1 + q s) / q by q, by its series where q s is small."""
    z = q * strength
    series = strength**2 * (0.5 - z * (2 / 3 - z * 0.75))
    exact = (np.log1p(z) - z / (1.0 + z)) / q**2
    return np.where(z < 1e-4, series, exact)
