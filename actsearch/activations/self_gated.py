"""Activations that multiply x with a gate of x."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


GELU = Activation(
    "gelu", gelu, family="self-gated", formula="x * Phi(x), Phi the normal distribution function",
    params=(Param("approximate", "none", choices=("none", "tanh")),), source="Hendrycks & Gimpel 2016",
)  # fmt: skip


def silu(x: Tensor, beta: Value = 1.0) -> Tensor:
    if isinstance(beta, Tensor):
        return x * torch.sigmoid(beta * x)
    return F.silu(x) if beta == 1.0 else x * torch.sigmoid(beta * x)


def silu_backward(grad: Tensor, x: Tensor, beta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    gate = torch.sigmoid(beta * x)
    slope = x * gate * (1 - gate)
    return grad * torch.addcmul(gate, beta, slope), {"beta": grad * x * slope}


SILU = Activation(
    "silu", silu, family="self-gated", formula="x * sigmoid(beta * x)", aliases=("swish",),
    params=(Param("beta", 1.0, low=0.1, high=10.0, log=True),), backward=silu_backward,
    source="Elfwing et al. 2017; with beta: swish, Ramachandran et al. 2017",
)  # fmt: skip

HARDSWISH = Activation(
    "hardswish", F.hardswish, family="self-gated", formula="x * min(max(x + 3, 0), 6) / 6",
    source="Howard et al. 2019 (MobileNetV3)",
)  # fmt: skip

MISH = Activation("mish", F.mish, family="self-gated", formula="x * tanh(softplus(x))", source="Misra 2019")
