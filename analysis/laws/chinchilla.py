"""Laws that add a term in N and a term in D, and their generalisation by one exponent gamma."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .law import Array, Columns, Law, box
from .projection import grid, nonnegative

EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.8)
GAMMAS = (0.4, 0.7, 1.0, 1.5)
LEVELS = {"N": 3, "D": 3, "D/N": 2}  # each term has a coefficient, an exponent and a part of E


@dataclass(frozen=True)
class Chinchilla(Law):
    """L = E + A / N^alpha + B / D^beta.

    Units: L and E in nats per token; A and B are the terms at one parameter and one token.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, approach 3.
    """

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + A / N^alpha + B / D^beta"
    source: ClassVar[str] = "Hoffmann et al. 2022, arXiv:2203.15556, approach 3"
    columns: ClassVar[tuple[str, ...]] = ("N", "D")
    coordinates: ClassVar[tuple[str, ...]] = ("E", "log_A", "log_B", "alpha", "beta")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("N", "alpha"), "B": ("D", "beta")}
    levels: ClassVar[dict[str, int]] = LEVELS

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        E, log_A, log_B, alpha, beta = (theta_RP[:, i, None] for i in range(5))
        of_N, of_D = np.exp(log_A - alpha * logs["N"]), np.exp(log_B - beta * logs["D"])
        loss = E + of_N + of_D
        jacobian = np.empty((len(theta_RP), 5, len(logs["N"])))
        jacobian[:, 0] = 1.0 / loss
        jacobian[:, 1] = of_N * jacobian[:, 0]
        jacobian[:, 2] = of_D * jacobian[:, 0]
        jacobian[:, 3] = -logs["N"] * jacobian[:, 1]
        jacobian[:, 4] = -logs["D"] * jacobian[:, 2]
        return np.log(loss), jacobian

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """Its own."""
        return tuple(parameters[name] for name in ("A", "B", "alpha", "beta"))  # type: ignore

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """E lies between 0 and the lowest loss seen."""
        return box(self, E=(0.0, float(loss.min())))

    def starts(self, logs: Columns, loss: Array) -> Array:
        """E, A and B by projection at each pair of exponents."""
        return two_terms(grid(EXPONENTS, EXPONENTS), logs, loss)


@dataclass(frozen=True)
class ChinchillaTied(Chinchilla):
    """L = E + A / N^alpha + B / D^alpha: both terms fall alike, so D/N is the same at every C.

    Units: as Chinchilla.

    Source: Muennighoff et al. 2023, arXiv:2305.16264.
    """

    name: ClassVar[str] = "chinchilla_tied"
    formula: ClassVar[str] = "L = E + A / N^alpha + B / D^alpha"
    source: ClassVar[str] = "Muennighoff et al. 2023, arXiv:2305.16264"
    coordinates: ClassVar[tuple[str, ...]] = ("E", "log_A", "log_B", "alpha")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("N", "alpha"), "B": ("D", "alpha")}
    levels: ClassVar[dict[str, int]] = {"N": 2, "D": 2, "D/N": 2}

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        log_loss, free = super().evaluate(theta_RP[:, [0, 1, 2, 3, 3]], logs)
        free[:, 3] += free[:, 4]
        return log_loss, free[:, :4]

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """Its own, with beta = alpha."""
        return tuple(parameters[name] for name in ("A", "B", "alpha", "alpha"))  # type: ignore

    def starts(self, logs: Columns, loss: Array) -> Array:
        """E, A and B by projection at each exponent."""
        return two_terms(np.repeat(grid(EXPONENTS), 2, axis=1), logs, loss)[:, :4]


@dataclass(frozen=True)
class ChinchillaGamma(Law):
    """L = E + (A / N^alpha + B / D^beta)^gamma.

    Units: L and E in nats per token; A and B are the terms at one parameter and one token, in
    nats per token to the power 1 / gamma.

    Source: Busbridge et al. 2025, arXiv:2502.08606, equation 1.
    """

    name: ClassVar[str] = "chinchilla_gamma"
    formula: ClassVar[str] = "L = E + (A / N^alpha + B / D^beta)^gamma"
    source: ClassVar[str] = "Busbridge et al. 2025, arXiv:2502.08606, equation 1"
    columns: ClassVar[tuple[str, ...]] = ("N", "D")
    coordinates: ClassVar[tuple[str, ...]] = ("E", "log_A", "log_B", "alpha", "beta", "gamma")
    scales: ClassVar[dict[str, tuple[str, str]]] = {"A": ("N", "alpha"), "B": ("D", "beta")}
    levels: ClassVar[dict[str, int]] = LEVELS

    def evaluate(self, theta_RP: Array, logs: Columns) -> tuple[Array, Array]:
        """Logarithm of the predicted loss, and its derivative."""
        E = theta_RP[:, 0, None]
        log_term, by_term = power_of_sum(theta_RP[:, 1:], logs)
        term = np.exp(log_term)
        loss = E + term
        jacobian = np.empty((len(theta_RP), 6, len(logs["N"])))
        jacobian[:, 0] = 1.0 / loss
        jacobian[:, 1:] = by_term * (term / loss)[:, None]
        return np.log(loss), jacobian

    def terms(self, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array, Array] | None:
        """Its own."""
        return tuple(parameters[name] for name in ("A", "B", "alpha", "beta"))  # type: ignore

    def bounds(self, logs: Columns, loss: Array) -> Array:
        """E lies between 0 and the lowest loss seen; gamma away from 0, where nothing is left."""
        return box(self, E=(0.0, float(loss.min())), gamma=(0.02, 5.0))

    def move(self, theta_RP: Array, step_RP: Array) -> Array:
        """Along the valley of gamma; see `with_gamma`."""
        return theta_RP + with_gamma(theta_RP, step_RP, slice(1, 5), 5)

    def starts(self, logs: Columns, loss: Array) -> Array:
        """Chinchilla's starts for every gamma, once E is taken off at its own best value."""
        plain = Chinchilla().starts(logs, loss)
        return np.concatenate([_with_gamma(plain, gamma, logs, loss) for gamma in GAMMAS])


