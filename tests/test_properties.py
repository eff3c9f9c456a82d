"""What activations are like: known answers, functions made to be awkward, and what must hold for every entry."""

import math

import pytest
import torch
import torch.nn.functional as F

from actsearch.activations import CATALOG, Spec
from actsearch.activations.activation import Activation
from actsearch.activations.spec import gain
from actsearch.measure.properties import properties_of
from actsearch.measure.shape import shape_of

inf = math.inf


def of(text):
    return properties_of(Spec.parse(text))


def saturation(tail):
    """The value at which a function levels out, or None where it does not."""
    return tail.value if tail.gradient in ("dies", "vanishes") else None


def ends(shape):
    return (shape.low.value, shape.high.value)


# --- known answers --------------------------------------------------------------------------------

# range, monotone, symmetry, class, kinks (at, left, right), slope at 0, Lipschitz, gradient left and right
KNOWN = {
    "identity": ((-inf, inf), "increasing", "odd", "C2+", [], (1, 1), 1, "stays", "stays"),
    "relu": ((0, inf), "increasing", "neither", "C0", [(0, 0, 1)], (0, 1), 1, "dies", "stays"),
    "leaky_relu": ((-inf, inf), "increasing", "neither", "C0", [(0, 0.01, 1)], (0.01, 1), 1, "stays", "stays"),
    "relu6": ((0, 6), "increasing", "neither", "C0", [(0, 0, 1), (6, 1, 0)], (0, 1), 1, "dies", "dies"),
    "leaky_relu6(negative_slope=0.1)": (
        (-inf, 6), "increasing", "neither", "C0", [(0, 0.1, 1), (6, 1, 0)], (0.1, 1), 1, "stays", "dies",
    ),
    "hardtanh": ((-1, 1), "increasing", "odd", "C0", [(-1, 0, 1), (1, 1, 0)], (1, 1), 1, "dies", "dies"),
    "hardswish": (
        (-0.375, inf), "no", "neither", "C0", [(-3, 0, -0.5), (3, 1.5, 1)], (0.5, 0.5), 1.5, "dies", "stays",
    ),
    "sigmoid": ((0, 1), "increasing", "neither", "C2+", [], (0.25, 0.25), 0.25, "vanishes", "vanishes"),
    "tanh": ((-1, 1), "increasing", "odd", "C2+", [], (1, 1), 1, "vanishes", "vanishes"),
    "softsign": ((-1, 1), "increasing", "odd", "C1", [], (1, 1), 1, "vanishes", "vanishes"),
    "elu": ((-1, inf), "increasing", "neither", "C1", [], (1, 1), 1, "vanishes", "stays"),
    "elu(alpha=0.5)": ((-0.5, inf), "increasing", "neither", "C0", [(0, 0.5, 1)], (0.5, 1), 1, "vanishes", "stays"),
    "softplus": ((0, inf), "increasing", "neither", "C2+", [], (0.5, 0.5), 1, "vanishes", "stays"),
    "gelu": ((-0.169971, inf), "no", "neither", "C2+", [], (0.5, 0.5), 1.128904, "vanishes", "stays"),
    "silu": ((-0.278465, inf), "no", "neither", "C2+", [], (0.5, 0.5), 1.099839, "vanishes", "stays"),
    "mish": ((-0.308843, inf), "no", "neither", "C2+", [], (0.6, 0.6), 1.088498, "vanishes", "stays"),
}  # fmt: skip


@pytest.mark.parametrize("text", KNOWN)
def test_shapes_that_can_be_worked_out(text):
    bounds, monotone, symmetry, smoothness, kinks, at_0, lipschitz, left, right = KNOWN[text]
    shape = of(text).shape
    assert ends(shape) == pytest.approx(bounds, abs=1e-6)
    assert (shape.monotone, shape.symmetry, shape.smoothness, shape.jumps) == (monotone, symmetry, smoothness, ())
    assert [k.at for k in shape.kinks] == [at for at, _, _ in kinks]
    for kink, (_, before, after) in zip(shape.kinks, kinks, strict=True):
        assert (kink.left, kink.right) == pytest.approx((before, after), abs=1e-6)
    assert shape.slope_at_0 == pytest.approx(at_0, abs=1e-6)
    assert shape.lipschitz == pytest.approx(lipschitz, abs=1e-5)
    assert (shape.left.gradient, shape.right.gradient) == (left, right)


@pytest.mark.parametrize(
    ("text", "at"), [("gelu", -0.751792), ("silu", -1.278465), ("mish", -1.192431), ("hardswish", -1.5), ("relu", 0)]
)
def test_the_minimum_is_reached_where_it_is(text, at):
    assert of(text).shape.low.at == pytest.approx(at, abs=1e-4)


