"""The search: repeatable digit for digit, also after any number of kills at any place. Most train with a fake."""

import itertools
import json
import math
from dataclasses import replace

import optuna
import pytest
import torch
from fake_trainer import N_CLASSES, FakeTrainer, Killed, draw, evaluation
from optuna.trial import TrialState

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.identity import fingerprint, flatten, study_name
from actsearch.question.metrics import ACCURACY, directions_of
from actsearch.question.options import StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.records import GenerationStarted, RungReached
from actsearch.report.terminal import Terminal
from actsearch.space.space import SearchSpace
from actsearch.study.generation import Engine
from actsearch.study.samplers import EvolutionSampler, SamplerFactory
from actsearch.study.search import run_trials
from actsearch.study.store import open_study, records
from actsearch.training.trainer import Trainer

RECIPE = Recipe(steps=30, eval_every=10, batch_size=15)
ENTRIES = ["relu", {"leaky_relu": {"negative_slope": "search"}}, {"elu": {"alpha": [0.5, 1, 2]}}]
SPACE = SearchSpace(ENTRIES, {"lr": {"low": 1e-3, "high": 3e-2, "log": True}}, n_slots=2, base=RECIPE)
DISCRETE = SearchSpace(["relu", "tanh", "gelu"], n_slots=2, base=RECIPE)
GRAMMAR = {"grammar": {"unary": ["x", "tanh(x)", "-x", "0", "1 / x"], "binary": ["a + b", "a * b"]}}
FUNCTIONS = SearchSpace(["relu", GRAMMAR], n_slots=2, base=RECIPE)
DIVERGING = SearchSpace(["relu", "softmax"], n_slots=2, base=RECIPE)
WRITES = (
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
)

SAMPLERS = {
    "tpe": (optuna.samplers.TPESampler, {"n_startup_trials": 4}),
    "random": (optuna.samplers.RandomSampler, {}),
    "nsga2": (optuna.samplers.NSGAIISampler, {"population_size": 4}),
    "gp": (optuna.samplers.GPSampler, {"n_startup_trials": 6}),
    "evolution": (EvolutionSampler, {"population": 4, "tournament": 2}),
    "cmaes": (optuna.samplers.CmaEsSampler, {"n_startup_trials": 2, "warn_independent_sampling": False}),
}
PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=2),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=10, max_resource=30, reduction_factor=2),
}


def latency(candidate):
    return 100 * draw(candidate.activation)


class Case:
    """One search, its storage, and what was trained for it over all its interrupted attempts."""

    def __init__(self, sampler="tpe", pruner="none", space=SPACE, storage=None, **options):
        objectives = ["val_accuracy", "latency_us"] if sampler == "nsga2" else ["val_accuracy"]
        self.options = StudyOptions(
            **{"n_trials": 10, "seeds": 2, "generation": 4, "objectives": objectives, **options}
        )
        self.sampler, self.pruner, self.space = sampler, pruner, space
        self.storage = storage or optuna.storages.InMemoryStorage()
        self.trained = []

    @property
    def directions(self):
        return [directions_of(ACCURACY)[name] for name in self.options.objectives]

    @property
    def study(self):
        return open_study(self.storage, "a", self.directions, {"space": str(self.space)})

    def events(self, trainer=None):
        trainer = trainer or FakeTrainer()
        trainer.on_start = self.check_nothing_finished_starts_again
        make = SamplerFactory(*SAMPLERS[self.sampler], self.options.seed)
        engine, pruner = Engine(trainer, RECIPE), PRUNERS[self.pruner]()
        return run_trials(self.study, engine, self.space, self.options, make, pruner, latency)

    def check_nothing_finished_starts_again(self, runs):
        finished = {(r.activation, r.recipe.get("lr", RECIPE.lr)) for r in records(self.study)}
        for run in runs:
            self.trained.append(run)
            assert (" | ".join(map(str, run.specs)), run.recipe.lr) not in finished

    def run(self, trainer=None):
        self.seen = list(self.events(trainer))
        return self

    def outcome(self):
        """All that Optuna holds of the trials, except when they ran."""
        return [
            (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs, t.system_attrs)
            for t in self.study.get_trials()
        ]


def same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a == b
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)


