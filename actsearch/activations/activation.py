"""The data types of a catalogue entry. The functions stand in the files of their families, the list in catalog.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["elementwise", "channelwise", "stochastic", "weighted"]

Value = Tensor | float
"""The value of a parameter in a call of a function: a number, or a tensor that broadcasts against x."""


@dataclass(frozen=True)
class Param:
    """A parameter of an activation, and the range worth searching.

    default: its value if a spec does not name it. low, high, log: the range that the word `search` stands for, and
    whether it is searched on a logarithmic scale; if low and high are None, the parameter cannot be searched.
    choices: the words or numbers that a parameter without a range may take. learned: whether it is trained with the
    weights unless a spec says otherwise. shared: whether a learned parameter is one number for the layer instead of
    one for each channel. quoted: whether it is printed even at its default, because people speak of the value
    (leaky_relu's slope). least: the smallest value for which the formula has a meaning.
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
        """Whether it is one of many learned numbers that mean nothing alone, such as the heights of a spline."""
        return self.learned and self.low is None


@dataclass(frozen=True)
class Activation:
    """A catalogue entry: one broadcasting function `fn(x, **params)` and the facts about it.

    Parameters may be floats, or tensors that broadcast against x. backward: an optional hand-written backward pass for
    parameters that are tensors, `(grad, x, **params) → (grad_x, {parameter: gradient of x's shape})`. It is faster
    than autograd where many runs are trained at once.

    kind: what an output depends on, and how `fn` is called.
    `elementwise`: an output depends on its own input only.
    `channelwise`: an output depends on all channels at its position. The call is `fn(x, dim, **params)`, where dim is
    the dimension of the channels.
    `stochastic`: `fn(x, training, **params)` draws random numbers if training is true; otherwise it is elementwise and
    deterministic.
    `weighted`: the activation has weights of its own, and `fn(channels, dim, **params)` makes a module.

    width: a function of the parameters that returns how many input channels one output channel takes; None means one.
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
