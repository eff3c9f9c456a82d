"""The typed config: its defaults are the YAML's, and what has the wrong key or type does not pass."""

import dataclasses

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from test_conf import compose

from actsearch.config.shape import Config
from actsearch.errors import ActSearchError


def test_the_yaml_and_the_classes_have_the_same_keys_and_defaults():
    config = compose()
    for part in ("study", "confirm", "recipe"):
        assert getattr(config, part) == getattr(Config(), part), part


def test_a_wrong_key_or_type_does_not_pass():
    for words in (["recipe.sttps=3"], ["recipe.steps=many"], ["study.seeds=a"], ["confirm.seeds=[1]"]):
        with pytest.raises((ConfigCompositionException, OmegaConfBaseException)):
            compose(*words)
    with pytest.raises(ConfigKeyError):
        compose("+modle=mlp")


def test_values_are_checked_when_the_config_is_made():
    for words, said in (
        (["study.n_trials=0"], "study.n_trials=0"),
        (["recipe.steps=0"], "recipe.steps=0"),
        (["confirm.seeds=0"], "confirm.seeds=0"),
        (["recipe.optimizer=sdg"], "Did you mean 'sgd'?"),
    ):
        with pytest.raises(ActSearchError) as error:
            compose(*words)
        assert said in str(error.value)


def test_the_config_survives_yaml():
    config = compose("search_space=article_tuned", "study.name=abc")
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    back = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
    assert dataclasses.asdict(back) == dataclasses.asdict(config)
    assert back.study.name == "abc"
