"""Data sets as tensors: examples for training and validation, and a test set on which only finalists are scored.

A data set is a function that returns a `Source`, or, for classification, simply the tuple (x, y, x_test, y_test) of
arrays, frames or tensors. `take` checks what was given; `Data` adds what is the same for all data sets: the split, a
subset, standardised features. This module knows neither models nor activations.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsearch.data.arrays import Given, as_tensor, read
from actsearch.data.datasets import four_parts
from actsearch.data.goal import OURS, Goal, check_goal, classification, weights_of_loss
from actsearch.data.inputs import Inputs, count, examples, shape_of, tensors, to
from actsearch.data.labels import Labels
from actsearch.data.standard import Scale, far_from_standard, is_standard, loses_digits, spread
from actsearch.errors import ActSearchError, one_line, whole

Pair = tuple[Tensor, Tensor]
Examples = tuple[Inputs, Tensor]
STANDARDISE = ("auto", True, False)
MOST_TOKENS = 2**20  # larger whole numbers without a given vocabulary are numbers
SHOWN = 5  # classes that a remark names
OTHER_SCALE, LEAST_TO_TELL = 5.0, 20  # a ratio of standard deviations that is no chance in so many examples
MOST_INPUTS = 20  # that a message lists


def nothing() -> None: ...


@dataclass(frozen=True)
class Source:
    """A data set as tensors. Arrays and frames are taken too.

    x: (n, …), standardised inputs, or tokens numbered from 0, which are int64; or several inputs for one net, as a
    tuple or under names, which keep their types. y: (n,), the classes, or whatever the goal's loss takes. test: a
    function that returns (x_test, y_test); only the finalists' stage calls it, once; or that pair itself. prepare_test:
    starts slow work that `test` needs, without waiting for it. goal: the loss and the metric; if None, it is
    classification. validation: (x, y) from which validation examples are drawn; if None, they are drawn from x and y.
    n_tokens: the size of the vocabulary if inputs are tokens; if None, one more than the largest token in x and in the
    validation examples.
    """

    x: Any
    y: Any
    test: Any
    prepare_test: Callable[[], None] = nothing
    goal: Goal | None = None
    validation: tuple[Any, Any] | None = None
    n_tokens: int | None = None


@dataclass(frozen=True)
class Split:
    """Training and validation tensors of a data set, and its goal, on one device."""

    x_train: Inputs
    y_train: Tensor
    x_val: Inputs
    y_val: Tensor
    goal: Goal

    def to(self, device: torch.device) -> Split:
        return Split(
            to(self.x_train, device), self.y_train.to(device), to(self.x_val, device), self.y_val.to(device), self.goal
        )

    def batch(self, n: int, device: torch.device) -> tuple[Inputs, Tensor]:
        """The first n training examples, on a device."""
        return to(examples(self.x_train, slice(n)), device), self.y_train[:n].to(device)


@dataclass(frozen=True)
class Taken:
    """A Source of tensors, out of whatever was given.

    labels: the classes, unless there is another goal. columns: of the frame that x was, else none. ready: whether it
    was a Source, whose inputs are as they are wanted. test: the test set, if it was given at once. least_loss: that the
    goal's loss can reach, as far as is known. remarks: on what was done.
    """

    source: Source
    labels: Labels | None
    columns: tuple[str, ...]
    ready: bool
    test: Examples | None
    least_loss: float
    remarks: tuple[str, ...]

    def pair(self, made: Any, names: tuple[str, str]) -> Examples:
        """Further examples, checked against those to train on: for validation or for the test. names: in messages."""
        x_name, y_name = names
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise ActSearchError(f"wanted ({x_name}, {y_name}), a pair, not {type(made).__name__}.")
        x, answers, given = _examples(made[0], made[1], names)
        if given.columns and self.columns and given.columns != self.columns:
            raise ActSearchError(
                f"{x_name} has the columns {', '.join(given.columns)}; x has {', '.join(self.columns)}. They must be "
                "the same, in the same order, with the same categories."
            )
        if _shapes(x) != _shapes(self.source.x):
            raise ActSearchError(
                f"an example of x has shape {_shapes(self.source.x)}, one of {x_name} {_shapes(x)}. They must be equal."
            )
        if self.labels is not None:
            return x, self.labels.numbers(answers, y_name)
        y = _answers(answers, y_name)
        if y.shape[1:] != self.source.y.shape[1:]:
            raise ActSearchError(
                f"an example of y has shape {tuple(self.source.y.shape[1:])}, one of {y_name} {tuple(y.shape[1:])}. "
                "They must be equal."
            )
        return x, y


def take(made: Any, name: str) -> Taken:
    """What a data set function returned, or a caller gave, as a checked Source of tensors.

    Raises ActSearchError that names the data set if shapes, types or values are wrong.
    """
    try:
        return _take(made)
    except ActSearchError as error:
        raise ActSearchError(f"the data set '{name}': {error}") from error.__cause__


def _take(made: Any) -> Taken:
    ready = isinstance(made, Source)
    if not ready:
        x, y, x_test, y_test = four_parts(made)
        made = Source(x, y, (x_test, y_test))
    else:
        _check_fields(made)
    x, answers, given = _examples(made.x, made.y, ("x", "y"))
    labels, least_loss = None, 0.0
    if made.goal is None:
        labels = Labels(answers, "y")
        y = labels.numbers(answers, "y")
    else:
        y = _answers(answers, "y")
        least_loss = check_goal(made.goal, y)
    remarks = (*given.remarks, *([labels.remark] if labels is not None and labels.remark else []))
    if made.goal is not None and (held := weights_of_loss(made.goal)):
        remarks += (
            f"The loss has {held} weights of its own, which stay as they are: only those of the net are trained.",
        )
    taken = Taken(replace(made, x=x, y=y, validation=None), labels, given.columns, ready, None, least_loss, remarks)
    source = taken.source
    if made.validation is not None:
        source = replace(source, validation=taken.pair(made.validation, ("x of validation", "y of validation")))
    if not callable(made.test):
        test = taken.pair(made.test, ("x_test", "y_test"))
        taken = replace(taken, test=test, remarks=(*remarks, *_other_scale(x, test[0])))
        source = replace(source, test=lambda: taken.test)
    return replace(taken, source=source)


def _other_scale(x: Inputs, x_test: Inputs) -> list[str]:
    """A sentence for each input of another scale in the test set, as where only x was divided by 255."""
    found = []
    for one, other in zip(tensors(x), tensors(x_test), strict=True):
        if one.is_floating_point() and count(other) >= LEAST_TO_TELL:
            mine, theirs = (t.double().std().item() for t in (one, other))
            if theirs > OTHER_SCALE * mine or mine > OTHER_SCALE * theirs:
                both = f"its standard deviation is {theirs:.4g}, that of x {mine:.4g}"
                found.append(f"x_test has another scale than x: {both}. Scale both alike.")
    return found


def _check_fields(source: Source) -> None:
    """Raises ActSearchError for fields of a Source that are of the wrong kind."""
    if source.goal is not None and not isinstance(source.goal, Goal):
        raise ActSearchError(f"goal={source.goal!r}: give an actsearch.data.Goal, with its loss and its metric.")
    if not callable(source.prepare_test):
        raise ActSearchError("prepare_test must be a function without arguments.")
    if source.n_tokens is not None:
        whole("n_tokens", source.n_tokens)


def _examples(x: Any, y: Any, names: tuple[str, str]) -> tuple[Inputs, np.ndarray, Given]:
    """Inputs as tensors, answers as an array, and the inputs' Given. names: in messages.

    Raises ActSearchError unless they are as many.
    """
    inputs, given = _inputs(x, names[0])
    answers = read(y, names[1], names=True)
    one = isinstance(inputs, Tensor)
    shapes = _shapes(inputs, 0) if len(tensors(inputs)) < MOST_INPUTS else f"of {len(inputs)} inputs"
    if (one and inputs.dim() < 2) or {len(t) for t in tensors(inputs)} != {len(answers.array)} or not count(inputs):
        raise ActSearchError(
            f"{names[0]}, {names[1]} have shapes {shapes} and {answers.array.shape} ({answers.array.dtype}). Wanted: "
            f"(n, …) inputs and n answers.{_cure(inputs, answers.array)}"
        )
    if any(0 in t.shape for t in tensors(inputs)):
        raise ActSearchError(f"{names[0]} has no features: its shape is {shapes}. Give at least one.")
    remarks = (*given.remarks, *_order_of(given.index, answers.index, names))
    return inputs, answers.array, replace(given, remarks=remarks)


def _answers(array: np.ndarray, what: str) -> Tensor:
    """The answers that a goal of one's own takes: floats as float32, whole numbers as int64, booleans as they are."""
    y = as_tensor(read(array, what).array)
    return y.float() if y.is_floating_point() else y if y.dtype == torch.bool else y.long()


