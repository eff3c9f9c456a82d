"""What the finalists' runs say: which numbers a metric compares, and the verdicts on them.

Knows runs as data; nothing of how they are trained or stored.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from actsearch.activations.spec import parse_net, print_net
from actsearch.cost import Cost
from actsearch.errors import ActSearchError, unknown
from actsearch.goal import ACCURACY, PERPLEXITY, PSNR, Metric
from actsearch.recipe import Recipe
from actsearch.search_space import candidate_key
from actsearch.statistics import MOST_SEEDS, mean, std
from actsearch.study import Curves, not_of
from actsearch.verdict import Arm, Rules, Verdict, judge, metrics_of

LOOKS = (10, 20, 40, 80, 160)
OWN_TEST = "test_metric"  # stands for the data set's own metric, on the test set
KNOWN = {name: m for own in (ACCURACY, PERPLEXITY, PSNR) for name, m in metrics_of(own).items()}
SPEED = ("learning_speed", "steps_to_accuracy", "time_to_accuracy_s")  # read off the validation curve
COST = ("training_step_us", "latency_us")  # measured, not trained
SPEED_RUNGS = 50  # evaluations that a curve needs to tell speed
RATES = (1.0, 1 / 3, 3.0)  # times the tuned learning rate, at which learning speed is judged
TARGET = 0.95  # of the baseline's accuracy on the search seeds: what "steps to accuracy" waits for


@dataclass
class ConfirmOptions:
    """How finalists are compared, as it is asked for; `settled` makes of it what a data set's metric has to it.

    finalists: how many, or `all`: no search, every candidate of the space is compared. seeds: fresh ones.
    baseline: what all are compared with. tune_trials: recipe values tried for each, where they are searched.
    metric: the one that the verdict is about. margin: by metric, differences that do not matter; those of metrics that
    a data set does not have are not looked at. alpha: the chance of any false better or worse. until_decided: more
    seeds, up to the last of `looks`, while something is undecided.
    """

    finalists: int | str = 3
    seeds: int = 20
    baseline: str = "relu"
    tune_trials: int = 6
    metric: str = OWN_TEST
    margin: dict[str, float] = field(default_factory=lambda: {name: m.margin for name, m in KNOWN.items()})
    alpha: float = 0.05
    until_decided: bool = False
    looks: list[int] = field(default_factory=lambda: list(LOOKS))

    def __post_init__(self) -> None:
        if self.finalists != "all" and not isinstance(self.finalists, int):
            raise ActSearchError(f"confirm.finalists={self.finalists}: write a number, or all.")
        for key in ("finalists", "seeds", "tune_trials"):
            value = getattr(self, key)
            if value != "all" and (not isinstance(value, int) or not 1 <= value <= MOST_SEEDS):
                raise ActSearchError(f"confirm.{key}={value}: it must be a whole number, at least 1.")
        if not 1e-6 <= self.alpha < 0.5:
            raise ActSearchError(f"confirm.alpha={self.alpha:g}: write a chance from 0.000001 to 0.5, e.g. 0.05.")
        good = self.looks and self.looks[0] > 1 and self.looks[-1] <= MOST_SEEDS
        if not good or sorted(set(self.looks)) != list(self.looks):
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

    def settled(self, own: Metric) -> Confirmation:
        """For nets that are judged by `own`. Raises ActSearchError for a metric that they do not have."""
        return Confirmation(**{field.name: getattr(self, field.name) for field in fields(ConfirmOptions)}, own=own)

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
class Confirmation(ConfirmOptions):
    """The options for one data set: `metric` and `margin` name only what its nets are judged by. own: its metric."""

    own: Metric = ACCURACY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric == OWN_TEST:
            self.metric = f"test_{self.own.name}"
        if self.metric not in self.metrics:
            if self.metric in KNOWN:
                raise not_of(self.own, "confirm.metric", self.metric, self.metrics)
            raise unknown("metric in confirm.metric:", self.metric, self.metrics)
        for name in self.margin:
            if name not in {**self.metrics, **KNOWN, OWN_TEST: self.own}:
                raise unknown("metric in confirm.margin:", name, self.metrics)
        given = (
            {**self.margin, f"test_{self.own.name}": self.margin[OWN_TEST]} if OWN_TEST in self.margin else self.margin
        )
        self.margin = {name: given.get(name, m.margin) for name, m in self.metrics.items()}
        for name, margin in self.margin.items():
            m = self.metrics[name]
            share = m.ratio or m.unit == "%"
            if not 0 < margin < (1 if share else math.inf):
                what = "a share between 0 and 1" if share else "a number above 0"
                example = (
                    "0.05 for 5 %" if m.ratio else "0.005 for half a percentage point" if share else f"{m.margin:g}"
                )
                raise ActSearchError(f"confirm.margin.{name}={margin:g}: write {what}, e.g. {example}.")

    @property
    def metrics(self) -> dict[str, Metric]:
        """All that verdicts can be about, by name."""
        return metrics_of(self.own)

    @property
    def primary(self) -> Metric:
        """What the verdict is about."""
        return self.metrics[self.metric]


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
    latency_us: geometric means over repetitions, of the plain PyTorch net on this machine; saved_mib: what its training
    step keeps for the backward pass; NaN where not measured.
    """

    activation: str
    recipe: dict[str, Any]
    is_baseline: bool
    mean: float
    std: float
    test_metric: float
    test_metric_std: float
    test_loss: float
    n_seeds: int
    n_failed: int
    verdict: Verdict | None
    at_rates: dict[float, Verdict]
    secondary: list[Verdict]
    n_reached: int | None
    training_step_us: float
    latency_us: float
    saved_mib: float


