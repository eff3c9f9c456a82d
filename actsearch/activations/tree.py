"""Expressions as trees in one canonical form: made by `apply`, printed, evaluated by torch, written as source.

`apply` is the only way to make a tree, and it simplifies: expressions that these rules make equal become equal trees
with one text. Constants are computed; sums, products, max and min are flattened and sorted; like terms and equal
factors are collected. Each rule is exact for real numbers, so values change by rounding only. This file does not read
text: expression.py does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.catalog import ALIASES, CATALOG
from actsearch.errors import ActSearchError

ELEMENTARY = {name: f"torch.{name}" for name in (
    "exp", "expm1", "log", "log1p", "sqrt", "abs", "sign", "sin", "cos", "tan", "sinh", "cosh", "asinh", "atan", "erf",
    "erfc",
) if name not in ALIASES} | {
    "logsigmoid": "torch.nn.functional.logsigmoid",
    "bessel_i0e": "torch.special.i0e",
    "bessel_i1e": "torch.special.i1e",
}  # fmt: skip
"""Functions of one argument, with their paths in torch; those that are aliases of catalogue entries are left out."""

CATALOGUE: dict[str, Activation] = {
    name: entry
    for name, entry in CATALOG.items()
    if entry.kind == "elementwise"
    and entry.width is None
    and not any(param.learned for param in entry.params)
    and (entry.params or name not in ELEMENTARY)
}
"""The catalogue's entries that can be called in an expression; their parameters are further arguments."""

SUGAR = {"identity": 1, "square": 1, "cube": 1, "pow": 2, "clamp": 3, "-": 2}
"""Operations that `apply` takes and expresses by others (square by `**`), with the number of their arguments."""

COMPARISONS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "<": (operator.lt, ">"), "<=": (operator.le, ">="), ">": (operator.gt, "<"), ">=": (operator.ge, "<="),
    "==": (operator.eq, "=="), "!=": (operator.ne, "!="),
}  # fmt: skip
"""Each comparison with the one that it becomes when its two sides are exchanged."""


def number(value: float) -> str:
    """The shortest text that reads back as the same float: 0.02, 1, 1e-05."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@dataclass(frozen=True)
class Node:
    """A node of an expression's tree.

    op: `x`, `number`, `parameter`, `word`, `neg`, `+`, `*`, `/`, `**`, `max`, `min`, `where`, a comparison, or a
    function's name; `detach` and `hypot` occur only in trees that stable.py rewrote, and `part`, the name of a value
    that is computed before, only in those that are written as source. args: the nodes that op is applied to; for a
    catalogue function x first, then all its parameters in the entry's order. value: the number, the name of the
    parameter or the part, or the word.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: float | str = 0.0

    @cached_property
    def size(self) -> int:
        """The number of nodes in this tree."""
        return 1 + sum(arg.size for arg in self.args)

    @cached_property
    def depth(self) -> int:
        return 1 + max((arg.depth for arg in self.args), default=0)

    @cached_property
    def varies(self) -> bool:
        """Whether x occurs in it."""
        return self.op in ("x", "part") or any(arg.varies for arg in self.args)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters, sorted."""
        own = {str(self.value)} if self.op == "parameter" else set()
        return tuple(sorted(own.union(*[arg.parameters for arg in self.args])))

    @cached_property
    def functions(self) -> tuple[str, ...]:
        """The names of the catalogue's entries that it calls, sorted."""
        own = {self.op} if self.op in CATALOGUE else set()
        return tuple(sorted(own.union(*[arg.functions for arg in self.args])))

    @cached_property
    def text(self) -> str:
        """The expression as text, with as few parentheses as possible."""
        return _text(self)[0]

    def __str__(self) -> str:
        return self.text


# --- making ---------------------------------------------------------------------------------------


def constant(value: float) -> Node:
    """A node for a number. Raises ActSearchError if the number is not finite."""
    if not math.isfinite(value):
        raise ActSearchError("a constant in it is not finite: too large, or not defined")
    return Node("number", value=value + 0.0)  # -0.0 becomes 0.0


def parameter(name: str) -> Node:
    return Node("parameter", value=name)


def word(text: str) -> Node:
    """A node for a word that is a parameter of a catalogue function: gelu(x, approximate=tanh)."""
    return Node("word", value=text)


def default(param: Param) -> Node:
    """A node for the default of a catalogue function's parameter, for an argument that is not written."""
    return word(param.default) if isinstance(param.default, str) else constant(param.default)


X, ZERO, ONE = Node("x"), constant(0.0), constant(1.0)


