"""The grammar as a search space: what it holds, what is turned away, and evolution over it."""

import itertools
import math

import optuna
import pytest
import torch

from actsearch.activations import Spec
from actsearch.activations.fingerprint import fingerprint, is_constant, net_fingerprint
from actsearch.errors import ActSearchError
from actsearch.question.recipe import Recipe
from actsearch.space.grammar import BINARY, UNARY, Grammar, Unusable, put, usable
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import EvolutionSampler, SamplerFactory

SMALL = Grammar(unary=("x", "tanh(x)", "-x", "0"), binary=("a + b", "a * b"), depth=1)


# --- the same function ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("relu", "max(x, 0)"),
        ("relu", "0.5 * (x + abs(x))"),
        ("silu", "x * sigmoid(x)"),
        ("tanh", "2 * sigmoid(2 * x) - 1"),
        ("mish", "x * tanh(log(1 + exp(x)))"),
        ("leaky_relu(negative_slope=0.02)", "max(0.02 * x, x)"),
        ("elu", "celu"),
        ("identity", "leaky_relu(negative_slope=1)"),
    ],
)
def test_equal_functions_have_one_fingerprint(one, other):
    assert fingerprint(Spec.parse(one)) == fingerprint(Spec.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("relu", "leaky_relu(negative_slope=0.001)"),
        ("leaky_relu(negative_slope=0.02)", "leaky_relu(negative_slope=0.02001)"),
        ("gelu", "gelu(approximate=tanh)"),
        ("relu", "relu6"),
        ("silu(beta=learned)", "silu"),
        ("tanh", "hardtanh"),
        ("sin(x)", "sin(x + 2 * pi + 0.001)"),
    ],
)
def test_different_functions_have_different_ones(one, other):
    assert fingerprint(Spec.parse(one)) != fingerprint(Spec.parse(other))


def test_what_is_learned_or_sees_channels_is_only_itself():
    for text in ("silu(beta=learned)", "softmax", "swiglu"):
        assert fingerprint(Spec.parse(text)) == text
    assert net_fingerprint("relu | gelu") == net_fingerprint("max(x, 0) | gelu") != net_fingerprint("gelu | relu")


@pytest.mark.parametrize(("text", "constant"), [("sigmoid(x) + sigmoid(-x)", True), ("1 + 0.001 * tanh(x)", False)])
def test_constant_is_what_gives_the_same_whatever_goes_in(text, constant):
    assert is_constant(Spec.parse(text)) == constant


# --- the space ------------------------------------------------------------------------------------


def test_the_default_is_the_papers_5103():
    assert len(UNARY) ** 2 * len(BINARY) == 5103
    assert len(set(UNARY)) == 27


def test_put_replaces_whole_names_only():
    assert put("max(a, b) + abs(a)", a="x", b="exp(x)") == "max((x), (exp(x))) + abs((x))"
    assert put("exp(x) * x", x="tanh(x)") == "exp((tanh(x))) * (tanh(x))"


def test_a_small_space_by_hand():
    """x, tanh, −x, 0 with + and ·: every pair, by the values themselves."""
    x = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)
    functions = {"x": x, "tanh(x)": x.tanh(), "-x": -x, "0": 0 * x}
    wanted = set()
    for a, b in itertools.product(functions.values(), repeat=2):
        for made in (a + b, a * b):
            if made.max() - made.min() > 1e-9:
                wanted.add(tuple(f"{v:.8f}".replace("-0.00000000", "0.00000000") for v in made.tolist()))
    found = {text: spec for text, spec in SMALL.examined()}
    specs = [spec for spec in found.values() if isinstance(spec, Spec)]
    got = {tuple(f"{v:.8f}".replace("-0.00000000", "0.00000000") for v in s(x.view(1, -1))[0].tolist()) for s in specs}
    assert len(found) == 32
    assert len(specs) == len(wanted)
    assert got == wanted
    assert all(f.reason == "constant" for f in found.values() if isinstance(f, Unusable))
    assert [spec for (spec,) in SMALL.all()] == specs


@pytest.mark.parametrize(
    ("text", "reason"),
    [("(x) - (x)", "constant"), ("(1) / (0)", "not finite"), ("log(x)", "not finite"), ("(0) / (x)", "constant"),
     ("1 / (x)", "not finite"), ("(cosh(x)) ** (cosh(exp(x)))", "not finite")],
)  # fmt: skip
def test_the_unusable_are_turned_away_with_a_reason(text, reason):
    with pytest.raises(Unusable) as caught:
        usable(text)
    assert reason in caught.value.reason
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        ({"grammar": {"depth": 0}}, ["search_space.activations[0].grammar.depth=0", "from 1 to"]),
        ({"grammar": {"depth": True}}, ["depth=True"]),
        ({"grammar": {"deep": 1}}, ["grammar.deep", "unary, binary and depth"]),
        ({"grammar": {"unary": "x"}}, ["grammar.unary", "a list"]),
        ({"grammar": {"unary": []}}, ["grammar.unary", "a list"]),
        ({"grammar": {"unary": ["x", "exq(x)"]}}, ["grammar.unary[1]", "exq"]),
        ({"grammar": {"unary": ["y + x"]}}, ["grammar.unary[0]", "function of x"]),
        ({"grammar": {"binary": ["a + x"]}}, ["grammar.binary[0]", "function of a and b"]),
        ({"grammar": 3}, ["grammar", "mapping"]),
    ],
)
def test_a_wrong_grammar_is_one_clear_line(item, parts):
    with pytest.raises(ActSearchError) as caught:
        SearchSpace([item], n_slots=1, base=Recipe())
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_deep_grammar_cannot_be_listed():
    with pytest.raises(ActSearchError, match="depth 2 has too many"):
        SearchSpace([{"grammar": {"depth": 2}}], n_slots=1, base=Recipe()).nets()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_grammar_of_constants_only_is_refused(depth):
    space = SearchSpace([{"grammar": {"depth": depth, "unary": ["x"], "binary": ["a - b"]}}], n_slots=1, base=Recipe())
    with pytest.raises(ActSearchError, match="makes no usable function of x"):
        space.typical()


