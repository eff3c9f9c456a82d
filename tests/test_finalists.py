"""Finalists: who they are, the same tuning grid for all, fresh seeds, the test set only now, known numbers."""

import dataclasses
import math

import numpy as np
import optuna
import pytest
import torch
import torch.nn.functional as F
from fake_trainer import N_CLASSES, FakeTrainer, Killed, confirmation, evaluation

from actsearch.activations.spec import parse_net
from actsearch.data.goal import commonest, pixels
from actsearch.data.source import Data, Source
from actsearch.errors import ActSearchError
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.packed import pack, unpack
from actsearch.question.metrics import ACCURACY
from actsearch.question.options import FRESH_SEED, RATES, StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.records import (
    Candidate,
    Cost,
    Curves,
    Evidence,
    FinalistRun,
    GenerationStarted,
    TrialRecord,
    by_candidate,
    candidate_key,
)
from actsearch.space.space import SearchSpace
from actsearch.study import finalists as stage
from actsearch.study.finalists import as_records, choose_finalists, with_baseline
from actsearch.study.generation import Engine
from actsearch.study.samplers import SamplerFactory
from actsearch.study.search import run_trials
from actsearch.study.store import Results, open_study
from actsearch.study.tuning import axes_of, by_final_metric, tune_recipes
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer
from actsearch.verdicts import comparison
from actsearch.verdicts.looks import level_at_looks

RECIPE = Recipe(steps=20, eval_every=10, batch_size=15)


def candidate(text, **recipe):
    return Candidate(parse_net(text), tuple(recipe.items()))


def record(number, activation, value, state="complete", **recipe):
    curves = Curves([20], [[value]], [[1 - value]], [[1 - value]])
    return TrialRecord(number, activation, recipe, state, [value], curves)


def run(activation, seed, value, diverged=False, **recipe):
    curves = Curves([20], [[value]], [[1 - value]], [[1 - value]])
    return FinalistRun(activation, recipe, seed, value, 1 - value, diverged, curves)


def kept(storage, name):
    return Results(storage, f"{name}/finalists", FinalistRun)


def stored_runs(storage, name):
    return {r.key: r for r in kept(storage, name).all()}


def n_test(storage, name):
    return kept(storage, name).n_test


def confirm(storage, name, candidates, trainer, data, recipe, options, target=None, costs=None):
    known = Evidence(target=target, costs=costs or {})
    evidence = yield from stage.confirm(kept(storage, name), candidates, trainer, data, recipe, options, known)
    return list(evidence.runs)


def standing(done, candidates, recipe, options, target):
    evidence, wanted = stage.standing(Evidence(list(done.values()), target), candidates, recipe, options)
    return list(evidence.runs), wanted


def compare(runs, options, target=None, costs=None):
    return comparison.compare_finalists(Evidence(runs, target, costs or {}), options)


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
    assert choose_finalists(done, 2, "relu", "maximize") == [
        candidate("gelu", lr=0.2), candidate("tanh", lr=0.1), candidate("relu", lr=0.3),
    ]  # fmt: skip
    assert [c.activation for c in choose_finalists(done, 1, "selu", "maximize")] == ["gelu", "selu"]
    assert [c.activation for c in choose_finalists(done, 9, "relu", "maximize")] == ["gelu", "tanh", "elu", "relu"]
    # a loss is better when it is smaller
    assert [c.activation for c in choose_finalists(done, 1, "relu", "minimize")] == ["elu", "relu"]


def test_ties_go_to_the_trial_asked_first_and_aliases_are_one_activation():
    done = [record(3, "tanh", 0.5), record(1, "silu", 0.5)]
    assert [c.activation for c in choose_finalists(done, 1, "relu", "maximize")] == ["silu", "relu"]
    assert [c.activation for c in choose_finalists(done, 1, "swish", "maximize")] == ["tanh", "silu"]


def test_the_baseline_is_added_once():
    nets = [candidate("relu"), candidate("tanh")]
    assert with_baseline(nets, "relu") == nets
    assert with_baseline(nets, "gelu") == [*nets, candidate("gelu")]
    assert with_baseline([candidate("leaky_relu")], "leaky_relu(negative_slope=0.01)") == [candidate("leaky_relu")]


# --- the runs -------------------------------------------------------------------------------------


def source(log):
    x, y = test_set(90)

    def test():
        log.append("test")
        return test_set()

    return Data(Source(x, y, test), "blobs", 30)


