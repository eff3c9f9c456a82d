"""Shrinkage: activations that pull x towards zero. They come from denoising, where small coefficients are noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import in_float32

LAMBD = Param("lambd", 0.5, low=0.05, high=2.0, log=True)


def softshrink(x: Tensor, lambd: Value = 0.5) -> Tensor:
    if isinstance(lambd, Tensor):
        return (F.relu(x - lambd) - F.relu(-x - lambd)).to(x.dtype)
    return F.softshrink(x, lambd)


SOFTSHRINK = Activation(
    "softshrink", softshrink, family="shrinkage", formula="sign(x) * max(|x| - lambd, 0)", params=(LAMBD,),
    source="Donoho 1995 (soft thresholding)",
)  # fmt: skip


def hardshrink(x: Tensor, lambd: Value = 0.5) -> Tensor:
    if isinstance(lambd, Tensor):
        # 0 * lambd instead of 0, so that a learned lambd gets a gradient, though it is 0
        return torch.where(x.abs() > lambd, x, (0.0 * lambd).to(x.dtype))
    return F.hardshrink(x, lambd)


HARDSHRINK = Activation(
    "hardshrink", hardshrink, family="shrinkage", formula="x for |x| > lambd, 0 otherwise", params=(LAMBD,),
    source="Donoho & Johnstone 1994 (hard thresholding); not continuous, so that lambd has no gradient",
)  # fmt: skip

TANHSHRINK = Activation(
    "tanhshrink", in_float32(F.tanhshrink), family="shrinkage", formula="x - tanh(x)", source="torch, of no paper"
)
