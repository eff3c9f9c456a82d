"""The comparison of activations in a user's own training: every run is kept as it ends, and then they are judged."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from actsearch.activations.reach import remarks
from actsearch.activations.spec import parse_net, print_net
from actsearch.contents import Contents
from actsearch.errors import ActSearchError, one_line, unknown, whole
from actsearch.measure.environment import environment
from actsearch.module_values import packed
from actsearch.own import command
from actsearch.own.pool import Pool
from actsearch.own.run import OwnRun, check_signature
from actsearch.processes import core_count
from actsearch.question.identity import own_name
from actsearch.question.known import known_metric, metric_named
from actsearch.question.metrics import Metric
from actsearch.question.options import FRESH_SEED, OWN_TEST, ConfirmOptions
from actsearch.report.files import make_folder, write_csv
from actsearch.report.result import Result
from actsearch.report.sentence import sentence
from actsearch.report.terminal import Terminal
from actsearch.report.write import write_files
from actsearch.results.judged import TableOptions
from actsearch.study.storage import close_storage, open_storage, sole_leader, sqlite_url
from actsearch.study.store import Results, forget, open_study
from actsearch.verdicts.comparison import Comparison, compare_arms
from actsearch.verdicts.verdict import Arm


@dataclass
class OwnTraining:
    """A user's training. function: (activation, seed, **settings) → numbers. name: what it is called. settings: its
    keywords. threads: of each process; None: the cores are shared out. timeout_s: as for a Pool. metrics: what is said
    of metrics whose names are not known: {"my_score": {"higher_is_better": True, "margin": 0.01}}.
    """

    function: Callable[..., Any]
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    timeout_s: float | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_signature(self.function, self.settings, self.name)
        for key, value in self.settings.items():
            if not _is_plain(value):
                raise ActSearchError(f"train.{key}={value!r:.60}: write numbers, text, lists or mappings of these.")
        if self.threads is not None:
            whole("train.threads", self.threads, 1, core_count())
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ActSearchError(f"train.timeout_s={self.timeout_s}: write seconds above 0.")

    @property
    def identity(self) -> dict[str, Any]:
        return {"train": {"name": self.name, "settings": self.settings}}

    @property
    def contents(self) -> Contents:
        found = Contents()
        found.add(self.function)
        if self.function is command.train:
            for path in command.files_of(self.settings["command"]):
                found.add(path.read_bytes())
            found.unknown.append("what the program of train.command imports and reads")
        return found

    def metric(self, name: str) -> Metric:
        return metric_named(name, **dict(self.metrics.get(name, {})), place=f"train.metrics.{name}")


def _is_plain(value: Any) -> bool:
    """Whether a value comes back from JSON as it was, so that runs of before are found."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def compare_own(
    training: OwnTraining,
    activations: Sequence[str],
    options: ConfirmOptions,
    folder: Callable[[str], Path],
    terminal: Terminal,
    *,
    name: str | None = None,
    fresh: bool = False,
    storage_url: str | None = None,
    typed: str = "",
) -> Result:
    """Trains every activation and the baseline on the same seeds, and judges them by options.metric.

    Runs that are kept from before are not trained again. folder: where results lie, by the study's name. Raises
    ActSearchError if a metric is asked for that runs do not report, and if all runs of the first seed fail.
    """
    home = print_net(parse_net(options.baseline))
    arms = list(dict.fromkeys([*(print_net(parse_net(text)) for text in activations), home]))
    if len(arms) == 1:
        raise ActSearchError(f"search_space.activations: there is nothing to compare with the baseline {home}.")
    contents = training.contents
    identity = training.identity | {"contents": {"train": contents.digest}}
    study_name = name or own_name(training.name, identity)
    place = folder(study_name)
    make_folder(place)
    url = storage_url or sqlite_url(place / "study.db")
    said = [
        f"{what} cannot be read: if it changes, runs of before are found all the same." for what in contents.unknown
    ]
    specs = [spec for arm in arms for spec in parse_net(arm)]
    said += remarks(specs, torch.float32)
    with sole_leader(url, study_name):
        storage = open_storage(url)
        try:
            if fresh:
                forget(storage, study_name)
            open_study(storage, study_name, ["maximize"], identity)
            kept: Results[OwnRun] = Results(storage, f"{study_name}/runs", OwnRun)
            seen = _Seen(kept.all(), arms, training.settings)
            _header(terminal, training, arms, options, seen, study_name, url, place)
            own, verdicts_on, n_of = _train(training, arms, home, options, seen, kept, contents, place, terminal)
        finally:
            close_storage(storage)
    comparisons, failures = _judge(seen, n_of, home, own, verdicts_on)
    test = own.name.startswith("test_")
    if not test:
        said.append(
            f"The verdict is on {own.words}, because runs report no value of a test set or confirm.metric says so: if "
            "anything was chosen by it, such as the best epoch, it is optimistic, and more so for what varies more."
        )
    where = f"{training.name}'s test set" if test else training.name
    machine = environment(torch.device("cpu"))
    result = Result(
        name=study_name, rows=[], records=[], comparisons=comparisons, runs=[],
        summary=sentence(comparisons, where, verdicts_on), folder=place, test_name=where, searched=False, objective="",
        options=verdicts_on, warnings=[*said, *failures], title=f"Which activation function? {training.name}",
        about={
            "command": typed, "training": _shown(training),
            "runs": f"{len(seen.runs)} runs, {sum(r.seconds for r in seen.runs):,.0f} s in all",
            "trained on": f"{datetime.date.today():%Y-%m-%d}", **machine,
        },
        kind="own",
    )  # fmt: skip
    write_files(result)
    _write_runs(seen, place)
    return result


