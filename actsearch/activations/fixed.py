"""Elementwise activations by family: one function and its entry, side by side.

A function takes any shape and broadcasts its parameters, which may be floats or tensors. Where torch has
a faster kernel for a float parameter it is used; tests hold both forms, and torch's own, equal in values
and gradients. Imports nothing of actsearch but the data classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param

Value = Tensor | float


# --- linear and sigmoidal -------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x


IDENTITY = Activation(
    "identity", identity, family="linear", formula="x", source="no activation: a stack of it is one linear map",
    aliases=("linear",),
)  # fmt: skip

SIGMOID = Activation("sigmoid", torch.sigmoid, family="sigmoidal", formula="1 / (1 + exp(-x))", source="Cybenko 1989")

TANH = Activation("tanh", torch.tanh, family="sigmoidal", formula="tanh(x)", source="LeCun et al. 1998")


def softmax(x: Tensor) -> Tensor:
    """Over the channels, which are dimension 1 of (N, C) and (N, C, …)."""
    return torch.softmax(x, dim=1)


SOFTMAX = Activation(
    "softmax", softmax, family="sigmoidal", formula="exp(x_c) / sum_k exp(x_k)", kind="channelwise",
    source="Bridle 1990; meant for the output layer",
)  # fmt: skip

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


# --- rectifiers -----------------------------------------------------------------------------------

RELU = Activation("relu", F.relu, family="rectifier", formula="max(x, 0)", source="Nair & Hinton 2010")


def leaky_relu(x: Tensor, negative_slope: Value = 0.01) -> Tensor:
    if isinstance(negative_slope, Tensor):
        # what F.prelu calls, which cannot broadcast; torch.where costs 11 times as much
        return torch.ops.aten._prelu_kernel(x, negative_slope.to(x.dtype))  # bf16 beside weights in float32
    return F.leaky_relu(x, negative_slope)


def leaky_relu_backward(grad: Tensor, x: Tensor, negative_slope: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    grad_x, grad_slope = torch.ops.aten._prelu_kernel_backward(grad, x, negative_slope)
    return grad_x, {"negative_slope": grad_slope}


SLOPE = Param("negative_slope", 0.01, low=1e-3, high=0.5, log=True, quoted=True)

LEAKY_RELU = Activation(
    "leaky_relu", leaky_relu, family="rectifier", formula="x for x > 0, negative_slope * x otherwise",
    params=(SLOPE,), source="Maas et al. 2013", backward=leaky_relu_backward,
)  # fmt: skip

PRELU = Activation(
    "prelu", leaky_relu, family="rectifier", formula="x for x > 0, negative_slope * x otherwise",
    params=(Param("negative_slope", 0.25, low=1e-3, high=0.5, log=True, learned=True),),
    source="He et al. 2015: leaky_relu with a slope learned per channel, from 0.25", backward=leaky_relu_backward,
)  # fmt: skip

RELU6 = Activation("relu6", F.relu6, family="rectifier", formula="min(max(x, 0), 6)", source="Krizhevsky 2010")


def leaky_relu6(x: Tensor, negative_slope: Value = 0.01) -> Tensor:
    # clamp(leaky_relu), not where: 3.6 relus against 17 (CPU, eager)
    return leaky_relu(x, negative_slope).clamp(max=6.0)


LEAKY_RELU6 = Activation(
    "leaky_relu6", leaky_relu6, family="rectifier", params=(SLOPE,),
    formula="min(x, 6) for x > 0, negative_slope * x otherwise",
    source="Jain 2019: ReLU6 and LeakyReLU combined, in no framework",
)  # fmt: skip


# --- exponential ----------------------------------------------------------------------------------

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


# --- self-gated -----------------------------------------------------------------------------------


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
