"""Which rule for adding seeds until a verdict is decided spends the fewest? Three rules that are all right.

    python experiments/calibration/looks.py            # prints a table: 2 minutes on one core
    python experiments/calibration/looks.py --smoke    # a few studies, in seconds

Each study draws up to 160 pairs of pool.csv (see pool.py), adds a true difference, and looks at the paired t interval
at each look until it excludes 0 or lies within the margin. The rules differ in the looks and in half the width of the
interval; the sign-flip test, which only takes verdicts back, is left out for all.
"""

from __future__ import annotations

import sys

import numpy as np
from calibrate import POOL, TEST_ACCURACY, spread
from scipy import stats

from actsearch.question.options import LOOKS
from actsearch.verdicts.looks import level_at_looks

SMOKE = sys.argv[1:] == ["--smoke"]
STUDIES = 100 if SMOKE else 20_000
FIVE = (10, 20, 40, 80, 160)
EACH = tuple(range(10, 161))


def constant(looks: tuple[int, ...], level: float) -> np.ndarray:
    """The critical t at each look: always the same level."""
    return stats.t.isf(level / 2, np.array(looks) - 1)


def anytime(looks: tuple[int, ...], alpha: float, typical: float) -> np.ndarray:
    """The critical t of an e-process, which may be looked at whenever one likes: where the Bayes factor of a normal
    effect with standard deviation `typical` (in standard deviations of a difference) reaches 1 / alpha (Lai 1976; Wang
    & Ramdas 2025).
    """
    n = np.array(looks, dtype=float)
    shrunk = 1 + n * typical**2
    # ((1 + t²/ν) / (1 + t²/(ν · shrunk)))^(n/2) / √shrunk = 1 / alpha
    ratio = (np.sqrt(shrunk) / alpha) ** (2 / n)
    least = np.where(ratio < shrunk, (ratio - 1) / (1 - np.minimum(ratio / shrunk, 1 - 1e-12)), np.inf)
    return np.sqrt((n - 1) * least)


def rules(alpha: float) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    return {
        "5 looks, α/5 each": (FIVE, constant(FIVE, alpha / 5)),
        "5 looks, one constant level": (FIVE, constant(FIVE, level_at_looks(alpha, FIVE))),
        "17 looks, one constant level": (LOOKS, constant(LOOKS, level_at_looks(alpha, LOOKS))),
        "17 looks, anytime-valid, effects of 0.5 sd": (LOOKS, anytime(LOOKS, alpha, 0.5)),
        "17 looks, anytime-valid, effects of 1 sd": (LOOKS, anytime(LOOKS, alpha, 1.0)),
        "each seed from 10 on, anytime-valid, effects of 0.5 sd": (EACH, anytime(EACH, alpha, 0.5)),
    }


def outcomes(
    d: np.ndarray, looks: tuple[int, ...], critical: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row of differences: the seeds that were spent, whether a difference was found, whether equivalence."""
    n = np.array(looks)
    means = d.cumsum(1)[:, n - 1] / n
    squares = (d**2).cumsum(1)[:, n - 1]
    half = critical * np.sqrt((squares - n * means**2) / (n - 1) / n)
    differs, equal = np.abs(means) > half, np.abs(means) + half < margin
    equal &= ~differs
    decided = differs | equal
    at = np.where(decided.any(1), decided.argmax(1), len(n) - 1)
    rows = np.arange(len(d))
    return n[at], differs[rows, at], equal[rows, at]


def drawn(rng: np.random.Generator) -> np.ndarray:
    """(STUDIES, 160): differences of equal arms in units of their standard deviation."""
    values = POOL["test_accuracy"]
    pairs = values[rng.integers(len(values), size=(STUDIES, max(LOOKS)))]
    return (pairs[..., 0] - pairs[..., 1]) * rng.choice([-1, 1], size=pairs.shape[:2]) / spread("test_accuracy")


def main() -> None:
    margin = TEST_ACCURACY.margin / spread("test_accuracy")
    d = drawn(np.random.default_rng(0))
    effects = (0.0, 0.3, 0.5, 0.86, 1.25)
    for comparisons in (1, 9):
        for name, width in ((f"margin of {margin:.2f} sd", margin), ("no margin", 0.0)):
            print(f"\n{comparisons} comparison{'s' if comparisons > 1 else ''}, {name}: seeds spent (decided, found)\n")
            print("| rule | wrong at 0 | " + " | ".join(f"{e:g} sd" for e in effects) + " |")
            print("| --- |" + " --: |" * (len(effects) + 1))
            for rule, (looks, critical) in rules(0.05 / comparisons).items():
                cells = []
                wrong = 0.0
                for effect in effects:
                    spent, found, equal = outcomes(d + effect, looks, critical, width)
                    wrong = found.mean() if effect == 0 else wrong
                    cells.append(f"{spent.mean():.1f} ({100 * (found | equal).mean():.0f}, {100 * found.mean():.0f} %)")
                print(f"| {rule} | {100 * wrong:.2f} % | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
