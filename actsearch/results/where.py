"""Rows of a table that an expression chooses. It reaches columns, numbers and texts, and nothing else of Python.

Imports pandas. Knows neither arms nor metrics.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from actsearch.errors import ActSearchError, one_line, unknown

COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
METHODS = ("isin", "isna", "notna", "isnull", "notnull", "between")
OF_TEXT = ("contains", "startswith", "endswith")
PIECE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]*)`""")  # a text, or a column in backticks
QUOTED = "_quoted_"


class _Refused(Exception):
    """What is wrong with an expression, in words."""


def chosen(frame: pd.DataFrame, where: str) -> np.ndarray:
    """(n_rows,) whether each row is chosen. Columns whose names are no words stand in backticks.

    Raises ActSearchError for what cannot be evaluated, for unknown columns, and where a text is compared with numbers.
    """
    quoted: list[str] = []

    def name(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        quoted.append(found[1].strip())
        return f"{QUOTED}{len(quoted) - 1}"

    try:
        body = ast.parse(PIECE.sub(name, where.strip()), mode="eval").body
        mask = _Rows(frame, quoted).value(body)
        if not _is_truth(mask):
            raise _Refused("it is no condition. Write, for instance, epochs == 20")
    except ActSearchError:
        raise
    except _Refused as refused:
        raise ActSearchError(f"task.where={where!r}: {refused}.") from None
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        cure = " Write == to compare." if re.search(r"[^=!<>]=[^=]", where) else ""
        raise ActSearchError(f"task.where={where!r} cannot be evaluated: {one_line(error)}{cure}") from None
    return np.asarray(mask.fillna(False), dtype=bool)


class _Rows:
    """Evaluates an expression over the columns of a frame. quoted: the columns that stood in backticks."""

    def __init__(self, frame: pd.DataFrame, quoted: list[str]) -> None:
        self.frame, self.quoted = frame, quoted

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str, type(None))):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return [self.value(each) for each in node.elts]
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self.column(node)
        if isinstance(node, ast.BoolOp):
            return self.joined([self.value(each) for each in node.values], isinstance(node.op, ast.And))
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            return self.joined([self.value(node.left), self.value(node.right)], isinstance(node.op, ast.BitAnd))
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            sides = self.value(node.left), self.value(node.right)
            for side in sides:
                self.check(side, 0)
            return ARITHMETIC[type(node.op)](*sides)
        if isinstance(node, ast.UnaryOp):
            inner = self.value(node.operand)
            if isinstance(node.op, ast.USub):
                self.check(inner, 0)
                return -inner
            return ~self.joined([inner], True)
        if isinstance(node, ast.Compare):
            sides = [self.value(each) for each in (node.left, *node.comparators)]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return self.joined([self.compared(left, op, right) for left, op, right in pairs], True)
        if isinstance(node, ast.Call):
            return self.called(node)
        raise _Refused(
            f"'{ast.unparse(node)}' cannot stand there. Columns are compared with numbers and texts, and joined by "
            "and, or, not"
        )

    def column(self, node: ast.Name | ast.Attribute) -> Any:
        """The column of this name, as numbers or truths if all of it can be; names may have dots."""
        name: str = ast.unparse(node)
        if name.startswith(QUOTED) and name.removeprefix(QUOTED).isdecimal():
            name = self.quoted[int(name.removeprefix(QUOTED))]
        if name not in self.frame.columns:
            raise unknown("column in task.where:", name, self.frame.columns)
        column: Any = self.frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        plain = texts(column)
        if plain[column.notna()].isin(("True", "False", "true", "false")).all() and column.notna().any():
            return plain.str.lower().eq("true").where(column.notna(), None).astype("boolean").rename(name)
        return as_numbers(column).rename(name)

    def compared(self, left: Any, op: ast.cmpop, right: Any) -> Any:
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(left, pd.Series) or not isinstance(right, list):
                raise _Refused("write COLUMN in [1, 2]")
            for each in right:
                self.check(left, each)
            return left.isin(right) == isinstance(op, ast.In)
        if type(op) not in COMPARE or isinstance(left, list) or isinstance(right, list):
            raise _Refused("columns are compared by ==, !=, <, <=, >, >= and in [1, 2]")
        if isinstance(left, pd.Series) or isinstance(right, pd.Series):
            self.check(*((left, right) if isinstance(left, pd.Series) else (right, left)))
        return COMPARE[type(op)](left, right)

    def check(self, column: Any, other: Any) -> None:
        """Raises _Refused where numbers would be compared with texts, which are always different."""
        kinds = _kind(column), _kind(other)
        if kinds[0] == kinds[1]:
            return
        if not isinstance(column, pd.Series):
            raise _Refused(f"{column!r} is no number")
        if kinds == ("number", "text") and isinstance(other, str):
            raise _Refused(f"'{column.name}' holds numbers: write them without quotes")
        if kinds == ("text", "number"):
            odd: Any = column[pd.Series(pd.to_numeric(column, errors="coerce")).isna() & column.notna()]
            raise _Refused(f"'{column.name}' holds texts, such as '{odd.iloc[0]}': write values in quotes")
        raise _Refused(f"'{column.name}' holds {kinds[0]}s, which are not compared with {other!r}"[:200])

    def joined(self, masks: list[Any], all_of: bool) -> Any:
        for mask in masks:
            if not _is_truth(mask):
                raise _Refused("and, or, not stand between conditions, such as epochs == 20 and lr < 0.1")
        result = masks[0]
        for mask in masks[1:]:
            result = result & mask if all_of else result | mask
        return result

    def called(self, node: ast.Call) -> Any:
        function, values = node.func, [self.value(each) for each in node.args]
        if not isinstance(function, ast.Attribute) or node.keywords:
            raise _Refused(f"'{ast.unparse(function)}' cannot be called")
        of, name = function.value, function.attr
        if name in OF_TEXT and isinstance(of, ast.Attribute) and of.attr == "str" and len(values) == 1:
            column = self.value(of.value)
            self.check(column, "")
            same = {"regex": False} if name == "contains" else {}
            return getattr(texts(column).str, name)(str(values[0]), **same)
        if name in METHODS and isinstance(of, (ast.Name, ast.Attribute)):
            column = self.column(of)
            for value in values:
                for each in value if isinstance(value, list) else [value]:
                    self.check(column, each)
            return getattr(column, name)(*values)
        raise _Refused(
            f"'.{name}' is unknown. There are .{', .'.join(METHODS)}, and for texts .str.{', .str.'.join(OF_TEXT)}"
        )


def texts(column: Any) -> Any:
    """The cells as texts, an empty one as nan, None or <NA>."""
    return pd.Series([str(cell).strip() for cell in column], index=column.index, dtype=object)


def as_numbers(column: Any) -> Any:
    """The column as numbers, if all of it can be."""
    if column.dtype.kind in "mM":
        return column
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _is_truth(value: Any) -> bool:
    return isinstance(value, pd.Series) and value.dtype.kind == "b"


def _kind(value: Any) -> str:
    if isinstance(value, pd.Series):
        return "truth" if value.dtype.kind == "b" else "number" if value.dtype.kind in "iuf" else "text"
    return "truth" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else "text"
