"""Statistics: against scipy, printed tables, enumeration, simulation, and numbers worked out by hand."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from actsearch.verdicts.statistics import (
    assurance,
    failure_bound,
    fewest_for_sign_flips,
    mcnemar_p_value,
    mean,
    minimum_detectable_effect,
    paired_difference,
    population_difference,
    power_of_paired_t,
    seeds_to_decide,
    sign_flip_p_value,
    std,
)

# Cushny & Peebles 1905, as in Student 1908: hours of sleep that ten patients won by one drug over another
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
# Darwin 1876, as in Fisher 1935, The Design of Experiments, §17: heights of 15 pairs of maize, crossed less
# self-fertilized, in eighths of an inch
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_mean_and_std_by_hand():
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert std([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert math.isnan(mean([]))
    assert math.isnan(std([0.3]))
    assert std([1e200, -1e200]) == math.inf


def test_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, standard error 1/√3, t(0.975, 2) = 4.302653 (any printed table)
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.ci_low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.ci_high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("level", [0.1, 0.05, 0.01])
@pytest.mark.parametrize("n", [2, 5, 20, 100])
def test_paired_difference_is_scipys(n, level):
    rng = np.random.default_rng(n)
    shared = rng.normal(0.6, 0.05, n)
    a, b = shared + rng.normal(0.01, 0.01, n), shared
    found = paired_difference(a.tolist(), b.tolist(), level)
    theirs = stats.ttest_rel(a, b).confidence_interval(1 - level)
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


# --- published numbers ----------------------------------------------------------------------------


def test_students_sleep_data():
    # as R prints it: t.test(extra ~ group, sleep, paired = TRUE)
    found = paired_difference(SLEEP, [0.0] * 10)
    assert found.mean == pytest.approx(1.58)
    assert found.std == pytest.approx(1.23, abs=5e-4)  # 1.2300
    assert found.mean / (found.std / math.sqrt(10)) == pytest.approx(4.0621, abs=5e-5)
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)


def test_fishers_analysis_of_darwins_maize():
    found = paired_difference(MAIZE, [0] * 15)
    assert found.mean == pytest.approx(20.933, abs=5e-4)
    assert found.std / math.sqrt(15) == pytest.approx(9.746, abs=5e-4)
    assert found.mean / (found.std / math.sqrt(15)) == pytest.approx(2.148, abs=5e-4)
    # "in 863 out of 32,768 cases" the sum is as great, and in as many as small
    assert sign_flip_p_value(MAIZE) == 2 * 863 / 32768
    assert sign_flip_p_value([-v / 8 for v in MAIZE]) == 2 * 863 / 32768


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (9, 2, 0.06543),  # Fay, vignette of R's exact2x2
        (2, 9, 0.06543),
        (121, 59, 4.43445e-06),  # the table of statsmodels' tests
        (10, 10, 1.0),
        (5, 0, 0.0625),  # 2 / 2⁵
        (0, 0, 1.0),
    ],
)
def test_mcnemar_of_published_tables(only_a, only_b, p):
    a = [True] * only_a + [False] * only_b + [True] * 21 + [False] * 12
    b = [False] * only_a + [True] * only_b + [True] * 21 + [False] * 12
    assert mcnemar_p_value(a, b) == pytest.approx(p, rel=2e-5)


@pytest.mark.parametrize(("failed", "n", "bound"), [(0, 20, 0.1391), (1, 20, 0.2161), (0, 10, 0.2589), (20, 20, 1.0)])
def test_the_bound_of_a_rate_of_failures(failed, n, bound):
    """0 of n: 1 − 0.05^(1/n); others as scipy's exact one-sided interval has them."""
    assert failure_bound(failed, n) == pytest.approx(bound, abs=1e-4)
    ends = stats.binomtest(failed, n, alternative="less").proportion_ci(0.95)
    assert failure_bound(failed, n) == pytest.approx(ends.high, rel=1e-9)


def test_mcnemar_needs_pairs():
    with pytest.raises(ValueError, match="zip"):
        mcnemar_p_value([True, False], [True])


