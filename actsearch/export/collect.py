"""Collects the source of a function and of all that it uses, so that it works without the package it comes from.

The meaning of a name is looked up in the source of the module that uses it. Statements of the function's own packages
are copied unchanged, comments included; names from other packages are imported.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import symtable
from collections.abc import Iterable, Mapping
from typing import Any

from actsearch.errors import ActSearchError, one_line

USUAL = {
    "import torch": "torch", "from torch import Tensor": "Tensor", "from torch import nn": "nn",
    "import torch.nn as nn": "nn", "import torch.nn.functional as F": "F",
    "from torch.nn import functional as F": "F",
}  # fmt: skip
"""The usual imports of a new file, each with the name that it binds. That name may mean nothing else in the file."""

Place = tuple[str, str]
"""A module's name, and a name that one of its statements binds."""

Given = dict[str, tuple[ast.stmt, str]]
"""For each name of a module, the statement that binds it, and its text."""


class Collector:
    """Copies functions, classes and constants: call `add` for each one wanted, then read `pieces` and `imports`.

    packages: the top-level names of the packages that are copied; others are imported. taken: names that no copy may
    have. sources: the texts of modules that are in no file, by name. value: the type written instead of `Value`.
    """

    def __init__(
        self,
        packages: set[str],
        taken: set[str],
        sources: Mapping[str, str] | None = None,
        value: str = "Tensor | float",
    ) -> None:
        self.packages = packages
        self.imports: set[str] = set()
        self.pieces: dict[str, str] = {}  # name: text; each stands after those that it uses
        usual = dict.fromkeys(USUAL.values(), "")
        self._means: dict[str, Place | str] = {**usual, **dict.fromkeys(taken, "taken")}  # keys: names in the new file
        self._names: dict[Place, str] = {}
        self._modules = {name: _read(source) for name, source in (sources or {}).items()}
        self._replaced = {
            ("actsearch.activations.activation", "Value"): value,
            ("actsearch.errors", "ActSearchError"): "ValueError",  # its base class
        }

    def add(self, module: str, name: str, kinds: Mapping[str, str]) -> str:
        """Copies a function and what it uses; returns its name in the new file.

        kinds: the types of the parameters that every call gives, by name. Raises ActSearchError if a source cannot be
        read.
        """
        place = self._find(module, name)
        if isinstance(place, str):
            raise ActSearchError(f"'{module}.{name}' is not defined there. Name the module where it is.")
        return self._write(place, self._with_kinds(place, kinds))

    # --- the meaning of a name -----------------------------------------------------------------------

    def _module(self, name: str) -> Given:
        if name not in self._modules:
            try:
                self._modules[name] = _read(inspect.getsource(importlib.import_module(name)))
            except (OSError, TypeError) as error:
                raise ActSearchError(f"the source of module '{name}' cannot be read ({one_line(error)}).") from None
        return self._modules[name]

    def _find(self, module: str, name: str) -> Place | str:
        """What a name of a module means: a place to copy or, as text, an import statement or the name to write."""
        if (module, name) in self._replaced:
            return self._replaced[module, name]
        node, _ = self._module(module).get(name, (None, ""))
        if node is None and hasattr(builtins, name):
            return name
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if name == (a.asname or a.name.partition(".")[0]))
            part_of_torch = name == "torch" and not alias.asname  # import torch.nn binds the name torch
            return "import torch" if part_of_torch else f"import {ast.unparse(alias)}"
        if isinstance(node, ast.ImportFrom):
            alias = next(a for a in node.names if name == (a.asname or a.name))
            base = module.rsplit(".", node.level)[0] + "." if node.level else ""
            source = base + (node.module or "")
            if source.partition(".")[0] in self.packages:
                return self._find(source, alias.name)
            return f"from {source} import {ast.unparse(alias)}"
        if node is None:
            raise ActSearchError(
                f"'{name}' in '{module}' is given by no statement that could be copied. Import it by name."
            )
        return module, name

    # --- the new file ---------------------------------------------------------------------------------

    def _with_kinds(self, place: Place, kinds: Mapping[str, str]) -> str:
        """The text of a function without defaults, and with the type of each parameter in place of `Value`.

        TorchScript needs this, because it cannot multiply by a value of the type `Tensor | float`. If some parameter
        with a default is not in `kinds`, the text stays as it is.
        """
        text = self._module(place[0])[place[1]][1]
        function = ast.parse(text).body[0]
        if not isinstance(function, ast.FunctionDef):
            return text
        named = [*function.args.posonlyargs, *function.args.args]
        defaults = [None] * (len(named) - len(function.args.defaults)) + function.args.defaults
        if any(default and arg.arg not in kinds for arg, default in zip(named, defaults, strict=True)):
            return text
        edits = []
        for arg, default in zip(named, defaults, strict=True):
            written = ast.unparse(arg)
            if isinstance(arg.annotation, ast.Name) and arg.annotation.id == "Value" and arg.arg in kinds:
                written = f"{arg.arg}: {kinds[arg.arg]}"
            if default:  # so that the parameter and its default are replaced as one node
                arg.end_lineno, arg.end_col_offset = default.end_lineno, default.end_col_offset
            edits.append((arg, written))
        return splice(text, edits)

    def _write(self, place: Place, text: str | None = None) -> str:
        """Writes a statement into the new file, behind all that it uses and under free names; returns its name there.

        text: the text to write if the statement is not copied unchanged.
        """
        if place in self._names:
            return self._names[place]
        module, (node, copied) = place[0], self._module(place[0])[place[1]]
        own = [name for name, (other, _) in self._module(module).items() if other is node]
        for name in own:
            new = name
            while new in self._means:
                new = f"{new}_"
            self._means[new] = module, name
            self._names[module, name] = new
        text = text or copied
        renamed = {name: self._names[module, name] for name in own}
        for used in sorted(_globals(text)):
            found = self._find(module, used)
            if not isinstance(found, str):
                renamed[used] = self._write(found)
            elif found.startswith(("import ", "from ")):
                means = found if found not in USUAL else ""
                if self._means.setdefault(used, means) != means:
                    raise ActSearchError(f"'{used}' means two things in what '{place[1]}' uses. Rename one of them.")
                self.imports.add(found)
            else:
                renamed[used] = found
        self.pieces[self._names[place]] = _rename(text, {old: to for old, to in renamed.items() if old != to})
        return self._names[place]


