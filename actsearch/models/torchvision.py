"""Any classifier of torchvision, found by its name, with its activations replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.models.slots import take_slots
from actsearch.swap.net import Only


class AsImages(nn.Module):
    """Repeats the channel of grey images three times, and scales images to `image_size` × `image_size` unless None.

    Input: (N, 1 or 3, H, W). Output: (N, 3, …, …).
    """

    def __init__(self, image_size: int | None) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        if self.image_size is not None:
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear")
        return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def torchvision(
    activation: Callable[..., nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    name: str,
    image_size: int | None = None,
    slots: str = "all",
    only: Only | None = None,
    **keywords: Any,
) -> nn.Module:
    """The net of torchvision.models.get_model(name) with its activations replaced, without pretrained weights.

    in_shape: (1 or 3, height, width). image_size: images are scaled to this height and width first; if None, they keep
    their size. slots: all, calls or stages; only: which activations (see `take_slots`). keywords: further arguments of
    get_model.
    Raises ActSearchError for a name that torchvision does not know, or if it cannot make the net.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known, see="See torchvision.models.list_models().")
    check_images("torchvision", in_shape)
    try:
        net = models.get_model(name, weights=None, num_classes=n_classes, **keywords)
    except (TypeError, ValueError) as error:
        raise ActSearchError(f"torchvision's '{name}' cannot be made: {one_line(error)}") from None
    take_slots(net, activation, slots, only)
    return nn.Sequential(AsImages(image_size), net)


def check_images(model: str, in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 3 or in_shape[0] not in (1, 3):
        raise ActSearchError(
            f"model={model} needs images of 1 or 3 channels; the data have shape {in_shape}. "
            "Choose data=fashion_mnist or data=cifar10."
        )
