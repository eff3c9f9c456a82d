"""The source of a function and of all that it uses, so that it stands without the package it comes from.

Works on source files: what a name stands for is looked up in its module's own statements. What is defined in the
function's package is copied, comments included; the rest is imported.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import symtable
from collections.abc import Mapping
from dataclasses import dataclass, field

from actsearch.errors import ActSearchError, one_line
from actsearch.export.fold import Kinds, fold, kind_of, kind_of_annotation, kinds_in, splice

VALUE = ("actsearch.activations.activation", "Value")  # in annotations: written as what the parameter is
REPLACED = {("actsearch.errors", "ActSearchError"): "ValueError"}  # by its base
USUAL = {
    "import torch": "torch", "from torch import Tensor": "Tensor", "from torch import nn": "nn",
    "import torch.nn as nn": "nn", "import torch.nn.functional as F": "F",
    "from torch.nn import functional as F": "F",
}  # fmt: skip
"""Imports that every new file may have, and the name that stands for this only."""

Place = tuple[str, str]
"""A module, and the name that one of its statements gives."""


@dataclass
class Module:
    """lines: its source. given: the statement that gives each of its names."""

    lines: list[str]
    given: dict[str, ast.stmt] = field(default_factory=dict)

    @classmethod
    def read(cls, source: str) -> Module:
        module = cls(source.splitlines())
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                module.given[node.name] = node
            elif isinstance(node, ast.Import | ast.ImportFrom):
                module.given |= {alias.asname or alias.name.partition(".")[0]: node for alias in node.names}
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                module.given |= {n.id: node for n in ast.walk(node) if isinstance(n, ast.Name) and _stored(n)}
        return module

    def text(self, node: ast.stmt) -> str:
        """Its whole lines, decorators and a comment behind it included."""
        first = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])
        return "\n".join(self.lines[first - 1 : node.end_lineno]) + "\n"


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


class Collector:
    """Copies functions, classes and constants: `add` what is wanted, then read `pieces` and `imports`.

    packages: the top-level names of what is copied. taken: names that no copy can have. sources: of modules that are
    in no file.
    """

    def __init__(self, packages: set[str], taken: set[str], sources: Mapping[str, str] | None = None) -> None:
        self.packages = packages
        self.imports: set[str] = set()
        self.pieces: dict[str, str] = {}  # name: text, each after what it uses
        usual = dict.fromkeys(USUAL.values(), "")
        self._means: dict[str, Place | str] = {**usual, **dict.fromkeys(taken, "taken")}  # by the new file's names
        self._names: dict[Place, str] = {}
        self._modules = {name: Module.read(source) for name, source in (sources or {}).items()}
        self._kinds: dict[Place, dict[str, str]] = {}
        self._texts: dict[Place, str] = {}

    def add(self, module: str, name: str, kinds: Kinds) -> str:
        """Copies it and what it uses; gives the name it has in the new file. kinds: of its parameters, where known.

        Raises ActSearchError where a source cannot be had.
        """
        place = self._find(module, name)
        if isinstance(place, str):
            raise ActSearchError(f"'{module}.{name}' is not defined there. Name the place where it is.")
        self._visit(place, kinds)
        self._texts[place] = _without_defaults(self._texts[place], set(kinds))
        return self._write(place)

    # --- what a name stands for -----------------------------------------------------------------------

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            try:
                self._modules[name] = Module.read(inspect.getsource(importlib.import_module(name)))
            except (OSError, TypeError) as error:
                raise ActSearchError(f"the source of module '{name}' cannot be had ({one_line(error)}).") from None
        return self._modules[name]

    def _find(self, module: str, name: str) -> Place | str:
        """The statement to copy for a name of a module; else the import that gives it, or the builtin's own name."""
        if (module, name) in REPLACED:
            return REPLACED[module, name]
        node = self._module(module).given.get(name)
        if node is None and hasattr(builtins, name):
            return name
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if name == (a.asname or a.name.partition(".")[0]))
            part_of_torch = name == "torch" and not alias.asname  # import torch.nn, which is in it
            return "import torch" if part_of_torch else f"import {ast.unparse(alias)}"
        if isinstance(node, ast.ImportFrom):
            alias = next(a for a in node.names if name == (a.asname or a.name))
            base = module.rsplit(".", node.level)[0] + "." if node.level else ""
            source = base + (node.module or "")
            if source.partition(".")[0] in self.packages:
                return self._find(source, alias.name)
            return f"from {source} import {ast.unparse(alias)}"
        if node is None:
            raise ActSearchError(f"'{name}' in '{module}' is given by no statement that could be copied.")
        return module, name

    def _node(self, place: Place) -> ast.stmt:
        return self._module(place[0]).given[place[1]]

    def _function(self, module: str, name: str) -> tuple[Place, ast.FunctionDef] | None:
        found = self._find(module, name)
        node = self._node(found) if not isinstance(found, str) else None
        return (found, node) if isinstance(node, ast.FunctionDef) and not isinstance(found, str) else None

    def _returns(self, module: str, name: str) -> str | None:
        found = self._function(module, name)
        return kind_of_annotation(found[1].returns) if found else None

    # --- kinds of parameters, from every call ----------------------------------------------------------

    def _visit(self, place: Place, given: Kinds) -> None:
        """Notes the text of a statement and of all that it uses, with the branches that its callers leave."""
        module = place[0]
        known = self._kinds.get(place)
        kinds = dict(given) if known is None else {k: v for k, v in known.items() if given.get(k) == v}
        if kinds == known:
            return
        self._kinds[place] = kinds

        def kinds_of(function: ast.FunctionDef) -> Kinds:
            return kinds_in(function, kinds, lambda name: self._returns(module, name))

        text = fold(self._annotated(place, kinds), kinds_of)
        self._texts[place] = text
        calls: dict[str, list[ast.Call]] = {}
        node = ast.parse(text).body[0]
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                calls.setdefault(call.func.id, []).append(call)
        inside = kinds_of(node) if isinstance(node, ast.FunctionDef) else {}
        mentions = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        for name in _globals(text):
            found = self._find(module, name)
            if isinstance(found, str):
                continue
            called = self._function(module, name)
            if called is None or len(calls.get(name, [])) < mentions.count(name):  # also passed on as a value
                self._visit(found, {})
            else:
                for call in calls[name]:
                    self._visit(found, self._passed(called[1], call, inside, module))

    def _passed(self, function: ast.FunctionDef, call: ast.Call, kinds: Kinds, module: str) -> Kinds:
        """The kinds of a function's parameters in one call of it."""
        args = function.args
        names = [a.arg for a in (*args.posonlyargs, *args.args)]
        values: dict[str, ast.expr] = dict(zip(names[len(names) - len(args.defaults) :], args.defaults, strict=True))
        values |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None}
        if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
            return {}
        values |= dict(zip(names, call.args, strict=False)) | {str(k.arg): k.value for k in call.keywords}
        found = {n: kind_of(v, kinds, lambda name: self._returns(module, name)) for n, v in values.items()}
        return {name: kind for name, kind in found.items() if kind}

    def _annotated(self, place: Place, kinds: Kinds) -> str:
        """The text of a statement, Value in its annotations written out."""
        module, _ = place
        text = self._module(module).text(self._node(place))
        edits = []
        for node in ast.walk(ast.parse(text)):
            annotations = []
            if isinstance(node, ast.FunctionDef):
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                annotations = [(a.annotation, kinds.get(a.arg)) for a in every] + [(node.returns, None)]
            elif isinstance(node, ast.AnnAssign):
                annotations = [(node.annotation, None)]
            for annotation, kind in annotations:
                if isinstance(annotation, ast.Name) and self._is_value(module, annotation.id):
                    edits.append((annotation, kind or "Tensor | float"))
        return splice(text, edits)

    def _is_value(self, module: str, name: str) -> bool:
        node = self._module(module).given.get(name)
        return isinstance(node, ast.ImportFrom) and (node.module, name) == VALUE

    # --- the new file ---------------------------------------------------------------------------------

    def _write(self, place: Place) -> str:
        """Puts a statement behind all that it uses, under names that are free there; gives the name of the place."""
        if place in self._names:
            return self._names[place]
        module, node = place[0], self._node(place)
        own = [name for name, other in self._module(module).given.items() if other is node]
        for name in own:
            new = name
            while new in self._means:
                new = f"{new}_"
            self._means[new] = module, name
            self._names[module, name] = new
        text = self._texts[place]
        renamed = {name: self._names[module, name] for name in own}
        for used in sorted(_globals(text)):
            found = self._find(module, used)
            if not isinstance(found, str):
                renamed[used] = self._write(found)
            elif found.startswith(("import ", "from ")):
                means = found if found not in USUAL else ""
                if self._means.setdefault(used, means) != means:
                    raise ActSearchError(f"'{used}' means two things in what '{place[1]}' uses: rename one of them.")
                self.imports.add(found)
            else:
                renamed[used] = found
        self.pieces[self._names[place]] = _rename(text, {old: to for old, to in renamed.items() if old != to})
        return self._names[place]


