"""Activations given as objects: the text of each is the same function, or there is one line that says why not."""

import functools
import importlib
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actsearch
from actsearch.activations import CATALOG, Spec, get_activation
from actsearch.activations.given import text_of
from actsearch.activations.library import EQUAL, LIBRARY, name_in_catalogue
from actsearch.errors import ActSearchError

FILE = """
    import functools
    import torch
    from torch import nn

    def bent(x, alpha=0.5):
        return torch.tanh(alpha * x)

    def needs(x, width):
        return width * x

    class Gate(nn.Module):
        def __init__(self, start=0.3, mode="soft"):
            super().__init__()
            self.start, self.mode = start, mode
            self.weight = nn.Parameter(torch.tensor(start))

        def forward(self, x):
            return x * torch.sigmoid(self.weight * x) if self.mode == "soft" else torch.relu(x)

    class Random(nn.Module):
        def __init__(self, size=1.0):
            super().__init__()
            self.size, self.weight = size, nn.Parameter(size * torch.randn(()))

        def forward(self, x):
            return torch.tanh(self.weight * x)

    class Forgets(nn.Module):
        def __init__(self, slope=0.5):
            super().__init__()
            self.kept = slope

        def forward(self, x):
            return torch.where(x > 0, x, self.kept * x)

    class Calls:
        def __call__(self, x):
            return torch.tanh(x)

    @torch.jit.script
    def scripted(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def factory(slope):
        return lambda x: torch.where(x > 0, x, slope * x)

    made = factory(0.25)
    fixed = functools.partial(bent, alpha=0.2)
    stack = nn.Sequential(nn.Tanh(), nn.ReLU())
    forgets = Forgets(0.7)
    calls = Calls()
"""


@pytest.fixture
def acts(tmp_path, monkeypatch):
    """A user's file, imported."""
    (tmp_path / "given_acts.py").write_text(textwrap.dedent(FILE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield importlib.import_module("given_acts")
    sys.modules.pop("given_acts", None)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (nn.SELU, "selu"), (nn.GELU(), "gelu"), (nn.GELU(approximate="tanh"), "gelu(approximate=tanh)"),
        (nn.LeakyReLU(0.2, inplace=True), "leaky_relu(negative_slope=0.2)"), (nn.ELU(0.5), "elu(alpha=0.5)"),
        (nn.Hardtanh(-2, 2), "hardtanh(min_val=-2, max_val=2)"), (nn.Softplus(beta=2), "softplus(beta=2)"),
        (nn.RReLU(0.1, 0.2), "rrelu(lower=0.1, upper=0.2)"), (nn.Threshold(0.3, 0), "thresholded_relu(theta=0.3)"),
        (nn.PReLU, "torch.nn.PReLU"), (nn.PReLU(num_parameters=1, init=0.1), "torch.nn.PReLU(init=0.1)"),
        (nn.PReLU(8, init=0.1), "prelu(negative_slope=learned(0.1))"), (torch.relu, "relu"), (F.silu, "silu"),
        (torch.sin, "sin"), (functools.partial(F.leaky_relu, negative_slope=0.2), "leaky_relu(negative_slope=0.2)"),
        (functools.partial(nn.ELU, alpha=0.3, inplace=True), "elu(alpha=0.3)"), ("x * tanh(x)", "x * tanh(x)"),
        (Spec.parse("elu(alpha=0.2)"), "elu(alpha=0.2)"), (CATALOG["mish"], "mish"),
        (get_activation("prelu", 4), "prelu"), (get_activation("(x * sigmoid(a * x))(a=learned(2))", 3),
         "(x * sigmoid(a * x))(a=learned(2))"),
    ],
)  # fmt: skip
def test_torchs_and_our_own(thing, text):
    assert text_of(thing) == text
    assert str(Spec.parse(text)) == text


@pytest.mark.parametrize("thing", EQUAL, ids=lambda thing: f"{getattr(thing, '__module__', '')}.{thing.__name__}")
def test_what_stands_for_torchs_own_has_its_values(thing):
    """The table's functions and classes with their defaults, in evaluation; and their paths name them."""
    x = torch.linspace(-9, 9, 97)
    own = thing().eval() if isinstance(thing, type) else thing
    torch.testing.assert_close(get_activation(text_of(thing)).eval()(x), own(x), rtol=1e-5, atol=1e-6)
    homes = [(home, name) for home, module in LIBRARY.items() for name, it in vars(module).items() if it is thing]
    assert homes
    assert {name_in_catalogue(f"{home}.{name}") for home, name in homes} == {EQUAL[thing]}


