"""The optimizers over rows: each row as torch.optim would update it alone, with its own recipe."""

import pytest
import torch

from actsearch.question.recipe import OPTIMIZERS, SCHEDULES, Recipe
from actsearch.training.optimizers import make_optimizer, schedule, set_step
from actsearch.training.update import Update

RATES = [0.01, 0.02, 0.005]


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_row_is_torch_optims(optimizer, kind, vectorised):
    n, n_weights, steps = 12, 8, 30
    recipes = [
        Recipe(optimizer=optimizer, schedule=kind, lr=lr, steps=steps, weight_decay=10 * lr, grad_clip=clip)
        for lr, clip in zip(RATES, [None, 0.5, 2.0], strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, n, generator=generator, dtype=torch.float64)
    slopes = torch.randn(steps, 3, n, generator=generator, dtype=torch.float64)
    start, gradients = weights.clone(), torch.zeros_like(weights)
    update = Update(weights, gradients, n_weights, recipes, vectorised)
    for step in range(steps):
        gradients.copy_(slopes[step])
        update.step(torch.tensor([step]) if vectorised else step)
    for k, recipe in enumerate(recipes):
        # decayed weights and learned parameters without decay, as recipe.parameter_groups has them
        parts = [torch.nn.Parameter(start[k, :n_weights].clone()), torch.nn.Parameter(start[k, n_weights:].clone())]
        net = torch.nn.ParameterList(parts)
        torchs = make_optimizer(net, recipe)
        torchs.param_groups.clear()
        torchs.add_param_group({"params": [parts[0]], "weight_decay": recipe.weight_decay})
        torchs.add_param_group({"params": [parts[1]], "weight_decay": 0.0})
        for step, at in enumerate(schedule(recipe)):
            parts[0].grad, parts[1].grad = slopes[step, k, :n_weights].clone(), slopes[step, k, n_weights:].clone()
            if recipe.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(parts, recipe.grad_clip)
            set_step(torchs, *at)
            torchs.step()
        torch.testing.assert_close(weights[k], torch.cat(list(parts)).detach(), rtol=1e-12, atol=1e-12)


def test_what_is_kept_goes_on_as_it_was():
    recipes = [Recipe(lr=lr, steps=10) for lr in RATES]
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(10, 3, 16, generator=generator)

    def run(rows, state, weights, recipes, steps):
        gradients = torch.zeros_like(weights)
        update = Update(weights, gradients, 16, recipes, False, state)
        for step in steps:
            gradients.copy_(slopes[step, rows])
            update.step(step)
        return update

    whole = torch.ones(3, 16)
    run([0, 1, 2], None, whole, recipes, range(10))
    parted = torch.ones(3, 16)
    first = run([0, 1, 2], None, parted, recipes, range(4))
    keep = torch.tensor([0, 2])
    rest = parted[keep]
    run([0, 2], first.kept(keep), rest, [recipes[0], recipes[2]], range(4, 10))
    assert torch.equal(rest, whole[keep])
