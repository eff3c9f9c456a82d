"""Verdicts: every word by a constructed answer, the rules as properties, and how often real noise fools them."""

import csv
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from actsearch.question import metrics
from actsearch.question.metrics import metrics_of
from actsearch.question.options import LOOKS, Rules
from actsearch.verdicts.looks import chance_at_looks, level_at_looks
from actsearch.verdicts.statistics import (
    assurance,
    minimum_detectable_effect,
    paired_difference,
    population_difference,
    seeds_to_decide,
    sign_flip_p_value,
)
from actsearch.verdicts.verdict import BETTER, BY_LESS, EQUIVALENT, UNDECIDED, WORSE, Arm, judge, level_of

METRICS = metrics_of(metrics.ACCURACY)
ACCURACY, LOSS = METRICS["test_accuracy"], METRICS["test_loss"]
N = 20
FIVE = (10, 20, 40, 80, 160)
# twenty numbers with mean 0 and standard deviation 1, symmetric: the sign-flip test sees what the t sees
SHAPE = stats.norm.ppf((np.arange(N) + 0.5) / N)
SHAPE = SHAPE / SHAPE.std(ddof=1)


def arm(values, failed=None):
    return Arm(list(values), [False] * len(values) if failed is None else failed)


def by_points(centre, spread, margin=None, rules=None, base=0.6):
    """The verdict on an accuracy whose differences have this mean and standard deviation."""
    return judge(ACCURACY, arm(base + centre + spread * SHAPE), arm([base] * N), rules or Rules(), margin)


def by_ratio(centre, spread, metric=LOSS, margin=None, rules=None, base=1.7):
    """The verdict on a loss whose log ratios have this mean and standard deviation."""
    return judge(metric, arm(base * np.exp(centre + spread * SHAPE)), arm([base] * N), rules or Rules(), margin)


HALF = stats.t.ppf(0.975, N - 1) / math.sqrt(N)  # half the interval, in standard deviations: 0.468


# --- the words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("centre", "spread", "word"),
    [
        (0.020, 0.010, BETTER),  # +1.53 to +2.47 points
        (-0.020, 0.010, WORSE),
        (0.002, 0.002, BETTER + BY_LESS),  # +0.11 to +0.29
        (-0.002, 0.002, WORSE + BY_LESS),
        (0.000, 0.010, EQUIVALENT),  # −0.47 to +0.47
        (0.0005, 0.005, EQUIVALENT),
        (0.000, 0.012, UNDECIDED),  # −0.56 to +0.56
        (0.004, 0.010, UNDECIDED),  # −0.07 to +0.87
        (-0.004, 0.010, UNDECIDED),
        (0.005, 0.005, BETTER),  # +0.27 to +0.73: better, perhaps by less
    ],
)
def test_every_word_of_a_difference(centre, spread, word):
    found = by_points(centre, spread)
    assert found.verdict == word
    assert found.decided == (word != UNDECIDED)
    assert found.difference == pytest.approx(centre, abs=1e-12)
    assert (found.ci_low, found.ci_high) == pytest.approx((centre - HALF * spread, centre + HALF * spread), abs=1e-9)
    assert (found.metric, found.n_seeds, found.margin, found.confidence) == (ACCURACY, N, 0.005, 0.95)
    assert (found.mean, found.baseline_mean) == (pytest.approx(0.6 + centre), pytest.approx(0.6))
    assert (found.std, found.warning, found.n_failed, found.p_failed) == (pytest.approx(spread), "", 0, 1.0)