def test_a_deep_grammar_still_has_one_to_try_a_model_with():
    (candidate,) = SearchSpace(
        [{"grammar": {"depth": 3, "unary": ["0", "sin(x)"]}}], n_slots=1, base=Recipe()
    ).typical()
    assert candidate.activation == "sin"


def test_trials_suggest_and_their_names_say_where():
    space = SearchSpace([{"grammar": {"depth": 2}}], n_slots=1, base=Recipe())
    chosen = {
        "activation": "grammar", "grammar.binary": "max(a, b)", "grammar.unary1": "tanh(x)", "grammar.input1": "unit",
        "grammar.1.binary": "a * b", "grammar.1.unary1": "x", "grammar.1.unary2": "sigmoid(x)",
        "grammar.unary2": "relu(x)", "grammar.input2": "x",
    }  # fmt: skip
    trial = optuna.trial.FixedTrial(chosen)
    assert space.suggest(trial).activation == "max(relu(x), tanh(silu(x)))" or fingerprint(
        space.suggest(trial).specs[0]
    ) == fingerprint(Spec.parse("max(tanh(x * sigmoid(x)), relu(x))"))


# --- evolution ------------------------------------------------------------------------------------


def evolved(n_trials, seed=0, grammar=None, sampler=None, score=None):
    """A study as ask/tell, without training: the nearer to x·sigmoid(x) the better."""
    space = SearchSpace([{"grammar": grammar or {"depth": 2}}], n_slots=1, base=Recipe())
    x = torch.linspace(-4, 4, 81, dtype=torch.float64).view(1, -1)
    target = x * torch.sigmoid(1.5 * x) + 0.3 * torch.sin(x)
    make = sampler or SamplerFactory(EvolutionSampler, {"population": 24, "tournament": 6}, seed)
    study = optuna.create_study(direction="maximize")
    for number in range(n_trials):
        study.sampler = make(number, 0)
        trial = study.ask()
        try:
            spec = space.suggest(trial).specs[0]
        except Unusable:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        error = (spec(x) - target).square().mean().item()
        study.tell(trial, -error if math.isfinite(error) else -1e9)
    return study


def test_evolution_finds_better_than_chance_and_repeats():
    chance = [SamplerFactory(optuna.samplers.RandomSampler, {}, seed) for seed in range(3)]
    by_evolution = [evolved(250, seed).best_value for seed in range(3)]
    at_random = [evolved(250, sampler=sampler).best_value for sampler in chance]
    assert sum(by_evolution) > sum(at_random)
    assert evolved(60, 1).best_params == evolved(60, 1).best_params


def test_children_are_nearly_their_parents():
    """After the random start most of a child's choices are those of one former trial, yet it is another."""
    trials = [t for t in evolved(120).trials if t.state == optuna.trial.TrialState.COMPLETE]
    for i, child in enumerate(trials[40:], 40):
        former = trials[max(0, i - 60) : i]
        shared = [sum(child.params.get(k) == v for k, v in t.params.items()) / len(t.params) for t in former]
        assert max(shared) > 0.3
    assert len({str(sorted(t.params.items())) for t in trials}) > 0.6 * len(trials)


def test_each_operation_on_a_tree():
    sampler = EvolutionSampler(seed=0)
    params = {
        "activation": "grammar", "grammar.binary": "a + b", "grammar.unary1": "exp(x)", "grammar.input1": "unit",
        "grammar.1.binary": "a * b", "grammar.1.unary1": "x", "grammar.1.unary2": "tanh(x)", "grammar.unary2": "x",
        "grammar.input2": "x",
    }  # fmt: skip
    kinds = set()
    for _ in range(400):
        child = sampler._mutated(dict(params))
        lost = set(params) - set(child)
        if "grammar.binary" in child and child["grammar.binary"] == "a * b":
            assert child["grammar.unary2"] == "tanh(x)"
            kinds.add("removed")
        elif any(name.startswith(("grammar.1.1.", "grammar.1.2.", "grammar.2.")) for name in child):
            kinds.add("inserted")
        elif len(lost) == 1:
            kinds.add("changed")
        else:
            assert {name for name in params if name.startswith("grammar.1.")} <= lost
            kinds.add("regenerated")
    assert kinds == {"removed", "inserted", "changed", "regenerated"}
    other = {"grammar.binary": "max(a, b)", "grammar.unary1": "sin(x)", "grammar.unary2": "cos(x)"}
    crossed = [sampler._crossed(dict(params), other) for _ in range(50)]
    assert any("sin(x)" in child.values() for child in crossed) and any("cos(x)" in child.values() for child in crossed)
    assert all(child["grammar.binary"] == "a + b" for child in crossed)


@pytest.mark.parametrize("keywords", [{"tournament": 99}, {"crossover": 2}, {"population": 0}], ids=str)
def test_wrong_values_of_evolution(keywords):
    with pytest.raises(ActSearchError, match=f"{next(iter(keywords))}="):
        SamplerFactory(EvolutionSampler, keywords, 0)
