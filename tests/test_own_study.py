"""A study of a user's own training: search, pruning, tuning and finalists, whenever it is killed. Without processes."""

import re
from pathlib import Path

import own_trainings
import pandas as pd
import pytest
from here import Here, Killed, job_of, on

import actsearch
from actsearch.errors import ActSearchError
from actsearch.own.local import run_own
from actsearch.own.pool import Pool
from actsearch.own.run import OwnRun, train_once
from actsearch.own.study import NO_PRUNING
from actsearch.question.options import FRESH_SEED
from actsearch.report.terminal import Terminal

LR = {"recipe": {"lr": {"low": 0.02, "high": 0.5, "log": True}}}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 3, "n_warmup_steps": 0}


def outcome(result):
    return [{k: v for k, v in row.items() if k != "trial"} for row in result.rows], result.verdicts


# --- search, tuning, test rule --------------------------------------------------------------------


def test_a_search_finds_what_is_best_and_tunes_all_alike(tmp_path):
    here = Here(job_of(own_trainings.peaked, tmp_path, search_space=LR, finalists=2))
    result = here.walk()
    assert result.best == "gelu" and on(result, "gelu").verdict == "better"
    assert {row["activation"] for row in result.rows} == {"relu", "gelu", "tanh"}
    lrs = {c.activation: c.recipe["lr"] for c in result.comparisons}
    assert abs(lrs["gelu"] / 0.2 - 1) < 0.5 and abs(lrs["relu"] / 0.1 - 1) < 0.5
    tried = {name: {run.settings["lr"] for run in here.trained if run.activation == name and 3 <= run.seed < FRESH_SEED}
             for name in lrs}  # fmt: skip
    assert all(len(found) >= 4 for found in tried.values())
    fresh = [run for run in here.trained if run.seed >= FRESH_SEED]
    assert len(fresh) == 7 * len(result.comparisons)
    assert len({run.key for run in here.trained}) == len(here.trained)  # none twice
    assert Here(here.job).walk().verdicts == result.verdicts  # found again, with nothing to train


def test_a_search_never_sees_a_test_value(tmp_path):
    here = Here(job_of(own_trainings.peaked, tmp_path))
    result = here.walk()
    for run in here.study.runs.all():
        if run.seed < FRESH_SEED:
            assert not any(key.startswith("test_") for rung in run.rungs for key in rung)
            assert run.withheld == ["test_accuracy"]
        else:
            assert run.last["test_accuracy"] < 1 and run.last["told"] == 1
    assert result.options.own.name == "test_accuracy" and result.options.own_val.name == "val_accuracy"

    def only_test(activation, seed):
        return {"test_accuracy": 0.5}

    with pytest.raises(ActSearchError, match=r"first run failed.*only test_accuracy.*a search does not see a test set"):
        Here(job_of(only_test, tmp_path)).walk()


def test_settings_are_searched_as_they_are_written(tmp_path):
    seen = []

    def train(activation, seed, width=8, act_first=False, mode="a", drop=0.1):
        seen.append((width, act_first, mode, drop))
        return {"val_loss": 1 / width}

    space = {
        "recipe": {"width": {"low": 4, "high": 16}, "act_first": [True, False], "mode": ["a", "b"], "drop": [0, 0.5]}
    }
    Here(
        job_of(train, tmp_path, ["relu", "gelu"], search_space=space, confirm={"tune": "none"}, finalist_seeds=2)
    ).walk()
    assert {type(width) for width, *_ in seen} == {int}
    assert {first for _, first, *_ in seen} == {True, False} and {mode for *_, mode, _ in seen} == {"a", "b"}


