"""Swapping the activations of ordinary nets."""

import copy
import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from actsearch.activations import Spec, get_activation
from actsearch.activations.spec import ActivationModule
from actsearch.errors import ActSearchError
from actsearch.swap.kinds import GATES, HIDDEN, kind_of
from actsearch.swap.net import find_activations, swap_activations


def test_every_hidden_activation_is_replaced_and_the_net_computes_with_the_new_one():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3), nn.Tanh()))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    inner = nn.functional.elu(net[0](x), 0.5)
    wanted = nn.functional.elu(net[2][0](inner), 0.5)
    swapped = swap_activations(net, "elu(alpha=0.5)", part=True)
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
    swap_activations(net, lambda: get_activation(next(specs)), part=True)
    assert [str(m.spec) for m in net if isinstance(m, ActivationModule)] == ["relu", "tanh", "gelu"]


def test_a_shared_instance_stays_shared_and_others_do_not_become_it():
    shared = nn.ReLU()
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": shared})
    swapped = swap_activations(net, "prelu")
    assert swapped.names == ["a", "b.0", "b.1", "c"]
    assert net["a"] is net["b"][0] is net["c"]
    assert net["b"][1] is not net["a"]
    assert len(list(net.parameters())) == 2


def test_a_shared_instance_in_a_row_has_a_slot_each_when_asked():
    shared = nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 3), shared, nn.Linear(3, 4), shared, nn.Linear(4, 2))
    assert swap_activations(copy.deepcopy(net), "prelu", per_call=True).names == ["1", "3"]
    swap_activations(net, "prelu", per_call=True)
    assert [len(net[i].negative_slope) for i in (1, 3)] == [3, 4]


def test_a_place_that_holds_none_is_passed_over():
    net = nn.ModuleDict({"a": nn.ReLU()})
    net.register_module("b", None)
    assert swap_activations(net, "gelu").names == ["a"]


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
    swap_activations(net, "prelu", part=True)
    assert swap_activations(net, "tanh", part=True).names == ["0", "2"]
    assert [str(m.spec) for m in (net[0], net[2])] == ["tanh", "tanh"]


def test_learned_parameters_join_the_net_and_move_in_training():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    swap_activations(net, "prelu")
    assert "1.negative_slope" in dict(net.named_parameters())
    net(torch.randn(5, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert net[1].negative_slope.shape == (4,)
    assert net[1].negative_slope.grad.abs().max() > 0


def test_weights_stay():
    net = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2))
    before = copy.deepcopy(net)
    swap_activations(net, "tanh")
    for i in (0, 2):
        assert torch.equal(net[i].weight, before[i].weight)
        assert torch.equal(net[i].bias, before[i].bias)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return torch.relu(x) if x.sum() > 0 else self.gate(x)


def test_nothing_to_swap_is_an_error_that_says_why():
    with pytest.raises(ActSearchError, match=r"Branching has no activation module.*left: forward: relu.*gate: Sigmoid"):
        swap_activations(Branching(), "gelu")
    with pytest.raises(ActSearchError, match=r"Linear has no activation module to swap. Modules such as nn\.ReLU"):
        swap_activations(nn.Linear(2, 2), "gelu")
    with pytest.raises(ActSearchError, match=r"ReLU has no activation module to swap: it is one.*get_activation"):
        swap_activations(nn.ReLU(), "gelu")
    with pytest.raises(ActSearchError, match=r"LSTM: its gates and tanh inside"):
        swap_activations(nn.Sequential(nn.LSTM(2, 2)), "gelu")


def test_a_quantiser_is_left_and_named():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Rounded(), nn.Linear(8, 2))
    swapped = swap_activations(net, "gelu")
    assert swapped.names == ["1"] and swapped.left == {"2": "Rounded: its values are steps, it rounds"}


def test_a_scripted_module_is_left_and_named():
    inner = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    net = nn.Sequential(inner, nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    swapped = swap_activations(net, "gelu")
    assert swapped.names == ["2"] and "scripted" in swapped.left["0"]


def test_a_scripted_module_is_refused():
    inner = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ActSearchError, match=r"scripted.*before scripting"):
        swap_activations(nn.Sequential(inner, nn.ReLU()), "gelu")


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


# --- which, and to what ---------------------------------------------------------------------------


