"""The report's tables on the distillation questions: worth, gains, gap, teacher, allocation."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from ..questions.gain_trends import trends
from ..questions.multiplier import Multiplier, multipliers
from ..questions.results import Results
from ..questions.teachers import best_teachers, gaps
from ..runs.accounting import ALL_ACCOUNTINGS
from ..runs.labels import TEACHER_LOSS, human
from .budget import budget_tables
from .table import Table, interval_text


def distillation_tables(results: Results) -> list[Table]:
    """Every question that the runs bear on; empty where no run was distilled beside a control."""
    if results.chosen["is_control"].all() or not results.chosen["is_control"].any():
        return []
    made = (_worth(results), _trends(results), _gaps(results), _best(results))
    made += tuple(budget_tables(results))
    return [table for table in made if table.rows or table.note]


def _worth(results: Results) -> Table:
    """What a recipe is worth in the control's compute, one column an accounting."""
    cells: dict[tuple[str, str], dict[str, Multiplier]] = {}
    for one in multipliers(results):
        cells.setdefault((one.series, one.size), {})[one.accounting] = one
    rows = [
        (
            series,
            size,
            str(max(one.num_pairs for one in found.values())),
            *(found[a.key].text if a.key in found else "" for a in ALL_ACCOUNTINGS),
        )
        for (series, size), found in cells.items()
    ]
    return Table(
        title="Worth in compute at equal loss",
        note="FLOPs that the control would need to reach the recipe's loss, over the recipe's own "
        "with the teacher charged as the column says (the last: seconds over seconds): above 1x "
        "the recipe is the cheaper one. "
        "Read off straight lines in log compute between the control's measured token counts; "
        "beyond them only a bound is given. Sizes with one control token count are left out."
        if rows
        else "",
        columns=("recipe", "size", "pairs", *(a.label for a in ALL_ACCOUNTINGS)),
        rows=tuple(rows),
    )


def _trends(results: Results) -> Table:
    """Gain along each variable."""
    rows = []
    for one in trends(results):
        levels = ", ".join(f"{human(at)}: {m.mean:+.3f}" for at, m in one.levels.items())
        slope = "" if one.slope is None else interval_text(*one.slope)
        rows.append((one.variable.label, one.held, slope, one.says, levels))
    return Table(
        title="Gain of distillation",
        note="Gain: the control's loss minus the recipe's at equal student tokens, nats per token; "
        "above zero distillation is better. One variable at a time. The line goes through the "
        "means of levels; where it crosses zero has Fieller's 95% interval."
        if rows
        else "",
        columns=("against", "held", "change per decade [95%]", "says", "mean gain by level"),
        rows=tuple(rows),
    )


def _gaps(results: Results) -> Table:
    """The capacity gap, per student and teacher variable."""
    rows = [
        (
            one.recipe,
            one.size,
            "loss" if one.variable == TEACHER_LOSS else "size",
            one.says,
            ", ".join(f"{human(at)}: {m.mean:.3f}" for at, m in one.levels.items()),
        )
        for one in gaps(results)
    ]
    return Table(
        title="Capacity gap",
        note="Whether a better or larger teacher makes a worse student from some teacher on. "
        "Claimed only for a curvature and a minimum that 95% intervals put inside the teachers "
        "tried."
        if rows
        else "",
        columns=("recipe", "student", "teacher's", "says", "student's loss by teacher"),
        rows=tuple(rows),
    )


def _best(results: Results) -> Table:
    """The best of the teachers that were tried."""
    rows = [
        (
            one.recipe,
            one.size,
            one.within,
            one.teacher,
            f"{one.loss:.3f}",
            str(one.next_teacher),
            interval_text(one.behind.mean, one.behind.low, one.behind.high),
            "yes" if one.is_sure else "no: the two may be equal",
        )
        for one in best_teachers(results)
    ]
    return Table(
        title="Best teacher tried",
        note="",
        columns=(
            "recipe",
            "student",
            "compared",
            "teacher",
            "loss",
            "next",
            "behind by [95%]",
            "sure",
        ),
        rows=tuple(rows),
    )
