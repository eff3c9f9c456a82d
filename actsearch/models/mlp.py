"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from actsearch.models.blocks import block, check_choice, check_sizes


def mlp(
    activation: Callable[[int], nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    width: int = 100,
    depth: int = 3,
    norm: str = "none",
    order: str = "norm_activation",
    dropout: float = 0.0,
) -> nn.Module:
    """A multi-layer perceptron with `depth` hidden layers of `width` units.

    in_shape: any shape; inputs are flattened. norm: none, batch or layer. dropout: the probability behind each block.
    """
    check_choice("model.norm", norm, ("none", "batch", "layer"))
    check_sizes(width=width, depth=depth)
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(in_shape)
    norms = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm]
    for _ in range(depth):
        layers += block(partial(nn.Linear, size), norms, activation(width), width, order)
        if dropout:
            layers.append(nn.Dropout(dropout))
        size = width
    return nn.Sequential(*layers, nn.Linear(size, n_classes))
