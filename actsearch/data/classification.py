"""Data sets for classification: MNIST-1D, digits, Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from actsearch.data.files import cache_folder, cached, download_with, idx_file, idx_path, read_idx
from actsearch.data.source import Pair, Source
from actsearch.errors import ActSearchError, one_line
from actsearch.random_states import random_states_kept

LARGE_TEST = 20_000
TEST_SEED = 1_000_003  # the generator's seed for the large test set; the published data have seed 42


def mnist1d(root: str | None = None, test: str = "large") -> Source:
    """MNIST-1D (Greydanus & Kobak 2024): 4,000 examples of shape (40,) in 10 classes.

    The data are generated; nothing is downloaded. root: the folder in which they are kept. test: the test set. `large`
    is 20,000 further examples by the same generator with another seed, standardised as the published ones are;
    `published` is the 1,000 published examples. Raises ActSearchError for another value.
    """
    if test not in ("large", "published"):
        raise ActSearchError(f"data.test={test}: MNIST-1D has a 'large' and a 'published' test set.")
    folder = cache_folder(root)
    part = cached(folder / "mnist1d.npz", _mnist1d_published, ("x", "y", "x_test", "y_test", "mean", "std"))
    pair = (torch.from_numpy(part["x"]), torch.from_numpy(part["y"]))
    if test == "published":
        held_out = (torch.from_numpy(part["x_test"]), torch.from_numpy(part["y_test"]))
        return Source(*pair, lambda: held_out)

    path = folder / f"mnist1d-test-{LARGE_TEST}.npz"
    mean, std = float(part["mean"]), float(part["std"])

    def prepare() -> None:
        if not path.exists():  # generating takes about 7 s, so another process does it while the search runs
            arguments = f"{str(path)!r}, {mean!r}, {std!r}"
            code = f"from actsearch.data.classification import _mnist1d_large; _mnist1d_large({arguments})"
            env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
            subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)

    def load() -> Pair:
        made = _mnist1d_large(str(path), mean, std)
        return torch.from_numpy(made["x"]), torch.from_numpy(made["y"])

    return Source(*pair, load, prepare)


def digits(root: str | None = None) -> Source:
    """scikit-learn's 1,797 images of handwritten digits, (1, 8, 8), in 10 classes. A fixed fifth is the test set."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(y).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    pool, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    mean, std = images[pool].mean(), images[pool].std()
    images = (images - mean) / std
    return Source(images[pool], labels[pool], lambda: (images[held_out], labels[held_out]))


def fashion_mnist(root: str | None = None, download: bool = False) -> Source:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 images (1, 28, 28) in 10 classes, and 10,000 test images.

    The IDX files, which may be gzipped, are looked for in `root`, in torchvision's folder below it, and where Debian's
    package dataset-fashion-mnist puts them. download: if true, torchvision downloads them to `root`.
    Raises ActSearchError if they are not found or damaged.
    """
    folder = cache_folder(root)
    if download:
        download_with("Fashion-MNIST", lambda tv: tv.FashionMNIST(str(folder), download=True))
    places = [folder, folder / "FashionMNIST" / "raw", Path("/usr/share/datasets/fashion-mnist")]
    place = next((p for p in places if idx_file(p, "train-images-idx3-ubyte")), None)
    if place is None:
        raise ActSearchError(
            f"Fashion-MNIST is not in {folder}. Write data.download=true to download it there, data.root=FOLDER "
            "where its IDX files are, or install Debian's package dataset-fashion-mnist."
        )

    def load(part: str) -> Pair:
        images = read_idx(place, f"{part}-images-idx3-ubyte")
        labels = read_idx(place, f"{part}-labels-idx1-ubyte")
        return torch.from_numpy(images).unsqueeze(1).float().div_(255), torch.from_numpy(labels).long()

    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        idx_path(place, name)  # raises now if a file is missing, not after the search
    x, y = load("train")
    mean, std = x.mean(), x.std()

    def test() -> Pair:
        x_test, y_test = load("t10k")
        return (x_test - mean) / std, y_test

    return Source((x - mean) / std, y, test)


def cifar10(root: str | None = None, download: bool = False) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 images (3, 32, 32) in 10 classes, and 10,000 test images.

    They are read from the folder cifar-10-batches-py in `root`. download: if true, torchvision downloads it there.
    Raises ActSearchError if it is not found or damaged.
    """
    folder = cache_folder(root)
    if download:
        download_with("CIFAR-10", lambda tv: tv.CIFAR10(str(folder), download=True))
    place = folder / "cifar-10-batches-py"
    missing = [n for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch") if not (place / n).exists()]
    if missing:
        raise ActSearchError(
            f"CIFAR-10 is not in {place} (no {missing[0]}). Write data.download=true to download it there, or "
            "data.root=FOLDER, the folder in which cifar-10-batches-py lies."
        )

    def load(*names: str) -> Pair:
        images, labels = [], []
        for name in names:
            try:
                with open(place / name, "rb") as file:
                    batch = pickle.load(file, encoding="bytes")
                images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
            except Exception as error:  # a damaged pickle raises almost anything
                raise ActSearchError(
                    f"{place / name} is not a batch of CIFAR-10 ({one_line(error)}). Download it again."
                ) from None
        x = torch.from_numpy(np.concatenate(images)).float().div_(255)
        return x, torch.from_numpy(np.concatenate(labels))

    x, y = load(*(f"data_batch_{i}" for i in range(1, 6)))
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)

    def test() -> Pair:
        x_test, y_test = load("test_batch")
        return (x_test - mean) / std, y_test

    return Source((x - mean) / std, y, test)


def _mnist1d_examples(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples by the published generator, not standardised, shuffled: inputs (n, 40) and classes (n,).

    The global random states of Python, numpy and torch are left as they were.
    """
    from mnist1d.data import get_dataset_args, get_templates
    from mnist1d.transform import transform
    from mnist1d.utils import set_seed

    with random_states_kept():
        args, templates = get_dataset_args(), get_templates()
        set_seed(seed)
        labels = np.repeat(templates["y"], n // 10)
        examples = [transform(templates["x"][label], templates["t"], args)[0] for label in labels]
        order = np.random.permutation(len(labels))
        return np.stack(examples)[order], labels[order]


def _mnist1d_published() -> dict[str, np.ndarray]:
    x, y = _mnist1d_examples(42, 5000)
    mean, std = x.mean(), x.std()
    x = ((x - mean) / std).astype(np.float32)
    return {"x": x[:4000], "y": y[:4000], "x_test": x[4000:], "y_test": y[4000:], "mean": mean, "std": std}


def _mnist1d_large(path: str, mean: float, std: float) -> dict[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        x, y = _mnist1d_examples(TEST_SEED, LARGE_TEST)
        return {"x": ((x - mean) / std).astype(np.float32), "y": y}

    return cached(Path(path), make, ("x", "y"))
