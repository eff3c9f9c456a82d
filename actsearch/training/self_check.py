"""The self-check: before the fused engine trains a study, one program is held against the plain loop on real batches.

The list of what has a fused form can never be complete: a forward may do what no trace shows, a kernel may be wrong on
a machine that nobody tried. So both engines take the same first step with the same runs and evaluate; on a GPU as many
steps as it takes until the captured graph has been replayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

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
TRIES, AS_MUCH = 4, 4.0  # of what rounding does, before a difference is believed, and how much more than it counts
EVALUATION = 3
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
        plain = _plain(rows, run)
        n_val = len(rows.data.split(run.seed).x_val)
        found = _difference(fused, plain, start, run, n_val)
        if found is not None and not _rounding_does_it(rows, run, fused, plain, start, found[0], n_val):
            return f"{found[1]} for {print_net(run.specs)}"
    return None


def _rounding_does_it(
    rows: Rows, run: Run, fused: _Outcome, plain: _Outcome, start: dict[str, Tensor], part: int, n_val: int
) -> bool:
    """Whether rounding changes the plain loop itself as much in this part, or an earlier one: then it is no evidence.

    Behind a batch norm, for instance, a bias has no gradient but rounding, of which Adam makes a whole step.
    """
    others = [_plain(rows, run, ROUNDING, number) for number in range(TRIES)]
    if any((found := _difference(other, plain, start, run, 1)) and found[0] <= part for other in others):
        return True
    slack = {
        name: AS_MUCH * max(abs(getattr(other.at, name) - getattr(plain.at, name)) for other in others)
        for name in ("val_loss", "val_metric")
    }
    return part == EVALUATION and _difference(fused, plain, start, run, n_val, slack) is None


def _plain(rows: Rows, run: Run, noise: float = 0.0, number: int = 0) -> _Outcome:
    """The plain loop's first steps, from initial weights that are changed by this relative amount.

    number: of the try, each with other changes.
    """
    net = rows.model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init)
    for module in net.modules():
        if isinstance(module, nn.Dropout) and rows.device.type != "cpu":
            module.p = 0.0
    generator = torch.Generator().manual_seed(run.seed + 1000 * number)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + noise * torch.randn(p.shape, generator=generator))
    at = next(train(net, rows.data.split(run.seed).to(rows.device), run, rows.device))
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    return _Outcome(at, {name: g.cpu() for name, g in gradients.items()}, state)


def _difference(
    fused: _Outcome, plain: _Outcome, start: dict[str, Tensor], run: Run, n_val: int,
    slack: Mapping[str, float] = MappingProxyType({}),
) -> tuple[int, str] | None:  # fmt: skip
    """The first difference that is more than rounding: in which part, and in words.

    The parts are the loss (0), the gradients (1), the updates (2) and the evaluation after them (3). slack: what the
    evaluation may differ besides.
    """
    if fused.at.diverged or plain.at.diverged:
        return None if fused.at.diverged == plain.at.diverged else (0, "one of the two diverged")
    tolerance = TOLERANCE[run.recipe.precision]

    def other(name: str, more: float) -> str | None:
        got, wanted = getattr(fused.at, name), getattr(plain.at, name)
        wrong = abs(got - wanted) > tolerance * abs(wanted) + more
        return f"{name.replace('_', ' ')} {got:.4g} instead of {wanted:.4g}" if wrong else None

    if what := other("train_loss", 1e-6):
        return 0, what
    largest = max((g.abs().max().item() for g in plain.gradients.values() if g.numel()), default=0.0)
    for name, wanted in plain.gradients.items():
        got = fused.gradients[name]
        if _off(got, wanted, tolerance, ROUNDING * largest):
            return 1, f"another gradient of {name}"
    for name, before in start.items():
        got, wanted = fused.state[name] - before, plain.state[name] - before
        if name in plain.gradients:  # the sign of a gradient that is nearly 0 decides a step of Adam
            gradient = plain.gradients[name].abs()
            clear = gradient > max(10 * tolerance * gradient.max().item(), ROUNDING * largest)
            got, wanted = got[clear], wanted[clear]
        if before.is_floating_point() and _off(got, wanted, 10 * tolerance, ROUNDING * before.abs().max().item()):
            return 2, f"another update of {name}"
    # two examples may be as good as tied
    what = other("val_loss", 1e-6 + slack.get("val_loss", 0)) or other(
        "val_metric", 2 / n_val + slack.get("val_metric", 0)
    )
    return None if what is None else (EVALUATION, what)


def _off(got: Tensor, wanted: Tensor, tolerance: float, slack: float) -> bool:
    """Whether two tensors differ by more than `tolerance` of the largest number, and more than `slack`."""
    if not wanted.numel():
        return False
    same = torch.isfinite(got) == torch.isfinite(wanted)
    error = torch.where(torch.isfinite(wanted) & same, got - wanted, 0.0).abs().max().item()
    largest = torch.where(torch.isfinite(wanted), wanted, 0.0).abs().max().item()
    return not bool(same.all()) or error > tolerance * largest + slack
