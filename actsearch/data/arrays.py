"""Arrays out of what people have: tensors, lists, frames of pandas and polars, sparse matrices, what numpy reads.

Nothing is lost on the way: what an array of plain numbers cannot hold is refused in one line. This module knows numpy
and torch, but not data sets. pandas and polars are imported only if something of theirs is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsearch.errors import ActSearchError, one_line

MOST_DENSE = 2**28  # numbers of a sparse matrix that are written out: 2 GiB in float64
ENCODE = "Encode it as numbers first, e.g. with pandas.get_dummies or sklearn.preprocessing.OneHotEncoder"

DATES = "dates or times. Turn them into numbers first, e.g. days since the first."


@dataclass(frozen=True)
class Given:
    """What was given, as an array. columns: their names, if it was a frame, else none. index: pandas' labels of the
    rows, if it was of pandas, else None. remarks: sentences on what was done to it.
    """

    array: np.ndarray
    columns: tuple[str, ...] = ()
    index: Any = None
    remarks: tuple[str, ...] = ()


def read(part: Any, what: str, names: bool = False) -> Given:
    """The array of booleans, whole numbers or floats (float16 as float32) that was given. what: its name in messages.

    names: whether it may also be text, as labels are; the array is then of objects or of strings.
    Raises ActSearchError for whatever has no such form, for missing entries, and for numbers beyond float32.
    """
    home = type(part).__module__.partition(".")[0]
    if home in ("pandas", "polars") and hasattr(part, "to_numpy"):
        given = _frame(part, what, names) if hasattr(part, "columns") else _series(part, what, names)
    elif isinstance(part, Tensor):
        given = Given(_tensor(part, what))
    elif hasattr(part, "toarray") and hasattr(part, "nnz"):
        _check_size(part.shape, what)
        given = Given(part.toarray())
    else:
        given = Given(_plain(part, what))
    array = _native(given.array, what, names)
    if array.dtype.kind == "f":
        _check_finite(array, what, given.columns)
    return Given(array, given.columns, given.index, given.remarks)


def as_tensor(array: np.ndarray) -> Tensor:
    """The tensor of an array of numbers; whole numbers that torch hardly knows become int64."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _plain(part: Any, what: str) -> np.ndarray:
    """Whatever numpy makes an array of."""
    try:
        made = part if isinstance(part, np.ndarray) else np.asarray(part)
    except Exception as error:  # whatever a library's __array__ raises; numpy itself raises ValueError for ragged lists
        raise ActSearchError(f"{what} is no array: {one_line(error)}") from None
    if isinstance(made, np.ma.MaskedArray) and made.mask.any():
        raise ActSearchError(f"{what} is a masked array with masked entries. Fill or remove them first.")
    if made.dtype.kind == "O" and made.ndim == 0:
        cure = " Write .collect()." if hasattr(part, "collect") else ""
        raise ActSearchError(f"{what} is no array, but {type(part).__name__}.{cure}")
    return np.asarray(made)


def _tensor(part: Tensor, what: str) -> np.ndarray:
    t = part.detach()
    if t.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        _check_size(t.shape, what)
        t = t.to_dense()
    small = t.dtype.is_floating_point and t.dtype.itemsize < 4
    try:
        return (t.float() if small else t).cpu().resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # nested, quantised, on the device meta
        raise ActSearchError(f"{what} is a tensor that is no array: {one_line(error)}") from None


def _check_size(shape: Sequence[int], what: str) -> None:
    if np.prod(shape, dtype=float) > MOST_DENSE:
        raise ActSearchError(
            f"{what} is sparse and too large to be written out ({' × '.join(map(str, shape))}). Reduce its columns "
            "first, e.g. with sklearn.decomposition.TruncatedSVD."
        )


