"""The second stage: the best specs and the baseline, tuned alike, on seeds the search never used, and on test.

The only place that asks for the test set. Its runs live in Optuna studies of their own beside the search:
`<name>/tuning`, one trial per spec and recipe, and `<name>/finalists`, one trial per spec, recipe and seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from torch import Tensor

from actsearch.activations.spec import Spec, parse_net, print_net
from actsearch.cost import Cost
from actsearch.data import Data
from actsearch.diagnostics import entry, mean_entries
from actsearch.errors import ActSearchError, unknown
from actsearch.recipe import Recipe
from actsearch.search_space import Candidate, SearchSpace, candidate_key, four_digits
from actsearch.statistics import mean, std
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
from actsearch.verdict import METRICS, Arm, Rules, Verdict, judge

SEEDS_AT_ONCE = 5  # seeds of all finalists trained together: what a kill can cost
LOOKS = (10, 20, 40, 80, 160)
MARGINS = {m.name: m.margin for m in METRICS.values()}
SPEED = ("learning_speed", "steps_to_accuracy", "time_to_accuracy_s")  # read off the validation curve
COST = ("training_step_us", "latency_us")  # measured, not trained
SPEED_RUNGS = 50  # evaluations that a curve needs to tell speed
RATES = (1.0, 1 / 3, 3.0)  # times the tuned learning rate, at which learning speed is judged
TARGET = 0.95  # of the baseline's accuracy on the search seeds: what "steps to accuracy" waits for


@dataclass
class ConfirmOptions:
    """finalists: how many, or `all`: no search, every candidate of the space is compared. seeds: fresh ones.
    baseline: what all are compared with. tune_trials: recipe values tried for each, where they are searched.
    metric: the one that the verdict is about. margin: by metric, differences that do not matter. alpha: the chance
    of any false better or worse. until_decided: more seeds, up to the last of `looks`, while something is undecided.
    """

    finalists: int | str = 3
    seeds: int = 20
    baseline: str = "relu"
    tune_trials: int = 6
    metric: str = "test_accuracy"
    margin: dict[str, float] = field(default_factory=lambda: dict(MARGINS))
    alpha: float = 0.05
    until_decided: bool = False
    looks: list[int] = field(default_factory=lambda: list(LOOKS))

    def __post_init__(self) -> None:
        if self.finalists != "all" and not isinstance(self.finalists, int):
            raise ActSearchError(f"confirm.finalists={self.finalists}: write a number, or all.")
        for key in ("finalists", "seeds", "tune_trials"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ActSearchError(f"confirm.{key}={value}: it must be at least 1.")
        if self.metric not in METRICS:
            raise unknown("metric in confirm.metric:", self.metric, METRICS)
        self.margin = {**MARGINS, **self.margin}
        for name, margin in self.margin.items():
            if name not in METRICS:
                raise unknown("metric in confirm.margin:", name, METRICS)
            if not 0 < margin < 1:
                example = "0.005 for half a percentage point" if not METRICS[name].ratio else "0.05 for 5 %"
                raise ActSearchError(
                    f"confirm.margin.{name}={margin:g}: write a share between 0 and 1, e.g. {example}."
                )
        if not 0 < self.alpha < 0.5:
            raise ActSearchError(f"confirm.alpha={self.alpha:g}: write a chance between 0 and 0.5, e.g. 0.05.")
        if not self.looks or self.looks[0] < 2 or sorted(set(self.looks)) != list(self.looks):
            raise ActSearchError(
                f"confirm.looks={list(self.looks)}: write growing numbers of seeds from 2 on, e.g. {list(LOOKS)}."
            )
        if self.until_decided and self.metric in COST:
            raise ActSearchError(
                f"confirm.until_decided=true: confirm.metric={self.metric} is measured, and more seeds do not change "
                "it. Write confirm.until_decided=false."
            )
        try:
            parse_net(self.baseline)
        except ActSearchError as error:
            raise ActSearchError(f"confirm.baseline: {error}") from None

    @property
    def seeds_at_looks(self) -> list[int]:
        """After how many seeds the verdicts are taken."""
        return list(self.looks) if self.until_decided else [self.seeds]

    @property
    def rates(self) -> tuple[float, ...]:
        """Times its tuned learning rate, at which each finalist is trained."""
        return RATES if self.metric in SPEED else RATES[:1]

    def rules(self, n_candidates: int) -> Rules:
        """For the metric that counts: each candidate, at each rate, at each look."""
        return Rules(self.alpha, max(1, n_candidates) * len(self.rates), len(self.seeds_at_looks))


@dataclass
class FinalistRun:
    """One training of a finalist and its test score. rate: its learning rate in units of the tuned one. diverged: it
    scored chance, and is counted as that. collapsed: it ended, but no better than always the commonest class.
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
    def failed(self) -> bool:
        return self.diverged or self.collapsed

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FinalistRun:
        raw = json.loads(text)
        return cls(**{**raw, "curves": Curves(**raw["curves"])})


