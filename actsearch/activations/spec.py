"""Spec: an activation whose parameters are settled. It is parsed from a text and prints to the same text everywhere.

    leaky_relu(negative_slope=0.02)    silu(beta=learned)    gelu(approximate=tanh)    relu | gelu | tanh
    x * tanh(softplus(x))    min(max(a * x, x), 6)(a=0.02)    my_file.my_function(alpha=0.1)

A parameter at its default is left out of the text (except those that are `quoted`), so equal specs print
equally and the text can serve as the key in Optuna, MLflow and CSV files.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from actsearch.activations.activation import Activation, Param
from actsearch.activations.catalog import ALIASES, CATALOG
from actsearch.activations.expression import (
    EXAMPLES,
    FUNCTIONS,
    activation,
    column_of,
    entry_for,
    head,
    parse,
    read,
    refuse,
)
from actsearch.activations.imported import forget_replaced, imported, is_path, kept
from actsearch.activations.library import name_in_catalogue
from actsearch.activations.numerics import HALF
from actsearch.activations.tree import number
from actsearch.errors import ActSearchError, nearest, one_line, unknown


@dataclass(frozen=True)
class Learned:
    """A parameter trained with the weights, from `init`."""

    init: float

    def __str__(self) -> str:
        return f"learned({number(self.init)})"


ParamValue = float | str | Learned


@dataclass(frozen=True)
class Spec:
    """An activation whose parameters are settled.

    name: a key of CATALOG, an expression in its canonical form, or the import path of a user's function.
    values: one for each parameter of the entry, in the entry's order.
    """

    name: str
    values: tuple[ParamValue, ...]

    @classmethod
    def of(cls, name: str, params: Mapping[str, ParamValue] | None = None) -> Spec:
        """A spec from a name, an expression or an import path, and some parameters; the others take their defaults.

        An expression that is just one of the catalogue's functions of x becomes that entry.
        Raises ActSearchError for an unknown activation or parameter, or a value with which the function does not work.
        """
        name, params = _named(known_as(name), params or {})
        entry = resolve(name)
        for given in params:
            if entry.param(given) is None:
                if not entry.params:
                    raise ActSearchError(f"'{name}' takes no parameter, but '{given}' is given. Write '{name}'.")
                raise unknown(f"parameter of '{name}'", given, [p.name for p in entry.params])
        return cls(name, tuple(_settle(entry, p, params.get(p.name)) for p in entry.params))._checked()

    @classmethod
    def parse(cls, text: str) -> Spec:
        """One spec from its text. Raises ActSearchError with what is wrong in it and what to write."""
        forget_replaced()
        return _parse(text)

    def __str__(self) -> str:
        shown = [
            f"{param.name}={_text(param, value)}"
            for param, value in zip(self.activation.params, self.values, strict=True)
            if param.quoted or value != _default(param)
        ]
        if not shown:
            return self.name
        written = self.name in CATALOG or is_path(self.name)
        return f"{self.name if written else head(parse(self.name))}({', '.join(shown)})"

    @property
    def activation(self) -> Activation:
        return resolve(self.name)

    @property
    def params(self) -> dict[str, ParamValue]:
        return {p.name: v for p, v in zip(self.activation.params, self.values, strict=True)}

    def __call__(self, x: Tensor) -> Tensor:
        """Applies the function to x, with learned parameters at their initial values.

        x: any shape if the activation is elementwise, else (N, C, …). Raises ActSearchError if the activation has
        weights of its own.
        """
        if self.activation.kind == "weighted":
            raise ActSearchError(f"'{self}' has weights of its own. Make a module of it: get_activation('{self}', 64).")
        start = {k: v.init if isinstance(v, Learned) else v for k, v in self.params.items()}
        return self.activation.fn(x, **start)

    def module(self, channels: int | None = None, dim: int = 1) -> ActivationModule:
        """A module of this spec.

        channels: the number of output channels, in dimension dim (1, or -1 for (N, …, C)). Learned parameters get one
        value for each channel; if channels is None, one value for all.
        """
        return ActivationModule(self, channels, dim)

    def _checked(self) -> Spec:
        """Refuses values with which the function raises, or is not finite on ordinary inputs, such as celu(alpha=0)."""
        if self.activation.kind == "weighted":
            for name, value in self.params.items():
                if isinstance(value, Learned):
                    raise ActSearchError(f"'{self}': '{name}' is given to a class, which learns parameters of its own.")
            if self.activation.family == "own":
                gain(self)
            return self
        x = (torch.arange(-30, 30) / 10).view(1, -1)
        try:
            y = self(x)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            raise ActSearchError(f"'{self}' does not work: {one_line(error)}") from None
        if not torch.isfinite(y).all():
            raise self._not_finite(x, y)
        return self if self.name in CATALOG else self._trainable()

    def _not_finite(self, x: Tensor, y: Tensor) -> ActSearchError:
        cure = "Choose another value." if self.values else "Change it: for log(x) write e.g. log(1 + abs(x))."
        place = ""
        if y.shape == x.shape:
            bad = zip(x[~y.isfinite()].tolist(), y[~y.isfinite()].tolist(), strict=True)
            at, value = min(bad, key=lambda pair: abs(pair[0]))
            place = f": it is {number(value)} at x = {number(round(at, 6))}"
            if not self.values and at == 0 and math.isnan(value) and not is_path(self.name):
                cure = f"Give it a value there: where(x == 0, 1, {self.name})."
        return ActSearchError(f"'{self}' is not finite between -3 and 3{place}. {cure}")

    def _trainable(self) -> Spec:
        """Refuses faults that no catalogue entry has: overflow, slopes of 0 or NaN, impossible parameter names."""
        x = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64).view(1, -1).requires_grad_()
        y = self(x)
        near = x.abs() <= 3  # x = 0 is among them: padding and dead units give it
        if not torch.isfinite(y[near]).all():
            raise self._not_finite(x[near], y[near])
        if torch.isinf(y.square()).any():  # else the gain would be 0
            raise ActSearchError(f"'{self}' is too large between -8 and 8. Bound it, or choose another value.")
        learned = [k for k, v in self.params.items() if isinstance(v, Learned)]
        slopes = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else None
        if slopes is None or (not learned and bool((slopes == 0).all())):
            raise ActSearchError(f"'{self}' has no slope between -8 and 8: nothing can be learned through it.")
        broken = x[slopes.isnan() & (x.abs() <= 3)].tolist()
        if len(broken) > 1:  # a single point is allowed: a root such as sqrt(abs(x)) has one
            cure = "Keep roots and quotients away from 0: write e.g. sqrt(max(x, 0))"
            if is_path(self.name):
                cure = "torch.where also propagates a NaN gradient of the branch not selected. " + cure
            raise ActSearchError(f"'{self}' has no slope at x = {number(broken[0])}, where that is NaN. {cure}.")
        for name in learned:  # a module may already have an attribute of that name
            try:
                free = isinstance(getattr(self.module(2), name), nn.Parameter)
            except (KeyError, TypeError):
                free = False
            if not free:
                raise ActSearchError(f"'{self}': '{name}' cannot be learned under that name. Rename it.")
        return self


class ActivationModule(nn.Module):
    """A spec as a module. Learned parameters are `nn.Parameter`s of shape (channels,), or () if all channels share one.

    The input is (N, C) or (N, C, …) with the channels in dimension 1, as in torch.nn.PReLU; with dim=-1 they are the
    last dimension, as behind a linear layer on tokens. in_channels: the number of input channels that `channels` output
    channels need. place: the index of its slot in a network.
    Raises ActSearchError for a number of channels that the spec cannot give.
    """

    place = 0

    def __init__(self, spec: Spec, channels: int | None = None, dim: int = 1) -> None:
        super().__init__()
        entry = spec.activation
        self.spec, self.dim = spec, dim
        self.fixed: dict[str, Any] = {}
        self.learned: list[str] = []
        for param in entry.params:
            value = spec.params[param.name]
            if isinstance(value, Learned):
                self.learned.append(param.name)
                shape = () if channels is None or param.shared else (channels,)
                self.register_parameter(param.name, nn.Parameter(torch.full(shape, value.init)))
            else:
                self.fixed[param.name] = value
        self.in_channels = channels
        if channels is not None and entry.width is not None:
            wanted = channels * entry.width(**self.fixed)
            if wanted != int(wanted):
                raise ActSearchError(f"'{spec}' cannot give {channels} channels. Choose an even width.")
            self.in_channels = int(wanted)
        self.weighted: nn.Module | None = None
        if entry.kind == "weighted":
            if channels is None and entry.family != "own":
                raise ActSearchError(f"'{spec}' has weights for each channel, but the number of channels is not given.")
            self.weighted = entry.fn(channels, dim, **self.fixed)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> nn.Module:
        """Converts the module; a learned parameter too large for half precision becomes its largest number, not inf."""
        made = super()._apply(fn, recurse)
        for param in (getattr(self, name) for name in self.learned):
            if param.dtype in HALF:
                largest = torch.finfo(param.dtype).max
                param.data.clamp_(-largest, largest)
        return made

    def forward(self, x: Tensor) -> Tensor:
        if self.weighted is not None:
            return self.weighted(x)
        entry = self.spec.activation
        keywords: dict[str, Any] = {name: self._broadcast(getattr(self, name), x.dim()) for name in self.learned}
        if entry.kind == "channelwise":
            keywords["dim"] = self.dim
        elif entry.kind == "stochastic":
            keywords["training"] = self.training
        return entry.fn(x, **self.fixed, **keywords)

    def _broadcast(self, param: Tensor, dims: int) -> Tensor:
        return param.view(-1, *[1] * (dims - 2)) if param.dim() and dims > 2 and self.dim == 1 else param

    def extra_repr(self) -> str:
        return str(self.spec)


def get_activation(text: str, channels: int | None = None, dim: int = 1) -> ActivationModule:
    """A module from a spec's text: `get_activation("leaky_relu6(negative_slope=0.02)")`. For channels and dim see
    `Spec.module`.
    """
    return Spec.parse(text).module(channels, dim)


def canonical_name(text: str) -> str:
    """The name that a spec of this text would have: the entry's name, or the canonical text of an expression.

    Names are not looked up. Raises ActSearchError if the text is neither a name nor an expression.
    """
    text = known_as(text)
    return text if text.isidentifier() or is_path(text) else parse(text).text


def known_as(name: str) -> str:
    """The catalogue's name of an alias, or of a path in torch that names the same: torch.nn.SELU is selu."""
    return ALIASES.get(name) or name_in_catalogue(name) or name


