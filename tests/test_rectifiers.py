"""Rectifiers that draw, and those with thresholds: distributions, slopes at kinks, learned thresholds."""

import pytest
import torch
import torch.nn.functional as F

from actsearch.activations import CATALOG, Spec, get_activation
from actsearch.errors import ActSearchError

LOWER, UPPER = 1 / 8, 1 / 3


def slopes_drawn(fn, n=200_000):
    torch.manual_seed(3)
    return -fn(torch.full((n,), -1.0, dtype=torch.float64), LOWER, UPPER, training=True)


def test_rrelu_draws_its_slopes_as_torchs_does():
    ours, torchs = slopes_drawn(CATALOG["rrelu"].fn), slopes_drawn(F.rrelu)
    assert LOWER <= ours.min() < LOWER + 1e-5
    assert UPPER - 1e-5 < ours.max() <= UPPER
    quantiles = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    uniform = LOWER + (UPPER - LOWER) * quantiles
    for drawn in (ours, torchs):
        torch.testing.assert_close(drawn.quantile(quantiles), uniform, rtol=0, atol=1e-3)
    assert abs(torch.corrcoef(torch.stack([ours[1:], ours[:-1]]))[0, 1]) < 0.01  # each element its own


def test_rrelu_draws_anew_each_time_but_the_same_from_the_same_seed_whatever_the_signs():
    x = torch.tensor([-1.0, 2.0, -3.0])
    fn = CATALOG["rrelu"].fn
    torch.manual_seed(0)
    one, other = fn(x, training=True), fn(x, training=True)
    assert one[1] == 2.0
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    flipped = fn(-x.abs(), training=True)
    assert torch.equal(flipped[[0, 2]], one[[0, 2]])
    torch.testing.assert_close(fn(x), torch.tensor([-11 / 48, 2.0, -33 / 48]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_rrelu_trains_in_training_mode_only_and_its_slope_is_its_gradient(dtype):
    module = get_activation("rrelu", 3)
    x = torch.linspace(-4, 4, 60).view(20, 3).to(dtype).requires_grad_()
    y = module(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dtype
    torch.testing.assert_close(dx * x, y)
    assert len(dx[x < 0].unique()) > 5
    assert torch.equal(dx[x > 0], torch.ones_like(dx[x > 0]))
    module.eval()
    assert torch.equal(module(x), F.rrelu(x, LOWER, UPPER, training=False))


def test_rrelus_bounds_can_be_learned_and_must_be_in_order():
    module = get_activation("rrelu(lower=learned, upper=learned)", 2)
    x = torch.tensor([[-1.0, -2.0], [3.0, -4.0]])
    module(x).sum().backward()
    total = module.lower.grad + module.upper.grad  # of lower (1 - u) + upper u, u drawn
    torch.testing.assert_close(total, torch.tensor([-1.0, -6.0]))
    assert (module.lower.grad < 0).all()
    with pytest.raises(ActSearchError, match=r"rrelu\(lower=0.5\).* lower=0.5 is above upper=0.3333"):
        Spec.parse("rrelu(lower=0.5)")


@pytest.mark.parametrize(
    ("text", "kinks", "wanted"),
    [
        ("shifted_relu(shift=0.5)", [-0.5], [0.0]),  # as relu has at 0
        ("clipped_relu(cap=2)", [0.0, 2.0], [0.0, 0.0]),  # as relu6 has
        ("thresholded_relu(theta=0.5)", [0.5], [0.0]),
        ("squared_relu", [0.0], [0.0]),
        ("srelu(t_r=2, a_r=0.3, t_l=-1, a_l=0.1)", [-1.0, 2.0], [0.1, 0.3]),  # the outer pieces include their ends
        ("penalized_tanh(a=0.3)", [0.0], [0.3]),  # as leaky_relu has
    ],
)
def test_slopes_at_kinks_with_numbers_and_tensors(text, kinks, wanted):
    spec = Spec.parse(text)
    for params in (spec.params, {k: torch.tensor(v, dtype=torch.float64) for k, v in spec.params.items()}):
        x = torch.tensor(kinks, dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(spec.activation.fn(x, **params).sum(), x)
        torch.testing.assert_close(dx, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("text", ["thresholded_relu(theta=learned)", "hardshrink(lambd=learned)"])
def test_thresholds_at_jumps_have_a_gradient_of_zero_rather_than_none(text):
    module = get_activation(text, 3)
    module(torch.linspace(-2, 2, 12).view(4, 3)).sum().backward()
    (parameter,) = module.parameters()
    assert torch.equal(parameter.grad, torch.zeros(3))


def test_srelu_is_what_it_is_called_when_its_slopes_are_ends_of_its_range():
    x = torch.linspace(-5, 5, 41, dtype=torch.float64)
    fn = CATALOG["srelu"].fn
    torch.testing.assert_close(fn(x, t_r=2.0, a_r=0.0, t_l=-1.0, a_l=0.0), x.clamp(-1, 2))
    torch.testing.assert_close(fn(x, a_l=0.3), F.leaky_relu(x, 0.3))


def test_star_relu_has_mean_0_and_variance_1_for_normal_inputs():
    z = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
    weight = torch.exp(-z.square() / 2)
    y = Spec.parse("star_relu")(z)
    mean = (y * weight).sum() / weight.sum()
    variance = (y.square() * weight).sum() / weight.sum() - mean.square()
    assert mean.item() == pytest.approx(0.0, abs=1e-4)
    assert variance.item() == pytest.approx(1.0, abs=1e-4)
