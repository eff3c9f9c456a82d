"""What an activation costs: of a net with it the forward pass, the training step and what it keeps; and by itself."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from actsearch.activations.spec import Spec
from actsearch.errors import ActSearchError, one_line
from actsearch.measure.timing import address, in_turns, inference, saved_storages, watch_of
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.records import Cost
from actsearch.training.optimizers import make_optimizer, use_precision

Loss = Callable[[Tensor, Tensor], Tensor]


def latency_us(net: nn.Module, recipe: Recipe, x: Tensor, budget_s: float = 1.0) -> float:
    """Time in µs of one forward pass of `net` on x: (batch, …), on x's device, as `net_costs` takes it: the median.

    A measurement: a search that has it as an objective repeats only roughly.
    """
    use_precision(recipe)
    ((times,),) = in_turns([watch_of(inference(net.to(x.device), x), x.device)], budget_s)
    return statistics.median(times)


def net_costs(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float = 6.0
) -> list[Cost]:
    """The costs of nets that differ in their activations: plain PyTorch, as the plain loop trains, taking turns.

    x: (batch, …) on the device to measure on, y: (batch, …). loss: of the data set. On a CPU, in `one_thread`.
    budget_s: about how long it may take in all; nets that are too slow for it have fewer repetitions, two at least.
    Global random states are left as they are.
    """
    use_precision(recipe)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # dropout draws
        return _measured(nets, recipe, x, y, loss, budget_s)


def _measured(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float
) -> list[Cost]:
    work = [_work(copy.deepcopy(net).to(x.device), recipe, x, y, loss) for net in nets]
    watches = [watch_of(call, x.device) for step, forward, _ in work for call in (step, forward)]
    times = [parts[0] for parts in in_turns(watches, budget_s)]
    return [Cost(times[2 * i], times[2 * i + 1], saved_mib) for i, (_, _, saved_mib) in enumerate(work)]


def _work(
    net: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, loss: Loss
) -> tuple[Callable[[], None], Callable[[], None], float]:
    """A training step, and a forward pass in eval mode, as functions to time; MiB that a step keeps."""
    optimizer = make_optimizer(net, replace(recipe, lr=1e-12))  # a net that learns this one batch would be another net
    forward = inference(copy.deepcopy(net), x)
    net.train()

    def training_loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            return loss(net(x), y)

    def step() -> None:
        value = training_loss()
        optimizer.zero_grad()
        value.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip)
        optimizer.step()

    _, saved = saved_storages(training_loss)
    for tensor in (x, y, *net.parameters(), *net.buffers()):
        saved.pop(address(tensor), None)
    return step, forward, sum(saved.values()) / 2**20


def step_costs(
    model: Model, specs: Sequence[Spec], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float = 12.0
) -> tuple[dict[str, Cost], dict[str, str]]:
    """The costs of a model with each activation, by its text, taking turns; and why some are left out."""
    nets: dict[str, nn.Module] = {}
    left_out: dict[str, str] = {}
    for spec in specs:
        try:
            net = model.build((spec,), 0, recipe.init)
            with torch.no_grad():
                copy.deepcopy(net).to(x.device)(x[:2])
            nets[str(spec)] = net
        except (ActSearchError, RuntimeError) as error:
            left_out[str(spec)] = one_line(error)
    return dict(zip(nets, net_costs(list(nets.values()), recipe, x, y, loss, budget_s), strict=True)), left_out