@pytest.mark.parametrize(
    ("d", "n", "power"),
    [
        # G*Power 3, matched pairs, two-sided 5 %: the sample sizes it gives for Cohen's small, medium and large
        (0.5, 34, 0.8078),
        (1.0, 10, 0.8031),
    ],
)
def test_power_is_g_powers(d, n, power):
    assert power_of_paired_t(d, 1.0, n, 0.05) == pytest.approx(power, abs=5e-5)


@pytest.mark.parametrize(
    ("d", "power", "n"),
    [
        (0.2, 0.8, 199),  # Cohen's small, medium and large effects: any program for paired samples
        (0.5, 0.8, 34),
        (0.8, 0.8, 15),
        (0.5, 0.95, 54),  # G*Power's manual
        (1 / math.sqrt(2), 0.85, 20),  # Dalgaard 2008, Introductory Statistics with R, §9.3: 19.96892
    ],
)
def test_sample_sizes_are_the_published_ones(d, power, n):
    assert power_of_paired_t(d, 1.0, n - 1, 0.05) < power <= power_of_paired_t(d, 1.0, n, 0.05)


# --- sign flips -----------------------------------------------------------------------------------


def enumerated(d):
    """The two-sided p by all 2ⁿ signs, one by one."""
    sums = [
        abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return sum(s >= abs(sum(d)) - 1e-12 for s in sums) / len(sums)


def counted(d):
    """The same of whole numbers, by counting how often each sum occurs: exact for any n."""
    total = sum(abs(v) for v in d)
    ways = [0] * (2 * total + 1)  # ways[total + s]: sign patterns of what came so far with sum s
    ways[total] = 1
    for v in d:
        ways = [
            (ways[i - v] if 0 <= i - v < len(ways) else 0) + (ways[i + v] if 0 <= i + v < len(ways) else 0)
            for i in range(len(ways))
        ]
    return sum(w for i, w in enumerate(ways) if abs(i - total) >= abs(sum(d))) / 2 ** len(d)


@pytest.mark.parametrize("n", range(1, 11))
@pytest.mark.parametrize("kind", ["any", "ties", "zeros"])
def test_sign_flips_are_all_patterns(kind, n):
    rng = np.random.default_rng(n)
    for _ in range(5):
        d = {
            "any": lambda: rng.normal(0.5, 1, n),
            "ties": lambda: rng.integers(-2, 3, n) / 10,  # sums of tenths are equal only up to rounding
            "zeros": lambda: rng.normal(0.5, 1, n) * rng.integers(0, 2, n),
        }[kind]()
        assert sign_flip_p_value(d) == enumerated(d.tolist())


@pytest.mark.parametrize("n", [4, 9, 12])
def test_sign_flips_are_scipys_exact_permutation_test(n):
    rng = np.random.default_rng(n)
    for d in (rng.normal(0.4, 1, n), rng.integers(-3, 6, n).astype(float)):
        theirs = stats.permutation_test(
            (d, np.zeros(n)), lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=np.inf,
        )  # fmt: skip
        assert sign_flip_p_value(d) == pytest.approx(theirs.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [20, 33, 40])
def test_sign_flips_are_exact_up_to_forty_pairs(n):
    d = np.random.default_rng(n).integers(-20, 31, n).tolist()
    assert sign_flip_p_value(d) == counted(d)
    assert sign_flip_p_value([v / 1000 for v in d]) == counted(d)  # differences of accuracies


def test_above_forty_pairs_sign_flips_are_drawn_and_near():
    d = np.random.default_rng(8).integers(-20, 28, 60).tolist()
    p = counted(d)
    assert 0.01 < p < 0.9
    assert sign_flip_p_value(d) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 99_999))
    assert sign_flip_p_value(d) == sign_flip_p_value(d)  # the same draws each time
    assert sign_flip_p_value([1.0] * 160) == 1 / 100_000  # never 0: the pattern seen is one of them


# --- these examples, and examples like them -------------------------------------------------------


