"""The search space: it turns YAML into candidates, either by Optuna's suggestions or as the list of all of them.

A candidate is an activation (one spec, or one per slot) with the recipe values that are searched. This file uses Optuna
only through the `trial` that it asks for values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from actsearch.activations.spec import (
    Spec,
    join_layers,
)
from actsearch.errors import ActSearchError, unknown
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate
from actsearch.space.domains import Choices, Range, Suggester, plural, product_of
from actsearch.space.entries import EXAMPLE, Entry, make_entry, recipe_domain
from actsearch.space.grammar import Grammar

SCOPES = ("network", "per_layer")


class SearchSpace:
    """The candidates that may be proposed.

    activations: entries as in conf/search_space (texts and mappings). recipe: the recipe values to search, by name.
    scope: `network` for one choice for the whole net, or `per_layer` for a choice for each of the n_slots slots; None
    where a training of the user's own has them. base: the recipe with which searched values must be valid, or such a
    training's settings. Raises ActSearchError, which names the place of the mistake.
    """

    def __init__(
        self,
        activations: Sequence[Any],
        recipe: Mapping[str, Any] | None = None,
        scope: str = "network",
        *,
        n_slots: int | None,
        base: Recipe | Mapping[str, Any],
    ) -> None:
        if scope not in SCOPES:
            raise unknown("search_space.scope", scope, SCOPES)
        if isinstance(activations, str) or not isinstance(activations, Sequence):
            raise ActSearchError(f"search_space.activations is '{activations}', not a list. {EXAMPLE}")
        if not activations:
            raise ActSearchError(f"search_space.activations is empty: there is nothing to search. {EXAMPLE}")
        self.scope, self.n_slots, self.base = scope, n_slots or 1, base
        self.entries = [make_entry(item, f"search_space.activations[{i}]") for i, item in enumerate(activations)]
        labels = [entry.label for entry in self.entries]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise ActSearchError(f"search_space.activations[{i}]: '{label}' occurs twice. Remove one.")
            layers = len(self.entries[i].specs or ())
            if layers > 1 and scope == "per_layer":
                raise ActSearchError(
                    f"search_space.activations[{i}]: '{label}' already names a spec for each layer. Use "
                    "search_space.scope=network."
                )
            if layers > 1 and n_slots is not None and layers != n_slots:
                raise ActSearchError(
                    f"search_space.activations[{i}]: '{label}' names {layers} layers, but the model takes {n_slots} "
                    "activations. Write one for each, or a single one for all."
                )
        if recipe is not None and not isinstance(recipe, Mapping):
            raise ActSearchError(f"search_space.recipe is '{recipe}', not a mapping. Write e.g. {{lr: [0.003, 0.01]}}.")
        self.recipe = tuple((str(key), recipe_domain(str(key), value, base)) for key, value in (recipe or {}).items())

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
        """The choices that trial `number` must make: the first ones try each entry once, if there are enough trials."""
        if number >= len(self.entries) or n_trials < len(self.entries):
            return {}
        label = self.entries[number].label
        slots = [f"layer{i}." for i in range(self.n_slots)] if self.scope == "per_layer" else [""]
        return {f"{slot}activation": label for slot in slots}

    @property
    def is_list(self) -> bool:
        """Whether it is a list of specs, without ranges, choices, grammars and recipe values."""
        return not self.recipe and all(isinstance(entry, Entry) and entry.specs for entry in self.entries)

    def typical(self) -> list[Candidate]:
        """One candidate of each entry, with its parameters at the middle of their ranges."""
        return [Candidate(entry.middle()) for entry in self.entries]

    def corners(self) -> list[Spec]:
        """The specs that are known before the search, with parameters at the middle and the ends of their ranges."""
        return [spec for entry in self.entries for spec in entry.corners()]

    def nets(self) -> list[Candidate]:
        """All activations, without recipe values. Raises ActSearchError if a range makes them too many to list."""
        nets = [specs for entry in self.entries for specs in entry.all()]
        if self.scope == "per_layer":
            nets = [join_layers([n[0] for n in layers]) for layers in itertools.product(nets, repeat=self.n_slots)]
        return [Candidate(specs) for specs in dict.fromkeys(nets)]

    def enumerate(self) -> list[Candidate]:
        """All activations with all recipe values. Raises ActSearchError if a range makes them too many to list."""
        recipes = [tuple(values.items()) for values in product_of("search_space.recipe", self.recipe)]
        return [Candidate(net.specs, recipe) for net in self.nets() for recipe in recipes]

    def searched(self, key: str) -> list[Any]:
        """The ends of the range, or the values of the list, of a recipe value; nothing if it is not searched."""
        return dict(self.recipe)[key].ends() if key in dict(self.recipe) else []

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
