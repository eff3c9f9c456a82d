"""What the nets of this package share: one block of layer, norm and activation, in a chosen order."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from actsearch.errors import unknown, whole

ORDERS = ("norm_activation", "activation_norm")


def check_sizes(**sizes: int) -> None:
    """Widths and depths are whole numbers from 1."""
    for key, value in sizes.items():
        whole(f"model.{key}", value)


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(key, value, known)


def input_width(activation: nn.Module, width: int) -> int:
    """How many channels an activation takes to give `width`: more for gated pairs and maxout, half for crelu."""
    return getattr(activation, "in_channels", None) or width


def block(
    layer: Callable[[int], nn.Module],
    norm: Callable[[int], nn.Module] | None,
    activation: nn.Module,
    width: int,
    order: str,
) -> list[nn.Module]:
    """layer → norm → activation (Ioffe & Szegedy 2015, and the article), or layer → activation → norm.

    width: of what comes out. layer, norm: make the module for a width.
    """
    check_choice("model.order", order, ORDERS)
    wide = input_width(activation, width)
    if norm is None:
        return [layer(wide), activation]
    if order == "norm_activation":
        return [layer(wide), norm(wide), activation]
    return [layer(wide), activation, norm(width)]
