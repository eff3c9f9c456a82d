"""Tells which modules are activations: torch's by their class, all others by trying them on numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule

HIDDEN = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold, ActivationModule,
)  # fmt: skip

GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax)

INSIDE = {
    nn.MultiheadAttention: "its softmax", nn.LSTM: "its gates and tanh", nn.GRU: "its gates and tanh",
    nn.RNN: "its nonlinearity", nn.LSTMCell: "its gates and tanh", nn.GRUCell: "its gates and tanh",
    nn.RNNCell: "its nonlinearity",
}  # fmt: skip


def kind_of(module: nn.Module) -> Literal["hidden", "gate"] | None:
    """Whether a module is a hidden activation, a gate (a sigmoid or a softmax), or no activation (None).

    A module that is not torch's (timm's Swish, transformers' NewGELUActivation, a user's) is an activation if it has no
    children and is an elementwise function that is not linear, the same at all positions and at every call. It is a
    gate if, in addition, it never falls and its values lie between 0 and 1.
    """
    if isinstance(module, GATES):
        return "gate"
    if isinstance(module, HIDDEN):
        return "hidden"
    if type(module).__module__.startswith("torch.") or next(module.children(), None) is not None:
        return None
    try:
        with _tried(module) as weight:
            return _by_values(module, weight)
    except Exception:  # it takes other inputs, so it is no activation
        return None


def writes_input(module: nn.Module) -> bool:
    """Whether an activation writes its output into its input. torch's have a flag for it; others are tried."""
    if getattr(module, "inplace", False) or isinstance(module, (*HIDDEN, *GATES)) or kind_of(module) is None:
        return bool(getattr(module, "inplace", False))
    with _tried(module) as weight:
        x = torch.linspace(-6, 6, 96, device=weight.device).to(weight.dtype).view(2, 4, 3, 4)
        given = x.clone()
        module.forward(given)
        return not torch.equal(given, x)


@contextmanager
def _tried(module: nn.Module) -> Iterator[Tensor]:
    """Puts a module into evaluation mode without gradients; yields one of its weights, to tell device and dtype."""
    training = module.training
    try:
        module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield next(module.parameters(), next(module.buffers(), torch.zeros(())))
    finally:
        module.training = training


def _by_values(module: nn.Module, weight: Tensor) -> Literal["hidden", "gate"] | None:
    x = torch.linspace(-6, 6, 97, device=weight.device)[1:]  # 96 points, none of them 0
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0)).to(weight.device)

    def f(values: Tensor) -> Tensor:
        out = module.forward(values.to(weight.dtype).clone().view(2, 4, 3, 4))
        return out.float().reshape(96) if out.shape == (2, 4, 3, 4) else out.new_empty(0)

    y, mixed, half = f(x), f(x[order]), f(x.clamp(max=0.01))
    same = torch.allclose(mixed, y[order], atol=1e-5) and torch.allclose(half[:48], y[:48], atol=1e-5)
    if not same or not y.isfinite().all() or y.diff().diff().abs().max() < 1e-3:
        return None
    return "gate" if y.min() >= 0 and y.max() <= 1 and (y.diff() >= 0).all() else "hidden"
