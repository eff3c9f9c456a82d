"""Inputs of a net: one tensor, or several, in a tuple or under names. Their first dimension is that of the examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def each(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """The inputs with `function` applied to each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, tuple):
        return tuple(map(function, x))
    return {name: function(part) for name, part in x.items()}


def tensors(x: Inputs) -> list[Tensor]:
    """The tensors of these inputs. The first one counts where only one can: for the shape, the device, the tokens."""
    return [x] if isinstance(x, Tensor) else list(x if isinstance(x, tuple) else x.values())


def examples(x: Inputs, which: Tensor | slice) -> Inputs:
    """Some of the examples, by their indices or as a slice, in memory of their own: a net may write into its input."""
    return each(lambda part: part[which].clone() if isinstance(which, slice) else part[which], x)


def count(x: Inputs) -> int:
    """The number of examples."""
    return len(tensors(x)[0])


def shape_of(x: Inputs) -> tuple[int, ...]:
    """The shape of one example; of several inputs, of the first."""
    return tuple(tensors(x)[0].shape[1:])


def to(x: Inputs, device: torch.device) -> Inputs:
    return each(lambda part: part.to(device), x)


def device_of(x: Inputs) -> torch.device:
    return tensors(x)[0].device
