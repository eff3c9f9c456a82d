"""The shape of an elementwise function: range, monotonicity, symmetry, kinks, smoothness, behaviour at infinity.

It is measured in float64 from the function's values and from its slopes by autograd. No formula is used, so that any
expression with any parameters is described as it behaves. Kinks are looked for within ±25, limits out to ±1e5, or as
far as the function is finite. If the function or its slope is NaN somewhere within ±25, the function ends there, and
nothing is said about it beyond. Not seen are features that are narrower than 1/200, steps smaller than 1e-3, and
growth slower than a logarithm.
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
N_INNER, N_TAIL = 12_001, 2_000  # numbers of points within ±25 and in each tail, there evenly spaced in log x
OFFSET = 1.2345e-4  # shifts the inner points, so that kinks at round numbers lie between points and have two sides
N_FLAT = 100  # the last points of a tail, from x to 1.5 x, by which a tail is judged to be flat
JUMP = 1e-3  # the least step of a value or a slope that counts
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bound:
    """The lower or upper end of the range of f.

    at: the x nearest to 0 at which f has this value; None if f only comes near to it.
    """

    value: float
    at: float | None


@dataclass(frozen=True)
class Step:
    """A point at which f (a jump) or f′ (a kink) has different limits from the left and from the right."""

    at: float
    left: float
    right: float


@dataclass(frozen=True)
class Tail:
    """The behaviour of f towards one infinity.

    value, slope: the limits of f and f′; ±inf if they grow without bound, NaN if they oscillate. gradient: `dies` if f′
    is 0 on a whole half-line, `vanishes` if f′ tends to 0 without reaching it, `stays` if f′ does not tend to 0, and
    `ends` if f or f′ is NaN beyond `end`; value and slope are then the limits at `end`.
    """

    value: float
    slope: float
    gradient: Literal["dies", "vanishes", "stays", "ends"]
    end: float


@dataclass(frozen=True)
class Shape:
    """The shape of an elementwise function f.

    low, high: the ends of its range. monotone: in the weak sense, so that an `increasing` f may be flat in parts.
    symmetry: odd, even or neither. jumps, kinks: those within ±25. smoothness: `jumps`, `C0` (f has kinks), `C1` (f″
    jumps or is unbounded) or `C2+`. slope_at_0: the limits of f′ at 0 from the left and from the right. lipschitz: the
    least Lipschitz constant, inf if there is none. left, right: the behaviour towards -∞ and ∞.
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
    """The shape of f, an elementwise function of a float64 tensor (n,) that autograd can differentiate."""
    inner = torch.linspace(-INNER, INNER, N_INNER, dtype=torch.float64) + OFFSET
    tail = torch.logspace(math.log10(1.01 * INNER), math.log10(OUTER), N_TAIL, dtype=torch.float64)
    x = torch.cat([-tail.flip(0), inner, tail])
    y, slope = with_slope(f, x)
    ends = [_end(f, x, y + slope, sign) for sign in (-1, 1)]
    x, y, slope = _finite_around_0(x, y, slope)
    sides = [_side(f, x, y, slope, sign, end) for sign, end in zip((-1, 1), ends, strict=True)]
    left, right = (side[0] for side in sides)
    close = x.abs() < INNER
    jumps = _steps(f, x[close], y[close], 0)
    kinks = [k for k in _steps(f, x[close], slope[close], 1) if all(abs(k.at - j.at) > 1e-6 for j in jumps)]
    at_0 = _beside(f, torch.zeros(2, dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64), 1).tolist()
    if math.inf in at_0 and not any(step.at == 0 for step in (*jumps, *kinks)):
        kinks.append(Step(0.0, *at_0))  # as of a root: the slope is inf on both sides, so that no step was found
    steepest = _supremum(x, slope.abs())
    if any(tail.gradient == "ends" and math.isinf(tail.slope) for tail in (left, right)):
        steepest = math.inf
    if math.isfinite(steepest):
        steepest = _peak(lambda x: with_slope(f, x)[1].abs().nan_to_num(0.0), x[slope.abs().argmax()].item())[1]
    sides_of_kinks = [abs(slope) for kink in kinks for slope in (kink.left, kink.right)]
    within = x[close][8:-8]  # without the ends of the domain, at which f″ often grows without bound
    smoothness = "jumps" if jumps else "C0" if kinks else "C1" if _slope_has_kinks(f, within) else "C2+"
    low, high = (_bound(f, x, sides, jumps, kinks, sign) for sign in (-1, 1))
    return Shape(
        low=low, high=high, monotone=_monotone(y), symmetry=_symmetry(f, x, ends), jumps=tuple(jumps),
        kinks=tuple(kinks), smoothness=smoothness, slope_at_0=(at_0[0], at_0[1]),
        lipschitz=math.inf if jumps else max(steepest, *sides_of_kinks, 0.0), left=left, right=right,
    )  # fmt: skip


