"""Activations written as expressions: "x * tanh(softplus(x))", "min(max(a * x, x), 6)" with a parameter a.

`read` checks that a text is short, has balanced parentheses and only plain characters, and makes Python's syntax tree
of it. `parse` turns that, node by node, into a canonical tree (tree.py) and refuses everything that is not listed. No
text is ever evaluated or compiled, and with the limits below no text takes 100 ms (the slowest of 100,000 random and
hostile strings took 5 ms).
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import unicodedata
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from torch import Tensor

from actsearch.activations import tree
from actsearch.activations.activation import Activation, Param
from actsearch.activations.catalog import ALIASES, CATALOG
from actsearch.activations.numerics import in_float32
from actsearch.activations.stable import stable
from actsearch.activations.tree import CATALOGUE, COMPARISONS, ELEMENTARY, SUGAR, Node, apply
from actsearch.errors import ActSearchError, unknown

MAX_LENGTH = 500  # characters of an expression, both as written and in its canonical form
MAX_NODES = 100
MAX_DEPTH = 30
MAX_PARAMETERS = 8
MAX_NAME = 24  # characters in the name of a parameter

NUMPY = {"arcsinh": "asinh", "arctan": "atan", "maximum": "max", "minimum": "min", "absolute": "abs"}
SPELLINGS = {written: name for written, name in NUMPY.items() if written not in CATALOG} | ALIASES
FUNCTIONS = sorted({*CATALOGUE, *ELEMENTARY, *SUGAR, *SPELLINGS, "max", "min", "where"} - {"-"})
CONSTANTS = {"pi": math.pi, "e": math.e}
RESERVED = {*CONSTANTS, "x", "learned", "search", "inf", "nan", "True", "False", "None"}

TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)|(?P<quoted>'\w*'|\"\w*\")"
    r"|(?P<open>\()|(?P<close>\))|(?P<sign>\*\*|[<>=!]=|[-+*/,<>=])",
    re.ASCII,
)
CURES = {
    "^": "write ** for a power", "·": "write *", "×": "write *", "÷": "write /", "−": "write -", "²": "write ** 2",
    "³": "write ** 3", "√": "write sqrt(…)", "π": "write pi", "≤": "write <=", "≥": "write >=",
    "|": "it only separates the specs of slots; for |x| write abs(x)", "if": "write where(x > 0, a, b)",
    "else": "write where(x > 0, a, b)", "lambda": "write only what it returns",
    ":": "a value of a parameter is written a=0.5",
}  # fmt: skip
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
COMPARED = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
EXAMPLES = "Write it like 'relu', 'leaky_relu(negative_slope=0.02)' or 'x * tanh(softplus(x))'."


# --- reading --------------------------------------------------------------------------------------


def read(text: str, times: int = 1) -> ast.expr:
    """Python's syntax tree of a text made of names, numbers, signs and parentheses. The names are not looked up yet.

    Raises ActSearchError with the column if there is anything else in the text, or if it exceeds MAX_DEPTH, or `times`
    MAX_LENGTH, or `times` MAX_NODES.
    """
    _look(text, times * MAX_LENGTH)
    plain = re.sub(r"[\t\r\n]", " ", text)  # each becomes one space, so that columns stay right
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # in parentheses, because Python allows no spaces before an expression
            body = ast.parse(f"({plain})", mode="eval").body
    except SyntaxError as error:
        column = min(max((error.offset or 2) - 1, 1), len(text))
        refuse(text, column, f"this is no name with its parameters, and no formula. {EXAMPLES}")
    except (ValueError, MemoryError, RecursionError):
        refuse(text, 1, "it is too complicated")
    nodes = [node for node in ast.walk(body) if isinstance(node, ast.expr)]
    for node in nodes:
        node.col_offset -= 1
        node.end_col_offset = (node.end_col_offset or 1) - 1
    if len(nodes) > times * MAX_NODES:
        refuse(text, 1, f"it has {len(nodes)} parts; at most {times * MAX_NODES} are read")
    return body


def _look(text: str, most: int) -> None:
    """Refuses, before Python's parser sees the text, characters and words that have no place in an activation."""
    if not text.strip():
        raise ActSearchError(f"cannot read the activation '{_shown(text, 1)}': it is empty. {EXAMPLES}")
    if len(text) > most:
        refuse(text, 1, f"it has {len(text)} characters; at most {most} are read")
    opened: list[int] = []
    at, signs, before = 0, 0, None
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            refuse(text, at + 1, _why_not(text[at]))
        kind, word = found.lastgroup, found.group()
        if kind == "name" and before == "number":
            refuse(text, at + 1, f"'{word}' follows a number directly. Write * between, and digits without letters")
        for part in word.split(".") if kind == "name" else ():
            if keyword.iskeyword(part) and part not in RESERVED:
                refuse(text, at + 1, f"'{part}' has no place in an activation" + _cure(part))
        if kind == "open":
            opened.append(at)
        elif kind == "close":
            if not opened:
                refuse(text, at + 1, "this ')' closes nothing")
            opened.pop()
        signs = signs + 1 if kind == "sign" else signs if kind == "space" else 0
        if len(opened) > MAX_DEPTH or signs > MAX_DEPTH:
            refuse(text, at + 1, f"it is nested deeper than {MAX_DEPTH}")
        before, at = kind, found.end()
    if opened:
        refuse(text, opened[-1] + 1, "this '(' is never closed")


