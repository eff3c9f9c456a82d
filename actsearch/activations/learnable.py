"""Activations whose whole shape is trained: rational functions, sums of hinges (shifted relus), splines."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.activations.activation import Activation, Param, Value
from actsearch.activations.numerics import finite, finite_below, in_float32


@in_float32
def pau(
    x: Tensor,
    a0: Value = 0.0335634, a1: Value = 0.505, a2: Value = 1.65318, a3: Value = 2.00937, a4: Value = 0.931452,
    a5: Value = 0.152326, b1: Value = 0.0, b2: Value = 3.97894, b3: Value = 0.0, b4: Value = 0.301635,
) -> Tensor:  # fmt: skip
    x = F.hardtanh(x, -1e6, 1e6)  # so that its fifth power is finite
    above = ((((a5 * x + a4) * x + a3) * x + a2) * x + a1) * x + a0
    below = (((b4 * x + b3) * x + b2) * x + b1) * x
    return above / (1 + torch.abs(below))


_PAU = {
    "a0": 0.0335634, "a1": 0.505, "a2": 1.65318, "a3": 2.00937, "a4": 0.931452, "a5": 0.152326,
    "b1": 0.0, "b2": 3.97894, "b3": 0.0, "b4": 0.301635,
}  # fmt: skip

PAU = Activation(
    "pau", pau, family="learned shape",
    formula="(a0 + a1 * x + ... + a5 * x^5) / (1 + |b1 * x + ... + b4 * x^4|)",
    params=tuple(Param(name, value, learned=True, shared=True) for name, value in _PAU.items()),
    source="Molina et al. 2020 (safe Pade activation unit), from our least-squares fit of leaky_relu on [-3, 3]: "
    "0.0055 off in the mean square, 0.034 at 0",
)  # fmt: skip


@in_float32
def apl(x: Tensor, a1: Value = 0.0, b1: Value = -1.0, a2: Value = 0.0, b2: Value = 1.0) -> Tensor:
    x = finite_below(x)
    return F.relu(x) + a1 * F.relu(b1 - x) + a2 * F.relu(b2 - x)


APL = Activation(
    "apl", apl, family="learned shape", formula="max(x, 0) + a1 * max(b1 - x, 0) + a2 * max(b2 - x, 0)",
    params=(
        Param("a1", 0.0, low=-0.5, high=0.5, learned=True), Param("b1", -1.0, low=-3.0, high=3.0, learned=True),
        Param("a2", 0.0, low=-0.5, high=0.5, learned=True), Param("b2", 1.0, low=-3.0, high=3.0, learned=True),
    ),
    source="Agostinelli et al. 2015 with S = 2 hinges; starts as relu, its hinges at -1 and 1",
)  # fmt: skip


@in_float32
def spline(
    x: Tensor,
    c0: Value = 0.0, c1: Value = 0.0, c2: Value = 0.0, c3: Value = 0.0, c4: Value = 0.0,
    c5: Value = 1.0, c6: Value = 2.0, c7: Value = 3.0, c8: Value = 4.0,
) -> Tensor:  # fmt: skip
    x = finite(x)
    slopes = [right - left for left, right in itertools.pairwise((c0, c1, c2, c3, c4, c5, c6, c7, c8))]
    inside = x.clamp(-4.0, 4.0)  # between the outer knots the sum of hinges is exact; two straight lines continue it
    y = c0 + slopes[0] * (inside + 4)
    for knot, (before, behind) in enumerate(itertools.pairwise(slopes), start=-3):
        y = y + (behind - before) * F.relu(inside - knot)
    return y + slopes[-1] * F.relu(x - 4) - slopes[0] * F.relu(-4 - x)


SPLINE = Activation(
    "spline", spline, family="learned shape",
    formula="c0, ..., c8 at x = -4, -3, ..., 4, straight lines between and beyond",
    params=tuple(Param(f"c{i}", max(i - 4.0, 0.0), learned=True, shared=True) for i in range(9)),
    source="Bohra et al. 2020 (deep splines), without their regularisation; starts as relu",
)  # fmt: skip