def test_each_finalist_is_trained_on_the_same_fresh_seeds_and_scored_at_the_last_step():
    trainer, log = FakeTrainer(), []
    options = confirmation(seeds=7)
    chosen = [candidate("gelu", lr=0.05), candidate("relu")]
    runs, _ = drive(confirm(optuna.storages.InMemoryStorage(), "s", chosen, trainer, source(log), RECIPE, options))
    seeds = list(range(FRESH_SEED, FRESH_SEED + 7))
    assert [(r.activation, r.seed) for r in runs] == [(a, s) for a in ("gelu", "relu") for s in seeds]
    assert not set(seeds) & set(range(StudyOptions(seeds=1000).settled(ACCURACY).seeds))  # never a search seed
    assert {r.recipe.lr for r in trainer.started if str(r.specs[0]) == "gelu"} == {0.05}
    for r, t in zip(runs, sorted(trainer.started, key=lambda t: (str(t.specs[0]), t.seed)), strict=True):
        assert r.test_metric == evaluation(t, 20).val_metric - 0.01
        assert r.test_loss == evaluation(t, 20).val_loss + 0.02
        assert r.curves.steps == [10, 20]
        assert r.curves.val_metric == [[evaluation(t, 10).val_metric], [evaluation(t, 20).val_metric]]


def test_a_diverged_run_counts_as_chance_and_is_kept():
    chosen = [candidate("softmax"), candidate("relu")]
    with_fake = confirm(
        optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), source([]), RECIPE, confirmation(seeds=2)
    )
    runs, _ = drive(with_fake)
    assert [r.diverged for r in runs] == [True, True, False, False]
    assert runs[0].curves.train_loss == [[evaluation_of("softmax", 10)], [None]]
    bad = next(c for c in compare(runs, confirmation()) if c.activation == "softmax")
    assert (bad.n_failed, bad.n_seeds, bad.verdict.n_failed, bad.verdict.n_failed_baseline) == (2, 2, 2, 0)
    assert "2 of 2 runs failed" in bad.verdict.warning
    assert bad.mean == pytest.approx(1 / N_CLASSES - 0.01)


def evaluation_of(text, step):
    return evaluation(Run(parse_net(text), RECIPE, FRESH_SEED), step).train_loss


def test_confirming_goes_on_without_training_again_and_gives_the_same():
    options, chosen = confirmation(seeds=12), [candidate("gelu"), candidate("relu")]
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
    drive(confirm(storage, "s", chosen, FakeTrainer(), source([]), RECIPE, confirmation(seeds=3)))
    more = FakeTrainer()
    drive(confirm(storage, "s", chosen, more, source([]), RECIPE, confirmation(seeds=5)))
    assert sorted({r.seed for r in more.started}) == [1003, 1004]
    third = FakeTrainer()
    runs, _ = drive(
        confirm(storage, "s", [candidate("tanh"), chosen[1]], third, source([]), RECIPE, confirmation(seeds=5))
    )
    assert {str(r.specs[0]) for r in third.started} == {"tanh"}
    assert [c.activation for c in compare(runs, confirmation())].count("gelu") == 0


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
    storage, options = (
        optuna.storages.InMemoryStorage(),
        StudyOptions(n_trials=4, seeds=2, generation=2).settled(ACCURACY),
    )
    with Trainer(torch.device("cpu"), cores=1) as trainer:
        trainer.load(Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1}), data)
        study = open_study(storage, "s", ["maximize"], {})
        sampler, engine = SamplerFactory(optuna.samplers.TPESampler, {}, 0), Engine(trainer, RECIPE)
        list(run_trials(study, engine, space, options, sampler, optuna.pruners.NopPruner(), lambda c: 0.0))
        chosen = [candidate("tanh"), candidate("relu")]
        confirm_options = confirmation(seeds=2)
        kept = Results(storage, "s/tuning", TrialRecord)
        axes = axes_of(space, {"weight_decay": [0.0, 0.1]})
        tuned, _ = drive(tune_recipes(kept, chosen, engine, axes, by_final_metric(ACCURACY), 2))
        chosen = tuned.candidates
        events = confirm(storage, "s", chosen, trainer, data, RECIPE, confirm_options)
        with pytest.raises(ActSearchError, match="test set was read"):
            drive(events)
        assert log == []
        allowed.append(True)
        runs, _ = drive(confirm(storage, "s", chosen, trainer, data, RECIPE, confirm_options))
    assert log
    _x, y = made.test()
    for r in runs:  # real scores of 30 examples, better than chance
        assert (r.test_metric * len(y)) == pytest.approx(round(r.test_metric * len(y)))
    assert np.mean([r.test_metric for r in runs]) > 0.5


# --- examples like these --------------------------------------------------------------------------


