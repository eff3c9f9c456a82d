"""Data sets as tensors: examples for training and validation, and a test set on which only finalists are scored.

A data set is a function that returns a `Source`, or, for classification, simply the tuple (x, y, x_test, y_test).
`Data` adds what is the same for all data sets: the split, a subset, checks. This module knows neither models nor
activations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsearch.data.goal import Goal, classification
from actsearch.errors import ActSearchError, one_line, whole

Pair = tuple[Tensor, Tensor]


def _nothing() -> None: ...


@dataclass(frozen=True)
class Source:
    """A data set as tensors.

    x: (n, …), standardised float32 inputs, or int64 tokens numbered from 0. y: (n,), int64 classes numbered from 0, or
    whatever the goal's loss takes. test: a function that returns (x_test, y_test); only the finalists' stage calls it,
    once. prepare_test: starts slow work that `test` needs, without waiting for it. goal: the loss and the metric; if
    None, it is classification. validation: (x, y) from which validation examples are drawn; if None, they are drawn
    from x and y. n_tokens: the size of the vocabulary if inputs are tokens; if None, one more than the largest token
    in x and in the validation examples.
    """

    x: Tensor
    y: Tensor
    test: Callable[[], Pair]
    prepare_test: Callable[[], None] = _nothing
    goal: Goal | None = None
    validation: Pair | None = None
    n_tokens: int | None = None


@dataclass(frozen=True)
class Split:
    """Training and validation tensors of a data set, and its goal, on one device."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    goal: Goal

    def to(self, device: torch.device) -> Split:
        x_train, y_train, x_val, y_val = (t.to(device) for t in (self.x_train, self.y_train, self.x_val, self.y_val))
        return Split(x_train, y_train, x_val, y_val, self.goal)


class Data:
    """A data set with its split into training and validation examples.

    n_validation: the number of validation examples, which all choices of the search are based on; if None, a fifth of
    the examples, or all validation examples that the source has. subset: the number of training examples; if None,
    all that do not validate. resample: whether each seed draws its own split; otherwise all seeds have the same.
    Attributes: n_train and n_validation, the numbers of examples; goal, the source's or classification; in_shape, of
    one example; n_tokens, the size of the vocabulary if inputs are tokens, None if they are numbers; remarks,
    sentences on what was done to these data that a reader of the result must know.
    Raises ActSearchError if there are too few examples for these numbers.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        n_validation: int | None = None,
        subset: int | None = None,
        resample: bool = False,
    ) -> None:
        self.source, self.name, self.resample = source, name, resample
        if not isinstance(resample, bool):
            raise ActSearchError(f"data.resample={resample}: write true or false.")
        if n_validation is None:
            n_validation = max(1, len(source.x) // 5) if source.validation is None else len(source.validation[0])
        whole("data.n_validation", n_validation)
        if subset is not None:
            whole("data.subset", subset, least=0)  # 0 has its own message below
        total = len(source.x)
        if source.validation is not None and n_validation > len(source.validation[0]):
            n = len(source.validation[0])
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {n} examples to validate on. Choose at most {n}."
            )
        if source.validation is None and n_validation >= total:
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {total} examples to train and validate on. "
                f"Choose fewer, e.g. data.n_validation={total // 5}."
            )
        most = total - n_validation if source.validation is None else total
        if subset is not None and not 1 <= subset <= most:
            less = f", of which {n_validation} validate" if source.validation is None else " to train on"
            raise ActSearchError(
                f"data.subset={subset}: '{name}' has {total} examples{less}. Choose 1 to {most}, or null for all."
            )
        self.n_validation, self._subset = n_validation, subset
        self.n_train = most if subset is None else subset
        if source.goal is None and source.y.min() == source.y.max():
            raise ActSearchError(f"'{name}': all examples are of class {int(source.y[0])}. There is nothing to learn.")
        self.goal = source.goal or classification(int(source.y.max()) + 1)
        seen = [source.x] if source.validation is None else [source.x, source.validation[0]]
        counted = None if source.x.is_floating_point() else 1 + max(int(x.max()) for x in seen)
        self.n_tokens = source.n_tokens or counted
        self.in_shape = tuple(source.x.shape[1:])
        self.remarks: list[str] = []
        self._fixed: Split | None = None

    def split(self, seed: int) -> Split:
        """The training and validation tensors for a run with this seed."""
        if self.resample:
            return self._draw(np.random.SeedSequence([seed, 3]))
        if self._fixed is None:
            self._fixed = self._draw(np.random.SeedSequence([0, 3]))
        return self._fixed

    def _draw(self, stream: np.random.SeedSequence) -> Split:
        generator = np.random.default_rng(stream)
        order = torch.from_numpy(generator.permutation(len(self.source.x)))
        x, y = self.source.x, self.source.y
        if self.source.validation is None:
            x_val, y_val = x, y
            val, train = order[: self.n_validation], order[self.n_validation :][: self.n_train]
        else:
            x_val, y_val = self.source.validation
            val, train = torch.from_numpy(generator.permutation(len(x_val)))[: self.n_validation], order[: self.n_train]
        return Split(x[train], y[train], x_val[val], y_val[val], self.goal)

    def without_test(self) -> Data:
        """The same data without access to the test set. Training processes get these."""
        return Data(
            replace(self.source, test=_no_test, prepare_test=_nothing), self.name, self.n_validation, self._subset,
            self.resample,
        )  # fmt: skip

    def test(self) -> Pair:
        """The test set (x, y). Only the finalists' stage may call this, never the search."""
        return self.source.test()

    def __str__(self) -> str:
        kind = "drawn anew per seed" if self.resample else "one fixed split"
        return f"{self.name}: {self.n_train:,} train, {self.n_validation:,} validation ({kind})"


