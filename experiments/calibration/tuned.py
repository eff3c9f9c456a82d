"""What the choice of a recipe adds to chance: equal arms, each tuned by itself, on the noise of real training.

python experiments/calibration/tuned.py pool     # the pool: relu and gelu, 30 recipes, 32 seeds: 25 minutes on 2 cores
python experiments/calibration/tuned.py          # the table: a quarter of a minute

Two arms with the same activation are tuned on different seeds, by the code that tunes finalists, and then compared on
20 fresh seeds. In a study both are tuned on the same seeds, so this is the worst case.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from actsearch.activations.spec import Spec, print_net
from actsearch.data.classification import mnist1d
from actsearch.data.source import Data
from actsearch.models import cnn1d, mlp
from actsearch.models.model import Model
from actsearch.question.metrics import ACCURACY
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate
from actsearch.space.space import SearchSpace
from actsearch.study.generation import Engine
from actsearch.study.tuning import axes_of, by_final_metric, tune_recipes
from actsearch.training.plan import Plan
from actsearch.training.reference import Evaluation, Run
from actsearch.training.trainer import Trainer, TrainingBatch

SMOKE = sys.argv[1:] == ["--smoke"]  # two short recipes, which are not written, and a few studies
POOL = Path(__file__).with_name("tuned.csv")
MODELS = {"mlp": mlp, "cnn1d": cnn1d}
RATES, DECAYS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16), (0.01, 0.1, 0.3, 1.0, 3.0)
SEEDS, STUDIES, STEPS = (2, 5, 20) if SMOKE else (32, 400, Recipe().steps)
FRESH, MARGIN = 20, 0.005
Key = tuple[str, float, float]  # activation, learning rate, weight decay


def pool() -> None:
    """Trains every recipe with every seed, and writes validation and test accuracy."""
    data = Data(mnist1d(), "mnist1d", 800)
    rows: list[list[Any]] = []
    for name, function in MODELS.items():
        model = Model(function, name, data.in_shape, data.goal.out_shape)
        with Trainer(torch.device("cpu")) as trainer:
            trainer.load(model, data, Plan("fused", 8))
            for activation in ("relu", "gelu"):
                for lr in RATES:
                    recipes = [replace(Recipe(), steps=STEPS, lr=lr, weight_decay=decay) for decay in DECAYS]
                    runs = [Run((Spec.of(activation),), r, seed) for r in recipes for seed in range(SEEDS)]
                    batch = TrainingBatch(trainer, runs)
                    *_, last = batch
                    tests = batch.score(*data.test())
                    for run, val, test in zip(runs, last.val_metric.tolist(), tests, strict=True):
                        recipe = [run.recipe.lr, run.recipe.weight_decay, run.seed]
                        rows.append([name, activation, *recipe, f"{val:.5f}", f"{test.metric:.5f}"])
                    print(name, activation, lr, flush=True)
                    if SMOKE:
                        return
    with POOL.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "activation", "lr", "weight_decay", "seed", "val_accuracy", "test_accuracy"])
        writer.writerows(rows)


class FromPool:
    """A Trainer that draws: seed i of a run is the pool's seed order[i]."""

    cores, device = 1, torch.device("cpu")

    def __init__(self, val: dict[Key, np.ndarray], order: np.ndarray, goal: Any) -> None:
        self.val, self.order, self.goal = val, order, goal

    def start(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    def advance(self, stopped: set[int]) -> Iterator[tuple[int, Evaluation]]:
        for i, run in enumerate(self.runs):
            known = self.val.get((print_net(run.specs), run.recipe.lr, run.recipe.weight_decay))
            value = 0.1 if known is None else float(known[self.order[run.seed]])  # beyond the pool nothing is better
            yield i, Evaluation(run.recipe.steps, value, 1 - value, 1 - value)


class Nothing:
    """Kept results: none."""

    def all(self) -> list[Any]:
        return []

    def add(self, *_: Any) -> None:
        return None


def choose(val: dict[Key, np.ndarray], activation: str, order: np.ndarray, goal: Any) -> Key:
    recipe = replace(Recipe(), eval_every=Recipe().steps)
    axes = axes_of(SearchSpace(["relu"], {}, n_slots=1, base=recipe), "auto")
    trainer: Any = FromPool(val, order, goal)
    kept: Any = Nothing()
    training = Engine(trainer, recipe)
    events = tune_recipes(kept, [Candidate((Spec.of(activation),))], training, axes, by_final_metric(ACCURACY), 3)
    while True:
        try:
            next(events)
        except StopIteration as end:
            values = dict(end.value.candidates[0].recipe)
            return activation, values["lr"], values["weight_decay"]


def table() -> None:
    from actsearch.data.goal import classification

    goal = classification(10)
    found: dict[str, dict[Key, dict[str, list[float]]]] = {}
    with POOL.open() as file:
        for row in csv.DictReader(file):
            key = row["activation"], float(row["lr"]), float(row["weight_decay"])
            cell = found.setdefault(row["model"], {}).setdefault(key, {"val": [], "test": []})
            cell["val"].append(float(row["val_accuracy"]))
            cell["test"].append(float(row["test_accuracy"]))
    critical = stats.t.isf(0.025, FRESH - 1)
    print("| | recipes chosen | sd of the true difference | called different | beyond the margin |")
    print("| --- | --: | --: | --: | --: |")
    for model, cells in found.items():
        val = {key: np.array(cell["val"]) for key, cell in cells.items()}
        test = {key: np.array(cell["test"]) for key, cell in cells.items()}
        for activation in ("relu", "gelu"):
            rng = np.random.default_rng(0)
            chosen, gaps, wrong, large = [], [], 0, 0
            for _ in range(STUDIES):
                order = rng.permutation(len(val[activation, RATES[0], DECAYS[0]]))
                half = len(order) // 2
                one, other = (
                    choose(val, activation, np.resize(part, 15), goal) for part in (order[:half], order[half:])
                )
                chosen += [one, other]
                gap = test[one].mean() - test[other].mean()
                gaps.append(gap)
                # the noise of a pair of runs that differ in the batch order alone, as in pool.csv
                spread = math.sqrt(test[one].var(ddof=1) * (1 - 0.59) * 2)
                d = gap + spread * rng.standard_normal(FRESH)
                width = critical * d.std(ddof=1) / math.sqrt(FRESH)
                wrong += abs(d.mean()) > width
                large += abs(d.mean()) > width and abs(d.mean()) + width > MARGIN
            print(
                f"| {model}, {activation} | {len(set(chosen))} | {100 * np.std(gaps):.2f} points | "
                f"{100 * wrong / STUDIES:.1f} % | {100 * large / STUDIES:.1f} % |",
                flush=True,
            )


def main() -> None:
    if SMOKE or sys.argv[1:] == ["pool"]:
        pool()
    if sys.argv[1:] != ["pool"]:
        table()


if __name__ == "__main__":
    main()