def smooth(y):
    """Regression, judged by PSNR, which is computed from the mean loss."""
    return dataclasses.replace(pixels(y), loss=F.mse_loss)


@pytest.mark.parametrize("metric", ["test_metric", "test_loss"])
@pytest.mark.parametrize("goal", [None, smooth])
def test_what_each_example_scores_is_kept_with_the_run(metric, goal, blobs):
    data = blobs()
    if goal is not None:
        answer = lambda x: torch.sigmoid(x[:, :1])  # noqa: E731
        (x, _), (x_test, _) = (data.source.x, data.source.y), data.test()
        source = Source(x, answer(x), lambda: (x_test, answer(x_test)), goal=goal(answer(x)))
        data = Data(source, "waves", 30)
    options = confirmation(data.goal.metric, seeds=12, metric=metric)
    storage = optuna.storages.InMemoryStorage()
    with Trainer(torch.device("cpu"), cores=1) as trainer:
        trainer.load(Model(mlp, "mlp", (6,), data.goal.out_shape, {"width": 8, "depth": 1}), data)
        chosen = [candidate("tanh"), candidate("relu")]
        runs, _ = drive(confirm(storage, "s", chosen, trainer, data, RECIPE, options))
    n = len(data.test()[1])
    for r in (*runs, *kept(storage, "s").all()):
        assert list(r.of_each) == [options.metric]
        each = unpack(r.of_each[options.metric])
        assert each.dtype == (bool if goal is None and metric == "test_metric" else np.float32)
        assert len(each) == n
        wanted = r.test_loss if metric == "test_loss" else r.test_metric
        assert each.mean(dtype=float) == pytest.approx(wanted, rel=1e-5)
    found = next(c.verdict for c in compare(runs, options) if not c.is_baseline)
    assert found.population_ci_low < found.ci_low < found.ci_high < found.population_ci_high
    # runs of an older study, or of one whose verdict was about something else
    bare = next(c.verdict for c in compare([dataclasses.replace(r, of_each={}) for r in runs], options) if c.verdict)
    assert math.isnan(bare.population_ci_low)
    assert bare.ci_low == found.ci_low


def test_no_seeds_are_added_where_only_more_examples_would_decide():
    """Two that are equal on these 40 examples, of which half are told apart: no number of seeds helps."""
    entrants, done, rng = [candidate("gelu"), candidate("relu")], {}, np.random.default_rng(0)
    options = confirmation(until_decided=True, looks=[10, 20, 40], margin={"test_accuracy": 0.05})
    for name in ("gelu", "relu"):
        for seed in range(FRESH_SEED, FRESH_SEED + 40):
            right = np.roll(np.arange(40) % 4 > 1, 2 * (name == "relu"))
            right[rng.integers(40)] ^= rng.random() < 0.3
            made = run(name, seed, float(right.mean()))
            made.of_each = {"test_accuracy": pack(right)}
            done[made.key] = made
    runs, wanted = standing(done, entrants, RECIPE, options, None)
    assert (wanted, seeds_of(runs)) == ([], {"gelu": 10, "relu": 10})
    found = next(c.verdict for c in compare(runs, options) if c.verdict)
    assert (found.verdict, found.few_examples) == ("undecided", True)
    bare = {k: dataclasses.replace(r, of_each={}) for k, r in done.items()}
    runs, _ = standing(bare, entrants, RECIPE, options, None)
    assert next(c.verdict.verdict for c in compare(runs, options) if c.verdict) == "equivalent"


# --- as records -----------------------------------------------------------------------------------


def test_as_records_gathers_the_seeds_of_each_finalist():
    runs = [run("relu", 1001, 0.5), run("relu", 1000, 0.3, diverged=True), run("gelu", 1000, 0.4)]
    relu, gelu = as_records(runs, "val_accuracy")
    assert relu.curves.val_metric == [[0.3, 0.5]]
    assert (relu.values, relu.curves.n_diverged, relu.number) == ([0.4], 1, 0)
    assert (gelu.values, gelu.state) == ([0.4], "complete")
    assert as_records(runs, "val_loss")[1].values == [0.6]


# --- until decided --------------------------------------------------------------------------------

# the fake's true accuracies: tanh 82 %, selu half a point less, softsign 6, hardswish 27; each with noise of 2.9 points
FOUR = [candidate("hardswish"), candidate("softsign"), candidate("selu"), candidate("tanh")]
UNTIL = confirmation(baseline="tanh", until_decided=True, looks=[10, 20, 40], margin={"test_accuracy": 0.001})


