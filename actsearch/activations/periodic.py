"""Activations that oscillate, and radial ones, which depend on |x| and are largest at 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import FAR, finite, in_float32


@in_float32
def sin(x: Tensor, omega: Value = 1.0) -> Tensor:
    return torch.sin(omega * x)


SIN = Activation(
    "sin", sin, family="periodic", formula="sin(omega * x)",
    params=(Param("omega", 1.0, low=1.0, high=60.0, log=True),),
    source="Parascandolo et al. 2017; Sitzmann et al. 2020 (SIREN) have omega = 30 and weights that are drawn for it",
)  # fmt: skip


@in_float32
def snake(x: Tensor, a: Value = 0.5) -> Tensor:
    return x + torch.sin(a * finite(x, FAR)).square() / a


SNAKE = Activation(
    "snake", snake, family="periodic", formula="x + sin(a * x)^2 / a",
    params=(Param("a", 0.5, low=0.2, high=50.0, log=True, learned=True),),
    source="Ziyin et al. 2020: a learned, from 0.5, or 5 to 50 for periodic data; nets for audio start from 1",
)  # fmt: skip


@in_float32
def gcu(x: Tensor) -> Tensor:
    return x * torch.cos(x)


GCU = Activation("gcu", gcu, family="periodic", formula="x * cos(x)", source="Noel et al. 2021 (growing cosine unit)")


@in_float32
def cosid(x: Tensor) -> Tensor:
    return torch.cos(finite(x, FAR)) - x


COSID = Activation("cosid", cosid, family="periodic", formula="cos(x) - x", source="Eger et al. 2018")

# the coefficients of sin(x) / x in powers of x²; for |x| < 1 the series is right to 1e-17
TAYLOR = [(-1) ** k / math.factorial(2 * k + 1) for k in range(10)]


@in_float32
def sinc(x: Tensor) -> Tensor:
    x = finite(x, FAR)
    near = x.abs() < 1.0  # near 0, autograd's derivatives of sin(x) / x lose all digits
    square = torch.where(near, x, 0.0).square()
    series = torch.full_like(square, TAYLOR[-1])
    for coefficient in reversed(TAYLOR[:-1]):
        series = torch.addcmul(square.new_full((), coefficient), series, square)
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, torch.sin(far) / far)


SINC = Activation(
    "sinc", sinc, family="radial", formula="sin(x) / x, 1 at 0",
    source="Efthymiou et al. 2019; torch.sinc and numpy.sinc are sin(pi x) / (pi x)",
)  # fmt: skip


@in_float32
def gaussian(x: Tensor, width: Value = 1.0) -> Tensor:
    # the limit changes no value, since exp(-30²) is 0 even in float64; without it the gradient at ±inf is inf · 0
    return torch.exp(-finite(x / width, 30.0).square())


GAUSSIAN = Activation(
    "gaussian", gaussian, family="radial", formula="exp(-(x / width)^2)",
    params=(Param("width", 1.0, low=0.3, high=3.0, log=True),),
    source="Broomhead & Lowe 1988 (radial basis functions); as an activation Ramasinghe & Lucey 2022",
)  # fmt: skip
