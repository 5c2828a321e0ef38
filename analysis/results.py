"""Everything that the figures and the report show, computed once from the run folders."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pdx.errors import SweepError

from .aggregate import Roles, aggregate, keep_best_learning_rate, label_runs, roles
from .bootstrap import bootstrap
from .compute import ACCOUNTINGS, compare, differences
from .fit import Fit, FitError, fit
from .laws import LAWS
from .table import STATUSES, Plan, load_curves, load_plan, load_runs

SIZE_NAME = "num_params_non_embedding"
QUALITY_METRICS = ("val/teacher_kl", "val/top1_agreement", "val/ece", "val/bits_per_byte")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Loss against size for one series under one accounting, with its fits.

    Attributes:
        points: one row per run (or per seed of an interpolated control): x, loss, seed.
        fits: every law that the sizes allow; the last is the one drawn.
        refused: why the others were not fitted.
    """

    accounting: str
    series: str
    recipe: str
    is_control: bool
    points: pd.DataFrame
    fits: tuple[Fit, ...]
    refused: tuple[str, ...]

    @property
    def charged(self) -> bool:
        """Whether this is a control that was given the teacher's compute."""
        return self.is_control and self.accounting != ACCOUNTINGS[0].key

    @property
    def drawn(self) -> Fit | None:
        """The sound fit of lowest AICc: an offset is drawn only where the points ask for one."""
        sound = [f for f in self.fits if f.converged and not f.bounds_hit]
        if sound:
            return min(sound, key=lambda f: f.aicc)
        return self.fits[0] if self.fits else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """One sweep, analysed.

    Attributes:
        runs: every planned run, labelled; complete: those that finished;
        chosen: of these, the best learning rate of every setting (all where none was swept).
        compared, paired: per accounting, the differences by run and by series and size.
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


def analyse(
    sweep_dir: Path, runs_dir: Path, metric: str = "val/loss", num_resamples: int = 200
) -> Results:
    """Read a sweep and compute all tables and fits.

    Raises:
        SweepError: no plan, no finished run, or no run that holds ``metric``.
    """
    plan = load_plan(sweep_dir)
    which = roles(plan)
    runs = label_runs(load_runs(sweep_dir, runs_dir), plan)
    complete = runs[runs["status"] == "complete"]
    if metric not in runs or complete[metric].notna().sum() == 0:
        known = ", ".join(name for name in runs if "/" in name)
        raise SweepError(f"metric={metric}: no finished run has it; known: {known}.")
    complete = complete[complete[metric].notna()]
    chosen = keep_best_learning_rate(complete, plan, metric)
    compared = {a.key: compare(chosen, which, a, metric) for a in ACCOUNTINGS}
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
        curves=tuple(_curves(chosen, compared, metric, num_resamples)),
        learning=load_curves(chosen, runs_dir, metric),
    )


def _curves(
    chosen: pd.DataFrame, compared: dict[str, pd.DataFrame], metric: str, num_resamples: int
) -> list[Curve]:
    """The curves of the main figure: recipes at the usual tokens, and the fair control of each."""
    curves = []
    usual = chosen[(chosen["token_multiple"] - 1).abs() < 0.005]
    for accounting in ACCOUNTINGS:
        for (series, recipe, is_control), group in usual.groupby(
            ["series", "recipe", "is_control"], sort=False
        ):
            if is_control and accounting.charges:
                continue
            same = next((c for c in curves if c.series == series and not is_control), None)
            points = _points(group, metric)
            fits, refused = (
                (same.fits, same.refused) if same else _fits(points, metric, series, num_resamples)
            )
            curves.append(
                Curve(
                    accounting=accounting.key,
                    series=str(series),
                    recipe=str(recipe),
                    is_control=bool(is_control),
                    points=points,
                    fits=fits,
                    refused=refused,
                )
            )
        if not accounting.charges:
            continue
        table = compared[accounting.key]
        table = table[((table["token_multiple"] - 1).abs() < 0.005)]
        for names, group in _by_need(table):
            points = _points(group.dropna(subset=["control_loss"]), "control_loss")
            points = points.drop_duplicates(["x", "seed"])
            label = f"control, compute of {names}" if names else "control at equal compute"
            fits, refused = _fits(points, metric, label, num_resamples)
            curves.append(
                Curve(
                    accounting=accounting.key,
                    series=label,
                    recipe=names,
                    is_control=True,
                    points=points,
                    fits=fits,
                    refused=refused,
                )
            )
    return curves


def _by_need(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """One fair control for all recipes where the teacher costs them the same, else one each."""
    needs = table.groupby(["size", "recipe"])["needed_multiple"].mean().unstack("recipe")
    if table.empty or needs.isna().all(axis=None):
        return []
    spread = (needs.max(axis=1) / needs.min(axis=1)).max()
    if needs.shape[1] == 1 or spread < 1.01:
        return [("", table)]
    return [(str(recipe), group) for recipe, group in table.groupby("recipe", sort=False)]


def _points(group: pd.DataFrame, value: str) -> pd.DataFrame:
    """x, loss and seed of each row, as plain numbers."""
    return pd.DataFrame(
        {
            "x": group[SIZE_NAME].astype(float).to_numpy(),
            "loss": group[value].astype(float).to_numpy(),
            "seed": group["seed"].astype(str).to_numpy(),
            "size": group["size"].astype(str).to_numpy(),
        }
    )


def _fits(
    points: pd.DataFrame, metric: str, series: str, num_resamples: int
) -> tuple[tuple[Fit, ...], tuple[str, ...]]:
    """Every law that the points allow, with its bootstrap; and why the rest were refused."""
    fits, refused = [], []
    x, y = points["x"].to_numpy(), points["loss"].to_numpy()
    for law in LAWS.values():
        try:
            found = fit(
                law,
                x,
                y,
                x_name=f"{SIZE_NAME} (student)",
                y_name=f"{metric} (nats/token)",
                data_filter=f"complete runs of '{series}' at the usual tokens; diverged left out",
            )
        except FitError as err:
            refused.append(str(err))
            continue
        fits.append(bootstrap(found, x, y, num_resamples=num_resamples))
    return tuple(fits), tuple(refused)


def best_values(
    runs: pd.DataFrame, which: Roles, param: str, metric: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Loss against one numeric parameter: the mean per value, and the best with its place.

    Returns:
        rows (recipe, size, value, loss and interval); best (recipe, size, best value, at_edge).
    """
    table = aggregate(runs.assign(_value=runs[param]), [metric])
    values = runs.drop_duplicates("setting").set_index("setting")[param]
    table["value"] = table["setting"].map(values).astype(float)
    table = table[table["value"].notna()]
    text = f"{param.rsplit('.', 1)[-1]}="
    table["recipe"] = [
        ", ".join(part for part in recipe.split(", ") if not part.startswith(text)) or "all runs"
        for recipe in table["series"]
    ]
    rows = []
    for (recipe, size), group in table.groupby(["recipe", "size"], sort=False):
        if group["value"].nunique() < 2:
            continue
        best = group.loc[group[metric].idxmin()]
        edge = best["value"] in (group["value"].min(), group["value"].max())
        rows.append(
            {
                "recipe": recipe,
                "size": size,
                "best": best["value"],
                metric: best[metric],
                "tried": f"{group['value'].min():.3g} to {group['value'].max():.3g} "
                f"({group['value'].nunique()} values)",
                "at_edge": bool(edge),
            }
        )
    return table, pd.DataFrame(rows, columns=["recipe", "size", "best", metric, "tried", "at_edge"])


def numeric_params(results: Results) -> list[str]:
    """Swept numbers other than seed, size and tokens: each gets a figure of its own."""
    found = []
    for name in (*results.roles.learning_rates, *results.roles.recipe):
        column = results.complete[name].dropna() if name in results.complete else pd.Series()
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            continue
        if len(np.unique(column.to_numpy(dtype=float))) > 1:
            found.append(name)
    return found
