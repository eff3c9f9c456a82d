"""Tuning: one grid for all, by the verdict's metric, on the search's seeds; edges go on, or are said."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from fake_trainer import FakeTrainer, Killed, confirmation, draw, evaluation
from test_finalists import RECIPE, candidate, drive, record

from actsearch.activations.spec import parse_net, print_net
from actsearch.errors import ActSearchError
from actsearch.question.metrics import ACCURACY
from actsearch.question.options import TO_TARGET
from actsearch.question.recipe import Recipe
from actsearch.records import Curves, TrialRecord
from actsearch.space.space import SearchSpace
from actsearch.study import tuning
from actsearch.study.generation import Engine
from actsearch.study.store import Results
from actsearch.study.tuning import (
    CLEARLY,
    MOST_STEPS,
    SHORTLIST,
    TIMES,
    Axis,
    axes_of,
    clearly_worse,
    cost_by,
    criterion,
)
from actsearch.training.reference import Evaluation, Run
from actsearch.verdicts.comparison import TARGET

FIXED = SearchSpace(["relu"], n_slots=1, base=Recipe(lr=0.01))
LRS = [0.01, 0.02, 0.04]
GRID = [Axis("lr", tuple(LRS)), Axis("weight_decay", (0.0, 0.1))]


def tune(storage, chosen, trainer, axes=GRID, seeds=2, **options):
    kept = Results(storage, "s/tuning", TrialRecord)
    options, engine, target = confirmation(**options), Engine(trainer, RECIPE), math.nan
    if options.metric in TO_TARGET:
        home = parse_net(options.baseline)
        target = TARGET * drive(tuning.baseline_at_best(kept, home, engine, axes, options.own, seeds))[0]
    return drive(tuning.tune_recipes(kept, chosen, engine, axes, cost_by(options, target), seeds))[0]


def reference(storage, *arguments):
    return drive(tuning.reference(Results(storage, "s/tuning", TrialRecord), *arguments))[0]


def memory():
    return optuna.storages.InMemoryStorage()


BEST = {"relu": (0.02, 0.3), "gelu": (0.16, 0.1), "tanh": (0.0025, 0.01)}
BEST_LOSS = {"relu": (0.01, 0.1), "gelu": (0.02, 1.0), "tanh": (0.04, 0.01)}


class Peaked(FakeTrainer):
    """Accuracy falls, and loss grows, with the distance from an activation's own best values, in factors of two."""

    def __init__(self, best=BEST):
        super().__init__()
        self.best = best

    def advance(self, stopped):
        step = self.runs[0].recipe.rungs()[self.rung]
        for index, run in enumerate(self.runs):
            noise = 1e-3 * draw(run.seed, step)
            far, far_loss = (self.distance(run, best) for best in (self.best, BEST_LOSS))
            share = step / run.recipe.steps
            yield index, Evaluation(step, share * (0.9 - 0.05 * far) - noise, 1 + 0.1 * far_loss + noise, 1.0)
        self.rung += 1

    def distance(self, run, best):
        lr, decay = best[print_net(run.specs)]
        of_decay = abs(math.log2((run.recipe.weight_decay + 0.01) / (decay + 0.01)))
        return abs(math.log2(run.recipe.lr / lr)) + of_decay / 10


