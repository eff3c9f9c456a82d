"""Finalists: who they are, the same tuning grid for all, fresh seeds, the test set only now, known numbers."""

import math

import numpy as np
import optuna
import pytest
import torch
from fake_trainer import N_CLASSES, FakeTrainer, Killed, evaluation
from scipy import stats

from actsearch.activations.spec import parse_net
from actsearch.data import Data, Source
from actsearch.errors import ActSearchError
from actsearch.finalists import (
    ConfirmOptions,
    FinalistRun,
    as_records,
    by_candidate,
    choose,
    compare,
    confirm,
    tune,
    with_baseline,
)
from actsearch.models import Model, mlp
from actsearch.recipe import Recipe
from actsearch.samplers import SamplerFactory
from actsearch.search_space import Candidate, SearchSpace
from actsearch.study import FRESH_SEED, Curves, GenerationStarted, StudyOptions, TrialRecord, open_study, search
from actsearch.training import Trainer

RECIPE = Recipe(steps=20, eval_every=10, batch_size=15)
TUNED = SearchSpace(["relu", "tanh"], {"lr": {"low": 1e-3, "high": 0.1, "log": True}}, n_slots=1, base=RECIPE)


def candidate(text, **recipe):
    return Candidate(parse_net(text), tuple(recipe.items()))


def record(number, activation, value, state="complete", **recipe):
    curves = Curves([20], [[value]], [[1 - value]], [[1 - value]])
    return TrialRecord(number, activation, recipe, state, [value], curves)


def run(activation, seed, value, diverged=False, **recipe):
    curves = Curves([20], [[value]], [[1 - value]], [[1 - value]])
    return FinalistRun(activation, recipe, seed, value, 1 - value, diverged, curves)


def drive(events):
    """What a generator returns, and the names of all it trained."""
    names = []
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, names
        if isinstance(event, GenerationStarted):
            names += event.names.values()


def test_set(n=30):
    x, y = torch.randn(n, 6, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3
    return x, y


test_set.__test__ = False


# --- who ------------------------------------------------------------------------------------------


def test_the_best_distinct_specs_besides_the_baseline_each_with_its_best_recipe_and_it():
    done = [
        record(0, "relu", 0.50, lr=0.1),
        record(1, "gelu", 0.70, lr=0.1),
        record(2, "gelu", 0.80, lr=0.2),
        record(3, "tanh", 0.75, lr=0.1),
        record(4, "mish", 0.99, state="pruned", lr=0.1),
        record(5, "elu", 0.60, lr=0.1),
        record(6, "gelu", 0.80, state="duplicate", lr=0.2),
        record(7, "relu", 0.55, lr=0.3),
    ]
    assert choose(done, 2, "relu", "val_accuracy") == [
        candidate("gelu", lr=0.2), candidate("tanh", lr=0.1), candidate("relu", lr=0.3),
    ]  # fmt: skip
    assert [c.activation for c in choose(done, 1, "selu", "val_accuracy")] == ["gelu", "selu"]
    assert [c.activation for c in choose(done, 9, "relu", "val_accuracy")] == ["gelu", "tanh", "elu", "relu"]
    # a loss is better when it is smaller
    assert [c.activation for c in choose(done, 1, "relu", "val_loss")] == ["elu", "relu"]


def test_ties_go_to_the_trial_asked_first_and_aliases_are_one_activation():
    done = [record(3, "tanh", 0.5), record(1, "silu", 0.5)]
    assert [c.activation for c in choose(done, 1, "relu", "val_accuracy")] == ["silu", "relu"]
    assert [c.activation for c in choose(done, 1, "swish", "val_accuracy")] == ["tanh", "silu"]


def test_the_baseline_is_added_once():
    nets = [candidate("relu"), candidate("tanh")]
    assert with_baseline(nets, "relu") == nets
    assert with_baseline(nets, "gelu") == [*nets, candidate("gelu")]
    assert with_baseline([candidate("leaky_relu")], "leaky_relu(negative_slope=0.01)") == [candidate("leaky_relu")]


# --- tuning ---------------------------------------------------------------------------------------


def test_every_finalist_and_the_baseline_gets_the_same_grid_on_the_search_seeds():
    trainer, storage = FakeTrainer(), optuna.storages.InMemoryStorage()
    chosen = [candidate("selu", lr=0.05), candidate("relu")]
    tuned, _ = drive(
        tune(storage, "s", chosen, trainer, TUNED, RECIPE, ConfirmOptions(tune_trials=4), 2, "val_accuracy")
    )
    points = [dict(p)["lr"] for p in TUNED.recipe_points(4)]
    for spec in ("selu", "relu"):
        theirs = [r for r in trainer.started if str(r.specs[0]) == spec]
        assert [(r.recipe.lr, r.seed) for r in theirs] == [(lr, seed) for lr in points for seed in (0, 1)]
    for place, spec in enumerate(("selu", "relu")):
        score = {}
        for r in trainer.started:
            if str(r.specs[0]) == spec:
                score[r.recipe.lr] = score.get(r.recipe.lr, 0) + evaluation(r, 20).val_metric
        assert tuned[place] == candidate(spec, lr=max(score, key=score.get))
    assert tuned[0].recipe != tuned[1].recipe  # the fake favours other rates: the test would see a mix-up


def test_tuning_goes_on_where_it_was_and_a_finished_one_trains_nothing():
    storage, chosen = optuna.storages.InMemoryStorage(), [candidate("gelu"), candidate("relu")]
    arguments = (TUNED, RECIPE, ConfirmOptions(tune_trials=3), 2, "val_accuracy")
    wanted, _ = drive(tune(optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), *arguments))
    with pytest.raises(Killed):
        drive(tune(storage, "s", chosen, FakeTrainer(die_at=4), *arguments))  # in the second spec
    again = FakeTrainer()
    assert drive(tune(storage, "s", chosen, again, *arguments))[0] == wanted
    assert {str(r.specs[0]) for r in again.started} == {"relu"}
    last = FakeTrainer()
    assert drive(tune(storage, "s", chosen, last, *arguments))[0] == wanted
    assert last.started == []