def with_slope(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and f′ at each point of x: (n,)."""
    x = x.detach().clone().requires_grad_()
    y = f(x)
    if not y.requires_grad:  # a step function
        return y, torch.zeros_like(y)
    (slope,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    return y.detach(), torch.zeros_like(y.detach()) if slope is None else slope


def _finite_around_0(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """x and values, cut to the interval around 0 on which all values are finite.

    They may not be, because exp overflows or an expression divides by 0.
    """
    bad = ~torch.stack([v.isfinite() for v in values]).all(0)
    below, above = torch.nonzero(bad & (x < 0)), torch.nonzero(bad & (x > 0))
    start = int(below[-1]) + 1 if len(below) else 0
    end = int(above[0]) if len(above) else len(x)
    return tuple(v[start:end] for v in (x, *values))


def _end(f: Function, x: Tensor, both: Tensor, sign: int) -> float:
    """The last point on one side (sign ±1) before f or f′ is NaN, if it is within ±25; else ±inf. both: f + f′ at x."""
    x, both = (x, both) if sign > 0 else (x.flip(0), both.flip(0))
    missing = torch.nonzero(both.isnan() & (sign * x > 0) & (x.abs() < INNER))
    if not len(missing):
        return sign * math.inf
    first = int(missing[0])
    inside, outside = x[first - 1 : first], x[first : first + 1]
    for _ in range(60):
        middle = (inside + outside) / 2
        is_finite = all(v.isfinite() for v in with_slope(f, middle))
        inside, outside = (middle, outside) if is_finite else (inside, middle)
    return inside.item()


def _side(f: Function, x: Tensor, y: Tensor, slope: Tensor, sign: int, end: float) -> tuple[Tail, float]:
    """The tail of f towards sign · ∞, and the x from which on f is near a limit that it never reaches (else ±inf)."""
    if math.isfinite(end):
        return _towards(f, end, sign), sign * math.inf
    if sign < 0:
        x, y, slope = -x.flip(0), y.flip(0), slope.flip(0)
    n = max(int((x > INNER).sum()), 200)
    flat = _is_flat(y) and bool((slope[-N_FLAT:] == 0).all())
    value, steep = (y[-1].item(), 0.0) if flat else (_limit(y[-n:]), _limit(slope[-n:]))
    x, y, slope = (v[x > 0] for v in (x, y, slope))
    gradient = "stays" if steep != 0 else "dies" if _dies(f, x, slope, sign) else "vanishes"
    near = math.inf
    if math.isfinite(value) and gradient != "dies":
        near = x[_last_off(y, value, 1e-6)].item()
    return Tail(value, steep, gradient, end), sign * near


def _towards(f: Function, end: float, sign: int) -> Tail:
    """The tail of an f that ends at `end`."""
    at, away = torch.tensor([end], dtype=torch.float64), torch.tensor([-sign], dtype=torch.float64)
    value, slope = (_limit(v) for v in with_slope(f, end + away * torch.logspace(0, -9, 200, dtype=torch.float64)))
    if math.isfinite(value):  # `_beside` is more accurate than `_limit`
        value = round(_beside(f, at, away, 0).item(), 9)
    if math.isfinite(slope):
        slope = round(_beside(f, at, away, 1).item(), 9)
    return Tail(value, slope, "ends", end)


def _is_flat(v: Tensor) -> bool:
    return bool((v[-N_FLAT:] == v[-1]).all())


def _limit(v: Tensor) -> float:
    """The limit of values v at points that grow by a constant factor: a number, ±inf, or NaN if there is none."""
    n = len(v)
    first, second = v[: n // 2], v[n // 2 :]
    spread, before = (second.max() - second.min()).item(), (first.max() - first.min()).item()
    last, sign = v[-1].item(), math.copysign(1.0, v[-1].item())
    if spread <= 2e-3 * max(1.0, abs(last)) or (spread < 0.5 * before and _monotone(second) != "no"):
        a, b, c = v[-1 - n // 2], v[-1 - n // 4], v[-1]
        to_come = _to_come(a, b, c).item()
        limit = round(last + to_come, 6) if to_come else last
        return limit if abs(limit) > spread else 0.0
    parts = [sign * part for part in second.chunk(4)]
    rises = all(b.min() > 0.99 * a.max() for a, b in itertools.pairwise(parts))
    return sign * math.inf if rises and parts[-1].min() > 1.05 * parts[0].min() > 0 else math.nan


def _to_come(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The difference between c and the limit of the sequence a, b, c, …, by Aitken's method.

    If x changes by a constant factor from one value to the next, the distance of a power of x to its limit does so too.
    """
    ratio = (c - b) / (b - a)
    return torch.where((ratio > 0) & (ratio < 0.9), (c - b) * ratio / (1 - ratio), 0.0)


def _last_off(v: Tensor, limit: float, tolerance: float) -> int:
    """The index of the last value that differs from the limit by more than the tolerance; 0 if none does."""
    off = torch.nonzero((v - limit).abs() > tolerance * max(1.0, abs(limit)))
    return int(off[-1]) if len(off) else 0


def _dies(f: Function, x: Tensor, slope: Tensor, sign: int) -> bool:
    """Whether f′, whose limit is 0, is exactly 0 from some x on. x: increasing; slope: f′ at sign · x.

    In float64 the values alone do not tell, because there sigmoid(40) is 1. Therefore the last points at which f′ is
    above 1e-3, 1e-6, 1e-9 and 1e-12 are compared. If f′ reaches 0 as a power p, their distances shrink by the factor
    10^(-3/p) each time. For an exponential the distances stay equal; for exp(-x²) the factors are 0.77, then 0.84.
    """
    tolerances = torch.tensor([1e-3, 1e-6, 1e-9, 1e-12], dtype=torch.float64)
    last = torch.tensor([_last_off(slope, 0.0, tolerance) for tolerance in tolerances.tolist()])
    if last[-1] == len(x) - 1:
        return False
    low, high = x[last], x[last + 1]
    for _ in range(45):
        middle = (low + high) / 2
        above = with_slope(f, sign * middle)[1].abs() > tolerances
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    first, second, third = low.diff().tolist()
    if second <= 0.5 * first + 1e-9 * max(1.0, low[2].item()):
        return True
    return second < 0.95 * first and abs(third / second - second / first) < 0.005


def _bound(
    f: Function, x: Tensor, sides: Sequence[tuple[Tail, float]], jumps: Sequence[Step], kinks: Sequence[Step], sign: int
) -> Bound:
    """The upper end of the range of f (sign 1) or the lower end (sign -1)."""

    def g(x: Tensor) -> Tensor:
        return torch.nan_to_num(sign * f(x).detach(), -math.inf, math.inf, -math.inf)

    v = g(x)
    most = _supremum(x, v)
    ends = [tail for tail, _ in sides if tail.gradient == "ends"]
    poles = [value for jump in jumps for value in (jump.left, jump.right)] + [tail.value for tail in ends]
    if math.isinf(most) or sign * math.inf in poles:
        return Bound(sign * math.inf, None)
    for tail in ends:
        if sign * tail.value >= most - 1e-6 * max(1.0, abs(most)):
            return Bound(tail.value, tail.end)
    open_ends = [
        (tail.value, near) for tail, near in sides
        if math.isfinite(near) and sign * tail.value >= most - 1e-6 * max(1.0, abs(most))
    ]  # fmt: skip
    for value, _ in open_ends:
        edges = [-math.inf, *sorted(near for _, near in open_ends), math.inf]
        inside = x[(x > max(e for e in edges if e < 0)) & (x < min(e for e in edges if e > 0))]
        if not len(inside):  # f is near this limit everywhere
            return Bound(value, None)
        at, peak = _peak(g, inside[g(inside).argmax()].item())
        if not inside[0] < at < inside[-1] or peak < sign * value - 1e-9:
            return Bound(value, None)
    special = [step.at + aside for step in (*jumps, *kinks) for aside in (-1e-9, 0.0, 1e-9)]
    points = torch.cat([x, torch.tensor(special, dtype=torch.float64)])
    values = g(points)
    # of several maxima, or of a plateau, the point nearest to 0 counts. The tolerance is there because a point at a
    # distance h from a maximum is lower by h²/2 · f″
    close = points[values >= values.max() - 1e-5 * max(1.0, abs(most))]
    at, peak = _peak(g, close[close.abs().argmin()].item())
    at = round(at, 6) + 0.0
    there = g(torch.tensor([at], dtype=torch.float64)).item()
    most = max(values.max().item(), peak, there)
    if math.isinf(most):
        return Bound(sign * math.inf, None)
    is_reached = there >= most - JUMP / 2 or bool((v >= most - 1e-9).any())  # otherwise it is only a limit at a jump
    return Bound(round(sign * most, 9) + 0.0, at if is_reached else None)


def _peak(g: Function, at: float) -> tuple[float, float]:
    """The maximum of g near `at`: (x, g(x)). If it is flat, x is the point nearest to 0."""
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
    """The largest value v, or inf if the values still grow at one end of x."""
    near = v[x.abs() < INNER].max().item()
    for side in (x < -INNER, x > INNER):
        far = v[side] if not (side & (x < 0)).any() else v[side].flip(0)
        if len(far) >= 16 and not _is_flat(far):
            first, second = far[: len(far) // 2].max().item(), far[len(far) // 2 :].max().item()
            if second > 1.1 * max(first, near, 1e-6):
                return math.inf
    return v.max().item()


def _monotone(y: Tensor) -> Literal["increasing", "decreasing", "constant", "no"]:
    change, noise = y.diff(), 1e-12 * y[1:].abs().clamp(min=1.0)
    up, down = bool((change >= -noise).all()), bool((change <= noise).all())
    return "constant" if up and down else "increasing" if up else "decreasing" if down else "no"


def _symmetry(f: Function, x: Tensor, ends: Sequence[float]) -> Literal["odd", "even", "neither"]:
    here, there = f(x).detach(), f(-x).detach()
    both = here.isfinite() & there.isfinite()
    noise = 1e-9 * here.abs().clamp(min=1.0)
    if not math.isclose(-ends[0], ends[1], rel_tol=1e-9):
        return "neither"
    if bool(((here + there).abs() <= noise)[both].all()):
        return "odd"
    return "even" if bool(((here - there).abs() <= noise)[both].all()) else "neither"


def _steps(f: Function, x: Tensor, v: Tensor, order: int) -> list[Step]:
    """The steps of f (order 0) or f′ (order 1), whose values at x are v.

    Intervals over which the value changes are halved until only steps are left.
    """
    low, high, v_low, v_high = x[:-1], x[1:], v[:-1], v[1:]
    for _ in range(31):  # to 4e-12
        stays = (v_high - v_low).abs() > JUMP / 2  # a smooth change becomes smaller with each halving
        low, high, v_low, v_high = (t[stays] for t in (low, high, v_low, v_high))
        if not len(low):
            return []
        middle = (low + high) / 2
        v_middle = with_slope(f, middle)[order]
        left = (v_middle - v_low).abs() >= (v_high - v_middle).abs()
        low, v_low = torch.where(left, low, middle), torch.where(left, v_low, v_middle)
        high, v_high = torch.where(left, middle, high), torch.where(left, v_middle, v_high)
    steps = []
    sides = (_beside(f, at, away * torch.ones_like(at), order).tolist() for at, away in ((low, -1), (high, 1)))
    for at, left, right in zip(low.tolist(), *sides, strict=True):
        if math.inf in (abs(left), abs(right)) or abs(right - left) > JUMP * max(1.0, abs(left), abs(right)):
            steps.append(Step(round(at, 6) + 0.0, left, right))
    return steps


def _beside(f: Function, at: Tensor, away: Tensor, order: int) -> Tensor:
    """The limit of f (order 0) or f′ (order 1) at each point of `at`, from the side `away` (±1); ±inf if it grows."""
    far, a, b, c = (with_slope(f, at + away * h)[order] for h in (1e-6, 1.6e-8, 4e-9, 1e-9))
    grown = c.abs() > 10 * far.abs().clamp(min=10.0)
    to_come = _to_come(a, b, c)
    limit = torch.where((c + to_come).abs() > 1e-4 * to_come.abs(), c + to_come, 0.0)
    return torch.where(grown, math.inf * c.sign(), limit)


def _slope_has_kinks(f: Function, x: Tensor) -> bool:
    """Whether f″ jumps or grows without bound within x.

    Then f″, taken left and right of an interval, keeps different values however small the interval becomes. A smooth
    change of f″, however steep, becomes smaller with each halving. The change is compared with the largest change
    around it, because one that happens to be 0 at first can also grow with the halvings.
    """
    low, high = x[:-1], x[1:]

    def bend(a: Tensor, b: Tensor) -> Tensor:
        width = b - a
        p, q, r, s = (with_slope(f, at)[1] for at in (a - width, a, b, b + width))
        return ((s - r) / width - (q - p) / width).abs().nan_to_num(0.0)

    now = bend(low, high)
    around = 0.5 * torch.max_pool1d(now.view(1, 1, -1), kernel_size=5, stride=1, padding=2).view(-1)
    for _ in range(20):  # down to 4e-9; in narrower intervals rounding dominates
        stays = now > JUMP / 2
        around = torch.maximum(around, 0.5 * now)
        low, high, around = (t[stays] for t in (low, high, around))
        if not len(low):
            return False
        width = (high - low) / 2
        starts = low + torch.arange(-2.0, 3.5, 0.5, dtype=torch.float64).view(-1, 1) * width
        now, which = bend(starts, starts + width).max(0)
        low = starts.gather(0, which.view(1, -1)).view(-1)
        high = low + width
    return bool(((now > JUMP) & (now > around)).any())
