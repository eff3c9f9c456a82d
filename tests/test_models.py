"""Models: shapes, slots, order of layers, known sizes, initial weights, and what a user may hand over."""

import collections
import copy
import math

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from actsearch.activations import Spec
from actsearch.activations.spec import ActivationModule, gain, parse_net
from actsearch.errors import ActSearchError
from actsearch.models import cnn1d, cnn2d, mlp, resnet, torchvision
from actsearch.models.model import Model, forward

RELU = parse_net("relu")


def make(function, in_shape=(40,), n_classes=10, **keywords):
    return Model(function, "model", in_shape, n_classes, keywords)


def kinds(net):
    return [type(m).__name__ for m in net.modules() if not list(m.children())]


def specs_of(net):
    return [str(m.spec) for m in net.modules() if isinstance(m, ActivationModule)]


# --- shapes, slots, sizes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "in_shape", "keywords", "n_slots", "n_parameters"),
    [
        (mlp, (40,), {}, 3, 25_310),  # the article's net
        (mlp, (1, 8, 8), {"width": 5, "depth": 2}, 2, 65 * 5 + 6 * 5 + 6 * 10),
        (mlp, (40,), {"width": 7, "depth": 1, "norm": "batch"}, 1, 41 * 7 + 14 + 80),
        (mlp, (40,), {"width": 7, "depth": 1, "norm": "layer", "dropout": 0.5}, 1, 41 * 7 + 14 + 80),
        (cnn1d, (40,), {}, 3, 5_210),  # MNIST-1D's own net
        (cnn1d, (1, 40), {}, 3, 5_210),
        (cnn1d, (2, 40), {"norm": "batch"}, 3, 5_210 + 125 + 150),
        (cnn1d, (1, 28, 28), {}, 3, (5 + 1) * 25 + 2 * (75 + 1) * 25 + (25 * 98 + 1) * 10),
        (cnn2d, (1, 28, 28), {}, 2, 10 * 16 + (16 * 9 + 1) * 32 + (32 * 49 + 1) * 10),
        (cnn2d, (3, 9, 6), {"width": 4, "depth": 1, "norm": "batch"}, 1, 28 * 4 + 8 + (4 * 12 + 1) * 10),
        (resnet, (3, 32, 32), {}, 19, 269_722),  # He et al. 2016: 0.27 M
        (resnet, (3, 8, 8), {"depth": 8, "width": 4}, 7, None),
        (resnet, (1, 9, 7), {"depth": 14, "width": 4}, 13, None),
    ],
)
@torch.no_grad()
def test_shapes_slots_and_sizes(function, in_shape, keywords, n_slots, n_parameters):
    model = make(function, in_shape, **keywords)
    assert model.n_slots == n_slots
    net = model.build(RELU, seed=0, init="gain")
    assert specs_of(net) == ["relu"] * n_slots
    x = torch.randn(3, *in_shape, generator=torch.Generator().manual_seed(1))
    assert net(x).shape == (3, 10)
    assert model.n_parameters == sum(p.numel() for p in net.parameters())
    if n_parameters is not None:
        assert model.n_parameters == n_parameters


@pytest.mark.parametrize("function", [mlp, cnn1d, cnn2d, resnet])
def test_learned_parameters_have_their_layers_channels(function):
    in_shape = (1, 16, 16)
    net = make(function, in_shape).build(parse_net("prelu"), seed=0, init="gain")
    widths = []
    for module in net.modules():
        if isinstance(module, ActivationModule):
            module.register_forward_pre_hook(lambda m, args: widths.append((len(m.negative_slope), args[0].shape[1])))
    net(torch.randn(2, *in_shape))
    assert widths
    assert all(ours == channels for ours, channels in widths)


