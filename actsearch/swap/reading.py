"""Follows values through the source of a forward that torch.fx cannot trace: branches, loops, any arguments.

Every branch is taken, and a loop over anything but modules is run twice. What is not understood gives the values that
it gets.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Protocol

from torch import nn

from actsearch.swap.values import SHAPES, Values

DEEPEST = 6  # functions inside of functions
MOST = 20_000  # statements that are read in one net
LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
GROWING = {"append", "extend", "insert", "update", "add", "appendleft", "setdefault"}
MEMBERS = {"values", "items", "children", "named_children", "modules"}
OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow", ast.MatMult: "matmul",
    ast.FloorDiv: "div",
}  # fmt: skip


class Follower(Protocol):
    """What follows values into a child of an owner: flow.Flow."""

    values: Values
    read: int  # how many statements have been read

    def call(self, owner: nn.Module, name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Child:
    """A child of an owner, or a function that the owner keeps as an attribute (then `module` is None)."""

    owner: nn.Module
    name: str
    module: nn.Module | None


@dataclass(frozen=True)
class Known:
    """An object that is known by name: a function, class, package, or the module whose code is read."""

    value: Any


@dataclass(frozen=True)
class Method:
    """A function of the user's; its owner is its first argument, unless it is None."""

    owner: nn.Module | None
    function: FunctionType


@dataclass(frozen=True, eq=False)
class Local:
    """A function defined in the code that is read."""

    node: ast.FunctionDef | ast.Lambda
    reader: _Reader
    names: dict[str, Any]


class Either(list):
    """What a name may stand for, after a branch."""


