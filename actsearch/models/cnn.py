"""Small convolutional nets for sequences and images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from actsearch.errors import ActSearchError
from actsearch.models.blocks import block, check_choice, check_sizes


def cnn1d(
    activation: Callable[[int], nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    width: int = 25,
    norm: str = "none",
    order: str = "norm_activation",
) -> nn.Module:
    """The convolutional net of the MNIST-1D paper (Greydanus & Kobak 2024).

    It has three convolutions with kernels 5, 3, 3 and stride 2, and one linear layer. in_shape: (length,), (channels,
    length), or an image (channels, height, width), whose rows are joined into one sequence. norm: none or batch.
    """
    check_choice("model.norm", norm, ("none", "batch"))
    check_sizes(width=width)
    channels = in_shape[0] if len(in_shape) > 1 else 1
    length = math.prod(in_shape) // channels
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (channels, length))]
    for kernel in (5, 3, 3):
        conv = partial(nn.Conv1d, channels, kernel_size=kernel, stride=2, padding=1)
        layers += block(conv, nn.BatchNorm1d if norm == "batch" else None, activation(width), width, order)
        channels, length = width, (length + 2 - kernel) // 2 + 1
        if length < 1:
            raise ActSearchError(f"model=cnn1d: inputs of shape {in_shape} are too short for three strides of 2.")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, n_classes))


def cnn2d(
    activation: Callable[[int], nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    width: int = 16,
    depth: int = 2,
    norm: str = "none",
    order: str = "norm_activation",
) -> nn.Module:
    """A convolutional net for images: `depth` blocks and one linear layer.

    A block is a 3×3 convolution, norm and activation, and 2×2 max pooling; each block has twice the channels of the
    one before. in_shape: (channels, height, width). width: channels of the first block. norm: none or batch.
    """
    check_choice("model.norm", norm, ("none", "batch"))
    check_sizes(width=width, depth=depth)
    if len(in_shape) != 3 or min(in_shape[1:]) < 2**depth:
        raise ActSearchError(
            f"model=cnn2d with model.depth={depth} needs images (channels, height, width) of at least "
            f"{2**depth} × {2**depth}, but the data have shape {in_shape}. Choose model=mlp or model=cnn1d."
        )
    channels, height, breadth = in_shape
    layers: list[nn.Module] = []
    for level in range(depth):
        out = width * 2**level
        conv = partial(nn.Conv2d, channels, kernel_size=3, padding=1)
        layers += block(conv, nn.BatchNorm2d if norm == "batch" else None, activation(out), out, order)
        layers.append(nn.MaxPool2d(2))
        channels, height, breadth = out, height // 2, breadth // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * breadth, n_classes))
