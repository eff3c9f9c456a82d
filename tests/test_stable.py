"""Stable forms: expressions whose parts overflow have right values and slopes far out, and others are left alone."""

import random

import pytest
import torch
import torch.nn.functional as F
from test_expression import FORMULAS, formula

from actsearch.activations import Spec, get_activation
from actsearch.activations.expression import activation, parse
from actsearch.activations.fingerprint import fingerprint
from actsearch.activations.stable import bounds, stable
from actsearch.activations.tree import evaluate
from actsearch.errors import ActSearchError

LOG2 = 0.6931471805599453
FAR = [sign * x for x in (0.0137, 0.5, 3.0, 10.0, 30.0, 87.0, 89.0, 100.0, 400.0, 1e3, 6e4) for sign in (1, -1)]


def elu(x):
    return F.elu(x)


EQUAL = {  # each expression, and the same function by torch's own kernels
    "x / (1 + exp(-x))": F.silu,
    "x * exp(x) / (exp(x) + 1)": F.silu,
    "1 / (1 + exp(-x))": torch.sigmoid,
    "(1 + exp(-x)) ** -1": torch.sigmoid,
    "exp(x) / (1 + exp(x))": torch.sigmoid,
    "1 / (1 + exp(-0.7 * x))": lambda x: torch.sigmoid(0.7 * x),
    "2 ** x / (1 + 2 ** x)": lambda x: torch.sigmoid(LOG2 * x),
    "exp(x) * sigmoid(-x)": torch.sigmoid,
    "(exp(x) - exp(-x)) / (exp(x) + exp(-x))": torch.tanh,
    "sinh(x) / cosh(x)": torch.tanh,
    "(exp(x) - 1) / (exp(x) + 1)": lambda x: torch.tanh(x / 2),
    "1 - 2 / (1 + exp(2 * x))": torch.tanh,
    "log(1 + exp(x))": F.softplus,
    "log(exp(x) + 1)": F.softplus,
    "log1p(exp(x))": F.softplus,
    "x + log(1 + exp(-x))": F.softplus,
    "log(1 + exp(0.7 * x)) / 0.7": lambda x: F.softplus(x, beta=0.7, threshold=50),
    "log(2 + exp(x))": lambda x: LOG2 + F.softplus(x - LOG2),
    "log(exp(x) + exp(-x))": lambda x: F.softplus(2 * x) - x,
    "log(cosh(x))": lambda x: F.softplus(2 * x) - x - LOG2,
    "log(sigmoid(x))": F.logsigmoid,
    "log(1 - sigmoid(x))": lambda x: F.logsigmoid(-x),
    "log(1 + exp(x) + exp(2 * x))": lambda x: torch.logsumexp(torch.stack([0 * x, x, 2 * x]), 0),
    "x * tanh(log(1 + exp(x)))": F.mish,
    "x * ((1 + exp(x)) ** 2 - 1) / ((1 + exp(x)) ** 2 + 1)": F.mish,
    "where(x > 0, x, exp(x) - 1)": F.elu,
    "where(x <= 0, exp(x) - 1, x)": F.elu,
    "where(0 < x, x, -(1 - exp(x)))": F.elu,
    "max(x, 0) + min(exp(x) - 1, 0)": F.elu,
    "where(x > 20, x, log(1 + exp(x)))": F.softplus,
    "x * tanh(exp(x))": lambda x: x * torch.tanh(torch.exp(x.clamp(max=20.0))),
    "exp(-exp(-x))": lambda x: torch.exp(-torch.exp((-x).clamp(max=20.0))),
    "1 / cosh(x)": lambda x: 2 * torch.exp(-x.abs()) * torch.sigmoid(2 * x.abs()),
    "x / sqrt(1 + exp(-x))": lambda x: x * torch.exp(0.5 * F.logsigmoid(x)),
    "exp(-x) / (1 + exp(-x)) ** 2": lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    "exp(x) * exp(-x ** 2)": lambda x: torch.exp(x - x.square()),
    "relu(x) * exp(-x)": lambda x: F.relu(x) * torch.exp(-x.abs()),
    "where(x == 0, 1, sin(x) / x)": lambda x: torch.sin(x) / x,
    "where(x > 0, log(1 + x), -log(1 - x))": lambda x: x.sign() * torch.log1p(x.abs()),
}