def primary_verdicts(
    runs: Sequence[FinalistRun], options: Confirmation, target: float | None, costs: Mapping[str, Cost]
) -> dict[tuple[str, float], Verdict]:
    """By options.metric, of each (activation, rate) but the baseline's."""
    home = print_net(parse_net(options.baseline))
    groups = by_candidate(runs)
    base = {group[0].rate: group for group in groups if group[0].activation == home}
    others = [group for group in groups if group[0].activation != home]
    rules = options.rules(len({group[0].activation for group in others}))
    return {
        (group[0].activation, group[0].rate): _verdict(
            options.metric, group, base[group[0].rate], rules, options, target, costs
        )
        for group in others
    }


def compare(
    runs: Sequence[FinalistRun],
    options: Confirmation,
    target: float | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> list[Comparison]:
    """Every finalist against the baseline, best first by options.metric.

    target: the accuracy that steps are counted to, if they are. costs: by activation, if they were measured.
    """
    costs = costs or {}
    home = print_net(parse_net(options.baseline))
    main = [group for group in by_candidate(runs) if group[0].rate == 1.0]
    base = next(group for group in main if group[0].activation == home)
    verdicts = primary_verdicts(runs, options, target, costs)
    others = [name for name in options.metrics if name != options.metric and _is_known(name, target, costs)]
    rules = Rules(options.alpha, max(1, len(main) - 1), len(options.seeds_at_looks))
    out = []
    for group in main:
        activation = group[0].activation
        mine = {rate: verdict for (name, rate), verdict in verdicts.items() if name == activation}
        secondary = [] if group is base else [
            _verdict(name, group, base, rules, options, target, costs) for name in others
        ]  # fmt: skip
        values = _arm(options.primary, group, target, costs).values
        centre = statistics.geometric_mean(values) if options.metric in COST else mean(values)
        cost = costs.get(activation)
        scores = [run.test_metric for run in group]
        out.append(
            Comparison(
                activation=activation, recipe=group[0].recipe, is_baseline=group is base,
                mean=centre, std=std(values), test_metric=mean(scores), test_metric_std=std(scores),
                test_loss=mean([run.test_loss for run in group]), n_seeds=len(group),
                n_failed=sum(run.failed for run in group), verdict=mine.pop(1.0, None), at_rates=mine,
                secondary=secondary,
                n_reached=None if target is None else sum(reaches(run.curves, target) for run in group),
                training_step_us=statistics.geometric_mean(cost.training_step_us) if cost else math.nan,
                latency_us=statistics.geometric_mean(cost.latency_us) if cost else math.nan,
                saved_mib=cost.saved_mib if cost else math.nan,
            )
        )  # fmt: skip
    sign = -1 if options.primary.higher_is_better else 1
    return sorted(out, key=lambda c: sign * c.mean)


def _is_known(name: str, target: float | None, costs: Mapping[str, Cost]) -> bool:
    """Whether these runs tell a metric. Speed is told where the target was set: see `speed_is_told`."""
    if name in COST:
        return bool(costs)
    if name == "time_to_accuracy_s":
        return target is not None and bool(costs)
    return name not in SPEED or target is not None


def _verdict(
    name: str, group: Sequence[FinalistRun], base: Sequence[FinalistRun], rules: Rules, options: Confirmation,
    target: float | None, costs: Mapping[str, Cost],
) -> Verdict:  # fmt: skip
    paired = base if name in COST else [run for run in base if run.seed in {r.seed for r in group}]
    metric = options.metrics[name]
    arms = (_arm(metric, group, target, costs), _arm(metric, paired, target, costs))
    found = judge(metric, *arms, rules, options.margin[name])
    return replace(found, seeds_to_decide=None) if name in COST else found  # it would count repetitions


def _arm(metric: Metric, group: Sequence[FinalistRun], target: float | None, costs: Mapping[str, Cost]) -> Arm:
    """The numbers by which a candidate is compared: one per seed, or per repetition of a measurement."""
    cost, name = costs.get(group[0].activation), metric.name
    if name in COST:
        assert cost is not None
        values = getattr(cost, name)
        return Arm(values, [False] * len(values))
    if name == "test_loss":
        values = [run.test_loss for run in group]
    elif name == "learning_speed":
        values = [mean([row[0] for row in run.curves.val_loss]) for run in group]
    elif name not in SPEED:
        values = [run.test_metric for run in group]
    else:
        assert target is not None
        values = [steps_to(run.curves, target) for run in group]
        if name == "time_to_accuracy_s":
            assert cost is not None
            # each seed with a repetition of its own, so that the timing's error is in the interval as well
            times = itertools.cycle(cost.training_step_us)
            values = [steps * us / 1e6 for steps, us in zip(values, times, strict=False)]
    return Arm(values, [run.failed for run in group])


def speed_is_told(recipe: Recipe) -> bool:
    """Whether a validation curve tells how fast a net learns: the rate is constant, and it is evaluated often."""
    return recipe.schedule == "constant" and len(recipe.rungs()) >= SPEED_RUNGS


def steps_to(curves: Curves, target: float) -> float:
    """Steps until the validation accuracy first reaches target, linear between evaluations; all, if it never does."""
    step_before, value_before = 0, 0.0
    for step, (value,) in zip(curves.steps, curves.val_metric, strict=True):
        if value >= target > value_before:
            return step_before + (step - step_before) * (target - value_before) / (value - value_before)
        step_before, value_before = step, value
    return float(curves.steps[-1])


def reaches(curves: Curves, target: float) -> bool:
    return any(value >= target for (value,) in curves.val_metric)


def by_candidate(runs: Sequence[FinalistRun]) -> list[list[FinalistRun]]:
    """The runs of each candidate at each rate, in order of seed."""
    groups: dict[tuple[str, str], list[FinalistRun]] = {}
    for run in sorted(runs, key=lambda r: r.seed):
        groups.setdefault(candidate_key(run.activation, run.recipe), []).append(run)
    return list(groups.values())
