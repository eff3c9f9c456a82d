"""Tuning: each finalist and the baseline get the recipe values that suit them best, out of one and the same grid.

A recipe that was chosen with one activation in mind favours it and its like, by more than activations differ. So what
is compared is each activation at its best: learning rate × weight decay on the search's seeds and validation examples,
by the metric that the verdict is about.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from actsearch.activations.spec import Spec, print_net
from actsearch.errors import ActSearchError
from actsearch.question.metrics import Metric
from actsearch.question.options import FRESH_SEED, TO_TARGET, Confirmation
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate, Curves, Event, GenerationStarted, TrialRecord
from actsearch.space.domains import Choices, Range, four_digits
from actsearch.space.entries import recipe_domain
from actsearch.space.space import SearchSpace
from actsearch.study.generation import Training
from actsearch.study.store import Results
from actsearch.verdicts.comparison import steps_to
from actsearch.verdicts.statistics import mean, std

RATES = (0.5, 1.0, 2.0, 4.0)  # multiples of recipe.lr
DECAYS = (1e-4, 1e-3, 1e-2)  # beside recipe.weight_decay
ADAMW_DECAYS = (0.1, 0.3, 1.0)  # AdamW subtracts it from the weights, beside the gradient's step, and so it is larger
STEP = {"lr": 2.0, "weight_decay": 3.0}  # the factor by which the grid goes on where the best lies at its edge
MOST_STEPS = 4  # beyond each edge
SHORTLIST, TIMES = 4, 5  # the best 4 are tried on 5 times as many seeds
CLEARLY = 1.5  # standard errors of a paired difference
OF_RANGE = 6  # values of a range that are tried
MOST_POINTS = 500
NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Axis:
    """The values of one key that are tried, in order. below, above: how many more may follow beyond each end."""

    key: str
    values: tuple[Any, ...]
    below: int = 0
    above: int = 0

    def beyond(self, best: Any) -> Axis | None:
        """This axis with one value more, if the best lies at an end beyond which it may go on."""
        if best == self.values[0] and self.below:
            return replace(self, values=(four_digits(best / STEP[self.key]), *self.values), below=self.below - 1)
        if best == self.values[-1] and self.above:
            return replace(self, values=(*self.values, four_digits(best * STEP[self.key])), above=self.above - 1)
        return None

    def is_edge(self, best: Any) -> bool:
        """Whether a better value may lie beyond. Words have no edge, and little weight decay is as good as less."""
        ends = self.values[-1:] if self.key == "weight_decay" else (self.values[0], self.values[-1])
        return len(self.values) > 1 and not isinstance(best, str) and best in ends


def axes_of(space: SearchSpace, tune: str | Mapping[str, Any]) -> list[Axis]:
    """What is tuned: the recipe values that the space searches, and those of confirm.tune; auto: learning rate × weight
    decay of a recipe, and of a user's own training no more than what is searched.

    Raises ActSearchError for values that cannot be tried, and for more combinations than anybody would wait for.
    """
    found: dict[str, Axis] = {}
    recipe = space.base
    if tune == "auto" and isinstance(recipe, Recipe):
        decays = {recipe.weight_decay, *(ADAMW_DECAYS if recipe.optimizer == "adamw" else DECAYS)}
        rates = tuple(four_digits(recipe.lr * rate) for rate in RATES)
        found["lr"] = Axis("lr", rates, MOST_STEPS, MOST_STEPS)
        found["weight_decay"] = Axis("weight_decay", tuple(sorted(decays)), 0, MOST_STEPS)
    elif isinstance(tune, Mapping):
        given = {str(key): recipe_domain(str(key), value, recipe, "confirm.tune") for key, value in tune.items()}
        found = {key: Axis(key, _values(domain)) for key, domain in given.items()}
    for key, domain in space.recipe:
        if not isinstance(tune, Mapping) or key not in tune:
            found[key] = Axis(key, _values(domain))
    axes = list(found.values())
    if n_points(axes) > MOST_POINTS:
        raise ActSearchError(
            f"confirm.tune: {' × '.join(found)} makes {n_points(axes)} recipes for each finalist; at most "
            f"{MOST_POINTS} are tried. Leave a key out, or write shorter lists."
        )
    return axes


def _values(domain: Range | Choices) -> tuple[Any, ...]:
    if isinstance(domain, Choices):
        numbers = all(isinstance(value, int | float) for value in domain.values)
        return tuple(sorted(domain.values)) if numbers else domain.values
    return tuple(dict.fromkeys(domain.at(i / (OF_RANGE - 1)) for i in range(OF_RANGE)))


def n_points(axes: Sequence[Axis]) -> int:
    """How many recipes each finalist is tried with, at least; 0 if nothing is tuned."""
    return math.prod(len(axis.values) for axis in axes) if axes else 0


def n_runs(axes: Sequence[Axis], seeds: int) -> int:
    """How many runs that is for each finalist."""
    return n_points(axes) * seeds + min(SHORTLIST, n_points(axes)) * len(again(seeds))


Cost = Callable[[TrialRecord], tuple[float, ...]]
"""What a record is ranked by, the least first."""


@dataclass(frozen=True)
class Tuned:
    """The candidates, each with the recipe values that were best for it.

    n_recipes: how many were tried for each, in the order of the candidates. at_edge: the values, by activation, that
    are the smallest or the largest that was tried.
    """

    candidates: list[Candidate]
    n_recipes: list[int] = field(default_factory=list)
    at_edge: dict[str, list[str]] = field(default_factory=dict)


def tune_recipes(
    tuning: Results[TrialRecord],
    candidates: Sequence[Candidate],
    training: Training,
    axes: Sequence[Axis],
    cost: Cost,
    seeds: int,
    steps: Mapping[str, int] = NONE,
) -> Generator[Event, None, Tuned]:
    """Tries the grid for every finalist and the baseline, on the search's seeds and validation examples.

    The best few are tried on further seeds. Of those that are not clearly worse than the best, the one with the lowest
    learning rate is taken: a rate at which a net collapses now and then looks best on the seeds where it does not (the
    rule of one standard error, Breiman et al. 1984). Where the best value
    lies at an end of the grid, the grid goes on beyond it for this candidate. What the store has is not trained again.
    steps: for how many steps each trains, by activation, where not all train for recipe.steps.
    """
    chosen, n_recipes, at_edge = [], [], {}
    for these in dict.fromkeys(candidate.specs for candidate in candidates):
        grid = _Grid(tuning, these, _axes_for(these, axes, steps))
        best, taken = yield from grid.settle(training, cost, seeds)
        chosen.append(Candidate(these, tuple(taken.recipe.items())))
        n_recipes.append(len(grid.points()))
        at_edge |= {best.activation: edges} if (edges := grid.edges(best)) else {}
    return Tuned(chosen, n_recipes, at_edge)


def baseline_at_best(
    tuning: Results[TrialRecord],
    baseline: tuple[Spec, ...],
    training: Training,
    axes: Sequence[Axis],
    own: Metric,
    seeds: int,
    steps: Mapping[str, int] = NONE,
) -> Generator[Event, None, float]:
    """The baseline's mean validation metric with the recipe values that are best for it by this metric."""
    grid = _Grid(tuning, baseline, _axes_for(baseline, axes, steps))
    _, found = yield from grid.settle(training, by_final_metric(own), seeds)
    return mean(found.curves.val_metric[-1])


