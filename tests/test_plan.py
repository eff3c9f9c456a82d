"""How runs are trained: a plain function of model, device and machine."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from actsearch.activations.spec import parse_net
from actsearch.data.goal import classification
from actsearch.errors import ActSearchError
from actsearch.models import cnn1d, cnn2d, mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.training import worker
from actsearch.training.fused import Fused
from actsearch.training.plan import K_CPU, SERIAL, Plan, candidates, choose_plan, fastest, room
from actsearch.training.reference import Run
from actsearch.training.trace import trace_layers
from actsearch.training.trainer import Trainer, tune_plan
from actsearch.training.worker import Worker

GOAL = classification(3)
CPU = torch.device("cpu")


def small():
    return Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1})


def odd():
    """A net that has no fused form."""

    def net(activation, in_shape, n_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.GroupNorm(2, 6), activation(6), nn.Linear(6, 3))

    return Model(net, "odd", (6,), 3)


class Both(nn.Module):
    """Takes two inputs."""

    def __init__(self, activation):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), activation(6), nn.Linear(6, 3))

    def forward(self, x, mask):
        return self.layers(x * mask)


def test_small_nets_are_fused_on_a_cpu_and_nets_on_images_are_not():
    assert choose_plan("auto", small(), GOAL, 10, CPU, 2) == Plan("fused", K_CPU)
    assert choose_plan("auto", Model(cnn1d, "cnn1d", (40,), 10), GOAL, 100, CPU, 2).engine == "fused"
    images = choose_plan("auto", Model(cnn2d, "cnn2d", (1, 9, 9), 3), GOAL, 10, CPU, 2)
    assert (images.engine, images.channels_last) == ("serial", True)
    assert choose_plan("fused", Model(cnn2d, "cnn2d", (1, 9, 9), 3), GOAL, 10, CPU, 2).engine == "fused"
    assert choose_plan("serial", small(), GOAL, 10, CPU, 2) == SERIAL


def test_a_net_without_a_fused_form_is_trained_serially_and_says_why():
    plan = choose_plan("auto", odd(), GOAL, 10, CPU, 2)
    assert plan.engine == "serial"
    assert "GroupNorm" in str(plan)
    with pytest.raises(ActSearchError, match=r"engine=fused.*odd.*GroupNorm"):
        choose_plan("fused", odd(), GOAL, 10, CPU, 2)
    assert candidates(odd(), GOAL, 10, CPU, 2, 8) == [SERIAL]


def test_a_net_of_several_inputs_is_trained_serially_and_says_why():
    def net(activation):
        return Both(activation)

    model = Model(net, "both", (6,), 3, examples=(torch.zeros(2, 6), torch.ones(2, 6)))
    plan = choose_plan("auto", model, GOAL, 10, CPU, 2)
    assert (plan.engine, plan.why) == ("serial", "no fused form: the data have several inputs")
    with pytest.raises(ActSearchError, match=r"engine=fused.*both.*several inputs"):
        choose_plan("fused", model, GOAL, 10, CPU, 2)
    assert candidates(model, GOAL, 10, CPU, 2, 8) == [SERIAL]


def test_an_unknown_engine_is_refused():
    with pytest.raises(ActSearchError, match="Did you mean 'fused'"):
        choose_plan("fuse", small(), GOAL, 10, CPU, 2)


def test_memory_bounds_k():
    wide = Model(mlp, "mlp", (6,), 3, {"width": 4000, "depth": 3})
    assert room(trace_layers(wide), 100, CPU, 1) < room(trace_layers(small()), 100, CPU, 1)
    assert room(trace_layers(small()), 100, CPU, 2) == pytest.approx(
        room(trace_layers(small()), 100, CPU, 1) / 2, abs=1
    )
    assert room(trace_layers(wide), 10**9, CPU, 1) == 1


def test_a_plan_is_written_and_read():
    plan = Plan("fused", 5, False, "why")
    assert Plan.from_json(plan.to_json()) == plan


def test_the_fastest_is_taken():
    plans = [SERIAL, Plan("fused", 4), Plan("fused", 8)]
    assert replace(fastest(plans, [3.0, 1.0, 2.0]), why="") == plans[1]


@pytest.mark.parametrize("plan", [SERIAL, Plan("fused", 2), Plan("fused", 100)])
def test_a_worker_gives_every_run_its_numbers_whatever_the_plan(blobs, plan):
    recipes = [Recipe(steps=6, batch_size=15, eval_every=3), Recipe(steps=6, batch_size=10, eval_every=3)]
    recipes.append(replace(recipes[0], optimizer="sgd"))
    runs = [Run(parse_net(text), recipe, 0) for text in ("relu", "tanh", "relu | gelu") for recipe in recipes]
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2})
    with Trainer(CPU, cores=2) as trainer:
        trainer.load(model, blobs(), plan)
        trainer.start(runs)
        dict(trainer.advance(set()))
        rung = dict(trainer.advance({4}))
        scores = dict(trainer.score(*blobs().test()))
        trainer.plan = SERIAL
        trainer.start(runs)
        dict(trainer.advance(set()))
        wanted = dict(trainer.advance({4}))
        wanted_scores = dict(trainer.score(*blobs().test()))
    assert set(rung) == set(scores) == set(range(9)) - {4}
    for index, at in rung.items():
        assert (at.step, at.val_metric) == (6, pytest.approx(wanted[index].val_metric, abs=0.04))
        assert at.val_loss == pytest.approx(wanted[index].val_loss, rel=1e-3)
        assert scores[index][1] == pytest.approx(wanted_scores[index][1], rel=1e-3)


def test_tuning_times_each_plan_and_leaves_the_fastest(blobs):
    runs = [Run(parse_net(text), Recipe(steps=4, batch_size=15, eval_every=2), 0) for text in ("relu", "gelu")]
    with Trainer(CPU, cores=1) as trainer:
        trainer.load(small(), blobs())
        plan = tune_plan(trainer, small(), runs)
        assert trainer.plan == plan
    assert "fastest of 2" in str(plan)  # K = 2 holds them all: larger ones are the same plan


def test_what_does_not_fit_is_trained_with_half_as_many_at_once(blobs, monkeypatch):
    """The second rung of a program of more than two runs runs out of memory: all begins again, with the same result."""

    class Narrow(Fused):
        def advance(self, stopped):
            if self.step > 0 and len(self.runs) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield from super().advance(stopped)

    recipe = Recipe(steps=9, batch_size=15, eval_every=3)
    runs = list(enumerate(Run(parse_net(text), recipe, seed) for text in ("relu", "gelu", "tanh") for seed in range(3)))
    wide, narrow = (Worker(small(), blobs(), CPU) for _ in range(2))
    wide.start(runs, Plan("fused", 8))
    wanted = [dict(wide.advance(stopped)) for stopped in (set(), {4}, {4})]
    monkeypatch.setattr(worker, "Fused", Narrow)
    narrow.start(runs, Plan("fused", 8))
    rungs = [dict(narrow.advance(stopped)) for stopped in (set(), {4}, {4})]
    assert (narrow.plan.k, narrow.plan.why) == (2, "halved, out of memory")
    for mine, theirs in zip(rungs, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        for index, at in mine.items():
            assert at.step == theirs[index].step
            assert at.val_loss == pytest.approx(theirs[index].val_loss, rel=1e-4)