def test_an_end_is_closed_where_it_is_reached_and_open_where_it_is_only_approached():
    """In float64, sigmoid(40) is 1 as relu6(40) is 6."""
    closed = {text: [end.at is not None for end in (of(text).shape.low, of(text).shape.high)]
              for text in ("relu6", "hardtanh", "sigmoid", "tanh", "softsign", "relu", "elu")}  # fmt: skip
    assert closed == {
        "relu6": [True, True], "hardtanh": [True, True], "sigmoid": [False, False], "tanh": [False, False],
        "softsign": [False, False], "relu": [True, False], "elu": [False, False],
    }  # fmt: skip
    assert (of("relu6").shape.low.at, of("relu6").shape.high.at) == (0, 6)


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [("tanh", -1, 1), ("sigmoid", 0, 1), ("relu6", 0, 6), ("elu(alpha=2)", -2, None), ("gelu", 0, None),
     ("leaky_relu", None, None), ("softsign", -1, 1), ("identity", None, None)],
)  # fmt: skip
def test_where_it_saturates(text, left, right):
    shape = of(text).shape
    for tail, value in ((shape.left, left), (shape.right, right)):
        assert saturation(tail) is None if value is None else saturation(tail) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "left", "right"), [("leaky_relu(negative_slope=0.001)", 0.001, 1), ("selu", 0, 1.0507), ("softplus", 0, 1)]
)
def test_slopes_far_out(text, left, right):
    shape = of(text).shape
    assert (shape.left.slope, shape.right.slope) == pytest.approx((left, right), abs=1e-4)


def test_relu_under_normal_inputs_by_hand():
    p = of("relu")
    assert p.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-9)
    assert p.second_moment == pytest.approx(0.5, abs=1e-9)
    assert p.variance == pytest.approx(0.5 - 1 / (2 * math.pi), abs=1e-9)
    assert p.gain == pytest.approx(math.sqrt(2), abs=1e-6)
    assert p.chi == pytest.approx(1, abs=1e-6)  # He et al. 2015: forward and backward agree
    assert p.length_slope == pytest.approx(1, abs=1e-6)
    assert p.saturated_share == pytest.approx(0.5, abs=1e-6)
    assert p.fixed_point == 0


def test_selu_normalises_itself():
    """Klambauer et al. 2017: mean 0 and variance 1 are its fixed point, and an attracting one."""
    p = of("selu")
    assert p.zero_centred
    assert p.variance == pytest.approx(1, abs=1e-6)
    assert p.fixed_point == pytest.approx(1, abs=1e-6)
    assert p.length_slope < 1


def test_the_length_maps_fixed_point_in_closed_form():
    """erf has E[f(√q z)²] = 2/π · asin(2q / (1 + 2q)) (Williams 1997); hardsigmoid is linear where it counts."""
    p = measured("erf", torch.erf)
    q = p.fixed_point
    assert q == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-5)
    assert p.second_moment == pytest.approx(2 / math.pi * math.asin(2 / 3), abs=1e-9)
    assert of("hardsigmoid").fixed_point == pytest.approx(0.25 * 36 / 35, rel=1e-5)  # q = 1/4 + q/36
    assert of("tanh").fixed_point == 0
    assert measured("square", torch.square).fixed_point == inf


def test_saturated_shares():
    assert of("hardtanh").saturated_share == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=1e-4)  # |z| > 1
    assert of("sigmoid").saturated_share < 1e-4
    assert of("identity").saturated_share == 0


def test_a_softmax_has_what_has_a_meaning_for_it(rng_untouched):
    with rng_untouched():
        p = of("softmax")
    assert (p.shape, p.length_slope, p.fixed_point, p.saturated_share) == (None, None, None, None)
    assert p.mean == pytest.approx(1 / 60)
    assert p.gain == gain(Spec.parse("softmax"))
    assert 0 < p.chi < 1


def test_pairs_by_hand():
    """E[(ab)²] = 1 for independent a, b; each of the two inputs gets the other times the gradient: 2 in all."""
    p = of("bilinear")
    assert p.second_moment == pytest.approx(1, rel=0.02)
    assert p.chi == pytest.approx(2, rel=0.02)
    assert of("crelu").chi == pytest.approx(1, rel=0.02)


# --- awkward functions ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch):
    monkeypatch.setattr("actsearch.activations.spec.CATALOG", dict(CATALOG))


def measured(name, fn):
    """The properties of a function as a catalogue entry of this test."""
    from actsearch.activations import spec

    spec.CATALOG[name] = Activation(name, fn, family="test", formula="", source="")
    return properties_of(Spec.of(name))


