"""Properties of an activation, measured: its shape as a function, and its effect on normal inputs and gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from actsearch.activations.imported import kept
from actsearch.activations.spec import Spec, gain, on_normal
from actsearch.measure.shape import Function, Shape, shape_of, with_slope
from actsearch.training.diagnostics import SATURATED


@dataclass(frozen=True)
class Properties:
    """Properties of an activation for inputs z ~ N(0, 1), as behind a norm or a layer with suitable initial weights.

    mean, variance, second_moment: of f(z). gain: g = 1/√E[f(z)²], which `recipe.init=gain` uses; with weights
    N(0, g²/fan_in) the length map of Poole et al. 2016, q → g² E[f(√q z)²], has a fixed point at 1.
    chi: g² E[f′(z)²], the slope of the correlation map at this fixed point (Schoenholz et al. 2017). It is the factor
    by which a layer multiplies the mean square of a gradient: above 1 gradients grow with depth, below 1 they vanish.
    The others are given for elementwise activations and None for all others:
    shape: the function's shape. length_slope: the slope of the length map at 1; below 1, a signal that is too large or
    too small comes back to size 1 from layer to layer. fixed_point: to which q repeating the map q → E[f(√q z)²]
    (without gain) leads from q = 1: 0 if signals die out, inf if they grow without bound. saturated_share: the
    probability of |f′(z)| < 0.01, the threshold of the diagnostics.
    A number is NaN if f, or the f′ that it needs, is NaN for some z within ±9.
    """

    activation: str
    mean: float
    variance: float
    second_moment: float
    gain: float
    chi: float
    shape: Shape | None = None
    length_slope: float | None = None
    fixed_point: float | None = None
    saturated_share: float | None = None

    @property
    def zero_centred(self) -> bool:
        return abs(self.mean) < 1e-6


@kept(256)
def properties_of(spec: Spec) -> Properties:
    """The properties of a spec. Learned parameters have their initial values; stochastic activations infer."""
    if spec.activation.kind not in ("elementwise", "stochastic"):
        return _from_draws(spec)

    def f(x: Tensor) -> Tensor:
        return spec(x.view(1, -1)).view(-1)

    shape = shape_of(f)
    z, weight = _normal_nodes([step.at for step in (*shape.jumps, *shape.kinks)])
    y, slope = with_slope(f, z)

    def expectation(values: Tensor) -> float:
        return (values * weight).sum().item()

    mean, second = expectation(y), expectation(y.square())
    g = math.nan if math.isnan(second) else gain(spec)
    even = torch.linspace(-8.0, 8.0, 100_000, dtype=torch.float64)
    steepness = with_slope(f, even)[1].abs()
    flat = torch.where(steepness.isnan(), math.nan, (steepness < SATURATED).double())
    return Properties(
        activation=str(spec), mean=mean, variance=second - mean**2, second_moment=second, gain=g,
        chi=g**2 * expectation(slope.square()), shape=shape, length_slope=g**2 * expectation(z * y * slope),
        fixed_point=_fixed_point(f, shape), saturated_share=((flat * _normal(even)).sum() / _normal(even).sum()).item(),
    )  # fmt: skip


def _from_draws(spec: Spec) -> Properties:
    """The properties that are defined for every kind of activation, estimated from random inputs, as `gain` is.

    chi is g² times the ratio of a random gradient's mean square behind and before the activation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        z, y = on_normal(spec.module(60).double())
        v = torch.randn(y.shape).double()
        (back,) = torch.autograd.grad(y, z, v)
    mean, second, g = y.mean().item(), y.square().mean().item(), gain(spec)
    chi = g**2 * (back.square().sum() / v.square().sum()).item()
    return Properties(str(spec), mean, second - mean**2, second, g, chi)


def _normal(z: Tensor) -> Tensor:
    """The density of N(0, 1)."""
    return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _normal_nodes(breaks: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Points z and weights for means over N(0, 1), by Gauss–Legendre quadrature.

    The interval ±9 is cut into pieces, also at `breaks`, the points at which f is not smooth.
    """
    edges = np.unique([*np.linspace(-9.0, 9.0, 73), *(b for b in breaks if abs(b) < 9)])
    points, weights = _legendre()
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    z = torch.from_numpy((middle + half * points).ravel())
    return z, torch.from_numpy((half * weights).ravel()) * _normal(z)


@lru_cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(20)


def _fixed_point(f: Function, shape: Shape) -> float:
    """To which q repeating the map q → E[f(√q z)²] leads from q = 1.

    It is 0, inf, or the nearest fixed point in the direction in which q changes; 1 if q changes by less than 1e-3.
    """

    def change(log_q: float) -> float:
        root = math.exp(log_q / 2)
        z, weight = _normal_nodes([step.at / root for step in (*shape.jumps, *shape.kinks)])
        return (f(root * z).detach().square() * weight).sum().item() / root**2 - 1

    start = change(0.0)
    if math.isnan(start) or abs(start) < 1e-3:
        return start if math.isnan(start) else 1.0
    step = math.copysign(0.25, start)
    a, b = 0.0, step
    while change(b) * start > -1e-9:  # not 0: hardtanh changes q below 0.01 by less than rounding does
        a, b = b, b + step
        if abs(b) > math.log(1e6):
            return math.inf if step > 0 else 0.0
    for _ in range(40):
        middle = (a + b) / 2
        a, b = (middle, b) if change(middle) * start > 0 else (a, middle)
    return math.exp((a + b) / 2)
