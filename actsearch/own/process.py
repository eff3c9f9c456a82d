"""The program of a process that runs a user's own training, one run after another."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import numpy as np
import torch

from actsearch.errors import ActSearchError
from actsearch.module_values import settle
from actsearch.own.run import train_once


def main(descriptor: int) -> None:
    """Answers (activation, seed, settings, asks, log) until the leader ends.

    By ("rung", mapping) … and ("end", seconds, error, withheld). asks: whether each rung waits for the leader's answer,
    whether the run goes on. log: the file for what the run prints.
    """
    leader = os.getppid()
    _end_with(leader)
    connection = Connection(descriptor)
    try:
        values, code = cloudpickle.loads(connection.recv_bytes())
        settle(values)
        function = cloudpickle.loads(code)
    except EOFError:
        return
    except Exception as error:
        connection.send(("broken", f"the training function cannot be loaded here: {type(error).__name__}: {error}"))
        return
    connection.send(("ready", ""))
    while True:
        try:
            activation, seed, settings, asks, log = connection.recv()
        except (EOFError, OSError):
            return
        _print_to(log)
        connection.send(_run(connection, function, activation, seed, settings, asks))


def _run(
    connection: Connection, function: Any, activation: str, seed: int, settings: dict[str, Any], asks: bool
) -> tuple[str, float, str, list[str]]:
    def go_on(rung: dict[str, float]) -> bool:
        connection.send(("rung", rung))
        return connection.recv() if asks else True

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    begin, error, withheld = time.perf_counter(), "", []
    print(f"--- {activation}, seed {seed}", flush=True)
    try:
        withheld = train_once(function, activation, seed, settings, go_on).withheld
    except ActSearchError as found:
        error = str(found)
    except (Exception, SystemExit) as found:  # whatever a user's training raises
        traceback.print_exc()
        error = f"{type(found).__name__}: {found}"
    return "end", time.perf_counter() - begin, " ".join(error.split()), withheld


def _print_to(log: str) -> None:
    """Sends all that this process and those that it starts print into this file."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)


def _end_with(leader: int) -> None:
    """Ends this process, and all that it started, when the leader ends, so that kill -9 leaves nothing behind."""

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