@pytest.mark.parametrize(
    ("centre", "spread", "word"),
    [
        (-0.20, 0.10, BETTER),  # of a loss, less is better
        (0.20, 0.10, WORSE),
        (-0.02, 0.02, BETTER + BY_LESS),
        (0.02, 0.02, WORSE + BY_LESS),
        (0.00, 0.10, EQUIVALENT),  # −4.6 % to +4.8 %
        (0.00, 0.12, UNDECIDED),
    ],
)
@pytest.mark.parametrize("metric", [m for m in METRICS.values() if m.ratio], ids=lambda m: m.name)
def test_every_word_of_a_ratio(metric, centre, spread, word):
    found = by_ratio(centre, spread, metric)
    assert found.verdict == word
    assert found.difference == pytest.approx(math.expm1(centre), abs=1e-12)
    assert found.ci_low == pytest.approx(math.expm1(centre - HALF * spread), abs=1e-9)
    assert found.ci_high == pytest.approx(math.expm1(centre + HALF * spread), abs=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_candidate_and_baseline_changed_places_turn_the_verdict_round(sign):
    rng = np.random.default_rng(4)
    a, b = arm(rng.normal(0.6, 0.01, 30)), arm(rng.normal(0.6 + sign * 0.01, 0.01, 30))
    for metric in (ACCURACY, LOSS):
        one, other = judge(metric, a, b, Rules()), judge(metric, b, a, Rules())
        swapped = {BETTER: WORSE, WORSE: BETTER}
        assert swapped[one.verdict.split(",")[0]] == other.verdict.split(",")[0]
        if metric is ACCURACY:
            assert (one.ci_low, one.ci_high) == pytest.approx((-other.ci_high, -other.ci_low))
        else:  # twice as much and half as much are the same distance
            assert 1 + one.ci_low == pytest.approx(1 / (1 + other.ci_high))
        assert (one.p_value, one.p_sign_flip) == pytest.approx((other.p_value, other.p_sign_flip))


# --- the margin -----------------------------------------------------------------------------------


def test_the_margin_is_where_the_interval_must_end():
    half = by_points(0, 0.01).ci_high
    assert by_points(0, 0.01, margin=half * 1.001).verdict == EQUIVALENT
    assert by_points(0, 0.01, margin=half * 0.999).verdict == UNDECIDED
    high = by_points(0.02, 0.01).ci_high
    assert by_points(0.02, 0.01, margin=high * 1.001).verdict == BETTER + BY_LESS
    assert by_points(0.02, 0.01, margin=high * 0.999).verdict == BETTER


def test_a_ratios_margin_is_as_far_down_as_up():
    # +5 % and −4.76 % (1 / 1.05) are the two ends
    up, down = by_ratio(0.01, 0.08), by_ratio(-0.01, 0.08)
    assert up.ci_high == pytest.approx(1 / (1 + down.ci_low) - 1)
    edge = up.ci_high
    for found, word in ((edge * 1.001, EQUIVALENT), (edge * 0.999, UNDECIDED)):
        assert by_ratio(0.01, 0.08, margin=found).verdict == word
        assert by_ratio(-0.01, 0.08, margin=found).verdict == word


# --- one interval, one p --------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_the_interval_and_the_corrected_p_always_agree(metric):
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(150):
        n, rules = int(rng.integers(2, 30)), Rules(0.05, int(rng.integers(1, 6)), [(), LOOKS, (8, 20)][rng.integers(3)])
        base = rng.normal(0.6, 0.02, n)
        found = judge(metric, arm(base + rng.normal(rng.choice([-0.004, 0, 0.004]), 0.006, n)), arm(base), rules)
        excludes = found.ci_low > 0 or found.ci_high < 0
        assert excludes == (found.p_corrected < rules.alpha)
        flips = found.p_sign_flip <= level_of(rules)
        assert found.confidence == 1 - level_of(rules)
        word = found.verdict.split(",")[0]
        assert (word in (BETTER, WORSE)) == (excludes and flips)
        inside = -metric.margin < found.ci_low and found.ci_high < metric.margin
        if metric is ACCURACY:
            assert (word == EQUIVALENT) == (inside and not excludes and not flips)
        seen.add(found.verdict)
    assert {UNDECIDED, EQUIVALENT, BETTER, WORSE} <= {v.split(",")[0] for v in seen}


def test_looks_and_comparisons_change_the_level_and_nothing_else():
    one, three, looks = (by_points(0.005, 0.01, rules=r) for r in (Rules(), Rules(comparisons=3), Rules(looks=FIVE)))
    assert one.p_value == three.p_value == looks.p_value
    assert (three.p_corrected, looks.p_corrected) == pytest.approx(
        (3 * one.p_value, chance_at_looks(one.p_value, FIVE))
    )
    level = level_at_looks(0.05, FIVE)
    assert (one.confidence, three.confidence, looks.confidence) == pytest.approx((0.95, 1 - 0.05 / 3, 1 - level))
    assert level_of(Rules(0.1, 2, FIVE)) == level
    assert level_of(Rules(0.1, 2, (20,))) == 0.05
    base = arm([0.6] * N)
    theirs = paired_difference(0.605 + 0.01 * SHAPE, base.values, level)
    assert (looks.ci_low, looks.ci_high) == pytest.approx((theirs.ci_low, theirs.ci_high))
    # 5 % alone, undecided among ten
    assert one.verdict == BETTER
    assert by_points(0.005, 0.01, rules=Rules(comparisons=10)).verdict == UNDECIDED
    assert by_points(0.0, 0.3, rules=Rules(comparisons=10)).p_corrected == 1.0


def test_where_the_sign_flip_test_disagrees_nothing_is_decided():
    # five pairs: the t is sure, but of 2⁵ sign patterns two are always as far out, p = 0.0625
    few = judge(ACCURACY, arm([0.70, 0.71, 0.72, 0.71, 0.70]), arm([0.6] * 5), Rules())
    assert few.p_corrected < 0.001
    assert few.ci_low > 0
    assert few.p_sign_flip == 2 / 32
    assert few.verdict == UNDECIDED
    assert few.seeds_to_decide == 6  # the next has 2 / 2⁶
    # one wild seed hides from the t what the signs see: 19 of 20 up, and the one down is small
    wild = [0.002] * 18 + [0.30, -0.0001]
    other = judge(ACCURACY, arm([0.6 + v for v in wild]), arm([0.6] * N), Rules(), margin=0.5)
    assert other.ci_low < 0 < other.ci_high
    assert other.p_sign_flip < 0.001
    assert other.verdict == UNDECIDED  # inside the margin, but not equivalent


def test_a_verdict_that_the_sign_flip_test_takes_back_says_so():
    # one wild seed: the interval lies within a wide margin, the signs see a difference
    wild = [0.002] * 18 + [0.30, -0.0001]
    found = judge(ACCURACY, arm([0.6 + v for v in wild]), arm([0.6] * N), Rules(), margin=0.5)
    assert found.verdict == UNDECIDED
    assert found.warning == (
        "the 95 % interval lies within the margin, but the exact sign-flip test finds a difference "
        "(p = 3.8e-06 at level 0.05), so it is undecided"
    )
    # ten seeds between the two tests
    rng = np.random.default_rng(0)
    said = set()
    for _ in range(600):
        d = rng.normal(0.7, 1, 10)
        found = judge(ACCURACY, arm(0.6 + d / 100), arm([0.6] * 10), Rules())
        differs = found.ci_low > 0 or found.ci_high < 0
        takes_back = differs != (found.p_sign_flip <= 0.05)
        assert takes_back == ("so it is undecided" in found.warning)
        if takes_back:
            assert found.verdict == UNDECIDED
            assert ("interval excludes 0, but the exact sign-flip test finds no difference" in found.warning) == differs
            said.add(differs)
    assert said == {True, False}
    # too few seeds for any verdict: that is another sentence
    assert judge(ACCURACY, arm([0.6 + v for v in wild[-5:]]), arm([0.6] * 5), Rules(), margin=0.5).warning == ""


# --- failures -------------------------------------------------------------------------------------


def test_failures_warn_and_are_compared_by_mcnemar():
    base = arm([0.6] * N)
    assert judge(ACCURACY, base, base, Rules()).warning == ""
    fails = arm([0.1] * 8 + [0.6] * 12, [True] * 8 + [False] * 12)
    found = judge(ACCURACY, fails, base, Rules())
    assert (found.n_failed, found.n_failed_baseline, found.p_failed) == (8, 0, 2 / 2**8)
    assert "8 of 20 runs failed, the baseline's 0 (more than can be chance" in found.warning
    assert "p = 0.0078" in found.warning
    found = judge(ACCURACY, base, arm([0.1] + [0.6] * 19, [True] + [False] * 19), Rules())
    assert (found.n_failed, found.n_failed_baseline, found.p_failed) == (0, 1, 1.0)
    assert "which may be chance" in found.warning
    both = judge(ACCURACY, fails, fails, Rules())
    assert (both.p_failed, both.n_failed_baseline) == (1.0, 8)
    assert "which may be chance" in both.warning


# --- what cannot be compared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "bad", "words"),
    [
        (ACCURACY, math.nan, "some values of test accuracy are not finite"),
        (ACCURACY, math.inf, "some values of test accuracy are not finite"),
        (ACCURACY, 1e200, "some values of test accuracy are beyond ±1e+150, too large to be compared"),
        (LOSS, math.nan, "are not finite"),
        (LOSS, 0.0, "by ratio, which needs values above 0, but gets down to 0:"),
        (LOSS, -1.25, "gets down to -1.25: a metric of one's own with ratio=False"),
    ],
)
def test_values_that_cannot_be_compared_decide_nothing_and_say_so(metric, bad, words):
    for a, b in (([0.5, bad, 0.7], [0.5, 0.6, 0.8]), ([0.5, 0.6, 0.8], [0.5, bad, 0.7])):
        found = judge(metric, arm(a), arm(b), Rules())
        assert (found.verdict, found.seeds_to_decide, found.n_seeds) == (UNDECIDED, None, 3)
        assert words in found.warning
        assert all(math.isnan(v) for v in (found.ci_low, found.p_value, found.p_corrected, found.p_sign_flip))
        assert math.isnan(found.minimum_detectable_effect)