# --- the grid -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "tune", "space", "wanted"),
    [
        (Recipe(), "auto", None, {"lr": [0.005, 0.01, 0.02, 0.04], "weight_decay": [0.01, 0.1, 0.3, 1.0]}),
        (Recipe("sgd", lr=0.1, weight_decay=5e-4), "auto", None,
         {"lr": [0.05, 0.1, 0.2, 0.4], "weight_decay": [1e-4, 5e-4, 1e-3, 1e-2]}),
        (Recipe(), "none", None, {}),
        (Recipe(), {"lr": [0.03, 0.01]}, None, {"lr": [0.01, 0.03]}),
        (Recipe(), {"lr": {"low": 1e-3, "high": 0.1, "log": True}}, None,
         {"lr": [0.001, 0.002512, 0.00631, 0.01585, 0.03981, 0.1]}),
        (Recipe(), {"optimizer": ["sgd", "adam"], "batch_size": [20, 10]}, None,
         {"optimizer": ["sgd", "adam"], "batch_size": [10, 20]}),
        # what the space searches is tuned in any case
        (Recipe(), "none", {"lr": [0.1, 0.2]}, {"lr": [0.1, 0.2]}),
        (Recipe(), "auto", {"lr": [0.1, 0.2]}, {"lr": [0.1, 0.2], "weight_decay": [0.01, 0.1, 0.3, 1.0]}),
        (Recipe(), {"lr": [0.5, 0.6]}, {"lr": [0.1, 0.2], "grad_clip": [1.0, 2.0]},
         {"lr": [0.5, 0.6], "grad_clip": [1.0, 2.0]}),
    ],
)  # fmt: skip
def test_what_is_tried(recipe, tune, space, wanted):
    found = axes_of(SearchSpace(["relu"], space, n_slots=1, base=recipe), tune)
    assert {axis.key: list(axis.values) for axis in found} == wanted


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"lr": 0.01}, "confirm.tune.lr: '0.01' is a single value"),
        ({"lr": [0.01, -1]}, "confirm.tune.lr: recipe.lr=-1"),
        ({"rate": [0.01, 0.1]}, "unknown recipe value 'rate'"),
        ({"steps": [10, 20]}, "confirm.tune.steps: 'steps' is the same for all"),
        ({key: [0.1 + i / 1000 for i in range(30)] for key in ("lr", "weight_decay")}, "lr × weight_decay makes 900 "),
    ],
)
def test_what_cannot_be_tried_is_refused(tune, words):
    with pytest.raises(ActSearchError) as error:
        axes_of(FIXED, tune)
    assert words in str(error.value)


def test_every_finalist_and_the_baseline_gets_the_same_grid_on_the_search_seeds():
    trainer = FakeTrainer()
    found = tune(memory(), [candidate("selu", lr=0.05), candidate("relu")], trainer)
    points = [(lr, decay, seed) for lr in LRS for decay in (0.0, 0.1) for seed in (0, 1)]
    n_first = len(points)
    for place, spec in enumerate(("selu", "relu")):
        theirs = [r for r in trainer.started if str(r.specs[0]) == spec]
        assert [(r.recipe.lr, r.recipe.weight_decay, r.seed) for r in theirs[:n_first]] == points
        score = {}
        for r in theirs[:n_first]:
            score.setdefault((r.recipe.lr, r.recipe.weight_decay), []).append(evaluation(r, 20).val_metric)
        best = sorted(score, key=lambda point: -np.mean(score[point]))[:SHORTLIST]
        assert [((r.recipe.lr, r.recipe.weight_decay), r.seed) for r in theirs[n_first:]] == [
            (point, seed) for point in best for seed in range(2, 2 * TIMES)
        ]
        for r in theirs[n_first:]:
            score[r.recipe.lr, r.recipe.weight_decay].append(evaluation(r, 20).val_metric)
        top = np.array(score[max(best, key=lambda point: np.mean(score[point]))])
        behind = {point: top - score[point] for point in best}
        error = {point: d.std(ddof=1) / math.sqrt(len(d)) for point, d in behind.items()}
        lr, decay = min(
            (point for point in best if behind[point].mean() <= CLEARLY * error[point]),
            key=lambda point: (point[0], behind[point].mean()),
        )
        assert found.candidates[place] == candidate(spec, lr=lr, weight_decay=decay)
    assert found.n_recipes == [6, 6]
    assert found.candidates[0].recipe != found.candidates[1].recipe  # else a mix-up could not be seen


def test_where_the_best_lies_at_an_edge_the_grid_goes_on():
    chosen = [candidate(spec) for spec in ("gelu", "tanh", "relu")]
    trainer = Peaked()
    found = tune(memory(), chosen, trainer, axes_of(FIXED, "auto"))
    assert found.candidates == [
        candidate("gelu", lr=0.16, weight_decay=0.1), candidate("tanh", lr=0.0025, weight_decay=0.01),
        candidate("relu", lr=0.02, weight_decay=0.3),
    ]  # fmt: skip
    assert found.at_edge == {}
    assert found.n_recipes == [7 * 4, 6 * 4, 4 * 4]  # up to 0.32, and down to 0.00125
    assert len({(r.specs, r.recipe.lr, r.recipe.weight_decay, r.seed) for r in trainer.started}) == len(trainer.started)