def test_a_grid_changed_later_is_the_same_for_all_again():
    storage = optuna.storages.InMemoryStorage()

    def tuned(specs, n):
        options = ConfirmOptions(tune_trials=n)
        chosen = [candidate(s) for s in specs]
        return drive(tune(storage, "s", chosen, FakeTrainer(), TUNED, RECIPE, options, 1, "val_accuracy"))[0]

    tuned(["gelu", "relu"], 5)
    second = {dict(p)["lr"] for p in TUNED.recipe_points(2)}
    for found in tuned(["gelu", "relu", "elu", "mish", "tanh", "selu"], 2):
        assert dict(found.recipe)["lr"] in second


def test_without_searched_recipe_values_there_is_nothing_to_tune():
    fixed = SearchSpace(["relu"], n_slots=1, base=RECIPE)
    trainer = FakeTrainer()
    chosen = [candidate("relu"), candidate("tanh")]
    found, names = drive(
        tune(
            optuna.storages.InMemoryStorage(), "s", chosen, trainer, fixed, RECIPE, ConfirmOptions(), 2, "val_accuracy"
        )
    )
    assert (found, names, trainer.started) == (chosen, [], [])


# --- the runs -------------------------------------------------------------------------------------


def source(log):
    x, y = test_set(90)

    def test():
        log.append("test")
        return test_set()

    return Data(Source(x, y, test), "blobs", 30)


def test_each_finalist_is_trained_on_the_same_fresh_seeds_and_scored_at_the_last_step():
    trainer, log = FakeTrainer(), []
    options = ConfirmOptions(seeds=7)
    chosen = [candidate("gelu", lr=0.05), candidate("relu")]
    runs, _ = drive(confirm(optuna.storages.InMemoryStorage(), "s", chosen, trainer, source(log), RECIPE, options))
    seeds = list(range(FRESH_SEED, FRESH_SEED + 7))
    assert [(r.activation, r.seed) for r in runs] == [(a, s) for a in ("gelu", "relu") for s in seeds]
    assert not set(seeds) & set(range(StudyOptions(seeds=1000).seeds))  # never a search seed
    assert {r.recipe.lr for r in trainer.started if str(r.specs[0]) == "gelu"} == {0.05}
    for r, t in zip(runs, sorted(trainer.started, key=lambda t: (str(t.specs[0]), t.seed)), strict=True):
        assert r.test_metric == evaluation(t, 20).val_metric - 0.01
        assert r.test_loss == evaluation(t, 20).val_loss + 0.02
        assert r.curves.steps == [10, 20]
        assert r.curves.val_metric == [[evaluation(t, 10).val_metric], [evaluation(t, 20).val_metric]]


