"""Elementwise activations as torch's own kernels that write into a given tensor, and their backward passes.

What the fused engine calls for fixed parameters; tests hold every entry equal to autograd of the catalogue's
function. An activation without a kernel here is still fused, by autograd on it alone: slower, not different.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsearch.activations import exponential, rectifiers, self_gated, sigmoidal

aten: Any = torch.ops.aten
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Kernel:
    """forward(x, out, **params); backward(grad, x, y, out, **params), where y is forward's result and out may be
    grad itself. Parameters are floats or words. All tensors have one shape and are contiguous: torch 2.15's gelu
    writes wrong float32 numbers into an `out` that is not.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _relu_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    aten.threshold_backward.grad_input(grad, y, 0, grad_input=out)


def _leaky_relu_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, negative_slope: float) -> None:
    aten.leaky_relu_backward.grad_input(grad, x, negative_slope, False, grad_input=out)


def _leaky_relu6_forward(x: Tensor, out: Tensor, negative_slope: float) -> None:
    aten.leaky_relu.out(x, negative_slope, out=out).clamp_(max=6.0)


def _leaky_relu6_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, negative_slope: float) -> None:
    aten.hardtanh_backward.grad_input(grad, x, -math.inf, 6.0, grad_input=out)
    aten.leaky_relu_backward.grad_input(out, x, negative_slope, False, grad_input=out)


def _elu_like(scale: float = 1.0) -> Callable[..., Any]:
    def backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, alpha: float) -> None:
        aten.elu_backward.grad_input(grad, alpha, scale, 1.0, False, x, grad_input=out)

    return backward


def _celu_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, alpha: float) -> None:
    # 1 / float32(α), because torch's own derivative has it so, whatever the dtype
    aten.elu_backward.grad_input(grad, alpha, 1.0, 1.0 / float(np.float32(alpha)), False, x, grad_input=out)


def _silu_forward(x: Tensor, out: Tensor, beta: float) -> None:
    if beta == 1.0:
        aten.silu.out(x, out=out)
    else:
        torch.sigmoid(torch.mul(x, beta, out=out), out=out).mul_(x)


def _silu_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, beta: float) -> None:
    # d/dx of x·sigmoid(βx) is silu's own derivative at βx
    aten.silu_backward.grad_input(grad, x if beta == 1.0 else beta * x, grad_input=out)


def _softsign_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    torch.mul(grad, (1 - y.abs()).square_(), out=out)


KERNELS: dict[Callable[..., Tensor], Kernel] = {
    sigmoidal.IDENTITY.fn: Kernel(lambda x, out: out.copy_(x), lambda grad, x, y, out: out is grad or out.copy_(grad)),
    sigmoidal.SIGMOID.fn: Kernel(
        lambda x, out: torch.sigmoid(x, out=out),
        lambda grad, x, y, out: aten.sigmoid_backward.grad_input(grad, y, grad_input=out),
    ),
    sigmoidal.TANH.fn: Kernel(
        lambda x, out: torch.tanh(x, out=out),
        lambda grad, x, y, out: aten.tanh_backward.grad_input(grad, y, grad_input=out),
    ),
    sigmoidal.HARDSIGMOID.fn: Kernel(
        lambda x, out: aten.hardsigmoid.out(x, out=out),
        lambda grad, x, y, out: aten.hardsigmoid_backward.grad_input(grad, x, grad_input=out),
    ),
    sigmoidal.HARDTANH.fn: Kernel(
        lambda x, out, min_val, max_val: aten.hardtanh.out(x, min_val, max_val, out=out),
        lambda grad, x, y, out, min_val, max_val: aten.hardtanh_backward.grad_input(
            grad, x, min_val, max_val, grad_input=out
        ),
    ),
    sigmoidal.SOFTSIGN.fn: Kernel(lambda x, out: torch.div(x, x.abs().add_(1), out=out), _softsign_backward),
    rectifiers.RELU.fn: Kernel(lambda x, out: torch.clamp_min(x, 0, out=out), _relu_backward),
    rectifiers.leaky_relu: Kernel(
        lambda x, out, negative_slope: aten.leaky_relu.out(x, negative_slope, out=out), _leaky_relu_backward
    ),
    rectifiers.RELU6.fn: Kernel(
        lambda x, out: aten.hardtanh.out(x, 0.0, 6.0, out=out),
        lambda grad, x, y, out: aten.hardtanh_backward.grad_input(grad, x, 0.0, 6.0, grad_input=out),
    ),
    rectifiers.leaky_relu6: Kernel(_leaky_relu6_forward, _leaky_relu6_backward),
    exponential.elu: Kernel(lambda x, out, alpha: aten.elu.out(x, alpha, out=out), _elu_like()),
    exponential.SELU.fn: Kernel(
        lambda x, out: aten.elu.out(x, SELU_ALPHA, SELU_SCALE, out=out),
        lambda grad, x, y, out: _elu_like(SELU_SCALE)(grad, x, y, out, SELU_ALPHA),
    ),
    exponential.celu: Kernel(lambda x, out, alpha: aten.elu.out(x, alpha, 1.0, 1.0 / alpha, out=out), _celu_backward),
    exponential.softplus: Kernel(
        lambda x, out, beta: aten.softplus.out(x, beta, 20.0, out=out),
        lambda grad, x, y, out, beta: aten.softplus_backward.grad_input(grad, x, beta, 20.0, grad_input=out),
    ),
    self_gated.gelu: Kernel(
        lambda x, out, approximate: aten.gelu.out(x, approximate=approximate, out=out),
        lambda grad, x, y, out, approximate: aten.gelu_backward.grad_input(
            grad, x, approximate=approximate, grad_input=out
        ),
    ),
    self_gated.silu: Kernel(_silu_forward, _silu_backward),
    self_gated.HARDSWISH.fn: Kernel(
        lambda x, out: aten.hardswish.out(x, out=out),
        lambda grad, x, y, out: aten.hardswish_backward.out(grad, x, out=out),
    ),
    self_gated.MISH.fn: Kernel(
        lambda x, out: aten.mish.out(x, out=out),
        lambda grad, x, y, out: out.copy_(aten.mish_backward(grad, x)),
    ),
}
