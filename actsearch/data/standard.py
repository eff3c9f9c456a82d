"""Standardised features: each column of a table minus its mean, divided by its standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 10.0  # a standard deviation above this, or a mean, is far from standardised; so is a spread below FAINT
FAINT = 0.01


@dataclass(frozen=True)
class Scale:
    """The statistics of a table's columns, in float64. mean: (d,). factor: (d,), 1 / standard deviation; for a column
    that does not vary it is 0, so that the column becomes 0 everywhere.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scale:
        """The statistics of x: (n, d)."""
        mean, deviation, varies = _moments(x)
        return cls(mean, torch.where(varies, 1 / deviation.where(varies, torch.ones(())), 0.0))

    def __call__(self, x: Tensor) -> Tensor:
        """x: (n, d) standardised, in float32."""
        return ((x.double() - self.mean) * self.factor).float()


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each column, and whether it varies by more than the rounding of float64."""
    x = x.double()
    deviation, mean = torch.std_mean(x, 0, correction=0)
    return mean, deviation, deviation > 1e-12 * x.abs().amax(0)


def is_standard(x: Tensor) -> bool:
    """Whether all columns of x: (n, d) have a mean within ±0.5 and a standard deviation of 0.5 to 2, or are 0."""
    mean, deviation, varies = _moments(x)
    good = torch.where(varies, (deviation >= 0.5) & (deviation <= 2), mean == 0)
    return bool((good & (mean.abs() <= 0.5)).all())


def spread(x: Tensor) -> str:
    """The smallest and the largest standard deviation of the columns of x: (n, d), in words."""
    return _span(_moments(x)[1])


def _span(numbers: Tensor) -> str:
    return " to ".join(dict.fromkeys(f"{end.item():,.4g}" for end in numbers.aminmax()))


def far_from_standard(x: Tensor) -> str:
    """What is unusual about the numbers of x: (n, …), in words; empty if nothing is. Tables are seen by columns."""
    if x.dim() == 2:
        mean, deviation, varies = _moments(x)
    else:
        deviation, mean = (part.reshape(1) for part in torch.std_mean(x, correction=0))
        varies = deviation > 0
    if not ((deviation > FAR) | (mean.abs() > FAR) | (varies & (deviation < FAINT))).any():
        return ""
    columns = "columns with " if x.dim() == 2 else ""
    return f"{columns}means of {_span(mean)} and standard deviations of {_span(deviation)}"


def loses_digits(x: Tensor) -> bool:
    """Whether float32 changes whole numbers, or rounds away what distinguishes the examples of a column."""
    if not x.is_floating_point():
        return bool((x.abs() > 2**24).any()) and not torch.equal(x.float().to(x.dtype), x)
    if x.dtype == torch.float32 or x.dim() != 2:
        return False
    _, deviation, varies = _moments(x)
    return bool((varies & (deviation < 1e-5 * x.double().abs().amax(0))).any())
