"""The optimizer, the learning rate schedule and the precision of a recipe, as PyTorch objects."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import nn

from actsearch.activations.spec import ActivationModule
from actsearch.question.recipe import Recipe


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict]:
    """torch.optim's parameter groups: weights with weight decay, learned parameters of activations without it.

    He et al. 2015 train PReLU without weight decay, because it would pull the slope to 0.
    """
    of_activations = {id(p) for m in net.modules() if isinstance(m, ActivationModule) for p in m.parameters()}
    weights = [p for p in net.parameters() if id(p) not in of_activations]
    learned = [p for p in net.parameters() if id(p) in of_activations]
    groups = [{"params": weights, "weight_decay": weight_decay}]
    return [*groups, {"params": learned, "weight_decay": 0.0}] if learned else groups


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer for a net's parameters, with the recipe's learning rate, momentum and weight decay."""
    groups = parameter_groups(net, recipe.weight_decay)
    # fused: one kernel for all weights, 2.5 to 3 times cheaper than the default on a CPU
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=_fusable(net))
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, momentum=recipe.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(groups, lr=recipe.lr, fused=_fusable(net))


def _fusable(net: nn.Module) -> bool:
    return all(p.device.type in ("cpu", "cuda", "mps") for p in net.parameters())


def use_precision(recipe: Recipe) -> None:
    """Sets the precision of matrix products and convolutions on NVIDIA GPUs, for this whole process.

    It is always set, because torch's default allows TF32 in convolutions.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.precision == "tf32"
    torch.backends.cudnn.deterministic = True


def schedule(recipe: Recipe) -> list[tuple[float, float | None]]:
    """For each step (learning rate, momentum), computed by torch's own schedulers.

    momentum: that of SGD or RMSprop, or Adam's beta1; None if it stays constant. Only the one-cycle schedule (Smith
    2018) changes it, as torch's does.
    """
    return _schedule(recipe.optimizer, recipe.lr, recipe.schedule, recipe.steps, recipe.momentum)


@lru_cache(maxsize=256)  # a schedule of 1000 steps takes 15 ms, and most runs of a study have the same one
def _schedule(
    optimizer_name: str, lr: float, name: str, steps: int, momentum_start: float
) -> list[tuple[float, float | None]]:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = {
        "sgd": lambda: torch.optim.SGD([weight], lr, momentum=momentum_start),
        "rmsprop": lambda: torch.optim.RMSprop([weight], lr, momentum=momentum_start),
    }.get(optimizer_name, lambda: torch.optim.Adam([weight], lr))()
    cycles = optimizer_name in ("adam", "adamw") or momentum_start > 0
    scheduler = {
        "constant": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=max(steps, 2), cycle_momentum=cycles
        ),
    }[name]()
    group, plan = optimizer.param_groups[0], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "lr_scheduler.step() before optimizer.step()" is intended here
        for _ in range(steps):
            momentum = None
            if name == "one_cycle" and cycles:
                momentum = group["betas"][0] if "betas" in group else group["momentum"]
            plan.append((float(group["lr"]), momentum))
            if len(plan) < steps:
                scheduler.step()
    return plan


def without_dynamo() -> None:
    """Lets optimizers work in this process without torch._dynamo, whose import delays the first rung by a second.

    The first call of each of these methods, and of each `step`, imports it, to make sure that torch.compile leaves them
    alone; nothing is compiled where runs are trained. `__dynamo_disable` is a private name of torch: where it is called
    otherwise, only the second is lost.
    """
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):  # AdamW has Adam's
        step = getattr(kind.step, "__wrapped__", None)
        if step is not None:
            kind.step = torch.no_grad()(step)


def set_step(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Sets the learning rate and, unless None, the momentum (Adam's beta1) of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum
