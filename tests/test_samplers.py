"""Samplers are made anew for each trial from (study.seed, trial number, attempt); what is none is refused.

EvolutionSampler passes the cases that Optuna gives to authors of samplers; what it does to trees is in test_grammar.py.
"""

import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, SingleOnlySamplerTestCase

from actsearch.errors import ActSearchError
from actsearch.study.samplers import EvolutionSampler, SamplerFactory, make_pruner


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


# RelativeSamplerTestCase: not for EvolutionSampler, which draws each parameter on its own, as RandomSampler does.
# MultiObjectiveSamplerTestCase: not for it either, because it refuses several objectives.
class TestEvolutionSampler(BasicSamplerTestCase, SingleOnlySamplerTestCase):
    """The studies here never fill the default population, so each case also runs with small ones, which evolve."""

    @pytest.fixture(
        params=[{}, {"population": 3, "tournament": 2}, {"population": 1, "tournament": 1, "crossover": 1}], ids=str
    )
    def sampler(self, request):
        return lambda: EvolutionSampler(seed=0, **request.param)


def test_evolution_refuses_several_objectives_when_it_is_asked():
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(seed=0))
    with pytest.raises(ValueError, match="one objective"):
        study.ask()


@pytest.mark.parametrize(
    ("distribution", "inherited", "kept"),
    [
        (optuna.distributions.FloatDistribution(0, 1), 0.25, True),
        (optuna.distributions.FloatDistribution(0, 1), 1.25, False),
        (optuna.distributions.FloatDistribution(0, 1, step=0.5), 0.25, False),
        (optuna.distributions.FloatDistribution(0, 1), "unit", False),
        (optuna.distributions.IntDistribution(1, 9), 9, True),
        (optuna.distributions.IntDistribution(1, 9, step=2), 2, False),
        (optuna.distributions.CategoricalDistribution(["x", "unit"]), "unit", True),
        (optuna.distributions.CategoricalDistribution(["x", "y"]), "unit", False),
    ],
    ids=str,
)
def test_a_child_inherits_a_value_only_where_it_is_one(distribution, inherited, kept):
    sampler = EvolutionSampler(seed=0)
    sampler._child = {"a": inherited}
    study = optuna.create_study(sampler=sampler)
    drawn = [sampler.sample_independent(study, None, "a", distribution) for _ in range(20)]
    assert (set(drawn) == {inherited}) == kept
    optuna.trial.create_trial(params={"a": drawn[0]}, distributions={"a": distribution}, value=0.0)  # it is a value
