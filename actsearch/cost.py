"""What an activation costs: the latency of a net with it."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn


def latency_us(net: nn.Module, x: Tensor, blocks: int = 5, repeats: int = 20) -> float:
    """Time in µs of one forward pass of `net` on x: (batch, …), on x's device, after warming up.

    The least of `blocks` medians: what else the machine does only ever adds time. A measurement still: a search
    that has it as an objective repeats only roughly.
    """
    net = net.to(x.device).eval()
    medians = []
    with torch.no_grad():
        for _ in range(10):
            net(x)
        for _ in range(blocks):
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                net(x)
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                times.append((time.perf_counter() - start) * 1e6)
            medians.append(statistics.median(times))
    return min(medians)
