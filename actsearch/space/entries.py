"""Entries: each line of a search space in YAML becomes an entry that proposes specs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actsearch.activations.catalog import CATALOG
from actsearch.activations.spec import (
    Spec,
    canonical_name,
    parse_net,
    parse_value,
    print_net,
)
from actsearch.errors import ActSearchError, unknown
from actsearch.question.recipe import Recipe
from actsearch.space.domains import Choices, Range, Suggester, at_place, product_of
from actsearch.space.grammar import LABEL, Grammar

FIXED_KEYS = ("steps", "eval_every", "precision")  # all runs of a generation have the same rungs and the same precision
EXAMPLE = "Write e.g. search_space.activations=[relu,gelu]."
LONGEST = 60  # characters of an expression in the name of an Optuna parameter; PostgreSQL stores names of up to 512


@dataclass(frozen=True)
class Entry:
    """One line of the search space.

    label: the choice that Optuna stores for it. specs: what it always proposes, or None if it has values to choose
    from: then `name` is the activation, `fixed` its fixed parameters, and `free` the parameters to choose.
    """

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

    def corners(self) -> list[Spec]:
        """Its specs, with parameters at the middle and at the ends of their ranges."""
        if self.specs is not None:
            return list(self.specs)
        ends = itertools.product(*[domain.ends() for _, domain in self.free])
        chosen = [dict(zip([name for name, _ in self.free], values, strict=True)) for values in ends]
        return [*self.middle(), *[Spec.of(self.name, {**dict(self.fixed), **values}) for values in chosen]]

    def all(self) -> Iterator[tuple[Spec, ...]]:
        if self.specs is not None:
            yield self.specs
            return
        for values in product_of(f"search_space.activations: {self.label}", self.free):
            yield (Spec.of(self.name, {**dict(self.fixed), **values}),)


def make_entry(item: Any, where: str) -> Entry | Grammar:
    if isinstance(item, str):
        try:
            specs = parse_net(item)
        except ActSearchError as error:
            raise at_place(where, error) from None
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
            raise at_place(where, error) from None
        if not free:
            return Entry(str(spec), (spec,))
    if not free:
        raise ActSearchError(f"{where}: '{name}' is written with an empty list of parameters. Write only '{name}'.")
    return Entry(_short(name), None, name, tuple(fixed), tuple(free))


def _named_params(item: Any, where: str) -> tuple[str, Mapping[str, Any], str]:
    """The activation that a mapping names, its parameters, and their place for error messages."""
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
        raise at_place(where, error) from None


def _short(name: str) -> str:
    """The name itself or, for a long expression, its beginning and four digits of a hash of all of it."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:4]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 5]}…{digest}"


def _domain(value: Any, where: str, name: str, param: str) -> Any:
    """What a value in YAML means: a Range, Choices, or the value itself."""
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
            raise at_place(where, error) from None
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


def _setting_domain(value: Any, where: str, key: str) -> Range | Choices:
    """The values of a setting. Whole numbers stay whole; a list may hold words and true or false, too."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        wrong = [v for v in value if not isinstance(v, bool | int | float | str)]
        if not value or wrong:
            raise ActSearchError(f"{where}: a list holds numbers or words; got {list(value)}.")
        return Choices(tuple(dict.fromkeys(value)))
    domain = _domain_of(value, where)
    if not isinstance(domain, Range | Choices):
        raise ActSearchError(
            f"{where}: '{value}' is a single value, so there is nothing to search: train.{key}={value}."
        )
    whole = isinstance(value, Mapping) and all(isinstance(value[end], int) for end in ("low", "high"))
    return dataclasses.replace(domain, whole=True) if whole and isinstance(domain, Range) else domain


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


def recipe_domain(
    key: str, value: Any, base: Recipe | Mapping[str, Any], group: str = "search_space.recipe"
) -> Range | Choices:
    """The values of one key of the recipe. base: the recipe with which they must be valid, or the settings of a user's
    own training, whose values may be anything. group: its place in the config, for messages.
    """
    where = f"{group}.{key}"
    if not isinstance(base, Recipe):
        return _setting_domain(value, where, key)
    searchable = [f.name for f in dataclasses.fields(Recipe) if f.name not in FIXED_KEYS]
    if key in FIXED_KEYS:
        raise ActSearchError(f"{where}: '{key}' is the same for all candidates. Set recipe.{key} instead.")
    if key not in searchable:
        raise unknown("recipe value", key, searchable, see=f"(in {where})")
    domain = _domain_of(value, where)
    if not isinstance(domain, Range | Choices):
        raise ActSearchError(
            f"{where}: '{value}' is a single value, so there is nothing to search. Set recipe.{key}={value} instead."
        )
    if key == "batch_size":
        for end in domain.ends():
            if not isinstance(end, float) or end != int(end):
                raise ActSearchError(f"{where}: '{end}' is no whole number. Write e.g. [50, 100].")
        sizes = [int(v) for v in domain.ends()]
        domain = (
            Choices(tuple(sizes)) if isinstance(domain, Choices) else Range(sizes[0], sizes[1], domain.log, whole=True)
        )
    for end in domain.ends():
        try:
            dataclasses.replace(base, **{key: end})
        except ActSearchError as error:
            raise at_place(where, error) from None
        except TypeError:
            raise ActSearchError(f"{where}: '{end}' is no value for recipe.{key}.") from None
    return domain