def test_each_layer_gets_its_spec():
    text = "relu | gelu(approximate=tanh) | leaky_relu(negative_slope=0.02)"
    for function in (mlp, cnn1d):
        net = make(function).build(parse_net(text), seed=0, init="gain")
        assert " | ".join(specs_of(net)) == text
    x = torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    net = make(mlp, width=6).build(parse_net(text), seed=0, init="torch")
    first, second, third, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    h = nn.functional.gelu(second(torch.relu(first(x))), approximate="tanh")
    assert torch.equal(net(x), last(nn.functional.leaky_relu(third(h), 0.02)))


def test_each_layer_of_a_resnet_gets_its_spec_in_order_of_computation():
    texts = [f"elu(alpha={i})" for i in range(2, 9)]
    net = make(resnet, (1, 8, 8), depth=8, width=2).build([Spec.parse(t) for t in texts], seed=0, init="gain")
    met = []
    for module in net.modules():
        if isinstance(module, ActivationModule):
            module.register_forward_hook(lambda m, *_: met.append(str(m.spec)))
    net(torch.zeros(2, 1, 8, 8))
    assert met == texts


@pytest.mark.parametrize("n", [2, 4])
def test_a_wrong_number_of_specs_is_an_error(n):
    with pytest.raises(ActSearchError, match=f"{n} activations for model, which takes 3"):
        make(mlp).build(parse_net(" | ".join(["relu", "tanh", "elu", "selu"][:n])), seed=0, init="gain")


# --- order of layers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "in_shape", "keywords", "wanted"),
    [
        (mlp, (4,), {"norm": "none"}, ["Linear", "ActivationModule"]),
        (mlp, (4,), {"norm": "batch"}, ["Linear", "BatchNorm1d", "ActivationModule"]),
        (mlp, (4,), {"norm": "layer", "order": "activation_norm"}, ["Linear", "ActivationModule", "LayerNorm"]),
        (mlp, (4,), {"dropout": 0.1}, ["Linear", "ActivationModule", "Dropout"]),
        (cnn1d, (40,), {"norm": "batch"}, ["Conv1d", "BatchNorm1d", "ActivationModule"]),
        (cnn1d, (40,), {"norm": "batch", "order": "activation_norm"}, ["Conv1d", "ActivationModule", "BatchNorm1d"]),
        (cnn2d, (1, 8, 8), {"norm": "batch"}, ["Conv2d", "BatchNorm2d", "ActivationModule", "MaxPool2d"]),
        (
            cnn2d, (1, 8, 8), {"norm": "batch", "order": "activation_norm"},
            ["Conv2d", "ActivationModule", "BatchNorm2d", "MaxPool2d"],
        ),
    ],
)  # fmt: skip
def test_order_of_a_block(function, in_shape, keywords, wanted):
    model = make(function, in_shape, **keywords)
    layers = [k for k in kinds(model.build(RELU, 0, "gain")) if k not in ("Flatten", "Unflatten")]
    assert layers == [*wanted * model.n_slots, "Linear"]


@torch.no_grad()
def test_a_resnet_block_adds_the_input_before_its_last_activation():
    """With convolutions of zero weight a block without stride is the activation of its input."""
    net = make(resnet, (1, 8, 8), depth=8, width=2).build(parse_net("leaky_relu(negative_slope=0.5)"), 0, "gain").eval()
    same, halved = net[3], net[4]
    for block in (same, halved):
        block.conv2.weight.zero_()
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(same(x), nn.functional.leaky_relu(x, 0.5))
    wanted = torch.zeros(2, 4, 4, 4)  # every second pixel, and channels of zeros on both sides
    wanted[:, 1:3] = nn.functional.leaky_relu(x[:, :, ::2, ::2], 0.5)
    assert torch.allclose(halved(x), wanted)


@torch.no_grad()
def test_a_grey_image_is_read_row_by_row_by_cnn1d():
    image = make(cnn1d, (1, 6, 8)).build(RELU, 3, "gain")
    row = make(cnn1d, (48,)).build(RELU, 3, "gain")
    x = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(image(x), row(x.flatten(1)))