def parse_value(text: str) -> ParamValue:
    """The value of a parameter from its text in a spec: 0.02, tanh, learned, learned(0.5)."""
    return _value(read(text), lambda node, why: refuse(text, node.col_offset + 1, why))


def parse_net(text: str) -> tuple[Spec, ...]:
    """One spec for a whole network, or one for each slot: "relu | gelu". If all are equal, they become one."""
    return join_layers([Spec.parse(part) for part in text.split("|")])


def print_net(specs: Sequence[Spec]) -> str:
    return " | ".join(str(spec) for spec in specs)


def join_layers(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """(relu, relu, relu) is the same net as (relu,): one text for one net."""
    return (specs[0],) if len(set(specs)) == 1 else tuple(specs)


@kept(4096)
def gain(spec: Spec) -> float:
    """The factor g with which weights drawn from N(0, g²/fan_in) behind this activation keep the mean square at 1.

    g = 1 / sqrt(E[f(z)²]) for z ~ N(0, 1); He et al. 2015 derive sqrt(2) for ReLU. It is computed numerically: on
    100,001 points over ±8 if an output depends on one input, else from 256,000 seeded draws shaped as 8 × 8 images.
    """
    if spec.activation.kind in ("elementwise", "stochastic"):
        z = torch.linspace(-8.0, 8.0, 100_001, dtype=torch.float64).view(1, -1)
        weight = torch.exp(-z.square() / 2)
        second_moment = ((spec(z).square() * weight).sum() / weight.sum()).item()
    else:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)  # seeds the activation's own weights too
            _, y = on_normal(spec.module(60).double())
            second_moment = y.square().mean().item()
    return 1.0 / math.sqrt(second_moment) if second_moment > 0 else 1.0