def test_zero_and_negative_numbers_are_fine_as_differences():
    assert judge(ACCURACY, arm([0.0, 0.1, 0.0]), arm([0.0, 0.0, -0.1]), Rules()).warning == ""


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_one_seed_decides_nothing(metric):
    found = judge(metric, arm([0.9]), arm([0.6]), Rules())
    assert (found.verdict, found.seeds_to_decide, found.n_seeds, found.warning) == (UNDECIDED, None, 1, "")
    assert found.difference == pytest.approx(0.3 if metric is ACCURACY else 0.5)
    assert all(math.isnan(v) for v in (found.ci_low, found.p_corrected, found.p_sign_flip, found.std))


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
@pytest.mark.parametrize(("n_a", "n_b"), [(3, 2), (2, 3), (0, 0)])
def test_arms_of_different_lengths_or_none_are_refused(metric, n_a, n_b):
    with pytest.raises(ValueError, match=r"paired arrays|zip"):
        judge(metric, arm([0.6] * n_a), arm([0.6] * n_b), Rules())


def test_equal_runs_are_equivalent():
    rng = np.random.default_rng(0)
    same = arm(rng.normal(0.6, 0.01, N))
    found = judge(ACCURACY, same, same, Rules())
    assert (found.verdict, found.p_value, found.p_sign_flip) == (EQUIVALENT, 1.0, 1.0)
    assert (found.ci_low, found.ci_high, found.minimum_detectable_effect) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("n", [2, 10, 20, 40, 41, 80, 160])
