"""The way into training: `Trainer` holds the cores or GPUs, `TrainingBatch` trains runs from rung to rung.

    with Trainer(device, cores) as trainer:
        trainer.load(model, data)
        batch = TrainingBatch(trainer, runs)
        for rung in batch:
            batch.stop(pruned)

This module knows neither Optuna nor MLflow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from actsearch.data.goal import Goal, What, no_ratio
from actsearch.data.inputs import Inputs
from actsearch.data.source import Data
from actsearch.errors import ActSearchError, one_line
from actsearch.models.model import Model
from actsearch.module_values import ModuleValue
from actsearch.processes import Processes, core_count
from actsearch.training.diagnostics import Diagnostics
from actsearch.training.plan import FAULT, SERIAL, Plan, candidates, fastest
from actsearch.training.reference import Evaluation, Run, Scored
from actsearch.training.worker import Worker


def find_device(text: str) -> torch.device:
    """The device of this name; `auto` is cuda if there is one, else cpu. Raises ActSearchError if it does not exist."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ActSearchError(f"device={text}: no such device. Write auto, cpu, cuda, cuda:1 or mps.") from None
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not here:
        raise ActSearchError(f"device={text} is not on this machine. Write device=auto or device=cpu.")
    return device


def devices_of(device: torch.device, cores: int | None = None) -> list[torch.device]:
    """The devices that train at the same time, one for each worker.

    For cpu: this device once for each core. For cuda without a number: all GPUs. For any other: the device itself.
    """
    if device.type == "cpu":
        return [device] * (cores or core_count())
    if device.type == "cuda" and device.index is None:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [device]