def _native(array: np.ndarray, what: str, names: bool) -> np.ndarray:
    """The array with numbers of a type that torch has, or, if `names`, text. Values stay as they are."""
    kind = array.dtype.kind
    if kind == "O":
        array = _of_objects(array, what, names)
        kind = array.dtype.kind
    if kind == "c":
        raise ActSearchError(
            f"{what} has complex numbers. Give real and imaginary part as two features, e.g. with .real, .imag and "
            "numpy.stack."
        )
    if kind in "Mm":
        raise ActSearchError(f"{what} has {DATES}")
    if kind in "UST" or kind == "O":
        if names:
            return array
        raise ActSearchError(f"{what} has text. {ENCODE}, or read it with .astype(float).")
    if kind not in "biuf":
        raise ActSearchError(f"{what} has entries of the type {array.dtype}. Give an array of numbers.")
    if kind == "f":
        if array.dtype.itemsize not in (4, 8):
            with np.errstate(over="ignore"):  # what becomes inf is refused after this
                array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    elif kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ActSearchError(f"{what} has numbers above {np.iinfo(np.int64).max:,}, which int64 cannot hold.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _of_objects(array: np.ndarray, what: str, names: bool) -> np.ndarray:
    """An array of Python's objects as one of numbers; of text as it is, if `names`."""
    flat = array.reshape(-1).tolist()
    if any(isinstance(entry, np.ndarray | list | tuple | Tensor | Mapping) for entry in flat):
        same = len({np.shape(entry) for entry in flat if not isinstance(entry, Mapping)}) == 1
        cure = (
            "sequences: stack them, numpy.stack(list(x))" if same else "sequences of different lengths. Pad them first"
        )
        raise ActSearchError(f"{what} is no array: its entries are {cure}.")
    if any(map(_is_missing, flat)):
        raise ActSearchError(f"{what} has missing entries. Fill or remove them first.")
    if any(isinstance(entry, str | bytes) for entry in flat):
        if names and all(isinstance(entry, str | bytes) for entry in flat):
            return array
        both = " and other things" if names else ""
        raise ActSearchError(f"{what} has text{both}, e.g. {flat[0]!r}. {ENCODE}.")
    try:
        whole = all(isinstance(entry, int | np.integer | np.bool_) for entry in flat)
        return array.astype(np.int64 if whole else np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ActSearchError(f"{what} has entries that are no numbers, e.g. {flat[0]!r}: {one_line(error)}") from None


def _is_missing(entry: object) -> bool:
    nan = isinstance(entry, float) and math.isnan(entry)
    return nan or entry is None or type(entry).__name__ in ("NAType", "NaTType")


def _check_finite(array: np.ndarray, what: str, columns: Sequence[str]) -> None:
    """Raises ActSearchError for NaN and inf, and for numbers that float32 turns into inf."""
    most = np.finfo(np.float32).max
    if not array.size or (array.min() >= -most and array.max() <= most):  # NaN is neither
        return
    good = np.isfinite(array) & (np.abs(array) <= most)
    place = tuple(np.argwhere(~good)[0].tolist())
    value = array[place]
    column = f"in column '{columns[place[1]]}'" if columns else f"at {list(place)}"
    if np.isfinite(value):
        raise ActSearchError(f"{what} has {value:g} {column}, beyond float32's {most:.2g}. Rescale it, e.g. by a log.")
    raise ActSearchError(
        f"{what} has entries that are no finite numbers: {value} {column}. Remove or replace them first."
    )


# --- frames ---------------------------------------------------------------------------------------


def _frame(frame: Any, what: str, names: bool) -> Given:
    """A frame as an array (n, columns). A categorical column becomes a column of 0 and 1 for each of its categories."""
    import pandas as pd

    parts: list[np.ndarray] = []
    columns: list[str] = []
    remarks: list[str] = []
    for place, name in enumerate(map(str, frame.columns)):
        column = _pandas(frame.iloc[:, place] if isinstance(frame, pd.DataFrame) else frame.to_series(place))
        where = f"column '{name}' of {what}"
        if isinstance(column.dtype, pd.CategoricalDtype) and not names:
            _check_there(column, where)
            categories = column.cat.categories
            parts += [(column.cat.codes.to_numpy() == code).astype(np.float32) for code in range(len(categories))]
            columns += [f"{name}={category}" for category in categories]
            remarks.append(f"{where} is categorical: it is given as {len(categories)} columns of 0 and 1.")
        else:
            parts.append(_native(_values(column, where), where, names))
            columns.append(name)
    if not parts:
        raise ActSearchError(f"{what} has no columns.")
    table = np.stack(parts, 1)
    if table.dtype.kind in "biu" and not names:
        table = table.astype(np.float64)  # columns of a frame are numbers, never tokens
    return Given(table, tuple(columns), frame.index if isinstance(frame, pd.DataFrame) else None, tuple(remarks))


def _series(series: Any, what: str, names: bool) -> Given:
    column = _pandas(series)
    return Given(_native(_values(column, what), what, names), index=getattr(series, "index", None))


def _pandas(column: Any) -> Any:
    """A column of pandas or polars as a Series of pandas."""
    import pandas as pd

    if isinstance(column, pd.Series):
        return column
    values = column.to_numpy()
    if values.ndim != 1 or values.dtype.names:
        raise ActSearchError(f"a column '{column.name}' has {column.dtype} as entries. Make each part a column.")
    made = pd.Series(values)
    kind = getattr(type(column.dtype), "__name__", "")
    if kind == "Enum":
        return made.astype(pd.CategoricalDtype(list(column.dtype.categories)))
    return made.astype("category") if kind == "Categorical" else made


def _check_there(column: Any, where: str) -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        raise ActSearchError(
            f"{where} has {missing.sum()} missing entries, the first in row {missing.argmax()}. Fill or remove them "
            "first."
        )


def _values(column: Any, where: str) -> np.ndarray:
    """The values of a Series of pandas, whatever type it has, as numpy has them."""
    import pandas as pd

    _check_there(column, where)
    types = pd.api.types
    if types.is_datetime64_any_dtype(column.dtype):
        raise ActSearchError(f"{where} has {DATES}")
    if types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=bool)
    if types.is_integer_dtype(column.dtype):
        return column.to_numpy(dtype=np.uint64 if types.is_unsigned_integer_dtype(column.dtype) else np.int64)
    if types.is_float_dtype(column.dtype):
        return column.to_numpy(dtype=np.float32 if getattr(column.dtype, "itemsize", 8) == 4 else np.float64)
    return column.to_numpy()
