"""Functions called inside forward: what is found in a trace, what is left alone, and that all else stays as it was."""

import copy
import io
import pickle
import random
from functools import partial

import cloudpickle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from actsearch.errors import ActSearchError
from actsearch.swap.functions import names_called
from actsearch.swap.net import swap_activations as swap_whole
from actsearch.swap.rewrite import traces
from actsearch.swap.tracing import Untraceable
from actsearch.training.optimizers import parameter_groups

swap_activations = partial(swap_whole, part=True)  # the nets here are parts: many end in an activation


class Net(nn.Module):
    """What a user writes."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.leaky_relu(self.conv2(x), 0.1, inplace=True).mean((2, 3))
        x = self.fc1(x).relu()
        x = F.dropout(x, 0.5, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def as_net(net, x, act):
    """Net's forward with another activation."""
    x = act(net.conv2(act(net.conv1(x)))).mean((2, 3))
    return F.log_softmax(net.fc2(F.dropout(act(net.fc1(x)), 0.5, training=net.training)), dim=1)


@pytest.fixture
def x():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_the_net_computes_with_the_new_activations_in_both_modes(x, training):
    net = Net().train(training)
    swapped = swap_activations(net, "tanh")
    assert swapped.was == {"relu_1": "relu()", "leaky_relu_1": "leaky_relu()", "relu_2": "relu()"}
    assert "gate or an output" in swapped.left["log_softmax_1"]
    net.train(not training)(x)
    net.train(training)
    torch.manual_seed(3)
    wanted = as_net(net, x, torch.tanh)
    torch.manual_seed(3)
    assert torch.equal(net(x), wanted)


def test_class_keys_parameters_mode_and_hooks_stay(x):
    net, seen = Net().eval(), []
    net.register_forward_hook(lambda *_: seen.append("net"))
    net.conv2.register_forward_hook(lambda *_: seen.append("conv2"))
    keys, weights = list(net.state_dict()), [id(p) for p in net.parameters()]
    swap_activations(net, "gelu")
    net(x)
    assert isinstance(net, Net) and type(net).__name__ == "Net" and not net.training
    assert list(net.state_dict()) == keys and [id(p) for p in net.parameters()] == weights
    assert seen == ["conv2", "net"]


def test_learned_parameters_are_per_channel_trained_and_not_decayed(x):
    net = Net()
    swap_activations(net, "prelu")
    sizes = {name: len(p) for name, p in net.named_parameters() if "slope" in name}
    assert sizes == {"relu_1.negative_slope": 4, "leaky_relu_1.negative_slope": 6, "relu_2.negative_slope": 12}
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in net.named_parameters() if "slope" in name)
    groups = parameter_groups(net, 0.1)
    assert sum(p.numel() for p in groups[1]["params"]) == 4 + 6 + 12 and groups[1]["weight_decay"] == 0


def test_a_new_module_stands_behind_the_layer_it_follows():
    net = Net()
    swap_activations(net, "gelu")
    assert list(dict(net.named_children())) == ["conv1", "relu_1", "conv2", "leaky_relu_1", "fc1", "relu_2", "fc2"]


def _saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: pickle.loads(cloudpickle.dumps(net)),
        _saved,
    ],
    ids=["deepcopy", "pickle", "cloudpickle", "torch.save"],
)
def test_a_copy_computes_the_same_and_shares_nothing(x, again):
    net = Net()
    swap_activations(net, "prelu")
    other = again(net)
    assert torch.equal(other.eval()(x), net.eval()(x)) and isinstance(other, Net)
    with torch.no_grad():
        other.relu_1.negative_slope.fill_(3.0)
        other.conv1.weight.fill_(1.0)
    assert not torch.equal(other(x), net(x))
    assert torch.equal(net(x), as_net(net, x, lambda z: F.prelu(z, torch.tensor([0.25]))))


def test_compiled_and_exported_it_is_the_same_net(x):
    net = Net().eval()
    swap_activations(net, "gelu")
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-6)
    assert torch.allclose(torch.compile(net, backend="eager")(x), net(x), atol=1e-6)


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, mask=None, *, twice=False, scale=1.0):
        x = F.relu(self.layer(x)) * scale
        if mask is not None:
            x = x * mask
        return 2 * x if twice else x