@dataclass(frozen=True)
class SupervisedGamma(ChinchillaGamma):
    """The gamma law as the baseline of a distillation law: N counts non-embedding parameters.

    Units: as ChinchillaGamma, with N non-embedding.

    Source: Busbridge et al. 2025, arXiv:2502.08606, equation 1 and table 6.
    """

    name: ClassVar[str] = "supervised_gamma"
    source: ClassVar[str] = "Busbridge et al. 2025, arXiv:2502.08606, equation 1 and table 6"


def power_of_sum(theta_R5: Array, logs: Columns) -> tuple[Array, Array]:
    """Log of (A / N^alpha + B / D^beta)^gamma [R, n], and its derivative [R, 5, n].

    theta is (log A, log B, alpha, beta, gamma).
    """
    log_A, log_B, alpha, beta, gamma = (theta_R5[:, i, None] for i in range(5))
    of_N, of_D = log_A - alpha * logs["N"], log_B - beta * logs["D"]
    log_sum = np.logaddexp(of_N, of_D)
    jacobian = np.empty((len(theta_R5), 5, len(logs["N"])))
    jacobian[:, 0] = gamma * np.exp(of_N - log_sum)
    jacobian[:, 1] = gamma - jacobian[:, 0]
    jacobian[:, 2] = -logs["N"] * jacobian[:, 0]
    jacobian[:, 3] = -logs["D"] * jacobian[:, 1]
    jacobian[:, 4] = log_sum
    return gamma * log_sum, jacobian


def with_gamma(theta_RP: Array, step_RP: Array, others: slice, gamma: int) -> Array:
    """The step under which gamma times each of ``others`` moves along a straight line.

    The curve is known by gamma log A, gamma log B, gamma alpha, gamma beta and little else of
    gamma (whose derivative at these given is an entropy, ln 2 at most), so valleys are straight in
    them and hyperbolas in A, B, alpha, beta.
    """
    step = step_RP.copy()
    at = theta_RP[:, gamma]
    step[:, gamma] = np.maximum(step[:, gamma], -0.9 * at)
    step[:, others] *= (at / (at + step[:, gamma]))[:, None]
    return step


def two_terms(exponents_G2: Array, logs: Columns, loss: Array) -> Array:
    """(E, log A, log B, alpha, beta) [G, 5], the first three by projection."""
    of_N = np.exp(-exponents_G2[:, :1] * logs["N"])
    of_D = np.exp(-exponents_G2[:, 1:] * logs["D"])
    found = nonnegative(np.stack([np.ones_like(of_N), of_N, of_D], 1), loss)
    return np.column_stack([found[:, 0], np.log(found[:, 1:]), exponents_G2])


def _with_gamma(plain_S5: Array, gamma: float, logs: Columns, loss: Array) -> Array:
    """Starts [S, 6]: for each E and pair of exponents, A and B by projection under gamma."""
    E = np.minimum(plain_S5[:, :1], 0.98 * loss.min())
    exponents = plain_S5[:, 3:] / gamma
    of_N = np.exp(-exponents[:, :1] * logs["N"])
    of_D = np.exp(-exponents[:, 1:] * logs["D"])
    rest = (loss - E) ** (1 / gamma)
    basis = np.stack([of_N / rest, of_D / rest], 1)
    found = nonnegative(basis, np.ones_like(loss))
    return np.column_stack([E, np.log(found), exponents, np.full(len(E), gamma)])