def test_a_diverged_run_counts_as_chance_and_is_kept():
    chosen = [candidate("softmax"), candidate("relu")]
    with_fake = confirm(
        optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), source([]), RECIPE, ConfirmOptions(seeds=2)
    )
    runs, _ = drive(with_fake)
    assert [r.diverged for r in runs] == [True, True, False, False]
    assert runs[0].curves.train_loss == [[evaluation_of("softmax", 10)], [None]]
    bad = next(c for c in compare(runs, "relu") if c.activation == "softmax")
    assert (bad.n_diverged, bad.n_seeds) == (2, 2)
    assert bad.mean == pytest.approx(1 / N_CLASSES - 0.01)


def evaluation_of(text, step):
    from actsearch.training import Run

    return evaluation(Run(parse_net(text), RECIPE, FRESH_SEED), step).train_loss


def test_confirming_goes_on_without_training_again_and_gives_the_same():
    options, chosen = ConfirmOptions(seeds=12), [candidate("gelu"), candidate("relu")]
    wanted, _ = drive(
        confirm(optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), source([]), RECIPE, options)
    )
    storage, first, second, third = (
        optuna.storages.InMemoryStorage(),
        FakeTrainer(die_at=4),
        FakeTrainer(),
        FakeTrainer(),
    )
    with pytest.raises(Killed):
        drive(confirm(storage, "s", chosen, first, source([]), RECIPE, options))
    done = {(t.user_attrs["result"]) for t in optuna.load_study(study_name="s/finalists", storage=storage).trials}
    assert 0 < len(done) < 24
    runs, _ = drive(confirm(storage, "s", chosen, second, source([]), RECIPE, options))
    assert runs == wanted
    assert len(second.started) == 24 - len(done)
    assert drive(confirm(storage, "s", chosen, third, source([]), RECIPE, options))[0] == wanted
    assert third.started == []


def test_more_seeds_or_another_finalist_add_only_what_is_missing():
    storage = optuna.storages.InMemoryStorage()
    chosen = [candidate("gelu"), candidate("relu")]
    drive(confirm(storage, "s", chosen, FakeTrainer(), source([]), RECIPE, ConfirmOptions(seeds=3)))
    more = FakeTrainer()
    drive(confirm(storage, "s", chosen, more, source([]), RECIPE, ConfirmOptions(seeds=5)))
    assert sorted({r.seed for r in more.started}) == [1003, 1004]
    third = FakeTrainer()
    runs, _ = drive(
        confirm(storage, "s", [candidate("tanh"), chosen[1]], third, source([]), RECIPE, ConfirmOptions(seeds=5))
    )
    assert {str(r.specs[0]) for r in third.started} == {"tanh"}
    assert [c.activation for c in compare(runs, "relu")].count("gelu") == 0


# --- the test set ---------------------------------------------------------------------------------


def test_the_test_set_is_not_touched_before_the_finalists(blobs):
    """With real training: `test` raises until the search is over; the training processes never get it at all."""
    made = blobs()
    allowed, log = [], []

    def test():
        if not allowed:
            raise AssertionError("the test set was read")
        log.append(len(log))
        return made.test()

    data = Data(Source(made.source.x, made.source.y, test), "blobs", 30)
    space = SearchSpace(["relu", "tanh"], {"lr": [0.01, 0.03]}, n_slots=1, base=RECIPE)
    storage, options = optuna.storages.InMemoryStorage(), StudyOptions(n_trials=4, seeds=2, generation=2)
    with Trainer(torch.device("cpu"), cores=1) as trainer:
        trainer.load(Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1}), data)
        study = open_study(storage, "s", options.objectives, {})
        sampler = SamplerFactory(optuna.samplers.TPESampler, {}, 0)
        list(search(study, trainer, space, RECIPE, options, sampler, optuna.pruners.NopPruner(), lambda c: 0.0))
        chosen = [candidate("tanh"), candidate("relu")]
        confirm_options = ConfirmOptions(seeds=2, tune_trials=2)
        chosen, _ = drive(tune(storage, "s", chosen, trainer, space, RECIPE, confirm_options, 2, "val_accuracy"))
        events = confirm(storage, "s", chosen, trainer, data, RECIPE, confirm_options)
        with pytest.raises(AssertionError, match="test set was read"):
            drive(events)
        assert log == []
        allowed.append(True)
        runs, _ = drive(confirm(storage, "s", chosen, trainer, data, RECIPE, confirm_options))
    assert log
    _x, y = made.test()
    for r in runs:  # real scores of 30 examples, better than chance
        assert (r.test_metric * len(y)) == pytest.approx(round(r.test_metric * len(y)))
    assert np.mean([r.test_metric for r in runs]) > 0.5