def both(fn, x):
    """Value and slope."""
    x = x.clone().requires_grad_()
    y = fn(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


@pytest.mark.parametrize("text", EQUAL)
def test_values_and_slopes_far_out(text):
    """Also in half precision, in which an expression is computed in float32."""
    fn = activation(parse(text)).fn
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
        x = torch.tensor(FAR, dtype=dtype)
        wide = x.double()
        for got, wanted in zip(both(fn, x), both(EQUAL[text], wide), strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got, wanted.to(dtype), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("text", EQUAL)
def test_two_derivatives_are_right(text):
    fn = activation(parse(text)).fn
    x = torch.tensor([-40.3, -2.3, -0.4, 0.2, 1.9, 7.0, 33.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fn, (x,))
    assert torch.autograd.gradgradcheck(fn, (x,))


@pytest.mark.parametrize(
    "text",
    [
        "1 / (1 + exp(-a * x))", "log(1 + exp(a * x)) / a", "log(1 + a * exp(x))", "(1 + exp(-x)) ** -a",
        "where(x < 0, a * (exp(x) - 1), x)", "where(x > 0, x ** a, 0)", "where(x > a, x, a * exp(x - a))",
        "x / (a + exp(-x))", "max(x, 0) + min(a * (exp(x / a) - 1), 0)", "tanh(a * exp(x))",
    ],
)  # fmt: skip
def test_slopes_in_parameters(text):
    """Right near 0, finite far out."""
    made = parse(text)
    assert stable(made) != made
    fn = activation(made).fn
    x = torch.tensor([-7.1, -2.3, -0.4, 0.2, 1.9, 7.3], dtype=torch.float64, requires_grad=True)
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a: fn(x, a=a), (x, a))
    far, a = torch.tensor(FAR, requires_grad=True), torch.full((len(FAR),), 0.6, requires_grad=True)
    y = fn(far, a=a)
    assert y.isfinite().all()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(y.sum(), (far, a)))


@pytest.mark.parametrize(
    "text",
    [
        *FORMULAS[:4], "x * sigmoid(x)", "x * tanh(softplus(x))", "exp(-x ** 2)", "x * exp(-abs(x))", "exp(x)",
        "log(1 + abs(x))", "x / (1 + abs(x))", "x * log(1 + sigmoid(x))", "0.5 * x * (1 + erf(x / sqrt(2)))",
        "where(x > 0, x, a * x)", "max(x, a * x, b * x - 1)", "x + sin(a * x) ** 2 / a", "1 / (2 + tanh(x))",
        "1 / (1 + exp(-x ** 2))", "min(exp(min(x, 5)), 6)", "x * (exp(tanh(x)) - 2)",
    ],
)  # fmt: skip
def test_what_needs_no_other_form_keeps_every_bit(text):
    made = parse(text)
    assert stable(made) == made
    params = {name: 0.7 for name in made.parameters}
    x = torch.linspace(-9, 9, 301)
    assert all(
        map(
            torch.equal,
            both(lambda x: activation(made).fn(x, **params), x),
            both(lambda x: evaluate(made, x, params), x),
        )
    )


def test_names_stay_and_equal_functions_stay_equal():
    spec = Spec.parse("x/(exp(-x)+1)")
    assert str(spec) == "x / (1 + exp(-x))"
    assert fingerprint(spec) == fingerprint(Spec.parse("silu"))
    assert fingerprint(Spec.parse("where(x > 0, x, exp(x) - 1)")) == fingerprint(Spec.parse("elu"))


def test_what_cancels_keeps_its_digits():
    """exp(x) - 1 near 0, also where the largest exponent is taken out."""
    x = torch.tensor([1e-5, -1e-5, 3e-3])
    for text in (
        "where(x == 0, 1, x / (exp(x) - 1))",
        "where(x == 0, 1, sinh(x) / x)",
        "where(x == 0, 1, x / sinh(x))",
    ):
        got, wanted = (activation(parse(text)).fn(v) for v in (x, x.double()))
        torch.testing.assert_close(got.double(), wanted, rtol=3e-7, atol=0)
    torch.testing.assert_close(activation(parse("exp(x) - 1")).fn(x), torch.expm1(x), rtol=0, atol=0)


def test_a_huge_x_under_a_root():
    x = torch.tensor([1e25, -1e25])
    y, slope = both(activation(parse("sqrt(x * x + 1)")).fn, x)
    torch.testing.assert_close((y, slope), (x.abs(), x.sign()))
    assert activation(parse("x / sqrt(1 + x * x)")).fn(x).tolist() == [1.0, -1.0]


def test_branches_of_branches():
    """Each piece of a function with three pieces is undefined on the others."""
    fn = activation(parse("where(x > 1, log(x), where(x > -1, x - 1, -1 - sqrt(-x)))")).fn
    x = torch.tensor([-1e4, -4.0, 0.0, 0.5, 4.0, 1e4])
    y, slope = both(fn, x)
    wanted = [-101.0, -3.0, -1.0, -0.5, torch.log(x[4]).item(), torch.log(x[5]).item()]
    torch.testing.assert_close(y, torch.tensor(wanted))
    torch.testing.assert_close(slope, torch.tensor([0.005, 0.25, 1.0, 1.0, 0.25, 1e-4]))


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("tanh(x)", (-1, 1)), ("-x ** 2", (-float("inf"), 0)), ("2 - sigmoid(x)", (1, 2)), ("3 * tanh(x) + 1", (-2, 4)),
        ("min(x, 3)", (-float("inf"), 3)), ("max(tanh(x), 0) - 1", (-1, 0)), ("1 / (2 + tanh(x))", (1 / 3, 1)),
        ("where(x > 0, sin(x), 4)", (-1, 4)), ("x * tanh(x)", (-float("inf"), float("inf"))),
    ],
)  # fmt: skip
def test_bounds_hold_all_values(text, interval):
    assert bounds(parse(text)) == pytest.approx(interval)


