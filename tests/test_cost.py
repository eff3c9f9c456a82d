"""Cost: forward passes by a clock that the test turns; forward passes and training steps of real nets."""

import statistics
import time

import pytest
import torch
from torch import nn

from actsearch import cost
from actsearch.recipe import Recipe


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


# --- measure --------------------------------------------------------------------------------------

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def net_of(activation):
    """A small net with its own weights; given to `measure` with gradients, which must survive."""
    net = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 3))
    nn.functional.cross_entropy(net(X), Y).backward()
    return net


class Slow(nn.Module):
    """An activation that takes a few milliseconds, forward only."""

    def forward(self, x):
        time.sleep(0.01)
        return x.relu()


def test_a_slow_activation_costs_more_and_all_have_as_many_repetitions():
    fast, slow, other = cost.measure([net_of(nn.ReLU()), net_of(Slow()), net_of(nn.Tanh())], Recipe(), X, Y, 0.5)
    lengths = {len(times) for c in (fast, slow, other) for times in (c.training_step_us, c.latency_us)}
    assert len(lengths) == 1
    assert 2 <= lengths.pop() <= cost.REPETITIONS
    assert all(t > 0 for c in (fast, slow, other) for t in (*c.training_step_us, *c.latency_us))
    assert min(slow.latency_us) >= 10_000  # it sleeps at least that long
    assert min(slow.training_step_us) >= 10_000
    assert statistics.median(slow.latency_us) > 20 * min(fast.latency_us)


def test_however_small_the_budget_there_are_two_repetitions_and_however_large_twenty():
    small, large = (cost.measure([net_of(nn.ReLU())], Recipe(), X, Y, budget)[0] for budget in (0.0, 60.0))
    assert (len(small.training_step_us), len(small.latency_us)) == (2, 2)
    assert (len(large.training_step_us), len(large.latency_us)) == (20, 20)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_nets_given_and_the_random_states_stay_as_they_are(optimizer, rng_untouched):
    nets = [net_of(nn.ReLU()), net_of(nn.PReLU()), nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    gradients = [[None if p.grad is None else p.grad.clone() for p in net.parameters()] for net in nets]
    with rng_untouched():
        cost.measure(nets, Recipe(optimizer=optimizer), X, Y, 0.0)
    for net, state, old in zip(nets, before, gradients, strict=True):
        assert net.training
        for k, v in net.state_dict().items():
            assert torch.equal(v, state[k]), k
        for p, g in zip(net.parameters(), old, strict=True):
            assert (p.grad is None) if g is None else torch.equal(p.grad, g)


def test_repetitions_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(cost, "_timed", lambda call, n, device: order.append(call) or call() or 0.001)
    cost.measure([net_of(nn.ReLU()), net_of(nn.Tanh())], Recipe(), X, Y, 0.0)
    n = 4 * cost.BLOCKS
    first, second = order[4 : 4 + n], order[4 + n :]  # after one call of each, to know how long it takes
    assert len(second) == n
    assert len(set(first)) == 4
    assert first == second


def test_a_net_with_dropout_leaves_the_random_states_too(rng_untouched):
    net = net_of(nn.Dropout(0.5))
    with rng_untouched():
        cost.measure([net], Recipe(), X, Y, 0.0)