def _cure(x: Inputs, y: np.ndarray) -> str:
    if isinstance(x, Tensor) and x.dim() == 1:
        return " One feature has the shape (n, 1): x.reshape(-1, 1)."
    if not isinstance(x, Tensor):
        return " Several inputs have the same number of examples each; rows in a tuple must be stacked to one array."
    if y.ndim > 1:
        return " train_test_split returns x, x_test, y, y_test: give them as (x, y, x_test, y_test)."
    return ""


def _inputs(part: Any, what: str) -> tuple[Inputs, Given]:
    """The tensor or tensors of inputs. Floats become float32, except for a table's: its columns may be standardised."""
    if isinstance(part, Mapping) and not hasattr(part, "toarray"):  # a dok_matrix is both
        several = {str(name): read(one, f"{what}['{name}']") for name, one in part.items()}
    elif isinstance(part, tuple) and all(hasattr(one, "shape") for one in part):
        several = {str(i): read(one, f"{what}[{i}]") for i, one in enumerate(part)}
    else:
        given = read(part, what)
        tensor = as_tensor(given.array)
        return tensor if tensor.dim() == 2 else _single(tensor), given
    if not several or any(given.array.ndim == 0 for given in several.values()):
        raise ActSearchError(f"{what} holds no arrays.")
    made = {name: _single(as_tensor(given.array)) for name, given in several.items()}
    given = Given(next(iter(several.values())).array, remarks=tuple(r for one in several.values() for r in one.remarks))
    return (tuple(made.values()) if isinstance(part, tuple) else made), given


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _shapes(x: Inputs, start: int = 1) -> Any:
    """The shapes of these inputs, from dimension `start` on, in their form."""
    if isinstance(x, Tensor):
        return tuple(x.shape[start:])
    if isinstance(x, tuple):
        return tuple(tuple(t.shape[start:]) for t in x)
    return {name: tuple(t.shape[start:]) for name, t in x.items()}


