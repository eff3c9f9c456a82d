"""What the nets of a data set are trained for, a loss, and what they are judged by, a metric.

Knows tensors and numbers; nothing of data sets, nets or studies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.errors import ActSearchError
from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, Metric


@dataclass(frozen=True)
class Goal:
    """The loss and the metric of one data set.

    metric: whose name stands in columns, as val_NAME and test_NAME. loss: (outputs, y) → the mean over examples.
    out_shape: of the outputs for one example. guess: (metric, loss) of what has learned nothing; a run that diverged
    is counted as this. One of: score: (outputs (…, n, *out_shape), y (…, n, …)) → (…, n), one number per example,
    whose mean is the metric; of_loss: the metric as a function of the mean loss. at_chance: y → up to which metric a
    net may be guessing on these examples, if that is not the metric of `guess`.
    Raises ActSearchError for a metric without a way to it.
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

    @property
    def n_outputs(self) -> int:
        """Outputs in the last dimension: classes, if it has classes."""
        return self.out_shape[-1]

    def value(self, mean_loss: float, mean_score: float) -> float:
        """The metric; mean_score is not looked at where there is no score."""
        return mean_score if self.of_loss is None else self.of_loss(mean_loss)

    def is_guessing(self, value: float, y: Tensor) -> bool:
        """Whether a metric on examples with these y is no better than guessing."""
        chance = self.guess[0] if self.at_chance is None else self.at_chance(y)
        return not self.metric.better(value, chance)


MOST_PSNR = 200.0  # dB, of an error of nothing


def classification(n_classes: int) -> Goal:
    """Cross-entropy and accuracy. outputs: (n, n_classes) logits; y: (n,) classes from 0."""
    guess = (1 / n_classes, math.log(n_classes))
    return Goal(ACCURACY, cross_entropy, (n_classes,), guess, score=right, at_chance=commonest)


def next_token(y: Tensor, n_tokens: int) -> Goal:
    """Cross-entropy and perplexity, its exponential, per token. outputs: (n, length, n_tokens) logits; y: (n, length).

    Guessing: every token with its frequency in y.
    """
    guess = entropy(y)
    return Goal(
        PERPLEXITY, cross_entropy, (y.shape[1], n_tokens), (perplexity(guess), guess), of_loss=perplexity,
        at_chance=unigram_perplexity,
    )  # fmt: skip


def pixels(y: Tensor) -> Goal:
    """Mean squared error and PSNR in dB. outputs and y: (n, channels) in [0, 1]. Guessing: the mean of y."""
    guess = variance(y)
    return Goal(PSNR, F.mse_loss, tuple(y.shape[1:]), (psnr(guess), guess), of_loss=psnr, at_chance=constant_psnr)


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy. outputs: (…, n_classes) logits; y: (…), classes."""
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten())


def right(outputs: Tensor, y: Tensor) -> Tensor:
    """Whether the largest of the outputs (…, n_classes) is that of the class y: (…)."""
    return outputs.argmax(-1) == y


def commonest(y: Tensor) -> float:
    """The accuracy up to which a net may be guessing: always the commonest class, and three standard errors."""
    share = torch.bincount(y.cpu()).max().item() / len(y)
    return share + 3 * math.sqrt(share * (1 - share) / len(y))


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond it a float overflows


def entropy(y: Tensor) -> float:
    """Of the tokens' frequencies, in nats: the least cross-entropy of an answer that is always the same."""
    p = torch.bincount(y.flatten().cpu()).double() / y.numel()
    return -torch.special.xlogy(p, p).sum().item()


def unigram_perplexity(y: Tensor) -> float:
    return perplexity(entropy(y))


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1] and a mean squared error."""
    return -10 * math.log10(error) if error > 10 ** (-MOST_PSNR / 10) else MOST_PSNR


def variance(y: Tensor) -> float:
    """The least mean squared error of an answer that is always the same."""
    return y.double().var(0, correction=0).mean().item()


def constant_psnr(y: Tensor) -> float:
    return psnr(variance(y))
