"""Search spaces: each form of the YAML, Optuna's names, all candidates, and an error for everything that is wrong."""

import optuna
import pytest
import yaml

from actsearch.activations import Spec
from actsearch.activations.catalog import CATALOG
from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate
from actsearch.space.domains import four_digits
from actsearch.space.space import SearchSpace

BASE = Recipe()


def space(activations, recipe=None, scope="network", n_slots=3):
    """A search space; activations: a list, or the YAML of one."""
    if isinstance(activations, str):
        activations = yaml.safe_load(activations)
    return SearchSpace(activations, recipe, scope, n_slots=n_slots, base=BASE)


def suggest(made, values):
    """The candidate of a trial with these values."""
    return made.suggest(optuna.trial.FixedTrial(values))


def texts(candidates):
    return [str(c) for c in candidates]


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "label", "spec"),
    [
        ("relu", "relu", "relu"),
        ("swish", "silu", "silu"),
        ("leaky_relu(negative_slope=0.02)", "leaky_relu(negative_slope=0.02)", "leaky_relu(negative_slope=0.02)"),
        ("elu: {alpha: 0.5}", "elu(alpha=0.5)", "elu(alpha=0.5)"),
        ("elu: {alpha: 2}", "elu(alpha=2)", "elu(alpha=2)"),
        ("silu: {beta: learned}", "silu(beta=learned)", "silu(beta=learned)"),
        ("silu: {beta: learned(2)}", "silu(beta=learned(2))", "silu(beta=learned(2))"),
        ("gelu: {approximate: tanh}", "gelu(approximate=tanh)", "gelu(approximate=tanh)"),
        ("relu | gelu | tanh", "relu | gelu | tanh", "relu | gelu | tanh"),
        ("relu | relu | relu", "relu", "relu"),
        ("elu: {}", "elu", "elu"),
        ("x*tanh( softplus(x) )", "x * tanh(softplus(x))", "x * tanh(softplus(x))"),
        ("(a*x*x + x)(a=0.1)", "(x + a * x ** 2)(a=0.1)", "(x + a * x ** 2)(a=0.1)"),
        ("relu | x * exp(-abs(x)) | tanh", "relu | x * exp(-abs(x)) | tanh", "relu | x * exp(-abs(x)) | tanh"),
        ("expression: x*sigmoid(x)", "x * sigmoid(x)", "x * sigmoid(x)"),
        ("expression: elu(x)", "elu", "elu"),
        ('expression: "max(a*x, x)", params: {a: 0.1}', "max(a * x, x)(a=0.1)", "max(a * x, x)(a=0.1)"),
        (
            "expression: x*sigmoid(b*x), params: {b: learned(1.5)}",
            "(x * sigmoid(b * x))(b=learned(1.5))",
            "(x * sigmoid(b * x))(b=learned(1.5))",
        ),
        ('"max(a*x, x)": {a: 0.1}', "max(a * x, x)(a=0.1)", "max(a * x, x)(a=0.1)"),
    ],
)
def test_a_form_without_a_choice_is_one_candidate(item, label, spec):
    made = space(f"- {{{item}}}" if item.startswith("expression:") else f"- {item}")
    assert [entry.label for entry in made.entries] == [label]
    candidate = suggest(made, {"activation": label})
    assert candidate == Candidate(parse_net(spec))
    assert made.enumerate() == [candidate]


def test_choices_are_numbers_in_order_and_named_as_optuna_shows_them():
    made = space("- leaky_relu: {negative_slope: [0.01, 0.02, 1]}\n- tanh")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"activation": "leaky_relu"})
    trial = study.ask()
    chosen = made.suggest(trial)
    assert set(trial.params) == {"activation", "leaky_relu.negative_slope"}
    assert trial.distributions["activation"].choices == ("leaky_relu", "tanh")
    assert trial.distributions["leaky_relu.negative_slope"].choices == (0.01, 0.02, 1.0)
    assert chosen.specs[0].params["negative_slope"] == trial.params["leaky_relu.negative_slope"]
    assert texts(made.enumerate()) == [
        "leaky_relu(negative_slope=0.01)",
        "leaky_relu(negative_slope=0.02)",
        "leaky_relu(negative_slope=1)",
        "tanh",
    ]


@pytest.mark.parametrize("log", [True, False])
def test_a_range_is_optunas_range(log):
    made = space([{"elu": {"alpha": {"low": 0.1, "high": 2.0, "log": log}}}])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    made.suggest(trial)
    found = trial.distributions["elu.alpha"]
    assert (found.low, found.high, found.log) == (0.1, 2.0, log)


