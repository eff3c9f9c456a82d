"""Swapping the activations of ordinary nets."""

import copy

import pytest
import torch
from torch import nn

from actsearch.activations import Spec, get_activation
from actsearch.activations.spec import ActivationModule
from actsearch.errors import ActSearchError
from actsearch.swap import GATES, HIDDEN, swap_activations


def test_every_hidden_activation_is_replaced_and_the_net_computes_with_the_new_one():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3), nn.Tanh()))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    inner = nn.functional.elu(net[0](x), 0.5)
    wanted = nn.functional.elu(net[2][0](inner), 0.5)
    swapped = swap_activations(net, "elu(alpha=0.5)")
    assert swapped.names == ["1", "2.1"]
    assert swapped.count == 2
    assert swapped.left == {}
    assert torch.equal(net(x), wanted)


@pytest.mark.parametrize(
    "kind", [k for k in HIDDEN if k not in (ActivationModule, nn.Threshold)], ids=lambda k: k.__name__
)
def test_each_kind_of_hidden_activation_is_known(kind):
    net = nn.Sequential(kind())
    assert swap_activations(net, "gelu").names == ["0"]
    assert str(net[0].spec) == "gelu"


@pytest.mark.parametrize("kind", GATES, ids=lambda k: k.__name__)
def test_gates_and_outputs_stay_with_a_reason(kind):
    net = nn.Sequential(nn.ReLU(), kind())
    swapped = swap_activations(net, "gelu")
    assert swapped.names == ["0"]
    assert list(swapped.left) == ["1"]
    assert kind.__name__ in swapped.left["1"]
    assert type(net[1]) is kind


@pytest.mark.parametrize(
    "to", ["silu", Spec.parse("silu"), lambda: Spec.parse("silu").module()], ids=["text", "spec", "fn"]
)
def test_takes_text_spec_or_function(to):
    net = nn.Sequential(nn.ReLU())
    swap_activations(net, to)
    assert net[0].spec == Spec.parse("silu")


def test_a_function_makes_each_module_in_order():
    specs = iter(["relu", "tanh", "gelu"])
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.Tanh(), nn.ELU())
    swap_activations(net, lambda: get_activation(next(specs)))
    assert [str(m.spec) for m in net if isinstance(m, ActivationModule)] == ["relu", "tanh", "gelu"]


def test_a_shared_instance_stays_shared_and_others_do_not_become_it():
    shared = nn.ReLU()
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": shared})
    swapped = swap_activations(net, "prelu")
    assert swapped.names == ["a", "b.0", "b.1", "c"]
    assert net["a"] is net["b"][0] is net["c"]
    assert net["b"][1] is not net["a"]
    assert len(list(net.parameters())) == 2


def test_a_shared_container_is_swapped_once():
    made = []
    inner = nn.Sequential(nn.ReLU())
    net = nn.ModuleDict({"a": inner, "b": inner})
    swap_activations(net, lambda: made.append(get_activation("gelu")) or made[-1])
    assert net["a"] is net["b"]
    assert net["a"][0] is made[0]
    assert len(made) == 1


def test_swapping_twice_replaces_what_was_swapped_in():
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
    swap_activations(net, "prelu")
    assert swap_activations(net, "tanh").names == ["0", "2"]
    assert [str(m.spec) for m in (net[0], net[2])] == ["tanh", "tanh"]


def test_learned_parameters_join_the_net_and_move_in_training():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    swap_activations(net, "prelu")
    assert "1.negative_slope" in dict(net.named_parameters())
    net(torch.randn(5, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert net[1].negative_slope.grad.abs() > 0


def test_weights_stay():
    net = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2))
    before = copy.deepcopy(net)
    swap_activations(net, "tanh")
    for i in (0, 2):
        assert torch.equal(net[i].weight, before[i].weight)
        assert torch.equal(net[i].bias, before[i].bias)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return torch.relu(x) * self.gate(x)


def test_nothing_to_swap_is_an_error_that_says_why():
    with pytest.raises(ActSearchError, match=r"Functional has no activation module.*left: gate.*nn\.ReLU\(\)"):
        swap_activations(Functional(), "gelu")
    with pytest.raises(ActSearchError, match=r"Linear has no activation module to swap. Only"):
        swap_activations(nn.Linear(2, 2), "gelu")


def test_wrong_text_changes_nothing():
    net = nn.Sequential(nn.ReLU())
    with pytest.raises(ActSearchError, match="rleu"):
        swap_activations(net, "rleu")
    assert type(net[0]) is nn.ReLU


def test_a_dropout_in_place_behind_a_swapped_activation_does_not_break_its_gradient():
    """mobilenet_v3's classifier: hardswish, then Dropout(inplace=True). relu's backward needs its own output."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Hardswish(inplace=True), nn.Dropout(0.5, inplace=True), nn.Linear(4, 1))
    swap_activations(net, "relu")
    net(torch.randn(3, 4)).sum().backward()
    assert net[0].weight.grad is not None and not net[2].inplace
