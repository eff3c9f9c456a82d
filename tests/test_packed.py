"""Numbers of many examples as text: what comes out is what went in, and groups have the error of their members."""

import json

import numpy as np
import pytest

from actsearch.packed import MOST_BITS, MOST_NUMBERS, pack, unpack


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, MOST_BITS])
def test_bits_come_back(n):
    right = np.random.default_rng(n).random(n) < 0.8
    assert (unpack(pack(right)) == right).all()
    assert unpack(pack(right.astype(np.float32))).dtype == bool  # a score of 0 and 1 is one, whatever its type


@pytest.mark.parametrize("n", [1, 5, MOST_NUMBERS])
def test_other_numbers_come_back_as_float32(n):
    losses = np.random.default_rng(n).exponential(size=n)
    found = unpack(pack(losses))
    assert found.dtype == np.float32
    assert (found == losses.astype(np.float32)).all()


def test_it_is_short_and_fits_into_json():
    text = pack(np.random.default_rng(0).random(20_000) < 0.75)
    assert len(text) < 20_000 / 8 * 1.3
    assert json.loads(json.dumps({"a": text}))["a"] == text
    assert len(pack(np.full(MOST_NUMBERS, 0.1))) < 200  # all the same, as of a run that diverged


@pytest.mark.parametrize("n", [MOST_NUMBERS + 1, 3 * MOST_NUMBERS - 1, 50_000])
def test_groups_have_the_mean_and_the_sampling_error_of_all(n):
    rng = np.random.default_rng(n)
    one, other = rng.gamma(0.5, size=(2, n)) + rng.gamma(0.5, size=n)
    a, b = unpack(pack(one)), unpack(pack(other))
    assert MOST_NUMBERS / 2 <= len(a) <= MOST_NUMBERS
    assert a.mean(dtype=float) == pytest.approx(one.mean(), rel=1e-6)
    d, grouped = one - other, a.astype(float) - b
    assert grouped.mean() == pytest.approx(d.mean(), rel=1e-4, abs=1e-7)
    error = d.std(ddof=1) / np.sqrt(n)  # of a mean of so many; groups know it to 1 or 2 %
    assert grouped.std(ddof=1) / np.sqrt(len(grouped)) == pytest.approx(error, rel=0.05)


def test_sorted_examples_are_mixed_in_their_groups():
    """A test set that is sorted by class: neighbours in a group would make its error too large."""
    n = 40_000
    classes = np.sort(np.random.default_rng(0).normal(size=n))
    found = unpack(pack(classes)).astype(float)
    assert found.std(ddof=1) / np.sqrt(len(found)) == pytest.approx(1 / np.sqrt(n), rel=0.05)
