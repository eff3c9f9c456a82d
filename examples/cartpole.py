"""Reinforcement learning: a pole is balanced on a cart (Barto, Sutton & Anderson 1983) by an actor-critic.

The reward is the number of steps that the pole stands, 500 at most. Seeds matter more than anything else here.
"""

import math

import torch
from torch import nn

LONGEST = 500


def moved(state, push):
    """The state (n, 4) a fiftieth of a second later. push: (n,), 0 to the left and 1 to the right."""
    x, v, angle, turn = state.unbind(1)
    force = 20.0 * push - 10.0
    pull = (force + 0.05 * turn**2 * angle.sin()) / 1.1
    turned = (9.8 * angle.sin() - angle.cos() * pull) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    pushed = pull - 0.05 * turned * angle.cos() / 1.1
    return torch.stack([x + 0.02 * v, v + 0.02 * pushed, angle + 0.02 * turn, turn + 0.02 * turned], 1)


def fallen(state):
    return (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 12 * math.pi / 180)


def fresh(n, generator):
    return 0.1 * torch.rand(n, 4, generator=generator) - 0.05


def reward(policy, generator, n=64):
    """The mean number of steps over n episodes of the likelier push."""
    state, alive, steps = fresh(n, generator), torch.ones(n, dtype=torch.bool), torch.zeros(n)
    with torch.no_grad():
        for _ in range(LONGEST):
            state = moved(state, policy(state)[:, :2].argmax(1))
            alive &= ~fallen(state)
            steps += alive
    return steps.mean()


def train(activation, seed, lr=0.003, updates=120, n=32, horizon=32, test=False):
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    policy = nn.Sequential(nn.Linear(4, 64), activation(64), nn.Linear(64, 64), activation(64), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, updates)
    state, age = fresh(n, chance), torch.zeros(n)
    for update in range(1, updates + 1):
        logs, values, entropies, ended = [], [], [], []
        for _ in range(horizon):
            out = policy(state)
            choice = torch.distributions.Categorical(logits=out[:, :2])
            push = torch.multinomial(choice.probs.detach(), 1, generator=chance)[:, 0]
            logs.append(choice.log_prob(push))
            entropies.append(choice.entropy())
            values.append(out[:, 2])
            state, age = moved(state, push), age + 1
            over = fallen(state) | (age >= LONGEST)
            ended.append(over)
            state, age = torch.where(over[:, None], fresh(n, chance), state), torch.where(over, 0, age)
        found, returns = policy(state)[:, 2].detach(), []
        for over in reversed(ended):
            found = 1 + 0.98 * torch.where(over, 0.0, found)
            returns.insert(0, found)
        value, goal = torch.stack(values), torch.stack(returns)
        advantage = (goal - value).detach()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        loss = -(torch.stack(logs) * advantage).mean() + 0.01 * nn.functional.smooth_l1_loss(value, goal)
        loss = loss - 0.01 * torch.stack(entropies).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
        decay.step()
        if update % (updates // 4) == 0:
            yield {"val_reward": reward(policy, torch.Generator().manual_seed(1)), "step": update}
    if test:
        yield {"test_reward": reward(policy, torch.Generator().manual_seed(2), 256)}
