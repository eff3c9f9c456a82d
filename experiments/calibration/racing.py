"""Would racing choose better finalists than three seeds for every candidate, with equally many runs?

    python experiments/calibration/racing.py            # prints the tables: 1 minute on one core
    python experiments/calibration/racing.py --smoke    # a few studies, in seconds

The search gives every candidate three seeds and makes the three best finalists. Here other rules spend the same number
of full runs where they think that they matter. All rules meet the same studies: the same candidates, and for each seed
the same noise, of which candidates of one seed share a part. A study's regret is the true mean of its best candidate
less that of the best finalist, or less that of the finalist that the rule puts first. The true means are drawn from
what real searches found, less the noise, and the noise is that of pool.csv. In the last rows, from tuned.csv, all runs
are real.
"""

from __future__ import annotations

import csv
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

SMOKE = sys.argv[1:] == ["--smoke"]
HERE = Path(__file__).parent
FINALISTS, MARGIN, MOST = 3, 0.5, 64  # MOST: seeds of one candidate
GRID = np.arange(0, 100, 0.1)  # points of accuracy
ROUNDS = 10  # in which the adaptive rules spend their runs
SIZES = {16: 4000, 40: 4000, 300: 1000}  # candidates: studies
LEARNS = 13.2  # an accuracy that guessing seldom exceeds
Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""Draws so many studies of so many candidates: their true means (studies, n) and runs (studies, n, MOST), in points."""


# --- studies --------------------------------------------------------------------------------------


def column(path: str, name: str) -> np.ndarray:
    """The numbers of one column of a CSV file, in points; empty cells are left out."""
    with open(HERE / path, newline="") as file:
        return np.array([100 * float(row[name]) for row in csv.DictReader(file) if row[name]])


@functools.cache
def noise() -> tuple[float, float]:
    """The standard deviations of a run's noise that all candidates of a seed share, and of the rest, from the pool."""
    a, b = (column("pool.csv", f"val_accuracy_{arm}") for arm in "ab")
    variance, shared = (np.var(a, ddof=1) + np.var(b, ddof=1)) / 2, np.cov(a, b)[0, 1]
    return math.sqrt(shared), math.sqrt(variance - shared)


def without_noise(found: np.ndarray, sd: float) -> np.ndarray:
    """The probabilities of true means on GRID, if `found` are true means and normal noise (Richardson 1972, Lucy 1974).

    Thirty steps of expectation maximisation from equal probabilities; many more would end in a few single points.
    """
    likelihood = stats.norm.pdf(found[:, None], GRID, sd)
    chances = np.full(len(GRID), 1 / len(GRID))
    for _ in range(30):
        joint = likelihood * chances
        chances = (joint / joint.sum(1, keepdims=True)).mean(0)
    return chances


