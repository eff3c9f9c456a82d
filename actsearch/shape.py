"""The shape of an elementwise function, measured in float64 from its values and from its slopes by autograd.

Nothing is taken from a formula, so that any parameter's value and any expression is described as it behaves. Kinks are
looked for within ±25, limits out to ±1e5, or as far as the function is finite. What is narrower than 1/200, smaller
than 1e-3 or slower than a logarithm is not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

INNER, OUTER = 25.0, 1e5
N_INNER, N_TAIL = 12_001, 2_000  # points; of a tail evenly spaced in log x
OFFSET = 1.2345e-4  # kinks at round numbers then lie between points, and both sides of them are seen
JUMP = 1e-3  # the least step of a value or a slope that counts
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bound:
    """An end of the range. at: the point nearest to 0 where it is reached; None: never, however near f comes."""

    value: float
    at: float | None


@dataclass(frozen=True)
class Step:
    """A point where f (a jump) or its slope (a kink) differs from side to side: what it is left and right of it."""

    at: float
    left: float
    right: float


@dataclass(frozen=True)
class Tail:
    """Towards one infinity. value, slope: the limits of f and f′; ±inf where they grow, NaN where they swing.

    gradient: `dies`: f′ is 0 on a whole half-line; `vanishes`: f′ tends to 0 and never is; `stays`: neither.
    """

    value: float
    slope: float
    gradient: Literal["dies", "vanishes", "stays"]

    @property
    def saturation(self) -> float | None:
        """The value at which f levels out (infinite for a logarithm), or None where it does not."""
        return None if self.gradient == "stays" else self.value


@dataclass(frozen=True)
class Shape:
    """An elementwise f by itself.

    low, high: the ends of its range. monotone: not strictly, `increasing` where f is flat too. symmetry: odd, even or
    neither. jumps, kinks: within ±25. smoothness: `jumps`, `C0` (kinks), `C1` (the second derivative jumps) or `C2+`.
    slope_at_0: from the left and from the right. lipschitz: the least upper bound of |f′|. left, right: far out.
    """

    low: Bound
    high: Bound
    monotone: Literal["increasing", "decreasing", "constant", "no"]
    symmetry: Literal["odd", "even", "neither"]
    jumps: tuple[Step, ...]
    kinks: tuple[Step, ...]
    smoothness: Literal["jumps", "C0", "C1", "C2+"]
    slope_at_0: tuple[float, float]
    lipschitz: float
    left: Tail
    right: Tail


def shape_of(f: Function) -> Shape:
    """f: elementwise, of a tensor of float64 (n,), differentiable by autograd where it has a slope."""
    inner = torch.linspace(-INNER, INNER, N_INNER, dtype=torch.float64) + OFFSET
    tail = torch.logspace(math.log10(1.01 * INNER), math.log10(OUTER), N_TAIL, dtype=torch.float64)
    x = torch.cat([-tail.flip(0), inner, tail])
    y, slope = with_slope(f, x)
    x, y, slope = _finite_around_0(x, y, slope)
    sides = [_side(x, y, slope, sign) for sign in (-1, 1)]
    left, right = (side[0] for side in sides)
    close = x.abs() < INNER
    jumps = _steps(f, x[close], y[close], 0)
    kinks = [k for k in _steps(f, x[close], slope[close], 1) if all(abs(k.at - j.at) > 1e-6 for j in jumps)]
    at_0, beside = (with_slope(f, torch.tensor([-h, h], dtype=torch.float64))[1].tolist() for h in (1e-9, 1e-6))
    at_0 = [_unbounded(near, aside) for near, aside in zip(at_0, beside, strict=True)]
    if math.inf in at_0 and not any(step.at == 0 for step in (*jumps, *kinks)):
        kinks.append(Step(0.0, *at_0))  # a root's: equally steep on both sides, so that it is no step
    steepest = _supremum(x, slope.abs())
    if math.isfinite(steepest):
        steepest = _peak(lambda x: with_slope(f, x)[1].abs(), x[slope.abs().argmax()].item())[1]
    sides_of_kinks = [abs(slope) for kink in kinks for slope in (kink.left, kink.right)]
    smooth = not jumps and not kinks
    smoothness = "C1" if smooth and _slope_has_kinks(f, x[close]) else "C2+" if smooth else "jumps" if jumps else "C0"
    low, high = (_bound(f, x, sides, (*jumps, *kinks), sign) for sign in (-1, 1))
    return Shape(
        low=low, high=high, monotone=_monotone(y), symmetry=_symmetry(f, x), jumps=tuple(jumps), kinks=tuple(kinks),
        smoothness=smoothness, slope_at_0=(at_0[0], at_0[1]),
        lipschitz=math.inf if jumps else max(steepest, *sides_of_kinks, 0.0), left=left, right=right,
    )  # fmt: skip


def with_slope(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and f′ at each of x."""
    x = x.detach().clone().requires_grad_()
    y = f(x)
    if not y.requires_grad:  # a step function
        return y, torch.zeros_like(y)
    (slope,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    return y.detach(), torch.zeros_like(y.detach()) if slope is None else slope


def _finite_around_0(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The stretch around 0 on which all values are finite: exp overflows, an expression may divide by 0."""
    bad = ~torch.stack([v.isfinite() for v in values]).all(0)
    below, above = torch.nonzero(bad & (x < 0)), torch.nonzero(bad & (x > 0))
    start = int(below[-1]) + 1 if len(below) else 0
    end = int(above[0]) if len(above) else len(x)
    return tuple(v[start:end] for v in (x, *values))


def _side(x: Tensor, y: Tensor, slope: Tensor, sign: int) -> tuple[Tail, float]:
    """What f does towards sign · ∞; and from where on it is near a limit that it never reaches, ±inf if none."""
    if sign < 0:
        x, y, slope = -x.flip(0), y.flip(0), slope.flip(0)
    n = max(int((x > INNER).sum()), 200)
    value, steep = _limit(y[-n:]), _limit(slope[-n:])
    x, y, slope = (v[x > 0] for v in (x, y, slope))
    gradient = "stays" if steep != 0 else "dies" if _reaches(x, slope, 0.0) else "vanishes"
    near = math.inf
    if math.isfinite(value) and not _reaches(x, y, value):
        near = x[_last_off(y, value, 1e-6)].item()
    return Tail(value, steep, gradient), sign * near


def _limit(v: Tensor) -> float:
    """Of values at points that grow by a constant factor: the limit, ±inf, or NaN where there is none."""
    n = len(v)
    first, second = v[: n // 2], v[n // 2 :]
    spread, before = (second.max() - second.min()).item(), (first.max() - first.min()).item()
    last, sign = v[-1].item(), math.copysign(1.0, v[-1].item())
    if spread <= 2e-3 * max(1.0, abs(last)) or (spread < 0.5 * before and _monotone(second) != "no"):
        a, b, c = v[-1 - n // 2].item(), v[-1 - n // 4].item(), last
        # a power of x comes nearer by a constant factor from quarter to quarter (Aitken): add what is still to come
        ratio = (c - b) / (b - a) if b != a else 0.0
        limit = round(c + (c - b) * ratio / (1 - ratio), 6) if 0 < ratio < 0.9 else c
        return limit if abs(limit) > spread else 0.0
    parts = [sign * part for part in second.chunk(4)]
    rises = all(b.min() > 0.99 * a.max() for a, b in itertools.pairwise(parts))
    return sign * math.inf if rises and parts[-1].min() > 1.05 * parts[0].min() > 0 else math.nan


def _last_off(v: Tensor, limit: float, tolerance: float) -> int:
    off = torch.nonzero((v - limit).abs() > tolerance * max(1.0, abs(limit)))
    return int(off[-1]) if len(off) else 0


def _reaches(x: Tensor, v: Tensor, limit: float) -> bool:
    """Whether v is equal to its limit from some x on. x: growing.

    Float64 cannot tell by looking: sigmoid(40) is 1. But where a limit is reached, the last points at which v is off
    by 1e-3, 1e-6, 1e-9 close up, while those of an exponential go on at even distances (of exp(-x²) still at 0.8).
    """
    a, b, c = (_last_off(v, limit, tolerance) for tolerance in (1e-3, 1e-6, 1e-9))
    if c == len(x) - 1:
        return False
    return (x[c] - x[b]).item() <= 0.5 * (x[b] - x[a]).item() + 2 * (x[c + 1] - x[c]).item()


def _bound(f: Function, x: Tensor, sides: Sequence[tuple[Tail, float]], steps: Sequence[Step], sign: int) -> Bound:
    """The supremum of sign · f."""

    def g(x: Tensor) -> Tensor:
        return torch.nan_to_num(sign * f(x).detach(), -math.inf, math.inf, -math.inf)

    v = g(x)
    most = _supremum(x, v)
    if math.isinf(most):
        return Bound(sign * math.inf, None)
    open_ends = [
        (tail.value, near) for tail, near in sides
        if math.isfinite(near) and sign * tail.value >= most - 1e-6 * max(1.0, abs(most))
    ]  # fmt: skip
    for value, _ in open_ends:
        edges = [-math.inf, *sorted(near for _, near in open_ends), math.inf]
        inside = x[(x > max(e for e in edges if e < 0)) & (x < min(e for e in edges if e > 0))]
        at, peak = _peak(g, inside[g(inside).argmax()].item())
        if not inside[0] < at < inside[-1] or peak < sign * value - 1e-9:
            return Bound(value, None)
    at_steps = [step.at + aside for step in steps for aside in (-1e-9, 0.0, 1e-9)]
    points = torch.cat([x, torch.tensor(at_steps, dtype=torch.float64)])
    values = g(points)
    # of several maxima, or of a plateau, the point nearest to 0; points beside a maximum are lower by h²/2 · f″
    close = points[values >= values.max() - 1e-5 * max(1.0, abs(most))]
    at, peak = _peak(g, close[close.abs().argmin()].item())
    at = round(at, 6) + 0.0
    there = g(torch.tensor([at], dtype=torch.float64)).item()
    most = max(values.max().item(), peak, there)
    is_reached = there >= most - JUMP / 2 or bool((v >= most - 1e-9).any())  # else only beside a jump
    return Bound(round(sign * most, 9) + 0.0, at if is_reached else None)


def _peak(g: Function, at: float) -> tuple[float, float]:
    """The maximum of g near `at`: where, nearest to 0 if it is flat, and how high."""
    step, peak = 4 * max(2 * INNER / N_INNER, abs(at) / N_TAIL), -math.inf
    for _ in range(100):
        near = torch.linspace(at - step, at + step, 81, dtype=torch.float64)
        there = g(near)
        highest = torch.nonzero(there == there.max()).view(-1)
        best = int(highest[near[highest].abs().argmin()])
        at, peak = near[best].item(), there[best].item()
        step /= 1 if best in (0, 80) else 20
        if step < 1e-9:
            break
    return at, peak


def _supremum(x: Tensor, v: Tensor) -> float:
    """The largest of v, or inf where it grows and grows towards one side."""
    near = v[x.abs() < INNER].max().item()
    for side in (x < -INNER, x > INNER):
        far = v[side] if not (side & (x < 0)).any() else v[side].flip(0)
        if len(far) >= 16:
            first, second = far[: len(far) // 2].max().item(), far[len(far) // 2 :].max().item()
            if second > 1.1 * max(first, near, 1e-6):
                return math.inf
    return v.max().item()


def _monotone(y: Tensor) -> Literal["increasing", "decreasing", "constant", "no"]:
    change, noise = y.diff(), 1e-12 * y[1:].abs().clamp(min=1.0)
    up, down = bool((change >= -noise).all()), bool((change <= noise).all())
    return "constant" if up and down else "increasing" if up else "decreasing" if down else "no"


def _symmetry(f: Function, x: Tensor) -> Literal["odd", "even", "neither"]:
    here, there = f(x).detach(), f(-x).detach()
    both = here.isfinite() & there.isfinite()
    noise = 1e-9 * here.abs().clamp(min=1.0)
    if bool(((here + there).abs() <= noise)[both].all()):
        return "odd"
    return "even" if bool(((here - there).abs() <= noise)[both].all()) else "neither"


def _steps(f: Function, x: Tensor, v: Tensor, order: int) -> list[Step]:
    """Where f (order 0) or f′ (order 1) steps: between which points it changes, halved until only a step is left."""
    changes = torch.nonzero(v.diff().abs() > JUMP / 2).view(-1)
    low, high, v_low, v_high = x[changes], x[changes + 1], v[changes], v[changes + 1]
    for _ in range(30):  # to 4e-12
        middle = (low + high) / 2
        v_middle = with_slope(f, middle)[order]
        left = (v_middle - v_low).abs() >= (v_high - v_middle).abs()
        low, v_low = torch.where(left, low, middle), torch.where(left, v_low, v_middle)
        high, v_high = torch.where(left, middle, high), torch.where(left, v_middle, v_high)
    aside_low, aside_high = (with_slope(f, at)[order] for at in (low - 1e-6, high + 1e-6))
    steps = []
    for at, *each in zip(*(t.tolist() for t in (low, v_low, v_high, aside_low, aside_high)), strict=True):
        left, right = _unbounded(each[0], each[2]), _unbounded(each[1], each[3])
        if math.inf in (abs(left), abs(right)) or abs(right - left) > JUMP * max(1.0, abs(left), abs(right)):
            steps.append(Step(round(at, 6) + 0.0, left, right))
    return steps


def _slope_has_kinks(f: Function, x: Tensor) -> bool:
    """Whether f″ jumps: the slope of f′ right and left of a shrinking interval stays different."""
    low, high = x[:-1], x[1:]

    def bend(a: Tensor, b: Tensor) -> Tensor:
        width = b - a
        p, q, r, s = (with_slope(f, at)[1] for at in (a - width, a, b, b + width))
        return ((s - r) / width - (q - p) / width).abs()

    first = bend(low, high)
    for _ in range(9):  # to 8e-6: narrower, rounding takes over
        middle = (low + high) / 2
        left = bend(low, middle) >= bend(middle, high)
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
    last = bend(low, high)
    return bool(((last > JUMP) & (last > 0.5 * first)).any())


def _unbounded(slope: float, aside: float) -> float:
    """The slope a hair from a point, or ±inf if it is far larger there than a little aside."""
    return math.copysign(math.inf, slope) if abs(slope) > 10 * max(10.0, abs(aside)) else slope
