"""Recipes: wrong values, rungs, parameter groups, and training equal to an ordinary torch loop."""

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from actsearch.activations.spec import parse_net
from actsearch.data.goal import classification
from actsearch.data.source import Split
from actsearch.errors import ActSearchError
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.recipe import OPTIMIZERS, SCHEDULES, Recipe
from actsearch.training.optimizers import make_optimizer, parameter_groups, schedule, set_step
from actsearch.training.reference import Run, batch_order, train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"optimizer": "adamm"}, r"recipe\.optimizer 'adamm'. Did you mean 'adam"),
        ({"schedule": "cosin"}, r"recipe\.schedule 'cosin'. Did you mean 'cosine'"),
        ({"init": "gian"}, r"recipe\.init 'gian'. Did you mean 'gain'"),
        ({"steps": 0}, r"recipe\.steps=0: it must be a whole number, from 1 to"),
        ({"batch_size": 0}, r"recipe\.batch_size=0"),
        ({"eval_every": -1}, r"recipe\.eval_every=-1"),
        ({"lr": 0.0}, r"recipe\.lr=0\.0: a learning rate is above 0, e\.g\. 0\.01"),
        ({"lr": -1.0}, r"recipe\.lr=-1\.0"),
        ({"lr": math.inf}, r"recipe\.lr=inf"),
        ({"lr": math.nan}, r"recipe\.lr=nan"),
        ({"weight_decay": -0.1}, r"recipe\.weight_decay=-0\.1"),
        ({"weight_decay": math.nan}, r"recipe\.weight_decay=nan"),
        ({"weight_decay": math.inf}, r"recipe\.weight_decay=inf"),
        ({"momentum": 1.0}, r"recipe\.momentum=1\.0.*below 1"),
        ({"momentum": -0.1}, r"recipe\.momentum=-0\.1"),
        ({"momentum": math.nan}, r"recipe\.momentum=nan"),
        ({"grad_clip": 0.0}, r"recipe\.grad_clip=0\.0.*or null"),
        ({"grad_clip": -1.0}, r"recipe\.grad_clip=-1\.0"),
        ({"grad_clip": math.nan}, r"recipe\.grad_clip=nan"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(keywords, part):
    with pytest.raises(ActSearchError, match=part):
        Recipe(**keywords)


@pytest.mark.parametrize(
    ("steps", "eval_every", "rungs"),
    [
        (1000, 100, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        (250, 100, [100, 200, 250]),
        (100, 100, [100]),
        (50, 100, [50]),
        (3, 1, [1, 2, 3]),
        (1, 1, [1]),
    ],
)
def test_rungs_are_every_eval_every_and_the_last_step(steps, eval_every, rungs):
    assert Recipe(steps=steps, eval_every=eval_every).rungs() == rungs


# --- parameter groups -----------------------------------------------------------------------------


def net(text="prelu | tanh", **keywords):
    model = Model(mlp, "mlp", (4,), 3, {"width": 5, "depth": 2, **keywords})
    return model.build(parse_net(text), seed=0, init="gain").double()


def test_learned_parameters_are_a_group_without_weight_decay():
    made = net(norm="batch")
    weights, learned = parameter_groups(made, 0.3)
    assert (weights["weight_decay"], learned["weight_decay"]) == (0.3, 0.0)
    assert [p.shape for p in learned["params"]] == [(5,)]
    assert {id(p) for p in weights["params"] + learned["params"]} == {id(p) for p in made.parameters()}
    assert len(weights["params"]) + len(learned["params"]) == len(list(made.parameters()))


def test_without_learned_parameters_there_is_one_group():
    assert len(parameter_groups(net("relu"), 0.3)) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_moves_weights_and_not_learned_parameters(optimizer):
    """One step with gradients of zero: what moves was moved by weight decay alone."""
    made = net()
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    step = make_optimizer(made, Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.5))
    for p in made.parameters():
        p.grad = torch.zeros_like(p)
    step.step()
    for name, p in made.named_parameters():
        if "slope" in name:
            assert torch.equal(p, before[name])
        elif optimizer in ("sgd", "adamw"):
            torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5), rtol=1e-12, atol=0)
        elif name.endswith("weight"):
            assert torch.equal((p - before[name]).sign(), -before[name].sign())


# --- schedules ------------------------------------------------------------------------------------


def test_constant_schedule():
    assert schedule(Recipe(schedule="constant", lr=0.3, steps=4)) == [(0.3, None)] * 4