def apply(op: str, *args: Node) -> Node:
    """The canonical form of op applied to canonical args. A catalogue function must be given all its parameters.

    Raises ActSearchError if a constant in it is not finite: log(0), 9 ** 9 ** 9.
    """
    if op == "+":
        return _sum(args)
    if op == "-":
        return _sum((args[0], _scaled(-1.0, args[1])))
    if op == "neg":
        return _scaled(-1.0, args[0])
    if op == "*":
        return _product(args)
    if op == "/":
        return _quotient(*args)
    if op in ("**", "pow"):
        return _power(*args)
    if op in ("square", "cube"):
        return _power(args[0], constant(2.0 if op == "square" else 3.0))
    if op in ("max", "min"):
        return _extreme(op, args)
    if op == "clamp":
        return _extreme("min", (_extreme("max", args[:2]), args[2]))
    if op == "where":
        return _where(*args)
    if op == "identity":
        return args[0]
    if op in COMPARISONS and args[0].op == "number" and args[1].op != "number":
        return Node(COMPARISONS[op][1], args[::-1])
    return _folded(Node(op, args))


def _folded(node: Node) -> Node:
    """The node itself, or its value as a number if it consists of numbers only."""
    if node.op in COMPARISONS or any(arg.op not in ("number", "word") for arg in node.args):
        return node
    try:
        return constant(float(evaluate(node, torch.zeros((), dtype=torch.float64), {})))
    except (ArithmeticError, ValueError, RuntimeError):
        raise ActSearchError("a constant in it is not finite: too large, or not defined") from None


def _split(node: Node) -> tuple[float, Node]:
    """A node as coefficient and rest: 2 * x is (2, x), -x is (-1, x), 3 is (3, 1)."""
    if node.op == "number":
        return float(node.value), ONE
    if node.op == "neg":
        return -1.0, node.args[0]
    if node.op == "*" and node.args[0].op == "number":
        rest = node.args[1:]
        return float(node.args[0].value), rest[0] if len(rest) == 1 else Node("*", rest)
    return 1.0, node


def _scaled(by: float, node: Node) -> Node:
    coefficient, rest = _split(node)
    coefficient = constant(by * coefficient)
    if rest == ONE or coefficient == ZERO:
        return coefficient
    if coefficient == ONE:
        return rest
    if coefficient.value == -1.0:
        return Node("neg", (rest,))
    return Node("*", (coefficient, *(rest.args if rest.op == "*" else (rest,))))


def _sum(args: Sequence[Node]) -> Node:
    terms: dict[Node, float] = {}

    def add(node: Node, sign: float) -> None:
        coefficient, rest = _split(node)
        if rest.op == "+" and abs(coefficient) == 1.0:
            for arg in rest.args:
                add(arg, sign * coefficient)
        else:
            terms[rest] = terms.get(rest, 0.0) + sign * coefficient

    for arg in args:
        add(arg, 1.0)
    parts = [(rest, coefficient) for rest, coefficient in terms.items() if coefficient]
    if len(parts) < 2:
        return _scaled(parts[0][1], parts[0][0]) if parts else ZERO
    sign = 1.0 if any(coefficient > 0 for _, coefficient in parts) else -1.0

    def order(part: tuple[Node, float]) -> tuple[Any, ...]:
        """The sort key of a summand: x + 1, but 1 + exp(x). Summands that are added stand before those subtracted."""
        rest, coefficient = part
        kind = 0 if rest == X else 1 if rest == ONE else 3 if rest.varies else 2
        return sign * coefficient < 0, kind, rest.size, rest.text

    made = Node("+", tuple(_scaled(sign * coefficient, rest) for rest, coefficient in sorted(parts, key=order)))
    return made if sign > 0 else Node("neg", (made,))


def _product(args: Sequence[Node]) -> Node:
    coefficient = 1.0
    powers: dict[Node, float] = {}
    for arg in args:
        own, rest = _split(arg)
        coefficient *= own
        for factor in rest.args if rest.op == "*" else (rest,):
            base, exponent = factor.args if _is_power(factor) else (factor, ONE)
            powers[base] = powers.get(base, 0.0) + float(exponent.value)
    powers.pop(ONE, None)
    factors = [_power(base, constant(exponent)) for base, exponent in powers.items()]
    if not factors:
        return constant(coefficient)

    def order(node: Node) -> tuple[Any, ...]:
        """The sort key of a factor: constants, x, powers of x, then the others, as in a * x * x ** 2 * tanh(x)."""
        kind = 0 if not node.varies else 1 if node == X else 2 if node.op == "**" and node.args[0] == X else 3
        return kind, node.size, node.text

    factors.sort(key=order)
    return _scaled(coefficient, factors[0] if len(factors) == 1 else Node("*", tuple(factors)))


