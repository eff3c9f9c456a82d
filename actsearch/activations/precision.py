"""Half precision, which coarse intermediate results would ruin."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def in_float32(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """fn, computed in float32 where x is float16 or bfloat16, and so are its gradients; y has x's dtype.

    As torch's own kernels do inside, but here through several: x² is beyond float16 from 256 on, and the bfloat16
    nearest to 30 x may be a tenth of a period away from it.
    """

    @wraps(fn)
    def widened(x: Tensor, *args: Any, **params: Any) -> Tensor:
        if x.dtype in HALF:
            return fn(x.float(), *args, **params).to(x.dtype)
        return fn(x, *args, **params)

    return widened
