"""Elementwise activations and their backward passes as calls of torch's kernels that write into a given tensor.

The fused engine calls them where parameters are fixed numbers. Tests compare every entry with the catalogue's function
and its autograd gradient. An activation without a kernel here is trained in the fused engine too: its gradient then
comes from autograd, which is slower and gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actsearch.activations import exponential, periodic, rectifiers, self_gated, shrinkage, sigmoidal
from actsearch.activations.numerics import FAR

aten: Any = torch.ops.aten
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Kernel:
    """The two passes of an activation: forward(x, out, **params) and backward(grad, x, y, out, **params).

    y is the result of forward, and out may be grad itself. Parameters are floats or words. All tensors have the same
    shape and are contiguous: torch 2.15's gelu writes wrong float32 numbers into an `out` that is not contiguous.
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


def _elu_backward(
    grad: Tensor, x: Tensor, y: Tensor, out: Tensor, alpha: float, scale: float = 1.0, input_scale: float = 1.0
) -> None:
    aten.elu_backward.grad_input(grad, alpha, scale, input_scale, False, x, grad_input=out)


def _silu_forward(x: Tensor, out: Tensor, beta: float) -> None:
    if beta == 1.0:
        aten.silu.out(x, out=out)
    else:
        torch.sigmoid(torch.mul(x, beta, out=out), out=out).mul_(x)


def _silu_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, beta: float) -> None:
    # d/dx of x·sigmoid(βx) is silu's own derivative at βx
    aten.silu_backward.grad_input(grad, x if beta == 1.0 else beta * x, grad_input=out)


def _softsign_forward(x: Tensor, out: Tensor) -> None:
    x = aten.hardtanh.out(x, -FAR, FAR, out=out)
    torch.div(x, x.abs().add_(1), out=out)


def _softsign_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    torch.mul(grad, (1 - y.abs()).square_(), out=out)


def _lecun_tanh_forward(x: Tensor, out: Tensor) -> None:
    torch.tanh(torch.mul(x, 2 / 3, out=out), out=out).mul_(1.7159)


def _lecun_tanh_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    torch.mul(grad, y.square().mul_(-2 / 3 / 1.7159).add_(1.7159 * 2 / 3), out=out)


def _threshold_backward(grad: Tensor, x: Tensor, out: Tensor, threshold: float) -> None:
    aten.threshold_backward.grad_input(grad, x, threshold, grad_input=out)


def _sin_backward(grad: Tensor, x: Tensor, y: Tensor, out: Tensor, omega: float) -> None:
    torch.mul(grad, torch.mul(x, omega).cos_().mul_(omega), out=out)


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
        # not hardsigmoid_backward, whose slope in float64 is 1/6 rounded to float32
        lambda grad, x, y, out: aten.hardtanh_backward.grad_input(grad, x, -3.0, 3.0, grad_input=out).div_(6),
    ),
    sigmoidal.HARDTANH.fn: Kernel(
        lambda x, out, min_val, max_val: aten.hardtanh.out(x, min_val, max_val, out=out),
        lambda grad, x, y, out, min_val, max_val: aten.hardtanh_backward.grad_input(
            grad, x, min_val, max_val, grad_input=out
        ),
    ),
    sigmoidal.SOFTSIGN.fn: Kernel(_softsign_forward, _softsign_backward),
    sigmoidal.lecun_tanh: Kernel(_lecun_tanh_forward, _lecun_tanh_backward),
    sigmoidal.LOGSIGMOID.fn: Kernel(
        lambda x, out: aten.log_sigmoid.out(x, out=out),
        lambda grad, x, y, out: torch.mul(grad, torch.neg(x).sigmoid_(), out=out),
    ),
    sigmoidal.ARCTAN.fn: Kernel(
        lambda x, out: torch.atan(x, out=out), lambda grad, x, y, out: torch.div(grad, x.square().add_(1), out=out)
    ),
    rectifiers.RELU.fn: Kernel(lambda x, out: torch.clamp_min(x, 0, out=out), _relu_backward),
    rectifiers.leaky_relu: Kernel(
        lambda x, out, negative_slope: aten.leaky_relu.out(x, negative_slope, out=out), _leaky_relu_backward
    ),
    rectifiers.RELU6.fn: Kernel(
        lambda x, out: aten.hardtanh.out(x, 0.0, 6.0, out=out),
        lambda grad, x, y, out: aten.hardtanh_backward.grad_input(grad, x, 0.0, 6.0, grad_input=out),
    ),
    rectifiers.leaky_relu6: Kernel(_leaky_relu6_forward, _leaky_relu6_backward),
    rectifiers.squared_relu: Kernel(
        lambda x, out: torch.clamp_min(x, 0, out=out).square_(),
        lambda grad, x, y, out: torch.mul(grad, x.clamp_min(0).mul_(2), out=out),
    ),
    rectifiers.clipped_relu: Kernel(
        lambda x, out, cap: aten.hardtanh.out(x, 0.0, cap, out=out),
        lambda grad, x, y, out, cap: aten.hardtanh_backward.grad_input(grad, x, 0.0, cap, grad_input=out),
    ),
    rectifiers.thresholded_relu: Kernel(
        lambda x, out, theta: aten.threshold.out(x, theta, 0.0, out=out),
        lambda grad, x, y, out, theta: _threshold_backward(grad, x, out, theta),
    ),
    rectifiers.shifted_relu: Kernel(
        lambda x, out, shift: aten.threshold.out(x, -shift, -shift, out=out),
        lambda grad, x, y, out, shift: _threshold_backward(grad, x, out, -shift),
    ),
    shrinkage.softshrink: Kernel(
        lambda x, out, lambd: aten.softshrink.out(x, lambd, out=out),
        lambda grad, x, y, out, lambd: aten.softshrink_backward.grad_input(grad, x, lambd, grad_input=out),
    ),
    shrinkage.hardshrink: Kernel(
        lambda x, out, lambd: aten.hardshrink.out(x, lambd, out=out),
        lambda grad, x, y, out, lambd: aten.hardshrink_backward.grad_input(grad, x, lambd, grad_input=out),
    ),
    periodic.sin: Kernel(lambda x, out, omega: torch.sin(torch.mul(x, omega, out=out), out=out), _sin_backward),
    exponential.elu: Kernel(lambda x, out, alpha: aten.elu.out(x, alpha, out=out), _elu_backward),
    exponential.SELU.fn: Kernel(
        lambda x, out: aten.elu.out(x, SELU_ALPHA, SELU_SCALE, out=out),
        lambda grad, x, y, out: _elu_backward(grad, x, y, out, SELU_ALPHA, SELU_SCALE),
    ),
    exponential.celu: Kernel(
        lambda x, out, alpha: aten.elu.out(x, alpha, 1.0, 1.0 / alpha, out=out),
        lambda grad, x, y, out, alpha: _elu_backward(grad, x, y, out, alpha, input_scale=1.0 / alpha),
    ),
    exponential.softplus: Kernel(
        lambda x, out, beta: aten.softplus.out(x, beta, exponential.LINEAR, out=out),
        lambda grad, x, y, out, beta: aten.softplus_backward.grad_input(
            grad, x, beta, exponential.LINEAR, grad_input=out
        ),
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
