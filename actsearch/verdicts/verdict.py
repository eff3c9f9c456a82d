"""Verdicts: from paired runs to better, worse, equivalent or undecided, and how many seeds would decide it.

One interval decides: the paired t interval at confidence 1 − α/m for m comparisons with one baseline (Bonferroni), and
where verdicts are taken at several looks at the level with which all of them together are wrong with chance α/m. The
corrected p-value follows the same curve, so that it and the interval always agree. An exact sign-flip test is made as
well; where the two disagree, the verdict is undecided. All this is about the test examples that are there. A second,
wider interval is about examples like these, and for equivalence it must lie within the margin, too. This file works on
arrays of numbers; it knows nothing of runs, studies or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from actsearch.question.metrics import Metric
from actsearch.question.options import COST, Rules
from actsearch.verdicts.looks import chance_at_looks, level_at_looks
from actsearch.verdicts.statistics import (
    PopulationDifference,
    failures_p_value,
    fewest_for_sign_flips,
    mean,
    minimum_detectable_effect,
    normal_half_width,
    paired_difference,
    permutation_p_value,
    population_difference,
    seeds_to_decide,
    sign_flip_p_value,
    smallest_permutation_p,
    smallest_sign_flip_p,
    std,
    unpaired_difference,
)

BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
BY_LESS = ", by less than the margin"
FEWEST_OF_ARM, FAR = 8, 6.0  # runs of an arm, and robust standard deviations, beyond which a run is far from the others
LARGEST = 1e150  # the squares of larger differences are infinite


@dataclass(frozen=True)
class Arm:
    """One candidate's runs. values: (n,), ordered by seed. failed: (n,), whether a run diverged or stayed at chance.
    censored: (n,), whether a run never reached the target, so that its value is only a lower bound; empty if none.
    of_each: for each run the test examples' numbers, (n_examples,), whose mean its value is; empty if unknown.
    """

    values: Sequence[float]
    failed: Sequence[bool]
    censored: Sequence[bool] = ()
    of_each: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a candidate with the baseline by one metric.

    verdict: better, worse, equivalent or undecided. mean, std, baseline_mean: over n_seeds (for a cost, over as many
    repetitions). difference, ci_low, ci_high and minimum_detectable_effect: candidate − baseline, or for ratios the
    relative change (−0.03 is 3 % less). ci_low, ci_high: on these test examples, where seeds alone are chance.
    population_ci_low, population_ci_high: on examples like these, where the test examples are chance, too; NaN if the
    metric is not one of test examples, or if their numbers were not kept. confidence: of both. p_corrected: corrected
    for all comparisons and looks. seeds_to_decide: how many seeds in all should decide it; None if it is decided, if a
    million would not be enough, if runs that never reached a target stand in the way, or too few_examples: the two are
    equivalent on these test examples, and so many are too few to say it of others, with whatever number of seeds.
    p_failed: McNemar's p-value of n_failed against n_failed_baseline. warning: empty, or what to know before believing
    the verdict.

    paired: whether run i of both has the same seed. If not, the interval is Welch's and p_sign_flip is the p-value of a
    permutation test. n_baseline: the baseline's number of runs. saved_by_pairs: the share of runs that pairing saves,
    1 − the variance of differences / the sum of both variances; below 0 if seeds do harm; NaN if it is not known.
    """

    metric: Metric
    verdict: str
    mean: float
    std: float
    baseline_mean: float
    difference: float
    ci_low: float
    ci_high: float
    population_ci_low: float
    population_ci_high: float
    confidence: float
    p_value: float
    p_corrected: float
    p_sign_flip: float
    n_seeds: int
    margin: float
    minimum_detectable_effect: float
    seeds_to_decide: int | None
    few_examples: bool
    n_failed: int
    n_failed_baseline: int
    p_failed: float
    warning: str
    paired: bool
    n_baseline: int
    saved_by_pairs: float

    @property
    def decided(self) -> bool:
        return self.verdict != UNDECIDED

    @property
    def counts_failures(self) -> bool:
        """Whether runs of either failed: the claim is then about means in which they count, too."""
        return self.n_failed > 0 or self.n_failed_baseline > 0

    @property
    def settled(self) -> bool:
        """Whether no more seeds are worth training for this verdict."""
        return self.decided or self.few_examples


