"""Looking at a net, and trying it, leaves no trace: parameters, buffers, attributes, random numbers are as before."""

import copy
import random
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from actsearch.errors import ActSearchError
from actsearch.swap.copies import copied, difference
from actsearch.swap.net import find_activations, swap_activations


class Integrate(nn.Module):
    """A spiking neuron, whose state has the shape of its first input."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        self.v = self.v + x
        out = (self.v >= 1).float()
        self.v = self.v - out
        return out


class RunningMaximum(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("most", torch.zeros(()))

    def forward(self, x):
        self.most.copy_(torch.maximum(self.most, x.max()))
        return F.relu(x)


class ActNorm(nn.Module):
    """Glow's: the first batch decides its shift."""

    def __init__(self):
        super().__init__()
        self.register_buffer("initialised", torch.tensor(False))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if not self.initialised:
            self.shift.data.copy_(-x.mean())
            self.initialised.fill_(True)
        return x + self.shift


class Layers(nn.Module):
    calls, seen = 0, []

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.norm = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.BatchNorm1d(8)
        self.count, self.log, self.nested = torch.zeros(1), [], {"n": [0], "o": types.SimpleNamespace(n=0)}
        self.array, self.rng, self.own = np.zeros(2), np.random.default_rng(0), torch.Generator().manual_seed(3)

    def output(self, h):
        return self.b(F.gelu(self.act(h)))


def _counter(self, x):
    self.count += 1
    return self.output(self.a(x))


def _list(self, x):
    self.log.append(1)
    return self.output(self.a(x))


def _nested(self, x):
    self.nested["n"].append(1)
    self.nested["o"].n += 1
    return self.output(self.a(x))


def _array(self, x):
    self.array += 1
    return self.output(self.a(x))


def _drawn(self, x):
    return self.output(self.a(x)) * float(self.rng.random())


def _generator(self, x):
    return self.output(self.a(x)) * float(torch.rand(1, generator=self.own))


def _clipped(self, x):
    for p in self.parameters():
        p.data.clamp_(-1e-3, 1e-3)
    return self.output(self.a(x))


def _child(self, x):
    self.a.used = True
    return self.output(self.a(x))


def _frozen_norm(self, x):
    self.norm.eval()
    return self.output(self.norm(self.a(x)))


def _class_counter(self, x):
    type(self).calls += 1
    return self.output(self.a(x))


def _class_list(self, x):
    self.seen.append(x)
    return self.output(self.a(x))


def _new_child(self, x):
    self.late = nn.Linear(8, 2)
    return self.late(F.gelu(self.act(self.a(x))))


FORWARDS = [
    _counter, _list, _nested, _array, _drawn, _generator, _clipped, _child, _frozen_norm, _class_counter, _class_list,
    _new_child,
]  # fmt: skip


def layers(forward):
    return type("Written", (Layers,), {"forward": forward, "seen": []})()


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_what_a_forward_changes_is_not_changed_by_looking_nor_frozen_by_the_swap(forward, rng_untouched):
    net = layers(forward)
    before, of_class = copied(net), (type(net).calls, list(type(net).seen))
    with rng_untouched():
        swapped = swap_activations(net, "relu", part=True)
    assert swapped.names == ["act"]
    assert swapped.left["forward"].startswith(
        ("gelu in forward: its forward sets ", "gelu in forward: its forward dec")
    )
    net.act = before.act
    assert difference(before, net, True) is None
    assert (type(net).calls, type(net).seen) == of_class
    torch.manual_seed(0)
    net(torch.ones(3, 4))  # and it still does what it did
    if forward is not _frozen_norm:
        assert difference(before, net, True) is not None or type(net).calls or type(net).seen


@pytest.mark.parametrize(
    "part",
    [
        Integrate(), RunningMaximum(), ActNorm(), nn.BatchNorm1d(8), spectral_norm(nn.Linear(8, 8)),
        parametrizations.spectral_norm(nn.Linear(8, 8)), weight_norm(nn.Linear(8, 8)), nn.Dropout(),
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
@pytest.mark.parametrize("looks", [find_activations, lambda net: swap_activations(net, "tanh")], ids=["find", "swap"])
def test_states_of_other_modules_are_as_before(part, looks, rng_untouched):
    net = nn.Sequential(nn.Linear(5, 8), copied(part), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    net.eval()[1].train()
    before = copied(net)
    with rng_untouched():
        looks(net)
    assert list(net[:3].state_dict()) == list(before[:3].state_dict())
    for name, value in before[:3].state_dict().items():
        assert torch.equal(net[:3].state_dict()[name], value), name
    assert vars(net[1]).get("v") == vars(before[1]).get("v")
    assert [net[i].training for i in range(4)] == [False, True, False, False]
    assert not net[0].weight.requires_grad and all(p.grad is None for p in net.parameters())
    net.eval()(torch.randn(3, 5))


def test_modes_hooks_and_gradients_stay():
    net = layers(lambda self, x: self.output(self.a(x)))
    net.norm.eval()
    net.a.register_forward_hook(lambda *_: seen.append(1))
    seen = []
    net(torch.ones(2, 4)).sum().backward()
    grad = net.a.weight.grad.clone()
    find_activations(net)
    assert (net.training, net.norm.training, seen) == (True, False, [1])
    assert torch.equal(net.a.weight.grad, grad)


def test_a_module_that_keeps_a_state_is_no_activation_and_its_function_is_replaced_inside():
    net = nn.Sequential(nn.Linear(4, 8), RunningMaximum(), nn.Linear(8, 2))
    assert swap_activations(net, "tanh").names == ["1.relu_1"]
    net(torch.ones(2, 4))
    assert net[1].most == F.relu(net[0](torch.ones(2, 4))).max().clamp(min=0) or net[1].most > 0


def test_a_copy_shares_nothing_and_takes_what_torch_cannot_copy():
    net = nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(8, 2))
    net[0](torch.ones(2, 4))  # its weight is computed now: deepcopy raises
    with pytest.raises(RuntimeError):
        copy.deepcopy(net)
    twin = copied(net)
    with torch.no_grad():
        twin[0].weight_g.fill_(7.0)
    assert not (net[0].weight_g == 7).any()
    x = torch.randn(3, 4)
    assert torch.equal(copied(net)(x), copied(net)(x))


def test_a_copy_of_a_decoder_layer_keeps_its_activation_module():
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, activation=nn.Softplus())
    assert isinstance(copied(layer).activation, nn.Softplus)
    assert copy.deepcopy(layer).activation is F.relu  # torch's own copies do not


def test_what_cannot_be_copied_is_named():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net[2].lines = (line for line in "ab")
    with pytest.raises(ActSearchError, match=r"Sequential: 2\.lines cannot be copied \(TypeError: .*Remove it"):
        copied(net)


def test_a_difference_is_named():
    net = layers(_counter)
    for name, change in {
        "a.weight": lambda twin: twin.a.weight.data.add_(1),
        "norm.running_mean": lambda twin: twin.norm.running_mean.add_(1),
        "norm.training": lambda twin: twin.norm.eval(),
        "nested": lambda twin: twin.nested["n"].append(2),
        "rng": lambda twin: twin.rng.random(),
        "own": lambda twin: torch.rand(1, generator=twin.own),
        "new": lambda twin: setattr(twin, "new", 3),
        "c": lambda twin: setattr(twin, "c", nn.Linear(1, 1)),
    }.items():
        twin = copied(net)
        assert difference(net, twin, True) is None
        change(twin)
        assert difference(net, twin, True) == name
    random.seed(0)
