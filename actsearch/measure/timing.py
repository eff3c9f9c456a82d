"""Timing of calls in turns, and the memory that a forward pass saves for its backward pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from actsearch.data.inputs import Inputs
from actsearch.models.model import forward

REPETITIONS = 20
BLOCKS = 3  # a repetition times this many blocks of calls; the shortest counts
SECONDS_EACH = 0.0015  # the length of a block: much more than the clock's resolution
LEAST_WARM = 3  # calls before the first that is timed
Watch = Callable[[int], tuple[float, ...]]
"""A function that makes n calls and returns the seconds of one call, for each part of it (e.g. forward, backward)."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread, as in the training processes, so that times are comparable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def watch_of(call: Callable[[], None], device: torch.device) -> Watch:
    """A watch with one part: the time of `call`."""
    return lambda n: (timed(call, n, device),)


def in_turns(watches: Sequence[Watch], budget_s: float) -> list[list[list[float]]]:
    """Times in µs: for each watch, for each of its parts, one for each repetition. Each repetition times all watches.

    budget_s: about how many seconds it takes in all. There are at most REPETITIONS repetitions, and at least two.
    """
    if not watches:
        return []
    once = []
    for watch in watches:
        watch(LEAST_WARM)
        once.append(sum(watch(1)))
    n_calls = [max(1, round(SECONDS_EACH / seconds)) for seconds in once]
    round_s = BLOCKS * sum(n * seconds for n, seconds in zip(n_calls, once, strict=True))
    rows: list[list[list[float]]] = [[] for _ in watches]
    for _ in range(max(2, min(REPETITIONS, int(budget_s / round_s)))):
        for watch, n, mine in zip(watches, n_calls, rows, strict=True):
            blocks = [watch(n) for _ in range(BLOCKS)]
            # the least, because other work on the machine only adds time
            mine.append([min(part) * 1e6 for part in zip(*blocks, strict=True)])
    return [[list(part) for part in zip(*mine, strict=True)] for mine in rows]


def inference(net: nn.Module, x: Inputs) -> Callable[[], None]:
    """A forward pass in eval mode, as a function to time."""
    net.eval()

    def infer() -> None:
        with torch.no_grad():
            forward(net, x)

    return infer


def saved_storages(work: Callable[[], Tensor]) -> tuple[Tensor, dict[int, int]]:
    """What `work` returns, and the memory that it saves for its backward pass.

    The memory is a dictionary from addresses to bytes, in which each storage stands once.
    """
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # not the tensor itself: an output that its own graph holds would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return work(), saved


def address(tensor: Tensor) -> int:
    """The address of a tensor's storage, which views share."""
    return tensor.untyped_storage().data_ptr()


def timed(call: Callable[[], None], n: int, device: torch.device) -> float:
    """The mean seconds of a call, over n calls."""
    start = clock(device)
    for _ in range(n):
        call()
    return (clock(device) - start) / n


def clock(device: torch.device) -> float:
    """A time in seconds. On a CPU it is the time that this thread has run; on an accelerator, wall-clock time.

    Other processes interrupt long calls more often than short ones: by the wall clock, mish took as long as 130 relus
    on a busy machine, and as 18 on a quiet one.
    """
    if device.type == "cpu":
        return time.thread_time()
    wait(device)
    return time.perf_counter()


def wait(device: torch.device) -> None:
    """Waits until an accelerator has finished its work."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
