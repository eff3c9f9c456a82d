"""Training and test examples out of torch's data sets and loaders, pairs and bunches, or one line with the cure."""

import numpy as np
import pytest
import sklearn.datasets
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from actsearch.data import datasets
from actsearch.data.datasets import four_parts
from actsearch.errors import ActSearchError

X = torch.arange(24.0).view(12, 2)
Y = torch.arange(12) % 3
MASK = X > 5


class Rows(Dataset):
    """A data set of one's own: `make` gives an example from its index."""

    def __init__(self, make, n=12):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.make(i)


def loader(**keywords):
    return DataLoader(TensorDataset(X, Y), batch_size=5, **keywords)


WHOLE = {
    "tensors": TensorDataset(X, Y),
    "a part": Subset(TensorDataset(X.repeat(2, 1), Y.repeat(2)), range(12)),
    "a loader": loader(),
    "a loader that shuffles": loader(shuffle=True),
    "one's own": Rows(lambda i: (X[i], int(Y[i]))),
    "arrays and numbers": Rows(lambda i: (X[i].numpy(), np.int64(Y[i]))),
    "arrays": (X.numpy(), Y.numpy()),
}


@pytest.mark.parametrize("form", WHOLE)
def test_a_pair_of_data_sets_becomes_its_examples_in_order(form):
    x, y, x_test, y_test = four_parts((WHOLE[form], (X[:2], Y[:2])))
    assert torch.as_tensor(x).tolist() == X.tolist()
    assert torch.as_tensor(y).tolist() == Y.tolist()
    assert x_test.tolist() == X[:2].tolist() and y_test.tolist() == Y[:2].tolist()


def test_several_inputs_stay_several():
    for made in (TensorDataset(X, MASK, Y), Rows(lambda i: ((X[i], MASK[i]), Y[i]))):
        x, y, _, _ = four_parts((made, made))
        assert isinstance(x, tuple) and torch.equal(x[0], X) and torch.equal(x[1], MASK)
        assert torch.as_tensor(y).tolist() == Y.tolist()
    made = Rows(lambda i: {"ids": X[i], "labels": Y[i], "mask": MASK[i]})
    x, y, _, _ = four_parts((made, made))
    assert list(x) == ["ids", "mask"] and torch.equal(x["mask"], MASK)
    assert y.tolist() == Y.tolist()


def test_four_parts_are_left_as_they_are():
    parts = (X, Y, X, Y)
    assert four_parts(parts) is parts


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0], 1


def broken(i):
    raise OSError("no such file")


REFUSED = {
    "one data set": (TensorDataset(X, Y), "give the pair"),
    "a bunch": (sklearn.datasets.load_iris(), "train_test_split.*bunch.data, bunch.target"),
    "inputs and labels": ((X, Y), "Split a test set off"),
    "an array": (X, "Take inputs and labels apart"),
    "six": ((X, Y, X, Y, X, Y), r"validation=\(x_val, y_val\)"),
    "names": ({"x_train": X, "y_train": Y}, "Its keys are x_train, y_train"),
    "what train_test_split returns": ([X, X, Y, Y], "x, x_test, y, y_test, in this order"),
    "random transforms": ((Rows(lambda i: (X[i] + torch.rand(2), 1)),) * 2, "other numbers each time it is read"),
    "no length": ((Endless(), Endless()), "no length"),
    "nothing": ((Rows(broken, 0),) * 2, "is empty"),
    "an error": ((Rows(broken),) * 2, "train data set cannot be read: OSError: no such file"),
    "no label": ((Rows(lambda i: {"ids": X[i]}),) * 2, "has ids, but no label"),
    "three parts": ((Rows(lambda i: (X[i], 1, 2)),) * 2, "gives tuple as an example"),
    "text": ((Rows(lambda i: ("a film", 1)),) * 2, "has str as inputs. Turn it into numbers"),
    "own batches": ((loader(collate_fn=len),) * 2, "collate_fn"),
    "balanced": ((loader(sampler=WeightedRandomSampler([1.0] * 12, 12)),) * 2, "sampler"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused_with_the_cure(form):
    made, words = REFUSED[form]
    with pytest.raises(ActSearchError, match=words):
        four_parts(made)


def test_images_without_a_transform_and_sets_that_are_too_large_are_refused(monkeypatch):
    import PIL.Image

    picture = PIL.Image.new("L", (4, 4))
    with pytest.raises(ActSearchError, match=r"has Image as inputs. Add torchvision.transforms.ToTensor"):
        four_parts((Rows(lambda i: (picture, 1)),) * 2)
    monkeypatch.setattr(datasets, "MOST_BYTES", 12 * 8 - 1)
    with pytest.raises(ActSearchError, match="Subset"):
        four_parts((Rows(lambda i: (X[i], 1)),) * 2)
