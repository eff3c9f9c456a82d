"""What an activation is: data only. The functions stand in the files of their families, the list in catalog.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["elementwise", "channelwise", "stochastic", "weighted"]

Value = Tensor | float
"""A parameter in a function: a number, or a tensor that broadcasts against x."""


@dataclass(frozen=True)
class Param:
    """A parameter of an activation and, beside it, the range worth searching.

    default: its value when a spec does not name it. low, high, log: the range that `search` means
    (None: not searchable). choices: for a parameter that is one of some words or numbers. learned: trained with the
    weights unless a spec says otherwise. shared: learned, it is one number of the layer, not one per channel.
    quoted: printed even at its default, because people speak of the value. least: below it the formula has no meaning.
    """

    name: str
    default: float | str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str | float, ...] = ()
    learned: bool = False
    shared: bool = False
    quoted: bool = False
    least: float | None = None

    @property
    def anonymous(self) -> bool:
        """Whether it is one of the many numbers that draw a shape: learned, and of no meaning by itself."""
        return self.learned and self.low is None


@dataclass(frozen=True)
class Activation:
    """A catalogue entry: one broadcasting function `fn(x, **params)` and the facts about it.

    Parameters may be floats, or tensors that broadcast against x. backward: optionally its
    backward pass for tensors, `(grad, x, **params) → (grad_x, {parameter: grad of x's shape})`, faster than autograd
    where many runs are trained at once.

    kind: `elementwise`: an output depends on its own input. `channelwise`: on the other channels of it too;
    `fn(x, dim, **params)`, dim the channels' dimension. `stochastic`: `fn(x, training, **params)` draws where training
    is true, and is elementwise and deterministic where it is false. `weighted`: it has weights of its own;
    `fn(channels, dim, **params)` makes a module. width: input channels per output channel, from the parameters; None:
    one.
    """

    name: str
    fn: Callable[..., Any]
    family: str
    formula: str
    source: str
    params: tuple[Param, ...] = ()
    kind: Kind = "elementwise"
    backward: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None
    width: Callable[..., float] | None = None
    aliases: tuple[str, ...] = ()

    def param(self, name: str) -> Param | None:
        return next((p for p in self.params if p.name == name), None)

    @property
    def fusable(self) -> bool:
        """Whether runs with it can share a program with runs of other activations."""
        return self.kind in ("elementwise", "channelwise") and self.width is None
