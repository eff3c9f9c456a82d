"""The identity, and activations between two bounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value


def identity(x: Tensor) -> Tensor:
    return x


IDENTITY = Activation(
    "identity", identity, family="linear", formula="x", source="no activation: a stack of it is one linear map",
    aliases=("linear",),
)  # fmt: skip

SIGMOID = Activation("sigmoid", torch.sigmoid, family="sigmoidal", formula="1 / (1 + exp(-x))", source="Cybenko 1989")

TANH = Activation("tanh", torch.tanh, family="sigmoidal", formula="tanh(x)", source="LeCun et al. 1998")


HARDSIGMOID = Activation(
    "hardsigmoid", F.hardsigmoid, family="sigmoidal", formula="min(max(x / 6 + 1/2, 0), 1)",
    source="Courbariaux et al. 2015, with torch's slope of 1/6",
)  # fmt: skip


def hardtanh(x: Tensor, min_val: Value = -1.0, max_val: Value = 1.0) -> Tensor:
    if isinstance(min_val, Tensor) or isinstance(max_val, Tensor):
        # where, not clamp: clamp takes two tensors or two numbers, never one of each
        low = torch.as_tensor(min_val, dtype=x.dtype, device=x.device)
        high = torch.as_tensor(max_val, dtype=x.dtype, device=x.device)
        return torch.where(x <= low, low, torch.where(x >= high, high, x))
    return F.hardtanh(x, min_val, max_val)


HARDTANH = Activation(
    "hardtanh", hardtanh, family="sigmoidal", formula="min(max(x, min_val), max_val)", source="Collobert 2004",
    params=(Param("min_val", -1.0, low=-3.0, high=-0.3), Param("max_val", 1.0, low=0.3, high=3.0)),
)  # fmt: skip

SOFTSIGN = Activation(
    "softsign", F.softsign, family="sigmoidal", formula="x / (1 + |x|)", source="Bergstra et al. 2009"
)
