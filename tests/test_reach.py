"""Where functions break: measured against their known ends."""

import sys

import pytest
import torch

from actsearch.activations import CATALOG, Spec
from actsearch.activations.reach import breaks, remarks
from actsearch.activations.spec import Learned
from actsearch.question.recipe import Recipe
from actsearch.space.space import SearchSpace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("exp(x)", "value is infinite from x = 88.7 on"),
        ("x * exp(-x)", "slope is infinite from x = -84.3 on"),
        ("x * exp(x) ** 2", "slope is infinite from x = 42.1 on"),
        ("x ** 9", "value is infinite from x = 19100 on and value is infinite from x = -19100 on"),
        ("sqrt(abs(x))", "slope is NaN at x = 0"),
        ("exp(x) * erfc(x)", "value is NaN from x = 88.7 on"),
        ("asinh(exp(x))", "slope is off by more than 1 % from x = 44.4 on"),
        ("x * (sqrt(x ** 2 + 1) - x)", "value is off by more than 1 % at x = 522"),
        ("(x * exp(a * x))(a=learned(0.5))", "slope in a is infinite from x = 157 on"),
        ("x ** 2", ""),
        ("x / (1 + exp(-x))", ""),
        ("x * tanh(log(1 + exp(x)))", ""),
        ("sin(60 * x)", ""),  # of a large x its last digit, too, matters; that is no fault of the function
        ("max(sin(x), cos(x))", ""),
        ("gelu", ""),
        ("softmax", ""),
    ],
)
def test_known_ends(text, wanted):
    assert breaks(Spec.parse(text)) == wanted


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogue_breaks_nowhere(name):
    """With defaults and with learned parameters. In float16 a value may be too large."""
    entry = CATALOG[name]
    numbers = {p.name: Learned(p.default) for p in entry.params if not p.choices}
    for spec in {Spec.of(name), Spec.of(name, numbers)}:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            said = breaks(spec, dtype)
            assert said == "" or (dtype == torch.float16 and "value is infinite" in said and "NaN" not in said)


def test_remarks_name_some_and_count_the_others():
    texts = [f"exp({i} * x)" for i in range(2, 10)]
    said = remarks([Spec.parse(text) for text in ["relu", *texts, texts[0], "x * sigmoid(x)"]])
    assert (
        said[0] == "'exp(2 * x)' in float32: its slope is infinite from x = 44 on. A run whose signals get there fails."
    )
    assert len(said) == 6
    assert said[-1] == "3 more functions break at some x, e.g. 'exp(7 * x)'."
    assert remarks([Spec.parse("silu(beta=2)"), Spec.parse("pau"), Spec.parse("gelu(approximate=tanh)")]) == []
    (huge,) = remarks([Spec.parse("leaky_relu(negative_slope=1e37)")])
    assert "'leaky_relu(negative_slope=1e+37)' in float32: its value is infinite from x = -34" in huge


def test_a_users_own_function_too(tmp_path, monkeypatch):
    (tmp_path / "naive_acts.py").write_text(
        "import torch\n\ndef naive(x):\n    return x / (1 + torch.exp(-x))\n\n"
        "def branch(x, alpha=1.0):\n    return torch.where(x > 0, x, alpha * (torch.exp(x) - 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert breaks(Spec.parse("naive_acts.naive")) == "slope is NaN from x = -88.7 on"
    assert breaks(Spec.parse("naive_acts.branch")) == "slope is NaN from x = 88.7 on"
    assert "slope is NaN from x = 88.7 on" in breaks(Spec.parse("naive_acts.branch(alpha=learned)"))


def test_a_space_knows_its_functions_before_the_search():
    items = [
        "x * exp(x) | relu",
        {"expression": "exp(a * x)", "params": {"a": {"low": 0.1, "high": 2.0}}},
        {"grammar": {}},
    ]
    space = SearchSpace(items, n_slots=2, base=Recipe())
    texts = [str(spec) for spec in space.corners()]
    assert texts == ["x * exp(x)", "relu", "exp(a * x)(a=1.05)", "exp(a * x)(a=0.1)", "exp(a * x)(a=2)"]