def _read(source: str) -> Given:
    lines, given = source.splitlines(), {}
    for node in ast.parse(source).body:
        # whole lines, so that decorators and a comment at the end of the line are included
        first = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])
        text = "\n".join(lines[first - 1 : node.end_lineno]) + "\n"
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            given[node.name] = node, text
        elif isinstance(node, ast.Import | ast.ImportFrom):
            given |= {alias.asname or alias.name.partition(".")[0]: (node, text) for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            given |= dict.fromkeys(names, (node, text))
    return given


def _globals(text: str) -> set[str]:
    """The names that a statement uses and that its module binds."""
    found: set[str] = set()

    def look(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (not symbol.is_assigned() if top else symbol.is_global()):
                found.add(symbol.get_name())
        for child in table.get_children():
            look(child, False)

    look(symtable.symtable(text, "copied", "exec"), True)
    return found


def splice(text: str, edits: Iterable[tuple[Any, str]]) -> str:
    """The text with some nodes of its syntax tree replaced. edits: (node, new text); no node may lie inside another."""
    raw = text.encode()  # ast counts columns in bytes
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    spans = [
        (starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset, new)
        for node, new in edits
    ]
    for start, end, new in sorted(spans, reverse=True):
        raw = raw[:start] + new.encode() + raw[end:]
    return raw.decode()


def _rename(text: str, names: Mapping[str, str]) -> str:
    if not names:
        return text
    tree = ast.parse(text)
    text = splice(text, [(n, names[n.id]) for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in names])
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
        text = text.replace(f" {node.name}", f" {names[node.name]}", 1)
    return text
