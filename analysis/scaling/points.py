"""A table of anybody's runs as the points of a fit: named columns, refusals with row numbers.

Row numbers count from 1 for the first row below the header, as a spreadsheet shows them less one.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..fitting.levels import FitError
from ..laws.law import Law
from .expressions import keep
from .suspicions import suspicions

Array = NDArray[np.float64]
X_FROM = ("N", "C", "D")  # what x is, where it is not mapped
MAX_ROWS = 8  # that a message lists


@dataclass(frozen=True, kw_only=True)
class Points:
    """What a fit reads.

    Attributes:
        columns, loss, weights: [n]; runs: the run of each point [n]; rows: its row number [n].
        names: for each column, what it is in the file.
    """

    columns: dict[str, Array]
    loss: Array
    weights: Array
    runs: NDArray[Any]
    rows: NDArray[np.intp]
    names: dict[str, str]

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, chosen: NDArray[np.bool_]) -> "Points":
        """Some of them."""
        return Points(
            columns={name: values[chosen] for name, values in self.columns.items()},
            loss=self.loss[chosen],
            weights=self.weights[chosen],
            runs=self.runs[chosen],
            rows=self.rows[chosen],
            names=self.names,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """How a file is to be read.

    Attributes:
        mapping: from the names that laws use to those of the file.
        keep, hold_out: conditions on columns, by either name; empty for none.
        weights, run: columns of weights, and of what tells runs apart; empty for none.
    """

    mapping: Mapping[str, str]
    keep: str = ""
    hold_out: str = ""
    weights: str = ""
    run: str = ""


def read_points(
    path: Path, request: Request, laws: Sequence[Law]
) -> tuple[Points, Points, tuple[str, ...]]:
    """The points to fit, those held out, and warnings that travel with the result.

    Args:
        laws: every law that will be fitted; the first one's columns must be there.

    Raises:
        FitError: a column that is not there, a value that is no positive number, no rows left.
    """
    table, names = _named(_load(path), request, laws)
    for option, column in (("--weights", request.weights), ("--run", request.run)):
        if column and column not in table:
            raise _no_column(f"{option} {column}", column, table)
    wanted = {"loss": None, **dict.fromkeys(c for law in laws for c in law.columns)}
    for name in ("loss", *laws[0].columns):
        if name not in table:
            raise _no_column(f"law={laws[0].name}: no column {name}", name, table, mapped=True)
    present = [name for name in wanted if name in table]
    if "L_T" in present and "L_S" in table:  # a measured supervised baseline, if there is one
        present.append("L_S")
    if request.keep:
        table = table[keep(request.keep, table, "--filter")]
        if table.empty:
            raise FitError(f"--filter {request.keep!r}: leaves no row; widen it.")
    values = {name: _positive(table[name], name, names.get(name, name)) for name in present}
    weights = np.ones(len(table))
    if request.weights:
        weights = _positive(table[request.weights], "weights", request.weights)
    loss = values.pop("loss")
    rows = table.index.to_numpy() + 1
    runs = table[request.run].astype(str).to_numpy() if request.run else rows
    points = Points(columns=values, loss=loss, weights=weights, runs=runs, rows=rows, names=names)
    warnings = suspicions(table, points.columns, loss, names, bool(request.run))
    out = np.zeros(len(table), dtype=bool)
    if request.hold_out:
        out = keep(request.hold_out, table, "--hold-out")
        if out.all() or not out.any():
            which = "every row" if out.all() else "no row"
            raise FitError(f"--hold-out {request.hold_out!r}: holds out {which}; change it.")
    return points.where(~out), points.where(out), warnings


def _load(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FitError(f"{path}: no such file; give a csv or a parquet file with a row per run.")
    try:
        if path.suffix in (".parquet", ".pq"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except (
        ValueError,
        OSError,
        UnicodeDecodeError,
    ) as err:  # pandas's parser errors are ValueErrors
        raise FitError(f"{path}: cannot be read as {path.suffix or 'csv'}: {err}") from err
    if table.empty:
        raise FitError(f"{path}: has no rows.")
    return table.reset_index(drop=True)


def _named(
    table: pd.DataFrame, request: Request, laws: Sequence[Law]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with the laws' names as columns too: mapped, as they are, or derived."""
    names = {}
    given = table.copy()
    for name, source in request.mapping.items():
        if source not in table:
            raise _no_column(f"--map {name}={source}", source, table)
        given[name] = table[source]
        names[name] = source
    needed = dict.fromkeys(c for law in laws for c in law.columns)
    with np.errstate(all="ignore"):
        if {"C", "M"} <= set(given) and "N" not in given and "D" not in given:
            C, M = _number(given["C"]), _number(given["M"])
            given["N"], given["D"] = np.sqrt(C / (6 * M)), np.sqrt(C * M / 6)
            names |= {"N": "sqrt(C / 6M)", "D": "sqrt(C M / 6)"}
        for name, over, under, words in (
            ("C", "N", "D", "6 N D"),
            ("D", "N", "C", "C / (6 N)"),
            ("N", "D", "C", "C / (6 D)"),
        ):
            if name not in given and {over, under} <= set(given):
                one, two = _number(given[over]), _number(given[under])
                given[name] = 6 * one * two if name == "C" else two / (6 * one)
                names[name] = words
        if "M" not in given and {"N", "D"} <= set(given):
            given["M"] = _number(given["D"]) / _number(given["N"])
    if "x" in needed and "x" not in given:
        source = next((name for name in X_FROM if name in given), None)
        if source is not None:
            given["x"] = given[source]
            names["x"] = names.get(source, source)
    return given, {n: names.get(n, n) for n in dict.fromkeys((*needed, "loss")) if n in given}


def _number(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(float)


def _positive(column: pd.Series, name: str, source: str) -> Array:
    """A column as finite positive numbers, or a refusal that says which rows are not."""
    numbers = _number(column)
    bad = {
        "is empty or NaN": column.isna(),
        "is not a number": numbers.isna() & column.notna(),
        "is infinite": np.isinf(numbers),
        "is zero or negative": numbers <= 0,
    }
    what = name if source == name else f"{name} ({source})"
    said = [
        f"{what}: {reason} in {_rows(column[found])}"
        for reason, found in bad.items()
        if found.any()
    ]
    if said:
        raise FitError(
            f"{'; '.join(said)}. Values must be finite and positive; mend the table, or leave "
            "these rows out by --filter, which is recorded with the result."
        )
    return numbers.to_numpy(dtype=np.float64)


def _rows(values: pd.Series) -> str:
    shown = [f"{i + 1} ({value!s})" for i, value in values.head(MAX_ROWS).items()]
    more = f" and {len(values) - MAX_ROWS} more" if len(values) > MAX_ROWS else ""
    return f"row{'s' if len(values) > 1 else ''} {', '.join(shown)}{more}"


def _no_column(what: str, name: str, table: pd.DataFrame, mapped: bool = False) -> FitError:
    known = [str(column) for column in table]
    near = get_close_matches(name.lower(), [k.lower() for k in known], n=3, cutoff=0.4)
    nearest = [k for n in near for k in known if k.lower() == n]
    starts = [k for k in known if k.lower().startswith(name.lower()) and k not in nearest]
    nearest = list(dict.fromkeys([*nearest, *starts]))[:3]
    hint = f" The nearest: {', '.join(nearest)}." if nearest else ""
    how = f" Name it: --map {name}=COLUMN." if mapped else ""
    return FitError(
        f"{what}: not in the table.{hint}{how} Columns: {', '.join(known[:40])}"
        + (f" and {len(known) - 40} more." if len(known) > 40 else ".")
    )
