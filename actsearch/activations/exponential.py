"""Activations with an exponential side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import in_float32

ALPHA = Param("alpha", 1.0, low=0.1, high=3.0, log=True)


def elu(x: Tensor, alpha: Value = 1.0) -> Tensor:
    if isinstance(alpha, Tensor):
        # where, not clamp: clamp's gradient at 0 is 0
        alpha = alpha.to(x.dtype)
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
        alpha = alpha.to(x.dtype)
        return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0.0, x) / alpha))
    if x.dtype == torch.float64:
        # the kernel that F.celu calls, whose derivative has 1 / float32(alpha) whatever the dtype
        return torch.ops.aten.elu(x, alpha, 1.0, 1.0 / alpha)
    return F.celu(x, alpha)


CELU = Activation(
    "celu", celu, family="exponential", formula="x for x > 0, alpha * (exp(x / alpha) - 1) otherwise",
    params=(ALPHA,), source="Barron 2017",
)  # fmt: skip


LINEAR = 40.0  # where softplus is x to float64's last digit; above torch's 20 it is 2e-9 off


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
