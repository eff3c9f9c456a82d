"""What repeated looks at growing data cost: the level of each look with which all of them together keep alpha."""

from __future__ import annotations

import functools
import math

import numpy as np

DRAWN = 60_000  # studies for each point of the curve: the chance at a level is then known to 0.4 % of itself
LOWEST = 1e-9  # the lowest level that is simulated; from a thousandth of it on Bonferroni's bound stands


def level_at_looks(alpha: float, looks: tuple[int, ...]) -> float:
    """The level of the t test at each look with which any of them is wrong with chance alpha. looks: growing numbers of
    pairs, the first at least 2.

    One constant level as in Pocock (1977), but for t statistics of few pairs instead of normal ones.
    """
    levels, chances = _curve(looks)
    return float(np.exp(np.interp(math.log(alpha), chances, levels)))


def chance_at_looks(p_value: float, looks: tuple[int, ...]) -> float:
    """The chance that equal arms reach this p-value of the t test at any look: the inverse of `level_at_looks`.
    p_value: above 0.
    """
    levels, chances = _curve(looks)
    return float(np.exp(np.interp(math.log(p_value), levels, chances)))


@functools.cache
def _curve(looks: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of levels, and of the chance that equal arms are below the level at any look."""
    study = _Studies(looks)
    levels = np.concatenate([np.logspace(math.log10(LOWEST), -3, 18, endpoint=False), np.logspace(-3, 0, 25)])
    share = np.array([study.share(level) for level in levels])
    levels = np.concatenate([[1e-300, LOWEST / 1000], levels])
    chances = levels * np.concatenate([[len(looks)] * 2, share])
    return np.log(levels), np.maximum.accumulate(np.log(np.minimum(chances, 1.0)))


class _Studies:
    """Simulated studies of equal arms, each of which is known to be below the level at one of the looks.

    The chance to be below it at any look is level · Σ E[1 / N], summed over the look that is known, where N is at how
    many looks the study is below (Naiman & Priebe 2001). So it is known as well at a level of 1e-9 as at 0.05.
    """

    def __init__(self, looks: tuple[int, ...]):
        rng = np.random.default_rng(0)
        self.n = np.array(looks, dtype=float)
        self.new = np.diff(self.n, prepend=0.0)
        self.known = np.repeat(np.arange(len(looks)), math.ceil(DRAWN / len(looks)))
        # the pairs between two looks by their sufficient statistics: √new · mean, and the squares around the mean
        shape = len(self.known), len(looks)
        before = np.arange(len(looks)) <= self.known[:, None]
        self.sums = rng.standard_normal(shape)
        self.squares = rng.chisquare(np.maximum(self.new - 1, 1), shape) * (self.new > 1)
        # until the known look the pairs are a mean and what is around it; a t only fixes the ratio of both
        self.along = before * np.sqrt(self.new / self.n[self.known, None])
        around = before * (self.sums - (self.sums * self.along).sum(1, keepdims=True) * self.along)
        size = np.sqrt(rng.chisquare(self.n[self.known]))
        scale = size / np.sqrt((around**2 + before * self.squares).sum(1))
        self.size, self.around, self.before = size[:, None], around * scale[:, None], before
        self.squares_before = before * self.squares * scale[:, None] ** 2
        self.quantiles = rng.random(len(self.known))

    def share(self, level: float) -> float:
        """The chance to be below the level at any look, divided by the level: from 1 to the number of looks."""
        from scipy import stats

        df = self.n[self.known] - 1
        t = stats.t.isf(self.quantiles * level / 2, df)[:, None]
        length = np.sqrt(t**2 + df[:, None])
        sine = np.sqrt(df[:, None]) / length
        sums = np.where(self.before, t / length * self.size * self.along + sine * self.around, self.sums)
        squares = np.where(self.before, sine**2 * self.squares_before, self.squares)
        critical = stats.t.isf(level / 2, self.n - 1)
        below = np.empty(sums.shape, dtype=bool)
        mean, around = np.zeros(len(sums)), np.zeros(len(sums))
        for k, (n, new) in enumerate(zip(self.n, self.new, strict=True)):
            step = sums[:, k] / math.sqrt(new) - mean  # means and squares of two parts are joined (Chan et al. 1983)
            around += squares[:, k] + step**2 * (n - new) * new / n
            mean += step * new / n
            below[:, k] = np.abs(mean) * math.sqrt(n * (n - 1)) >= critical[k] * np.sqrt(around)
        below[np.arange(len(below)), self.known] = True  # it is, up to rounding
        return float(len(self.n) * (1 / below.sum(1)).mean())
