"""Rewrites the tree of an expression so that overflow in its parts spoils neither its values nor its slopes.

An expression keeps its text and its name; only its evaluation and its exported source are rewritten. For
example 1 / (1 + exp(-x)) is evaluated as sigmoid(x): at x = -100 exp(-x) is infinite in float32, and the slope of the
quotient as it is written would be 0 · inf = NaN.

Sums of exponentials are held as terms: (coefficient, exponent) stands for coefficient · exp(exponent). In a quotient, a
logarithm or a power of such sums, the largest exponent is taken out before anything is computed. It is detached from
the gradient: the value does not depend on what is taken out, so all derivatives stay exact. Two terms give sigmoid,
tanh or softplus. Each rule holds for all real x, and a tree to which none applies is returned unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from actsearch.activations.tree import COMPARISONS, ONE, ZERO, Node, X, apply, constant
from actsearch.errors import ActSearchError

HIGHEST = 88.0  # exp is finite in float32 up to 88.7
MOST = 8  # terms in a sum of exponentials
MOST_FACTORS = 4  # a power up to this one is multiplied out

Term = tuple[Node, Node]
Terms = tuple[Term, ...]
Interval = tuple[float, float]

EVERYTHING: Interval = (-math.inf, math.inf)
RANGES: dict[str, Interval] = {
    "tanh": (-1, 1), "sin": (-1, 1), "cos": (-1, 1), "erf": (-1, 1), "sign": (-1, 1), "softsign": (-1, 1),
    "sigmoid": (0, 1), "hardsigmoid": (0, 1), "bessel_i0e": (0, 1), "bessel_i1e": (-1, 1), "erfc": (0, 2),
    "arctan": (-math.pi / 2, math.pi / 2), "abs": (0, math.inf), "sqrt": (0, math.inf), "relu": (0, math.inf),
    "softplus": (0, math.inf), "relu6": (0, 6), "logsigmoid": (-math.inf, 0), "hypot": (0, math.inf),
    "gaussian": (0, 1), "squared_relu": (0, math.inf), "cosh": (1, math.inf),
}  # fmt: skip


@lru_cache(maxsize=4096)
def stable(node: Node) -> Node:
    """The tree by which an expression is evaluated; the same node if it is stable as it is written."""
    form = _limited(_guarded(_rewritten(node)))
    return _shared(form, {}) if form.varies else node  # exp(x) / exp(x) is a function of x, if a dull one


def _shared(node: Node, seen: dict[Node, Node]) -> Node:
    """The same tree, in which equal parts are one object, so that they are computed once."""
    if node not in seen:
        args = tuple(_shared(arg, seen) for arg in node.args)
        seen[node] = node if all(a is b for a, b in zip(args, node.args, strict=True)) else replace(node, args=args)
    return seen[node]


def _mapped(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with each argument changed, made anew by `apply`; the same node if no argument changes."""
    args = tuple(change(arg) for arg in node.args)
    return node if args == node.args else apply(node.op, *args)


def _rewritten(node: Node, whole: bool = True) -> Node:
    """The tree with quotients, logarithms and powers of sums of exponentials in a form that does not overflow.

    whole: false for a factor, which is rewritten together with the others.
    """
    product = node.op in ("*", "/")
    made = _mapped(node, lambda arg: _rewritten(arg, not (product and arg.op in ("*", "/"))))
    if whole and product and made.op == "neg":  # a sign that `apply` has taken out
        return _mapped(made, _ruled)
    return _ruled(made) if whole else made


def _ruled(node: Node) -> Node:
    rules = {"*": _quotient, "/": _quotient, "log": _logarithm, "log1p": _logarithm, "sqrt": _root, "**": _root,
             "+": _sum}  # fmt: skip
    if not node.varies or node.op not in rules:
        return node
    try:
        return rules[node.op](node)
    except ActSearchError:  # a constant of the new form is too large, or not defined
        return node


# --- sums of exponentials ---------------------------------------------------------------------------


def _minus(a: Node, b: Node) -> Node:
    return apply("-", a, b)


def _collected(terms: Iterable[Term]) -> Terms:
    """The terms with equal exponents added up, and without those that vanish."""
    by_exponent: dict[Node, Node] = {}
    for coefficient, exponent in terms:
        by_exponent[exponent] = apply("+", by_exponent.get(exponent, ZERO), coefficient)
    return tuple((c, u) for u, c in by_exponent.items() if c != ZERO)