def test_a_list_is_tuned_alike_and_compared(tmp_path):
    grid = {"recipe": {"lr": [0.05, 0.1, 0.2]}}
    here = Here(job_of(own_trainings.peaked, tmp_path, ["gelu", "tanh"], searches=False, search_space=grid))
    result = here.walk()
    assert {c.activation: c.recipe["lr"] for c in result.comparisons} == {"gelu": 0.2, "relu": 0.1, "tanh": 0.05}
    assert not result.searched and len(result.rows) == 3
    edges = [said for said in result.warnings if "at the edge of what was tried" in said]
    assert len(edges) == 2 and "The best lr=0.2 for gelu" in edges[0]


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", [None, MEDIAN])
def test_a_study_that_is_killed_anywhere_ends_as_if_it_had_not_been(pruner, tmp_path):
    def job(folder):
        return job_of(own_trainings.peaked, tmp_path / folder, search_space=LR, pruner=pruner, n_trials=6)

    whole = Here(job("whole"))
    wanted = outcome(whole.walk())
    n = len(whole.trained)
    for die_at in range(1, n, 31):
        folder, killed = f"killed{die_at}", []
        with pytest.raises(Killed):
            first = Here(job(folder), die_at)
            killed.append(first)
            first.walk()
        again = Here(job(folder))
        assert outcome(again.walk()) == wanted
        assert len(killed[0].trained) + len(again.trained) == n


def test_a_pruner_ends_runs_at_a_rung_and_judges_by_generations_before(tmp_path):
    job = job_of(own_trainings.peaked, tmp_path, search_space=LR, pruner=MEDIAN, n_trials=12)
    here = Here(job)
    result = here.walk()
    pruned = [row for row in result.rows if row["state"] == "pruned"]
    assert 1 <= len(pruned) < 9 and all(row["n_seeds"] == 1 and row["steps"] < 5 for row in pruned)
    assert all(row["trial"] >= 3 for row in pruned)  # the first generation has none before it
    stopped = [run for run in here.trained if run.stopped]
    assert len(stopped) == len(pruned) and all(run.seed == 0 and len(run.rungs) < 5 for run in stopped)
    whole = [row for row in result.rows if row["state"] == "complete"]
    assert all(row["n_seeds"] == 3 and row["steps"] == 5 for row in whole)
    assert NO_PRUNING not in result.warnings
    late = {**MEDIAN, "n_warmup_steps": 250}
    assert NO_PRUNING in Here(job_of(own_trainings.peaked, tmp_path, pruner=late)).walk().warnings


# --- metrics --------------------------------------------------------------------------------------


def test_objectives_are_any_numbers_that_runs_report(tmp_path):
    space = {"recipe": {"width": [4, 8, 16]}}
    job = job_of(own_trainings.peaked, tmp_path, search_space=space, study={"objectives": ["val_loss", "params"]})
    result = Here(job).walk()
    assert {float(row["params"]) for row in result.rows} <= {40.0, 80.0, 160.0}
    ranked = [float(row["val_loss_mean"]) for row in result.rows if row["rank"] != ""]
    assert ranked == sorted(ranked)
    for metric in ("test_acuracy", "val_acuracy"):
        here = Here(job_of(own_trainings.peaked, tmp_path, confirm={"metric": metric}))
        with pytest.raises(ActSearchError, match=f"unknown metric in confirm.metric: '{metric}'. Did you mean"):
            here.walk()
        assert len(here.trained) <= 1  # after the first run
    for objectives, said in (
        (["val_acc"], "unknown objective in study.objectives: 'val_acc'. Did you mean 'val_accuracy'?"),
        (["test_accuracy"], "test_accuracy is of a test set, which a search does not see"),
    ):
        with pytest.raises(ActSearchError) as error:
            Here(job_of(own_trainings.peaked, tmp_path, study={"objectives": objectives})).walk()
        assert said in str(error.value)


def test_where_nothing_says_which_number_is_meant_it_is_asked(tmp_path):
    def two(activation, seed):
        return {"val_auroc": 0.7, "val_f1": 0.6}

    with pytest.raises(ActSearchError, match=r"by which metric.*study.objectives=.*val_auroc, val_f1"):
        Here(job_of(two, tmp_path)).walk()
    auroc = {"objectives": ["val_auroc"]}
    result = Here(job_of(two, tmp_path, study=auroc)).walk()
    assert result.options.own.name == "val_auroc"

    def counterpart(activation, seed, test):
        return {"test_auroc": 0.7, "test_f1": 0.6} if test else {"val_auroc": 0.7, "val_loss": 0.2}

    result = Here(job_of(counterpart, tmp_path)).walk()
    assert (result.options.own_val.name, result.options.own.name) == ("val_auroc", "test_auroc")
    assert [m.name for m in result.options.others] == ["test_f1", "seconds"]


