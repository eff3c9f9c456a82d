"""The worker: it trains the runs that it is given, from rung to rung.

If a single GPU trains, the `Worker` runs in the leader's own process. Otherwise there are training processes, and in
each of them `serve` runs a `Worker` and answers the leader's messages. The first process imports torch once and forks
the others, which share the data. `main` is the program of these processes.
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
from actsearch.data.goal import What
from actsearch.data.inputs import Inputs, each, to
from actsearch.data.source import Data, Split
from actsearch.models.model import Model
from actsearch.module_values import settle
from actsearch.output import open_standard_streams
from actsearch.training.fused import Fused
from actsearch.training.optimizers import use_precision, without_dynamo
from actsearch.training.plan import SERIAL, Plan, is_out_of_memory
from actsearch.training.reference import WEIGHTS, Evaluation, Run, Scored, guessed, score, stream, train
from actsearch.training.rows import Rows
from actsearch.training.self_check import self_check
from actsearch.training.trace import trace_layers


class Serial:
    """Runs that are trained one by one, each by the plain loop. An index is the run's place in the generation."""

    def __init__(
        self, model: Model, data: Data, runs: Sequence[tuple[int, Run]], device: torch.device, channels_last: bool
    ) -> None:
        self.data, self.goal, self.device, self.channels_last = data, data.goal, device, channels_last
        self._splits: dict[int, int] = {}
        self._live: dict[int, Iterator[Evaluation]] = {}
        self._nets: dict[int, nn.Module] = {}
        self._last: dict[int, Evaluation] = {}
        splits: dict[int, Split] = {}
        for index, run in runs:
            seed = self._splits[index] = data.split_of(run.seed)
            if seed not in splits:
                split = data.split(seed).to(device)
                splits[seed] = replace(split, x_train=self._laid(split.x_train), x_val=self._laid(split.x_val))
            net = model.build(run.specs, stream(run.seed, WEIGHTS), run.recipe.init)
            if channels_last:
                net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            self._nets[index] = net
            self._live[index] = train(net, splits[seed], run, device)

    def _laid(self, x: Inputs) -> Inputs:
        def laid(part: Tensor) -> Tensor:
            images = self.channels_last and part.dim() == 4
            return part.contiguous(memory_format=torch.channels_last) if images else part

        return each(laid, x)

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        """Trains each run to its next rung, yields (index, evaluation). A diverged run repeats its last evaluation."""
        for index in stopped & set(self._live):
            del self._live[index], self._nets[index]
        for index, run in self._live.items():
            self._last[index] = next(run, None) or self._last[index]
            yield index, self._last[index]

    def score(self, x: Inputs, y: Tensor, what: What | None = None) -> Iterator[tuple[int, Scored]]:
        """Yields (index, Scored) of every run's net on the test set; of a diverged run, the goal's guess."""
        y = y.to(self.device)
        laid: dict[int, Inputs] = {}
        for index, net in self._nets.items():
            if self._last[index].diverged:
                yield index, guessed(self.goal, len(y), what)
                continue
            seed = self._splits[index] if self.data.scaled else 0  # else all seeds have the same inputs
            if seed not in laid:
                laid[seed] = self._laid(to(self.data.inputs(x, seed), self.device))
            yield index, score(net, laid[seed], y, self.goal, what)