def _times(a: Terms, b: Terms) -> Terms:
    return _collected((apply("*", c, d), apply("+", u, v)) for c, u in a for d, v in b)


@lru_cache(maxsize=4096)
def _terms(node: Node) -> Terms:
    """The node as a sum of exponentials; what holds none is one term with the exponent 0."""
    args = node.args
    made: Terms | None = None
    if node.op == "exp":
        made = ((ONE, args[0]),)
    elif node.op == "expm1":
        made = ((ONE, args[0]), (constant(-1), ZERO))
    elif node.op in ("sinh", "cosh"):
        half = constant(0.5)
        other = half if node.op == "cosh" else constant(-0.5)
        made = ((half, args[0]), (other, apply("neg", args[0])))
    elif node.op == "neg":
        made = _times(((constant(-1), ZERO),), _terms(args[0]))
    elif node.op == "+":
        made = _collected(term for arg in args for term in _terms(arg))
    elif node.op == "*":
        made = ((ONE, ZERO),)
        for arg in args:
            made = _times(made, _terms(arg)) if len(made) <= MOST else made
    elif node.op == "/" and len(below := _terms(args[1])) == 1:
        made = _times(_terms(args[0]), _inverse(below))
    elif node.op == "**":
        made = _power_terms(*args)
    return made if made is not None and len(made) <= MOST and any(u != ZERO for _, u in made) else ((node, ZERO),)


def _power_terms(base: Node, exponent: Node) -> Terms | None:
    if base.op == "number" and float(base.value) > 0:
        return ((ONE, apply("*", constant(math.log(float(base.value))), exponent)),)
    terms = _terms(base)
    if len(terms) == 1 and terms[0][0] == ONE:
        return ((ONE, apply("*", exponent, terms[0][1])),)
    if exponent.op == "number" and float(exponent.value) in range(2, MOST_FACTORS + 1) and len(terms) <= MOST:
        made = terms
        for _ in range(int(float(exponent.value)) - 1):
            made = _times(made, terms) if len(made) <= MOST else made
        return made
    return None


def _inverse(single: Terms) -> Terms:
    ((coefficient, exponent),) = single
    return ((apply("/", ONE, coefficient), apply("neg", exponent)),)


def _value(terms: Iterable[Term], less: Node = ZERO) -> Node:
    """The sum of the terms, divided by exp(less)."""
    return apply("+", *[apply("*", c, apply("exp", _minus(u, less))) for c, u in terms])


def _largest(terms: Terms) -> Node:
    return apply("detach", apply("max", *[u for _, u in terms]))


def _parted(terms: Terms) -> tuple[Node, Terms]:
    """The terms as a factor and terms that do not cancel: c · (exp(u) - exp(v)) is c · tanh((u - v) / 2) times a sum.

    The exponents are limited, so that their differences are defined.
    """
    finite = tuple((c, _limited(u, (True, True))) for c, u in terms)
    if len(finite) == 2 and finite[0][0] == apply("neg", finite[1][0]):
        (c, u), (_, v) = finite
        return apply("*", c, apply("tanh", apply("*", constant(0.5), _minus(u, v)))), ((ONE, u), (ONE, v))
    return ONE, finite


def _risky(node: Node, terms: Terms) -> bool:
    """Whether a sum of exponentials may be infinite in float32, or 0 because all its terms vanish."""
    return _overflows(node, deep=False) or all(u.varies for _, u in terms)


@lru_cache(maxsize=4096)
def _overflows(node: Node, deep: bool = True) -> bool:
    """Whether an exponential in the node may be infinite in float32. deep: also one in the argument of a function."""
    if node.op in ("exp", "expm1", "sinh", "cosh"):
        low, high = bounds(node.args[0])
        risky = high > HIGHEST or (node.op in ("sinh", "cosh") and low < -HIGHEST)
    else:
        risky = node.op == "**" and any(u.varies and bounds(u)[1] > HIGHEST for _, u in _terms(node))
    inside = node.args if deep or node.op in ("neg", "+", "*", "/", "**") else ()
    return (risky and node.varies) or any(_overflows(arg, deep) for arg in inside)


