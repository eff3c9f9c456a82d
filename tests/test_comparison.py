"""What the finalists' runs say: pairs, known numbers, metrics, options that cannot be."""

import dataclasses
import math

import numpy as np
import pytest
from fake_trainer import confirmation
from scipy import stats

from actsearch.errors import ActSearchError
from actsearch.question.options import speed_is_told
from actsearch.question.recipe import Recipe
from actsearch.records import Cost, Curves, Evidence, FinalistRun, by_candidate
from actsearch.report.files import verdict_rows
from actsearch.report.tables import finalist_table
from actsearch.verdicts.comparison import compare_finalists, reaches, steps_to
from actsearch.verdicts.verdict import BETTER, UNDECIDED

RECIPE = Recipe(steps=20, eval_every=10, batch_size=15)
SPEED_RECIPE = Recipe(schedule="constant", steps=100, eval_every=2, batch_size=15)


def run(activation, seed, value, diverged=False, **recipe):
    curves = Curves([20], [[value]], [[1 - value]], [[1 - value]])
    return FinalistRun(activation, recipe, seed, value, 1 - value, diverged, curves)


def test_comparisons_are_numpys_and_scipys_numbers():
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.02, 20)
    scores = {"gelu": base + rng.normal(0.02, 0.01, 20), "tanh": base - rng.normal(0.05, 0.01, 20), "relu": base}
    runs = [run(a, 1000 + i, float(v)) for a in ("tanh", "relu", "gelu") for i, v in enumerate(scores[a])]
    found = compare_finalists(Evidence(runs), confirmation())
    assert [c.activation for c in found] == ["gelu", "relu", "tanh"]
    for c in found:
        assert c.mean == pytest.approx(scores[c.activation].mean(), rel=1e-12)
        assert c.std == pytest.approx(scores[c.activation].std(ddof=1), rel=1e-12)
        assert (c.n_seeds, c.is_baseline) == (20, c.activation == "relu")
        if c.is_baseline:
            assert (c.verdict, c.secondary, c.at_rates) == (None, [], {})
            continue
        # two candidates: each interval at 97.5 %, so that both hold with 95 %
        theirs = stats.ttest_rel(scores[c.activation], base)
        ends = theirs.confidence_interval(0.975)
        assert (c.verdict.ci_low, c.verdict.ci_high) == pytest.approx((ends.low, ends.high), rel=1e-10)
        assert c.verdict.difference == pytest.approx((scores[c.activation] - base).mean(), rel=1e-10)
        assert c.verdict.p_corrected == pytest.approx(2 * theirs.pvalue, rel=1e-9)
        assert (c.verdict.verdict, c.verdict.n_seeds) == ("better" if c.activation == "gelu" else "worse", 20)
        assert [(v.metric.name, v.confidence) for v in c.secondary] == [("test_loss", 0.975)]
        assert math.isnan(c.training_step_us)


def test_pairs_are_made_by_seed_whatever_the_order_of_the_runs():
    runs = [run("relu", 1001, 0.5), run("gelu", 1000, 0.4), run("relu", 1000, 0.3), run("gelu", 1001, 0.6)]
    found = next(c for c in compare_finalists(Evidence(runs), confirmation()) if not c.is_baseline).verdict
    assert found.difference == pytest.approx(0.1)
    assert found.ci_low == pytest.approx(0.1)  # both pairs differ by 0.1: no spread


def test_one_seed_has_no_spread():
    found = compare_finalists(Evidence([run("relu", 1000, 0.5), run("gelu", 1000, 0.6)]), confirmation())
    assert math.isnan(found[0].std)
    assert math.isnan(found[0].verdict.ci_low)
    assert found[0].verdict.verdict == UNDECIDED


