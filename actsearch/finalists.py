"""The second stage: the best specs and the baseline, tuned alike, on seeds the search never used, and on test.

The only place that asks for the test set. Its runs live in Optuna studies of their own beside the search:
`<name>/tuning`, one trial per spec and recipe, and `<name>/finalists`, one trial per spec, recipe and seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from actsearch.activations.spec import Spec, parse_net, print_net
from actsearch.data import Data
from actsearch.errors import ActSearchError
from actsearch.recipe import Recipe
from actsearch.search_space import Candidate, SearchSpace, candidate_key
from actsearch.statistics import PairedDifference, mean, paired_difference, std
from actsearch.study import (
    FRESH_SEED,
    OBJECTIVES,
    Curves,
    Event,
    GenerationStarted,
    RungReached,
    TrialRecord,
    train_curves,
)
from actsearch.training import Run, Trainer, TrainingBatch

SEEDS_AT_ONCE = 5  # seeds of all finalists trained together: what a kill can cost


@dataclass
class ConfirmOptions:
    """finalists: how many, or `all`: no search, every candidate of the space is compared. seeds: fresh ones.
    baseline: what all are compared with. tune_trials: recipe values tried for each, where they are searched.
    """

    finalists: int | str = 3
    seeds: int = 20
    baseline: str = "relu"
    tune_trials: int = 6

    def __post_init__(self) -> None:
        if self.finalists != "all" and not isinstance(self.finalists, int):
            raise ActSearchError(f"confirm.finalists={self.finalists}: write a number, or all.")
        for key in ("finalists", "seeds", "tune_trials"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ActSearchError(f"confirm.{key}={value}: it must be at least 1.")
        try:
            parse_net(self.baseline)
        except ActSearchError as error:
            raise ActSearchError(f"confirm.baseline: {error}") from None


@dataclass
class FinalistRun:
    """One training of a finalist and its test score. diverged: it scored chance, and is counted as that."""

    activation: str
    recipe: dict[str, Any]
    seed: int
    test_metric: float
    test_loss: float
    diverged: bool
    curves: Curves = field(default_factory=Curves)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FinalistRun:
        raw = json.loads(text)
        return cls(**{**raw, "curves": Curves(**raw["curves"])})


@dataclass(frozen=True)
class Comparison:
    """A finalist on the test set. mean, std: over seeds. difference: paired, to the baseline; None for itself."""

    activation: str
    recipe: dict[str, Any]
    mean: float
    std: float
    n_seeds: int
    n_diverged: int
    is_baseline: bool
    difference: PairedDifference | None


def rank_key(objective: str):
    """Sorts records best first; ties by number."""
    sign = -1 if OBJECTIVES[objective] == "maximize" else 1
    return lambda record: (sign * record.values[0], record.number)


def choose(records: Sequence[TrialRecord], k: int, baseline: str, objective: str) -> list[Candidate]:
    """The k best distinct specs besides the baseline among the completed trials, each with its best recipe; and it."""
    done = sorted((r for r in records if r.state == "complete"), key=rank_key(objective))
    best: dict[str, TrialRecord] = {}
    for record in done:
        best.setdefault(record.activation, record)
    home = print_net(parse_net(baseline))
    base = best.pop(home, None)
    chosen = [*list(best.values())[:k], *([base] if base else [])]
    candidates = [Candidate(parse_net(r.activation), tuple(r.recipe.items())) for r in chosen]
    return candidates if base else [*candidates, Candidate(parse_net(home))]


def with_baseline(candidates: Sequence[Candidate], baseline: str) -> list[Candidate]:
    """All candidates, and the baseline where it is not among them."""
    specs: tuple[Spec, ...] = parse_net(baseline)
    known = any(candidate.specs == specs for candidate in candidates)
    return [*candidates, *([] if known else [Candidate(specs)])]


def tune(
    storage: optuna.storages.BaseStorage,
    name: str,
    candidates: Sequence[Candidate],
    trainer: Trainer,
    space: SearchSpace,
    recipe: Recipe,
    options: ConfirmOptions,
    seeds: int,
    objective: str,
) -> Generator[Event, None, list[Candidate]]:
    """The same grid of recipe values for every finalist and the baseline, on the search's seeds and validation.

    Returns the candidates, each with the values that were best for it.
    """
    if not space.recipe:
        return list(candidates)
    study = _side_study(storage, f"{name}/tuning")
    done = {r.key: r for r in _side_records(study, TrialRecord)}
    points = space.recipe_points(options.tune_trials)
    specs = list(dict.fromkeys(candidate.specs for candidate in candidates))
    for place, spec in enumerate(specs):
        grid = [Candidate(spec, point) for point in points]
        records = [
            TrialRecord(place * len(points) + i, c.activation, dict(c.recipe), "complete", [], Curves())
            for i, c in enumerate(grid)
        ]
        new = [(r, c) for r, c in zip(records, grid, strict=True) if r.key not in done]
        members = [_Member(r.number, c) for r, c in new]
        yield GenerationStarted("tuning", {m.number: str(m.candidate) for m in members})
        curves = {r.number: r.curves for r, _ in new}
        yield from train_curves("tuning", members, curves, trainer, recipe, range(seeds), _never)
        for record, _ in new:
            record.values = [mean(record.curves.of(objective)[-1])]
            _add(study, record.to_json(), record.values[0])
            done[record.key] = record
    tuned = []
    for spec in specs:
        mine = {Candidate(spec, point).key for point in points}
        tried = [r for r in done.values() if r.key in mine]  # not those of another grid, tried before
        best = min(tried, key=rank_key(objective))
        tuned.append(Candidate(spec, tuple(best.recipe.items())))
    return tuned


def confirm(
    storage: optuna.storages.BaseStorage,
    name: str,
    candidates: Sequence[Candidate],
    trainer: Trainer,
    data: Data,
    recipe: Recipe,
    options: ConfirmOptions,
) -> Generator[Event, None, list[FinalistRun]]:
    """Trains each candidate on options.seeds fresh seeds, scores the last step on test; returns the runs.

    Runs already in the storage are not trained again. What was in flight when a search was killed is trained again
    as it was: in float32 a run's last digits may depend on what it is fused with.
    """
    study = _side_study(storage, f"{name}/finalists")
    key = lambda run: (*candidate_key(run.activation, run.recipe), run.seed)  # noqa: E731
    done = {key(run): run for run in _side_records(study, FinalistRun)}
    seeds = range(FRESH_SEED, FRESH_SEED + options.seeds)
    flight = [
        (Candidate(parse_net(activation), tuple(values.items())), seed)
        for activation, values, seed in study.user_attrs.get("in_flight", [])
    ]
    parts = [] if all(key(_empty(*run)) in done for run in flight) else [flight]
    wanted = [
        (candidate, seed)
        for seed in seeds
        for candidate in candidates
        if key(_empty(candidate, seed)) not in done and not (parts and (candidate, seed) in flight)
    ]
    at_once = SEEDS_AT_ONCE * len(candidates)
    parts += [wanted[start : start + at_once] for start in range(0, len(wanted), at_once)]
    for part in parts:
        study.set_user_attr("in_flight", [[c.activation, dict(c.recipe), s] for c, s in part])
        yield GenerationStarted("finalists", {i: f"{c}, seed {s}" for i, (c, s) in enumerate(part)})
        batch = TrainingBatch(trainer, [Run(c.specs, c.recipe_for(recipe), s) for c, s in part])
        runs, before = [_empty(c, s) for c, s in part], 0
        for rung in batch:
            for i, run in enumerate(runs):
                run.curves.steps.append(rung.step)
                run.curves.val_metric.append([rung.val_metric[i].item()])
                run.curves.val_loss.append([rung.val_loss[i].item()])
                train_loss = rung.train_loss[i].item()
                run.curves.train_loss.append([train_loss if math.isfinite(train_loss) else None])
                run.diverged = bool(rung.diverged[i])
            yield RungReached("finalists", rung.step, {}, len(part) * (rung.step - before))
            before = rung.step
        test_metric, test_loss = batch.score(*data.test())
        for i, run in enumerate(runs):
            run.test_metric, run.test_loss = test_metric[i].item(), test_loss[i].item()
            if key(run) not in done:
                _add(study, run.to_json(), run.test_metric)
                done[key(run)] = run
    return [done[key(_empty(candidate, seed))] for candidate in candidates for seed in seeds]


def compare(runs: Sequence[FinalistRun], baseline: str) -> list[Comparison]:
    """Mean, standard deviation and paired difference to the baseline on test; best first."""
    home = print_net(parse_net(baseline))
    groups = by_candidate(runs)
    base = next(group for group in groups if group[0].activation == home)
    out = []
    for group in groups:
        scores = [run.test_metric for run in group]
        difference = None if group is base else paired_difference(scores, [run.test_metric for run in base])
        out.append(
            Comparison(
                group[0].activation, group[0].recipe, mean(scores), std(scores), len(scores),
                sum(run.diverged for run in group), group is base, difference,
            )
        )  # fmt: skip
    return sorted(out, key=lambda c: -c.mean)


def by_candidate(runs: Sequence[FinalistRun]) -> list[list[FinalistRun]]:
    """The runs of each candidate, in order of seed."""
    groups: dict[tuple[str, str], list[FinalistRun]] = {}
    for run in sorted(runs, key=lambda r: r.seed):
        groups.setdefault(candidate_key(run.activation, run.recipe), []).append(run)
    return list(groups.values())


def as_records(runs: Sequence[FinalistRun], objective: str) -> list[TrialRecord]:
    """The finalists as if they were trials: their curves over seeds, ranked by validation."""
    out = []
    for number, group in enumerate(by_candidate(runs)):
        curves = Curves(group[0].curves.steps, n_diverged=sum(run.diverged for run in group))
        for i in range(len(curves.steps)):
            curves.val_metric.append([run.curves.val_metric[i][0] for run in group])
            curves.val_loss.append([run.curves.val_loss[i][0] for run in group])
            curves.train_loss.append([run.curves.train_loss[i][0] for run in group])
        value = mean(curves.of(objective)[-1])
        out.append(TrialRecord(number, group[0].activation, group[0].recipe, "complete", [value], curves))
    return out


@dataclass(frozen=True)
class _Member:
    number: int
    candidate: Candidate


def _never(*_: object) -> set[int]:
    return set()


def _empty(candidate: Candidate, seed: int) -> FinalistRun:
    return FinalistRun(candidate.activation, dict(candidate.recipe), seed, math.nan, math.nan, False)


def _side_study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)


def _side_records(study: optuna.Study, kind: Any) -> list[Any]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [kind.from_json(t.user_attrs["result"]) for t in trials]


def _add(study: optuna.Study, result: str, value: float) -> None:
    study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"result": result}))
