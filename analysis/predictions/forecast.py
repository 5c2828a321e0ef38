"""The loss of a recipe at a size and token count that nobody has run: every law, with intervals.

An interval is of one more run. It holds the curve's own uncertainty (resampled runs, widened where
settings are hardly more than parameters), the scatter of single runs about the curve, and the
difference between those laws that the runs can bear. It cannot hold the error of a law that none
of them is.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..fitting.bootstrap import bootstrap
from ..fitting.fit import fit
from ..fitting.fitted import Fit
from ..fitting.levels import SAME, FitError, levels_of
from ..fitting.supervised import supervised_by
from ..fitting.validate import decades_beyond
from ..laws import law_named
from ..runs.labels import SIZE_NAME, human
from ..runs.seeds import LEVEL

Array = NDArray[np.float64]
SURFACES = ("chinchilla", "chinchilla_tied", "chinchilla_gamma", "kaplan_offset")  # of N and D
SLICES = ("power", "power_offset")  # of size alone, at the target's tokens
LEAST_SHARE = 0.5  # of the runs, for a slice to have a say beside laws that use them all


@dataclass(frozen=True, kw_only=True)
class Target:
    """A student that might be trained.

    Attributes:
        num_params: without embeddings. teacher_loss: of a teacher that no run had, in nats per
            token; None for the teacher of the runs.
    """

    num_params: float
    num_tokens: float
    teacher_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class ByLaw:
    """What one law says.

    Attributes:
        interval: of one more run. curve: of the mean over many. num_settings: distinct sizes (and
            tokens) that the law rests on. decades_beyond: how far outside them the target lies.
    """

    law: str
    loss: float
    interval: tuple[float, float]
    curve: tuple[float, float]
    aicc: float
    num_points: int
    num_settings: int
    decades_beyond: dict[str, float]
    unidentified: tuple[str, ...]
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A recipe at a target: the best law's loss, and an interval that holds every law's.

    Attributes:
        refused: why a law was not used, by its name.
    """

    recipe: str
    by_law: tuple[ByLaw, ...]
    refused: dict[str, str]

    @property
    def best(self) -> ByLaw | None:
        """The law of lowest AICc; among laws on as many points, for others do not compare."""
        most = max((one.num_points for one in self.by_law), default=0)
        same = [one for one in self.by_law if one.num_points == most]
        return min(same, key=lambda one: (one.aicc, one.law), default=None)

    @property
    def loss(self) -> float:
        """By the best law; NaN where there is none."""
        return self.best.loss if self.best else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """From the lowest to the highest end of any law's interval."""
        ends = [one.interval for one in self.by_law]
        if not ends:
            return float("nan"), float("nan")
        return min(low for low, _ in ends), max(high for _, high in ends)

    @property
    def decades(self) -> dict[str, float]:
        """How far the target lies outside the runs, in decades of each column."""
        return self.best.decades_beyond if self.best else {}

    def at(self, law: str) -> float | None:
        """The loss by one law, if it was used."""
        return next((one.loss for one in self.by_law if one.law == law), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "recipe": self.recipe,
            "loss": self.loss if self.best else None,
            "interval": list(self.interval) if self.best else None,
            "law": self.best.law if self.best else None,
            "decades_beyond": self.decades,
            "laws": [
                {
                    "law": one.law,
                    "formula": one.fit.formula,
                    "loss": one.loss,
                    "interval": list(one.interval),
                    "curve_interval": list(one.curve),
                    "aicc": one.aicc if np.isfinite(one.aicc) else None,
                    "num_points": one.num_points,
                    "num_settings": one.num_settings,
                    "decades_beyond": one.decades_beyond,
                    "parameters": one.fit.parameters,
                    "unidentified": list(one.unidentified),
                    "data_digest": one.fit.data_digest,
                }
                for one in self.by_law
            ],
            "refused": self.refused,
        }