def stages():
    def stage():
        return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Sigmoid())

    first = nn.Sequential(nn.Linear(3, 3), nn.Flatten())  # behind it the number of channels is not known
    parts = {"first": first, "stem": nn.ReLU(), "layer1": stage(), "layer2": stage()}
    return nn.Sequential(OrderedDict(**parts, last=nn.Linear(3, 3)))


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("layer1", ["layer1.1", "layer1.3"]),
        ("layer*.1", ["layer1.1", "layer2.1"]),
        (["stem", "*.3"], ["stem", "layer1.3", "layer2.3"]),
        ("!layer1", ["stem", "layer2.1", "layer2.3"]),
        (["layer*", "!*.3"], ["layer1.1", "layer2.1"]),
        (lambda f: f.was == "Tanh", ["layer1.3", "layer2.3"]),
        (lambda f: f.channels is None, ["stem"]),
    ],
)
def test_only_chooses_by_path_or_by_what_is_there(only, names):
    net = stages()
    swapped = swap_activations(net, "gelu", only=only)
    assert swapped.names == names
    assert [name for name, m in net.named_modules() if isinstance(m, ActivationModule)] == names
    asked = [path for path, why in swapped.left.items() if "not asked for" in why]
    assert sorted(asked + names) == ["layer1.1", "layer1.3", "layer2.1", "layer2.3", "stem"]


@pytest.mark.parametrize(
    ("only", "part"),
    [
        ("layer3", r"only: 'layer3' matches no activation\. There are stem, layer1\.1, layer1\.3"),
        ("!stage", "'stage'|'!stage' matches no activation"),
        ("*.4", r"only='\*\.4' matches gates alone. Write gates=True"),
        (lambda f: False, "takes none of the activations"),
        ([], r"only=\[\] takes nothing\. Write patterns"),
        (5, "only=5 takes nothing"),
        (["layer1", 5], r"only=\['layer1', 5\] takes nothing"),
    ],
)
def test_only_that_takes_nothing_is_an_error(only, part):
    net = stages()
    with pytest.raises(ActSearchError, match=part):
        swap_activations(net, "gelu", only=only)
    assert not any(isinstance(m, ActivationModule) for m in net.modules())


def test_gates_are_swapped_when_asked_for():
    net = stages()
    assert swap_activations(net, "gelu", only="*.4", gates=True).was == {"layer1.4": "Sigmoid", "layer2.4": "Sigmoid"}


def test_a_mapping_swaps_part_by_part():
    net = stages()
    swapped = swap_activations(net, {"layer1": "elu", "layer2.1": Spec.parse("gelu"), "layer2": nn.Softplus})
    assert [str(net.layer1[1].spec), str(net.layer1[3].spec), str(net.layer2[1].spec)] == ["elu", "elu", "gelu"]
    assert type(net.layer2[3]) is nn.Softplus and type(net.stem) is nn.ReLU
    assert "no pattern of `to`" in swapped.left["stem"]
    with pytest.raises(ActSearchError, match="to: 'layer3' matches no activation"):
        swap_activations(net, {"layer3": "elu", "stem": "elu"})


@pytest.mark.parametrize(
    ("to", "shapes"),
    [
        (lambda channels=None, dim=1: Spec.parse("prelu").module(channels, dim), [(4,), (5,)]),
        (lambda c, d: Spec.parse("prelu").module(c, d), [(4,), (5,)]),
        (lambda channels=None: Spec.parse("prelu").module(channels), [(4,), ()]),
        (lambda: Spec.parse("prelu").module(), [(), ()]),
        (nn.PReLU, [(1,), (1,)]),  # its num_parameters has a default, and stays
    ],
)
def test_a_function_gets_what_it_takes(to, shapes):
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    swap_activations(net, to)
    assert [tuple(next(m.parameters()).shape) for m in (net[1], net[3])] == shapes


def test_an_activation_that_changes_the_width_does_not_fit():
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1))
    with pytest.raises(ActSearchError, match=r"'crelu' gives another number of channels.*ReLU at 1"):
        swap_activations(net, "crelu")
    assert type(net[1]) is nn.ReLU


def test_what_came_back_reads_as_a_list():
    text = str(swap_activations(stages(), "gelu"))
    assert text.splitlines() == [
        "5 activations swapped, 2 left",
        "  was ReLU (3): stem, layer1.1, layer2.1",
        "  was Tanh (2): layer1.3, layer2.3",
        "  left Sigmoid: a gate or an output, not a hidden activation (2): layer1.4, layer2.4",
    ]