def _quotient(above: Node, below: Node) -> Node:
    if below == ZERO:
        raise ActSearchError("it divides by zero")
    if above.op == below.op == "number":
        return constant(float(above.value) / float(below.value))
    sign = 1.0
    if _split(above)[0] < 0:
        sign, above = -sign, _scaled(-1.0, above)
    if _split(below)[0] < 0:
        sign, below = -sign, _scaled(-1.0, below)
    if above == ZERO or below == ONE:
        return _scaled(sign, above)
    return _scaled(sign, Node("/", (above, below)))


def _whole(node: Node) -> bool:
    return node.op == "number" and float(node.value) > 0 and float(node.value).is_integer()


def _is_power(node: Node) -> bool:
    return node.op == "**" and _whole(node.args[1])


def _power(base: Node, exponent: Node) -> Node:
    if exponent == ZERO or base == ONE:
        return ONE
    if exponent == ONE:
        return base
    if exponent.value == 0.5:
        return apply("sqrt", base)
    if _is_power(base) and _whole(exponent):
        return _power(base.args[0], constant(float(base.args[1].value) * float(exponent.value)))
    return _folded(Node("**", (base, exponent)))


def _extreme(op: str, args: Sequence[Node]) -> Node:
    parts = dict.fromkeys(part for arg in args for part in (arg.args if arg.op == op else (arg,)))
    numbers = [float(part.value) for part in parts if part.op == "number"]
    rest = [part for part in parts if part.op != "number"]
    rest.sort(key=lambda node: (not node.varies, -node.size, node.text))
    if numbers:
        rest.append(constant(max(numbers) if op == "max" else min(numbers)))
    return rest[0] if len(rest) == 1 else Node(op, tuple(rest))


def _where(condition: Node, yes: Node, no: Node) -> Node:
    if yes == no:
        return yes
    left, right = condition.args
    if left.op == right.op == "number":
        return yes if COMPARISONS[condition.op][0](left.value, right.value) else no
    return Node("where", (condition, yes, no))


# --- printing -------------------------------------------------------------------------------------

SUM, PRODUCT, UNARY, POWER, ATOM = range(5)  # how tightly the outermost operator of a text binds


def _text(node: Node) -> tuple[str, int]:
    def inside(arg: Node, least: int) -> str:
        written, binds = _text(arg)
        return written if binds >= least else f"({written})"

    op, args = node.op, node.args
    if op == "number":
        named = {math.pi: "pi", math.e: "e"}.get(float(node.value))
        return named or number(float(node.value)), UNARY if float(node.value) < 0 else ATOM
    if op in ("x", "part", "parameter", "word"):
        return "x" if op == "x" else str(node.value), ATOM
    if op == "neg":
        written, binds = _text(args[0])
        return (f"-({written})", UNARY) if binds == SUM else (f"-{written}", min(binds, UNARY))
    if op == "+":
        out = inside(args[0], PRODUCT)
        for arg in args[1:]:
            minus = _split(arg)[0] < 0
            out += f" - {inside(_scaled(-1.0, arg), PRODUCT)}" if minus else f" + {inside(arg, PRODUCT)}"
        return out, SUM
    if op == "*":
        return " * ".join([inside(args[0], PRODUCT), *[inside(arg, UNARY) for arg in args[1:]]]), PRODUCT
    if op == "/":
        return f"{inside(args[0], PRODUCT)} / {inside(args[1], UNARY)}", PRODUCT
    if op == "**":
        return f"{inside(args[0], ATOM)} ** {inside(args[1], UNARY)}", POWER
    if op in COMPARISONS:
        return f"{inside(args[0], SUM)} {op} {inside(args[1], SUM)}", SUM
    return f"{op}({', '.join(_arguments(node, lambda arg: _text(arg)[0]))})", ATOM


def _arguments(node: Node, write: Callable[[Node], str]) -> list[str]:
    """The arguments of a function as text. A catalogue function's parameters go by name, and defaults are left out."""
    if node.op not in CATALOGUE:
        return [write(arg) for arg in node.args]
    pairs = zip(CATALOGUE[node.op].params, node.args[1:], strict=True)
    return [write(node.args[0]), *[f"{p.name}={write(arg)}" for p, arg in pairs if arg != default(p)]]


# --- values ---------------------------------------------------------------------------------------


