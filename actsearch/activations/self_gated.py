"""Activations that multiply x by a gate, a function of x that mostly lies between 0 and 1.

silu, gelu and hardswish are torch's own kernels, which return NaN at -inf. A guard against that costs 0.6 to 1.2 relus
at every call, and a net that has an infinite input there has diverged anyway. The other functions have such a guard.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import finite, finite_below, in_float32


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if x.dtype == torch.float16:  # its second derivative has x², which overflows from 256 on
        return F.gelu(x.float(), approximate=approximate).to(x.dtype)
    return F.gelu(x, approximate=approximate)


GELU = Activation(
    "gelu", gelu, family="self-gated", formula="x * Phi(x), Phi the normal distribution function",
    params=(Param("approximate", "none", choices=("none", "tanh")),), source="Hendrycks & Gimpel 2016",
)  # fmt: skip


def silu(x: Tensor, beta: Value = 1.0) -> Tensor:
    if isinstance(beta, Tensor) or beta != 1.0:
        return _swish(x, beta)
    return F.silu(x)


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
HARDSWISH = Activation(
    "hardswish", F.hardswish, family="self-gated", formula="x * min(max(x + 3, 0), 6) / 6",
    source="Howard et al. 2019 (MobileNetV3)",
)  # fmt: skip


@in_float32
def mish(x: Tensor) -> Tensor:
    # not F.mish: its second derivative is NaN from x = 100 on
    x = finite_below(x)
    return x * torch.tanh(F.softplus(x))


MISH = Activation("mish", mish, family="self-gated", formula="x * tanh(softplus(x))", source="Misra 2019")


def quick_gelu(x: Tensor) -> Tensor:
    return _swish(x, 1.702)


QUICK_GELU = Activation(
    "quick_gelu", quick_gelu, family="self-gated", formula="x * sigmoid(1.702 * x)",
    source="Hendrycks & Gimpel 2016, as an approximation of gelu; Radford et al. 2021 (CLIP)",
)  # fmt: skip


@in_float32
def logish(x: Tensor) -> Tensor:
    x = finite_below(x)
    return x * torch.log1p(torch.sigmoid(x))


LOGISH = Activation("logish", logish, family="self-gated", formula="x * log(1 + sigmoid(x))", source="Zhu et al. 2021")


@in_float32
def smish(x: Tensor) -> Tensor:
    x = finite_below(x)
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


SMISH = Activation(
    "smish", smish, family="self-gated", formula="x * tanh(log(1 + sigmoid(x)))", source="Wang et al. 2022"
)


@in_float32
def phish(x: Tensor) -> Tensor:
    x = finite(x)
    return x * torch.tanh(gelu(x))


PHISH = Activation("phish", phish, family="self-gated", formula="x * tanh(gelu(x))", source="Naveen 2022")


@in_float32
def tanhexp(x: Tensor) -> Tensor:
    x = finite_below(x)
    grown = torch.exp(x.clamp(max=10.0))  # the gate is 1 in float64 from x = 3 on
    # autograd computes tanh's derivative as 1 - tanh^2, which has no exact digits left where grown is large
    return x * torch.where(x > 0, 1 - 2 * torch.sigmoid(-2 * grown), torch.tanh(grown))


TANHEXP = Activation(
    "tanhexp", tanhexp, family="self-gated", formula="x * tanh(exp(x))", aliases=("telu",),
    source="Liu & Di 2020; again as telu: Fernandez & Mali 2024",
)  # fmt: skip


@in_float32
def serf(x: Tensor) -> Tensor:
    x = finite_below(x)
    return x * torch.erf(F.softplus(x))


SERF = Activation("serf", serf, family="self-gated", formula="x * erf(softplus(x))", source="Nag et al. 2022")


@in_float32
def smu(x: Tensor, alpha: Value = 0.25, mu: Value = 1e6) -> Tensor:
    x = finite_below(x)
    if isinstance(mu, Tensor):
        mu = finite(mu, 1e30)  # a mu of 1e6 that was converted to float16 is infinite, and inf * 0 is NaN
    return x * (alpha + (1 - alpha) / 2 * (1 + torch.erf(mu * (1 - alpha) * x)))


SMU = Activation(
    "smu", smu, family="self-gated", formula="((1 + alpha) * x + (1 - alpha) * x * erf(mu * (1 - alpha) * x)) / 2",
    params=(
        Param("alpha", 0.25, low=0.01, high=0.5, log=True),
        Param("mu", 1e6, low=0.3, high=1e6, log=True, learned=True, shared=True),
    ),
    source="Biswas et al. 2022: gelu at alpha = 0, mu = 0.7071; at 1e6, where public code starts, it is leaky_relu",
)  # fmt: skip


@in_float32
def acon_c(x: Tensor, p1: Value = 1.0, p2: Value = 0.0, beta: Value = 1.0) -> Tensor:
    x = finite_below(x)
    return x * (p2 + (p1 - p2) * torch.sigmoid(beta * (p1 - p2) * x))


ACON_C = Activation(
    "acon_c", acon_c, family="self-gated", formula="(p1 - p2) * x * sigmoid(beta * (p1 - p2) * x) + p2 * x",
    params=(
        Param("p1", 1.0, low=0.5, high=2.0, learned=True),
        Param("p2", 0.0, low=-0.5, high=0.5, learned=True),
        Param("beta", 1.0, low=0.1, high=10.0, log=True, learned=True),
    ),
    source="Ma et al. 2021; p1 and p2 start at 1 and 0, so as swish, where the authors' code draws them from N(0, 1)",
)  # fmt: skip
