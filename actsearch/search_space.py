"""Which candidates may be proposed: from YAML to Optuna's suggestions, or to the list of all of them.

A candidate is an activation (one spec, or one per layer) with the recipe values that are searched. Knows
Optuna only as the `trial` that it asks for values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actsearch.activations.catalog import CATALOG
from actsearch.activations.fingerprint import net_fingerprint
from actsearch.activations.spec import (
    Learned,
    Spec,
    canonical_name,
    join_layers,
    number,
    parse_net,
    parse_value,
    print_net,
)
from actsearch.errors import ActSearchError, unknown
from actsearch.grammar import LABEL, Grammar
from actsearch.recipe import Recipe

SCOPES = ("network", "per_layer")
FIXED_KEYS = ("steps", "eval_every", "precision")  # the runs of a generation meet at the same rungs, on one machine
EXAMPLE = "Write e.g. search_space.activations=[relu,gelu]."
LONGEST = 60  # characters of an expression in the names of Optuna's parameters, of which PostgreSQL keeps 512


class Suggester(Protocol):
    """What is used of optuna.Trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True)
class Candidate:
    """specs: one for the net, or one per layer. recipe: the searched values, by name."""

    specs: tuple[Spec, ...]
    recipe: tuple[tuple[str, Any], ...] = ()

    @property
    def activation(self) -> str:
        return print_net(self.specs)

    @property
    def key(self) -> tuple[str, str]:
        return candidate_key(self.activation, dict(self.recipe))

    @property
    def training_key(self) -> tuple[str, str]:
        return training_key(self.activation, dict(self.recipe))

    def __str__(self) -> str:
        values = [f"{k}={number(v) if isinstance(v, float) else v}" for k, v in self.recipe]
        return self.activation + (f"  [{', '.join(values)}]" if values else "")

    def recipe_for(self, recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, **dict(self.recipe))


