"""Would sign flips of whole seeds, all candidates together, need fewer seeds than Bonferroni's correction?

    python experiments/calibration/joint.py            # prints two tables: 2 minutes on one core
    python experiments/calibration/joint.py --smoke    # a few studies, in seconds

Candidates share the baseline's seeds, so their differences correlate: by 0.5 where all nets are alike, by more where
the candidates are near to each other. Three rules for a difference, all at 5 % for all candidates together:

- Bonferroni: the paired t test and the exact sign-flip test, both at α/m. This is what verdicts do.
- joint: the largest |t| of all candidates, against its distribution when the signs of whole seeds are flipped
  (Westfall & Young 1993, single step).
- mixed: the t test at α/m, and instead of the second test the joint one at α.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from scipy import stats

from actsearch.verdicts.statistics import fewest_for_sign_flips

SMOKE = sys.argv[1:] == ["--smoke"]
ALPHA, RULES = 0.05, ("Bonferroni", "joint", "mixed")
DRAWN, MOST = 1000, 45


def differences(rng: np.random.Generator, n: int, m: int, correlation: float, heavy: bool) -> np.ndarray:
    """(n, m): n seeds, m candidates that are as good as the baseline; normal, or with the tails of a t of 3."""
    draw = (lambda size: rng.standard_t(3, size)) if heavy else rng.standard_normal
    return math.sqrt(correlation) * draw((n, 1)) + math.sqrt(1 - correlation) * draw((n, m))


def sign_patterns(rng: np.random.Generator, n: int) -> np.ndarray:
    """All patterns of n signs up to a common sign, or drawn ones and that without flips."""
    if n <= 11:
        return 1.0 - 2.0 * (np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1)
    return np.concatenate([np.ones((1, n)), rng.choice([-1.0, 1.0], (DRAWN - 1, n))])


def found(d: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """(3, m): which candidates each rule calls different."""
    n, m = d.shape
    scaled = d / np.sqrt((d**2).sum(0))  # of a flipped column |t| grows with the sum: the squares stay
    seen, flipped = np.abs(scaled.sum(0)), np.abs(signs @ scaled)
    joint = (flipped.max(1)[:, None] >= seen - 1e-9).mean(0) <= ALPHA
    p = 2 * stats.t.sf(np.abs(d.mean(0) / d.std(0, ddof=1) * math.sqrt(n)), n - 1)
    t = p <= ALPHA / m
    enough = n >= fewest_for_sign_flips(ALPHA / m)
    # above 11 seeds too few patterns are drawn for α/m, and the sign-flip test hardly ever disagrees with the t test
    alone = (flipped >= seen - 1e-9).mean(0) <= ALPHA / m if n <= 11 else np.ones(m, dtype=bool)
    return np.stack([t & alone & enough, joint, t & joint])


def seeds_for(rule: int, m: int, correlation: float, effect: float, studies: int) -> int:
    """The fewest seeds with which 80 % of studies find one candidate that differs by `effect` standard deviations."""
    rng = np.random.default_rng(0)
    for n in range(6, MOST):
        signs, hits = sign_patterns(rng, n), 0
        for _ in range(studies):
            d = differences(rng, n, m, correlation, False)
            d[:, 0] += effect
            hits += found(d, signs)[rule, 0]
        if hits >= 0.8 * studies:
            return n
    return MOST


def main() -> None:
    studies = 20 if SMOKE else 400
    effects = (2.5,) if SMOKE else (1.0, 1.5, 2.5)
    print("| candidates | correlation | " + " | ".join(f"{e:g} sd: {', '.join(RULES)}" for e in effects) + " |")
    print("| --: | --: |" + " --: |" * len(effects))
    for correlation in (0.5, 0.8):
        for m in (3, 9, 19, 50):
            cells = [
                ", ".join(str(seeds_for(rule, m, correlation, e, studies)) for rule in range(len(RULES)))
                for e in effects
            ]
            print(f"| {m} | {correlation} | {' | '.join(cells)} |", flush=True)
    print("\n| equal arms | " + " | ".join(RULES) + " |\n| --- |" + " --: |" * len(RULES))
    for heavy in (False, True):
        for n in (6, 10, 20):
            rng = np.random.default_rng(1)
            signs = sign_patterns(rng, n)
            wrong = [found(differences(rng, n, 9, 0.5, heavy), signs).any(1) for _ in range(10 * studies)]
            shares = " | ".join(f"{100 * share:.1f} %" for share in np.mean(wrong, 0))
            print(f"| 9 candidates, {n} seeds, {'tails of a t of 3' if heavy else 'normal'} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
