"""What an activation costs: the time of a net's forward pass and of a whole training step with it."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from actsearch.recipe import Recipe, make_optimizer

REPETITIONS = 20
BLOCKS = 3  # of a repetition: the least of them counts
SECONDS_EACH = 0.0015  # of a block: long beside the clock's grain
LEAST_WARM = 3  # calls before any is timed
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Cost:
    """Times in µs, one per repetition. The nets measured together took turns: repetition i of one stands beside
    repetition i of the other, and what else the machine did then met both.
    """

    training_step_us: list[float]
    latency_us: list[float]


def latency_us(net: nn.Module, x: Tensor, blocks: int = 5, repeats: int = 20) -> float:
    """Time in µs of one forward pass of `net` on x: (batch, …), on x's device, after warming up.

    The least of `blocks` medians: what else the machine does only ever adds time. A measurement still: a search
    that has it as an objective repeats only roughly.
    """
    net = net.to(x.device).eval()
    medians = []
    with torch.no_grad():
        for _ in range(10):
            net(x)
        for _ in range(blocks):
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                net(x)
                _wait(x.device)
                times.append((time.perf_counter() - start) * 1e6)
            medians.append(statistics.median(times))
    return min(medians)


def measure(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float = 6.0
) -> list[Cost]:
    """The costs of nets that differ in their activations: plain PyTorch, as the plain loop trains, taking turns.

    x: (batch, …) on the device to measure on, y: (batch, …). loss: of the data set. budget_s: about how long it may
    take in all; nets that are too slow for it have fewer repetitions, two at least. Global random states are left as they are.
    """
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # dropout draws
        return _measured(nets, recipe, x, y, loss, budget_s)


def _measured(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float
) -> list[Cost]:
    pairs = [_work(copy.deepcopy(net).to(x.device), recipe, x, y, loss) for net in nets]
    calls = [call for pair in pairs for call in pair]
    once = []
    for call in calls:
        for _ in range(LEAST_WARM):
            call()
        once.append(_timed(call, 1, x.device))
    n_calls = [max(1, round(SECONDS_EACH / seconds)) for seconds in once]
    round_s = BLOCKS * sum(n * seconds for n, seconds in zip(n_calls, once, strict=True))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(max(2, min(REPETITIONS, int(budget_s / round_s)))):
        for call, n, mine in zip(calls, n_calls, times, strict=True):
            mine.append(min(_timed(call, n, x.device) for _ in range(BLOCKS)) * 1e6)  # other work only adds time
    return [Cost(times[i], times[i + 1]) for i in range(0, len(times), 2)]


def _work(
    net: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, loss: Loss
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step, and a forward pass in eval mode, as functions to time."""
    optimizer = make_optimizer(net, replace(recipe, lr=1e-12))  # a net that learns this one batch would be another net
    inference = copy.deepcopy(net).eval()
    net.train()

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            value = loss(net(x), y)
        optimizer.zero_grad()
        value.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip)
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            inference(x)

    return step, forward


def _timed(call: Callable[[], None], n: int, device: torch.device) -> float:
    """Seconds of one of n calls."""
    start = time.perf_counter()
    for _ in range(n):
        call()
    _wait(device)
    return (time.perf_counter() - start) / n


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
