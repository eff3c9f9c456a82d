"""The search: ask a generation, train it rung by rung, prune, tell. Truth lives in Optuna's storage.

`search` is a generator of events; its caller shows and logs them. Nothing here sees the test set.

How a kill is survived, with the same answer: samplers and pruners work on a mirror of the study in memory,
made anew for each generation, the sampler seeded from (study.seed, trial number). The storage receives each
trial with all its parameters at once; then all results of a generation; then the trials are told. What was
in flight without results is trained again from its start; what had results is only told.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from actsearch import optuna_private
from actsearch.diagnostics import entry, mean_diagnostics
from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.goal import ACCURACY, PERPLEXITY, PSNR, Direction, Metric
from actsearch.grammar import Unusable
from actsearch.recipe import Recipe
from actsearch.samplers import SamplerFactory
from actsearch.search_space import Candidate, SearchSpace, candidate_key, training_key
from actsearch.statistics import mean
from actsearch.training import Run, Trainer, TrainingBatch

OF_OTHERS = tuple(f"val_{metric.name}" for metric in (ACCURACY, PERPLEXITY, PSNR))
OWN_VAL = "val_metric"  # stands for the data set's own metric, on the validation examples
ASKS, OF_SAMPLER = 16, 4  # proposals for one trial, from the sampler and then at random, until one is new
MOST_ASKS, PATIENCE = 2000, 32  # proposals of a grammar until one is usable; unusable ones that a sampler may make
FRESH_SEED = 1000  # finalists' seeds start here; the search's at 0


@dataclass
class StudyOptions:
    """seeds: runs per trial. seed: the sampler's. generation: trials asked at once and trained together. objectives:
    names, of which `settled` knows the data set's.
    """

    name: str | None = None
    n_trials: int | None = 40
    seeds: int = 3
    seed: int = 0
    generation: int = 16
    objectives: list[str] = field(default_factory=lambda: [OWN_VAL])

    def __post_init__(self) -> None:
        for key in ("n_trials", "seeds", "generation"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ActSearchError(f"study.{key}={value}: it must be a whole number, at least 1.")
        if self.seeds > FRESH_SEED:
            raise ActSearchError(f"study.seeds={self.seeds}: at most {FRESH_SEED}; the seeds after are the finalists'.")
        if self.seed < 0:
            raise ActSearchError(f"study.seed={self.seed}: it must be at least 0.")
        if not self.objectives:
            raise ActSearchError("study.objectives is empty. Write e.g. study.objectives=[val_metric].")
        if len(set(self.objectives)) < len(self.objectives):
            raise ActSearchError(f"study.objectives={list(self.objectives)}: one stands there twice. Remove it.")
        if self.name is not None:
            check_name("study.name", self.name)

    def settled(self, own: Metric) -> StudyOptions:
        """For nets that are judged by `own`. Raises ActSearchError for an objective that they do not have."""
        known = directions_of(own)
        names = [f"val_{own.name}" if name == OWN_VAL else name for name in self.objectives]
        for name in names:
            if name in OF_OTHERS and name not in known:
                raise not_of(own, "study.objectives", name, known)
            if name not in known:
                raise unknown("objective in study.objectives:", name, known)
        return replace(self, objectives=names)


def not_of(own: Metric, key: str, name: str, known: Iterable[str]) -> ActSearchError:
    """An error for a metric that other data sets have."""
    return ActSearchError(f"{key}={name}: the metric of these data is {own.name}. Choose one of: {', '.join(known)}.")


def directions_of(own: Metric) -> dict[str, Direction]:
    """What a search can be for where nets are judged by `own`, and which way."""
    return {f"val_{own.name}": own.direction, "val_loss": "minimize", "latency_us": "minimize"}


def check_name(key: str, name: str) -> None:
    """A name becomes a folder's: raises ActSearchError if it cannot."""
    if not name.strip() or set(name) & set("/\\\0\n'\"`") or not name.strip("."):
        raise ActSearchError(f"{key}={name!r}: write a name without slashes and quotes, e.g. {key}=mine.")


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