def test_the_population_variance_is_the_mean_of_all_covariances():
    rng = np.random.default_rng(0)
    example = rng.normal(0, 0.5, 300)
    a = 1.0 + example + rng.normal(0, 1, (7, 300)) + rng.normal(0, 0.1, (7, 1))
    b = rng.normal(0, 1, (7, 300))
    found = population_difference(a, b, 0.01)
    covariances = np.cov(a - b)  # 7 × 7, over examples
    shared = covariances[~np.eye(7, dtype=bool)].mean()
    means = (a - b).mean(1)
    v1, v2 = means.var(ddof=1) / 7, shared / 300
    assert found.example_std == pytest.approx(math.sqrt(shared))
    assert found.std_error == pytest.approx(math.sqrt(v1 + v2))
    assert found.df == pytest.approx((v1 + v2) ** 2 / (v1**2 / 6 + v2**2 / 299))
    assert found.ci_high - found.here.mean == pytest.approx(stats.t.ppf(0.995, found.df) * found.std_error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(means.mean() / found.std_error, found.df))
    theirs = stats.ttest_1samp(means, 0)
    assert (found.here.p_value, found.here.mean) == pytest.approx((theirs.pvalue, means.mean()))
    assert (found.here.ci_low, found.here.ci_high) == pytest.approx(tuple(theirs.confidence_interval(0.99)))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.float64])
def test_scores_of_any_type_give_the_same(kind):
    rng = np.random.default_rng(1)
    a, b = (rng.random((5, 90)) < 0.7 for _ in range(2))
    wanted = population_difference(a.astype(float), b.astype(float))
    assert population_difference(a.astype(kind), b.astype(kind)) == wanted
    assert wanted.ci_low <= wanted.here.ci_low < wanted.here.ci_high <= wanted.ci_high or wanted.df > 4


def test_where_examples_do_not_differ_both_intervals_are_the_same():
    a = np.repeat([[0.1], [0.4], [0.3]], 50, axis=1)
    found = population_difference(a, np.zeros((3, 50)))
    assert found.example_std == pytest.approx(0.0, abs=1e-12)
    assert (found.ci_low, found.ci_high, found.df) == pytest.approx((found.here.ci_low, found.here.ci_high, 2))
    sure = population_difference(np.ones((3, 50), bool), np.zeros((3, 50), bool))
    assert (sure.ci_low, sure.ci_high, sure.p_value) == (1.0, 1.0, 0.0)
    # no spread between seeds, but between examples: N − 1 degrees of freedom
    same = np.tile(np.arange(50) % 2 == 0, (4, 1))
    half = population_difference(same, np.zeros((4, 50), bool))
    theirs = stats.ttest_1samp(np.arange(50) % 2 == 0, 0.0).confidence_interval(0.95)
    assert (half.ci_low, half.ci_high, half.df) == (pytest.approx(theirs.low), pytest.approx(theirs.high), 49)


def test_one_seed_or_example_says_nothing_of_others():
    for shape in ((1, 50), (6, 1)):
        found = population_difference(np.ones(shape), np.zeros(shape))
        assert found.here.mean == 1.0
        assert math.isnan(found.ci_low)
        assert math.isnan(found.example_std)
    with pytest.raises(ValueError, match=r"scores of shapes \(2, 3\) and \(3, 2\)"):
        population_difference(np.ones((2, 3)), np.ones((3, 2)))


@pytest.mark.parametrize(("n", "n_examples", "tau"), [(10, 200, 1.0), (40, 200, 1.0), (40, 400, 0.3), (160, 200, 2.0)])
def test_the_population_interval_covers_where_that_of_seeds_does_not(n, n_examples, tau):
    rng = np.random.default_rng(n)
    covers = {"here": 0, "population": 0}
    for _ in range(400):
        d = rng.normal(0, tau, n_examples) + rng.normal(0, 1, (n, n_examples)) + rng.normal(0, 0.05, (n, 1))
        found = population_difference(d, np.zeros_like(d))
        covers["here"] += found.here.ci_low < 0 < found.here.ci_high
        covers["population"] += found.ci_low < 0 < found.ci_high
    assert 0.92 <= covers["population"] / 400 <= 0.98
    assert covers["here"] < covers["population"]


