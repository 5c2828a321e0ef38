"""How to split a budget of compute between a teacher and its student, by the distillation law.

C = 6 N D of the student + inference 2 N_T D + training 6 N_T D_T of the teacher, each of the last
two where the accounting charges it. The teacher's loss is the supervised law's at N_T and D_T.

Source: Busbridge et al. 2025, arXiv:2502.08606, section 5 (compute-optimal distillation). We
deviate in counting FLOPs as 6 N D and 2 N D, without attention and embeddings.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..laws.chinchilla import ChinchillaGamma

Array = NDArray[np.float64]
Taught = Callable[[Mapping[str, Array]], Array]  # columns N, D, L_T -> the distilled student's loss
NUM = 33  # places a grid has along each of its variables
ROUNDS = 6  # each looks around the last one's best, a third as far


@dataclass(frozen=True, kw_only=True)
class Split:
    """The best use of a budget.

    Attributes:
        shares: of the budget, by student, teacher_inference and teacher_training.
        alone: loss, N and D of a student without a teacher that gets all of the budget.
        at_edge: variables that lie at the end of what was searched: no optimum in these.
    """

    flops: float
    charges_inference: bool
    charges_training: bool
    N: float
    D: float
    N_T: float
    D_T: float
    L_T: float
    loss: float
    shares: dict[str, float]
    alone: dict[str, float]
    at_edge: tuple[str, ...]

    @property
    def pays(self) -> bool:
        """Whether the student with a teacher is the better one."""
        return self.loss < self.alone["loss"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "pays": self.pays}


def split_budget(
    flops: float,
    taught: Taught,
    supervised: Mapping[str, float],
    *,
    charges_inference: bool = True,
    charges_training: bool = True,
    num_params: float | None = None,
    num_params_teacher: tuple[float, float] = (1e6, 1e13),
    ratio: tuple[float, float] = (1.0, 1e4),
    num: int = NUM,
) -> Split:
    """Search N, N_T and the tokens of both; the student takes what the teacher leaves.

    Args:
        supervised: parameters of the law of students, and teachers, without a teacher.
        num_params: the student's, if it is given; else it is searched too.
        num_params_teacher: the range of N_T; ratio: that of D_T / N_T.
        num: places of the grid along each variable.
    """
    law = ChinchillaGamma()

    def untaught(N: Array, D: Array) -> Array:
        return law.predict(dict(supervised), {"N": N, "D": D})

    low = np.log([num_params or 1e6, num_params_teacher[0], ratio[0]])
    high = np.log([num_params or 1e13, num_params_teacher[1], ratio[1]])
    middle, half = (low + high) / 2, (high - low) / 2
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        axes = [
            np.unique(np.clip(np.linspace(m - h, m + h, num), least, most))
            for m, h, least, most in zip(middle, half, low, high, strict=True)
        ]
        logs = [grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")]
        N, N_T, M_T = np.exp(logs[0]), np.exp(logs[1]), np.exp(logs[2])
        D_T = M_T * N_T
        training = 6 * N_T * D_T if charges_training else np.zeros_like(N)
        per_token = 6 * N + (2 * N_T if charges_inference else 0.0)
        D = (flops - training) / per_token
        losses = np.full(len(N), np.inf)
        fits = D > N * 1e-3  # the rest of the budget must buy some training
        with np.errstate(all="ignore"):
            L_T = untaught(N_T[fits], D_T[fits])
            losses[fits] = taught({"N": N[fits], "D": D[fits], "L_T": L_T})
        losses[~np.isfinite(losses)] = np.inf
        k = int(np.argmin(losses))
        found = {"N": N[k], "D": D[k], "N_T": N_T[k], "D_T": D_T[k], "loss": losses[k]}
        if not best or found["loss"] <= best["loss"]:
            best = {name: float(value) for name, value in found.items()}
            middle = np.log([best["N"], best["N_T"], best["D_T"] / best["N_T"]])
        half = half / 3
    spent = {
        "student": 6 * best["N"] * best["D"],
        "teacher_inference": 2 * best["N_T"] * best["D"] * charges_inference,
        "teacher_training": 6 * best["N_T"] * best["D_T"] * charges_training,
    }
    L_T = float(untaught(np.array([best["N_T"]]), np.array([best["D_T"]]))[0])
    return Split(
        flops=flops,
        charges_inference=charges_inference,
        charges_training=charges_training,
        **best,
        L_T=L_T,
        shares={name: value / sum(spent.values()) for name, value in spent.items()},
        alone=_alone(flops, untaught, num_params),
        at_edge=tuple(
            name
            for name, at, least, most in zip(
                ("N", "N_T", "D_T / N_T"), middle, low, high, strict=True
            )
            if most > least and (at < least + 1e-3 or at > most - 1e-3)
        ),
    )


def best_teacher_loss(
    taught: Taught, num_params: float, num_tokens: float, losses: tuple[float, float] = (1.0, 5.0)
) -> tuple[float, float]:
    """The teacher's loss at which a student's is least, and that loss, if teachers are free."""
    low, high = losses
    for _ in range(ROUNDS):
        L_T = np.linspace(low, high, 1001)
        same = np.ones_like(L_T)
        found = taught({"N": num_params * same, "D": num_tokens * same, "L_T": L_T})
        k = int(np.argmin(found))
        low, high = L_T[max(k - 1, 0)], L_T[min(k + 1, 1000)]
    return float(L_T[k]), float(found[k])


def _alone(flops: float, untaught: Callable[..., Array], num_params: float | None) -> dict:
    """A student without a teacher on the whole budget."""
    N = np.geomspace(1e5, 1e13, 20001) if num_params is None else np.array([num_params])
    D = flops / 6 / N
    losses = untaught(N, D)
    k = int(np.argmin(losses))
    return {"N": float(N[k]), "D": float(D[k]), "loss": float(losses[k])}
