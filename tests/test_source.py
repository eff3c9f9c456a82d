"""What a user's data become: frames and labels, Sources, standardised features, tokens, several inputs."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch

from actsearch.data.inputs import tensors
from actsearch.data.source import Data, Source, take
from actsearch.errors import ActSearchError

# --- frames and labels of a user ------------------------------------------------------------------

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(80, 3))
CLASSES = (TABLE[:, 0] > 0).astype(int)
FRAME = pd.DataFrame(TABLE, columns=["a", "b", "c"])
GIVEN = (TABLE[:60], CLASSES[:60], TABLE[60:], CLASSES[60:])


def test_rows_are_paired_by_their_position_never_by_pandas_labels():
    order = RNG.permutation(60)
    x, y = FRAME[:60].iloc[order], pd.Series(CLASSES[:60]).iloc[order]  # as train_test_split returns them
    made = Data((x, y, *GIVEN[2:]), "mine")
    np.testing.assert_allclose(made.source.x.numpy(), TABLE[order], rtol=1e-6)
    assert made.source.y.tolist() == CLASSES[order].tolist()
    assert made.remarks == []
    x_only = Data((x, CLASSES[order], *GIVEN[2:]), "mine")
    assert torch.equal(x_only.source.x, made.source.x)
    reset = Data((x.set_axis(order + 100), y.reset_index(drop=True), *GIVEN[2:]), "mine")
    assert reset.source.y.tolist() == CLASSES[order].tolist()
    assert reset.remarks == ["the rows of x and y are paired by their position, because their indexes differ."]


@pytest.mark.parametrize("place", [0, 2])
def test_the_same_labels_of_rows_in_another_order_are_refused(place):
    """Labels of any kind: of several types, they have no order of their own."""
    mixed = ["a", 1] * 30
    with pytest.raises(ActSearchError, match="in another order"):
        Data((FRAME[:60].set_axis(mixed), pd.Series(CLASSES[:60], index=mixed[::-1]), *GIVEN[2:]), "mine")
    parts = [FRAME[:60], pd.Series(CLASSES[:60]), FRAME[60:], pd.Series(CLASSES[60:], index=range(60, 80))]
    Data(tuple(parts), "mine")
    parts[place] = parts[place].sample(frac=1, random_state=0)
    names = [("x", "y"), ("x_test", "y_test")][place // 2]
    with pytest.raises(ActSearchError, match=rf"{names[0]} and {names[1]} have the same index in another order"):
        Data(tuple(parts), "mine")


def test_columns_of_the_test_set_are_those_of_x():
    for x_test in (FRAME[60:][["b", "a", "c"]], FRAME[60:].rename(columns={"c": "d"})):
        with pytest.raises(ActSearchError, match=r"x_test has the columns .*; x has a, b, c"):
            Data((FRAME[:60], CLASSES[:60], x_test, CLASSES[60:]), "mine")
    town = pd.Categorical(["Ulm", "Bonn"] * 40)
    frame = FRAME.assign(town=town)
    made = Data((frame[:60], CLASSES[:60], frame[60:], CLASSES[60:]), "mine")
    assert made.in_shape == (5,)
    assert made.remarks[0] == "column 'town' of x is categorical: it is given as 2 columns of 0 and 1."
    other = frame[60:].assign(town=pd.Categorical(["Ulm"] * 20))
    with pytest.raises(ActSearchError, match="same categories"):
        Data((frame[:60], CLASSES[:60], other, CLASSES[60:]), "mine")


@pytest.mark.parametrize("given_as", [lambda *parts: parts, lambda x, y, *test: Source(x, y, lambda: test)])
def test_labels_of_any_kind_are_numbered_and_it_is_said(given_as):
    names = np.array(["cat", "dog"])
    x, y, x_test, y_test = GIVEN
    made = Data(given_as(x, names[y], x_test, names[y_test]), "mine")
    assert made.source.y.tolist() == y.tolist()
    assert made.test()[1].tolist() == y_test.tolist()
    assert made.goal.out_shape == (2,)
    assert made.remarks == ["the classes cat, dog are numbered 0 to 1 in sorted order."]
    with pytest.raises(ActSearchError, match="y_test has class cow, which y lacks"):
        Data(given_as(x, names[y], x_test, np.full(20, "cow")), "mine").test()


def test_a_class_that_no_example_is_trained_on_is_named():
    y = CLASSES[:60] * 3
    rare = Data((TABLE[:60], np.where(np.arange(60) == 7, 9, y), TABLE[60:], CLASSES[60:] * 3), "mine", n_validation=59)
    trains = rare.source.y[rare._indices(0)[0]].tolist()
    missing = [name for i, name in enumerate((0, 3, 9)) if i not in trains]
    assert f"no training example is of class {', '.join(map(str, missing))}: all of them validate" in rare.remarks[-1]
    assert not any("no training example" in r for r in Data(GIVEN, "mine").remarks)


def test_order_and_number_of_parts_as_others_return_them():
    x, y, x_test, y_test = GIVEN
    made = Data(((x, y), (x_test, y_test)), "mine")
    assert made.source.y.tolist() == y.tolist() and made.test()[1].tolist() == y_test.tolist()
    with pytest.raises(
        ActSearchError, match=r"x, y have shapes \(60, 3\) and \(20, 3\).*train_test_split returns x, x_test"
    ):
        Data((x, x_test, y, y_test), "mine")
    with pytest.raises(ActSearchError, match=r"x\.reshape\(-1, 1\)"):
        Data((x[:, 0], y, x_test[:, 0], y_test), "mine")


# --- a user's Source ------------------------------------------------------------------------------


def test_a_source_of_arrays_and_a_pair_as_its_test_are_taken():
    x, y, x_test, y_test = GIVEN
    for test in ((x_test, y_test), [x_test, y_test], lambda: (x_test, y_test)):
        made = Data(Source(x, y, test, validation=(x_test, y_test)), "mine", 10)
        assert made.source.x.dtype == torch.float32
        np.testing.assert_allclose(made.test()[0].numpy(), x_test, rtol=1e-6)
        assert len(made.split(0).x_val) == 10


BAD_SOURCES = {
    "a loss as a goal": ({"goal": torch.nn.functional.l1_loss}, "give an actsearch.data.Goal"),
    "validation is no pair": ({"validation": TABLE}, "a pair, not ndarray"),
    "validation of another shape": ({"validation": (TABLE[:9, :2], CLASSES[:9])}, r"shape \(3,\), one of x of valid"),
    "an unknown class validates": ({"validation": (TABLE[:9], CLASSES[:9] + 5)}, "y of validation has class 5"),
    "preparation is no function": ({"prepare_test": 3}, "prepare_test must be a function"),
    "vocabulary of numbers": ({"n_tokens": 9}, "n_tokens=9, but x is torch.float"),
    "vocabulary in words": ({"n_tokens": "many"}, "n_tokens=many"),
    "test of another shape": ({"test": (TABLE[60:, :2], CLASSES[60:])}, r"one of x_test \(2,\)"),
    "longer answers": ({"test": (TABLE[60:], CLASSES)}, r"x_test, y_test have shapes \(20, 3\) and \(80,\)"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_source_of_the_wrong_things_is_refused_before_anything_is_trained(case):
    changed, words = BAD_SOURCES[case]
    with pytest.raises(ActSearchError, match=words):
        Data(Source(**{"x": TABLE[:60], "y": CLASSES[:60], "test": lambda: GIVEN[2:], **changed}), "mine", 5)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (lambda: TABLE, r"test set of 'mine': wanted \(x_test, y_test\), a pair, not ndarray"),
        (lambda: (TABLE * np.nan, CLASSES), "no finite numbers"),
        (lambda: (TABLE[:, :1], CLASSES), r"one of x_test \(1,\)"),
        (lambda: (TABLE, CLASSES[:5]), r"\(80, 3\) and \(5,\)"),
        (lambda: (TABLE, CLASSES + 1), "y_test has class 2, which y lacks"),
        (lambda: 1 / 0, "cannot be read: ZeroDivisionError"),
    ],
)
def test_a_test_set_that_is_read_later_is_checked_then(test, words):
    made = Data(Source(*GIVEN[:2], test), "mine")
    with pytest.raises(ActSearchError, match=words):
        made.test()


def test_the_test_set_is_read_once():
    reads = []
    made = Data(Source(*GIVEN[:2], lambda: reads.append(1) or GIVEN[2:]), "mine")
    made.test()
    made.test()
    assert reads == [1]


# --- standardised features ------------------------------------------------------------------------

RAW = TABLE * [1, 1000, 1e-4] + [0, 5000, 3]


def raw(**keywords):
    return Data((RAW[:60], CLASSES[:60], RAW[60:], CLASSES[60:]), "raw", n_validation=20, **keywords)


@pytest.mark.parametrize("keywords", [{}, {"subset": 15}, {"resample": True}], ids=str)
def test_a_table_is_standardised_by_the_examples_that_train(keywords):
    made = raw(**keywords)
    for seed in (0, 5):
        split = made.split(seed)
        np.testing.assert_allclose(split.x_train.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(split.x_train.std(0, correction=0), 1, rtol=1e-4)
        assert abs(split.x_val.mean(0)).max() > 1e-3  # by the statistics of others
        train = RAW[:60][made._indices(made.split_of(seed))[0]]
        wanted = (RAW[60:] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(made.inputs(made.test()[0], seed).numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert made.remarks[0].startswith("features standardised by training statistics")
    bare = made.without_test()
    assert torch.equal(bare.split(5).x_val, made.split(5).x_val)


def test_digits_that_float32_would_lose_are_kept_until_the_mean_is_taken_off():
    stamps = np.c_[1.6e9 + np.arange(80.0), TABLE[:, 0]]
    made = Data((stamps[:60], CLASSES[:60], stamps[60:], CLASSES[60:]), "stamps")
    assert len(made.split(0).x_train[:, 0].unique()) == made.n_train
    left = Data((stamps[:60], CLASSES[:60], stamps[60:], CLASSES[60:]), "stamps", standardise=False)
    assert len(left.split(0).x_train[:, 0].unique()) == 1
    assert any("more digits than float32 holds" in remark for remark in left.remarks)


def test_what_is_left_unscaled_is_warned_of():
    left = raw(standardise=False)
    np.testing.assert_allclose(left.source.x.numpy(), RAW[:60], rtol=1e-6)
    assert "x is far from standardised (columns with means of " in left.remarks[0]
    assert "data.standardise=true" in left.remarks[0]
    source = Source(RAW[:60], CLASSES[:60], (RAW[60:], CLASSES[60:]))
    assert "far from standardised" in Data(source, "raw").remarks[0]  # a Source says what its inputs are
    assert Data(source, "raw", standardise=True).remarks[0].startswith("features standardised")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 4, 4), dtype=np.uint8)
    images = Data((pixels[:60], CLASSES[:60], pixels[60:], CLASSES[60:]), "images")
    assert images.source.x.dtype == torch.float32 and images.n_tokens is None
    assert "means of 12" in images.remarks[0]


def test_several_inputs_are_looked_at_one_by_one():
    parts = [(TABLE[rows], RAW[rows], TOKENS[rows]) for rows in (slice(60), slice(60, None))]
    made = Data((parts[0], CLASSES[:60], parts[1], CLASSES[60:]), "mine")
    (remark,) = made.remarks  # neither of the first, nor of the tokens
    assert "columns with means of -" in remark and "Standardise it first" in remark


def test_a_table_that_is_standardised_already_is_left_as_it_is():
    made = Data(GIVEN, "mine")
    assert not made.scaled and made.remarks == []
    np.testing.assert_allclose(made.source.x.numpy(), GIVEN[0], rtol=1e-6)
    assert Data(GIVEN, "mine", standardise=True).scaled


def test_standardise_is_refused_where_it_means_nothing():
    images = (torch.zeros(60, 1, 4, 4), CLASSES[:60], torch.zeros(20, 1, 4, 4), CLASSES[60:])
    with pytest.raises(ActSearchError, match=r"data\.standardise=true: only a table.*\(1, 4, 4\)"):
        Data(images, "images", standardise=True)
    with pytest.raises(ActSearchError, match=r"data\.standardise=yes: write auto, true or false"):
        raw(standardise="yes")


# --- tokens and several inputs --------------------------------------------------------------------

TOKENS = RNG.integers(0, 30, (80, 6))


def test_whole_numbers_in_a_tuple_are_settled_later_and_in_a_source_tokens():
    made = Data((TOKENS[:60], CLASSES[:60], TOKENS[60:], CLASSES[60:]), "mine")
    assert made.unclear
    tokens, numbers = made.settled(True), made.settled(False)
    assert (tokens.n_tokens, tokens.source.x.dtype, tokens.scaled) == (30, torch.int64, False)
    assert tokens.source.x.tolist() == TOKENS[:60].tolist() and tokens.test()[0].tolist() == TOKENS[60:].tolist()
    assert (numbers.n_tokens, numbers.scaled) == (None, True)
    assert numbers.split(0).x_train.dtype == torch.float32
    for dtype in (np.uint16, np.int32, np.int64):
        source = Data(Source(TOKENS[:60].astype(dtype), CLASSES[:60], lambda: (TOKENS[60:], CLASSES[60:])), "mine")
        assert (source.n_tokens, source.source.x.dtype) == (30, torch.int64)
    for x in (TOKENS - 5, TOKENS * 10**6, TOKENS > 3, TOKENS.reshape(80, 6, 1), TOKENS.astype(float)):
        assert not Data((x[:60], CLASSES[:60], x[60:], CLASSES[60:]), "mine").unclear
    assert not Data((pd.DataFrame(TOKENS[:60]), CLASSES[:60], pd.DataFrame(TOKENS[60:]), CLASSES[60:]), "mine").unclear


def test_a_token_beyond_the_vocabulary_is_refused():
    with pytest.raises(ActSearchError, match="x has token 29; there are 9"):
        Data(Source(TOKENS, CLASSES, lambda: (TOKENS, CLASSES), n_tokens=9), "mine")
    late = Data(Source(TOKENS[:60] % 9, CLASSES[:60], lambda: (TOKENS[60:], CLASSES[60:])), "mine")
    with pytest.raises(ActSearchError, match=r"x_test has token 29; there are 9.*n_tokens="):
        late.test()
    with pytest.raises(ActSearchError, match="x has token -1"):
        Data(Source(TOKENS - 1, CLASSES, lambda: (TOKENS, CLASSES), n_tokens=30), "mine")


@pytest.mark.parametrize("form", [tuple, lambda parts: dict(zip(("ids", "mask"), parts, strict=True))])
def test_several_inputs_are_split_and_moved_together_and_keep_their_types(form):
    mask = TOKENS > 4
    made = Data(
        (form([TOKENS[:60], mask[:60]]), CLASSES[:60], form([TOKENS[60:], mask[60:]]), CLASSES[60:]), "mine", 20
    )
    assert (made.n_train, made.in_shape, made.n_tokens) == (40, (6,), 30)
    assert type(made.source.x) is type(form([1, 2]))
    split = made.split(0).to(torch.device("cpu"))
    train, val = made._indices(0)
    for x, which in ((split.x_train, train), (split.x_val, val), (made.test()[0], torch.arange(60, 80))):
        ids, seen = tensors(x)
        assert (ids.dtype, seen.dtype) == (torch.int64, torch.bool)
        assert ids.tolist() == TOKENS[which].tolist() and seen.tolist() == mask[which].tolist()
    x, y = split.batch(5, torch.device("cpu"))
    assert [t.shape for t in tensors(x)] == [(5, 6), (5, 6)] and y.tolist() == split.y_train[:5].tolist()


@pytest.mark.parametrize(
    ("x", "x_test", "words"),
    [
        ({"ids": TOKENS, "mask": TOKENS > 4}, {"ids": TOKENS, "msk": TOKENS > 4}, "'mask'.*one of x_test.*'msk'"),
        ({"ids": TOKENS, "mask": TOKENS[:9] > 4}, {}, "the same number of examples"),
        ((TOKENS, TABLE + 1j), (TOKENS, TABLE), r"x\[1\] has complex"),
        ((TOKENS, TABLE), (TOKENS, TABLE, TABLE), "They must be equal"),
        ({}, {}, "x holds no arrays"),
    ],
)
def test_several_inputs_that_do_not_fit_together_are_refused(x, x_test, words):
    with pytest.raises(ActSearchError, match=words):
        Data((x, CLASSES, x_test, CLASSES), "mine")


def test_a_net_is_tried_on_training_examples_and_on_the_largest_token():
    made = Data(Source(TOKENS[:60], CLASSES[:60], lambda: (TOKENS[60:], CLASSES[60:])), "mine")
    some = made.some()
    assert some.shape == (2, 6)
    assert some.max() == 29 and some[0].tolist() in TOKENS[made._indices(0)[0]].tolist()
    assert torch.equal(raw().some(), raw().split(0).x_train[:2])


@pytest.mark.parametrize(("of_test", "said"), [(1.0, False), (3.0, False), (255.0, True), (1 / 255, True)])
def test_a_test_set_of_another_scale_is_said(of_test, said):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = np.arange(60) % 2
    remarks = take((x[:40], y[:40], of_test * x[40:], y[40:]), "mine").remarks
    assert any("x_test has another scale than x: its standard deviation is" in remark for remark in remarks) == said


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((6, 0)), "x has no features: its shape is (6, 0)"),
        (np.array([np.zeros(3) for _ in range(6)] + [None], dtype=object)[:6], "stack them, numpy.stack(list(x))"),
        (pl.DataFrame({"a": [1.0] * 6}).lazy(), "Write .collect()."),
        (pl.DataFrame({"a": pl.Series([[1.0, 2.0]] * 6, dtype=pl.Array(pl.Float64, 2))}), "Make each part a column"),
    ],
)
def test_inputs_in_forms_that_are_not_read_get_the_cure(x, words):
    with pytest.raises(ActSearchError) as error:
        take((x, np.arange(6) % 2, x, np.arange(6) % 2), "mine")
    assert words in str(error.value)


def test_a_sparse_matrix_that_is_a_mapping_too_is_a_matrix():
    x = scipy.sparse.dok_matrix(np.eye(6))
    assert torch.equal(take((x, np.arange(6) % 2, x, np.arange(6) % 2), "mine").source.x, torch.eye(6).double())


def test_text_and_numbers_as_labels_of_one_data_set_are_refused():
    x = np.eye(6)
    with pytest.raises(ActSearchError, match=r"y has numbers as labels and y_test text\. Give both alike"):
        take((x, np.arange(6) % 2, x, np.array(["a", "b"] * 3)), "mine")
