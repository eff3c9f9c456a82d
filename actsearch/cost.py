"""What an activation costs: the latency of a net with it."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn


def latency_us(net: nn.Module, x: Tensor, repeats: int = 50) -> float:
    """Median time in µs of one forward pass of `net` on x: (batch, …), on x's device, after warming up.

    A measurement: it differs from run to run, so a search that has it as an objective repeats only roughly.
    """
    net = net.to(x.device).eval()
    times = []
    with torch.no_grad():
        for i in range(repeats + 10):
            start = time.perf_counter()
            net(x)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            if i >= 10:
                times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)
