"""Trains the runs it is given, rung by rung, in this process; and, as a program, serves them to a leader.

`Worker` is all there is when a GPU trains in the leader's own process. On CPUs `serve` runs it in lasting
single-threaded processes: the first imports torch once and forks the others, which share the data.
"""

from __future__ import annotations

import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from actsearch.activations.spec import print_net
from actsearch.data.source import Data, Split
from actsearch.models.model import Model
from actsearch.training.fused import Fused
from actsearch.training.optimizers import use_precision, without_dynamo
from actsearch.training.plan import SERIAL, Plan
from actsearch.training.reference import WEIGHTS, Evaluation, Run, score, stream, train
from actsearch.training.rows import Rows
from actsearch.training.trace import trace_layers


class Serial:
    """Some runs in flight, each by the plain loop. An index is the run's place in the generation."""

    def __init__(
        self, model: Model, data: Data, runs: Sequence[tuple[int, Run]], device: torch.device, channels_last: bool
    ) -> None:
        self.goal, self.device, self.channels_last = data.goal, device, channels_last
        self._live: dict[int, Iterator[Evaluation]] = {}
        self._nets: dict[int, nn.Module] = {}
        self._last: dict[int, Evaluation] = {}
        splits: dict[int, Split] = {}
        for index, run in runs:
            seed = run.seed if data.resample else 0
            if seed not in splits:
                split = data.split(seed).to(device)
                splits[seed] = replace(split, x_train=self._laid(split.x_train), x_val=self._laid(split.x_val))
            net = model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init)
            if channels_last:
                net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            self._nets[index] = net
            self._live[index] = train(net, splits[seed], run, device)

    def _laid(self, x: Tensor) -> Tensor:
        images = self.channels_last and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if images else x

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        """Takes each live run to its next rung. A run that diverged repeats its last evaluation."""
        for index in stopped & set(self._live):
            del self._live[index], self._nets[index]
        for index, run in self._live.items():
            self._last[index] = next(run, None) or self._last[index]
            yield index, self._last[index]

    def score(self, x: Tensor, y: Tensor) -> Iterator[tuple[int, tuple[float, float]]]:
        """(metric, loss) of every live run's net on the test set; what guessing scores for those that diverged."""
        x, y = self._laid(x.to(self.device)), y.to(self.device)
        for index, net in self._nets.items():
            yield index, self.goal.guess if self._last[index].diverged else score(net, x, y, self.goal)


