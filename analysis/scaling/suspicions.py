"""What a table of runs should be asked before it is believed: warnings that travel with a fit."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..fitting.levels import FitError

Array = NDArray[np.float64]
KIND_OF_N = ("definition", "convention", "counts", "kind", "embedding")
OTHER_UNITS = {
    "perplexity": "exp of nats per token",
    "ppl": "exp of nats per token",
    "bits_per_byte": "bits per byte",
    "bpb": "bits per byte",
    "bits": "bits",
}
HIGHEST_LOSS, LOWEST_LOSS = 15.0, 0.3  # nats per token that language models have
IN_BITS = 1 / np.log(2)
SPREAD_OF_C = 0.05  # of log(C / 6ND), above which N or C is not counted alike in all rows
MAX_ROWS = 8


def suspicions(
    table: pd.DataFrame,
    columns: Mapping[str, Array],
    loss: Array,
    names: Mapping[str, str],
    has_runs: bool,
) -> tuple[str, ...]:
    """Duplicate runs, mixed definitions of N, losses in other units, more points than runs.

    Raises:
        FitError: the table itself says that N is counted in several ways.
    """
    found = [*_definitions(table, columns), *_units(table, loss, names, "L" in columns)]
    rows = table.index.to_numpy() + 1
    same = pd.DataFrame({**columns, "loss": loss}).duplicated(keep=False).to_numpy()
    if same.any():
        found.append(
            f"duplicate runs: rows {_list(rows[same])} agree in every column that is read; "
            "each counts, which makes intervals too narrow if they are one run"
        )
    setting = pd.DataFrame(dict(columns)).duplicated(keep=False).to_numpy() & ~same
    if {"N", "D"} <= set(columns) and not has_runs and setting.any():
        found.append(
            f"{setting.sum()} points share all columns with another but not the loss: taken as "
            "seeds, each a run of its own; name the column that tells runs apart by --run"
        )
    return tuple(found)


def outliers(residuals: Array, rows: NDArray[np.intp]) -> tuple[str, ...]:
    """Points that a fit cannot reach, and whether a change of unit explains them.

    Args:
        residuals: measured over predicted, as a logarithm [n].
    """
    noise = 1.4826 * float(np.median(np.abs(residuals)))
    far = np.abs(residuals) > max(12 * noise, 0.05)
    if not far.any() or far.mean() > 0.3:
        return ()
    text = f"rows {_list(rows[far])} lie more than 12 standard deviations off the law"
    for factor, unit in ((IN_BITS, "bits instead of nats"), (1 / IN_BITS, "nats instead of bits")):
        if (np.abs(residuals[far] - np.log(factor)) < max(5 * noise, 0.02)).all():
            text += f"; they are off by {factor:.3f}, as losses in {unit} would be"
    return (text,)


def _definitions(table: pd.DataFrame, columns: Mapping[str, Array]) -> list[str]:
    for name in (str(column) for column in table):
        lower = name.lower()
        about_N = lower.startswith(("n_", "params_", "num_params_", "parameters_"))
        if about_N and any(word in lower for word in KIND_OF_N) and _is_text(table[name]):
            kinds = table[name].astype(str).unique()
            if len(kinds) > 1:
                raise FitError(
                    f"{name}: N is counted as {', '.join(sorted(kinds))}; one law needs one "
                    f"definition; keep one by --filter \"{name} == '{kinds[0]}'\"."
                )
    if "C" not in table or not {"N", "D"} <= set(columns):
        return []
    exact = pd.to_numeric(table["C"], errors="coerce").to_numpy(dtype=float)
    ratio = np.log(exact / (6 * columns["N"] * columns["D"]))
    if not np.isfinite(ratio).all() or np.ptp(ratio) < SPREAD_OF_C:
        return []
    return [
        f"C / (6 N D) runs from {np.exp(ratio.min()):.3g} to {np.exp(ratio.max()):.3g}: N, D or C "
        "is not counted alike in all rows (total or non-embedding, 6ND or exact)"
    ]


def _units(table: pd.DataFrame, loss: Array, names: Mapping[str, str], is_error: bool) -> list[str]:
    found = []
    source = names.get("loss", "loss").lower()
    for word, unit in OTHER_UNITS.items():
        if word in source:
            found.append(f"loss is {names['loss']}: taken as it is, though it looks like {unit}")
            break
    for name in ("loss_unit", "loss_units", "unit", "units"):
        if name in table and table[name].nunique() > 1:
            kinds = ", ".join(sorted(table[name].astype(str).unique()))
            raise FitError(
                f"{name}: losses in {kinds}; one law needs one unit; convert them, or keep one "
                f"by --filter \"{name} == '{table[name].iloc[0]}'\"."
            )
    if found or is_error:
        return found
    high = loss > HIGHEST_LOSS
    if high.any():
        rows = table.index.to_numpy()[high] + 1
        found.append(
            f"loss is above {HIGHEST_LOSS:g} in rows {_list(rows)}: nats per token do not go "
            "there; is it perplexity, or a sum over tokens?"
        )
    elif np.median(loss) < LOWEST_LOSS:
        found.append(
            f"the median loss is {np.median(loss):.3g}: low for nats per token; is it an error "
            "rate, or per byte?"
        )
    return found


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def _list(rows: NDArray[np.intp]) -> str:
    more = f" and {len(rows) - MAX_ROWS} more" if len(rows) > MAX_ROWS else ""
    return ", ".join(str(row) for row in rows[:MAX_ROWS]) + more
