"""What the nets of this package share: one block of layer, norm and activation, in a chosen order."""

from __future__ import annotations

from torch import nn

from actsearch.errors import ActSearchError, unknown

ORDERS = ("norm_activation", "activation_norm")


def check_sizes(**sizes: int) -> None:
    """Widths and depths are whole numbers from 1."""
    for key, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ActSearchError(f"model.{key}={value}: write a whole number, at least 1.")


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(key, value, known)


def block(layer: nn.Module, norm: nn.Module | None, activation: nn.Module, order: str) -> list[nn.Module]:
    """layer → norm → activation (Ioffe & Szegedy 2015, and the article), or layer → activation → norm."""
    check_choice("model.order", order, ORDERS)
    if norm is None:
        return [layer, activation]
    return [layer, norm, activation] if order == "norm_activation" else [layer, activation, norm]
