"""The report's tables of what was done: fits, unfinished runs, cost, provenance."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

import numpy as np
import pandas as pd

from ..fitting.fitted import Fit, versions
from ..questions.curves import Curve
from ..questions.results import Results
from ..runs.accounting import ACCOUNTINGS
from .table import Table

MAX_LISTED = 40


def fits_table(results: Results) -> Table:
    """One row per curve and law, with intervals and the fit's own doubts."""
    labels = {a.key: a.label for a in ACCOUNTINGS}
    rows, refused = [], []
    for curve in results.curves:
        if not curve.is_control and curve.accounting != ACCOUNTINGS[0].key:
            continue  # the recipe's own curve is the same under every accounting
        label = curve.series + (f", {labels[curve.accounting]}" if curve.charged else "")
        rows += [(label, *_fit_cells(found, curve)) for found in curve.fits]
        refused += [
            f"{label}: {reason.partition('. Points alone')[0]}." for reason in curve.refused
        ]
    return Table(
        title="Fits",
        note=" ".join(["Not fitted.", *refused]) if refused else "",
        columns=("curve", "law", "A", "alpha", "E", "points / sizes", "rms residual", "remarks"),
        rows=tuple(rows),
    )


def _fit_cells(found: Fit, curve: Curve) -> tuple[str, ...]:
    """Constants with intervals; then anything that a reader should know before trusting them."""
    cells = {}
    for name, value in found.parameters.items():
        low, high = found.intervals.get(name, (None, None))
        cells[name] = f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if found.bootstrap else "")
    remarks = ["drawn"] if found is curve.drawn else []
    if not found.converged:
        remarks.append(f"not converged (gradient cosine {found.gradient_cosine:.1e})")
    remarks += found.bounds_hit
    if found.starts_at_optimum < 1:
        remarks.append(f"{found.starts_at_optimum:.0%} of {found.num_starts} starts arrived")
    if found.unidentified:
        remarks.append(f"not identified: {', '.join(found.unidentified)}")
    if found.bootstrap and found.bootstrap["num_unconverged"]:
        remarks.append(f"{found.bootstrap['num_unconverged']} resamples not converged")
    law = {"power": "A N^-alpha", "power_offset": "E + A N^-alpha"}.get(found.law, found.law)
    return (
        law,
        cells["A"],
        cells["alpha"],
        cells.get("E", ""),
        f"{found.num_points} / {found.num_levels['x']}",
        f"{found.rms_log_residual:.2%}",
        "; ".join(remarks),
    )


def unfinished_table(results: Results) -> Table:
    """Planned points without a usable result."""
    left = results.runs[results.runs["status"] != "complete"]
    rows = [
        (
            str(row["run_id"]),
            str(row["series"]),
            str(row["size"]),
            str(row["seed"]),
            str(row["status"]),
            "" if pd.isna(row["reason"]) else str(row["reason"]),
        )
        for row in left.head(MAX_LISTED).to_dict("records")
    ]
    if len(left) > MAX_LISTED:
        rows.append((f"... and {len(left) - MAX_LISTED} more", "", "", "", "", ""))
    return Table(
        title="Not finished",
        note="",
        rows=tuple(rows),
        columns=("run", "recipe", "size", "seed", "status", "reason"),
    )


def cost_table(results: Results) -> Table:
    """What it took, by recipe."""
    rows = []
    done = results.runs[results.runs["status"] != "missing"]
    for recipe, group in [*done.groupby("series", sort=False), ("all", done)]:
        cells = [str(recipe), str(len(group)), _seconds(group["seconds"].astype(float).sum())]
        for name in ("flops_train_exact", "flops_teacher_inference_exact"):
            cells.append(_flops(group[name].astype(float).sum()) if name in group else "")
        rows.append(tuple(cells))
    training = done.get("flops_teacher_training_exact", pd.Series(dtype=float)).astype(float)
    note = (
        f"Training the teacher: {_flops(training.max())} FLOPs, once for all runs. "
        if len(training.dropna()) and training.max() > 0
        else ""
    )
    return Table(
        title="Cost",
        rows=tuple(rows),
        columns=("recipe", "runs", "time", "student training FLOPs", "teacher inference FLOPs"),
        note=note + "FLOPs are exact counts (not 6ND); teacher inference as recorded by each run, "
        "so a store shared by several runs is counted in each. Time is summed over runs.",
    )


def provenance(results: Results) -> list[tuple[str, str]]:
    """Where and with what the runs and this report were made."""
    pairs = [("sweep digest", results.plan.digest)]
    for name in results.complete:
        if name.startswith("provenance."):
            values = [str(v) for v in results.complete[name].dropna().unique()]
            key = name.removeprefix("provenance.").replace("_", " ")
            values = [v[:12] for v in values] if key == "git commit" else values
            pairs.append((key, ", ".join(sorted(values)[:6]) or "not recorded"))
    for name in ("data_digest", "teacher_id"):
        if name in results.complete:
            values = [str(v) for v in results.complete[name].dropna().unique()]
            pairs.append((name.replace("_", " "), ", ".join(sorted(values)) or "none"))
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    return [*pairs, ("report made with", made)]


def _flops(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "unknown"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 60 else f"{value:.0f} s"