def level_of(rules: Rules) -> float:
    """The two-sided significance level of each single test."""
    alpha = rules.alpha / rules.comparisons
    return level_at_looks(alpha, rules.looks) if len(rules.looks) > 1 else alpha


def corrected_p(p_value: float, rules: Rules) -> float:
    """A p-value of the t test corrected for all comparisons and looks: below alpha where p_value is below the level."""
    at_looks = chance_at_looks(p_value, rules.looks) if len(rules.looks) > 1 and p_value > 0 else p_value
    return at_looks if math.isnan(at_looks) else min(1.0, rules.comparisons * at_looks)


def judge(
    metric: Metric, candidate: Arm, baseline: Arm, rules: Rules, margin: float | None = None, paired: bool = True
) -> Verdict:
    """The verdict on one candidate. candidate, baseline: the same seeds at the same indices, unless paired is false.

    margin: if None, the metric's own. Raises ValueError if an arm is empty, or if paired ones have different lengths.
    """
    margin, level = metric.margin if margin is None else margin, level_of(rules)
    a, b = [float(v) for v in candidate.values], [float(v) for v in baseline.values]
    n_failed, n_failed_baseline = sum(candidate.failed), sum(baseline.failed)
    p_failed = failures_p_value(candidate.failed, baseline.failed, paired)
    unusable = _unusable(metric, (*a, *b))
    if unusable:
        x = y = [math.nan]
    elif metric.ratio:
        x, y = [math.log(v) for v in a], [math.log(v) for v in b]
    else:
        x, y = a, b
    d = (paired_difference if paired else unpaired_difference)(x, y, level)
    wide = math.log1p(margin) if metric.ratio else margin
    contradiction, few_examples = "", False
    of_others = _of_others(metric, candidate, baseline, level) if paired and not unusable else None
    if d.n < 2:
        verdict, p_sign_flip, seeds = UNDECIDED, math.nan, None
    else:
        p_sign_flip, smallest, enough = _second_test(x, y, level, paired)
        flips = p_sign_flip <= max(level, smallest)
        differs, inside = d.ci_low > 0 or d.ci_high < 0, -wide < d.ci_low and d.ci_high < wide
        alike = inside and (of_others is None or (-wide < of_others.ci_low and of_others.ci_high < wide))
        verdict = _decide(differs, inside, alike, flips, (d.mean > 0) == metric.higher_is_better)
        nothing = all(candidate.failed) and all(baseline.failed)
        verdict = UNDECIDED if nothing or not enough else verdict
        if enough and not nothing:
            contradiction = _contradiction(differs, inside, flips, p_sign_flip, level, paired)
        seeds = None
        if verdict == UNDECIDED and not nothing:
            error = 0.0 if of_others is None else of_others.examples_error
            few_examples = enough and inside and not differs and not flips and not alike
            few_examples = few_examples and abs(d.mean) + normal_half_width(error, level) >= wide
            seeds = None if few_examples else seeds_to_decide(d.mean, d.std, d.n, wide, level, error)
    failures = _failures(n_failed, n_failed_baseline, p_failed, len(a), len(b), level, paired)
    shown = _relative_change if metric.ratio else float
    both = std(x) ** 2 + std(y) ** 2
    found = Verdict(
        metric=metric, verdict=verdict, mean=mean(a), std=std(a), baseline_mean=mean(b),
        difference=shown(d.mean), ci_low=shown(d.ci_low), ci_high=shown(d.ci_high),
        population_ci_low=math.nan if of_others is None else shown(min(d.ci_low, of_others.ci_low)),
        population_ci_high=math.nan if of_others is None else shown(max(d.ci_high, of_others.ci_high)),
        confidence=1 - level,
        p_value=d.p_value, p_corrected=corrected_p(d.p_value, rules),
        p_sign_flip=p_sign_flip, n_seeds=len(a), margin=margin,
        minimum_detectable_effect=shown(minimum_detectable_effect(d.std, d.n, level)),
        seeds_to_decide=seeds, few_examples=few_examples,
        n_failed=n_failed, n_failed_baseline=n_failed_baseline, p_failed=p_failed,
        warning="; ".join(filter(None, [unusable, contradiction, failures, _fallen(metric, candidate, baseline)])),
        paired=paired, n_baseline=len(b), saved_by_pairs=1 - d.std**2 / both if paired and both else math.nan,
    )  # fmt: skip
    n_censored, n_censored_baseline = sum(candidate.censored), sum(baseline.censored)
    if n_censored or n_censored_baseline:
        return _with_bounds(found, n_censored, n_censored_baseline, failures)
    return found


