"""Cost: the median of the forward passes after warming up, with a clock that the test turns."""

import pytest
import torch
from torch import nn

from actsearch import cost


class Clocked(nn.Module):
    """Takes as long as `seconds` says for its i-th call."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now, self.calls, self.modes, self.grads = list(seconds), 0.0, 0, set(), set()

    def forward(self, x):
        self.now += self.seconds[self.calls]
        self.calls += 1
        self.modes.add(self.training)
        self.grads.add(torch.is_grad_enabled())
        return x


def test_the_least_of_the_blocks_medians_in_microseconds_without_the_warm_up(monkeypatch):
    warm_up, slow, calm = [9.0] * 10, [0.02, 0.01, 0.03], [0.001, 0.1, 0.003]  # medians 20 and 3 ms
    net = Clocked(warm_up + slow + calm)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: net.now)
    assert cost.latency_us(net, torch.zeros(2, 3), blocks=2, repeats=3) == pytest.approx(3000)
    assert net.calls == 16
    assert (net.modes, net.grads) == ({False}, {False})


def test_a_real_net_that_does_more_takes_longer():
    x = torch.randn(64, 64)
    small = cost.latency_us(nn.Linear(64, 8), x, repeats=10)
    large = cost.latency_us(nn.Sequential(*[nn.Linear(64, 64) for _ in range(40)]), x, repeats=10)
    assert 0 < small < large
