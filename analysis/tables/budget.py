"""The report's tables by the distillation law: the split of a budget, and the best teacher."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..fitting.fitted import Fit
from ..fitting.levels import FitError
from ..laws.law import Law
from ..predictions.taught import fit_taught, fit_untaught
from ..questions.results import Results
from ..runs.labels import SIZE_NAME, TEACHER_LOSS, human
from ..scaling.split import Split, Taught, best_teacher_loss, split_budget
from .table import Table

CHARGES = (
    ("free", False, False),
    ("its inference", True, False),
    ("its training", False, True),
    ("both", True, True),
)
NUM_DRAWS = 40  # each is an optimisation: enough for the ends of an interval to one digit
COARSE = 11  # places of the grid for a draw, along each variable
TAILS = (2.5, 97.5)
SPLIT = (
    *("recipe", "budget", "charged", "N [95%]", "D", "teacher N [95%]", "teacher D"),
    *("teacher's loss", "loss [95%]", "no teacher", "student's share [95%]", "teacher pays"),
    "remarks",
)
BEST = ("recipe", "student", "tokens", "teacher's loss [95%]", "student's loss [95%]", "remarks")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One recipe's law, and the resamples of it and of its controls' law."""

    recipe: str
    law: Law
    untaught: Fit
    taught: Fit

    def says(self, draw: Sequence[float] | None = None) -> Taught:
        """The distilled student's loss by the law, or by one resample of it."""
        theta = np.array([self.taught.theta if draw is None else draw])
        return lambda at: self.taught.curves(theta, at, self.law)[0]

    def supervised(self, draw: Sequence[float] | None = None) -> dict[str, float]:
        """Parameters of the law of students without a teacher, or of one resample of it."""
        law = self.untaught.law_itself()
        theta = np.array([self.untaught.theta if draw is None else draw])
        return {k: float(v[0]) for k, v in law.natural(theta, self.untaught.shifts).items()}


def budget_tables(results: Results) -> list[Table]:
    """Both tables; without rows, and with the reasons, where the runs cannot bear the law."""
    taught = results.chosen[~results.chosen["is_control"].astype(bool)]
    if TEACHER_LOSS not in taught or taught[TEACHER_LOSS].nunique() < 2:
        return []
    controls = results.chosen[results.chosen["is_control"].astype(bool)]
    laws, refused = [], []
    for recipe, own in taught.groupby("recipe", sort=False):
        try:
            untaught = fit_untaught(controls, results.metric, NUM_DRAWS)
            law, found = fit_taught(own, untaught, results.metric, NUM_DRAWS)
        except FitError as err:
            refused.append(f"{recipe}: {str(err).partition('. Points alone')[0]}")
            continue
        laws.append(Fitted(recipe=str(recipe), law=law, untaught=untaught, taught=found))
    why = f"The distillation law was not fitted. {'; '.join(refused)}." if refused else ""
    budget = float(np.median(taught["flops_train_6nd"].astype(float)))
    return [_splits(laws, budget, why), _best(laws, results)]


def _splits(laws: Sequence[Fitted], budget: float, why: str) -> Table:
    """Each law's use of the median run's FLOPs, and of ten times as much."""
    rows = []
    for one in laws:
        for flops in (budget, 10 * budget):
            for name, inference, training in CHARGES:
                charged = {"charges_inference": inference, "charges_training": training}
                best = split_budget(flops, one.says(), one.supervised(), **charged)
                draws = [
                    split_budget(flops, one.says(a), one.supervised(b), **charged, num=COARSE)
                    for a, b in zip(one.taught.draws, one.untaught.draws, strict=True)
                ]
                rows.append((one.recipe, f"{flops:.2g}", name, *_cells(best, draws, one.taught)))
    note = (
        "By the distillation law fitted to these runs (C = 6ND + 2 N_T D + 6 N_T D_T where "
        f"charged). Brackets: 95%, from {NUM_DRAWS} resamples of the law and of the controls' law; "
        "'teacher pays': the share of them in which the student with a teacher is better than one "
        "that gets the whole budget. A law beyond its data is a guess, and no interval holds that."
        if rows
        else ""
    )
    return Table(
        title="Allocation of a budget",
        note=f"{note} {why}".strip(),
        columns=SPLIT,
        rows=tuple(rows),
    )


def _cells(best: Split, draws: Sequence[Split], found: Fit) -> tuple[str, ...]:
    remarks = [f"{name} at the end of its range" for name in best.at_edge]
    least, most = found.ranges["L_T"]
    if not least <= best.L_T <= most:
        remarks.append(f"no teacher tried was so: {least:.3f} to {most:.3f}")
    if found.unidentified:
        remarks.append(f"not identified: {', '.join(found.unidentified)}")
    pays = sum(draw.pays for draw in draws) / len(draws)
    return (
        _with_ends(best.N, [d.N for d in draws], human),
        human(best.D),
        _with_ends(best.N_T, [d.N_T for d in draws], human),
        human(best.D_T),
        f"{best.L_T:.3f}",
        _with_ends(best.loss, [d.loss for d in draws], "{:.3f}".format),
        f"{best.alone['loss']:.3f}",
        _with_ends(best.shares["student"], [d.shares["student"] for d in draws], "{:.0%}".format),
        f"{'yes' if best.pays else 'no'} (in {pays:.0%})",
        "; ".join(remarks),
    )


def _best(laws: Sequence[Fitted], results: Results) -> Table:
    """The teacher's loss at which each student's is least, at the sweep's own tokens."""
    rows = []
    for one in laws:
        own = results.chosen[results.chosen["recipe"] == one.recipe]
        tried = own[TEACHER_LOSS].astype(float)
        within = (0.5 * float(tried.min()), 1.5 * float(tried.max()))
        usual = own[(own["token_multiple"] - 1).abs() < 0.005]
        for (size, num, tokens), _ in usual.groupby(["size", SIZE_NAME, "num_tokens"], sort=False):
            ask = (float(num), float(tokens), within)
            at, loss = best_teacher_loss(one.says(), *ask)
            draws = [best_teacher_loss(one.says(draw), *ask) for draw in one.taught.draws]
            teachers, losses = zip(*draws, strict=True)
            outside = not tried.min() <= at <= tried.max()
            rows.append(
                (
                    one.recipe,
                    str(size),
                    human(float(tokens)),
                    _with_ends(at, teachers, "{:.3f}".format),
                    _with_ends(loss, losses, "{:.3f}".format),
                    f"no teacher tried was so: {tried.min():.3f} to {tried.max():.3f}"
                    if outside
                    else "",
                )
            )
    return Table(
        title="Best teacher by the law",
        note="The teacher's own loss (nats/token) at which the student's is least, by the "
        f"distillation law, if teachers are free. Brackets: 95%, from {NUM_DRAWS} resamples."
        if rows
        else "",
        columns=BEST,
        rows=tuple(rows),
    )


def _with_ends(value: float, draws: Sequence[float], form: Callable[[float], str]) -> str:
    low, high = np.percentile(draws, TAILS)
    return f"{form(value)} [{form(float(low))}, {form(float(high))}]"