def test_a_users_own(acts):
    for thing, text in (
        (acts.bent, "given_acts.bent"), (functools.partial(acts.bent, alpha=0.2), "given_acts.bent(alpha=0.2)"),
        (acts.fixed, "given_acts.bent(alpha=0.2)"), (acts.Gate, "given_acts.Gate"), (acts.Gate(), "given_acts.Gate"),
        (acts.Gate(0.7), "given_acts.Gate(start=0.7)"), (torch.exp, "torch.exp"),
        (functools.partial(acts.Gate, start=0.1), "given_acts.Gate(start=0.1)"),
        (acts.Random, "given_acts.Random"), (acts.scripted, "given_acts.scripted"), (acts.made, "given_acts.made"),
        (acts.stack, "given_acts.stack"), (acts.forgets, "given_acts.forgets"), (acts.calls, "given_acts.calls"),
    ):  # fmt: skip
        assert text_of(thing) == text
        assert str(Spec.parse(text)) == text
    x = torch.linspace(-3, 3, 12).view(3, 4)
    for thing in (acts.Gate(0.7), acts.stack, acts.forgets, acts.made, acts.scripted, acts.calls):
        torch.testing.assert_close(get_activation(text_of(thing), 4)(x), thing(x), rtol=0, atol=0)


class Here(nn.Module):
    def forward(self, x):
        return x


def changed(module, **weights):
    with torch.no_grad():
        for name, value in weights.items():
            getattr(module, name).fill_(value)
    return module


def hooked(module):
    module.register_forward_hook(lambda module, args, out: out + 1)
    return module


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda acts: lambda x: x, ["a lambda has no name", "def in a file"]),
        (lambda acts: acts.factory(0.3), ["a lambda has no name"]),
        (lambda acts: functools.partial(acts.bent, 0.3), ["by their names", "the first argument is x"]),
        (lambda acts: functools.partial(acts.bent, alpha=True), ["'alpha' is no parameter that is a number"]),
        (lambda acts: functools.partial(acts.needs, width=2), ["needs 'width'"]),
        (lambda acts: acts.Gate(mode="hard"), ["Gate() cannot be made again", "Give the class"]),
        (lambda acts: acts.Random(), ["Random() cannot be made again"]),
        (lambda acts: acts.Forgets(0.7), ["Forgets() cannot be made again", "self.alpha = alpha"]),
        (lambda acts: changed(acts.Gate(0.7), weight=0.2), ["Gate() cannot be made again"]),
        (lambda acts: changed(nn.PReLU(), weight=0.9), ["cannot be made again"]),
        (lambda acts: changed(get_activation("prelu", 4), negative_slope=0.9), ["parameters were changed"]),
        (lambda acts: hooked(nn.ReLU()), ["ReLU() has hooks"]),
        (lambda acts: nn.Softplus(threshold=5), ["Softplus with threshold=5"]),
        (lambda acts: nn.Threshold(0.3, 1.0), ["needs 'threshold'"]),
        (lambda acts: nn.Softmax(dim=1), ["Write 'softmax'"]),
        (lambda acts: F.glu, ["Write 'glu'"]),
        (lambda acts: nn.Linear, ["needs 'in_features'"]),
        (lambda acts: torch.cumsum, ["'torch.cumsum' does not work"]),
        (lambda acts: len, ["'builtins' is a library's module"]),
        (lambda acts: 3.5j, ["3.5j is no activation", "an nn.Module"]),
        (lambda acts: [nn.ReLU], ["is no activation"]),
    ],
)  # fmt: skip
def test_what_cannot_be_made_again_is_refused_in_one_line(acts, make, parts):
    with pytest.raises(ActSearchError) as error:
        Spec.parse(text_of(make(acts)))
    assert str(error.value).isprintable()
    for part in parts:
        assert part in str(error.value)


def test_what_stands_in_the_script_is_refused(monkeypatch):
    local = type("Local", (Here,), {"__module__": "__main__", "__qualname__": "Local"})
    monkeypatch.setattr(sys.modules["__main__"], "Local", local, raising=False)
    with pytest.raises(
        ActSearchError, match="'Local' is defined in the script itself, which training processes do not"
    ):
        text_of(local)


def test_from_python_they_are_trained_under_their_names(acts, no_pictures, tmp_path):
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    data = (x[:60], (x[:60, 0] > 0).long(), x[60:], (x[60:, 0] > 0).long())
    common = {"quiet": True, "tracking": "none", "folder": tmp_path / "runs",
              "recipe": {"steps": 10, "eval_every": 5, "batch_size": 10}}  # fmt: skip
    result = actsearch.compare(
        "mlp", data, [nn.ReLU(), acts.Gate(0.7), nn.PReLU(init=0.1), {acts.bent: {"alpha": 0.25}}, acts.scripted],
        seeds=2, baseline=nn.SiLU, **common,
    )  # fmt: skip
    assert {c.activation for c in result.comparisons} == {
        "relu", "given_acts.Gate(start=0.7)", "torch.nn.PReLU(init=0.1)", "given_acts.bent(alpha=0.25)",
        "given_acts.scripted", "silu",
    }  # fmt: skip
    with pytest.raises(ActSearchError, match=r"activations\[1\]: a lambda has no name"):
        actsearch.compare("mlp", data, ["relu", lambda x: x], seeds=2, **common)
    with pytest.raises(ActSearchError, match=r"activations\[0\]: .*needs 'width'"):
        actsearch.search("mlp", data, search_space={"activations": [functools.partial(acts.needs, width=1)]}, **common)
    with pytest.raises(ActSearchError, match="baseline: <bound method"):
        actsearch.compare("mlp", data, ["relu"], seeds=2, baseline=Here().forward, **common)
