"""What stands below a figure: what its points, bars, lines and hatching are."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from collections.abc import Sequence

from ..questions.results import Results
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import NO_DISTILLATION
from ..runs.seeds import ENOUGH_SEEDS
from ..tables.labels import slice_name


def caption_accounting() -> str:
    """What each accounting charges, and how the fair control is read off."""
    return " ".join(f"'{a.label}': {a.meaning}." for a in ACCOUNTINGS) + (
        " The control at equal compute is read off straight lines in log tokens between its "
        "measured token counts (which lie slightly above a convex curve, in favour of "
        "distillation) and never extrapolated."
    )


def caption_loss(results: Results, charged: bool) -> str:
    """The main figure's caption."""
    laws = sorted({c.drawn.law for c in results.curves if c.drawn is not None})
    fits = (
        "Lines are fits of "
        + " or ".join(
            {"power": "L = A N^-alpha", "power_offset": "L = E + A N^-alpha"}[law] for law in laws
        )
        + ", shaded bands their 95% bootstrap over sizes and seeds; drawn over the measured "
        "range only; thin lines join points too few to fit."
        if laws
        else "No curve is fitted: too few distinct sizes."
    )
    seeds = [int(n) for c in results.curves for n in c.points.groupby("x")["seed"].nunique()]
    text = (
        f"Points are means over seeds, small dots single seeds. {caption_bars(seeds)} {fits} "
        f"N: {results.definitions['N']}; this is a slice at "
        f"{slice_name(results)} and says nothing of how loss depends on tokens."
    )
    if not charged:
        lacking = (
            "No distilled run has finished"
            if results.complete["is_control"].all()
            else f"There is no run with loss=none ('{NO_DISTILLATION}') to compare with"
        )
        return f"{text} {lacking}, so nothing can be said here of what a teacher buys or costs."
    return f"{text} {caption_accounting()} {caption_missing(results)}"


def caption_bars(nums: Sequence[int]) -> str:
    """What bars stand for, by how many seeds or pairs (``nums``) they rest on."""
    said = [f"n = {span(sorted(set(nums)))}."]
    if any(num >= ENOUGH_SEEDS for num in nums):
        said.append("Bars with caps: Student-t 95% intervals, cut where they leave the frame.")
    if any(1 < num < ENOUGH_SEEDS for num in nums):
        said.append(
            "Bars without caps join the dots of two: their range, no interval (a t interval of "
            "two is 13 standard errors each way; it stands in the tables)."
        )
    if 1 in nums:
        said.append("Hollow: one alone, no interval.")
    return " ".join(said)


def caption_missing(results: Results) -> str:
    """What hatching means, where there is any."""
    missing = any((t["num_pairs"] == 0).any() for t in results.paired.values() if len(t))
    return (
        "Hatched: no fair control; above, how many times the recipe's tokens it needs and how "
        "many were measured ('?': not known). No point is drawn there."
        if missing
        else ""
    )


def span(numbers: Sequence[int]) -> str:
    """[2, 3] -> '2 to 3'."""
    if not numbers:
        return "0"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
