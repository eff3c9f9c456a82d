"""Initial weights: every seed draws every weight that is trained, or the net is refused; or they are kept."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import actsearch
from actsearch.activations.spec import Spec, parse_net
from actsearch.errors import ActSearchError
from actsearch.models.model import Model
from actsearch.question.recipe import INITS
from actsearch.training.layer import NotFusable
from actsearch.training.trace import trace_layers

DRAWN = [init for init in INITS if init != "keep"]


class OwnLinear(nn.Module):
    """A layer without reset_parameters."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(n_out, n_in))

    def forward(self, x):
        return x @ self.weight.T


def net(first, n_out=64):
    return nn.Sequential(first, nn.ReLU(), nn.Linear(n_out, 3))


def build(function, seed, init, activation="relu"):
    return Model(function, "net", (5,), 3).build(parse_net(activation), seed, init).eval()


def weight(layer):
    """The weight that the layer computes with, read off its output."""
    with torch.no_grad():
        return (layer(torch.eye(5)) - layer(torch.zeros(5))).T


PARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "older weight_norm": weight_norm,
    "older weight_norm of all": lambda layer: weight_norm(layer, dim=None),
    "older spectral_norm": spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("init", DRAWN)
@pytest.mark.parametrize("kind", PARAMETRISED)
def test_a_parametrised_layer_is_drawn_by_each_seed(kind, init):
    make = lambda: net(PARAMETRISED[kind](nn.Linear(5, 64)))  # noqa: E731
    given = make if "older" in kind else make()  # torch cannot copy the older ones
    one, again, other = (weight(build(given, seed, init)[0]) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    if "weight" in kind:  # the norm is learned, so that the drawn weight is the weight
        plain = weight(build(net(nn.Linear(5, 64)), 1, init)[0])
        if init != "torch":  # there torch draws the bias from the same stream
            torch.testing.assert_close(one, plain)
        assert one.std().item() == pytest.approx(plain.std().item(), rel=0.1)


@pytest.mark.parametrize("init", DRAWN)
def test_a_given_net_with_a_layer_that_cannot_be_drawn_is_refused(init):
    model = Model(net(OwnLinear(5, 64)), "mine", (5,), 3)
    with pytest.raises(ActSearchError) as error:
        model.check_init(init)
    with pytest.raises(ActSearchError, match="same for every seed"):  # each time that it is asked
        build(net(OwnLinear(5, 64)), 1, init)
    assert f"recipe.init={init}: the weights '0.weight' of the model 'mine' are the same for every seed" in str(
        error.value
    )
    assert "recipe.init=keep" in str(error.value)
    assert "give a function that makes the net" in str(error.value)
    model.check_init("keep")
    Model(lambda: net(OwnLinear(5, 64)), "mine", (5,), 3).check_init(init)  # a function draws it for each seed


def test_a_function_that_loads_trained_weights_is_refused_and_one_with_constants_is_not():
    trained = net(nn.Linear(5, 64)).state_dict()

    def loads():
        made = net(nn.Linear(5, 64))
        made.load_state_dict(trained)
        return made

    def loads_a_trunk():
        made = net(nn.Linear(5, 64))
        made[0].load_state_dict({"weight": trained["0.weight"], "bias": trained["0.bias"]})
        return made

    def sets_its_seed():
        torch.manual_seed(0)
        return net(nn.Linear(5, 64))

    def constants():
        made = net(nn.Sequential(nn.Linear(5, 64), nn.LayerNorm(64), nn.BatchNorm1d(64)))
        nn.init.zeros_(made[2].weight)
        nn.init.constant_(made[0][0].bias, 0.1)
        return made

    for function, named in ((loads, "'0.weight' and 3 more"), (loads_a_trunk, "'0.weight' and 1 more"),
                            (sets_its_seed, "'0.weight' and 3 more")):  # fmt: skip
        with pytest.raises(ActSearchError, match=f"the weights {named} .* recipe.init=keep .* let the function draw"):
            Model(function, "net", (5,), 3).check_init("gain")
    Model(constants, "net", (5,), 3).check_init("gain")


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(64), nn.LayerNorm(64), nn.GroupNorm(4, 64)], ids=lambda n: type(n).__name__
)
def test_a_given_net_that_was_trained_is_refused_unless_it_is_kept(norm):
    given = net(nn.Sequential(nn.Linear(5, 64), norm))
    Model(given, "net", (5,), 3).check_init("gain")
    optimizer = torch.optim.SGD(given.parameters(), 0.1)
    given(torch.randn(32, 5)).square().sum().backward()
    optimizer.step()
    with pytest.raises(ActSearchError, match=r"'net' has been trained .its norm '0.1' .* recipe.init=keep .* function"):
        Model(given, "net", (5,), 3).check_init("gain")
    Model(given, "net", (5,), 3).check_init("keep")


@pytest.mark.parametrize("init", INITS)
def test_frozen_weights_stay_as_they_are(init):
    trunk = nn.Sequential(nn.Linear(5, 64), nn.BatchNorm1d(64)).requires_grad_(False)
    trunk[1].running_mean += 3.0
    head = nn.Linear(64, 64)
    head.bias.requires_grad_(False)
    given = net(nn.Sequential(trunk, head))
    model = Model(given, "net", (5,), 3)
    model.check_init(init)
    one, other = (model.build(parse_net("relu"), seed, init) for seed in (1, 2))
    for built in (one, other):
        assert all(
            torch.equal(a, b)
            for a, b in zip(trunk.state_dict().values(), built[0][0].state_dict().values(), strict=True)
        )
        assert torch.equal(built[0][1].bias, head.bias)
        assert torch.equal(built[0][1].weight, head.weight) == (init == "keep")
    assert torch.equal(one[2].weight, other[2].weight) == (init == "keep")


