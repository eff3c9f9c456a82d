"""Statistics as pure functions: arrays in, numbers or a small frozen dataclass out.

scipy is imported where it is needed: that takes a second, and is wanted only at the end of a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsearch.question.options import MOST_SEEDS

EXACT_SIGN_FLIPS = 40  # pairs up to which all 2ⁿ signs are counted; above, 99,999 are drawn
DRAWN = 100_000
POWER = 0.8


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def std(values: Sequence[float]) -> float:
    """The sample standard deviation; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


@dataclass(frozen=True)
class PairedDifference:
    """mean, std: of candidate − baseline over n pairs. ci_low, ci_high: two-sided interval of the mean by the
    paired t. p_value: of the same test that the mean is 0. std, interval and p are NaN for one pair.
    """

    mean: float
    std: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def paired_difference(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """Paired differences with their t interval (Student 1908).

    candidate, baseline: (n_seeds,), the same seed at the same index.
    Raises ValueError if lengths differ or are 0.
    """
    from scipy import stats

    a, b = np.asarray(candidate, dtype=float), np.asarray(baseline, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired arrays of shapes {a.shape} and {b.shape}: they must be (n,) with the same n > 0")
    difference, n = a - b, a.size
    centre = float(difference.mean())
    if n == 1:
        return PairedDifference(centre, math.nan, math.nan, math.nan, math.nan, 1)
    spread = float(difference.std(ddof=1))
    error = spread / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    # without spread all differences are one number; NaN where one is not finite
    p_value = float(centre == 0) if error == 0 else float(2 * stats.t.sf(abs(centre) / error, n - 1))
    return PairedDifference(centre, spread, centre - half, centre + half, p_value, n)


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided p that paired differences are symmetric around 0 (Fisher 1935): the share of all sign patterns
    whose sum is as far from 0 as the one seen. Needs no normal distribution.

    Exact up to 40 pairs, by the sums of both halves; above, from 99,999 drawn patterns and the one seen.
    NaN if a difference is not finite.
    """
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        return math.nan
    seen = abs(d.sum())
    near = 1e-9 * np.abs(d).sum()  # sums in another order differ in their last digits
    if seen <= near:
        return 1.0
    if d.size > EXACT_SIGN_FLIPS:
        signs = np.random.default_rng(0).integers(0, 2, (DRAWN - 1, d.size), dtype=np.int8) * 2 - 1
        return float(1 + (np.abs(signs @ d) >= seen - near).sum()) / DRAWN
    left, right = (_sums(half) for half in (d[: d.size // 2], d[d.size // 2 :]))
    left.sort()  # not needed, but sorted questions are answered twice as fast
    right.sort()
    reached = right.size - np.searchsorted(right, seen - near - left)
    return float(2 * reached.sum() / 2.0**d.size)


def smallest_sign_flip_p(n: int) -> float:
    """What `sign_flip_p_value` can say at the least of n pairs."""
    return 2 / 2.0**n if n <= EXACT_SIGN_FLIPS else 1 / DRAWN


def _sums(d: np.ndarray) -> np.ndarray:
    """(2ⁿ,): the sums of all sign patterns of n numbers."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def mcnemar_p_value(a_failed: Sequence[bool], b_failed: Sequence[bool]) -> float:
    """Exact two-sided p that both arms fail equally often (McNemar 1947): a fair coin on the pairs in which one did."""
    from scipy import stats

    only_a = sum(a and not b for a, b in zip(a_failed, b_failed, strict=True))
    only_b = sum(b and not a for a, b in zip(a_failed, b_failed, strict=True))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def power_of_paired_t(effect: float, std: float, n: int, alpha: float) -> float:
    """How often a two-sided paired t at level alpha finds a true mean difference `effect` in n pairs (noncentral t)."""
    from scipy import stats

    if n < 2:
        return 0.0
    if std == 0:
        return float(effect != 0)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) / std * math.sqrt(n)
    if shift > 10 * critical + 40:  # certain, even for two pairs; scipy's noncentral t is slow and inexact out there
        return 1.0
    wrong_side = float(stats.nct.cdf(-critical, n - 1, shift))  # scipy says NaN where this is below 1e-13
    return float(stats.nct.sf(critical, n - 1, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side)


def minimum_detectable_effect(std: float, n: int, alpha: float, power: float = POWER) -> float:
    """The true mean difference that a two-sided paired t at level alpha finds with this power; NaN for n < 2."""
    from scipy import optimize

    if n < 2 or math.isnan(std):
        return math.nan
    if std == 0:
        return 0.0
    high = std
    while power_of_paired_t(high, std, n, alpha) < power:
        high *= 2
    found: Any = optimize.brentq(lambda e: power_of_paired_t(e, std, n, alpha) - power, 0.0, high)
    return float(found)


def upper_std(std: float, n: int, level: float = 0.8) -> float:
    """The upper confidence limit of a standard deviation seen in n pairs (chi-square)."""
    from scipy import stats

    return std * math.sqrt((n - 1) / float(stats.chi2.ppf(1 - level, n - 1)))


def seeds_for_difference(effect: float, std: float, alpha: float, power: float = POWER) -> int | None:
    """The fewest pairs with which a paired t and a sign-flip test at level alpha find a true mean difference
    `effect`; None if that takes over a million.
    """
    if effect == 0:
        return None
    least = fewest_for_sign_flips(alpha)
    return _fewest(lambda n: n >= least and power_of_paired_t(effect, std, n, alpha) >= power)


def fewest_for_sign_flips(alpha: float) -> int:
    """The fewest pairs with which a two-sided sign-flip test can reach level alpha: its p is 2 / 2ⁿ at least."""
    return math.ceil(1 - math.log2(alpha))


def seeds_for_equivalence(
    effect: float, std: float, low: float, high: float, alpha: float, power: float = POWER
) -> int | None:
    """The fewest pairs whose 1 − alpha interval lies within (low, high) with this power, if the true mean difference
    is `effect`; None if it is outside, or that takes over a million.
    """
    from scipy import stats

    if not low < effect < high:
        return None

    def enough(n: int) -> bool:
        error = std / math.sqrt(n)
        half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * error
        if error == 0:
            return True
        inside = stats.norm.cdf((high - half - effect) / error) - stats.norm.cdf((low + half - effect) / error)
        return high - low > 2 * half and float(inside) >= power

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest n ≥ 2 that is enough; `enough` stays true once it is."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_SEEDS:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
