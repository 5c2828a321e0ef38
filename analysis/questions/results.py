"""Everything that the figures and the report show, computed once from the run folders."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pdx.errors import SweepError

from ..runs.accounting import ALL_ACCOUNTINGS
from ..runs.controls import compare, differences
from ..runs.foreign import Reading, read_foreign
from ..runs.labels import SIZE_NAME, Roles, human, keep_best_learning_rate, label_runs, roles
from ..runs.seeds import aggregate
from ..runs.table import STATUSES, Plan, load_curves, load_plan, load_runs
from .confirmed import CONFIRM, Confirmed, confirm
from .curves import Curve, curves_of
from .optimal_size import OptimalSize, optimal_sizes
from .verdicts import Verdict, judge

MAX_NAME = 9  # letters that a tick has room for
DEFINITIONS = {
    "N": f"{SIZE_NAME}, parameters of the student without embeddings and head",
    "D": "num_tokens, training tokens of the student, repeats counted",
    "C": "flops_train_exact, FLOPs of matrix products, forward and backward (not 6ND)",
}
QUALITY_METRICS = ("val/teacher_kl", "val/top1_agreement", "val/ece", "val/bits_per_byte")


@dataclass(frozen=True, kw_only=True)
class Results:
    """One sweep, analysed.

    Attributes:
        runs: every planned run, labelled; complete: those that finished;
        chosen: of these, the best learning rate of every setting (all where none was swept).
        compared, paired: per accounting, the differences by run and by series and size.
        optimal: which size is best at equal compute, of the recipes that bear an answer.
        confirmed: the best settings of a search on fresh seeds; no other table, figure or fit has
            these runs, and none of its other runs decides.
        verdicts: on the claims of the sweep file, if it makes any.
        definitions: of N, D, C and loss, as the runs count them.
    """

    plan: Plan
    roles: Roles
    metric: str
    runs: pd.DataFrame
    complete: pd.DataFrame
    chosen: pd.DataFrame
    aggregated: pd.DataFrame
    compared: dict[str, pd.DataFrame]
    paired: dict[str, pd.DataFrame]
    curves: tuple[Curve, ...]
    learning: pd.DataFrame
    optimal: tuple[OptimalSize, ...]
    confirmed: tuple[Confirmed, ...]
    verdicts: tuple[Verdict, ...]
    definitions: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many points are complete, diverged, pruned, missing."""
        found = self.runs["status"].value_counts()
        return {name: int(found.get(name, 0)) for name in STATUSES}

    @property
    def recipes(self) -> list[str]:
        """Recipes of finished runs, controls first."""
        order = self.complete.sort_values("is_control", ascending=False, kind="stable")
        return list(dict.fromkeys(order["recipe"]))

    @property
    def sizes(self) -> list[str]:
        """Names of the sizes, smallest first."""
        return list(dict.fromkeys(self.complete.sort_values(SIZE_NAME, kind="stable")["size"]))

    @property
    def size_names(self) -> dict[float, str]:
        """A short name for each size of a figure: its own where that is short, else its number."""
        names = {}
        for size, group in self.chosen.groupby(SIZE_NAME):
            own = group["size"].unique()
            short = len(own) == 1 and len(own[0]) <= MAX_NAME
            names[float(str(size))] = str(own[0]) if short else human(float(str(size)))
        return names


def analyse(
    sweep_dir: Path, runs_dir: Path, metric: str = "val/loss", num_resamples: int = 200
) -> Results:
    """Read a sweep and compute all tables and fits.

    Raises:
        SweepError: no plan, no finished run, or no run that holds ``metric``.
    """
    runs = load_runs(sweep_dir, runs_dir)
    learning = load_curves(runs[runs["status"] == "complete"], runs_dir, metric)
    return analyse_table(load_plan(sweep_dir), runs, learning, metric, num_resamples)


def results_of(
    runs: Sequence[Mapping[str, Any]],
    reading: Reading,
    name: str,
    command: str,
    num_resamples: int = 200,
) -> Results:
    """The same of anybody's runs, each with run_id, state, params, metrics, tags, seconds, curves.

    Raises:
        SweepError: no run, a name that is mapped to nothing, or no finished run with a loss.
    """
    plan, table, learning, definitions = read_foreign(runs, reading, name, command)
    return analyse_table(plan, table, learning, "val/loss", num_resamples, definitions)


def analyse_table(
    plan: Plan,
    table: pd.DataFrame,
    learning: pd.DataFrame,
    metric: str,
    num_resamples: int,
    definitions: dict[str, str] | None = None,
) -> Results:
    """The same of a table of runs, a row per point of the plan, and of their curves.

    Args:
        learning: run_id, tokens and ``metric`` of every evaluation during training.

    Raises:
        SweepError: no run holds ``metric``.
    """
    which = roles(plan)
    runs = label_runs(table, plan)
    complete = runs[(runs["status"] == "complete") & (runs["role"] != CONFIRM)]
    if metric not in runs or complete[metric].notna().sum() == 0:
        known = ", ".join(name for name in runs if "/" in name)
        raise SweepError(f"metric={metric}: no finished run has it; known: {known}.")
    complete = complete[complete[metric].notna()]
    chosen = keep_best_learning_rate(complete, plan, metric)
    compared = {a.key: compare(chosen, which, a, metric) for a in ALL_ACCOUNTINGS}
    metrics = [name for name in complete if "/" in name and complete[name].notna().any()]
    return Results(
        plan=plan,
        roles=which,
        metric=metric,
        runs=runs,
        complete=complete,
        chosen=chosen,
        aggregated=aggregate(complete, [metric, *(m for m in metrics if m != metric)]),
        compared=compared,
        paired={key: differences(table) for key, table in compared.items()},
        curves=tuple(curves_of(chosen, compared, metric, num_resamples)),
        learning=learning.merge(chosen, on="run_id", suffixes=("", "_final")),
        optimal=optimal_sizes(chosen, learning, metric, num_resamples),
        definitions={**DEFINITIONS, "loss": f"{metric}, nats per token", **(definitions or {})},
        confirmed=tuple(confirm(plan, runs)),
        verdicts=tuple(judge(plan.claims, runs)),
    )
