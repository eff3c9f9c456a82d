"""Training and test examples out of what people load: torch's data sets and loaders, pairs, sklearn's bunches.

The result is always (x, y, x_test, y_test), of whatever arrays there were. This module does not look into arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from actsearch.data.inputs import Inputs, tensors
from actsearch.errors import ActSearchError, one_line

WANTED = "(x, y, x_test, y_test), arrays, frames or tensors, or an actsearch.data.Source"
MOST_BYTES = 4 * 2**30  # of examples that are read out of a data set into memory
TRIED_TWICE = 8  # examples that are read twice, to see whether they are drawn anew at each reading


def four_parts(made: Any) -> tuple[Any, Any, Any, Any]:
    """(x, y, x_test, y_test), from such a tuple, from a pair of data sets, or from ((x, y), (x_test, y_test)).

    Raises ActSearchError with the cure for anything else.
    """
    if isinstance(made, tuple) and len(made) == 4:
        return made
    if isinstance(made, tuple | list) and len(made) == 2 and all(_is_examples(part) for part in made):
        (x, y), (x_test, y_test) = (_examples(part, what) for part, what in zip(made, ("train", "test"), strict=True))
        return x, y, x_test, y_test
    raise ActSearchError(f"got {type(made).__name__}. Wanted: {WANTED}. {_hint(made)}".rstrip())


def _hint(made: Any) -> str:
    """What to do with a form of data that people often have."""
    split = "Split a test set off: x, x_test, y, y_test = sklearn.model_selection.train_test_split(x, y)"
    if isinstance(made, Mapping) and {"data", "target"} <= set(made):
        return f"{split}, with x, y = bunch.data, bunch.target."
    if isinstance(made, Dataset | DataLoader):
        return "A data set needs another for the test: give the pair (train, test)."
    if hasattr(made, "shape"):
        return f"Take inputs and labels apart. {split}."
    if isinstance(made, Mapping):
        return f"Its keys are {', '.join(map(str, list(made)[:6]))}: name the four parts yourself."
    if isinstance(made, tuple | list) and len(made) == 2:
        return f"{split}."
    if isinstance(made, list) and len(made) == 4:
        return "Write a tuple; train_test_split returns x, x_test, y, y_test, in this order."
    if isinstance(made, tuple | list) and len(made) == 6:
        return "Validation examples go into Source(x, y, lambda: (x_test, y_test), validation=(x_val, y_val))."
    return ""


def _is_examples(part: Any) -> bool:
    """Whether this is a data set of torch, a loader, or a pair (x, y), and not an array of two rows."""
    pair = isinstance(part, tuple) or (isinstance(part, list) and all(hasattr(p, "shape") for p in part))
    return isinstance(part, Dataset | DataLoader) or (pair and len(part) == 2)


def _examples(part: Any, what: str) -> tuple[Any, Any]:
    """All inputs and answers of a data set, in its order."""
    if isinstance(part, DataLoader):
        drawn = isinstance(part.sampler, RandomSampler) and not part.sampler.replacement
        ordinary = (drawn or isinstance(part.sampler, SequentialSampler)) and type(part.batch_sampler) is BatchSampler
        if part.collate_fn is not default_collate or not ordinary:
            raise ActSearchError(
                f"the {what} loader has a sampler or a collate_fn of its own, which actsearch does not use: it draws "
                "batches itself. Give the tensors (x, y, x_test, y_test), or plain data sets."
            )
        part = part.dataset
    if isinstance(part, TensorDataset) and len(part.tensors) > 1:
        *x, y = part.tensors
        return (x[0] if len(x) == 1 else tuple(x)), y
    if isinstance(part, Dataset):
        return _read_out(part, what)
    return tuple(part)


def _read_out(data: Any, what: str) -> tuple[Any, Any]:
    """Reads a data set example by example. Raises ActSearchError if it is too large, has no length or is random."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise ActSearchError(f"the {what} data set has no length: read it into tensors and give {WANTED}.")
    if len(data) == 0:
        raise ActSearchError(f"the {what} data set is empty.")
    try:
        first = [_parts(data[i], what) for i in range(min(TRIED_TWICE, len(data)))]
        again = [_parts(data[i], what) for i in range(len(first))]
        if any(not torch.equal(s, t) for one, two in zip(first, again, strict=True)
               for s, t in zip(tensors(one[0]), tensors(two[0]), strict=True)):  # fmt: skip
            raise ActSearchError(
                f"the {what} data set gives other numbers each time it is read (a random transform?). actsearch trains "
                "on fixed examples: take it out."
            )
        size = len(data) * sum(t.nbytes for t in tensors(first[0][0]))
        if size > MOST_BYTES:
            raise ActSearchError(
                f"the {what} data set would take {size / 2**30:.0f} GiB of memory; at most {MOST_BYTES >> 30} are "
                "read. Give a torch.utils.data.Subset of it, or smaller examples."
            )
        xs, ys = zip(*first, *(_parts(data[i], what) for i in range(len(first), len(data))), strict=True)
        return _stacked(xs), np.stack(ys)
    except ActSearchError:
        raise
    except Exception as error:  # whatever a user's __getitem__ raises
        raise ActSearchError(f"the {what} data set cannot be read: {one_line(error)}") from error


def _stacked(xs: Sequence[Any]) -> Inputs:
    """The inputs of single examples as inputs of all of them."""
    if isinstance(xs[0], Tensor):
        return torch.stack(list(xs))
    if isinstance(xs[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*xs, strict=True))
    return {name: torch.stack([x[name] for x in xs]) for name in xs[0]}


def _parts(example: Any, what: str) -> tuple[Inputs, np.ndarray]:
    """The inputs of one example, and its answer."""
    if isinstance(example, Mapping):
        key = next((name for name in ("labels", "label", "target") if name in example), None)
        if key is None:
            raise ActSearchError(f"the {what} data set has {', '.join(map(str, example))}, but no label.")
        x: Any = {str(name): part for name, part in example.items() if name != key}
        y = example[key]
    elif isinstance(example, tuple | list) and len(example) == 2:
        x, y = example
    else:
        raise ActSearchError(f"the {what} data set gives {type(example).__name__} as an example. Wanted: (x, y).")
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if isinstance(x, tuple):
        return tuple(_tensor(part, f"input {i}", what) for i, part in enumerate(x)), y
    if isinstance(x, dict):
        return {name: _tensor(part, f"'{name}'", what) for name, part in x.items()}, y
    return _tensor(x, "inputs", what), y


def _tensor(part: Any, name: str, what: str) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach().cpu()
    if not isinstance(part, np.ndarray | np.generic | int | float | list):
        cure = "Add torchvision.transforms.ToTensor()" if hasattr(part, "getdata") else "Turn it into numbers first"
        raise ActSearchError(f"the {what} data set has {type(part).__name__} as {name}. {cure}.")
    return torch.as_tensor(np.asarray(part))