def trained(entrant, seed, recipe=RECIPE):
    """The run of a finalist as the fake trains it."""
    empty, c = entrant.empty(recipe, seed), entrant.candidate(recipe)
    at = [evaluation(Run(c.specs, c.recipe_for(recipe), seed), step) for step in recipe.rungs()]
    empty.curves = Curves(
        recipe.rungs(), [[e.val_metric] for e in at], [[e.val_loss] for e in at], [[e.train_loss] for e in at]
    )
    empty.test_metric, empty.test_loss = at[-1].val_metric - 0.01, at[-1].val_loss + 0.02
    return empty


def key(run):
    return (*candidate_key(run.activation, run.recipe), run.seed)


def finished(done, candidates=FOUR, options=UNTIL):
    """What `standing` says once all that it wants has been trained; every run it asked for."""
    done, asked = dict(done), []
    while True:
        runs, wanted = standing(done, candidates, RECIPE, options, None)
        if not wanted:
            return runs, asked
        for entrant, seed in wanted:
            made = trained(entrant, seed)
            assert key(made) not in done
            done[key(made)] = made
            asked.append((made.activation, seed))


def seeds_of(runs):
    return {group[0].activation: len(group) for group in by_candidate(runs)}


def test_a_decided_finalist_gets_no_more_seeds_and_the_baseline_stays_with_the_rest():
    runs, asked = finished({})
    n = seeds_of(runs)
    assert n == {"hardswish": 10, "softsign": 20, "selu": 40, "tanh": 40}
    assert len(asked) == len(set(asked)) == 110
    found = {c.activation: c for c in compare(runs, UNTIL)}
    assert {a: c.verdict.verdict for a, c in found.items() if c.verdict} == {
        "hardswish": "worse", "softsign": "worse", "selu": "undecided"
    }  # fmt: skip
    # each is paired with the baseline's same seeds, at the level of three candidates and three looks
    base = [r.test_metric for r in runs if r.activation == "tanh"]
    assert found["hardswish"].verdict.baseline_mean == pytest.approx(np.mean(base[:10]))
    assert found["selu"].verdict.confidence == 1 - level_at_looks(0.05 / 3, (10, 20, 40))
    assert found["selu"].verdict.seeds_to_decide > 40


def test_the_baseline_stops_too_when_all_is_decided():
    runs, _ = finished({}, [candidate("hardswish"), candidate("tanh")])
    assert seeds_of(runs) == {"hardswish": 10, "tanh": 10}


def test_standing_depends_only_on_what_is_done():
    wanted, _ = finished({})
    everything = {key(r): r for r in wanted}
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9, 1.0):
        keep = rng.random(len(everything)) < share
        some = {k: r for (k, r), kept in zip(everything.items(), keep, strict=True) if kept}
        runs, asked = finished(some)
        assert runs == wanted
        assert len(asked) == len(everything) - len(some)
    # runs that nobody asked for, of more seeds or others, change nothing
    unlimited = confirmation(baseline="tanh", seeds=60)
    more, _ = finished(everything, [candidate("gelu"), *FOUR], unlimited)
    assert finished({key(r): r for r in more}) == (wanted, [])


def test_kills_at_any_point_leave_the_same_runs():
    def confirmed(storage, die_at=None):
        trainer = FakeTrainer(die_at=die_at)
        return drive(confirm(storage, "s", FOUR, trainer, source([]), RECIPE, UNTIL))[0], trainer

    wanted, whole = confirmed(optuna.storages.InMemoryStorage())
    assert wanted == [
        dataclasses.replace(r, collapsed=r.test_metric <= commonest(test_set()[1])) for r in finished({})[0]
    ]
    rng = np.random.default_rng(1)
    kills = 0
    for _ in range(5):
        storage = optuna.storages.InMemoryStorage()
        while True:
            try:
                runs, _last = confirmed(storage, die_at=int(rng.integers(1, 8)))
                break
            except Killed:
                kills += 1
        assert runs == wanted
        again, idle = confirmed(storage)
        assert (again, idle.started) == (wanted, [])
        done = stored_runs(storage, "s")
        assert (len(done), n_test(storage, "s")) == (len(whole.started), 30)
        assert standing(done, FOUR, RECIPE, UNTIL, None) == (wanted, [])
    assert kills >= 5
    assert stored_runs(storage, "other") == {}
    assert n_test(storage, "other") is None


# --- learning speed -------------------------------------------------------------------------------

SPEED_RECIPE = Recipe(schedule="constant", steps=100, eval_every=2, batch_size=15)


