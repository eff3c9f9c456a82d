"""Statistics as pure functions: arrays in, numbers or a small frozen dataclass out.

scipy is imported inside the functions that use it: the import takes a second, and only the end of a search needs it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsearch.question.options import MOST_SEEDS

EXACT_SIGN_FLIPS = 40  # up to this many pairs all 2ⁿ sign patterns are counted; above, 99,999 are drawn
DRAWN = 100_000
PERMUTED = 9_999
POWER = 0.8


def mean(values: Sequence[float]) -> float:
    """The mean; NaN if there are no values."""
    return sum(values) / len(values) if values else math.nan


def std(values: Sequence[float]) -> float:
    """The sample standard deviation; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(sum((v - centre) * (v - centre) for v in values) / (len(values) - 1))  # ** raises where * is inf


@dataclass(frozen=True)
class PairedDifference:
    """The difference candidate − baseline over n pairs.

    mean, std: of the differences. ci_low, ci_high: the two-sided t interval of their mean. p_value: of the t test that
    their mean is 0. For one pair all but the mean are NaN.
    """

    mean: float
    std: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def paired_difference(candidate: Sequence[float], baseline: Sequence[float], level: float = 0.05) -> PairedDifference:
    """Paired differences with their t interval at confidence 1 − level (Student 1908).

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
    half = float(stats.t.isf(level / 2, n - 1)) * error
    # if error is 0, all differences are equal; if a difference is not finite, the p-value is NaN
    p_value = float(centre == 0) if error == 0 else float(2 * stats.t.sf(abs(centre) / error, n - 1))
    return PairedDifference(centre, spread, centre - half, centre + half, p_value, n)


def unpaired_difference(candidate: Sequence[float], baseline: Sequence[float], level: float = 0.05) -> PairedDifference:
    """The difference of the means of two independent arms, with Welch's t interval at confidence 1 − level (1947).

    candidate: (n,), baseline: (m,). `n` of the result is the smaller of both, and `std` that of so many pairs whose
    mean would be as uncertain. All but the mean are NaN where an arm has a single value. Raises ValueError for empty
    arms.
    """
    from scipy import stats

    a, b = np.asarray(candidate, dtype=float), np.asarray(baseline, dtype=float)
    if a.ndim != 1 or b.ndim != 1 or not a.size or not b.size:
        raise ValueError(f"arrays of shapes {a.shape} and {b.shape}: they must be (n,) with n > 0")
    centre, n = float(a.mean() - b.mean()), min(a.size, b.size)
    if n == 1:
        return PairedDifference(centre, math.nan, math.nan, math.nan, math.nan, 1)
    parts = [float(arm.var(ddof=1)) / arm.size for arm in (a, b)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return PairedDifference(centre, 0.0, centre, centre, float(centre == 0), n)
    df = sum(parts) ** 2 / sum(part**2 / (arm.size - 1) for part, arm in zip(parts, (a, b), strict=True))
    half = float(stats.t.isf(level / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(centre) / error, df))
    return PairedDifference(centre, error * math.sqrt(n), centre - half, centre + half, p_value, n)


@dataclass(frozen=True)
class PopulationDifference:
    """The difference candidate − baseline on the test examples, and on all examples like these.

    here: on these examples; its spread is that of seeds alone. std_error, df: of the mean where other examples and
    other seeds could have been drawn. ci_low, ci_high, p_value: its two-sided t interval and test. example_std: the
    standard deviation over examples of the difference that an example would show in the mean of all seeds. All these
    are NaN for one seed or one example.
    """

    here: PairedDifference
    std_error: float
    df: float
    ci_low: float
    ci_high: float
    p_value: float
    example_std: float
    n_examples: int

    @property
    def examples_error(self) -> float:
        """The standard error that any number of seeds leaves, because other examples could have been drawn."""
        return self.example_std / math.sqrt(self.n_examples)


def population_difference(candidate: np.ndarray, baseline: np.ndarray, level: float = 0.05) -> PopulationDifference:
    """Paired differences of a mean score, on these test examples and on examples like these.

    candidate, baseline: (n_seeds, n_examples), the score of each example, such as right or wrong, of any real type or
    bool; the same seed and example at the same index. Raises ValueError if shapes differ or are empty.

    Seeds and examples are both random, and crossed. The variance of the mean is s²/n + τ²/N, s² that of the seeds'
    means and τ² the mean covariance over examples of two different seeds' differences, which the noise of single runs
    cannot enter; at least 0. Its degrees of freedom are Satterthwaite's, from n − 1 and N − 1. It costs O(n · N) time
    and O(N) memory.
    """
    from scipy import stats

    a, b = np.asarray(candidate), np.asarray(baseline)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"scores of shapes {a.shape} and {b.shape}: they must be (seeds, examples), both the same")
    n, n_examples = a.shape
    means, own, total = np.empty(n), 0.0, np.zeros(n_examples)
    for i in range(n):  # seed by seed, because all differences as floats may not fit into memory
        d = a[i].astype(np.float64) - b[i]
        means[i] = d.mean()
        own += d.var(ddof=1) if n_examples > 1 else math.nan
        total += d
    here = paired_difference(means.tolist(), [0.0] * n, level)
    if n == 1 or n_examples == 1:
        unknown = math.nan
        return PopulationDifference(here, unknown, unknown, unknown, unknown, unknown, unknown, n_examples)
    # the sum of all n² covariances is the variance of the sum
    shared = max(0.0, (float(total.var(ddof=1)) - own) / (n * (n - 1)))
    of_seeds, of_examples = here.std**2 / n, shared / n_examples
    variance = of_seeds + of_examples
    if variance == 0:
        return PopulationDifference(here, 0.0, math.inf, here.mean, here.mean, here.p_value, 0.0, n_examples)
    df = variance**2 / (of_seeds**2 / (n - 1) + of_examples**2 / (n_examples - 1))
    error = math.sqrt(variance)
    half = float(stats.t.isf(level / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(here.mean) / error, df))
    return PopulationDifference(
        here, error, df, here.mean - half, here.mean + half, p_value, math.sqrt(shared), n_examples
    )


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that paired differences are symmetric around 0 (Fisher 1935): the share of
    all sign patterns whose sum is at least as far from 0 as the observed one. Assumes no normal distribution.

    Up to 40 pairs it is exact: the differences are split into halves, and the sums of all sign patterns of both halves
    are combined. Above, it is estimated from 99,999 drawn patterns and the observed one. NaN if a difference is not
    finite.
    """
    return _sign_flip_p_value(tuple(map(float, differences)))


