"""A copy of the study in memory, on which samplers and pruners work."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from actsearch.errors import ActSearchError, one_line
from actsearch.question.metrics import Direction
from actsearch.space.grammar import Unusable
from actsearch.space.space import SearchSpace
from actsearch.study import optuna_private
from actsearch.study.samplers import SamplerFactory

ASKS, OF_SAMPLER = 16, 4  # proposals for one trial until one is new: in all, and from the sampler (others: at random)
MOST_ASKS, PATIENCE = 2000, 32  # proposals of a grammar until one is usable: in all, and from the sampler


class Mirror:
    """A copy of the study in memory, on which the sampler and the pruner work."""

    def __init__(self, study: optuna.Study, make_sampler: SamplerFactory, pruner: optuna.pruners.BasePruner) -> None:
        self.make_sampler = make_sampler
        self.study = optuna.create_study(
            study_name=study.study_name, directions=study.directions, sampler=make_sampler(0, 0), pruner=pruner
        )
        for trial in study.get_trials(deepcopy=False):
            self.study.add_trial(trial)

    def ask(self, space: SearchSpace, number: int, n_trials: int, known: set[tuple[str, str]]) -> FrozenTrial:
        """A new trial, running and with its parameters. Its candidate is not `known`, if a new one can be found.

        Samplers tend to propose a good fixed spec again, which would teach nothing. Rejected proposals become failed
        trials of this mirror, which samplers do not look at. The reasons why functions of a grammar were unusable are
        kept with the trial.
        """
        first = space.opening(number, n_trials)
        refused: dict[str, str] = {}
        for attempt in range(MOST_ASKS):
            self.study.sampler = self.make_sampler(number, attempt)
            if attempt >= OF_SAMPLER + min(len(refused), PATIENCE):
                self.study.sampler = optuna.samplers.RandomSampler(seed=self.make_sampler.seed_of(number, attempt))
            if first:
                self.study.enqueue_trial(dict(first))
            try:
                trial = self.study.ask()
                try:
                    candidate = space.suggest(trial)
                except Unusable as unusable:
                    refused[unusable.text] = unusable.reason
                    optuna_private.end(trial, TrialState.FAIL)
                    continue
            except (ValueError, NotImplementedError, RuntimeError) as error:  # the sampler does not suit this space
                raise ActSearchError(f"sampler: it cannot propose: {one_line(error)} Try sampler=tpe.") from error
            if candidate.training_key not in known or attempt >= ASKS + len(refused) - 1:
                break
            optuna_private.end(trial, TrialState.FAIL)
        else:
            text, reason = refused.popitem()
            raise ActSearchError(
                f"search_space.activations: none of {MOST_ASKS} proposals was usable. The last: '{text}', {reason}."
            )
        known.add(candidate.training_key)
        trial.set_user_attr("activation", candidate.activation)
        trial.set_user_attr("recipe", dict(candidate.recipe))
        if refused:
            trial.set_user_attr("refused", refused)
        return self.study.get_trials(deepcopy=False)[trial.number]

    def adopt(self, number: int) -> optuna.Trial:
        return optuna_private.running(self.study, self.study.get_trials(deepcopy=False)[number])


def check_sampler(make_sampler: SamplerFactory, space: SearchSpace, directions: Sequence[Direction]) -> None:
    """Raises ActSearchError if the sampler cannot propose for this space and these objectives."""
    study = optuna.create_study(directions=directions)
    Mirror(study, make_sampler, optuna.pruners.NopPruner()).ask(space, len(space.entries), 0, set())
