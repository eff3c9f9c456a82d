"""Asks Optuna's pruner about the trials of a generation while they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from actsearch.study import optuna_private
from actsearch.study.mirror import Mirror


class Pruning:
    """The pruner, asked about the trials of one generation by the first objective.

    mirror: a mirror of the study, in which the generation's trials run. anew: makes another one. active: whether it
    can prune anything: Optuna prunes single objectives only. pruned: the numbers of the trials that it has ended.
    """

    def __init__(
        self, mirror: Mirror, numbers: Sequence[int], objectives: Sequence[str], anew: Callable[[], Mirror]
    ) -> None:
        self.trials = {number: mirror.adopt(number) for number in numbers}
        self.active = len(objectives) == 1 and not isinstance(mirror.study.pruner, optuna.pruners.NopPruner)
        self.pruned: set[int] = set()
        self._mirror, self._objective, self._anew = mirror, objectives[0], anew

    def at_rung(
        self, live: Sequence[int], step: int, last: bool, metrics: Mapping[int, Mapping[str, float]]
    ) -> set[int]:
        """Which of the live trials end here. All of them have reached this rung, and are asked about in their order."""
        pruned = set()
        if len(self._mirror.study.directions) > 1:
            return pruned
        for number in live:
            trial, value = self.trials[number], metrics[number][self._objective]
            trial.report(value, step)
            if not last and trial.should_prune():
                optuna_private.end(trial, TrialState.PRUNED, [value])
                pruned.add(number)
        self.pruned |= pruned
        return pruned

    def alone(self, number: int) -> Callable[[int, float], bool]:
        """A function that says of one trial, rung by rung, whether it ends there.

        It sees the generations before and this trial, so that the answer does not depend on who trains at what time.
        """
        mirror = self._anew()
        self.trials[number] = trial = mirror.adopt(number)

        def ends(step: int, value: float) -> bool:
            trial.report(value, step)
            if not trial.should_prune():
                return False
            optuna_private.end(trial, TrialState.PRUNED, [value])
            self.pruned.add(number)
            return True

        return ends

    def attrs(self, number: int) -> dict[str, Any]:
        """What the sampler and the pruner noted about a trial."""
        trial = self.trials[number]
        return trial.study.get_trials(deepcopy=False)[trial.number].system_attrs
