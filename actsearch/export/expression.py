"""Writes an expression as the text of a module with one function, which imports the catalogue functions it calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from actsearch.activations import tree
from actsearch.activations.tree import Node

LONGEST = 105  # characters of an expression on a line, after the indent and `y = `


def module_text(made: Node, name: str, learned: set[str], imports: Callable[[str], str]) -> str:
    """The text of a module with the expression as function `name`.

    made: the tree by which it is evaluated. learned: the parameters that are tensors. imports: gives the line that
    imports a catalogue entry under its name.
    """
    lines = ["import torch", "from torch import Tensor", "from actsearch.activations.activation import Value"]
    lines += [imports(entry) for entry in made.functions]
    parameters = "".join(f", {parameter}: Value" for parameter in made.parameters)
    taken = {*made.parameters, *made.functions}
    dtype, y = (next(n for n in (name, f"{name}_", f"{name}__") if n not in taken) for name in ("dtype", "y"))
    body = [
        f"{dtype} = x.dtype",
        "x = x.float() if x.element_size() < 4 else x  # half precision is computed in float32",
    ]
    body += [f"{k} = {k}.to(x.dtype)" for k in made.parameters if k in learned]
    names = (n for n in (f"part{i}" for i in range(1, 1000)) if n not in taken)
    while (part := _next_part(made)) is not None:
        short = next(names)
        body.append(f"{short} = {tree.source(part)}")
        made = _put(made, part, Node("part", value=short))
    body += [f"{y} = {tree.source(made)}", f"return {y}.to({dtype})"]
    body = [line.replace("'", '"') for line in body]  # only words have quotes
    head = f"def {name}(x: Tensor{parameters}) -> Tensor:"
    return "\n".join([*lines, "", "", head, *[f"    {line}" for line in body]]) + "\n"


def _next_part(made: Node) -> Node | None:
    """A part to be computed on a line of its own: one that occurs twice, or that makes the expression shorter."""
    counts = Counter(_inside(made))
    twice = [n for n, count in counts.items() if count > 1 and n.varies and n.size > 3]
    for part in sorted(twice, key=lambda n: n.size):
        if not any(part in n.args and counts[n] == counts[part] for n in twice):
            return part
    if len(tree.source(made)) <= LONGEST:
        return None
    return max((n for n in counts if len(tree.source(n)) <= LONGEST), key=lambda n: len(tree.source(n)))


def _inside(node: Node) -> Iterator[Node]:
    """The parts that may be computed on a line of their own; not conditions, because they are no values."""
    for arg in node.args:
        if arg.args and arg.op not in tree.COMPARISONS:
            yield arg
        yield from _inside(arg)


def _put(node: Node, old: Node, new: Node) -> Node:
    """The tree with each occurrence of `old` replaced by `new`."""
    return new if node == old else replace(node, args=tuple(_put(arg, old, new) for arg in node.args))
