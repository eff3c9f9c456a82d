"""Initial weights: every activation gets the same random draws from a seed, scaled by its gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from actsearch.activations.spec import ActivationModule, gain
from actsearch.errors import ActSearchError, one_line

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_COUNT = (ActivationModule, *NORMS, *WEIGHT_LAYERS)


Before = Mapping[str, str | None]
"""For each weight layer the activation whose outputs it sees, both by their names in the net; None if there is none."""


def activation_before(net: nn.Module, call: Callable[[nn.Module], object]) -> Before:
    """The activation before each weight layer, in the order in which `call`, which calls the net, computes them.

    A layer behind a norm, or at the start, has none. Of layers that are not called as modules, such as those of torch's
    attention, the order in the net counts.
    """
    names: dict[nn.Module, str] = {module: name for name, module in net.named_modules() if isinstance(module, _COUNT)}
    inside = {m for a in net.modules() if isinstance(a, ActivationModule) for m in a.modules() if m is not a}
    found = _before([m for m in names if m not in inside], names)
    called: list[nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda m, _: called.append(m)) for m in names if m not in inside]
    try:
        call(net)
    finally:
        for hook in hooks:
            hook.remove()
    return {**found, **_before(called, names)}


def _before(order: Sequence[nn.Module], names: Mapping[nn.Module, str]) -> dict[str, str | None]:
    found, last = dict[str, str | None](), None
    for module in order:
        if isinstance(module, ActivationModule):
            last = names[module]
        elif isinstance(module, NORMS):
            last = None
        else:
            found.setdefault(names[module], last)
    return found


def initialise(net: nn.Module, init: str, seed: int, before: Before) -> None:
    """Draws the weights of `net` that are trained from `seed`, in place.

    before: see `activation_before`. init: how they are drawn, one of four.
    torch: PyTorch's default, each layer's own reset_parameters.
    kaiming_relu: N(0, 2 / fan_in) for every activation (He et al. 2015), biases 0.
    gain: N(0, g² / fan_in) and biases 0, where g is the gain of the activation before the layer, or 1, so that signals
    keep their size with every activation.
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
        _draw(net, init, torch.Generator().manual_seed(seed), before)
    with torch.no_grad():
        for p, numbers in partly:
            p.copy_(numbers)


def _draw(net: nn.Module, init: str, generator: torch.Generator, before: Before) -> None:
    """Draws the weights of linear layers and convolutions from normal distributions."""
    modules = dict(net.named_modules())
    inside = {m for a in net.modules() if isinstance(a, ActivationModule) for m in a.modules() if m is not a}
    for name, module in modules.items():
        if isinstance(module, WEIGHT_LAYERS) and module not in inside:
            factor = math.sqrt(2.0) if init == "kaiming_relu" else 1.0
            activation = modules.get(before.get(name) or "")
            if init == "gain" and isinstance(activation, ActivationModule):
                factor = gain(activation.spec)
            fan_in = module.weight[0].numel()
            weight = torch.empty_like(module.weight).normal_(0.0, factor / math.sqrt(fan_in), generator=generator)
            _set_weight(module, weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _is_trained(p: nn.Parameter) -> bool:
    return p.requires_grad


def _set_weight(module: Any, weight: Tensor) -> None:
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
