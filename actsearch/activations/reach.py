"""How far from 0 a function can be computed: the x at which its value or its slope breaks in a precision.

It is measured on a grid, against the same function in float64: for an expression, a user's own function, or a parameter
far from what is usual. The catalogue's functions with usual parameters are held to it by tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from actsearch.activations.catalog import CATALOG
from actsearch.activations.imported import kept
from actsearch.activations.spec import Learned, Spec
from actsearch.activations.tree import number

FAR = 6e4  # beyond it nothing is looked for; the largest float16 is 65504
OFF = 0.01  # an error above this share of max(|value|, 1) counts
MOST_NAMED = 5  # functions in remarks

Found = dict[str, Tensor]


@kept(4096)
def breaks(spec: Spec, dtype: torch.dtype = torch.float32) -> str:
    """Where the value or a slope is NaN, infinite or wrong, in words; empty if that is nowhere within ±FAR.

    Slopes are those in x and in learned parameters. Of the specs whose outputs depend on several inputs only a user's
    own modules are looked at, with one channel.
    """
    entry = spec.activation
    if entry.width is not None or (entry.kind not in ("elementwise", "stochastic") and entry.family != "own"):
        return ""
    side = torch.logspace(-3, torch.tensor(FAR).log10().item(), 160, dtype=torch.float64)
    points = torch.cat([side.new_zeros(1), side, -side]).to(dtype).double()
    every = _wrong(spec, points, dtype)
    said = []
    for part in (slice(0, 1), slice(1, 1 + len(side)), slice(1 + len(side), None)):
        x, wrong = points[part], {key: mask[part] for key, mask in every.items()}
        bad = torch.stack(list(wrong.values())).any(0)
        if not bad.any():
            continue
        first = int(bad.nonzero()[0])
        at, (what, how) = _edge(spec, x[max(first - 1, 0)].item(), x[first].item(), dtype)
        beyond = len(x) > 1 and bool(bad[first:].all())
        said.append(f"{what} is {how} {'from' if beyond else 'at'} x = {number(float(f'{at:.3g}'))}{' on' * beyond}")
    return " and ".join(said)


def remarks(specs: Iterable[Spec], dtype: torch.dtype = torch.float32) -> list[str]:
    """A sentence for each function that breaks at some x."""
    broken = {str(spec): why for spec in dict.fromkeys(specs) if not _usual(spec) and (why := breaks(spec, dtype))}
    precision, named = str(dtype).removeprefix("torch."), list(broken)[:MOST_NAMED]
    out = [f"'{text}' in {precision}: its {broken[text]}. A run whose signals get there fails." for text in named]
    more = list(broken)[MOST_NAMED:]
    return [*out, f"{len(more)} more functions break at some x, e.g. '{more[0]}'."] if more else out


def _usual(spec: Spec) -> bool:
    """Whether it is one of the catalogue's, with parameters at their defaults or within the range worth searching."""
    if spec.name not in CATALOG:
        return False
    starts = [value.init if isinstance(value, Learned) else value for value in spec.values]
    return all(
        start in (param.default, *param.choices)
        or (param.low is not None and param.high is not None and param.low <= float(start) <= param.high)
        for param, start in zip(spec.activation.params, starts, strict=True)
    )


def _wrong(spec: Spec, x: Tensor, dtype: torch.dtype) -> dict[tuple[str, str], Tensor]:
    """Where something is wrong, as masks, by (what, how). x: float64 numbers that dtype has."""
    move = 8 * torch.finfo(dtype).eps
    near = [_values(spec, x * (1 + k * move) + k * 1e-9) for k in (0, -1, 1)]
    wrong: dict[tuple[str, str], Tensor] = {}
    for what, rounded in _values(spec, x.to(dtype)).items():
        got, (wanted, *moved) = rounded.double(), (found[what] for found in near)
        allowed = max(OFF, move) * wanted.abs().clamp(min=1.0) + sum((other - wanted).abs() for other in moved)
        wrong[what, "NaN"] = got.isnan()
        wrong[what, "infinite"] = got.isinf()
        wrong[what, "off by more than 1 %"] = got.isfinite() & allowed.isfinite() & ((got - wanted).abs() > allowed)
    return wrong


def _values(spec: Spec, x: Tensor) -> Found:
    """Value and slopes at each x, by name."""
    x = x.clone().requires_grad_()
    if spec.activation.kind == "weighted":
        with torch.random.fork_rng(devices=[]):
            y = spec.module(1).to(x.dtype).eval()(x.view(-1, 1)).view(-1)
        return {"value": y.detach(), "slope": torch.autograd.grad(y.sum(), x)[0]}
    given: dict[str, Any] = dict(spec.params)
    for name, value in spec.params.items():
        if isinstance(value, Learned):  # in mixed precision, parameters are float32
            wide = torch.promote_types(x.dtype, torch.float32)
            given[name] = torch.full_like(x, value.init, dtype=wide).requires_grad_()
    leaves = {"slope": x} | {f"slope in {name}": v for name, v in given.items() if isinstance(v, Tensor)}
    y = spec.activation.fn(x, **given)
    slopes = torch.autograd.grad(y.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"value": y.detach(), **dict(zip(leaves, slopes, strict=True))}


def _edge(spec: Spec, good: float, bad: float, dtype: torch.dtype) -> tuple[float, tuple[str, str]]:
    """The x between a good and a bad one from which on something is wrong, to three digits; and (what, how)."""
    key = ("", "")
    for _ in range(2):
        x = torch.linspace(good, bad, 34, dtype=torch.float64).to(dtype).double()
        wrong = _wrong(spec, x, dtype)
        first = int(torch.stack(list(wrong.values())).any(0).nonzero()[0])
        good, bad = x[max(first - 1, 0)].item(), x[first].item()
        key = next(key for key, there in wrong.items() if there[first])
    return bad, key
