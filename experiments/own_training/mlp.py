"""The built-in MLP on MNIST-1D as a training of one's own: an ordinary loop in plain PyTorch.

It draws its random numbers as the built-in loop does (its streams are imported), so that runs can be held against each
other one by one: same initial weights, same batches, same schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from actsearch.activations.spec import parse_net
from actsearch.data import Data, mnist1d
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.training.reference import NOISE, WEIGHTS, batch_order, stream


@cache
def data() -> Data:
    return Data(mnist1d(), "mnist1d", n_validation=800)


def accuracy_and_loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    net.eval()
    with torch.no_grad():
        out = net(x)
    return (out.argmax(1) == y).float().mean().item(), nn.functional.cross_entropy(out, y).item()


def train(
    activation: Any, seed: int, lr: float = 0.01, weight_decay: float = 0.01, steps: int = 1000, test: bool = False
) -> Iterator[dict[str, float]]:
    split = data().split(0)
    x, y = split.x_train, split.y_train
    assert isinstance(x, torch.Tensor)
    model = Model(mlp, "mlp", (40,), 10, {"width": 100, "depth": 3})
    net = model.build(parse_net(str(activation)), stream(seed, WEIGHTS), "gain")
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, cycle_momentum=True)
    torch.manual_seed(stream(seed, NOISE))
    for step, batch in enumerate(batch_order(len(y), 100, steps, seed), start=1):
        net.train()
        loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            accuracy, val_loss = accuracy_and_loss(net, split.x_val, split.y_val)  # type: ignore[arg-type]
            yield {"val_accuracy": accuracy, "val_loss": val_loss, "step": step}
    if test:
        accuracy, test_loss = accuracy_and_loss(net, *data().test())  # type: ignore[arg-type]
        yield {"test_accuracy": accuracy, "test_loss": test_loss}


def main() -> None:
    for rung in train("gelu", 1000, test=True):
        print(rung)


if __name__ == "__main__":
    main()
