"""The interface of a layer of the fused engine: its values, its segments of the rows, its binding to memory.

Every value is one tensor (K, *positions, channels, batch): features are (K, F, B), sequences (K, L, C, B), images
(K, H, W, C, B). The batch is the last dimension for two reasons. A product with weights (out, in) then fills the SIMD
lanes of a CPU whatever the widths are (25 channels: 80 GF/s against 52 with the batch first), and a window of a
convolution is a view. For layers without weights the order makes no difference.

A layer is bound to its tensors once and then called often; forward and backward passes write into memory that exists
already. What else a forward pass keeps is freed by the backward pass, because other programs use the same memory
between steps.
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
    """Raised if a model has no fused form, with the reason. Its runs then train one by one."""


@dataclass
class Value:
    """A value that one layer returns and others take.

    shape: of one example in the net's own layout: (F,), (C, L) or (C, H, W). n_consumers: how many layers take it.
    data, grad: the value of a whole program and its gradient, (K, *fused_shape, batch).
    """

    shape: tuple[int, ...]
    n_consumers: int = 0
    data: Tensor = field(init=False)
    grad: Tensor | None = None

    @property
    def fused_shape(self) -> tuple[int, ...]:
        """The shape of one example in the engine's layout: (*positions, channels)."""
        return (*self.shape[1:], self.shape[0])


@dataclass(frozen=True)
class Segment:
    """A piece of each run's row that holds one parameter or buffer of the net.

    name: its name in the net's state_dict. shape: its shape in the row. order: for each element of the row the index of
    the net's element that stands there; None if the order is the same. kind: weight, learned (a parameter of an
    activation, without weight decay) or buffer (not trained).
    """

    name: str
    shape: tuple[int, ...]
    order: Tensor | None = None
    kind: str = "weight"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self, tensor: Tensor) -> Tensor:
        """The net's own tensor as a piece of a row, (size,)."""
        flat = tensor.detach().reshape(-1)
        return flat if self.order is None else flat[self.order]

    def write(self, flat: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `read`: the net's own tensor, of this shape, from its piece of a row."""
        if self.order is None:
            return flat.clone().view(shape)
        return torch.empty_like(flat).index_copy_(0, self.order, flat).view(shape)


@dataclass
class LayerCall:
    """A layer of the net before it is bound to memory.

    layer: its class in the fused engine. inputs, out: the values that it takes and returns. module: the net's own
    module, or a function of one tensor. name: its name in the net. segments: its pieces of the rows.
    """

    layer: type[Layer]
    inputs: list[Value]
    out: Value
    module: Any = None
    name: str = ""
    segments: list[Segment] = field(default_factory=list)
    place: int = 0  # an activation's slot
    width: int = 1  # the size of an activation's learned parameters: one number per channel, or one in all


@dataclass
class Binding:
    """What a program provides for its layers.

    n_runs: K. batch: the batch size. specs: the activations of each run. of: a function that returns (values,
    gradients) of a segment, each (K, *segment.shape); the gradients of a buffer are not used. keep_mask: a function of
    an example's shape and p that draws dropout's factors (K, *positions, C, B). vectorised: see `Fused`.
    """

    n_runs: int
    batch: int
    specs: Sequence[Sequence[Spec]]
    of: Callable[[Segment], tuple[Tensor, Tensor]]
    keep_mask: Callable[[tuple[int, ...], float], Tensor]
    vectorised: bool


class Layer:
    """A layer that is bound to its memory, for K runs at once.

    in_place: whether the backward pass may overwrite the gradient of the output with that of the input. x, y: the
    input and the output. gx, gy: their gradients.
    """

    in_place = False

    @classmethod
    def segments(cls, name: str, module: Any, shape: tuple[int, ...], order: Tensor | None) -> list[Segment]:
        """The segments of this layer in the rows.

        name, module: of the layer in the net. shape: of its input, for one example. order: the order of the input's
        features, None if it is the net's own. Raises NotFusable if the module has a setting without a fused form.
        """
        if order is not None:
            raise NotFusable(f"{name}: behind a flatten of several channels only a linear layer has a fused form")
        return []

    @classmethod
    def bind(cls, node: LayerCall, bound: Binding) -> Layer:
        return cls(node, bound)

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        self.x, self.y = node.inputs[0].data, node.out.data
        self.gx: Tensor | None = None  # set before the first backward pass; stays None if the input is the data
        self.adds: list[Any] = []  # pairs (sum, gx), if other layers take the same input
        self.gy: Tensor = node.out.grad  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, training: bool) -> None:
        raise NotImplementedError

    def backward(self) -> None:
        raise NotImplementedError