def test_every_number_of_seeds_has_its_numbers(n):
    rng = np.random.default_rng(n)
    base = rng.normal(0.6, 0.01, n)
    found = judge(ACCURACY, arm(base + rng.normal(0, 0.006, n)), arm(base), Rules(comparisons=3, looks=LOOKS))
    numbers = (found.ci_low, found.ci_high, found.p_value, found.p_sign_flip, found.minimum_detectable_effect)
    assert all(math.isfinite(v) for v in numbers)


def test_two_seeds_at_a_tiny_level_have_an_infinite_interval():
    found = judge(LOSS, arm([1.0, 2.0]), arm([2.0, 1.0]), Rules(comparisons=5000))
    assert (found.verdict, found.ci_low, found.ci_high) == (UNDECIDED, -1.0, math.inf)
    assert found.minimum_detectable_effect == math.inf


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_whatever_the_numbers_there_is_a_verdict_and_an_interval(metric):
    rng = np.random.default_rng(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(400):
            n = int(rng.choice([1, 2, 3, 4, 6, 20, 45]))
            tens = rng.choice([-300, -12, -1, 0, 3, 140, 160, 306], (2, 1)) + rng.choice([-9, 0, 0, 0, 0, 9], (2, n))
            values = (0.1 + rng.random((2, n))) * 10.0 ** tens.clip(-306, 307)
            values[1] = values[0] if rng.random() < 0.1 else values[1]
            if metric is ACCURACY:
                values *= rng.choice([-1, 1])
            rules = Rules(
                float(rng.choice([1e-6, 0.05, 0.4])), int(10 ** rng.uniform(0, 6)), [(), LOOKS][rng.integers(2)]
            )
            found = judge(metric, arm(values[0]), arm(values[1]), rules, float(10 ** rng.uniform(-9, -0.01)))
            assert found.verdict.split(",")[0] in {BETTER, WORSE, EQUIVALENT, UNDECIDED}
            if "too large to be compared" in found.warning or n == 1:
                assert found.verdict == UNDECIDED
                continue
            assert found.ci_low <= found.difference <= found.ci_high
            assert found.minimum_detectable_effect >= 0
            assert 0 <= found.p_value <= found.p_corrected <= 1
            assert 0 <= found.p_sign_flip <= 1
            if found.decided:
                assert found.seeds_to_decide is None
            elif found.seeds_to_decide is not None:
                assert found.seeds_to_decide > n


# --- runs that never reach the target -------------------------------------------------------------

STEPS = METRICS["steps_to_accuracy"]


def capped(steps, most=1000.0):
    """Runs that were watched for so many steps."""
    return Arm([min(float(v), most) for v in steps], [False] * len(steps), [v > most for v in steps])


def test_where_no_run_reached_the_target_nothing_is_equivalent():
    never = capped([2000.0] * N)
    found = judge(STEPS, never, never, Rules())
    assert (found.verdict, found.seeds_to_decide) == (UNDECIDED, None)
    assert found.warning == (
        "0 of 20 runs reached the target accuracy, the baseline's 0; the rest count as if they had at their last "
        "step, so it is undecided"
    )
    assert all(math.isnan(v) for v in (found.ci_low, found.ci_high, found.p_value, found.p_corrected))


def test_the_verdict_stands_where_unreached_runs_only_make_the_difference_larger():
    reached = capped(500 * np.exp(0.05 * SHAPE))
    some = capped(np.where(np.arange(N) < 3, 800, 5000) * np.exp(0.02 * SHAPE))
    slow, quick = judge(STEPS, some, reached, Rules()), judge(STEPS, reached, some, Rules())
    assert (slow.verdict, quick.verdict) == (WORSE, BETTER)
    assert slow.warning.startswith("3 of 20 runs reached the target accuracy, the baseline's 20;")
    assert quick.warning.startswith("20 of 20 runs reached the target accuracy, the baseline's 3;")
    assert slow.warning.endswith("so the difference is at least this large")
    assert (slow.ci_high, quick.ci_low) == (math.inf, -1.0)
    as_counted = judge(STEPS, arm(some.values), reached, Rules())
    assert (slow.ci_low, slow.p_corrected) == (as_counted.ci_low, as_counted.p_corrected)
    # the other way round nothing is known: the unreached runs of the quicker arm may be its slowest
    doubtful = judge(STEPS, capped([300.0] * 17 + [5000.0] * 3), capped([900.0 + i for i in range(N)]), Rules())
    assert doubtful.difference < 0
    assert (doubtful.verdict, doubtful.warning[:49]) == (UNDECIDED, "17 of 20 runs reached the target accuracy, the ba")


def test_with_unreached_runs_it_is_never_equivalent_nor_less_than_the_margin():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(300):
        centres = rng.uniform(6.4, 7.1, 2)
        a, b = (capped(np.exp(rng.normal(c, rng.choice([0.005, 0.2]), 12))) for c in centres)
        found = judge(STEPS, a, b, Rules(), margin=0.9)
        excludes = found.ci_low > 0 or found.ci_high < 0
        if sum(a.censored) + sum(b.censored):
            assert found.verdict in (BETTER, WORSE, UNDECIDED)
            assert found.decided == excludes == (found.p_corrected < 0.05)
            assert not (found.decided and sum(a.censored) and sum(b.censored))
            # whatever the steps that the unreached runs would have taken, the mean differs at least as much
            if found.decided:
                true = [
                    [v * (1 + 9 * rng.random() * c) for v, c in zip(x.values, x.censored, strict=True)] for x in (a, b)
                ]
                grown = np.mean(np.log(true[0])) - np.mean(np.log(true[1]))
                assert abs(grown) >= abs(math.log1p(found.difference))
            seen.add(found.verdict)
    assert seen == {BETTER, WORSE, UNDECIDED}


def test_the_end_of_a_censored_interval_is_beyond_the_truth_in_two_and_a_half_percent():
    rng = np.random.default_rng(3)
    true, wrong, decided = 0.06, 0, 0
    for _ in range(1500):
        seeds = rng.normal(6.78, 0.05, 12)
        a, b = (
            capped(np.exp(seeds + rng.normal(true, 0.06, 12))),
            capped(np.exp(seeds - 0.1 + rng.normal(0.1, 0.001, 12))),
        )
        found = judge(STEPS, a, b, Rules())
        if sum(a.censored) and found.decided:
            decided += 1
            wrong += found.ci_low > math.expm1(true)
    assert decided > 300
    assert wrong <= 0.025 * 1500


# --- how many seeds -------------------------------------------------------------------------------


def test_what_is_decided_needs_no_more_seeds_and_what_is_not_needs_more_than_it_has():
    rng = np.random.default_rng(3)
    for _ in range(100):
        n = int(rng.integers(2, 30))
        base = rng.normal(0.6, 0.01, n)
        found = judge(ACCURACY, arm(base + rng.normal(0.003, 0.006, n)), arm(base), Rules(comparisons=2))
        assert (found.seeds_to_decide is None) == found.decided
        if not found.decided:
            assert found.seeds_to_decide > n


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_the_seeds_to_decide_come_from_the_metrics_own_scale(metric):
    found = by_points(0.004, 0.01) if metric is ACCURACY else by_ratio(0.03, 0.08)
    centre, spread, margin = (0.004, 0.01, 0.005) if metric is ACCURACY else (0.03, 0.08, math.log(1.05))
    assert found.verdict == UNDECIDED
    assert found.seeds_to_decide == seeds_to_decide(centre, spread, N, margin, 0.05)


def test_the_minimum_detectable_effect_is_of_the_seen_spread_at_the_corrected_level():
    found = by_points(0.0, 0.01, rules=Rules(comparisons=3))
    assert found.minimum_detectable_effect == pytest.approx(minimum_detectable_effect(0.01, N, 0.05 / 3), rel=1e-6)
    found = by_ratio(0.0, 0.1)
    assert found.minimum_detectable_effect == pytest.approx(
        math.expm1(minimum_detectable_effect(0.1, N, 0.05)), rel=1e-6
    )


# --- real noise -----------------------------------------------------------------------------------

POOL = Path(__file__).parents[1] / "experiments" / "calibration" / "pool.csv"
COLUMNS = {"test_accuracy": (3, 4), "test_loss": (5, 6)}


@pytest.fixture(scope="module")
def pool():
    """2,048 pairs of equal arms, really trained: see experiments/calibration."""
    with open(POOL, newline="") as file:
        return np.array([[float(v) for v in row] for row in list(csv.reader(file))[1:]])


def drawn(pool, metric, rng, shift=0.0, n=N):
    """Two arms of n pairs of the pool, either first by chance; the candidate's values moved by shift."""
    pairs = pool[rng.choice(len(pool), n, replace=False)][:, COLUMNS[metric.name]]
    turned = np.where(rng.random((n, 1)) < 0.5, pairs, pairs[:, ::-1])
    moved = turned[:, 0] * math.exp(shift) if metric.ratio else turned[:, 0] + shift
    return arm(moved), arm(turned[:, 1])


def least(k, n):
    """The lower end of the 95 % interval of a share (Clopper & Pearson)."""
    return stats.binomtest(int(k), n).proportion_ci(0.95).low


COMPARISONS = 300


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_equal_arms_are_called_different_in_five_percent_at_most(pool, metric):
    rng = np.random.default_rng(10)
    words = [judge(metric, *drawn(pool, metric, rng), Rules()).verdict for _ in range(COMPARISONS)]
    wrong = sum(word.startswith((BETTER, WORSE)) for word in words)
    assert least(wrong, COMPARISONS) <= 0.05
    assert wrong > 0  # not by never saying anything


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=lambda m: m.name)
def test_a_difference_as_large_as_the_margin_is_called_smaller_in_five_percent_at_most(pool, metric):
    rng = np.random.default_rng(11)
    # a margin of one standard deviation, so that small is said at all
    columns = pool[:, COLUMNS[metric.name]]
    spread = np.std(np.log(columns[:, 0] / columns[:, 1]) if metric.ratio else columns[:, 0] - columns[:, 1], ddof=1)
    margin = math.expm1(spread) if metric.ratio else spread
    words = [judge(metric, *drawn(pool, metric, rng, spread), Rules(), margin).verdict for _ in range(COMPARISONS)]
    assert least(sum(word == EQUIVALENT for word in words), COMPARISONS) <= 0.05
    assert least(sum(word == EQUIVALENT or word.endswith(BY_LESS) for word in words), COMPARISONS) <= 0.05


