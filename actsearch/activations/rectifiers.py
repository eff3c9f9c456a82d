"""Rectifiers: activations made of linear or quadratic pieces, most of them with a bend at 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import in_float32

RELU = Activation("relu", F.relu, family="rectifier", formula="max(x, 0)", source="Nair & Hinton 2010")


def leaky_relu(x: Tensor, negative_slope: Value = 0.01) -> Tensor:
    if isinstance(negative_slope, Tensor):
        # the kernel behind F.prelu, which itself cannot broadcast; torch.where costs 11 times as much
        return torch.ops.aten._prelu_kernel(x, negative_slope.to(x.dtype))  # x may be bfloat16, weights float32
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
    # clamp(leaky_relu) costs as much as 3.6 relus, torch.where as much as 17 (CPU, eager)
    return leaky_relu(x, negative_slope).clamp(max=6.0)


LEAKY_RELU6 = Activation(
    "leaky_relu6", leaky_relu6, family="rectifier", params=(SLOPE,),
    formula="min(x, 6) for x > 0, negative_slope * x otherwise",
    source="Jain 2019: ReLU6 and LeakyReLU combined, in no framework",
)  # fmt: skip


def rrelu(x: Tensor, lower: Value = 1 / 8, upper: Value = 1 / 3, training: bool = False) -> Tensor:
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor) and lower > upper:
        raise ValueError(f"lower={lower:g} is above upper={upper:g}")
    if training:
        # slopes are drawn for positive x as well, so that the random numbers do not depend on x
        return _between(x, lower, upper, torch.rand_like(x))
    return leaky_relu(x, (lower + upper) / 2)


@in_float32
def _between(x: Tensor, lower: Value, upper: Value, share: Tensor) -> Tensor:
    return leaky_relu(x, lower + (upper - lower) * share)


RRELU = Activation(
    "rrelu", rrelu, family="rectifier", kind="stochastic",
    formula="x for x > 0, r * x otherwise, r from U(lower, upper)",
    params=(Param("lower", 1 / 8, low=0.01, high=0.25), Param("upper", 1 / 3, low=0.25, high=1.0)),
    source="Xu et al. 2015, who divide by U(3, 8), at test by 5.5; as in torch the slope is drawn, its mean at test",
)  # fmt: skip


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


SQUARED_RELU = Activation(
    "squared_relu", squared_relu, family="rectifier", formula="max(x, 0)^2", aliases=("relu2",),
    source="So et al. 2021 (Primer)",
)  # fmt: skip


@in_float32
def star_relu(x: Tensor, s: Value = 0.8944, b: Value = -0.4472) -> Tensor:
    return s * F.relu(x).square() + b


STAR_RELU = Activation(
    "star_relu", star_relu, family="rectifier", formula="s * max(x, 0)^2 + b",
    params=(
        Param("s", 0.8944, low=0.3, high=3.0, log=True, learned=True, shared=True),
        Param("b", -0.4472, low=-1.0, high=0.0, learned=True, shared=True),
    ),
    source="Yu et al. 2022: mean 0 and variance 1 for x from N(0, 1); the authors' code starts from s = 1, b = 0",
)  # fmt: skip


def flexible_relu(x: Tensor, b: Value = 0.0) -> Tensor:
    return (F.relu(x) + b).to(x.dtype)


FLEXIBLE_RELU = Activation(
    "flexible_relu", flexible_relu, family="rectifier", formula="max(x, 0) + b",
    params=(Param("b", 0.0, low=-1.0, high=1.0, learned=True, shared=True),),
    source="Qiu et al. 2018, as FReLU, which is another's name since; b starts so that it is relu",
)  # fmt: skip


def clipped_relu(x: Tensor, cap: Value = 20.0) -> Tensor:
    if isinstance(cap, Tensor):
        return torch.where(x < cap, F.relu(x), cap.to(x.dtype))  # at the cap the slope is 0, as in relu6
    return F.hardtanh(x, 0.0, cap)


CLIPPED_RELU = Activation(
    "clipped_relu", clipped_relu, family="rectifier", formula="min(max(x, 0), cap)", aliases=("capped_relu",),
    params=(Param("cap", 20.0, low=0.5, high=20.0, log=True),),
    source="Hannun et al. 2014 (Deep Speech); with cap 6 relu6",
)  # fmt: skip


def thresholded_relu(x: Tensor, theta: Value = 1.0) -> Tensor:
    if isinstance(theta, Tensor):
        # 0 * theta instead of 0, so that a learned theta gets a gradient, though it is 0
        return torch.where(x > theta, x, (0.0 * theta).to(x.dtype))
    return F.threshold(x, theta, 0.0)


THRESHOLDED_RELU = Activation(
    "thresholded_relu", thresholded_relu, family="rectifier", formula="x for x > theta, 0 otherwise",
    params=(Param("theta", 1.0, low=0.1, high=3.0, log=True),),
    source="Konda et al. 2015; not continuous, so that theta has no gradient",
)  # fmt: skip


def shifted_relu(x: Tensor, shift: Value = 1.0) -> Tensor:
    if isinstance(shift, Tensor):
        return torch.where(x > -shift, x, (-shift).to(x.dtype))
    return F.threshold(x, -shift, -shift)  # not clamp: at the bend its slope is 1, relu's is 0


SHIFTED_RELU = Activation(
    "shifted_relu", shifted_relu, family="rectifier", formula="max(x, -shift)",
    params=(Param("shift", 1.0, low=0.02, high=2.0, log=True),),
    source="Clevert et al. 2016 (SReLU, shift 1); Macedo et al. 2019 (displaced, shift 0.05)",
)  # fmt: skip


@in_float32
def srelu(x: Tensor, t_r: Value = 1.0, a_r: Value = 1.0, t_l: Value = 0.0, a_l: Value = 0.2) -> Tensor:
    left = torch.where(x > t_l, x, t_l + a_l * (x - t_l))
    return torch.where(x < t_r, left, t_r + a_r * (x - t_r))


SRELU = Activation(
    "srelu", srelu, family="rectifier",
    formula="t_r + a_r * (x - t_r) for x >= t_r, t_l + a_l * (x - t_l) for x <= t_l, x between",
    params=(
        Param("t_r", 1.0, low=0.3, high=6.0, log=True, learned=True),
        Param("a_r", 1.0, low=0.1, high=2.0, log=True, learned=True),
        Param("t_l", 0.0, low=-3.0, high=0.0, learned=True),
        Param("a_l", 0.2, low=0.01, high=0.5, log=True, learned=True),
    ),
    source="Jin et al. 2016, who keep a leaky relu for some epochs and then set t_r from the data; here it starts at 1",
)  # fmt: skip
