"""The goal of a data set: the loss for which nets are trained, and the metric by which they are judged.

This module knows tensors and numbers, but not data sets, nets or studies.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.errors import ActSearchError, one_line
from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, Metric

What = Literal["score", "loss"]


@dataclass(frozen=True)
class Goal:
    """The loss and the metric of one data set.

    metric: its name appears in columns as val_NAME and test_NAME. loss: a function (outputs, y) → the mean over
    examples. out_shape: the shape of the outputs for one example. guess: (metric, loss) of a net that has learned
    nothing; a run that diverged gets these numbers.
    How the metric is computed is given by either score or of_loss. score: a function (outputs (…, n, *out_shape),
    y (…, n, …)) → (…, n), one number per example, whose mean is the metric. of_loss: a function mean loss → metric.
    at_chance: a function y → the best metric on examples with these y that may still be guessing; None if that is the
    metric of `guess`.
    Raises ActSearchError unless exactly one of score and of_loss is given, for names that columns cannot have, and for
    a guess that is not finite or, where the metric is compared by ratio, not above 0.
    """

    metric: Metric
    loss: Callable[[Tensor, Tensor], Tensor]
    out_shape: tuple[int, ...]
    guess: tuple[float, float]
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    of_loss: Callable[[float], float] | None = None
    at_chance: Callable[[Tensor], float] | None = None

    def __post_init__(self) -> None:
        if (self.score is None) == (self.of_loss is None):
            raise ActSearchError(f"the goal '{self.metric.name}': give it either a score or of_loss.")
        if self.metric.name == "loss" or not self.metric.name.isidentifier():
            raise ActSearchError(
                f"the goal '{self.metric.name}': name its metric in one word other than loss, e.g. mse."
            )
        if not all(math.isfinite(number) for number in self.guess):
            raise ActSearchError(
                f"the goal '{self.metric.name}': guess={self.guess} must be two finite numbers, the metric and the "
                "loss of a net that has learned nothing."
            )
        if self.metric.ratio and self.guess[0] <= 0:
            raise no_ratio(self.metric, self.guess[0], "guess")

    @property
    def n_outputs(self) -> int:
        """The number of outputs in the last dimension, which is the number of classes in classification."""
        return self.out_shape[-1]

    def value(self, mean_loss: float, mean_score: float) -> float:
        """The metric, from the mean loss and the mean score over examples. Without a score, mean_score is ignored."""
        return mean_score if self.of_loss is None else self.of_loss(mean_loss)

    def of_each(self, outputs: Tensor, y: Tensor, what: What) -> Tensor | None:
        """One number for each example, (n,): its score or its loss. outputs: (n, *out_shape), y: (n, …).

        None for the losses of a goal whose loss of several examples is not the mean of theirs.
        """
        if what == "score":
            assert self.score is not None
            return self.score(outputs, y)
        alone = lambda output, answer: self.loss(output[None], answer[None])  # noqa: E731
        try:
            losses = torch.vmap(alone)(outputs, y)
        except Exception:  # a user's loss may do what vmap cannot follow, or what fails for one example
            try:
                losses = torch.stack([alone(*pair) for pair in zip(outputs, y, strict=True)])
            except Exception:
                return None
        mean = self.loss(outputs, y)
        return losses if torch.allclose(losses.mean(), mean, rtol=1e-3, atol=1e-6, equal_nan=True) else None

    def in_metric(self, losses: np.ndarray) -> np.ndarray:
        """For a metric that is computed from the mean loss: numbers, one for each example, whose mean is that metric.

        losses: (n,). Each number is as far from the metric as its loss would move it: its influence (Hampel 1974).
        """
        assert self.of_loss is not None
        mean = float(losses.mean(dtype=np.float64))
        step = 1e-4 * max(abs(mean), 1e-8)
        slope = (self.of_loss(mean + step) - self.of_loss(mean - step)) / (2 * step)
        return self.of_loss(mean) + slope * (losses - mean)

    def is_guessing(self, value: float, y: Tensor) -> bool:
        """Whether this value of the metric, measured on examples with these y, is no better than guessing."""
        chance = self.guess[0] if self.at_chance is None else self.at_chance(y)
        return not self.metric.better(value, chance)


def weights_of_loss(goal: Goal) -> int:
    """How many weights that could be trained the loss itself holds, as an attribute or in its closure."""
    loss: Any = goal.loss
    cells = [cell.cell_contents for cell in getattr(loss, "__closure__", None) or ()]
    parts = [loss, getattr(loss, "__self__", None), *cells, *getattr(loss, "__dict__", {}).values()]
    nets = [part for part in parts if isinstance(part, nn.Module)]
    return sum(p.numel() for p in {p for net in nets for p in net.parameters() if p.requires_grad})


OURS = (ACCURACY, PERPLEXITY, PSNR)  # their goals need no trial
TRIED = 64  # examples on which a user's goal is tried
MOST_TRIED = 2**19  # outputs in all of them
DRAWN = 8  # random outputs that are tried
DESCENTS = 200  # steps by which outputs are fitted to them
ROUNDING = 1e-6  # a loss that cannot be negative, as a divergence, may be so by this much


def no_ratio(metric: Metric, value: float, where: str) -> ActSearchError:
    """The error for a metric that is compared by ratio and not above 0. where: what has this value."""
    return ActSearchError(
        f"the metric '{metric.name}' is {value:.4g} ({where}), but it is compared by the ratio of two nets, which "
        f"needs values above 0. Write Metric('{metric.name}', …, ratio=False, margin=…), a margin in its own units."
    )


def check_goal(goal: Goal, y: Tensor) -> float:
    """Tries a goal on examples with these answers y: (n, …). Returns the least loss that was seen.

    Outputs of zeros, random ones, and ones that are fitted to y by gradient descent stand for nets that have learned
    nothing and everything. Raises ActSearchError if loss or score do not fit y, are never finite or have no gradient,
    or if a metric that is compared by ratio gets below 0.
    """
    _check_shapes(goal, y[:2])
    if goal.metric in OURS:
        return 0.0
    n = min(TRIED, MOST_TRIED // math.prod(goal.out_shape))
    if n < 2:  # outputs so large are not tried
        return 0.0
    y = y[:n]
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(len(y), *goal.out_shape, generator=generator) for _ in range(DRAWN)]
    try:
        with torch.random.fork_rng(devices=[]):
            blind = [_value(goal, outputs, y) for outputs in (torch.zeros_like(drawn[0]), *drawn)]
            tried = {"before training": blind, "for outputs that fit y": [_value(goal, _fitted(goal, y), y)]}
    except ActSearchError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise ActSearchError(f"its goal fails: {one_line(error)}") from error
    for when, pairs in tried.items():
        lowest = min((value for value, loss in pairs if math.isfinite(loss)), default=0.0)
        if goal.metric.ratio and lowest < -ROUNDING:
            raise no_ratio(goal.metric, lowest, when)
    losses = [loss for pairs in tried.values() for _, loss in pairs if math.isfinite(loss)]
    if not losses:
        raise ActSearchError("its goal's loss is never a finite number: not for outputs of zeros, nor for random ones.")
    return min(losses)


def _value(goal: Goal, outputs: Tensor, y: Tensor) -> tuple[float, float]:
    """(metric, loss) of these outputs."""
    loss = goal.loss(outputs, y).item()
    mean_score = math.nan if goal.score is None else goal.score(outputs, y).double().mean().item()
    return float(goal.value(loss, mean_score)), loss


def _fitted(goal: Goal, y: Tensor) -> Tensor:
    """Outputs that gradient descent on the loss has fitted to y, as a net may that learns the examples by heart."""
    with torch.enable_grad():
        outputs = torch.zeros(len(y), *goal.out_shape, requires_grad=True)
        optimizer = torch.optim.Adam([outputs], lr=0.1)
        for _ in range(DESCENTS):
            loss = goal.loss(outputs, y)
            if not loss.requires_grad:
                raise ActSearchError("its goal's loss has no gradient: nets cannot be trained by it.")
            (outputs.grad,) = torch.autograd.grad(loss, outputs)  # a loss may hold a net, whose gradients stay
            optimizer.step()
    return outputs.detach()


def _check_shapes(goal: Goal, y: Tensor) -> None:
    """Tries the goal's loss and score on outputs of zeros. Raises ActSearchError if they do not fit y."""
    outputs = torch.zeros(len(y), *goal.out_shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns if shapes are broadcast: (n, 1) with (n,) is a mistake
            loss = goal.loss(outputs, y)
        scores = torch.zeros(len(y)) if goal.score is None else goal.score(outputs, y)
    except Exception as error:  # whatever a user's function raises
        raise ActSearchError(
            f"its goal does not take outputs {tuple(outputs.shape)} with y {tuple(y.shape)}: {one_line(error)}"
        ) from error
    if loss.dim() or scores.shape != (len(y),):
        raise ActSearchError(
            f"for {len(y)} examples its goal gives a loss {tuple(loss.shape)} and scores {tuple(scores.shape)}. "
            f"Wanted: one number, and ({len(y)},)."
        )


MOST_PSNR = 200.0  # dB: the PSNR of an error of 0, which would be infinite


def classification(n_classes: int) -> Goal:
    """The goal of classification: cross-entropy and accuracy.

    outputs: (n, n_classes) logits. y: (n,) classes, numbered from 0.
    """
    guess = (1 / n_classes, math.log(n_classes))
    return Goal(ACCURACY, cross_entropy, (n_classes,), guess, score=right, at_chance=commonest)


def next_token(y: Tensor, n_tokens: int) -> Goal:
    """The goal of a language model: cross-entropy per token, and perplexity, which is its exponential.

    outputs: (n, length, n_tokens) logits. y: (n, length) tokens. Guessing means to predict each token with its
    frequency in y.
    """
    guess = entropy(y)
    return Goal(
        PERPLEXITY, cross_entropy, (y.shape[1], n_tokens), (perplexity(guess), guess), of_loss=perplexity,
        at_chance=unigram_perplexity,
    )  # fmt: skip


def pixels(y: Tensor) -> Goal:
    """The goal of fitting an image: mean squared error, and PSNR in dB.

    outputs, y: (n, channels), with y in [0, 1]. Guessing means to predict the mean of y.
    """
    guess = variance(y)
    return Goal(PSNR, F.mse_loss, tuple(y.shape[1:]), (psnr(guess), guess), of_loss=psnr, at_chance=constant_psnr)


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy. outputs: (…, n_classes) logits. y: (…) classes."""
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten())


def right(outputs: Tensor, y: Tensor) -> Tensor:
    """Whether the predicted class is right, (…). outputs: (…, n_classes) logits. y: (…) classes."""
    return outputs.argmax(-1) == y


def commonest(y: Tensor) -> float:
    """The best accuracy on y that may be guessing: the share of the commonest class plus three standard errors."""
    share = torch.bincount(y.cpu()).max().item() / len(y)
    return share + 3 * math.sqrt(share * (1 - share) / len(y))


def perplexity(loss: float) -> float:
    """The exponential of a cross-entropy in nats."""
    return math.exp(min(loss, 700.0))  # the exponential of a larger number overflows


def entropy(y: Tensor) -> float:
    """The entropy of the tokens' frequencies, in nats: the least cross-entropy of a prediction without the input."""
    p = torch.bincount(y.flatten().cpu()).double() / y.numel()
    return -torch.special.xlogy(p, p).sum().item()


def unigram_perplexity(y: Tensor) -> float:
    """The least perplexity of a prediction that does not use the input."""
    return perplexity(entropy(y))


def psnr(error: float) -> float:
    """The peak signal-to-noise ratio in dB of values in [0, 1]. error: the mean squared error."""
    return -10 * math.log10(error) if error > 10 ** (-MOST_PSNR / 10) else MOST_PSNR


def variance(y: Tensor) -> float:
    """The variance of y, averaged over outputs: the least mean squared error of a prediction without the input."""
    return y.double().var(0, correction=0).mean().item()


def constant_psnr(y: Tensor) -> float:
    """The largest PSNR of a prediction that does not use the input."""
    return psnr(variance(y))
