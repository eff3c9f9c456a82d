"""Specs: parsing, printing, the modules and the gains made from them."""

import math
import pickle
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.activations import CATALOG, Spec, get_activation
from actsearch.activations.catalog import ALIASES
from actsearch.activations.spec import Learned, gain, join_layers, number, parse_net, print_net
from actsearch.errors import ActSearchError


def texts():
    """For each entry: its name, each parameter at other values, learned, learned from elsewhere."""
    for name, entry in CATALOG.items():
        yield name
        for p in entry.params:
            if p.choices:
                yield from (f"{name}({p.name}={choice})" for choice in p.choices)
            else:
                low, high = (p.default - 0.1, p.default + 0.1) if p.low is None else (p.low, p.high)
                yield from (f"{name}({p.name}={v})" for v in (low, high, 1 / 3 * high, "learned"))
                yield f"{name}({p.name}=learned({high}))"
    yield "hardtanh(min_val=-0.5, max_val=learned(2))"


def keeps_width(text):
    entry = Spec.parse(text).activation
    return entry.width is None and entry.kind != "weighted"


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", list(texts()))
def test_printed_text_parses_to_the_same_spec(text):
    spec = Spec.parse(text)
    again = Spec.parse(str(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    assert str(again) == str(spec)
    assert repr(again) == repr(spec)


def test_all_texts_are_different_specs_unless_they_mean_the_default():
    specs = {Spec.parse(text) for text in texts()}
    assert len({str(s) for s in specs}) == len(specs)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("relu", "relu"),
        ("  relu( )  ", "relu"),
        ("leaky_relu", "leaky_relu(negative_slope=0.01)"),  # quoted: people speak of the value
        ("leaky_relu( negative_slope = 2e-2 )", "leaky_relu(negative_slope=0.02)"),
        ("leaky_relu(negative_slope=1)", "leaky_relu(negative_slope=1)"),
        ("leaky_relu(negative_slope=-0.5)", "leaky_relu(negative_slope=-0.5)"),
        ("leaky_relu(negative_slope=+.5)", "leaky_relu(negative_slope=0.5)"),
        ("leaky_relu(negative_slope=1e-05)", "leaky_relu(negative_slope=1e-05)"),
        ("leaky_relu(negative_slope=0.30000000000000004)", "leaky_relu(negative_slope=0.30000000000000004)"),
        ("leaky_relu(negative_slope=learned)", "leaky_relu(negative_slope=learned)"),
        ("leaky_relu(negative_slope=learned(0.01))", "leaky_relu(negative_slope=learned)"),
        ("leaky_relu(negative_slope=learned(0.2))", "leaky_relu(negative_slope=learned(0.2))"),
        ("prelu", "prelu"),
        ("prelu(negative_slope=learned)", "prelu"),
        ("prelu(negative_slope=learned(0.25))", "prelu"),
        ("prelu(negative_slope=0.25)", "prelu(negative_slope=0.25)"),
        ("elu(alpha=1.0)", "elu"),
        ("elu(alpha=0.5)", "elu(alpha=0.5)"),
        ("gelu(approximate=none)", "gelu"),
        ("gelu(approximate=tanh)", "gelu(approximate=tanh)"),
        ("gelu(approximate='tanh')", "gelu(approximate=tanh)"),
        ("hardtanh(max_val=1, min_val=-1)", "hardtanh"),
        ("hardtanh(max_val=2, min_val=-2)", "hardtanh(min_val=-2, max_val=2)"),  # the entry's order
        ("swish", "silu"),
        ("swish(beta=2)", "silu(beta=2)"),
        ("linear", "identity"),
    ],
)
def test_canonical_text(text, canonical):
    assert str(Spec.parse(text)) == canonical


@pytest.mark.parametrize(("one", "other"), [("0", "-0"), ("0", "-0.0"), ("learned(0)", "learned(-0.0)")])
def test_equal_specs_print_equally_also_for_negative_zero(one, other):
    a, b = (Spec.parse(f"leaky_relu(negative_slope={v})") for v in (one, other))
    assert a == b
    assert str(a) == str(b)


@pytest.mark.parametrize("value", [0.02, 1.0, -3.0, 1e-5, 1e16, 1 / 3, 0.1 + 0.2, 123456789.123])
def test_number_reads_back_as_the_same_float_and_is_short(value):
    assert float(number(value)) == value
    assert len(number(value)) <= len(repr(value))