class Cliff(Peaked):
    """The larger of two rates is better by two points, except for one seed of fifteen, with which the net collapses."""

    def advance(self, stopped):
        for index, at in super().advance(stopped):
            run = self.runs[index]
            edge = {0.01: 0.80, 0.02: 0.82, 0.04: 0.6}[run.recipe.lr]
            falls = run.recipe.lr == 0.02 and run.seed == 7
            value = 0.6 if falls else edge + 0.02 * draw(run.seed, run.recipe.lr)
            yield index, replace(at, val_metric=value, val_loss=1 - value)


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss"])
def test_of_those_that_are_not_clearly_worse_the_lowest_rate_is_taken(metric):
    rates = [Axis("lr", (0.01, 0.02, 0.04))]
    found = tune(memory(), [candidate("relu")], Cliff(), rates, seeds=3, metric=metric)
    assert found.candidates == [candidate("relu", lr=0.01)]
    assert found.at_edge == {}  # the best is 0.02
    # where the best is clearly better, it is taken
    peaked = tune(memory(), [candidate("relu")], Peaked(), rates, seeds=3)
    assert peaked.candidates == [candidate("relu", lr=0.02)]


def test_clearly_worse_is_by_seed():
    cost = cost_by(confirmation(), math.nan)

    def of(*values):
        return TrialRecord(0, "relu", {}, "complete", [], Curves([20], [list(values)], [[0.0] * len(values)]))

    best = of(0.9, 0.6, 0.8, 0.7)
    assert clearly_worse(of(0.89, 0.59, 0.79, 0.69), best, cost)  # always a little less
    assert not clearly_worse(of(0.6, 0.9, 0.7, 0.7), best, cost)
    assert not clearly_worse(best, best, cost)
    assert clearly_worse(of(0.90), of(0.91), cost)  # one seed: what is best is taken


def test_an_edge_that_is_not_passed_is_said():
    found = tune(memory(), [candidate("relu"), candidate("gelu")], Peaked())
    assert found.at_edge == {"relu": ["weight_decay=0.1"], "gelu": ["lr=0.04", "weight_decay=0.1"]}
    far = Peaked({"relu": (1e9, 0.01)})
    found = tune(memory(), [candidate("relu")], far, axes_of(FIXED, "auto"))
    last = 0.04 * 2**MOST_STEPS
    assert found.at_edge == {"relu": [f"lr={last}"]}


def test_one_that_collapses_now_and_then_is_found_out_on_further_seeds():
    """It looks best on the first two seeds, and is not on six."""

    class Risky(Peaked):
        def advance(self, stopped):
            for index, at in super().advance(stopped):
                run = self.runs[index]
                risky = run.recipe.lr == 0.02 and run.recipe.weight_decay == 0.1
                value = (0.1 if run.seed == 3 else 0.95) if risky else at.val_metric
                yield index, Evaluation(at.step, value, at.val_loss, at.train_loss)

    trainer = Risky({"relu": (0.01, 0.1)})
    found = tune(memory(), [candidate("relu")], trainer)
    assert found.candidates == [candidate("relu", lr=0.01, weight_decay=0.1)]


# --- by what --------------------------------------------------------------------------------------


def test_the_metric_of_the_verdict_decides():
    chosen, axes = [candidate("relu"), candidate("gelu")], axes_of(FIXED, "auto")
    by_loss = [candidate("relu", lr=0.01, weight_decay=0.1), candidate("gelu", lr=0.02, weight_decay=1.0)]
    assert tune(memory(), chosen, Peaked(), axes, metric="test_loss").candidates == by_loss
    assert tune(memory(), chosen, Peaked(), axes, metric="learning_speed").candidates == by_loss
    found = tune(memory(), chosen, Peaked(), axes, metric="steps_to_accuracy")
    assert found.candidates[0] == candidate("relu", lr=0.02, weight_decay=0.3)
    kept = Results(memory(), "s/tuning", TrialRecord)
    at_best = tuning.baseline_at_best(kept, parse_net("relu"), Engine(Peaked(), RECIPE), axes, ACCURACY, 2)
    assert drive(at_best)[0] == pytest.approx(0.9, abs=0.002)