def _second_test(x: Sequence[float], y: Sequence[float], level: float, paired: bool) -> tuple[float, float, bool]:
    """The p-value of a test that assumes no normal distribution, the smallest that it can have, and whether there are
    runs enough for any verdict: with fewer, they may agree closely by luck.
    """
    if paired:
        p_value = sign_flip_p_value([p - q for p, q in zip(x, y, strict=True)])
        return p_value, smallest_sign_flip_p(len(x)), len(x) >= fewest_for_sign_flips(level)
    enough = 2 / math.comb(len(x) + len(y), len(x)) <= level
    return permutation_p_value(x, y), smallest_permutation_p(len(x), len(y)), enough


def _of_others(metric: Metric, candidate: Arm, baseline: Arm, level: float) -> PopulationDifference | None:
    """The difference on examples like these; None if it is not known."""
    if len(candidate.values) < 2 or not candidate.of_each or not baseline.of_each:
        return None
    a, b = np.stack(candidate.of_each), np.stack(baseline.of_each)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    if metric.ratio:  # a logarithm's influence is the relative deviation
        a, b = (np.log(v)[:, None] + each / v[:, None] - 1 for v, each in (
            (np.array(arm.values, dtype=float), each) for arm, each in ((candidate, a), (baseline, b))
        ))  # fmt: skip
    found = population_difference(a, b, level)
    return found if math.isfinite(found.std_error) else None


def _with_bounds(found: Verdict, n_censored: int, n_censored_baseline: int, failures: str) -> Verdict:
    """The verdict where so many values of the candidate and of the baseline are lower bounds.

    If only one arm has them and its values are larger, the true difference is at least that of the bounds: the end of
    the interval that is nearer to 0 holds, and so does better or worse. In all other cases nothing is known.
    """
    n = found.n_seeds
    counts = (
        f"{n - n_censored} of {n} runs reached the target accuracy, the baseline's {n - n_censored_baseline}; the rest "
        "count as if they had at their last step"
    )
    only_grows = found.difference < 0 if not n_censored else found.difference > 0 and not n_censored_baseline
    if found.decided and found.verdict != EQUIVALENT and only_grows:
        floor = -1.0 if found.metric.ratio else -math.inf
        return replace(
            found,
            verdict=found.verdict.removesuffix(BY_LESS),
            ci_low=found.ci_low if n_censored else floor,
            ci_high=math.inf if n_censored else found.ci_high,
            minimum_detectable_effect=math.nan,
            warning="; ".join(filter(None, [f"{counts}, so the difference is at least this large", found.warning])),
        )
    unknown = dict.fromkeys(
        ("ci_low", "ci_high", "p_value", "p_corrected", "p_sign_flip", "minimum_detectable_effect"), math.nan
    )
    warning = "; ".join(filter(None, [f"{counts}, so it is undecided", failures]))
    return replace(found, **unknown, verdict=UNDECIDED, seeds_to_decide=None, warning=warning)


