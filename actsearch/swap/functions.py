"""Knows which functions are activations, and finds those that the code of a module's forward calls."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_NAMES = (
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh tanh softplus softsign "
    "logsigmoid hardshrink softshrink tanhshrink threshold"
).split()
GATE_NAMES = "sigmoid hardsigmoid softmax log_softmax softmin gumbel_softmax".split()
_SPELT = {name + end: name for name in (*HIDDEN_NAMES, *GATE_NAMES) for end in ("", "_")}
FUNCTIONS: dict[Any, str] = {
    function: name
    for home in (F, torch, torch.special)
    for spelt, name in _SPELT.items()
    if callable(function := getattr(home, spelt, None))
} | {torch.special.expit: "sigmoid"}
METHODS = {spelt: name for spelt, name in _SPELT.items() if hasattr(Tensor, spelt)}
# attributes that are not searched for functions: hooks are no part of forward, and the last two belong to rewrite.py
OF_MODULES = {*vars(nn.Module()), "traced", "module_of_call"}


def function_name(function: object) -> str | None:
    """The activation's name if a function is one, such as F.relu or functools.partial(F.gelu, approximate="tanh")."""
    while isinstance(function, partial):
        function = function.func
    try:
        return FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None


def names_called(module: nn.Module) -> set[str]:
    """The activations that the code of a module's `forward` uses as functions; {"?"} if its source cannot be read."""
    kind = getattr(type(module), "plain", type(module))
    if kind.__module__.startswith("torch.nn."):
        return set()
    found = set(_names(kind.forward, kind))
    for name, value in vars(module).items():
        if name in OF_MODULES or function_name(value) is not None:  # functions kept as attributes are found elsewhere
            continue
        for held in _members(value):
            if (word := function_name(held)) is not None:
                found.add(word)
            elif isinstance(held, FunctionType):
                found |= _names.__wrapped__(held, kind)  # not cached: the cache would keep alive what a closure holds
    return found


def _members(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


@lru_cache(maxsize=4096)
def _names(function: Callable[..., Any], kind: type) -> frozenset[str]:
    found: set[str] = set()
    seen: set[object] = set()
    stack = [function]
    while stack:
        function = inspect.unwrap(stack.pop())
        if function in seen or not isinstance(function, FunctionType):
            continue
        seen.add(function)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            return frozenset({"?"})
        for value in _references(tree, function, kind):
            if isinstance(value, str):
                found.add(value)
            elif (name := function_name(value)) is not None:
                found.add(name)
            elif isinstance(value, type) and value.__module__ == "torch.nn.modules.activation":
                found.add(value.__name__)
            elif isinstance(value, FunctionType) and not value.__module__.startswith("torch."):
                stack.append(value)
    return frozenset(found)


def _references(tree: ast.AST, function: FunctionType, kind: type) -> Iterator[object]:
    """The objects that a function's code refers to; methods of tensors, as in x.relu(), by their names."""
    own = next(iter(function.__code__.co_varnames), "")
    outer = inspect.getclosurevars(function)
    known = {**function.__globals__, **outer.nonlocals}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            yield known[node.id]
        if not isinstance(node, ast.Attribute):
            continue
        chain, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            chain, root = [root.attr, *chain], root.value
        if isinstance(root, ast.Name) and root.id == own:
            if len(chain) == 1:
                yield from _members(getattr(kind, chain[0], None))  # its own method, or functions kept in its class
        elif isinstance(root, ast.Name) and isinstance(known.get(root.id), ModuleType | type):
            value = known[root.id]
            for name in chain:
                value = getattr(value, name, None)
            yield value
        elif isinstance(root, ast.Call) and isinstance(root.func, ast.Name) and root.func.id == "super":
            yield from (vars(base)[chain[0]] for base in kind.__mro__[1:] if chain[0] in vars(base))
        elif node.attr in METHODS:
            yield METHODS[node.attr]
