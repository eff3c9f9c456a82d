"""Runs of a user's own training as a search and a tuning need them: each candidate on some seeds, with its curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from actsearch.errors import ActSearchError
from actsearch.own.run import OwnRun
from actsearch.question.metrics import Metric
from actsearch.records import Candidate, Curves
from actsearch.study.generation import Ends, Numbered
from actsearch.study.pruning import Pruning
from actsearch.study.store import Results
from actsearch.verdicts.statistics import mean

Point = tuple[int, float, float, float | None]
"""Step, value of the first objective, validation loss (NaN if it is not reported), training loss (None likewise)."""


@dataclass(frozen=True)
class RunsWanted:
    """An event of a study: it goes on when these runs are among those that are kept.

    ends: asked at each rung of a run whether the run ends there; None: none does. check: called with each run that has
    ended; raises where the study cannot go on.
    """

    stage: str
    runs: list[OwnRun]
    ends: Callable[[OwnRun], bool] | None = None
    check: Callable[[OwnRun], None] = lambda run: None


class Runs:
    """The runs of a study, in its storage and by key.

    Failed runs are written once a run has ended well: where nothing works, the fault is not theirs, and the same
    command then trains them again.
    """

    def __init__(self, kept: Results[OwnRun]) -> None:
        self._kept, self._by_key, self._unwritten = kept, {}, []
        for run in kept.all():
            self._note(run)

    def _note(self, run: OwnRun) -> None:
        if not (run.stopped and run.key in self._by_key):
            self._by_key[run.key] = run

    def add(self, run: OwnRun, at_once: bool = False) -> None:
        """Keeps a run. at_once: writes it even if none has ended well."""
        self._note(run)
        self._unwritten.append(run)
        if at_once or any(not other.error for other in self._by_key.values()):
            for one in self._unwritten:
                self._kept.add(one, one.seconds)
            self._unwritten = []

    def get(self, run: OwnRun) -> OwnRun | None:
        """The run of this activation, these settings and this seed, if it is there."""
        return self._by_key.get(run.key)

    def missing(self, runs: Sequence[OwnRun]) -> list[OwnRun]:
        """Those that are not there as a whole."""
        return [run for run in runs if (known := self.get(run)) is None or known.stopped]

    def all(self) -> list[OwnRun]:
        return list(self._by_key.values())


@dataclass
class Trials:
    """Implements `Training` for a user's own.

    settings: of all. objectives: what runs are judged by, the first one by the pruner. first: a whole run that went
    before; a pruner is asked up to its last step.
    """

    runs: Runs
    settings: Mapping[str, Any]
    objectives: Sequence[Metric]
    first: OwnRun
    _consumed: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def train(
        self,
        stage: str,
        members: Sequence[Numbered],
        curves: Mapping[int, Curves],
        seeds: Sequence[int],
        pruning: Pruning | None = None,
    ) -> Generator[Any, None, Ends]:
        """With a pruner, it judges the first seed's run of each; the others are trained where that came to its end."""
        if not members:
            return {}
        runs = {m.number: [run_of(m.candidate, self.settings, seed) for seed in seeds] for m in members}
        if pruning is not None and pruning.active:
            yield from self._pruned({number: row[0] for number, row in runs.items()}, pruning)
            runs = {number: row[:1] if number in pruning.pruned else row for number, row in runs.items()}
        stopped = set() if pruning is None else pruning.pruned
        live = [row for number, row in runs.items() if number not in stopped]
        if wanted := self.runs.missing([row[i] for i in range(len(seeds)) for row in live]):
            yield RunsWanted(stage, wanted)
        found = {number: [self._there(run) for run in row] for number, row in runs.items()}
        worst = self._worst([run for row in found.values() for run in row], stage)
        ends: Ends = {}
        for number, row in found.items():
            fill(curves[number], row, self.objectives[0].name, worst, self._consumed if number in stopped else {})
            ends[number] = {
                metric.name: mean([worst[metric.name] if self._why(run) else run.last[metric.name] for run in row])
                for metric in self.objectives
            }
            if number in stopped:  # its value is that of the rung at which it was stopped
                ends[number][self.objectives[0].name] = mean(curves[number].val_metric[-1])
        return ends

    def _there(self, run: OwnRun) -> OwnRun:
        found = self.runs.get(run)
        assert found is not None
        return found

    def _why(self, run: OwnRun) -> str:
        return next((why for metric in self.objectives if (why := run.why(metric.name))), "")

    def _worst(self, runs: Sequence[OwnRun], stage: str) -> dict[str, float]:
        """By objective, the worst value of these runs that did not fail, and of the first.

        Raises ActSearchError if all of several failed: then the fault is not one activation's.
        """
        good = [run for run in runs if not self._why(run)]
        if not good and len(runs) > 1:
            raise ActSearchError(f"every run of the {stage} failed. The first, {runs[0]}: {self._why(runs[0])}")
        return {
            m.name: (min if m.higher_is_better else max)(run.last[m.name] for run in (*good, self.first))
            for m in self.objectives
        }

    def _pruned(self, runs: Mapping[int, OwnRun], pruning: Pruning) -> Iterator[RunsWanted]:
        """Trains a run of each trial, and lets the pruner end it; what is there already is judged as it was."""
        judges = {run.key: pruning.alone(number) for number, run in runs.items()}
        last, name = max(step for step, *_ in points(self.first, self.objectives[0].name)), self.objectives[0].name

        def ends(run: OwnRun) -> bool:
            for i, (step, value, *_) in enumerate(points(run, name)):
                if i < self._consumed.get(run.key, 0):
                    continue
                self._consumed[run.key] = i + 1
                if step < last and judges[run.key](step, value):
                    return True
            return False

        for run in runs.values():
            if (known := self.runs.get(run)) is not None and not ends(known) and known.stopped:
                self._consumed.pop(run.key)  # it is trained anew, as a whole
        missing = [run for number, run in runs.items() if number not in pruning.pruned]
        if missing := self.runs.missing(missing):
            yield RunsWanted("search", missing, ends)