@dataclass(frozen=True)
class Comparison:
    """A finalist on fresh seeds. recipe: its tuned values. mean, std: of the metric that counts, over n_seeds at the
    tuned rate. verdict: by that metric; None for the baseline. at_rates: the same at other learning rates, by rate.
    secondary: by the other metrics, corrected for the number of candidates but not for the number of metrics.
    n_reached: how many runs reached the target accuracy, where steps to it are counted. training_step_us,
    latency_us: medians of the plain PyTorch net on this machine; NaN where not measured.
    """

    activation: str
    recipe: dict[str, Any]
    is_baseline: bool
    mean: float
    std: float
    test_accuracy: float
    test_accuracy_std: float
    test_loss: float
    n_seeds: int
    n_failed: int
    verdict: Verdict | None
    at_rates: dict[float, Verdict]
    secondary: list[Verdict]
    n_reached: int | None
    training_step_us: float
    latency_us: float


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


def reference(
    storage: optuna.storages.BaseStorage,
    name: str,
    baseline: Candidate,
    trials: Sequence[TrialRecord],
    trainer: Trainer,
    recipe: Recipe,
    seeds: int,
) -> Generator[Event, None, float]:
    """The baseline's mean final validation accuracy on the search seeds: from its tuning, its trial, or trained now."""
    study = _side_study(storage, f"{name}/tuning")
    known = [*_side_records(study, TrialRecord), *(r for r in trials if r.state == "complete")]
    record = next((r for r in known if r.key == baseline.key), None)
    if record is None:
        record = TrialRecord(0, baseline.activation, dict(baseline.recipe), "complete", [], Curves())
        yield GenerationStarted("tuning", {0: str(baseline)})
        yield from train_curves(
            "tuning", [_Member(0, baseline)], {0: record.curves}, trainer, recipe, range(seeds), _never
        )
        record.values = [mean(record.curves.val_metric[-1])]
        _add(study, record.to_json(), record.values[0])
    return mean(record.curves.val_metric[-1])


@dataclass(frozen=True)
class Entrant:
    """A finalist, or the baseline, at a multiple of its tuned learning rate."""

    tuned: Candidate
    rate: float = 1.0

    def candidate(self, recipe: Recipe) -> Candidate:
        """What is trained."""
        if self.rate == 1.0:
            return self.tuned
        values = dict(self.tuned.recipe)
        lr = four_digits(self.rate * float(values.pop("lr", recipe.lr)))
        return Candidate(self.tuned.specs, (*values.items(), ("lr", lr)))

    def empty(self, recipe: Recipe, seed: int) -> FinalistRun:
        c = self.candidate(recipe)
        return FinalistRun(c.activation, dict(c.recipe), seed, math.nan, math.nan, False, rate=self.rate)


