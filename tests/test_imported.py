"""A user's own function by its import path: found, checked once, and trained in the training processes."""

import importlib
import math
import sys
import textwrap

import pytest
import torch

import actsearch
from actsearch.activations import Spec, get_activation
from actsearch.activations.spec import Learned, _made, gain
from actsearch.errors import ActSearchError
from actsearch.question.recipe import Recipe
from actsearch.space.space import SearchSpace

MINE = """
    import torch
    import numpy as np
    from torch import nn
    from torch.nn import functional as F

    def bent(x, alpha=0.1, *, width=2, floor=None, inplace=False):
        '''x, bent at 0.

        More of it.'''
        return torch.where(x > 0, x, alpha * torch.tanh(x * width))

    def plain(z):
        return z * torch.sigmoid(z)

    def two(x, y):
        return x + y

    def none():
        return 1

    def number(x):
        return 3

    def short(x):
        return x.sum()

    def single(x):
        return torch.tanh(x.float())

    def writes(x):
        return x.mul_(2)

    def draws(x):
        return x * torch.rand_like(x)

    def mixes(x):
        return torch.softmax(x, 1)

    def centred(x):
        return x - x.mean()

    def detached(x):
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    def by_numpy(x):
        return torch.from_numpy(np.tanh(x.numpy()))

    def raises(x):
        raise RuntimeError("no\\nway")

    def step(x):
        return torch.sign(x)

    def log(x):
        return torch.log(x)

    def needs_numbers(x, alpha=0.2):
        return F.elu(x, float(alpha))

    def only_first(x, alpha=0.2):
        return x * (alpha if not isinstance(alpha, torch.Tensor) else alpha.flatten()[0])

    class Gate(nn.Module):
        def __init__(self, start=0.3, steps=2, mode="soft"):
            super().__init__()
            self.start, self.steps, self.mode = start, steps, mode
            self.weight = nn.Parameter(torch.tensor(start))

        def forward(self, x):
            return x * torch.sigmoid(self.steps * self.weight * x)

    class Mixing(nn.Module):
        '''tanh(x) by a learned gate of all channels.'''

        def __init__(self, channels):
            super().__init__()
            self.gate = nn.Linear(channels, channels)

        def forward(self, x):
            return torch.tanh(x) * torch.sigmoid(self.gate(x))

    class Halves(nn.Module):
        def forward(self, x):
            return x[:, ::2]

    class Wide(nn.Module):
        def __init__(self, width):
            super().__init__()

    class Draws(nn.Module):
        def forward(self, x):
            return x * torch.rand_like(x)

    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.round(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    @torch.jit.script
    def scripted(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    straight = Straight.apply
    gate = Gate(0.7)
    stack = nn.Sequential(nn.Tanh(), nn.ReLU())
    layer = nn.Sequential(nn.Linear(4, 4))
    Module = nn.ReLU
    seven = 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working folder with my_acts.py, a package lab.acts and files that do not import."""
    (tmp_path / "my_acts.py").write_text(textwrap.dedent(MINE))
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "acts.py").write_text("from my_acts import bent\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit\n")
    (tmp_path / "lacks.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("my_acts", "lab", "lab.acts"):
        sys.modules.pop(name, None)
    _made.cache_clear()


def test_its_keywords_with_numbers_are_its_parameters(mine):
    spec = Spec.parse("my_acts.bent")
    assert spec.params == {"alpha": 0.1, "width": 2.0}
    assert str(spec) == "my_acts.bent"
    assert spec.activation.formula == "x, bent at 0."
    given = Spec.parse("lab.acts.bent( alpha = learned(0.3), width=1 )")
    assert str(given) == "lab.acts.bent(alpha=learned(0.3), width=1)"
    assert Spec.parse(str(given)) == given
    assert given.params == {"alpha": Learned(0.3), "width": 1.0}
    assert str(mine) not in sys.path


def test_its_values_and_what_is_learned(mine):
    x = torch.linspace(-2, 2, 12).view(2, 3, 2)
    module = get_activation("my_acts.bent(alpha=learned(0.3))", 3)
    torch.testing.assert_close(module(x), torch.where(x > 0, x, 0.3 * torch.tanh(2 * x)))
    assert module.alpha.shape == (3,)
    assert torch.equal(get_activation("my_acts.plain")(x), x * torch.sigmoid(x))
    assert math.isclose(gain(Spec.parse("my_acts.plain")), gain(Spec.parse("silu")), rel_tol=1e-6)


def test_in_a_search_space(mine):
    made = SearchSpace(["my_acts.plain", {"my_acts.bent": {"alpha": [0.1, 0.5]}}], n_slots=2, base=Recipe())
    assert [c.activation for c in made.nets()] == ["my_acts.plain", "my_acts.bent", "my_acts.bent(alpha=0.5)"]
    with pytest.raises(ActSearchError, match=r"activations\[0\].my_acts.bent.alpha: the catalogue has no range"):
        SearchSpace([{"my_acts.bent": {"alpha": "search"}}], n_slots=2, base=Recipe())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("my_atcs.bent", ["there is no module 'my_atcs'", "my_file.my_function"]),
        ("my_acts.bnet", ["unknown function in 'my_acts': 'bnet'. Did you mean 'bent'?"]),
        ("my_acts.seven", ["is int, not a function of x"]),
        ("my_acts.Halves", ["makes (2, 2), torch.float32 of (2, 4), torch.float32"]),
        ("my_acts.Wide", ["needs 'width'", "have defaults"]),
        ("my_acts.Draws", ["other values for the same input"]),
        ("my_acts.layer", ["every training process would draw anew", "Name its class"]),
        ("my_acts.Gate(start=learned)", ["'start' is given to a class, which learns parameters of its own"]),
        ("my_acts.Gate(mode=1)", ["unknown parameter of 'my_acts.Gate' 'mode'"]),
        ("torch.nn.PReLU(num_parameters=8)", ["must work on any number of channels", "on 60"]),
        ("my_acts.two", ["needs 'y' besides x. Give it a default"]),
        ("my_acts.none", ["takes no x"]),
        ("my_acts.number", ["gives int, not a tensor"]),
        ("my_acts.short", ["makes (), torch.float64 of (2, 3, 4)", "Keep both"]),
        ("my_acts.single", ["torch.float32", "Keep both"]),
        ("my_acts.writes", ["changes its input"]),
        ("my_acts.draws", ["must not draw random numbers"]),
        ("my_acts.mixes", ["Only elementwise functions"]),
        ("my_acts.centred", ["Only elementwise functions"]),
        ("my_acts.detached", ["cannot be differentiated"]),
        ("my_acts.by_numpy", ["does not work", "requires grad"]),
        ("my_acts.raises", ["does not work on a tensor of shape (2, 3, 4): RuntimeError: no way"]),
        ("my_acts.step", ["has no slope"]),
        ("my_acts.log", ["not finite between -3 and 3"]),
        ("my_acts.needs_numbers", ["with alpha a Tensor", "only one element"]),
        ("my_acts.only_first", ["treats alpha as a tensor otherwise than as a number", "Broadcast it"]),
        ("my_acts.bent(beta=1)", ["unknown parameter of 'my_acts.bent' 'beta'", "alpha, width"]),
        ("my_acts.bent(inplace=1)", ["unknown parameter"]),
        ("my_acts.bent(0.1)", ["my_acts.bent"]),
        ("x * my_acts.bent(x)", ["column 5", "stands alone"]),
        ("broken.f", ["'broken' does not import: ZeroDivisionError"]),
        ("leaves.f", ["'leaves' does not import: SystemExit"]),
        ("lacks.f", ["'lacks' does not import", "no_such_thing"]),
        ("os.system", ["'os' is a library's module"]),
        ("torch.cumsum", ["'torch.cumsum' does not work"]),
        ("torch.optim.Adam", ["'torch.optim' is a library's module"]),
    ],
)
def test_what_is_no_activation_is_refused_in_one_line(mine, text, parts):
    with pytest.raises(ActSearchError) as error:
        Spec.parse(text)
    message = str(error.value)
    assert message.isprintable()
    for part in parts:
        assert part in message


