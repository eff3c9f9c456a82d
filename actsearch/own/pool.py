"""The processes in which a user's own training runs: started, watched, and replaced where a run takes them down."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from actsearch.errors import ActSearchError
from actsearch.own.run import OwnRun
from actsearch.question.identity import fingerprint

CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from actsearch.own.process import main; main(int(sys.argv[1]))"
)


def log_of(run: OwnRun) -> str:
    """The name of a run's log."""
    name = re.sub(r"[^\w.=-]+", "_", run.activation).strip("_")[:60]
    return f"{name}-seed{run.seed}-{fingerprint({'activation': run.activation, **run.settings})}.log"


def places_of(
    device: torch.device, per_device: int | None, threads: int | None, cores: int
) -> tuple[list[dict[str, str]], int]:
    """The environment of each process that fits on this machine, and the number of threads that each may have.

    On GPUs one process for each, or per_device; each sees its GPU alone, as cuda:0. On a CPU as many as have `threads`
    cores each. device: cuda, without a number, are all.
    """
    if device.type != "cuda":
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if torch.cuda.is_available() else {}
        count = max(1, cores // (threads or 1))
        return [hidden] * count, threads or max(1, cores // count)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(i) for i in range(torch.cuda.device_count())]
    names = names if device.index is None else [names[device.index]]
    places = [{"CUDA_VISIBLE_DEVICES": name.strip()} for _ in range(per_device or 1) for name in names]
    return places, threads or max(1, cores // len(places))


class Pool:
    """A process for each of `places`, which are their environments, with `threads` threads each.

    message: the pickled function. logs: the folder for what runs print, a file for each. timeout_s: after so many
    seconds without a report a run has failed; None: never.
    """

    def __init__(
        self, places: Sequence[Mapping[str, str]], threads: int, message: bytes, logs: Path, timeout_s: float | None
    ) -> None:
        self.threads, self.message, self.logs, self.timeout_s = threads, message, logs, timeout_s
        self.ends: Callable[[OwnRun], bool] | None = None
        self.logs.mkdir(parents=True, exist_ok=True)
        self._slots = [_Slot(self, number, place) for number, place in enumerate(places)]

    def run(self, runs: Sequence[OwnRun], ends: Callable[[OwnRun], bool] | None = None) -> Iterator[OwnRun]:
        """Trains these runs, and yields each as it ends. Raises ActSearchError if the function cannot be loaded.

        ends: asked at each rung whether the run ends there.
        """
        self.ends, waiting = ends, list(runs)
        while waiting or any(slot.run for slot in self._slots):
            for slot in self._slots:
                if slot.run is None and slot.ready and waiting and slot.start(waiting[0]):
                    waiting.pop(0)
            now = time.monotonic()
            left = [slot.deadline - now for slot in self._slots if slot.run is not None]
            ready = wait([slot.connection for slot in self._slots], max(0.0, min([1.0, *left])))
            for slot in self._slots:
                if slot.connection in ready:
                    ended = slot.read()
                elif slot.run is not None and time.monotonic() > slot.deadline:
                    ended = slot.give_up(f"no report for {self.timeout_s:g} s (train.timeout_s)")
                else:
                    ended = None
                if ended is not None:
                    yield ended

    @property
    def pids(self) -> list[int]:
        return [slot.process.pid for slot in self._slots]

    def close(self) -> None:
        for slot in self._slots:
            slot.stop()


class _Slot:
    """One process, and the run that it has in hand."""

    def __init__(self, pool: Pool, number: int, place: Mapping[str, str]) -> None:
        self.pool, self.number, self.place = pool, number, place
        self._open()

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        threads = str(self.pool.threads)
        path = os.pathsep.join([os.getcwd(), *(p for p in sys.path if p)])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **self.place}
        with (self.pool.logs / f"process{self.number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env, stdout=log,
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        theirs.close()
        self.connection: Any = Connection(ours.detach())
        self.connection.send_bytes(self.pool.message)
        self.run: OwnRun | None = None
        self.ready, self.deadline, self.begun = False, float("inf"), 0.0

    def start(self, run: OwnRun) -> bool:
        """Gives the process a run. False if it has ended meanwhile, and another had to be opened."""
        try:
            log = str(self.pool.logs / log_of(run))
            self.connection.send((run.activation, run.seed, run.settings, self.pool.ends is not None, log))
        except OSError:
            self.stop()
            self._open()
            return False
        self.run, self.begun = run, time.monotonic()
        self._extend()
        return True

    def _extend(self) -> None:
        self.deadline = float("inf") if self.pool.timeout_s is None else time.monotonic() + self.pool.timeout_s

    def read(self) -> OwnRun | None:
        """Takes one message. Returns the run if it has ended."""
        try:
            kind, *rest = self.connection.recv()
        except (EOFError, OSError, ConnectionError):
            code = self.process.wait()
            killed = code == -signal.SIGKILL
            return self.give_up(f"its process ended (exit code {code}{'; out of memory?' if killed else ''})")
        if kind == "broken":
            raise ActSearchError(rest[0])
        if kind == "ready":
            self.ready = True
            return None
        assert self.run is not None
        if kind == "rung":
            self.run.rungs.append(rest[0])
            self._extend()
            if self.pool.ends is not None:
                self.run.stopped = self.pool.ends(self.run)
                self._send(not self.run.stopped)
            return None
        self.run.seconds, error, self.run.withheld = rest
        self.run.error = "" if self.run.stopped else error
        ended, self.run = self.run, None
        return ended

    def _send(self, answer: bool) -> None:
        with contextlib.suppress(OSError):  # the process has died: `read` is told so next
            self.connection.send(answer)

    def give_up(self, why: str) -> OwnRun | None:
        """Ends the process, and opens another. Returns the run that it had in hand, as failed."""
        ended, seconds = self.run, time.monotonic() - self.begun
        self.stop()
        if ended is None and not self.ready:
            raise ActSearchError(f"a training process did not start: see {self.pool.logs}/process{self.number}.log.")
        self._open()
        if ended is not None:
            ended.seconds, ended.error = seconds, why
        return ended

    def stop(self) -> None:
        self.connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
