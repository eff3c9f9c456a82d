"""Knows which functions are activations, and finds those that the code of a module's forward calls."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeIs

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
DEEPEST = 3  # functions that functions call
OTHERS = {"torch", "numpy", "actsearch", *sys.stdlib_module_names}
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
        for member in _members(value):
            held = member.__func__ if isinstance(member, MethodType) else member
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
    """The activations that a function's code uses, and the names of the attributes in it.

    The functions that it calls are read too, and those that these call, as far as DEEPEST.
    """
    found: set[str] = set()
    attributes: set[str] = set()
    seen: set[object] = set()
    stack = [(function, 0)]
    while stack:
        function, depth = stack.pop()
        function = inspect.unwrap(function)
        if function in seen or not isinstance(function, FunctionType) or depth > DEEPEST:
            continue
        seen.add(function)
        tree = source(function)
        if tree is None:
            found |= {"?"} if depth == 0 else set()
            continue
        attributes |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        own = tree.args.args[0].arg if _is_method(tree, function, kind) else ""
        found |= set(_words(tree, own))
        for value in _references(tree, own, function, kind):
            if (word := _word(value)) is not None:
                found.add(word)
            elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] not in OTHERS:
                stack.append((value, depth + 1))
            elif isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
                stack.append((type(value).forward, depth + 1))
    return frozenset(found), frozenset(attributes)


def source(function: FunctionType) -> ast.AST | None:
    """The code of a function without its decorators; None if it cannot be read. Of a lambda among others, its line."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    if function.__name__ == "<lambda>":
        return inner[0] if len(inner) == 1 else tree
    if isinstance(written := tree.body[0], ast.FunctionDef):
        written.decorator_list.clear()
        written.returns = None
    return written


def _is_method(tree: ast.AST, function: FunctionType, kind: type) -> TypeIs[ast.FunctionDef]:
    """Whether a function is a method of this class, so that its first argument is the module."""
    if not isinstance(tree, ast.FunctionDef) or not tree.args.args:
        return False
    held = (value for base in kind.__mro__ for value in vars(base).values() if callable(value))
    return tree.args.args[0].arg == "self" or any(inspect.unwrap(value) is function for value in held)


def _chain(node: ast.Attribute) -> tuple[ast.expr, list[str]]:
    """Of self.layer.weight: self, and the names after it."""
    chain, root = [node.attr], node.value
    while isinstance(root, ast.Attribute):
        chain, root = [root.attr, *chain], root.value
    return root, chain


def _words(tree: ast.AST, own: str) -> Iterator[str]:
    """The names of methods of tensors that a code calls, as in x.relu(). own: the name of the module in it."""
    bare = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and not node.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield "getattr"
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            root, chain = _chain(node)
            of_own = isinstance(root, ast.Name) and root.id == own
            if not of_own or (len(chain) > 1 and id(node) in bare):  # self.state.tanh(), but not self.tanh(x)
                yield METHODS[node.attr]


def _references(tree: ast.AST, own: str, function: FunctionType, kind: type) -> Iterator[object]:
    """The functions, modules and classes that a function's code uses. own: the name of the module in it."""
    known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            value = known[node.id]
            if isinstance(value, dict | list | tuple):
                yield from _members(value) if len(value) < 100 else []
            elif not isinstance(value, type) or id(node) in called:
                yield value
        elif isinstance(node, ast.Attribute):
            root, chain = _chain(node)
            if isinstance(root, ast.Name) and root.id == own:
                if len(chain) == 1:
                    yield from _members(getattr(kind, chain[0], None))  # its own method, or what its class keeps
            elif isinstance(root, ast.Name) and isinstance(known.get(root.id), ModuleType | type):
                value = known[root.id]
                for name in chain:
                    value = inspect.getattr_static(value, name, None)
                if not isinstance(value, type) or id(node) in called:
                    yield value
            elif isinstance(root, ast.Call) and isinstance(root.func, ast.Name) and root.func.id == "super":
                yield from (vars(base)[chain[0]] for base in kind.__mro__[1:] if chain[0] in vars(base))
