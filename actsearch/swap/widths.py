"""Finds how many channels a value has and in which dimension, if that follows from a net's structure."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase  # batch and instance norms
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from actsearch.swap.functions import METHODS, function_name

Width = tuple[int, int]  # channels, dimension: 1 behind a convolution, -1 behind a linear layer

KEEPING = (
    nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d,
)  # fmt: skip
KEEPING_CALLS = {
    F.dropout, F.dropout2d, F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d, F.interpolate, "contiguous", "clone", "float", "to", "detach",
}  # fmt: skip
COMBINING = {
    operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add, torch.sub,
    torch.mul, "add", "add_", "mul", "mul_", "sub",
}  # fmt: skip


def runs_in_sequence(module: nn.Module) -> bool:
    return getattr(type(module), "forward", None) is nn.Sequential.forward  # a scripted module's class has no forward


def width_after(module: nn.Module, before: Width | None) -> Width | None:
    """The width of a module's output, or None if it is not certain. before: the width of its input."""
    if isinstance(module, _ConvNd):
        return module.out_channels, 1
    if isinstance(module, nn.Linear):
        return module.out_features, -1
    if isinstance(module, _NormBase):
        return (module.num_features, 1) if module.num_features else before  # 0 if it is lazy
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    if type(module) is nn.LayerNorm:  # timm's and torchvision's subclasses may norm dimension 1
        return module.normalized_shape[-1], -1
    if isinstance(module, _DropoutNd) or type(module) in KEEPING or type(module).__module__ == nn.ReLU.__module__:
        return None if isinstance(module, nn.MultiheadAttention | nn.GLU) else before
    if runs_in_sequence(module):
        for child in module.children():
            before = width_after(child, before)
        return before
    return None


def widths_in(graph: fx.Graph, module: nn.Module) -> dict[fx.Node, Width | None]:
    """The width of each value in a module's trace, or None if it is not certain."""
    widths: dict[fx.Node, Width | None] = {}
    for n in graph.nodes:
        inputs = [widths[a] for a in n.all_input_nodes]
        first = inputs[0] if inputs else None
        if n.op == "call_module" and n.target in vars(module):  # a function kept as an attribute
            widths[n] = first
        elif n.op == "call_module":
            widths[n] = width_after(module.get_submodule(str(n.target)), first)
        elif n.target in KEEPING_CALLS or (n.op == "call_method" and n.target in METHODS) or function_name(n.target):
            widths[n] = first
        elif n.target in COMBINING:  # broadcasting leaves a width above 1 as it is
            known = {width for width in inputs if width is not None and width[0] > 1}
            widths[n] = known.pop() if len(known) == 1 else None
        elif n.target is torch.cat:
            widths[n] = _joined(n, [widths[a] for a in n.all_input_nodes])
        else:
            widths[n] = None
    return widths


def _joined(n: fx.Node, inputs: list[Any]) -> Width | None:
    dim: Any = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else 0)
    if all(width is not None and width[1] == dim for width in inputs):
        return sum(width[0] for width in inputs), dim
    return None