def test_a_known_effect_is_found_as_often_as_was_said(pool):
    rng = np.random.default_rng(12)
    spread = np.std(pool[:, 3] - pool[:, 4], ddof=1)
    for times, low, high in ((0.5, 0.0, 0.4), (1.0, 0.7, 0.9), (1.5, 0.95, 1.0)):
        effect = times * minimum_detectable_effect(spread, N, 0.05)
        found = sum(
            judge(ACCURACY, *drawn(pool, ACCURACY, rng, effect), Rules()).verdict.startswith(BETTER) for _ in range(150)
        )
        assert low <= found / 150 <= high, times


def test_the_pool_is_what_calibration_needs(pool):
    # equal arms: no direction, and a sign-flip test of a part of it agrees
    difference = pool[:, 3] - pool[:, 4]
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(pool))
    assert sign_flip_p_value(difference[:200]) > 0.001


def test_fewer_seeds_than_a_sign_flip_test_needs_decide_nothing_however_equal():
    """Two arms that score alike on a small test set, seed by seed: their spread of 0 is no evidence of equality."""
    for n in range(2, 9):
        found = judge(ACCURACY, arm([0.5, 0.6] * n), arm([0.5, 0.6] * n), Rules()) if n > 5 else judge(
            ACCURACY, arm([0.5] * n), arm([0.5] * n), Rules()
        )  # fmt: skip
        assert found.verdict == (EQUIVALENT if n > 5 else UNDECIDED)
        assert found.seeds_to_decide == (None if n > 5 else 6)


