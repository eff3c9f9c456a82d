"""Class labels: numbered in sorted order and said; regressions, one-hot rows and unknown labels are refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from actsearch.data.labels import Labels
from actsearch.errors import ActSearchError

WHICH = np.array([1, 0, 2, 1, 0, 2, 2, 1])
TEXT = np.array(["ant", "bee", "cat"])
KINDS = {
    "text": (TEXT, "the classes ant, bee, cat are numbered 0 to 2 in sorted order."),
    "bytes": (TEXT.astype("S"), "the classes ant, bee, cat are numbered 0 to 2 in sorted order."),
    "objects": (TEXT.astype(object), "the classes ant, bee, cat are numbered 0 to 2 in sorted order."),
    "from 1": (np.array([1, 2, 3]), "the classes 1, 2, 3 are numbered 0 to 2 in sorted order."),
    "with gaps": (np.array([-5, 0, 70]), "the classes -5, 0, 70 are numbered 0 to 2 in sorted order."),
    "plain": (np.array([0, 1, 2]), ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_numbered_in_sorted_order(kind):
    names, remark = KINDS[kind]
    labels = Labels(names[WHICH], "y")
    assert labels.numbers(names[WHICH], "y").tolist() == WHICH.tolist()
    assert labels.numbers(names[[2, 2, 0]], "y_test").tolist() == [2, 2, 0]
    assert (len(labels), labels.remark) == (3, remark)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i8", ">i4"])
def test_whole_numbers_of_every_type_are_labels(dtype):
    labels = Labels((100 + WHICH).astype(dtype), "y")
    assert labels.numbers(100 + WHICH, "y").tolist() == WHICH.tolist()
    assert labels.numbers(torch.from_numpy(100 + WHICH), "y").dtype == torch.int64


def test_columns_frames_booleans_and_categories_are_labels():
    labels = Labels(WHICH[:, None], "y")
    assert labels.numbers(pd.DataFrame({"label": WHICH}), "y").tolist() == WHICH.tolist()
    assert Labels(WHICH > 0, "y").remark == ""
    assert Labels(WHICH > 0, "y").numbers(pd.Series(WHICH > 0, dtype="boolean"), "y").tolist() == (WHICH > 0).tolist()
    ordered = pd.Series(pd.Categorical(TEXT[WHICH], categories=["cat", "bee", "ant", "never"], ordered=True))
    labels = Labels(ordered, "y")
    assert len(labels) == 3  # a category without examples is no class
    assert labels.numbers(ordered, "y").tolist() == WHICH.tolist()


def test_many_classes_are_named_shortly():
    labels = Labels(np.repeat(np.arange(5, 105), 4), "y")
    assert labels.remark == "the classes 5, 6, 7, …, 104 are numbered 0 to 99 in sorted order."


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.eye(3)[WHICH], r"shape \(8, 3\): labels are one-hot\. Give y\.argmax\(1\)"),
        (np.eye(3, dtype=bool)[WHICH], "one-hot"),
        (np.c_[WHICH, WHICH], r"shape \(8, 2\)\. Wanted: one class per example"),
        (np.array(3), r"shape \(\)"),
        (WHICH + 0.5, "e.g. 1.5. Is this regression"),
        (np.where(WHICH == 2, 2.5, WHICH), "e.g. 2.5. Is this regression"),  # the one that is not whole
        (WHICH.astype(float), r"if they are classes, give y\.astype\(int\)"),
        (pd.Series(WHICH).astype("Float64"), r"y\.astype\(int\)"),
        (np.arange(8), "8 different labels in 8 examples, 8 of them only once. Is this regression"),
        (np.array([f"row {i}" for i in range(8)]), "8 of them only once"),
        (np.r_[np.arange(5), 9, 9, 9], "5 of them only once"),  # more than half are alone
        (np.repeat(np.arange(1000, 1300), 2), "300 different labels in 600 examples, 0 of them only once"),
        (pd.Series(["a", None, "a"]), "missing"),
        (np.array([1, "a"], object), "text and other things"),
        (np.array([np.nan, 1.0]), "no finite numbers"),
        (np.array([1j, 1]), "complex"),
    ],
)
def test_what_are_no_labels_is_refused_with_the_cure(y, words):
    with pytest.raises(ActSearchError, match=words) as caught:
        Labels(y, "y")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y_test", "words"),
    [(np.array(["ant", "dog"]), "y_test has class dog, which y lacks: its classes are ant, bee, cat"),
     (np.array([0, 1]), "y has text as labels and y_test numbers. Give both alike"),
     (np.array([0.0, 1.0]), "y_test has floats")],
)  # fmt: skip
def test_a_label_that_no_training_example_has_is_refused(y_test, words):
    with pytest.raises(ActSearchError, match=words):
        Labels(TEXT[WHICH], "y").numbers(y_test, "y_test")