def test_aliases_mean_their_entry():
    for alias, name in ALIASES.items():
        assert Spec.parse(alias) == Spec.parse(name)
        assert Spec.of(alias).name == name


def test_specs_serve_as_keys():
    counts = {Spec.parse("swish"): 1, Spec.parse("leaky_relu(negative_slope=0.02)"): 2}
    assert counts[Spec.parse("silu(beta=1.0)")] == 1
    assert counts[Spec.of("leaky_relu", {"negative_slope": 0.02})] == 2
    assert Spec.parse("prelu(negative_slope=0.25)") != Spec.parse("prelu")
    with pytest.raises(AttributeError):
        Spec.parse("relu").name = "tanh"


def test_of_takes_defaults_integers_and_learned():
    assert Spec.of("elu").params == {"alpha": 1.0}
    assert Spec.of("elu", {"alpha": 2}) == Spec.parse("elu(alpha=2.0)")
    assert Spec.of("elu", {"alpha": "learned"}).params == {"alpha": Learned(1.0)}
    assert Spec.of("elu", {"alpha": Learned(2.0)}) == Spec.parse("elu(alpha=learned(2))")
    assert Spec.of("prelu").params == {"negative_slope": Learned(0.25)}
    assert Spec.of("gelu", {"approximate": "tanh"}).params == {"approximate": "tanh"}


def test_specs_survive_pickling():
    spec = Spec.parse("hardtanh(min_val=-0.5, max_val=learned(2))")
    assert pickle.loads(pickle.dumps(spec)) == spec


# --- wrong text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("leaky_rleu", ["'leaky_rleu'", "Did you mean 'leaky_relu'?", "actsearch task=list", str(len(CATALOG))]),
        ("Swisch", ["'Swisch'", "Did you mean 'swish'?"]),
        ("relu(alpha=1)", ["'relu' takes no parameter", "'alpha'", "Write 'relu'"]),
        ("leaky_relu(slope=0.1)", ["parameter of 'leaky_relu'", "'slope'", "negative_slope"]),
        ("elu(beta=0.1)", ["parameter of 'elu'", "'beta'", "alpha"]),
        ("leaky_relu(0.1)", ["'leaky_relu(0.1)'", "by name", "leaky_relu(negative_slope=0.02)"]),
        ("elu(**{'alpha': 1})", ["column 7", "'{' has no place"]),
        ("elu(**alpha)", ["parameters go by name"]),
        ("elu(alpha=1, alpha=2)", ["'alpha' is given twice"]),
        ("elu(alpha=abc)", ["elu(alpha=abc)", "'abc' is no finite number", "alpha=1.0 or learned"]),
        ("elu(alpha='1')", ["'1' is no finite number"]),
        ("elu(alpha=1e999)", ["'inf' is no finite number"]),
        ("elu(alpha=True)", ["'True' is not a number"]),
        ("elu(alpha=None)", ["'None' is not a number"]),
        ("elu(alpha=[1])", ["column 11", "'[' has no place"]),
        ("elu(alpha=1j)", ["column 12", "digits without letters"]),
        ("elu(alpha=1/2)", ["'1 / 2' is not a number"]),
        ("elu(alpha=f(1))", ["'f(1)' is not a number"]),
        ("elu(alpha=learned())", ["'learned' takes one number"]),
        ("elu(alpha=learned(1, 2))", ["'learned' takes one number"]),
        ("elu(alpha=learned(init=1))", ["'learned' takes one number"]),
        ("elu(alpha=learned(x))", ["'learned' takes one number"]),
        ("gelu(approximate=tahn)", ["'approximate'", "'tahn'", "Did you mean 'tanh'?"]),
        ("gelu(approximate=learned)", ["'approximate'", "'learned'", "none, tanh"]),
        ("gelu(approximate=1)", ["'approximate'", "none, tanh"]),
        ("celu(alpha=0)", ["'celu(alpha=0)' does not work"]),
        ("celu(alpha=learned(0))", ["'celu(alpha=learned(0))' does not work"]),
        ("softplus(beta=0)", ["'softplus(beta=0)' is not finite"]),
        ("elu(alpha=learned(1e999))", ["finite"]),
        ("hardtanh(min_val=2)", ["'hardtanh(min_val=2)' does not work"]),
        ("", ["''", "it is empty", "Write it like 'relu'"]),
        ("relu relu", ["'relu relu'", "no name with its parameters, and no formula", "Write it like 'relu'"]),
        ("relu(", ["'relu('", "column 5", "never closed"]),
        ("1", ["'1' is constant", "Write it like 'relu'"]),
        ("nn.ReLU()", ["'nn.ReLU'", "there is no module 'nn'", "my_file.my_function"]),
        ("os.path.join", ["'os.path' is a library's module", "my_file.my_function"]),
        ("sin(x) / x", ["it is nan at x = 0", "where(x == 0, 1, sin(x) / x)"]),
        ("re\0lu", ["column 3", "\\x00"]),
        ("relu()()", ["'relu' takes x", "Write relu(x)"]),
        ("(" * 5000, ["5000 characters"]),
    ],
)
def test_wrong_text_is_an_error_with_value_and_cure(text, parts):
    with pytest.raises(ActSearchError) as caught:
        Spec.parse(text)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_number_too_large_for_a_float_is_an_error():
    with pytest.raises(ActSearchError, match="alpha"):
        Spec.parse(f"elu(alpha=1{'0' * 400})")
    with pytest.raises(ActSearchError, match="alpha"):
        Spec.of("elu", {"alpha": 10**400})