# --- wrong values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "in_shape", "keywords", "part"),
    [
        (mlp, (4,), {"norm": "bacth"}, r"model\.norm 'bacth'.*Did you mean 'batch'"),
        (mlp, (4,), {"order": "x"}, r"model\.order 'x'.*activation_norm, norm_activation"),
        (mlp, (4,), {"depth": 0}, r"model\.depth=0: .*from 1 to"),
        (mlp, (4,), {"widht": 3}, "could not be built: TypeError.*widht"),
        (mlp, (4,), {"width": -1}, r"model\.width=-1: .*from 1 to"),
        (mlp, (4,), {"dropout": 2}, "could not be built: ValueError"),
        (cnn1d, (40,), {"norm": "layer"}, r"model\.norm 'layer'"),
        (cnn1d, (2,), {}, r"model=cnn1d: inputs of shape \(2,\) are too short"),
        (cnn2d, (40,), {}, r"\(40,\).*model=mlp or model=cnn1d"),
        (cnn2d, (1, 8, 8), {"depth": 4}, r"model\.depth=4.*at least 16 × 16.*\(1, 8, 8\)"),
        (resnet, (40,), {}, r"model=resnet needs images.*\(40,\)"),
        *((resnet, (3, 32, 32), {"depth": d}, rf"model\.depth={d}: .*8, 14, 20") for d in (0, 2, 7, 9, 18, 34)),
        (torchvision, (3, 32, 32), {"name": "resnet81"}, r"torchvision model 'resnet81'. Did you mean 'resnet\d+'"),
        (torchvision, (40,), {"name": "resnet18"}, r"1 or 3 channels.*\(40,\).*data=fashion_mnist"),
        (torchvision, (2, 32, 32), {"name": "resnet18"}, r"\(2, 32, 32\)"),
        (torchvision, (3, 32, 32), {"name": "resnet18", "widht": 3}, "'resnet18' cannot be made: TypeError.*widht"),
        (torchvision, (3, 8, 8), {"name": "alexnet"}, r"does not take the data's shape \(3, 8, 8\)"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(function, in_shape, keywords, part):
    with pytest.raises(ActSearchError, match=part):
        make(function, in_shape, **keywords)


def plain(in_shape, n_classes):
    return nn.Sequential(nn.Linear(in_shape[0], 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, n_classes))


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (lambda: "net", "returned str, not an nn.Module"),
        (lambda: nn.Linear(4, 3), "no activation module to swap"),
        (lambda activation: nn.Linear(4, 3), "never called its `activation`"),
        (lambda: plain((5,), 3), r"does not take the data's shape \(4,\): RuntimeError"),
        (lambda: plain((4,), 2), r"gives \(2, 2\) for 2 examples; wanted \(2, 3\)"),
        (lambda: nn.Sequential(plain((4,), 3), nn.Unflatten(1, (3, 1))), r"gives \(2, 3, 1\)"),
        (lambda activation: Tuple(activation(4)), "gives tuple for 2 examples"),
        (lambda: 1 / 0, "could not be built: ZeroDivisionError"),
        (nn.Linear(4, 3), "no activation module to swap"),
        (plain((4,), 2), r"wanted \(2, 3\)"),
    ],
)
def test_a_users_wrong_model_is_an_error_that_says_what_is_wanted(function, part):
    with pytest.raises(ActSearchError, match=part):
        Model(function, "mine", (4,), 3)