def test_optional_arguments_keep_their_meaning():
    net, x, mask = Optional(), torch.randn(4, 3), torch.tensor([1.0, 0.0, 1.0])
    swap_activations(net, "tanh")
    y = net.layer(x).tanh()
    assert torch.equal(net(x), y)
    assert torch.equal(net(x, mask), y * mask)
    assert torch.equal(net(x, mask=mask, twice=True, scale=3.0), 2 * (y * 3.0 * mask))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)


def two(forward, **more):
    return type("Written", (Two,), {"forward": forward, **more})()


def helper(x):
    return torch.tanh(x)


def _children(self, x):
    for child in self.children():
        x = F.relu(child(x))
    return x


def _helpers(self, x):
    return self.own(helper(self.layer(x)))


def _own(self, x):
    return F.silu(self.other(x))


def _made(self, x):
    return nn.ReLU()(self.layer(x))


def _swish(self, x):
    x = self.layer(x)
    return self.other(x * torch.sigmoid(x))


def _mish(self, x):
    x = self.layer(x)
    return self.other(x.mul(torch.tanh(F.softplus(x))))


def _gelu(self, x):
    x = self.layer(x)
    return self.other(0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * torch.pow(x, 3)))))


def _erf(self, x):
    x = self.layer(x)
    return self.other(x * 0.5 * (1.0 + torch.erf(x / 2**0.5)))


def _hard_swish(self, x):
    x = self.layer(x)
    return self.other(x * F.relu6(x + 3.0) / 6.0)


def _squared_relu(self, x):
    return self.other(F.relu(self.layer(x)).square()) + self.layer(x).relu() ** 2


def _gate(self, x):
    return torch.relu(self.layer(x)) * self.other(x).sigmoid()


def _in_place(self, x):
    x = self.layer(x)
    F.relu_(x)
    x.tanh_()
    return self.other(x) + x


def _one_after_another(self, x):
    return F.relu(F.relu(self.layer(x))).tanh()


def _of_its_output(self, x):
    h = F.relu(self.layer(x))
    return h + self.other(torch.tanh(h))


def _swish_of_relu(self, x):
    h = F.relu(self.layer(x))
    return h * torch.sigmoid(h)


def _swish_of_swish(self, x):
    h = self.layer(x)
    a = h * torch.sigmoid(h)
    return a * torch.sigmoid(a)


def _in_place_of_output(self, x):
    return torch.relu_(torch.relu(self.layer(x)))