# --- quotients --------------------------------------------------------------------------------------


def _fraction(node: Node) -> tuple[Terms, Terms]:
    """The node as a quotient of two sums of exponentials. sigmoid and tanh are quotients too."""
    one: Terms = ((ONE, ZERO),)
    if node.op == "/":
        (a, b), (c, d) = _fraction(node.args[0]), _fraction(node.args[1])
        found = _times(a, d), _times(b, c)
    elif node.op in ("*", "+", "neg"):
        found = (one, one) if node.op == "*" else ((), one)
        for arg in node.args:
            a, b = _factor(arg) if node.op == "*" else _fraction(arg)
            if node.op == "*":
                found = _times(found[0], a), _times(found[1], b)
            else:
                both = (found[0], a) if found[1] == b else (_times(found[0], b), _times(a, found[1]))
                found = _collected((*both[0], *both[1])), b if found[1] == b else _times(found[1], b)
            if max(map(len, found)) > MOST:
                return _terms(node), one
        if node.op == "neg":
            found = _times(((constant(-1), ZERO),), found[0]), found[1]
    elif node.op in ("sigmoid", "tanh"):
        small = apply("exp", apply("*", constant(-1 if node.op == "sigmoid" else -2), node.args[0])).args[0]
        above: Terms = one if node.op == "sigmoid" else (*one, (constant(-1), small))
        found = above, (*one, (ONE, small))
    else:
        return _terms(node), one
    (a, b) = found
    if not a or max(len(a), len(b)) > MOST:
        return _terms(node), one
    return (_times(a, _inverse(b)), one) if len(b) == 1 else (a, b)


def _factor(node: Node) -> tuple[Terms, Terms]:
    """As _fraction, for a factor of a product: tanh does not vanish at infinity, but silu does."""
    if node.op == "tanh":
        return _terms(node), ((ONE, ZERO),)
    if node.op == "silu":
        x, beta = node.args
        return _fraction(apply("*", x, apply("sigmoid", apply("*", beta, x))))
    return _fraction(node)


def _quotient(node: Node) -> Node:
    """A product or a quotient in which exponentials meet, with the largest exponent of its denominator taken out."""
    meet = [arg.op in ("/", "sigmoid", "silu") or any(u != ZERO for _, u in _terms(arg)) for arg in node.args]
    divides = node.op == "/" and meet[1]
    needed = _overflows(node, deep=False) or (divides and _risky(node.args[1], _terms(node.args[1])))
    if not needed or not (divides or sum(meet) > 1):
        return _mapped(node, lambda arg: _ruled(arg) if arg.op in ("*", "/") else arg)
    above, below = _fraction(node)
    if len(below) == 1:
        return _value(_times(above, _inverse(below)))
    (factor, above), (divisor, below) = _parted(above), _parted(below)
    largest = _largest(below)
    quotient = _two_terms(above, below) or apply("/", _value(above, largest), _value(below, largest))
    return apply("/", apply("*", factor, quotient), divisor)


def _two_terms(above: Terms, below: Terms) -> Node | None:
    """The quotient by sigmoid, if its denominator has two positive terms and its numerator has no others."""
    if len(below) != 2 or not _positive_numbers(below) or not {u for _, u in above} <= {u for _, u in below}:
        return None
    (b1, v1), (b2, v2) = below
    difference = apply("+", _minus(v1, v2), constant(math.log(float(b1.value) / float(b2.value))))
    shares = {u: c for c, u in above}
    first, second = (apply("/", shares.get(v, ZERO), b) for b, v in below)
    if first == second:
        return first
    parts = [(first, difference), (second, apply("neg", difference))]
    return apply("+", *[apply("*", share, apply("sigmoid", at)) for share, at in parts if share != ZERO])


def _positive_numbers(terms: Terms) -> bool:
    return all(c.op == "number" and float(c.value) > 0 for c, _ in terms)


# --- logarithms, powers, sums -----------------------------------------------------------------------