def test_where_no_run_of_either_learned_anything_nothing_is_decided():
    dead = Arm([0.1] * 8, [True] * 8)
    found = judge(ACCURACY, dead, dead, Rules())
    assert (found.verdict, found.seeds_to_decide) == (UNDECIDED, None)
    assert "no run of either learned anything" in found.warning
    assert judge(ACCURACY, dead, arm([0.8 + 0.01 * (i % 3) for i in range(8)]), Rules()).verdict == "worse"


def test_a_level_below_what_drawn_signs_can_say_does_not_block_a_verdict():
    sure = arm([0.8 + 0.001 * (i % 5) for i in range(80)])
    found = judge(ACCURACY, sure, arm([0.5] * 80), Rules(comparisons=6000))
    assert found.p_sign_flip == 1e-5  # the least of 100,000 patterns; the level is 8.3e-6
    assert found.verdict == BETTER


# --- examples like these --------------------------------------------------------------------------


def scored(rng, n, n_examples, own, shared, centre=0.0):
    """An arm and its baseline: numbers of examples, in which an example's difference has these spreads: own to each
    seed, and shared by all of them.
    """
    base = rng.normal(0.6, 0.1, (n, n_examples))
    d = centre + rng.normal(0, own, (n, n_examples)) + rng.normal(0, shared, n_examples)
    d += centre - d.mean()  # on these examples
    of_arm = lambda each: Arm(list(each.mean(1)), [False] * n, of_each=list(each))  # noqa: E731
    return of_arm(base + d), of_arm(base)


