"""Initial weights: every activation gets the same random draws from a seed, scaled by its gain."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from actsearch.activations.spec import ActivationModule, gain
from actsearch.errors import ActSearchError, one_line

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialise(net: nn.Module, init: str, seed: int) -> None:
    """Draws the weights of `net` that are trained from `seed`, in place.

    init: how they are drawn, one of four.
    torch: PyTorch's default, each layer's own reset_parameters.
    kaiming_relu: N(0, 2 / fan_in) for every activation (He et al. 2015), biases 0.
    gain: N(0, g² / fan_in) and biases 0, where g is the gain of the activation registered before the layer (1 if there
    is none, or if a norm stands between), so that signals keep their size with every activation.
    keep: not at all; the net keeps the weights that it has.
    In the first three, norms, layers of other types and weights inside activations get PyTorch's default, and what is
    frozen keeps its weights. A layer's weight may be parametrised, for instance by weight_norm.
    """
    if init == "keep":
        return
    frozen = {id(m) for m in net.modules() if (own := list(m.parameters(False))) and not any(map(_is_trained, own))}
    partly = [(p, p.detach().clone()) for p in net.parameters() if not _is_trained(p)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it would seed the accelerators too
        for module in net.modules():
            # in nn.MultiheadAttention and nn.Transformer the name begins with an underscore
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset) and id(module) not in frozen:
                reset()
                if isinstance(module, WEIGHT_LAYERS) and not isinstance(module.weight, nn.Parameter):
                    weight = torch.empty_like(module.weight)
                    _set_weight(module, nn.init.kaiming_uniform_(weight, a=math.sqrt(5)))  # as reset_parameters does
    if init != "torch":
        _draw(net, init, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for p, before in partly:
            p.copy_(before)


def _draw(net: nn.Module, init: str, generator: torch.Generator) -> None:
    """Draws the weights of linear layers and convolutions from normal distributions."""
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
            weight = torch.empty_like(module.weight).normal_(0.0, factor / math.sqrt(fan_in), generator=generator)
            _set_weight(module, weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _is_trained(p: nn.Parameter) -> bool:
    return p.requires_grad


def _set_weight(module: nn.Module, weight: Tensor) -> None:
    """Sets the weight of a layer, through its parametrisation if it has one.

    Raises ActSearchError if the layer computes its weight in a way that cannot be inverted.
    """
    with torch.no_grad():
        if isinstance(module.weight, nn.Parameter):
            module.weight.copy_(weight)
            return
        if parametrize.is_parametrized(module, "weight"):
            try:
                module.weight = weight
            except (NotImplementedError, RuntimeError) as error:
                raise ActSearchError(f"{_COMPUTED.format(type(module).__name__)} ({one_line(error)})") from None
            return
        for hook in module._forward_pre_hooks.values():  # the older weight_norm and spectral_norm
            if isinstance(hook, WeightNorm):
                module.weight_v.copy_(weight)
                module.weight_g.copy_(torch.norm_except_dim(weight, 2, hook.dim))
                module.weight = hook.compute_weight(module)
                return
            if isinstance(hook, SpectralNorm):
                module.weight_orig.copy_(weight)
                return
    raise ActSearchError(_COMPUTED.format(type(module).__name__))


_COMPUTED = "recipe.init: a layer {} computes its weight and cannot be given another. Write recipe.init=keep."