def read(follower: Follower, module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The values that a module's forward gives, or None if its source cannot be read."""
    kind = getattr(type(module), "plain", type(module))
    return _run(follower, Method(module, kind.forward), args, keywords, 0)


def _run(follower: Follower, method: Method, args: Sequence[Any], keywords: Mapping[str, Any], depth: int) -> Any:
    function: Any = inspect.unwrap(method.function)
    if not isinstance(function, FunctionType) or depth > DEEPEST:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    if not isinstance(tree, ast.FunctionDef):
        return None
    known = {**vars(builtins), **function.__globals__, **inspect.getclosurevars(function).nonlocals}
    own = [] if method.owner is None else [Known(method.owner)]
    return _Reader(follower, known, depth).function(tree, {}, [*own, *args], keywords)


class _Reader:
    """Reads one function. Names stand for values, structures of them, numbers, callables, or None if unknown."""

    def __init__(self, follower: Follower, known: dict[str, Any], depth: int) -> None:
        self.follower, self.values, self.known, self.depth = follower, follower.values, known, depth
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
        names = {**names, **dict.fromkeys((*places, *(a.arg for a in spec.kwonlyargs))), **keywords}
        names |= dict(zip(places, args, strict=False))
        if spec.vararg is not None:
            names[spec.vararg.arg] = list(args[len(places) :])
        if spec.kwarg is not None:
            names[spec.kwarg.arg] = dict(keywords)
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
                pair = [self.value(target, names), self.value(value, names)]
                self.assign(target, self.values.call(OPERATORS.get(type(op), ""), pair), names)
            case ast.Expr(value=value):
                self.value(value, names)
            case ast.If(body=body, orelse=orelse):
                self.value(node.test, names)
                return self.branches([body, orelse], names)
            case ast.For(target=target, iter=of, body=body, orelse=orelse):
                made = self.value(of, names)
                for member in _members(made):
                    self.assign(target, member, names)
                    self.branches([body] if _is_known(made) else [body, []], names)
                return self.block(orelse, names)
            case ast.While(body=body):
                for _ in range(2):
                    self.value(node.test, names)
                    self.branches([body, []], names)
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
                several = type(made) in (list, tuple) and len(made) == len(parts)
                for i, part in enumerate(parts):
                    self.assign(part, made[i] if several else made, names)
            case ast.Starred(value=value):
                self.assign(value, made, names)
            case ast.Subscript(value=ast.Name(id=name)):
                names[name] = _either([names.get(name), made])
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                names[f"{name}.{attribute}"] = made

    def value(self, node: ast.expr | None, names: dict[str, Any]) -> Any:
        """What an expression gives."""
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name):
                return names[name] if name in names else _known(self.known.get(name))
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if f"{name}.{attribute}" in names:
                return names[f"{name}.{attribute}"]
            case ast.Attribute(value=base, attr=attribute):
                return self.attribute(self.value(base, names), attribute)
            case ast.Call():
                return self.call(node, names)
            case ast.BinOp(left=left, op=op, right=right):
                return self.values.call(
                    OPERATORS.get(type(op), ""), [self.value(left, names), self.value(right, names)]
                )
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                of = self.value(operand, names)
                return -of if type(of) in (int, float) else self.values.call("mul", [of, -1])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.value(test, names)
                return _either([self.value(body, names), self.value(orelse, names)])
            case ast.BoolOp(values=several):
                return _either([self.value(part, names) for part in several])
            case ast.Subscript(value=base, slice=index):
                return self.item(self.value(base, names), self.value(index, names))
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return [self.value(part, names) for part in parts]
            case ast.Dict(values=parts):
                return {i: self.value(part, names) for i, part in enumerate(parts)}
            case ast.Starred(value=value) | ast.Await(value=value):
                return self.value(value, names)
            case ast.NamedExpr(target=target, value=value):
                made = self.value(value, names)
                self.assign(target, made, names)
                return made
            case ast.Lambda():
                return Local(node, self, names)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                return list(self.comprehension(node.elt, node.generators, dict(names)))
            case ast.DictComp():
                return list(self.comprehension(node.value, node.generators, dict(names)))
        return None

    def comprehension(self, made: ast.expr, loops: Sequence[ast.comprehension], names: dict[str, Any]) -> Iterator[Any]:
        if not loops:
            yield self.value(made, names)
            return
        for member in _members(self.value(loops[0].iter, names)):
            self.assign(loops[0].target, member, names)
            yield from self.comprehension(made, loops[1:], names)

    def attribute(self, base: Any, name: str) -> Any:
        found = []
        for each in _alternatives(base):
            module = each.module if isinstance(each, Child) else each.value if isinstance(each, Known) else None
            if isinstance(module, nn.Module):
                found.append(self.of_module(module, name))
            elif isinstance(each, Known):
                found.append(_known(inspect.getattr_static(each.value, name, None)))
            elif name not in SHAPES:
                found.append(each)  # x.T, out.logits
        return _either(found)

    def of_module(self, module: nn.Module, name: str) -> Any:
        if module._modules.get(name) is not None:
            return Child(module, name, module._modules[name])
        if name in module._parameters:
            return self.values.add(parameter=True)
        if name in vars(module):
            held = vars(module)[name]
            return Child(module, name, None) if callable(held) else _known(held)
        function = inspect.getattr_static(type(module), name, None)
        if isinstance(function, staticmethod):
            return Known(function.__func__)
        return Method(module, function) if isinstance(function, FunctionType) else None

    def item(self, base: Any, index: Any) -> Any:
        if isinstance(base, Child) and isinstance(base.module, LISTS):
            children = list(_members(base))
            return children[index] if type(index) is int and abs(index) < len(children) else _either(children)
        if type(base) in (list, tuple) and type(index) is int and -len(base) <= index < len(base):
            return base[index]
        return base

    def call(self, node: ast.Call, names: dict[str, Any]) -> Any:
        args = [self.value(arg, names) for arg in node.args]
        keywords = {str(k.arg): self.value(k.value, names) for k in node.keywords}
        function, name = node.func, ""
        if isinstance(function, ast.Attribute):
            name, base = function.attr, self.value(function.value, names)
            if isinstance(base, Child) and isinstance(base.module, LISTS) and name in MEMBERS:
                return list(_members(base))
            if isinstance(function.value, ast.Call) and getattr(function.value.func, "id", "") == "super":
                return self.inherited(name, names, args, keywords)
            target = self.attribute(base, name)
            if not any(isinstance(each, CALLABLE) for each in _alternatives(target)):
                if name in GROWING and isinstance(function.value, ast.Name):
                    names[function.value.id] = [base, *args]
                return self.values.call(name, [base, *args], keywords.values())
        else:
            target = self.value(function, names)
        return _either([self.apply(each, args, keywords) for each in _alternatives(target)])

    def inherited(self, name: str, names: dict[str, Any], args: list[Any], keywords: dict[str, Any]) -> Any:
        own = next((each.value for each in names.values() if isinstance(each, Known)), None)
        for base in type(own).__mro__[1:]:
            if isinstance(function := vars(base).get(name), FunctionType) and isinstance(own, nn.Module):
                return _run(self.follower, Method(own, function), args, keywords, self.depth + 1)
        return args

    def apply(self, target: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
        """What a callable gives."""
        made = None
        if isinstance(target, Child):
            return self.follower.call(target.owner, target.name, args, keywords)
        if isinstance(target, Local):
            return target.reader.function(target.node, target.names, args, keywords)
        if isinstance(target, Method):
            made = _run(self.follower, target, args, keywords, self.depth + 1)
        elif isinstance(target, Known) and isinstance(target.value, nn.Module):  # self(x), or a module of the file
            return self.follower.module(target.value, args, keywords)
        elif isinstance(target, Known):
            home, name = getattr(target.value, "__module__", None) or "torch", getattr(target.value, "__name__", "")
            if name in ("enumerate", "zip"):
                return _zipped(name, args)
            if name in ("list", "tuple", "reversed", "iter", "sorted"):
                return args[0] if args else []
            of_torch = home.partition(".")[0] in ("torch", "builtins", "math")
            if isinstance(target.value, FunctionType) and not of_torch:
                made = _run(self.follower, Method(None, target.value), args, keywords, self.depth + 1)
            elif not isinstance(target.value, type):
                made = self.values.call(name, args, keywords.values(), of_torch)
        # checkpoint(self.block, x) calls what it is given
        given = [arg for arg in args if not isinstance(arg, CALLABLE)]
        inner = [self.apply(arg, given, keywords) for arg in args if isinstance(arg, CALLABLE) and arg is not target]
        return _either([*inner, [given, keywords] if made is None else made])


CALLABLE = (Child, Known, Method, Local)


def _known(value: Any) -> Any:
    """A value of the file that is read: numbers are themselves, callables and packages are known, others are not."""
    if type(value) in (int, float):
        return value
    return Known(value) if callable(value) or isinstance(value, ModuleType) else None


def _alternatives(made: Any) -> list[Any]:
    return list(made) if isinstance(made, Either) else [made]


def _either(several: Sequence[Any]) -> Any:
    """One of several things that a name may stand for."""
    found: list[Any] = []
    for each in several:
        found += [one for one in _alternatives(each) if one is not None and not any(one is other for other in found)]
    return found[0] if len(found) == 1 else Either(found) if found else None


def _is_known(made: Any) -> bool:
    """Whether the members of what a loop goes through are known."""
    return (isinstance(made, Child) and isinstance(made.module, LISTS)) or type(made) in (list, tuple)


def _members(made: Any) -> Iterator[Any]:
    """What a loop goes through: the children of a list, the members of a structure, or twice what is not known."""
    if isinstance(made, Child) and isinstance(made.module, LISTS):
        for name, child in made.module._modules.items():
            if child is not None:
                yield Child(made.module, name, child)
    elif type(made) in (list, tuple):
        yield from made
    else:
        yield from (made, made)


def _zipped(name: str, args: list[Any]) -> list[Any]:
    columns = [list(_members(arg)) for arg in args]
    if name == "enumerate":
        return [[None, member] for member in columns[0]] if columns else []
    return [list(row) for row in zip(*columns, strict=False)]