def test_the_wider_interval_is_that_of_seeds_and_examples():
    one, base = scored(np.random.default_rng(0), 20, 500, 0.05, 0.05, centre=0.02)
    found = judge(ACCURACY, one, base, Rules(comparisons=3))
    theirs = population_difference(np.array(one.of_each), np.array(base.of_each), 0.05 / 3)
    assert (found.population_ci_low, found.population_ci_high) == pytest.approx((theirs.ci_low, theirs.ci_high))
    assert found.population_ci_low < found.ci_low < found.ci_high < found.population_ci_high
    bare = judge(ACCURACY, replace(one, of_each=()), base, Rules(comparisons=3))
    assert math.isnan(bare.population_ci_low)
    assert (bare.ci_low, bare.ci_high, bare.verdict) == (found.ci_low, found.ci_high, BETTER)


def test_equivalent_needs_both_intervals_and_better_does_not():
    rng = np.random.default_rng(1)
    one, base = scored(rng, 20, 100, 0.02, 0.05)
    bare = judge(ACCURACY, replace(one, of_each=()), base, Rules())
    found = judge(ACCURACY, one, base, Rules())
    assert bare.verdict == EQUIVALENT
    assert (found.verdict, found.few_examples, found.settled, found.seeds_to_decide) == (UNDECIDED, True, True, None)
    assert found.population_ci_high > ACCURACY.margin
    many = judge(ACCURACY, one, base, Rules(), margin=0.02)
    assert (many.verdict, many.few_examples) == (EQUIVALENT, False)
    one, base = scored(rng, 20, 100, 0.02, 0.1, centre=0.01)
    differs = judge(ACCURACY, one, base, Rules())
    assert differs.verdict == BETTER
    assert differs.population_ci_low < 0


