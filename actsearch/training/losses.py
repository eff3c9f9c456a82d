"""The losses that have a fused form: their values and gradients for K runs at once.

Outputs have the shape (K, n_outputs, B), as the last layer returns them. To add a loss, write a class here and a line
in CLOSED_FORMS. A data set with another loss trains by the plain loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.data.goal import cross_entropy


class ClosedForm(Protocol):
    """A loss whose gradient is written out, for K runs at once."""

    @staticmethod
    def rows(y: Tensor, n_outputs: int) -> Tensor:
        """The targets of training, (n, n_outputs), for y: (n, …)."""
        ...

    @staticmethod
    def step(outputs: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
        """Each run's loss, summed over the batch, (K,). Writes the gradient of its mean into `gradient`.

        outputs, targets, gradient: (K, n_outputs, B).
        """
        ...

    @staticmethod
    def of_each(outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each example for each run, (K, B). y: (K, B, …), as in the data set."""
        ...


class CrossEntropy:
    @staticmethod
    def rows(y: Tensor, n_outputs: int) -> Tensor:
        return F.one_hot(y, n_outputs)

    @staticmethod
    def step(outputs: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
        log_p = torch.log_softmax(outputs, 1)
        torch.exp(log_p, out=gradient).sub_(targets).mul_(1 / outputs.shape[2])
        return -(log_p * targets).sum((1, 2))

    @staticmethod
    def of_each(outputs: Tensor, y: Tensor) -> Tensor:
        return -torch.log_softmax(outputs, 1).gather(1, y[:, None])[:, 0]


class SquaredError:
    @staticmethod
    def rows(y: Tensor, n_outputs: int) -> Tensor:
        return y

    @staticmethod
    def step(outputs: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
        torch.sub(outputs, targets, out=gradient)
        total = gradient.square().sum((1, 2)).div_(outputs.shape[1])
        gradient.mul_(2 / outputs[0].numel())
        return total

    @staticmethod
    def of_each(outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y.mT).square().mean(1)


CLOSED_FORMS: dict[Callable[[Tensor, Tensor], Tensor], type[ClosedForm]] = {
    cross_entropy: CrossEntropy,
    F.mse_loss: SquaredError,
}
