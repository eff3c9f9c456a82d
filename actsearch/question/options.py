"""The options of a search and of a comparison, as plain values. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from actsearch.errors import ActSearchError, unknown, whole
from actsearch.question.identity import check_name
from actsearch.question.metrics import (
    ACCURACY,
    PERPLEXITY,
    PSNR,
    Metric,
    directions_of,
    metrics_of,
    not_of,
    on_validation,
)
from actsearch.question.recipe import MOST, Recipe

OF_OTHERS = tuple(f"val_{metric.name}" for metric in (ACCURACY, PERPLEXITY, PSNR))
OWN_VAL = "val_metric"  # stands for the data set's own metric, measured on the validation examples
FRESH_SEED = 1000  # the finalists' seeds start here, the search's seeds start at 0


@dataclass
class StudyOptions:
    """The options of a search.

    name: the study's; if None, it is made from the config. n_trials: if None, as many as there are candidates. seeds:
    runs per trial. seed: the sampler's. generation: how many trials are asked for at once and trained together.
    objectives: names; `settled` replaces `val_metric` by the name of the data set's own metric. fresh: whether what an
    earlier run of this study kept is deleted first.
    """

    name: str | None = None
    n_trials: int | None = 40
    seeds: int = 3
    seed: int = 0
    generation: int = 16
    fresh: bool = False
    objectives: list[str] = field(default_factory=lambda: [OWN_VAL])

    def __post_init__(self) -> None:
        for key in ("n_trials", "seeds", "generation"):
            value = getattr(self, key)
            if value is not None:
                whole(f"study.{key}", value, 1, MOST)
        if self.seeds > FRESH_SEED:
            raise ActSearchError(
                f"study.seeds={self.seeds}: write at most {FRESH_SEED}; seeds from {FRESH_SEED} on are kept for the "
                "finalists."
            )
        whole("study.seed", self.seed, least=0)
        if not self.objectives:
            raise ActSearchError("study.objectives is empty. Write e.g. study.objectives=[val_metric].")
        if len(set(self.objectives)) < len(self.objectives):
            raise ActSearchError(f"study.objectives={list(self.objectives)}: an objective occurs twice. Remove one.")
        if self.name is not None:
            check_name("study.name", self.name)

    def settled(self, own: Metric) -> StudyOptions:
        """These options for nets that are judged by the metric `own`. Raises ActSearchError for unknown objectives."""
        known = directions_of(own)
        names = [f"val_{own.name}" if name == OWN_VAL else name for name in self.objectives]
        for name in names:
            if name in OF_OTHERS and name not in known:
                raise not_of(own, "study.objectives", name, known)
            if name not in known:
                raise unknown("objective in study.objectives:", name, known)
        return replace(self, objectives=names)


LOOKS = (10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 57, 67, 80, 95, 113, 135, 160)  # each 19 % more than the one before
OWN_TEST = "test_metric"  # stands for the data set's own metric, measured on the test set
KNOWN = {name: m for own in (ACCURACY, PERPLEXITY, PSNR) for name, m in metrics_of(own).items()}
TO_TARGET = ("steps_to_accuracy", "time_to_accuracy_s")  # steps are counted until a target is reached
SPEED = ("learning_speed", *TO_TARGET)  # computed from the validation curve
COST = ("training_step_us", "latency_us")  # times, which are measured once and do not depend on training
SPEED_RUNGS = 50  # evaluations that a validation curve needs to show how fast a net learns
RATES = (1.0, 1 / 3, 3.0)  # learning speed is judged at these multiples of the tuned learning rate


@dataclass
class ConfirmOptions:
    """How finalists are compared, as the user asks for it. `settled` fits these options to a data set's metric.

    finalists: how many, or `all`: nothing is searched, and every candidate of the space is compared. seeds: how many
    fresh seeds each finalist gets. baseline: the spec that all are compared with. tune: the recipe values that are
    settled for each finalist and the baseline before they are compared, by key as in a search space; auto: learning
    rate × weight decay; none: nothing, one recipe for all. equal: what finalists get alike, steps or measured training
    time: as long as the baseline takes for recipe.steps. metric: the one that the verdict is about. margin: by
    metric, the difference that does not matter; metrics that a data set does not have are ignored. alpha: the chance of
    any false better or worse. fresh: whether the finalists' seeds are others than those of all verdicts before.
    until_decided: whether seeds are added while a verdict is undecided. looks: the numbers of seeds after which
    verdicts are then taken.
    """

    finalists: int | str = 3
    seeds: int = 20
    baseline: str = "relu"
    tune: Any = "auto"
    equal: str = "steps"
    metric: str = OWN_TEST
    margin: dict[str, float] = field(default_factory=lambda: {name: m.margin for name, m in KNOWN.items()})
    alpha: float = 0.05
    fresh: bool = False
    until_decided: bool = False
    looks: list[int] = field(default_factory=lambda: list(LOOKS))

    def __post_init__(self) -> None:
        if self.finalists != "all" and not isinstance(self.finalists, int):
            raise ActSearchError(f"confirm.finalists={self.finalists}: write a number, or all.")
        for key in ("finalists", "seeds"):
            value = getattr(self, key)
            if value != "all":
                whole(f"confirm.{key}", value, 1, MOST_SEEDS)
        self.tune = "none" if self.tune is None else self.tune
        if not isinstance(self.tune, Mapping) and self.tune not in ("auto", "none"):
            raise ActSearchError(
                f"confirm.tune={self.tune}: write auto, none, or values by key, e.g. {{lr: [0.01, 0.03]}}."
            )
        if self.equal not in ("steps", "time"):
            raise unknown("word in confirm.equal:", self.equal, ("steps", "time"))
        if not 1e-6 <= self.alpha < 0.5:
            raise ActSearchError(f"confirm.alpha={self.alpha:g}: write a chance from 0.000001 to 0.5, e.g. 0.05.")
        good = self.looks and self.looks[0] > 1 and self.looks[-1] <= MOST_SEEDS
        if not good or sorted(set(self.looks)) != list(self.looks):
            raise ActSearchError(
                f"confirm.looks={list(self.looks)}: write growing numbers of seeds from 2 on, e.g. "
                "[10, 20, 40, 80, 160]."
            )
        if self.until_decided and self.metric in COST:
            raise ActSearchError(
                f"confirm.until_decided=true: confirm.metric={self.metric} is measured, not trained, so more seeds "
                "do not change it. Write confirm.until_decided=false."
            )

    def settled(self, own: Metric) -> Confirmation:
        """These options for nets that are judged by the metric `own`. Raises ActSearchError for unknown metrics."""
        return Confirmation(**{field.name: getattr(self, field.name) for field in fields(ConfirmOptions)}, own=own)

    @property
    def seeds_at_looks(self) -> list[int]:
        """The numbers of seeds after which verdicts are taken."""
        return list(self.looks) if self.until_decided else [self.seeds]

    @property
    def rates(self) -> tuple[float, ...]:
        """The multiples of its tuned learning rate at which each finalist is trained."""
        return RATES if self.metric in SPEED else RATES[:1]

    def rules(self, n_candidates: int) -> Rules:
        """The correction of verdicts by `metric`: one comparison for each candidate at each rate, at each look."""
        return Rules(self.alpha, max(1, n_candidates) * len(self.rates), tuple(self.seeds_at_looks))


@dataclass
class Confirmation(ConfirmOptions):
    """The options for one data set: `metric` and `margin` name only metrics that it has. own: the data set's metric."""

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
        """All metrics that verdicts can be about, by name."""
        return metrics_of(self.own)

    @property
    def own_val(self) -> Metric:
        """The data set's own metric, on the validation examples."""
        return on_validation(self.own)

    @property
    def own_test(self) -> Metric:
        """The data set's own metric, on the test set."""
        return self.metrics[f"test_{self.own.name}"]

    @property
    def primary(self) -> Metric:
        """The metric that the verdict is about."""
        return self.metrics[self.metric]


def speed_is_told(recipe: Recipe) -> bool:
    """Whether a validation curve shows how fast a net learns: its learning rate is constant and it has enough rungs."""
    return recipe.schedule == "constant" and len(recipe.rungs()) >= SPEED_RUNGS


MOST_SEEDS = 1_000_000  # nobody trains more


@dataclass(frozen=True)
class Rules:
    """How verdicts are corrected for the number of comparisons and of looks.

    alpha: the chance of any wrong better or worse among all `comparisons` with the baseline. looks: the numbers of
    seeds after which verdicts are taken, the last time on all runs; empty or one if only once.
    """

    alpha: float = 0.05
    comparisons: int = 1
    looks: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        looks = f" at {len(self.looks)} looks" if len(self.looks) > 1 else ""
        return f"{self.comparisons} comparison{'s' if self.comparisons > 1 else ''}{looks}"

    @property
    def corrects(self) -> bool:
        """Whether there is anything to correct for."""
        return self.comparisons > 1 or len(self.looks) > 1