def test_a_periodic_function():
    shape = measured("sin", torch.sin).shape
    assert ends(shape) == (-1, 1)
    assert (shape.low.at, shape.high.at) == pytest.approx((-math.pi / 2, math.pi / 2), abs=1e-5)
    assert (shape.monotone, shape.symmetry, shape.smoothness) == ("no", "odd", "C2+")
    assert math.isnan(shape.right.value) and math.isnan(shape.right.slope)
    assert shape.left.gradient == "stays"


def test_snake_grows_but_its_slope_swings():
    """Liu et al. 2020: x + sin²x."""
    shape = measured("snake", lambda x: x + torch.sin(x) ** 2).shape
    assert ends(shape) == (-inf, inf)
    assert shape.monotone == "increasing"
    assert shape.lipschitz == pytest.approx(2, abs=1e-6)
    assert shape.right.value == inf
    assert math.isnan(shape.right.slope)


def test_slopes_without_a_bound():
    shape = measured("growing_cosine", lambda x: x * torch.cos(x)).shape
    assert (ends(shape), shape.lipschitz, shape.symmetry) == ((-inf, inf), inf, "odd")
    assert measured("cube", lambda x: x**3).shape.lipschitz == inf
    shape = measured("root", lambda x: x.sign() * x.abs().sqrt()).shape
    assert (shape.lipschitz, shape.slope_at_0, shape.smoothness) == (inf, (inf, inf), "C0")


def test_a_radial_function():
    p = measured("gaussian", lambda x: torch.exp(-x * x))
    shape = p.shape
    assert (ends(shape), shape.low.at, shape.high.at) == ((0, 1), None, 0)
    assert (shape.symmetry, shape.left.gradient, saturation(shape.right)) == ("even", "vanishes", 0)
    assert shape.lipschitz == pytest.approx(math.sqrt(2 / math.e), abs=1e-6)
    assert p.mean == pytest.approx(1 / math.sqrt(3), abs=1e-9)


def test_a_minimum_as_low_as_a_limit_is_reached():
    shape = measured("both", lambda x: x * torch.tanh(F.gelu(x))).shape  # 0 at 0, and towards -inf
    assert (ends(shape), shape.low.at, shape.left.gradient) == ((0, inf), 0, "vanishes")


def test_jumps():
    shape = measured("hardshrink", F.hardshrink).shape
    assert (shape.smoothness, shape.lipschitz, shape.kinks) == ("jumps", inf, ())
    assert [(j.at, round(j.left, 6), round(j.right, 6)) for j in shape.jumps] == [(-0.5, -0.5, 0), (0.5, 0, 0.5)]
    p = measured("step", lambda x: (x > 0).to(x.dtype))  # autograd sees nothing
    assert (ends(p.shape), p.shape.left.gradient, p.saturated_share, p.chi) == ((0, 1), "dies", 1, 0)
    assert p.mean == pytest.approx(0.5, abs=1e-9)
    shape = measured("saw", lambda x: x - torch.floor(x)).shape
    assert (shape.low.at, shape.high.value, shape.high.at) == (0, 1, None)  # below a jump: never reached
    assert len(shape.jumps) == 49


def test_what_overflows_far_out_is_described_as_far_as_it_is_finite():
    plain = measured("plain_softplus", lambda x: torch.log(1 + torch.exp(x)))
    assert plain.shape.right.slope == pytest.approx(1)
    assert ends(plain.shape) == (0, inf)
    assert plain.fixed_point == pytest.approx(of("softplus").fixed_point, rel=1e-6)
    shape = measured("exp", torch.exp).shape
    assert (ends(shape), shape.lipschitz, shape.smoothness, shape.kinks) == ((0, inf), inf, "C2+", ())
    assert saturation(shape.left) == 0


def test_logarithms_vanish_without_levelling_out():
    shape = measured("log", lambda x: x.sign() * torch.log1p(x.abs())).shape
    assert (ends(shape), shape.smoothness) == ((-inf, inf), "C1")
    assert (shape.right.gradient, saturation(shape.right), shape.right.slope) == ("vanishes", inf, 0)


def test_a_constant():
    shape = measured("three", lambda x: torch.full_like(x, 3.0)).shape
    assert (ends(shape), shape.monotone, shape.symmetry, shape.lipschitz) == ((3, 3), "constant", "even", 0)


