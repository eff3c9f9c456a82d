"""Where activations stand: which are hidden, and why the others stay. Nets that torch.fx can trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from actsearch.errors import ActSearchError
from actsearch.swap.net import find_activations, swap_activations

OUTPUT, FRONT, PARAMETER = "an output activation", "no weight layer comes before it", "it works on a parameter"
SHIFTED, DIVIDES, ROUNDED = "a constant is added to it", "it is divided by", "it is rounded"


def hidden(net):
    return [f.path for f in find_activations(net)[0] if not f.stays]


def stays(net):
    return {f.path: f.stays for f in find_activations(net)[0] if f.stays and not f.gate}


class Net(nn.Module):
    """Layers for the forwards below. a: 4 → 8; b, c: 8 → 8; d: 8 → 2."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.act, self.end = nn.ReLU(), nn.Tanh()
        self.rho = nn.Parameter(torch.zeros(8, 4))
        self.norm = nn.BatchNorm1d(8)


def net(forward):
    made = type("Written", (Net,), {"forward": forward})()
    for name in {"act", "end"} - {*forward.__code__.co_names}:
        delattr(made, name)
    return made


def _policy(self, x):
    return 2.0 * self.end(self.d(self.act(self.a(x))))


def _gauss(self, x):
    h = F.relu(self.a(x))
    return torch.cat([self.b(h), F.softplus(self.c(h)) + 1e-4], 1)


def _front(self, x):
    return self.d(F.relu(self.a(torch.log1p(F.relu(x)))))


def _parameter(self, x):
    return self.d(F.relu(F.linear(x, F.softplus(self.rho))))


def _residual_end(self, x):
    h = F.relu(self.a(x))
    return h + self.b(h)


def _residual(self, x):
    h = F.relu(self.a(x))
    return self.d(F.relu(h + self.b(h)).mean(1, keepdim=True).expand(-1, 8))


def _linear_attention(self, x):
    h = self.a(x)
    q, k = F.elu(self.b(h)) + 1, F.elu(self.c(h)) + 1
    return self.d(F.gelu(self.b(q @ (k.mT @ h))))


def _relu_attention(self, x):
    h = self.a(x)
    q, k = self.act(self.b(h)), self.act(self.c(h))
    return self.d(torch.einsum("nd,d->n", q, k.sum(0)).add(1e-6).reciprocal()[:, None] * h)


def _normalised(self, x):
    w = F.softplus(self.a(x))
    return self.d(w / w.sum(-1, keepdim=True))


def _normed(self, x):
    h = F.relu(self.a(x))
    return self.d(h / torch.sqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))


def _quantised(self, x):
    z = torch.tanh(self.a(x)) * 3.5
    return self.d(z + (z.round() - z).detach())


def _relu_rounded(self, x):
    z = F.relu(self.a(x))
    return self.d(z + (z.round() - z).detach())


def _hard_sigmoid(self, x):
    h = F.relu(self.a(x))
    return self.d(h * F.relu6(self.b(h) + 3) / 6)


def _heads(self, x):
    h = F.relu(self.a(x))
    return {"logits": self.d(h), "scale": F.softplus(self.b(h))}


def _norm_last(self, x):
    return self.norm(F.relu(self.a(x)))


def _tied(self, x):
    return F.gelu(self.b(self.a(x))) @ self.a.weight


def _written_out(self, x):
    return (F.relu(self.a(x)) * self.rho.sum(1)).sum(-1)


def _flow(self, x):
    shift, scale = self.d(F.relu(self.a(x))).chunk(2, 1)
    return x * torch.exp(torch.tanh(scale)) + shift


def _in_training(self, x):
    x = self.d(self.act(self.a(x)))
    return self.end(x) if self.training else x


@pytest.mark.parametrize(
    ("forward", "inside", "others"),
    [
        (_policy, ["act"], {"end": OUTPUT}),
        (_gauss, ["relu_1"], {"softplus_1": OUTPUT}),
        (_heads, ["relu_1"], {"softplus_1": OUTPUT}),
        (_flow, ["relu_1"], {"tanh_1": OUTPUT}),
        (_in_training, ["act"], {"end": OUTPUT}),
        (_norm_last, [], {"relu_1": OUTPUT}),
        (_residual_end, [], {"relu_1": OUTPUT}),
        (_residual, ["relu_1", "relu_2"], {}),
        (_front, ["relu_2"], {"relu_1": FRONT}),
        (_parameter, ["relu_1"], {"softplus_1": PARAMETER}),
        (_linear_attention, ["gelu_1"], {"elu_1": SHIFTED, "elu_2": SHIFTED}),
        (_relu_attention, [], {"act": "root or reciprocal"}),
        (_normalised, [], {"softplus_1": DIVIDES}),
        (_normed, ["relu_1"], {}),
        (_quantised, [], {"tanh_1": ROUNDED}),
        (_relu_rounded, ["relu_1"], {}),
        (_hard_sigmoid, ["relu_1"], {"relu6_1": "as in a hard sigmoid"}),
        (_tied, ["gelu_1"], {}),
        (_written_out, ["relu_1"], {}),
    ],
)
def test_where_an_activation_stands_decides(forward, inside, others):
    made = net(forward)
    assert hidden(made) == inside
    found = stays(made)
    assert sorted(found) == sorted(others)
    assert all(why in found[path] for path, why in others.items())