def forecast(
    runs: pd.DataFrame,
    recipe: str,
    target: Target,
    metric: str,
    num_resamples: int = 400,
    seed: int = 0,
    untaught: Fit | None = None,
) -> Forecast:
    """Every law that the recipe's runs can bear, at the target.

    Args:
        runs: finished runs of this recipe: size, tokens, ``metric``, ``val/teacher_loss``.
        untaught: the law of students without a teacher, which the distillation law builds on.
    """
    by_law, refused = [], {}
    surfaces = False
    given = runs[runs[metric].notna()]
    for name, columns, rows, at in _candidates(given, target, refused):
        if not rows.any():
            refused[name] = "no run tells its teacher's loss"
            continue
        if name in SLICES and surfaces and rows.mean() < LEAST_SHARE:
            refused[name] = f"{rows.mean():.0%} of the runs are at the target's tokens"
            continue
        law = law_named(name)
        if name == "distillation" and untaught is not None:
            law = supervised_by(law, untaught)
        y = given[metric].to_numpy(dtype=float)[rows]
        try:
            found = fit(law, columns, y, with_profiles=False, seed=seed)
        except FitError as err:
            refused[name] = str(err)
            continue
        settings = len({tuple(row) for row in np.column_stack(list(columns.values()))})
        if not found.converged:
            refused[name] = f"not converged: {found.why}"
        elif settings <= found.num_free:
            refused[name] = (
                f"{settings} distinct settings for {found.num_free} parameters: nothing is left "
                "to test it by"
            )
        else:
            scheme = "levels" if name in SLICES else "runs"
            found = bootstrap(
                found, columns, y, num_resamples=num_resamples, scheme=scheme, seed=seed
            )
            by_law.append(_at(found, at, len(y), settings, seed))
            surfaces |= name in SURFACES
    return Forecast(recipe=recipe, by_law=tuple(by_law), refused=refused)


def _candidates(
    runs: pd.DataFrame, target: Target, refused: dict[str, str]
) -> list[tuple[str, dict[str, Array], NDArray[np.bool_], dict[str, Array]]]:
    """(law, columns, rows, target's columns) of everything worth trying."""
    size = runs[SIZE_NAME].to_numpy(dtype=float)
    tokens = runs["num_tokens"].to_numpy(dtype=float)
    at = {"N": np.array([target.num_params]), "D": np.array([target.num_tokens])}
    every = np.ones(len(runs), dtype=bool)
    if target.teacher_loss is not None:
        known = pd.to_numeric(runs.get("val/teacher_loss", pd.Series(np.nan, runs.index)))
        rows = known.notna().to_numpy()
        columns = {"N": size[rows], "D": tokens[rows], "L_T": known.to_numpy(dtype=float)[rows]}
        return [("distillation", columns, rows, {**at, "L_T": np.array([target.teacher_loss])})]
    found = [(name, {"N": size, "D": tokens}, every, at) for name in SURFACES]
    by_tokens = np.abs(tokens / target.num_tokens - 1) < SAME
    by_ratio = np.abs(tokens / size / (target.num_tokens / target.num_params) - 1) < 5 * SAME
    rows = max(by_tokens, by_ratio, key=lambda chosen: len(levels_of(size[chosen])))
    if not rows.any():
        ratio = target.num_tokens / target.num_params
        refused |= dict.fromkeys(
            SLICES,
            f"no run has {human(target.num_tokens)} tokens or {ratio:.3g} tokens per parameter",
        )
        return found
    return found + [(name, {"x": size[rows]}, rows, {"x": at["N"]}) for name in SLICES]


def _at(found: Fit, at: dict[str, Array], num: int, settings: int, seed: int) -> ByLaw:
    """The law's loss there and its intervals, on log loss.

    Residuals of a fit are short by its parameters: the scatter is divided by n - p, the curve's
    deviations are widened by sqrt(k / (k - p)) for k settings, and the scatter is a t variable.
    """
    free = found.num_free
    middle = float(np.log(found.predict(at)[0]))
    moved = np.log(found.curves(np.array(found.draws), at)[:, 0]) - middle
    moved = moved[np.isfinite(moved)] * np.sqrt(settings / (settings - free))
    left = max(num - free, 1)
    scatter = found.rms_log_residual * np.sqrt(num / left)
    noise = scatter * np.random.default_rng(seed).standard_t(left, len(moved))
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    one_more, curve = (
        tuple(float(v) for v in np.exp(middle + np.percentile(values, tails)))
        for values in (moved + noise, moved)
    )
    return ByLaw(
        law=found.law,
        loss=float(np.exp(middle)),
        interval=one_more,
        curve=curve,
        aicc=found.aicc,
        num_points=num,
        num_settings=settings,
        decades_beyond=decades_beyond(found, at),
        unidentified=found.unidentified,
        fit=found,
    )
