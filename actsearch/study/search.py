"""The search: ask for a generation, train it rung by rung, prune, tell. Its state is in Optuna's storage.

`run_trials` is a generator of events; its caller shows and logs them. Nothing here sees the test set.

A search that is killed and started again gives the same answer, because samplers and pruners work on a mirror of the
study in memory. It is made anew for each generation, and its sampler is seeded from (study.seed, trial number). The
storage receives each trial with all its parameters at once, later all results of a generation, and then the trials are
told. After a kill, a generation without results is trained again from its start; one with results is only told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from actsearch.errors import ActSearchError
from actsearch.question.options import StudyOptions
from actsearch.records import (
    Candidate,
    Curves,
    Event,
    GenerationFinished,
    GenerationStarted,
    TrialRecord,
    training_key,
)
from actsearch.space.space import SearchSpace
from actsearch.study import optuna_private
from actsearch.study.generation import Training
from actsearch.study.mirror import Mirror
from actsearch.study.pruning import Pruning
from actsearch.study.samplers import SamplerFactory
from actsearch.study.store import records
from actsearch.verdicts.statistics import mean


@dataclass(frozen=True)
class Member:
    """A trial of the generation in flight. number: in the storage."""

    number: int
    candidate: Candidate


def run_trials(
    study: optuna.Study,
    training: Training,
    space: SearchSpace,
    options: StudyOptions,
    make_sampler: SamplerFactory,
    pruner: optuna.pruners.BasePruner,
    latency_us: Callable[[Candidate], float],
) -> Generator[Event, None, None]:
    """Runs the study up to options.n_trials, from where it stopped. latency_us: measures a candidate's forward pass.

    Raises ActSearchError where nothing says how many trials, and where all runs of the first generation failed.
    """
    if options.n_trials is None:
        raise ActSearchError("study.n_trials=null: say how many, e.g. study.n_trials=40.")
    study.sampler = optuna.samplers.RandomSampler()  # never asked: the mirror has the sampler that proposes
    _fail_what_is_not_ours(study)
    while True:
        anew = lambda: Mirror(study, make_sampler, pruner)  # noqa: E731
        numbers = _ask(study, anew(), space, options)
        if not numbers:
            return
        pruning = Pruning(anew(), numbers, options.objectives, anew)
        generation = [Member(number, space.suggest(trial)) for number, trial in pruning.trials.items()]
        yield GenerationStarted("search", {member.number: str(member.candidate) for member in generation})
        results = _written(study, generation)
        if results is None:
            known = {r.training_key: r for r in records(study) if r.state != "duplicate"}
            results = yield from _train(generation, known, pruning, training, options, latency_us)
            _write(study, generation, results)
        trials = study.get_trials(deepcopy=False)
        pruned = {r.number for r in (*records(study), *results) if r.state == "pruned"}
        for member, result in zip(generation, results, strict=True):
            same = result.number if result.same_as is None else result.same_as
            _tell(study, trials[member.number], result, options.objectives[0], same in pruned)
        yield GenerationFinished("search", results)


def _fail_what_is_not_ours(study: optuna.Study) -> None:
    """Ends what others asked for in this study, or queued there, as failed: nothing says what to train.

    Raises ActSearchError if they finished a trial.
    """
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()
    for trial in study.get_trials(deepcopy=False):
        if "generation" in trial.user_attrs or trial.state == TrialState.FAIL:
            continue
        if trial.state.is_finished():
            raise ActSearchError(
                f"the study '{study.study_name}' holds trial {trial.number}, which actsearch did not train. Choose "
                "another study.name."
            )
        study.tell(trial.number, state=TrialState.FAIL)


def _ask(study: optuna.Study, mirror: Mirror, space: SearchSpace, options: StudyOptions) -> list[int]:
    """The trial numbers of the next generation: the trials that a kill left in flight, and the new ones.

    This process alone leads the study, so nobody else trains what is running in the storage.
    """
    trials = study.get_trials(deepcopy=False)
    running = [t for t in trials if t.state == TrialState.RUNNING]
    counted = [t for t in trials if t.state != TrialState.FAIL]
    if running:  # fill the generation up to its planned size, even if some of its trials were told
        index, size = running[0].user_attrs["generation"]
    else:
        index = 1 + max((t.user_attrs["generation"][0] for t in counted), default=-1)
        size = min(options.generation, (options.n_trials or 0) - len(counted))
    missing = size - sum(t.user_attrs["generation"][0] == index for t in counted)
    known = {training_key(t.user_attrs["activation"], t.user_attrs["recipe"]) for t in counted}
    for number in range(len(trials), len(trials) + missing):
        asked = mirror.ask(space, number, options.n_trials or 0, known)
        asked.user_attrs = {**asked.user_attrs, "generation": [index, size]}
        study.add_trial(asked)
    return [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]


def _written(study: optuna.Study, generation: Sequence[Member]) -> list[TrialRecord] | None:
    """The generation's results, if all had been written when the search was interrupted."""
    trials = study.get_trials(deepcopy=False)
    texts = [trials[member.number].user_attrs.get("result") for member in generation]
    written = [TrialRecord.from_json(text) for text in texts if text]
    return written if len(written) == len(generation) else None


def _write(study: optuna.Study, generation: Sequence[Member], results: Sequence[TrialRecord]) -> None:
    """Stores all results before the first trial is told, so that after a kill either none of them counts or all do."""
    trials = study.get_trials(deepcopy=False)
    for member, result in zip(generation, results, strict=True):
        optuna_private.running(study, trials[member.number]).set_user_attr("result", result.to_json())


def _tell(study: optuna.Study, trial: FrozenTrial, result: TrialRecord, objective: str, pruned: bool) -> None:
    """Stores what samplers, pruners and Optuna's dashboard read, and then ends the trial."""
    for key, value in result.attrs.items():
        optuna_private.set_system_attr(study, trial, key, value)
    for step, values in zip(result.curves.steps, result.curves.of(objective), strict=True):
        optuna_private.set_intermediate_value(study, trial, step, mean(values))
    if pruned:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, result.values)


def _train(
    generation: Sequence[Member],
    known: Mapping[tuple[str, str], TrialRecord],
    pruning: Pruning,
    training: Training,
    options: StudyOptions,
    latency_us: Callable[[Candidate], float],
) -> Generator[Event, None, list[TrialRecord]]:
    """Trains the candidates that are not known yet, on the same seeds, and returns a record for every member."""
    known = dict(known)
    results: dict[int, TrialRecord] = {}
    new: list[Member] = []
    for member in generation:
        record = TrialRecord(
            member.number, member.candidate.activation, dict(member.candidate.recipe), "", [], Curves()
        )
        results[member.number] = record
        if record.training_key not in known:
            known[record.training_key] = record
            new.append(member)
    curves = {member.number: results[member.number].curves for member in new}
    ends = yield from training.train("search", new, curves, range(options.seeds), pruning)
    for member in new:
        record, reached = results[member.number], ends[member.number]
        record.state = "pruned" if member.number in pruning.pruned else "complete"
        if "latency_us" in options.objectives and "latency_us" not in reached:
            reached = {**reached, "latency_us": latency_us(member.candidate)}
        record.values = [reached[objective] for objective in options.objectives]
    for member in generation:
        record = results[member.number]
        if not record.state:
            first = known[record.training_key]
            record.state, record.same_as = "duplicate", first.number
            record.values, record.curves = first.values, first.curves
        record.attrs = pruning.attrs(member.number)
    return [results[member.number] for member in generation]