# --- power by simulation --------------------------------------------------------------------------

STUDIES = 20_000


def simulated(effect, std, n, seed=0):
    """Means, and half the width per unit of the t quantile, of many studies of n normal differences."""
    d = np.random.default_rng(seed).normal(effect, std, (STUDIES, n))
    return d.mean(1), d.std(1, ddof=1) / math.sqrt(n)


def found_share(effect, std, n, alpha):
    centre, error = simulated(effect, std, n)
    return np.mean(np.abs(centre) > stats.t.ppf(1 - alpha / 2, n - 1) * error)


NOISE = 4 * math.sqrt(0.25 / STUDIES)  # four standard errors of a share


@pytest.mark.parametrize(
    ("effect", "n", "alpha"), [(0.5, 34, 0.05), (1.0, 10, 0.01), (0.0, 20, 0.05), (30.0, 2, 0.0033)]
)
def test_power_is_what_simulated_studies_find(effect, n, alpha):
    assert power_of_paired_t(effect, 1.0, n, alpha) == pytest.approx(found_share(effect, 1.0, n, alpha), abs=NOISE)


@pytest.mark.parametrize("n", [2, 3, 10, 20, 80, 160, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.0033, 0.0003])
def test_power_grows_with_the_effect_and_is_a_number_everywhere(n, alpha):
    # scipy's noncentral t has NaNs on the far side: once they stopped every verdict of 80 seeds
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    effects = np.concatenate([np.linspace(0, 45, 91), critical * np.linspace(0.1, 11, 50)]) / math.sqrt(n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        power = np.array([power_of_paired_t(e, 1.0, n, alpha) for e in sorted(effects)])
    assert np.all(np.diff(power) > -1e-9)
    assert power[0] == pytest.approx(alpha)
    assert power[-1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.00126, 1e-5, 1e-8, 1e-14, 1e-300])
def test_power_of_two_pairs_at_tiny_levels(alpha):
    # given the spread |D|/√2 of two differences, a t beyond c is a mean beyond c |D| / 2: integrated over D by scipy
    c = stats.t.isf(alpha / 2, 1)
    for times in (0.3, 1.0, 3.0):
        shift = times * c
        wanted = stats.norm.cdf(shift / c) - stats.norm.cdf(-shift / c)  # |D| is half normal; the mean's noise ≪ shift
        assert power_of_paired_t(shift, math.sqrt(2), 2, alpha) == pytest.approx(wanted, abs=2e-3)
    assert power_of_paired_t(minimum_detectable_effect(7.0, 2, alpha), 7.0, 2, alpha) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 10, 20, 40, 80, 160, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.05 / 15])
def test_the_minimum_detectable_effect_is_found_with_its_power(n, alpha):
    for sigma in (1e-4, 0.006, 3.0):
        effect = minimum_detectable_effect(sigma, n, alpha)
        assert power_of_paired_t(effect, sigma, n, alpha) == pytest.approx(0.8, abs=1e-4)
    if n < 200:
        assert found_share(effect, 3.0, n, alpha) == pytest.approx(0.8, abs=NOISE)


@pytest.mark.parametrize(
    ("centre", "n_seen", "n", "margin", "level"),
    [
        (0.4, 10, 25, 0.5, 0.05),
        (0.4, 20, 40, 1e-6, 0.05),  # only a difference can be found
        (0.0, 10, 60, 0.4, 0.05),  # only equivalence
        (-0.3, 20, 30, 0.6, 0.01),
        (0.2, 40, 45, 0.4, 0.003),
    ],
)
def test_assurance_is_what_simulated_continuations_decide(centre, n_seen, n, margin, level):
    rng = np.random.default_rng(n)
    sigma = np.sqrt((n_seen - 1) / rng.chisquare(n_seen - 1, STUDIES))
    true = centre + sigma * rng.normal(0, 1, STUDIES) / math.sqrt(n_seen)
    new = n - n_seen
    fresh = true + sigma * rng.normal(0, 1, STUDIES) / math.sqrt(new)
    mean_of_all = (n_seen * centre + new * fresh) / n
    squares = n_seen - 1 + sigma**2 * rng.chisquare(max(new - 1, 1), STUDIES) * (new > 1)
    squares += n_seen * new / n * (fresh - centre) ** 2
    half = stats.t.ppf(1 - level / 2, n - 1) * np.sqrt(squares / (n - 1) / n)
    decided = (np.abs(mean_of_all) > half) | (np.abs(mean_of_all) + half < margin)
    assert assurance(n, centre, 1.0, n_seen, margin, level) == pytest.approx(decided.mean(), abs=0.04)