class Tuple(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        return self.activation(x), x


# --- a user's models ------------------------------------------------------------------------------


def test_a_function_without_activation_is_swapped_and_gets_the_shapes():
    model = Model(plain, "mine", (4,), 3)
    assert (model.n_slots, model.n_parameters) == (2, 5 * 5 + 6 * 5 + 6 * 3)
    assert specs_of(model.build(parse_net("gelu | elu"), 0, "gain")) == ["gelu", "elu"]


def test_keywords_override_nothing_that_the_data_decide_and_reach_the_function():
    model = Model(lambda n_classes, hidden: plain((hidden,), n_classes), "mine", (4,), 3, {"hidden": 4})
    assert model.build(RELU, 0, "gain")(torch.zeros(2, 4)).shape == (2, 3)


def test_a_module_as_pattern_is_copied_and_never_changed():
    pattern = plain((4,), 3)
    before, parts = copy.deepcopy(pattern.state_dict()), list(pattern.modules())
    model = Model(pattern, "mine", (4,), 3)
    net = model.build(parse_net("prelu | gelu"), seed=1, init="gain")
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(7.0)
    assert all(a is b for a, b in zip(pattern.modules(), parts, strict=True))
    assert isinstance(pattern[1], nn.ReLU)
    assert pattern.training
    for name, value in pattern.state_dict().items():
        assert torch.equal(value, before[name])
    assert specs_of(net) == ["prelu", "gelu"]


def test_two_nets_of_one_model_share_nothing():
    model = make(mlp, width=4)
    one, other = (model.build(parse_net("prelu"), 0, "gain") for _ in range(2))
    addresses = [{p.data_ptr() for p in net.parameters()} for net in (one, other)]
    assert not addresses[0] & addresses[1]


@pytest.mark.parametrize(
    ("name", "n_slots", "n_gates"),
    [
        ("resnet18", 9, 0),  # the stem and one shared module in each of 8 blocks
        ("mobilenet_v3_small", 33, 9),  # 24 in stem, blocks and head, 9 inside squeeze-and-excitation
    ],
)
def test_torchvision_nets_with_swapped_activations(name, n_slots, n_gates):
    from torchvision.models import get_model

    model = make(torchvision, (1, 28, 28), 7, name=name, image_size=32)
    assert model.n_slots == n_slots
    assert model.n_parameters == sum(p.numel() for p in get_model(name, num_classes=7).parameters())
    net = model.build(parse_net("gelu"), 0, "gain").eval()
    assert set(specs_of(net)) == {"gelu"}
    assert not [m for m in net.modules() if isinstance(m, nn.ReLU | nn.Hardswish)]
    assert sum(isinstance(m, nn.Hardsigmoid) for m in net.modules()) == n_gates
    with torch.no_grad():
        assert net(torch.randn(2, 1, 28, 28)).shape == (2, 7)


def test_as_images_repeats_grey_and_resizes():
    from actsearch.models.torchvision import AsImages

    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(AsImages(None)(x), torch.cat([x, x, x], 1))
    colour = torch.randn(2, 3, 4, 4)
    assert torch.equal(AsImages(None)(colour), colour)
    assert torch.allclose(AsImages(8)(torch.full((1, 1, 4, 4), 2.5)), torch.full((1, 3, 8, 8), 2.5))


# --- initial weights ------------------------------------------------------------------------------


def weights(net):
    return [m.weight.detach() for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]


def biases(net):
    return [m.bias.detach() for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]


@pytest.mark.parametrize("function", [mlp, cnn1d])
def test_gain_scales_the_same_draws_by_the_activation_before(function):
    model = make(function)
    base = weights(model.build(parse_net("identity"), 4, "gain"))
    assert all(b.abs().max() > 0 for b in base)
    for text in ("relu", "tanh", "prelu", "relu | tanh | gelu"):
        specs = parse_net(text)
        before = [1.0, *(gain(s) for s in (specs if len(specs) == 3 else specs * 3))]
        net = model.build(specs, 4, "gain")
        for ours, draws, factor in zip(weights(net), base, before, strict=True):
            torch.testing.assert_close(ours, factor * draws, rtol=1e-5, atol=1e-7)
        assert not torch.cat(biases(net)).any()


@pytest.mark.parametrize("init", ["gain", "kaiming_relu", "torch"])
def test_the_seed_alone_decides_the_weights(init, rng_untouched):
    for function, in_shape in ((mlp, (40,)), (cnn2d, (1, 8, 8)), (resnet, (1, 8, 8))):
        model = make(function, in_shape, norm="batch") if function is not resnet else make(function, in_shape, depth=8)
        first = model.build(RELU, 1, init).state_dict()
        torch.manual_seed(99)
        with rng_untouched():
            second = model.build(RELU, 1, init).state_dict()
        other = model.build(RELU, 2, init)
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert not any(
            torch.equal(a, b) for a, b in zip(weights(model.build(RELU, 1, init)), weights(other), strict=True)
        )


def test_making_a_model_leaves_the_global_random_state(rng_untouched):
    with rng_untouched():
        make(mlp)


class OwnParameters(nn.Module):
    """A user's layer with parameters of its own and no reset_parameters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.activation, self.head = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        x = (self.scale * x).unsqueeze(1)
        return self.head(self.activation(self.attention(x, x, x)[0].squeeze(1)))


@pytest.mark.parametrize("init", ["gain", "torch"])
def test_the_seed_decides_parameters_of_any_module(init):
    model = Model(OwnParameters, "mine", (4,), 3)
    first = model.build(RELU, 1, init).state_dict()
    second = model.build(RELU, 1, init).state_dict()
    other = model.build(RELU, 2, init).state_dict()
    for name in ("scale", "attention.in_proj_weight", "head.weight"):
        assert torch.equal(first[name], second[name]), name
        assert not torch.equal(first[name], other[name]), name


@pytest.mark.parametrize("function", [mlp, cnn1d])
def test_torch_init_is_pytorchs_default_under_the_seed(function):
    net = make(function).build(parse_net("tanh"), 17, "torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        wanted = function(activation=lambda _: nn.Tanh(), in_shape=(40,), n_classes=10)
    for ours, torchs in zip(net.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("text", ["relu", "tanh", "identity"])
def test_kaiming_relu_has_its_standard_deviation_whatever_the_activation(text):
    for function, in_shape, keywords in ((mlp, (300,), {"width": 300}), (cnn1d, (60,), {"width": 80})):
        for w in weights(make(function, in_shape, **keywords).build(parse_net(text), 0, "kaiming_relu"))[1:3]:
            assert w.mean().item() == pytest.approx(0, abs=4 * w.std().item() / math.sqrt(w.numel()))
            assert w.std().item() == pytest.approx(math.sqrt(2 / w[0].numel()), rel=0.03)


@pytest.mark.parametrize(
    "name",
    ["identity", "sigmoid", "tanh", "softsign", "relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "mish"],
)
def test_gain_keeps_the_size_of_signals_through_twenty_layers(name):
    """Not hardswish: its mean square has an unstable fixed point, so chance moves it away in twenty layers."""
    model = make(mlp, (256,), width=256, depth=20)
    net = model.build([Spec.of(name)], seed=0, init="gain")
    sizes = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, args, out: sizes.append(out.square().mean().item()))
    with torch.no_grad():
        net(torch.randn(64, 256, generator=torch.Generator().manual_seed(1)))
    assert sizes[0] == pytest.approx(1, rel=0.1)
    assert 0.2 < sizes[19] < 5


# --- several inputs, and outputs with logits ------------------------------------------------------


class Record:
    def __init__(self, logits):
        self.logits = logits


Named = collections.namedtuple("Named", ["logits", "auxiliary"])


@pytest.mark.parametrize("x", [torch.ones(2, 3), (torch.ones(2, 3),), {"x": torch.ones(2, 3)}], ids=type)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: out,
        Record,
        lambda out: {"logits": out, "loss": None},
        lambda out: SequenceClassifierOutput(logits=out),
    ],
)
def test_a_net_is_called_with_what_it_takes_and_its_logits_are_its_outputs(x, wrap):
    class Net(nn.Module):
        def forward(self, x):
            return wrap(2 * x)

    assert torch.equal(forward(Net(), x), torch.full((2, 3), 2.0))


def test_several_inputs_go_to_the_net_in_their_order_or_by_their_names():
    class Net(nn.Module):
        def forward(self, a, b):
            return a - b

    one, two = torch.full((2,), 1.0), torch.full((2,), 2.0)
    assert forward(Net(), (one, two)).tolist() == [-1, -1]
    assert forward(Net(), {"b": one, "a": two}).tolist() == [1, 1]


def test_outputs_beside_the_logits_are_not_dropped():
    """An auxiliary output of a tuple counts in training: to drop it would train another net than was given."""

    class Net(nn.Module):
        def forward(self, x):
            return Named(x, x)

    assert isinstance(forward(Net(), torch.ones(2)), Named)
    assert forward(nn.ReLU(), torch.ones(2)).tolist() == [1, 1]


def test_a_model_is_tried_on_the_examples_that_it_is_given():
    def net(activation, in_shape, n_tokens):
        return nn.Sequential(
            nn.Embedding(5, 4), nn.Flatten(), nn.Linear(4 * in_shape[0], 4), activation(4), nn.Linear(4, 3)
        )

    Model(net, "tokens", (2,), 3, n_tokens=9)  # zeros are tokens of every vocabulary
    with pytest.raises(ActSearchError, match="IndexError"):
        Model(net, "tokens", (2,), 3, n_tokens=9, examples=torch.tensor([[0, 1], [2, 8]]))


# --- what stays, what is tried ---------------------------------------------------------------------


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        x = self.act(self.first(x))
        return self.last(torch.nn.functional.relu(x) if x.sum() > 0 else x)


class Recurrent(nn.Module):
    """A cell of its own, in a Python loop."""

    def __init__(self):
        super().__init__()
        self.new, self.old, self.act, self.last = nn.Linear(2, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.zeros(len(x), 8)
        for part in x.split(2, dim=1):
            h = torch.tanh(self.new(part) + self.old(h))
        return self.last(self.act(h))


def policy():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh())


def gated():
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def with_a_stem(activation):
    return nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 8), activation(8), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Deciding, "The relu in forward at 'forward' stays in every candidate: its forward cannot be traced"),
        (Recurrent, "The tanh in forward at 'forward' stays in every candidate: its forward cannot be traced"),
        (policy, "The Tanh at '3' stays in every candidate: "),
        (gated, "The Sigmoid at '1' stays in every candidate: "),
        (with_a_stem, "The ELU at '1' stays in every candidate: the model makes it itself."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_replaced_is_said(function, said):
    (remark,) = Model(function, "net", (6,), 3).remarks
    assert remark.startswith(said)
    (remark,) = Model(function() if function is not with_a_stem else function, "net", (6,), 3).remarks
    assert remark.startswith(said)


def test_of_many_a_few_are_named_and_where_all_is_replaced_nothing_is_said():
    layers = [m for _ in range(5) for m in (nn.Linear(6, 6), nn.Sigmoid(), nn.ReLU())]
    (remark,) = Model(nn.Sequential(*layers, nn.Linear(6, 3)), "net", (6,), 3).remarks
    assert "'1', '4', '7' and 2 more" in remark
    assert make(mlp).remarks == []
    assert make(resnet, (1, 8, 8), depth=8, width=2).remarks == []


def test_only_chooses_and_is_refused_where_a_model_takes_its_activations_itself():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3), nn.Tanh())
    for only, n_slots in (("1", 1), (["1", "3"], 2), ("!3", 1), (nn.ReLU, 1), (lambda f: f.was == "ELU", 1), ("5", 1)):
        model = Model(net, "net", (6,), 3, only=only)
        assert model.n_slots == n_slots
    built = model.build(parse_net("gelu"), 0, "gain")
    assert [type(module).__name__ for module in built][1::2] == ["ReLU", "ELU", "ActivationModule"]
    with pytest.raises(ActSearchError, match=r"model.only: 'mlp' takes its activations itself"):
        Model(mlp, "mlp", (6,), 3, only="1")


class Two(nn.Module):
    """A second output in training, as googlenet has."""

    def __init__(self):
        super().__init__()
        self.net = policy()

    def forward(self, x):
        return (self.net(x), x) if self.training else self.net(x)


class OnlyEvaluated(Two):
    def forward(self, x):
        if self.training:
            raise RuntimeError("not in training")
        return self.net(x)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Two, r"the model 'net' gives tuple for 2 examples in training; wanted \(2, 3\), .* aux_logits=False"),
        (OnlyEvaluated, r"does not take the data's shape \(6,\) in training: RuntimeError: not in training"),
    ],
)
def test_a_net_is_tried_in_both_modes(function, said):
    with pytest.raises(ActSearchError, match=said):
        Model(function, "net", (6,), 3)


def test_a_net_is_tried_on_real_examples():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.act, self.last = nn.Embedding(9, 4), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(self.words(x), (x > 0).sum(1), True, False)
            return self.last(self.act(nn.utils.rnn.pad_packed_sequence(packed, True)[0].sum(1)))

    examples = torch.tensor([[1, 2, 0], [3, 0, 0]])
    with pytest.raises(ActSearchError, match="Length of all samples has to be greater than 0"):
        Model(Padded, "net", (3,), 3, n_tokens=9)
    assert Model(Padded, "net", (3,), 3, n_tokens=9, examples=examples).n_slots == 1


def test_lazy_layers_get_their_shapes_from_examples_and_their_weights_from_the_seed():
    def lazy():
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(3))

    for function in (lazy, lazy()):
        model = Model(function, "net", (6,), 3)
        assert model.n_parameters == 6 * 8 + 8 + 16 + 8 * 3 + 3
        one, again, other = (model.build(parse_net("gelu"), seed, "torch") for seed in (1, 1, 2))
        assert one[0].weight.shape == (8, 6)
        assert torch.equal(one[0].weight, again[0].weight)
        assert not torch.equal(one[0].weight, other[0].weight)
        for init in ("gain", "torch", "keep"):
            model.check_init(init)


def test_lazy_layers_get_their_shapes_without_a_trace_in_other_modules():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last, self.calls = nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3), 0
            self.norm = nn.LazyBatchNorm1d()

        def forward(self, x):
            self.calls += 1
            return self.last(self.act(self.norm(self.first(x))))

    pattern = Counting()
    built = Model(pattern, "net", (6,), 3).build(RELU, 0, "torch")
    assert (built.calls, pattern.calls) == (0, 0)
    assert not built.norm.running_mean.any() and built.norm.num_batches_tracked == 0
    assert type(built.first) is nn.Linear and type(pattern.first) is nn.LazyLinear


class Lately(nn.Module):
    """Makes its last layer in its first call, as people did before there were lazy layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), None

    def forward(self, x):
        x = self.second(self.act(self.first(x)))
        if self.last is None:
            self.last = nn.Linear(x.shape[1], 3)
        return self.last(x)