def _globals(text: str) -> set[str]:
    """The names that a statement takes from its module."""
    found: set[str] = set()

    def look(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (not symbol.is_assigned() if top else symbol.is_global()):
                found.add(symbol.get_name())
        for child in table.get_children():
            look(child, False)

    table = symtable.symtable(text, "copied", "exec")
    look(table, True)
    return found


def _without_defaults(text: str, given: set[str]) -> str:
    """A function whose parameters are always given has no second place for their values."""
    function = ast.parse(text).body[0]
    if not isinstance(function, ast.FunctionDef):
        return text
    args = function.args
    named = [*args.posonlyargs, *args.args]
    pairs = list(zip(named[len(named) - len(args.defaults) :], args.defaults, strict=True))
    if not pairs or not {a.arg for a, _ in pairs} <= given:
        return text
    # the parameter with its default, as one node, becomes the parameter
    edits = []
    for arg, default in pairs:
        both = ast.copy_location(ast.arg(""), arg)
        both.end_lineno, both.end_col_offset = default.end_lineno, default.end_col_offset
        edits.append((both, ast.unparse(arg)))
    return splice(text, edits)


def _rename(text: str, names: dict[str, str]) -> str:
    if not names:
        return text
    tree = ast.parse(text)
    text = splice(text, [(n, names[n.id]) for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in names])
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
        text = text.replace(f" {node.name}", f" {names[node.name]}", 1)
    return text