@pytest.mark.parametrize(
    ("to", "part"),
    [
        (nn.functional.gelu, r"to=gelu makes no module\. Write a name such as 'gelu'"),
        (torch.relu, "to=relu makes no module"),
        (5, "to=5 makes no module"),
        (None, "to=None makes no module"),
        (nn.ReLU(), r"to: one ReLU for all places\. Write its class"),
        ({}, r"to=\{\} needs patterns"),
        ({1: "gelu"}, r"to=\{1: 'gelu'\} needs patterns"),
        ({"stem": "gelu", "layer1": 5}, "to=5 makes no module"),
        (lambda a, b, c: nn.ReLU(), r"to: it asks for 3 arguments"),
        (lambda: 5, r"at stem: `to` gave 5 and no module"),
        (
            lambda c: nn.PReLU(num_parameters=c),
            r"at stem: `to` failed with TypeError.*number of channels is not known: .*c or 1",
        ),
        (lambda: nn.PReLU("3"), r"at stem: `to` failed with TypeError: [^.]*\.$"),
    ],
)
def test_what_makes_no_module_is_an_error_and_changes_nothing(to, part):
    net = stages()
    with pytest.raises(ActSearchError, match=part) as error:
        swap_activations(net, to)
    assert "\n" not in str(error.value)
    assert [type(m) for m in net.modules()] == [type(m) for m in stages().modules()]


def test_a_function_without_dim_is_told_why_it_gets_no_channels():
    with pytest.raises(ActSearchError, match=r"channels is not given to what takes no `dim`, here -1.*lambda c"):
        swap_activations(
            nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), lambda c: nn.PReLU(num_parameters=c)
        )