def test_runs_of_one_spec_with_two_recipes_are_two_groups():
    runs = [run("gelu", 1000, 0.5, lr=0.1), run("gelu", 1000, 0.6, lr=0.2), run("gelu", 1001, 0.7, lr=0.1)]
    assert [[r.test_metric for r in group] for group in by_candidate(runs)] == [[0.5, 0.7], [0.6]]


def test_a_finalist_run_survives_json():
    before = run("leaky_relu(negative_slope=0.02)", 1003, 0.1 + 0.2, diverged=True, lr=0.1)
    assert FinalistRun.from_json(before.to_json()) == before


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"finalists": 0}, "confirm.finalists=0"),
        ({"finalists": "many"}, "confirm.finalists=many: write a number, or all"),
        ({"seeds": 0}, "confirm.seeds=0"),
        ({"tune": "lr"}, "confirm.tune=lr: write auto, none, or values by key"),
        ({"metric": "test_acuracy"}, "unknown metric in confirm.metric: 'test_acuracy'. Did you mean 'test_accuracy'?"),
        ({"margin": {"los": 0.1}}, "unknown metric in confirm.margin: 'los'"),
        (
            {"margin": {"test_accuracy": 0.0}},
            "confirm.margin.test_accuracy=0: write a share between 0 and 1, e.g. 0.005",
        ),
        ({"margin": {"test_loss": 5}}, "confirm.margin.test_loss=5: write a share between 0 and 1, e.g. 0.05"),
        ({"alpha": 0.0}, "confirm.alpha=0: write a chance from 0.000001 to 0.5"),
        ({"alpha": 0.5}, "confirm.alpha=0.5"),
        ({"looks": []}, "confirm.looks=[]: write growing numbers of seeds from 2 on"),
        ({"looks": [1, 5]}, "confirm.looks=[1, 5]"),
        ({"looks": [10, 5]}, "confirm.looks=[10, 5]"),
        ({"looks": [10, 10]}, "confirm.looks=[10, 10]"),
        ({"metric": "latency_us", "until_decided": True}, "confirm.metric=latency_us is measured"),
    ],
)
def test_options_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ActSearchError) as error:
        confirmation(**keywords)
    assert words in str(error.value)


def test_curves_tell_speed_at_a_constant_rate_with_fifty_rungs():
    assert speed_is_told(SPEED_RECIPE)
    assert not speed_is_told(dataclasses.replace(SPEED_RECIPE, eval_every=3))
    assert not speed_is_told(dataclasses.replace(SPEED_RECIPE, schedule="cosine"))


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        (0.10, 5.0),  # half way from nothing at step 0
        (0.20, 10.0),
        (0.35, 15.0),
        (0.50, 20.0),
        (0.65, 35.0),  # after the dip: from 0.4 at 30 to 0.9 at 40
        (0.95, 40.0),  # never: all
    ],
)
def test_steps_to_a_target_by_hand(target, steps):
    curves = Curves([10, 20, 30, 40], [[0.2], [0.5], [0.4], [0.9]])
    assert steps_to(curves, target) == pytest.approx(steps)
    assert reaches(curves, target) == (target < 0.95)


def test_steps_and_time_to_the_target_are_compared_where_it_is_set():
    def learns(activation, seed, at):
        made = run(activation, seed, 0.9)
        made.curves = Curves([10, 20], [[at], [0.9]], [[1.0], [0.5]], [[1.0], [0.5]])
        return made

    rng = np.random.default_rng(0)
    runs = [learns("gelu", 1000 + i, 0.6 + 0.01 * rng.random()) for i in range(10)]
    runs += [learns("relu", 1000 + i, 0.3 + 0.01 * rng.random()) for i in range(10)]
    costs = {a: Cost([us] * 3, [1.0, 1.1, 1.2]) for a, us in (("gelu", 40.0), ("relu", 10.0))}
    found = next(c for c in compare_finalists(Evidence(runs, 0.75, costs), confirmation()) if not c.is_baseline)
    by_name = {v.metric.name: v for v in found.secondary}
    assert set(by_name) == {
        "test_loss", "learning_speed", "steps_to_accuracy", "time_to_accuracy_s", "training_step_us", "latency_us",
    }  # fmt: skip
    assert found.n_reached == 10
    assert by_name["steps_to_accuracy"].verdict == BETTER
    assert by_name["time_to_accuracy_s"].verdict == "worse"  # fewer steps, each four times as long
    seconds = by_name["time_to_accuracy_s"].mean
    assert seconds == pytest.approx(by_name["steps_to_accuracy"].mean * 40e-6)
    assert (found.training_step_us, by_name["training_step_us"].difference) == (40.0, pytest.approx(3.0))
    assert {v.metric.name for v in compare_finalists(Evidence(runs), confirmation())[0].secondary} <= {"test_loss"}


