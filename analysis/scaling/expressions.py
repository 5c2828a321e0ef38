"""Conditions on the columns of a table, such as ``loss < 3.4 and dataset == 'rpj'``.

Read by Python's own parser and worked out here, so that an expression can do nothing else.
"""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false

import ast
from difflib import get_close_matches

import numpy as np
import pandas as pd

from ..fitting.levels import FitError

COMPARE = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}


def keep(expression: str, table: pd.DataFrame, option: str) -> np.ndarray:
    """Which rows of ``table`` meet the condition [rows]; a row without a value does not.

    Raises:
        FitError: it cannot be read, names no column, or is no condition.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as err:
        raise _wrong(option, expression, f"cannot be read: {err.msg}") from err
    try:
        found = np.asarray(_value(tree, table, option, expression))
    except TypeError as err:
        raise _wrong(option, expression, f"compares what cannot be compared: {err}") from err
    if found.dtype != bool:
        raise _wrong(option, expression, "is not a condition")
    return np.broadcast_to(found, len(table)).copy()


def _value(node: ast.expr, table: pd.DataFrame, option: str, expression: str) -> object:
    def of(part: ast.expr) -> object:
        return _value(part, table, option, expression)

    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            if name not in table:
                near = get_close_matches(name, [str(c) for c in table], n=3, cutoff=0.4)
                hint = f" The nearest: {', '.join(near)}." if near else ""
                raise _wrong(option, expression, f"there is no column {name!r}.{hint}")
            return table[name].to_numpy()
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return ~np.asarray(of(part), dtype=bool)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -np.asarray(of(part))
        case ast.BoolOp(op=op, values=parts):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return join.reduce([np.broadcast_to(np.asarray(of(p)), len(table)) for p in parts])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](of(left), of(right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            ends, met = [of(left), *(of(other) for other in others)], True
            for op, one, two in zip(ops, ends, ends[1:], strict=False):
                if type(op) not in COMPARE:
                    break
                met = np.logical_and(met, COMPARE[type(op)](one, two))
            else:
                return met
    raise _wrong(
        option,
        expression,
        f"has {ast.unparse(node)!r}, which is not allowed; write comparisons of columns, numbers "
        "and 'texts' (< <= > >= == !=), + - * / **, and, or, not",
    )


def _wrong(option: str, expression: str, what: str) -> FitError:
    return FitError(f"{option} {expression!r}: {what}")
