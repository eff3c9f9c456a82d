"""Standardised features: against sklearn's, constant columns, what counts as standardised or as far from it."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from actsearch import data
from actsearch.data.standard import Scale, far_from_standard, is_standard, loses_digits, spread

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(200, 4)) * [1, 1000, 1e-4, 20] + [0, 5000, 0, 1.6e9]
GOOD = torch.from_numpy(RNG.normal(size=(500, 3)))


def test_columns_are_standardised_as_sklearn_does_it():
    scaler = StandardScaler().fit(TABLE[:100])
    scale = Scale.of(torch.from_numpy(TABLE[:100]))
    for part in (TABLE[:100], TABLE[100:]):
        made = scale(torch.from_numpy(part))
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made.numpy(), scaler.transform(part), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, 1.6e9 + 0.1])
def test_a_column_that_does_not_vary_becomes_zero_everywhere(constant):
    table = torch.from_numpy(np.c_[TABLE[:, 0], np.full(200, constant)])
    other = torch.tensor([[0.0, 1e6]], dtype=torch.float64)
    scale = Scale.of(table)
    assert not scale(table)[:, 1].any() and not scale(other)[:, 1].any()
    assert scale(table)[:, 0].std() == pytest.approx(1, rel=0.01)


def test_a_table_is_standardised_if_every_column_is():
    assert is_standard(GOOD)
    assert is_standard(torch.cat([GOOD, torch.zeros(500, 1)], 1))
    for column in (GOOD[:, :1] * 3, GOOD[:, :1] / 3, GOOD[:, :1] + 0.7, torch.ones(500, 1)):
        assert not is_standard(torch.cat([GOOD, column], 1))


def test_our_own_tables_are_standardised(data_root):
    """So the data sets that actsearch brings are left as they are, whatever data.standardise=auto means."""
    assert is_standard(data.mnist1d(str(data_root), test="published").x)
    for picture in ("china", "flower"):
        assert is_standard(data.image(picture).x)


def test_what_is_far_from_standardised_is_named_with_its_numbers():
    assert far_from_standard(GOOD) == far_from_standard(torch.rand(20, 3, 8, 8)) == ""
    assert far_from_standard(torch.tensor([[0.0], [0.0], [0.0], [1.0]])) == ""  # a rare yes
    pixels = torch.tensor([0.0, 200.0]).expand(50, 1, 2)
    assert far_from_standard(pixels) == "means of 100 and standard deviations of 100"
    table = torch.tensor([[0.0, 3000.0], [2.0, 1000.0]])
    assert far_from_standard(table) == "columns with means of 1 to 2,000 and standard deviations of 1 to 1,000"
    assert spread(table) == "1 to 1,000"
    assert "0.001" in far_from_standard(GOOD / 1000)


@pytest.mark.parametrize(
    ("x", "loses"),
    [
        (torch.tensor([[2**24 - 1], [2**24]]), False),
        (torch.tensor([[2**24 + 1], [0]]), True),
        (torch.tensor([[2**25], [0]]), False),  # large, but exact
        (torch.tensor([[1.6e9], [1.6e9 + 1]], dtype=torch.float64), True),
        (torch.tensor([[1.6e9], [1.5e9]], dtype=torch.float64), False),
        (torch.tensor([[0.1], [0.2]], dtype=torch.float64), False),
        (torch.tensor([[1.6e9], [1.6e9 + 1]], dtype=torch.float32), False),  # they are equal already
    ],
)
def test_digits_that_float32_loses_are_noticed(x, loses):
    assert loses_digits(x) == loses
