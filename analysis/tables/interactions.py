"""Settings that matter together, as a reader sees them: a row a pair."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false

import numpy as np

from ..questions.importance import searched
from ..questions.interactions import (
    LEAST_IN_CELL,
    LEAST_LEFT,
    LEAST_RUNS,
    LEVEL,
    NUM_PERMUTATIONS,
    drawn_runs,
    interactions,
)
from ..questions.results import Results
from .table import Table


def interactions_table(results: Results) -> Table | None:
    """A row per pair; or why there is none. None where the sweep is no search."""
    if not searched(results):
        return None
    title, table = "What mattered together", interactions(results)
    if table is None:
        note = (
            f"Not told: {len(drawn_runs(results))} runs; {LEAST_RUNS} or more are needed, of which "
            f"the settings by themselves must leave {LEAST_LEFT} degrees of freedom."
        )
        return Table(title=title, note=note, columns=(), rows=())
    pairs = table[table["setting"] != table["beside"]]
    rows = tuple(
        (
            f"{row['setting']} x {row['beside']}",
            *(("", "", "") if np.isnan(row["p"]) else _numbers(row)),
            _word(row["p"]),
            "" if np.isnan(row["p"]) else f"{row['lowest']} ({row['by_how_much']:+.4f})",
        )
        for row in pairs.to_dict("records")
    )
    note = (
        "What two settings explain together of the variance of loss, beyond what each does alone, "
        "less what chance would; beside it the 95th percentile of what shuffled residuals give "
        f"({NUM_PERMUTATIONS} permutations), p with Holm over all pairs. Numbers are cut into up "
        f"to four groups; values that fewer than {LEAST_IN_CELL} runs have together are left out, "
        "and so are runs without one of the two settings. "
        "Last: where the loss lies furthest below what both do alone, in nats per token; of a pair "
        "that is no finding it is noise. A search draws where it is good: what it hardly drew is "
        "not told."
    )
    columns = ("settings", "share", "95% of chance", "p (Holm)", "finding", "lowest beyond both")
    return Table(title=title, note=note, columns=columns, rows=rows)


def _numbers(row: dict) -> tuple[str, str, str]:
    return f"{row['share']:.3f}", f"{row['chance']:.3f}", f"{row['p']:.2g}"


def _word(p: float) -> str:
    if np.isnan(p):
        return "too few runs"
    return "together" if p <= LEVEL else "none beyond chance"