class Counted:
    """Raises Killed at the n-th write to the storage, before it is done."""

    def __init__(self, storage, n, monkeypatch):
        self.left = n
        for name in WRITES:
            monkeypatch.setattr(storage, name, self.wrap(getattr(storage, name)))

    def wrap(self, write):
        def counted(*args, **keywords):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return write(*args, **keywords)

        return counted


CASES = [
    ("tpe", "none"), ("tpe", "median"), ("tpe", "halving"), ("tpe", "hyperband"),
    ("random", "none"), ("random", "median"), ("random", "halving"), ("random", "hyperband"), ("nsga2", "none"),
]  # fmt: skip


# --- repeatable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "pruner"), [*CASES, ("gp", "none"), ("cmaes", "median")])
def test_the_same_search_twice_is_the_same_digit_for_digit(sampler, pruner):
    first, second = Case(sampler, pruner).run(), Case(sampler, pruner).run()
    same(first.outcome(), second.outcome())
    assert [r.number for r in records(first.study)] == list(range(10))
    states = {r.state for r in records(first.study)}
    assert ("pruned" in states) == (pruner != "none")  # or the other tests would prove little
    other = Case(sampler, pruner, seed=1).run()
    assert [t[2] for t in other.outcome()] != [t[2] for t in first.outcome()]


def test_a_search_killed_at_every_single_write_ends_the_same(monkeypatch):
    wanted = Case("tpe", "median", n_trials=6).run().outcome()
    for n in itertools.count():
        case = Case("tpe", "median", n_trials=6)
        case.study  # noqa: B018  its creation is not what is killed here
        with monkeypatch.context() as patch:
            Counted(case.storage, n, patch)
            try:
                case.run()
            except Killed:
                finished = False
            else:
                finished = True
        if finished:
            break
        before = {r.number: r for r in records(case.study)}
        same(case.run().outcome(), wanted)
        assert {r.number: r for r in records(case.study) if r.number in before} == before
    assert n > 30  # so many places there were


@pytest.mark.parametrize("every", [11, 14])
@pytest.mark.parametrize(("sampler", "pruner"), CASES)
def test_a_search_killed_again_and_again_ends_the_same(sampler, pruner, every, monkeypatch):
    wanted = Case(sampler, pruner).run()
    case, kills = Case(sampler, pruner), 0
    while True:
        case.study  # noqa: B018
        with monkeypatch.context() as patch:
            Counted(case.storage, every, patch)
            try:
                case.run()
                break
            except Killed:
                kills += 1
        assert kills < 60, "no way forward"
    assert kills >= 3
    same(case.outcome(), wanted.outcome())
    assert records(case.study) == records(wanted.study)


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "halving"), ("random", "hyperband"), ("nsga2", "none")])
def test_a_search_killed_in_the_middle_of_training_ends_the_same(sampler, pruner):
    trainer = FakeTrainer()
    wanted = Case(sampler, pruner).run(trainer).outcome()
    assert trainer.advances >= 5
    for die_at in range(1, trainer.advances + 1):
        case = Case(sampler, pruner)
        with pytest.raises(Killed):
            case.run(FakeTrainer(die_at=die_at))
        same(case.run().outcome(), wanted)


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "median"), ("nsga2", "none")])
def test_a_search_closed_at_every_event_ends_the_same(sampler, pruner):
    whole = Case(sampler, pruner).run()
    for n in range(1, len(whole.seen)):
        case = Case(sampler, pruner)
        events = case.events()
        for _ in range(n):
            next(events)
        events.close()
        same(case.run().outcome(), whole.outcome())


def test_on_sqlite_a_killed_search_ends_the_same(tmp_path, monkeypatch):
    wanted = Case("tpe", "halving").run().outcome()
    url = f"sqlite:///{tmp_path}/study.db"
    for n in (3, 9, 17, 30):  # asking; writing results; telling; the next generation
        case = Case("tpe", "halving", storage=optuna.storages.get_storage(url))
        case.study  # noqa: B018
        with monkeypatch.context() as patch:
            Counted(case.storage, n, patch)
            with pytest.raises(Killed):
                case.run()
    last = Case("tpe", "halving", storage=optuna.storages.get_storage(url)).run()
    same(last.outcome(), wanted)