def test_speed_is_judged_at_three_rates_of_each():
    options = confirmation(metric="learning_speed", seeds=10)
    chosen, trainer = [candidate("gelu", lr=0.05), candidate("relu")], FakeTrainer()
    runs, _ = drive(confirm(optuna.storages.InMemoryStorage(), "s", chosen, trainer, source([]), SPEED_RECIPE, options))
    rates = {(str(r.specs[0]), r.recipe.lr) for r in trainer.started}
    assert rates == {("gelu", lr) for lr in (0.05, 0.01667, 0.15)} | {("relu", lr) for lr in (0.01, 0.003333, 0.03)}
    assert len(trainer.started) == 2 * 3 * 10
    assert {(r.activation, r.rate, r.recipe.get("lr", 0.01)) for r in runs} == {
        ("gelu", 1, 0.05), ("gelu", 1 / 3, 0.01667), ("gelu", 3, 0.15),
        ("relu", 1, 0.01), ("relu", 1 / 3, 0.003333), ("relu", 3, 0.03),
    }  # fmt: skip
    assert set(RATES) == {1, 1 / 3, 3}
    found = next(c for c in compare(runs, options) if not c.is_baseline)
    assert (found.recipe, set(found.at_rates)) == ({"lr": 0.05}, {1 / 3, 3.0})
    for verdict, lr, base in (
        (found.verdict, 0.05, 0.01), (found.at_rates[1 / 3], 0.01667, 0.003333), (found.at_rates[3.0], 0.15, 0.03),
    ):  # fmt: skip
        logs = [math.log(mean_loss("gelu", lr, seed) / mean_loss("relu", base, seed)) for seed in range(1000, 1010)]
        assert verdict.difference == pytest.approx(math.expm1(np.mean(logs)))
        assert verdict.confidence == pytest.approx(1 - 0.05 / 3)  # one candidate at three rates
        assert verdict.n_seeds == 10


def mean_loss(text, lr, seed):
    recipe = dataclasses.replace(SPEED_RECIPE, lr=lr)
    return np.mean([evaluation(Run(parse_net(text), recipe, seed), step).val_loss for step in recipe.rungs()])


def test_at_every_rate_until_decided():
    options = confirmation(metric="learning_speed", until_decided=True, looks=[10, 20])
    chosen = [candidate("gelu", lr=0.05), candidate("relu")]
    runs, _ = drive(
        confirm(optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), source([]), SPEED_RECIPE, options)
    )
    found = next(c for c in compare(runs, options) if not c.is_baseline)
    for v in (found.verdict, *found.at_rates.values()):
        assert v.decided or v.n_seeds == 20
        assert v.confidence == 1 - level_at_looks(0.05 / 3, (10, 20))


# --- failures -------------------------------------------------------------------------------------


def test_what_may_be_guessing_is_a_failure():
    y = torch.tensor([0] * 500 + [1] * 250 + [2] * 250)
    assert commonest(y) == pytest.approx(0.5 + 3 * math.sqrt(0.25 / 1000))
    x = torch.zeros(len(y), 6)
    data = Data(Source(x, y, lambda: (x, y)), "blobs", 30)
    chosen = [candidate("hardswish"), candidate("relu")]  # 0.50 to 0.60 by the fake, and 0.58 to 0.68
    runs, _ = drive(
        confirm(optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), data, RECIPE, confirmation(seeds=12))
    )
    for r in runs:
        assert r.collapsed == (r.test_metric <= commonest(y))
        assert r.failed == r.collapsed
    found = next(c for c in compare(runs, confirmation()) if not c.is_baseline)
    assert 0 < found.n_failed == found.verdict.n_failed == sum(r.failed for r in runs if r.activation == "hardswish")
    assert found.verdict.n_failed_baseline == 0
    assert found.verdict.warning


@pytest.mark.parametrize("until_decided", [True, False])
def test_time_to_accuracy_may_be_the_metric_that_counts(until_decided):
    options = confirmation(metric="time_to_accuracy_s", seeds=10, until_decided=until_decided, looks=[10, 20])
    chosen = [candidate("gelu"), candidate("relu")]
    costs = {c.activation: Cost([1.0, 2.0], [1.0, 1.0]) for c in chosen}
    parts = (optuna.storages.InMemoryStorage(), "s", chosen, FakeTrainer(), source([]), SPEED_RECIPE, options)
    runs, _ = drive(confirm(*parts, 0.6, costs))
    found = next(c for c in compare(runs, options, 0.6, costs) if not c.is_baseline)
    assert found.verdict.metric.name == "time_to_accuracy_s"
    assert len(found.at_rates) == 2
