"""Where activations stand in a net whose forward torch.fx cannot trace: its source tells."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint

from actsearch.swap.net import find_activations, swap_activations


class Parts(nn.Module):
    """Hidden: act. Outputs: end."""

    bounded = True

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act, self.end = nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU(), nn.Tanh()
        self.layers = nn.ModuleList([self.a, self.b])
        self.acts = nn.ModuleList([self.act, self.end])
        self.heads = nn.ModuleDict({"mu": nn.Linear(8, 2), "sd": nn.Sequential(nn.Linear(8, 2), self.end)})
        self.step = None

    def body(self, x):
        return self.act(self.a(x))

    @staticmethod
    def doubled(x):
        return 2 * x


def _branch(self, x):
    h = self.act(self.a(x))
    h = h * 2 if h.mean() > 0 else -h
    return self.end(self.b(h))


def _any(self, x, **more):
    return {"action": self.end(self.b(self.act(self.a(x))))}


def _normal(self, x):
    h = self.act(self.a(x))
    return Normal(self.b(h), self.end(self.b(h)) + 1e-3)


def _zipped(self, x, *more):
    for layer, act in zip(self.layers, self.acts, strict=True):
        x = act(layer(x))
    return x


def _indexed(self, x, *more):
    for i, layer in enumerate(self.layers):
        x = self.acts[i](layer(x))
    return x


def _last(self, x, *more):
    return self.acts[-1](self.layers[-1](self.acts[0](self.layers[0](x))))


def _dict(self, x, *more):
    h, out = self.act(self.a(x)), {}
    for name, head in self.heads.items():
        out[name] = head(h)
    return out


def _listed(self, x, *more):
    outs = []
    for head in self.heads.values():
        outs.append(head(self.body(x)))
    return torch.stack(outs)


def _comprehension(self, x, *more):
    return torch.cat([head(self.act(self.a(x))) for head in self.heads.values()], 1)


def _method(self, x, *more):
    return self.end(self.b(self.doubled(self.body(x))))


def _checkpoint(self, x):
    return self.end(self.b(checkpoint(self.body, x, use_reentrant=False)))


def _sets(self, x):
    self.hidden = self.act(self.a(x))
    self.action = self.end(self.b(self.hidden))
    return self.action


def _loop(self, x):
    h = self.act(self.a(x[:, 0]))
    for t in range(x.size(1)):
        h = h + self.act(self.a(x[:, t]))
    return self.end(self.b(h))


def _local(self, x, *more):
    def head(h):
        return self.end(self.b(h))

    squash = lambda h: head(1.0 * h)  # noqa: E731
    return squash(self.act(self.a(x)))


def _flags(self, x, *more, squash=True):
    x = self.b(self.act(self.a(x)))
    if self.step is not None:
        return x
    return self.end(x) if self.bounded and squash else self.act(x)


def _guarded(self, x, *more):
    if isinstance(self.a, nn.Identity) or isinstance(x, list):
        return self.act(x)
    try:
        h = self.act(self.a(x))
    except RuntimeError:
        h = self.act(self.a(x.float()))
    with torch.no_grad():
        scale = x.mean()
    return self.end(self.b(h / (1 + scale)))


class Record:
    def __init__(self, out=None, hidden=None):
        self.out, self.hidden = out, hidden


def _record(self, x, *more):
    made = Record(out=self.b(self.act(self.a(x))), hidden=None)
    return self.end(made.out)


FORWARDS = [
    _branch, _any, _normal, _zipped, _indexed, _last, _dict, _listed, _comprehension, _method, _checkpoint, _sets,
    _loop, _local, _flags, _guarded, _record,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_the_source_tells_where_activations_stand(forward):
    found, left = find_activations(type("Written", (Parts,), {"forward": forward})())
    assert {f.stays[:20] for f in found if isinstance(f.module, nn.Tanh) and f.seen} == {"an output activation"}
    assert {f.stays for f in found if isinstance(f.module, nn.ReLU) and f.seen} == {""}
    assert left == {}


class Base(Parts):
    def forward(self, x, *more):
        return self.b(self.act(self.a(x)))


class Inheriting(Base):
    def forward(self, x, *more):
        return self.end(super().forward(x))


class Replaced(Base):
    def __init__(self):
        super().__init__()
        self.forward = lambda x: self.end(self.b(self.act(self.a(x))))


@pytest.mark.parametrize("kind", [Inheriting, Replaced])
def test_inherited_and_replaced_forwards_are_followed(kind):
    stays = {f.path: f.stays[:20] for f in find_activations(kind())[0] if f.seen}
    assert stays["act"] == "" and stays["end"] == "an output activation"


def test_what_bounds_a_scale_is_left_and_the_distribution_can_be_made():
    net = type("Written", (Parts,), {"forward": _normal})()
    net.end = nn.Softplus()
    del net.acts, net.heads
    assert swap_activations(net, "tanh").names == ["act"]
    assert (net(torch.randn(50, 4)).scale > 0).all()


class Unread(Parts):
    def forward(self, x, *more):
        return eval("self.end(self.b(self.act(self.a(x))))")


def test_where_nothing_can_be_seen_the_swap_says_so():
    net = nn.Sequential(Unread(), nn.ReLU(), nn.Linear(2, 2))
    swapped = swap_activations(net, "gelu")
    assert {"0.act", "0.end"} <= {*swapped.unseen} and "1" not in swapped.unseen


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.u, self.state = nn.Linear(3, 8), nn.Linear(8, 8), None

    def step(self, x, h):
        return torch.tanh(self.w(x) + self.u(h))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = Cell(), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        self.names, self.kept = "tanh", [nn.SiLU()]


def _steps(self, x):
    h = torch.zeros(len(x), 8)
    for t in range(x.size(1)):
        h = self.cell.step(x[:, t], h)
    return self.head(h)


def _in_the_loop(self, x):
    h = torch.zeros(len(x), 8)
    for t in range(x.size(1)):
        h = torch.tanh(self.cell.w(x[:, t]) + self.cell.u(h))
    return self.head(h)


def _by_name(self, x, *more):
    return self.head(getattr(torch, self.names)(self.cell.w(x)))


TABLE = {"tanh": torch.tanh}


def _of_a_table(self, x, *more):
    return self.head(TABLE[self.names](self.cell.w(x)))


def _helper(h):
    return h.tanh()


def _by_a_helper(self, x, *more):
    return self.head(_helper(self.cell.w(x)))


def _of_the_state(self, x, *more):
    self.state = self.cell.w(x)
    return self.head(self.state.tanh())


@pytest.mark.parametrize(
    "forward", [_steps, _in_the_loop, _by_name, _of_a_table, _by_a_helper, _of_the_state], ids=lambda f: f.__name__
)
def test_a_function_in_a_forward_that_cannot_be_traced_is_named(forward):
    net = type("Written", (Recurrent,), {"forward": forward})()
    net.kept = []
    swapped = swap_activations(net, "gelu")
    assert swapped.names == ["head.1"]
    assert swapped.left["forward"].startswith("tanh in forward: its forward")


def test_a_module_kept_in_a_list_is_named_too():
    net = type("Written", (Recurrent,), {"forward": lambda self, x, *more: self.head(self.kept[0](self.cell.w(x)))})()
    assert swap_activations(net, "gelu").left["forward"].startswith("SiLU in forward: ")


def test_a_cell_that_can_be_traced_is_swapped_though_its_loop_cannot():
    class Looped(Recurrent):
        def forward(self, x):
            h = x.new_zeros(x.shape[0], 8)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.head(h)

    net = Looped()
    type(net.cell).forward = Cell.step
    try:
        assert swap_activations(net, "elu").names == ["cell.tanh_1", "head.1"]
        x, h = torch.randn(2, 4, 3), torch.zeros(2, 8)
        for t in range(4):
            h = F.elu(net.cell.w(x[:, t]) + net.cell.u(h))
        assert torch.equal(net(x), net.head(h))
    finally:
        del Cell.forward