def test_more_seeds_are_proposed_where_they_help():
    """Half of the spread is the seeds': then more of them bring the wider interval into the margin."""
    rng = np.random.default_rng(2)
    one, base = scored(rng, 10, 2000, 0.12, 0.03)
    found = judge(ACCURACY, one, base, Rules(), margin=0.0017)
    assert (found.verdict, found.few_examples) == (UNDECIDED, False)
    assert found.seeds_to_decide > 10
    assert found.seeds_to_decide > judge(ACCURACY, replace(one, of_each=()), base, Rules(), 0.0017).seeds_to_decide


def test_a_ratio_of_mean_losses_covers_other_examples_too():
    """Losses whose true ratio is 1, on 150 test sets: the interval of seeds misses it, the wider one covers it."""
    rng, n, covers = np.random.default_rng(3), 12, [0, 0]
    for _ in range(150):
        hard = rng.gamma(1.0, size=200)
        shared = np.exp(rng.normal(0, 0.3, 200))
        a, b = (hard * np.exp(rng.normal(0, 0.2, (n, 200))) for _ in range(2))
        arms = [Arm(list(v.mean(1)), [False] * n, of_each=list(v)) for v in (a * shared / np.exp(0.045), b)]
        found = judge(LOSS, *arms, Rules())
        covers[0] += found.ci_low < 0 < found.ci_high
        covers[1] += found.population_ci_low < 0 < found.population_ci_high
    assert covers[0] < 90
    assert covers[1] >= 135


def test_without_usable_numbers_there_is_no_second_interval():
    one, base = scored(np.random.default_rng(4), 8, 50, 0.05, 0.05)
    nan = replace(one, of_each=[*one.of_each[:-1], np.full(50, math.nan)])
    short = replace(one, of_each=[each[:40] for each in one.of_each])
    single = [replace(arm, of_each=[each[:1] for each in arm.of_each]) for arm in (one, base)]
    for candidate, baseline in ((nan, base), (short, base), single):
        assert math.isnan(judge(ACCURACY, candidate, baseline, Rules()).population_ci_low)


def test_the_assurance_counts_the_error_of_examples():
    """Against simulation: the mean of n pairs around the seen one, and both intervals."""
    rng, n, seen, margin, error = np.random.default_rng(5), 40, 10, 0.8, 0.2
    decided = 0
    for _ in range(4000):
        sigma = math.sqrt((seen - 1) / rng.chisquare(seen - 1))
        centre = 0.1 + rng.normal(0, sigma * math.sqrt(1 / seen - 1 / n))
        half, wide = (stats.t.ppf(0.975, n - 1) * math.sqrt(sigma**2 / n + e**2) for e in (0, error))
        decided += abs(centre) > half or abs(centre) + wide < margin
    assert assurance(n, 0.1, 1.0, seen, margin, 0.05, error) == pytest.approx(decided / 4000, abs=0.03)


# --- runs that fall out ---------------------------------------------------------------------------


def test_a_run_far_below_the_others_is_said_and_one_far_above_is_not():
    rng = np.random.default_rng(6)
    base, other = rng.normal(0.945, 0.004, 20), rng.normal(0.945, 0.004, 20)
    fallen = np.where(np.arange(20) == 3, 0.90, base)
    assert judge(ACCURACY, arm(other), arm(base), Rules()).warning == ""
    assert judge(ACCURACY, arm(fallen), arm(other), Rules()).warning.startswith("1 of its 20 runs ends far")
    assert judge(ACCURACY, arm(other), arm(fallen), Rules()).warning.startswith("1 of the baseline's 20 runs ends far")
    both = judge(ACCURACY, arm(fallen), arm(fallen[::-1]), Rules()).warning
    assert both.startswith("1 of its 20 runs and 1 of the baseline's 20 runs end far")
    assert judge(ACCURACY, arm(2 * 0.945 - fallen), arm(other), Rules()).warning == ""
    loss = judge(LOSS, arm(1 - fallen), arm(1 - other), Rules()).warning  # where less is better, above
    assert "1 of its 20 runs ends far" in loss
    failed = judge(ACCURACY, arm(fallen, list(fallen == 0.90)), arm(other), Rules()).warning  # said already
    assert "far from the others" not in failed
