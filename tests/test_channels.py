"""Activations that see several channels, or have weights of their own: values, widths, modules, training."""

import math

import numpy as np
import pytest
import torch
from test_activations import DTYPES, EXTREMES, Reference, derivatives
from torch import nn

from actsearch.activations import CATALOG, Spec, get_activation
from actsearch.data.source import Data, Source
from actsearch.errors import ActSearchError
from actsearch.models import cnn1d, cnn2d, mlp, resnet
from actsearch.models.initialise import initialise
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.training.optimizers import parameter_groups
from actsearch.training.plan import Plan
from actsearch.training.reference import Run
from actsearch.training.worker import Worker

NAMES = [name for name, entry in CATALOG.items() if not entry.fusable and entry.kind != "stochastic"]
PAIRS = {
    "glu": lambda b: 1 / (1 + np.exp(-b)),
    "reglu": lambda b: np.maximum(b, 0),
    "geglu": lambda b: b * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(b),
    "swiglu": lambda b: b / (1 + np.exp(-b)),
    "bilinear": lambda b: b,
}


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dim", [1, -1])
def test_gated_pairs_are_the_first_half_times_a_gate_of_the_second(name, dim):
    x = draws(5, 6, 8)
    a, b = np.split(x.numpy(), 2, axis=dim)
    np.testing.assert_allclose(CATALOG[name].fn(x, dim=dim).numpy(), a * PAIRS[name](b), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dim", [1, -1])
def test_crelu_and_maxout_by_numpy(dim):
    x = draws(3, 12, 6)
    v = np.moveaxis(x.numpy(), dim, -1)
    both = np.concatenate([np.maximum(v, 0), np.maximum(-v, 0)], -1)
    np.testing.assert_array_equal(CATALOG["crelu"].fn(x, dim=dim).numpy(), np.moveaxis(both, -1, dim))
    for pieces in (2, 3):
        most = v.reshape(*v.shape[:-1], -1, pieces).max(-1)
        np.testing.assert_array_equal(CATALOG["maxout"].fn(x, pieces, dim=dim).numpy(), np.moveaxis(most, -1, dim))


def test_frelu_is_the_larger_of_x_and_a_normalised_convolution():
    module = get_activation("frelu", 3).double().eval()
    x = draws(2, 3, 5, 4)
    w = module.weighted.conv.weight.detach().numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((2, 3, 5, 4))
    for i in range(3):
        for j in range(3):
            wanted += padded[:, :, i : i + 5, j : j + 4] * w[None, :, 0, i, j, None, None]
    wanted = np.maximum(x.numpy(), wanted / math.sqrt(1 + 1e-5))  # batch norm's first running variance is 1
    np.testing.assert_allclose(module(x).detach().numpy(), wanted, rtol=1e-10)


def test_meta_acon_is_acon_c_with_a_beta_from_the_means():
    module = get_activation("meta_acon", 6).double()
    own = module.weighted
    with torch.no_grad():
        own.p1.copy_(draws(6, seed=1))
        own.p2.copy_(draws(6, seed=2))
    x = draws(2, 6, 4, 5)
    p1, p2 = (p.detach().numpy()[:, None, None] for p in (own.p1, own.p2))
    (w1, b1), (w2, b2) = ([p.detach().numpy() for p in layer.parameters()] for layer in (own.fc1, own.fc2))
    beta = 1 / (1 + np.exp(-((x.numpy().mean((2, 3)) @ w1.T + b1) @ w2.T + b2)))
    s = (p1 - p2) * x.numpy()
    wanted = s / (1 + np.exp(-beta[:, :, None, None] * s)) + p2 * x.numpy()
    np.testing.assert_allclose(module(x).detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    torch.manual_seed(0)
    module = get_activation(name, 6).double()
    x = draws(2, module.in_channels, 3, 3, seed=4).requires_grad_()
    leaves = [p.detach().clone().requires_grad_() for p in module.parameters()]
    names = [n for n, _ in module.named_parameters()]

    def fn(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(fn, (x, *leaves))
    assert torch.autograd.gradgradcheck(fn, (x, *leaves))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gives_the_width_asked_for_and_keeps_dtype_and_input(name, dtype):
    module = get_activation(name, 6).to(dtype)
    x = draws(4, module.in_channels, 3, 2).to(dtype)
    before = x.clone()
    y = module(x)
    assert y.shape == (4, 6, 3, 2)
    assert y.dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_finite_far_out(name):
    module = get_activation(name, 4)
    x = torch.linspace(-1e4, 1e4, 2 * module.in_channels * 9).view(2, module.in_channels, 3, 3).requires_grad_()
    y = module(x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


ELEMENTWISE = [name for name in NAMES if CATALOG[name].kind == "channelwise"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_right_far_out_and_close_to_zero_in_every_precision(name):
    order = torch.randperm(EXTREMES.numel(), generator=torch.Generator().manual_seed(3))
    for dtype in DTYPES:
        x = EXTREMES.flatten()[order].view(9, 6).to(dtype)
        found = derivatives(CATALOG[name].fn, x)
        assert [t.dtype for t in found] == [dtype] * 3
        Reference(CATALOG[name].fn, {}, x).check(found, dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_infinite_input_makes_no_nan(name):
    for dtype in (*DTYPES, torch.float64):
        for place in range(4):
            for value in (-math.inf, math.inf):
                x = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=dtype)
                x[0, place] = value
                assert not CATALOG[name].fn(x).isnan().any()


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_device_and_infers_shapes_without_data(name):
    module = get_activation(name, 6).to("meta")
    y = module(torch.empty(4, module.in_channels, 3, 2, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (4, 6, 3, 2))


def test_widths():
    assert [get_activation(n, 6).in_channels for n in ("relu", "glu", "maxout(pieces=3)", "crelu")] == [6, 12, 18, 3]
    with pytest.raises(ActSearchError, match="'crelu' cannot give 5 channels"):
        get_activation("crelu", 5)


@pytest.mark.parametrize("text", ["glu", "crelu", "maxout(pieces=4)", "frelu", "meta_acon"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_our_models_give_each_the_width_it_needs(text, norm):
    if text != "frelu":
        net = Model(mlp, "mlp", (7,), 3, {"width": 6, "norm": norm}).build([Spec.parse(text)], 0, "gain")
        assert net(torch.randn(4, 7)).shape == (4, 3)
        net = Model(cnn1d, "cnn1d", (20,), 3, {"width": 6, "norm": norm}).build([Spec.parse(text)], 0, "gain")
        assert net(torch.randn(4, 20)).shape == (4, 3)
    for order in ("norm_activation", "activation_norm"):
        m = Model(cnn2d, "cnn2d", (1, 8, 8), 3, {"width": 6, "norm": norm, "order": order})
        m.check([Spec.parse(text)])
        assert m.build([Spec.parse(text)], 0, "gain")(torch.randn(4, 1, 8, 8)).shape == (4, 3)


def test_a_model_without_room_for_another_width_says_so():
    m = Model(resnet, "resnet", (1, 8, 8), 3, {"width": 4, "depth": 8})
    with pytest.raises(ActSearchError, match="'swiglu' does not go into this model"):
        m.check([Spec.parse("swiglu")])
    m.check([Spec.parse("frelu")])
    with pytest.raises(ActSearchError, match=r"'frelu' does not go into this model.*images"):
        Model(mlp, "mlp", (7,), 3).check([Spec.parse("frelu")])
    with pytest.raises(ActSearchError, match="'meta_acon' has weights of its own"):
        Spec.parse("meta_acon")(torch.randn(3, 3))


def test_weights_inside_an_activation_have_no_weight_decay_and_no_gain():
    net = Model(cnn2d, "cnn2d", (1, 8, 8), 3, {"width": 4}).build([Spec.parse("frelu")], 0, "gain")
    decayed, learned = parameter_groups(net, 0.01)
    assert learned["weight_decay"] == 0.0
    inner = [p for n, p in net.named_parameters() if ".weighted." in n]
    assert {id(p) for p in learned["params"]} == {id(p) for p in inner}
    assert not {id(p) for p in decayed["params"]} & {id(p) for p in inner}
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    initialise(net, "gain", 5, {})
    at_gain = [c.weight.clone() for c in convs]
    initialise(net, "torch", 5, {})
    assert all(torch.equal(c.weight, w) for c, w in zip(convs, at_gain, strict=True))


@pytest.mark.parametrize("text", ["swiglu", "maxout", "crelu", "meta_acon", "rrelu"])
def test_trains_beside_a_fused_program_as_it_does_alone(text):
    """What has no fused form goes by the plain loop, and its neighbours stay as they were."""
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(150) % 3
    x = torch.randn(3, 6, generator=generator)[y] + 0.7 * torch.randn(150, 6, generator=generator)
    data = Data(Source(x[:90], y[:90], lambda: (x[90:], y[90:])), "blobs", 30)
    recipe = Recipe(lr=0.02, steps=20, batch_size=15, eval_every=10)
    runs = [Run((Spec.parse(t),), recipe, s) for s in (0, 1) for t in (text, "relu")]

    def train(runs, plan):
        worker = Worker(Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2}), data, torch.device("cpu"))
        worker.start(list(enumerate(runs)), plan)
        rungs = [dict(worker.advance(set())) for _ in recipe.rungs()]
        return [torch.tensor([rung[i].val_loss for i in range(len(runs))]) for rung in rungs]

    together = train(runs, Plan("fused", 8))
    alone = train([runs[0], runs[2]], Plan("serial"))
    others = train([runs[1], runs[3]], Plan("fused", 8))
    for a, b, c in zip(together, alone, others, strict=True):
        assert torch.equal(a[[0, 2]], b)
        torch.testing.assert_close(a[[1, 3]], c, rtol=1e-5, atol=1e-6)
