"""Initial weights: every activation gets the same random draws from a seed, scaled by its gain."""

from __future__ import annotations

import math

import torch
from torch import nn

from actsearch.activations.spec import ActivationModule, gain

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialise(net: nn.Module, init: str, seed: int) -> None:
    """Draws all weights of `net` from `seed`, in place.

    init: how they are drawn, one of three.
    torch: PyTorch's default, each layer's own reset_parameters.
    kaiming_relu: N(0, 2 / fan_in) for every activation (He et al. 2015), biases 0.
    gain: N(0, g² / fan_in) and biases 0, where g is the gain of the activation registered before the layer (1 if there
    is none, or if a norm stands between), so that signals keep their size with every activation.
    In all three, norms, layers of other types and weights inside activations keep PyTorch's default.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it would seed the accelerators too
        for module in net.modules():
            # in nn.MultiheadAttention and nn.Transformer the name begins with an underscore
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    if init == "torch":
        return
    generator = torch.Generator().manual_seed(seed)
    factor = math.sqrt(2.0) if init == "kaiming_relu" else 1.0
    inside = {id(m) for a in net.modules() if isinstance(a, ActivationModule) for m in a.modules() if m is not a}
    for module in net.modules():
        if id(module) in inside:  # an activation's own weights
            continue
        if isinstance(module, ActivationModule) and init == "gain":
            factor = gain(module.spec)
        elif isinstance(module, NORMS) and init == "gain":
            factor = 1.0
        elif isinstance(module, WEIGHT_LAYERS):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=factor / math.sqrt(fan_in), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
