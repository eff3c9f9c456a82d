"""Statistics as pure functions: arrays in, a small frozen dataclass out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    """mean: of candidate − baseline. ci_low, ci_high: its two-sided interval by the paired t."""

    mean: float
    ci_low: float
    ci_high: float
    n: int


def paired_difference(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """Paired differences with their t interval (Student 1908).

    candidate, baseline: (n_seeds,), the same seed at the same index. With one pair the interval is NaN.
    Raises ValueError if lengths differ or are 0.
    """
    from scipy import stats  # 1 s to import, wanted only at the end

    a, b = np.asarray(candidate, dtype=float), np.asarray(baseline, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired arrays of shapes {a.shape} and {b.shape}: they must be (n,) with the same n > 0")
    difference = a - b
    mean = float(difference.mean())
    if a.size == 1:
        return PairedDifference(mean, math.nan, math.nan, 1)
    half = stats.t.ppf((1 + confidence) / 2, a.size - 1) * difference.std(ddof=1) / math.sqrt(a.size)
    return PairedDifference(mean, mean - float(half), mean + float(half), a.size)
