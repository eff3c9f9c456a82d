"""How many of the functions binary(unary(x), unary(x)) of the default grammar are different, usable, trainable, good?

    python experiments/two_unaries/all.py             # MLP on MNIST-1D; 70 minutes beside other work on 2 cores

There are three rounds, each with the best of the one before. First, all functions train once for 300 steps. Second,
the best 200 train on 3 seeds for 1,000 steps. Both rounds are scored on validation examples. Third, the best 10 are
compared with gelu on 20 fresh seeds and the test set (actsearch.compare). The script writes functions.csv (one row for
each combination) and runs/two_unaries/ (the report).
"""

from __future__ import annotations

import csv
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import actsearch
from actsearch.activations.spec import Spec
from actsearch.data.classification import mnist1d
from actsearch.data.source import Data
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.space.grammar import Grammar, Unusable
from actsearch.training.plan import Plan
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, TrainingBatch

SMOKE = sys.argv[1:] == ["--smoke"]  # a few functions, trained shortly; writes nothing
RECIPE, AT_ONCE = Recipe(), 128
FIRST_STEPS, SECOND_STEPS = (10, 20) if SMOKE else (300, 1000)
SECOND, SECOND_SEEDS, LAST = 200, range(1, 4), 10
CHANCE = 0.10 + 3 * (0.1 * 0.9 / 800) ** 0.5  # an accuracy that guessing seldom exceeds on 800 validation examples


def accuracies(trainer: Trainer, specs: Sequence[Spec], seeds: Sequence[int], steps: int) -> list[float]:
    """The validation accuracy of each spec, as mean over seeds; 0 if a run diverged."""
    recipe = replace(RECIPE, steps=steps, eval_every=steps)
    found = []
    for start in range(0, len(specs), AT_ONCE):
        part = specs[start : start + AT_ONCE]
        (rung,) = TrainingBatch(trainer, [Run((spec,), recipe, seed) for spec in part for seed in seeds])
        accuracy = rung.val_metric.masked_fill(rung.diverged, 0.0).view(len(part), len(seeds))
        found += accuracy.amin(1).where(accuracy.amin(1) == 0, accuracy.mean(1)).tolist()
        print(f"  {start + len(part)} of {len(specs)} functions × {len(seeds)} seeds × {steps} steps", flush=True)
    return found


def main() -> None:
    began = time.perf_counter()
    rows = {text: found for text, found in Grammar().examined()}
    functions = {str(found): found for found in rows.values() if isinstance(found, Spec)}
    why = Counter(found.reason for found in rows.values() if isinstance(found, Unusable))
    same = sum(found is None for found in rows.values())
    print(f"{len(rows)} combinations: {sum(why.values())} unusable {dict(why)}, {same} equal to another, "
          f"{len(functions)} different functions ({time.perf_counter() - began:.0f} s)")  # fmt: skip

    data = Data(mnist1d(), "mnist1d", 800)
    with Trainer(torch.device("cpu")) as trainer:
        trainer.load(Model(mlp, "mlp", data.in_shape, data.goal.out_shape), data, Plan("fused", 8))
        if SMOKE:
            functions = dict(list(functions.items())[:5])
        specs = list(functions.values())
        others = [Spec.of(name) for name in ("identity", "relu", "gelu")]
        first = accuracies(trainer, [*specs, *others], [0], FIRST_STEPS)
        known = dict(zip(map(str, others), first[len(specs) :], strict=True))
        first = dict(zip(functions, first, strict=False))
        print(f"round 1: {sum(a == 0 for a in first.values())} diverged; "
              f"{sum(a > CHANCE for a in first.values())} learn (above {CHANCE:.1%})")  # fmt: skip
        for name, accuracy in known.items():
            print(f"  {sum(a > accuracy for a in first.values())} better than {name} ({accuracy:.1%})")
        best = sorted(first, key=lambda text: -first[text])[:SECOND]
        second = dict(
            zip(best, accuracies(trainer, [functions[t] for t in best], SECOND_SEEDS, SECOND_STEPS), strict=True)
        )
    if SMOKE:
        return
    with open(Path(__file__).with_name("functions.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["combination", "function", "first_accuracy", "second_accuracy"])
        for text, found in rows.items():
            function = str(found) if isinstance(found, Spec) else f"unusable: {found.reason}" if found else "equal"
            told = [f"{found_in[function]:.4f}" if function in found_in else "" for found_in in (first, second)]
            writer.writerow([text, function, *told])
    last = sorted(second, key=lambda text: -second[text])[:LAST]
    print("\n".join(f"  {second[text]:.1%}  {text}" for text in last))
    print(f"{time.perf_counter() - began:.0f} s so far")
    actsearch.compare("mlp", data, [*last, "gelu", "relu"], seeds=20, baseline="gelu", name="two_unaries")


if __name__ == "__main__":
    main()
