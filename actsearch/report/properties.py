"""The properties of activations as tables, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actsearch.measure.properties import Properties
from actsearch.measure.shape import Bound, Shape, Step, Tail
from actsearch.report.tables import Row

TEXT = ("activation", "range", "monotone", "symmetry", "class", "kinks", "far left", "far right")
MOST_KINKS = 3  # kinks and jumps that a cell lists; of more it only shows the number
SHAPE = (
    "class: jumps, C0 (it has kinks), C1 (its second derivative jumps or is unbounded) or C2+. kinks: where, and by "
    "how much the slope changes. Both are judged within ±25. far left, far right: the value that f approaches, "
    "and whether its slope dies (is 0 on a half-line) or vanishes (tends to 0); otherwise the slope. Undefined: beyond "
    "this point f or its slope is not defined, and the table says nothing about it."
)
NORMAL = (
    "Lipschitz: the largest |slope|. The other columns are for inputs z from N(0, 1). mean, variance: of f(z). gain: "
    "g = 1/√E[f(z)²]; weights N(0, g²/fan_in) keep the mean square of a layer's inputs at 1. χ = g² E[f′(z)²]: a "
    "layer multiplies the mean square of a gradient by it; above 1 gradients grow with depth, below 1 they vanish. "
    "size slope: if it is below 1, a mean square other than 1 returns to 1 from layer to layer. fixed q: the mean "
    "square to which signals converge with weights N(0, 1/fan_in). saturated: the share of z with |f′| < 0.01."
)
Table = tuple[Row, list[Row], str]


def property_tables(measured: Sequence[Properties]) -> list[Table]:
    """Two tables, each as (headings, rows, legend): the shapes of those activations that have one, and what all of them
    do to normally distributed inputs. A cell is empty if its property has no meaning for the activation.
    """
    shape = ["activation", "range", "monotone", "symmetry", "class", "kinks", "slope at 0", "far left", "far right"]
    normal = ["activation", "Lipschitz", "mean", "variance", "gain", "χ", "size slope", "fixed q", "saturated"]
    shaped = [[p.activation, *_of_shape(p.shape)] for p in measured if p.shape is not None]
    tables: list[Table] = [(shape, shaped, SHAPE), (normal, [[p.activation, *_of_normal(p)] for p in measured], NORMAL)]
    return [table for table in tables if table[1]]


def _of_shape(shape: Shape) -> Row:
    left, right = shape.slope_at_0
    one = math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-8)
    return [
        _range(shape.low, shape.high), shape.monotone, shape.symmetry, shape.smoothness, _kinks(shape),
        _number(left) if one else f"{_number(left)} | {_number(right)}", _tail(shape.left), _tail(shape.right),
    ]  # fmt: skip


def _of_normal(p: Properties) -> Row:
    steepest = "" if p.shape is None else _number(p.shape.lipschitz)
    if math.isnan(p.mean):  # the function is not defined for all inputs
        return [steepest, *[""] * 7]
    share = "" if p.saturated_share is None else f"{100 * p.saturated_share:.1f} %"
    mean = "0" if p.zero_centred else f"{p.mean:.3f}"
    length, fixed = ("" if v is None else _number(v, 3) for v in (p.length_slope, p.fixed_point))
    return [steepest, mean, f"{p.variance:.3g}", f"{p.gain:.3f}", f"{p.chi:.3f}", length, fixed, share]


def _range(low: Bound, high: Bound) -> str:
    opens, closes = "[" if low.at is not None else "(", "]" if high.at is not None else ")"
    return f"{opens}{_number(low.value)}, {_number(high.value)}{closes}"


def _kinks(shape: Shape) -> str:
    cells = [f"jump at {_number(step.at)}" for step in shape.jumps] + [_kink(step) for step in shape.kinks]
    return ", ".join(cells) if len(cells) <= MOST_KINKS else f"{len(cells)} within ±25"


def _kink(step: Step) -> str:
    change = step.right - step.left
    by = "∞" if math.isnan(change) else f"{'+' if change > 0 else ''}{_number(change)}"  # NaN: ∞ on both sides
    return f"{_number(step.at)} ({by})"


def _tail(tail: Tail) -> str:
    if tail.gradient == "ends":
        return f"undefined {'below' if tail.end < 0 else 'above'} {_number(tail.end)}"
    if tail.gradient != "stays":
        return f"{'swings' if math.isnan(tail.value) else _number(tail.value)}, {tail.gradient}"
    return "swings" if math.isnan(tail.slope) else f"slope {_number(tail.slope)}"


def _number(value: float, digits: int = 4) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{0.0 if abs(value) < 1e-8 else value:.{digits}g}"
