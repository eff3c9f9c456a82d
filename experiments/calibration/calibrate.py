"""How often are verdicts wrong, and how often do they detect a true difference, with the noise of real training?

    python experiments/calibration/calibrate.py            # prints the table and writes results.csv
    python experiments/calibration/calibrate.py --smoke    # a few studies of each kind, in seconds; writes nothing

Every verdict comes from actsearch's own `judge`, `choose_finalists`, `standing` and `compare_finalists`; only the
training is replaced: by pool.csv, 2,048 pairs of trained equal arms (see pool.py). The script is seeded and
always gives the same numbers.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from actsearch.activations.spec import parse_net
from actsearch.question.metrics import ACCURACY, metrics_of
from actsearch.question.options import FRESH_SEED, Confirmation, Rules
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate, Curves, Evidence, FinalistRun, TrialRecord
from actsearch.study.finalists import choose_finalists, standing
from actsearch.verdicts.comparison import compare_finalists
from actsearch.verdicts.statistics import minimum_detectable_effect, power_of_paired_t
from actsearch.verdicts.verdict import BETTER, BY_LESS, EQUIVALENT, WORSE, Arm, Verdict, judge

HERE = Path(__file__).parent
METRICS = metrics_of(ACCURACY)
TEST_ACCURACY, LOSS = METRICS["test_accuracy"], METRICS["test_loss"]
LOOKS = Confirmation().looks
ALIASES = [f"leaky_relu(negative_slope={i / 1000:g})" for i in range(1, 21)]  # names only: all have relu's noise
SMOKE = sys.argv[1:] == ["--smoke"]
TINY = 1e-9  # a margin that nothing lies within: only a difference can be decided


def read_pool() -> dict[str, np.ndarray]:
    """The values of both arms by metric, each (2048, 2)."""
    with open(HERE / "pool.csv", newline="") as file:
        rows = np.array([[float(v) for v in row] for row in list(csv.reader(file))[1:]])
    return {"val_accuracy": rows[:, 1:3], "test_accuracy": rows[:, 3:5], "test_loss": rows[:, 5:7]}


POOL = read_pool()


def spread(name: str) -> float:
    """The standard deviation of the pool's paired differences; for a loss, of the differences of its log."""
    values = np.log(POOL[name]) if METRICS[name].ratio else POOL[name]
    return float(np.std(values[:, 0] - values[:, 1], ddof=1))


