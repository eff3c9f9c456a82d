"""The plan: whether the runs of a study are trained one by one or fused on this machine, and how many at once.

The plan is computed from the model, the batch size, the device and the machine alone, so that a study can be repeated.
With engine=tune it is the fastest of several plans that are timed once. The study stores it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import psutil
import torch
from torch import nn

from actsearch.activations.spec import Spec
from actsearch.data.goal import Goal
from actsearch.errors import ActSearchError, unknown
from actsearch.models.model import Model
from actsearch.training.convolution import Conv
from actsearch.training.layer import NotFusable
from actsearch.training.losses import CLOSED_FORMS
from actsearch.training.trace import Traced, trace_layers

ENGINES = ("auto", "serial", "fused", "tune")
K_CPU = 8  # 4 to 16 are equally fast; with more the values no longer fit the cache (benchmarks/README.md)
K_CUDA = 128
LARGE = 2_000_000  # a net with more parameters keeps a GPU busy by itself
FAULT = "the fused engine failed its self-check"
SHARE = 0.5  # the share of the memory that programs in training may use


@dataclass(frozen=True)
class Plan:
    """How the runs of a study are trained.

    engine: serial or fused. k: the largest number of runs in one program. channels_last: whether nets and images have
    this memory format. why: the reason for the plan in words, for the header of the search.
    """

    engine: str
    k: int = 1
    channels_last: bool = False
    why: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        return cls(**json.loads(text))

    def __str__(self) -> str:
        how = f"{self.k} runs at once as one program" if self.engine == "fused" else "one run after the other"
        return how + (f" ({self.why})" if self.why else "")


SERIAL = Plan("serial")


def choose_plan(
    engine: str,
    model: Model,
    goal: Goal,
    batch_size: int,
    device: torch.device,
    processes: int,
    precision: str = "float32",
) -> Plan:
    """The plan for engine=auto, serial or fused. For engine=tune, the plan for auto, which is used until it is tuned.

    processes: how many training processes share the memory. Raises ActSearchError for an unknown engine, or if
    engine=fused is asked for, but a layer of the model, the data's loss or the precision has no fused form.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    images = any(isinstance(m, nn.Conv2d) for m in model.build([Spec.of("relu")], 0, "torch").modules())
    serial = Plan("serial", channels_last=images)
    if engine == "serial":
        return serial
    if precision == "bf16":
        if engine == "fused":
            raise ActSearchError("engine=fused: bf16 has no fused form. Write engine=auto or recipe.precision=float32.")
        return replace(serial, why="bf16 has no fused form")
    if engine != "fused" and device.type == "cpu" and images:
        return Plan("serial", channels_last=True, why="2-D convolutions gain nothing fused on a CPU")
    if engine != "fused" and device.type != "cpu" and (device.type != "cuda" or model.n_parameters > LARGE):
        return serial
    try:
        traced = _fusable(model, goal)
    except NotFusable as reason:
        if engine == "fused":
            raise ActSearchError(f"engine=fused: the model '{model.name}' has no fused form: {reason}.") from None
        return Plan("serial", channels_last=images, why=f"no fused form: {reason}")
    most = K_CPU if device.type == "cpu" else K_CUDA
    return Plan("fused", min(most, room(traced, batch_size, device, processes)))


def _fusable(model: Model, goal: Goal) -> Traced:
    """The model's layers. Raises NotFusable if one of them, or the data's loss, has no fused form."""
    if goal.loss not in CLOSED_FORMS:
        raise NotFusable(f"the data's loss, {getattr(goal.loss, '__name__', 'a callable')}, has none")
    return trace_layers(model)


def candidates(
    model: Model,
    goal: Goal,
    batch_size: int,
    device: torch.device,
    processes: int,
    n_runs: int,
    precision: str = "float32",
) -> list[Plan]:
    """The plans that engine=tune times. n_runs: how many runs there are for each process."""
    plans = [choose_plan("serial", model, goal, batch_size, device, processes)]
    if precision == "bf16":
        return plans
    try:
        most = min(n_runs, room(_fusable(model, goal), batch_size, device, processes))
    except NotFusable:
        return plans
    sizes = (4, 8, 16, 32) if device.type == "cpu" else (32, 64, 128, 256)
    return plans + [Plan("fused", k) for k in sorted({min(k, most) for k in sizes})]


def room(traced: Traced, batch_size: int, device: torch.device, processes: int) -> int:
    """How many runs of a program fit into SHARE of this machine's memory, and at least 1."""
    weights = sum(segment.size for node in traced.nodes for segment in node.segments)
    values = sum(math.prod(node.out.shape) for node in traced.nodes) + math.prod(traced.start.shape)
    if device.type != "cpu":  # memory for the gathered windows of the largest convolution, and for their gradients
        convolutions = [node for node in traced.nodes if node.layer is Conv]
        windows = [node.segments[0].size // node.out.shape[0] * math.prod(node.out.shape[1:]) for node in convolutions]
        values += max(windows, default=0)
    # float32: weights, gradients and the optimizer's state; for each example values, their gradients and temporaries
    per_run = 4 * (5 * weights + 3 * values * batch_size)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = psutil.virtual_memory().total / processes
    return max(1, int(SHARE * total / per_run))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. On a CPU torch then raises a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def fastest(plans: Sequence[Plan], seconds: Sequence[float]) -> Plan:
    """The plan with the shortest time. seconds: one for each plan."""
    best = min(range(len(plans)), key=lambda i: seconds[i])
    return replace(plans[best], why=f"the fastest of {len(plans)} timed")