class Trainer:
    """Trains runs on all devices at once.

    On a CPU there is one single-threaded process for each core. One accelerator is used by this process itself. With
    several GPUs (device=cuda, without a number) there is one process for each. Processes are kept for the whole study.

    cores: how many processes on a CPU; if None, one per core. processes: processes that are already started; they are
    closed with the Trainer. Attributes: plan, how runs are trained, and goal, that of the data; `load` sets both.
    """

    goal: Goal

    def __init__(self, device: torch.device, cores: int | None = None, processes: Processes | None = None) -> None:
        self.device = device
        self.plan = SERIAL
        self._devices = devices_of(device, len(processes or ()) or cores)
        self.cores = len(self._devices)
        self._processes = processes
        if processes is None and (device.type == "cpu" or self.cores > 1):
            self._processes = Processes(self.cores)

    def load(self, model: Model, data: Data, plan: Plan = SERIAL, values: Sequence[ModuleValue] = ()) -> None:
        """Gives the model, the plan and the data without the test set to the workers.

        values: what processes set in the user's modules before they use them.
        Raises ActSearchError if the model or the data cannot be pickled.
        """
        self.plan, self.goal = plan, data.goal
        self._fault: str | None = None  # what the self-check of the fused engine found; None before it
        if self._processes is None:
            self._worker = Worker(model, data.without_test(), self._devices[0])
            return
        try:
            code = cloudpickle.dumps((model, data.without_test(), self._devices))
            message = cloudpickle.dumps((list(values), code))
        except Exception as error:  # pickle, and a user's __reduce__, raise anything
            raise ActSearchError(
                f"the model or the data cannot be pickled for a process: {one_line(error)}. Give a function that "
                "makes the net or the data, in a file of its own."
            ) from error
        self._processes.load(message)

    def start(self, runs: Sequence[Run]) -> None:
        """Distributes runs over the workers. Runs that were in training before are dropped."""
        numbered = list(enumerate(runs))
        if self.plan.engine == "fused" and numbered:
            self._check(numbered)
        if self._processes is None:
            self._worker.start(numbered, self.plan)
            self.plan = self._worker.plan  # it has a smaller k if memory was short
        else:
            parts = [numbered[i :: self.cores] for i in range(self.cores)]
            list(self._processes.ask([cloudpickle.dumps(("start", part, self.plan)) for part in parts]))

    def _check(self, numbered: Sequence[tuple[int, Run]]) -> None:
        """Holds the fused engine against the plain loop on these runs, once; if it fails, it is never used.

        A trainer that is loaded anew may be on another machine than the study's plan is from: it checks again.
        """
        if self._fault is None:
            if self._processes is None:
                answers = list(self._worker.check(numbered, self.plan))
            else:
                parts = [numbered[i :: self.cores] for i in range(self.cores)]
                answers = list(self._processes.ask([cloudpickle.dumps(("check", part, self.plan)) for part in parts]))
            self._fault = next((why for _, why in answers if why is not None), "")
        if self._fault:
            self.plan = Plan("serial", why=f"{FAULT}: {self._fault}")

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        """Trains all runs but those stopped to their next rung and yields (index, evaluation), in any order."""
        return self._each("advance", stopped)

    def score(self, x: Inputs, y: Tensor, what: What | None = None) -> Iterator[tuple[int, Scored]]:
        """Yields (index, Scored) of each run's net on the test set x, y, in any order."""
        return self._each("score", x, y, what)

    def _each(self, command: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        if self._processes is None:
            answers = list(getattr(self._worker, command)(*arguments))
            self.plan = self._worker.plan
            return iter(answers)
        answers = self._processes.ask([cloudpickle.dumps((command, *arguments))] * self.cores)
        if self.device.type == "cpu":
            return answers
        known = list(answers)
        plans = [plan for _, plan in self._processes.ask([cloudpickle.dumps(("current_plan",))] * self.cores)]
        self.plan = min(plans, key=lambda plan: (plan.engine == "fused", plan.k))  # one may have run out of memory
        return iter(known)

    def rest(self) -> None:
        """Drops all runs, so that their memory is free."""
        self.start([])

    def close(self) -> None:
        if self._processes is not None:
            self._processes.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Rung:
    """The results of K runs at one step.

    The tensors have the shape (K,) and are NaN for runs that were stopped before. diagnostics: a list of length K;
    None except at some rungs (`probe_rungs`), and for runs that were stopped or have diverged.
    """

    step: int
    val_metric: Tensor
    val_loss: Tensor
    train_loss: Tensor
    diverged: Tensor
    diagnostics: list[Diagnostics | None]


class TrainingBatch:
    """K runs with the same rungs. Each iteration trains all of them to the next rung, waits for all, and yields a Rung.

    Raises ValueError if runs have different rungs, and ActSearchError where a metric that is compared by ratio gets
    below 0: no verdict could be taken.
    """

    def __init__(self, trainer: Trainer, runs: Sequence[Run]) -> None:
        self.trainer, self.runs = trainer, list(runs)
        steps = {tuple(run.recipe.rungs()) for run in self.runs}
        if len(steps) != 1:
            raise ValueError("runs of one batch share their number of steps and their rungs")
        self.rungs = steps.pop()
        self.stopped: set[int] = set()

    def __iter__(self) -> Iterator[Rung]:
        self.trainer.start(self.runs)
        for step in self.rungs:
            if len(self.stopped) == len(self.runs):
                return
            values = torch.full((4, len(self.runs)), math.nan, dtype=torch.float64)
            inside: list[Diagnostics | None] = [None] * len(self.runs)
            for index, at in self.trainer.advance(set(self.stopped)):
                values[:, index] = torch.tensor(
                    [at.val_metric, at.val_loss, at.train_loss, at.diverged], dtype=torch.float64
                )
                inside[index] = at.diagnostics
            metric, val_loss, train_loss, diverged = values
            if self.trainer.goal.metric.ratio and (metric < 0).any():
                raise no_ratio(self.trainer.goal.metric, metric.nan_to_num(nan=math.inf).min().item(), f"step {step}")
            yield Rung(step, metric, val_loss, train_loss, diverged == 1, inside)

    def stop(self, indices: Iterable[int]) -> None:
        """Stops these runs, given by their indices. The others are not affected."""
        self.stopped |= set(indices)

    def score(self, x: Inputs, y: Tensor, what: What | None = None) -> list[Scored]:
        """The metric and the loss of each run's net on the test set x, y after the last rung; NaN for stopped runs.

        what: that is kept of each example besides.
        """
        scored = {index: found for index, found in self.trainer.score(x, y, what) if index not in self.stopped}
        return [scored.get(index, Scored(math.nan, math.nan)) for index in range(len(self.runs))]


def tune_plan(trainer: Trainer, model: Model, runs: Sequence[Run]) -> Plan:
    """Times several plans on one rung of these runs, sets the fastest as the trainer's plan and returns it.

    Each plan is timed twice, in turns, and the shorter time counts. The second rung is timed if there is one, because
    during the first one a GPU captures its graphs.
    """
    first = runs[0].recipe
    most = math.ceil(len(runs) / trainer.cores)
    plans = candidates(model, trainer.goal, first.batch_size, trainer.device, trainer.cores, most, first.precision)
    seconds = [math.inf] * len(plans)
    for _ in range(2):
        for i, plan in enumerate(plans):
            trainer.plan = plan
            trainer.start(runs)
            if len(first.rungs()) > 1:
                list(trainer.advance(set()))
            begin = time.perf_counter()
            list(trainer.advance(set()))
            seconds[i] = min(seconds[i], time.perf_counter() - begin)
    trainer.plan = fastest(plans, seconds)
    return trainer.plan