def from_means(draw_means: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]) -> Draw:
    def draw(rng: np.random.Generator, studies: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        means, (shared, own) = draw_means(rng, (studies, n)), noise()
        runs = means[..., None] + own * rng.standard_normal((studies, n, MOST), dtype=np.float32)
        return means, runs + shared * rng.standard_normal((studies, 1, MOST), dtype=np.float32)

    return draw


def shrunk(found: np.ndarray, seeds: int, failing: float = 0.0) -> Draw:
    """A space whose candidates scored `found`, as means over these seeds; a further share of it never learns."""
    chances = without_noise(found, noise()[1] / math.sqrt(seeds))

    def means(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        learned = rng.choice(GRID, p=chances, size=size) + rng.uniform(-0.05, 0.05, size)
        return np.where(rng.random(size) < failing, 10.0, learned)

    return from_means(means)


def recipes(model: str) -> Draw:
    """Relu and gelu with 30 recipes each: 60 candidates, whose runs are drawn from the 32 trained ones."""
    with open(HERE / "tuned.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    cells: dict[tuple[str, ...], dict[int, float]] = {}
    for row in rows:
        cell = cells.setdefault((row["activation"], row["lr"], row["weight_decay"]), {})
        cell[int(row["seed"])] = 100 * float(row["val_accuracy"])
    values = np.array([[cell[seed] for seed in sorted(cell)] for cell in cells.values()])

    def draw(rng: np.random.Generator, studies: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = rng.permuted(np.tile(np.arange(len(values)), (studies, 1)), axis=1)[:, :n]
        seeds = rng.integers(values.shape[1], size=(studies, MOST))
        return values.mean(1)[chosen], values[chosen[:, :, None], seeds[:, None, :]]

    return draw


def spaces() -> Iterator[tuple[str, Draw, tuple[int, ...]]]:
    """What the candidates are, how studies are drawn, and how many candidates they have."""
    first = column("../two_unaries/functions.csv", "first_accuracy")
    learns = first > LEARNS
    yield "two unaries, 300 steps", shrunk(first[learns], 1, 1 - learns.mean()), (16, 40, 300)
    yield "the best 200 of them", shrunk(column("../two_unaries/functions.csv", "second_accuracy"), 3), (16, 40, 300)
    found = column("../default_search/leaderboard.csv", "val_accuracy_mean")
    yield "the article's", shrunk(found, 3), (16, 40, 300)
    yield "the article's, not shrunk", from_means(lambda rng, size: rng.choice(found, size)), (16, 40, 300)
    for model in ("mlp", "cnn1d"):
        yield f"recipes, {model}", recipes(model), (16, 40)


# --- rules: runs in, the three finalists out, the best first -----------------------------------------


Rule = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Of runs (studies, n, MOST) it sees so many in each study. Returns its finalists, (studies, FINALISTS)."""
Plan = Callable[[int, int], list[tuple[int, int]]]
"""Of the numbers of candidates and of runs: stages of (candidates that go on, seeds that they have then)."""


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """(studies, k): which candidates score best, in order."""
    return np.argsort(-scores, 1)[:, :k]


def staged(runs: np.ndarray, stages: list[tuple[int, int]]) -> np.ndarray:
    """Candidates of a stage are compared on all the seeds that they have, which are the same for all of them."""
    live = np.tile(np.arange(runs.shape[1]), (len(runs), 1))
    scores = runs[:, :, : stages[0][1]].mean(2)
    for k, seeds in stages[1:]:
        live = np.take_along_axis(live, best(scores, k), 1)
        scores = np.take_along_axis(runs[:, :, :seeds], live[:, :, None], 1).mean(2)
    return np.take_along_axis(live, best(scores, FINALISTS), 1)


def fixed(seeds: int) -> Rule:
    return lambda runs, total, rng: staged(runs, [(runs.shape[1], seeds)])


def halving(n: int, total: int) -> list[tuple[int, int]]:
    """One seed for all; then the better half goes on with twice the seeds, until six are left or the runs are spent.

    Sequential halving (Karnin, Koren & Somekh 2013), which ends with twice as many as become finalists.
    """
    stages, spent, least = [(n, 1)], n, 2 * FINALISTS
    while True:
        k, seeds = stages[-1]
        k = max(least, math.ceil(k / 2))
        more = min(seeds, (total - spent) // k)
        if k == least or more < seeds:
            return [*stages, (k, seeds + (total - spent) // k)]
        stages.append((k, 2 * seeds))
        spent += k * seeds


def two_stages(n: int, total: int, seeds: int, share: float) -> list[tuple[int, int]]:
    """So many seeds for all, and what is left to this share of them."""
    k = max(FINALISTS + 1, math.ceil(share * n))
    return [(n, seeds), (k, seeds + (total - n * seeds) // k)]


def estimate(runs: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """(studies, n): means of the first `seeds` runs of each candidate, less what the seeds add to all alike.

    What a seed adds is a random effect, as large as in the pool; five rounds of alternating least squares.
    """
    has = (np.arange(runs.shape[2]) < seeds[..., None]).astype(np.float32)
    by_candidate, by_seed = np.einsum("snm,snm->sn", runs, has), np.einsum("snm,snm->sm", runs, has)
    shared, own = noise()
    held, added = has.sum(1) + (own / shared) ** 2, np.zeros((len(runs), runs.shape[2]))
    means = by_candidate / seeds
    for _ in range(5):
        added = (by_seed - np.einsum("sn,snm->sm", means.astype(np.float32), has)) / held
        means = (by_candidate - np.take_along_axis(added.cumsum(1), seeds - 1, 1)) / seeds
    return means


def adaptive(share: Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]) -> Rule:
    """One seed for all, and then ten rounds, in which `share` says how many runs each candidate gets."""

    def rule(runs: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
        n = runs.shape[1]
        seeds = np.ones(runs.shape[:2], dtype=int)
        for part in np.array_split(np.arange(total - n), ROUNDS):
            seeds = np.minimum(seeds + share(estimate(runs, seeds), seeds, len(part), rng), runs.shape[2])
        return best(estimate(runs, seeds), FINALISTS)

    return rule


def ocba(means: np.ndarray, seeds: np.ndarray, n_runs: int, rng: np.random.Generator) -> np.ndarray:
    """Runs in proportion to 1 / (distance to the border between the third and the fourth)² (Chen et al. 2008, OCBA-m).

    The variance of a mean is added to the squared distance: else those that are near to the border by luck get all.
    """
    ranked = -np.sort(-means, 1)
    border = ranked[:, FINALISTS - 1 : FINALISTS + 1].mean(1, keepdims=True)
    weight = 1 / ((means - border) ** 2 + noise()[1] ** 2 / seeds)
    wanted = (seeds.sum(1, keepdims=True) + n_runs) * weight / weight.sum(1, keepdims=True)
    lack = np.maximum(wanted - seeds, 1e-9)
    lack *= n_runs / lack.sum(1, keepdims=True)
    whole = np.floor(lack).astype(int)
    left = n_runs - whole.sum(1, keepdims=True)
    return whole + (np.argsort(np.argsort(whole - lack, 1), 1) < left)


def top_two(rank: int) -> Rule:
    """Each run: the true means are drawn from what they may be, and one of two neighbours in rank gets it by chance.

    With rank 1 it is one of the first two (after Russo 2020), with rank 3 the last finalist or who comes next.
    """

    def share(means: np.ndarray, seeds: np.ndarray, n_runs: int, rng: np.random.Generator) -> np.ndarray:
        more, rows = np.zeros(means.shape, dtype=int), np.arange(len(means))
        spread = noise()[1] / np.sqrt(seeds)
        for _ in range(n_runs):
            drawn = means + spread * rng.standard_normal(means.shape, dtype=np.float32)
            two = np.argpartition(-drawn, (rank - 1, rank), 1)[:, rank - 1 : rank + 1]
            more[rows, two[rows, rng.integers(2, size=len(rows))]] += 1
        return more

    return adaptive(share)


@dataclass(frozen=True)
class Way:
    """A column of the tables. runs: how many there are for each candidate, on average."""

    name: str
    rule: Rule
    runs: int = 3


def by_stages(plan: Plan) -> Rule:
    return lambda runs, total, rng: staged(runs, plan(runs.shape[1], total))


WAYS = (
    Way("3 seeds each", fixed(3)),
    Way("halving", by_stages(halving)),
    Way("1 seed, a third goes on", by_stages(lambda n, total: two_stages(n, total, 1, 1 / 3))),
    Way("2 seeds, a quarter goes on", by_stages(lambda n, total: two_stages(n, total, 2, 1 / 4))),
    Way("OCBA", adaptive(ocba)),
    Way("top two, at the border", top_two(FINALISTS)),
    Way("top two", top_two(1)),
    Way("halving, 2 runs each", by_stages(halving), 2),
    Way("2 seeds each", fixed(2), 2),
    Way("6 seeds each", fixed(6), 6),
    Way("12 seeds each", fixed(12), 12),
)


# --- tables ---------------------------------------------------------------------------------------


def regrets(draw: Draw, n: int, studies: int) -> np.ndarray:
    """(ways, 2, studies): of the best of three finalists, and of the one that is put first."""
    rng, parts = np.random.default_rng(n), []
    for size in blocks(studies, n):
        means, runs = draw(rng, size, n)
        chosen = [np.take_along_axis(means, way.rule(runs, way.runs * n, rng), 1) for way in WAYS]
        parts.append(np.array([[means.max(1) - c.max(1), means.max(1) - c[:, 0]] for c in chosen]))
    return np.concatenate(parts, 2)


def with_more_candidates(draw: Draw, n: int, studies: int) -> np.ndarray:
    """(ways, studies): the true mean of the best finalist, where 3n runs are spent on n, 1.5n, 2n or 3n candidates."""
    rng, parts = np.random.default_rng(n), []
    for size in blocks(studies, 3 * n):
        means, runs = draw(rng, size, 3 * n)
        found = []
        for k, plan in MORE.values():
            of = round(k * n)
            chosen = staged(runs[:, :of], plan(of, 3 * n))
            found.append(np.take_along_axis(means, chosen, 1).max(1))
        parts.append(np.array(found))
    return np.concatenate(parts, 1)


MORE: dict[str, tuple[float, Plan]] = {
    "n, 3 seeds each": (1, lambda n, total: [(n, 3)]),
    "n, halving": (1, halving),
    "1.5n, 2 seeds each": (1.5, lambda n, total: [(n, 2)]),
    "1.5n, halving": (1.5, halving),
    "2n, halving": (2, halving),
    "3n, 1 seed each": (3, lambda n, total: [(n, 1)]),
}


def blocks(studies: int, n: int) -> list[int]:
    """So many studies in parts that fit into memory."""
    return [len(part) for part in np.array_split(np.arange(studies), max(1, studies * n // 60_000))]


def table(title: str, names: Sequence[str], found: dict[tuple[str, int], np.ndarray], form: str) -> None:
    """One row for each space: means over studies, and the largest standard error of a difference to the first."""
    print(f"\n{title}\n")
    print("| space | n | " + " | ".join(names) + " | ± |")
    print("| --- | --: |" + " --: |" * (len(names) + 1))
    for (space, n), values in found.items():
        error = ((values - values[0]).std(1, ddof=1) / math.sqrt(values.shape[1])).max()
        cells = [format(mean, form) for mean in values.mean(1)]
        print(f"| {space} | {n} | " + " | ".join(cells) + f" | {error:{form.strip('+')}} |", flush=True)


def main() -> None:
    shared, own = noise()
    print(f"noise of a run: {shared:.2f} points for all candidates of a seed, {own:.2f} for each")
    found, more = {}, {}
    for name, draw, sizes in spaces():
        for n in sizes:
            found[name, n] = regrets(draw, n, 8 if SMOKE else SIZES[n])
        if 300 in sizes:
            more[name, 40] = with_more_candidates(draw, 40, 8 if SMOKE else SIZES[40])
    names = [way.name for way in WAYS]
    table("Regret of the best finalist, in points", names, {key: v[:, 0] for key, v in found.items()}, ".3f")
    table("Regret of the finalist that is put first", names, {key: v[:, 1] for key, v in found.items()}, ".3f")
    beyond = {key: 100.0 * (v[:, 0] > MARGIN) for key, v in found.items()}
    table(f"Studies whose best finalist is over {MARGIN} points below the best, in %", names, beyond, ".1f")
    more = {key: v - v[0] for key, v in more.items()}
    table("True mean of the best finalist with 3n runs, against 3 seeds each", list(MORE), more, "+.2f")


if __name__ == "__main__":
    main()