CASES = {
    "children": (_children, ["relu()"] * 2, lambda n, x, f: f(n.other(f(n.layer(x))))),
    "helpers": (_helpers, ["tanh()", "silu()"], lambda n, x, f: f(n.other(f(n.layer(x))))),
    "made in forward": (_made, ["relu()"], lambda n, x, f: f(n.layer(x))),
    "swish": (_swish, ["x*sigmoid(x)"], lambda n, x, f: n.other(f(n.layer(x)))),
    "mish": (_mish, ["x*tanh(softplus(x))"], lambda n, x, f: n.other(f(n.layer(x)))),
    "gelu": (_gelu, ["x*tanh(x)"], lambda n, x, f: n.other(f(n.layer(x)))),
    "erf": (_erf, ["x*erf(x)"], lambda n, x, f: n.other(f(n.layer(x)))),
    "hard swish": (_hard_swish, ["x*relu6(x)"], lambda n, x, f: n.other(f(n.layer(x)))),
    "squared relu": (_squared_relu, ["relu(x)**2"] * 2, lambda n, x, f: n.other(f(n.layer(x))) + f(n.layer(x))),
    "gate": (_gate, ["relu()"], lambda n, x, f: f(n.layer(x)) * n.other(x).sigmoid()),
    "one after another": (_one_after_another, ["relu()"] * 2 + ["tanh()"], lambda n, x, f: f(f(f(n.layer(x))))),
    "of its output": (_of_its_output, ["relu()", "tanh()"], lambda n, x, f: (h := f(n.layer(x))) + n.other(f(h))),
    "swish of relu": (_swish_of_relu, ["relu()", "x*sigmoid(x)"], lambda n, x, f: f(f(n.layer(x)))),
    "swish of swish": (_swish_of_swish, ["x*sigmoid(x)"] * 2, lambda n, x, f: f(f(n.layer(x)))),
    "in place of output": (_in_place_of_output, ["relu()"] * 2, lambda n, x, f: f(f(n.layer(x)))),
    "in place": (_in_place, ["relu()", "tanh()"], lambda n, x, f: n.other(f(f(n.layer(x)))) + f(f(n.layer(x)))),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()  # some write in place on what the gradient needs
def test_ways_to_write_an_activation(case):
    forward, was, wanted = CASES[case]
    net, x = two(forward, own=_own), torch.randn(4, 3)
    assert list(swap_activations(net, "elu").was.values()) == was
    assert torch.allclose(net(x), wanted(net, x, F.elu))
    again = swap_activations(net, "softplus")  # what is a module now, is swapped as one
    assert again.count == len(was)
    assert torch.allclose(net(x), wanted(net, x, F.softplus))


def _branch(self, x):
    return F.relu(self.layer(x)) if x.sum() > 0 else x


def _kind(self, x):
    return F.relu(self.layer(x)) if isinstance(x, torch.Tensor) else x


def _random(self, x):
    return F.relu(self.layer(x)) if random.random() < 0.5 else F.relu(x)


def _torch_random(self, x):
    return F.relu(self.layer(x)) * float(torch.rand(1) < 0.5)


def _tensor(self, x):
    return F.relu(self.layer(x)) + torch.ones(3)


def _sets(self, x):
    self.last = F.relu(self.layer(x))
    return self.last


def _no_grad(self, x):
    with torch.no_grad():
        return F.relu(self.layer(x))


def _autocast(self, x):
    with torch.autocast("cuda", enabled=False):
        return F.relu(self.layer(x))


def _checkpoint(self, x):
    return self.other(checkpoint(lambda z: F.relu(self.layer(z)), x, use_reentrant=False))


def _modes(self, x):
    return F.relu(self.layer(x)) if self.training else torch.tanh(self.layer(x))


def _any(self, *x):
    return F.relu(self.layer(x[0]))


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (_branch, "cannot be traced"),
        (_kind, "asks for the type"),
        (_random, "at random"),
        (_torch_random, "at random"),
        (_tensor, "makes a tensor"),
        (_sets, "sets self.last"),
        (_no_grad, "switches gradients"),
        (_autocast, "switches gradients or autocast"),
        (_checkpoint, "torch.utils.checkpoint, which"),
        (_modes, "other activations in training"),
        (_any, "any arguments"),
    ],
)
def test_what_a_trace_would_freeze_is_left_with_the_reason(forward, why, rng_untouched):
    part = two(forward)
    before = dict(vars(part))
    net = nn.Sequential(part, nn.ReLU())
    with rng_untouched():
        swapped = swap_activations(net, "gelu")
    assert swapped.names == ["1"]
    assert why in swapped.left["0.forward"]
    assert vars(part) == before and type(part).forward is forward
    with pytest.raises(ActSearchError, match=rf"no activation module to swap \(left: forward: .*{why}"):
        swap_activations(two(forward), "gelu")


def test_an_argument_that_cannot_be_traced_is_an_error_not_the_old_activation():
    def forward(self, x, flag=False):
        return F.relu(self.layer(x)) if not flag or x.sum() > 0 else x

    net = two(forward)
    swap_activations(net, "gelu")
    net(torch.ones(2, 3))
    with pytest.raises(ActSearchError, match=r"activations were swapped, but its forward cannot be traced.*flag"):
        net(torch.ones(2, 3), flag=True)


class Checkpointed(nn.Module):
    """torchvision's densenet does so: what it recomputes holds activations that are modules."""

    def __init__(self):
        super().__init__()
        self.layer, self.act, self.calls = nn.Linear(3, 3), nn.ReLU(), []
        self.layer.register_forward_hook(lambda *_: self.calls.append(1))

    def forward(self, x):
        return checkpoint(lambda z: self.act(self.layer(z)), x, use_reentrant=False)