@pytest.mark.parametrize("value", [math.nan, math.inf, True, [1], {"a": 1}])
def test_of_refuses_what_is_no_finite_number(value):
    with pytest.raises(ActSearchError, match="is no finite number"):
        Spec.of("elu", {"alpha": value})


@pytest.mark.parametrize(
    ("text", "name"),
    [("isrlu(alpha=-0.05)", "alpha"), ("isru(alpha=-1e-9)", "alpha"), ("celu(alpha=-1)", "alpha"),
     ("squareplus(b=-1)", "b"), ("pelu(b=learned(-0.5))", "b"), ("isrlu(x, alpha=-0.05)", "alpha")],
)  # fmt: skip
def test_values_for_which_a_formula_has_no_meaning(text, name):
    with pytest.raises(ActSearchError, match=f"'{name}' has no meaning below 0. Write {name}="):
        Spec.parse(text)
    assert str(Spec.parse("isru(alpha=0)")) == "isru(alpha=0)"  # the least itself
    assert str(Spec.parse("elu(alpha=-1)")) == "elu(alpha=-1)"  # unusual, and a function


# --- nets -----------------------------------------------------------------------------------------


def test_parse_net_gives_one_spec_per_layer_and_prints_back():
    text = "relu | gelu(approximate=tanh) | leaky_relu(negative_slope=0.02)"
    specs = parse_net(text)
    assert [s.name for s in specs] == ["relu", "gelu", "leaky_relu"]
    assert print_net(specs) == text
    assert parse_net(print_net(specs)) == specs
    assert parse_net("relu|gelu") == parse_net(" relu |  gelu ")


def test_equal_layers_are_the_net_with_one_spec():
    assert parse_net("swish | silu | silu(beta=1)") == (Spec.parse("silu"),)
    assert join_layers([Spec.parse("relu")]) == (Spec.parse("relu"),)
    assert join_layers([Spec.parse("relu"), Spec.parse("elu"), Spec.parse("relu")]) == parse_net("relu | elu | relu")
    assert print_net(parse_net("elu | elu(alpha=1)")) == "elu"


@pytest.mark.parametrize("text", ["relu |", "| relu", "relu || relu", "relu | rleu"])
def test_a_wrong_layer_is_an_error(text):
    with pytest.raises(ActSearchError):
        parse_net(text)


# --- functions and modules ------------------------------------------------------------------------


def test_a_spec_is_callable_with_learned_parameters_at_their_start():
    x = torch.linspace(-2, 2, 9)
    assert torch.equal(Spec.parse("prelu")(x), F.leaky_relu(x, 0.25))
    assert torch.equal(Spec.parse("elu(alpha=learned(0.3))")(x), F.elu(x, 0.3))
    assert torch.equal(Spec.parse("hardtanh(min_val=-0.5)")(x), x.clamp(-0.5, 1.0))


