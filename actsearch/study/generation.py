"""Trains the members of one generation, rung by rung, and fills their curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from actsearch.question.recipe import Recipe
from actsearch.records import Candidate, Curves, Event, RungReached
from actsearch.study.pruning import Pruning
from actsearch.training.diagnostics import entry, mean_diagnostics
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, TrainingBatch
from actsearch.verdicts.statistics import mean


class Numbered(Protocol):
    """Something to train: a candidate with a number."""

    @property
    def number(self) -> int: ...
    @property
    def candidate(self) -> Candidate: ...


Ends = dict[int, dict[str, float]]
"""What each member has reached, by its number: the objectives that training tells, by name."""


class Training(Protocol):
    """How the members of a generation are trained: by the engine, or in a user's own program."""

    def train(
        self,
        stage: str,
        members: Sequence[Numbered],
        curves: Mapping[int, Curves],
        seeds: Sequence[int],
        pruning: Pruning | None = None,
    ) -> Generator[Event, None, Ends]:
        """Trains each member on each seed and fills its curves. Members that are pruned stop at that rung."""
        ...


@dataclass(frozen=True)
class Engine:
    """Training by our own engine, all runs of a generation from rung to rung."""

    trainer: Trainer
    recipe: Recipe

    def train(
        self,
        stage: str,
        members: Sequence[Numbered],
        curves: Mapping[int, Curves],
        seeds: Sequence[int],
        pruning: Pruning | None = None,
    ) -> Generator[Event, None, Ends]:
        if not members:
            return {}
        n, name = len(seeds), f"val_{self.trainer.goal.metric.name}"
        runs = [Run(m.candidate.specs, m.candidate.recipe_for(self.recipe), seed) for m in members for seed in seeds]
        batch = TrainingBatch(self.trainer, runs)
        live, before = list(members), 0
        place = {member.number: i * n for i, member in enumerate(members)}
        ends: Ends = {}
        for rung in batch:
            metrics = {}
            for member in live:
                at = slice(place[member.number], place[member.number] + n)
                curve = curves[member.number]
                curve.steps.append(rung.step)
                curve.val_metric.append(rung.val_metric[at].tolist())
                curve.val_loss.append(rung.val_loss[at].tolist())
                curve.train_loss.append([v if math.isfinite(v) else None for v in rung.train_loss[at].tolist()])
                curve.n_diverged = int(rung.diverged[at].sum())
                inside = mean_diagnostics(rung.diagnostics[at])
                if inside is not None:
                    curve.diagnostics.append(entry(rung.step, inside))
                metrics[member.number] = {
                    name: mean(curve.val_metric[-1]),
                    "val_loss": mean(curve.val_loss[-1]),
                    "train_loss": mean([v for v in curve.train_loss[-1] if v is not None]),
                }
            ends |= metrics
            yield RungReached(stage, rung.step, metrics, len(live) * n * (rung.step - before))
            last = rung.step == self.recipe.steps
            numbers = [member.number for member in live]
            pruned = set() if pruning is None else pruning.at_rung(numbers, rung.step, last, metrics)
            batch.stop(itertools.chain.from_iterable(range(place[p], place[p] + n) for p in pruned))
            live, before = [member for member in live if member.number not in pruned], rung.step
        return ends