# --- counting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A row of the results: hits in n studies, and their share's 95 % interval (Clopper & Pearson 1934). rule: what the
    share should be.
    """

    part: str
    case: str
    hits: int
    n: int
    rule: str

    @property
    def cells(self) -> list[str]:
        ends = stats.binomtest(self.hits, self.n).proportion_ci(0.95)
        shares = (self.hits / self.n, ends.low, ends.high)
        return [self.part, self.case, str(self.n), *(f"{100 * v:.1f}" for v in shares), self.rule]


HEADS = ["part", "case", "studies", "share in %", "from", "to", "should be"]


def count(part: str, case: str, studies: Iterable[bool], rule: str) -> Line:
    hits = [bool(hit) for hit in studies]
    line = Line(part, case, sum(hits), len(hits), rule)
    print("| " + " | ".join(line.cells) + " |", flush=True)
    return line


def draws(n: int) -> int:
    """How many studies are drawn where n are in earnest."""
    return max(2, n // 200) if SMOKE else n


def differs(v: Verdict) -> bool:
    return v.verdict.startswith((BETTER, WORSE))


def says_small(v: Verdict) -> bool:
    return v.verdict == EQUIVALENT or v.verdict.endswith(BY_LESS)


# --- noise ----------------------------------------------------------------------------------------


def two_arms(name: str, n: int, rng: np.random.Generator, shift: float = 0.0) -> tuple[Arm, Arm]:
    """n pairs of the pool. Chance decides which arm is the candidate; `shift` is added to its values (for a loss, to
    their log).
    """
    pairs = POOL[name][rng.choice(len(POOL[name]), n, replace=n > len(POOL[name]))]
    pairs = np.where(rng.random((n, 1)) < 0.5, pairs, pairs[:, ::-1])
    moved = pairs[:, 0] * math.exp(shift) if METRICS[name].ratio else pairs[:, 0] + shift
    return Arm(moved.tolist(), [False] * n), Arm(pairs[:, 1].tolist(), [False] * n)


def first(arms: tuple[Arm, Arm], n: int) -> tuple[Arm, Arm]:
    """The first n seeds of both arms."""
    return part(arms, 0, n)


def part(arms: tuple[Arm, Arm], start: int, end: int) -> tuple[Arm, Arm]:
    """The seeds of both arms from start on, without end."""
    a, b = (Arm(arm.values[start:end], arm.failed[start:end]) for arm in arms)
    return a, b


def several_arms(name: str, arms: int, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """(arms, seeds): equal arms on the same seeds. A seed's initial weights shift all arms alike, by the mean of a pair
    of the pool. Each arm also has noise of its own: half of a pair's difference, times √2, so that the difference of
    any two arms has the standard deviation of the pairs' differences.
    """
    values = POOL[name]
    shared = values[rng.integers(len(values), size=seeds)].mean(1)
    own = values[rng.integers(len(values), size=(arms, seeds))]
    signs = rng.choice([-1, 1], size=(arms, seeds))
    return shared + signs * (own[..., 0] - own[..., 1]) / math.sqrt(2)


# --- 1 to 3: equal arms, looks, the margin --------------------------------------------------------


def equal_arms(rng: np.random.Generator) -> list[Line]:
    out = []
    for name in ("test_accuracy", "test_loss"):
        for n in (10, 20):
            wrong = (differs(judge(METRICS[name], *two_arms(name, n, rng), Rules())) for _ in range(draws(3000)))
            out.append(count("1 equal arms", f"{name}, {n} seeds, 1 candidate", wrong, "≤ 5"))
            wrong = (any_of_three(name, n, rng) for _ in range(draws(1000)))
            out.append(count("1 equal arms", f"{name}, {n} seeds, any of 3 candidates", wrong, "≤ 5"))
    return out


def any_of_three(name: str, n: int, rng: np.random.Generator) -> bool:
    *candidates, base = (Arm(row.tolist(), [False] * n) for row in several_arms(name, 4, n, rng))
    return any(differs(judge(METRICS[name], arm, base, Rules(comparisons=3))) for arm in candidates)


def looking(rng: np.random.Generator) -> list[Line]:
    """Equal arms, with 17 looks after 10 to 160 seeds: corrected for the looks, and as a warning without."""
    out = []
    for margin, stop, n in ((0.005, "stops when equivalent", 1000), (TINY, "only a difference stops it", 400)):
        options = Confirmation(until_decided=True, margin={"test_accuracy": margin})
        arms = [two_arms("test_accuracy", LOOKS[-1], rng) for _ in range(draws(n))]
        corrected = (differs(last_look(a, options.rules(1), margin)) for a in arms)
        out.append(count("2 looks", f"the level that keeps α over all looks, {stop}", corrected, "≤ 5"))
        each_at_alpha = (differs(last_look(a, replace(options.rules(1), looks=()), margin)) for a in arms)
        out.append(count("2 looks", f"level α at each look, {stop}", each_at_alpha, "is more"))
    decided = [study_of(["leaky_relu"], Confirmation(until_decided=True), rng) for _ in range(draws(300))]
    out.append(
        count("2 looks", "the same by `standing` and `compare_finalists`", (differs(v) for (v,) in decided), "≤ 5")
    )
    return out


def last_look(arms: tuple[Arm, Arm], rules: Rules, margin: float) -> Verdict:
    """The verdict of the last look that is taken: the first that decides, or the one after all seeds."""
    verdict = None
    for n in LOOKS:
        verdict = judge(TEST_ACCURACY, *first(arms, n), rules, margin)
        if verdict.decided:
            break
    assert verdict is not None
    return verdict


def at_the_margin(rng: np.random.Generator) -> list[Line]:
    out = []
    for name in ("test_accuracy", "test_loss"):
        metric = METRICS[name]
        shift = math.log1p(metric.margin) if metric.ratio else metric.margin
        for n in (10, 20):
            for sign in (1, -1):
                found = [judge(metric, *two_arms(name, n, rng, sign * shift), Rules()) for _ in range(draws(1000))]
                case = f"{name}, {n} seeds, true difference {'+' if sign > 0 else '−'} margin"
                out.append(
                    count("3 at the margin", f"{case}: equivalent", (v.verdict == EQUIVALENT for v in found), "≤ 5")
                )
                out.append(count("3 at the margin", f"{case}: or by less", map(says_small, found), "≤ 5"))
    rules = Confirmation(until_decided=True).rules(1)
    shifted = (two_arms("test_accuracy", LOOKS[-1], rng, TEST_ACCURACY.margin) for _ in range(draws(500)))
    small = (says_small(last_look(arms, rules, TEST_ACCURACY.margin)) for arms in shifted)
    out.append(count("3 at the margin", "test_accuracy, until decided: equivalent or by less", small, "≤ 5"))
    return out


# --- 4: whole searches among equals ---------------------------------------------------------------


def study_of(specs: list[str], options: Confirmation, rng: np.random.Generator) -> list[Verdict]:
    """The verdicts on finalists that are all as good as the baseline. Their runs are drawn as they are needed."""
    candidates = [Candidate(parse_net(spec)) for spec in (*specs, options.baseline)]
    most = max(options.seeds_at_looks)
    accuracy, loss = (several_arms(name, len(candidates), most, rng) for name in ("test_accuracy", "test_loss"))
    row, recipe, done = {c.activation: i for i, c in enumerate(candidates)}, Recipe(), []
    while True:
        evidence, wanted = standing(Evidence(done), candidates, recipe, options)
        if not wanted:
            return [c.verdict for c in compare_finalists(evidence, options) if c.verdict is not None]
        for entrant, seed in wanted:
            at = row[entrant.tuned.activation], seed - FRESH_SEED
            run = FinalistRun(
                entrant.tuned.activation, {}, seed, accuracy[at], loss[at], False, Curves([1], [[0.5]], [[1.0]])
            )
            done.append(run)


def searched(rng: np.random.Generator, seeds: int = 3) -> tuple[list[str], np.ndarray]:
    """The three best of 20 equal aliases by mean validation accuracy, and all accuracies: (21, seeds)."""
    values = several_arms("val_accuracy", len(ALIASES) + 1, seeds, rng)
    records = [
        TrialRecord(i, spec, {}, "complete", [float(values[i].mean())], Curves()) for i, spec in enumerate(ALIASES)
    ]
    return [c.activation for c in choose_finalists(records, 3, "relu", "maximize")[:-1]], values


def null_searches(rng: np.random.Generator) -> list[Line]:
    fixed, looks = Confirmation(), Confirmation(until_decided=True)
    out = []
    for words, options, studies in (("20 fresh seeds", fixed, 4000), ("until decided", looks, 300)):
        wrong = (any(map(differs, study_of(searched(rng)[0], options, rng))) for _ in range(draws(studies)))
        out.append(count("4 searches among equals", words, wrong, "≤ 5"))
    dipped = (judged_on_the_search(rng) for _ in range(draws(1000)))
    out.append(count("4 searches among equals", "judged on the search's own 20 seeds", dipped, "is more"))
    return out


def judged_on_the_search(rng: np.random.Generator) -> bool:
    """Why fresh seeds are needed: whether verdicts on the numbers that chose the finalists find a difference."""
    chosen, values = searched(rng, 20)
    base = Arm(values[-1].tolist(), [False] * 20)
    arms = [Arm(values[ALIASES.index(spec)].tolist(), [False] * 20) for spec in chosen]
    return any(differs(judge(TEST_ACCURACY, arm, base, Rules(comparisons=3))) for arm in arms)


# --- 5 to 7: power, and the seeds that verdicts advise --------------------------------------------


def power(rng: np.random.Generator) -> list[Line]:
    out = []
    for name in ("test_accuracy", "test_loss"):
        sigma, good = spread(name), 1 if METRICS[name].higher_is_better else -1
        for n in (10, 20):
            least = minimum_detectable_effect(sigma, n, 0.05)
            for times in (0.5, 1.0, 1.5):
                found = (
                    judge(METRICS[name], *two_arms(name, n, rng, good * times * least), Rules()).verdict.startswith(
                        BETTER
                    )
                    for _ in range(draws(3000))
                )
                predicted = power_of_paired_t(times * least, sigma, n, 0.05)
                case = f"{name}, {n} seeds, {times:g} × the minimum detectable effect"
                out.append(count("5 power", case, found, f"{100 * predicted:.0f}"))
    return out


def advice(rng: np.random.Generator) -> list[Line]:
    """With the default margin, where equivalence decides most."""
    cases = ((10, (0.0, 0.001, 0.0025, 0.004, 0.005)), (20, (0.0, 0.0025, 0.005)))
    return advised(rng, TEST_ACCURACY.margin, cases, 400, 500)


def advice_for_a_narrow_margin(rng: np.random.Generator) -> list[Line]:
    """With a margin of 0.2 points, where a difference and equivalence both may decide."""
    shifts = (0.0, 0.0005, 0.001, 0.002, 0.004)
    return advised(rng, 0.002, ((10, shifts), (20, shifts)), 300, 1500)


def advised(
    rng: np.random.Generator, margin: float, cases: Iterable[tuple[int, Iterable[float]]], studies: int, most: int
) -> list[Line]:
    """Studies that so many seeds leave undecided: with the same seeds and more, up to the proposed number, or with as
    many fresh ones.
    """
    out = []
    for n, shifts in cases:
        for shift in shifts:
            undecided = []
            while len(undecided) < draws(studies):
                arms = two_arms("test_accuracy", most, rng, shift)
                proposed = judge(TEST_ACCURACY, *first(arms, n), Rules(), margin).seeds_to_decide
                if proposed is not None:
                    undecided.append((arms, proposed))
            median = np.median([proposed for _, proposed in undecided])
            for start, words in ((0, "with the same seeds and more"), (n, "all fresh")):
                again = (
                    judge(TEST_ACCURACY, *part(arms, start, start + m), Rules(), margin).decided
                    for arms, m in undecided
                )
                narrow = "" if margin == TEST_ACCURACY.margin else f", margin {100 * margin:g} points"
                case = (
                    f"{n} seeds, true difference {100 * shift:g} points{narrow}, median {median:.0f} proposed, {words}"
                )
                out.append(count("6 advised seeds", case, again, "80"))
    return out


def topping_up(rng: np.random.Generator) -> list[Line]:
    """Equal arms with ten seeds and, if undecided, then with the proposed number, which includes the ten or not."""
    out = []
    for kept in (True, False):
        wrong = (differs(after_advice(kept, rng)) for _ in range(draws(2000)))
        words = "with the old seeds" if kept else "all fresh"
        out.append(
            count("7 seeds added by hand", f"equal arms, 10 seeds, then as many as proposed, {words}", wrong, "is more")
        )
    return out


def after_advice(kept: bool, rng: np.random.Generator) -> Verdict:
    arms = two_arms("test_accuracy", 400, rng)
    found = judge(TEST_ACCURACY, *first(arms, 10), Rules())
    if found.seeds_to_decide is None:
        return found
    n = min(390, found.seeds_to_decide)
    start = 0 if kept else 10
    return judge(TEST_ACCURACY, *part(arms, start, start + n), Rules())


# --- the noise itself -----------------------------------------------------------------------------


def noise() -> None:
    for name in ("val_accuracy", "test_accuracy", "test_loss"):
        values = np.log(POOL[name]) if name == "test_loss" else 100 * POOL[name]
        d = values[:, 0] - values[:, 1]
        d = np.concatenate([d, -d])  # chance decides which arm is a: the skewness is 0 by design, the kurtosis is not
        r = np.corrcoef(values.T)[0, 1]
        print(
            f"{name}: arm sd {values.std(ddof=1):.4f}, difference sd {d.std():.4f}, correlation of arms {r:.2f}, "
            f"skew of a − b {stats.skew(values[:, 0] - values[:, 1]):.3f}, kurtosis {stats.kurtosis(d):.3f}, "
            f"mean of a − b {np.mean(values[:, 0] - values[:, 1]):.4f} "
            f"(p {stats.ttest_rel(values[:, 0], values[:, 1]).pvalue:.2f})"
        )


def main() -> None:
    noise()
    print("| " + " | ".join(HEADS) + " |\n| --- | --- | --: | --: | --: | --: | --: |")
    parts = (equal_arms, at_the_margin, power, advice, topping_up, null_searches, looking, advice_for_a_narrow_margin)
    lines = [line for i, part in enumerate(parts) for line in part(np.random.default_rng(i))]
    if SMOKE:
        return
    with open(HERE / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([HEADS, *(line.cells for line in sorted(lines, key=lambda line: line.part))])


if __name__ == "__main__":
    main()
