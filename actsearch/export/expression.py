"""An expression as the text of a module with one function. What it calls of the catalogue is imported there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from actsearch.activations import tree
from actsearch.activations.tree import Node

LONGEST = 105  # of an expression on a line, behind its indent and `return`


def module_text(made: Node, name: str, learned: set[str], imports: Callable[[str], str]) -> str:
    """imports: the line that imports an entry of the catalogue under its name."""
    lines = ["import torch", "from torch import Tensor", "from actsearch.activations.activation import Value"]
    lines += [imports(entry) for entry in made.functions]
    parameters = "".join(f", {parameter}: Value" for parameter in made.parameters)
    body = [f"{k} = {k}.to(x.dtype)" for k in made.parameters if k in learned]  # bf16 beside weights in float32
    taken = {*made.parameters, *made.functions}
    names = (n for n in (f"part{i}" for i in range(1, 1000)) if n not in taken)
    while len(tree.source(made)) > LONGEST:
        part = max((n for n in _inside(made) if len(tree.source(n)) <= LONGEST), key=lambda n: len(tree.source(n)))
        short = next(names)
        body.append(f"{short} = {tree.source(part)}")
        made = _put(made, part, tree.parameter(short))
    body.append(f"return {tree.source(made)}")
    body = [line.replace("'", '"') for line in body]  # words: the only quotes there are
    head = f"def {name}(x: Tensor{parameters}) -> Tensor:"
    return "\n".join([*lines, "", "", head, *[f"    {line}" for line in body]]) + "\n"


def _inside(node: Node) -> Iterator[Node]:
    """What may stand on a line of its own: no condition, for that is no value."""
    for arg in node.args:
        if arg.args and arg.op not in tree.COMPARISONS:
            yield arg
        yield from _inside(arg)


def _put(node: Node, old: Node, new: Node) -> Node:
    return new if node == old else replace(node, args=tuple(_put(arg, old, new) for arg in node.args))