def test_a_module_learns_its_own_weights(mine):
    x = torch.linspace(-3, 3, 12).view(2, 3, 2)
    gate = get_activation("my_acts.Gate(start=0.5, steps=3)", 3)
    torch.testing.assert_close(gate(x), x * torch.sigmoid(1.5 * x))
    assert [(name, p.item()) for name, p in gate.named_parameters()] == [("weighted.weight", 0.5)]
    assert str(Spec.parse("my_acts.Gate( steps=3 )")) == "my_acts.Gate(steps=3)"
    mixing = Spec.parse("my_acts.Mixing")
    assert mixing.activation.formula == "tanh(x) by a learned gate of all channels."
    assert mixing.module(5).weighted.gate.in_features == 5  # the slot's channels
    assert math.isfinite(gain(mixing))
    copies = [get_activation("my_acts.gate", 3) for _ in range(2)]
    assert copies[0].weighted.weight.item() == pytest.approx(0.7)
    assert copies[0].weighted.weight is not copies[1].weighted.weight
    assert torch.equal(get_activation("my_acts.stack")(x), torch.tanh(x).relu())


def test_scripted_functions_and_own_gradients(mine):
    x = torch.tensor([-1.4, 0.2, 2.6], requires_grad=True)
    torch.testing.assert_close(get_activation("my_acts.scripted")(x), x * torch.sigmoid(x))
    y = get_activation("my_acts.straight")(x)
    assert y.tolist() == [-1.0, 0.0, 3.0]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("torch.nn.SELU", "selu"), ("torch.nn.GELU(approximate=tanh)", "gelu(approximate=tanh)"),
        ("torch.nn.functional.leaky_relu(negative_slope=0.2)", "leaky_relu(negative_slope=0.2)"),
        ("torch.relu", "relu"), ("torch.nn.PReLU", "torch.nn.PReLU"),
        ("torch.nn.PReLU(init=0.1)", "torch.nn.PReLU(init=0.1)"),
    ],
)  # fmt: skip
def test_torchs_own_are_the_catalogues_where_they_are_the_same(path, spec):
    """nn.PReLU has one slope for a layer, prelu one for each channel."""
    assert str(Spec.parse(path)) == spec
    name = path.partition("(")[0]
    assert [str(s) for s in SearchSpace([path], n_slots=1, base=Recipe()).corners()] == [spec]
    if spec == "torch.nn.PReLU(init=0.1)":
        assert [p.shape for p in Spec.parse(path).module(8).parameters()] == [(1,)]
        made = SearchSpace([{name: {"init": [0.1, 0.2]}}], n_slots=1, base=Recipe())
        assert [c.activation for c in made.nets()] == ["torch.nn.PReLU(init=0.1)", "torch.nn.PReLU(init=0.2)"]


