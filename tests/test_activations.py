"""The catalogue: every entry against an independent formula, torch's own function, and each other form."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from formulas import FORMULAS
from torch import nn

from actsearch.activations import CATALOG, Spec
from actsearch.activations.catalog import ALIASES

# (28, 3): a grid with 0, the kinks of all entries, and points where exponentials saturate
EXTRA = torch.tensor([-25.0, -1e-3, 1e-3, 1e-7, 25.0, 6.0, -3.0, -1.0, 0.5, 0.0, 1.0])
POINTS = torch.cat([torch.linspace(-9, 9, 73), EXTRA])
X = POINTS.double().view(28, 3)

ORACLES = {  # torch's own modules, at several parameters
    "identity": nn.Identity(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softmax": nn.Softmax(dim=1),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardtanh": nn.Hardtanh(),
    "hardtanh(min_val=-0.5, max_val=2)": nn.Hardtanh(-0.5, 2.0),
    "softsign": nn.Softsign(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "leaky_relu(negative_slope=0.3)": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(init=0.25, dtype=torch.float64),
    "relu6": nn.ReLU6(),
    "elu": nn.ELU(),
    "elu(alpha=0.4)": nn.ELU(0.4),
    "selu": nn.SELU(),
    "celu": nn.CELU(),
    "celu(alpha=0.4)": nn.CELU(0.4),
    "softplus": nn.Softplus(),
    "softplus(beta=3)": nn.Softplus(beta=3),
    "gelu": nn.GELU(),
    "gelu(approximate=tanh)": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "mish": nn.Mish(),
}


def settings(entry):
    """Keyword arguments worth testing: defaults, both ends of each range, each choice."""
    base = {p.name: p.default for p in entry.params}
    yield base
    for p in entry.params:
        for value in (p.low, p.high, *p.choices):
            if value is not None:
                yield {**base, p.name: value}


# the others change the width or have weights: tests/test_channels.py
ENTRIES = {n: e for n, e in CATALOG.items() if e.width is None and e.kind != "weighted"}

CASES = [
    pytest.param(entry, keywords, id=f"{entry.name}-{'-'.join(map(str, keywords.values()))}")
    for entry in ENTRIES.values()
    for keywords in settings(entry)
]
SEARCHABLE = [e for e in ENTRIES.values() if any(p.low is not None for p in e.params)]
WITH_NUMBERS = [case for case in CASES if any(not p.choices for p in case.values[0].params)]


def tensors(keywords, like=X, shape=()):
    return {k: v if isinstance(v, str) else torch.full(shape, v, dtype=like.dtype) for k, v in keywords.items()}


def tolerance(entry):
    """torch's celu kernel divides by alpha in float32 even for float64 inputs; ours does not."""
    return {"rtol": 1e-6, "atol": 1e-8} if entry.name == "celu" else {"rtol": 1e-12, "atol": 1e-13}


def value_and_gradient(fn, x, **keywords):
    x = x.clone().requires_grad_()
    y = fn(x, **keywords)
    weight = torch.linspace(0.5, 1.5, y.numel(), dtype=x.dtype).view_as(y)  # so that softmax has a gradient
    return y.detach(), torch.autograd.grad((y * weight).sum(), x)[0]


@pytest.mark.parametrize("text", ORACLES)
def test_equals_torch_in_values_and_gradients_also_at_kinks(text):
    y, dx = value_and_gradient(Spec.parse(text), X)
    wanted, wanted_dx = value_and_gradient(ORACLES[text], X)
    torch.testing.assert_close(y, wanted, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(dx, wanted_dx, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("text", FORMULAS)
def test_equals_its_formula(text):
    points = [float(v) for v in X.flatten()]
    wanted = torch.tensor([FORMULAS[text](v) for v in points], dtype=torch.float64).view_as(X)
    torch.testing.assert_close(Spec.parse(text)(X), wanted, rtol=1e-8, atol=1e-12)  # softplus: threshold at 20


def test_leaky_relu6_has_the_gradients_of_its_formula():
    x = torch.tensor([-2.0, 0.0, 3.0, 5.9, 6.1, 50.0], dtype=torch.float64)
    fn = CATALOG["leaky_relu6"].fn
    _, dx = value_and_gradient(lambda t: fn(t, negative_slope=0.2), x)
    weight = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    assert torch.allclose(dx / weight, torch.tensor([0.2, 0.2, 1, 1, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(("entry", "keywords"), WITH_NUMBERS)
def test_tensor_parameters_equal_numbers_in_values_and_gradients(entry, keywords):
    y, dx = value_and_gradient(entry.fn, X, **keywords)
    names = [p.name for p in entry.params if not p.choices]
    for chosen in [names, *([n] for n in names if len(names) > 1)]:  # all, and one tensor beside numbers
        mixed = {k: torch.tensor(v, dtype=X.dtype) if k in chosen else v for k, v in keywords.items()}
        y_tensor, dx_tensor = value_and_gradient(entry.fn, X, **mixed)
        torch.testing.assert_close(y_tensor, y, **tolerance(entry))
        torch.testing.assert_close(dx_tensor, dx, **tolerance(entry))


@pytest.mark.parametrize("entry", SEARCHABLE, ids=lambda e: e.name)
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1)], ids=["NC", "NCHW"])
def test_a_tensor_per_channel_is_each_channel_with_its_number(entry, shape):
    x = X if len(shape) == 1 else X.T.reshape(2, 7, 2, 3).permute(0, 3, 1, 2)  # the latter not contiguous
    for p in entry.params:
        if p.low is None:
            continue
        per_channel = torch.linspace(p.low, p.high, 3, dtype=x.dtype)
        y, dx = value_and_gradient(entry.fn, x, **{p.name: per_channel.view(shape)})
        weight = torch.linspace(0.5, 1.5, y.numel(), dtype=x.dtype).view_as(y)
        for c in range(3):
            alone = x[:, c].clone().requires_grad_()
            y_alone = entry.fn(alone, **{p.name: per_channel[c].item()})
            dx_alone = torch.autograd.grad((y_alone * weight[:, c]).sum(), alone)[0]
            torch.testing.assert_close(y[:, c], y_alone.detach(), **tolerance(entry))
            torch.testing.assert_close(dx[:, c], dx_alone, **tolerance(entry))


def test_leaky_relu_with_a_tensor_per_channel_is_torchs_prelu():
    x = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] = 0.0
    results = []
    for fn in (lambda t, w: CATALOG["leaky_relu"].fn(t, w.view(3, 1)), F.prelu):
        leaf, slope = x.clone().requires_grad_(), torch.tensor([0.1, 0.25, -0.5], dtype=x.dtype, requires_grad=True)
        y = fn(leaf, slope)
        results.append((y, *torch.autograd.grad((y * y).sum(), (leaf, slope))))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("entry", "keywords"), CASES)