def _axes_for(specs: tuple[Spec, ...], axes: Sequence[Axis], steps: Mapping[str, int]) -> list[Axis]:
    n = steps.get(print_net(specs))
    return [*axes, *([Axis("steps", (n,))] if n else [])]


class _Grid:
    """The recipes that are tried for one spec, and what was found."""

    def __init__(self, tuning: Results[TrialRecord], specs: tuple[Spec, ...], axes: Sequence[Axis]) -> None:
        self.specs, self.axes, self._tuning = specs, list(axes), tuning
        self.found: dict[tuple[str, str], TrialRecord] = {}
        for record in tuning.all():
            if record.activation == print_net(specs):
                self._add(record)

    def points(self) -> list[Candidate]:
        keys = [axis.key for axis in self.axes]
        values = itertools.product(*[axis.values for axis in self.axes])
        return [Candidate(self.specs, tuple(zip(keys, point, strict=True))) for point in values]

    def edges(self, best: TrialRecord) -> list[str]:
        """The best's values that are the smallest or the largest that was tried."""
        return [f"{a.key}={best.recipe[a.key]}" for a in self.axes if a.is_edge(best.recipe[a.key])]

    def settle(
        self, training: Training, cost: Cost, seeds: int
    ) -> Generator[Event, None, tuple[TrialRecord, TrialRecord]]:
        """Trains what is new of the grid, and of what goes on beyond its ends. Returns the best, and what is taken."""
        while True:
            yield from self.train(self.points(), range(seeds), training)
            # by the first seeds alone, so that the same few are chosen when this is done again
            ranked = sorted(self.points(), key=lambda point: cost(_of_first(self.found[point.key], seeds)))
            if self._goes_on(self.found[ranked[0].key]):
                continue
            yield from self.train(ranked[:SHORTLIST], again(seeds), training)
            short = sorted((self.found[point.key] for point in ranked[:SHORTLIST]), key=cost)
            if not self._goes_on(short[0]):
                as_good = [record for record in short if not clearly_worse(record, short[0], cost)]
                return short[0], min(as_good, key=lambda record: record.recipe.get("lr", 0.0))

    def _goes_on(self, best: TrialRecord) -> bool:
        grown = [axis.beyond(best.recipe[axis.key]) or axis for axis in self.axes]
        goes_on, self.axes = grown != self.axes, grown
        return goes_on

    def train(self, points: Sequence[Candidate], seeds: range, training: Training) -> Generator[Event, None, None]:
        """Trains these points on these seeds, unless they were before, and keeps the results."""
        new = [point for point in points if self._n_seeds(point) < seeds.stop]
        if not new:
            return
        members = [_Member(i, point) for i, point in enumerate(new)]
        records = [
            TrialRecord(m.number, m.candidate.activation, dict(m.candidate.recipe), "complete", [], Curves())
            for m in members
        ]
        yield GenerationStarted("tuning", {m.number: str(m.candidate) for m in members})
        yield from training.train("tuning", members, {r.number: r.curves for r in records}, seeds)
        for record in records:
            record.values = [mean(record.curves.val_metric[-1])]
            self._tuning.add(record, record.values[0])
            self._add(record)

    def _n_seeds(self, point: Candidate) -> int:
        return len(self.found[point.key].curves.val_metric[-1]) if point.key in self.found else 0

    def _add(self, record: TrialRecord) -> None:
        """Adds a record; one of further seeds joins that of the first ones."""
        known = self.found.get(record.key)
        if known is not None:
            record = replace(known, curves=_joined(known.curves, record.curves))
        self.found[record.key] = record


