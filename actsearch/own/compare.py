"""Finalists of a user's own training: trained on the same fresh seeds, look by look, and judged."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actsearch.activations.spec import parse_net, print_net
from actsearch.errors import ActSearchError
from actsearch.own.run import OwnRun
from actsearch.own.training import OwnTraining
from actsearch.own.trials import Runs, RunsWanted, fill, run_of
from actsearch.question.known import COSTS, known_metric, known_word
from actsearch.question.metrics import Metric
from actsearch.question.options import FRESH_SEED, ConfirmOptions
from actsearch.records import Candidate, Curves, FinalistRun
from actsearch.results.judged import TableOptions
from actsearch.verdicts.comparison import Comparison, compare_arms
from actsearch.verdicts.verdict import Arm, judge

SECONDS = Metric("seconds", "seconds of a run", unit="s", decimals=3)


@dataclass
class OwnOptions(TableOptions):
    """The options for the metrics that runs report. val: that of the validation curves. others: further metrics."""

    val: Metric | None = None
    others: tuple[Metric, ...] = ()

    @property
    def metrics(self) -> dict[str, Metric]:
        return {self.own.name: self.own, **{metric.name: metric for metric in self.others}}

    @property
    def own_val(self) -> Metric:
        return self.val or self.own


@dataclass
class Finals:
    """The finalists' runs and what they are judged by.

    candidates: the finalists with their settings, the baseline among them. objective: what the search went by. n_of: on
    how many seeds each was trained, by activation.
    """

    training: OwnTraining
    runs: Runs
    candidates: Sequence[Candidate]
    confirm: ConfirmOptions
    objective: Metric | None = None
    own: Metric | None = None
    n_of: dict[str, int] = field(default_factory=dict)

    @property
    def home(self) -> str:
        return print_net(parse_net(self.confirm.baseline))

    def of(self, candidate: Candidate, n: int | None = None) -> list[OwnRun]:
        """A finalist's runs. n: on so many seeds, else on all on which it was trained."""
        n = self.n_of[candidate.activation] if n is None else n
        wanted = [run_of(candidate, self.training.settings, FRESH_SEED + i) for i in range(n)]
        return [found for run in wanted if (found := self.runs.get(run)) is not None]

    def all(self) -> list[OwnRun]:
        return [run for candidate in self.candidates for run in self.of(candidate)]

    def train(self) -> Generator[Any, None, None]:
        """Trains what is missing, look by look. Raises ActSearchError where runs cannot be judged."""
        live, looks = list(self.candidates), self.confirm.seeds_at_looks
        for n in looks:
            self.n_of |= dict.fromkeys((c.activation for c in live), n)
            for run in self.all():
                self._check(run)
            seeds = range(FRESH_SEED, FRESH_SEED + n)
            missing = self.runs.missing([run_of(c, self.training.settings, s) for s in seeds for c in live])
            if missing:
                yield RunsWanted("finalists", missing, check=self._check)
            self._check_first()
            if n == looks[-1]:
                break
            open_ = [c.activation for c in self.comparisons() if c.verdict is not None and not c.verdict.settled]
            live = [c for c in self.candidates if c.activation in open_ or (c.activation == self.home and open_)]
            if not live:
                break

    def _check(self, run: OwnRun) -> None:
        """Raises ActSearchError as soon as a run shows that the metric is reported by none, is no share or no ratio."""
        if run.error:
            return
        if self.own is None:
            objective = None if self.objective is None else self.objective.name
            self.own = self.training.judged_by(self.confirm, run.last, objective)
        self._check_first()
        if run.why(self.own.name):
            return
        own, value = self.own, run.last[self.own.name]
        better = str(own.higher_is_better).lower()
        cure = f"train.metrics.{own.name}={{higher_is_better: {better}, margin: 0.5, ratio: false}}"
        if own.unit == "%" and not 0 <= value <= 1:
            raise ActSearchError(
                f"{own.name} is {value:g} ({run}): report shares from 0 to 1, or say what it is: {cure}."
            )
        if own.ratio and value <= 0:
            raise ActSearchError(
                f"{own.name} is {value:g} ({run}), and is compared by its ratio. Say by which difference: {cure}."
            )

    def _check_first(self) -> None:
        """Raises ActSearchError if every finalist's run with the first seed failed: the fault is in the training."""
        first = [run for candidate in self.candidates for run in self.of(candidate, 1)]
        whys = [run.error if self.own is None else run.why(self.own.name) for run in first]
        if len(whys) == len(self.candidates) and all(whys):
            raise ActSearchError(f"every run of the first seed failed: {whys[0]}")

    @property
    def options(self) -> OwnOptions:
        own, said = self._own, self.training.metrics.get(self._own.name, {})
        margin = own.margin if "margin" in said else self.confirm.margin.get(own.name, own.margin)
        others = tuple(self._others())
        return OwnOptions(
            baseline=self.home, metric=own.name, margin={own.name: margin, **{m.name: m.margin for m in others}},
            alpha=self.confirm.alpha, seeds=self.confirm.seeds, until_decided=self.confirm.until_decided,
            looks=self.confirm.looks, own=replace(own, margin=margin), val=self.objective, others=others,
        )  # fmt: skip

    @property
    def _own(self) -> Metric:
        if self.own is None:
            first = self.all()[0]
            raise ActSearchError(f"all {len(self.all())} runs failed: {first.error}")
        return self.own

    def _others(self) -> list[Metric]:
        """Other metrics that all runs report, if the one that decides is of a test set those of it; and seconds."""
        own, good = self._own, [run for run in self.all() if not run.why(self._own.name)]
        names = [name for name in good[0].last if all(name in run.last for run in good)] if good else []
        start = "test_" if own.name.startswith("test_") else ""
        known = [
            name for name in names
            if (name.startswith(start) and (known_metric(name) or name in self.training.metrics))
            or known_word(name) in COSTS
        ]  # fmt: skip
        found = [self.training.metric(name) for name in known if name not in (own.name, "seconds")]
        return [*found, SECONDS] if own.name != "seconds" else found

    def comparisons(self) -> list[Comparison]:
        options, failures = self.options, self.failed_as(self._own)
        by_name = {c.activation: c for c in self.candidates}
        home = self.home

        def arm_of(name: str, n: int, metric: Metric = options.own, worst: float = failures) -> Arm:
            runs = self.of(by_name[name], n)
            failed = [bool(run.why(metric.name)) for run in runs]
            values = [worst if bad else run.last[metric.name] for run, bad in zip(runs, failed, strict=True)]
            return Arm(values, failed)

        arms = {name: (arm_of(name, n), arm_of(home, n), True) for name, n in self.n_of.items() if name != home}
        found = compare_arms(arms, home, arm_of(home, self.n_of[home]), options, True)
        rules, out = options.rules(len(arms)), []
        for c in found:
            more = []
            for metric in () if c.is_baseline else options.others:
                worst = self.failed_as(metric)
                pair = (arm_of(c.activation, c.n_seeds, metric, worst), arm_of(home, c.n_seeds, metric, worst))
                if all(value > 0 for arm in pair for value in arm.values) or not metric.ratio:
                    more.append(judge(metric, *pair, rules, options.margin[metric.name]))
            recipe = dict(by_name[c.activation].recipe)
            out.append(replace(c, recipe=recipe, secondary=more))
        return out

    def failed_as(self, metric: Metric) -> float:
        """What a failed run counts as: the worst that any run reached."""
        values = [run.last[metric.name] for run in self.all() if not run.why(metric.name)]
        return (min if metric.higher_is_better else max)(values, default=float("nan"))

    def said(self) -> list[str]:
        """Sentences on runs that failed."""
        said = []
        for candidate in self.candidates:
            runs = self.of(candidate)
            whys = [why for run in runs if (why := run.why(self._own.name))]
            if whys:
                said.append(
                    f"{len(whys)} of {len(runs)} runs of {candidate.activation} failed and count as the worst of all "
                    f"runs, first: {whys[0]}."
                )
        return said

    def as_finalists(self) -> list[FinalistRun]:
        """The runs in the form of a study's: test values and, where there is a validation metric, its curves."""
        own, worst, out = self._own, self.failed_as(self._own), []
        losses = self.failed_as(self.objective) if self.objective is not None else 0.0
        for candidate in self.candidates:
            runs, shared = self.of(candidate), Curves()
            if self.objective is not None:
                fill(shared, runs, self.objective.name, {self.objective.name: losses})
            for i, run in enumerate(runs):
                failed, curves = bool(run.why(own.name)), Curves()
                if self.objective is not None:
                    curves = Curves(
                        list(shared.steps), [[row[i]] for row in shared.val_metric],
                        [[row[i]] for row in shared.val_loss], [[row[i]] for row in shared.train_loss],
                    )  # fmt: skip
                value = worst if failed else run.last[own.name]
                out.append(
                    FinalistRun(
                        candidate.activation, dict(candidate.recipe), run.seed, value,
                        run.last.get("test_loss", float("nan")), failed, curves,
                    )
                )  # fmt: skip
        return out


def rows_of(runs: Collection[OwnRun]) -> list[Mapping[str, Any]]:
    """A row for each run, which `task=judge` takes."""
    return [
        {"activation": run.activation, **run.settings, "seed": run.seed,
         **{key: value for key, value in run.last.items() if key != "seconds"}, "run_s": round(run.seconds, 3),
         "failed": bool(run.error), "error": run.error}
        for run in sorted(runs, key=lambda run: (run.activation, run.seed))
    ]  # fmt: skip
