"""The data that pass between the rooms: candidates, results of their runs, their costs, and events of a training."""

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
from actsearch.question.options import FRESH_SEED
from actsearch.question.recipe import Recipe

RunKey = tuple[str, str, int]
"""(activation, recipe values as JSON, seed)"""


@dataclass
class Curves:
    """The learning curves of one trial's runs. Each list is indexed [rung][seed]; steps: the step of each rung.

    diagnostics: for some of the rungs, the `step` and the fields of Diagnostics, averaged over the runs that have not
    diverged.
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
    """A trial that has ended.

    state: complete, pruned, or duplicate, which means that the trial `same_as` trained an equal candidate before and
    this one was not trained. values: one for each objective. attrs: what the sampler and the pruner stored about the
    trial in Optuna's system attributes.
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
    """The live trials reached a rung.

    metrics: by trial number. run_steps: the steps since the last event, summed over all live runs.
    """

    stage: str
    step: int
    metrics: dict[int, dict[str, float]]
    run_steps: int


@dataclass(frozen=True)
class GenerationFinished:
    stage: str
    records: list[TrialRecord]


Event = GenerationStarted | RungReached | GenerationFinished


def rank_key(direction: Direction):
    """A sort key that puts the best records first, and equally good ones in the order of their numbers."""
    sign = -1 if direction == "maximize" else 1
    return lambda record: (sign * record.values[0], record.number)


@dataclass
class FinalistRun:
    """One training of a finalist and its test score.

    rate: its learning rate as a multiple of the tuned one. diverged: the training diverged, and the scores are those of
    chance. collapsed: the training ended, but the net is no better than one that always gives the same answer.
    of_each: by metric, the test examples' numbers whose mean it is (packed.py).
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
    of_each: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> RunKey:
        """The key that tells this run from all others."""
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
    """The runs in groups: one for each candidate at each rate, sorted by seed."""
    groups: dict[tuple[str, str], list[FinalistRun]] = {}
    for run in sorted(runs, key=lambda r: r.seed):
        groups.setdefault(candidate_key(run.activation, run.recipe), []).append(run)
    return list(groups.values())


@dataclass(frozen=True)
class Cost:
    """The measured cost of a net: times in µs, one per repetition, and memory in MiB.

    Nets that are measured together take turns, so that repetition i of one and repetition i of another meet the same
    other load of the machine. saved_mib: what the forward pass of a training step keeps for its backward pass, without
    the parameters and the batch.
    """

    training_step_us: list[float]
    latency_us: list[float]
    saved_mib: float = math.nan  # NaN in a study whose costs were measured before this field existed


@dataclass(frozen=True)
class Candidate:
    """What a trial proposes. specs: one for the whole net, or one per slot. recipe: searched (name, value) pairs."""

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
    """The key under which a candidate is stored: its activation, and its recipe values as JSON."""
    return activation, json.dumps(recipe, sort_keys=True)


def training_key(activation: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """The key of a training. Candidates with equal functions have the same one, whatever their functions are called."""
    return net_fingerprint(activation), json.dumps(recipe, sort_keys=True)


@dataclass(frozen=True)
class Evidence:
    """What verdicts are made from.

    runs: the finalists' runs. target: the accuracy up to which steps are counted; None if they are not counted. costs:
    by activation; empty if they were not measured. first_seed: the smallest of the runs' seeds.
    """

    runs: Sequence[FinalistRun] = ()
    target: float | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    first_seed: int = FRESH_SEED


NOTHING = Evidence()