def _why_not(character: str) -> str:
    if character in CURES or (character.isprintable() and character.isascii()):
        return f"'{character}' has no place in an activation" + _cure(character)
    name = unicodedata.name(character, f"character {ord(character)}")
    return f"'{_shown(character, 1)}' ({name}) has no place in an activation. Write plain letters and digits"


def _cure(what: str) -> str:
    return f": {CURES[what]}" if what in CURES else ""


def _shown(text: str, column: int) -> str:
    """The text on one line; of a long text, 80 characters around the column."""
    start = max(0, column - 40)
    part = text[start : start + 80]
    part = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in part)
    return "…" * (start > 0) + part + "…" * (start + 80 < len(text))


def refuse(text: str, column: int, why: str) -> NoReturn:
    """Raises the ActSearchError that says what is wrong in a text, and at which column."""
    column, end = max(column, 1), "" if why.endswith((".", "?")) else "."
    raise ActSearchError(f"cannot read the activation '{_shown(text, column)}': column {column}: {why}{end}") from None


# --- from syntax to a canonical tree --------------------------------------------------------------


@lru_cache(maxsize=1024)
def parse(text: str) -> Node:
    """The canonical tree of an expression: parse(tree.text) == tree.

    Raises ActSearchError, if possible with the column, if the text is no expression, if it does not depend on x, or if
    one of its parameters makes no difference.
    """
    made, names = parse_part(text)
    if not made.varies:
        raise ActSearchError(f"'{_shown(text, 1)}' is constant: it does not depend on x. {EXAMPLES}")
    if made.depth > MAX_DEPTH:
        refuse(text, 1, f"it is nested deeper than {MAX_DEPTH}")
    for name in names:
        if name not in made.parameters:
            refuse(text, column_of(name, text), f"'{name}' makes no difference. Leave it out")
    if len(names) > MAX_PARAMETERS:
        refuse(text, 1, f"it has {len(names)} parameters; at most {MAX_PARAMETERS} are read")
    try:
        again = made if made.text == text else parse_part(made.text)[0]
    except ActSearchError:  # 1/3 becomes 0.3333333333333333, which is longer
        refuse(text, 1, f"it is too long when it is written with its constants computed: {made.text}")
    assert again == made, f"the canonical form of {text!r} is not stable"
    return made


def column_of(name: str, text: str) -> int:
    """The column at which a name first occurs in a text, counted from 1."""
    found = re.search(rf"\b{re.escape(name)}\b", text)
    return found.start() + 1 if found else 1


