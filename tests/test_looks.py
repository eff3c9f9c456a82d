"""The level at several looks: published constants, simulation of all pairs, and two curves as inverses."""

import math

import numpy as np
import pytest
from scipy import stats

from actsearch.question.options import LOOKS
from actsearch.verdicts.looks import chance_at_looks, level_at_looks


@pytest.mark.parametrize(
    ("n_looks", "alpha", "constant"),
    [
        # Pocock 1977; Jennison & Turnbull 2000, table 2.1: normal data, so very many pairs
        (2, 0.05, 2.178),
        (5, 0.05, 2.413),
        (10, 0.05, 2.555),
        (2, 0.01, 2.772),
        (5, 0.01, 2.986),
    ],
)
def test_with_many_pairs_the_level_is_pococks(n_looks, alpha, constant):
    looks = tuple(1_000_000 * k for k in range(1, n_looks + 1))
    assert stats.norm.isf(level_at_looks(alpha, looks) / 2) == pytest.approx(constant, abs=0.004)


def ever_below(level, looks, studies, seed):
    """The share of studies of equal arms whose t test is below the level at any look, from every pair of them."""
    rng = np.random.default_rng(seed)
    below = np.zeros(studies, dtype=bool)
    d = rng.standard_normal((studies, looks[-1]), dtype=np.float32)
    total, squares = d.cumsum(1, dtype=np.float64), (d.astype(np.float64) ** 2).cumsum(1)
    for n in looks:
        s, q = total[:, n - 1], squares[:, n - 1]
        below |= np.abs(s) / np.sqrt(n * (q - s**2 / n) / (n - 1)) > stats.t.isf(level / 2, n - 1)
    return below.mean()


@pytest.mark.parametrize(
    ("looks", "alpha"),
    [(LOOKS, 0.05), (LOOKS, 0.004), ((2, 3, 4, 5), 0.05), ((2, 3, 4, 5), 0.004), ((3, 60, 61), 0.05), ((8, 9), 0.01)],
)
def test_all_looks_together_are_wrong_with_chance_alpha(looks, alpha):
    studies = 40_000
    share = np.mean([ever_below(level_at_looks(alpha, looks), looks, studies // 4, seed) for seed in range(4)])
    assert share == pytest.approx(alpha, abs=3 * math.sqrt(alpha / studies))


def test_level_and_chance_are_inverses_and_stay_below_bonferroni():
    for looks in (LOOKS, (2, 3), (10, 20, 40, 80, 160)):
        before = 0.0
        for alpha in np.logspace(-12, math.log10(0.4), 60):
            level = level_at_looks(alpha, looks)
            assert alpha / len(looks) * (1 - 1e-9) <= level < alpha
            assert level > before
            assert chance_at_looks(level, looks) == pytest.approx(alpha, rel=1e-9)
            before = level
        assert chance_at_looks(1.0, looks) == 1.0


def test_more_looks_cost_more_and_near_looks_little():
    assert level_at_looks(0.05, (20, 21)) > level_at_looks(0.05, (20, 40)) > level_at_looks(0.05, (20, 40, 60)) > 0.02
    assert level_at_looks(0.05, (20, 400_000)) == pytest.approx(1 - math.sqrt(0.95), rel=0.01)  # as good as independent
