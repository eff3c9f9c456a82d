"""Periodic and radial activations where they are delicate: at 0, far out, at infinity, in half precision."""

import math

import numpy as np
import pytest
import torch

from actsearch.activations import CATALOG, Spec
from actsearch.errors import ActSearchError

NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
T, W = (NODES + 1) / 2, WEIGHTS / 2  # on [0, 1]


def sinc_by_integrals(x):
    """sin(x) / x is the integral of cos(t x) over t from 0 to 1; so are its derivatives, without cancellation."""
    phase = np.outer(x, T)
    return np.cos(phase) @ W, -np.sin(phase) @ (T * W), -np.cos(phase) @ (T * T * W)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_sinc_and_its_two_derivatives_are_right_at_0_and_where_the_formulas_meet(dtype, tolerance):
    points = [0.0, 1e-30, 1e-8, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.7, 0.999, 1.0, 1.001, 1.5, 3.0, math.pi, 6.0, 12.0]
    x = torch.tensor([*points, *(-p for p in points)], dtype=dtype, requires_grad=True)
    y = CATALOG["sinc"].fn(x)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    for found, wanted in zip((y, dx, ddx), sinc_by_integrals(x.detach().double().numpy()), strict=True):
        torch.testing.assert_close(found.detach().double(), torch.from_numpy(wanted), rtol=0, atol=tolerance)
    for k, wanted in ((0, (1.0, 0.0, -1 / 3)), (2, (1.0, -1e-8 / 3, -1 / 3))):
        assert (y[k].item(), dx[k].item(), ddx[k].item()) == pytest.approx(wanted, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("text", ["sin", "sin(omega=30)", "snake(a=10)", "gcu", "cosid", "sinc", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_it_is_the_float64_value_at_that_very_x_rounded(text, dtype):
    """Though 30 x rounded to bfloat16 may be a tenth of a period away."""
    spec = Spec.parse(text)
    x = torch.cat([torch.linspace(-40, 40, 999), torch.tensor([1e3, -3e3, 1e4])]).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, wanted = spec(x), spec(exact)
    (dx,), (wanted_dx,) = torch.autograd.grad(y.sum(), x), torch.autograd.grad(wanted.sum(), exact)
    eps = torch.finfo(dtype).eps
    # 1e-2: sin(30 · 1e4) in float32, whose own rounding of the product counts there
    torch.testing.assert_close(y.double(), wanted.detach(), rtol=0.51 * eps, atol=1e-2 if "30" in text else 5e-3)
    near = x.abs() <= 40
    torch.testing.assert_close(y[near].double(), wanted[near].detach(), rtol=0.51 * eps, atol=1e-4)
    torch.testing.assert_close(dx[near].double(), wanted_dx[near], rtol=0.51 * eps, atol=3e-3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("snake", (-math.inf, math.inf)), ("snake(a=50)", (-math.inf, math.inf)), ("cosid", (math.inf, -math.inf)),
        ("sinc", (0.0, 0.0)), ("gaussian", (0.0, 0.0)), ("isru(alpha=4)", (-0.5, 0.5)), ("softsign", (-1.0, 1.0)),
        ("arctan", (-math.pi / 2, math.pi / 2)), ("erf", (-1.0, 1.0)), ("logsigmoid", (-math.inf, 0.0)),
        ("tanhshrink", (-math.inf, math.inf)), ("squared_relu", (0.0, math.inf)), ("srelu", (-math.inf, math.inf)),
    ],
)  # fmt: skip
def test_limits_at_infinity(text, wanted):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        y = Spec.parse(text)(torch.tensor([-math.inf, math.inf], dtype=dtype))
        torch.testing.assert_close(y.double(), torch.tensor(wanted, dtype=torch.float64), rtol=4e-3, atol=1e-14)


def test_gaussian_is_a_normal_density_and_a_width_of_0_is_refused():
    z = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.5)
    scaled = Spec.parse(f"gaussian(width={1.5 * math.sqrt(2)!r})")(z) / (1.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(scaled, normal.log_prob(z).exp())
    with pytest.raises(ActSearchError, match=r"'gaussian\(width=0\)' is not finite"):
        Spec.parse("gaussian(width=0)")
