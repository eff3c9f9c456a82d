"""The identity, and S-shaped activations: bounded on both sides, or on one (logsigmoid)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import FAR, finite, in_float32
from actsearch.activations.rectifiers import leaky_relu


def identity(x: Tensor) -> Tensor:
    return x


IDENTITY = Activation(
    "identity", identity, family="linear", formula="x", source="no activation: a stack of it is one linear map",
    aliases=("linear",),
)  # fmt: skip

SIGMOID = Activation("sigmoid", torch.sigmoid, family="sigmoidal", formula="1 / (1 + exp(-x))", source="Cybenko 1989")

TANH = Activation("tanh", torch.tanh, family="sigmoidal", formula="tanh(x)", source="LeCun et al. 1998")


@in_float32
def hardsigmoid(x: Tensor) -> Tensor:
    # not F.hardsigmoid: it has no second derivative, and its slope in float64 is 1/6 rounded to float32 (torch 2.15)
    return (F.hardtanh(x, -3.0, 3.0) + 3) / 6


HARDSIGMOID = Activation(
    "hardsigmoid", hardsigmoid, family="sigmoidal", formula="min(max(x / 6 + 1/2, 0), 1)",
    source="Courbariaux et al. 2015, with torch's slope of 1/6",
)  # fmt: skip


def hardtanh(x: Tensor, min_val: Value = -1.0, max_val: Value = 1.0) -> Tensor:
    if isinstance(min_val, Tensor) or isinstance(max_val, Tensor):
        # torch.where, because clamp takes two tensors or two numbers, never one of each
        low, high = (v.to(x.dtype) if isinstance(v, Tensor) else x.new_full((), v) for v in (min_val, max_val))
        return torch.where(x <= low, low, torch.where(x >= high, high, x))
    return F.hardtanh(x, min_val, max_val)


HARDTANH = Activation(
    "hardtanh", hardtanh, family="sigmoidal", formula="min(max(x, min_val), max_val)", source="Collobert 2004",
    params=(Param("min_val", -1.0, low=-3.0, high=-0.3), Param("max_val", 1.0, low=0.3, high=3.0)),
)  # fmt: skip


@in_float32
def softsign(x: Tensor) -> Tensor:
    return F.softsign(finite(x))


SOFTSIGN = Activation("softsign", softsign, family="sigmoidal", formula="x / (1 + |x|)", source="Bergstra et al. 2009")


def lecun_tanh(x: Tensor) -> Tensor:
    return 1.7159 * torch.tanh(x * (2 / 3))


LECUN_TANH = Activation(
    "lecun_tanh", lecun_tanh, family="sigmoidal", formula="1.7159 * tanh(2/3 * x)",
    source="LeCun et al. 1998 (Efficient BackProp): f(1) = 1, f(-1) = -1",
)  # fmt: skip


def bipolar_sigmoid(x: Tensor) -> Tensor:
    return torch.tanh(x / 2)


BIPOLAR_SIGMOID = Activation(
    "bipolar_sigmoid", bipolar_sigmoid, family="sigmoidal", formula="(1 - exp(-x)) / (1 + exp(-x))",
    source="Fausett 1994; the same as tanh(x / 2)",
)  # fmt: skip


def penalized_tanh(x: Tensor, a: Value = 0.25) -> Tensor:
    return leaky_relu(torch.tanh(x), a)


PENALIZED_TANH = Activation(
    "penalized_tanh", penalized_tanh, family="sigmoidal", formula="tanh(x) for x > 0, a * tanh(x) otherwise",
    params=(Param("a", 0.25, low=0.01, high=0.9),), source="Xu, Huang & Li 2016",
)  # fmt: skip

LOGSIGMOID = Activation(
    "logsigmoid", F.logsigmoid, family="sigmoidal", formula="-log(1 + exp(-x))",
    source="torch; -softplus(-x), for the loss rather than between layers",
)  # fmt: skip

ARCTAN = Activation(
    "arctan", in_float32(torch.atan), family="sigmoidal", formula="arctan(x)", aliases=("atan",),
    source="Kamruzzaman & Aziz 2002; between -pi/2 and pi/2",
)  # fmt: skip

ERF = Activation(
    "erf", in_float32(torch.erf), family="sigmoidal", formula="2 / sqrt(pi) * integral of exp(-t^2), t from 0 to x",
    source="Williams 1997; Saad & Solla 1995 have erf(x / sqrt(2))",
)  # fmt: skip


@in_float32
def isru(x: Tensor, alpha: Value = 1.0) -> Tensor:
    x = finite(x, FAR)
    return x * torch.rsqrt(1 + alpha * x.square())


def isru_backward(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x = finite(x, FAR)
    root = torch.rsqrt(1 + alpha * x.square())
    cubed = root * root.square()
    return grad * cubed, {"alpha": grad * -0.5 * (x * root).square() * x * root}


ISRU = Activation(
    "isru", isru, family="sigmoidal", formula="x / sqrt(1 + alpha * x^2)", backward=isru_backward,
    params=(Param("alpha", 1.0, low=0.1, high=10.0, log=True, least=0.0),),
    source="Carlile et al. 2017; between -1 and 1 over sqrt(alpha)",
)  # fmt: skip
