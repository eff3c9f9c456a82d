"""What cannot go together in one job is refused in words, before anything is made."""

from dataclasses import replace

import optuna
import pytest
from fake_trainer import confirmation

from actsearch.errors import ActSearchError
from actsearch.job import Job, check
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.metrics import ACCURACY
from actsearch.question.options import StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import SamplerFactory

RECIPE = Recipe(steps=100, eval_every=2, batch_size=15)
CONSTANT = replace(RECIPE, schedule="constant")
BRUTE = SamplerFactory(optuna.samplers.BruteForceSampler, {}, 0)


@pytest.fixture
def job(blobs, tmp_path):
    return Job(
        model=Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2}), data=blobs(), recipe=RECIPE,
        space=SearchSpace(["relu", "tanh"], n_slots=2, base=RECIPE), study=StudyOptions(n_trials=4).settled(ACCURACY),
        confirm=confirmation(), sampler=SamplerFactory(optuna.samplers.TPESampler, {}, 0),
        pruner=optuna.pruners.NopPruner(), identity={}, folder=tmp_path, storage_url="sqlite:///x.db",
        tracking_uri=None,
    )  # fmt: skip


def space(**recipe):
    return SearchSpace(["relu", {"elu": {"alpha": [0.5, 1.0]}}], recipe or None, n_slots=2, base=RECIPE)


RANGE = {"low": 0.001, "high": 0.1, "log": True}
GOOD = {
    "as it is": {},
    "speed": {"recipe": CONSTANT, "confirm": confirmation(metric="learning_speed")},
    "one baseline per layer": {"confirm": confirmation(baseline="relu | tanh")},
    "a comparison with a range of rates, which tuning searches": {
        "space": space(lr=RANGE), "sampler": BRUTE, "confirm": confirmation(finalists="all"),
    },
}  # fmt: skip
BAD = {
    "batch": ({"recipe": replace(RECIPE, batch_size=61)}, "recipe.batch_size=61"),
    "searched batch": ({"space": space(batch_size=[15, 61])}, "recipe.batch_size=61"),
    "tuned batch": ({"confirm": confirmation(tune={"batch_size": [15, 61]})}, "confirm.tune.batch_size: there are 60"),
    "speed of a tuned schedule": (
        {"recipe": CONSTANT,
         "confirm": confirmation(metric="learning_speed", tune={"schedule": ["constant", "cosine"]})},
        "recipe.schedule=constant",
    ),
    "tuned word": ({"confirm": confirmation(tune={"init": ["gain", "warm"]})}, "confirm.tune.init: unknown"),
    "unknown baseline": (
        {"confirm": confirmation(baseline="rleu")}, "confirm.baseline: unknown activation 'rleu'. Did you mean 'relu'?",
    ),
    "baseline": ({"confirm": confirmation(baseline="relu | tanh | relu")}, "names 3 layers; the model takes 2"),
    "speed of one cycle": ({"confirm": confirmation(metric="learning_speed")}, "recipe.schedule=constant"),
    "speed in ten looks": (
        {"recipe": replace(CONSTANT, eval_every=10), "confirm": confirmation(metric="steps_to_accuracy")},
        "recipe.eval_every=2",
    ),
    "speed of a searched schedule": (
        {"recipe": CONSTANT, "space": space(schedule=["constant", "cosine"]),
         "confirm": confirmation(metric="learning_speed")}, "recipe.schedule=constant",
    ),
    "grid search over a range of rates": ({"space": space(lr=RANGE), "sampler": BRUTE}, "'lr' is a range"),
    "tracking": ({"tracking_uri": "./mlruns"}, "tracking.uri=./mlruns"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_goes_together_passes(job, case):
    check(replace(job, **GOOD[case]))


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_is_named(job, case):
    changed, words = BAD[case]
    with pytest.raises(ActSearchError) as error:
        check(replace(job, **changed))
    assert words in str(error.value)


@pytest.mark.parametrize("metric", ["test_loss", "learning_speed"])
def test_losses_that_can_be_negative_are_not_compared_by_ratio(job, metric):
    job.data.least_loss = -3.0
    judged = replace(job, recipe=CONSTANT, confirm=confirmation(metric=metric))
    with pytest.raises(ActSearchError, match=rf"confirm\.metric={metric}: .*Write confirm\.metric=test_accuracy"):
        check(judged)
    check(job)


def test_weights_that_tuning_would_draw_are_checked_like_those_of_the_recipe(job):
    tuned = replace(job, confirm=confirmation(tune={"init": ["torch", "keep"]}))
    assert (job.values_of("init"), tuned.values_of("init")) == (["gain"], ["gain", "torch", "keep"])
