"""What passes between the rooms: candidates, what their runs did, what they cost, and the events of a training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actsearch.activations.fingerprint import net_fingerprint
from actsearch.activations.spec import Spec, number, print_net
from actsearch.question.metrics import Direction
from actsearch.question.recipe import Recipe

RunKey = tuple[str, str, int]
"""activation, recipe as JSON, seed"""


@dataclass
class Curves:
    """What the runs of one trial did, rung by rung: each list is [rung][seed]. diagnostics: at some rungs, the fields
    of Diagnostics, means over the runs that have not diverged, with their `step`.
    """

    steps: list[int] = field(default_factory=list)
    val_metric: list[list[float]] = field(default_factory=list)
    val_loss: list[list[float]] = field(default_factory=list)
    train_loss: list[list[float | None]] = field(default_factory=list)
    n_diverged: int = 0
    diagnostics: list[dict[str, Any]] = field(default_factory=list)

    def of(self, objective: str) -> list[list[float]]:
        return self.val_loss if objective == "val_loss" else self.val_metric


@dataclass
class TrialRecord:
    """One trial as it ended. state: complete, pruned, or duplicate of the trial `same_as` (not trained again).

    attrs: what the sampler and the pruner noted about it in Optuna's system attributes.
    """

    number: int
    activation: str
    recipe: dict[str, Any]
    state: str
    values: list[float]
    curves: Curves
    same_as: int | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return candidate_key(self.activation, self.recipe)

    @property
    def training_key(self) -> tuple[str, str]:
        return training_key(self.activation, self.recipe)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        raw = json.loads(text)
        return cls(**{**raw, "curves": Curves(**raw["curves"])})


@dataclass(frozen=True)
class GenerationStarted:
    stage: str
    names: dict[int, str]


@dataclass(frozen=True)
class RungReached:
    """metrics: by trial number, those still live. run_steps: steps of single runs done since the last event."""

    stage: str
    step: int
    metrics: dict[int, dict[str, float]]
    run_steps: int


@dataclass(frozen=True)
class GenerationFinished:
    stage: str
    records: list[TrialRecord]
    skipped_run_steps: int


Event = GenerationStarted | RungReached | GenerationFinished


def rank_key(direction: Direction):
    """Sorts records best first; ties by number."""
    sign = -1 if direction == "maximize" else 1
    return lambda record: (sign * record.values[0], record.number)


@dataclass
class FinalistRun:
    """One training of a finalist and its test score. rate: its learning rate in units of the tuned one. diverged: it
    scored chance, and is counted as that. collapsed: it ended, but no better than an answer that is always the same.
    """

    activation: str
    recipe: dict[str, Any]
    seed: int
    test_metric: float
    test_loss: float
    diverged: bool
    curves: Curves = field(default_factory=Curves)
    rate: float = 1.0
    collapsed: bool = False

    @property
    def key(self) -> RunKey:
        """What makes it this run and no other."""
        return (*candidate_key(self.activation, self.recipe), self.seed)

    @property
    def failed(self) -> bool:
        return self.diverged or self.collapsed

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FinalistRun:
        raw = json.loads(text)
        return cls(**{**raw, "curves": Curves(**raw["curves"])})


def by_candidate(runs: Sequence[FinalistRun]) -> list[list[FinalistRun]]:
    """The runs of each candidate at each rate, in order of seed."""
    groups: dict[tuple[str, str], list[FinalistRun]] = {}
    for run in sorted(runs, key=lambda r: r.seed):
        groups.setdefault(candidate_key(run.activation, run.recipe), []).append(run)
    return list(groups.values())


@dataclass(frozen=True)
class Cost:
    """Times in µs, one per repetition. The nets measured together took turns: repetition i of one stands beside
    repetition i of the other, and what else the machine did then met both. saved_mib: what the forward pass of a
    training step keeps for its backward pass, parameters and the batch aside.
    """

    training_step_us: list[float]
    latency_us: list[float]
    saved_mib: float = math.nan  # of a study measured before this was


@dataclass(frozen=True)
class Candidate:
    """specs: one for the net, or one per layer. recipe: the searched values, by name."""

    specs: tuple[Spec, ...]
    recipe: tuple[tuple[str, Any], ...] = ()

    @property
    def activation(self) -> str:
        return print_net(self.specs)

    @property
    def key(self) -> tuple[str, str]:
        return candidate_key(self.activation, dict(self.recipe))

    @property
    def training_key(self) -> tuple[str, str]:
        return training_key(self.activation, dict(self.recipe))

    def __str__(self) -> str:
        values = [f"{k}={number(v) if isinstance(v, float) else v}" for k, v in self.recipe]
        return self.activation + (f"  [{', '.join(values)}]" if values else "")

    def recipe_for(self, recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, **dict(self.recipe))


def candidate_key(activation: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """What a candidate is called, wherever it is stored."""
    return activation, json.dumps(recipe, sort_keys=True)


def training_key(activation: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two candidates the same training: equal functions, whatever they are called."""
    return net_fingerprint(activation), json.dumps(recipe, sort_keys=True)


@dataclass(frozen=True)
class Evidence:
    """What verdicts are made from. runs: the finalists'. target: the accuracy that steps are counted to, if they are.
    costs: by activation; empty if they were not measured.
    """

    runs: Sequence[FinalistRun] = ()
    target: float | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)


NOTHING = Evidence()
