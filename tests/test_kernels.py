"""Torch's own kernels that the fused engine calls: equal to autograd of the catalogue's function, in place too."""

import pytest
import torch

from actsearch.activations import CATALOG, Spec
from actsearch.activations.kernels import KERNELS
from actsearch.activations.spec import Learned

EDGES = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 0.5, -0.5, 2.0, -100.0, 100.0]
WITH_KERNEL = [name for name, entry in CATALOG.items() if entry.fn in KERNELS]
OTHER_VALUES = {
    "negative_slope": 0.3,
    "alpha": 0.4,
    "beta": 2.7,
    "min_val": -0.5,
    "max_val": 2.0,
    "approximate": "tanh",
    "cap": 3.0,
    "theta": 0.5,
    "shift": 0.5,
    "lambd": 2.0,
    "omega": 5.0,
}


def settings(name):
    """Parameters at their defaults, and all at other values."""
    defaults = {n: v.init if isinstance(v, Learned) else v for n, v in Spec.of(name).params.items()}
    return [defaults, {n: OTHER_VALUES[n] for n in defaults}] if defaults else [defaults]


CASES = [(name, params) for name in WITH_KERNEL for params in settings(name)]


def test_torchs_own_smooth_and_kinked_ones_have_one():
    names = "relu leaky_relu prelu relu6 elu selu celu gelu silu hardswish mish softplus tanh sigmoid".split()
    assert not set(names) - set(WITH_KERNEL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "params"), CASES)
def test_kernels_are_autograd_of_the_function(name, params, dtype):
    fn, kernel = CATALOG[name].fn, KERNELS[CATALOG[name].fn]
    x = torch.cat([torch.linspace(-9, 9, 181, dtype=dtype), torch.tensor(EDGES, dtype=dtype)]).requires_grad_()
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    y = fn(x, **params)
    (wanted,) = torch.autograd.grad(y, x, grad)
    got, gx, over = torch.empty_like(x), torch.empty_like(x), grad.clone()
    kernel.forward(x.detach(), got, **params)
    kernel.backward(grad, x.detach(), got, gx, **params)
    kernel.backward(over, x.detach(), got, over, **params)
    tolerance = dict.fromkeys(("rtol", "atol"), 1e-13 if dtype is torch.float64 else 1e-6)
    torch.testing.assert_close(got, y.detach(), **tolerance)
    torch.testing.assert_close(gx, wanted, **tolerance)
    assert torch.equal(over, gx)


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.backward is not None])
def test_a_backward_for_tensors_is_autograd_of_the_function(name):
    entry = CATALOG[name]
    x = torch.cat([torch.linspace(-9, 9, 180, dtype=torch.float64), torch.tensor(EDGES, dtype=torch.float64)])
    x = x[:192].view(4, 48).requires_grad_()
    params = {p.name: torch.linspace(0.2, 2, 4, dtype=torch.float64).view(4, 1).requires_grad_() for p in entry.params}
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad(entry.fn(x, **params), [x, *params.values()], grad)
    gx, grads = entry.backward(grad, x.detach(), **{n: p.detach() for n, p in params.items()})
    torch.testing.assert_close(gx, wanted[0], rtol=0, atol=1e-12)
    for n, value in zip(params, wanted[1:], strict=True):
        torch.testing.assert_close(grads[n].sum(1, keepdim=True), value, rtol=0, atol=1e-11)
