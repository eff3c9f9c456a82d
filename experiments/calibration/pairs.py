"""Real pairs: relu against gelu, and one recipe against another. How much do they share, and do verdicts hold there?

    python experiments/calibration/pairs.py            # prints three tables: 5 minutes on one core
    python experiments/calibration/pairs.py --smoke    # a few studies of a few pairs, in seconds

The pairs are made from tuned.csv (see tuned.py): every arm has the same 32 seeds. For the second table the differences
of a pair are moved so that there is no true difference, and studies are drawn from them with repetition. How often
`judge` then says better or worse is as exact as 32 differences can tell: their own skewness is partly chance. So the
first row is a control, where the same is done to relu against itself: 32 pairs at a time of pool.csv's 2,048.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from actsearch.question.metrics import ACCURACY, metrics_of
from actsearch.question.options import Rules
from actsearch.verdicts.verdict import BETTER, WORSE, Arm, judge

SMOKE = sys.argv[1:] == ["--smoke"]
HERE = Path(__file__).parent
METRIC = metrics_of(ACCURACY)["test_accuracy"]
SEEDS, SIZES, STUDIES, CONTROLS = 32, (10, 20), 2 if SMOKE else 300, 2 if SMOKE else 40
MORE = (20, 40, 80, 160, 320)  # seeds of the third table
OF_USE, CHANCE = 0.9, 0.2  # of the model's best accuracy; an accuracy that a net without any learning does not exceed
COLLAPSE = 0.05  # a run so far below the median of its arm has collapsed
AT_BEST = 4  # recipes of each activation that count as its best
Key = tuple[str, float, float]  # activation, learning rate, weight decay


@dataclass(frozen=True)
class Trained:
    """An arm: test accuracies (SEEDS,) and the mean validation accuracy."""

    test: np.ndarray
    val: float

    @property
    def collapses(self) -> bool:
        return bool(self.test.min() < np.median(self.test) - COLLAPSE)


Pair = tuple[Trained, Trained]


def arms_of(model: str) -> dict[Key, Trained]:
    """All arms of a model, as they stand in tuned.csv."""
    rows: dict[Key, dict[int, tuple[float, float]]] = {}
    with (HERE / "tuned.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["model"] == model:
                cell = rows.setdefault((row["activation"], float(row["lr"]), float(row["weight_decay"])), {})
                cell[int(row["seed"])] = float(row["test_accuracy"]), float(row["val_accuracy"])
    values = {key: np.array([cell[seed] for seed in range(SEEDS)]) for key, cell in rows.items()}
    return {key: Trained(v[:, 0], float(v[:, 1].mean())) for key, v in values.items()}


def groups_of(model: str) -> dict[str, list[Pair]]:
    """The pairs of a model, by what is compared."""
    arms = arms_of(model)
    best = max(arm.test.mean() for arm in arms.values())
    of_use = {key for key, arm in arms.items() if np.median(arm.test) > OF_USE * best}
    learns = {key for key, arm in arms.items() if np.median(arm.test) > CHANCE}
    one_recipe = [(("gelu", *key[1:]), key) for key in arms if key[0] == "relu"]
    two_recipes = list(itertools.combinations([key for key in arms if key[0] == "relu"], 2))
    top = {name: sorted((k for k in arms if k[0] == name), key=lambda k: -arms[k].val) for name in ("gelu", "relu")}

    def pairs(keys: Sequence[tuple[Key, Key]], among: set[Key], collapsing: bool | None = None) -> list[Pair]:
        found = [(arms[a], arms[b]) for a, b in keys if {a, b} <= among]
        return [p for p in found if collapsing is None or (p[0].collapses or p[1].collapses) == collapsing]

    others = [(a, b) for a, b in one_recipe if not {a, b} <= of_use]
    both = arms[top["gelu"][0]], arms[top["relu"][0]]
    return {
        "gelu and relu, each at its best": [both],
        "… less the seed that is farthest off": [without_farthest(both)],
        "… at one of its best four": pairs(
            list(itertools.product(top["gelu"][:AT_BEST], top["relu"][:AT_BEST])), of_use, False
        ),
        "gelu and relu, one recipe": pairs(one_recipe, of_use, False),
        "relu, two recipes": pairs(two_recipes, of_use, False),
        "a run collapses": pairs([*one_recipe, *two_recipes], of_use, True),
        "gelu and relu, one bad recipe": pairs(others, learns),
    }


def without_farthest(pair: Pair) -> Pair:
    """The pair without the seed whose difference is farthest from the median."""
    away = farthest(pair[0].test - pair[1].test)
    a, b = (Trained(np.delete(arm.test, away), arm.val) for arm in pair)
    return a, b


def farthest(d: np.ndarray) -> int:
    return int(np.argmax(np.abs(d - np.median(d))))


def controls(rng: np.random.Generator) -> list[Pair]:
    """Pairs of equal arms with 32 seeds each: relu against relu, from pool.csv."""
    with (HERE / "pool.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([[float(row[f"test_accuracy_{arm}"]) for arm in "ab"] for row in rows])
    values = rng.permutation(values)[: CONTROLS * SEEDS].reshape(CONTROLS, SEEDS, 2)
    return [(Trained(v[:, 0], math.nan), Trained(v[:, 1], math.nan)) for v in values]


# --- what pairs share -----------------------------------------------------------------------------


def shared(pair: Pair) -> list[float]:
    """The standard deviation of the differences, the correlation, skewness, excess kurtosis, and how many times the
    seeds a study without pairs would need.
    """
    a, b = (arm.test for arm in pair)
    d = a - b
    worth = (a.var(ddof=1) + b.var(ddof=1)) / d.var(ddof=1)
    shape = stats.skew(d, bias=False), stats.kurtosis(d, bias=False)
    return [100 * d.std(ddof=1), float(np.corrcoef(a, b)[0, 1]), *map(float, shape), float(worth)]


def middle(values: np.ndarray) -> str:
    """The median, and between which values the middle half lies."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{median:.2f}" if len(values) == 1 else f"{median:.2f} ({low:.2f} to {high:.2f})"


