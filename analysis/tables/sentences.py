"""The report's words: what the numbers show, with their intervals, and what they do not."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np
import pandas as pd

from ..questions.results import Results
from ..questions.swept import best_values, numeric_params, swept_rate
from ..runs.accounting import ACCOUNTINGS
from ..runs.labels import human
from ..runs.seeds import ENOUGH_SEEDS
from .labels import slice_name
from .table import interval_text

MOST_SENTENCES = 12


def shows(results: Results) -> list[str]:
    """What was measured, one sentence or two per accounting, or per sweep without a control."""
    if results.plan.confirm:
        return [*_confirmed(results), *_best_values(results)]
    said = []
    paired = results.paired[ACCOUNTINGS[0].key]
    if paired.empty or not (paired["num_pairs"] > 0).any():
        return [_best_run(results), *_best_values(results)]
    for accounting in ACCOUNTINGS:
        table = results.paired[accounting.key]
        if len(results.sizes) == 1:
            table = table.sort_values("difference", kind="stable")
        reasons = set(table["why_not"]) if not table["num_pairs"].any() else set()
        if len(reasons) == 1 and len(table) > 1:  # one sentence for all
            said.append(_accounted("any recipe", accounting.label, table.head(1)))
            continue
        for series, group in table.groupby("series", sort=False):
            said.append(_accounted(str(series), accounting.label, group))
    if len(said) > MOST_SENTENCES:
        more = len(said) - MOST_SENTENCES
        said = [*said[:MOST_SENTENCES], f"{more} more comparisons are in the tables below."]
    return [*said, *_best_values(results)]


def does_not_show(results: Results) -> list[str]:
    """Why the numbers bear no more than they do; each is read off the plan and the runs."""
    limits = []
    seeds = results.chosen.groupby(["setting"])["seed"].nunique()
    fewest = int(seeds.min())
    if fewest < ENOUGH_SEEDS:
        limits.append(
            f"{fewest} {'seed' if fewest == 1 else 'seeds'} in at least one setting: "
            + ("there is no interval there, " if fewest == 1 else "intervals are wide and rough, ")
            + f"and no claim about a method should rest on fewer than {ENOUGH_SEEDS}."
        )
    limits.append(_learning_rate(results))
    limits.append(
        f"A slice at {slice_name(results)}: not a scaling law in N and D, and no ground for "
        "extrapolating beyond the sizes measured."
    )
    data = results.complete["data_digest"].nunique() if "data_digest" in results.complete else 0
    teachers = results.complete["teacher_id"].nunique() if "teacher_id" in results.complete else 0
    if data <= 1:
        limits.append("One data set; another may differ.")
    if teachers == 1:
        limits.append("One teacher; a stronger or weaker one may differ.")
    num_seeds = results.chosen.loc[results.chosen["teacher_seed"] != "", "teacher_seed"].nunique()
    if num_seeds > 1:
        limits.append(
            f"{num_seeds} seeds of teachers: intervals of their students are over teachers, seeds "
            "of students averaged within each; all other intervals are given their teacher."
        )
    tests = sum(int((t["num_pairs"] > 1).sum()) for t in results.paired.values())
    if tests > 1:
        limits.append(
            f"{tests} intervals, each at 95% by itself: no correction for looking at many."
        )
    counts = results.counts
    if counts["diverged"] or counts["pruned"] or counts["missing"]:
        limits.append(
            f"Diverged runs ({counts['diverged']}), pruned ones ({counts['pruned']}) and missing "
            f"ones ({counts['missing']}) are in "
            "no mean, fit or difference; unless they lack at random, what is left is flattered."
        )
    return limits


def _confirmed(results: Results) -> list[str]:
    """Of a search to be confirmed: what fresh seeds say of its best, and nothing of other runs."""
    if not results.confirmed:
        left = "no run that would confirm it has finished"
        why = "the search is not over" if results.plan.confirmed is None else left
        return [
            f"The best of the search is not confirmed on fresh seeds ({why}): the lowest of "
            f"{len(results.complete)} runs on one seed is partly luck, and decides nothing."
        ]
    said = []
    objective = results.plan.objectives[0].removeprefix("-")
    for one in results.confirmed:
        text = f"On fresh seeds [{one.label}] has a test loss of "
        text += interval_text(one.test.mean, one.test.low, one.test.high) + f" (n = {one.test.num})"
        if one.effect is not None and one.p is not None:
            effect = interval_text(one.effect.mean, *one.effect.interval(), digits=4)
            text += (
                f", against the control [{one.control}] {effect} nats/token (Holm p = {one.p:.2g})"
            )
        against = "its gain in" if one.control else "its"
        text += f": {one.word}. The search saw {against} {objective} as "
        seen, again = one.searched, one.fresh.mean
        if one.control:
            seen, again = one.searched_gain, one.fresh_gain.mean
        said.append(f"{text}{seen:.4f}; on fresh seeds it is {again:.4f}.")
    return said


def _accounted(series: str, label: str, group: pd.DataFrame) -> str:
    """One recipe under one accounting."""
    seen = group[group["num_pairs"] > 0]
    head = f"{label[:1].upper()}{label[1:]}" if label[0] != "+" else f"With {label[2:]} charged"
    head = "At equal student tokens" if label == ACCOUNTINGS[0].label else head
    lacking = group[group["num_pairs"] == 0]
    why = "; ".join(
        f"{row['size']}: {row['why_not']}" for row in lacking.to_dict("records") if row["why_not"]
    )
    if seen.empty:
        return f"{head}, {series} cannot be compared with the control ({why})."
    if len(group) == 1:
        return f"{head}, {_one_size(series, group.iloc[0])}"
    better = int((seen["difference"] < 0).sum())
    extremes = seen.loc[[seen["difference"].idxmin(), seen["difference"].idxmax()]]
    spans = " to ".join(
        f"{_difference(row)} at {row['size']}"
        for row in extremes.drop_duplicates("size").to_dict("records")
    )
    tested = seen[seen["difference/low"].notna()]
    sure = int(((tested["difference/high"] < 0) | (tested["difference/low"] > 0)).sum())
    text = (
        f"{head}, {series} has a lower loss than the control at {better} of {len(seen)} "
        f"{'size' if len(seen) == 1 else 'sizes'} compared: mean difference in nats/token {spans}"
    )
    text += (
        f"; the 95% interval leaves out zero at {sure} of {len(tested)}."
        if len(tested)
        else "; one pair each, so no interval."
    )
    return text + (f" Not compared: {why}." if why else "")


def _one_size(series: str, row: pd.Series) -> str:
    """One difference: where it lies, and whether its interval tells it from none."""
    side = "below" if row["difference"] < 0 else "above"
    text = f"{series} ends {side} the control at {row['size']}: {_difference(row)} nats/token"
    if not np.isfinite(row["difference/low"]):
        return f"{text}; one pair, so no interval."
    apart = row["difference/high"] < 0 or row["difference/low"] > 0
    return text + ("." if apart else "; the 95% interval holds zero.")


def _difference(row: pd.Series) -> str:
    text = interval_text(row["difference"], row["difference/low"], row["difference/high"])
    return f"{text} (n = {row['num_pairs']})"


def _best_run(results: Results) -> str:
    """Without a control: the lowest mean, and that there is nothing to hold it against."""
    table = results.aggregated
    best = table.loc[table[results.metric].idxmin()]
    text = interval_text(
        best[results.metric], best[f"{results.metric}/low"], best[f"{results.metric}/high"]
    )
    num = int(best[f"{results.metric}/num"])
    why = (
        "no distilled run has finished"
        if results.complete["is_control"].all()
        else "no control (loss=none) of the same size, seed, data and tokens has finished"
    )
    return (
        f"The lowest {results.metric} is {text} nats/token (n = {num}), by {best['series']} at "
        f"{best['size']} with {human(best['num_tokens'])} tokens. Nothing can be said of what the "
        f"teacher bought: {why}."
    )


def _best_values(results: Results) -> list[str]:
    """For each swept number, where its best value lies."""
    said = []
    for param in numeric_params(results):
        runs = results.complete if param in results.roles.learning_rates else results.chosen
        _, best = best_values(runs, results.roles, param, results.metric)
        if best.empty:
            continue
        values = "; ".join(
            f"{row['best']:.3g} for {row['recipe']} at {row['size']}"
            + (" (at the edge of its range)" if row["at_edge"] else "")
            for row in best.head(6).to_dict("records")
        )
        more = f"; {len(best) - 6} more in the table" if len(best) > 6 else ""
        said.append(f"Best {param}: {values}{more}.")
    return said


def _learning_rate(results: Results) -> str:
    """Whether the learning rate was tuned, as far as the plan knows, and whether it differs."""
    swept = swept_rate(results)
    rates = results.complete["learning_rate"].dropna().astype(float)
    if swept:
        _, best = best_values(results.complete, results.roles, swept, results.metric)
        edge = int(best["at_edge"].sum())
        return (
            f"{swept} was swept here and comparisons use the best mean of each setting, chosen on "
            "the very loss that is reported"
            + (
                f"; {edge} of {len(best)} best values lie at the edge of their range, so these "
                "settings are not tuned."
                if edge
                else "."
            )
            + _diverged_rates(results, swept)
        )
    if rates.empty:
        return "The learning rate is not recorded, so it cannot be said whether it was tuned."
    if rates.nunique() == 1:
        return (
            f"The learning rate was not tuned here: every run used peak_lr = {rates.iloc[0]:.3g}, "
            "which may suit one recipe or size better than another."
        )
    text = (
        f"The learning rate was set per run from {rates.min():.3g} to {rates.max():.3g} and not "
        "tuned in this sweep; the table of settings lists it."
    )
    pairs = results.compared[ACCOUNTINGS[0].key][["learning_rate", "control_rate"]].dropna()
    apart = pairs[pairs["learning_rate"].astype(float) != pairs["control_rate"].astype(float)]
    if apart.empty:
        return text
    of_recipe, of_control = apart.astype(float).drop_duplicates().iloc[0]
    return (
        f"{text} {len(apart)} of {len(pairs)} pairs differ in it (such as {of_recipe:.3g} against "
        f"the control's {of_control:.3g}): their difference holds that of the rate too."
    )


def _diverged_rates(results: Results, rate: str) -> str:
    """How many runs of the sweep diverged, and at which learning rates."""
    diverged = results.runs[results.runs["status"] == "diverged"]
    if diverged.empty:
        return ""
    counts = diverged[rate].astype(float).value_counts().sort_index()
    at = ", ".join(f"{num} at {value:.3g}" for value, num in counts.items())
    return f" {len(diverged)} of {len(results.runs)} runs diverged ({at})."
