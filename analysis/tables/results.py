"""The report's tables of results: differences, settings, best values."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np

from ..questions.optimal_size import OptimalSize
from ..questions.results import Results
from ..questions.swept import best_values, numeric_params
from ..runs.accounting import ALL_ACCOUNTINGS
from ..runs.labels import SIZE_NAME, human
from ..runs.seeds import LEVEL
from ..scaling.approaches import disagreement
from .table import Table, interval_text

NAMES = {
    "val/loss": "val loss",
    "test/loss": "test loss",
    "val/bits_per_byte": "val bits/byte",
    "val/teacher_kl": "KL to teacher",
    "val/top1_agreement": "top-1 agreement",
    "val/ece": "ECE",
}


def comparisons(results: Results) -> list[Table]:
    """Paired differences, one table per accounting."""
    tables = []
    for accounting in ALL_ACCOUNTINGS:
        if accounting.spends not in results.chosen:  # other people's runs
            continue
        paired = results.paired[accounting.key]
        rows = [
            (
                str(row["series"]),
                str(row["size"]),
                f"{row['loss']:.3f}",
                interval_text(row["control_loss"], np.nan, np.nan),
                interval_text(row["difference"], row["difference/low"], row["difference/high"]),
                f"{row['num_pairs']} of {row['num_runs']}",
                _multiple(row["needed_multiple"]),
                _multiple(row["measured_multiple"]),
                str(row["why_not"]),
            )
            for row in paired.to_dict("records")
        ]
        columns = (
            "recipe",
            "size",
            "loss",
            "control",
            "difference [95%]",
            "pairs",
            "control tokens needed",
            "measured up to",
            "not compared because",
        )
        if rows and not any(row[-1] for row in rows):
            rows, columns = [row[:-1] for row in rows], columns[:-1]
        if rows:
            tables.append(
                Table(
                    title=accounting.label,
                    note=f"{accounting.meaning[:1].upper()}{accounting.meaning[1:]}.",
                    columns=columns,
                    rows=tuple(rows),
                )
            )
    return tables


def settings_table(results: Results) -> Table:
    """Every setting: means over seeds with intervals."""
    metrics = [name for name in NAMES if name in results.aggregated]
    metrics = [results.metric, *(name for name in metrics if name != results.metric)]
    rows = []
    for row in results.aggregated.to_dict("records"):
        cells = [
            interval_text(row[m], row[f"{m}/low"], row[f"{m}/high"])
            if m == results.metric
            else interval_text(row[m], np.nan, np.nan)
            for m in metrics
        ]
        rate = row["learning_rate"]
        rows.append(
            (
                str(row["series"]),
                str(row["size"]),
                human(row[SIZE_NAME]),
                human(row["num_tokens"]),
                "" if np.isnan(rate) else f"{rate:.3g}",
                str(row[f"{results.metric}/num"]),
                *cells,
            )
        )
    return Table(
        title="Settings",
        note="",
        rows=tuple(rows),
        columns=(
            "recipe",
            "size",
            "parameters",
            "tokens",
            "peak lr",
            "seeds",
            *(NAMES.get(m, m) + (" [95%]" if m == results.metric else "") for m in metrics),
        ),
    )


def best_tables(results: Results) -> list[Table]:
    """Best value of each swept number."""
    tables = []
    for param in numeric_params(results):
        runs = results.complete if param in results.roles.learning_rates else results.chosen
        _, best = best_values(runs, results.roles, param, results.metric)
        rows = tuple(
            (
                str(row["recipe"]),
                str(row["size"]),
                f"{row['best']:.3g}",
                f"{row[results.metric]:.3f}",
                str(row["tried"]),
                "yes" if row["at_edge"] else "no",
            )
            for row in best.to_dict("records")
        )
        if rows:
            tables.append(
                Table(
                    title=f"Best {param}",
                    note="",
                    rows=rows,
                    columns=(
                        "recipe",
                        "size",
                        "best",
                        NAMES.get(results.metric, results.metric),
                        "tried",
                        "at the edge",
                    ),
                )
            )
    return tables


def _multiple(value: float) -> str:
    return f"{value:.3g}x" if np.isfinite(value) else ""


def optimal_size_table(results: Results) -> Table:
    """The three approaches to the compute-optimal size side by side, and how far apart they are."""
    rows, apart = [], []
    for one in results.optimal:
        most = float(one.ends.flops.max())
        rows += [(one.recipe, *_approach_cells(one, k, most)) for k in range(len(one.approaches))]
        for pair in disagreement(one.approaches, most, LEVEL):
            words = {True: "intervals apart", False: "intervals meet", None: "no intervals"}
            between = " against ".join(pair["between"])
            apart.append(
                f"{one.recipe}, {between}: a {pair['a_difference']:+.3f}, N "
                f"{pair['N_ratio']:.2f} times as large; {words[pair['apart']]}."
            )
    defined = "; ".join(dict.fromkeys(one.definition for one in results.optimal))
    note = f"N ~ C^a; C = 6ND; N: {defined}. Brackets: 95% by resampled runs. {' '.join(apart)}"
    columns = ("recipe", "approach", "a [95%]", "at C", "best N [95%]", "D there", "remarks")
    return Table(
        title="Compute-optimal size",
        note=note.strip() if rows else "",
        columns=columns,
        rows=tuple(rows),
    )


def _approach_cells(one: OptimalSize, which: int, flops: float) -> tuple[str, ...]:
    found = one.approaches[which]
    if found.refused:
        return (found.name, "", "", "", "", f"refused: {found.refused}")
    low, high = found.interval(LEVEL) or (np.nan, np.nan)
    size, band = float(found.size(flops)), found.band(flops, LEVEL)
    ends = "" if band is None else f" [{human(float(band[0][0]))}, {human(float(band[1][0]))}]"
    return (
        found.name,
        interval_text(found.a, low, high),
        f"{flops:.2g}",
        human(size) + ends,
        human(flops / 6 / size),
        "; ".join(found.warnings),
    )
