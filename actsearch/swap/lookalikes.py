"""Calls that may be a hand-written activation, or something else, which only their author can tell: clamp(min=0)."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

COMPARING = {
    operator.gt, operator.ge, operator.lt, operator.le, torch.gt, torch.ge, torch.lt, torch.le, "gt", "ge", "lt", "le",
}  # fmt: skip
PRODUCTS = {operator.mul, torch.mul, "mul"}
CASTS = {"float", "to", "type_as", "half", "double"}
CLAMPS = {torch.clamp, torch.clip, torch.clamp_min, "clamp", "clip", "clamp_", "clip_", "clamp_min", "clamp_min_"}
LARGER = {torch.maximum, torch.max, "maximum", "max"}
CURVES = {"sin", "cos", "atan", "arctan", "erf"}
ZEROS = {torch.zeros_like, "new_zeros", torch.zeros}


def curve(n: fx.Node) -> str | None:
    """The form of a call that is an activation if it stands where hidden activations do, or None: sin(x)."""
    name = (n.target if n.op == "call_method" else getattr(n.target, "__name__", "")).strip("_")
    return f"{name}(x)" if n.op in ("call_function", "call_method") and name in CURVES else None


def looks_like(n: fx.Node) -> str | None:
    """The form of a call that may be a relu or leaky relu, or None: clamp(min=0), maximum(x, 0), where(x > 0, x, …)."""
    if n.target in PRODUCTS and len(n.args) == 2:
        for x, factor in (n.args, n.args[::-1]):
            test = factor.args[0] if isinstance(factor, fx.Node) and factor.target in CASTS else factor
            if isinstance(test, fx.Node) and test.target in COMPARING and test.args[0] is x:
                return "x * (x > 0)"
    if n.target in CLAMPS:
        low: Any = n.kwargs.get("min", n.args[1] if len(n.args) > 1 else None)
        return "clamp(min=0)" if type(low) in (int, float) and low == 0 else None
    if n.target in LARGER:
        return "maximum(x, 0)" if any(a.target in ZEROS for a in n.all_input_nodes) else None
    if n.target in (torch.where, "where") and len(n.args) == 3:
        test, *values = n.args if n.target is torch.where else (n.args[1], n.args[0], n.args[2])
        if isinstance(test, fx.Node) and test.target in COMPARING and test.args[0] in values and test.args[1] == 0:
            return "where(x > 0, x, …)"
    return None
