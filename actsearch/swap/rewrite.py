"""Turns activations that a module calls as functions inside `forward` into child modules.

Each module is traced alone, with its children as opaque calls, so that a module that cannot be traced does not affect
others. Its class becomes a subclass whose `forward` runs the traced code; children, parameters, hooks, mode and
state-dict keys stay as they are. Whatever tracing would freeze is either part of the key under which a trace is kept
(the mode, optional arguments), or a reason to leave the module alone (`Untraceable`). Attributes that `forward` reads
keep the values that they have when it is traced.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

from actsearch.errors import ActSearchError
from actsearch.swap.copies import copied
from actsearch.swap.functions import METHODS, function_name
from actsearch.swap.in_place import read_later, written_by
from actsearch.swap.tracing import Untraceable, trace_owner

BY_ELEMENT = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, torch.add, torch.sub, torch.mul,
    torch.div, torch.exp, torch.clamp, torch.pow, torch.erf, operator.pow, "add", "add_", "sub", "sub_", "mul", "mul_",
    "div", "div_", "neg", "exp", "pow", "erf",
}  # fmt: skip
PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
SCALING = {operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div"}
POWERS = {operator.pow, torch.pow, "pow"}
SQUARES = {torch.square, "square"}
ERF = {torch.erf, "erf"}  # no activation by itself, but a gelu is written with it


@dataclass
class Call:
    """A call of an activation in a trace.

    key: identifies the call, the same in each trace of the module: (child's name, or "" for a function; index).
    name: relu, sigmoid, x*sigmoid(x), or the child's name. given: the node of its input. node: the node of its output.
    inside: the nodes inside a written-out activation such as x * sigmoid(x).
    """

    key: tuple[str, int]
    name: str
    given: fx.Node
    node: fx.Node
    inside: tuple[fx.Node, ...] = ()


def functions_in(graph: fx.Graph) -> list[Call]:
    """The activations called as functions, in order. A written-out one, x * sigmoid(x) or relu(x)², is one call."""
    named = {n: name for n in graph.nodes if (name := _name(n)) is not None and n.all_input_nodes}
    place = {n: i for i, n in enumerate(graph.nodes)}
    written: dict[fx.Node, tuple[fx.Node, list[fx.Node]]] = {}
    for n in graph.nodes:
        if n.target in PRODUCTS and len(n.args) == 2 and all(isinstance(a, fx.Node) for a in n.args):
            for factor, gate in (n.args, n.args[::-1]):
                x, inner = _gelu(factor, gate) or (factor, _between(factor, gate))
                known = any(i in named or i.target in ERF for i in inner)
                if known and not _written_over(n, x, inner, place):
                    end = _divided(n) if any(named.get(i) == "relu6" for i in inner) else n
                    written[end] = (x, [*inner, n] if end is not n else inner)
        elif _squares(n) and n.args[0] in named and len(n.args[0].users) == 1 and not written_by(n.args[0]):
            written[n] = (n.args[0].all_input_nodes[0], [n.args[0]])
    parts = {i for n, (_, inner) in written.items() for i in inner if {n, *inner}.issuperset(i.users)}
    calls: list[Call] = []
    for n in graph.nodes:
        key = ("", len(calls))
        if n in written and n not in parts:
            x, inner = written[n]
            names = [named.get(i, "erf") for i in inner if i in named or i.target in ERF]
            inside = f"{'('.join(names)}(x{')' * len(names)}"
            calls.append(Call(key, f"{inside}**2" if _squares(n) else f"x*{inside}", x, n, tuple(inner)))
        elif n in named and n not in parts:
            calls.append(Call(key, named[n], n.all_input_nodes[0], n))
    return calls


def _squares(n: fx.Node) -> bool:
    return n.target in SQUARES or (n.target in POWERS and n.args[1:] == (2,))


def _divided(product: fx.Node) -> fx.Node:
    """The end of x * relu6(x + 3) / 6, a hardswish: its division by a number, if nothing else reads the product."""
    users = list(product.users)
    scaled = len(users) == 1 and users[0].target in SCALING and len(users[0].all_input_nodes) == 1
    return users[0] if scaled else product


def _gelu(factor: fx.Node, gate: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """x, and the nodes inside 0.5 * x * (1 + erf(x / √2)) or its form with tanh, whose factors these are; or None."""
    scaled: list[fx.Node] = []
    while factor.target in SCALING and len(factor.args) == 2 and len(factor.all_input_nodes) == 1:
        scaled.append(factor)
        factor = factor.all_input_nodes[0]
    inner = _between(factor, gate) if scaled else []
    return (factor, [*scaled, *inner]) if any(_name(i) == "tanh" or i.target in ERF for i in inner) else None


def _name(n: fx.Node) -> str | None:
    if n.op == "call_method":
        return METHODS.get(str(n.target))
    return function_name(n.target) if n.op == "call_function" else None


def _between(x: Any, end: Any) -> list[fx.Node]:
    """The nodes between x and `end` if `end` is an elementwise function of x alone; else empty."""
    found: list[fx.Node] = []
    stack, reached = [end], False
    while stack:
        n = stack.pop()
        if n is x:
            reached = True
        elif n not in found:
            if (_name(n) is None and n.target not in BY_ELEMENT) or written_by(n) is x:
                return []
            found.append(n)
            stack += n.all_input_nodes
    return found if reached else []


def _written_over(product: fx.Node, x: fx.Node, inner: list[fx.Node], place: dict[fx.Node, int]) -> bool:
    """Whether writing in place prevents a product from being replaced by one activation of x.

    It does if something else is written into a part of the product before, or if the product is written into a part
    that others read.
    """
    begin, end = min(place[i] for i in inner), place[product]
    users = {(u, part) for part in (x, *inner) for u in part.users if u not in inner and begin < place[u] < end}
    into = written_by(product)
    return any(written_by(u) is part for u, part in users) or (into in inner and set(into.users) != {product})


def modules_in(graph: fx.Graph, target: str) -> list[Call]:
    """The calls of one child, in order."""
    nodes = [n for n in graph.nodes if n.op == "call_module" and n.target == target and n.all_input_nodes]
    return [Call((target, i), target, n.all_input_nodes[0], n) for i, n in enumerate(nodes)]


def calls_in(graph: fx.Graph) -> list[Call]:
    """The calls of activations as functions, and those of all children."""
    children = dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "call_module")
    return [*functions_in(graph), *(call for name in children for call in modules_in(graph, name))]


class Rewritten(nn.Module):
    """Mixed into a module's class, it runs the module's forward with calls of activations replaced by child modules.

    Traced code is kept for each mode and each combination of optional arguments that are None, flags or words. It is
    made when it is missing, so copies and unpickled nets behave the same. A call raises ActSearchError if the forward
    cannot be traced with its arguments.
    """

    plain: type[nn.Module]  # the module's class
    arguments: tuple[inspect.Parameter, ...]  # the parameters of its forward, without self
    module_of_call: dict[tuple[str, int], str]
    traced: dict[tuple, Callable[..., Any]]

    def run_traced(self, *values: Any) -> Any:
        """The output of forward. values: one for each parameter of it."""
        given = zip(self.arguments, values, strict=True)
        settled = tuple((p.name, v) for p, v in given if p.default is not p.empty and _settles(v))
        key = (self.training, settled)
        if key not in self.traced:
            try:
                self.traced[key] = _compiled(self, twin_of(self), *key)
            except Untraceable as why:
                raise ActSearchError(
                    f"{type(self).__name__}: its activations were swapped, but {why} with {dict(settled)}."
                ) from None
        return self.traced[key](self, *values)

    def trace_defaults(self) -> None:
        """Traces both modes now instead of in the first call, so that torch.compile and torch.export see plain code."""
        settled, twin = tuple((p.name, p.default) for p in self.arguments if _settles(p.default)), twin_of(self)
        self.traced = {(mode, settled): _compiled(self, twin, mode, settled) for mode in (True, False)}

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        twin = memo[id(self)] = _empty(self.plain)
        vars(twin).update(copy.deepcopy(vars(self), memo))  # with the traced code, which is the same for all copies
        return twin

    def __reduce_ex__(self, protocol: Any) -> tuple:  # for pickle: a class made here has no import path
        return _empty, (self.plain,), {name: value for name, value in vars(self).items() if name != "traced"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.trace_defaults()


def _settles(value: object) -> bool:
    return value is None or isinstance(value, bool | str)


@lru_cache(maxsize=1024)
def _rewritten(plain: type[nn.Module]) -> type[Rewritten]:
    own, *parameters = inspect.signature(plain.forward).parameters.values()
    words, star = [own.name], False
    for p in parameters:
        words += ["*"] if p.kind is p.KEYWORD_ONLY and not star else []
        star |= p.kind is p.KEYWORD_ONLY
        words.append(p.name if p.default is p.empty else f"{p.name}=defaults[{p.name!r}]")
    # the parameters keep their names, because torch.fx and torch.export read them
    code = f"def forward({', '.join(words)}): return {own.name}.run_traced({', '.join(p.name for p in parameters)})"
    space: dict[str, Any] = {"defaults": {p.name: p.default for p in parameters}}
    exec(code, space)
    body = {
        "plain": plain, "as_written": plain.forward, "forward": space["forward"], "arguments": tuple(parameters),
        "__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__,
    }  # fmt: skip
    return type(plain.__name__, (Rewritten, plain), body)  # pyright: ignore[reportReturnType]


def _empty(plain: type[nn.Module]) -> nn.Module:
    kind = _rewritten(plain)
    return kind.__new__(kind)


def traces(module: nn.Module) -> dict[bool, fx.Graph]:
    """The traces of a module's forward with its default arguments, by mode: training or not. Raises Untraceable."""
    parameters = inspect.signature(getattr(type(module), "plain", type(module)).forward).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise Untraceable("its forward takes any arguments (*args or **kwargs)")
    settled = {p.name: p.default for p in parameters if p.default is not p.empty and _settles(p.default)}
    twin = twin_of(module)
    both = {training: trace_owner(module, twin, training, settled) for training in (True, False)}
    called = [[call.name for call in functions_in(graph)] for graph in both.values()]
    if called[0] != called[1]:
        raise Untraceable("its forward calls other activations in training than in evaluation")
    return both


def twin_of(module: nn.Module) -> nn.Module:
    """A copy of a module to run its code on. Raises Untraceable if it cannot be copied."""
    try:
        return copied(module)
    except ActSearchError as why:
        raise Untraceable(str(why).removesuffix(" Remove it.")) from None


def rewrite(module: nn.Module, module_of_call: dict[tuple[str, int], str]) -> None:
    """Replaces calls in a module's forward by calls of its children. module_of_call: the child's name by Call.key."""
    known = vars(module).get("module_of_call", {})
    if not isinstance(module, Rewritten):
        module.__class__ = _rewritten(type(module))
    assert isinstance(module, Rewritten)
    module.module_of_call = {**known, **module_of_call}
    try:
        module.trace_defaults()
    except Untraceable as why:  # its two modes call different modules
        names = ", ".join(module_of_call.values())
        raise ActSearchError(f"{type(module).__name__}: {names} cannot be swapped: {why}. Leave it out.") from None


def _compiled(module: Rewritten, twin: nn.Module, training: bool, settled: tuple) -> Callable[..., Any]:
    graph = trace_owner(module, twin, training, dict(settled))
    names = dict(module.module_of_call)
    calls = functions_in(graph) + [c for child in {key[0] for key in names} if child for c in modules_in(graph, child)]
    place = {node: i for i, node in enumerate(graph.nodes)}
    calls = sorted((c for c in calls if c.key in names), key=lambda c: place[c.node])
    into = {c.node: written_by(c.node) for c in calls}
    writes = {c.node for c in calls if (w := into[c.node]) is not None and read_later(graph, c.node, w, module)}
    became: dict[fx.Node, fx.Node] = {}
    for call in calls:
        given = became.get(call.given, call.given)
        with graph.inserting_before(call.node):
            if call.node in writes:  # the module gets a copy, because its gradient may need the input unchanged
                new = graph.call_module(names.pop(call.key), (graph.call_method("clone", (given,)),))
                new = graph.call_method("copy_", (given, new))
            else:
                new = graph.call_module(names.pop(call.key), (given,))
        call.node.replace_all_uses_with(new)
        became[call.node] = new
        for old in (call.node, *call.inside):
            if not old.users and (old is call.node or old not in became):
                graph.erase_node(old)
    if names:
        raise Untraceable(f"its forward does not call {', '.join(names.values())}")
    code = graph.python_code("self")
    space = dict(code.globals)
    exec(compile(code.src, f"<{type(module).__name__}.forward, its activations swapped>", "exec"), space)
    return space["forward"]