@dataclass
class _Seen:
    """The runs that are done, of these arms with these settings."""

    kept: Sequence[OwnRun]
    arms: Sequence[str]
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.by_key = {
            (run.activation, run.seed): run for run in self.kept
            if run.activation in self.arms and run.settings == dict(self.settings)
        }  # fmt: skip

    def add(self, run: OwnRun) -> None:
        self.by_key[run.activation, run.seed] = run

    @property
    def runs(self) -> list[OwnRun]:
        return list(self.by_key.values())

    def of(self, arm: str, seeds: Sequence[int]) -> list[OwnRun]:
        return [self.by_key[arm, seed] for seed in seeds]


NOT_OF_OWN = (
    "model", "data", "recipe", "engine", "device", "pruner", "budget", "search_space.recipe", "search_space.scope",
    "confirm.tune", "confirm.equal", "confirm.finalists", "confirm.fresh", "study.n_trials", "study.seeds",
    "study.seed", "study.generation", "study.objectives", "tracking",
)  # fmt: skip


def refuse_others(words: Iterable[str]) -> None:
    """Raises ActSearchError for words of a command that an own training does not heed."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if (key == "sampler" and value != "grid") or any(
            key == name or key.startswith(f"{name}.") for name in NOT_OF_OWN
        ):
            raise ActSearchError(
                f"{word}: it does not apply to train=…, which compares a list on fresh seeds, without a search. Leave "
                "it out; what your training takes stands under train."
            )


def fixed_specs(activations: Sequence[Any]) -> list[str]:
    """The specs of a list without ranges. Raises ActSearchError for what would have to be searched."""
    wrong = [item for item in activations if not isinstance(item, str)]
    if wrong:
        raise ActSearchError(
            f"search_space.activations: '{wrong[0]}' has values to search, and train=… compares a list. Write each "
            "spec, e.g. 'search_space.activations=[relu,gelu,\"leaky_relu(negative_slope=0.02)\"]'."
        )
    return list(activations)


def _train(
    training: OwnTraining, arms: Sequence[str], home: str, options: ConfirmOptions, seen: _Seen,
    kept: Results[OwnRun], contents: Contents, place: Path, terminal: Terminal,
) -> tuple[Metric, TableOptions, dict[str, int]]:  # fmt: skip
    """Trains what is missing, look by look. Returns the metric, which the first run's report may settle, the options
    for it, and on how many seeds each activation was trained.
    """
    own, verdicts_on = _metric(training, options, seen.runs), None
    for run in seen.runs:
        _check_share(run, own)
    pool: Pool | None = None
    n_of = dict.fromkeys(arms, 0)
    live = list(arms)
    try:
        for n in options.seeds_at_looks:
            n_of |= dict.fromkeys(live, n)
            seeds = range(FRESH_SEED, FRESH_SEED + n)
            missing = [
                OwnRun(arm, training.settings, seed) for seed in seeds for arm in live if (arm, seed) not in seen.by_key
            ]
            if missing and pool is None:
                pool = _pool(training, contents, place, len(missing))
            for run in _ended(pool, missing, terminal):
                kept.add(run, run.seconds)
                seen.add(run)
                own = _metric(training, options, seen.runs)  # raises as soon as a run shows that nobody reports it
                _check_first(seen, arms, own)
                _check_share(run, own)
            if own is None:
                raise ActSearchError(f"all {len(seen.runs)} runs failed: {seen.runs[0].error}")
            verdicts_on = _options(training, own, options, home)
            if n == options.seeds_at_looks[-1]:
                break
            comparisons, _ = _judge(seen, n_of, home, own, verdicts_on)
            open_ = [c.activation for c in comparisons if c.verdict is not None and not c.verdict.settled]
            live = [arm for arm in arms if arm in open_ or (arm == home and open_)]
            if not live:
                break
    finally:
        if pool is not None:
            pool.close()
        terminal.end()
    assert own is not None and verdicts_on is not None  # there is at least one look
    return own, verdicts_on, n_of


def _ended(pool: Pool | None, missing: Sequence[OwnRun], terminal: Terminal) -> Iterator[OwnRun]:
    if pool is None or not missing:
        return
    terminal.begin(len(missing), "", "maximize")
    for i, run in enumerate(pool.run(missing), start=1):
        yield run
        shown = f"{run.activation}, seed {run.seed}: " + (run.error or f"{run.seconds:.3g} s")
        terminal.advance(1, f"{i} of {len(missing)} runs  {shown}")


def _pool(training: OwnTraining, contents: Contents, place: Path, n_missing: int) -> Pool:
    cores = core_count()
    count = max(1, min(n_missing, cores // (training.threads or 1)))
    try:
        code = cloudpickle.dumps(training.function)
        message = cloudpickle.dumps((list(packed(contents.values)), code))
    except Exception as error:
        raise ActSearchError(
            f"the training function cannot be pickled for a process: {one_line(error)}. Put it into a file of its own."
        ) from error
    return Pool(count, training.threads or max(1, cores // count), message, place / "logs", training.timeout_s)


def _metric(training: OwnTraining, options: ConfirmOptions, runs: Sequence[OwnRun]) -> Metric | None:
    """The metric of the verdict; None if it depends on what runs report and none has ended well yet."""
    reports = next((run.last for run in runs if not run.error), None)
    if options.metric != OWN_TEST:
        if reports is not None and options.metric not in reports:
            raise unknown("metric in confirm.metric:", options.metric, reports, see="The runs report these.")
        return training.metric(options.metric)
    if reports is None:
        return None
    known = [key for key in reports if known_metric(key) or key in training.metrics]
    for start in ("test_", "val_", ""):
        chosen = [key for key in known if key.startswith(start) and not key.endswith("loss")] or [
            key for key in known if key.startswith(start)
        ]
        if len(chosen) == 1:
            return training.metric(chosen[0])
        if chosen:
            break
    raise ActSearchError(
        f"by which metric are they judged? Write confirm.metric=…; the runs report {', '.join(reports)}."
    )


def _options(training: OwnTraining, own: Metric, options: ConfirmOptions, home: str) -> TableOptions:
    told = "margin" in training.metrics.get(own.name, {})
    margin = own.margin if told else options.margin.get(own.name, own.margin)
    return TableOptions(
        baseline=home, metric=own.name, margin={own.name: margin}, alpha=options.alpha, seeds=options.seeds,
        until_decided=options.until_decided, looks=options.looks, own=replace(own, margin=margin),
    )  # fmt: skip


def _check_first(seen: _Seen, arms: Sequence[str], own: Metric | None) -> None:
    """Raises ActSearchError if every activation's run with the first seed failed: then the fault is in the training."""
    first = [seen.by_key.get((arm, FRESH_SEED)) for arm in arms]
    whys = [_why(run, own) for run in first if run is not None]
    if len(whys) == len(arms) and all(whys):
        raise ActSearchError(f"every run of the first seed failed: {whys[0]}")


