"""Activations that write into their input: finds them, tells who reads it later, and makes new ones do the same."""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from actsearch.swap.functions import METHODS, function_name
from actsearch.swap.kinds import writes_input
from actsearch.swap.widths import width_after

OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.ifloordiv}
# functions and methods whose outputs are new memory; any other call may return its inputs, or views of them
FRESH = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.matmul, torch.add,
    torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.stack, torch.clone, F.linear, F.conv1d,
    F.conv2d, F.conv3d, F.batch_norm, F.layer_norm, F.group_norm, F.max_pool2d, F.avg_pool2d, F.interpolate, "add",
    "sub", "mul", "div", "neg", "pow", "matmul", "clone", "mean", "sum",
}  # fmt: skip
GivesNew = Callable[[nn.Module], bool]
OUTER = ("placeholder", "get_attr")  # arguments of a forward and attributes of its module, which others may read
SHAPE = {"size", "dim", "numel", "shape", "ndim", "dtype", "device"}


def in_place(function: object, args: tuple, keywords: dict[str, Any]) -> bool:
    """Whether a call writes into its first argument. function: a function, or the name of a tensor's method."""
    while isinstance(function, partial):
        args, keywords, function = (*function.args, *args), {**function.keywords, **keywords}, function.func
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    if keywords.get("inplace") is True or function in OPERATORS or (name[-1:] == "_" and name[-2:] != "__"):
        return True
    try:
        return inspect.signature(function).bind_partial(*args).arguments.get("inplace") is True  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # a builtin, and those have no option `inplace`
        return False


def written_by(node: fx.Node) -> fx.Node | None:
    """The value that a call of a function or method in a trace writes into, or None."""
    if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
        return None
    return node.all_input_nodes[0] if in_place(node.target, node.args, dict(node.kwargs)) else None


def gives_new_memory(module: nn.Module) -> bool:
    """Whether a module's output is new memory: that of a convolution, linear layer, norm, or sequence that ends so."""
    return width_after(module, None) is not None


def read_later(
    graph: fx.Graph, node: fx.Node, into: fx.Node, owner: nn.Module, new: GivesNew = gives_new_memory
) -> bool:
    """Whether the value `into`, after the call `node` has written into it, may be read other than as the call's output.

    It may be read by a later line of the owner's forward, through a view of it, or by the caller of the owner. new:
    tells for a child whether its output is new memory.
    """
    place = {n: i for i, n in enumerate(graph.nodes)}
    same = _same_memory(graph, into, owner, new, node)
    if any(n.op in OUTER for n in same):
        return True
    return any(place[user] > place[node] and not _of_shape(user) for n in same for user in n.users if user is not node)


def output_is_new(graph: fx.Graph, owner: nn.Module, new: GivesNew) -> bool:
    """Whether the output of a forward shares no memory with its arguments or with attributes of its module."""
    (output,) = (n for n in graph.nodes if n.op == "output")
    return not any(n.op in OUTER for given in output.all_input_nodes for n in _same_memory(graph, given, owner, new))


def _same_memory(
    graph: fx.Graph, value: fx.Node, owner: nn.Module, new: GivesNew, apart: fx.Node | None = None
) -> set[fx.Node]:
    """The values in a trace that may share memory with `value`, leaving out links through the call `apart`."""
    links = [(n, source) for n in graph.nodes if n is not apart for source in _sources(n, owner, new)]
    same, before = {value}, 0
    while len(same) > before:
        before = len(same)
        for link in links:
            if not same.isdisjoint(link):
                same.update(link)
    return same


def _sources(n: fx.Node, owner: nn.Module, new: GivesNew) -> list[fx.Node]:
    """The inputs of a call whose memory its output may share."""
    if n.op == "output" or _of_shape(n):
        return []
    if n.op == "call_module":
        known = n.target not in vars(owner) and new(owner.get_submodule(str(n.target)))
        return [] if known else n.all_input_nodes
    if written_by(n) is not None:
        return n.all_input_nodes[:1]
    activation = METHODS.get(str(n.target)) if n.op == "call_method" else function_name(n.target)
    return [] if n.target in FRESH or activation else n.all_input_nodes


def _of_shape(n: fx.Node) -> bool:
    return (n.args[1] if n.target is getattr else n.target) in SHAPE


def only_on_new_memory(owner: nn.Module, name: str) -> bool:
    """Whether an owner that cannot be traced calls a child only as in self.relu(self.norm(x)), on new memory.

    Then nothing else can read the input of that child.
    """
    inner = [getattr(owner, other, None) for other in _called_on(type(owner), name)]
    return bool(inner) and all(isinstance(child, nn.Module) and gives_new_memory(child) for child in inner)


@lru_cache(maxsize=1024)
def _called_on(kind: type[nn.Module], name: str) -> tuple[str, ...]:
    """The names of the children on whose outputs a child is called directly; empty if it is also used otherwise."""
    found: list[str] = []
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for function in (f for f in vars(base).values() if isinstance(f, FunctionType)):
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            except (OSError, TypeError, SyntaxError):
                return ()
            calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
            for n in ast.walk(tree):
                if not isinstance(n, ast.Attribute) or n.attr != name or isinstance(n.ctx, ast.Store):
                    continue
                match calls.get(id(n)):
                    case ast.Call(args=[ast.Call(func=ast.Attribute(value=ast.Name(), attr=inner))]):
                        found.append(inner)
                    case _:
                        return ()
    return tuple(found)


def is_in_place(module: nn.Module) -> bool:
    """Whether an activation module writes its output into its input."""
    return isinstance(module, WritesBack) or writes_input(module)


class WritesBack(nn.Module):
    """Mixed into the class of an activation, it writes the output into the input, as nn.ReLU(inplace=True) does.

    The activation itself gets a copy of the input, because its gradient may need the input unchanged.
    """

    plain: type[nn.Module]  # the activation's class

    def forward(self, x: Tensor) -> Tensor:
        return x.copy_(super().forward(x.clone()))

    def __reduce_ex__(self, protocol: Any) -> tuple:  # for copy and pickle: a class made here has no import path
        return _empty, (self.plain,), vars(self)


def write_back(module: nn.Module) -> None:
    """Makes a module write its output into its input, by changing its class."""
    if not isinstance(module, WritesBack):
        module.__class__ = _writing(type(module))


@lru_cache(maxsize=1024)
def _writing(plain: type[nn.Module]) -> type[WritesBack]:
    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (WritesBack, plain), {"plain": plain, **names})  # pyright: ignore[reportReturnType]


def _empty(plain: type[nn.Module]) -> nn.Module:
    kind = _writing(plain)
    return kind.__new__(kind)