class Adding(nn.Module):
    """Its state has the shape of the first batch."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last, self.state = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), 0.0

    def forward(self, x):
        self.state = self.state + self.act(self.first(x))
        return self.last(self.state)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.spare = policy(), nn.LazyLinear(3)

    def forward(self, x):
        return self.net(x)


def detached():
    return type("Detached", (Two,), {"forward": lambda self, x: self.net(x).detach()})()


def on_meta():
    with torch.device("meta"):
        return policy()


def locked():
    net = policy()
    net.lines = (line for line in "ab")
    return net


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Lately, r"makes 'last\.\w+' in its first call, too late to be trained.*nn\.LazyLinear"),
        (Adding, "after a batch of another size: RuntimeError"),
        (Unused, "its forward does not call the lazy layer of 'spare.weight'"),
        (detached, r"do not depend on a weight that is trained: .*\(no_grad, detach, argmax\)"),
        (lambda: policy().requires_grad_(False), "do not depend on a weight that is trained: all are frozen"),
        (lambda: policy().half(), r"Half.*Its weights are torch\.float16: write net\.float\(\)"),
        (on_meta, "parameters on the meta device. Make it on the CPU"),
        (locked, r"Sequential: lines cannot be copied \(TypeError: .*Remove it"),
        (torch.jit.script(policy()), "no activation module to swap .*scripted"),
    ],
)
def test_what_could_not_be_trained_is_refused_in_one_line(function, said):
    with pytest.raises(ActSearchError, match=said) as error:
        Model(function, "net", (6,), 3)
    assert "\n" not in str(error.value)


BUILT = []


def counted(activation, in_shape, n_classes):
    BUILT.append(1)
    return nn.Sequential(nn.Linear(in_shape[0], 4), activation(4), nn.Linear(4, n_classes))


def normed(activation, in_shape, n_classes):
    return nn.Sequential(nn.Linear(in_shape[0], 4), nn.BatchNorm1d(4), activation(4), nn.Linear(4, n_classes))


def test_what_nets_share_and_change_is_said():
    model = make(counted, (6,), 3)
    assert model.shared == "test_models.BUILT"
    assert model.remarks[0].startswith("The model's code changes test_models.BUILT, which all of its nets share")
    assert not make(normed, (6,), 3).shared


def test_nets_that_share_a_layer_are_refused():
    trunk = nn.Linear(6, 4)
    with pytest.raises(ActSearchError, match=r"the same layer to each of its nets \('0\.weight', '0\.bias'\)"):
        make(lambda activation: nn.Sequential(trunk, activation(4), nn.Linear(4, 3)), (6,), 3)


def test_one_example_as_a_batch_is_refused_where_a_norm_needs_more():
    with pytest.raises(ActSearchError, match=r"recipe\.batch_size=1: the model 'model' cannot be .* Choose at least 2"):
        make(normed, (6,), 3).check_one_example()
    make(counted, (6,), 3).check_one_example()


def test_constants_of_a_functions_own_are_named_where_they_are_drawn_anew():
    def careful(activation, in_shape, n_classes):
        net = normed(activation, in_shape, n_classes)
        nn.init.zeros_(net[3].weight)
        nn.init.constant_(net[0].bias, 0.5)
        nn.init.constant_(net[1].weight, 0.1)
        return net

    model = make(careful, (6,), 3)
    assert model.redrawn("gain") == ["0.bias", "1.weight", "3.weight"]
    assert model.redrawn("keep") == []
    assert make(normed, (6,), 3).redrawn("gain") == []


def test_a_function_that_gives_the_same_net_again_gets_it_back_unchanged():
    net = policy()
    before = copy.deepcopy(net.state_dict())
    Model(lambda: net, "net", (6,), 3).build(parse_net("gelu"), 1, "gain")
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Linear", "Tanh"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_the_net_inside_of_a_wrapper_is_what_is_trained(wrap):
    built = Model(wrap(policy()), "net", (6,), 3).build(parse_net("gelu"), 0, "gain")
    assert [type(m).__name__ for m in built] == ["Linear", "ActivationModule", "Linear", "Tanh"]


def test_where_nothing_can_be_seen_that_is_said():
    class Hidden(Two):
        def forward(self, x, *more):
            return eval("self.net(x)")

    (remark,) = Model(Hidden, "net", (6,), 3).remarks
    assert remark.startswith("It could not be seen where 'net.1', 'net.3' of the net stand")
    assert Model(Hidden, "net", (6,), 3, only="!net.3").n_slots == 1


@pytest.mark.parametrize(("slots", "n_slots"), [("all", 4), ("calls", 8), ("stages", 2)])
def test_only_some_of_a_ready_nets_activations(slots, n_slots):
    keywords = {"name": "resnet18", "image_size": 32, "slots": slots}
    model = Model(torchvision, "net", (1, 12, 12), 5, keywords, only=["layer3", "layer4"])
    assert model.n_slots == n_slots
    assert any("and 2 more stays in every candidate: not asked for" in remark for remark in model.remarks)
    assert make(torchvision, (1, 12, 12), 5, **keywords).remarks == []