def test_gradients_equal_finite_differences(entry, keywords):
    """For the input and, where a parameter is a number, for the parameter; away from the kinks."""
    generator = torch.Generator().manual_seed(2)
    x = (3 * torch.randn(5, 3, dtype=torch.float64, generator=generator)).requires_grad_()
    numbers = {k: v for k, v in keywords.items() if not isinstance(v, str)}
    words = {k: v for k, v in keywords.items() if isinstance(v, str)}
    leaves = [torch.full((3,), float(v), dtype=x.dtype, requires_grad=True) for v in numbers.values()]

    def fn(x, *params):
        return entry.fn(x, **words, **dict(zip(numbers, params, strict=True)))

    assert torch.autograd.gradcheck(fn, (x, *leaves))
    assert torch.autograd.gradcheck(lambda x: entry.fn(x, **keywords), (x,))


@pytest.mark.parametrize(("entry", "keywords"), CASES)
def test_finite_far_out_in_float32(entry, keywords):
    x = torch.tensor([[-1e4, 1e4, 0.0], [-1e2, 1e2, -90.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]])
    for given in (keywords, tensors(keywords, x), tensors(keywords, x, (3,))):
        y, dx = value_and_gradient(entry.fn, x, **given)
        assert torch.isfinite(y).all()
        assert torch.isfinite(dx).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("entry", "keywords"), CASES)
def test_keeps_dtype_and_shape_and_is_near_the_float64_value(entry, keywords, dtype):
    x = X.clamp(-9, 9).to(dtype)
    eps = torch.finfo(dtype).eps
    wanted = entry.fn(x.double(), **keywords)
    for given in (keywords, tensors(keywords, x)):
        y = entry.fn(x, **given)
        assert y.dtype == dtype
        assert y.shape == x.shape
        torch.testing.assert_close(y.double(), wanted, rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize(("entry", "keywords"), CASES)
def test_leaves_its_input_alone_and_repeats_itself(entry, keywords):
    for given in (keywords, tensors(keywords)):
        x = X.clone()
        first = entry.fn(x, **given).clone()
        assert torch.equal(x, X)
        assert torch.equal(entry.fn(x, **given), first)
        assert torch.equal(x, X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_memory_layout_does_not_matter(entry, dtype):
    x = X.to(dtype).reshape(7, 3, 4)
    y, dx = value_and_gradient(entry.fn, x)
    turned, turned_dx = value_and_gradient(entry.fn, x.transpose(0, 2).contiguous().transpose(0, 2))
    torch.testing.assert_close(turned, y)
    torch.testing.assert_close(turned_dx, dx)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_kind_says_whether_an_output_depends_on_other_channels(entry):
    x = torch.linspace(0.2, 0.9, 6, dtype=torch.float64).view(2, 3)
    other = x.clone()
    other[0, 1] += 0.05
    changed = entry.fn(x) != entry.fn(other)
    assert changed[0, 1]
    assert not changed[1].any()
    assert changed[0, [0, 2]].any() == (entry.kind == "channelwise")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entry_and_function_agree_on_parameters(entry):
    """Names and defaults of the entry are those of the function, so that fn(x) means the spec `name`."""
    if not entry.params:
        assert torch.isfinite(entry.fn(X)).all()
        return
    known = inspect.signature(entry.fn).parameters
    for p in entry.params:
        assert p.name in known
        if entry.name != "prelu":  # leaky_relu's function with another start
            assert known[p.name].default == p.default
        if p.low is not None:
            assert p.low <= p.default <= p.high
            assert not p.log or p.low > 0
        if p.choices:
            assert p.default in p.choices


def test_names_and_aliases_are_unique_names():
    assert all(name == entry.name and name.isidentifier() for name, entry in CATALOG.items())
    aliases = [alias for entry in CATALOG.values() for alias in entry.aliases]
    assert len(aliases) == len(set(aliases)) == len(ALIASES)
    assert not set(aliases) & set(CATALOG)
    assert ALIASES["swish"] == "silu"
    assert ALIASES["linear"] == "identity"


@pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)
def test_param_finds_by_name(entry):
    assert [entry.param(p.name) for p in entry.params] == list(entry.params)
    assert entry.param("nonsense") is None
