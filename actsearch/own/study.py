"""A study of a user's own training, from its question to its answer: search, tuning and finalists, as for our engine.

`OwnStudy.steps` is a generator of events. It trains nothing itself: it asks for runs (`RunsWanted`) and goes on when
they are kept. So processes here, a job elsewhere and a repeated command all walk the same way.
"""

from __future__ import annotations

import datetime
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import torch

from actsearch.activations.reach import remarks
from actsearch.activations.spec import parse_net, print_net
from actsearch.contents import Contents
from actsearch.errors import ActSearchError, check_url, hide_passwords
from actsearch.measure.environment import environment
from actsearch.own.compare import Finals, rows_of
from actsearch.own.run import OwnRun
from actsearch.own.training import OwnTraining
from actsearch.own.trials import Runs, RunsWanted, Trials, run_of
from actsearch.question.identity import digest, fingerprint, flatten
from actsearch.question.metrics import Direction, Metric, on_validation
from actsearch.question.options import FRESH_SEED, ConfirmOptions, StudyOptions
from actsearch.records import Candidate, Event, TrialRecord
from actsearch.report.files import leaderboard_rows, write_csv
from actsearch.report.page import second_look
from actsearch.report.result import Result
from actsearch.report.sentence import sentence, span
from actsearch.report.write import write_files
from actsearch.space.space import SearchSpace
from actsearch.study.finalists import as_records, choose_finalists, with_baseline
from actsearch.study.ledger import Ledger, Look
from actsearch.study.mirror import check_sampler
from actsearch.study.samplers import SamplerFactory
from actsearch.study.search import run_trials
from actsearch.study.store import Results, open_study, records
from actsearch.study.tuning import (
    SHORTLIST,
    Axis,
    Tuned,
    again,
    axes_of,
    by_final_metric,
    n_points,
    n_runs,
    tune_recipes,
)
from actsearch.tracking import StudyInfo

SHARED = (
    "No setting is tuned: all are trained with the same, which favours the activations that they suit. "
    "search_space.recipe.lr=[0.01,0.03,0.1] tunes each alike."
)
NO_PRUNING = (
    "The pruner ended no trial. Its numbers of steps, such as n_warmup_steps or min_resource, are of the steps that "
    "runs report: 1, 2, 3, … if they report none."
)


