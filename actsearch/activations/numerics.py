"""Helpers that keep functions finite and accurate for infinite inputs and in half precision."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
FAR = 1e15  # a limit for `finite`: bounded functions have reached their bound there, and FAR² is finite in float32


def finite_below(x: Tensor) -> Tensor:
    """x with -inf replaced by the lowest finite number, since -inf times a gate of 0 is NaN (in torch's kernels too).

    It uses threshold: its two passes, forward and backward, cost as much as 0.6 to 0.9 relus; clamp's cost 1.3 to 5.
    """
    lowest = torch.finfo(x.dtype).min
    return F.threshold(x, lowest, lowest)


def finite(x: Tensor, most: float | None = None) -> Tensor:
    """x limited to ±most; if most is None, to the largest finite numbers of its dtype."""
    most = torch.finfo(x.dtype).max if most is None else most
    return F.hardtanh(x, -most, most)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """max(x, 0) and min(x, 0). At 0 their slopes are 0 and 1: 0 counts as negative, as in torch's leaky_relu and elu.

    A function of the first plus a function of the second costs a fraction of torch.where between the two.
    """
    x = finite(x)
    above = F.relu(x)
    return above, x - above


def in_float32(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator for functions of several steps: if x is in half precision, they are computed in float32.

    torch's own kernels do the same inside. The largest float16 is 65504, so there the square of 300 is infinite and a
    derivative may be 0 · inf. The result has x's dtype. Parameters become float32 too, so that the parts of their
    gradients are added up before they are rounded.
    """

    @functools.wraps(fn)
    def wide(x: Tensor, *args: Tensor | float, **params: Tensor | float) -> Tensor:
        if x.dtype in HALF:
            args = tuple(v.float() if isinstance(v, Tensor) else v for v in args)
            params = {k: v.float() if isinstance(v, Tensor) else v for k, v in params.items()}
            return fn(x.float(), *args, **params).to(x.dtype)
        return fn(x, *args, **params)

    return wide


class KeepsFloat32(nn.Module):
    """A module whose parameters and buffers stay in float32 if it is converted to half precision.

    For modules that compute statistics of x: a variance may be too large for float16.
    """

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> nn.Module:
        def kept(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return tensor.float().to(made.device) if made.dtype in HALF else made

        return super()._apply(kept, recurse)