def _check_share(run: OwnRun, own: Metric | None) -> None:
    """Raises ActSearchError where a share is beyond 0 to 1: its margin would be another one."""
    if own is None or _why(run, own) or own.unit != "%" or 0 <= run.last[own.name] <= 1:
        return
    raise ActSearchError(
        f"{own.name} is {run.last[own.name]:g} ({run.activation}, seed {run.seed}): report shares from 0 to 1, or say "
        f"what it is: train.metrics.{own.name}={{higher_is_better: true, margin: 0.5, ratio: false}}."
    )


def _why(run: OwnRun, own: Metric | None) -> str:
    """Why a run failed; empty if it did not. own: the metric, if it is known."""
    if run.error or own is None:
        return run.error
    if own.name not in run.last:
        return f"it reports no {own.name}, only {', '.join(run.last)}"
    return "" if math.isfinite(run.last[own.name]) else f"its {own.name} is {run.last[own.name]}"


def _judge(
    seen: _Seen, n_of: Mapping[str, int], home: str, own: Metric, options: TableOptions
) -> tuple[list[Comparison], list[str]]:
    """The comparisons, and sentences on runs that failed. A failed run counts as the worst that any run reached."""
    values = [run.last[own.name] for run in seen.runs if not _why(run, own)]
    worst = min(values) if own.higher_is_better else max(values)

    def arm_of(name: str, n: int) -> Arm:
        runs = seen.of(name, range(FRESH_SEED, FRESH_SEED + n))
        good = [not _why(run, own) for run in runs]
        return Arm([run.last[own.name] if ok else worst for run, ok in zip(runs, good, strict=True)],
                   [not ok for ok in good])  # fmt: skip

    found = {arm: (arm_of(arm, n), arm_of(home, n), True) for arm, n in n_of.items() if arm != home}
    comparisons = compare_arms(found, home, arm_of(home, n_of[home]), options, True)
    said = []
    for arm, n in n_of.items():
        whys = [why for run in seen.of(arm, range(FRESH_SEED, FRESH_SEED + n)) if (why := _why(run, own))]
        if whys:
            said.append(
                f"{len(whys)} of {n} runs of {arm} failed and count as the worst of all runs, first: {whys[0]}."
            )
    return comparisons, said


def _header(
    terminal: Terminal, training: OwnTraining, arms: Sequence[str], options: ConfirmOptions, seen: _Seen,
    study_name: str, url: str, place: Path,
) -> None:  # fmt: skip
    done = f", {len(seen.runs)} done before" if seen.runs else ""
    looks = options.seeds_at_looks
    terminal.header({
        "training": _shown(training), "compared": f"{len(arms)} activations on {looks[0]} seeds"
        + (f" to {looks[-1]}, until decided" if len(looks) > 1 else "") + done,
        "study": f"{study_name} in {url}", "results in": str(place),
    })  # fmt: skip


def _shown(training: OwnTraining) -> str:
    values = ", ".join(f"{key}={value}" for key, value in training.settings.items())
    return f"{training.name}({values})"


def _write_runs(seen: _Seen, place: Path) -> None:
    """runs.csv: a row for each run, which `task=judge` takes."""
    rows = [
        {"activation": run.activation, **run.settings, "seed": run.seed, **run.last, "run_s": round(run.seconds, 3),
         "failed": bool(run.error), "error": run.error}
        for run in sorted(seen.runs, key=lambda run: (run.activation, run.seed))
    ]  # fmt: skip
    write_csv(place / "runs.csv", rows)