def on_normal(module: ActivationModule) -> tuple[Tensor, Tensor]:
    """Normal inputs of 60 channels, and the module's outputs: 8 × 8 images or, if it takes none, sequences or vectors.

    module: in float64. Raises ActSearchError if it takes none of them.
    """
    n, why = module.in_channels or 60, ""
    for shape in ((64, n, 8, 8), (512, n, 8), (4096, n)):
        z = torch.randn(shape).double().requires_grad_(torch.is_grad_enabled())
        try:
            return z, module(z)
        except Exception as error:  # whatever a user's module raises
            why = one_line(error)
    raise ActSearchError(f"'{module.spec}' must work on any number of channels, but on {n} it does not: {why}")


def resolve(name: str) -> Activation:
    """The entry for a spec's name: from the catalogue, from a user's function, or made from the expression."""
    return CATALOG[name] if name in CATALOG else _made(name)


@kept(4096)
def _made(name: str) -> Activation:
    return imported(name) if is_path(name) else activation(parse(name))


def _named(name: str, params: Mapping[str, ParamValue]) -> tuple[str, Mapping[str, ParamValue]]:
    """A spec's name, and its parameters. If an expression is just a catalogue function, both become the entry's."""
    if name in CATALOG or is_path(name):
        return name, params
    if name.isidentifier() and name != "x":
        see = f"'actsearch task=list' shows all {len(CATALOG)}."
        if name in FUNCTIONS:
            raise ActSearchError(f"unknown activation '{name}'. It is a function for expressions: write {name}(x).")
        raise unknown("activation", name, [*CATALOG, *ALIASES], see=see)
    made = parse(name)
    missing = [param for param in made.parameters if params.get(param) is None]
    if missing:
        near = nearest(missing[0], FUNCTIONS, cutoff=0.6) if len(missing[0]) > 2 else None
        meant = f" Did you mean the function '{near}'?" if near is not None else ""
        cure = f"Write {head(made)}({', '.join(f'{param}=0.5' for param in made.parameters)})."
        refuse(name, column_of(missing[0], name), f"'{missing[0]}' has no value. {cure}{meant}")
    if set(params) <= set(made.parameters) and (found := entry_for(made, params)):
        return found
    return made.text, params


