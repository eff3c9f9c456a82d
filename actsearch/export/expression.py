"""Writes an expression as the text of a module with one function, which imports the catalogue functions it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from actsearch.activations import tree
from actsearch.activations.tree import Node

LONGEST = 105  # characters of an expression on a line, after the indent and `return`


def module_text(made: Node, name: str, learned: set[str], imports: Callable[[str], str]) -> str:
    """The text of a module with the expression as function `name`.

    learned: the parameters that are tensors. imports: gives the line that imports a catalogue entry under its name.
    """
    lines = ["import torch", "from torch import Tensor", "from actsearch.activations.activation import Value"]
    lines += [imports(entry) for entry in made.functions]
    parameters = "".join(f", {parameter}: Value" for parameter in made.parameters)
    body = [f"{k} = {k}.to(x.dtype)" for k in made.parameters if k in learned]  # x may be bfloat16, weights float32
    taken = {*made.parameters, *made.functions}
    names = (n for n in (f"part{i}" for i in range(1, 1000)) if n not in taken)
    while len(tree.source(made)) > LONGEST:
        part = max((n for n in _inside(made) if len(tree.source(n)) <= LONGEST), key=lambda n: len(tree.source(n)))
        short = next(names)
        body.append(f"{short} = {tree.source(part)}")
        made = _put(made, part, tree.parameter(short))
    body.append(f"return {tree.source(made)}")
    body = [line.replace("'", '"') for line in body]  # only words have quotes
    head = f"def {name}(x: Tensor{parameters}) -> Tensor:"
    return "\n".join([*lines, "", "", head, *[f"    {line}" for line in body]]) + "\n"


def _inside(node: Node) -> Iterator[Node]:
    """The parts that may be computed on a line of their own; not conditions, because they are no values."""
    for arg in node.args:
        if arg.args and arg.op not in tree.COMPARISONS:
            yield arg
        yield from _inside(arg)


def _put(node: Node, old: Node, new: Node) -> Node:
    """The tree with each occurrence of `old` replaced by `new`."""
    return new if node == old else replace(node, args=tuple(_put(arg, old, new) for arg in node.args))
