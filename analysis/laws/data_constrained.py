"""Repeated data and excess parameters lose their worth as repetitions add up."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .chinchilla import Chinchilla
from .law import Array, Columns, box
from .projection import grid

MAX_WORTH = 1e4  # repetitions: nobody has seen a worth that large, so a bound that is hit says so


@dataclass(frozen=True)
class DataConstrained(Chinchilla):
    """L = E + A / N'^alpha + B / D'^beta, in effective parameters and tokens.

    D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)), with U unique tokens and D / U - 1 repetitions
    (none where D < U). N' likewise from U_N = min(N, N_opt(U)), R_N and N / U_N - 1, where N_opt(U)
    is compute-optimal for U tokens: alpha A / N^alpha = beta B / U^beta.

    R_D and R_N lie on a ridge unless some runs repeat much and some have many excess parameters.

    Units: L and E in nats per token; R_D and R_N in repetitions.

    Source: Muennighoff et al. 2023, arXiv:2305.16264.
    """

    name: ClassVar[str] = "data_constrained"
    formula: ClassVar[str] = "L = E + A / N'^alpha + B / D'^beta"
    source: ClassVar[str] = "Muennighoff et al. 2023, arXiv:2305.16264"
    columns: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    coordinates: ClassVar[tuple[str, ...]] = (*Chinchilla.coordinates, "log_R_D", "log_R_N")
    levels: ClassVar[dict[str, int]] = Chinchilla.levels

    def shifts(self, logs: Columns) -> dict[str, float]:
        """U is centred with D: their ratio enters."""
        middle = float(logs["D"].mean())
        return {"N": float(logs["N"].mean()), "D": middle, "U": middle}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        E, log_A, log_B, alpha, beta, log_R_D, log_R_N = (theta_RP[:, i, None] for i in range(7))
        log_N, log_D, log_U = logs["N"], logs["D"], logs["U"]
        unique = np.minimum(log_D, log_U)  # below one epoch there are only D tokens to speak of
        worth_D, _, by_R_D = _effective(log_D - unique, log_R_D)
        # alpha A / N^alpha = beta B / U^beta, solved for log N
        slope = np.maximum(alpha, 1e-9)
        ratio = np.log(slope) + log_A - np.log(np.maximum(beta, 1e-9)) - log_B
        optimal = (ratio + beta * log_U) / slope
        excess = log_N > optimal
        worth_N, by_excess, by_R_N = _effective(np.where(excess, log_N - optimal, 0.0), log_R_N)
        effective_N = np.where(excess, optimal, log_N) + worth_N
        effective_D = unique + worth_D
        of_N, of_D = np.exp(log_A - alpha * effective_N), np.exp(log_B - beta * effective_D)
        loss = E + of_N + of_D
        share_N, share_D = of_N / loss, of_D / loss
        # how the optimum moves effective N; zero where there is no excess
        moved = -alpha * share_N * np.where(excess, 1.0 - by_excess, 0.0)
        jacobian = np.empty((len(theta_RP), 7, len(log_N)))
        jacobian[:, 0] = 1.0 / loss
        jacobian[:, 1] = share_N + moved / slope
        jacobian[:, 2] = share_D - moved / slope
        jacobian[:, 3] = -effective_N * share_N + moved * (1 / slope - optimal) / slope
        jacobian[:, 4] = -effective_D * share_D + moved * (
            log_U / slope - 1 / (slope * np.maximum(beta, 1e-9))
        )
        jacobian[:, 5] = -beta * share_D * by_R_D
        jacobian[:, 6] = -alpha * share_N * by_R_N
        return np.log(loss), jacobian

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """Exponents away from 0, where no optimum exists; worth between 0.01 and 10,000."""
        worth = (float(np.log(0.01)), float(np.log(MAX_WORTH)))
        limits = {"E": (0.0, float(loss.min())), "log_R_D": worth, "log_R_N": worth}
        return box(self, alpha=(0.01, 5.0), beta=(0.01, 5.0), **limits)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """Chinchilla's starts for a few worths of a repetition."""
        plain = super().starts(logs, loss)
        worth = np.log(grid((2.0, 15.0, 100.0), (2.0, 15.0, 100.0)))
        repeated = np.repeat(plain, len(worth), axis=0)
        return np.column_stack([repeated, np.tile(worth, (len(plain), 1))])


def _effective(log_ratio: Array, log_R: Array) -> tuple[Array, Array, Array]:
    """log(1 + R (1 - exp(-r / R))) with r = exp(log_ratio) - 1 repetitions.

    Returns:
        The value, its derivative by log_ratio, and by log R.
    """
    R = np.exp(log_R)
    repeats = np.expm1(np.minimum(log_ratio, 50.0))  # beyond, a repetition is worth nothing
    left = np.exp(-repeats / R)
    gain = -R * np.expm1(-repeats / R)
    by_R = (gain - repeats * left) / (1.0 + gain)
    return np.log1p(gain), left * (1.0 + repeats) / (1.0 + gain), by_R
