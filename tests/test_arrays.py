"""Arrays out of tensors, frames, sparse matrices and the rest: the same numbers, or one line that says why not."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from actsearch.data.arrays import as_tensor, read
from actsearch.errors import ActSearchError

NUMBERS = np.array([[1.5, -2.0], [0.25, 3.0], [4.0, 5.5]], np.float32)
FRAME = pd.DataFrame(NUMBERS, columns=["a", "b"])


def masked_numbers():
    return np.ma.masked_array(NUMBERS, mask=np.zeros_like(NUMBERS, bool))


class Reads:
    """Something of another library that numpy reads."""

    def __array__(self, dtype=None, copy=None):
        return NUMBERS


SAME = {
    "float64": NUMBERS.astype(np.float64),
    "float16": NUMBERS.astype(np.float16),
    "long double": NUMBERS.astype(np.longdouble),
    "big-endian": NUMBERS.astype(">f4"),
    "backwards": NUMBERS[::-1].copy()[::-1],
    "not writeable": np.broadcast_to(NUMBERS, NUMBERS.shape),
    "a list": NUMBERS.tolist(),
    "a list of tensors": list(torch.from_numpy(NUMBERS)),
    "objects": NUMBERS.astype(object),
    "decimals": np.array([[decimal.Decimal(str(v)) for v in row] for row in NUMBERS.tolist()]),
    "a mask of nothing": masked_numbers(),
    "another library's": Reads(),
    "a tensor": torch.from_numpy(NUMBERS),
    "a tensor with a gradient": torch.from_numpy(NUMBERS).requires_grad_(),
    "bfloat16": torch.from_numpy(NUMBERS).bfloat16(),
    "a negated view": torch.complex(torch.zeros(3, 2), -torch.from_numpy(NUMBERS)).conj().imag,
    "torch's sparse": torch.from_numpy(NUMBERS).to_sparse(),
    "scipy's sparse": scipy.sparse.csr_matrix(NUMBERS),
    "scipy's sparse array": scipy.sparse.coo_array(NUMBERS),
    "a frame": FRAME,
    "a frame in another order of labels": FRAME.set_axis([7, 3, 5]),
    "nullable": FRAME.astype("Float64"),
    "arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "a frame of objects": FRAME.astype(object),
}


@pytest.mark.parametrize("form", SAME)
def test_whatever_the_form_the_numbers_are_the_same(form):
    array = read(SAME[form], "x").array
    assert array.dtype in (np.float32, np.float64)
    assert as_tensor(array).tolist() == NUMBERS.tolist()


@pytest.mark.parametrize(
    "part",
    [np.array([3, 0, 200], kind) for kind in ("u1", "u2", "u4", "u8", "i2", "i4", "i8", ">i4", "O")]
    + [pd.Series([3, 0, 200], index=[9, 1, 4]), pd.Series([3, 0, 200]).astype("Int64"),
       pd.Series([3, 0, 200], dtype="UInt16"), pd.Series([3, 0, 200], dtype="int64[pyarrow]"), pd.Index([3, 0, 200])],
    ids=lambda part: f"{type(part).__name__} {part.dtype}",
)  # fmt: skip
def test_whole_numbers_stay_whole(part):
    tensor = as_tensor(read(part, "y", names=True).array)
    assert not tensor.is_floating_point()
    assert tensor.tolist() == [3, 0, 200]


REFUSED = {
    "complex": (NUMBERS + 1j, "complex numbers. Give real and imaginary part"),
    "a complex tensor": (torch.zeros(2, 2, dtype=torch.cfloat), "complex numbers"),
    "too large": (NUMBERS.astype(float) * 1e300, r"x has 1.5e\+300 at \[0, 0\], beyond float32's 3.4e\+38"),
    "too large, long double": (np.array([[np.longdouble("1e400")]]), "no finite numbers|beyond float32"),
    "NaN": (np.array([[1.0, np.nan]]), r"no finite numbers: nan at \[0, 1\]"),
    "inf in a frame": (pd.DataFrame({"a": [1.0], "b": [np.inf]}), "no finite numbers: inf in column 'b'"),
    "NaN in a frame": (pd.DataFrame({"a": [1.0], "b": [np.nan]}), "column 'b' of x has 1 missing entries.*row 0"),
    "NA": (pd.DataFrame({"a": pd.array([1, None], "Int64")}), "column 'a' of x has 1 missing entries.*row 1"),
    "NA among booleans": (pd.DataFrame({"a": pd.array([True, None], "boolean")}), "column 'a' of x has 1 missing"),
    "a missing category": (pd.DataFrame({"a": pd.Categorical(["u", None])}), "column 'a' of x has 1 missing"),
    "None": (np.array([[1, None]], object), "x has missing entries"),
    "NA as an object": (np.array([[1, pd.NA]], object), "x has missing entries"),
    "masked": (np.ma.masked_equal(NUMBERS, 4), "masked entries"),
    "text": (np.array([["1", "2"]]), r"x has text.*\.astype\(float\)"),
    "a column of text": (pd.DataFrame({"a": [1.0], "town": ["Ulm"]}), "column 'town' of x has text.*get_dummies"),
    "dates": (np.array([["2020-01-01"]], "M8[D]"), "dates or times"),
    "a column of dates": (pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), "column 'when' of x has dates"),
    "dates with a zone": (pd.DataFrame({"when": pd.to_datetime(["2020-01-01"], utc=True)}), "has dates"),
    "Python's dates": (np.array([[datetime.date(2020, 1, 1)]], object), r"no numbers, e.g. datetime.date\(2020"),
    "ragged": ([[1, 2], [3]], "x is no array"),
    "ragged objects": (np.array([[1, 2], [3]], object), "sequences of different lengths"),
    "named fields": (np.zeros(3, [("a", "f4")]), "type .*'a'"),
    "nothing": (None, "x is no array, but NoneType"),
    "no columns": (pd.DataFrame(index=[0, 1]), "no columns"),
    "large and sparse": (scipy.sparse.csr_matrix((2**15, 2**15)), r"too large.*32768 × 32768"),
    "beyond int64": (np.array([2**64 - 1], "u8"), "int64 cannot hold"),
    "on the device meta": (torch.zeros(2, 2, device="meta"), "a tensor that is no array"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_what_numbers_cannot_hold_is_refused_in_one_line(form):
    part, words = REFUSED[form]
    with pytest.raises(ActSearchError, match=words) as caught:
        read(part, "x")
    assert "\n" not in str(caught.value)


def test_the_columns_of_a_frame_are_numbers_and_categories_columns_of_their_own():
    frame = pd.DataFrame({
        "n": pd.array([3, 4, 5], "Int64"), "yes": [True, False, True], "flag": pd.array([False, True, True], "boolean"),
        "size": pd.Categorical(["s", "l", "s"], categories=["s", "m", "l"]),
    })  # fmt: skip
    given = read(frame, "x")
    assert given.columns == ("n", "yes", "flag", "size=s", "size=m", "size=l")
    assert given.array.tolist() == [[3, 1, 0, 1, 0, 0], [4, 0, 1, 0, 0, 1], [5, 1, 1, 1, 0, 0]]
    assert given.array.dtype == np.float64  # whole numbers in a frame are never tokens
    assert given.remarks == ("column 'size' of x is categorical: it is given as 3 columns of 0 and 1.",)


def test_labels_may_be_text():
    series = pd.Series(["b", "a"])
    for part in (["b", "a"], np.array(["b", "a"], object), series, series.astype("category"), series.astype("string")):
        assert read(part, "y", names=True).array.tolist() == ["b", "a"]
    with pytest.raises(ActSearchError, match="y has text and other things"):
        read(np.array(["b", 1], object), "y", names=True)
    with pytest.raises(ActSearchError, match="y has 1 missing"):
        read(pd.Series(["b", None]), "y", names=True)


def test_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {"a": [1, 2], "b": [True, False], "c": polars.Series(["u", "v"], dtype=polars.Enum(["u", "v", "w"]))}
    )
    given = read(frame, "x")
    assert given.columns == ("a", "b", "c=u", "c=v", "c=w")
    assert given.array.tolist() == [[1, 1, 1, 0, 0], [2, 0, 0, 1, 0]]
    assert read(polars.Series([3, 0, 200], dtype=polars.UInt16), "y").array.tolist() == [3, 0, 200]
    assert read(polars.Series(["b", "a"]), "y", names=True).array.tolist() == ["b", "a"]
    for column, words in (
        (polars.Series([1, None]), "column 'a' of x has 1 missing entries.*row 1"),
        (polars.Series(["u", "v"]), "column 'a' of x has text"),
        (polars.Series([datetime.date(2020, 1, 1)] * 2), "column 'a' of x has dates"),
    ):
        with pytest.raises(ActSearchError, match=words):
            read(polars.DataFrame({"a": column}), "x")
    with pytest.raises(ActSearchError, match="x is no array, but LazyFrame"):
        read(frame.lazy(), "x")