def fingerprint(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what a result depends on."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]


def study_name(data: str, model: str, identity: Mapping[str, Any]) -> str:
    """The name of a study that was given none: each config has its own."""
    return f"{data}-{model}-{fingerprint(identity)}"


def open_study(
    storage: optuna.storages.BaseStorage, name: str, directions: Sequence[Direction], config: Mapping[str, Any]
) -> optuna.Study:
    """The study, created if it is new. Raises ActSearchError if it was made with another config, naming the keys."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(study_name=name, storage=storage, directions=list(directions), load_if_exists=True)
    if "config" not in study.user_attrs:  # new, or killed right after it was created
        study.set_user_attr("config", json.dumps(config, sort_keys=True, default=str))
    before = flatten(json.loads(study.user_attrs.get("config", "{}")))
    now = flatten(json.loads(json.dumps(config, default=str)))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ActSearchError(
            f"the study '{name}' was made with another config ({shown}{more}). "
            "Choose another study.name, or leave it out: each config then has its own."
        )
    return study


def flatten(nested: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def records(study: optuna.Study) -> list[TrialRecord]:
    """All finished trials, in order of number."""
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        TrialRecord.from_json(t.user_attrs["result"])
        for t in study.get_trials(deepcopy=False, states=done)
        if "result" in t.user_attrs
    ]


def search(
    study: optuna.Study,
    trainer: Trainer,
    space: SearchSpace,
    recipe: Recipe,
    options: StudyOptions,
    make_sampler: SamplerFactory,
    pruner: optuna.pruners.BasePruner,
    latency_us: Callable[[Candidate], float],
    worker: int = 0,
) -> Generator[Event, None, None]:
    """Runs the study up to options.n_trials, going on where it stands. latency_us: measures a candidate."""
    if options.n_trials is None:
        raise ActSearchError("study.n_trials=null: say how many, e.g. study.n_trials=40.")
    study.sampler = optuna.samplers.RandomSampler()  # its own is never asked: the mirror's is
    while True:
        numbers = _ask(study, Mirror(study, make_sampler, pruner), space, options, worker)
        if not numbers:
            return
        mirror = Mirror(study, make_sampler, pruner)
        adopted = [mirror.adopt(number) for number in numbers]
        generation = [Member(n, trial, space.suggest(trial)) for n, trial in zip(numbers, adopted, strict=True)]
        yield GenerationStarted("search", {member.number: str(member.candidate) for member in generation})
        results = _written(study, generation)
        if results is None:
            known = {r.training_key: r for r in records(study) if r.state != "duplicate"}
            results = yield from _train(generation, known, mirror, trainer, recipe, options, latency_us)
            _write(study, generation, results)
        trials = study.get_trials(deepcopy=False)
        for member, result in zip(generation, results, strict=True):
            _tell(study, trials[member.number], result, options.objectives[0], recipe.steps)
        trained = sum(len(r.curves.steps) and r.curves.steps[-1] for r in results if r.state != "duplicate")
        yield GenerationFinished("search", results, options.seeds * (len(generation) * recipe.steps - trained))


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
        """A new trial, running and with its parameters: one whose candidate is not `known`, if some can be found.

        Samplers like to propose a good fixed spec again, which would teach nothing. Rejected proposals are
        failed trials of this mirror, which samplers do not look at; why functions of a grammar were unusable is kept
        with the trial.
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
            except (ValueError, NotImplementedError, RuntimeError) as error:  # a sampler that is not for such a space
                raise ActSearchError(f"sampler: it cannot propose: {one_line(error)} Try sampler=tpe.") from error
            if candidate.training_key not in known or attempt >= ASKS + len(refused) - 1:
                break
            optuna_private.end(trial, TrialState.FAIL)
        else:
            text, reason = refused.popitem()
            raise ActSearchError(
                f"search_space.activations: {MOST_ASKS} proposals, and none of use. The last: '{text}', {reason}."
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


class Numbered(Protocol):
    """What is trained: a candidate under a number."""

    @property
    def number(self) -> int: ...
    @property
    def candidate(self) -> Candidate: ...


@dataclass
class Member:
    """A trial of the generation in flight. number: in the storage. trial: its mirror."""

    number: int
    trial: optuna.Trial
    candidate: Candidate


def _ask(study: optuna.Study, mirror: Mirror, space: SearchSpace, options: StudyOptions, worker: int) -> list[int]:
    """This worker's generation: the trials it left in flight, and as many new ones as are then missing."""
    trials = study.get_trials(deepcopy=False)
    mine = [t for t in trials if t.user_attrs.get("worker") == worker]
    running = [t for t in mine if t.state == TrialState.RUNNING]
    counted = [t for t in trials if t.state != TrialState.FAIL]
    if running:  # completed to the size it was planned with, also when some of it was told
        index, size = running[0].user_attrs["generation"]
    else:
        index = 1 + max((t.user_attrs["generation"][0] for t in mine), default=-1)
        size = min(options.generation, (options.n_trials or 0) - len(counted))
    missing = size - sum(t.user_attrs["generation"][0] == index for t in mine)
    known = {training_key(t.user_attrs["activation"], t.user_attrs["recipe"]) for t in counted}
    for number in range(len(trials), len(trials) + missing):
        asked = mirror.ask(space, number, options.n_trials or 0, known)
        asked.user_attrs = {**asked.user_attrs, "worker": worker, "generation": [index, size]}
        study.add_trial(asked)
    in_flight = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t.number for t in in_flight if t.user_attrs.get("worker") == worker]


def _written(study: optuna.Study, generation: Sequence[Member]) -> list[TrialRecord] | None:
    """The generation's results, if all had been written when the search was interrupted."""
    trials = study.get_trials(deepcopy=False)
    texts = [trials[member.number].user_attrs.get("result") for member in generation]
    written = [TrialRecord.from_json(text) for text in texts if text]
    return written if len(written) == len(generation) else None


def _write(study: optuna.Study, generation: Sequence[Member], results: Sequence[TrialRecord]) -> None:
    """All results before the first trial is told: either none counts or all do."""
    trials = study.get_trials(deepcopy=False)
    for member, result in zip(generation, results, strict=True):
        optuna_private.running(study, trials[member.number]).set_user_attr("result", result.to_json())


def _tell(study: optuna.Study, trial: FrozenTrial, result: TrialRecord, objective: str, steps: int) -> None:
    """What the samplers, the pruners and Optuna's dashboard read, and then the end of the trial."""
    for key, value in result.attrs.items():
        optuna_private.set_system_attr(study, trial, key, value)
    for step, values in zip(result.curves.steps, result.curves.of(objective), strict=True):
        optuna_private.set_intermediate_value(study, trial, step, mean(values))
    if result.curves.steps[-1] < steps:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, result.values)