class Worker:
    """Trains the runs it is given as the plan says."""

    def __init__(self, model: Model, data: Data, device: torch.device) -> None:
        self.model, self.data, self.device = model, data, device
        if not data.resample:
            data.split(0)  # here, before other processes are forked, which then share it
        self.plan = SERIAL
        self._rows: Rows | None = None
        self._runs: Sequence[tuple[int, Run]] = []
        self._rungs: list[set[int]] = []  # what was stopped before each, so far
        self._parts: list[Serial | Fused] = []

    def start(self, runs: Sequence[tuple[int, Run]], plan: Plan = SERIAL) -> None:
        self.plan, self._runs, self._rungs, self._parts = plan, runs, [], []
        if self.device.type == "cuda" and runs:
            torch.cuda.set_device(self.device)
            use_precision(runs[0][1].recipe)
        self._in_memory(list)

    def _divide(self, runs: Sequence[tuple[int, Run]]) -> list[list[tuple[int, Run]]]:
        """Runs that train together: of one optimizer and batch size, like activations side by side, at most k.

        Those whose activations have no fused form come last, together.
        """
        alone = [(index, run) for index, run in runs if not self._fused(run)]
        programs: dict[tuple[str, int], list[tuple[int, Run]]] = {}
        for index, run in sorted(runs, key=lambda item: (print_net(item[1].specs), item[1].seed)):
            if self._fused(run):
                programs.setdefault((run.recipe.optimizer, run.recipe.batch_size), []).append((index, run))
        parts = []
        for together in programs.values():
            n = math.ceil(len(together) / self.plan.k)
            parts += [together[i * len(together) // n : (i + 1) * len(together) // n] for i in range(n)]
        return parts + ([alone] if alone else [])

    def _fused(self, run: Run) -> bool:
        """A user's own function may do what cannot be captured: on a GPU it trains by the plain loop."""
        own = self.device.type == "cuda" and any(spec.activation.family == "own" for spec in run.specs)
        return self.plan.engine == "fused" and not own and all(spec.activation.fusable for spec in run.specs)

    def _part(self, runs: list[tuple[int, Run]]) -> Serial | Fused:
        if not self._fused(runs[0][1]):
            return Serial(self.model, self.data, runs, self.device, self.plan.channels_last)
        if self._rows is None:
            self._rows = Rows(self.model, trace_layers(self.model), self.data, self.device)
        return Fused(self._rows, runs)

    def advance(self, stopped: set[int]) -> list[tuple[int, Evaluation]]:
        self._rungs.append(set(stopped))
        return self._in_memory(lambda: self._advance(stopped))

    def _advance(self, stopped: set[int]) -> list[tuple[int, Evaluation]]:
        return [answer for part in self._parts for answer in part.advance(stopped)]

    def _in_memory(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Works; with half of K if that takes more memory than there is, at last one by one. What was trained is then
        trained again.
        """
        while True:
            try:
                if not self._parts:
                    self._parts = [self._part(part) for part in self._divide(self._runs)]
                    for stopped in self._rungs[:-1]:
                        self._advance(stopped)
                return work()
            except torch.OutOfMemoryError:
                if self.plan.engine == "serial":
                    raise
            # only here: in the block above its traceback holds the tensors
            if self.plan.k > 1:
                self.plan = replace(self.plan, k=self.plan.k // 2, why="halved, out of memory")
            else:
                self.plan = replace(self.plan, engine="serial", why="out of memory fused")
            self._parts, self._rows = [], None
            torch.cuda.empty_cache()

    def current_plan(self) -> list[tuple[str, Plan]]:
        return [("plan", self.plan)]

    def score(self, x: Tensor, y: Tensor) -> Iterator[tuple[int, tuple[float, float]]]:
        for part in self._parts:
            yield from part.score(x, y)


def serve(connection: Connection, worker: Worker) -> None:
    """Answers ("start", runs), ("advance", stopped) and ("score", x, y) until the leader is gone."""
    while True:
        try:
            message = connection.recv_bytes()
            for answer in _answers(worker, message):
                connection.send(answer)
        except (EOFError, OSError):
            return


def _answers(worker: Worker, message: bytes) -> Iterator[object]:
    """Answers to one message and None, or the error of the user's code: apart from the connection's own errors."""
    try:
        command, *arguments = cloudpickle.loads(message)
        yield from getattr(worker, command)(*arguments) or ()
        yield None
    except Exception as error:
        yield type(error).__name__, str(error), traceback.format_exc()


def exit_with(parent: int) -> None:
    """Ends this process when its parent ends, also in the middle of a training: kill -9 leaves nobody behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(descriptors: Sequence[int]) -> None:
    """A process per descriptor. The model and the data come on the first; the others are forked then."""
    leader = os.getppid()
    connections = [Connection(descriptor) for descriptor in descriptors]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    without_dynamo()
    try:
        message = connections[0].recv_bytes()
    except (EOFError, OSError):
        return
    try:
        model, data, devices = cloudpickle.loads(message)
        worker = Worker(model, data, devices[0])
    except Exception as error:  # a user's class that cannot be made again here
        for connection in connections:
            connection.send((type(error).__name__, str(error), traceback.format_exc()))
        return
    mine = connections[0]
    for connection, device in zip(connections[1:], devices[1:], strict=True):
        first = os.getpid()
        if os.fork() == 0:
            mine, leader, worker.device = connection, first, device
            break
    for connection in connections:
        if connection is not mine:
            connection.close()
    exit_with(leader)
    serve(mine, worker)
    os._exit(0)
