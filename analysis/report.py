"""One self-contained report.html with its figures, tables and fits, from the run folders."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from pdx.files import write_json, write_text

from .aggregate import human
from .compute import ACCOUNTINGS
from .figures import Drawn, draw_all, metric_label, save, slice_name
from .fit import Fit, versions
from .reading import does_not_show, interval_text, shows
from .results import SIZE_NAME, Curve, Results, analyse, best_values, numeric_params
from .table import write_table

MAX_LISTED = 40
NAMES = {"val/loss": "val loss", "test/loss": "test loss", "val/bits_per_byte": "val bits/byte",
         "val/teacher_kl": "KL to teacher", "val/top1_agreement": "top-1 agreement",
         "val/ece": "ECE"}


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What `write_report` wrote."""

    html: Path
    figures: tuple[Path, ...]
    table: Path
    fits: Path


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as the template prints it: every cell is text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(
    sweep_dir: Path,
    runs_dir: Path,
    out_dir: Path | None = None,
    metric: str = "val/loss",
    num_resamples: int = 200,
) -> ReportFiles:
    """Analyse a sweep and write report.html, figures (PNG and PDF), runs.parquet and fits.json.

    Raises:
        SweepError: no plan, no finished run, or ``metric`` in none of them.
    """
    out_dir = out_dir or sweep_dir / "report"
    results = analyse(sweep_dir, runs_dir, metric, num_resamples)
    drawn = draw_all(results)
    files = [(figure, *save(figure.figure, out_dir / "figures", figure.name)) for figure in drawn]
    keep = {path for _, *paths in files for path in paths}
    for old in (out_dir / "figures").iterdir():  # an earlier report may have drawn more
        if old not in keep:
            old.unlink()
    table = write_table(results.runs, out_dir)
    results.aggregated.to_csv(out_dir / "settings.csv", index=False)
    paired = [t.assign(accounting=key) for key, t in results.paired.items() if len(t)]
    (pd.concat(paired) if paired else results.paired[ACCOUNTINGS[0].key]).to_csv(
        out_dir / "differences.csv", index=False
    )
    fits = out_dir / "fits.json"
    write_json(fits, fits_json(results))
    html = out_dir / "report.html"
    write_text(html, render(results, [(figure, png) for figure, png, _ in files]))
    return ReportFiles(html=html, figures=tuple(sorted(keep)), table=table, fits=fits)


def fits_json(results: Results) -> list[dict[str, Any]]:
    """Every fit with the series and accounting that it belongs to."""
    return [
        {"accounting": curve.accounting, "series": curve.series, "drawn": found is curve.drawn,
         "fit": found.to_json()}
        for curve in results.curves
        for found in curve.fits
    ]


def render(results: Results, figures: list[tuple[Drawn, Path]]) -> str:
    """The report as one HTML text that loads nothing from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plan = results.plan
    images = [
        {"title": figure.title, "caption": figure.caption, "name": figure.name,
         "data": base64.b64encode(png.read_bytes()).decode()}
        for figure, png in figures
    ]
    return environment.get_template("report.html.j2").render(
        title=f"{plan.name} ({plan.scale})" if plan.scale else plan.name,
        plan=plan,
        metric=metric_label(results.metric),
        slice=slice_name(results),
        counts=results.counts,
        num_planned=len(results.runs),
        unfinished=_unfinished(results),
        shows=shows(results),
        limits=does_not_show(results),
        figures=images,
        comparisons=_comparisons(results),
        fits=_fits_table(results),
        settings=_settings(results),
        best=_best(results),
        cost=_cost(results),
        provenance=_provenance(results),
        remake=remake_command(plan.command),
    )


def remake_command(command: str) -> str:
    """``pdx train -m sweep=demo`` -> ``pdx report sweep=demo``."""
    head, _, rest = command.partition("pdx train")
    words = [word for word in rest.split(" ") if word not in ("-m", "--multirun", "")]
    return " ".join([f"{head}pdx report", *words])


def _comparisons(results: Results) -> list[Table]:
    """Paired differences, one table per accounting."""
    tables = []
    for accounting in ACCOUNTINGS:
        paired = results.paired[accounting.key]
        rows = [
            (
                str(row["series"]), str(row["size"]), f"{row['loss']:.3f}",
                interval_text(row["control_loss"], np.nan, np.nan),
                interval_text(row["difference"], row["difference/low"], row["difference/high"]),
                f"{row['num_pairs']} of {row['num_runs']}",
                _multiple(row["needed_multiple"]), _multiple(row["measured_multiple"]),
                str(row["why_not"]),
            )
            for _, row in paired.iterrows()
        ]
        columns = ("recipe", "size", "loss", "control", "difference [95%]", "pairs",
                   "control tokens needed", "measured up to", "not compared because")
        if rows and not any(row[-1] for row in rows):
            rows, columns = [row[:-1] for row in rows], columns[:-1]
        if rows:
            tables.append(Table(title=accounting.label, note=f"{accounting.meaning[:1].upper()}{accounting.meaning[1:]}.",
                                columns=columns, rows=tuple(rows)))
    return tables


def _fits_table(results: Results) -> Table:
    """One row per curve and law, with intervals and the fit's own doubts."""
    labels = {a.key: a.label for a in ACCOUNTINGS}
    rows = []
    for curve in results.curves:
        if not curve.is_control and curve.accounting != ACCOUNTINGS[0].key:
            continue  # the recipe's own curve is the same under every accounting
        for found in curve.fits:
            rows.append((curve.series, labels[curve.accounting], *_fit_cells(found, curve)))
        rows += [
            (curve.series, labels[curve.accounting], *([""] * 6), reason)
            for reason in curve.refused
        ]
    return Table(
        title="Fits", note="", rows=tuple(rows),
        columns=("series", "accounting", "law", "A", "alpha", "E", "points / sizes",
                 "rms residual", "remarks"),
    )


