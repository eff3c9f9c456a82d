"""Activations that write into their input: after a swap like for like the net computes what it did."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from actsearch.activations.spec import ActivationModule
from actsearch.swap.net import find_activations, swap_activations


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.steps = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.function = F.relu_


def _skip(self, x):
    h = self.layer(x)
    return self.other(self.act(h)) + h


def _any_skip(self, *x):
    return _skip(self, *x)


def _sequence(self, x):
    h = self.layer(x)
    return self.body(h) + h


def _steps(self, x):  # as perceptual losses collect what a VGG computes
    seen = []
    for step in self.steps:
        x = step(x)
        seen.append(x)
    return sum(seen)


def _kept_function(self, x):
    h = self.layer(x)
    return self.other(self.function(h)) + h


def _slice(self, x):
    h = self.layer(x)
    F.relu_(h[:, :2])
    return self.other(h)


def _view(self, x):
    h = self.layer(x)
    g = h.view(-1, 2, 2)
    F.relu_(h)
    return self.other(h) + g.sum()


def _positional(self, x):
    h = self.layer(x)
    F.leaky_relu(h, 0.0, True)
    return h


def _swish(self, x):
    h = self.layer(x)
    h.mul_(h.sigmoid())
    return self.other(h)


def _optional(self, x, more=True):
    h = self.layer(x)
    y = self.other(torch.relu_(h))
    return y + h if more else y


class Writing(nn.Module):
    def forward(self, x):
        return F.relu(x, inplace=True)


class Parent(Two):
    def __init__(self):
        super().__init__()
        self.act = Writing()

    forward = _skip


FORWARDS = [_skip, _any_skip, _sequence, _steps, _kept_function, _slice, _view, _positional, _optional]


def outputs(net, *more):
    """What a net gives, and the gradient of its first layer or of its steps."""
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    y = net(x, *more)
    gradients = torch.autograd.grad(y.square().sum(), list(net.parameters()), allow_unused=True)
    return [y, *(g for g in gradients if g is not None)]


def made(kind):
    return type("Written", (Two,), {"forward": kind})() if not isinstance(kind, type) else kind()


@pytest.mark.parametrize("kind", [*FORWARDS, Parent], ids=lambda k: k.__name__)
def test_who_reads_what_was_written_in_place_reads_it_after_the_swap(kind):
    net = made(kind)
    before = outputs(net)
    assert swap_activations(net, "relu", part=True).left == {}
    for part in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)) if kind is Parent else net):
        for a, b in zip(outputs(part), before, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    swap_activations(net, "tanh", part=True)  # and so do those that come after
    swap_activations(net, "relu", part=True)
    for a, b in zip(outputs(net), before, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_each_trace_sees_for_itself_who_reads_later():
    net = made(_optional)
    before = [outputs(net, more) for more in (True, False)]
    swap_activations(net, "relu")
    for more, wanted in zip((True, False), before, strict=True):
        for a, b in zip(outputs(net, more), wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_a_product_that_is_written_into_its_factor():
    net = made(_swish)
    h = net.layer(torch.ones(2, 4))
    wanted = net.other(F.elu(h))
    assert swap_activations(net, "elu", only="product_1").was == {"product_1": "x*sigmoid(x)"}
    assert torch.equal(net(torch.ones(2, 4)), wanted)


def test_what_is_no_function_of_one_value_is_no_product():
    def forward(self, x):
        h = self.layer(x)
        gate = torch.sigmoid(h)
        h.add_(1.0)
        return h * gate

    net = made(forward)
    found, _ = find_activations(net)
    assert [f.was for f in found if f.owner is net and f.calls] == ["sigmoid()"]


def test_an_activation_in_place_that_is_left_goes_on_writing():
    net = made(_skip)
    before = outputs(net)
    assert swap_activations(net, "gelu", only="body").names == ["body.0"]
    assert net.act.inplace
    for a, b in zip(outputs(net), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "googlenet", "vgg11_bn"])
def test_nobody_reads_it_in_ordinary_nets_so_nothing_is_copied(name):
    keywords = {"init_weights": False} if name == "googlenet" else {}
    found, _ = find_activations(models.get_model(name, weights=None, **keywords))
    assert not any(f.writes for f in found)


def test_a_module_that_writes_back_is_what_it_was_otherwise():
    net = made(_skip)
    swap_activations(net, "prelu")
    assert isinstance(net.act, ActivationModule) and type(net.act).__name__ == "ActivationModule"
    assert "act.negative_slope" in dict(net.named_parameters())
    x = torch.randn(3, 4)
    h = F.prelu(net.layer(x), torch.tensor([0.25]))
    assert torch.allclose(net(x), net.other(h) + h)
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-6)
    assert torch.allclose(torch.compile(net, backend="eager")(x), net(x), atol=1e-6)
