"""Finds where the function of an entry is defined, and under which name torch has its own functions."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from typing import Any

import torch

from actsearch.activations.activation import Activation
from actsearch.errors import ActSearchError


def torch_path(fn: Any) -> str | None:
    """The name under which a file calls a torch function: F.relu, torch.sigmoid. None if it is not one of torch's."""
    for prefix, place in (("F", torch.nn.functional), ("torch", torch), ("torch.special", torch.special)):
        for name, value in vars(place).items():
            if value is fn and not name.startswith("_"):
                return f"{prefix}.{name}"
    return None


def place_of(entry: Activation, sources: dict[str, str]) -> tuple[str, str]:
    """The module of an entry's function, and the function's name there.

    sources: if the function has no name, as in Activation("erf", in_float32(torch.erf)), the text of its module with a
    name added is put into this dict. Raises ActSearchError if it is not found.
    """
    module, name = str(getattr(entry.fn, "__module__", "")), str(getattr(entry.fn, "__name__", ""))
    if entry.name.startswith("torch."):
        raise ActSearchError(f"'{entry.name}' is torch's own: there is nothing to export.")
    made = getattr(entry.fn, "__wrapped__", None) if entry.kind == "weighted" else None  # a user's class
    if getattr(sys.modules.get(module), name, None) in (entry.fn, made or entry.fn):
        return module, name
    for module, loaded in list(sys.modules.items()):  # the function may be made within its entry
        for name, value in list(vars(loaded).items()) if module.startswith("actsearch.activations.") else []:
            if value is entry:
                text = sources.get(module) or inspect.getsource(loaded)
                calls = {ast.unparse(n.targets[0]): n.value for n in ast.parse(text).body if isinstance(n, ast.Assign)}
                made = calls[name]
                assert isinstance(made, ast.Call)
                sources[module] = f"{text}\n\n{name.lower()} = {ast.get_source_segment(text, made.args[1])}\n"
                return module, name.lower()
    raise ActSearchError(f"'{entry.name}' cannot be exported: its function has no name in a file. Write it as a def.")


def beside(module: str) -> list[str]:
    """The modules in the folder of a user's own file."""
    file = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    folder = Path(file).parent if file and not module.startswith("actsearch.") else None
    return [path.stem for path in folder.glob("*.py")] if folder and not folder.name.endswith("-packages") else []


def import_of(entry: Activation, sources: dict[str, str]) -> str:
    """The line that imports an entry's function under the entry's name."""
    path = torch_path(entry.fn)
    if path is None:
        module, name = place_of(entry, sources)
    else:
        module, _, name = path.replace("F.", "torch.nn.functional.").rpartition(".")
    return f"from {module} import {name}" + (f" as {entry.name}" if name != entry.name else "")