def run_of(candidate: Candidate, settings: Mapping[str, Any], seed: int) -> OwnRun:
    return OwnRun(candidate.activation, {**settings, **dict(candidate.recipe)}, seed)


def points(run: OwnRun, name: str) -> list[Point]:
    """The rungs at which a run reported a metric, each with the losses that it had reported by then."""
    found, losses = [], {}
    for i, rung in enumerate(run.rungs, start=1):
        losses |= rung
        if name in rung:
            found.append(
                (int(rung.get("step", i)), rung[name], losses.get("val_loss", math.nan), losses.get("train_loss"))
            )
    return found


def fill(
    curves: Curves, runs: Sequence[OwnRun], name: str, worst: Mapping[str, float],
    upto: Mapping[tuple[str, str, int], int] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Fills the curves of runs that may have different numbers of rungs: as many as all have, the last with the ends.

    A failed run has the worst value at each. upto: how many points of a run count.
    """
    series = [[] if run.why(name) else points(run, name)[: upto.get(run.key)] for run in runs]
    good = [one for one in series if one]
    if not good:
        good = [[(1, worst[name], math.nan, None)]]
    n = min(map(len, good))
    chosen = [[*one[: n - 1], one[-1]] if one else [] for one in series]
    for i in range(n):
        here = [one[i] if one else (0, worst[name], math.nan, None) for one in chosen]
        of_good = [one[i] for one in chosen if one] or [good[0][0]]
        curves.steps.append(max(step for step, *_ in of_good) if i == n - 1 else of_good[0][0])
        curves.val_metric.append([value for _, value, _, _ in here])
        curves.val_loss.append([loss for _, _, loss, _ in here])
        curves.train_loss.append([loss for *_, loss in here])
    curves.n_diverged = sum(not one for one in series)
