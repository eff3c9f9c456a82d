"""conf/: every file composes through Hydra, loads into the typed Config, and names things that exist."""

import pkgutil
import re
import shlex

import pytest
import yaml

from actsearch.config.build import target
from actsearch.config.compose import CONF, PACKAGE, identity, search_name, settle
from actsearch.config.compose import compose as composed
from actsearch.config.shape import Config
from actsearch.question.options import speed_is_told
from actsearch.question.recipe import Recipe
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import SamplerFactory, make_pruner

FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))


def compose(*words):
    """The config as the command line makes it, without Hydra's own part, in its typed shape."""
    return settle(composed(words), words)


def test_there_is_what_the_readme_promises():
    groups = {name.split("/")[0] for name in FILES}
    assert groups == {
        "data", "model", "recipe", "search_space", "sampler", "pruner", "storage", "tracking", "task", "train",
        "budget", "experiment",
    }  # fmt: skip
    spaces = {name.split("/")[1] for name in FILES if name.startswith("search_space/")}
    assert spaces >= {"article", "article_tuned", "leaky_slope", "alpha", "rectifiers", "smooth", "per_layer"}
    assert {"model/mlp", "model/cnn1d", "model/cnn2d", "model/resnet", "model/torchvision"} <= set(FILES)
    assert {"data/mnist1d", "data/digits", "data/fashion_mnist", "data/cifar10"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_option_composes_and_is_what_its_file_says(name):
    group, option = name.split("/")
    words = [f"{group}={option}"]
    config = compose(*words)
    assert isinstance(config, Config)
    own = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    if "_global_" in (CONF / f"{name}.yaml").read_text().split("\n")[0]:
        parts = {k: v for k, v in own.items() if k != "defaults"}
    else:
        parts = {group: {k: v for k, v in own.items() if k != "defaults"}}
    checked = 0
    for part, values in parts.items():
        loaded = getattr(config, part)
        loaded = loaded if isinstance(loaded, dict) else vars(loaded)
        for key, value in values.items():
            if not (isinstance(value, str) and "${" in value) and (name, key) != ("storage/sqlite", "url"):
                assert loaded[key] == value, f"{part}.{key}"
                checked += 1
    assert checked or name in {"storage/sqlite", "storage/postgresql"}


@pytest.mark.parametrize("name", [n for n in FILES if n.split("/")[0] in ("data", "model", "sampler", "pruner")])
def test_targets_exist_and_take_the_keys_of_the_file(name):
    group, option = name.split("/")
    values = getattr(compose(f"{group}={option}"), group)
    function = pkgutil.resolve_name(":".join(values["_target_"].rpartition(".")[::2]))
    checked, keywords = target(group, values, first=group == "task")
    assert checked is function
    if group == "sampler":
        SamplerFactory(checked, keywords, 0)
    if group == "pruner":
        make_pruner(checked, keywords)


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("search_space/")])
def test_search_spaces_build(name):
    config = compose(f"search_space={name.split('/')[1]}")
    part = config.search_space
    made = SearchSpace(part.activations, part.recipe, part.scope, n_slots=3, base=config.recipe)
    assert len(made.entries) == len(part.activations) > 0


def test_the_article_is_the_default_with_all_its_activations():
    config = compose()
    names = {next(iter(e)) if isinstance(e, dict) else e for e in config.search_space.activations}
    assert names >= {"relu", "leaky_relu", "prelu", "relu6", "leaky_relu6", "elu", "selu", "silu", "tanh", "sigmoid"}
    assert config.search_space.recipe is None
    tuned = compose("search_space=article_tuned")
    assert tuned.search_space.activations == config.search_space.activations
    assert set(tuned.search_space.recipe) == {"lr"}
    assert compose("search_space=per_layer").search_space.scope == "per_layer"


def test_the_default_recipe_is_the_classes_own():
    assert compose().recipe == Recipe()


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("experiment/")])
def test_an_experiment_begins_with_the_command_that_runs_it_and_its_question(name):
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra wants it first
    assert lines[1].startswith(f"# actsearch {name.replace('/', '=')}")
    assert "?" in lines[2]
    compose(*shlex.split(lines[1].removeprefix("# actsearch ")))


def test_the_leaky_slope_experiment_compares_the_two_slopes():
    config = compose("experiment=leaky_slope")
    part = config.search_space
    made = SearchSpace(part.activations, part.recipe, part.scope, n_slots=3, base=config.recipe)
    assert [str(c) for c in made.nets()] == ["leaky_relu(negative_slope=0.01)", "leaky_relu(negative_slope=0.02)"]
    assert speed_is_told(config.recipe)
    assert (config.confirm.finalists, config.confirm.metric) == ("all", "learning_speed")
    assert config.confirm.baseline == "leaky_relu(negative_slope=0.01)"


def test_expressions_come_through_the_command_line():
    activations = (
        'search_space.activations=[relu,"x * tanh(softplus(x))","relu | (a*x**2)(a=0.5) | tanh",'
        '{expression:"min(max(a*x, x), 6)",params:{a:{low:0.001,high:0.5,log:true}}}]'
    )
    config = compose(activations, 'confirm.baseline="x * tanh(softplus(x))"')
    part = config.search_space
    made = SearchSpace(part.activations, part.recipe, part.scope, n_slots=3, base=config.recipe)
    assert [entry.label for entry in made.entries] == [
        "relu", "x * tanh(softplus(x))", "relu | (a * x ** 2)(a=0.5) | tanh", "min(max(a * x, x), 6)"
    ]  # fmt: skip
    assert config.confirm.baseline == "x * tanh(softplus(x))"


@pytest.mark.parametrize("budget", ["quick", "thorough"])
def test_words_on_the_command_line_win_over_a_budget(budget):
    config = compose(f"budget={budget}", "study.n_trials=7", "recipe.steps=50")
    assert (config.study.n_trials, config.recipe.steps) == (7, 50)
    assert config.confirm.seeds == yaml.safe_load((CONF / f"budget/{budget}.yaml").read_text())["confirm"]["seeds"]


def test_every_key_of_the_config_is_read_somewhere():
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    code = "".join(p.read_text() for p in PACKAGE.rglob("*.py"))
    for part in ("study", "confirm"):
        for key in config[part]:
            assert re.search(rf"\b{key}\b", code), key


def test_keys_that_were_added_later_leave_the_names_of_studies_as_they_were():
    config = compose()
    assert search_name(config) == search_name(compose("data.standardise=auto"))
    assert "standardise" not in identity(config, {})["data"]
    for value in ("true", "false"):
        assert search_name(compose(f"data.standardise={value}")) != search_name(config)
