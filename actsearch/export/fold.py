"""A function's source without branches that are never taken: `if isinstance(alpha, Tensor)` where alpha is a number.

Kinds of names are `Tensor`, `float` (any number) or `str`; what is not known is not in the mapping, and a condition on
it stays as it is. Edits are made in the text, so comments and line breaks are kept.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Kinds = Mapping[str, str]
ANNOTATED = {"Tensor": "Tensor", "torch.Tensor": "Tensor", "float": "float", "int": "float", "str": "str"}
NUMBERS = {"float", "int"}
LIBRARIES = {"torch": "Tensor", "F": "Tensor", "math": "float"}  # what their functions return
NO_TENSORS = {"torch.finfo", "torch.is_tensor", "torch.is_floating_point"}
NO_VALUES = {"item", "dim", "size", "tolist"}  # methods that give another kind than they are called on


def splice(text: str, edits: Iterable[tuple[Any, str]]) -> str:
    """The text with each node of its tree replaced. edits: (node, new text), none inside another."""
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


def kind_of_annotation(node: ast.expr | None) -> str | None:
    return ANNOTATED.get(ast.unparse(node)) if node is not None else None


def kinds_in(function: ast.FunctionDef, given: Kinds, returns: Callable[[str], str | None]) -> dict[str, str]:
    """Kinds of a function's parameters and of the local names that are set once. given: of its parameters, from its
    callers. returns: what a function called by its name returns, if that is known.
    """
    args = function.args
    parameters = {a.arg: given.get(a.arg) or kind_of_annotation(a.annotation)
                  for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}  # fmt: skip
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    kinds = {name: kind for name, kind in parameters.items() if kind}
    assigns = [n for n in ast.walk(function) if isinstance(n, ast.Assign) and len(n.targets) == 1]
    kept: list[str] = []  # alpha = alpha.to(x.dtype)
    for node in sorted(assigns, key=lambda n: n.lineno):
        name, kind = ast.unparse(node.targets[0]), kind_of(node.value, kinds, returns)
        if kind and name in parameters:
            kept += [name] * (kind == parameters[name])
        elif kind and stored.count(name) == 1:
            kinds[name] = kind
    return {k: v for k, v in kinds.items() if k not in parameters or stored.count(k) == kept.count(k)}


def kind_of(node: ast.expr, kinds: Kinds, returns: Callable[[str], str | None]) -> str | None:
    """What an expression gives, if its names and functions tell."""
    if isinstance(node, ast.Name):
        return kinds.get(node.id)
    if isinstance(node, ast.Constant):
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return "float" if number else "str" if isinstance(node.value, str) else None
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
        return kind_of(node.operand, kinds, returns)
    if isinstance(node, ast.BinOp):
        sides = {kind_of(node.left, kinds, returns), kind_of(node.right, kinds, returns)}
        return "Tensor" if "Tensor" in sides else "float" if sides == {"float"} else None
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if isinstance(node.func, ast.Name):
            return returns(called)
        if not isinstance(node.func, ast.Attribute):
            return None
        if isinstance(node.func.value, ast.Name) and (own := kinds.get(node.func.value.id)):
            return own if node.func.attr not in NO_VALUES else None
        return LIBRARIES.get(called.partition(".")[0]) if called not in NO_TENSORS else None
    return None


def truth(test: ast.expr, kinds: Kinds) -> bool | None:
    """Whether a condition on kinds holds; None: not known."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = truth(test.operand, kinds)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        known = [truth(value, kinds) for value in test.values]
        decides = isinstance(test.op, ast.Or)  # one true one decides
        return decides if decides in known else None if None in known else not decides
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance" and len(test.args) == 2:
        of, classes = test.args
        kind = kinds.get(of.id) if isinstance(of, ast.Name) else None
        names = set(ast.unparse(classes).strip("()").replace(" ", "").replace("|", ",").split(",")) - {""}
        if kind and names <= {"Tensor", "torch.Tensor"}:
            return kind == "Tensor"
        if kind and names == NUMBERS:
            return kind == "float"
    return None


def fold(text: str, kinds: Callable[[ast.FunctionDef], Kinds]) -> str:
    """A function's text without what its kinds rule out. kinds: of the names in it, as it is then."""
    while True:
        function = ast.parse(text).body[0]
        if not isinstance(function, ast.FunctionDef):
            return text
        smaller = _once(text, function, kinds(function))
        if smaller == text:
            return text
        text = smaller


def _once(text: str, function: ast.FunctionDef, kinds: Kinds) -> str:
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp) and truth(node, kinds) is None:
            left = [value for value in node.values if truth(value, kinds) is None]
            if len(left) < len(node.values):
                word = " or " if isinstance(node.op, ast.Or) else " and "
                return splice(text, [(node, word.join(ast.get_source_segment(text, value) or "" for value in left))])
        if isinstance(node, ast.Return | ast.Assign) and isinstance(node.value, ast.IfExp):
            chosen = truth(node.value.test, kinds)
            if chosen is not None:
                part = node.value.body if chosen else node.value.orelse
                return splice(text, [(node.value, ast.get_source_segment(text, part) or "")])
        blocks = [getattr(node, part, None) for part in ("body", "orelse")]
        for block in [block for block in blocks if isinstance(block, list)]:
            for inner in block:
                if isinstance(inner, ast.If) and (chosen := truth(inner.test, kinds)) is not None:
                    return _without_if(text, inner, chosen, block[-1].end_lineno)
    return text


def _without_if(text: str, node: ast.If, chosen: bool, block_end: int) -> str:
    """The branch in place of the statement; what follows a branch that returns goes too."""
    lines = text.splitlines()
    first, end = node.lineno - 1, int(node.end_lineno or 0)
    if node.body[0].lineno == node.lineno:  # on one line: not as formatters write it
        return text
    body_end = int(node.body[-1].end_lineno or 0)
    if chosen:
        kept = lines[int(node.test.end_lineno or 0) : body_end]
        if isinstance(node.body[-1], ast.Return | ast.Raise):
            end = block_end
    elif not node.orelse:
        kept = []
    else:
        otherwise = next(i for i in range(body_end, end) if lines[i].strip().startswith(("else:", "elif ")))
        kept = lines[otherwise + 1 : end]
        if lines[otherwise].strip().startswith("elif "):
            own = lines[otherwise].replace("elif ", "if ", 1)
            return "\n".join([*lines[:first], own, *kept, *lines[end:]]) + "\n"
    return "\n".join([*lines[:first], *[line.removeprefix("    ") for line in kept], *lines[end:]]) + "\n"