@dataclass
class OwnJob:
    """A complete question about a user's own training.

    searches: whether there is a search; otherwise all candidates of the space are finalists. identity: what the study's
    name covers. folder: where results are written. contents: of the function. unknown: what of the user's code could
    not be read for the identity.
    """

    training: OwnTraining
    space: SearchSpace
    study: StudyOptions
    confirm: ConfirmOptions
    sampler: SamplerFactory
    pruner: optuna.pruners.BasePruner
    searches: bool
    identity: Mapping[str, Any]
    name: str
    folder: Path
    storage_url: str
    contents: Contents
    tracking_uri: str | None = None
    experiment: str = "actsearch"
    device: str = "auto"
    typed: str = ""
    config_yaml: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_url("storage.url", self.storage_url)
        if self.tracking_uri is not None:
            check_url("tracking.uri", self.tracking_uri)
        self.tags, self.params = hide_passwords(self.tags), hide_passwords(self.params)
        if self.confirm.equal != "steps" or self.confirm.fresh:
            key = "equal" if self.confirm.equal != "steps" else "fresh"
            raise ActSearchError(f"confirm.{key}: it is not there for a training of your own. Leave it out.")
        if not self.searches and len(self.candidates) < 2:
            raise ActSearchError(
                f"search_space.activations: there is nothing to compare with the baseline {self.home}."
            )
        if len(self.study.objectives) > 1 and not isinstance(self.pruner, optuna.pruners.NopPruner):
            raise ActSearchError("pruner: Optuna can prune only with one objective. Write pruner=none.")
        if self.searches:
            any_direction: list[Direction] = ["maximize"] * len(self.study.objectives)
            check_sampler(self.sampler, self.space, any_direction)

    @property
    def home(self) -> str:
        return print_net(parse_net(self.confirm.baseline))

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates and the baseline, where nothing is searched."""
        return with_baseline(self.space.nets(), self.confirm.baseline)

    @property
    def axes(self) -> list[Axis]:
        return axes_of(self.space, self.confirm.tune)

    @property
    def n_trials(self) -> int:
        return (self.study.n_trials or len(self.space.enumerate())) if self.searches else 0

    @property
    def n_finalists(self) -> int:
        return int(self.confirm.finalists) + 1 if self.searches else len(self.candidates)

    @property
    def n_runs(self) -> int:
        """How many runs it takes, at most, if tuning does not go on beyond its grid."""
        seeds = self.study.seeds
        tuned = self.n_finalists * n_runs(self.axes, seeds)
        return self.n_trials * seeds + tuned + self.n_finalists * self.confirm.seeds_at_looks[-1]

    @property
    def shown(self) -> str:
        """The training with its settings, in words."""
        values = ", ".join(f"{key}={value}" for key, value in hide_passwords(self.training.settings).items())
        return f"{self.training.name}({values})" if values else self.training.name

    @property
    def remarks(self) -> list[str]:
        unread = [
            f"{what} cannot be read: if it changes, runs of before are found all the same. study.fresh=true then "
            "trains anew."
            for what in self.unknown
        ]
        known = [*self.space.corners(), *parse_net(self.home)]
        return [*unread, *([] if self.axes else [SHARED]), *remarks(known, torch.float32)]


class OwnStudy:
    """A study in its storage. metrics: of the objectives, once a run has told what it reports."""

    def __init__(self, job: OwnJob, storage: optuna.storages.BaseStorage) -> None:
        self.job, self.storage = job, storage
        open_study(storage, f"{job.name}/runs", ["maximize"], job.identity)
        self.kept: Results[OwnRun] = Results(storage, f"{job.name}/runs", OwnRun)
        self.runs = Runs(self.kept)
        self.tuning = Results(storage, f"{job.name}/tuning", TrialRecord)
        self.ledger = Ledger(storage)
        self.objectives: list[Metric] = []
        self.finals: Finals | None = None
        self.tuned = Tuned([])

    @property
    def records(self) -> list[TrialRecord]:
        """The search's trials."""
        if self.job.name not in optuna.get_all_study_names(self.storage):
            return []
        return records(optuna.load_study(study_name=self.job.name, storage=self.storage))

    def steps(self) -> Generator[Event | RunsWanted, None, Result]:
        """Walks to the result."""
        job, chosen = self.job, None
        if job.searches or job.axes:
            first = yield from self._first()
            self.objectives = job.training.objectives(job.study.objectives, first)
            job.training.check_metric(job.confirm.metric, first)
            trials = Trials(self.runs, job.training.settings, self.objectives, first)
            chosen = (yield from self._search(trials)) if job.searches else job.candidates
            if job.axes:
                cost = by_final_metric(self.objectives[0])
                self.tuned = yield from tune_recipes(self.tuning, chosen, trials, job.axes, cost, job.study.seeds)
                chosen = self.tuned.candidates
        objective = self.objectives[0] if self.objectives else None
        self.finals = Finals(job.training, self.runs, chosen or job.candidates, job.confirm, objective)
        yield from self.finals.train()
        if job.training.check_repeat:
            yield from self._repeat(self.finals)
        return self._result(self.finals)

    def _first(self) -> Generator[RunsWanted, None, OwnRun]:
        """Trains the baseline once: it tells what runs report, and whether the training works at all."""
        values = {
            axis.key: axis.values[len(axis.values) // 2]
            for axis in self.job.axes
            if axis.key not in self.job.training.settings
        }
        first = run_of(Candidate(parse_net(self.job.home), tuple(values.items())), self.job.training.settings, 0)

        def check(run: OwnRun) -> None:
            if run.error:
                raise ActSearchError(f"the first run failed, {run}: {run.error}")

        known = self.runs.get(first)
        if known is None or known.stopped or known.error:  # without it nothing is known, so it is tried again
            yield RunsWanted("first run", [first], check=check)
        found = self.runs.get(first)
        assert found is not None
        return found

    def _search(self, trials: Trials) -> Generator[Any, None, list[Candidate]]:
        job = self.job
        directions: list[Direction] = [metric.direction for metric in self.objectives]
        study = open_study(self.storage, job.name, directions, job.identity)
        options = replace(job.study, n_trials=job.n_trials, objectives=[metric.name for metric in self.objectives])
        yield from run_trials(study, trials, job.space, options, job.sampler, job.pruner, lambda _: float("nan"))
        whole = [r for r in records(study) if r.curves.n_diverged < len(r.curves.val_metric[-1])]
        return choose_finalists(whole, int(job.confirm.finalists), job.home, directions[0])

    def _repeat(self, finals: Finals) -> Generator[RunsWanted, None, None]:
        """Trains one run twice, and notes whether it told the same."""
        if "repeats" in self.notes():
            return
        home = next(c for c in finals.candidates if c.activation == self.job.home)
        first = finals.of(home, 1)[0]
        other = run_of(home, self.job.training.settings, FRESH_SEED)
        yield RunsWanted("repeat", [other], check=lambda run: self._note_repeat(first, run))

    def _note_repeat(self, first: OwnRun, other: OwnRun) -> None:
        a, b = ({k: v for k, v in run.last.items() if k != "seconds"} for run in (first, other))
        differing = [f"{key} {a[key]:.6g} and {b[key]:.6g}" for key in a if key in b and a[key] != b[key]]
        if other.error or a.keys() != b.keys():
            said = f"{first}, trained twice, told other things: {other.error or ', '.join(b)}."
        elif differing:
            said = (
                f"The training does not repeat: {first}, trained twice, gives {', '.join(differing[:3])}. Another "
                "machine or another time gives other digits; the verdicts count that as chance."
            )
        else:
            said = f"The training repeats: {first}, trained twice, gives the same numbers."
        self.note("repeats", said)

    def notes(self) -> dict[str, Any]:
        """What is kept beside the runs."""
        return optuna.load_study(study_name=f"{self.job.name}/runs", storage=self.storage).user_attrs

    def note(self, key: str, value: Any) -> None:
        optuna.load_study(study_name=f"{self.job.name}/runs", storage=self.storage).set_user_attr(key, value)

    @property
    def tuning_row(self) -> str:
        """What is tuned, in words."""
        axes, seeds = self.job.axes, self.job.study.seeds
        if not axes:
            return "none: the same settings for all"
        keys = " × ".join(axis.key for axis in axes)
        by = f", by {self.objectives[0].words}" if self.objectives else ""
        return (
            f"{keys} for each finalist and the baseline: {n_points(axes)} settings × {seeds} seeds, the best "
            f"{SHORTLIST} on {again(seeds).stop}{by}"
        )

    @property
    def info(self) -> StudyInfo:
        """What MLflow's parent run says; the objectives are known by then, or the finalists' metric is."""
        job, finals = self.job, self.finals
        own = None if finals is None else finals.own
        val = self.objectives[0] if self.objectives else own
        test = own.name if own is not None else f"test_{val.name.removeprefix('val_')}" if val else "test_accuracy"
        return StudyInfo(
            job.name,
            fingerprint(job.identity),
            flatten(job.params),
            job.tags,
            val or on_validation(Metric("", "")),
            test,
        )

    def _result(self, finals: Finals) -> Result:
        job, options, done = self.job, finals.options, self.records
        comparisons = finals.comparisons()
        own, runs = options.own, finals.as_finalists()
        where = f"{job.training.name}'s test set" if own.name.startswith("test_") else job.training.name
        objectives = [metric.name for metric in self.objectives]
        rows = []
        if done:
            rows = leaderboard_rows(done, objectives, options.own_val)
        elif objectives:
            rows = leaderboard_rows(as_records(runs, objectives[0]), objectives[:1], options.own_val)
        beyond = "at the edge of what was tried: a better one may lie beyond."
        edges = [f"The best {' and '.join(v)} for {name} is {beyond}" for name, v in self.tuned.at_edge.items()]
        repeats = [said for key, said in self.notes().items() if key == "repeats"]
        idle = isinstance(job.pruner, optuna.pruners.NopPruner) or any(r.state == "pruned" for r in done)
        pruning = [] if idle or not done else [NO_PRUNING]
        look = self._look(finals)
        result = Result(
            name=job.name, rows=rows, records=done, comparisons=comparisons, runs=runs,
            summary=sentence(comparisons, where, options), folder=job.folder, test_name=where, searched=bool(done),
            objective=objectives[0] if objectives else "", options=options,
            earlier_looks=list(map(str, self.ledger.earlier(look))) if look is not None else [],
            warnings=[*job.remarks, *self._on_validation(finals), *edges, *finals.said(), *repeats, *pruning],
            title=f"Which activation function? {job.training.name}", about=self._about(), config_yaml=job.config_yaml,
            kind="own",
        )  # fmt: skip
        if look is not None:
            self.ledger.note(look)
        return result

    def _on_validation(self, finals: Finals) -> list[str]:
        own = finals.options.own
        if own.name.startswith("test_"):
            return []
        reason = "confirm.metric says so" if finals.confirm.metric == own.name else "runs report no value of a test set"
        return [
            f"The verdict is on {own.words}, because {reason}: if anything was chosen by it, such as the best epoch, "
            "it is optimistic, and more so for what varies more."
        ]

    def _look(self, finals: Finals) -> Look | None:
        """The look at the test set that somebody takes who sees these verdicts; None if there is no test set."""
        options, job = finals.options, self.job
        if not options.own.name.startswith("test_"):
            return None
        n, margin = span(self.job.confirm.seeds_at_looks), f"{options.margin[options.metric]:g}"
        words = f"{options.metric} against {job.home}, {n} seeds, alpha {options.alpha:g}, margin {margin}"
        finalists = tuple(sorted(str(candidate) for candidate in finals.candidates))
        where = digest(str(Path.cwd()), job.training.name)  # stands for the test set, which is not seen
        date = f"{datetime.date.today():%Y-%m-%d}"
        return Look(job.training.name, job.shown, where, job.name, words, finalists, date)

    def _about(self) -> dict[str, str]:
        job, runs = self.job, self.runs.all()
        ended = self.kept.ended
        rows = {
            "command": job.typed, "training": job.shown, "search space": str(job.space), "tuning": self.tuning_row,
            "runs": f"{len(runs)} runs, {sum(r.seconds for r in runs):,.0f} s in all",
            "trained on": "" if ended is None else f"{ended:%Y-%m-%d}", **environment(torch.device("cpu")),
        }  # fmt: skip
        return {key: value for key, value in rows.items() if value}

    def write(self, result: Result) -> list[Path]:
        """Writes the files of the output folder; returns those worth passing on."""
        assert self.finals is not None
        files = write_files(result)
        path = self.job.folder / "runs.csv"
        write_csv(path, [dict(row) for row in rows_of(self.finals.all())])
        return [*files, path]

    def header(self) -> dict[str, str]:
        job, looks = self.job, self.job.confirm.seeds_at_looks
        done = f", {len(self.runs.all())} runs done before" if self.runs.all() else ""
        if job.searches:
            search = f"{job.n_trials} trials × {job.study.seeds} seeds{done}"
        else:
            until = f" to {looks[-1]}, until decided" if len(looks) > 1 else ""
            search = f"no search: all {job.n_finalists} compared on {looks[0]} seeds{until}{done}"
        return {
            "training": job.shown,
            "search space": str(job.space),
            "search": search,
            "tuning": self.tuning_row,
            "study": f"{job.name} in {job.storage_url}",
            "results in": str(job.folder),
        }


def looks_before(result: Result) -> list[str]:
    """That other verdicts on this test set were seen before, in words."""
    return [second_look(result)] if result.earlier_looks else []