def test_what_was_in_flight_is_trained_again_and_what_was_written_is_not(monkeypatch):
    case = Case(space=DISCRETE, n_trials=3)
    case.study  # noqa: B018
    with monkeypatch.context() as patch:
        Counted(case.storage, 3 + 2, patch)  # three trials asked, two of three results written
        with pytest.raises(Killed):
            case.run()
    assert len(case.trained) == 3 * 2
    with monkeypatch.context() as patch:
        Counted(case.storage, 3 + 4, patch)  # all three results, the first trial told
        with pytest.raises(Killed):
            case.run()
    assert len(case.trained) == 2 * 3 * 2
    assert [t.state for t in case.study.get_trials()] == [TrialState.RUNNING] * 3
    case.run()
    assert len(case.trained) == 2 * 3 * 2  # only told
    assert [r.state for r in records(case.study)] == ["complete"] * 3


# --- what it does ---------------------------------------------------------------------------------


def test_every_entry_is_tried_once_first():
    case = Case(space=DISCRETE, n_trials=5).run()
    assert [r.activation for r in records(case.study)][:3] == ["relu", "tanh", "gelu"]
    per_layer = SearchSpace(["relu", "tanh"], scope="per_layer", n_slots=2, base=RECIPE)
    assert [r.activation for r in records(Case(space=per_layer).run().study)][:2] == ["relu", "tanh"]


def test_a_candidate_proposed_again_is_not_trained_again_but_counted():
    case = Case(space=DISCRETE, n_trials=8).run()
    done = records(case.study)
    assert len(case.trained) == 3 * 2
    assert [r.state for r in done] == ["complete"] * 3 + ["duplicate"] * 5
    for r in done[3:]:
        first = done[r.same_as]
        assert first.state == "complete"
        assert (r.activation, r.values, r.curves) == (first.activation, first.values, first.curves)
    trials = case.study.get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 8
    assert trials[7].value == done[done[7].same_as].values[0]


def test_a_duplicate_within_one_generation_is_trained_once():
    case = Case(space=SearchSpace(["relu"], n_slots=2, base=RECIPE), n_trials=4).run()
    assert len(case.trained) == 2
    assert [r.same_as for r in records(case.study)] == [None, 0, 0, 0]


def test_records_hold_every_seed_of_every_rung():
    case = Case(space=DISCRETE, n_trials=3).run()
    record = records(case.study)[1]
    runs = [r for r in case.trained if str(r.specs[0]) == "tanh"]
    assert [r.seed for r in runs] == [0, 1]
    assert record.curves.steps == [10, 20, 30]
    assert record.curves.val_metric == [[evaluation(r, s).val_metric for r in runs] for s in (10, 20, 30)]
    assert record.curves.val_loss[2] == [evaluation(r, 30).val_loss for r in runs]
    assert record.values == [sum(record.curves.val_metric[2]) / 2]
    trial = case.study.get_trials()[1]
    assert trial.intermediate_values == {
        s: sum(v) / 2 for s, v in zip((10, 20, 30), record.curves.val_metric, strict=True)
    }
    assert trial.params == {"activation": "tanh"}
    assert trial.user_attrs["activation"] == "tanh"