# --- do verdicts hold -----------------------------------------------------------------------------


def centred(pair: Pair) -> np.ndarray:
    """The differences without their mean, and with the variance that this costs."""
    d = pair[0].test - pair[1].test
    return math.sqrt(len(d) / (len(d) - 1)) * (d - d.mean())


def wrong_by_t(pair: Pair, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """The share of studies with n seeds whose t test finds a difference, and of those of them that do not contain the
    seed that is farthest off.
    """
    d = centred(pair)
    seeds = rng.integers(len(d), size=(10 * STUDIES, n))
    drawn = d[seeds]
    found = np.abs(drawn.mean(1)) > stats.t.isf(0.025, n - 1) * drawn.std(1, ddof=1) / math.sqrt(n)
    return float(found.mean()), float((found & (seeds != farthest(d)).all(1)).mean())


def wrong(pair: Pair, n: int, studies: int, rng: np.random.Generator) -> np.ndarray:
    """(2,): the share of these studies with n seeds that say better, or worse, though there is no true difference."""
    base = pair[1].test
    equal = base + centred(pair)
    hits = np.zeros(2)
    for _ in range(studies):
        seeds = rng.integers(len(base), size=n)
        candidate, baseline = (Arm(values[seeds].tolist(), [False] * n) for values in (equal, base))
        verdict = judge(METRIC, candidate, baseline, Rules()).verdict
        hits += verdict.startswith(BETTER), verdict.startswith(WORSE)
    return hits / studies


def over_pairs(pairs: Sequence[Pair], shares: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean share. Arms are drawn, because many pairs have one in common."""
    names = {id(arm): i for i, arm in enumerate({id(arm): arm for pair in pairs for arm in pair}.values())}
    first, second = (np.array([names[id(pair[i])] for pair in pairs]) for i in (0, 1))
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=4000)
    weights = times[:, first] * times[:, second]
    weights = weights[weights.sum(1) > 0]
    low, high = np.quantile(weights @ shares / weights.sum(1), (0.025, 0.975))
    return float(low), float(high)


def told(pairs: Sequence[Pair], n: int, rng: np.random.Generator) -> list[str]:
    """The share of wrong verdicts with its interval, the better among them, and the smallest and largest of a pair."""
    studies = STUDIES if len(pairs) > 1 else 10 * STUDIES
    found = np.array([wrong(pair, n, studies, rng) for pair in pairs])
    shares = found.sum(1)
    if len(pairs) == 1:  # Clopper & Pearson: of the studies, not of other pairs
        ends = stats.binomtest(round(shares[0] * studies), studies).proportion_ci(0.95)
        low, high = ends.low, ends.high
    else:
        low, high = over_pairs(pairs, shares, rng)
    mean = f"{100 * shares.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return [mean, f"{100 * found[:, 0].mean():.1f} %", f"{100 * shares.min():.1f} to {100 * shares.max():.1f} %"]


def main() -> None:
    rng = np.random.default_rng(0)
    groups = {"relu against itself (pool.csv)": controls(rng)}
    for model in ("mlp", "cnn1d"):
        groups |= {f"{model}: {name}": pairs for name, pairs in groups_of(model).items() if pairs}
    if SMOKE:
        groups = {name: pairs[:2] for name, pairs in groups.items()}
    print(
        "| | pairs | sd of the differences, points | correlation | skewness | excess kurtosis | pairing is worth, × |"
    )
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name, pairs in groups.items():
        columns = np.array([shared(pair) for pair in pairs]).T
        print(f"| {name} | {len(pairs)} | " + " | ".join(map(middle, columns)) + " |", flush=True)
    heads = [f"{n} seeds: {what}" for n in SIZES for what in ("wrong (95 %)", "better among them", "by pair")]
    print("\n| no true difference | pairs | " + " | ".join(heads) + " |\n| --- | --: |" + " --: |" * len(heads))
    for name, pairs in groups.items():
        cells = [cell for n in SIZES for cell in told(pairs, n, rng)]
        print(f"| {name} | {len(pairs)} | " + " | ".join(cells) + " |", flush=True)

    print("\n| the t test alone | " + " | ".join(f"{n} seeds" for n in MORE) + " |\n| --- |" + " --: |" * len(MORE))
    for name, pairs in groups.items():
        found = (np.mean([wrong_by_t(pair, n, rng) for pair in pairs], 0) for n in MORE)
        cells = [f"{100 * all_of_them:.1f} % ({100 * without:.1f})" for all_of_them, without in found]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
