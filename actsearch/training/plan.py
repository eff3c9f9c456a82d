"""How the runs of a study are trained on this machine: one by one or fused, how many at once, in how many processes.

A plain function of model, batch size, device and machine, so that a study repeats; or the fastest of some, timed
once (engine=tune). Kept in the study.
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
K_CPU = 8  # 4 to 16 are alike; more leave the cache (benchmarks/README.md)
K_CUDA = 128
LARGE = 2_000_000  # parameters from which one net keeps a GPU busy
SHARE = 0.5  # of the memory, for programs in flight


@dataclass(frozen=True)
class Plan:
    """engine: serial or fused. k: runs in one program, at most. channels_last: memory format of nets on images.
    why: in words, for the header.
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
    """The plan for engine=auto, serial or fused (tune begins with auto's).

    Raises ActSearchError for engine=fused with a model that has layers, or data that have a loss, without a fused form.
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
    """The model's layers. Raises NotFusable if one of them, or the loss, has no fused form."""
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
    """The plans that engine=tune times, with n_runs in each process."""
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
    """How many runs of a program fit into a share of this machine's memory; at least 1."""
    weights = sum(segment.size for node in traced.nodes for segment in node.segments)
    values = sum(math.prod(node.out.shape) for node in traced.nodes) + math.prod(traced.start.shape)
    if device.type != "cpu":  # the windows of the largest convolution, and their gradients
        convolutions = [node for node in traced.nodes if node.layer is Conv]
        windows = [node.segments[0].size // node.out.shape[0] * math.prod(node.out.shape[1:]) for node in convolutions]
        values += max(windows, default=0)
    per_run = 4 * (5 * weights + 3 * values * batch_size)  # weights, gradients, optimizer; values, theirs, temporaries
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = psutil.virtual_memory().total / processes
    return max(1, int(SHARE * total / per_run))


def fastest(plans: Sequence[Plan], seconds: Sequence[float]) -> Plan:
    best = min(range(len(plans)), key=lambda i: seconds[i])
    return replace(plans[best], why=f"the fastest of {len(plans)} timed")