def test_a_kink_is_found_wherever_it_lies():
    at = 1.234567
    (kink,) = shape_of(lambda x: (x - at).abs()).kinks
    assert (kink.at, kink.left, kink.right) == (pytest.approx(at, abs=1e-6), -1, 1)
    (kink,) = shape_of(lambda x: torch.where(x < at, 0.0, 0.01 * (x - at))).kinks
    assert kink.right == pytest.approx(0.01)


def test_steep_is_not_broken():
    """A change within 1/1000 is still smooth, if autograd says so; and its limits are still only approached."""
    shape = shape_of(lambda x: torch.sigmoid(1000 * x))
    assert (shape.smoothness, shape.lipschitz, shape.jumps) == ("C2+", pytest.approx(250, rel=1e-4), ())


def test_what_is_undefined_far_out_ends_there():
    """x / √(1 - 0.05 x²) is real within ±√20; its mean over all normal z is then no number."""
    p = of("2 * isrlu(x, alpha=-0.05)")
    assert (p.shape.left.gradient, p.shape.left.value, saturation(p.shape.left)) == ("ends", -inf, None)
    assert p.shape.left.end == pytest.approx(-math.sqrt(20), rel=1e-12)
    assert (ends(p.shape), p.shape.lipschitz, p.shape.right.slope) == ((-inf, inf), inf, 2)
    numbers = (p.mean, p.variance, p.gain, p.chi, p.length_slope, p.fixed_point, p.saturated_share)
    assert all(math.isnan(v) for v in numbers)


# ends of what is defined, range, where the range's ends are reached (None: not at all), symmetry
ENDING = {
    "sqrt(4 - x)": ((-inf, 4), (0, inf), (4, None), "neither"),
    "sqrt(x + 4)": ((-4, inf), (0, inf), (-4, None), "neither"),
    "sqrt(12 - x * x)": ((-math.sqrt(12), math.sqrt(12)), (0, math.sqrt(12)), (-math.sqrt(12), 0), "even"),
    "(4 - x) ** 1.5": ((-inf, 4), (0, inf), (4, None), "neither"),
    "(x + 3.5) ** 0.3 * x": ((-3.5, inf), (-2.525216, inf), (-2.69231, None), "neither"),
    "x * sqrt(9.5 - abs(x))": ((-9.5, 9.5), (-11.270249, 11.270249), (-19 / 3, 19 / 3), "odd"),
    "(4 - x) * log(4 - x)": ((-inf, 4), (-1 / math.e, inf), (4 - 1 / math.e, None), "neither"),
    "log(x + 20)": ((-20, inf), (-inf, inf), (None, None), "neither"),
    "2 * isru(x, alpha=-0.01)": ((-10, 10), (-inf, inf), (None, None), "odd"),
    "where(x > 5.1, sqrt(3 - x), relu(x - 1))": ((-inf, 5.1), (0, 4.1), (0, 5.1), "neither"),
    "0.003 + sqrt(4 - x)": ((-inf, 4), (0.003, inf), (4, None), "neither"),
    "where(x > 9, log(-x), tanh(x))": ((-inf, 9), (-1, math.tanh(9)), (None, 9), "neither"),
    "where(x < -5, x + 5, sqrt(x + 5))": ((-inf, inf), (-inf, inf), (None, None), "neither"),
}


@pytest.mark.parametrize("text", ENDING)
def test_expressions_that_are_defined_around_0_only(text):
    defined, bounds, reached, symmetry = ENDING[text]
    shape = of(text).shape
    assert (shape.left.end, shape.right.end) == pytest.approx(defined, abs=1e-9)
    assert ends(shape) == pytest.approx(bounds, abs=1e-4)
    assert (shape.symmetry, shape.jumps) == (symmetry, ())
    for end, at in zip((shape.low, shape.high), reached, strict=True):
        assert end.at is None if at is None else end.at == pytest.approx(at, abs=1e-2)


@pytest.mark.parametrize("text", ["log(exp(x ** 2))", "max(log(exp(x)), x)", "exp((6 + sigmoid(x)) / softplus(x + 4))"])
def test_the_steepest_place_beside_one_that_overflows(text):
    assert of(text).shape.lipschitz > 0.99


def test_nearly_constant():
    assert ends(shape_of(lambda x: 1 + 1e-8 * torch.tanh(x))) == pytest.approx((1, 1), abs=1e-7)


def test_a_pole_has_no_bound():
    shape = shape_of(lambda x: x / (9 - x))
    assert (ends(shape), shape.low.at, shape.high.at, shape.smoothness) == ((-inf, inf), None, None, "jumps")
    shape = shape_of(lambda x: (x - 4.1).abs().log())
    assert (ends(shape), shape.low.at) == ((-inf, inf), None)


