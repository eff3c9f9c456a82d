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
    """The activations that the code of a module's `forward` uses as functions; {"?"} if its source cannot be read.

    Methods of other modules in it that this code may call, as in self.cell.step(x), are read too.
    """
    if _plain(module).__module__.startswith("torch.nn."):
        return set()
    kinds = {_plain(m): m for m in module.modules()}
    found: set[str] = set()
    seen: set[tuple[type, str]] = {(_plain(module), "forward")}
    stack = [(module, "forward")]
    while stack:
        owner, name = stack.pop()
        words, attributes = _names(getattr(_plain(owner), name), _plain(owner))
        found |= words
        if "getattr" in words:  # getattr(F, self.name)(x)
            found |= {value for value in vars(owner).values() if isinstance(value, str) and value in HIDDEN_NAMES}
        for kind, other in kinds.items():
            for method in attributes & vars(kind).keys():
                if (kind, method) not in seen and method != "forward" and isinstance(vars(kind)[method], FunctionType):
                    seen.add((kind, method))
                    stack.append((other, method))
    for name, value in vars(module).items():
        if name in OF_MODULES or function_name(value) is not None:  # functions kept as attributes are found elsewhere
            continue
        for held in _members(value):
            if (word := _word(held)) is not None:
                found.add(word)
            elif isinstance(held, nn.Module):  # no child of the module: it is kept in a list or dict
                found |= _names(_plain(held).forward, _plain(held))[0]
            elif isinstance(held, FunctionType):
                # not cached: the cache would keep alive what a closure holds
                found |= _names.__wrapped__(held, _plain(module))[0]
    return found - {"getattr"}


def _plain(module: nn.Module) -> type[nn.Module]:
    return getattr(type(module), "plain", type(module))


def _members(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _word(value: object) -> str | None:
    """The activation's name if a value is a function, a class or a module of torch that is one."""
    kind = value if isinstance(value, type) else type(value)
    return kind.__name__ if kind.__module__ == "torch.nn.modules.activation" else function_name(value)


@lru_cache(maxsize=4096)
def _names(function: Callable[..., Any], kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """The activations that a function's code uses, and the names of all attributes in it."""
    found: set[str] = set()
    attributes: set[str] = set()
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
            return frozenset({"?"}), frozenset()
        attributes |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for value in _references(tree, function, kind):
            if isinstance(value, str):
                found.add(value)
            elif (word := _word(value)) is not None:
                found.add(word)
            elif isinstance(value, FunctionType) and not value.__module__.startswith("torch."):
                stack.append(value)
            elif isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
                stack.append(type(value).forward)
    return frozenset(found), frozenset(attributes)


def _references(tree: ast.AST, function: FunctionType, kind: type) -> Iterator[object]:
    """The objects that a function's code refers to; methods of tensors, as in x.relu(), by their names."""
    own = next(iter(function.__code__.co_varnames), "")
    outer = inspect.getclosurevars(function)
    known = {**function.__globals__, **outer.nonlocals}
    bare = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and not node.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            value = known[node.id]
            yield from _members(value) if isinstance(value, dict | list | tuple) and len(value) < 100 else [value]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield "getattr"
        if not isinstance(node, ast.Attribute):
            continue
        chain, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            chain, root = [root.attr, *chain], root.value
        if isinstance(root, ast.Name) and root.id == own:
            if len(chain) == 1:
                yield from _members(getattr(kind, chain[0], None))  # its own method, or functions kept in its class
            elif node.attr in METHODS and id(node) in bare:
                yield METHODS[node.attr]  # self.state.tanh()
        elif isinstance(root, ast.Name) and isinstance(known.get(root.id), ModuleType | type):
            value = known[root.id]
            for name in chain:
                value = getattr(value, name, None)
            yield value
        elif isinstance(root, ast.Call) and isinstance(root.func, ast.Name) and root.func.id == "super":
            yield from (vars(base)[chain[0]] for base in kind.__mro__[1:] if chain[0] in vars(base))
        elif node.attr in METHODS:
            yield METHODS[node.attr]