def confirm(
    storage: optuna.storages.BaseStorage,
    name: str,
    candidates: Sequence[Candidate],
    trainer: Trainer,
    data: Data,
    recipe: Recipe,
    options: ConfirmOptions,
    target: float | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Generator[Event, None, list[FinalistRun]]:
    """Trains each candidate, the baseline among them, on fresh seeds, scores the last step on test; returns the runs.

    With options.until_decided a candidate gets seeds until it is decided, the baseline as long as any candidate does.
    target, costs: as `compare` takes them, if options.metric needs them. Runs already in the storage are not trained
    again. What was in flight when a search was killed is trained again as it was: in float32 a run's last digits may
    depend on what it is fused with.
    """
    study = _side_study(storage, f"{name}/finalists")
    done = {_key(run): run for run in _side_records(study, FinalistRun)}
    flight = [
        (Entrant(Candidate(parse_net(activation), tuple(values.items())), rate), seed)
        for activation, values, rate, seed in study.user_attrs.get("in_flight", [])
    ]
    if not all(_key(e.empty(recipe, seed)) in done for e, seed in flight):
        yield from _train(study, done, flight, trainer, data, recipe)
    while True:
        runs, wanted = standing(done, candidates, recipe, options, target, costs)
        if not wanted:
            return runs
        at_once = SEEDS_AT_ONCE * len(candidates) * len(options.rates)
        for start in range(0, len(wanted), at_once):
            yield from _train(study, done, wanted[start : start + at_once], trainer, data, recipe)


def standing(
    done: Mapping[Any, FinalistRun],
    candidates: Sequence[Candidate],
    recipe: Recipe,
    options: ConfirmOptions,
    target: float | None,
    costs: Mapping[str, Cost] | None = None,
) -> tuple[list[FinalistRun], list[tuple[Entrant, int]]]:
    """The runs that verdicts may use by now, and which are wanted next: none, if all is decided or trained.

    A plain function of what is done, so that it is the same before and after a kill, and for a report made later.
    """
    home = parse_net(options.baseline)
    entrants = [Entrant(candidate, rate) for candidate in candidates for rate in options.rates]
    live, n_of, runs = entrants, dict.fromkeys(entrants, 0), []
    for n in options.seeds_at_looks:
        n_of |= dict.fromkeys(live, n)
        wanted = [
            (entrant, seed)
            for seed in range(FRESH_SEED, FRESH_SEED + n)
            for entrant in live
            if _key(entrant.empty(recipe, seed)) not in done
        ]
        if wanted:
            return runs, wanted
        runs = [
            replace(done[_key(entrant.empty(recipe, seed))], rate=entrant.rate)
            for entrant in entrants
            for seed in range(FRESH_SEED, FRESH_SEED + n_of[entrant])
        ]
        undecided = _undecided(runs, options, target, costs) if n < options.seeds_at_looks[-1] else set()
        live = [
            e for e in entrants if (e.tuned.activation, e.rate) in undecided or (e.tuned.specs == home and undecided)
        ]
        if not live:
            break
    return runs, []


def _undecided(
    runs: Sequence[FinalistRun],
    options: ConfirmOptions,
    target: float | None,
    costs: Mapping[str, Cost] | None,
) -> set[tuple[str, float]]:
    """(activation, rate) of those that more seeds may decide."""
    return {
        (c.activation, rate)
        for c in compare(runs, options, target, costs)
        if c.verdict is not None
        for rate, verdict in {1.0: c.verdict, **c.at_rates}.items()
        if not verdict.decided
    }


def _train(
    study: optuna.Study,
    done: dict[Any, FinalistRun],
    part: Sequence[tuple[Entrant, int]],
    trainer: Trainer,
    data: Data,
    recipe: Recipe,
) -> Generator[Event, None, None]:
    """Trains these together, scores them on test, keeps what is new."""
    candidates = [entrant.candidate(recipe) for entrant, _ in part]
    study.set_user_attr("in_flight", [[e.tuned.activation, dict(e.tuned.recipe), e.rate, s] for e, s in part])
    names = {i: f"{c}, seed {s}" for i, (c, (_, s)) in enumerate(zip(candidates, part, strict=True))}
    yield GenerationStarted("finalists", names)
    batch = TrainingBatch(
        trainer, [Run(c.specs, c.recipe_for(recipe), s) for c, (_, s) in zip(candidates, part, strict=True)]
    )
    runs, before = [entrant.empty(recipe, seed) for entrant, seed in part], 0
    for rung in batch:
        for i, run in enumerate(runs):
            run.curves.steps.append(rung.step)
            run.curves.val_metric.append([rung.val_metric[i].item()])
            run.curves.val_loss.append([rung.val_loss[i].item()])
            train_loss = rung.train_loss[i].item()
            run.curves.train_loss.append([train_loss if math.isfinite(train_loss) else None])
            run.diverged = bool(rung.diverged[i])
            inside = rung.diagnostics[i]
            if inside is not None:
                run.curves.diagnostics.append(entry(rung.step, inside))
        yield RungReached("finalists", rung.step, {}, len(part) * (rung.step - before))
        before = rung.step
    x, y = data.test()
    test_metric, test_loss = batch.score(x, y)
    if "n_test" not in study.user_attrs:
        study.set_user_attr("n_test", len(y))
    for i, run in enumerate(runs):
        run.test_metric, run.test_loss = test_metric[i].item(), test_loss[i].item()
        run.collapsed = not run.diverged and run.test_metric <= at_chance(y)
        if _key(run) not in done:
            _add(study, run.to_json(), run.test_metric)
            done[_key(run)] = run


def at_chance(y: Tensor) -> float:
    """The accuracy up to which a net may be guessing: always the commonest class, and three standard errors."""
    share = torch.bincount(y.cpu()).max().item() / len(y)
    return share + 3 * math.sqrt(share * (1 - share) / len(y))


def stored_runs(
    storage: optuna.storages.BaseStorage, name: str
) -> tuple[dict[tuple[str, str, int], FinalistRun], int | None]:
    """All runs of a study's finalists, as `standing` takes them, and the number of test examples."""
    full = f"{name}/finalists"
    if full not in optuna.get_all_study_names(storage):
        return {}, None
    study = optuna.load_study(study_name=full, storage=storage)
    return {_key(run): run for run in _side_records(study, FinalistRun)}, study.user_attrs.get("n_test")


# --- comparing ------------------------------------------------------------------------------------


def compare(
    runs: Sequence[FinalistRun],
    options: ConfirmOptions,
    target: float | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> list[Comparison]:
    """Every finalist against the baseline, best first by options.metric.

    target: the accuracy that steps are counted to, if they are. costs: by activation, if they were measured.
    """
    costs = costs or {}
    home = print_net(parse_net(options.baseline))
    groups = by_candidate(runs)
    base = {group[0].rate: group for group in groups if group[0].activation == home}
    main = [group for group in groups if group[0].rate == 1.0]
    rules = options.rules(len(main) - 1)
    others = [name for name in METRICS if name != options.metric and _is_known(name, target, costs)]
    out = []
    for group in main:
        is_baseline = group[0].activation == home
        verdicts: dict[float, Verdict] = {}
        secondary: list[Verdict] = []
        if not is_baseline:
            verdicts = {
                g[0].rate: _verdict(options.metric, g, base[g[0].rate], rules, options, target, costs)
                for g in groups
                if g[0].activation == group[0].activation
            }
            one_look = Rules(options.alpha, len(main) - 1, rules.looks)
            secondary = [_verdict(name, group, base[1.0], one_look, options, target, costs) for name in others]
        values = _arm(options.metric, group, target, costs).values
        cost = costs.get(group[0].activation)
        accuracies = [run.test_metric for run in group]
        out.append(
            Comparison(
                activation=group[0].activation, recipe=group[0].recipe, is_baseline=is_baseline,
                mean=mean(values), std=std(values), test_accuracy=mean(accuracies), test_accuracy_std=std(accuracies),
                test_loss=mean([run.test_loss for run in group]), n_seeds=len(group),
                n_failed=sum(run.failed for run in group), verdict=verdicts.get(1.0),
                at_rates={rate: v for rate, v in verdicts.items() if rate != 1.0}, secondary=secondary,
                n_reached=None if target is None else sum(reaches(run.curves, target) for run in group),
                training_step_us=_median(cost.training_step_us) if cost else math.nan,
                latency_us=_median(cost.latency_us) if cost else math.nan,
            )
        )  # fmt: skip
    sign = -1 if METRICS[options.metric].higher_is_better else 1
    return sorted(out, key=lambda c: sign * c.mean)


def _is_known(name: str, target: float | None, costs: Mapping[str, Cost]) -> bool:
    """Whether these runs tell a metric. Speed is told where the target was set: see `speed_is_told`."""
    if name in COST:
        return bool(costs)
    if name == "time_to_accuracy_s":
        return target is not None and bool(costs)
    return name not in SPEED or target is not None


def _verdict(
    name: str, group: Sequence[FinalistRun], base: Sequence[FinalistRun], rules: Rules, options: ConfirmOptions,
    target: float | None, costs: Mapping[str, Cost],
) -> Verdict:  # fmt: skip
    paired = base if name in COST else [run for run in base if run.seed in {r.seed for r in group}]
    arms = (_arm(name, group, target, costs), _arm(name, paired, target, costs))
    return judge(METRICS[name], *arms, rules, options.margin[name])


def _arm(name: str, group: Sequence[FinalistRun], target: float | None, costs: Mapping[str, Cost]) -> Arm:
    """The numbers by which a candidate is compared: one per seed, or per repetition of a measurement."""
    cost = costs.get(group[0].activation)
    if name in COST:
        assert cost is not None
        values = getattr(cost, name)
        return Arm(values, [False] * len(values))
    if name == "test_accuracy":
        values = [run.test_metric for run in group]
    elif name == "test_loss":
        values = [run.test_loss for run in group]
    elif name == "learning_speed":
        values = [mean([row[0] for row in run.curves.val_loss]) for run in group]
    else:
        assert target is not None
        values = [steps_to(run.curves, target) for run in group]
        if name == "time_to_accuracy_s":
            assert cost is not None
            values = [steps * _median(cost.training_step_us) / 1e6 for steps in values]
    return Arm(values, [run.failed for run in group])


def speed_is_told(recipe: Recipe) -> bool:
    """Whether a validation curve tells how fast a net learns: the rate is constant, and it is evaluated often."""
    return recipe.schedule == "constant" and len(recipe.rungs()) >= SPEED_RUNGS


def steps_to(curves: Curves, target: float) -> float:
    """Steps until the validation accuracy first reaches target, linear between evaluations; all, if it never does."""
    step_before, value_before = 0, 0.0
    for step, (value,) in zip(curves.steps, curves.val_metric, strict=True):
        if value >= target:
            return step_before + (step - step_before) * (target - value_before) / (value - value_before)
        step_before, value_before = step, value
    return float(curves.steps[-1])


def reaches(curves: Curves, target: float) -> bool:
    return any(value >= target for (value,) in curves.val_metric)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def by_candidate(runs: Sequence[FinalistRun]) -> list[list[FinalistRun]]:
    """The runs of each candidate at each rate, in order of seed."""
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
        curves.diagnostics = mean_entries([run.curves.diagnostics for run in group])
        value = mean(curves.of(objective)[-1])
        out.append(TrialRecord(number, group[0].activation, group[0].recipe, "complete", [value], curves))
    return out


@dataclass(frozen=True)
class _Member:
    number: int
    candidate: Candidate


def _never(*_: object) -> set[int]:
    return set()


def _key(run: FinalistRun) -> tuple[str, str, int]:
    return (*candidate_key(run.activation, run.recipe), run.seed)


def _side_study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)


def _side_records(study: optuna.Study, kind: Any) -> list[Any]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [kind.from_json(t.user_attrs["result"]) for t in trials]


def _add(study: optuna.Study, result: str, value: float) -> None:
    study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"result": result}))