def test_objectives_are_what_is_asked_for():
    for objective, sign in (("val_loss", "val_loss"), ("val_accuracy", "val_metric")):
        case = Case(space=DISCRETE, n_trials=3, objectives=[objective]).run()
        for r in records(case.study):
            assert r.values == [sum(getattr(r.curves, sign)[-1]) / 2]
    assert Case(objectives=["val_loss"]).study.direction.name == "MINIMIZE"
    two = Case("nsga2", space=DISCRETE, n_trials=3).run()
    assert [d.name for d in two.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for r, t in zip(records(two.study), two.study.get_trials(), strict=True):
        assert r.values[1] == 100 * draw(r.activation)
        assert t.values == r.values


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_diverged_trial_counts_as_chance_and_is_not_dropped(pruner):
    case = Case(space=DIVERGING, pruner=pruner, n_trials=2).run()
    good, bad = records(case.study)
    assert bad.activation == "softmax"
    assert bad.curves.n_diverged == 2
    assert bad.curves.val_metric[1] == [1 / N_CLASSES] * 2
    assert bad.curves.val_loss[1] == [math.log(N_CLASSES)] * 2
    assert bad.curves.train_loss[1] == [None, None]
    assert bad.values == [1 / N_CLASSES]
    assert good.curves.n_diverged == 0
    assert case.study.get_trials()[1].value == 1 / N_CLASSES


def test_pruned_trials_in_optuna_have_their_state_their_rungs_and_their_last_value():
    case = Case("random", "median").run()
    pruned = [r for r in records(case.study) if r.state == "pruned"]
    assert pruned
    for r in pruned:
        trial = case.study.get_trials()[r.number]
        assert trial.state == TrialState.PRUNED
        assert r.curves.steps[-1] < RECIPE.steps
        assert sorted(trial.intermediate_values) == r.curves.steps
        assert trial.value == trial.intermediate_values[r.curves.steps[-1]] == r.values[0]


def test_median_prunes_what_is_below_the_median_of_those_before():
    space = SearchSpace(["relu", "tanh", "gelu", "elu", "selu", "mish"], n_slots=2, base=RECIPE)
    case = Case("random", "median", space=space, n_trials=6, generation=1).run()
    before = []
    for r in records(case.study):
        first = sum(r.curves.val_metric[0]) / 2
        if len(before) >= 2 and r.curves.steps == [10]:
            ordered = sorted(before)
            middle = len(ordered) // 2
            median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
            assert first < median
        before.append(first)
    assert any(r.state == "pruned" for r in records(case.study))


def test_several_objectives_are_never_pruned():
    states = {r.state for r in records(Case("nsga2", "median", space=SPACE).run().study)}
    assert states <= {"complete", "duplicate"}


def test_pruned_runs_stop_training():
    case = Case("random", "median")
    trainer = FakeTrainer()
    steps = 0
    for event in case.events(trainer):
        if isinstance(event, RungReached):
            steps += event.run_steps
    done = records(case.study)
    assert steps == sum(r.curves.steps[-1] * 2 for r in done if r.state != "duplicate")
    assert steps < 10 * 2 * RECIPE.steps


def test_events_account_for_every_step_that_was_planned():
    for pruner in ("none", "hyperband"):
        seen = Case("random", pruner).run().seen
        done = sum(e.run_steps for e in seen if isinstance(e, RungReached))
        assert done <= 10 * 2 * RECIPE.steps
        terminal = Terminal(quiet=True)
        terminal.begin(10 * 2 * RECIPE.steps, "val_accuracy", "maximize", 2 * RECIPE.steps)
        for event in seen:
            terminal.event(event)
        assert terminal._done == terminal._total == 10 * 2 * RECIPE.steps
        started = [len(e.names) for e in seen if isinstance(e, GenerationStarted)]
        assert started == [4, 4, 2]


def test_raising_n_trials_goes_on_and_keeps_what_was():
    case = Case(n_trials=5).run()
    before, trained = case.outcome(), len(case.trained)
    assert case.run().seen == []  # finished
    case.options = replace(case.options, n_trials=9)
    case.run()
    assert case.outcome()[:5] == before
    assert [r.number for r in records(case.study)] == list(range(9))
    assert len(case.trained) > trained


def test_trials_that_others_left_open_are_replaced_and_never_counted():
    plain = Case("random", n_trials=6).run()
    case = Case("random", n_trials=6)
    case.study.enqueue_trial({"activation": "relu"})
    case.study.ask()
    case.study.enqueue_trial({"activation": "tanh"})
    case.run()
    assert [r.number for r in records(case.study)] == list(range(2, 8))
    assert [t.state.name for t in case.study.get_trials()[:2]] == ["FAIL", "FAIL"]
    assert len(case.trained) == len(plain.trained)


def test_a_trial_that_others_finished_is_refused():
    case = Case("random", n_trials=6)
    case.study.add_trial(optuna.trial.create_trial(value=0.9))
    with pytest.raises(ActSearchError, match=r"holds trial 0, which actsearch did not train.*study\.name"):
        case.run()


# --- the study ------------------------------------------------------------------------------------


def test_another_config_under_the_same_name_is_refused_with_the_differing_keys():
    storage = optuna.storages.InMemoryStorage()
    config = {"recipe": {"lr": 0.01, "steps": 100}, "data": {"name": "a"}}
    open_study(storage, "s", ["maximize"], config)
    assert open_study(storage, "s", ["maximize"], config).study_name == "s"
    with pytest.raises(ActSearchError) as error:
        open_study(storage, "s", ["maximize"], {"recipe": {"lr": 0.02, "steps": 100}, "data": {"name": "b"}})
    said = str(error.value)
    assert "recipe.lr: 0.01 then, 0.02 now" in said
    assert "data.name: a then, b now" in said
    assert "steps" not in said
    assert "study.name" in said


def test_many_differing_keys_are_counted():
    storage = optuna.storages.InMemoryStorage()
    open_study(storage, "s", ["minimize"], {str(i): i for i in range(9)})
    with pytest.raises(ActSearchError, match="and 5 more"):
        open_study(storage, "s", ["minimize"], {str(i): -i - 1 for i in range(9)})


def test_a_study_killed_before_its_config_was_noted_takes_the_config_of_the_next():
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage, direction="maximize")  # then kill -9
    assert json.loads(open_study(storage, "s", ["maximize"], {"a": 1}).user_attrs["config"]) == {"a": 1}


