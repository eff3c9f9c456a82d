"""Initial weights: the same base draws for every activation, scaled by its gain."""

from __future__ import annotations

import math

import torch
from torch import nn

from actsearch.activations.spec import ActivationModule, gain

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialise(net: nn.Module, init: str, seed: int) -> None:
    """Draws all weights of `net` anew from `seed`, in place.

    torch: each layer's own reset_parameters, PyTorch's default.
    kaiming_relu: N(0, 2 / fan_in) whatever the activation (He et al. 2015), biases 0.
    gain: N(0, g² / fan_in), g the gain of the activation registered before the layer (1 before the first
    one, and after a norm), so that signals keep their size for each activation alike; biases 0.
    Norms, other layers, and weights inside activations keep torch's own in all three.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it would seed the accelerators too
        for module in net.modules():
            # nn.MultiheadAttention and nn.Transformer have the underscore
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
