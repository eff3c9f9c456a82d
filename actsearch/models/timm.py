"""Any net of the package timm, found by its name, with its activations replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.models.slots import take_slots
from actsearch.models.torchvision import AsImages, check_images
from actsearch.swap.net import Only


def timm(
    activation: Callable[..., nn.Module],
    in_shape: tuple[int, ...],
    n_classes: int,
    name: str,
    image_size: int | None = None,
    slots: str = "all",
    only: Only | None = None,
    **keywords: Any,
) -> nn.Module:
    """The net of timm.create_model(name) with its activations replaced. Weights are random; nothing is downloaded.

    in_shape: (1 or 3, height, width). image_size: images are scaled to this height and width first; if None, they keep
    their size. A net with a fixed input size, such as a vision transformer, is made for that size. slots: all, calls or
    stages; only: which activations (see `take_slots`). keywords: further arguments of create_model.
    Raises ActSearchError if timm is not installed, does not know the name, or cannot make the net.
    """
    try:
        import timm as library
    except ImportError:
        raise ActSearchError("model=timm needs the package timm. Write pip install 'actsearch[timm]'.") from None
    if name not in library.list_models():
        raise unknown("timm model", name, library.list_models(), see="See timm.list_models('*resnet*').")
    check_images("timm", in_shape)
    if keywords.get("pretrained"):
        raise ActSearchError(
            "model.pretrained=true: model=timm makes nets with random weights. For a pretrained one give a function of "
            "your own that loads it, model._target_=my_net.my_net, with recipe.init=keep."
        )
    defaults = library.get_pretrained_cfg(name, allow_unregistered=False)
    if defaults is not None and defaults.fixed_input_size:
        height, width = (image_size, image_size) if image_size is not None else in_shape[1:]
        keywords = {"img_size": (height, width), **keywords}
    try:
        net = library.create_model(name, num_classes=n_classes, **keywords)
    except Exception as error:  # each family of timm's nets raises exceptions of its own
        raise ActSearchError(f"timm's '{name}' cannot be made: {one_line(error)}") from None
    take_slots(net, activation, slots, only)
    return nn.Sequential(AsImages(image_size), net)