def test_a_reward_below_zero_is_no_ratio(tmp_path):
    def train(activation, seed):
        return {"reward": -5.0 + (str(activation) == "gelu") + seed * 1e-4}

    with pytest.raises(ActSearchError, match=r"reward is -4\.9.*compared by its ratio.*train\.metrics\.reward="):
        Here(job_of(train, tmp_path, searches=False)).walk()
    metrics = {"reward": {"higher_is_better": True, "margin": 0.1, "ratio": False}}
    result = Here(job_of(train, tmp_path, searches=False, metrics=metrics)).walk()
    assert on(result, "gelu").difference == pytest.approx(1)


# --- failures -------------------------------------------------------------------------------------


def test_failed_runs_of_a_search_count_as_the_worst_and_stay_out_of_the_finals(tmp_path):
    def train(activation, seed):
        if str(activation) == "tanh" or (str(activation) == "gelu" and seed == 1):
            raise FloatingPointError("overflow")
        return {"val_accuracy": own_trainings.value(activation, seed)}

    here = Here(job_of(train, tmp_path, n_trials=3, finalists=2))
    result = here.walk()
    rows = {row["activation"]: row for row in result.rows}
    assert rows["gelu"]["n_diverged"] == 1 and rows["tanh"]["n_diverged"] == 3
    assert float(rows["tanh"]["val_accuracy_mean"]) == pytest.approx(
        min(own_trainings.value("relu", s) for s in range(3)), abs=1e-5
    )
    assert {c.activation for c in result.comparisons} == {"relu", "gelu"}


def test_where_everything_fails_it_stops_and_the_same_command_tries_again(tmp_path):
    def train(activation, seed):
        if own_trainings.BROKEN:
            raise OSError("no data here")
        return {"val_accuracy": 0.5 + seed * 1e-5}

    own_trainings.BROKEN = True
    with pytest.raises(ActSearchError, match=r"the first run failed, relu, seed 0: OSError: no data here"):
        Here(job_of(train, tmp_path)).walk()
    own_trainings.BROKEN = False
    assert Here(job_of(train, tmp_path)).walk().comparisons[0].n_failed == 0


def test_steps_must_grow_and_nothing_is_heard_after_the_end():
    def shrinking(activation, seed):
        yield {"val_loss": 1.0, "step": 5}
        yield {"val_loss": 0.9, "step": 3}

    with pytest.raises(ActSearchError, match="it reported step 3 after step 5: steps are growing whole numbers"):
        train_once(shrinking, "relu", 0, {})

    def deaf(activation, seed, report):
        for epoch in range(5):
            try:
                report(val_loss=1.0 - epoch / 10)
            except BaseException:
                continue

    told = train_once(deaf, "relu", 0, {}, lambda rung: rung["val_loss"] > 0.85)
    assert [rung["val_loss"] for rung in told.rungs] == [1.0, 0.9, 0.8]

    def half(activation, seed):
        return {"val_loss": 1.0, "step": 0.5}

    with pytest.raises(ActSearchError, match=r"it reported step 0\.5: steps are growing whole numbers"):
        train_once(half, "relu", 0, {})


# --- does it repeat -------------------------------------------------------------------------------


def test_check_repeat_says_whether_the_training_repeats(tmp_path):
    import random

    def steady(activation, seed):
        return own_trainings.value(activation, seed)

    def moody(activation, seed):
        return random.SystemRandom().random()

    for train, words in (
        (steady, "The training repeats: relu, seed 1000"),
        (moody, "The training does not repeat: relu"),
    ):
        job = job_of(train, tmp_path, searches=False, check_repeat=True)
        first = Here(job)
        result = first.walk()
        assert any(said.startswith(words) for said in result.warnings)
        again = Here(job)
        assert again.walk().warnings == result.warnings and again.trained == []


# --- in processes, with MLflow --------------------------------------------------------------------


