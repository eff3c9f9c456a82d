"""Class labels of any kind – text, numbers with gaps, booleans – numbered from 0 in sorted order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsearch.data.arrays import read
from actsearch.errors import ActSearchError

SHOWN = 5  # classes that a sentence names
REGRESSION = "Is this regression? Then give an actsearch.Source with a goal, which says by which loss and metric"


class Labels:
    """The classes of a data set, known from the labels of its examples.

    Attributes: classes, the sorted labels, of which the i-th is class i; remark, a sentence on how they are numbered,
    empty if labels are their own numbers.
    Raises ActSearchError if y holds no labels, or numbers that look like a regression.
    """

    def __init__(self, y: Any, what: str) -> None:
        array = _column(y, what)
        self.classes, counts = _unique(array, what)
        _check_for_regression(self.classes, counts, what)
        same = self.classes.dtype.kind in "iu" and np.array_equal(self.classes, np.arange(len(self.classes)))
        plain = same or (self.classes.dtype.kind == "b" and len(self.classes) == 2)
        last = len(self.classes) - 1
        self.remark = "" if plain else f"the classes {self._named()} are numbered 0 to {last} in sorted order."

    def __len__(self) -> int:
        return len(self.classes)

    def numbers(self, y: Any, what: str) -> Tensor:
        """The numbers of labels y: (n,), int64. Raises ActSearchError for a label that is not among the classes."""
        array = _column(y, what)
        kinds = ["text" if a.dtype.kind in "UOST" else "numbers" for a in (self.classes, array)]
        if kinds[0] != kinds[1]:
            raise ActSearchError(f"y has {kinds[0]} as labels and {what} {kinds[1]}. Give both alike.")
        lacking = set(_unique(array, what)[0].tolist()) - set(self.classes.tolist())
        if lacking:
            raise ActSearchError(
                f"{what} has class {_shown(min(lacking))}, which y lacks: its classes are {self._named()}. "
                f"Number the classes the same in y and {what}, and train on each."
            )
        return torch.from_numpy(np.searchsorted(self.classes, array).astype(np.int64))

    def _named(self) -> str:
        shown = list(map(_shown, self.classes.tolist()))
        if len(shown) > SHOWN:
            shown = [*shown[: SHOWN - 2], "…", shown[-1]]
        return ", ".join(shown)


def _column(y: Any, what: str) -> np.ndarray:
    """Labels as an array (n,). A single column (n, 1) is taken as it."""
    array = read(y, what, names=True).array
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        shape = tuple(array.shape)
        numbers = array.dtype.kind in "biuf" and array.ndim == 2
        if numbers and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
            raise ActSearchError(f"{what} has the shape {shape}: labels are one-hot. Give {what}.argmax(1).")
        raise ActSearchError(
            f"{what} has the shape {shape}. Wanted: one class per example, (n,). Several numbers or labels per "
            "example need an actsearch.Source with a goal, which says by which loss and metric."
        )
    if array.dtype.kind == "f":
        whole = np.array_equal(array, np.round(array))
        cure = f"if they are classes, give {what}.astype(int)" if whole else "classes are whole numbers or text"
        odd = array[0] if whole else array[array != np.round(array)][0]
        raise ActSearchError(f"{what} has floats ({array.dtype}), e.g. {odd:g}. {REGRESSION}; {cure}.")
    return array


def _unique(array: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The sorted labels, and how many examples each has."""
    try:
        return np.unique(array, return_counts=True)
    except TypeError:
        raise ActSearchError(
            f"{what} has labels of several types, which have no order. Give all of one type."
        ) from None


def _check_for_regression(classes: np.ndarray, counts: np.ndarray, what: str) -> None:
    """Raises ActSearchError if half of the examples are alone in their class, or classes have hardly any examples."""
    n = counts.sum()
    if (counts == 1).sum() > n / 2 or len(classes) > max(20, n / 3):
        raise ActSearchError(
            f"{what} has {len(classes)} different labels in {n} examples, {(counts == 1).sum()} of them only once. "
            f"{REGRESSION}; classes need several examples each."
        )


def _shown(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