@functools.lru_cache(maxsize=10_000)  # 0.1 s for 40 pairs and more, and each look judges those before it again
def _sign_flip_p_value(differences: tuple[float, ...]) -> float:
    d = np.array(differences)
    if not np.isfinite(d).all():
        return math.nan
    seen = abs(d.sum())
    near = 1e-9 * np.abs(d).sum()  # a tolerance, because sums in another order differ in their last digits
    if seen <= near:
        return 1.0
    if d.size > EXACT_SIGN_FLIPS:
        signs = np.random.default_rng(0).integers(0, 2, (DRAWN - 1, d.size), dtype=np.int8) * 2 - 1
        return float(1 + (np.abs(signs @ d) >= seen - near).sum()) / DRAWN
    left, right = (_sums(half) for half in (d[: d.size // 2], d[d.size // 2 :]))
    left.sort()  # not needed, but searchsorted is twice as fast if the values that it looks up are sorted
    right.sort()
    reached = right.size - np.searchsorted(right, seen - near - left)
    return float(2 * reached.sum() / 2.0**d.size)


def smallest_sign_flip_p(n: int) -> float:
    """The smallest p-value that `sign_flip_p_value` can return for n pairs."""
    return 2 / 2.0**n if n <= EXACT_SIGN_FLIPS else 1 / DRAWN


def permutation_p_value(candidate: Sequence[float], baseline: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that two independent arms are drawn from one distribution.

    Of all ways to divide their values into such arms twice the share in which Welch's t is at least as far out on its
    side. Where equal means are asked for, and spreads may differ, it holds for many values (Janssen 1997). Exact up to
    9,999 ways, else so many are drawn.
    """
    from scipy import stats

    def welch(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        variance = a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis]
        return (a.mean(axis) - b.mean(axis)) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))

    arms = np.asarray(candidate, dtype=float), np.asarray(baseline, dtype=float)
    if min(arm.size for arm in arms) < 2 or not all(np.isfinite(arm).all() for arm in arms):
        return math.nan
    found = stats.permutation_test(arms, welch, vectorized=True, n_resamples=PERMUTED, rng=np.random.default_rng(0))
    return float(found.pvalue)


def smallest_permutation_p(n: int, m: int) -> float:
    """The smallest p-value that `permutation_p_value` can return for n and m values."""
    return 2 / min(math.comb(n + m, n), PERMUTED + 1)


def _sums(d: np.ndarray) -> np.ndarray:
    """(2ⁿ,): the sums of all sign patterns of n numbers."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def failure_bound(n_failed: int, n: int, level: float = 0.95) -> float:
    """The upper bound of the rate of failures of which n_failed were seen in n runs (Clopper & Pearson 1934).

    One-sided: the true rate lies above it in 1 − level of studies at most. 0 of 20 failures: up to 13.9 %.
    """
    from scipy import stats

    return 1.0 if n_failed == n else float(stats.beta.ppf(level, n_failed + 1, n - n_failed))


def mcnemar_p_value(a_failed: Sequence[bool], b_failed: Sequence[bool]) -> float:
    """Exact two-sided p-value of the hypothesis that both arms fail equally often (McNemar 1947): a binomial test on
    the pairs in which only one arm failed.
    """
    from scipy import stats

    only_a = sum(a and not b for a, b in zip(a_failed, b_failed, strict=True))
    only_b = sum(b and not a for a, b in zip(a_failed, b_failed, strict=True))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def failures_p_value(a_failed: Sequence[bool], b_failed: Sequence[bool], paired: bool) -> float:
    """The p-value of the hypothesis that both arms fail equally often: McNemar's, or Fisher's for unpaired arms."""
    from scipy import stats

    if paired:
        return mcnemar_p_value(a_failed, b_failed)
    table = [[sum(arm), len(arm) - sum(arm)] for arm in (a_failed, b_failed)]
    return float(stats.fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def power_of_paired_t(effect: float, std: float, n: int, alpha: float) -> float:
    """The probability that a two-sided paired t test at level alpha detects a true mean difference `effect` in n pairs.

    From the noncentral t distribution.
    """
    from scipy import stats

    if n < 2:
        return 0.0
    if std == 0:
        return float(effect != 0)
    critical = float(stats.t.isf(alpha / 2, n - 1))
    shift = abs(effect) / std * math.sqrt(n)
    if shift > 10 * critical + 40:  # certain, even for two pairs; scipy's noncentral t is slow and inexact out there
        return 1.0
    if critical > 5000:  # two or three pairs at a tiny level: scipy's noncentral t is NaN there, or takes half a minute
        z = np.linspace(-9, 9, 2001)  # the standardised mean; given it, the spread must be small enough
        weight = stats.norm.pdf(z)
        return float(weight @ stats.chi2.cdf((n - 1) * ((z + shift) / critical) ** 2, n - 1) / weight.sum())
    wrong_side = float(stats.nct.cdf(-critical, n - 1, shift))  # scipy returns NaN where this is below 1e-13
    return float(stats.nct.sf(critical, n - 1, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side)


def minimum_detectable_effect(std: float, n: int, alpha: float, power: float = POWER) -> float:
    """The true mean difference that a two-sided paired t test at level alpha detects with this power; NaN for n < 2."""
    from scipy import optimize

    if n < 2 or math.isnan(std):
        return math.nan
    high = 1.0  # in standard deviations
    while power_of_paired_t(high, 1.0, n, alpha) < power:
        high *= 2
    found: Any = optimize.brentq(lambda e: power_of_paired_t(e, 1.0, n, alpha) - power, 0.0, high)
    return std * float(found)


def fewest_for_sign_flips(alpha: float) -> int:
    """The fewest pairs with which a two-sided sign-flip test can reach level alpha: its p-value is at least 2 / 2ⁿ."""
    return math.ceil(1 - math.log2(alpha))


def normal_half_width(std_error: float, level: float) -> float:
    """Half the width of the 1 − level interval of a normal mean with this standard error."""
    from scipy import stats

    return float(stats.norm.isf(level / 2)) * std_error


def assurance(
    n: int, centre: float, spread: float, n_seen: int, margin: float, level: float, examples_error: float = 0.0
) -> float:
    """The probability that n pairs decide, of which n_seen were seen with this mean and standard deviation: that the
    1 − level interval then excludes 0, or the wider one lies within ±margin, which has examples_error besides.

    A predictive probability (Spiegelhalter, Abrams & Myles 2004), averaged over 24 quantiles of the true standard
    deviation (chi-square); given it, the mean of all n pairs is normal around the seen one. As many fresh pairs, which
    do not contain the seen ones, decide about as often (experiments/calibration).
    """
    from scipy import stats

    quantiles = (np.arange(24) + 0.5) / 24
    sigma = spread * np.sqrt((n_seen - 1) / stats.chi2.ppf(quantiles, n_seen - 1))
    t = stats.t.isf(level / 2, n - 1)
    half = t * sigma / math.sqrt(n)
    wide = half if examples_error == 0 else np.maximum(half, t * np.sqrt(sigma**2 / n + examples_error**2))
    error = np.maximum(sigma * math.sqrt(1 / n_seen - 1 / n), np.finfo(float).tiny)
    beyond = stats.norm.cdf((centre - half) / error) + stats.norm.cdf((-half - centre) / error)
    inside = stats.norm.cdf((margin - wide - centre) / error) - stats.norm.cdf((wide - margin - centre) / error)
    # intervals so narrow are off 0 or within the margin, wherever they lie
    return float(np.where(half + wide <= margin, 1.0, beyond + np.maximum(0.0, inside)).mean())


def seeds_to_decide(
    centre: float, spread: float, n: int, margin: float, level: float, examples_error: float = 0.0
) -> int | None:
    """How many pairs should decide with 80 % assurance: more than the n that were seen, with this mean and standard
    deviation, and enough for a sign-flip test. None if a million are not enough.
    """
    least = max(n + 1, fewest_for_sign_flips(level))
    sure = lambda m: assurance(m, centre, spread, n, margin, level, examples_error) >= POWER  # noqa: E731
    return _fewest(lambda m: m >= least and sure(m))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest n ≥ 2 for which `enough` is true; it must stay true for larger n. None above a million."""
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
