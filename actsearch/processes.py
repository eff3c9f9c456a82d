"""The training processes: single-threaded, kept alive for a whole study. This module starts, asks and closes them.

They take seconds to start, because they import torch. Therefore the command line starts them before it imports
torch itself, and this module must not import torch either.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from actsearch.errors import ActSearchError


class TrainingError(ActSearchError):
    """Raised if the user's net or data raised an exception during training, or if a training process ended."""


def core_count() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """`count` training processes. Each answers one message after another, in `training.worker.serve`."""

    def __init__(self, count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [theirs.fileno() for _, theirs in pairs]
        path = os.pathsep.join([p for p in sys.path if p] + [os.getcwd()])
        env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        # only the leader handles Ctrl-C, also while a training process is still importing
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            "from actsearch.training.worker import main; main(list(map(int, sys.argv[1:])))"
        )
        command = [sys.executable, "-c", code, *map(str, theirs)]
        self._process = subprocess.Popen(command, pass_fds=theirs, env=env)
        self._connections: list[Any] = []
        for ours, other in pairs:
            other.close()
            self._connections.append(Connection(ours.detach()))

    def __len__(self) -> int:
        return len(self._connections)

    def load(self, message: bytes) -> None:
        """Sends a message with the model and the data to the first process, which then forks the others. Call it once.

        See `training.worker.main` for what is in it.
        """
        with self._alive():
            self._connections[0].send_bytes(message)

    def ask(self, messages: Sequence[bytes]) -> Iterator[Any]:
        """Sends one message to each process and yields the answers in the order of arrival, until all are done.

        Raises TrainingError if the user's code raised an exception in a process, or if a process has ended.
        """
        with self._alive():
            for connection, message in zip(self._connections, messages, strict=True):
                connection.send_bytes(message)
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
            if failed is not None:  # only now, so that no answer is left in a connection when the next message is sent
                raise failed

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            code = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=1)
            raise TrainingError(
                f"a training process ended unexpectedly (exit code {code}). Was it out of memory? "
                "What was finished is saved: the same command goes on."
            ) from None

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._process.kill()
        self._process.wait()
