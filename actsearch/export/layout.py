"""Writes lines of Python as a formatter would break and sort them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

WIDTH = 120


def plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', "'''")


def literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def numbers(values: Tensor) -> str:
    rounded = [float(f"{v:.9g}") + 0.0 for v in values.flatten().tolist()]
    return repr(rounded)


def call(head: str, arguments: Sequence[str], tail: str, indent: int) -> list[str]:
    """The lines of `head(arguments)tail`, as few as a formatter would take."""
    space = " " * indent
    line = f"{space}{head}({', '.join(arguments)}){tail}"
    if len(line) <= WIDTH:
        return [line]
    inner = f"{space}    {', '.join(arguments)}"
    lines = [inner] if len(inner) <= WIDTH else [f"{space}    {a}," for a in arguments]
    return [f"{space}{head}(", *lines, f"{space}){tail}"]


def imports(lines: set[str]) -> str:
    """Sorted imports: the standard library, an empty line, then the others; names from one module are on one line."""
    whole = sorted(line for line in lines if line.startswith("import "))
    parts: dict[str, list[str]] = {}
    for line in sorted(lines - set(whole)):
        module, names = re.fullmatch(r"from (\S+) import (.+)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        parts.setdefault(module, []).append(names)
    every = [*whole, *[f"from {module} import {', '.join(names)}" for module, names in sorted(parts.items())]]
    ours = [line for line in every if line.split()[1].partition(".")[0] in sys.stdlib_module_names]
    others = [line for line in every if line not in ours]
    return "\n\n".join("\n".join(group) for group in (ours, others) if group) + "\n"
