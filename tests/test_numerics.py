"""Half precision far out: every entry as a module, converted, with its own weights and parameters."""

import pytest
import torch

from actsearch.activations import CATALOG, Spec, get_activation
from actsearch.activations.spec import Learned

X = torch.tensor([sign * x for x in (0.5, 10.0, 100.0, 1000.0, 6e4) for sign in (1, -1)])


def learned(name):
    numbers = {p.name: Learned(p.default) for p in CATALOG[name].params if not p.choices}
    return Spec.of(name) if CATALOG[name].width else Spec.of(name, numbers)


def run(module, x, train):
    """The output, and the gradients of x and of all parameters."""
    x = x.clone().requires_grad_()
    module.train(train)
    torch.manual_seed(1)
    y = module(x)
    weight = torch.linspace(0.5, 1.0, y.numel()).view_as(y).to(y.dtype)
    leaves = [x, *module.parameters()]
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("make", [Spec.of, learned], ids=["default", "learned"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CATALOG)
def test_a_converted_module_computes_what_it_did(name, dtype, make):
    spec = make(name)
    torch.manual_seed(0)
    exact = spec.module(4).double()
    converted = spec.module(4).double()
    converted.load_state_dict(exact.state_dict())
    converted.to(dtype)
    n = exact.in_channels or 4
    x = X.view(-1, 1) * torch.linspace(0.9, 1.0, n)
    if name == "frelu":
        x = x.view(len(X), n, 1, 1) * torch.linspace(0.5, 1.0, 9).view(3, 3)
    x = x.to(dtype)
    info = torch.finfo(dtype)
    with torch.no_grad():  # with the weights and parameters as they are rounded
        for p, q in zip(exact.parameters(), converted.parameters(), strict=True):
            p.copy_(q)
    random = spec.activation.kind == "stochastic"
    for train in (False,) if random else (False, True):
        for got, wanted in zip(run(converted, x, train), run(exact, x.double(), train), strict=True):
            assert not got.isnan().any()
            fits = wanted.abs() < 0.9 * info.max
            allowed = 0.05 * wanted.abs().clamp(min=1.0) + 0.01 * wanted.abs().amax()
            assert (got.double() - wanted)[fits].abs().le(allowed[fits]).all()


def test_a_parameter_too_large_for_half_precision_is_held():
    smu = get_activation("smu").half()
    assert smu.mu.item() == 65504
    x = torch.tensor([-1000.0, -1.0, 0.0, 2.0], dtype=torch.float16)
    assert smu(x).tolist() == [-250.0, -0.25, 0.0, 2.0]
    gate = get_activation("(x * sigmoid(a * x))(a=learned(1e6))", 2).half()
    assert gate.a.tolist() == [65504, 65504]
    assert gate(x.view(2, 2)).tolist() == [[0.0, 0.0], [0.0, 2.0]]
    assert get_activation("smu").to(torch.bfloat16).mu.item() == pytest.approx(1e6, rel=4e-3)
    assert get_activation("smu").double().float().mu.item() == 1e6
    assert CATALOG["smu"].fn(x, mu=torch.tensor(torch.inf, dtype=torch.float16)).tolist() == [-250.0, -0.25, 0.0, 2.0]


def test_statistics_stay_in_float32():
    frelu = get_activation("frelu", 3).half()
    x = 3e4 * torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)).half().clamp(-2, 2)
    frelu(x)
    assert frelu.weighted.norm.running_var.dtype == torch.float32
    assert frelu.weighted.norm.running_var.isfinite().all()
    assert frelu.weighted.norm.running_var.max() > 65504
    assert frelu.eval()(x).isfinite().all()
