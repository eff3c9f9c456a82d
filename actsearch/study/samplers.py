"""Makes Optuna's samplers and pruners from the config, and adds a sampler of its own, EvolutionSampler."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from actsearch.errors import ActSearchError, one_line
from actsearch.space.grammar import LABEL

Sampler = optuna.samplers.BaseSampler


class SamplerFactory:
    """Makes the sampler anew for each trial, seeded from (study.seed, trial number, attempt).

    A search that was killed and goes on therefore proposes the same candidates as without the kill. function: a class
    of optuna.samplers or a user's; it gets `seed` if it takes one.
    """

    def __init__(self, function: Callable[..., Any], keywords: dict[str, Any], seed: int) -> None:
        self.function, self.keywords, self.seed = function, keywords, seed
        try:
            self.takes_seed = "seed" in inspect.signature(function).parameters
        except ValueError:  # a builtin has no signature
            self.takes_seed = False
        self(0, 0)

    def seed_of(self, number: int, attempt: int) -> int:
        return int(np.random.SeedSequence([self.seed, number, attempt]).generate_state(1)[0])

    def __call__(self, number: int, attempt: int) -> Sampler:
        seed = self.seed_of(number, attempt)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # BruteForceSampler warns
                sampler = self.function(**self.keywords, **({"seed": seed} if self.takes_seed else {}))
        except Exception as error:
            raise ActSearchError(f"sampler: it cannot be made: {one_line(error)}") from error
        if not isinstance(sampler, Sampler):
            raise ActSearchError(f"sampler: {type(sampler).__name__} is not an optuna sampler.")
        return sampler


def make_pruner(function: Callable[..., Any], keywords: dict[str, Any]) -> optuna.pruners.BasePruner:
    try:
        pruner = function(**keywords)
    except Exception as error:
        raise ActSearchError(f"pruner: it cannot be made: {one_line(error)}") from error
    if not isinstance(pruner, optuna.pruners.BasePruner):
        raise ActSearchError(f"pruner: {type(pruner).__name__} is not an optuna pruner.")
    return pruner


class EvolutionSampler(Sampler):
    """Evolves the functions of a grammar as trees: each trial is a child of the best of some earlier trials.

    Regularised evolution (Real et al. 2019): of the last `population` completed trials, `tournament` are drawn, and the
    best of them is the parent. The child differs from it in one thing, as in PANGAEA (Bingham & Miikkulainen 2022): a
    choice or a whole unit is drawn anew, a unit is inserted or removed; or, with probability `crossover`, a part comes
    from a second parent. The first `population` trials are drawn at random. The sampler works on the names of Optuna's
    parameters, so that other choices (a recipe's values) are inherited and changed in the same way.
    """

    UNIT = re.compile(rf"(?P<path>(?:.*\.)?{LABEL}\.(?:[12]\.)*)binary")

    def __init__(
        self, population: int = 32, tournament: int = 8, crossover: float = 0.25, seed: int | None = None
    ) -> None:
        if not 1 <= tournament <= population:
            raise ValueError(f"tournament={tournament} must be from 1 to population={population}")
        if not 0 <= crossover <= 1:
            raise ValueError(f"crossover={crossover} must be from 0 to 1")
        self.population, self.tournament, self.crossover = population, tournament, crossover
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._rng = np.random.default_rng(seed)
        self._child: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        _check_one_objective(study)
        return {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        _check_one_objective(study)
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._child = {}
        if len(done) < self.population:
            return
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1

        def parent() -> dict[str, Any]:
            drawn = self._rng.choice(self.population, self.tournament, replace=False)
            return dict(max((done[-1 - i] for i in drawn), key=lambda t: sign * (t.value or 0.0)).params)

        first = parent()
        if self._rng.random() < self.crossover:
            self._child = self._crossed(first, parent())
        else:
            self._child = self._mutated(first)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        _check_one_objective(study)
        if param_name in self._child:
            value = self._child[param_name]
            try:  # A distribution has no public check of a value; create_trial makes that check.
                create_trial(params={param_name: value}, distributions={param_name: param_distribution}, value=0.0)
                return value
            except ValueError:  # not a value of this parameter, e.g. a unit below the greatest depth
                pass
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _draw(self, options: list[str]) -> str:
        return options[int(self._rng.integers(len(options)))]

    def _units(self, params: Mapping[str, Any]) -> list[str]:
        """The paths of all units."""
        return [found["path"] for name in params if (found := self.UNIT.fullmatch(name))]

    def _mutated(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a changed copy of one parent. Those that are left out are drawn anew."""
        units = self._units(params)
        below = [unit for unit in units if unit[-2] in "12"]  # the root ends in its label
        how = self._draw(["change", "change", *["regenerate", "insert"] * bool(units), *["remove"] * bool(below)])
        if how == "change":
            changed = self._draw(list(params))
            return {name: value for name, value in params.items() if name != changed}
        if how == "remove":
            unit = self._draw(below)
            above = unit[:-2]
            return _without(params, above) | _moved(params, unit, above)
        unit = self._draw(units)
        if how == "regenerate":
            return _without(params, unit)
        side = self._draw(["1", "2"])
        return _without(params, unit) | {f"{unit}input{side}": "unit"} | _moved(params, unit, f"{unit}{side}.")

    def _crossed(self, params: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        """The first parent with one side of a unit (its function and all below it) taken from the second parent."""
        mine, theirs = self._units(params), self._units(other)
        if not mine or not theirs:
            return {
                name: other.get(name, value) if self._rng.random() < 0.5 else value for name, value in params.items()
            }
        unit, donor = self._draw(mine), self._draw(theirs)
        side, given = self._draw(["1", "2"]), self._draw(["1", "2"])
        child = _without(params, f"{unit}{side}.")
        for what in ("unary", "input"):
            child.pop(f"{unit}{what}{side}", None)
            if f"{donor}{what}{given}" in other:
                child[f"{unit}{what}{side}"] = other[f"{donor}{what}{given}"]
        return child | _moved(other, f"{donor}{given}.", f"{unit}{side}.")


def _without(params: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if not name.startswith(path)}


def _moved(params: Mapping[str, Any], path: str, to: str) -> dict[str, Any]:
    """The parameters below `path`, renamed so that they are below `to`."""
    return {to + name.removeprefix(path): value for name, value in params.items() if name.startswith(path)}


def _check_one_objective(study: optuna.Study) -> None:
    """Raises ValueError for a study of several objectives.

    Each method checks, because a sampler that holds this one may call `sample_independent` alone.
    """
    if len(study.directions) > 1:
        raise ValueError("EvolutionSampler works for one objective.")
