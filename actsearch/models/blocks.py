"""Helpers that the model functions share: a block of layer, norm and activation, and checks of their arguments."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from actsearch.errors import unknown, whole

LARGEST = 100_000  # of a width or a depth; beyond it torch asks for more memory than there is, or builds for hours
ORDERS = ("norm_activation", "activation_norm")


def check_sizes(**sizes: int) -> None:
    """Raises ActSearchError unless all these sizes (widths, depths, …) are whole numbers of at least 1."""
    for key, value in sizes.items():
        whole(f"model.{key}", value, 1, LARGEST)


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(key, value, known)


def input_width(activation: nn.Module, width: int) -> int:
    """How many input channels an activation needs to return `width` channels.

    Gated pairs and maxout need more than `width`, crelu needs half of it, all others need `width`.
    """
    return getattr(activation, "in_channels", None) or width


def block(
    layer: Callable[[int], nn.Module],
    norm: Callable[[int], nn.Module] | None,
    activation: nn.Module,
    width: int,
    order: str,
) -> list[nn.Module]:
    """The modules of one block: layer → norm → activation (Ioffe & Szegedy 2015), or layer → activation → norm.

    width: channels of the block's output. layer, norm: functions that make the module for a number of channels; a norm
    of None leaves it out. order: one of ORDERS. Raises ActSearchError for another order.
    """
    check_choice("model.order", order, ORDERS)
    wide = input_width(activation, width)
    if norm is None:
        return [layer(wide), activation]
    if order == "norm_activation":
        return [layer(wide), norm(wide), activation]
    return [layer(wide), activation, norm(width)]