def parse_part(text: str) -> tuple[Node, list[str]]:
    """The canonical tree of an expression that may be constant, and the names of the parameters written in it."""
    reader = _Reader(text)
    return reader.convert(read(text)), reader.names


class _Reader:
    """Converts Python's syntax tree of a text to a canonical tree. names: the parameters met so far, in their order."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []

    def _wrong(self, node: ast.AST, why: str) -> NoReturn:
        refuse(self.text, getattr(node, "col_offset", 0) + 1, why)

    def _make(self, node: ast.expr, op: str, *args: Node) -> Node:
        try:
            return apply(op, *args)
        except ActSearchError as error:
            self._wrong(node, str(error))

    def convert(self, node: ast.expr) -> Node:
        match node:
            case ast.Constant(value=bool() | None):
                self._wrong(node, f"'{node.value}' is not a number")
            case ast.Constant(value=int() | float()):
                try:
                    return tree.constant(float(node.value))  # pyright: ignore[reportArgumentType]
                except (OverflowError, ActSearchError):
                    self._wrong(node, "this number is too large")
            case ast.Name():
                return self._named(node)
            case ast.UnaryOp(op=ast.USub()):
                return self._make(node, "neg", self.convert(node.operand))
            case ast.UnaryOp(op=ast.UAdd()):
                return self.convert(node.operand)
            case ast.BinOp() if type(node.op) in OPERATORS:
                return self._make(node, OPERATORS[type(node.op)], self.convert(node.left), self.convert(node.right))
            case ast.Call(func=ast.Name(id=written)):
                return self._called(node, written)
            case ast.Call(func=ast.Attribute()) | ast.Attribute():
                self._wrong(node, "a name with dots is a function of your own, and stands alone: my_file.my_function")
            case ast.Call():
                self._wrong(node, "what stands before these parentheses is no function. Write * between them")
            case ast.Compare():
                self._wrong(node, "a comparison is allowed only in where(x > 0, a, b)")
            case ast.BinOp():
                self._wrong(node, "the operators are + - * / **")
            case ast.Tuple():
                self._wrong(node, "commas are allowed only between the arguments of a function")
            case ast.Constant(value=str()):
                self._wrong(node, "quotes have no place in an expression")
        self._wrong(node, "this has no place in an expression")

    def _named(self, node: ast.Name) -> Node:
        name = node.id
        if name == "x":
            return tree.X
        if name in CONSTANTS:
            return tree.constant(CONSTANTS[name])
        if name in FUNCTIONS or name in CATALOG:
            self._wrong(node, f"'{name}' is a function. Write {name}(x)")
        if name in RESERVED or name.startswith("_") or len(name) > MAX_NAME:
            self._wrong(node, f"'{_shown(name, 1)}' cannot be the name of a parameter. Write a short one such as a")
        if name not in self.names:
            self.names.append(name)
        return tree.parameter(name)

    def _called(self, node: ast.Call, written: str) -> Node:
        name = SPELLINGS.get(written, written)
        if name not in FUNCTIONS:
            if name in CATALOG:
                self._wrong(node, f"'{name}' cannot stand in an expression: {_why_alone(CATALOG[name])}")
            if name in RESERVED or name in self.names or len(name) == 1:
                self._wrong(node, f"'{name}' is no function. Write * before the parentheses")
            self._wrong(node, str(unknown("function", name, FUNCTIONS)))
        if any(isinstance(arg, ast.Starred) for arg in node.args) or any(k.arg is None for k in node.keywords):
            self._wrong(node, "arguments are written out, without a star")
        if name == "where":
            return self._where(node)
        if name in CATALOGUE:
            return self._entry_called(node, written, CATALOGUE[name])
        n = {"max": 2, "min": 2, **SUGAR}.get(name, 1)
        many = name in ("max", "min")
        if node.keywords or len(node.args) < n or (len(node.args) > n and not many):
            self._wrong(node, f"'{written}' takes {n}{' or more' * many} argument{'s' * (n > 1)} and no names")
        return self._make(node, name, *[self.convert(arg) for arg in node.args])

    def _where(self, node: ast.Call) -> Node:
        if len(node.args) != 3 or node.keywords:
            self._wrong(node, "'where' takes a condition and two values. Write where(x > 0, a, b)")
        condition, *values = node.args
        if not (isinstance(condition, ast.Compare) and len(condition.ops) == 1 and type(condition.ops[0]) in COMPARED):
            self._wrong(condition, "the condition of 'where' is one comparison such as x > 0")
        sides = self.convert(condition.left), self.convert(condition.comparators[0])
        compared = self._make(condition, COMPARED[type(condition.ops[0])], *sides)
        return self._make(node, "where", compared, *[self.convert(value) for value in values])

    def _entry_called(self, node: ast.Call, written: str, entry: Activation) -> Node:
        example = f"{written}({', '.join(['x', *[f'{p.name}={p.default}' for p in entry.params[:1]]])})"
        if len(node.args) != 1:
            self._wrong(node, f"'{written}' takes x, and its parameters by name. Write {example}")
        given: dict[str, Node] = {}
        for item in node.keywords:
            param = entry.param(str(item.arg))
            if param is None:
                names_known = [p.name for p in entry.params]
                self._wrong(
                    item.value, f"'{written}' has no parameter '{item.arg}'. It has: {', '.join(names_known) or 'none'}"
                )
            given[param.name] = self._argument(item.value, param, written)
        args = [given.get(p.name) or tree.default(p) for p in entry.params]
        return self._make(node, entry.name, self.convert(node.args[0]), *args)

    def _argument(self, node: ast.expr, param: Param, written: str) -> Node:
        if param.choices:
            value = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
            if not any(value == choice for choice in param.choices):
                self._wrong(node, f"'{param.name}' of '{written}' is one of: {', '.join(map(str, param.choices))}")
            return tree.word(value) if isinstance(value, str) else self.convert(node)
        made = self.convert(node)
        if made.varies:
            self._wrong(node, f"'{param.name}' of '{written}' cannot depend on x. Write a number or a parameter")
        return made


def _why_alone(entry: Activation) -> str:
    if any(param.learned for param in entry.params):
        return "what it learns needs a name. Write e.g. leaky_relu(x, negative_slope=a) with a=learned(0.25)"
    return f"it is {entry.kind}, and only elementwise functions can stand there"


# --- from a tree to an entry ---------------------------------------------------------------------------


def head(made: Node) -> str:
    """The text before the parameters' values: a call as it is, min(max(a * x, x), 6); else in parentheses, (a * x)."""
    return made.text if made.op in FUNCTIONS else f"({made.text})"


