"""Digests of what a user gives as code or objects, so that a study is found again only for the same question.

A name such as `my_net.my_net` says nothing about what the function does today. `Contents` walks over the values
themselves: the compiled code of functions and classes (comments and layout do not count), the globals, defaults and
closures that they use, arrays by their numbers, and so on through everything that these refer to. Of a module of the
user's own it also takes the statements that run when it is imported. Packages that are installed count by their version
and their list of files; actsearch, what it requires, and Python itself count by name, because a study notes their
versions. What cannot be read is named in `unknown`.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from actsearch.question.identity import digest

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), torch.dtype, torch.device, np.dtype)
OF_C = (GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType)  # __slots__ among them
# whether two of these that are equal are one object differs, for instance, between compiled and loaded code
SHARED_BY_CHANCE = (tuple, list, dict, set, frozenset, CodeType, np.ndarray, np.generic, Tensor)
OF_CLASSES = {"__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__slotnames__", "_abc_impl"}
# of an nn.Module: what has its own line below, and an LSTM's further references to its weights
OF_MODULES = {"_parameters", "_buffers", "_modules", "training", "_flat_weights", "_flat_weight_refs"}
PACKAGE = str(Path(__file__).parent)
UNREADABLE = {"import_module", "environ", "getenv"}
UNREADABLE_BUILTINS = {"exec", "eval", "compile", "__import__"}  # net.eval and torch.compile have the same names


def digest_of(*values: object) -> str:
    """Sixteen hexadecimal digits of the values, see `Contents`."""
    contents = Contents()
    for value in values:
        contents.add(value)
    return contents.digest


def gradient_hooks(p: Tensor | None) -> list[Any]:
    """The hooks on a parameter's gradient. Neither copies nor pickles have them."""
    return [
        hook for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")
        for hook in (getattr(p, kind, None) or {}).values()
    ]  # fmt: skip