class Worker:
    """Trains the runs that it is given, as the plan says: fused programs, and the plain loop for all other runs."""

    def __init__(self, model: Model, data: Data, device: torch.device) -> None:
        self.model, self.data, self.device = model, data, device
        if not data.resample:
            data.split(0)  # before other processes are forked, so that they share it
        self.plan = SERIAL
        self._rows: Rows | None = None
        self._runs: Sequence[tuple[int, Run]] = []
        self._rungs: list[set[int]] = []  # for each rung so far, the runs that were stopped before it
        self._parts: list[Serial | Fused] = []

    def start(self, runs: Sequence[tuple[int, Run]], plan: Plan = SERIAL) -> None:
        self.plan, self._runs, self._rungs, self._parts = plan, runs, [], []
        if self.device.type == "cuda" and runs:
            torch.cuda.set_device(self.device)
            use_precision(runs[0][1].recipe)
        self._in_memory(list)

    def _divide(self, runs: Sequence[tuple[int, Run]]) -> list[list[tuple[int, Run]]]:
        """Divides runs into parts that train together.

        A fused part has at most k runs, all with the same optimizer and batch size, and equal activations stand side by
        side in it. Runs without a fused form are one last part.
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
        """Whether a run is trained by the fused engine.

        On a GPU a user's own function is not, because it may do things that a CUDA graph cannot capture.
        """
        own = self.device.type == "cuda" and any(spec.activation.family == "own" for spec in run.specs)
        return self.plan.engine == "fused" and not own and all(spec.activation.fusable for spec in run.specs)

    def _part(self, runs: list[tuple[int, Run]]) -> Serial | Fused:
        if not self._fused(runs[0][1]):
            return Serial(self.model, self.data, runs, self.device, self.plan.channels_last)
        return Fused(self._data_as_rows(), runs)

    def _data_as_rows(self) -> Rows:
        if self._rows is None:
            self._rows = Rows(self.model, trace_layers(self.model), self.data, self.device)
        return self._rows

    def check(self, runs: Sequence[tuple[int, Run]], plan: Plan) -> Iterator[tuple[str, str | None]]:
        """Yields ("check", why the fused engine must not train these runs, or None), see self_check.py."""
        self.plan, self._parts = plan, []
        if self.device.type == "cuda" and runs:
            torch.cuda.set_device(self.device)
            use_precision(runs[0][1].recipe)
        fused = [run for _, run in runs if self._fused(run)]
        together = [r for r in fused if (r.recipe.optimizer, r.recipe.batch_size)
                    == (fused[0].recipe.optimizer, fused[0].recipe.batch_size)]  # fmt: skip
        yield "check", self_check(self._data_as_rows(), together) if together else None

    def advance(self, stopped: set[int]) -> list[tuple[int, Evaluation]]:
        self._rungs.append(set(stopped))
        return self._in_memory(lambda: self._advance(stopped))

    def _advance(self, stopped: set[int]) -> list[tuple[int, Evaluation]]:
        return [answer for part in self._parts for answer in part.advance(stopped)]

    def _in_memory(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Calls `work` and returns its result. If memory runs out, halves k, and at last trains the runs one by one.

        The runs are then trained again from their start.
        """
        while True:
            try:
                if not self._parts:
                    self._parts = [self._part(part) for part in self._divide(self._runs)]
                    for stopped in self._rungs[:-1]:
                        self._advance(stopped)
                return work()
            except (RuntimeError, MemoryError) as error:
                if self.plan.engine == "serial" or not is_out_of_memory(error):
                    raise
            # outside of the except block, in which the traceback would keep the tensors alive
            if self.plan.k > 1:
                self.plan = replace(self.plan, k=self.plan.k // 2, why="halved, out of memory")
            else:
                self.plan = replace(self.plan, engine="serial", why="out of memory fused")
            self._parts, self._rows = [], None
            torch.cuda.empty_cache()

    def current_plan(self) -> list[tuple[str, Plan]]:
        return [("plan", self.plan)]

    def score(self, x: Inputs, y: Tensor, what: What | None = None) -> Iterator[tuple[int, Scored]]:
        for part in self._parts:
            yield from part.score(x, y, what)


def serve(connection: Connection, worker: Worker) -> None:
    """Answers messages, such as ("start", runs, plan), ("advance", stopped), until the leader is gone."""
    while True:
        try:
            message = connection.recv_bytes()
            for answer in _answers(worker, message):
                connection.send(answer)
        except (EOFError, OSError):
            return


def _answers(worker: Worker, message: bytes) -> Iterator[object]:
    """Yields the answers to one message and then None.

    If the user's code raises an exception, yields its type, message and traceback instead of None.
    """
    try:
        command, *arguments = cloudpickle.loads(message)
        yield from getattr(worker, command)(*arguments) or ()
        yield None
    except Exception as error:
        yield type(error).__name__, str(error), traceback.format_exc()


def exit_with(parent: int) -> None:
    """Ends this process when its parent ends, even during a training, so that kill -9 leaves no process behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(descriptors: Sequence[int]) -> None:
    """The program of the training processes: one process for each socket's descriptor.

    The model and the data arrive through the first socket. Then this process forks the others.
    """
    open_standard_streams()  # what a user's model prints must not end the training
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
        values, code = cloudpickle.loads(message)
        settle(values)  # first: the model, too, is imported
        model, data, devices = cloudpickle.loads(code)
        worker = Worker(model, data, devices[0])
    except Exception as error:  # for instance a user's class that cannot be unpickled here
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