def _relative_change(log_ratio: float) -> float:
    """A log ratio as relative change; infinite where it is too large for a float."""
    try:
        return math.expm1(log_ratio)
    except OverflowError:
        return math.inf


def _unusable(metric: Metric, values: Sequence[float]) -> str:
    """Why two nets with these values cannot be compared, in words; empty if they can."""
    if not all(map(math.isfinite, values)):
        return f"some values of {metric.words} are not finite, so nothing can be compared"
    if metric.ratio and any(value <= 0 for value in values):
        return (
            f"{metric.words} is compared by ratio, which needs values above 0, but gets down to {min(values):.4g}: a "
            "metric of one's own with ratio=False is compared by the difference"
        )
    if not metric.ratio and any(abs(value) > LARGEST for value in values):
        return f"some values of {metric.words} are beyond ±{LARGEST:g}, too large to be compared"
    return ""


def _contradiction(differs: bool, inside: bool, flips: bool, p_sign_flip: float, level: float, paired: bool) -> str:
    """A sentence, if the interval and the second test say different things; else empty."""
    if differs == flips:
        return ""
    test = "exact sign-flip test" if paired else "permutation test"
    one = "excludes 0" if differs else "lies within the margin" if inside else "includes 0"
    return (
        f"the {100 * (1 - level):.4g} % interval {one}, but the {test} finds {'no' if differs else 'a'} "
        f"difference (p = {p_sign_flip:.2g} at level {level:.2g}), so it is undecided"
    )


def _decide(differs: bool, inside: bool, alike: bool, flips: bool, good: bool) -> str:
    """The verdict. differs: whether the interval excludes 0. inside: whether it lies within the margin. alike: whether
    that on examples like these does, too. flips: whether the sign-flip test finds a difference. good: whether the
    difference is in the metric's direction.
    """
    if differs != flips:
        return UNDECIDED
    if not differs:
        return EQUIVALENT if alike else UNDECIDED
    return (BETTER if good else WORSE) + (BY_LESS if inside else "")


def _fallen(metric: Metric, candidate: Arm, baseline: Arm) -> str:
    """A sentence on runs that end far below the others of their arm, though they did not fail; empty if none does."""
    said: list[str] = []
    if metric.name in COST:
        return ""
    for who, arm in (("its", candidate), ("the baseline's", baseline)):
        kept = np.array([v for v, failed in zip(arm.values, arm.failed, strict=True) if not failed], dtype=float)
        if len(kept) >= FEWEST_OF_ARM and np.isfinite(kept).all():
            below = (np.median(kept) - kept) * (1 if metric.higher_is_better else -1)
            n = int((below > FAR * 1.4826 * np.median(np.abs(below))).sum()) if np.median(np.abs(below)) else 0
            said += [f"{n} of {who} {len(kept)} runs"] * bool(n)
    if not said:
        return ""
    verb = "ends" if len(said) == 1 and said[0].startswith("1 ") else "end"
    return (
        f"{' and '.join(said)} {verb} far from the others, on the worse side; where few runs do so, equal arms were "
        "called different in 8 to 18 % of studies instead of 5 % (experiments/calibration)"
    )


def _failures(
    n_failed: int, n_failed_baseline: int, p_failed: float, n: int, n_baseline: int, level: float, paired: bool
) -> str:
    if (n_failed, n_failed_baseline) == (n, n_baseline):
        return "no run of either learned anything: all failed"
    if n_failed or n_failed_baseline:
        how = "more than can be chance" if p_failed <= level else "which may be chance"
        test = "McNemar" if paired else "Fisher's exact test,"
        of = "" if paired else f" of {n_baseline}"
        return (
            f"{n_failed} of {n} runs failed, the baseline's {n_failed_baseline}{of} ({how}, "
            f"{test} p = {p_failed:.2g}); the means include those runs"
        )
    return ""
