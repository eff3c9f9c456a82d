"""The comparison of finalists with the baseline: which numbers each metric compares, and the verdicts on them.

This file reads runs as data; it does not depend on how they are trained or stored.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actsearch.activations.spec import parse_net, print_net
from actsearch.packed import unpack
from actsearch.question.metrics import Metric
from actsearch.question.options import COST, SPEED, Confirmation, Rules
from actsearch.records import Curves, Evidence, FinalistRun, by_candidate
from actsearch.verdicts.statistics import failure_bound, mean, std
from actsearch.verdicts.verdict import Arm, Verdict, judge

TARGET = 0.95  # the target of "steps to accuracy", as a share of the baseline's validation accuracy on the search seeds


@dataclass(frozen=True)
class Comparison:
    """A finalist on fresh seeds, compared with the baseline.

    recipe: its tuned values. mean, std: of the primary metric over n_seeds, at the tuned learning rate. verdict: by the
    primary metric; None for the baseline. at_rates: the verdicts at other learning rates, by multiple of the tuned
    one. secondary: the verdicts by the other metrics, corrected for the number of candidates but not for the number of
    metrics. failure_bound: the 95 % upper bound of the rate of failures; NaN if it is not known which runs failed.
    mean_of_others: of the primary metric, without the runs that failed; NaN if all did. n_reached: how many runs
    reached the target accuracy; None if steps to it are not counted.

    training_step_us, latency_us: geometric means over repetitions, of the plain PyTorch net on this machine. saved_mib:
    what its training step keeps for the backward pass. These three are NaN if they were not measured.
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
    failure_bound: float
    mean_of_others: float
    verdict: Verdict | None
    at_rates: dict[float, Verdict]
    secondary: list[Verdict]
    n_reached: int | None
    training_step_us: float
    latency_us: float
    saved_mib: float


def primary_verdicts(evidence: Evidence, options: Confirmation) -> dict[tuple[str, float], Verdict]:
    """The verdicts by options.metric, for each (activation, rate) except those of the baseline."""
    home = print_net(parse_net(options.baseline))
    groups = by_candidate(evidence.runs)
    base = {group[0].rate: group for group in groups if group[0].activation == home}
    others = [group for group in groups if group[0].activation != home]
    rules = options.rules(len({group[0].activation for group in others}))
    return {
        (group[0].activation, group[0].rate): _verdict(
            options.metric, group, base[group[0].rate], rules, options, evidence
        )
        for group in others
    }


def compare_finalists(evidence: Evidence, options: Confirmation) -> list[Comparison]:
    """Compares every finalist with the baseline. The best by options.metric comes first."""
    home = print_net(parse_net(options.baseline))
    main = [group for group in by_candidate(evidence.runs) if group[0].rate == 1.0]
    base = next(group for group in main if group[0].activation == home)
    verdicts, target = primary_verdicts(evidence, options), evidence.target
    others = [name for name in options.metrics if name != options.metric and _is_known(name, evidence)]
    rules = Rules(options.alpha, max(1, len(main) - 1), tuple(options.seeds_at_looks))
    out = []
    for group in main:
        activation = group[0].activation
        mine = {rate: verdict for (name, rate), verdict in verdicts.items() if name == activation}
        secondary = [] if group is base else [
            _verdict(name, group, base, rules, options, evidence) for name in others
        ]  # fmt: skip
        values = _arm(options.primary, group, evidence).values
        centre = statistics.geometric_mean(values) if options.metric in COST else mean(values)
        cost = evidence.costs.get(activation)
        scores, failed = [run.test_metric for run in group], [run.failed for run in group]
        out.append(
            Comparison(
                activation=activation, recipe=group[0].recipe, is_baseline=group is base,
                mean=centre, std=std(values), test_metric=mean(scores), test_metric_std=std(scores),
                test_loss=mean([run.test_loss for run in group]), n_seeds=len(group),
                n_failed=sum(failed), failure_bound=failure_bound(sum(failed), len(failed)),
                mean_of_others=mean([v for v, fails in zip(values, failed, strict=False) if not fails]),
                verdict=mine.pop(1.0, None), at_rates=mine,
                secondary=secondary,
                n_reached=None if target is None else sum(reaches(run.curves, target) for run in group),
                training_step_us=statistics.geometric_mean(cost.training_step_us) if cost else math.nan,
                latency_us=statistics.geometric_mean(cost.latency_us) if cost else math.nan,
                saved_mib=cost.saved_mib if cost else math.nan,
            )
        )  # fmt: skip
    return _best_first(out, options)


