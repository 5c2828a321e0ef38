"""Loss against size: the curves of the main figure, and their fits."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from dataclasses import dataclass

import pandas as pd

from ..fitting.bootstrap import bootstrap
from ..fitting.fit import fit
from ..fitting.fitted import Fit
from ..fitting.levels import FitError
from ..laws import law_named
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import SIZE_NAME

LAWS = ("power", "power_offset")  # of size alone, at the tokens that go with it


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


def curves_of(
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
    if points.empty:
        return (), ("measured at no size",)
    fits, refused = [], []
    x, y = {"x": points["x"].to_numpy()}, points["loss"].to_numpy()
    for law in map(law_named, LAWS):
        try:
            found = fit(
                law,
                x,
                y,
                names={"x": f"{SIZE_NAME} (student)", "loss": f"{metric} (nats/token)"},
                data_filter=f"complete runs of '{series}' at the usual tokens; diverged left out",
            )
        except FitError as err:
            refused.append(str(err))
            continue
        fits.append(bootstrap(found, x, y, num_resamples=num_resamples, scheme="levels"))
    return tuple(fits), tuple(refused)
