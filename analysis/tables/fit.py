"""An answer as a person reads it in a terminal."""

from typing import Any

from ..scaling.ask import Answer
from .table import aligned


def summary(found: Answer) -> str:
    """Parameters with errors, what else was asked, then every warning."""
    fitted = found.fit
    lines = [
        f"{fitted.law}: {fitted.formula}",
        f"{fitted.num_points} points ({fitted.data_filter}), data {fitted.data_digest}",
        f"objective {fitted.objective:.10g}: {fitted.objective_definition}",
        f"{'converged' if fitted.converged else 'NOT CONVERGED'}: {fitted.why}; "
        f"{fitted.starts_at_optimum:.0%} of {fitted.num_starts} starts arrived",
        f"rms log residual {fitted.rms_log_residual:.5f}, AICc {fitted.aicc:.1f}"
        + _folds(found.extra.get("rmse_log_folds")),
        "",
        *_parameters(found),
    ]
    for point in found.extra["allocation"]:
        lines += ["", f"compute C = {point['C']:.4g} is spent best at", *_allocation(point)]
    if found.approaches:
        lines += ["", *_approaches(found)]
    if found.extra["predictions"]:
        lines += ["", *(_prediction(item) for item in found.extra["predictions"])]
    if "held_out" in found.extra:
        test = found.extra["held_out"]
        lines += [
            "",
            f"held out: {test['num_points']} points, rms log residual {test['rmse_log']:.5f}, "
            f"mean relative error {test['mean_relative_error']:.4%}",
        ]
    if "comparison" in found.extra:
        lines += ["", *_comparison(found.extra["comparison"])]
    trends = {k: v for k, v in found.extra["residuals"].items() if v["clear"]}
    if trends:
        shown = ", ".join(f"{k} ({v['spearman']:+.2f})" for k, v in trends.items())
        lines += ["", f"residuals still go with {shown} (rank correlation)"]
    if fitted.warnings:
        lines += ["", *(f"warning: {warning}" for warning in fitted.warnings)]
    return "\n".join(lines)


def _parameters(found: Answer) -> list[str]:
    fitted = found.fit
    rows = []
    for name, value in fitted.parameters.items():
        row = [name, _number(value)]
        if fitted.bootstrap:
            low, high = fitted.intervals[name]
            row += [_number(fitted.standard_errors[name], 3), f"{_number(low)} to {_number(high)}"]
        remark = ""
        if name in fitted.fixed:
            remark = "fixed"
        elif name in fitted.tied:
            remark = f"= {fitted.tied[name]}"
        elif name in fitted.unidentified:
            remark = "not identified"
        rows.append([*row, remark])
    header = ["parameter", "value"]
    if fitted.bootstrap:
        header += ["std. error", f"{100 * fitted.bootstrap['level']:g}% interval"]
    return [line.rstrip() for line in aligned([*header, ""], rows)]


def _allocation(point: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("N", "D", "D/N", "a", "b", "loss"):
        row = [f"  {name}", _number(point[name])]
        if "intervals" in point:
            low, high = point["intervals"][name]
            row.append(f"{_number(low)} to {_number(high)}")
        rows.append(row)
    return aligned(["", "value", *(["interval"] if "intervals" in point else [])], rows)


def _approaches(found: Answer) -> list[str]:
    """A line for each approach that gave one, how far apart they are, and the refusals."""
    rows = []
    for one in found.extra["approaches"]:
        if "refused" in one:
            continue
        ends = one["interval"]
        interval = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        sizes = [
            _number(at["N"], 4)
            + ("" if at["N_interval"] is None else " [{:.3g}, {:.3g}]".format(*at["N_interval"]))
            for at in one["allocation"]
        ]
        rows.append([one["approach"], f"{one['a']:.4f}", interval, *sizes])
    budgets = [f"N at C = {point['C']:.3g}" for point in found.extra["allocation"]]
    lines = aligned(["approach (N ~ C^a)", "a", "interval", *budgets], rows) if rows else []
    for row in found.extra["disagreement"]:
        words = {True: "intervals apart", False: "intervals meet", None: "no intervals"}
        lines.append(
            f"{' against '.join(row['between'])}: a {row['a_difference']:+.3f}, "
            f"N {row['N_ratio']:.2f} times as large at C = {row['C']:.3g}; {words[row['apart']]}"
        )
    refused = [one for one in found.extra["approaches"] if "refused" in one]
    return [*lines, *(f"{one['approach']}: refused: {one['refused']}" for one in refused)]


def _prediction(item: dict[str, Any]) -> str:
    known = ("loss", "interval", "decades_beyond", "warning")
    where = ", ".join(f"{name} = {_number(v)}" for name, v in item.items() if name not in known)
    text = f"loss at {where}: {_number(item['loss'])}"
    if "interval" in item:
        text += " [{}, {}]".format(*(_number(v) for v in item["interval"]))
    return text


def _comparison(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            row["law"],
            str(row["num_parameters"]),
            f"{row['aicc']:.1f}",
            *(
                "-" if row[key] is None else f"{row[key]:.5f}"
                for key in ("rmse_log", "rmse_log_folds", "rmse_log_held_out")
            ),
        ]
        for row in rows
        if "refused" not in row
    ]
    header = ["law", "parameters", "AICc", "rms in sample", "rms in folds", "rms held out"]
    refused = [f"{row['law']}: {row['refused']}" for row in rows if "refused" in row]
    return [*aligned(header, cells), *refused]


def _folds(value: float | None) -> str:
    return "" if value is None else f", in folds {value:.5f}"


def _number(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
