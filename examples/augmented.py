"""An ordinary image script as a function: Fashion-MNIST, DataLoader, augmentation, a schedule."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

import actsearch

AUGMENT = v2.Compose([v2.RandomCrop(28, padding=2), v2.RandomHorizontalFlip()])


class Augmented(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return AUGMENT(self.images[i]), self.labels[i]


def read(root, part):
    """Images (n, 1, 28, 28) and labels (n,) of the IDX files."""
    images, labels = (gzip.decompress((Path(root) / f"{part}-{name}.gz").read_bytes()) for name in (
        "images-idx3-ubyte", "labels-idx1-ubyte",
    ))  # fmt: skip
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.tensor(x) / 255, torch.tensor(np.frombuffer(labels, np.uint8, offset=8)).long()


def block(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def accuracy(net, data):
    net.eval()
    with torch.no_grad():
        return sum((net(x).argmax(1) == y).sum() for x, y in DataLoader(data, 500)) / len(data)


def train(activation, seed, lr=0.003, epochs=3, n=4000, root="/usr/share/datasets/fashion-mnist", test=False):
    torch.manual_seed(seed)
    x, y = read(root, "train")
    fit, validation = Augmented(x[:n], y[:n]), TensorDataset(x[-1000:], y[-1000:])
    net = nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 32), nn.Flatten(), nn.Linear(288, 10))
    actsearch.swap_activations(net, activation)
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    loader = DataLoader(fit, batch_size=50, shuffle=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * lr, epochs=epochs, steps_per_epoch=len(loader))
    for _ in range(epochs):
        net.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield {"val_accuracy": accuracy(net, validation), "train_loss": loss.item()}
    if test:
        yield {"test_accuracy": accuracy(net, TensorDataset(*read(root, "t10k")))}
