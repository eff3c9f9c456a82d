"""Activations with an exponential side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value

ALPHA = Param("alpha", 1.0, low=0.1, high=3.0, log=True)


def elu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    if isinstance(alpha, Tensor):
        # where, not clamp: clamp's gradient at 0 is 0
        return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0.0, x)))
    return F.elu(x, alpha)


ELU = Activation(
    "elu", elu, family="exponential", formula="x for x > 0, alpha * (exp(x) - 1) otherwise", params=(ALPHA,),
    source="Clevert et al. 2016",
)  # fmt: skip

SELU = Activation(
    "selu", F.selu, family="exponential", formula="1.0507 * elu(x, alpha=1.6733)", source="Klambauer et al. 2017"
)


def celu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    if isinstance(alpha, Tensor):
        return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0.0, x) / alpha))
    return F.celu(x, alpha)


CELU = Activation(
    "celu", celu, family="exponential", formula="x for x > 0, alpha * (exp(x / alpha) - 1) otherwise",
    params=(ALPHA,), source="Barron 2017",
)  # fmt: skip


def softplus(x: Tensor, beta: Value = 1.0) -> Tensor:
    if isinstance(beta, Tensor):
        return F.softplus(beta * x) / beta
    return F.softplus(x, beta)


SOFTPLUS = Activation(
    "softplus", softplus, family="exponential", formula="log(1 + exp(beta * x)) / beta",
    params=(Param("beta", 1.0, low=0.3, high=10.0, log=True),), source="Dugas et al. 2001",
)  # fmt: skip