def test_keep_starts_from_the_nets_own_weights_and_new_activations_from_their_defaults():
    given = net(nn.Linear(5, 64))
    one, other = (build(given, seed, "keep", "silu(beta=learned)") for seed in (1, 2))
    for built in (one, other):
        assert torch.equal(built[0].weight, given[0].weight)
        assert torch.equal(built[2].bias, given[2].bias)
        assert torch.equal(built[1].beta, torch.ones(64))
    drawn = [build(lambda: net(nn.Linear(5, 64)), seed, "keep") for seed in (1, 1, 2)]
    assert torch.equal(drawn[0][0].weight, drawn[1][0].weight)
    assert not torch.equal(drawn[0][0].weight, drawn[2][0].weight)


def test_what_a_function_draws_from_numpy_and_random_depends_on_the_seed_alone():
    def function():
        made = net(nn.Linear(5, 64))
        with torch.no_grad():
            made[0].weight.copy_(torch.from_numpy(np.random.randn(64, 5)))
            made[0].bias.fill_(random.random())
        return made

    states = np.random.get_state()[1].copy(), random.getstate()
    one, again, other = (build(function, seed, "keep")[0] for seed in (1, 1, 2**63))
    assert torch.equal(one.weight, again.weight)
    assert torch.equal(one.bias, again.bias)
    assert not torch.equal(one.weight, other.weight)
    assert not torch.equal(one.bias, other.bias)
    assert (np.random.get_state()[1] == states[0]).all()
    assert random.getstate() == states[1]


def test_fine_tuning_a_trained_net_keeps_what_it_learned(tmp_path, no_pictures):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=generator)
    y = (x.sum(1) > 0).long()

    def trained():
        made = nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        with torch.no_grad():
            made[0].weight.zero_()
            made[0].weight[0] = 1.0
            made[0].weight[1] = 0.5  # no constant: that would be no evidence of training
        return made

    asked = {"folder": tmp_path, "quiet": True, "tracking": "none", "seeds": 2, "device": "cpu"}
    recipe = {"steps": 60, "batch_size": 40, "eval_every": 60}
    arrays = (x[:200], y[:200], x[200:], y[200:])
    with pytest.raises(ActSearchError, match=r"recipe.init=gain: the weights '0.weight' of the model 'trained'"):
        actsearch.compare(trained, arrays, ["relu"], recipe=recipe, **asked)
    assert not any(tmp_path.iterdir())
    kept = actsearch.compare(trained, arrays, ["relu"], recipe={**recipe, "init": "keep"}, **asked)
    assert kept.comparisons[0].mean > 0.9
    assert len({run.test_loss for run in kept.runs}) == 2  # batches differ from seed to seed


# --- the gain -------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """The same net in every form in which people write it: a, relu, b, relu, c."""

    def __init__(self, form):
        super().__init__()
        first = form in ("first", "dict")
        if form == "first":
            self.act = nn.ReLU()
        if form == "dict":
            self.acts = nn.ModuleDict({"relu": nn.ReLU()})
        self.c, self.b, self.a = nn.Linear(40, 3), nn.Linear(60, 40), nn.Linear(50, 60)
        if form == "last":
            self.act = nn.ReLU()
        self.act = self.acts["relu"] if form == "dict" else self.act if first or form == "last" else None
        self.function = nn.functional.relu

    def forward(self, x):
        if self.act is not None:
            return self.c(self.act(self.b(self.act(self.a(x)))))
        return self.c(self.function(self.b(nn.functional.relu(self.a(x)))))


@pytest.mark.parametrize("form", ["first", "last", "dict", "function"])
def test_the_gain_is_that_of_the_activation_before_in_the_order_of_computation(form):
    made = Model(Mlp(form), "mlp", (50,), 3).build([Spec.of("relu")], 0, "gain")
    scale = {name: (p.std() * p.shape[1] ** 0.5).item() for name, p in made.named_parameters() if p.dim() == 2}
    for layer, wanted in (("a", 1.0), ("b", 2**0.5), ("c", 2**0.5)):
        assert scale[f"{layer}.weight"] == pytest.approx(wanted, rel=0.12)


def test_hooks_on_gradients_are_kept_in_copies_and_refused_where_they_would_be_lost():
    def hooked():
        made = net(nn.Linear(5, 64))
        made[0].weight.register_hook(lambda g: g * 0)
        made[0].bias.register_post_accumulate_grad_hook(lambda p: None)
        return made

    model = Model(hooked, "mine", (5,), 3)
    made = model.build([Spec.of("relu")], 0, "gain")
    made(torch.randn(4, 5)).sum().backward()
    assert made[0].weight.grad.abs().max() == 0
    assert made[0].bias._post_accumulate_grad_hooks
    with pytest.raises(NotFusable, match="hooks on its gradient"):
        trace_layers(model)
    for path in ("0.weight", "0.bias"):
        given = net(nn.Linear(5, 64))
        p = given.get_parameter(path)
        (p.register_hook if path == "0.weight" else p.register_post_accumulate_grad_hook)(lambda g: None)
        with pytest.raises(ActSearchError, match=rf"the net 'mine': '{path}' has a hook .* Give a function that makes"):
            Model(given, "mine", (5,), 3)