def test_a_function_that_was_loaded_anew_is_the_new_one(mine, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a second edit in one second would find the first's code
    monkeypatch.syspath_prepend(mine)
    file = mine / "anew.py"
    file.write_text("def act(x, alpha=1.0):\n    return alpha * x\n")
    x = torch.tensor([2.0])
    assert get_activation("anew.act")(x).item() == 2
    assert gain(Spec.parse("anew.act")) == pytest.approx(1, rel=1e-3)
    file.write_text("def act(x, beta=3.0, gamma=1.0):\n    return beta * x + gamma - 1\n")
    importlib.reload(sys.modules["anew"])
    assert get_activation("anew.act")(x).item() == 6
    assert str(Spec.parse("anew.act(beta=5, gamma=1)")) == "anew.act(beta=5)"
    assert gain(Spec.parse("anew.act")) == pytest.approx(1 / 3, rel=1e-3)


def test_the_checks_leave_the_random_state(mine, rng_untouched):
    with rng_untouched():
        Spec.parse("my_acts.bent")


def test_own_functions_and_expressions_are_trained_in_the_processes(mine, no_pictures):
    """A real search from a script's folder, baseline and all."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = torch.randn(3, 6, generator=generator)[y] + 0.5 * torch.randn(120, 6, generator=generator)
    result = actsearch.search(
        "mlp", (x[:90], y[:90], x[90:], y[90:]),
        [
            "relu", "my_acts.bent(alpha=learned(0.2))", "x * tanh(softplus(x))",
            {"expression": "min(max(a*x, x), 6)", "params": {"a": {"low": 0.001, "high": 0.5, "log": True}}},
            {"lab.acts.bent": {"alpha": [0.1, 0.3]}}, "my_acts.Gate(start=0.4)", "my_acts.scripted",
        ],
        recipe={"steps": 20, "eval_every": 10, "batch_size": 15}, n_trials=7, seeds=1, finalists=1, finalist_seeds=2,
        baseline="x * tanh(softplus(x))", quiet=True, tracking="none", folder=mine / "runs",
    )  # fmt: skip
    names = [row["activation"] for row in result.rows if row["rank"]]
    for beginning in (
        "relu",
        "my_acts.bent(alpha=learned(0.2))",
        "x * tanh",
        "min(max(a * x, x), 6)(a=",
        "lab.acts.bent",
        "my_acts.Gate(start=0.4)",
        "my_acts.scripted",
    ):
        assert any(name.startswith(beginning) for name in names), beginning
    assert next(c.activation for c in result.comparisons if c.is_baseline) == "x * tanh(softplus(x))"
    assert all(0 <= run.test_metric <= 1 for run in result.runs)
