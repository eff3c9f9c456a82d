"""Statistics: against scipy, and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from actsearch.statistics import mean, paired_difference, std


def test_mean_and_std_by_hand():
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert std([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert math.isnan(mean([]))
    assert math.isnan(std([0.3]))


def test_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, standard error 1/√3, t(0.975, 2) = 4.302653 (any printed table)
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.ci_low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.ci_high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 20, 100])
def test_paired_difference_is_scipys(n, confidence):
    rng = np.random.default_rng(n)
    shared = rng.normal(0.6, 0.05, n)
    a, b = shared + rng.normal(0.01, 0.01, n), shared
    found = paired_difference(a.tolist(), b.tolist(), confidence)
    theirs = stats.ttest_rel(a, b).confidence_interval(confidence)
    assert found.mean == pytest.approx((a - b).mean(), rel=1e-12)
    assert (found.ci_low, found.ci_high) == pytest.approx((theirs.low, theirs.high), rel=1e-10)


def test_pairing_removes_what_the_seeds_share():
    seeds = [0.1, 0.5, 0.9]
    found = paired_difference([s + 0.25 for s in seeds], seeds)
    assert found.ci_low == pytest.approx(0.25)
    assert found.ci_high == pytest.approx(0.25)


def test_one_pair_has_a_mean_but_no_interval():
    found = paired_difference([0.75], [0.5])
    assert (found.mean, found.n) == (0.25, 1)
    assert math.isnan(found.ci_low)
    assert math.isnan(found.ci_high)


@pytest.mark.parametrize(
    ("a", "b"), [([1.0, 2.0], [1.0]), ([], []), ([[1.0, 2.0]], [[1.0, 2.0]])], ids=["lengths", "none", "two dimensions"]
)
def test_what_is_not_paired_is_refused_with_its_shapes(a, b):
    with pytest.raises(ValueError, match="paired arrays of shapes"):
        paired_difference(a, b)