def _train(
    generation: Sequence[Member],
    known: Mapping[tuple[str, str], TrialRecord],
    mirror: Mirror,
    trainer: Trainer,
    recipe: Recipe,
    options: StudyOptions,
    latency_us: Callable[[Candidate], float],
) -> Generator[Event, None, list[TrialRecord]]:
    """Trains the candidates not known yet, on the same seeds, and returns a record for every member."""
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
    yield from train_curves("search", new, curves, trainer, recipe, range(options.seeds), _Pruning(mirror, options))
    for member in new:
        record = results[member.number]
        record.state = "pruned" if record.curves.steps[-1] < recipe.steps else "complete"
        ends = {f"val_{trainer.goal.metric.name}": mean(record.curves.val_metric[-1]),
                "val_loss": mean(record.curves.val_loss[-1])}  # fmt: skip
        if "latency_us" in options.objectives:
            ends["latency_us"] = latency_us(member.candidate)
        record.values = [ends[objective] for objective in options.objectives]
    mirrored = mirror.study.get_trials(deepcopy=False)
    for member in generation:
        record = results[member.number]
        if not record.state:
            first = known[record.training_key]
            record.state, record.same_as = "duplicate", first.number
            record.values, record.curves = first.values, first.curves
        record.attrs = mirrored[member.number].system_attrs
    return [results[member.number] for member in generation]


class _Pruning:
    """Asks the pruner about each live trial at a rung, in order of trials."""

    def __init__(self, mirror: Mirror, options: StudyOptions) -> None:
        self.mirror = mirror
        self.objective = options.objectives[0]
        self.active = len(options.objectives) == 1  # Optuna prunes single objectives only

    def __call__(
        self, live: Sequence[Member], step: int, last: bool, metrics: Mapping[int, dict[str, float]]
    ) -> set[int]:
        pruned = set()
        if not self.active:
            return pruned
        for member in live:
            member.trial.report(metrics[member.number][self.objective], step)
            if not last and member.trial.should_prune():
                value = metrics[member.number][self.objective]
                optuna_private.end(member.trial, TrialState.PRUNED, [value])
                pruned.add(member.number)
        return pruned


def train_curves(
    stage: str,
    members: Sequence[Numbered],
    curves: Mapping[int, Curves],
    trainer: Trainer,
    recipe: Recipe,
    seeds: Sequence[int],
    prune: Callable[[Sequence[Any], int, bool, Mapping[int, dict[str, float]]], set[int]],
) -> Iterator[Event]:
    """Trains each member on each seed and fills its curves; those that `prune` names stop at that rung."""
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