# --- numbers --------------------------------------------------------------------------------------


def test_comparisons_are_numpys_and_scipys_numbers():
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.02, 20)
    scores = {"gelu": base + rng.normal(0.02, 0.01, 20), "tanh": base - rng.normal(0.05, 0.01, 20), "relu": base}
    runs = [run(a, 1000 + i, float(v)) for a in ("tanh", "relu", "gelu") for i, v in enumerate(scores[a])]
    found = compare(runs, "relu")
    assert [c.activation for c in found] == ["gelu", "relu", "tanh"]
    for c in found:
        assert c.mean == pytest.approx(scores[c.activation].mean(), rel=1e-12)
        assert c.std == pytest.approx(scores[c.activation].std(ddof=1), rel=1e-12)
        assert (c.n_seeds, c.is_baseline) == (20, c.activation == "relu")
        if c.is_baseline:
            assert c.difference is None
            continue
        theirs = stats.ttest_rel(scores[c.activation], base).confidence_interval(0.95)
        assert (c.difference.ci_low, c.difference.ci_high) == pytest.approx((theirs.low, theirs.high), rel=1e-10)
        assert c.difference.mean == pytest.approx((scores[c.activation] - base).mean(), rel=1e-10)


def test_pairs_are_made_by_seed_whatever_the_order_of_the_runs():
    runs = [run("relu", 1001, 0.5), run("gelu", 1000, 0.4), run("relu", 1000, 0.3), run("gelu", 1001, 0.6)]
    found = next(c for c in compare(runs, "relu") if not c.is_baseline)
    assert found.difference.mean == pytest.approx(0.1)
    assert found.difference.ci_low == pytest.approx(0.1)  # both pairs differ by 0.1: no spread


def test_one_seed_has_no_spread():
    found = compare([run("relu", 1000, 0.5), run("gelu", 1000, 0.6)], "relu")
    assert math.isnan(found[0].std)
    assert math.isnan(found[0].difference.ci_low)


def test_runs_of_one_spec_with_two_recipes_are_two_groups():
    runs = [run("gelu", 1000, 0.5, lr=0.1), run("gelu", 1000, 0.6, lr=0.2), run("gelu", 1001, 0.7, lr=0.1)]
    assert [[r.test_metric for r in group] for group in by_candidate(runs)] == [[0.5, 0.7], [0.6]]


def test_as_records_gathers_the_seeds_of_each_finalist():
    runs = [run("relu", 1001, 0.5), run("relu", 1000, 0.3, diverged=True), run("gelu", 1000, 0.4)]
    relu, gelu = as_records(runs, "val_accuracy")
    assert relu.curves.val_metric == [[0.3, 0.5]]
    assert (relu.values, relu.curves.n_diverged, relu.number) == ([0.4], 1, 0)
    assert (gelu.values, gelu.state) == ([0.4], "complete")
    assert as_records(runs, "val_loss")[1].values == [0.6]


def test_a_finalist_run_survives_json():
    before = run("leaky_relu(negative_slope=0.02)", 1003, 0.1 + 0.2, diverged=True, lr=0.1)
    assert FinalistRun.from_json(before.to_json()) == before


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"finalists": 0}, "confirm.finalists=0"),
        ({"finalists": "many"}, "confirm.finalists=many: write a number, or all"),
        ({"seeds": 0}, "confirm.seeds=0"),
        ({"tune_trials": 0}, "confirm.tune_trials=0"),
        ({"baseline": "rleu"}, "confirm.baseline: unknown activation 'rleu'. Did you mean 'relu'?"),
    ],
)
def test_options_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ActSearchError) as error:
        ConfirmOptions(**keywords)
    assert words in str(error.value)