def test_fingerprints_differ_where_configs_do():
    assert fingerprint({"a": 1, "b": {"c": 2}}) == fingerprint({"b": {"c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 8
    assert study_name("digits", "mlp", {"a": 1}) == f"digits-mlp-{fingerprint({'a': 1})}"


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"n_trials": 0}, "study.n_trials=0"),
        ({"seeds": 0}, "study.seeds=0"),
        ({"seeds": 1001}, "study.seeds=1001"),
        ({"generation": 0}, "study.generation=0"),
        ({"objectives": []}, "study.objectives"),
        ({"objectives": ["accuracy"]}, "Did you mean 'val_accuracy'?"),
        ({"name": "a/b"}, "study.name='a/b'"),
        ({"name": " "}, "study.name=' '"),
    ],
)
def test_options_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ActSearchError) as error:
        StudyOptions(**keywords).settled(ACCURACY)
    assert words in str(error.value)


# --- with real training ---------------------------------------------------------------------------


def test_real_training_repeats_digit_for_digit_also_after_a_kill(blobs):
    space = SearchSpace(["relu", {"elu": {"alpha": "search"}}], n_slots=1, base=RECIPE)
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1})

    def run(trainer, case, kill=False):
        events = case.events(trainer)
        if kill:
            for event in events:
                if isinstance(event, RungReached) and event.step == 20 and len(records(case.study)) == 4:
                    events.close()
                    return
        list(events)

    with Trainer(torch.device("cpu"), cores=2) as trainer:
        trainer.load(model, blobs())
        whole = Case("tpe", "median", space=space, n_trials=6)
        run(trainer, whole)
        killed = Case("tpe", "median", space=space, n_trials=6)
        run(trainer, killed, kill=True)
        assert len(records(killed.study)) == 4
        run(trainer, killed)
    same(killed.outcome(), whole.outcome())
    assert len({tuple(r.values) for r in records(whole.study)}) > 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "evolution"])
def test_of_a_grammar_the_unusable_is_turned_away_and_equal_functions_are_trained_once(sampler):
    """x + tanh(x) and tanh(x) + x are one function; −x·−x and x·x are another. Constants and 1/x are not trained."""
    case = Case(sampler, space=FUNCTIONS, n_trials=30).run()
    trained = {" | ".join(map(str, run.specs)) for run in case.trained}
    assert len(trained) > 5
    x = torch.linspace(-3, 3, 31, dtype=torch.float64).view(1, -1)
    values = [tuple(f"{v:.6f}" for v in parse_net(text)[0](x)[0].tolist()) for text in trained]
    assert len(set(values)) == len(values)
    assert all(len(set(row)) > 1 for row in values)
    refused = {k: v for t in case.study.trials for k, v in t.user_attrs.get("refused", {}).items()}
    assert {"constant", "not finite"} >= set(refused.values())
    assert refused
    assert not set(refused) & trained
    same(Case(sampler, space=FUNCTIONS, n_trials=30).run().outcome(), case.outcome())