def candidate_key(activation: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """What a candidate is called, wherever it is stored."""
    return activation, json.dumps(recipe, sort_keys=True)


def training_key(activation: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two candidates the same training: equal functions, whatever they are called."""
    return net_fingerprint(activation), json.dumps(recipe, sort_keys=True)


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Suggester, name: str) -> float:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return four_digits(trial.suggest_float(name, self.low, self.high, log=self.log))

    def at(self, u: float) -> float:
        """The value at u in [0, 1], linearly or logarithmically."""
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return round(value) if self.whole else four_digits(value)

    def ends(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Choices:
    values: tuple[Any, ...]

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def at(self, u: float) -> Any:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def ends(self) -> list[Any]:
        return list(self.values)


@dataclass(frozen=True)
class Entry:
    """One line of the search space. label: Optuna's choice for it. specs: fixed, or None if it has choices."""

    label: str
    specs: tuple[Spec, ...] | None
    name: str = ""
    fixed: tuple[tuple[str, Any], ...] = ()
    free: tuple[tuple[str, Range | Choices], ...] = ()

    def suggest(self, trial: Suggester, prefix: str) -> tuple[Spec, ...]:
        if self.specs is not None:
            return self.specs
        chosen = {param: domain.suggest(trial, f"{prefix}{self.label}.{param}") for param, domain in self.free}
        return (Spec.of(self.name, {**dict(self.fixed), **chosen}),)

    def middle(self) -> tuple[Spec, ...]:
        chosen = {param: domain.at(0.5) for param, domain in self.free}
        return self.specs or (Spec.of(self.name, {**dict(self.fixed), **chosen}),)

    def all(self) -> Iterator[tuple[Spec, ...]]:
        if self.specs is not None:
            yield self.specs
            return
        for values in _product(f"search_space.activations: {self.label}", self.free):
            yield (Spec.of(self.name, {**dict(self.fixed), **values}),)


class SearchSpace:
    """activations: entries as in conf/search_space (texts and mappings). recipe: recipe values to search.

    scope: `network`, one choice for the whole net, or `per_layer`, a choice for each of n_slots layers.
    Raises ActSearchError with the place of what is wrong.
    """

    def __init__(
        self,
        activations: Sequence[Any],
        recipe: Mapping[str, Any] | None = None,
        scope: str = "network",
        *,
        n_slots: int,
        base: Recipe,
    ) -> None:
        if scope not in SCOPES:
            raise unknown("search_space.scope", scope, SCOPES)
        if isinstance(activations, str) or not isinstance(activations, Sequence):
            raise ActSearchError(f"search_space.activations is '{activations}', not a list. {EXAMPLE}")
        if not activations:
            raise ActSearchError(f"search_space.activations is empty: there is nothing to search. {EXAMPLE}")
        self.scope, self.n_slots = scope, n_slots
        self.entries = [_entry(item, f"search_space.activations[{i}]") for i, item in enumerate(activations)]
        labels = [entry.label for entry in self.entries]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise ActSearchError(f"search_space.activations[{i}]: '{label}' stands there twice. Remove one.")
            layers = len(self.entries[i].specs or ())
            if layers > 1 and scope == "per_layer":
                raise ActSearchError(
                    f"search_space.activations[{i}]: '{label}' names layers already. Use search_space.scope=network."
                )
            if layers > 1 and layers != n_slots:
                raise ActSearchError(
                    f"search_space.activations[{i}]: '{label}' names {layers} layers, but the model takes {n_slots} "
                    "activations. Write one for each, or a single one for all."
                )
        if recipe is not None and not isinstance(recipe, Mapping):
            raise ActSearchError(f"search_space.recipe is '{recipe}', not a mapping. Write e.g. {{lr: [0.003, 0.01]}}.")
        self.recipe = tuple((str(key), _recipe_domain(str(key), value, base)) for key, value in (recipe or {}).items())

    def suggest(self, trial: Suggester) -> Candidate:
        """The candidate that a trial proposes."""
        by_label = {entry.label: entry for entry in self.entries}

        def choose(prefix: str) -> tuple[Spec, ...]:
            label = trial.suggest_categorical(f"{prefix}activation", tuple(by_label))
            return by_label[label].suggest(trial, prefix)

        if self.scope == "network":
            specs = choose("")
        else:
            specs = join_layers([choose(f"layer{i}.")[0] for i in range(self.n_slots)])
        return Candidate(specs, tuple((key, domain.suggest(trial, f"recipe.{key}")) for key, domain in self.recipe))

    def opening(self, number: int, n_trials: int) -> dict[str, str]:
        """What trial `number` must choose: the first trials try every activation once, if there are trials enough."""
        if number >= len(self.entries) or n_trials < len(self.entries):
            return {}
        label = self.entries[number].label
        slots = [f"layer{i}." for i in range(self.n_slots)] if self.scope == "per_layer" else [""]
        return {f"{slot}activation": label for slot in slots}

    def typical(self) -> list[Candidate]:
        """One of each entry, at the middle of its ranges."""
        return [Candidate(entry.middle()) for entry in self.entries]

    def nets(self) -> list[Candidate]:
        """All activations, without recipe values. Raises ActSearchError if a range makes them endless."""
        nets = [specs for entry in self.entries for specs in entry.all()]
        if self.scope == "per_layer":
            nets = [join_layers([n[0] for n in layers]) for layers in itertools.product(nets, repeat=self.n_slots)]
        return [Candidate(specs) for specs in dict.fromkeys(nets)]

    def enumerate(self) -> list[Candidate]:
        """All candidates with all recipe values. Raises ActSearchError if a range makes them endless."""
        recipes = [tuple(values.items()) for values in _product("search_space.recipe", self.recipe)]
        return [Candidate(net.specs, recipe) for net in self.nets() for recipe in recipes]

    def recipe_points(self, n: int) -> list[tuple[tuple[str, Any], ...]]:
        """n points spread over the searched recipe values, the same for every spec: its tuning grid."""
        dims = len(self.recipe)
        if dims == 0:
            return [()]
        if dims == 1:
            units = [[(i + 0.5) / n] for i in range(n)]
        else:
            from scipy.stats import qmc

            units = qmc.Halton(dims, rng=0).random(n).tolist()
        points = [tuple((key, domain.at(u)) for (key, domain), u in zip(self.recipe, us, strict=True)) for us in units]
        return list(dict.fromkeys(points))

    def __str__(self) -> str:
        ranges = sum(isinstance(d, Range) for entry in self.entries for _, d in entry.free)
        choices = sum(isinstance(d, Choices) for entry in self.entries for _, d in entry.free)
        grammars = [entry for entry in self.entries if isinstance(entry, Grammar)]
        text = plural(len(self.entries) - len(grammars), "activation")
        text += "".join(f", {grammar}" for grammar in grammars)
        text += f", {plural(ranges, 'range')}" * bool(ranges)
        text += f", {plural(choices, 'list')} of values" * bool(choices)
        if self.scope == "per_layer":
            text += f", for each of {self.n_slots} layers"
        if self.recipe:
            text += f"; recipe: {', '.join(key for key, _ in self.recipe)}"
        return text


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def four_digits(value: float) -> float:
    """Searched values are rounded, so that a spec's text says exactly what was trained."""
    return float(f"{value:.4g}")


def _product(where: str, domains: Sequence[tuple[str, Range | Choices]]) -> Iterator[dict[str, Any]]:
    for key, domain in domains:
        if isinstance(domain, Range):
            raise ActSearchError(
                f"{where}: '{key}' is a range from {number(domain.low)} to {number(domain.high)}, which has no end of "
                f"values to try them all. Write a list, e.g. [{number(domain.low)}, {number(domain.high)}], or use "
                "sampler=tpe."
            )
    keys = [key for key, _ in domains]
    for values in itertools.product(*[domain.values for _, domain in domains if isinstance(domain, Choices)]):
        yield dict(zip(keys, values, strict=True))


def _at(where: str, error: ActSearchError) -> ActSearchError:
    return ActSearchError(f"{where}: {error}")


def _entry(item: Any, where: str) -> Entry | Grammar:
    if isinstance(item, str):
        try:
            specs = parse_net(item)
        except ActSearchError as error:
            raise _at(where, error) from None
        return Entry(print_net(specs), specs)
    if isinstance(item, Mapping) and set(item) == {LABEL}:
        return Grammar.of({} if item[LABEL] is None else item[LABEL], f"{where}.{LABEL}")
    name, params, inside = _named_params(item, where)
    fixed, free = [], []
    for param, value in params.items():
        domain = _domain(value, f"{inside}.{param}", name, str(param))
        (free if isinstance(domain, Range | Choices) else fixed).append((str(param), domain))
    for ends in itertools.product(*[domain.ends() for _, domain in free]):
        try:
            spec = Spec.of(name, {**dict(fixed), **{key: end for (key, _), end in zip(free, ends, strict=True)}})
        except ActSearchError as error:
            raise _at(where, error) from None
        if not free:
            return Entry(str(spec), (spec,))
    if not free:
        raise ActSearchError(f"{where}: '{name}' has no parameters there. Write only '{name}'.")
    return Entry(_short(name), None, name, tuple(fixed), tuple(free))


def _named_params(item: Any, where: str) -> tuple[str, Mapping[str, Any], str]:
    """What a mapping names, its parameters, and the place where they stand."""
    if isinstance(item, Mapping) and "expression" in item:
        name, params, inside = item["expression"], item.get("params") or {}, f"{where}.params"
        if set(item) - {"expression", "params"} or not isinstance(name, str) or not isinstance(params, Mapping):
            raise ActSearchError(
                f"{where}: cannot read {dict(item)}. Write {{expression: 'max(a * x, x)', params: {{a: [0.1, 0.2]}}}}."
            )
    elif isinstance(item, Mapping) and len(item) == 1:
        name, params = next(iter(item.items()))
        inside = f"{where}.{name}"
        if not isinstance(params, Mapping):
            raise ActSearchError(f"{where}: '{name}' needs its parameters as a mapping, e.g. {{alpha: [0.5, 1]}}.")
    else:
        raise ActSearchError(
            f"{where}: cannot read {item!r}. Write a text like leaky_relu(negative_slope=0.02), or one name with "
            "its parameters: {elu: {alpha: [0.5, 1]}}."
        )
    try:
        return canonical_name(str(name)), params, inside
    except ActSearchError as error:
        raise _at(where, error) from None


def _short(name: str) -> str:
    """The name itself, or, of a long expression, its beginning with four digits of all of it."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:4]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 5]}…{digest}"


def _domain(value: Any, where: str, name: str, param: str) -> Any:
    """A Range, Choices, or the value itself."""
    if isinstance(value, str) and value == "search":
        known = CATALOG[name].param(param) if name in CATALOG else None
        if known is None or (known.low is None and not known.choices):
            raise ActSearchError(f"{where}: the catalogue has no range for it. Write {{low: …, high: …}} or a list.")
        if known.choices:
            return Choices(known.choices)
        return Range(float(known.low or 0.0), float(known.high or 0.0), known.log)
    if isinstance(value, str) and value.startswith("learned("):
        try:
            return parse_value(value)
        except ActSearchError as error:
            raise _at(where, error) from None
    return _domain_of(value, where)


def _domain_of(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        extra = set(value) - {"low", "high", "log"}
        if extra or not {"low", "high"} <= set(value):
            raise ActSearchError(f"{where}: a range is {{low: 0.01, high: 0.5, log: true}}; got {dict(value)}.")
        return _range(value["low"], value["high"], value.get("log", False), where)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ActSearchError(f"{where}: the list is empty. Name at least one value.")
        if any(isinstance(v, bool) for v in value):
            raise ActSearchError(f"{where}: {list(value)} are no numbers. Write e.g. [0.01, 0.02].")
        if any(isinstance(v, Mapping | list) for v in value):
            raise ActSearchError(f"{where}: a list holds values, not further lists or ranges; got {list(value)}.")
        return Choices(tuple(dict.fromkeys(float(v) if isinstance(v, int) else v for v in value)))
    return value


def _range(low: Any, high: Any, log: Any, where: str) -> Range:
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ActSearchError(f"{where}: '{bound}' is no number. Write e.g. {{low: 0.01, high: 0.5}}.")
    if not isinstance(log, bool):
        raise ActSearchError(f"{where}: log is '{log}'. Write true or false.")
    if low >= high:
        raise ActSearchError(f"{where}: low={low} is not below high={high}. Exchange them, or write one value.")
    if log and low <= 0:
        raise ActSearchError(f"{where}: a log range cannot start at {low}. Write log: false, or a low above 0.")
    return Range(float(low), float(high), log)


def _recipe_domain(key: str, value: Any, base: Recipe) -> Range | Choices:
    where = f"search_space.recipe.{key}"
    searchable = [f.name for f in dataclasses.fields(Recipe) if f.name not in FIXED_KEYS]
    if key in FIXED_KEYS:
        raise ActSearchError(f"{where}: '{key}' is the same for all candidates. Set recipe.{key} instead.")
    if key not in searchable:
        raise unknown("recipe value", key, searchable, see=f"(in {where})")
    domain = _domain_of(value, where)
    if not isinstance(domain, Range | Choices):
        raise ActSearchError(f"{where}: '{value}' is one value, nothing to search. Set recipe.{key}={value} instead.")
    if key == "batch_size":
        for end in domain.ends():
            if not isinstance(end, float) or end != int(end):
                raise ActSearchError(f"{where}: '{end}' is no whole number. Write e.g. [50, 100].")
        whole = [int(v) for v in domain.ends()]
        domain = Choices(tuple(whole)) if isinstance(domain, Choices) else dataclasses.replace(domain, whole=True)
    for end in domain.ends():
        try:
            dataclasses.replace(base, **{key: end})
        except ActSearchError as error:
            raise _at(where, error) from None
        except TypeError:
            raise ActSearchError(f"{where}: '{end}' is no value for recipe.{key}.") from None
    return domain


__all__ = ["Candidate", "Choices", "Entry", "Learned", "Range", "SearchSpace"]
