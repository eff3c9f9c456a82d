"""The plain loop: it trains one run in ordinary PyTorch. Every faster way of training is tested against it.

This module knows a net, tensors, a recipe and a seed, but not Optuna, MLflow or processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from actsearch.activations.spec import Spec
from actsearch.data.goal import Goal, What
from actsearch.data.inputs import Inputs, count, examples
from actsearch.data.source import Split
from actsearch.errors import ActSearchError
from actsearch.models.model import forward
from actsearch.question.recipe import Recipe
from actsearch.training.diagnostics import Diagnostics, diagnose, probe_rungs, probe_size
from actsearch.training.optimizers import make_optimizer, schedule, set_step

WEIGHTS, ORDER, NOISE = 0, 1, 2  # a seed's random streams; data/source.py has the fourth, 3, for the split
EVAL_BATCH = 2000


@dataclass(frozen=True)
class Run:
    """One training of one candidate with one seed.

    specs: the activations, one for all slots or one for each. seed: it fixes everything random in the training.
    """

    specs: tuple[Spec, ...]
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """The result of a run at a rung.

    step: how many steps it has trained. val_metric: the metric of the data set's goal. train_loss: the mean over the
    steps since the last rung. diverged: whether a loss is not finite; the metric and the validation loss are then the
    goal's guess. diagnostics: given at some rungs (`probe_rungs`), unless the run has diverged.
    """

    step: int
    val_metric: float
    val_loss: float
    train_loss: float
    diverged: bool = False
    diagnostics: Diagnostics | None = None


class Scored(NamedTuple):
    """A net's metric and mean loss on some examples. of_each: (n,), the score or the loss of each, if it was kept."""

    metric: float
    loss: float
    of_each: np.ndarray | None = None


def stream(seed: int, which: int) -> int:
    """The seed of one random stream of a run. which: WEIGHTS, ORDER or NOISE."""
    return int(np.random.SeedSequence([seed, which]).generate_state(1)[0])


def batch_order(n: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """The examples of each step's batch as indices, (steps, batch_size).

    Each epoch is a new permutation of the n examples; the last ones, too few for a batch, are left out.
    Raises ActSearchError if the batch size is larger than n.
    """
    if batch_size > n:
        raise ActSearchError(
            f"recipe.batch_size={batch_size}, but there are {n} training examples. Choose at most {n}."
        )
    generator = torch.Generator().manual_seed(stream(seed, ORDER))
    per_epoch = n // batch_size
    epochs = math.ceil(steps / per_epoch)
    drawn = [torch.randperm(n, generator=generator)[: per_epoch * batch_size] for _ in range(epochs)]
    return torch.cat(drawn).view(-1, batch_size)[:steps]


def train(net: nn.Module, split: Split, run: Run, device: torch.device) -> Iterator[Evaluation]:
    """Trains `net`, which is moved to `device`, and yields an Evaluation at each rung. A run that diverged ends there.

    split: its tensors must be on `device`. After the last rung the net has the weights of the last step.
    """
    recipe = run.recipe
    net.to(device)
    optimizer, plan = make_optimizer(net, recipe), schedule(recipe)
    order = batch_order(count(split.x_train), recipe.batch_size, recipe.steps, run.seed).to(device)
    noise = Noise(stream(run.seed, NOISE), device)
    probes, probed = probe_rungs(recipe.rungs()), probe_size(recipe.batch_size, len(split.y_val))
    start = 0
    for stop in recipe.rungs():
        net.train()
        noise.resume()
        losses = torch.zeros((), device=device)
        for step in range(start, stop):
            batch = order[step]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                value = split.goal.loss(forward(net, examples(split.x_train, batch)), split.y_train[batch])
            optimizer.zero_grad()
            value.backward()
            if recipe.grad_clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip)
            set_step(optimizer, *plan[step])
            optimizer.step()
            losses += value.detach()
        noise.pause()
        evaluation = _evaluation(net, split, stop, losses.item() / (stop - start))
        if stop in probes and not evaluation.diverged:
            evaluation = replace(evaluation, diagnostics=diagnose(net, examples(split.x_val, slice(probed))))
        yield evaluation
        if evaluation.diverged:
            return
        start = stop


def _evaluation(net: nn.Module, split: Split, step: int, train_loss: float) -> Evaluation:
    metric, val_loss, _ = score(net, split.x_val, split.y_val, split.goal)
    if math.isfinite(train_loss) and math.isfinite(val_loss):
        return Evaluation(step, metric, val_loss, train_loss)
    return Evaluation(step, *split.goal.guess, train_loss=math.nan, diverged=True)


def score(net: nn.Module, x: Inputs, y: Tensor, goal: Goal, what: What | None = None) -> Scored:
    """Scores a net on x: (n, …) and y: (n, …). Sets it to eval mode. what: what is kept of each example."""
    net.eval()
    scores = torch.zeros((), device=y.device)
    losses = torch.zeros((), device=y.device)
    parts: list[Tensor | None] = []
    with torch.no_grad():
        for start in range(0, len(y), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            outputs, ys = forward(net, examples(x, part)), y[part].clone()
            losses += goal.loss(outputs, ys) * len(ys)
            if goal.score is not None:
                scores += goal.score(outputs, ys).sum()
            if what is not None:
                parts.append(goal.of_each(outputs, ys, what))
    mean_loss = losses.item() / len(y)
    known = [part for part in parts if part is not None]
    of_each = torch.cat(known).cpu().numpy() if known and len(known) == len(parts) else None
    return Scored(goal.value(mean_loss, scores.item() / len(y)), mean_loss, of_each)


def guessed(goal: Goal, n: int, what: What | None) -> Scored:
    """What a run that diverged is given for n examples: the goal's guess."""
    metric, loss = goal.guess
    return Scored(metric, loss, None if what is None else np.full(n, metric if what == "score" else loss))


class Noise:
    """The global random state of one run, for dropout and the like.

    Several runs in one process train in turns. `resume` sets the global state to that of this run, `pause` stores it.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.module = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
        self.seed: int | None = seed

    def resume(self) -> None:
        if self.seed is not None:
            torch.manual_seed(self.seed)  # seeds the accelerators too
            self.seed = None
            return
        torch.set_rng_state(self.cpu)
        if self.module is not None:
            self.module.set_rng_state(self.accelerator)

    def pause(self) -> None:
        self.cpu = torch.get_rng_state()
        if self.module is not None:
            self.accelerator = self.module.get_rng_state()