def _order_of(x: Any, y: Any, names: tuple[str, str]) -> list[str]:
    """A remark if pandas' labels of the rows differ between inputs and answers, which are paired by position.

    Raises ActSearchError if they are the same labels in another order.
    """
    if x is None or y is None or x.equals(y):
        return []
    if Counter(x.tolist()) == Counter(y.tolist()):
        raise ActSearchError(
            f"{names[0]} and {names[1]} have the same index in another order. Bring them into one order, e.g. "
            f"{names[1]} = {names[1]}.loc[{names[0]}.index], or take .to_numpy() of both to pair them by position."
        )
    return [f"the rows of {names[0]} and {names[1]} are paired by their position, because their indexes differ."]


class Data:
    """A data set with its split into training and validation examples.

    source: a Source, or whatever a data set function may return. n_validation: the number of validation examples,
    which all choices of the search are based on; if None, a fifth of the examples, or all validation examples that the
    source has. subset: the number of training examples; if None, all that do not validate. resample: whether each seed
    draws its own split; otherwise all seeds have the same. standardise: whether the columns of a table, that is, of
    inputs (n, d), are standardised by the statistics of the training examples. With auto they are if the table was
    given as arrays, not as a Source, and a column is not standardised already (`is_standard`).
    Attributes: n_train and n_validation, the numbers of examples; goal, the source's or classification; in_shape, of
    one example (of the first input, where there are several); n_tokens, the size of the vocabulary if inputs are
    tokens, None if they are numbers; unclear, whether the whole numbers in x may be tokens or numbers, which `settled`
    settles; from_source, whether a Source was given; scaled, whether features are standardised; least_loss, that the
    goal's loss can reach, as far as is known; remarks, sentences on what was done to these data that a reader of the
    result must know.
    Raises ActSearchError if something is wrong with the data, or if there are too few examples for these numbers.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        n_validation: int | None = None,
        subset: int | None = None,
        resample: bool = False,
        standardise: bool | str = "auto",
    ) -> None:
        self._taken = take(source, name)
        self.source, self.name, self.resample = self._taken.source, name, resample
        self.standardise, self.from_source = standardise, self._taken.ready
        if not isinstance(resample, bool):
            raise ActSearchError(f"data.resample={resample}: write true or false.")
        if standardise not in STANDARDISE:
            raise ActSearchError(f"data.standardise={standardise}: write auto, true or false.")
        self._count(n_validation, subset)
        labels = self._taken.labels
        if labels is not None and len(labels) < 2:
            raise ActSearchError(f"'{name}': all examples are of class {labels.classes[0]}. There is nothing to learn.")
        self.goal = self.source.goal or classification(len(labels or ()))
        self.in_shape, self.least_loss = shape_of(self.source.x), self._taken.least_loss
        self._test: Examples | None = None
        self._fixed: Split | None = None
        self._scales: dict[int, Scale] = {}
        self._settle(self._kind())

    def _count(self, n_validation: int | None, subset: int | None) -> None:
        """Settles n_validation and n_train."""
        source, name, total = self.source, self.name, count(self.source.x)
        n_own = None if source.validation is None else count(source.validation[0])
        if n_validation is None:
            n_validation = max(1, total // 5) if n_own is None else n_own
        whole("data.n_validation", n_validation)
        if subset is not None:
            whole("data.subset", subset, least=0)  # 0 has its own message below
        if n_own is not None and n_validation > n_own:
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {n_own} examples to validate on. Choose at most "
                f"{n_own}."
            )
        if n_own is None and n_validation >= total:
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {total} examples to train and validate on. "
                f"Choose fewer, e.g. data.n_validation={total // 5}."
            )
        most = total - n_validation if n_own is None else total
        if subset is not None and not 1 <= subset <= most:
            less = f", of which {n_validation} validate" if n_own is None else " to train on"
            raise ActSearchError(
                f"data.subset={subset}: '{name}' has {total} examples{less}. Choose 1 to {most}, or null for all."
            )
        self.n_validation, self.n_train = n_validation, most if subset is None else subset

    # --- tokens, numbers, standardised features ---------------------------------------------------

    def _kind(self) -> bool:
        """Whether x is taken as tokens, unless it is settled otherwise; sets `unclear`.

        Whole numbers may be either: in a Source they are tokens if the net takes them; in a tuple (n, length) may be.
        """
        x, source = self.source.x, self.source
        first = tensors(x)[0]
        integers = not first.is_floating_point() and first.dtype != torch.bool
        self.unclear = False
        if source.n_tokens is not None:
            if not integers:
                raise ActSearchError(f"'{self.name}': n_tokens={source.n_tokens}, but x is {first.dtype}, not int64.")
            return True
        if not isinstance(x, Tensor):
            return integers
        x_test = tensors(self._taken.test[0])[0] if self._taken.test is not None else first
        could_be = integers and not x_test.is_floating_point() and int(x.min()) >= 0 and self.standardise is not True
        if self.from_source:
            self.unclear = could_be and first.dtype in (torch.int32, torch.int64)
        else:
            self.unclear = could_be and x.dim() == 2 and int(x.max()) < MOST_TOKENS
        return self.unclear and self.from_source

    def settled(self, tokens: bool) -> Data:
        """These data, with whole numbers in x taken as tokens or as numbers."""
        other = copy.copy(self)
        other.unclear, other._fixed, other._test, other._scales = False, None, None, {}
        other._settle(tokens)
        return other

    def _settle(self, tokens: bool) -> None:
        given = self._taken.source
        self.remarks = list(self._taken.remarks)
        self.n_tokens = self._vocabulary() if tokens else None
        self.scaled = self._is_scaled(given.x, tokens)
        self.source = replace(given, x=self._as_kind(given.x, "x"))
        if given.validation is not None:
            x_val, y_val = given.validation
            self.source = replace(self.source, validation=(self._as_kind(x_val, "x of validation"), y_val))
        self._remark_on_numbers(given.x)
        own = self.goal.metric not in OURS and self.source.y.is_floating_point()
        if far := far_from_standard(self.source.y) if own else "":
            self.remarks.append(f"y is far from standardised ({far}), but a net begins with outputs of about 1.")
        self._remark_on_classes()
        if not self.unclear:
            self._taken = replace(self._taken, source=self.source)

    def _vocabulary(self) -> int:
        source = self._taken.source
        seen = [source.x] if source.validation is None else [source.x, source.validation[0]]
        return source.n_tokens or 1 + max(int(tensors(x)[0].max()) for x in seen)

    def _is_scaled(self, x: Inputs, tokens: bool) -> bool:
        table = isinstance(x, Tensor) and x.dim() == 2 and not tokens
        if self.standardise is True and not table:
            raise ActSearchError(
                f"data.standardise=true: only a table, inputs (n, d) of numbers, is standardised, but an example of "
                f"'{self.name}' is {'of tokens' if tokens else _shapes(x)}. Write data.standardise=false."
            )
        if self.standardise == "auto":
            return isinstance(x, Tensor) and table and not self.from_source and not is_standard(x)
        return bool(self.standardise)

    def _as_kind(self, x: Inputs, what: str) -> Inputs:
        """Inputs as they were settled: tokens as int64, numbers as float32, or float64 where they are standardised."""
        first = tensors(x)[0]
        if self.n_tokens is not None:
            if first.is_floating_point():
                raise ActSearchError(f"'{self.name}': {what} is of {first.dtype}, x is of tokens.")
            low, high = int(first.min()), int(first.max())
            if low < 0 or high >= self.n_tokens:
                raise ActSearchError(
                    f"'{self.name}': {what} has token {low if low < 0 else high}; there are {self.n_tokens}, numbered "
                    "from 0. Give a Source with n_tokens=, the size of the vocabulary."
                )
        if not isinstance(x, Tensor):
            return x
        return x.long() if self.n_tokens is not None else x.double() if self.scaled else x.float()

    def _remark_on_numbers(self, x: Inputs) -> None:
        if self.scaled and isinstance(x, Tensor):
            self.remarks.append(
                f"features standardised by training statistics; their standard deviations were {spread(x)}."
            )
            return
        for before, after in zip(tensors(x), tensors(self.source.x), strict=True):
            if not after.is_floating_point():
                continue
            if loses_digits(before):
                self.remarks.append(
                    "x has numbers with more digits than float32 holds: examples that differ become equal. Subtract "
                    "the mean of each feature first."
                )
            if far := far_from_standard(after):
                table = isinstance(x, Tensor) and x.dim() == 2
                cure = "data.standardise=true changes that" if table else "Standardise it first"
                self.remarks.append(
                    f"x is far from standardised ({far}): the comparison may be about this scale. {cure}."
                )

    def _remark_on_classes(self) -> None:
        """Names classes that no example to train on has."""
        if self._taken.labels is None or self.resample:
            return
        there = self.source.y[self._indices(0)[0]].bincount(minlength=len(self._taken.labels)) > 0
        missing = [str(self._taken.labels.classes[i]) for i in (~there).nonzero().flatten().tolist()]
        if missing:
            which = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
            self.remarks.append(f"no training example is of class {which}: all of them validate, or are left out.")

    def inputs(self, x: Inputs, seed: int) -> Inputs:
        """Inputs as the nets of a seed get them: standardised, where features are, by its training examples."""
        if not self.scaled or not isinstance(x, Tensor):
            return x
        key = self.split_of(seed)
        if key not in self._scales:
            self._scales[key] = Scale.of(self.source.x[self._indices(key)[0]])
        return self._scales[key](x)

    def some(self, n: int = 2) -> Inputs:
        """Inputs of n training examples, as nets get them, on which a net can be tried; of tokens also the largest."""
        which = self._indices(0)[0][:n]
        if self.n_tokens is not None:
            first = tensors(self.source.x)[0]
            which = torch.cat([which[: n - 1], first.reshape(len(first), -1).amax(1).argmax()[None]])
        return self.inputs(examples(self.source.x, which), 0)

    # --- splits -----------------------------------------------------------------------------------

    def split_of(self, seed: int) -> int:
        """The number of a seed's split: 0 for all seeds if there is only one."""
        return seed if self.resample else 0

    def split(self, seed: int) -> Split:
        """The training and validation tensors for a run with this seed."""
        if self.resample:
            return self._draw(seed)
        if self._fixed is None:
            self._fixed = self._draw(0)
        return self._fixed

    def _draw(self, seed: int) -> Split:
        train, val = self._indices(seed)
        x, y = self.source.x, self.source.y
        x_val, y_val = self.source.validation or (x, y)
        x_train, x_val = (self.inputs(examples(part, which), seed) for part, which in ((x, train), (x_val, val)))
        return Split(x_train, y[train], x_val, y_val[val], self.goal)

    def _indices(self, seed: int) -> tuple[Tensor, Tensor]:
        """The examples to train and to validate on in the split with this number."""
        generator = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        order = torch.from_numpy(generator.permutation(count(self.source.x)))
        if self.source.validation is None:
            return order[self.n_validation :][: self.n_train], order[: self.n_validation]
        val = torch.from_numpy(generator.permutation(count(self.source.validation[0])))
        return order[: self.n_train], val[: self.n_validation]

    # --- the test set -----------------------------------------------------------------------------

    def without_test(self) -> Data:
        """The same data without access to the test set. Training processes get these."""
        other = copy.copy(self)
        other.source = replace(self.source, test=_no_test, prepare_test=nothing)
        other._taken = replace(self._taken, source=other.source, test=None)
        other._test = other._fixed = None
        return other

    def test(self) -> Examples:
        """The test set (x, y), read once; x as `inputs` takes it. Only the finalists' stage may call this.

        Raises ActSearchError if it cannot be read, or is not like the examples to train on.
        """
        if self._test is None:
            x, y = self._taken.test or self._read_test()
            self._test = self._as_kind(x, "x_test"), y
        return self._test

    def _read_test(self) -> Examples:
        try:
            made = self.source.test()
        except (ActSearchError, TestAsked):
            raise
        except Exception as error:  # whatever a user's function raises
            raise ActSearchError(f"the test set of '{self.name}' cannot be read: {one_line(error)}") from error
        try:
            return self._taken.pair(made, ("x_test", "y_test"))
        except ActSearchError as error:
            raise ActSearchError(f"the test set of '{self.name}': {error}") from None

    def __str__(self) -> str:
        kind = "drawn anew per seed" if self.resample else "one fixed split"
        return f"{self.name}: {self.n_train:,} train, {self.n_validation:,} validation ({kind})"


class TestAsked(RuntimeError):
    """Raised where the test set may not be read."""


def _no_test() -> Examples:
    raise TestAsked("the search asked for the test set")


def make_data(
    function: Callable[..., Any],
    name: str,
    n_validation: int | None = None,
    subset: int | None = None,
    resample: bool = False,
    standardise: bool | str = "auto",
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
    return Data(made, name, n_validation, subset, resample, standardise)
