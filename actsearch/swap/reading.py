"""Follows values through the source of a forward that torch.fx cannot trace: branches, loops, any arguments.

A branch is taken if its test can be told, else both are; a loop over what is not known is run twice. What is not
understood gives the values that it gets.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch import nn

from actsearch.swap.functions import source
from actsearch.swap.values import SHAPES, Value, Values

DEEPEST = 6  # functions inside of functions
MOST = 20_000  # statements that are read in one net
LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
MEMBERS = {"values", "items", "children", "named_children", "modules"}
GROWING = {"append", "extend", "insert", "update", "add", "appendleft", "setdefault"}
CONSTANTS = (type(None), bool, int, float, str)
OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow", ast.MatMult: "matmul",
    ast.FloorDiv: "div",
}  # fmt: skip
COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip


class Follower(Protocol):
    """What follows values into other modules: flow.Flow."""

    values: Values
    read: int  # how many statements have been read
    training: bool

    def call(self, owner: nn.Module, name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any: ...

    def module(self, module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Child:
    """A child of an owner, or a function that the owner keeps as an attribute (then `module` is None)."""

    owner: nn.Module
    name: str
    module: nn.Module | None


@dataclass(frozen=True)
class Known:
    """An object that is known by name: a function, a class, a package, or the module whose code is read."""

    value: Any


@dataclass(frozen=True)
class Method:
    """A function of the user's; its owner is its first argument, unless it is None."""

    owner: nn.Module | None
    function: Any


@dataclass(frozen=True, eq=False)
class Local:
    """A function defined in the code that is read."""

    node: ast.FunctionDef | ast.Lambda
    reader: _Reader
    names: dict[str, Any]