def _fit_cells(found: Fit, curve: Curve) -> tuple[str, ...]:
    """Constants with intervals; then anything that a reader should know before trusting them."""
    cells = {}
    for name, value in found.constants.items():
        interval = found.bootstrap.intervals[name] if found.bootstrap else (np.nan, np.nan)
        cells[name] = f"{value:.4g} [{interval[0]:.3g}, {interval[1]:.3g}]"
    remarks = ["drawn"] if found is curve.drawn else []
    if not found.converged:
        remarks.append(f"not converged (gradient cosine {found.gradient_cosine:.1e})")
    remarks += found.bounds_hit
    if found.share_arrived < 1:
        remarks.append(f"{found.share_arrived:.0%} of {found.num_starts} starts arrived")
    if found.condition > 100:
        remarks.append(f"constants not identified one by one (condition {found.condition:.0f})")
    if found.bootstrap and found.bootstrap.num_unconverged:
        remarks.append(f"{found.bootstrap.num_unconverged} resamples not converged")
    law = {"power_law": "A N^-alpha", "power_law_offset": "E + A N^-alpha"}.get(
        found.law, found.law
    )
    return (law, cells["A"], cells["alpha"], cells.get("E", ""),
            f"{found.num_points} / {found.num_levels}", f"{found.rms_log_residual:.2%}",
            "; ".join(remarks))


def _settings(results: Results) -> Table:
    """Every setting: means over seeds with intervals."""
    metrics = [name for name in NAMES if name in results.aggregated]
    metrics = [results.metric, *(name for name in metrics if name != results.metric)]
    rows = []
    for _, row in results.aggregated.iterrows():
        cells = [
            interval_text(row[m], row[f"{m}/low"], row[f"{m}/high"]) if m == results.metric
            else interval_text(row[m], np.nan, np.nan)
            for m in metrics
        ]
        rate = row["learning_rate"]
        rows.append((
            str(row["series"]), str(row["size"]), human(row[SIZE_NAME]), human(row["num_tokens"]),
            "" if np.isnan(rate) else f"{rate:.3g}", str(row[f"{results.metric}/num"]), *cells,
        ))
    return Table(
        title="Settings", note="", rows=tuple(rows),
        columns=("recipe", "size", "parameters", "tokens", "peak lr", "seeds",
                 *(NAMES.get(m, m) + (" [95%]" if m == results.metric else "") for m in metrics)),
    )


def _best(results: Results) -> list[Table]:
    """Best value of each swept number."""
    tables = []
    for param in numeric_params(results):
        runs = results.complete if param in results.roles.learning_rates else results.chosen
        _, best = best_values(runs, results.roles, param, results.metric)
        rows = tuple(
            (str(row["recipe"]), str(row["size"]), f"{row['best']:.3g}",
             f"{row[results.metric]:.3f}", str(row["tried"]), "yes" if row["at_edge"] else "no")
            for _, row in best.iterrows()
        )
        if rows:
            tables.append(Table(title=f"Best {param}", note="", rows=rows, columns=(
                "recipe", "size", "best", NAMES.get(results.metric, results.metric), "tried",
                "at the edge")))
    return tables


def _unfinished(results: Results) -> Table:
    """Planned points without a usable result."""
    left = results.runs[results.runs["status"] != "complete"]
    rows = [
        (str(row["run_id"]), str(row["series"]), str(row["size"]), str(row["seed"]),
         str(row["status"]), "" if pd.isna(row["reason"]) else str(row["reason"]))
        for _, row in left.head(MAX_LISTED).iterrows()
    ]
    if len(left) > MAX_LISTED:
        rows.append((f"... and {len(left) - MAX_LISTED} more", "", "", "", "", ""))
    return Table(title="Not finished", note="", rows=tuple(rows),
                 columns=("run", "recipe", "size", "seed", "status", "reason"))


def _cost(results: Results) -> Table:
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
        if len(training.dropna()) and training.max() > 0 else ""
    )
    return Table(title="Cost", rows=tuple(rows), columns=(
        "recipe", "runs", "time", "student training FLOPs", "teacher inference FLOPs"),
        note=note + "FLOPs are exact counts (not 6ND); teacher inference as recorded by each run, "
        "so a store shared by several runs is counted in each. Time is summed over runs.")


def _provenance(results: Results) -> list[tuple[str, str]]:
    """Where and with what the runs and this report were made."""
    pairs = [("sweep digest", results.plan.digest)]
    for name in results.complete:
        if name.startswith("provenance."):
            values = [str(v) for v in results.complete[name].dropna().unique()]
            key = name.removeprefix("provenance.").replace("_", " ")
            pairs.append((key, ", ".join(sorted(values)[:6]) or "not recorded"))
    for name in ("data_digest", "teacher_id"):
        if name in results.complete:
            values = [str(v) for v in results.complete[name].dropna().unique()]
            pairs.append((name.replace("_", " "), ", ".join(sorted(values)) or "none"))
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    return [*pairs, ("report made with", made)]


def _multiple(value: float) -> str:
    return f"{value:.3g}x" if np.isfinite(value) else ""


def _flops(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "unknown"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 60 else f"{value:.0f} s"