def test_cosine_schedule_is_half_a_cosine():
    plan = schedule(Recipe(schedule="cosine", lr=0.2, steps=10, optimizer="sgd"))
    assert [lr for lr, _ in plan] == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 10)) for t in range(10)])
    assert {momentum for _, momentum in plan} == {None}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_cycle_goes_up_to_lr_and_down_while_momentum_does_the_opposite(optimizer):
    plan = schedule(Recipe(schedule="one_cycle", lr=0.2, steps=101, optimizer=optimizer))
    rates, momenta = zip(*plan, strict=True)
    assert rates[0] == pytest.approx(0.2 / 25)
    assert max(rates) == pytest.approx(0.2, rel=1e-3)
    assert rates.index(max(rates)) in (29, 30)
    assert rates[-1] == pytest.approx(0.2 / 25 / 1e4)
    assert (momenta[0], momenta[-1]) == pytest.approx((0.95, 0.95))
    assert min(momenta) == pytest.approx(0.85, rel=1e-3)
    assert momenta.index(min(momenta)) == rates.index(max(rates))


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_one_cycle_has_no_momentum_to_cycle_where_it_is_zero(optimizer):
    plan = schedule(Recipe(optimizer=optimizer, momentum=0.0, steps=5))
    assert {momentum for _, momentum in plan} == {None}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.filterwarnings("error")
def test_a_schedule_has_one_finite_rate_per_step(name, steps):
    plan = schedule(Recipe(schedule=name, steps=steps, lr=0.1))
    assert len(plan) == steps
    assert all(0 < lr <= 0.1 * (1 + 1e-12) for lr, _ in plan)


def test_set_step_sets_every_group():
    made = net()
    adam, sgd = make_optimizer(made, Recipe()), make_optimizer(made, Recipe(optimizer="sgd", momentum=0.7))
    assert len(adam.param_groups) == 2
    set_step(adam, 0.5, 0.8)
    assert [(g["lr"], g["betas"]) for g in adam.param_groups] == [(0.5, (0.8, 0.999))] * 2
    set_step(sgd, 0.5, None)
    assert [(g["lr"], g["momentum"]) for g in sgd.param_groups] == [(0.5, 0.7)] * 2
    set_step(sgd, 0.5, 0.9)
    assert [g["momentum"] for g in sgd.param_groups] == [0.9] * 2


# --- the whole: an ordinary loop ------------------------------------------------------------------


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def split():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (30,), generator=generator)
    return Split(x[:20], y[:20], x[20:], y[20:], classification(int(y.max()) + 1))


def ordinary_loop(net, data, recipe, order):
    """As in any tutorial: torch's optimizer, torch's scheduler, nothing of actsearch."""
    slopes = [p for n, p in net.named_parameters() if "slope" in n]
    groups = [
        {"params": [p for n, p in net.named_parameters() if "slope" not in n], "weight_decay": recipe.weight_decay},
        {"params": slopes, "weight_decay": 0.0},
    ]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, foreach=False),
        "adam": lambda: torch.optim.Adam(groups, lr=recipe.lr, foreach=False),
        "adamw": lambda: torch.optim.AdamW(groups, lr=recipe.lr, foreach=False),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=recipe.lr, momentum=recipe.momentum, foreach=False),
    }[recipe.optimizer]()
    scheduler = {
        "constant": lambda: None,
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.steps),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=recipe.steps,
            cycle_momentum="adam" in recipe.optimizer or recipe.momentum > 0,
        ),
    }[recipe.schedule]()  # fmt: skip
    losses = []
    for batch in order:
        loss = nn.CrossEntropyLoss()(net(data.x_train[batch]), data.y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        if recipe.grad_clip is not None:
            norm = math.sqrt(sum(p.grad.square().sum().item() for p in net.parameters()))
            for p in net.parameters():
                p.grad *= min(1.0, recipe.grad_clip / (norm + 1e-6))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("grad_clip", [None, 0.5], ids=["free", "clipped"])
def test_training_equals_an_ordinary_torch_loop(optimizer, name, momentum, grad_clip, float64):
    recipe = Recipe(
        optimizer=optimizer, lr=0.01, schedule=name, steps=25, batch_size=8, eval_every=10, weight_decay=0.05,
        momentum=momentum, grad_clip=grad_clip,
    )  # fmt: skip
    ours, wanted, data = net(), net(), split()
    start = {n: p.detach().clone() for n, p in ours.named_parameters()}
    rungs = list(train(ours, data, Run(parse_net("prelu | tanh"), recipe, seed=6), CPU))
    losses = ordinary_loop(wanted, data, recipe, batch_order(20, 8, 25, seed=6))
    for (n, a), b in zip(ours.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12)
        assert not torch.equal(a, start[n])
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 10), (10, 20), (20, 25))]
    assert [r.train_loss for r in rungs] == pytest.approx(means, rel=1e-12)
    assert [r.step for r in rungs] == [10, 20, 25]
    with torch.no_grad():
        outputs = wanted.eval()(data.x_val)
    assert rungs[-1].val_metric == (outputs.argmax(1) == data.y_val).double().mean().item()
    assert rungs[-1].val_loss == pytest.approx(nn.CrossEntropyLoss()(outputs, data.y_val).item(), rel=1e-12)
