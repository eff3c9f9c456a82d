"""Does the interval for examples like those of the test set contain the truth, and the one for these examples too?

    python experiments/calibration/examples.py            # prints a table: 10 minutes on one core
    python experiments/calibration/examples.py --smoke    # a few studies, in seconds

Each study draws a test set, and nets of both arms that are right or wrong on each of its examples. An example has a
chance of being right that both arms share, and a difference between the arms of its own, with standard deviation τ; a
seed shifts all chances of an arm by 0.5 points. The truth is the mean difference over all examples that could be drawn.
"""

from __future__ import annotations

import sys

import numpy as np

from actsearch.verdicts.statistics import population_difference

SMOKE = sys.argv[1:] == ["--smoke"]
SEEDS = (10, 20, 40, 160)
DIFFERENCE, SEED_STD = 0.01, 0.005


def chances(rng: np.random.Generator, n: int, tau: float) -> np.ndarray:
    """(2, n): the chance that the candidate and the baseline are right, by example; 67 % in the mean."""
    shared, own = rng.beta(1.2, 0.6, n), rng.normal(DIFFERENCE, tau, n)
    return np.clip([shared + own / 2, shared - own / 2], 0, 1)


def main() -> None:
    rng = np.random.default_rng(0)
    print("| test examples | τ | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |")
    print("| --: | --: |" + " --: |" * len(SEEDS))
    for n_examples, studies in ((1_000, 4_000), (10_000, 2_000)):
        drawn = 4 if SMOKE else studies
        for tau in (0.0, 0.03, 0.07, 0.16):
            arms = chances(np.random.default_rng(1), 5_000_000, tau)
            truth = float((arms[0] - arms[1]).mean())
            covers = np.zeros((len(SEEDS), 2))
            for _ in range(drawn):
                p = chances(rng, n_examples, tau)[:, None].astype(np.float32)
                shift = rng.normal(0, SEED_STD, (2, max(SEEDS), 1)).astype(np.float32)
                right = rng.random((2, max(SEEDS), n_examples), dtype=np.float32) < p + shift
                for i, n in enumerate(SEEDS):
                    found = population_difference(right[0, :n], right[1, :n])
                    covers[i] += found.here.ci_low < truth < found.here.ci_high, found.ci_low < truth < found.ci_high
            cells = [f"{100 * these / drawn:.0f} → {100 * like / drawn:.1f} %" for these, like in covers]
            print(f"| {n_examples:,} | {100 * tau:g} points | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