class Guarded(nn.Module):
    """Its second activation cannot be set; its forward calls the first as often as the mode says."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.ReLU(inplace=True), nn.Tanh(), nn.Dropout(inplace=True)

    def __setattr__(self, name, value):
        if name == "b" and isinstance(value, ActivationModule):
            raise RuntimeError("b stays")
        super().__setattr__(name, value)

    def forward(self, x):
        x = self.a(self.a(x))
        return self.b(self.drop(x if self.training else self.a(x)))


@pytest.mark.parametrize(
    ("keywords", "part"),
    [({}, "b stays"), ({"per_call": True, "only": "a*"}, r"Guarded: a, a_2, a_3 cannot be swapped")],
)
def test_an_error_while_swapping_leaves_the_net_as_it_was(keywords, part):
    net = nn.Sequential(nn.Sequential(nn.ReLU()), Guarded())
    before = [(m, type(m), dict(vars(m)), dict(m._modules)) for m in net.modules()]
    keywords["only"] = f"1.{keywords.get('only', '*')}"
    with pytest.raises((RuntimeError, ActSearchError), match=part):
        swap_activations(net, "gelu", **keywords)
    assert [(m, type(m), dict(vars(m)), dict(m._modules)) for m in net.modules()] == before
    assert net[1].a.inplace and net[1].drop.inplace


# --- whose activations ----------------------------------------------------------------------------


class Swish(nn.Module):
    def __init__(self, beta=1.0):
        super().__init__()
        self.beta = beta

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class Composed(nn.Module):
    """Of activations alone; `act` decides whether it is a hard sigmoid or a hardswish."""

    def __init__(self, gate):
        super().__init__()
        self.act, self.gate = nn.ReLU6(inplace=True), gate

    def forward(self, x):
        y = self.act(x + 3) / 6
        return y if self.gate else x * y


class Rounded(nn.Module):
    def forward(self, x):
        return x + (torch.round(4 * x) / 4 - x).detach()


class Sign(nn.Module):
    def forward(self, x):
        return torch.sign(x)


class Logistic(nn.Module):
    def forward(self, x):
        return 1 / (1 + torch.exp(-x))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x + 1


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean()


class Halves(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, 1)
        return a * torch.sigmoid(b)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (Swish(), "hidden"), (Swish(2.0).half(), "hidden"), (Logistic(), "gate"), (Doubled(), None), (Centred(), None),
        (Halves(), None), (nn.Dropout(), None), (nn.LayerNorm(4), None), (nn.Linear(3, 3), None), (nn.Identity(), None),
        (Composed(True), "gate"), (Composed(False), "hidden"), (Rounded(), "steps"), (Sign(), "steps"),
        (nn.GLU(), None), (nn.Sequential(nn.ReLU()), None), (nn.RReLU(), "hidden"), (nn.Softmax(1), "gate"),
    ],
)  # fmt: skip
def test_activations_are_known_by_class_or_by_what_they_do(module, kind, rng_untouched):
    with rng_untouched():
        assert kind_of(module) == kind
    assert module.training


@pytest.mark.parametrize(
    "name", ["swish", "mish", "hard_swish", "hard_mish", "gelu_tanh", "quick_gelu", "celu", "tanh"]
)
def test_timms_activations_are_known(name):
    from timm.layers import create_act_layer

    assert kind_of(create_act_layer(name)) == "hidden"
    assert kind_of(create_act_layer("hard_sigmoid")) == "gate"


def test_transformers_activations_are_known():
    from transformers.activations import ACT2FN

    kinds = {name: kind_of(ACT2FN[name]) for name in ACT2FN if name != "xielu"}
    assert {name for name, kind in kinds.items() if kind == "gate"} == {"sigmoid", "laplace"}
    assert {name for name, kind in kinds.items() if kind is None} <= {"linear", "prelu"}
    assert len(kinds) > 15


# --- what stays -----------------------------------------------------------------------------------


def test_device_dtype_mode_and_hooks_are_the_old_ones():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1)).half().to("meta").eval()
    seen = []
    handle = net[1].register_forward_hook(lambda *_: seen.append(1))
    swap_activations(net, "prelu")
    slope = net[1].negative_slope
    assert (slope.device.type, slope.dtype, slope.shape, net[1].training) == ("meta", torch.float16, (4,), False)
    net(torch.zeros(1, 3, 5, 5, dtype=torch.half, device="meta"))
    handle.remove()
    net(torch.zeros(1, 3, 5, 5, dtype=torch.half, device="meta"))
    assert seen == [1]


@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu", nn.ReLU()], ids=str)
def test_torchs_transformer_does_not_take_its_fast_path_with_the_old_activation(activation):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation=activation)
    net = nn.TransformerEncoder(layer, 2).eval()
    swapped = swap_activations(net, "softplus")
    assert swapped.names == ["layers.0.activation", "layers.1.activation"]
    assert "its softmax" in swapped.left["layers.0.self_attn"]
    x = torch.randn(2, 5, 8)
    assert torch.allclose(net(x), net.train()(x), atol=1e-6)  # no dropout: modes differ by the fast path only


SHAPES = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "dropout": 0.0}
PAD = torch.tensor([[False] * 4 + [True] * 2, [False] * 2 + [True] * 4, [False] * 6])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)
ENCODER = [{}, {"src_key_padding_mask": PAD}, {"MASK": CAUSAL}, {"MASK": CAUSAL, "is_causal": True}]
DECODER = [{}, {"tgt_key_padding_mask": PAD}, {"tgt_mask": CAUSAL, "tgt_is_causal": True}]


def transformer(kind, activation, **options):
    torch.manual_seed(0)
    options = {**SHAPES, **options, "activation": activation}
    if kind is nn.TransformerEncoder:
        return kind(nn.TransformerEncoderLayer(**options), 2, norm=nn.LayerNorm(16))
    if kind is nn.TransformerDecoder:
        return kind(nn.TransformerDecoderLayer(**options), 2)
    return kind(**options, **({"num_encoder_layers": 1, "num_decoder_layers": 1} if kind is nn.Transformer else {}))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("first", ["relu", nn.functional.gelu, nn.SiLU()], ids=["relu", "gelu", "SiLU"])
@pytest.mark.parametrize(
    ("kind", "masks"),
    [
        (nn.TransformerEncoderLayer, ENCODER),
        (nn.TransformerEncoder, ENCODER),
        (nn.TransformerDecoderLayer, DECODER),
        (nn.TransformerDecoder, DECODER),
        (nn.Transformer, [{}, {"src_key_padding_mask": PAD, "memory_key_padding_mask": PAD}]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore")
def test_torchs_transformers_are_those_built_with_the_new_activation(kind, masks, first, batch_first, norm_first):
    """In both modes, with gradients and without, with each mask; copies too."""
    options = {"batch_first": batch_first, "norm_first": norm_first}
    wanted = transformer(kind, nn.functional.mish, **options)  # for which torch has no fast path
    net = transformer(kind, first, **options)
    swap_activations(net, "mish")
    x, memory = torch.randn(2, 3, 6, 16).unbind() if batch_first else torch.randn(2, 6, 3, 16).unbind()
    inputs = (x,) if masks is ENCODER else (x, memory)
    mask = "src_mask" if kind is nn.TransformerEncoderLayer else "mask"
    for each in (net, copy.deepcopy(net)):
        for keywords in ({mask if k == "MASK" else k: v for k, v in given.items()} for given in masks):
            for training, gradients in ((True, True), (False, True), (False, False)):
                with torch.set_grad_enabled(gradients):
                    ours, theirs = (
                        each.train(training)(*inputs, **keywords),
                        wanted.train(training)(*inputs, **keywords),
                    )
                assert torch.allclose(ours, theirs, atol=1e-5), (keywords.keys(), training, gradients)


@pytest.mark.parametrize("to", ["relu", "elu", "hardswish", "leaky_relu", "silu(beta=learned)", "softplus"])
@torch.no_grad()
def test_a_padded_batch_in_evaluation_is_that_of_training(to):
    net = transformer(nn.TransformerEncoder, "relu", batch_first=True)
    swap_activations(net, to)
    x = torch.randn(3, 6, 16)
    ours, theirs = (net.train(mode)(x, src_key_padding_mask=PAD)[~PAD] for mode in (False, True))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_learned_parameters_of_tokens_stand_on_the_last_dimension():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    swap_activations(layer, "prelu")
    assert (layer.activation.negative_slope.shape, layer.activation.dim) == ((16,), -1)
    assert layer(torch.randn(2, 5, 8)).shape == (2, 5, 8)


# --- each call of a shared module ---------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 6, 1), nn.ReLU()

    def forward(self, x):
        return self.act(self.conv2(self.act(self.conv1(x))))


def test_per_call_makes_one_module_of_each_call():
    shared, split, x = Block(), Block(), torch.randn(3, 2, 5)
    split.load_state_dict(shared.state_dict())
    assert swap_activations(shared, "prelu", part=True).names == ["act"]
    assert shared.act.negative_slope.shape == ()  # 4 channels and 6: one for all
    specs = iter(["prelu", "tanh"])
    names = swap_activations(split, lambda c, d: Spec.parse(next(specs)).module(c, d), per_call=True, part=True).names
    assert names == ["act", "act_2"]
    assert split.act.negative_slope.shape == (4,)
    assert torch.equal(split(x), torch.tanh(split.conv2(split.act(split.conv1(x)))))
    assert torch.equal(copy.deepcopy(split)(x), split(x))


# --- nets of libraries ------------------------------------------------------------------------------

SOME = {
    "torchvision": ["alexnet", "resnet18", "densenet121", "mobilenet_v3_small", "swin_t"],
    "timm": ["resnet10t", "mobilevitv2_050", "convnext_atto"],
}


@pytest.mark.parametrize(("library", "name"), [(library, name) for library in SOME for name in SOME[library]])
def test_nets_swapped_like_for_like_stay_and_swapped_for_another_change(sweep, library, name):
    row = sweep.row(name, *getattr(sweep, f"{library}_net")(name))
    assert not row.odd, str(row)
    assert row.swapped > 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("library", SOME)
def test_every_net_of_the_table(sweep, library):
    names = models.list_models(module=models) if library == "torchvision" else sweep.TIMM
    rows = [sweep.row(name, *getattr(sweep, f"{library}_net")(name)) for name in names]
    assert len(rows) >= 40
    assert [str(row) for row in rows if row.odd] == []


@pytest.fixture(scope="module")
def sweep():
    """benchmarks/swap.py."""
    path = Path(__file__).parents[1] / "benchmarks" / "swap.py"
    spec = importlib.util.spec_from_file_location("swap_sweep", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_transformers_nets():
    import transformers

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=50
    )
    net, words = transformers.BertForSequenceClassification(config).eval(), torch.randint(0, 50, (2, 7))
    keys, before = net.state_dict(), net(words).logits
    found, _ = find_activations(net)
    assert [(f.was, f.channels, f.dim) for f in found] == [("GELUActivation", 48, -1)] * 2 + [("Tanh", 32, -1)]
    swapped = swap_activations(net, "relu", only="*.intermediate")
    assert swapped.count == 2 and any("softmax" in why for why in swapped.left.values())
    assert not torch.allclose(net(words).logits, before)
    net.load_state_dict(keys)