def test_steps_to_a_target_are_counted_for_each_seed():
    curves = Curves([10, 20], [[0.4, 0.8], [0.8, 0.8]], [[1, 1], [1, 1]], [[1, 1], [1, 1]])
    one = TrialRecord(0, "relu", {}, "complete", [], curves)
    options = confirmation(metric="steps_to_accuracy")
    assert cost_by(options, 0.6)(one) == pytest.approx((np.mean([15, 7.5]), -0.8))
    assert criterion(options) == "steps to the target on validation examples"
    assert criterion(confirmation()) == "validation accuracy"
    assert 0 < TARGET < 1


# --- going on -------------------------------------------------------------------------------------


def test_tuning_goes_on_where_it_was_and_a_finished_one_trains_nothing():
    storage, chosen = memory(), [candidate("gelu"), candidate("relu")]
    wanted = tune(memory(), chosen, FakeTrainer())
    with pytest.raises(Killed):
        tune(storage, chosen, FakeTrainer(die_at=6))  # in the second spec
    again = FakeTrainer()
    assert tune(storage, chosen, again) == wanted
    assert {str(r.specs[0]) for r in again.started} == {"relu"}
    last = FakeTrainer()
    assert tune(storage, chosen, last) == wanted
    assert last.started == []


@pytest.mark.parametrize("die_at", [2, 5, 9, 14, 21])
def test_a_kill_anywhere_changes_nothing_and_a_finished_tuning_is_at_its_end(die_at):
    """All is noise: the best on a few seeds is seldom the best on more."""

    class Noisy(FakeTrainer):
        def advance(self, stopped):
            for index, at in super().advance(stopped):
                run = self.runs[index]
                value = draw(run.specs, run.recipe.lr, run.recipe.weight_decay, run.seed)
                yield index, Evaluation(at.step, value, at.val_loss, at.train_loss)

    chosen = [candidate(s) for s in ("gelu", "tanh", "elu", "mish", "selu", "silu", "softplus", "relu")]
    wanted, storage = tune(memory(), chosen, Noisy()), memory()
    with pytest.raises(Killed):
        tune(storage, chosen, Noisy(die_at=die_at))
    assert tune(storage, chosen, Noisy()) == wanted
    last = Noisy()
    assert tune(storage, chosen, last) == wanted
    assert last.started == []


def test_a_grid_changed_later_is_the_same_for_all_again():
    storage, few = memory(), [Axis("lr", (0.02, 0.04))]
    tune(storage, [candidate("gelu"), candidate("relu")], FakeTrainer())
    trainer = FakeTrainer()
    found = tune(storage, [candidate(s) for s in ("gelu", "relu", "elu", "mish", "tanh")], trainer, few)
    assert {key for c in found.candidates for key, _ in c.recipe} == {"lr"}
    assert len(trainer.started) == 5 * 2 * 2 * TIMES


@pytest.mark.parametrize("known", ["trial", "tuning", "nothing"])
def test_the_reference_is_the_baselines_validation_accuracy_on_the_search_seeds(known):
    home, storage, trials = candidate("relu", lr=0.02), optuna.storages.InMemoryStorage(), []
    runs = [Run(home.specs, home.recipe_for(RECIPE), seed) for seed in (0, 1)]
    wanted = np.mean([evaluation(r, 20).val_metric for r in runs])
    trainer = FakeTrainer()
    if known == "trial":
        trials = [record(0, "relu", 0.625, lr=0.02), record(1, "relu", 0.9, lr=0.1)]
        wanted = 0.625
    if known == "tuning":  # only the trainer of the tuning trains
        reference(storage, home, [], Engine(FakeTrainer(), RECIPE), 2)
    found = reference(storage, home, trials, Engine(trainer, RECIPE), 2)
    assert found == pytest.approx(wanted)
    assert len(trainer.started) == (2 if known == "nothing" else 0)
