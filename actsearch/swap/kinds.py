"""Tells which modules are activations: torch's by their class, all others by trying them on numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule
from actsearch.random_states import random_states_kept
from actsearch.swap.copies import classes_kept, copied, difference

Kind = Literal["hidden", "gate", "steps"]
SHAPE = (2, 4, 3, 4)  # of the inputs on which modules are tried

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


def kind_of(module: nn.Module) -> Kind | None:
    """Whether a module is a hidden activation, a gate (a sigmoid or a softmax), steps, or no activation (None).

    A module that is not torch's (timm's Swish, transformers' NewGELUActivation, a user's) is an activation if it has no
    children but activations, keeps no state, and is an elementwise function that is not linear, the same at all
    positions and at every call. It is a gate if, in addition, it never falls and its values lie between 0 and 1. It is
    steps if it is constant but for jumps, as rounding and sign are. A copy is tried, never the module itself.
    """
    if isinstance(module, GATES):
        return "gate"
    if isinstance(module, HIDDEN):
        return "hidden"
    if type(module).__module__.startswith("torch.") or type(module).forward is nn.Sequential.forward:
        return None
    if any(kind_of(child) is None for child in module.children()):
        return None
    try:
        with _tried(module) as twin:
            before = copied(twin)
            kind = _by_values(twin.forward)
            return kind if difference(before, twin, False) is None else None
    except Exception:  # it takes other inputs, so it is no activation
        return None


def writes_input(module: nn.Module) -> bool:
    """Whether an activation writes its output into its input. torch's have a flag for it; others are tried."""
    if getattr(module, "inplace", False) or isinstance(module, (*HIDDEN, *GATES)) or kind_of(module) is None:
        return bool(getattr(module, "inplace", False))
    with _tried(module) as twin:
        x = torch.linspace(-6, 6, 96).view(SHAPE)
        given = x.clone()
        twin.forward(given)
        return not torch.equal(given, x)


@contextmanager
def _tried(module: nn.Module) -> Iterator[nn.Module]:
    """A copy of a module to run: in evaluation mode, in float32 on the CPU, without gradients."""
    with torch.no_grad(), random_states_kept(), classes_kept(module):
        twin = copied(module).cpu().float()
        for m in twin.modules():
            m.training = False
        yield twin


def _by_values(forward: Callable[[Tensor], Tensor]) -> Kind | None:
    x = torch.linspace(-6, 6, 97)[1:] + 0.0123  # 96 points, none of them 0, nor where rounding jumps
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))

    def f(values: Tensor) -> Tensor:
        out = forward(values.clone().view(SHAPE))
        return out.float().reshape(96) if out.shape == SHAPE else out.new_empty(0)

    y, mixed, half = f(x), f(x[order]), f(x.clamp(max=0.02))
    same = torch.allclose(mixed, y[order], atol=1e-5) and torch.allclose(half[:48], y[:48], atol=1e-5)
    if not same or not y.isfinite().all() or y.diff().diff().abs().max() < 1e-3:
        return None
    slopes = (f(x + 1e-3) - y).abs() / 1e-3
    if ((slopes < 1e-3) | (slopes > 20)).all():
        return "steps"
    return "gate" if y.min() >= 0 and y.max() <= 1 and (y.diff() >= 0).all() else "hidden"