def _no_test() -> Pair:
    raise RuntimeError("the search asked for the test set")


def make_data(
    function: Callable[..., Any],
    name: str,
    n_validation: int | None = None,
    subset: int | None = None,
    resample: bool = False,
    **keywords: Any,
) -> Data:
    """Calls a data set function, ours or a user's, and checks what it returns. keywords: its arguments.

    The other arguments are those of `Data`. Raises ActSearchError if the function fails or returns something else.
    """
    try:
        made = function(**keywords)
    except ActSearchError:
        raise
    except Exception as error:
        raise ActSearchError(f"the data set '{name}' could not be loaded: {one_line(error)}") from error
    return Data(as_source(made, name), name, n_validation, subset, resample)


def as_source(made: Any, name: str) -> Source:
    """A checked Source, from a Source or from a tuple (x, y, x_test, y_test) of arrays or tensors.

    Raises ActSearchError that names the data set if shapes, types or values are wrong.
    """
    if isinstance(made, Source):
        _check(made.x, made.y, name, "x, y", classes=made.goal is None)
        if made.goal is not None:
            _check_goal(made.goal, made.y[:2], name)
        return made
    if not (isinstance(made, tuple) and len(made) == 4):
        raise ActSearchError(
            f"the data set '{name}' returned {type(made).__name__}. It must return (x, y, x_test, y_test), "
            "arrays or tensors, or an actsearch.data.Source."
        )
    try:
        x, y, x_test, y_test = (torch.as_tensor(part) for part in made)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ActSearchError(f"the data set '{name}' returned something that is no array: {one_line(error)}") from None
    _check(x, y, name, "x, y")
    _check(x_test, y_test, name, "x_test, y_test")
    if x_test.shape[1:] != x.shape[1:]:
        raise ActSearchError(
            f"the data set '{name}': an example of x has shape {tuple(x.shape[1:])}, one of x_test "
            f"{tuple(x_test.shape[1:])}. They must be equal."
        )
    if int(y_test.max()) > int(y.max()):
        raise ActSearchError(
            f"the data set '{name}': y_test has class {int(y_test.max())}, but the largest in y is {int(y.max())}. "
            "Number the classes the same in y and y_test."
        )
    test = (x_test.float(), y_test.long())
    return Source(x.float(), y.long(), lambda: test)


def _check(x: Tensor, y: Tensor, name: str, where: str, classes: bool = True) -> None:
    fits = x.dim() > 1 and len(x) == len(y) > 0
    if not fits or (classes and (y.dim() != 1 or y.is_floating_point())):
        wanted = "(n,) integer classes, or a Source with another goal" if classes else "(n, …) answers y"
        raise ActSearchError(
            f"the data set '{name}': {where} have shapes {tuple(x.shape)} and {tuple(y.shape)} "
            f"({y.dtype}). Wanted: (n, …) inputs and {wanted}."
        )
    for part, numbers in (("inputs", x), ("answers", y)):
        if not torch.isfinite(numbers).all():
            raise ActSearchError(
                f"the data set '{name}': {where} have {part} that are no finite numbers. Remove or replace them first."
            )
    if classes and int(y.min()) < 0:
        raise ActSearchError(f"the data set '{name}': {where} have class {int(y.min())}; classes are numbered from 0.")


def _check_goal(goal: Goal, y: Tensor, name: str) -> None:
    """Tries the goal's loss and score on outputs of zeros. Raises ActSearchError if they do not fit y."""
    outputs = torch.zeros(len(y), *goal.out_shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns if shapes are broadcast: (n, 1) with (n,) is a mistake
            loss = goal.loss(outputs, y)
        scores = torch.zeros(len(y)) if goal.score is None else goal.score(outputs, y)
    except Exception as error:  # whatever a user's function raises
        raise ActSearchError(
            f"the data set '{name}': its goal does not take outputs {tuple(outputs.shape)} with y {tuple(y.shape)}: "
            f"{one_line(error)}"
        ) from error
    if loss.dim() or scores.shape != (len(y),):
        raise ActSearchError(
            f"the data set '{name}': for {len(y)} examples its goal gives a loss {tuple(loss.shape)} and scores "
            f"{tuple(scores.shape)}. Wanted: one number, and ({len(y)},)."
        )