def _logarithm(node: Node) -> Node:
    """A logarithm of sums of exponentials, as softplus or with the largest exponent outside."""
    inside = node.args[0] if node.op == "log" else apply("+", ONE, node.args[0])
    above, below = _fraction(inside)
    vanishes = bounds(inside)[0] <= 0 and (len(below) > 1 or all(u.varies for _, u in above))
    if not any(u.varies for _, u in (*above, *below)) or not (_overflows(inside, deep=False) or vanishes):
        return node
    if len(below) == 1:
        return _log_of(above)
    if all(bounds(c)[0] > 0 for c, _ in (*above, *below)):
        return _minus(_log_of(above), _log_of(below))
    return node


def _log_of(terms: Terms) -> Node:
    factor, terms = _parted(terms)
    return apply("+", apply("log", factor), _log_of_sum(terms))


def _log_of_sum(terms: Terms) -> Node:
    if len(terms) == 1:
        ((coefficient, exponent),) = terms
        return apply("+", exponent, apply("log", coefficient))
    if len(terms) == 2 and _positive_numbers(terms):
        (b, v), (c, u) = sorted(terms, key=lambda term: term[1].varies)
        distance = apply("+", _minus(u, v), constant(math.log(float(c.value) / float(b.value))))
        return apply("+", v, constant(math.log(float(b.value))), apply("softplus", distance, ONE))
    largest = _largest(terms)
    if (ONE, ZERO) in terms:  # log1p keeps the digits of what is added to 1
        rest = _value([term for term in terms if term != (ONE, ZERO)], largest)
        return apply("+", largest, apply("log1p", apply("+", apply("expm1", apply("neg", largest)), rest)))
    return apply("+", largest, apply("log", _value(terms, largest)))


def _root(node: Node) -> Node:
    """A power that is no whole positive number, with the largest exponent outside; sqrt(x ** 2 + c) is a hypotenuse."""
    base = node.args[0]
    exponent = constant(0.5) if node.op == "sqrt" else node.args[1]
    if _whole(exponent) or _breaks(exponent):
        return node
    if node.op == "sqrt" and base.op == "+":
        squares = [arg for arg in base.args if arg.op == "**" and arg.args[1] == constant(2)]
        rest = _minus(base, squares[0]) if squares else ZERO
        if rest.op == "number" and float(rest.value) > 0:
            return Node("hypot", (squares[0].args[0], constant(math.sqrt(float(rest.value)))))
    terms = _terms(base)
    if not _risky(base, terms) or not any(u.varies for _, u in terms):
        return node
    factor, terms = _parted(terms)
    outside = terms[0][1] if len(terms) == 1 else _largest(terms)
    inside = apply("*", factor, terms[0][0] if len(terms) == 1 else _value(terms, outside))
    return apply("*", apply("exp", apply("*", exponent, outside)), apply("**", inside, exponent))


def _sum(node: Node) -> Node:
    """exp(u) - 1 is expm1(u); and exponentials that cancel, as in cosh(x) - sinh(x), are left out."""
    terms = _terms(node)
    if len(terms) < sum(len(_terms(arg)) for arg in node.args) and _overflows(node, deep=False):
        node = _value(terms)
    for arg in node.args if node.op == "+" else ():
        single = _terms(arg)
        ((coefficient, exponent),) = single if len(single) == 1 else ((ZERO, ZERO),)
        if exponent.varies and apply("neg", coefficient) in node.args:
            rest = _minus(_minus(node, arg), apply("neg", coefficient))
            return apply("+", rest, apply("*", coefficient, apply("expm1", exponent)))
    return node


# --- branches ---------------------------------------------------------------------------------------


def _guarded(node: Node) -> Node:
    """The tree in which a branch of `where` that is not selected is computed at a harmless x.

    torch.where multiplies the gradient of the other branch by 0, and 0 · inf is NaN. A product with a factor that is 0
    on one side of a threshold, as in relu(x) * exp(-x), has such a branch too.
    """
    node = _mapped(node, _guarded)
    if node.op == "where" and node.args[0].varies:
        condition, yes, no = node.args
        return Node("where", (condition, _at(yes, condition, True), _at(no, condition, False)))
    if node.op == "*":
        for i, factor in enumerate(node.args):
            if (lives := _lives(factor)) is not None:
                others = tuple(arg if k == i else _at(arg, lives, True) for k, arg in enumerate(node.args))
                node = Node("*", others)
    return node


STARTS = {"relu": 0.0, "relu6": 0.0, "squared_relu": 0.0, "clipped_relu": 0.0, "hardsigmoid": -3.0}
"""Functions that are 0 below a threshold."""


