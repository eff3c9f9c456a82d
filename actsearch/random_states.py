"""The random numbers of torch, numpy and Python: other code may draw, and afterwards they are as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restores the states of the random numbers of torch (all devices in use), numpy and Python."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While this is active, what torch, numpy and Python draw on the CPU depends on the seed alone."""
    with random_states_kept():
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it would seed the accelerators too
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


def random_states() -> tuple[Any, ...]:
    """What tells whether random numbers were drawn."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()