@pytest.mark.parametrize("text", [t for t in texts() if keeps_width(t)])
def test_module_equals_spec_in_values_and_gradients(text):
    spec = Spec.parse(text)
    x = torch.linspace(-7, 7, 60, dtype=torch.float64).view(5, 3, 4)
    for channels in (None, 3):
        module = get_activation(text, channels).double().eval()
        for name in module.learned:  # float32 when made
            nn.init.constant_(getattr(module, name), spec.params[name].init)
        for given in (x, x[..., 0], x.unsqueeze(-1)):  # (N, C, L), (N, C), (N, C, H, W)
            a, b = given.clone().requires_grad_(), given.clone().requires_grad_()
            ours, wanted = module(a), spec(b)
            torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)
            grads = [torch.autograd.grad(y.square().sum(), leaf)[0] for y, leaf in ((ours, a), (wanted, b))]
            torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 2, 2, 2)], ids=str)
def test_learned_parameters_are_one_per_channel_of_dimension_one(shape):
    module = get_activation("elu(alpha=learned(0.5))", channels=3)
    assert module.alpha.shape == (3,)
    assert torch.equal(module.alpha.detach(), torch.full((3,), 0.5))
    with torch.no_grad():
        module.alpha.copy_(torch.tensor([0.1, 1.0, 2.0]))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = module(x)
    assert y.shape == x.shape
    for channel, alpha in enumerate((0.1, 1.0, 2.0)):
        torch.testing.assert_close(y[:, channel], F.elu(x[:, channel], alpha))
    y.sum().backward()
    for channel in range(3):
        torch.testing.assert_close(module.alpha.grad[channel], torch.expm1(x[:, channel].clamp(max=0)).sum())


def test_without_channels_one_value_serves_all():
    module = get_activation("prelu")
    assert module.negative_slope.shape == ()
    for shape in ((4, 3), (4, 7, 2), (4, 1, 2, 2)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(module(x), F.leaky_relu(x, 0.25))


def test_only_learned_parameters_are_parameters():
    module = get_activation("hardtanh(min_val=-0.5, max_val=learned(2))", channels=4)
    assert [(n, tuple(p.shape)) for n, p in module.named_parameters()] == [("max_val", (4,))]
    assert list(module.state_dict()) == ["max_val"]
    assert not list(get_activation("leaky_relu", channels=4).parameters())


def test_modules_do_not_share_their_learned_parameters():
    spec = Spec.parse("prelu")
    one, other = spec.module(2), spec.module(2)
    with torch.no_grad():
        one.negative_slope.fill_(9.0)
    assert torch.equal(other.negative_slope.detach(), torch.full((2,), 0.25))


def test_module_shows_its_spec_and_can_be_copied():
    module = get_activation("prelu", 3)
    assert repr(module) == "ActivationModule(prelu)"
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(deepcopy(module)(x), module(x))
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))


# --- gain -----------------------------------------------------------------------------------------


def leaky_gain(a):
    return math.sqrt(2 / (1 + a * a))


ELU_MOMENT = 0.5 + math.exp(2) * 0.5 * math.erfc(2 / math.sqrt(2)) - math.exp(0.5) * math.erfc(1 / math.sqrt(2)) + 0.5


@pytest.mark.parametrize(
    ("text", "wanted", "tolerance"),
    [
        ("identity", 1.0, 1e-6),
        ("relu", math.sqrt(2), 1e-6),  # He et al. 2015
        ("selu", 1.0, 1e-5),  # its constants are made for this
        ("leaky_relu", leaky_gain(0.01), 1e-6),
        ("leaky_relu(negative_slope=0.3)", leaky_gain(0.3), 1e-6),
        ("leaky_relu(negative_slope=learned(0.5))", leaky_gain(0.5), 1e-6),
        ("prelu", leaky_gain(0.25), 1e-6),
        ("tanh", 1.5925, 1e-4),
        ("elu", 1 / math.sqrt(ELU_MOMENT), 1e-6),
        ("hardtanh(min_val=-1e-3, max_val=1e-3)", 1000.0, 0.5),  # a sign function of size 0.001
        ("hardtanh(min_val=0, max_val=0)", 1.0, 0.0),  # nothing passes: no gain can help
    ],
)
def test_gain_has_known_values(text, wanted, tolerance):
    assert gain(Spec.parse(text)) == pytest.approx(wanted, rel=0, abs=tolerance)


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.kind != "weighted"])
def test_gain_times_activation_has_mean_square_one(name):
    spec = Spec.of(name)
    z = torch.randn(20_000, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert (gain(spec) * spec(z)).square().mean().item() == pytest.approx(1.0, rel=0.02)


def test_gain_leaves_the_global_random_state(rng_untouched):
    with rng_untouched():
        gain.__wrapped__(Spec.parse("softmax"))
        gain.__wrapped__(Spec.parse("tanh"))
