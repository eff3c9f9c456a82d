"""The self-check: before the fused engine trains a study, one program is held against the plain loop on real batches.

The list of what has a fused form can never be complete: a forward may do what no trace shows, a kernel may be wrong on
a machine that nobody tried. So both engines take the same first step with the same runs and evaluate; on a GPU as many
steps as it takes until the captured graph has been replayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from actsearch.activations.spec import print_net
from actsearch.errors import one_line
from actsearch.training.fused import EAGER, Fused
from actsearch.training.layers import Dropout
from actsearch.training.plan import is_out_of_memory
from actsearch.training.reference import WEIGHTS, Evaluation, Run, stream, train
from actsearch.training.rows import Rows

MOST_RUNS = 8
STEPS = 50  # of the recipe that both follow: what is kept for each step stays small
TOLERANCE = {"float32": 1e-3, "tf32": 3e-2}  # rounding makes 1e-6 and 1e-3; a wrong formula makes more than 1e-1
ROUNDING = 3e-7  # relative; what float32 cannot tell apart


@dataclass
class _Outcome:
    """What a run's first steps give: its evaluation, the last step's gradients, and the state of its net."""

    at: Evaluation
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def self_check(rows: Rows, runs: Sequence[Run]) -> str | None:
    """Why the fused engine must not train these runs; None if its first steps equal the plain loop's.

    runs: with the same optimizer and batch size. At most MOST_RUNS with different activations are tried.
    """
    chosen = list({run.specs: run for run in runs}.values())[:MOST_RUNS]
    steps = EAGER + 2 if rows.device.type == "cuda" else 1
    while True:
        try:
            with _same_noise(rows):
                return _compare(rows, [_shortened(run, steps) for run in chosen])
        except Exception as error:  # whatever a user's forward, a kernel or the capture of a graph raises
            if not is_out_of_memory(error) or len(chosen) == 1:
                return f"it raised {one_line(error)}"
        chosen = chosen[: len(chosen) // 2]


@contextlib.contextmanager
def _same_noise(rows: Rows) -> Iterator[None]:
    """On accelerators, where the two engines draw dropout's masks differently, nothing is dropped meanwhile."""
    modules = [node.module for node in rows.traced.nodes if node.layer is Dropout and rows.device.type != "cpu"]
    before = [module.p for module in modules]
    for module in modules:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in zip(modules, before, strict=True):
            module.p = p


def _shortened(run: Run, steps: int) -> Run:
    return replace(run, recipe=replace(run.recipe, steps=max(steps, min(STEPS, run.recipe.steps)), eval_every=steps))


def _compare(rows: Rows, runs: Sequence[Run]) -> str | None:
    program = Fused(rows, list(enumerate(runs)))
    evaluations = dict(program.advance(set()))
    for i, run in enumerate(runs):
        net = rows.model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init)
        start = {name: value.detach().clone() for name, value in net.state_dict().items()}
        fused = _Outcome(evaluations[i], program.gradient_dict(i), program.state_dict(i))
        plain = _plain(rows, run, 0.0)
        difference = _difference(fused, plain, start, run, len(rows.data.split(run.seed).x_val))
        # a net that rounding changes as much is no evidence against the engine
        if difference and not _difference(_plain(rows, run, ROUNDING), plain, start, run, 1):
            return f"{difference} for {print_net(run.specs)}"
    return None


def _plain(rows: Rows, run: Run, noise: float) -> _Outcome:
    """The plain loop's first steps, from initial weights that are changed by this relative amount."""
    net = rows.model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init)
    for module in net.modules():
        if isinstance(module, nn.Dropout) and rows.device.type != "cpu":
            module.p = 0.0
    generator = torch.Generator().manual_seed(run.seed)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + noise * torch.randn(p.shape, generator=generator))
    at = next(train(net, rows.data.split(run.seed).to(rows.device), run, rows.device))
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    return _Outcome(at, {name: g.cpu() for name, g in gradients.items()}, state)


def _difference(fused: _Outcome, plain: _Outcome, start: dict[str, Tensor], run: Run, n_val: int) -> str | None:
    """The first difference that is more than rounding, in words."""
    if fused.at.diverged or plain.at.diverged:
        return None if fused.at.diverged == plain.at.diverged else "one of the two diverged"
    tolerance = TOLERANCE[run.recipe.precision]

    def other(name: str, slack: float) -> str | None:
        got, wanted = getattr(fused.at, name), getattr(plain.at, name)
        wrong = abs(got - wanted) > tolerance * abs(wanted) + slack
        return f"{name.replace('_', ' ')} {got:.4g} instead of {wanted:.4g}" if wrong else None

    if what := other("train_loss", 1e-6):
        return what
    largest = max((g.abs().max().item() for g in plain.gradients.values() if g.numel()), default=0.0)
    for name, wanted in plain.gradients.items():
        got = fused.gradients[name]
        if _off(got, wanted, tolerance, ROUNDING * largest):
            return f"another gradient of {name}"
    for name, before in start.items():
        got, wanted = fused.state[name] - before, plain.state[name] - before
        if name in plain.gradients:  # the sign of a gradient that is nearly 0 decides a step of Adam
            gradient = plain.gradients[name].abs()
            clear = gradient > max(10 * tolerance * gradient.max().item(), ROUNDING * largest)
            got, wanted = got[clear], wanted[clear]
        if before.is_floating_point() and _off(got, wanted, 10 * tolerance, ROUNDING * before.abs().max().item()):
            return f"another update of {name}"
    return other("val_loss", 1e-6) or other("val_metric", 2 / n_val)  # two examples may be as good as tied


def _off(got: Tensor, wanted: Tensor, tolerance: float, slack: float) -> bool:
    """Whether two tensors differ by more than `tolerance` of the largest number, and more than `slack`."""
    if not wanted.numel():
        return False
    same = torch.isfinite(got) == torch.isfinite(wanted)
    error = torch.where(torch.isfinite(wanted) & same, got - wanted, 0.0).abs().max().item()
    largest = torch.where(torch.isfinite(wanted), wanted, 0.0).abs().max().item()
    return not bool(same.all()) or error > tolerance * largest + slack
