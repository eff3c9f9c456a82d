"""What keeps functions right at the ends of a precision's range."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FAR = 1e15  # for finite: a bounded function is at its bound there, and the square is still finite in float32


def finite_below(x: Tensor) -> Tensor:
    """x with -inf as the lowest number there is: -inf times a gate of 0 is NaN, also in torch's own kernels.

    threshold, because its two passes cost 0.6 to 0.9 of a relu; clamp's cost 1.3 to 5.
    """
    lowest = torch.finfo(x.dtype).min
    return F.threshold(x, lowest, lowest)


def finite(x: Tensor, most: float | None = None) -> Tensor:
    """x between ±most, without it between the outermost numbers there are."""
    most = torch.finfo(x.dtype).max if most is None else most
    return F.hardtanh(x, -most, most)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """max(x, 0) and min(x, 0). The slope at 0 is the second's, 1: as torch has it for leaky_relu and elu.

    Functions of one each, added, cost a fraction of torch.where on both.
    """
    x = finite(x)
    above = F.relu(x)
    return above, x - above


def in_float32(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of several steps, computed in float32 where x is half precision, as torch's kernels do inside.

    float16 ends at 65504, so the square of 300 is infinite there and a derivative 0 · inf. The result has x's dtype.
    """

    @functools.wraps(fn)
    def wide(x: Tensor, *args: Tensor | float, **params: Tensor | float) -> Tensor:
        if x.dtype in HALF:
            return fn(x.float(), *args, **params).to(x.dtype)
        return fn(x, *args, **params)

    return wide
