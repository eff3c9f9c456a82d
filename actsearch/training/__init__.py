"""Training: `Trainer` holds the cores or the GPU; `TrainingBatch` iterates over the rungs of some runs.

    with Trainer(device, cores) as trainer:
        trainer.load(model, data)
        batch = TrainingBatch(trainer, runs)
        for rung in batch:
            batch.stop(pruned)

Knows neither Optuna nor MLflow.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from actsearch.data import Data
from actsearch.errors import ActSearchError, one_line
from actsearch.models import Model
from actsearch.training.reference import Evaluation, Run

__all__ = ["Evaluation", "Run", "Rung", "Trainer", "TrainingBatch", "find_device"]


def find_device(text: str) -> torch.device:
    """auto: cuda, else cpu. Raises ActSearchError for a device that is not here."""
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


def core_count() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TrainingError(ActSearchError):
    """The user's net or data raised inside a training."""


class Trainer:
    """On a CPU one lasting single-threaded process per core; on an accelerator this process itself.

    The processes begin to start when the Trainer is made (importing torch takes seconds) and wait for `load`.
    """

    def __init__(self, device: torch.device, cores: int | None = None) -> None:
        self.device = device
        self.cores = (cores or core_count()) if device.type == "cpu" else 1
        self._connections: list[Any] = []
        self._process: subprocess.Popen | None = None
        if device.type == "cpu":
            self._launch()

    def _launch(self) -> None:
        pairs = [socket.socketpair() for _ in range(self.cores)]
        theirs = [theirs.fileno() for _, theirs in pairs]
        path = os.pathsep.join([p for p in sys.path if p] + [os.getcwd()])
        env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        command = [sys.executable, "-m", "actsearch.training.worker", *map(str, theirs)]
        self._process = subprocess.Popen(command, pass_fds=theirs, env=env)
        for ours, other in pairs:
            other.close()
            self._connections.append(Connection(ours.detach()))

    def load(self, model: Model, data: Data) -> None:
        """Gives the model and the data, without the test set, to whoever trains."""
        if self._connections:
            try:
                message = cloudpickle.dumps((model, data.without_test()))
            except Exception as error:  # pickle, and a user's __reduce__, raise anything
                raise ActSearchError(
                    f"the model or the data cannot go to another process: {one_line(error)}"
                ) from error
            self._connections[0].send_bytes(message)
        else:
            from actsearch.training.worker import Worker

            self._worker = Worker(model, data.without_test(), self.device)

    def start(self, runs: Sequence[Run]) -> None:
        numbered = list(enumerate(runs))
        if self._connections:
            n = len(self._connections)
            list(self._ask([("start", numbered[i::n]) for i in range(n)]))
        else:
            self._worker.start(numbered)

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        return self._each("advance", stopped)

    def score(self, x: Tensor, y: Tensor) -> Iterator[tuple[int, tuple[float, float]]]:
        return self._each("score", x, y)

    def _each(self, command: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        if self._connections:
            return self._ask([(command, *arguments)] * len(self._connections))
        return getattr(self._worker, command)(*arguments)

    def _ask(self, messages: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """Sends one message to each process and yields their answers as they come, until all are done."""
        try:
            for connection, message in zip(self._connections, messages, strict=True):
                connection.send_bytes(cloudpickle.dumps(message))
            busy, failed = list(self._connections), None
            while busy:
                for ready in wait(busy):
                    connection: Any = ready
                    answer = connection.recv()
                    if answer is None:
                        busy.remove(connection)
                    elif len(answer) == 3:
                        kind, text, trace = answer
                        failed = TrainingError(f"training failed: {kind}: {' '.join(text.split())}")
                        failed.add_note(trace)
                        busy.remove(connection)
                    else:
                        yield answer
            if failed is not None:  # only now: what the others had still to say must not meet the next question
                raise failed
        except (EOFError, OSError):
            code = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=1) if self._process else None
            raise TrainingError(
                f"a training process ended unexpectedly (exit code {code}). Was it out of memory? "
                "What was finished is saved: the same command goes on."
            ) from None

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connections, self._process = [], None

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Rung:
    """All live runs at one step. The tensors are (K,), K the number of runs; NaN for those stopped before."""

    step: int
    val_metric: Tensor
    val_loss: Tensor
    train_loss: Tensor
    diverged: Tensor


class TrainingBatch:
    """K runs with the same rungs. Iterating trains all to the next rung and yields it: a barrier."""

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
            for index, at in self.trainer.advance(set(self.stopped)):
                values[:, index] = torch.tensor(
                    [at.val_metric, at.val_loss, at.train_loss, at.diverged], dtype=torch.float64
                )
            metric, val_loss, train_loss, diverged = values
            yield Rung(step, metric, val_loss, train_loss, diverged == 1)

    def stop(self, indices: Iterable[int]) -> None:
        """Ends these runs; the others are not touched by it."""
        self.stopped |= set(indices)

    def score(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Test metric and test loss, each (K,), of the nets as the last rung left them; NaN for those stopped."""
        values = torch.full((2, len(self.runs)), math.nan, dtype=torch.float64)
        for index, scored in self.trainer.score(x, y):
            if index not in self.stopped:
                values[:, index] = torch.tensor(scored, dtype=torch.float64)
        return values[0], values[1]