def evaluate(node: Node, x: Tensor, params: Mapping[str, Value], known: dict[int, Value] | None = None) -> Value:
    """The value at x: a tensor if x occurs in it. params: floats, or tensors of x's dtype that broadcast against x.

    known: the values of parts, by id, to which those that are computed are added; each object is then computed once.
    """
    if known is None:
        return _value(node, x, params, lambda arg: evaluate(arg, x, params))
    if id(node) not in known:
        known[id(node)] = _value(node, x, params, lambda arg: evaluate(arg, x, params, known))
    return known[id(node)]


def _value(node: Node, x: Tensor, params: Mapping[str, Value], of: Callable[[Node], Value]) -> Value:
    """The value of a node at x. of: gives the value of an argument."""

    def tensor(value: Value) -> Tensor:
        return value if isinstance(value, Tensor) else x.new_full((), value)

    op = node.op
    if op == "x":
        return x
    if op == "number":
        return float(node.value)
    if op == "parameter":
        return params[str(node.value)]
    if op == "where":
        condition, yes, no = node.args
        left, right = (of(arg) for arg in condition.args)
        chosen = COMPARISONS[condition.op][0](tensor(left), right)
        return torch.where(chosen, of(yes), tensor(of(no)))
    if op in CATALOGUE:
        entry = CATALOGUE[op]
        given = [arg.value if arg.op == "word" else of(arg) for arg in node.args[1:]]
        keywords = {param.name: value for param, value in zip(entry.params, given, strict=True)}
        return entry.fn(tensor(of(node.args[0])), **keywords)
    values = [of(arg) for arg in node.args]
    if op == "neg":
        return -values[0]
    if op == "detach":
        return tensor(values[0]).detach()
    if op == "hypot":
        return torch.hypot(tensor(values[0]), tensor(values[1]))
    if op == "**":  # Python's power of two floats may be complex, so the base is made a tensor
        return values[0] ** values[1] if isinstance(values[1], Tensor) else tensor(values[0]) ** values[1]
    if op in ("max", "min"):
        # clamp, because maximum is slower; at a tie clamp has the slope of the first argument
        out = tensor(values[0])
        for value in values[1:]:
            out = out.clamp(min=value) if op == "max" else out.clamp(max=value)
        return out
    if op in OPERATORS:
        out = values[0]
        for value in values[1:]:
            out = OPERATORS[op](out, value)
        return out
    return TORCH[op](tensor(values[0]))


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "*": operator.mul, "/": operator.truediv}
TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    name: operator.attrgetter(path.removeprefix("torch."))(torch) for name, path in ELEMENTARY.items()
}


# --- source ---------------------------------------------------------------------------------------


def source(node: Node) -> str:
    """A tree as a Python expression over `torch`, `x`, the names of its parameters, and those of `node.functions`.

    Parameters may be floats or tensors of x's dtype. A catalogue function is called by its entry's name, with x and
    with its parameters as keywords.
    """

    def tensor(arg: Node) -> str:
        return source(arg) if arg.varies else f"torch.as_tensor({source(arg)}, dtype=x.dtype, device=x.device)"

    def group(arg: Node) -> str:
        return source(arg) if _text(arg)[1] == ATOM else f"({source(arg)})"

    op, args = node.op, node.args
    if op == "number":
        return repr(float(node.value))
    if op == "word":
        return repr(node.value)
    if op in ("x", "part", "parameter"):
        return node.text
    if op == "neg":
        return f"-{group(args[0])}"
    if op in OPERATORS:
        return f" {op} ".join(group(arg) for arg in args)
    if op == "**":
        base = group(args[0]) if args[0].varies or args[1].varies else tensor(args[0])
        return f"{base} ** {group(args[1])}"
    if op in ("max", "min"):
        out, bound = tensor(args[0]), "min" if op == "max" else "max"
        for arg in args[1:]:
            out = f"torch.clamp({out}, {bound}={source(arg)})"
        return out
    if op == "where":
        condition, yes, no = args
        left, right = condition.args
        compared = f"{tensor(left)} {condition.op} {group(right)}"
        return f"torch.where({compared}, {source(yes)}, {tensor(no)})"
    if op == "detach":
        return f"{group(args[0])}.detach()"
    if op == "hypot":
        return f"torch.hypot({tensor(args[0])}, {tensor(args[1])})"
    if op in CATALOGUE:
        return f"{op}({', '.join([tensor(args[0]), *_arguments(node, source)[1:]])})"
    return f"{ELEMENTARY[op]}({tensor(args[0])})"
