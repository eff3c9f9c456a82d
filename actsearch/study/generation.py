"""Trains the members of one generation, rung by rung, and fills their curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from actsearch.question.recipe import Recipe
from actsearch.records import Candidate, Curves, Event, RungReached
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


@dataclass
class Member:
    """A trial of the generation in flight. number: in the storage. trial: its copy in the mirror."""

    number: int
    trial: optuna.Trial
    candidate: Candidate


def train_curves(
    stage: str,
    members: Sequence[Numbered],
    curves: Mapping[int, Curves],
    trainer: Trainer,
    recipe: Recipe,
    seeds: Sequence[int],
    prune: Callable[[Sequence[Any], int, bool, Mapping[int, dict[str, float]]], set[int]],
) -> Iterator[Event]:
    """Trains each member on each seed and fills its curves. Members that `prune` returns at a rung stop there."""
    if not members:
        return
    n = len(seeds)
    runs = [Run(m.candidate.specs, m.candidate.recipe_for(recipe), seed) for m in members for seed in seeds]
    batch = TrainingBatch(trainer, runs)
    live, before = list(members), 0
    place = {member.number: i * n for i, member in enumerate(members)}
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
                f"val_{trainer.goal.metric.name}": mean(curve.val_metric[-1]),
                "val_loss": mean(curve.val_loss[-1]),
                "train_loss": mean([v for v in curve.train_loss[-1] if v is not None]),
            }
        yield RungReached(stage, rung.step, metrics, len(live) * n * (rung.step - before))
        pruned = prune(live, rung.step, rung.step == recipe.steps, metrics)
        batch.stop(itertools.chain.from_iterable(range(place[p], place[p] + n) for p in pruned))
        live, before = [member for member in live if member.number not in pruned], rung.step