def _lives(factor: Node) -> Node | None:
    """The condition under which a factor is not 0, if it is 0 on one side of a threshold."""
    if factor.op in STARTS and factor.varies:
        return Node(">=", (factor.args[0], constant(STARTS[factor.op])))
    if factor.op in ("max", "min") and factor.args[1:] == (ZERO,):
        return Node(">=" if factor.op == "max" else "<=", (factor.args[0], ZERO))
    return None


def _at(branch: Node, condition: Node, selected: bool) -> Node:
    """The branch with x replaced by a harmless number wherever it is not selected."""
    harmless = _inside(condition, selected)
    if not branch.varies or not _breaks(branch) or harmless is None:
        return branch
    safe = Node("where", (condition, X, harmless) if selected else (condition, harmless, X))
    return _put(branch, safe)


def _inside(condition: Node, selected: bool) -> Node | None:
    """An x for which the condition holds, or not; None if it is not known."""
    left, right = condition.args
    if left == X and not right.varies:
        op = condition.op
        if op in ("==", "!="):
            step = 0.0 if (op == "==") == selected else 1.0
        else:
            step = 1.0 if (op in (">", ">=")) == selected else -1.0
        return apply("+", right, constant(step))
    return next((constant(x) for x in TRIED if _holds(condition, x) == selected), None)


TRIED = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.0, 5.0, -5.0, 20.0, -20.0)


def _holds(condition: Node, x: float) -> bool | None:
    """Whether the condition holds at x; None if it depends on parameters, too."""
    if condition.parameters:
        return None
    try:
        left, right = (_put(arg, constant(x)) for arg in condition.args)
    except ActSearchError:  # not defined at this x
        return None
    return bool(COMPARISONS[condition.op][0](left.value, right.value))


def _put(node: Node, x: Node) -> Node:
    """The tree with x replaced."""
    return x if node == X else _mapped(node, lambda arg: _put(arg, x))


def _breaks(node: Node) -> bool:
    """Whether the node's value or slope may be infinite or undefined at some finite x."""
    inside: Sequence[Interval] = [bounds(arg) for arg in node.args]
    risky = (
        (node.op in ("log", "sqrt") and inside[0][0] <= 0)
        or (node.op == "log1p" and inside[0][0] <= -1)
        or (node.op == "/" and inside[1][0] <= 0 <= inside[1][1])
        or (node.op == "**" and not _whole(node.args[1]) and inside[0][0] <= 0)
        or node.op == "tan"
    )
    return node.varies and (risky or _overflows(node) or any(_breaks(arg) for arg in node.args))


def _whole(node: Node) -> bool:
    return node.op == "number" and float(node.value) >= 0 and float(node.value) % 1 == 0


# --- what saturates ---------------------------------------------------------------------------------


Ways = tuple[bool, bool]
"""Whether -inf and inf, as the value of a node, are swallowed: whether what uses the node is finite there."""


def _limited(node: Node, swallowed: Ways = (False, False)) -> Node:
    """The tree with limits to the exponents of exponentials whose overflow does not show in the value.

    tanh(exp(x)) is 1 where exp(x) is infinite, but its slope would be 0 · inf = NaN.
    """
    if not node.varies:
        return node
    if node.op == "**" and _overflows(node) and (any(swallowed) or _overflows(node.args[1])):
        base, exponent = node.args
        if base.op == "number" and float(base.value) > 0:  # 2 ** u is exp(log(2) * u)
            node = Node("exp", (apply("*", constant(math.log(float(base.value))), exponent),))
    args = tuple(_limited(arg, _ways(node, i, swallowed)) for i, arg in enumerate(node.args))
    made = node if args == node.args else replace(node, args=args)
    if node.op not in ("exp", "expm1", "sinh", "cosh") or not _overflows(node):
        return made
    exponent, (down, up) = made.args[0], swallowed
    low, high = bounds(node.args[0])
    if up and high > HIGHEST:
        exponent = apply("min", exponent, constant(HIGHEST))
    if low < -HIGHEST and ((down and node.op == "sinh") or (up and node.op == "cosh")):
        exponent = apply("max", exponent, constant(-HIGHEST))
    return replace(made, args=(exponent,))