def test_what_a_checkpoint_recomputes_is_recomputed_after_the_swap():
    net = Checkpointed()
    assert swap_activations(net, "gelu").names == ["act"]
    net(torch.randn(2, 3)).sum().backward()
    assert len(net.calls) == 2


def _listed(self, x):
    return self.acts[0](self.layer(x))


def _kept(self, x):
    return self.lam(self.layer(x))


def _by_name(self, x):
    return getattr(F, "relu")(self.layer(x))  # noqa: B009


def _of_class(self, x):
    return self.D["relu"](self.layer(x))


@pytest.mark.parametrize("forward", [_listed, _kept, _by_name, _of_class])
def test_a_function_that_the_code_does_not_name_is_found_too(forward):
    net, x = two(forward, D={"relu": F.relu}), torch.randn(4, 3)
    net.acts, net.lam = [F.relu, F.relu], lambda t: F.relu(t + 0)
    assert swap_activations(net, "elu").was == {"relu_1": "relu()"}
    assert torch.equal(net(x), F.elu(net.layer(x)))


@pytest.mark.parametrize("forward", [_listed, _kept, _of_class])
def test_and_named_where_the_forward_cannot_be_traced(forward):
    def branching(self, x):
        return forward(self, x) if x.sum() > 0 else self.D["relu"](x) + self.acts[0](x) + self.lam(x)

    net = two(branching, D={"relu": F.relu})
    net.acts, net.lam = [F.relu], lambda t: F.relu(t + 0)
    swapped = swap_activations(nn.Sequential(net, nn.Tanh()), "gelu")
    assert swapped.names == ["1"] and swapped.left["0.forward"].startswith("relu in forward: its forward cannot be")


def test_a_function_kept_as_an_attribute_and_called_with_more_than_x_is_left():
    net = two(lambda self, x: self.act(self.layer(x), 0.3))
    net.act = F.leaky_relu
    swapped = swap_activations(nn.Sequential(net, nn.Tanh()), "gelu")
    assert swapped.names == ["1"] and "arguments that no module takes" in swapped.left["0.act"]
    assert torch.equal(net(torch.ones(2, 3)), F.leaky_relu(net.layer(torch.ones(2, 3)), 0.3))


def test_what_looks_like_an_activation_is_listed():
    def forward(self, x):
        a = self.layer(x).clamp(min=0)
        b = torch.maximum(self.other(a), torch.zeros_like(a))
        c = torch.where(b > 0, b, 0.1 * b).clamp(min=-1.0, max=3.0)
        return torch.tanh(c + a.clamp(1e-6) + torch.where(b > 1, a, c))

    swapped = swap_activations(two(forward), "gelu")
    assert swapped.names == ["tanh_1"]
    assert {name: why.partition(":")[0] for name, why in swapped.left.items()} == {
        "clamp": "clamp(min=0)",
        "maximum": "maximum(x, 0)",
        "where": "where(x > 0, x, …)",
    }


def test_a_curve_is_named_where_it_is_an_activation():
    def forward(self, x):
        h = torch.sin(30 * self.layer(torch.cos(x)))
        return self.other(F.relu(self.layer(h * (h > 0)))) + torch.sin(x)

    left = swap_whole(nn.Sequential(two(forward), nn.Linear(3, 2)), "gelu").left
    assert {path: why.partition(":")[0] for path, why in left.items()} == {"0.mul_1": "x * (x > 0)", "0.sin": "sin(x)"}


def test_names_called_sees_methods_helpers_and_functions():
    assert names_called(two(_helpers, own=_own)) == {"tanh", "silu"}
    assert names_called(two(_made)) == {"ReLU"}
    assert names_called(two(_gate)) == {"relu", "sigmoid"}
    assert names_called(nn.MultiheadAttention(4, 2)) == set()
    assert names_called(nn.Sequential(nn.ReLU())) == set()


def test_a_trace_changes_nothing_when_it_fails():
    part = two(_sets)
    part.counts = [1]
    with pytest.raises(Untraceable, match="last"):
        traces(part)
    assert part.training and "last" not in vars(part) and part.counts == [1]