def again(seeds: int) -> range:
    """The further seeds on which the best few are tried."""
    return range(seeds, min(TIMES * seeds, FRESH_SEED))


def _of_first(record: TrialRecord, seeds: int) -> TrialRecord:
    """The record of the first seeds alone."""
    rows = {key: [row[:seeds] for row in getattr(record.curves, key)] for key in ("val_metric", "val_loss")}
    return replace(record, curves=replace(record.curves, **rows))


def _joined(one: Curves, other: Curves) -> Curves:
    """The curves of the seeds of both."""
    rows = {key: [[*a, *b] for a, b in zip(getattr(one, key), getattr(other, key), strict=True)]
            for key in ("val_metric", "val_loss", "train_loss")}  # fmt: skip
    return replace(one, **rows, n_diverged=one.n_diverged + other.n_diverged)


def clearly_worse(record: TrialRecord, best: TrialRecord, cost: Cost) -> bool:
    """Whether a record's runs cost more than the best's, seed by seed, by more than may be chance."""
    costs = [[cost(one)[0] for one in _by_seed(which)] for which in (record, best)]
    d = [a - b for a, b in zip(*costs, strict=True)]
    return mean(d) > (CLEARLY * std(d) / math.sqrt(len(d)) if len(d) > 1 else 0.0)


def by_final_metric(own: Metric) -> Cost:
    """Ranks by the mean validation metric after the last step."""
    sign = -1.0 if own.higher_is_better else 1.0
    return lambda record: (sign * mean(record.curves.val_metric[-1]),)


def cost_by(options: Confirmation, target: float) -> Cost:
    """Ranks by the validation counterpart of the metric that the verdict is about.

    target: the accuracy up to which steps are counted. Costs do not depend on the recipe: then the final metric counts.
    """
    final = by_final_metric(options.own)
    if options.metric == "test_loss":
        return lambda record: (mean(record.curves.val_loss[-1]),)
    if options.metric == "learning_speed":
        return lambda record: (mean([mean(row) for row in record.curves.val_loss]),)
    if options.metric in TO_TARGET:
        return lambda record: (mean([steps_to(one.curves, target) for one in _by_seed(record)]), *final(record))
    return final


def criterion(options: Confirmation) -> str:
    """The same in words."""
    words = {"test_loss": "validation loss", "learning_speed": "mean validation loss over the training"}
    words |= dict.fromkeys(TO_TARGET, "steps to the target on validation examples")
    return words.get(options.metric, f"validation {options.own.words}")


def _by_seed(record: TrialRecord) -> list[TrialRecord]:
    """A record for each seed."""
    c = record.curves
    return [
        replace(record, curves=Curves(c.steps, [[row[i]] for row in c.val_metric], [[row[i]] for row in c.val_loss]))
        for i in range(len(c.val_metric[-1]))
    ]


def reference(
    tuning: Results[TrialRecord],
    baseline: Candidate,
    trials: Sequence[TrialRecord],
    training: Training,
    seeds: int,
) -> Generator[Event, None, float]:
    """Returns the baseline's mean final validation metric on the search seeds; trains it only if no record has it."""
    known = [*tuning.all(), *(r for r in trials if r.state == "complete")]
    record = next((r for r in known if r.key == baseline.key), None)
    if record is None:
        grid = _Grid(tuning, baseline.specs, [Axis(key, (value,)) for key, value in baseline.recipe])
        yield from grid.train(grid.points(), range(seeds), training)
        record = grid.found[baseline.key]
    return mean(record.curves.val_metric[-1])


@dataclass(frozen=True)
class _Member:
    number: int
    candidate: Candidate