def actor():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())


@pytest.mark.parametrize(
    ("made", "inside"),
    [
        (actor(), ["1", "3"]),
        (nn.Sequential(nn.Embedding(9, 8), nn.GELU(), nn.Linear(8, 2)), ["1"]),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ["3"]),
        (nn.Sequential(nn.LSTM(4, 4), nn.Identity(), nn.Linear(4, 2), nn.Hardtanh()), []),
        (nn.DataParallel(actor()), ["module.1", "module.3"]),
        (torch.compile(actor()), ["_orig_mod.1", "_orig_mod.3"]),
        (nn.Sequential(actor()[:5], nn.Sequential(nn.Softplus())), ["0.1", "0.3"]),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), ["0", "1.0"]),  # without weights its place is unknown
    ],
)
def test_sequences_and_wrappers(made, inside):
    assert hidden(made) == inside


def test_a_policys_outputs_keep_their_bounds():
    made = actor()
    swap_activations(made, "relu")
    nn.init.normal_(made[4].weight, std=5.0, generator=torch.Generator().manual_seed(0))
    out = made(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    assert 0.9 < out.abs().max() <= 1 and out.min() < 0 < out.max()


def test_a_parametrization_is_no_activation():
    class Positive(nn.Module):
        def forward(self, w):
            return F.softplus(w)

    layer = nn.Linear(4, 8)
    parametrize.register_parametrization(layer, "weight", Positive())
    made = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2))
    swapped = swap_activations(made, "tanh")
    assert swapped.names == ["1"] and PARAMETER in swapped.left["0.parametrizations.weight.0"]
    assert (made[0].weight > 0).all()


def _thrice(self, x):
    return self.end(self.d(self.end(self.b(self.end(self.a(x))))))


@pytest.mark.parametrize("again", [False, True])
def test_a_module_that_is_called_in_both_ways_is_replaced_where_it_is_hidden(again):
    made, x = net(_thrice), torch.randn(5, 4)
    swapped = swap_activations(made, "elu")
    assert swapped.names == ["end_1"] and OUTPUT in swapped.left["end"]
    if again:
        assert swap_activations(made, "gelu").names == ["end_1"]
    act = F.gelu if again else F.elu
    assert torch.equal(made(x), torch.tanh(made.d(act(made.b(act(made.a(x)))))))


def test_of_calls_that_are_apart_the_last_stays():
    made, x = net(_thrice), torch.randn(5, 4)
    swapped = swap_activations(made, "prelu", per_call=True)
    assert swapped.names == ["end_1", "end_2"] and list(swapped.left) == ["end_3"]
    inner = made.end_2(made.b(made.end_1(made.a(x))))
    assert torch.equal(made(x), torch.tanh(made.d(inner)))


def test_one_call_of_several_is_replaced_alone():
    made, x = net(_thrice), torch.randn(5, 4)
    assert swap_activations(made, "elu", only="end_2", per_call=True).names == ["end_2"]
    assert torch.equal(made(x), torch.tanh(made.d(F.elu(made.b(torch.tanh(made.a(x)))))))
    made = net(_thrice)
    assert swap_activations(made, "elu", only="end", per_call=True).names == ["end_1"]
    assert torch.equal(made(x), torch.tanh(made.d(torch.tanh(made.b(F.elu(made.a(x)))))))


def test_the_part_of_a_net_is_judged_as_one():
    part = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU())
    assert hidden(part) == []
    assert [f.path for f in find_activations(part, part=True)[0] if not f.stays] == ["1", "3"]


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["1", "5"], ["1", "5"]),
        ("5", ["5"]),
        ("Tanh", ["1", "3"]),
        (nn.Tanh, ["1", "3"]),
        ([nn.Tanh, "!3"], ["1"]),
        (torch.tanh, "matches no activation"),
        ([nn.ReLU], "matches no activation"),
        (lambda f: f.path != "1", ["3"]),
        ("[5]", r"only='\[5\]' matches 5 \(an output activation.*Write only='5' to swap it all the same"),
    ],
)
def test_only_forces_what_it_names_in_full(only, names):
    if isinstance(names, list):
        assert swap_activations(actor(), "gelu", only=only).names == names
    else:
        with pytest.raises(ActSearchError, match=names):
            swap_activations(actor(), "gelu", only=only)


def test_only_by_function_or_class_takes_functions_too():
    def forward(self, x):
        return self.d(torch.tanh(self.b(F.relu(self.a(x)))))

    for only, names in ((F.relu, ["relu_1"]), (nn.ReLU, ["relu_1"]), ("tanh()", ["tanh_1"])):
        assert swap_activations(net(forward), "gelu", only=only).names == names