class Made(dict):
    """An object of a user's class that was made with keywords: its fields."""

    def __init__(self, kind: type, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.kind = kind


class Either(list):
    """What a name may stand for, after a branch."""


CALLABLE = (Child, Known, Method, Local)
UNKNOWN = object()


def read(follower: Follower, module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The values that a module's forward gives, or None if its source cannot be read."""
    own = vars(module).get("forward")
    method = Method(module, getattr(type(module), "plain", type(module)).forward)
    if own is not None:  # it was put in place of the class's
        method = Method(module, own.__func__) if isinstance(own, MethodType) else Method(None, own)
    try:
        made = _run(follower, method, args, keywords, 0)
    except Exception:  # code of any kind is read; what is not understood counts as one layer
        return None
    return None if made is UNKNOWN else made


def _run(follower: Follower, method: Method, args: Sequence[Any], keywords: Mapping[str, Any], depth: int) -> Any:
    function: Any = inspect.unwrap(method.function)
    if not isinstance(function, FunctionType) or depth > DEEPEST:
        return UNKNOWN
    tree = source(function)
    if not isinstance(tree, ast.FunctionDef | ast.Lambda):
        return UNKNOWN
    known = {**vars(builtins), **function.__globals__, **inspect.getclosurevars(function).nonlocals}
    own = [] if method.owner is None else [Known(method.owner)]
    return _Reader(follower, known, depth, method).function(tree, {}, [*own, *args], keywords)


class _Reader:
    """Reads one function.

    A name stands for a value, a constant, a list or dict of such, something callable, one of several, or UNKNOWN.
    """

    def __init__(self, follower: Follower, known: dict[str, Any], depth: int, method: Method) -> None:
        self.follower, self.values, self.known, self.depth = follower, follower.values, known, depth
        self.method = method
        self.returned: list[Any] = []

    def function(
        self,
        node: ast.FunctionDef | ast.Lambda,
        names: dict[str, Any],
        args: Sequence[Any],
        keywords: Mapping[str, Any],
    ) -> Any:
        """What a function gives for these arguments. names: those of the function around it."""
        spec = node.args
        places = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        defaults = dict(zip(reversed(places), reversed(spec.defaults), strict=False))
        defaults |= {a.arg: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None}
        given = {name: self.value(default, names) for name, default in defaults.items()}
        given |= {**dict(zip(places, args, strict=False)), **keywords}
        if spec.vararg is not None:
            given[spec.vararg.arg] = list(args[len(places) :])
        if spec.kwarg is not None:
            given[spec.kwarg.arg] = dict(keywords)
        names = {**names, **given}
        if isinstance(node, ast.Lambda):
            return self.value(node.body, names)
        before, self.returned = self.returned, []
        self.block(node.body, names)
        made, self.returned = _either(self.returned), before
        return made

    def block(self, body: Sequence[ast.stmt], names: dict[str, Any]) -> bool:
        """Runs statements; whether what follows them is reached."""
        self.follower.read += len(body)
        return self.follower.read < MOST and all(self.statement(node, names) for node in body)

    def statement(self, node: ast.stmt, names: dict[str, Any]) -> bool:
        match node:
            case ast.Return(value=value):
                self.returned.append(self.value(value, names))
                return False
            case ast.Raise():
                return False
            case ast.Assign(targets=targets, value=value):
                made = self.value(value, names)
                for target in targets:
                    self.assign(target, made, names)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self.assign(target, self.value(value, names), names)
            case ast.AugAssign(target=target, op=op, value=value):
                self.assign(target, self.operation(op, target, value, names), names)
            case ast.Expr(value=value):
                self.value(value, names)
            case ast.If(test=test, body=body, orelse=orelse):
                held = self.test(test, names)
                return self.branches([body, orelse] if held is None else [body if held else orelse], names)
            case ast.For(target=target, iter=of, body=body, orelse=orelse):
                made = self.value(of, names)
                for member in _members(made):
                    self.assign(target, member, names)
                    self.branches([body] if _is_known(made) else [body, []], names)
                return self.block(orelse, names)
            case ast.While(test=test, body=body):
                for _ in range(2):
                    held = self.test(test, names)
                    self.branches([body, []] if held is None else [body if held else []], names)
            case ast.With(items=items, body=body):
                for item in items:
                    self.value(item.context_expr, names)
                return self.block(body, names)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                reached = self.branches([[*body, *orelse], *(h.body for h in handlers)], names)
                return self.block(final, names) and reached
            case ast.FunctionDef(name=name):
                names[name] = Local(node, self, names)
        return True

    def branches(self, bodies: Sequence[Sequence[ast.stmt]], names: dict[str, Any]) -> bool:
        """Runs each of several blocks; names then stand for what any of them leaves."""
        ends = [(each := dict(names), self.block(body, each)) for body in bodies]
        reached = [each for each, goes_on in ends if goes_on]
        for name in {name for each in reached for name in each}:
            names[name] = _either([each[name] for each in reached if name in each])
        return bool(reached)

    def assign(self, target: ast.expr, made: Any, names: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = made
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                several = type(made) is list and len(made) == len(parts)
                for i, part in enumerate(parts):
                    self.assign(part, made[i] if several else made, names)
            case ast.Starred(value=value):
                self.assign(value, made, names)
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                base, at = names.get(name, UNKNOWN), self.value(index, names)
                exact = _holds(base, at)
                names[name] = [made if i == at else m for i, m in enumerate(base)] if exact else _either([base, made])
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                names[f"{name}.{attribute}"] = made

    def value(self, node: ast.expr | None, names: dict[str, Any]) -> Any:
        """What an expression gives."""
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name):
                return names[name] if name in names else _known(self.known.get(name, UNKNOWN))
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if f"{name}.{attribute}" in names:
                return names[f"{name}.{attribute}"]
            case ast.Attribute(value=base, attr=attribute):
                return self.attribute(self.value(base, names), attribute)
            case ast.Call():
                return self.call(node, names)
            case ast.BinOp(left=left, op=op, right=right):
                return self.operation(op, left, right, names)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                of = self.value(operand, names)
                return -of if type(of) in (int, float) else self.values.call("mul", [of, -1])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                held = self.test(test, names)
                parts = [body, orelse] if held is None else [body if held else orelse]
                return _either([self.value(part, names) for part in parts])
            case ast.BoolOp(values=several):
                return _either([self.value(part, names) for part in several])
            case ast.Subscript(value=base, slice=index):
                return self.item(self.value(base, names), self.value(index, names))
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return [self.value(part, names) for part in parts]
            case ast.Dict(keys=keys, values=parts):
                words = [key.value if isinstance(key, ast.Constant) else i for i, key in enumerate(keys)]
                return {word: self.value(part, names) for word, part in zip(words, parts, strict=True)}
            case ast.Starred(value=value) | ast.Await(value=value):
                return self.value(value, names)
            case ast.NamedExpr(target=target, value=value):
                made = self.value(value, names)
                self.assign(target, made, names)
                return made
            case ast.Lambda():
                return Local(node, self, names)
            case ast.ListComp(elt=made, generators=loops) | ast.GeneratorExp(elt=made, generators=loops):
                return list(self.comprehension(made, loops, dict(names)))
            case ast.DictComp(value=made, generators=loops):
                return list(self.comprehension(made, loops, dict(names)))
        return UNKNOWN

    def operation(self, op: ast.operator, left: ast.expr, right: ast.expr, names: dict[str, Any]) -> Any:
        pair = [self.value(left, names), self.value(right, names)]
        if isinstance(op, ast.Add) and all(type(side) is list for side in pair):
            return [*pair[0], *pair[1]]
        return self.values.call(OPERATORS.get(type(op), ""), pair)

    def comprehension(self, made: ast.expr, loops: Sequence[ast.comprehension], names: dict[str, Any]) -> Iterator[Any]:
        if not loops:
            yield self.value(made, names)
            return
        for member in _members(self.value(loops[0].iter, names)):
            self.assign(loops[0].target, member, names)
            yield from self.comprehension(made, loops[1:], names)

    def test(self, node: ast.expr, names: dict[str, Any]) -> bool | None:
        """Whether a test holds; None if that cannot be told."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                held = self.test(operand, names)
                return None if held is None else not held
            case ast.BoolOp(op=op, values=parts):
                held = [self.test(part, names) for part in parts]
                deciding = isinstance(op, ast.Or)  # True decides an or, False an and
                return deciding if deciding in held else None if None in held else not deciding
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                pair = [self.value(left, names), self.value(right, names)]
                if None in pair and isinstance(op, ast.Is | ast.IsNot):
                    other = pair[1] if pair[0] is None else pair[0]
                    unsure = other is UNKNOWN or isinstance(other, Either)
                    return None if unsure else (other is None) == isinstance(op, ast.Is)
                comparable = all(type(side) in CONSTANTS and type(side) is type(pair[0]) for side in pair)
                return COMPARISONS[type(op)](*pair) if comparable else None
            case ast.Call(func=ast.Name(id="isinstance"), args=[of, kinds]):
                return _is_instance(self.value(of, names), self.value(kinds, names))
        made = self.value(node, names)
        return bool(made) if type(made) in CONSTANTS else None

    def attribute(self, base: Any, name: str) -> Any:
        found = []
        for each in _alternatives(base):
            module = each.module if isinstance(each, Child) else each.value if isinstance(each, Known) else None
            if isinstance(module, nn.Module):
                found.append(self.of_module(module, name))
            elif isinstance(each, Known):
                found.append(_known(inspect.getattr_static(each.value, name, UNKNOWN)))
            elif isinstance(each, dict) and name in each:
                found.append(each[name])
            elif isinstance(each, Made) and isinstance(field := vars(each.kind).get(name, UNKNOWN), CONSTANTS):
                found.append(field)  # its default
            elif name not in SHAPES and type(each) not in CONSTANTS:
                found.append(each)  # x.T, out.logits
        return _either(found)

    def of_module(self, module: nn.Module, name: str) -> Any:
        if name == "forward":
            return Known(module)
        if name == "training":
            return self.follower.training
        if name in module._modules:
            return None if module._modules[name] is None else Child(module, name, module._modules[name])
        if name in module._parameters:
            return None if module._parameters[name] is None else self.values.add(parameter=True)
        if name in vars(module):
            held = vars(module)[name]
            return Child(module, name, None) if callable(held) else _known(held)
        function = inspect.getattr_static(type(module), name, None)
        if isinstance(function, staticmethod):
            return Known(function.__func__)
        if isinstance(function, FunctionType):
            return Method(module, function)
        return function if type(function) in CONSTANTS[1:] else UNKNOWN

    def item(self, base: Any, index: Any) -> Any:
        if isinstance(base, Child) and isinstance(base.module, LISTS):
            children = list(_members(base))
            return children[index] if _holds(children, index) else _either(children)
        if isinstance(base, dict):
            members = [member for member in base.values() if member is not None]
            key = index if isinstance(index, str | int) else UNKNOWN
            return base[key] if key in base else members[index] if _holds(members, index) else _either(members)
        return base[index] if _holds(base, index) else base  # pyright: ignore[reportIndexIssue]

    def call(self, node: ast.Call, names: dict[str, Any]) -> Any:
        args = [self.value(arg, names) for arg in node.args]
        keywords = {str(k.arg): self.value(k.value, names) for k in node.keywords}
        function = node.func
        if not isinstance(function, ast.Attribute):
            target = self.value(function, names)
            return _either([self.apply(each, args, keywords) for each in _alternatives(target)])
        name, of = function.attr, function.value
        if isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super":
            return self.inherited(name, args, keywords)
        base = self.value(of, names)
        if isinstance(base, Child) and isinstance(base.module, LISTS) and name in MEMBERS:
            return list(_members(base))
        target = self.attribute(base, name)
        if any(isinstance(each, CALLABLE) for each in _alternatives(target)):
            return _either([self.apply(each, args, keywords) for each in _alternatives(target)])
        if name in GROWING and isinstance(of, ast.Name):
            names[of.id] = [*(base if type(base) is list else [base]), *args]
        return self.values.call(name, [base, *args], keywords.values())

    def inherited(self, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """What super().name(…) gives."""
        owner, function = self.method.owner, self.method.function
        kinds = iter(type(owner).__mro__)
        any(function in vars(kind).values() for kind in kinds)  # those that are left come after the function's own
        for kind in kinds:
            if isinstance(inherited := vars(kind).get(name), FunctionType):
                return _run(self.follower, Method(owner, inherited), args, keywords, self.depth + 1)
        return args

    def apply(self, target: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
        """What something callable gives."""
        if isinstance(target, Child):
            return self.follower.call(target.owner, target.name, args, keywords)
        if isinstance(target, Local):
            return target.reader.function(target.node, target.names, args, keywords)
        if isinstance(target, Known) and isinstance(target.value, nn.Module):  # self(x), or a module of the file
            return self.follower.module(target.value, args, keywords)
        made = UNKNOWN
        if isinstance(target, Method):
            made = _run(self.follower, target, args, keywords, self.depth + 1)
        elif isinstance(target, Known):
            name = getattr(target.value, "__name__", "")
            if name in ("enumerate", "zip", "list", "tuple", "reversed", "iter", "sorted"):
                return _looped(name, args)
            home = (getattr(target.value, "__module__", None) or "torch").partition(".")[0]
            of_torch = home in ("torch", "builtins", "math", "_operator")
            if isinstance(target.value, FunctionType) and not of_torch:
                made = _run(self.follower, Method(None, target.value), args, keywords, self.depth + 1)
            elif isinstance(target.value, type) and keywords and not args and not of_torch:
                made = Made(target.value, keywords)
            elif not isinstance(target.value, type):
                made = self.values.call(name, args, keywords.values(), of_torch)
        # checkpoint(self.block, x) calls what it is given
        given = [arg for arg in args if not isinstance(arg, CALLABLE)]
        inner = [self.apply(arg, given, keywords) for arg in args if isinstance(arg, CALLABLE) and arg is not target]
        return _either([*inner, [*given, keywords] if made is UNKNOWN else made])


def _known(value: Any) -> Any:
    """An object of the file that is read: a constant is itself; what is callable or has attributes is known."""
    if type(value) in CONSTANTS:
        return value
    return Known(value) if callable(value) or (hasattr(value, "__dict__") and not _is_data(value)) else UNKNOWN


def _is_data(value: Any) -> bool:
    return isinstance(value, torch.Tensor | Mapping)


def _alternatives(made: Any) -> list[Any]:
    return list(made) if isinstance(made, Either) else [made]


def _either(several: Sequence[Any]) -> Any:
    """One of several things that a name may stand for."""
    found: list[Any] = []
    for each in several:
        found += [o for o in _alternatives(each) if o is not UNKNOWN and not any(o is other for other in found)]
    return found[0] if len(found) == 1 else Either(found) if found else UNKNOWN


def _holds(made: Any, index: Any) -> bool:
    return type(made) is list and type(index) is int and -len(made) <= index < len(made)


def _is_instance(made: Any, kinds: Any) -> bool | None:
    """Whether something is of these classes; None if that cannot be told."""
    wanted = [each.value for each in (kinds if type(kinds) is list else [kinds]) if isinstance(each, Known)]
    if not wanted or not all(isinstance(kind, type) for kind in wanted):
        return None
    if isinstance(made, Value):
        return torch.Tensor in wanted or (False if {*wanted} <= {list, tuple, dict, *CONSTANTS} else None)
    if type(made) is list:
        return not {list, tuple}.isdisjoint(wanted) or None
    if isinstance(made, Child | Known):
        return isinstance(made.module if isinstance(made, Child) else made.value, tuple(wanted))
    return isinstance(made, tuple(wanted)) if type(made) in CONSTANTS else None


def _is_known(made: Any) -> bool:
    """Whether the members of what a loop goes through are known."""
    return (isinstance(made, Child | Known) and isinstance(_module(made), LISTS)) or type(made) is list


def _module(made: Child | Known) -> Any:
    return made.module if isinstance(made, Child) else made.value


def _members(made: Any) -> Iterator[Any]:
    """What a loop goes through: the children of a list, the members of a structure, or twice what is not known."""
    if isinstance(made, Child | Known) and isinstance(module := _module(made), LISTS):
        for name, child in module._modules.items():
            if child is not None:
                yield Child(module, name, child)
    elif type(made) is list:
        yield from made
    else:
        yield from (made, made)


def _looped(name: str, args: list[Any]) -> Any:
    """What enumerate, zip, list and so on give."""
    columns = [list(_members(arg)) for arg in args]
    if name == "enumerate" and columns:
        return [[i if _is_known(args[0]) else UNKNOWN, member] for i, member in enumerate(columns[0])]
    if name == "zip":
        return [list(row) for row in zip(*columns, strict=False)]
    return columns[0][:: -1 if name == "reversed" else 1] if columns and _is_known(args[0]) else _either(args)
