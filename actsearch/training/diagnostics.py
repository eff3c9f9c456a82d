"""How a net looks inside while it trains: dead units, saturated inputs, sizes of activations and of gradients.

Knows tensors and activation modules; nothing of Optuna, MLflow or processes. `statistics_of` is the one definition of
the numbers: the plain loop (`diagnose`) and the fused programs (training/fused.py) both come here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule

DEAD = 1e-6  # a unit is dead whose slope |f'(z)| is below this for every example of the probe, at all positions
SATURATED = 0.01  # an input is in the saturated region where |f'(z)| is below this
MOST_PROBES = 5  # of a training: enough to see a trend, and under 1 % of its time
MOST_EXAMPLES = 256


@dataclass(frozen=True)
class Diagnostics:
    """A net at one step, on a batch of validation examples in eval mode.

    dead: share of units (channels). saturated: share of inputs. output_mean, output_std, output_max (the largest
    |output|): over all examples, units and positions. Each has one number per activation slot, in order of slots.
    NaN: a slope that is no number, as that of an activation over several inputs, which has none (dead and saturated),
    or a slot that the net does not use.
    grad_norm: one per weight layer (parameters of 2 or more dimensions), in the net's own order: the norm of the last
    training step's gradient as the optimizer got it, so after clipping.
    """

    dead: list[float]
    saturated: list[float]
    output_mean: list[float]
    output_std: list[float]
    output_max: list[float]
    grad_norm: list[float]


def probe_rungs(rungs: Sequence[int]) -> set[int]:
    """Those of the rungs with diagnostics: at most 5, evenly spaced, the first and the last among them."""
    last, parts = len(rungs) - 1, MOST_PROBES - 1
    return {rungs[round(i * last / parts)] for i in range(MOST_PROBES)}


def probe_size(batch_size: int, n_validation: int) -> int:
    """How many validation examples, the first ones, a probe looks at."""
    return min(batch_size, MOST_EXAMPLES, n_validation)


def statistics_of(outputs: Tensor, slopes: Tensor, channel: int) -> Tensor:
    """(5, K): dead, saturated, output_mean, output_std, output_max of one slot in K nets.

    outputs: f(z), slopes: f'(z), both (K, …) with the channels in dimension `channel`.
    """
    inner = tuple(range(1, outputs.dim()))
    channel %= outputs.dim()
    slopes = slopes.abs()
    steepest = slopes.amax(tuple(d for d in inner if d != channel))  # of each unit: (K, C)
    dead = (steepest < DEAD).to(outputs.dtype).mean(1)
    saturated = (slopes < SATURATED).to(outputs.dtype).mean(inner)
    unknown = steepest.isnan().any(1)
    variance, mean = torch.var_mean(outputs, inner, correction=0)
    largest = outputs.abs().amax(inner)
    return torch.stack(
        [dead.masked_fill(unknown, math.nan), saturated.masked_fill(unknown, math.nan), mean, variance.sqrt(), largest]
    )


def collect(slots: Mapping[int, Tensor], grad_norms: Sequence[Tensor]) -> list[Diagnostics]:
    """One for each of K nets. slots: `statistics_of` each, by place, (5, K). grad_norms: of each weight layer, (K,)."""
    norms = torch.stack(list(grad_norms), -1)
    numbers = norms.new_full((5, len(norms), 1 + max(slots, default=-1)), math.nan)
    for place, five in slots.items():
        numbers[..., place] = five
    return [Diagnostics(*lists) for lists in zip(*numbers.tolist(), norms.tolist(), strict=True)]


def weight_layers(net: nn.Module) -> list[str]:
    """The names of the weights whose gradients are measured."""
    return [name for name, p in net.named_parameters() if p.dim() >= 2]


def diagnose(net: nn.Module, x: Tensor) -> Diagnostics:
    """Of one net in eval mode, on x: (n, …). Changes nothing of it: no mode, statistic, gradient or random state.

    Of a module that is called several times the last call counts.
    """
    slots: dict[int, Tensor] = {}

    def look(module: nn.Module, given: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
        # here, not after the forward pass: a net may change an output in place (a residual +=)
        (z,) = (*given, *keywords.values())
        if isinstance(module, ActivationModule) and z.dim() > 1:  # else it has no channels
            slots[module.place] = statistics_of(output[None], _slopes(module, z)[None], 2 if module.dim == 1 else -1)

    modules = [module for module in net.modules() if isinstance(module, ActivationModule)]
    hooks = [module.register_forward_hook(look, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
            net(x)
            parameters = dict(net.named_parameters())
            weights = [parameters[name] for name in weight_layers(net)]
            norms = [p.new_full((), math.nan) if p.grad is None else p.grad.norm() for p in weights]
            (found,) = collect(slots, [norm[None] for norm in norms])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _slopes(module: ActivationModule, z: Tensor) -> Tensor:
    """f'(z) element by element; NaN where an output depends on several inputs."""
    if module.spec.activation.kind not in ("elementwise", "stochastic"):
        return torch.full_like(z, math.nan)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(module.forward(z).sum(), z)
    return slopes


def mean_diagnostics(runs: Sequence[Diagnostics | None]) -> Diagnostics | None:
    """Number by number the mean over those runs of one candidate that have one; None if none has."""
    there = [run for run in runs if run is not None]
    if not there:
        return None
    lists = [zip(*(getattr(run, field.name) for run in there), strict=True) for field in fields(Diagnostics)]
    return Diagnostics(*([sum(values) / len(there) for values in numbers] for numbers in lists))


def entry(step: int, found: Diagnostics) -> dict[str, Any]:
    """As it is stored."""
    return {"step": step, **asdict(found)}


def mean_entries(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Step by step the mean over the runs of one candidate. runs: of each what `entry` made."""
    by_step: dict[int, list[Diagnostics | None]] = {}
    for run in runs:
        for one in run:
            by_step.setdefault(one["step"], []).append(Diagnostics(**{k: v for k, v in one.items() if k != "step"}))
    means = {step: mean_diagnostics(found) for step, found in sorted(by_step.items())}
    return [entry(step, found) for step, found in means.items() if found is not None]
