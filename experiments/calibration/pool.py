"""Makes a pool of real differences between equal arms: relu twice, with equal initial weights and two batch orders.

    python experiments/calibration/pool.py            # 2,048 pairs of the MLP on MNIST-1D: 15 minutes on 2 cores

It writes pool.csv into its folder: for each pair the validation and test accuracy and the test loss of both arms.
calibrate.py draws its comparisons from it.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch

from actsearch.activations.spec import Spec
from actsearch.data.classification import mnist1d
from actsearch.data.source import Data
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.training.plan import Plan
from actsearch.training.reference import WEIGHTS, Run, stream
from actsearch.training.trainer import Trainer, TrainingBatch

SMOKE = sys.argv[1:] == ["--smoke"]  # a few short runs; writes nothing
PAIRS, AT_ONCE, STEPS = (4, 2, 20) if SMOKE else (2048, 64, 1000)


class Twins(Model):
    """A model for which seeds 2i and 2i + 1 have the same initial weights; their batch orders differ."""

    def build(self, specs, seed, init):
        return super().build(specs, FIRST_OF.get(seed, seed), init)


FIRST_OF = {stream(2 * i + 1, WEIGHTS): stream(2 * i, WEIGHTS) for i in range(PAIRS)}


def main() -> None:
    data = Data(mnist1d(), "mnist1d", 800)
    model = Twins(mlp, "mlp", data.in_shape, data.goal.out_shape)
    recipe, relu = Recipe(steps=STEPS), (Spec.of("relu"),)
    rows = []
    with Trainer(torch.device("cpu")) as trainer:
        trainer.load(model, data, Plan("fused", 8))
        for start in range(0, 2 * PAIRS, 2 * AT_ONCE):
            seeds = range(start, start + 2 * AT_ONCE)
            batch = TrainingBatch(trainer, [Run(relu, recipe, seed) for seed in seeds])
            *_, last = batch
            accuracy, loss, _ = zip(*batch.score(*data.test()), strict=True)
            for i in range(0, len(seeds), 2):
                pair = [f"{float(v[j]):.6g}" for v in (last.val_metric, accuracy, loss) for j in (i, i + 1)]
                rows.append([seeds[i] // 2, *pair])
            print(f"{len(rows)} of {PAIRS} pairs", flush=True)
    if SMOKE:
        return
    with open(Path(__file__).with_name("pool.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "pair",
                "val_accuracy_a",
                "val_accuracy_b",
                "test_accuracy_a",
                "test_accuracy_b",
                "test_loss_a",
                "test_loss_b",
            ]
        )
        writer.writerows(rows)


if __name__ == "__main__":
    main()
