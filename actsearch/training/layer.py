"""What a layer of the fused engine is: the values it stands between, its pieces of the rows, what it is bound to.

Every value is one tensor (K, *positions, channels, batch): a batch of features (K, F, B), of sequences
(K, L, C, B), of images (K, H, W, C, B). With the batch last, a product with weights (out, in) fills the lanes
of a CPU whatever the widths are (25 channels: 80 GF/s against 52 with the batch first), a window of a
convolution is a view, and what has no weights does not care.

A layer is bound to its tensors once and then called; forward and backward write into memory that is there. What a
forward pass keeps besides, the backward pass frees: between steps other programs use the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actsearch.activations.spec import Spec


class NotFusable(Exception):
    """Why a model trains one run after the other."""


@dataclass
class Value:
    """What flows between layers. shape: one example's, as the net has it: (F,), (C, L) or (C, H, W)."""

    shape: tuple[int, ...]
    n_consumers: int = 0
    data: Tensor = field(init=False)
    grad: Tensor | None = None

    @property
    def fused_shape(self) -> tuple[int, ...]:
        """(*positions, channels)."""
        return (*self.shape[1:], self.shape[0])


@dataclass(frozen=True)
class Segment:
    """A parameter or buffer of the net as a piece of each run's row.

    name: in the net's state_dict. shape: in the row. order: of the net's elements there, None if it is theirs.
    kind: weight, learned (of an activation: no weight decay) or buffer (not trained).
    """

    name: str
    shape: tuple[int, ...]
    order: Tensor | None = None
    kind: str = "weight"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self, tensor: Tensor) -> Tensor:
        flat = tensor.detach().reshape(-1)
        return flat if self.order is None else flat[self.order]

    def write(self, flat: Tensor, shape: torch.Size) -> Tensor:
        """The other way: the net's own tensor from its piece of a row."""
        if self.order is None:
            return flat.clone().view(shape)
        return torch.empty_like(flat).index_copy_(0, self.order, flat).view(shape)


@dataclass
class LayerCall:
    """A layer of the net before it is bound: what it is, on which values, with which segments."""

    layer: type[Layer]
    inputs: list[Value]
    out: Value
    module: Any = None
    name: str = ""
    segments: list[Segment] = field(default_factory=list)
    place: int = 0  # of an activation among the net's
    width: int = 1  # of its learned parameters: one per channel, or one in all


@dataclass
class Binding:
    """What a layer is bound to. of: (values, gradients) of a segment, each (K, *segment.shape); gradients may be None.
    keep_mask: of an example's shape and p, dropout's factors (K, *positions, C, B), each call the next draw.
    """

    n_runs: int
    batch: int
    specs: Sequence[Sequence[Spec]]
    of: Callable[[Segment], tuple[Tensor, Tensor]]
    keep_mask: Callable[[tuple[int, ...], float], Tensor]
    vectorised: bool


class Layer:
    """in_place: its backward may write its input's gradient over its output's."""

    in_place = False

    @classmethod
    def segments(cls, name: str, module: Any, shape: tuple[int, ...], order: Tensor | None) -> list[Segment]:
        """What it keeps in the rows. shape: of an input. order: of its features, None if it is the net's own.

        Raises NotFusable for what this layer has no fused form of.
        """
        if order is not None:
            raise NotFusable(f"{name}: something but a linear layer stands behind a flatten of several channels")
        return []

    @classmethod
    def bind(cls, node: LayerCall, bound: Binding) -> Layer:
        return cls(node, bound)

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        self.x, self.y = node.inputs[0].data, node.out.data
        self.gx: Tensor | None = None  # set before the first backward; None: the input is the data
        self.adds: list[Any] = []  # (sum, gx) where other layers have the same input
        self.gy: Tensor = node.out.grad  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, training: bool) -> None:
        raise NotImplementedError

    def backward(self) -> None:
        raise NotImplementedError
