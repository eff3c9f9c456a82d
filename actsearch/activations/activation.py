"""What an activation is: data only. The functions stand in fixed.py, the list in catalog.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["elementwise", "channelwise"]


@dataclass(frozen=True)
class Param:
    """A parameter of an activation and, beside it, the range worth searching.

    default: its value when a spec does not name it. low, high, log: the range that `search` means
    (None: not searchable). choices: for a parameter that is a word. learned: trained with the weights
    unless a spec says otherwise. quoted: printed even at its default, because people speak of the value.
    """

    name: str
    default: float | str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    learned: bool = False
    quoted: bool = False


@dataclass(frozen=True)
class Activation:
    """A catalogue entry: one broadcasting function `fn(x, **params)` and the facts about it.

    Parameters may be floats, or tensors that broadcast against x. backward: optionally its
    backward pass for tensors, `(grad, x, **params) → (grad_x, {parameter: grad of x's shape})`, faster than autograd
    where many runs are trained at once. `kind` is `elementwise`, or
    `channelwise` where an output depends on the other channels (dimension 1) of its input.
    """

    name: str
    fn: Callable[..., Tensor]
    family: str
    formula: str
    source: str
    params: tuple[Param, ...] = ()
    kind: Kind = "elementwise"
    backward: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None
    aliases: tuple[str, ...] = ()

    def param(self, name: str) -> Param | None:
        return next((p for p in self.params if p.name == name), None)
