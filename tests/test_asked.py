"""Ask and tell: a loop of one's own, in one process or in many, with the verdicts of a study."""

import os
import subprocess
import sys
from pathlib import Path

import own_trainings
import pytest
from here import Here, compare_here, job_of

import actsearch
from actsearch.errors import ActSearchError
from actsearch.own.asked import Asked

HERE = Path(__file__).parent


def study(tmp_path, activations=("relu", "gelu"), **keywords):
    given = {"seeds": 3, "folder": tmp_path, "quiet": True, "tracking": "none", **keywords}
    return actsearch.Study("robot", list(activations), **given)


def loop(asked, train=own_trainings.value):
    told = []
    while (run := asked.ask()) is not None:
        activation, seed, settings = run
        asked.tell(run, {"test_reward": train(activation, seed, **settings)})
        told.append((str(activation), seed, *settings.values()))
    return told


def test_a_loop_gets_each_run_once_and_then_the_verdicts(tmp_path):
    asked = study(tmp_path, seeds=7)
    assert not asked.finished
    with pytest.raises(ActSearchError, match="not finished: it waits for 14 runs"):
        asked.result()
    told = loop(asked)
    assert len(told) == len(set(told)) == 14 and {seed for _, seed in told} == set(range(1000, 1007))
    assert asked.finished and asked.ask() is None
    result = asked.result()
    compared = compare_here(own_trainings.reward, tmp_path, seeds=7)
    mine, theirs = (r.verdicts[0] for r in (result, compared))
    assert {k: mine[k] for k in ("verdict", "difference", "ci_low")} == {
        k: theirs[k] for k in ("verdict", "difference", "ci_low")
    }
    assert (result.folder / "report.html").exists() and (result.folder / "runs.csv").exists()
    assert (
        loop(study(tmp_path, seeds=8)) == [("relu", 1007), ("gelu", 1007)] or len(loop(study(tmp_path, seeds=8))) == 0
    )


def test_a_search_by_ask_and_tell_is_the_search(tmp_path):
    activations = ["relu", "gelu", {"elu": {"alpha": [0.5, 1.0]}}]
    keywords = {"n_trials": 4, "finalists": 1, "finalist_seeds": 3, "study": {"generation": 2}, "seeds": 2}
    asked, seen_test = study(tmp_path, activations, searches=True, **keywords), set()
    while (run := asked.ask()) is not None:
        rungs = list(own_trainings.peaked(run.activation, run.seed, **run.settings, test=run.test))
        for rung in rungs[:-1]:
            run.report(rung)
        asked.tell(run, rungs[-1])
        seen_test.add((run.test, run.seed >= 1000))
    assert seen_test == {(False, False), (True, True)}
    result = asked.result()
    assert result.best == "gelu" and len(result.rows) == 4
    here = Here(job_of(own_trainings.peaked, tmp_path, activations, **keywords)).walk()
    assert [row["val_accuracy_mean"] for row in here.rows] == [row["val_accuracy_mean"] for row in result.rows]


def test_two_hold_it_at_once_and_what_a_dead_one_had_is_handed_out_again(tmp_path):
    one, other = study(tmp_path), study(tmp_path)
    first, second = one.ask(), other.ask()
    assert first is not None and second is not None
    assert (str(first.activation), first.seed) != (str(second.activation), second.seed)
    code = (
        "import actsearch; "
        f"run = actsearch.Study('robot', ['relu', 'gelu'], seeds=3, folder={str(tmp_path)!r}, tracking='none').ask(); "
        "print(run.activation, run.seed)"
    )
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    lost = done.stdout.split()
    third = one.ask()
    assert [str(third.activation), str(third.seed)] == lost
    for run in (first, second, third):
        one.tell(run, {"test_reward": 0.5 + run.seed * 1e-6})
    assert len(loop(other)) == 3 and one.finished


def test_what_cannot_be_told_is_one_line_and_can_be_told_again(tmp_path):
    asked = study(tmp_path)
    run = asked.ask()
    for wrong, said in (
        ({"test_reward": "good"}, "it reported 'test_reward': 'good', which is no number"),
        ({}, "it reported nothing"),
    ):
        with pytest.raises(ActSearchError, match=said):
            asked.tell(run, wrong)
    asked.tell(run, {"test_reward": 0.5})
    with pytest.raises(ActSearchError, match="was told of it before"):
        asked.tell(run, {"test_reward": 0.5})
    failed = asked.ask()
    asked.tell(failed, error="the robot fell")
    loop(asked)
    result = asked.result()
    assert any("1 of 3 runs of" in said and "the robot fell" in said for said in result.warnings)
    assert isinstance(asked, Asked)


def test_a_first_run_that_fails_is_handed_out_again(tmp_path):
    asked = study(tmp_path, searches=True, n_trials=2, finalists=1, finalist_seeds=2, seeds=1)
    with pytest.raises(ActSearchError, match="the first run failed, relu, seed 0: no power"):
        asked.tell(asked.ask(), error="no power")
    run = asked.ask()
    assert (str(run.activation), run.seed) == ("relu", 0)
    asked.tell(run, {"val_reward": 1.0})
    assert asked.ask() is not None


def test_words_that_do_not_fit_are_one_line(tmp_path):
    for keywords, said in (
        ({"activatoins": []}, "unknown keyword of Study 'activatoins'"),
        ({"check_repeat": True}, "unknown keyword of Study 'check_repeat'"),
        ({"pruner": "median"}, "they need the loop"),
        ({"activations": ["gleu"]}, "Did you mean 'gelu'"),
        ({"name": "a/b"}, "without slashes"),
    ):
        given = {"name": "robot", "activations": ["gelu"], "folder": tmp_path, "tracking": "none", **keywords}
        with pytest.raises(ActSearchError) as error:
            actsearch.Study(given.pop("name"), given.pop("activations"), **given)
        assert said in str(error.value), keywords
