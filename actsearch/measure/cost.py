"""The cost of a net with an activation: times of a forward pass and of a training step, and the memory it saves."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from actsearch.activations.spec import Spec
from actsearch.data.inputs import Inputs, device_of, examples, tensors
from actsearch.errors import ActSearchError, one_line
from actsearch.measure.timing import address, in_turns, inference, saved_storages, watch_of
from actsearch.models.model import Model, forward
from actsearch.question.recipe import Recipe
from actsearch.records import Cost
from actsearch.training.optimizers import make_optimizer, use_precision

Loss = Callable[[Tensor, Tensor], Tensor]


def latency_us(net: nn.Module, recipe: Recipe, x: Inputs, budget_s: float = 1.0) -> float:
    """The time in µs of one forward pass of `net` on x: (batch, …), on x's device. The median of several repetitions.

    It is measured as in `net_costs`. Because it is a measurement, a search with this objective repeats only roughly.
    """
    use_precision(recipe)
    device = device_of(x)
    ((times,),) = in_turns([watch_of(inference(net.to(device), x), device)], budget_s)
    return statistics.median(times)


def net_costs(
    nets: Sequence[nn.Module], recipe: Recipe, x: Inputs, y: Tensor, loss: Loss, budget_s: float = 6.0
) -> list[Cost]:
    """The costs of nets that differ in their activations, in plain PyTorch as in the plain loop, measured in turns.

    x: (batch, …) on the device to measure on. y: (batch, …). loss: the data set's. On a CPU, call it in `one_thread`.
    budget_s: about how many seconds it takes in all; if the nets are too slow for that, there are fewer repetitions,
    but at least two. Global random states are left as they were.
    """
    use_precision(recipe)
    with torch.random.fork_rng([y.device] if y.is_cuda else []):  # dropout draws from the global state
        return _measured(nets, recipe, x, y, loss, budget_s)


def _measured(
    nets: Sequence[nn.Module], recipe: Recipe, x: Inputs, y: Tensor, loss: Loss, budget_s: float
) -> list[Cost]:
    work = [_work(copy.deepcopy(net).to(y.device), recipe, x, y, loss) for net in nets]
    watches = [watch_of(call, y.device) for step, forward, _ in work for call in (step, forward)]
    times = [parts[0] for parts in in_turns(watches, budget_s)]
    return [Cost(times[2 * i], times[2 * i + 1], saved_mib) for i, (_, _, saved_mib) in enumerate(work)]


def _work(
    net: nn.Module, recipe: Recipe, x: Inputs, y: Tensor, loss: Loss
) -> tuple[Callable[[], None], Callable[[], None], float]:
    """A training step and a forward pass in eval mode, as functions to time, and the MiB that a step saves."""
    # the rate is almost 0, because a net that learns this one batch over and over would no longer be a typical net
    optimizer = make_optimizer(net, replace(recipe, lr=1e-12))
    infer = inference(copy.deepcopy(net), x)
    net.train()

    def training_loss() -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            return loss(forward(net, x), y)

    def step() -> None:
        value = training_loss()
        optimizer.zero_grad()
        value.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip)
        optimizer.step()

    _, saved = saved_storages(training_loss)
    for tensor in (*tensors(x), y, *net.parameters(), *net.buffers()):
        saved.pop(address(tensor), None)
    return step, infer, sum(saved.values()) / 2**20


def step_costs(
    model: Model, specs: Sequence[Spec], recipe: Recipe, x: Inputs, y: Tensor, loss: Loss, budget_s: float = 12.0
) -> tuple[dict[str, Cost], dict[str, str]]:
    """The costs of a model with each of these activations, measured in turns.

    Returns two dictionaries whose keys are the specs' texts: the costs, and for activations that the model cannot take,
    the reason.
    """
    nets: dict[str, nn.Module] = {}
    left_out: dict[str, str] = {}
    for spec in specs:
        try:
            net = model.build((spec,), 0, recipe.init)
            with torch.no_grad():
                forward(copy.deepcopy(net).to(y.device), examples(x, slice(2)))
            nets[str(spec)] = net
        except (ActSearchError, RuntimeError) as error:
            left_out[str(spec)] = one_line(error)
    return dict(zip(nets, net_costs(list(nets.values()), recipe, x, y, loss, budget_s), strict=True)), left_out
