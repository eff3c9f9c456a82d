"""The processes in which a user's own training runs: started, watched, and replaced where a run takes them down."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from actsearch.errors import ActSearchError
from actsearch.own.run import OwnRun

CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from actsearch.own.process import main; main(int(sys.argv[1]))"
)


class Pool:
    """`count` processes with `threads` threads each. message: the pickled function. logs: where what runs print goes.

    timeout_s: after so many seconds without a report a run has failed; None: never.
    """

    def __init__(self, count: int, threads: int, message: bytes, logs: Path, timeout_s: float | None) -> None:
        self.threads, self.message, self.logs, self.timeout_s = threads, message, logs, timeout_s
        self.logs.mkdir(parents=True, exist_ok=True)
        self._slots = [_Slot(self, number) for number in range(count)]

    def run(self, runs: Sequence[OwnRun]) -> Iterator[OwnRun]:
        """Trains these runs, and yields each as it ends. Raises ActSearchError if the function cannot be loaded."""
        waiting = list(runs)
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

    def close(self) -> None:
        for slot in self._slots:
            slot.stop()


class _Slot:
    """One process, and the run that it has in hand."""

    def __init__(self, pool: Pool, number: int) -> None:
        self.pool, self.number = pool, number
        self._open()

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        threads = str(self.pool.threads)
        path = os.pathsep.join([os.getcwd(), *(p for p in sys.path if p)])
        env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
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
            self.connection.send((run.activation, run.seed, run.settings))
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
            return None
        self.run.seconds, self.run.error = rest
        ended, self.run = self.run, None
        return ended

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