@pytest.mark.parametrize(
    "text",
    ["sin(omega=30)", "sin(omega=60)", "snake(a=50)", "sin(50 * x)", "sin(1000 * x)", "sigmoid(1000 * x)", "smu"],
)
def test_steep_is_not_c1(text):
    assert (of(text).shape.smoothness, of(text).shape.kinks) == ("C2+", ())


@pytest.mark.parametrize(
    "text",
    ["elu(50 * x)", "elu(300 * x)", "softsign(100 * x)", "x * abs(x)", "squared_relu(x - 7.77)", "abs(x) ** 1.5",
     "relu(x - 1) ** 1.5 + sin(5 * x)"],
)  # fmt: skip
def test_a_second_derivative_that_jumps_or_has_no_bound(text):
    assert (of(text).shape.smoothness, of(text).shape.kinks) == ("C1", ())


def test_a_root_in_the_slope():
    shape = of("relu(x) ** 1.5").shape
    assert (shape.smoothness, shape.kinks, shape.slope_at_0) == ("C1", (), (0, 0))
    assert of("relu(x) ** 1.2").shape.slope_at_0 == (0, 0)
    assert of("relu(x) ** 2.5").shape.smoothness == "C2+"
    assert of("x + abs(x) ** 1.5").shape.slope_at_0 == pytest.approx((1, 1), abs=1e-9)
    assert of("smu").shape.slope_at_0 == pytest.approx((0.625, 0.625), abs=1e-6)
    assert of("gaussian(width=0.01)").shape.slope_at_0 == pytest.approx((0, 0), abs=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.5, 0.9, 0.95, 0.98])
def test_a_power_reaches_its_limit_however_high_it_is(t):
    shape = of(f"pdelu(t={t})").shape  # -1 for all x below -1 / (1 - t)
    assert (shape.low.value, shape.left.gradient) == (-1, "dies")
    assert shape.low.at is not None


@pytest.mark.parametrize(
    "text",
    ["gaussian(width=0.01)", "sigmoid(1000 * x)", "exp(-abs(x) ** 1.5)", "erf(30 * x)", "tanh(exp(x))",
     "1 - exp(-exp(x))", "sigmoid(x ** 3)"],
)  # fmt: skip
def test_what_underflows_still_only_approaches_its_limit(text):
    shape = of(text).shape
    assert (shape.left.gradient, shape.right.gradient) == ("vanishes", "vanishes")
    assert shape.low.at is None


def test_a_limit_far_out_is_seen():
    shape = of("min(max(x, 0), 10000)").shape
    assert (ends(shape), shape.high.at, shape.right.gradient) == ((0, 10000), pytest.approx(10000), "dies")
    assert (shape.lipschitz, saturation(shape.right)) == (1, 10000)
    shape = of("-min(max(x, 0), 20000) ** 2").shape
    assert (shape.low.value, shape.right.gradient) == (-4e8, "dies")
    assert shape.lipschitz == pytest.approx(40000)


# --- every entry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOG)
def test_what_must_hold_for_every_entry(name):
    spec = Spec.parse(name)
    p = properties_of(spec)
    assert p.gain == gain(spec)
    assert p.variance >= -1e-12
    assert p.second_moment == pytest.approx(p.variance + p.mean**2)
    if p.second_moment > 1e-12:
        assert p.gain == pytest.approx(1 / math.sqrt(p.second_moment), rel=1e-3)
    assert p.chi >= 0
    shape = p.shape
    if shape is None:
        assert spec.activation.kind in ("channelwise", "weighted")
        return
    x = torch.linspace(-12, 12, 2_345, dtype=torch.float64)
    y = spec(x.view(1, -1)).view(-1)
    assert y.min() >= shape.low.value - 1e-6
    assert y.max() <= shape.high.value + 1e-6
    slopes = (y.diff() / x.diff()).abs()
    assert slopes.max() <= shape.lipschitz * (1 + 1e-9) + 1e-9
    assert p.chi <= p.gain**2 * shape.lipschitz**2 * (1 + 1e-9)
    for end in (shape.low, shape.high):
        if end.at is not None:
            there = spec(torch.full((1, 1), end.at, dtype=torch.float64)).item()
            assert there == pytest.approx(end.value, abs=1e-5) or shape.jumps
    if shape.monotone == "increasing":
        assert (y.diff() >= -1e-9).all()
    if shape.symmetry == "odd":
        assert p.mean == pytest.approx(0, abs=1e-6)
        assert shape.low.value == pytest.approx(-shape.high.value)
    assert (shape.smoothness == "jumps") == bool(shape.jumps)
    assert 0 <= p.saturated_share <= 1
    assert p.fixed_point >= 0
