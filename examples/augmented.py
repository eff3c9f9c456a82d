"""An ordinary training script as a function: DataLoader, augmentation, a schedule. `actsearch` calls `train`."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import actsearch


def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def parts():
    """Training, validation and test examples, always the same."""
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return [TensorDataset(x[part], y[part]) for part in (order[:1000], order[1000:1300], order[1300:])]


def shifted(x):
    """Each batch moved by up to a pixel."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(x, (down, right), dims=(2, 3))


def accuracy(model, data):
    x, y = data.tensors
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean()


def train(activation, seed, lr=0.003, epochs=4):
    torch.manual_seed(seed)
    fit, validation, test = parts()
    model = net()
    actsearch.swap_activations(model, activation)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    loader = DataLoader(fit, batch_size=32, shuffle=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4 * lr, epochs=epochs, steps_per_epoch=len(loader))
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(shifted(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield {"val_accuracy": accuracy(model, validation), "train_loss": loss.item()}
    yield {"test_accuracy": accuracy(model, test)}
