"""Diagnostics of a net during training: dead units, saturated inputs, statistics of outputs, gradient norms.

This module knows tensors and activation modules, but not Optuna, MLflow or processes. `statistics_of` is the only
definition of the numbers: the plain loop (`diagnose`) and the fused programs (training/fused.py) both call it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule
from actsearch.data.inputs import Inputs, device_of
from actsearch.models.model import forward

DEAD = 1e-6  # a unit is dead if its slope |f'(z)| is below this for every example of the probe, at all positions
SATURATED = 0.01  # an input is saturated if |f'(z)| is below this
MOST_PROBES = 5  # diagnostics per training: enough to see a trend, and under 1 % of the time
MOST_EXAMPLES = 256  # validation examples in a probe, at most


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of a net at one step, measured on a batch of validation examples in eval mode.

    dead: the share of units (channels) that are dead. saturated: the share of inputs that are saturated. output_mean,
    output_std, output_max (the largest |output|): over all examples, units and positions. Each of these lists has one
    number for each activation slot, in order of slots. All five are NaN for a slot that the net does not use; dead and
    saturated are also NaN where the slope is not defined, as for an activation whose output depends on several inputs.
    grad_norm: one number for each parameter of 2 or more dimensions, in the net's own order: the norm of its gradient
    in the last training step as the optimizer got it, that is, after clipping.
    """

    dead: list[float]
    saturated: list[float]
    output_mean: list[float]
    output_std: list[float]
    output_max: list[float]
    grad_norm: list[float]


def probe_rungs(rungs: Sequence[int]) -> set[int]:
    """The rungs at which diagnostics are measured: at most 5, evenly spaced, always the first and the last."""
    last, parts = len(rungs) - 1, MOST_PROBES - 1
    return {rungs[round(i * last / parts)] for i in range(MOST_PROBES)}


def probe_size(batch_size: int, n_validation: int) -> int:
    """How many validation examples diagnostics are measured on. They are the first ones of the validation set."""
    return min(batch_size, MOST_EXAMPLES, n_validation)


def statistics_of(outputs: Tensor, slopes: Tensor, channel: int) -> Tensor:
    """The statistics of one slot in K nets, (5, K): dead, saturated, output_mean, output_std, output_max.

    outputs: f(z), slopes: f'(z), both of shape (K, …) with the channels in dimension `channel`.
    """
    inner = tuple(range(1, outputs.dim()))
    channel %= outputs.dim()
    slopes = slopes.abs()
    steepest = slopes.amax(tuple(d for d in inner if d != channel))  # the largest slope of each unit: (K, C)
    dead = (steepest < DEAD).to(outputs.dtype).mean(1)
    saturated = (slopes < SATURATED).to(outputs.dtype).mean(inner)
    unknown = steepest.isnan().any(1)
    variance, mean = torch.var_mean(outputs, inner, correction=0)
    largest = outputs.abs().amax(inner)
    return torch.stack(
        [dead.masked_fill(unknown, math.nan), saturated.masked_fill(unknown, math.nan), mean, variance.sqrt(), largest]
    )


def collect(slots: Mapping[int, Tensor], grad_norms: Sequence[Tensor]) -> list[Diagnostics]:
    """The Diagnostics of each of K nets.

    slots: for each slot's number what `statistics_of` returned, (5, K). grad_norms: for each weight layer, (K,).
    """
    norms = torch.stack(list(grad_norms), -1)
    numbers = norms.new_full((5, len(norms), 1 + max(slots, default=-1)), math.nan)
    for place, five in slots.items():
        numbers[..., place] = five
    return [Diagnostics(*lists) for lists in zip(*numbers.tolist(), norms.tolist(), strict=True)]


def weight_layers(net: nn.Module) -> list[str]:
    """The names of the weights whose gradient norms are measured: the parameters of 2 or more dimensions."""
    return [name for name, p in net.named_parameters() if p.dim() >= 2]


def diagnose(net: nn.Module, x: Inputs) -> Diagnostics:
    """The Diagnostics of one net, which is in eval mode, on examples x: (n, …).

    Leaves the net's mode, running statistics and gradients and the global random state unchanged. If an activation
    module is called several times, its last call counts.
    """
    slots: dict[int, Tensor] = {}
    device = device_of(x)

    def look(module: nn.Module, given: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
        # at once, not after the forward pass, because a net may change an output in place (a residual +=)
        (z,) = (*given, *keywords.values())
        if isinstance(module, ActivationModule) and z.dim() > 1:  # an input of one dimension has no channels
            slots[module.place] = statistics_of(output[None], _slopes(module, z)[None], 2 if module.dim == 1 else -1)

    modules = [module for module in net.modules() if isinstance(module, ActivationModule)]
    hooks = [module.register_forward_hook(look, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            forward(net, x)
            parameters = dict(net.named_parameters())
            weights = [parameters[name] for name in weight_layers(net)]
            norms = [p.new_full((), math.nan) if p.grad is None else p.grad.norm() for p in weights]
            (found,) = collect(slots, [norm[None] for norm in norms])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _slopes(module: ActivationModule, z: Tensor) -> Tensor:
    """f'(z) for each element of z; NaN if an output of the activation depends on several inputs."""
    if module.spec.activation.kind not in ("elementwise", "stochastic"):
        return torch.full_like(z, math.nan)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(module.forward(z).sum(), z)
    return slopes


def mean_diagnostics(runs: Sequence[Diagnostics | None]) -> Diagnostics | None:
    """The mean of each number over the runs of one candidate. Runs without diagnostics (None) are left out.

    None if no run has any.
    """
    there = [run for run in runs if run is not None]
    if not there:
        return None
    lists = [zip(*(getattr(run, field.name) for run in there), strict=True) for field in fields(Diagnostics)]
    return Diagnostics(*([sum(values) / len(there) for values in numbers] for numbers in lists))


def entry(step: int, found: Diagnostics) -> dict[str, Any]:
    """Diagnostics as a dictionary, in the form in which the study stores them."""
    return {"step": step, **asdict(found)}


def mean_entries(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """For each step the mean over the runs of one candidate. runs: for each run a list of what `entry` returned."""
    by_step: dict[int, list[Diagnostics | None]] = {}
    for run in runs:
        for one in run:
            by_step.setdefault(one["step"], []).append(Diagnostics(**{k: v for k, v in one.items() if k != "step"}))
    means = {step: mean_diagnostics(found) for step, found in sorted(by_step.items())}
    return [entry(step, found) for step, found in means.items() if found is not None]
