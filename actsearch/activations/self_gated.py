"""Activations that multiply x with a gate of x."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import finite, finite_below, in_float32


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if x.dtype == torch.float16:  # its second derivative has x², which is infinite there from 256
        return F.gelu(finite(x.float()), approximate=approximate).to(x.dtype)
    return F.gelu(finite(x), approximate=approximate)


GELU = Activation(
    "gelu", gelu, family="self-gated", formula="x * Phi(x), Phi the normal distribution function",
    params=(Param("approximate", "none", choices=("none", "tanh")),), source="Hendrycks & Gimpel 2016",
)  # fmt: skip


def silu(x: Tensor, beta: Value = 1.0) -> Tensor:
    if isinstance(beta, Tensor) or beta != 1.0:
        return _swish(x, beta)
    return F.silu(finite_below(x))


@in_float32
def _swish(x: Tensor, beta: Value) -> Tensor:
    x = finite_below(x)
    return x * torch.sigmoid(beta * x)


def silu_backward(grad: Tensor, x: Tensor, beta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    gate = torch.sigmoid(beta * x)
    slope = x * gate * (1 - gate)
    return grad * torch.addcmul(gate, beta, slope), {"beta": grad * x * slope}


SILU = Activation(
    "silu", silu, family="self-gated", formula="x * sigmoid(beta * x)", aliases=("swish",),
    params=(Param("beta", 1.0, low=0.1, high=10.0, log=True),), backward=silu_backward,
    source="Elfwing et al. 2017; with beta: swish, Ramachandran et al. 2017",
)  # fmt: skip


def hardswish(x: Tensor) -> Tensor:
    return F.hardswish(finite_below(x))


HARDSWISH = Activation(
    "hardswish", hardswish, family="self-gated", formula="x * min(max(x + 3, 0), 6) / 6",
    source="Howard et al. 2019 (MobileNetV3)",
)  # fmt: skip


@in_float32
def mish(x: Tensor) -> Tensor:
    # not F.mish, whose second derivative is NaN from 100 on
    x = finite_below(x)
    return x * torch.tanh(F.softplus(x))


MISH = Activation("mish", mish, family="self-gated", formula="x * tanh(softplus(x))", source="Misra 2019")