def test_forms_of_random_expressions_are_the_same_functions():
    """Values and slopes in float64, wherever the expression as it is written has them also in float32."""
    rng, checked = random.Random(5), 0
    x = torch.linspace(-2.5, 2.5, 23, dtype=torch.float64) + 0.0137
    for _ in range(2000):
        text = formula(rng, rng.randint(2, 5))
        try:
            spec = Spec.of(text, dict.fromkeys(parse(text).parameters, 0.37))
        except ActSearchError:
            continue
        made = parse(spec.name) if spec.activation.family == "expression" else None
        if made is None or stable(made) == made:
            continue
        params = dict.fromkeys(made.parameters, 0.37)
        grids = (x, x * (1 + 1e-13), x.float())
        written = [both(lambda x, m=made, p=params: evaluate(m, x, p), grid) for grid in grids]
        for mine, wanted, near, coarse in zip(both(spec, x), *written, strict=True):
            fine = wanted.isfinite() & (wanted.abs() < 1e8) & ((coarse - wanted).abs() < 0.1 * (1 + wanted.abs()))
            allowed = 1e-8 * (1 + wanted.abs()) + 1000 * (near - wanted).abs()
            assert not (fine & ~((mine - wanted).abs() <= allowed)).any(), f"{text} → {stable(made).text}"
        checked += 1
    assert checked > 50


def test_a_net_learns_through_a_formula_where_its_exponential_overflows():
    """Signals of ±1000: with slopes of NaN nothing would be learned."""
    torch.manual_seed(0)
    x = 300 * torch.randn(256, 8)
    y = (x[:, 0] > 0).float()
    for text in ("x / (1 + exp(-x))", "x * tanh(log(1 + exp(x)))", "where(x > 0, x, exp(x) - 1)", "log(1 + exp(x))"):
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), get_activation(text), torch.nn.Linear(16, 1))
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(60):
            loss = F.binary_cross_entropy_with_logits(net(x)[:, 0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert ((net(x)[:, 0] > 0) == (y > 0)).float().mean() > 0.95, text