class Contents:
    """One digest of all values that `add` was given, in their order.

    Attributes: unknown, the names of what could not be read, so that a change of it would go unnoticed; edited, the
    files that no longer contain the code that was imported from them; values, by module and name, the global variables
    and the classes' attributes that were met in modules of the user's own.
    """

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.edited: list[str] = []
        self.values: dict[tuple[str, str], Any] = {}
        self._hash = hashlib.sha256()
        self._files: dict[str, set[str]] = {}  # the digests of all functions in a file, see `edited`
        self._seen: dict[int, int] = {}
        self._alive: list[object] = []  # an id is only unique while its object lives

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]

    def add(self, value: object) -> None:
        """Adds a value and whatever it refers to."""
        if isinstance(value, PLAIN):
            self._token(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._token("again", str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        self._token(type(value).__qualname__)
        self._kind(value)(value)
        if isinstance(value, SHARED_BY_CHANCE):
            del self._seen[id(value)]
        else:
            self._alive.append(value)

    def add_net(self, net: nn.Module, weights: bool) -> None:
        """Adds the structure and code of a net, its buffers and attributes; and its parameters, if `weights`.

        The parameters' shapes count in any case, and whether they are trained.
        """
        for name, module in net.named_modules(remove_duplicate=False):
            self._token(name, str(module.training))
            self.add(type(module))
            for attribute, value in vars(module).items():
                if attribute not in OF_MODULES:
                    self._token(attribute)
                    self.add(list(value.values()) if "hooks" in attribute else value)  # their keys count up
            for attribute, buffer in module._buffers.items():
                self._token(attribute)
                self.add(buffer)
            for attribute, p in module._parameters.items():
                lazy = p is not None and is_lazy(p)
                shape = None if p is None or lazy else tuple(p.shape)
                self._token(attribute, "" if p is None else f"{shape} {p.dtype} {p.requires_grad}")
                if p is not None and not lazy and (weights or not p.requires_grad):  # what is frozen is kept
                    self.add(p)
                self._each(*gradient_hooks(p))

    def _token(self, *texts: str | bytes | memoryview) -> None:
        for text in texts:
            self._hash.update(f"{len(text)}:".encode())
            self._hash.update(text.encode(errors="surrogatepass") if isinstance(text, str) else text)

    def _kind(self, value: object) -> Callable[[Any], None]:
        kinds: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (ModuleType, self._module),
            (FunctionType, self._function),
            (CodeType, self._code),
            (type, self._class),
            (MethodType, lambda m: self._each(m.__func__, m.__self__)),
            (BuiltinFunctionType, self._builtin),
            (functools.partial, lambda p: self._each(p.func, p.args, p.keywords)),
            ((staticmethod, classmethod), lambda m: self.add(m.__func__)),
            (property, lambda p: self._each(p.fget, p.fset)),
            (nn.Module, lambda net: self.add_net(net, True)),
            (Tensor, self._tensor),
            # the state of a generator moves with every draw; what was drawn is among the values
            ((RemovableHandle, np.random.Generator, np.random.RandomState, torch.Generator), lambda value: None),
            (OF_C, lambda descriptor: self._token(descriptor.__name__)),
            ((np.ndarray, np.generic), lambda a: self._array(np.asarray(a))),
            (os._Environ, lambda environment: self._fails("os.environ")),
            (Mapping, lambda m: self._each(*(part for pair in m.items() for part in pair))),
            ((list, tuple), lambda s: self._each(*s)),
            ((set, frozenset), self._set),
        )
        return next((read for types, read in kinds if isinstance(value, types)), self._object)

    def _each(self, *values: object) -> None:
        self._token(str(len(values)))
        for value in values:
            self.add(value)

    def _set(self, values: set[Any] | frozenset[Any]) -> None:
        parts = []
        for value in values:  # in an order that does not depend on hashes, which differ from process to process
            part = Contents()
            part.add(value)
            parts.append(part.digest)
            self.unknown += part.unknown
            self.edited += part.edited
        self._token(*sorted(parts))

    def _tensor(self, t: Tensor) -> None:
        self._token(str(t.dtype), str(tuple(t.shape)), str(t.requires_grad))
        try:
            self._token(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        except (RuntimeError, NotImplementedError, ValueError, TypeError):  # sparse, on the meta device, …
            self._fails(f"a tensor of {t.layout} on {t.device}")

    def _array(self, a: np.ndarray) -> None:
        self._token(str(a.dtype), str(a.shape))
        if a.dtype.hasobject:
            self._each(*a.reshape(-1).tolist())
        else:
            self._token(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)

    def _code(self, code: CodeType) -> None:
        self._token(code.co_code, code.co_name, str(code.co_argcount), str(code.co_kwonlyargcount), str(code.co_flags))
        self._each(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_consts)

    def _function(self, function: FunctionType) -> None:
        home = _home_of_file(function.__code__.co_filename)  # a decorator copies __module__
        for cell in function.__closure__ or ():  # a library's decorator holds the user's function here
            with contextlib.suppress(ValueError):  # an empty cell
                self.add(cell.cell_contents)
        if home != "own":
            self._token(home, function.__module__ or "", function.__qualname__)
            return
        self._statements(function.__module__)
        file = function.__code__.co_filename
        if file not in self._files:
            self._files[file] = _codes_in(file) if _is_imported_as_it_is(function.__module__) else set()
        if self._files[file] and _code_digest(function.__code__) not in self._files[file]:
            self._note(self.edited, file)
        self._each(function.__code__, function.__defaults__, function.__kwdefaults__, vars(function))
        self._names(function.__code__, function.__globals__)

    def _names(self, code: CodeType, namespace: Mapping[str, Any]) -> None:
        """What the names in a piece of code stand for, among them attributes of modules and imports inside it."""
        names = set(_all_names(code))
        if used := sorted((UNREADABLE & names) | (UNREADABLE_BUILTINS & set(_globals_of(code)))):
            self._fails(f"{code.co_qualname}, which uses {used[0]}")
        stack: list[Any] = [(name, namespace[name]) for name in sorted(names & namespace.keys())]
        self._keep(str(namespace.get("__name__")), dict(stack))
        stack += [(name, sys.modules[name]) for name in _imports(code, namespace) if name in sys.modules]
        while stack:
            name, value = stack.pop(0)
            self._token(name)
            self.add(value)
            if isinstance(value, ModuleType) and _home(value.__name__) == "own":
                attributes = vars(value) if "getattr" in names or "vars" in names else names & vars(value).keys()
                found = {a: vars(value)[a] for a in sorted(attributes) if not a.startswith("__")}
                self._keep(value.__name__, found)
                stack += [(f"{name}.{a}", part) for a, part in found.items() if id(part) not in self._seen]

    def _class(self, kind: type) -> None:
        home = _home(kind.__module__)
        self._token(home, kind.__module__ if kind.__module__ != "__main__" else "", kind.__qualname__)
        if home != "own":
            return
        self._statements(kind.__module__)
        self._each(type(kind), *kind.__bases__)
        own = {k: v for k, v in sorted(vars(kind).items()) if k not in OF_CLASSES and not k.startswith("__dataclass_")}
        if "<locals>" not in kind.__qualname__:
            self._keep(kind.__module__, {f"{kind.__qualname__}.{k}": v for k, v in own.items() if k[0] != "_"})
        for name, value in own.items():
            self._token(name)
            self.add(value)

    def _builtin(self, function: BuiltinFunctionType) -> None:
        home = _home(function.__module__ or "builtins")
        self._token(home, function.__qualname__)
        if home == "own" and function.__module__ in sys.modules:
            self.add(sys.modules[function.__module__])

    def _module(self, module: ModuleType) -> None:
        home = _home(module.__name__)
        self._token(home, module.__name__)
        if home == "own":
            self._statements(module.__name__)

    def _statements(self, module_name: str) -> None:
        """What a module of the user's own does when it is imported, apart from defining functions and classes.

        The script or notebook that is run itself is left out: it calls the search, and may change that call.
        """
        module = sys.modules.get(module_name)
        if module is None or module_name == "__main__" or id(vars(module)) in self._seen:
            return
        self._seen[id(vars(module))] = len(self._seen)  # a module lives on
        path = Path(str(getattr(module, "__file__", None)))
        if path.suffix != ".py":
            if path.is_file():  # compiled
                self._token(path.read_bytes())
            elif not hasattr(module, "__path__"):
                self._fails(f"the module {module_name}, which has no file")
            return
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            self._fails(str(path))
            return
        defines = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        runs = [node for node in tree.body if not isinstance(node, defines) and not _only_for_scripts(node)]
        for node in runs:
            self._token(ast.dump(node))
        code = compile(ast.Module(runs, []), str(path), "exec", dont_inherit=True)
        self._names(code, vars(module))
        for name in _imports(compile(tree, str(path), "exec", dont_inherit=True), vars(module)):
            if name in sys.modules and _home(name) == "own":
                self.add(sys.modules[name])

    def _object(self, value: object) -> None:
        """An instance of any class: its class, and its state as it would be pickled."""
        self.add(type(value))
        wrapped = inspect.getattr_static(value, "__wrapped__", None)  # functools.lru_cache
        if wrapped is not None:  # not hasattr: a class's own __getattr__ may raise anything
            self.add(wrapped)
            return
        state = inspect.getattr_static(value, "__dict__", None) and vars(value)
        if state is not None and _home(type(value).__module__) == "own":
            self._each(*(part for pair in sorted(state.items()) for part in pair))
            return
        if hasattr(type(value), "__array__"):
            self._each(list(getattr(value, "columns", ())), np.asarray(value))
            return
        try:
            reduced: Any = value.__reduce_ex__(4)
        except Exception:  # whatever a class that cannot be pickled raises
            self._fails(f"{type(value).__module__}.{type(value).__qualname__}")
            return
        if isinstance(reduced, str):
            self._token(reduced)
            return
        function, arguments, *rest = reduced
        self._each(function, arguments, *(list(part) if isinstance(part, Iterator) else part for part in rest))

    def _keep(self, module_name: str, values: Mapping[str, Any]) -> None:
        if module_name in sys.modules and module_name != "__main__" and _home(module_name) == "own":
            self.values |= {(module_name, name): value for name, value in values.items()}

    def _fails(self, what: str) -> None:
        self._note(self.unknown, what)

    @staticmethod
    def _note(names: list[str], name: str) -> None:
        if name not in names:
            names.append(name)


def _is_imported_as_it_is(module_name: str) -> bool:
    """Whether a module's code is what its file says: pytest, for instance, rewrites the asserts of what it imports."""
    loader = getattr(sys.modules.get(module_name), "__loader__", None)
    return type(loader) is SourceFileLoader and module_name != "__main__"


def _codes_in(path: str) -> set[str]:
    """The digests of all functions in a file as it is now; empty if there is no such file."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        source = Path(path).read_text(encoding="utf-8")
        return set(_code_digests(compile(source, path, "exec", dont_inherit=True)))
    return set()


def _code_digests(code: CodeType) -> Iterator[str]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield _code_digest(const)
            yield from _code_digests(const)


def _code_digest(code: CodeType) -> str:
    contents = Contents()
    contents.add(code)
    return contents.digest


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _all_names(const)
        elif isinstance(const, str) and const.isidentifier():  # as in getattr(module, "name")
            yield const


def _globals_of(code: CodeType) -> Iterator[str]:
    """The names that a piece of code takes from its globals or from the builtins, not from an object."""
    yield from (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _globals_of(const)


def _imports(code: CodeType, namespace: Mapping[str, Any]) -> list[str]:
    """The names of the modules that a piece of code imports, absolute."""
    found: list[str] = []
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, given = instructions[i - 2].argval, instructions[i - 1].argval
        name = "." * (level if isinstance(level, int) else 0) + str(instruction.argval or "")
        with contextlib.suppress(ImportError, ValueError, TypeError):
            name = importlib.util.resolve_name(name, str(namespace.get("__package__") or ""))
        found += [name, *(f"{name}.{part}" for part in given or () if isinstance(given, tuple))]
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found += _imports(const, namespace)
    return list(dict.fromkeys(found))


def _only_for_scripts(node: ast.stmt) -> bool:
    """Whether a statement is a docstring or `if __name__ == "__main__"`."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.If) and "'__main__'" in ast.dump(node.test))


@functools.lru_cache(maxsize=4096)
def _home(module_name: str | None) -> str:
    """Where a module comes from: `own` (the user's), `known` (Python, actsearch and what it requires), or the version
    and list of files of an installed package.
    """
    if module_name == "__main__":
        return "own"
    if (module_name or "").partition(".")[0] in {"", "builtins", *sys.stdlib_module_names, *sys.builtin_module_names}:
        return "known"
    module = sys.modules.get(str(module_name))
    spot = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if spot is None and "." in str(module_name):  # a part of a compiled module, such as torch._C._nn
        return _home(str(module_name).rpartition(".")[0])
    return _home_of_file(str(spot or ""))


@functools.lru_cache(maxsize=4096)
def _home_of_file(path: str) -> str:
    """The same for a file; what was typed into a notebook, or made by exec, is the user's own."""
    if path.startswith("<frozen"):
        return "known"
    installed = next((folder for folder in _installed() if Path(path).is_relative_to(folder)), None)
    if installed is None:
        known = (sysconfig.get_paths()["stdlib"], PACKAGE)
        return "known" if any(Path(path).is_relative_to(folder) for folder in known) else "own"
    packages = _packages().get(Path(path).relative_to(installed).parts[0].partition(".")[0], [])
    if not packages:
        return "own"
    if set(map(_normal, packages)) & _required():
        return "known"
    found = importlib.metadata.distribution(packages[0])
    return f"{found.version} {digest(found.read_text('RECORD') or '')}"


@functools.cache
def _installed() -> tuple[str, ...]:
    """The folders into which packages are installed."""
    paths = sysconfig.get_paths()
    return tuple({paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()})


_packages = functools.cache(importlib.metadata.packages_distributions)


@functools.cache
def _required() -> set[str]:
    """The packages that actsearch requires; none where it runs without being installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        names = (re.match(r"[\w.-]+", line) for line in importlib.metadata.requires("actsearch") or ())
        return {_normal(name[0]) for name in names if name is not None}
    return set()


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