def test_in_processes_with_mlflow_a_page_and_a_leaderboard(tmp_path):
    import mlflow

    keywords = {
        "train": own_trainings.peaked, "activations": ["relu", "gelu", "tanh"], "n_trials": 4, "finalists": 1,
        "finalist_seeds": 3, "search_space": LR, "pruner": {**MEDIAN, "n_startup_trials": 1}, "folder": tmp_path,
        "study": {"generation": 2}, "quiet": True,
    }  # fmt: skip
    result = actsearch.search(**keywords)
    here = Here(job_of(own_trainings.peaked, tmp_path / "here", n_trials=4, finalist_seeds=3, search_space=LR,
                       pruner={**MEDIAN, "n_startup_trials": 1}, study={"generation": 2}))  # fmt: skip
    assert outcome(result)[0] == outcome(here.walk())[0]  # the same, wherever runs were trained
    board = pd.read_csv(result.folder / "leaderboard.csv")
    assert board.activation[0] == "gelu" and len(board) == 4
    assert len(pd.read_csv(result.folder / "runs.csv")) == 3 * len(result.comparisons)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("actsearch").experiment_id])
    kinds = [run.data.tags["kind"] for run in runs]
    assert (kinds.count("study"), kinds.count("trial"), kinds.count("finalist")) == (1, 4, len(result.comparisons))
    parent = next(run for run in runs if run.data.tags["kind"] == "study")
    assert parent.info.status == "FINISHED" and "test_accuracy" in parent.data.metrics
    trial = next(run for run in runs if run.data.tags["kind"] == "trial")
    assert "val_accuracy" in trial.data.metrics and "recipe.lr" in trial.data.params
    page = (result.folder / "report.html").read_text()
    for words in ("Learning curves", "Which activation function? own_trainings.peaked", "pruned", "seconds of a run"):
        assert words in page, words
    again = actsearch.search(**keywords)
    assert again.verdicts == result.verdicts


def test_each_process_sees_its_gpu_alone(tmp_path, monkeypatch):
    import torch

    from actsearch.own.pool import places_of

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    seen = lambda places: [place["CUDA_VISIBLE_DEVICES"] for place in places]  # noqa: E731
    assert (seen(places_of(cuda, None, None, 8)[0]), places_of(cuda, None, None, 8)[1]) == (["0", "1"], 4)
    assert (seen(places_of(cuda, 2, None, 8)[0]), places_of(cuda, 2, None, 8)[1]) == (["0", "1", "0", "1"], 2)
    assert seen(places_of(torch.device("cuda", 1), None, 3, 8)[0]) == ["1"]
    assert seen(places_of(cpu, None, 4, 8)[0]) == ["", ""]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    places, _ = places_of(cuda, None, None, 2)
    assert seen(places) == ["GPU-a", "GPU-b"]
    job = job_of(own_trainings.where, tmp_path, searches=False)
    pool = Pool(places, 1, job.training.pickled(job.contents), tmp_path, None)
    try:
        environments = [Path(f"/proc/{pid}/environ").read_text() for pid in pool.pids]
        (run,) = pool.run([OwnRun("relu", {}, 1000)])
    finally:
        pool.close()
    names = [re.search(r"CUDA_VISIBLE_DEVICES=([^\0]*)", text)[1] for text in environments]
    assert names == ["GPU-a", "GPU-b"]
    assert chr(int(run.last["device"])) in "ab"


def test_words_that_do_not_fit_are_one_line(tmp_path):
    for keywords, said in (
        (
            {"search_space": {"recipe": {"rl": [1, 2]}}},
            "unknown keyword of own_trainings.peaked 'rl'. Did you mean 'lr'?",
        ),
        ({"search_space": {"recipe": {"lr": 0.1}}}, "search_space.recipe.lr: '0.1' is a single value"),
        ({"search_space": {"recipe": {"lr": []}}}, "search_space.recipe.lr: a list holds numbers or words"),
        ({"search_space": {"recipe": {"seed": [1, 2]}}}, "train.seed: every run is given its own"),
        ({"confirm": {"equal": "time"}}, "confirm.equal: it is not there for a training of your own"),
        ({"model": "mlp"}, "model: a training of your own has its own model"),
        ({"recipe": {"lr": 0.1}}, "recipe: a training of your own has its own model"),
        ({"overrides": ["recipe.steps=3"]}, "recipe.steps=3: it does not apply to train=…"),
        ({"per_device": 0}, "train.per_device=0"),
        ({"sampler": "cmaes", "study": {"objectives": ["a", "b"]}}, "sampler: it cannot propose"),
    ):
        with pytest.raises(ActSearchError) as error:
            run_own(job_of(own_trainings.peaked, tmp_path, **keywords), Terminal(quiet=True))
        assert said in str(error.value) and "\n" not in str(error.value), keywords
