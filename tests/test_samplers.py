"""Samplers are made anew for each trial from (study.seed, trial number, attempt); what is none is refused."""

import optuna
import pytest

from actsearch.errors import ActSearchError
from actsearch.study.samplers import SamplerFactory, make_pruner


def first_draws(factory, numbers, attempt=0):
    out = []
    for number in numbers:
        study = optuna.create_study(sampler=factory(number, attempt))
        out.append(study.ask().suggest_float("x", 0, 1))
    return out


def test_a_trials_sampler_depends_on_the_seed_and_its_number_alone():
    make = SamplerFactory(optuna.samplers.TPESampler, {}, seed=3)
    draws = first_draws(make, range(6))
    assert len(set(draws)) == 6
    assert first_draws(SamplerFactory(optuna.samplers.TPESampler, {}, seed=3), [5, 2]) == [draws[5], draws[2]]
    assert not set(draws) & set(first_draws(make, range(6), attempt=1))  # another attempt is another draw
    assert not set(draws) & set(first_draws(SamplerFactory(optuna.samplers.TPESampler, {}, seed=4), range(6)))


def test_keywords_reach_the_sampler_and_a_seed_only_where_it_is_taken():
    assert SamplerFactory(optuna.samplers.NSGAIISampler, {"population_size": 7}, 0)(1, 0)._population_size == 7

    class Users(optuna.samplers.RandomSampler):
        def __init__(self, flavour):
            super().__init__()
            self.flavour = flavour

    assert SamplerFactory(Users, {"flavour": "mild"}, 0)(1, 0).flavour == "mild"


@pytest.mark.parametrize(
    ("function", "keywords", "cause"),
    [
        (optuna.samplers.TPESampler, {"n_startup": 3}, "n_startup"),
        (optuna.samplers.NSGAIISampler, {"population_size": 1}, "population_size"),
        (dict, {}, "dict is not an optuna sampler"),
    ],
)
def test_a_sampler_that_cannot_be_made_is_refused_at_once(function, keywords, cause):
    with pytest.raises(ActSearchError, match=f"sampler.*{cause}"):
        SamplerFactory(function, keywords, 0)


def test_pruners_are_made_from_their_keywords_or_refused():
    assert make_pruner(optuna.pruners.MedianPruner, {"n_startup_trials": 9})._n_startup_trials == 9
    with pytest.raises(ActSearchError, match=r"pruner.*n_start"):
        make_pruner(optuna.pruners.MedianPruner, {"n_start": 9})
    with pytest.raises(ActSearchError, match="pruner: list is not an optuna pruner"):
        make_pruner(list, {})