@pytest.mark.parametrize(
    ("name", "param"), [(a.name, p.name) for a in CATALOG.values() for p in a.params if p.low is not None or p.choices]
)
def test_search_means_the_catalogues_own_range(name, param):
    made = space([{name: {param: "search"}}])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    chosen = made.suggest(trial)
    found, known = trial.distributions[f"{name}.{param}"], CATALOG[name].param(param)
    if known.choices:
        assert found.choices == known.choices
    else:
        assert (found.low, found.high, found.log) == (known.low, known.high, known.log)
    assert Spec.parse(chosen.activation) == chosen.specs[0]


EXPRESSION = """
- relu
- expression: min(max(a*x, x), b)
  params: {a: {low: 0.001, high: 0.5, log: true}, b: [6, 3]}
"""


def test_parameters_of_an_expression_are_searched_under_its_text():
    made = space(EXPRESSION)
    label = "min(max(a * x, x), b)"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"activation": label})
    trial = study.ask()
    chosen = made.suggest(trial)
    assert set(trial.params) == {"activation", f"{label}.a", f"{label}.b"}
    found = trial.distributions[f"{label}.a"]
    assert (found.low, found.high, found.log) == (0.001, 0.5, True)
    assert trial.distributions[f"{label}.b"].choices == (6.0, 3.0)
    assert chosen.specs[0].name == label
    assert chosen.specs[0].params == {"a": four_digits(trial.params[f"{label}.a"]), "b": trial.params[f"{label}.b"]}
    assert parse_net(chosen.activation) == chosen.specs
    assert made.typical()[1].activation == "min(max(a * x, x), b)(a=0.02236, b=3)"


def test_an_expression_that_is_an_entry_is_the_entry():
    made = space([{"expression": "elu(x, alpha=a)", "params": {"a": [0.5, 1]}}, {"elu": {"alpha": [1, 2]}}])
    assert texts(made.nets()) == ["elu(alpha=0.5)", "elu", "elu(alpha=2)"]


def test_a_long_expression_has_a_short_name_for_optuna():
    long = " + ".join(f"a * tanh(x / {i})" for i in range(2, 9))
    made = space([{"expression": f"{long} + {i} * x", "params": {"a": [0.5, 1]}} for i in (2, 3)])
    assert len({entry.label for entry in made.entries}) == 2
    assert all(len(entry.label) == 60 for entry in made.entries)
    assert len(made.enumerate()) == 4


def test_fixed_and_searched_parameters_stand_side_by_side():
    made = space([{"silu": {"beta": [0.5, 2]}}, {"gelu": {"approximate": ["none", "tanh"]}}])
    assert texts(made.enumerate()) == ["silu(beta=0.5)", "silu(beta=2)", "gelu", "gelu(approximate=tanh)"]


def test_each_layer_chooses_and_optunas_names_say_which():
    made = space("- relu\n- leaky_relu: {negative_slope: [0.01, 0.02]}", scope="per_layer", n_slots=2)
    chosen = {"layer0.activation": "leaky_relu", "layer0.leaky_relu.negative_slope": 0.02, "layer1.activation": "relu"}
    candidate = suggest(made, chosen)
    assert candidate.activation == "leaky_relu(negative_slope=0.02) | relu"
    trial = optuna.create_study().ask()
    made.suggest(trial)
    assert {"layer0.activation", "layer1.activation"} <= set(trial.params)
    assert len(made.enumerate()) == 3**2
    assert "relu" in texts(made.enumerate())  # relu | relu is relu


def test_recipe_values_are_searched_under_their_names_and_reach_the_recipe():
    lr, batch_size = {"low": 1e-3, "high": 3e-2, "log": True}, {"low": 10, "high": 20}
    made = space(["relu"], {"lr": lr, "batch_size": batch_size, "init": ["gain", "torch"]})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    candidate = made.suggest(trial)
    assert set(trial.params) == {"activation", "recipe.lr", "recipe.batch_size", "recipe.init"}
    recipe = candidate.recipe_for(BASE)
    assert recipe.lr == four_digits(trial.params["recipe.lr"])
    assert isinstance(recipe.batch_size, int)
    assert (recipe.batch_size, recipe.init) == (trial.params["recipe.batch_size"], trial.params["recipe.init"])
    assert recipe.steps == BASE.steps
    assert f"lr={recipe.lr:g}" in str(candidate)


def test_enumerate_multiplies_activations_and_recipes():
    made = space(["relu", {"elu": {"alpha": [0.5, 1]}}], {"lr": [0.01, 0.02], "init": ["gain", "torch"]})
    assert len(made.enumerate()) == 3 * 4
    assert len(set(made.enumerate())) == 12
    assert texts(made.nets()) == ["relu", "elu(alpha=0.5)", "elu"]


