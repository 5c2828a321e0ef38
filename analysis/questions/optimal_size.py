"""Which size is best at equal compute, by the three approaches, from a sweep's finished runs.

N counts embeddings once where that is known, for then C = 6 N D is near the exact FLOPs of small
models too. Approach 1 reads runs that were planned to end at several token counts; where sizes
have one each, it reads evaluations during training, and warns of it.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..fitting.bootstrap import bootstrap
from ..fitting.fit import fit
from ..fitting.levels import FitError, levels_of
from ..laws import law_named
from ..runs.labels import SIZE_NAME
from ..scaling.approaches import NAMES, Approach, envelope, isoflop, surface

Array = NDArray[np.float64]
WITH_EMBEDDINGS = "num_params_total"
LEAST_SIZES = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Points [n] that an approach reads; ``runs`` says which are of one curve."""

    N: Array
    D: Array
    loss: Array
    runs: Array

    @property
    def flops(self) -> Array:
        """FLOPs by 6 N D."""
        return 6 * self.N * self.D

    @property
    def columns(self) -> dict[str, Array]:
        """As a law reads them."""
        return {"N": self.N, "D": self.D}


@dataclass(frozen=True, kw_only=True)
class OptimalSize:
    """One recipe by approaches 1, 2 and 3; some may be refused, not all.

    Attributes:
        curves: what approach 1 read. ends: the finished runs, which the others read.
        definition: of N.
    """

    recipe: str
    approaches: tuple[Approach, ...]
    curves: Sample
    ends: Sample
    definition: str


def optimal_sizes(
    chosen: pd.DataFrame, learning: pd.DataFrame, metric: str, num_resamples: int
) -> tuple[OptimalSize, ...]:
    """Every recipe that some approach can say something of.

    Args:
        chosen: finished runs. learning: their evaluations during training: run_id, tokens, metric.
    """
    found = []
    for recipe, own in chosen.groupby("recipe", sort=False):
        known = WITH_EMBEDDINGS in own and own[WITH_EMBEDDINGS].notna().all()
        name = WITH_EMBEDDINGS if known else SIZE_NAME
        ends = _sample(own, name, "num_tokens", metric)
        if len(levels_of(ends.N)) < LEAST_SIZES:
            continue
        seen = learning[learning["run_id"].isin(own["run_id"])]
        seen = seen[["run_id", "tokens", metric]].merge(own[["run_id", name]], on="run_id")
        first, curves = _envelope(ends, _sample(seen, name, "tokens", metric), own, num_resamples)
        second = isoflop(ends.columns, ends.loss, ends.runs, num_resamples)
        approaches = (first, second, _surface(ends, num_resamples))
        if not all(one.refused for one in approaches):
            words = "with embeddings, counted once" if known else "without embeddings"
            found.append(
                OptimalSize(
                    recipe=str(recipe),
                    approaches=approaches,
                    curves=curves,
                    ends=ends,
                    definition=f"{name}, parameters {words}",
                )
            )
    return tuple(found)


def _sample(table: pd.DataFrame, size: str, tokens: str, metric: str) -> Sample:
    N, D, loss = (table[name].to_numpy(dtype=float) for name in (size, tokens, metric))
    good = np.isfinite(loss) & (loss > 0) & (D > 0)
    runs = table["run_id"].astype(str).to_numpy()
    return Sample(N=N[good], D=D[good], loss=loss[good], runs=runs[good])


def _envelope(
    ends: Sample, during: Sample, own: pd.DataFrame, num_resamples: int
) -> tuple[Approach, Sample]:
    """Approach 1 of the ends of runs where these make curves, else of checkpoints."""
    seeds = dict(zip(own["run_id"].astype(str), own["seed"].astype(str), strict=True))
    ladder = [f"{size:g}, {seeds[str(run)]}" for size, run in zip(ends.N, ends.runs, strict=True)]
    planned = replace(ends, runs=np.array(ladder))
    first = envelope(planned.columns, planned.loss, planned.runs, num_resamples)
    if not first.refused:  # none of its points is a checkpoint
        return replace(first, warnings=()), planned
    if not len(during.N):
        return first, planned
    return envelope(during.columns, during.loss, during.runs, num_resamples), during


def _surface(ends: Sample, num_resamples: int) -> Approach:
    """Approach 3, of Chinchilla's law."""
    refused = Approach(name=NAMES[2], draws=np.empty((0, 2)))
    try:
        found = fit(law_named("chinchilla"), ends.columns, ends.loss, with_profiles=False)
    except FitError as err:
        return replace(refused, refused=str(err).partition(". Points alone")[0])
    settings = len(set(zip(ends.N, ends.D, strict=True)))
    if not found.converged or settings <= found.num_free:
        few = f"{settings} distinct settings for {found.num_free} parameters"
        return replace(refused, refused=few if found.converged else f"not converged: {found.why}")
    found = bootstrap(found, ends.columns, ends.loss, num_resamples=num_resamples)
    doubts = list(found.bounds_hit)
    if found.unidentified:
        doubts.append(f"not identified: {', '.join(found.unidentified)}")
    return replace(surface(found), warnings=tuple(doubts))