def _default(param: Param) -> ParamValue:
    return Learned(float(param.default)) if param.learned else param.default


def _text(param: Param, value: ParamValue) -> str:
    if isinstance(value, Learned):
        return "learned" if value.init == param.default else str(value)
    return _word(value)


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)


def _settle(entry: Activation, param: Param, value: object) -> ParamValue:
    where = f"{entry.name}({param.name}={value})"
    if value is None:
        return _default(param)
    if param.choices:
        if value not in param.choices:
            raise unknown(f"value of '{param.name}' in {where}:", value, [_word(choice) for choice in param.choices])
        return next(choice for choice in param.choices if choice == value)
    if value == "learned":
        if param.default != param.default:  # NaN: parameters of an expression have no default
            raise ActSearchError(f"{where}: training needs a start value. Write {param.name}=learned(0.5).")
        return Learned(float(param.default))
    start = value.init if isinstance(value, Learned) else value
    try:
        settled = float(start) if isinstance(start, int | float) and not isinstance(start, bool) else math.nan
    except OverflowError:  # an int beyond float's range
        settled = math.nan
    if not math.isfinite(settled):
        cure = f"{param.default} or learned" if param.default == param.default else "0.5 or learned(0.5)"
        raise ActSearchError(f"{where}: '{value}' is no finite number. Write {param.name}={cure}.")
    if param.least is not None and settled < param.least:
        raise ActSearchError(
            f"{where}: '{param.name}' has no meaning below {number(param.least)}. Write {param.name}={param.default}."
        )
    settled += 0.0  # -0.0 becomes 0.0: equal specs print equally
    return Learned(settled) if isinstance(value, Learned) else settled


@kept(4096)
def _parse(text: str) -> Spec:
    node = read(text, times=2)  # twice the limits: an expression and the values of its parameters

    def wrong(at: ast.expr, why: str) -> NoReturn:
        refuse(text, at.col_offset + 1, f"{why}. {EXAMPLES}")

    if not isinstance(node, ast.Call):
        return Spec.of(text.strip())
    name = text[node.func.col_offset : node.func.end_col_offset]
    if node.args:
        names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
        if known_as(name) in CATALOG and "x" not in names:
            wrong(node.args[0], "parameters go by name")
        return Spec.of(text.strip())
    params: dict[str, ParamValue] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            wrong(keyword.value, "parameters go by name")
        if keyword.arg in params:
            wrong(keyword.value, f"'{keyword.arg}' is given twice")
        params[keyword.arg] = _value(keyword.value, wrong)
    return Spec.of(name, params)


def _value(node: ast.expr, wrong: Callable[[ast.expr, str], NoReturn]) -> ParamValue:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "learned":
        if len(node.args) == 1 and not node.keywords:
            init = _value(node.args[0], wrong)
            if isinstance(init, float):
                return Learned(init)
        wrong(node, "'learned' takes one number, the value at which training starts")
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        wrong(node, f"'{ast.unparse(node)}' is not a number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            wrong(node, f"'{ast.unparse(node)}' is too large")
    if isinstance(value, str):
        return value
    wrong(node, f"'{ast.unparse(node)}' is not a number")