def _ways(node: Node, i: int, swallowed: Ways) -> Ways:
    """Which infinities of a node's argument i are swallowed. swallowed: those of the node itself."""
    down, up = swallowed
    if node.op == "+":  # limits to terms of opposite signs would cancel
        signs = [bounds(arg) for arg in node.args if _overflows(arg)]
        alike = len(signs) == 1 or all(low >= 0 for low, _ in signs) or all(high <= 0 for _, high in signs)
        return swallowed if alike else (False, False)
    if node.op == "where":
        return swallowed
    if node.op == "neg":
        return up, down
    if node.op == "max":
        return True, up
    if node.op == "min":
        return down, True
    if node.op == "/" and i == 1:
        return True, True
    if node.op in ("*", "/"):
        others = [arg for k, arg in enumerate(node.args) if k != i]
        if node.op == "*" and not all(map(_grows, others)):
            return False, False
        signs = [bounds(other) for other in others]
        if all(low >= 0 or high <= 0 for low, high in signs):
            return swallowed if sum(high <= 0 for _, high in signs) % 2 == 0 else (up, down)
        return down or up, down or up  # the sign of a learned factor may change
    low, high = _saturates(node)
    return low or (down and node.op in RISING), high or (up and node.op in RISING)


RISING = {"exp", "expm1", "sinh"}


def _grows(node: Node) -> bool:
    """Whether a factor is a polynomial, so that it does not vanish where an exponential is infinite."""
    return node.op in ("x", "number", "parameter", "neg", "+", "*", "abs", "**") and all(map(_grows, node.args))


@lru_cache(maxsize=256)
def _saturates(node: Node) -> Ways:
    """Whether a function has a limit at -inf and at inf."""
    if node.op in COMPARISONS or node.op in ("detach", "hypot", "**"):
        return False, False
    args = [arg if arg.op in ("number", "word") else ONE for arg in node.args[1:]]

    def at(x: float) -> float:
        try:
            return float(apply(node.op, constant(x), *args).value)
        except ActSearchError:
            return math.nan

    return abs(at(-1e30) - at(-1e38)) < 1e-6, abs(at(1e30) - at(1e38)) < 1e-6


# --- bounds -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def bounds(node: Node) -> Interval:
    """An interval that holds all values of the node for finite x. It may be wider than needed."""
    inside = [bounds(arg) for arg in node.args if arg.op not in ("word", *COMPARISONS)]
    if node.op == "number":
        return float(node.value), float(node.value)
    if node.op in RANGES:
        return RANGES[node.op]
    if node.op == "detach":
        return inside[0]
    if node.op in ("+", "neg"):
        return _sum_bounds(node, inside)
    if node.op in ("max", "min"):
        of = max if node.op == "max" else min
        return of(low for low, _ in inside), of(high for _, high in inside)
    if node.op == "where":
        return min(low for low, _ in inside), max(high for _, high in inside)
    if node.op == "*":
        made = inside[0]
        for other in inside[1:]:
            ends = [_product(a, b) for a in made for b in other]
            made = min(ends), max(ends)
        return made
    if node.op == "/" and inside[1][0] > 0:
        ends = [_product(a, 1 / b) for a in inside[0] for b in inside[1]]
        return min(ends), max(ends)
    if node.op == "**" and (inside[0][0] > 0 or (_whole(node.args[1]) and float(node.args[1].value) % 2 == 0)):
        return 0.0, math.inf
    if node.op == "exp":
        return _exp(inside[0][0]), _exp(inside[0][1])
    return EVERYTHING


def _sum_bounds(node: Node, inside: Sequence[Interval]) -> Interval:
    if node.op == "neg":
        low, high = -inside[0][1], -inside[0][0]
        args = tuple(apply("neg", arg) for arg in node.args[0].args) if node.args[0].op == "+" else ()
    else:
        low, high = sum(low for low, _ in inside), sum(high for _, high in inside)
        args = node.args
    for arg in args:  # u - max(u, …) is never positive
        if arg.op == "neg" and arg.args[0].op == "detach":
            rest = apply("+", *[other for other in args if other is not arg])
            high = min(high, 0.0) if rest in arg.args[0].args[0].args else high
    return low, high


def _product(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _exp(u: float) -> float:
    return math.exp(u) if u < 700 else math.inf
