"""Activations with an exponential on at least one side of 0."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import halves, in_float32

ALPHA = Param("alpha", 1.0, low=0.1, high=3.0, log=True)


def elu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    if isinstance(alpha, Tensor):
        above, below = halves(x)
        return above + alpha.to(x.dtype) * torch.expm1(below)
    return F.elu(x, alpha)


ELU = Activation(
    "elu", elu, family="exponential", formula="x for x > 0, alpha * (exp(x) - 1) otherwise", params=(ALPHA,),
    source="Clevert et al. 2016",
)  # fmt: skip

SELU = Activation(
    "selu", F.selu, family="exponential", formula="1.0507 * elu(x, alpha=1.6733)", source="Klambauer et al. 2017"
)


@in_float32
def pelu(x: Tensor, a: Value = 1.0, b: Value = 1.0) -> Tensor:
    return a * F.elu(x / b)


PELU = Activation(
    "pelu", pelu, family="exponential", formula="(a / b) * x for x > 0, a * (exp(x / b) - 1) otherwise",
    params=(
        Param("a", 1.0, low=0.1, high=2.0, log=True, learned=True, shared=True),
        Param("b", 1.0, low=0.1, high=2.0, log=True, learned=True, shared=True, least=0.0),
    ),
    source="Trottier et al. 2016, whose code keeps both above 0.1; here nothing does",
)  # fmt: skip


def celu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    if isinstance(alpha, Tensor) or x.dtype == torch.float64:  # the derivative of F.celu rounds 1 / alpha to float32
        return _celu(x, alpha)
    return F.celu(x, alpha)


@in_float32
def _celu(x: Tensor, alpha: Value) -> Tensor:
    return pelu(x, alpha, alpha)


CELU = Activation(
    "celu", celu, family="exponential", formula="x for x > 0, alpha * (exp(x / alpha) - 1) otherwise",
    params=(replace(ALPHA, least=0.0),), source="Barron 2017",
)  # fmt: skip
LINEAR = 40.0  # above it, softplus(x) equals x in float64; at torch's own threshold of 20 they differ by 2e-9


def softplus(x: Tensor, beta: Value = 1.0) -> Tensor:
    if isinstance(beta, Tensor):
        return _softplus(x, beta)
    return F.softplus(x, beta, LINEAR)


@in_float32
def _softplus(x: Tensor, beta: Tensor) -> Tensor:
    return F.softplus(beta * x, threshold=LINEAR) / beta


SOFTPLUS = Activation(
    "softplus", softplus, family="exponential", formula="log(1 + exp(beta * x)) / beta",
    params=(Param("beta", 1.0, low=0.3, high=10.0, log=True),), source="Dugas et al. 2001",
)  # fmt: skip


@in_float32
def squareplus(x: Tensor, b: Value = 4.0) -> Tensor:
    above, below = halves(x)
    size = above - below
    # max(x, 0) + (sqrt(x^2 + b) - |x|) / 2, where the difference is written as a quotient: subtracted, it would be
    # rounded to 0 from x = 1e4 on
    return above + b / (2 * (torch.sqrt(size * size + b) + size))


SQUAREPLUS = Activation(
    "squareplus", squareplus, family="exponential", formula="(x + sqrt(x^2 + b)) / 2",
    params=(Param("b", 4.0, low=0.1, high=10.0, log=True, least=0.0),),
    source="Barron 2021; b = 4 has softplus's second derivative at 0",
)  # fmt: skip


@in_float32
def isrlu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    above, below = halves(x)
    below = F.threshold(below, -1e9, -1e9)  # so that its square is finite
    return above + below * torch.rsqrt(1 + alpha * below * below)


ISRLU = Activation(
    "isrlu", isrlu, family="exponential", formula="x for x > 0, x / sqrt(1 + alpha * x^2) otherwise",
    params=(Param("alpha", 1.0, low=0.1, high=10.0, log=True, least=0.0),), source="Carlile et al. 2017",
)  # fmt: skip


@in_float32
def serlu(x: Tensor) -> Tensor:
    above, below = halves(x)
    return 1.07862 * (above + 2.90427 * (below * torch.exp(below)))


SERLU = Activation(
    "serlu", serlu, family="exponential", formula="1.07862 * (x for x > 0, 2.90427 * x * exp(x) otherwise)",
    source="Zhang & Li 2018; the constants keep mean 0 and variance 1, as selu's do",
)  # fmt: skip


@in_float32
def pdelu(x: Tensor, alpha: Value = 1.0, t: Value = 0.9) -> Tensor:
    above, below = halves(x)
    inner = F.hardtanh((1 - t) * below, torch.finfo(x.dtype).eps - 1, 1.0)  # at -1 the logarithm is infinite
    return above + alpha * torch.expm1(torch.log1p(inner) / (1 - t))


PDELU = Activation(
    "pdelu", pdelu, family="exponential",
    formula="x for x > 0, alpha * (max(1 + (1 - t) * x, 0)^(1 / (1 - t)) - 1) otherwise",
    params=(Param("alpha", 1.0, low=0.1, high=3.0, log=True, learned=True), Param("t", 0.9, low=0.0, high=0.95)),
    source="Cheng et al. 2020; elu as t goes to 1. Code that leaves out the max grows again below -1 / (1 - t)",
)  # fmt: skip


def _positive(value: Value) -> Value:
    return F.softplus(value) if isinstance(value, Tensor) else math.log1p(math.exp(value))


P, N = math.log(math.expm1(0.8)), math.log(math.expm1(0.3))  # softplus(P) = 0.8, softplus(N) = 0.3


@in_float32
def xielu(x: Tensor, alpha_p: Value = P, alpha_n: Value = N, beta: Value = 0.5) -> Tensor:
    above, below = halves(x)
    up, down = _positive(alpha_p), beta + _positive(alpha_n)
    return (up * above + beta) * above + down * torch.expm1(below) - (down - beta) * below


XIELU = Activation(
    "xielu", xielu, family="exponential",
    formula="p * x^2 + beta * x for x > 0, n * (exp(x) - 1 - x) + beta * x otherwise, "
    "p = softplus(alpha_p), n = beta + softplus(alpha_n)",
    params=(
        Param("alpha_p", P, low=-2.0, high=2.0, learned=True, shared=True),
        Param("alpha_n", N, low=-2.0, high=2.0, learned=True, shared=True),
        Param("beta", 0.5, low=0.1, high=1.0),
    ),
    source="Huang & Schlag 2024; p and n start at 0.8, as in Hugging Face's transformers",
)  # fmt: skip