def compare_arms(
    found: Mapping[str, tuple[Arm, Arm, bool]], home: str, base: Arm, options: Confirmation, failures_known: bool
) -> list[Comparison]:
    """Compares arms of which only the numbers are known; the best by options.metric comes first.

    found: by name, an arm, the baseline's runs that it is compared with, and whether they are pairs. base: all runs of
    the baseline. failures_known: whether it is known which runs failed.
    """
    metric, rules = options.primary, options.rules(len(found))
    arms = {name: arm for name, (arm, _, _) in found.items()} | {home: base}
    out = []
    for name, arm in arms.items():
        values, n_failed = [float(value) for value in arm.values], sum(arm.failed)
        verdict = None
        if name != home:
            _, theirs, paired = found[name]
            verdict = judge(metric, arm, theirs, rules, options.margin[metric.name], paired)
        kept = [value for value, failed in zip(values, arm.failed, strict=True) if not failed]
        out.append(
            Comparison(
                activation=name, recipe={}, is_baseline=name == home, mean=mean(values), std=std(values),
                test_metric=mean(values), test_metric_std=std(values), test_loss=math.nan, n_seeds=len(values),
                n_failed=n_failed, failure_bound=failure_bound(n_failed, len(values)) if failures_known else math.nan,
                mean_of_others=mean(kept), verdict=verdict, at_rates={}, secondary=[], n_reached=None,
                training_step_us=math.nan, latency_us=math.nan, saved_mib=math.nan,
            )
        )  # fmt: skip
    return _best_first(out, options)


def _best_first(comparisons: Sequence[Comparison], options: Confirmation) -> list[Comparison]:
    sign = -1 if options.primary.higher_is_better else 1
    return sorted(comparisons, key=lambda c: sign * c.mean)


def _is_known(name: str, evidence: Evidence) -> bool:
    """Whether a metric can be computed from these runs; for learning speed, if a target was set (`speed_is_told`)."""
    if name in COST:
        return bool(evidence.costs)
    if name == "time_to_accuracy_s":
        return evidence.target is not None and bool(evidence.costs)
    return name not in SPEED or evidence.target is not None


def _verdict(
    name: str,
    group: Sequence[FinalistRun],
    base: Sequence[FinalistRun],
    rules: Rules,
    options: Confirmation,
    evidence: Evidence,
) -> Verdict:
    paired = base if name in COST else [run for run in base if run.seed in {r.seed for r in group}]
    metric = options.metrics[name]
    arms = (_arm(metric, group, evidence), _arm(metric, paired, evidence))
    found = judge(metric, *arms, rules, options.margin[name])
    return replace(found, seeds_to_decide=None) if name in COST else found  # of a cost: repetitions, not seeds


def _arm(metric: Metric, group: Sequence[FinalistRun], evidence: Evidence) -> Arm:
    """The numbers by which a candidate is compared: one per seed, or for a cost one per repetition."""
    cost, name = evidence.costs.get(group[0].activation), metric.name
    if name in COST:
        assert cost is not None
        values = getattr(cost, name)
        return Arm(values, [False] * len(values))
    censored: list[bool] = []
    kept = [run.of_each.get(name) for run in group]
    of_each = [unpack(text) for text in kept if text is not None]
    if name == "test_loss":
        values = [run.test_loss for run in group]
    elif name == "learning_speed":
        values = [mean([row[0] for row in run.curves.val_loss]) for run in group]
    elif name not in SPEED:
        values = [run.test_metric for run in group]
    else:
        assert evidence.target is not None
        values = [steps_to(run.curves, evidence.target) for run in group]
        censored = [not reaches(run.curves, evidence.target) for run in group]
        if name == "time_to_accuracy_s":
            assert cost is not None
            # each seed gets another repetition, so that the interval also contains the error of the timing
            times = itertools.cycle(cost.training_step_us)
            values = [steps * us / 1e6 for steps, us in zip(values, times, strict=False)]
    return Arm(values, [run.failed for run in group], censored, of_each if len(of_each) == len(group) else ())


def steps_to(curves: Curves, target: float) -> float:
    """Steps until the validation accuracy first reaches `target`, interpolated linearly between evaluations.

    If it never does, the number of all steps, which is then a lower bound.
    """
    step_before, value_before = 0, 0.0
    for step, (value,) in zip(curves.steps, curves.val_metric, strict=True):
        if value >= target > value_before:
            return step_before + (step - step_before) * (target - value_before) / (value - value_before)
        step_before, value_before = step, value
    return float(curves.steps[-1])


def reaches(curves: Curves, target: float) -> bool:
    return any(value >= target for (value,) in curves.val_metric)