@pytest.mark.parametrize("metric", ["steps_to_accuracy", "time_to_accuracy_s"])
def test_runs_that_never_reach_the_target_are_not_equivalent_to_anything(metric):
    def learns(activation, seed, last):
        made = run(activation, seed, 0.9)
        made.curves = Curves([10, 20], [[0.3], [last]], [[1.0], [0.5]], [[1.0], [0.5]])
        return made

    costs = {a: Cost([10.0] * 3, [1.0] * 3) for a in ("gelu", "relu")}
    for reached, words in ((0, "0 of 10 runs reached the target accuracy, the baseline's 0;"), (4, "4 of 10 runs")):
        runs = [learns("gelu", 1000 + i, 0.9 if i < reached else 0.5) for i in range(10)]
        runs += [learns("relu", 1000 + i, 0.5) for i in range(10)]
        found = next(c for c in compare_finalists(Evidence(runs, 0.75, costs), confirmation()) if not c.is_baseline)
        verdict = next(v for v in found.secondary if v.metric.name == metric)
        assert (verdict.verdict, found.n_reached) == (UNDECIDED, reached)
        assert words in verdict.warning
    # all of the baseline's reach it, and half of the steps before
    runs = [learns("gelu", 1000 + i, 0.5) for i in range(10)]
    runs += [learns("relu", 1000 + i, 3.0 + 0.01 * i) for i in range(10)]
    found = next(c for c in compare_finalists(Evidence(runs, 0.75, costs), confirmation()) if not c.is_baseline)
    verdict = next(v for v in found.secondary if v.metric.name == metric)
    assert (verdict.verdict, verdict.ci_high) == ("worse", math.inf)
    assert "at least" in verdict.warning


def test_means_without_the_runs_that_failed_and_the_bound_of_their_rate():
    values = [0.9, 0.8, 0.1, 0.7]
    candidate = [
        FinalistRun("gelu", {}, 1000 + i, v, 1 - v, v == 0.1, Curves([20], [[v]], [[1 - v]], [[1 - v]]))
        for i, v in enumerate(values)
    ]
    base = [dataclasses.replace(run, activation="relu", diverged=False) for run in candidate]
    found = {c.activation: c for c in compare_finalists(Evidence([*candidate, *base]), confirmation())}
    assert found["gelu"].mean_of_others == pytest.approx(0.8)
    assert found["gelu"].n_failed == 1 and found["gelu"].failure_bound == pytest.approx(0.7514, abs=1e-4)
    assert found["relu"].mean_of_others == pytest.approx(0.625)
    heads, rows = finalist_table(list(found.values()), confirmation())
    table = [dict(zip(heads, row, strict=True)) for row in rows]
    assert {row["activation"]: row["failed (at most)"] for row in table} == {
        "gelu": "1 (75 %)",
        "relu": "0 (53 %)",
    }
    assert {row["activation"]: row["test accuracy without them"] for row in table}["gelu"] == "80.00 %"
    assert {row["failure_bound_baseline"] for row in verdict_rows(list(found.values()))} == {
        found["relu"].failure_bound
    }