def test_an_interval_no_wider_than_the_margin_decides_wherever_it_lies():
    half, margin = 0.25, 0.5 + 1e-9
    for centre in np.linspace(-2, 2, 801):
        assert abs(centre) > half or abs(centre) + half < margin
    # and in the assurance: a spread so small that every quantile of it gives such an interval
    assert all(assurance(20, c, 0.01, 10, 0.05, 0.05) == 1.0 for c in (0.0, 0.02, 0.05, 1.0))


def test_the_seeds_to_decide_are_the_fewest_with_eighty_percent_assurance():
    rng = np.random.default_rng(1)
    for _ in range(60):
        n, level = int(rng.integers(2, 40)), float(rng.choice([0.05, 0.01, 0.001]))
        centre, margin = rng.normal(0, 0.6), float(rng.choice([0.3, 0.6, 1.0]))
        found = seeds_to_decide(centre, 1.0, n, margin, level)
        assert found is not None
        least = max(n + 1, fewest_for_sign_flips(level))
        enough = [m for m in range(least, found + 1) if assurance(m, centre, 1.0, n, margin, level) >= 0.8]
        assert enough[-1] == found
        assert enough[0] >= 0.9 * found  # the assurance may dip between two ways to a decision
        assert found == seeds_to_decide(-centre, 1.0, n, margin, level)
        assert found == seeds_to_decide(7 * centre, 7.0, n, 7 * margin, level)
    assert seeds_to_decide(0.0, 1.0, 20_000, 1e-9, 0.05) is None  # a million would not do
    assert seeds_to_decide(0.01, 0.001, 50, 0.005, 0.05) == 51  # never fewer than it has, nor as many
    assert seeds_to_decide(0.0, 0.0, 3, 0.005, 0.05) == 6  # the fewest whose signs can say it: 2 / 2⁶ < 0.05 < 2 / 2⁵


# --- degenerate -----------------------------------------------------------------------------------


def test_no_spread():
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p_value == 1.0
    sure = paired_difference([0.75, 0.75], [0.5, 0.5])
    assert (sure.std, sure.ci_low, sure.ci_high, sure.p_value) == (0.0, 0.25, 0.25, 0.0)
    assert (power_of_paired_t(0.1, 0.0, 5, 0.05), power_of_paired_t(0.0, 0.0, 5, 0.05)) == (1.0, 0.0)
    assert minimum_detectable_effect(0.0, 20, 0.05) == 0.0
    assert sign_flip_p_value([0.25] * 5) == 2 / 32
    assert sign_flip_p_value([0.0] * 5) == 1.0


def test_one_pair_or_none():
    assert math.isnan(paired_difference([0.75], [0.5]).p_value)
    assert math.isnan(paired_difference([0.75], [0.5]).std)
    assert power_of_paired_t(5.0, 1.0, 1, 0.05) == 0.0
    assert math.isnan(minimum_detectable_effect(1.0, 1, 0.05))
    assert (sign_flip_p_value([3.0]), sign_flip_p_value([])) == (1.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_decides_nothing(bad):
    with np.errstate(invalid="ignore"):
        found = paired_difference([bad, 1.0], [0.0, 0.0])
    assert math.isnan(found.ci_low)
    assert math.isnan(found.p_value)
    assert math.isnan(sign_flip_p_value([bad, 1.0]))
    assert math.isnan(minimum_detectable_effect(math.nan, 20, 0.05))
