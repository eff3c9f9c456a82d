"""Samplers and pruners by their names: what Optuna needs from us, and no more."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from actsearch.errors import ActSearchError, one_line

Sampler = optuna.samplers.BaseSampler


class SamplerFactory:
    """Makes the sampler anew for each trial, seeded from (study.seed, trial number, attempt).

    A search that was killed therefore proposes what it would have proposed. function: a class of
    optuna.samplers or a user's; it gets `seed` if it takes one.
    """

    def __init__(self, function: Callable[..., Any], keywords: dict[str, Any], seed: int) -> None:
        self.function, self.keywords, self.seed = function, keywords, seed
        try:
            self.takes_seed = "seed" in inspect.signature(function).parameters
        except ValueError:  # a builtin
            self.takes_seed = False
        self(0, 0)

    def seed_of(self, number: int, attempt: int) -> int:
        return int(np.random.SeedSequence([self.seed, number, attempt]).generate_state(1)[0])

    def __call__(self, number: int, attempt: int) -> Sampler:
        seed = self.seed_of(number, attempt)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # BruteForceSampler, for years
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