def entry_for(made: Node, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """If the expression is just one catalogue function of x, that entry's name and its parameters; else None."""
    if made == tree.X:
        return "identity", {}
    entry = CATALOG.get(made.op)
    if entry is None or entry.kind != "elementwise" or entry.width is not None or made.args[0] != tree.X:
        return None
    rest = made.args[1:]
    if not all(arg.op in ("number", "word", "parameter") for arg in rest) or (
        sum(arg.op == "parameter" for arg in rest) > len(made.parameters)
    ):
        return None
    values = [params[str(arg.value)] if arg.op == "parameter" else arg.value for arg in rest]
    return entry.name, dict(zip([p.name for p in entry.params], values, strict=True))


def activation(made: Node) -> Activation:
    """An entry for an expression, like the catalogue's. Its parameters have no defaults: a spec always gives values."""
    form = stable(made)

    @in_float32
    def fn(x: Tensor, **params: Tensor | float) -> Tensor:
        cast = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in params.items()}
        out = tree.evaluate(made, x, cast) if form == made else tree.evaluate(form, x, cast, known={})
        assert isinstance(out, Tensor)
        return out

    return Activation(
        made.text, fn, family="expression", formula=made.text, source="written as an expression",
        params=tuple(Param(name, math.nan, quoted=True) for name in made.parameters),
    )  # fmt: skip


assert set(COMPARISONS) == set(COMPARED.values())