def test_equal_candidates_are_enumerated_once():
    made = space(["elu(alpha=2)", {"elu": {"alpha": [1, 2]}}])
    assert texts(made.enumerate()) == ["elu(alpha=2)", "elu"]


# --- the text says what was trained ---------------------------------------------------------------


def test_the_text_of_a_searched_value_is_exactly_the_value_trained():
    made = space([{"leaky_relu": {"negative_slope": "search"}}], {"lr": {"low": 1e-3, "high": 3e-2, "log": True}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        candidate = made.suggest(trial)
        value = candidate.specs[0].params["negative_slope"]
        assert Spec.parse(candidate.activation).params["negative_slope"] == value
        assert value == pytest.approx(trial.params["leaky_relu.negative_slope"], rel=5e-4)
        assert len(f"{value:.10g}".replace("0.", "").lstrip("0").replace(".", "")) <= 4
    assert four_digits(0.0123456) == 0.01235
    assert four_digits(123456.0) == 123500.0


# --- the first trials, the tuning grid ------------------------------------------------------------


def test_the_first_trials_try_every_entry_once():
    made = space(["relu", {"elu": {"alpha": "search"}}, "tanh"])
    assert [made.opening(i, 10) for i in range(5)] == [
        {"activation": "relu"}, {"activation": "elu"}, {"activation": "tanh"}, {}, {},
    ]  # fmt: skip
    assert made.opening(2, 3) == {"activation": "tanh"}
    assert made.opening(0, 2) == {}  # too few trials for all


def test_per_layer_the_first_trials_have_one_entry_in_all_layers():
    made = space(["relu", "tanh"], scope="per_layer", n_slots=3)
    assert made.opening(1, 5) == {"layer0.activation": "tanh", "layer1.activation": "tanh", "layer2.activation": "tanh"}


def test_str_counts_what_is_searched():
    made = space(["relu", {"elu": {"alpha": "search"}}, {"silu": {"beta": [1, 2]}}], {"lr": [0.1, 0.2]}, "per_layer", 2)
    assert str(made) == "3 activations, 1 range, 1 list of values, for each of 2 layers; recipe: lr"


# --- errors: place and cure -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "place", "cure"),
    [
        ({"activations": []}, "search_space.activations is empty", "Write e.g."),
        ({"activations": "relu,"}, "search_space.activations", "not a list"),
        ({"activations": ["relu", "leaky_rleu"]}, "search_space.activations[1]", "Did you mean 'leaky_relu'?"),
        ({"activations": [{"elo": {"alpha": [1, 2]}}]}, "search_space.activations[0]", "Did you mean 'elu'?"),
        ({"activations": [{"elu": {"alhpa": [1, 2]}}]}, "search_space.activations[0]", "Did you mean 'alpha'?"),
        ({"activations": ["elu(alpha=)"]}, "search_space.activations[0]", "Write it like"),
        ({"activations": [{"elu": {"alpha": {"low": 2, "high": 1}}}]}, "activations[0].elu.alpha", "Exchange them"),
        ({"activations": [{"elu": {"alpha": {"low": 1, "high": 1}}}]}, "activations[0].elu.alpha", "low=1"),
        (
            {"activations": [{"elu": {"alpha": {"low": 0, "high": 1, "log": True}}}]},
            "activations[0].elu.alpha", "Write log: false",
        ),
        ({"activations": [{"elu": {"alpha": {"low": 0.1}}}]}, "activations[0].elu.alpha", "{low: 0.01, high: 0.5"),
        ({"activations": [{"elu": {"alpha": {"low": 0.1, "hihg": 2}}}]}, "activations[0].elu.alpha", "{low: 0.01"),
        ({"activations": [{"elu": {"alpha": {"low": "a", "high": 2}}}]}, "activations[0].elu.alpha", "no number"),
        ({"activations": [{"elu": {"alpha": {"low": 1, "high": float("inf")}}}]}, "elu.alpha", "no number"),
        ({"activations": [{"elu": {"alpha": {"low": 1, "high": 2, "log": "yes"}}}]}, "elu.alpha", "true or false"),
        ({"activations": [{"elu": {"alpha": []}}]}, "activations[0].elu.alpha", "at least one value"),
        ({"activations": [{"elu": {"alpha": [[1], 2]}}]}, "activations[0].elu.alpha", "not further lists"),
        ({"activations": [{"elu": {"alpha": ["one", "two"]}}]}, "activations[0]", "no finite number"),
        ({"activations": [{"celu": {"alpha": [0, 1]}}]}, "activations[0]", "celu"),
        ({"activations": [{"relu": {"alpha": "search"}}]}, "activations[0].relu.alpha", "Write {low"),
        ({"activations": [{"relu": "search"}]}, "activations[0]", "as a mapping"),
        ({"activations": [{"relu": None, "elu": None}]}, "activations[0]", "cannot read"),
        ({"activations": [3]}, "search_space.activations[0]", "Write a text like"),
        ({"activations": ["x * foo(x)"]}, "search_space.activations[0]", "column 5: unknown function 'foo'"),
        ({"activations": ["relu | a * x | relu"]}, "search_space.activations[0]", "Write (a * x)(a=0.5)"),
        ({"activations": [{"expression": "a * x"}]}, "search_space.activations[0]", "'a' has no value"),
        ({"activations": [{"expression": 3}]}, "search_space.activations[0]", "Write {expression"),
        ({"activations": [{"expression": "x", "parms": {}}]}, "search_space.activations[0]", "Write {expression"),
        ({"activations": [{"expression": "a * x", "params": 3}]}, "search_space.activations[0]", "Write {expression"),
        (
            {"activations": [{"expression": "a * x", "params": {"a": "search"}}]},
            "search_space.activations[0].params.a", "Write {low",
        ),
        ({"activations": [{"a * x": {"a": "search"}}]}, "search_space.activations[0].a * x.a", "Write {low"),
        (
            {"activations": [{"expression": "a * x", "params": {"a": [1, 2], "b": [1, 2]}}]},
            "search_space.activations[0]", "parameter of 'a * x' 'b'",
        ),
        (
            {"activations": [{"expression": "x ** a", "params": {"a": [1, 2.5]}}]},
            "search_space.activations[0]", "not finite",
        ),
        ({"activations": [{"expression": "a * x", "params": {"a": "learned"}}]}, "activations[0]", "learned(0.5)"),
        ({"activations": [{"expression": "a*x", "params": {"a": "learned(x)"}}]}, "[0].params.a", "takes one number"),
        ({"activations": ["relu", "tanh", "relu"]}, "search_space.activations[2]", "Remove one"),
        ({"activations": ["silu", "swish"]}, "search_space.activations[1]", "Remove one"),
        ({"activations": ["relu | tanh"]}, "search_space.activations[0]", "the model takes 3"),
        ({"activations": ["relu | tanh | elu"], "scope": "per_layer"}, "search_space.activations[0]", "scope=network"),
        ({"activations": ["relu"], "scope": "layer"}, "search_space.scope", "Did you mean 'per_layer'?"),
        ({"activations": ["relu"], "recipe": [0.1]}, "search_space.recipe", "not a mapping"),
        ({"activations": ["relu"], "recipe": {"steps": [10, 20]}}, "search_space.recipe.steps", "Set recipe.steps"),
        ({"activations": ["relu"], "recipe": {"eval_every": [1, 2]}}, "search_space.recipe.eval_every", "Set recipe"),
        ({"activations": ["relu"], "recipe": {"rl": [1, 2]}}, "search_space.recipe.rl", "Did you mean 'lr'?"),
        ({"activations": ["relu"], "recipe": {"lr": 0.1}}, "search_space.recipe.lr", "Set recipe.lr=0.1"),
        ({"activations": ["relu"], "recipe": {"lr": [0.0, 0.1]}}, "search_space.recipe.lr", "above 0"),
        ({"activations": ["relu"], "recipe": {"lr": ["a", "b"]}}, "search_space.recipe.lr", "no value for recipe.lr"),
        ({"activations": ["relu"], "recipe": {"optimizer": ["sdg"]}}, "search_space.recipe.optimizer", "'sgd'"),
        ({"activations": ["relu"], "recipe": {"lr": {"low": 1, "high": 0}}}, "search_space.recipe.lr", "Exchange"),
        ({"activations": ["relu"], "recipe": {"batch_size": ["a"]}}, "search_space.recipe.batch_size", "'a'"),
        ({"activations": [{"elu": {"alpha": [True, False]}}]}, "activations[0].elu.alpha", "True"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_place_and_cure(keywords, place, cure):
    with pytest.raises(ActSearchError) as error:
        space(**keywords)
    message = str(error.value)
    assert place in message
    assert cure in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("keywords", "place"),
    [
        ({"activations": [{"elu": {"alpha": "search"}}]}, "search_space.activations: elu: 'alpha' is a range"),
        ({"activations": ["relu"], "recipe": {"lr": {"low": 1, "high": 2}}}, "search_space.recipe: 'lr' is a range"),
    ],
)
def test_a_grid_over_a_range_is_refused(keywords, place):
    with pytest.raises(ActSearchError) as error:
        space(**keywords).enumerate()
    assert place in str(error.value)
    assert "Write a list" in str(error.value)
