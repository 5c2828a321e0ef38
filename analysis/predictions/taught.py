"""The distillation law of a sweep's own runs: what is without a teacher in it, its controls say."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..fitting.bootstrap import bootstrap
from ..fitting.fit import fit
from ..fitting.fitted import Fit
from ..fitting.levels import FitError
from ..fitting.supervised import supervised_by
from ..laws import law_named
from ..laws.law import Law
from ..runs.labels import SIZE_NAME, TEACHER_LOSS


def columns_of(runs: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """N without embeddings, D, and the teacher's loss where every run has one."""
    names = {"N": SIZE_NAME, "D": "num_tokens", "L_T": TEACHER_LOSS}
    known = {
        ours: name for ours, name in names.items() if name in runs and runs[name].notna().all()
    }
    return {ours: runs[name].to_numpy(dtype=float) for ours, name in known.items()}


def fit_untaught(controls: pd.DataFrame, metric: str, num_resamples: int = 0) -> Fit:
    """What students reach without a teacher, by the runs that had none.

    Raises:
        FitError: too few of their sizes or token counts; the message names those missing.
    """
    at = {name: values for name, values in columns_of(controls).items() if name != "L_T"}
    loss = controls[metric].to_numpy(dtype=float)
    try:
        found = fit(law_named("chinchilla_gamma"), at, loss, with_profiles=False)
    except FitError as err:
        raise FitError(f"students without a teacher: {err}") from err
    return bootstrap(found, at, loss, num_resamples=num_resamples) if num_resamples else found


def fit_taught(
    own: pd.DataFrame, untaught: Fit, metric: str, num_resamples: int = 0
) -> tuple[Law, Fit]:
    """The distillation law of one recipe's runs, and the law as it is with these controls.

    Raises:
        FitError: too few levels of sizes, tokens or teachers.
    """
    law = supervised_by(law_named("distillation"), untaught)
    known = own[own[TEACHER_LOSS].notna()]
    at, loss = columns_of(known), known[metric].to_numpy(dtype=float)
    found = fit(law, at, loss, with_profiles=False)
    if num_resamples:
        found = bootstrap(found, at, loss, num_resamples=num_resamples, law=law)
    return law, found
