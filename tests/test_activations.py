"""The catalogue: every entry against an independent formula, torch's own function, and each other form."""

import inspect
import math

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
    "logsigmoid": nn.LogSigmoid(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "leaky_relu(negative_slope=0.3)": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(init=0.25, dtype=torch.float64),
    "relu6": nn.ReLU6(),
    "rrelu": nn.RReLU().eval(),
    "rrelu(lower=0.2, upper=0.6)": nn.RReLU(0.2, 0.6).eval(),
    "clipped_relu(cap=6)": nn.ReLU6(),
    "thresholded_relu": nn.Threshold(1.0, 0.0),
    "softshrink": nn.Softshrink(),
    "softshrink(lambd=1)": nn.Softshrink(1.0),
    "hardshrink": nn.Hardshrink(),
    "hardshrink(lambd=1)": nn.Hardshrink(1.0),
    "tanhshrink": nn.Tanhshrink(),
    "elu": nn.ELU(),
    "elu(alpha=0.4)": nn.ELU(0.4),
    "selu": nn.SELU(),
    "celu": nn.CELU(),
    "celu(alpha=0.5)": nn.CELU(0.5),
    "softplus": nn.Softplus(threshold=40),
    "softplus(beta=3)": nn.Softplus(beta=3, threshold=40),
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


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FAR = [sign * digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 5) for sign in (1, -1)]
EXTREMES = torch.tensor([0.0, *(v for v in FAR if abs(v) <= 1e4), -25.0, 25.0, -90.0]).view(-1, 3)

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
    """The same parameters as tensors of like's dtype and device; in float32 if one is too large for it."""
    numbers = [abs(v) for v in keywords.values() if not isinstance(v, str)]
    if max(numbers, default=0.0) > torch.finfo(like.dtype).max:
        like = like.float()
    return {k: v if isinstance(v, str) else like.new_full(shape, v) for k, v in keywords.items()}


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
    rtol = 1e-7 if text == "hardsigmoid" else 1e-13  # torch's slope is float32(1/6)
    torch.testing.assert_close(dx, wanted_dx, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("text", FORMULAS)
def test_equals_its_formula(text):
    points = [float(v) for v in X.flatten()]
    wanted = torch.tensor([FORMULAS[text](v) for v in points], dtype=torch.float64).view_as(X)
    torch.testing.assert_close(Spec.parse(text)(X), wanted, rtol=1e-12, atol=1e-13)


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
        torch.testing.assert_close(y_tensor, y, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(dx_tensor, dx, rtol=1e-12, atol=1e-13)


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
            torch.testing.assert_close(y[:, c], y_alone.detach(), rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(dx[:, c], dx_alone, rtol=1e-12, atol=1e-13)


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
    """For the input and, where a parameter is a number, for the parameter; twice; away from the kinks."""
    generator = torch.Generator().manual_seed(2)
    x = (3 * torch.randn(5, 3, dtype=torch.float64, generator=generator)).requires_grad_()
    numbers = {k: v for k, v in keywords.items() if not isinstance(v, str)}
    words = {k: v for k, v in keywords.items() if isinstance(v, str)}
    leaves = [torch.full((3,), float(v), dtype=x.dtype, requires_grad=True) for v in numbers.values()]

    def fn(x, *params):
        return entry.fn(x, **words, **dict(zip(numbers, params, strict=True)))

    assert torch.autograd.gradcheck(fn, (x, *leaves))
    assert torch.autograd.gradcheck(lambda x: entry.fn(x, **keywords), (x,))
    assert torch.autograd.gradgradcheck(fn, (x, *leaves))
    assert torch.autograd.gradgradcheck(lambda x: entry.fn(x, **keywords), (x,))


def alternating(like):
    """1, 2, 1, 2, …: weights of outputs, so that softmax, too, has a gradient."""
    return 1.0 + torch.arange(like.numel(), device=like.device).view_as(like).remainder(2).to(like.dtype)


def derivatives(fn, x, **keywords):
    """Value, first and second derivative, the latter two of sums with alternating weights."""
    x = x.clone().requires_grad_()
    y = fn(x, **keywords)
    dx = torch.autograd.grad(y, x, alternating(y), create_graph=True)[0]
    ddx = torch.zeros_like(x)
    if dx.requires_grad:
        ddx = torch.autograd.grad(dx, x, alternating(x), materialize_grads=True)[0]
    return y.detach(), dx.detach(), ddx.detach()


class Reference:
    """What a function gives in float64, and how far a result in a coarser dtype may be from it.

    That is the function's change where x changes by 16 units in the last place, and besides 16 units of the value
    itself, of x where x is small, or of the derivative's size at |x| <= 10, where it may cancel. Where several inputs
    make an output, 16 units of the row's largest.
    """

    def __init__(self, fn, keywords, x):
        info, exact = torch.finfo(x.dtype), x.double()
        moves = [k * (info.eps * exact + 1e-30) for k in (0, -16, -4, 4, 16)]  # at a kink to both sides
        near = [derivatives(fn, exact + move, **keywords) for move in moves]
        self.wanted, self.allowed, self.info = near[0], [], info
        for order, wanted in enumerate(self.wanted):
            moved = torch.stack([n[order] - wanted for n in near]).abs().amax(0)
            if self.wanted[0].shape != x.shape:
                floor = exact.abs().amax(1, keepdim=True)
            else:
                floor = wanted[exact.abs() <= 10].abs().max() if order else exact.abs().clamp(max=1.0)
            self.allowed.append(moved + 16 * info.eps * torch.maximum(wanted.abs(), floor) + 4 * info.tiny * info.eps)

    def check(self, found, what):
        for order, (mine, wanted, allowed) in enumerate(zip(found, self.wanted, self.allowed, strict=True)):
            assert torch.isfinite(wanted).all()
            wrong = ~((mine.double() - wanted).abs() <= allowed) & (wanted.abs() <= self.info.max)
            wrong |= mine.isnan()
            assert not wrong.any(), f"{what}, derivative {order}: {mine[wrong][:4]} for {wanted[wrong][:4]}"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_right_far_out_and_close_to_zero_in_every_precision(entry):
    """Value, gradient and second derivative up to 1e4, wherever the true ones are representable."""
    for dtype in DTYPES:
        x = EXTREMES.to(dtype)
        for keywords in settings(entry):
            reference = Reference(entry.fn, keywords, x)
            for given in (keywords, tensors(keywords, EXTREMES), tensors(keywords, EXTREMES, (3,))):
                found = derivatives(entry.fn, x, **given)
                assert [t.dtype for t in found] == [dtype] * 3  # also beside parameters in float32
                reference.check(found, f"{dtype}, {given}")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_near_its_float64_value_where_it_bends(entry):
    for dtype in DTYPES:
        x = X.to(dtype)
        for keywords in settings(entry):
            reference = Reference(entry.fn, keywords, x)
            for given in (keywords, tensors(keywords, x)):
                found = derivatives(entry.fn, x, **given)
                assert all(t.shape == x.shape for t in found)
                reference.check(found, f"{dtype}, {given}")


@pytest.mark.parametrize("entry", [e for e in ENTRIES.values() if e.kind != "channelwise"], ids=lambda e: e.name)
def test_has_its_limits_at_infinity(entry):
    """A channelwise one has none, where several inputs are infinite; a periodic one has none either.

    Gradients only where the value is finite: of x * gate(x) at infinity they are 1 + inf * 0. Three are torch's own
    kernels, for their speed, and have torch's NaN: at the infinity where the gate is 0.
    """
    if entry.family == "periodic":
        return
    if entry.name in ("silu", "gelu", "hardswish"):
        own = {"silu": F.silu, "gelu": F.gelu, "hardswish": F.hardswish}[entry.name]
        x = torch.tensor([-math.inf, -1e4, 1.0])
        torch.testing.assert_close(entry.fn(x), own(x), rtol=0, atol=0, equal_nan=True)
        assert entry.fn(x)[0].isnan()
        return
    for dtype in (*DTYPES, torch.float64):
        x = torch.tensor([[-math.inf, 1.0, math.inf]], dtype=dtype)
        for keywords in settings(entry):
            for given in (keywords, tensors(keywords, x, (3,))):
                y, dx, _ = derivatives(entry.fn, x, **given)
                assert not y.isnan().any(), f"{dtype}, {given}: {y}"
                assert not dx[y.isfinite()].isnan().any(), f"{dtype}, {given}: gradient {dx}"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_keeps_the_device_and_infers_shapes_without_data(entry):
    for dtype in (*DTYPES, torch.float64):
        x = torch.empty(4, 3, dtype=dtype, device="meta")
        for keywords in settings(entry):
            for given in (keywords, tensors(keywords, x, (3,))):
                y = entry.fn(x, **given)
                assert (y.device, y.dtype, y.shape) == (x.device, dtype, x.shape)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_works_under_torch_func(entry):
    """A gradient for each row, all rows at once, is what autograd gives; so is the second derivative."""
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def first(row, given):
        return torch.func.grad(lambda r: (entry.fn(r[None], **given)[0] * weight).sum())(row)

    def second(row, given):
        return torch.func.grad(lambda r: (first(r, given) * weight).sum())(row)

    for keywords in settings(entry):
        for given in (keywords, tensors(keywords)):
            x = X.clone().requires_grad_()
            dx = torch.autograd.grad(entry.fn(x, **given), x, weight.expand_as(x), create_graph=True)[0]
            ddx = torch.zeros_like(x)
            if dx.requires_grad:
                ddx = torch.autograd.grad(dx, x, weight.expand_as(x), materialize_grads=True)[0]
            for transformed, wanted in ((first, dx), (second, ddx)):
                rows = torch.func.vmap(lambda r, f=transformed, g=given: f(r, g))(X)
                torch.testing.assert_close(rows, wanted.detach(), rtol=1e-12, atol=1e-13)


def test_smu_is_gelu_and_acon_c_is_swish_at_their_settings():
    smu, acon_c = CATALOG["smu"].fn, CATALOG["acon_c"].fn
    torch.testing.assert_close(smu(X, alpha=0.0, mu=math.sqrt(0.5)), F.gelu(X), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(acon_c(X, beta=2.5), CATALOG["silu"].fn(X, 2.5), rtol=1e-14, atol=1e-15)


def test_serlu_keeps_mean_0_and_variance_1_of_normal_inputs():
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    weight = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    y = CATALOG["serlu"].fn(z)
    assert (y * weight).sum().item() == pytest.approx(0.0, abs=1e-6)
    assert (y.square() * weight).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_pau_starts_at_the_least_squares_fit_of_leaky_relu():
    """No coefficient, moved by a thousandth, fits better by more than rounding its digits allows."""
    entry = CATALOG["pau"]
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    start = {p.name: p.default for p in entry.params}

    def error(**changed):
        return (entry.fn(x, **{**start, **changed}) - F.leaky_relu(x, 0.01)).square().mean().item()

    assert math.sqrt(error()) == pytest.approx(0.0055, abs=1e-4)
    assert all(error(**{k: v + d}) > error() - 1e-11 for k, v in start.items() for d in (-1e-3, 1e-3))


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
    changed = torch.zeros(2, 3, dtype=torch.bool)
    for start in (0.2, 1.2):  # below the bounds of some, above the thresholds of others
        x = torch.linspace(start, start + 0.7, 6, dtype=torch.float64).view(2, 3)
        other = x.clone()
        other[0, 1] += 0.05
        changed |= entry.fn(x) != entry.fn(other)
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
