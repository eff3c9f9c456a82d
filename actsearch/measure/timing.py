"""Times of calls that take turns, and the memory that a forward pass keeps for its backward pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

REPETITIONS = 20
BLOCKS = 3  # of a repetition: the least of them counts
SECONDS_EACH = 0.0015  # of a block: long beside the clock's grain
LEAST_WARM = 3  # calls before any is timed
Watch = Callable[[int], tuple[float, ...]]
"""Makes n calls and returns the seconds of one, for each of its parts."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Times are taken as the training processes have them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def watch_of(call: Callable[[], None], device: torch.device) -> Watch:
    return lambda n: (timed(call, n, device),)


def in_turns(watches: Sequence[Watch], budget_s: float) -> list[list[list[float]]]:
    """Times in µs, of each watch, of each of its parts, one per repetition; in each repetition all take their turn."""
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
            mine.append([min(part) * 1e6 for part in zip(*blocks, strict=True)])  # other work only adds time
    return [[list(part) for part in zip(*mine, strict=True)] for mine in rows]


def inference(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward pass in eval mode, as a function to time."""
    net.eval()

    def forward() -> None:
        with torch.no_grad():
            net(x)

    return forward


def saved_storages(forward: Callable[[], Tensor]) -> tuple[Tensor, dict[int, int]]:
    """What forward returns, and the memory that it keeps for its backward pass: bytes by address, each once."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # not the tensor: an output that its own graph holds is never freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return forward(), saved


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def timed(call: Callable[[], None], n: int, device: torch.device) -> float:
    """Seconds of one of n calls."""
    start = clock(device)
    for _ in range(n):
        call()
    return (clock(device) - start) / n


def clock(device: torch.device) -> float:
    """Seconds. On a CPU of this thread's own time: what runs longer is interrupted more often by what else the machine
    does, and with a clock on the wall mish took 130 relus on a busy machine, 18 on a quiet one.
    """
    if device.type == "cpu":
        return time.thread_time()
    wait(device)
    return time.perf_counter()


def wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
