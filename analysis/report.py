"""One self-contained report.html with its figures, tables and fits, from the run folders."""

import base64
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pdx.files import write_json, write_text

from .figures.panels import draw_all
from .figures.style import Drawn, as_svg, save
from .questions.interactions import interactions
from .questions.results import Results, analyse
from .runs.accounting import ACCOUNTINGS
from .runs.table import write_table
from .tables.confirmed import confirmed_frame, confirmed_table
from .tables.distillation import distillation_tables
from .tables.interactions import interactions_table
from .tables.labels import metric_label, slice_name
from .tables.records import cost_table, fits_table, provenance, unfinished_table
from .tables.results import best_tables, comparisons, optimal_size_table, settings_table
from .tables.sentences import does_not_show, shows
from .tables.table import Table
from .tables.verdicts import verdicts_frame, verdicts_table


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What `write_report` wrote; ``tables`` are csv files, ``table`` is the runs as parquet."""

    html: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    table: Path
    fits: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Everything, the page first."""
        return (self.html, *self.figures, *self.tables, self.table, self.fits)


def write_report(
    sweep_dir: Path,
    runs_dir: Path,
    out_dir: Path | None = None,
    metric: str = "val/loss",
    num_resamples: int = 200,
) -> ReportFiles:
    """Analyse a sweep and write report.html, figures (PNG, PDF, csv), tables, runs.parquet, fits.

    Raises:
        SweepError: no plan, no finished run, or ``metric`` in none of them.
    """
    results = analyse(sweep_dir, runs_dir, metric, num_resamples)
    return write_results(results, out_dir or sweep_dir / "report")


def write_results(results: Results, out_dir: Path) -> ReportFiles:
    """The same of results that are already computed."""
    drawn = draw_all(results)
    saved = {figure.name: save(figure, out_dir / "figures") for figure in drawn}
    keep = {path for paths in saved.values() for path in paths}
    for old in (out_dir / "figures").iterdir():  # an earlier report may have drawn more
        if old not in keep:
            old.unlink()
    table = write_table(results.runs, out_dir)
    paired = [t.assign(accounting=key) for key, t in results.paired.items() if len(t)]
    asked, optimal = distillation_tables(results), optimal_size_table(results)
    tables = {
        "settings": results.aggregated,
        "differences": pd.concat(paired) if paired else results.paired[ACCOUNTINGS[0].key],
        **{_file_name(t.title): pd.DataFrame(t.rows, columns=t.columns) for t in asked},
    }
    if optimal.rows:
        tables["compute_optimal_size"] = pd.DataFrame(optimal.rows, columns=optimal.columns)
    together = interactions(results)
    if together is not None:
        tables["interactions"] = together
    if results.confirmed:
        tables["confirmed"] = confirmed_frame(results)
    if results.verdicts:
        tables["verdicts"] = verdicts_frame(results)
    for name, own in tables.items():
        own.to_csv(out_dir / f"{name}.csv", index=False)
    fits = out_dir / "fits.json"
    write_json(fits, fits_json(results))
    html = out_dir / "report.html"
    write_text(html, render(results, drawn, asked, optimal))
    return ReportFiles(
        html=html,
        figures=tuple(sorted(keep)),
        tables=(out_dir / "runs.csv", *(out_dir / f"{name}.csv" for name in tables)),
        table=table,
        fits=fits,
    )


def _file_name(title: str) -> str:
    return title.lower().replace(" ", "_")


def fits_json(results: Results) -> list[dict[str, Any]]:
    """Every fit with the series and accounting that it belongs to."""
    return [
        {
            "accounting": curve.accounting,
            "series": curve.series,
            "drawn": found is curve.drawn,
            "fit": found.to_json(),
        }
        for curve in results.curves
        for found in curve.fits
    ]


def render(results: Results, figures: list[Drawn], questions: list[Table], optimal: Table) -> str:
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
        {
            "title": figure.title,
            "caption": figure.caption,
            "name": figure.name,
            "width": int(136 * figure.figure.get_figwidth()),
            "svg": base64.b64encode(as_svg(figure.figure)).decode(),
            "csv": base64.b64encode(figure.data.to_csv(index=False).encode()).decode(),
            "num_rows": len(figure.data),
        }
        for figure in figures
    ]
    return environment.get_template("report.html.j2").render(
        title=f"{plan.name} ({plan.scale})" if plan.scale else plan.name,
        plan=plan,
        metric=metric_label(results.metric),
        slice=slice_name(results),
        counts=results.counts,
        num_planned=len(results.runs),
        unfinished=unfinished_table(results),
        shows=shows(results),
        limits=does_not_show(results),
        figures=images,
        comparisons=comparisons(results),
        questions=questions,
        definitions=results.definitions,
        fits=fits_table(results),
        optimal=optimal,
        settings=settings_table(results),
        best=best_tables(results),
        together=interactions_table(results),
        confirmed=confirmed_table(results),
        verdicts=verdicts_table(results),
        cost=cost_table(results),
        provenance=provenance(results),
        command=shown_command(plan.command),
        remake=remake_command(shown_command(plan.command)),
    )


def shown_command(command: str) -> str:
    """A command without what is ``env``'s: where and how it ran on one machine, not what it was."""
    words = shlex.split(command)
    return shlex.join(word for word in words if not word.lstrip("+~").startswith("env."))


def remake_command(command: str) -> str:
    """``pdx train -m sweep=demo`` -> ``pdx report sweep=demo``; another command as it is."""
    head, verb, rest = command.partition("pdx train")
    if not verb:
        return command
    words = [word for word in rest.split(" ") if word not in ("-m", "--multirun", "")]
    return " ".join([f"{head}pdx report", *words])
