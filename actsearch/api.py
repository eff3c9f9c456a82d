"""The whole way from a question to its answer: `run`, which the command line calls too, `search`, `compare`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
import torch
from torch import nn

from actsearch import finalists as stage
from actsearch.activations.spec import Spec, parse_net
from actsearch.cost import latency_us
from actsearch.data import Data, as_source
from actsearch.errors import ActSearchError, hide_password, one_line, unknown
from actsearch.finalists import Comparison, ConfirmOptions, FinalistRun
from actsearch.models import Model, cnn1d, cnn2d, mlp, resnet
from actsearch.processes import Processes
from actsearch.recipe import Recipe
from actsearch.report.files import finalist_rows, leaderboard_rows, write_csv, write_text
from actsearch.report.sentence import markdown_table, sentence
from actsearch.report.terminal import Terminal
from actsearch.samplers import SamplerFactory
from actsearch.search_space import Candidate, SearchSpace, plural
from actsearch.storage import close_storage, open_storage, sole_leader, sqlite_path
from actsearch.study import (
    FRESH_SEED,
    Event,
    GenerationFinished,
    GenerationStarted,
    RungReached,
    StudyOptions,
    TrialRecord,
    check_sampler,
    fingerprint,
    open_study,
    records,
    study_name,
)
from actsearch.study import search as search_stage
from actsearch.tracking import Delivery, StudyInfo, Tracker, check_tracking
from actsearch.training import Plan, Run, Trainer, choose, devices_of, find_device, tune

TUNE_STEPS = 50  # of each plan that engine=tune times
T = TypeVar("T")


@dataclass
class Job:
    """A question, complete. identity: what the fingerprint covers; params: what MLflow shows of the config."""

    model: Model
    data: Data
    space: SearchSpace
    recipe: Recipe
    study: StudyOptions
    confirm: ConfirmOptions
    sampler: SamplerFactory
    pruner: optuna.pruners.BasePruner
    identity: Mapping[str, Any]
    folder: Path
    storage_url: str
    tracking_uri: str | None
    experiment: str = "actsearch"
    config_yaml: str = ""
    device: str = "auto"
    engine: str = "auto"
    worker: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.study.name or study_name(self.data.name, self.model.name, self.identity)


@dataclass
class Result:
    """leaderboard: rows as in leaderboard.csv. best: the activation that leads on test. comparisons: finalists
    against the baseline, best first. runs: one per finalist and seed. summary: one sentence. searched: the
    finalists were selected from trials. page: the study's table in MLflow, below its server's address.
    """

    leaderboard: list[dict[str, Any]]
    comparisons: list[Comparison]
    runs: list[FinalistRun]
    summary: str
    folder: Path
    test_name: str
    searched: bool
    page: str | None = None

    @property
    def best(self) -> str:
        return self.comparisons[0].activation

    def report(self) -> None:
        """Prints the leaderboard, the finalists and the sentence."""
        terminal = Terminal()
        terminal.leaderboard(self.leaderboard, self.searched)
        terminal.finalists(self.comparisons, self.test_name)
        terminal.line(f"\n{self.summary}")


class Clock:
    """Where the time goes from `start` (seconds since the epoch), read off the stream of events."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.spent: dict[str, float] = dict.fromkeys(
            ("startup_s", "training_s", "asking_s", "finalists_s", "report_s", "tracking_wait_s"), 0.0
        )
        self.first_rung_s: float | None = None
        self._mark = self.start

    def lap(self, part: str) -> None:
        now = time.time()
        self.spent[part] += now - self._mark
        self._mark = now

    def event(self, event: Event) -> None:
        if self.first_rung_s is None and isinstance(event, RungReached):
            self.first_rung_s = time.time() - self.start
        if event.stage == "finalists":
            self.lap("finalists_s")
        else:
            self.lap("asking_s" if isinstance(event, GenerationStarted) else "training_s")

    def summary(self, tracking_s: float) -> dict[str, float | None]:
        return {
            "wall_s": round(time.time() - self.start, 3),
            "first_rung_s": None if self.first_rung_s is None else round(self.first_rung_s, 3),
            **{part: round(seconds, 3) for part, seconds in self.spent.items()},
            "tracking_s": round(tracking_s, 3),
        }


def run(job: Job, terminal: Terminal, processes: Processes | None = None, started: float | None = None) -> Result:
    """Searches, confirms, writes the output folder and MLflow. Goes on where an earlier run of it stopped.

    processes: to train in, if some were started already. started: the time from which timing.json counts.
    """
    clock = Clock(time.time() if started is None else started)
    device = find_device(job.device)
    check(job)
    compare_all = job.confirm.finalists == "all"
    n_trials = 0 if compare_all else job.study.n_trials or len(job.space.enumerate())
    everything = stage.with_baseline(job.space.nets(), job.confirm.baseline) if compare_all else []
    n_processes = len(devices_of(device, len(processes or ()) or None))
    plan = choose(job.engine, job.model, largest_batch(job), device, n_processes, job.recipe.precision)
    make_folder(job.folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_leader(job.storage_url, job.name))
        storage = open_storage(job.storage_url)
        stack.callback(close_storage, storage)
        study = open_study(storage, job.name, job.study.objectives, job.identity)
        if job.config_yaml:
            write_text(job.folder / "config.yaml", job.config_yaml)
        before = records(study)
        trainer = stack.enter_context(Trainer(device, processes=processes if device.type == "cpu" else None))
        trainer.load(job.model, job.data, plan)
        noted = settle_plan(job, study, trainer)
        job.data.source.prepare_test()
        terminal.header(header(job, trainer, n_trials, len(everything), len(before)))
        tracker = None
        if job.tracking_uri is not None:
            make = lambda uri=job.tracking_uri: Delivery(uri, job.experiment, study_info(job))  # noqa: E731
            tracker = Tracker(make, terminal.warn)
            stack.callback(tracker.close)
        n_final = len(everything) if compare_all else int(job.confirm.finalists) + 1
        n_points = len(job.space.recipe_points(job.confirm.tune_trials)) if job.space.recipe else 0
        n_runs = (max(n_trials - len(before), 0) + n_points * n_final) * job.study.seeds + n_final * job.confirm.seeds
        stack.callback(terminal.end)
        terminal.begin(n_runs * job.recipe.steps, job.study.objectives[0])
        clock.lap("startup_s")

        names: dict[int, str] = {}
        earlier = list(before)  # trials of earlier runs, which MLflow may lack

        def drive(events: Generator[Event, None, T]) -> T:
            """Shows and logs each event; returns what the generator returns."""
            nonlocal noted
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    return end.value
                clock.event(event)
                terminal.event(event)
                if trainer.plan != noted:
                    terminal.warn(f"training goes on as: {trainer.plan}")
                    noted = note_plan(study, trainer)
                if isinstance(event, GenerationStarted):
                    names.update(event.names)
                elif tracker is not None and event.stage == "search":
                    if isinstance(event, RungReached):
                        if earlier:  # not sooner: importing MLflow would delay the first rung
                            tracker.trials(earlier)
                            earlier.clear()
                        tracker.rung(event.step, names, event.metrics)
                    else:
                        tracker.trials(event.records)

        if compare_all:
            chosen = everything
        else:
            options = StudyOptions(**{**vars(job.study), "n_trials": n_trials})
            measure = lambda c: measured_latency(job, c, device)  # noqa: E731
            drive(
                search_stage(
                    study, trainer, job.space, job.recipe, options, job.sampler, job.pruner, measure, job.worker
                )
            )
            chosen = stage.choose(
                records(study), int(job.confirm.finalists), job.confirm.baseline, job.study.objectives[0]
            )
        chosen = drive(
            stage.tune(storage, job.name, chosen, trainer, job.space, job.recipe, job.confirm, job.study.seeds,
                       job.study.objectives[0])
        )  # fmt: skip
        # who they are at last: the storage may hold runs of others too, from before n_trials was raised
        study.set_user_attr("finalists", [[c.activation, dict(c.recipe)] for c in chosen])
        threading.Thread(target=importlib.import_module, args=("scipy.stats",), daemon=True).start()  # 1 s, idle here
        runs = drive(stage.confirm(storage, job.name, chosen, trainer, job.data, job.recipe, job.confirm))
        clock.lap("finalists_s")
        terminal.end()
        result = make_result(job, records(study), runs)
        files = write_files(job, result)
        clock.lap("report_s")
        if tracker is not None:
            tracker.trials(earlier)
            tracker.close(lambda delivery: deliver_end(delivery, result, files))
            result.page = tracker.page
            clock.lap("tracking_wait_s")
        timing = clock.summary(tracker.seconds if tracker else 0.0)
        write_text(job.folder / "timing.json", json.dumps(timing, indent=2) + "\n")
    return result


def settle_plan(job: Job, study: optuna.Study, trainer: Trainer) -> Plan:
    """Trains as the study was trained before; else as chosen, or as tuned, and notes it in the study."""
    noted = study.user_attrs.get(plan_key(trainer))
    if noted is not None:
        trainer.plan = Plan.from_json(noted)
        return trainer.plan
    if job.engine == "tune":
        recipe = replace(job.recipe, eval_every=min(job.recipe.eval_every, TUNE_STEPS))
        tune(trainer, job.model, [Run(c.specs, recipe, s) for c in job.space.typical() for s in range(job.study.seeds)])
    return note_plan(study, trainer)


def plan_key(trainer: Trainer) -> str:
    """The study's attribute: a study may go on on another kind of device, which has another plan."""
    return f"plan_{trainer.device.type}"


def note_plan(study: optuna.Study, trainer: Trainer) -> Plan:
    study.set_user_attr(plan_key(trainer), trainer.plan.to_json())
    return trainer.plan


def deliver(job: Job) -> Result:
    """Writes a study to its tracking server, from the storage alone: what is there already stays as it is."""
    if job.tracking_uri is None:
        raise ActSearchError("tracking.uri=null: there is nowhere to deliver to. Write tracking.uri=http://… .")
    path = sqlite_path(job.storage_url)
    storage = open_storage(job.storage_url) if path is None or path.exists() else None
    if storage is None or job.name not in optuna.get_all_study_names(storage):
        raise ActSearchError(f"there is no study '{job.name}' in {job.storage_url} to deliver. Run it first.")
    study = open_study(storage, job.name, job.study.objectives, job.identity)
    done = records(study)
    runs = [
        FinalistRun.from_json(t.user_attrs["result"])
        for summary in optuna.get_all_study_summaries(storage)
        if summary.study_name == f"{job.name}/finalists"
        for t in optuna.load_study(study_name=summary.study_name, storage=storage).get_trials(deepcopy=False)
    ]
    chosen = study.user_attrs.get("finalists", [])
    last = FRESH_SEED + job.confirm.seeds
    runs = [r for r in runs if [r.activation, r.recipe] in chosen and r.seed < last]
    runs.sort(key=lambda r: (chosen.index([r.activation, r.recipe]), r.seed))
    if not done and not runs:
        raise ActSearchError(
            f"the study '{job.name}' has no results to deliver yet. Run it without task=deliver first."
        )
    try:
        delivery = Delivery(job.tracking_uri, job.experiment, study_info(job))
        for record in done:
            delivery.trial(record)
        complete = bool(chosen) and len(runs) == len(chosen) * job.confirm.seeds
        result = make_result(job, done, runs) if complete else None
        if result is not None:
            deliver_end(delivery, result, output_files(job.folder))
            result.page = delivery.page
    except ActSearchError:
        raise
    except Exception as error:
        raise ActSearchError(f"tracking.uri={job.tracking_uri} does not take it: {one_line(error)}") from error
    if result is None:
        raise ActSearchError(f"the study '{job.name}' is not finished: its trials are delivered. Run it to its end.")
    return result


def deliver_end(delivery: Delivery, result: Result, files: Sequence[Path]) -> None:
    curves = {(r.activation, str(r.recipe)): r.curves for r in stage.as_records(result.runs, "val_accuracy")}
    for comparison in result.comparisons:
        theirs = [r for r in result.runs if (r.activation, r.recipe) == (comparison.activation, comparison.recipe)]
        delivery.finalist(comparison, theirs, curves[comparison.activation, str(comparison.recipe)])
    best = result.comparisons[0]
    ends = {
        "test_accuracy": best.mean,
        "val_accuracy": max(float(row["val_accuracy_mean"]) for row in result.leaderboard),
    }
    delivery.finish(f"{result.summary}\n\n{markdown_table(result.comparisons)}", ends, files)


def make_result(job: Job, done: Sequence[TrialRecord], runs: Sequence[FinalistRun]) -> Result:
    objective = job.study.objectives[0]  # of a comparison without a search: its validation, in the same form
    rows = (
        leaderboard_rows(done, job.study.objectives)
        if done
        else leaderboard_rows(stage.as_records(runs, objective), [objective])
    )
    comparisons = stage.compare(runs, job.confirm.baseline)
    test_name = f"{job.data.name}'s test set"
    return Result(rows, comparisons, list(runs), sentence(comparisons, test_name), job.folder, test_name, bool(done))


def write_files(job: Job, result: Result) -> list[Path]:
    write_csv(job.folder / "leaderboard.csv", result.leaderboard)
    write_csv(job.folder / "finalists.csv", finalist_rows(result.runs))
    return output_files(job.folder)


def output_files(folder: Path) -> list[Path]:
    return [folder / name for name in ("leaderboard.csv", "finalists.csv", "config.yaml")]


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ActSearchError(
            f"the output folder {folder} cannot be written ({error.strerror}). Choose another: hydra.run.dir=FOLDER."
        ) from None


def largest_batch(job: Job) -> int:
    searched = dict(job.space.recipe).get("batch_size")
    return max([job.recipe.batch_size] if searched is None else map(int, searched.ends()))


def check(job: Job) -> None:
    """Refuses, before anything is made, what the parts of a job cannot do together."""
    largest = largest_batch(job)
    if largest > job.data.n_train:
        raise ActSearchError(
            f"recipe.batch_size={largest} is more than the {job.data.n_train} training examples. "
            f"Choose at most {job.data.n_train}."
        )
    if job.recipe.precision == "tf32" and find_device(job.device).type != "cuda":
        raise ActSearchError("recipe.precision=tf32: there is no NVIDIA GPU. Write recipe.precision=float32.")
    if job.worker < 0:
        raise ActSearchError(f"worker={job.worker}: workers are numbered from 0.")
    if len(job.study.objectives) > 1 and not isinstance(job.pruner, optuna.pruners.NopPruner):
        raise ActSearchError("pruner: Optuna prunes where there is one objective. Write pruner=none.")
    if isinstance(job.sampler(0, 0), optuna.samplers.GridSampler | optuna.samplers.BruteForceSampler):
        job.space.enumerate()  # refuses ranges, in words
    if job.confirm.finalists != "all":
        check_sampler(job.sampler, job.space, job.study.objectives)
    if job.tracking_uri is not None:
        check_tracking(job.tracking_uri, job.experiment)
    layers = len(parse_net(job.confirm.baseline))
    if layers not in (1, job.model.n_slots):
        raise ActSearchError(
            f"confirm.baseline={job.confirm.baseline} names {layers} layers; the model takes {job.model.n_slots}."
        )


def study_info(job: Job) -> StudyInfo:
    params = {"device": job.device, **job.params}
    return StudyInfo(job.name, fingerprint(job.identity), params, job.tags)


def measured_latency(job: Job, candidate: Candidate, device: torch.device) -> float:
    net = job.model.build(candidate.specs, 0, "torch")
    split = job.data.split(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return latency_us(net, split.x_train[: job.recipe.batch_size].to(device))
    finally:
        torch.set_num_threads(threads)


def header(job: Job, trainer: Trainer, n_trials: int, n_all: int, n_before: int) -> dict[str, str]:
    cpu = trainer.device.type == "cpu"
    what = f"{trainer.cores} process{'es' if trainer.cores > 1 else ''}{' of one thread' if cpu else ''}"
    r = job.recipe
    if n_all:
        search_row = f"no search: all {n_all} compared on {job.confirm.seeds} seeds"
    elif n_before >= n_trials:
        search_row = f"{n_before} trials × {job.study.seeds} seeds, done before: a larger study.n_trials goes on"
    else:
        done = f", {n_before} of them done before" if n_before else ""
        search_row = f"{n_trials} trials × {job.study.seeds} seeds{done}"
    return {
        "device": f"{trainer.device} ({what})",
        "model": f"{job.model.name}, {job.model.n_parameters:,} parameters, {plural(job.model.n_slots, 'activation')}; "
        f"initial weights: {r.init}",
        "data": str(job.data),
        "training": str(trainer.plan),
        "recipe": f"{r.optimizer}, lr {r.lr:g}, {r.schedule}, {r.steps} steps of {r.batch_size}",
        "search space": str(job.space),
        "search": search_row,
        "study": f"{job.name} in {hide_password(job.storage_url)}",
        "results in": str(job.folder),
    }


# --- from Python ----------------------------------------------------------------------------------

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn1d": cnn1d, "cnn2d": cnn2d, "resnet": resnet}


def search(
    model: str | Callable[..., nn.Module] | nn.Module,
    data: str | Data | tuple[Any, Any, Any, Any],
    activations: Sequence[Any] = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh"),
    *,
    n_trials: int | None = 40,
    seeds: int = 3,
    recipe: Recipe | Mapping[str, Any] | None = None,
    finalists: int | str = 3,
    finalist_seeds: int = 20,
    baseline: str = "relu",
    n_validation: int | None = None,
    name: str | None = None,
    folder: str | Path = "runs",
    tracking_uri: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    quiet: bool = False,
) -> Result:
    """Which activation for this model and data? The same as the command `actsearch`.

    model: mlp, cnn1d, cnn2d or resnet; a model function (see actsearch.models); or an nn.Module, whose
    activations are swapped in copies with fresh weights. data: mnist1d, digits, a Data, or arrays
    (x, y, x_test, y_test). activations: as in a search space's YAML. tracking_uri: MLflow's, None for none.
    Raises ActSearchError for what a user can put right.
    """
    if not isinstance(recipe, Recipe):
        for key in recipe or {}:
            if key not in Recipe.__dataclass_fields__:
                raise unknown("recipe value", key, Recipe.__dataclass_fields__)
        recipe = Recipe(**dict(recipe or {}))
    contents = _digest(data)
    data = _data(data, n_validation)
    label = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
    if isinstance(model, str):
        if model not in MODELS:
            raise ActSearchError(f"unknown model '{model}'. Choose one of: {', '.join(MODELS)}, or give a function.")
        model = MODELS[model]
    made = Model(model, label, data.in_shape, data.n_classes)  # pyright: ignore[reportArgumentType]
    options = StudyOptions(name=name, n_trials=n_trials, seeds=seeds)
    identity = {
        "data": {"name": data.name, "contents": contents, "n_train": data.n_train,
                 "n_validation": data.n_validation, "resample": data.resample},
        "model": {"name": label, "layers": repr(made.build([Spec.of("relu")], 0, "torch"))},
        "recipe": vars(recipe),
        "activations": list(activations),
        "study": {"seeds": seeds},
        "engine": engine,
    }  # fmt: skip
    title = name or study_name(data.name, label, identity)
    target = Path(folder) / title
    job = Job(
        model=made, data=data, space=SearchSpace(list(activations), n_slots=made.n_slots, base=recipe), recipe=recipe,
        study=options, confirm=ConfirmOptions(finalists=finalists, seeds=finalist_seeds, baseline=baseline),
        sampler=SamplerFactory(optuna.samplers.TPESampler, {}, 0), pruner=optuna.pruners.NopPruner(), identity=identity,
        folder=target, storage_url=f"sqlite:///{target / 'study.db'}", tracking_uri=tracking_uri, device=device,
        engine=engine, params={"model": label, "data": data.name},
    )  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result = run(job, Terminal(quiet))
    if not quiet:
        result.report()
    return result


def compare(model: Any, data: Any, activations: Sequence[str], *, seeds: int = 20, **keywords: Any) -> Result:
    """All of `activations` against the baseline on the same fresh seeds, no search. keywords: as in `search`."""
    return search(model, data, activations, n_trials=None, finalists="all", finalist_seeds=seeds, **keywords)


def _digest(data: Any) -> str:
    """Sixteen hex digits of the numbers themselves, where a name does not say which they are. The test set of a
    Data is not read for it.
    """
    if isinstance(data, str):
        return data
    parts = (data.source.x, data.source.y) if isinstance(data, Data) else data if isinstance(data, tuple) else ()
    digest = hashlib.sha256()
    for part in parts:
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # what is no array is refused after this
            digest.update(torch.as_tensor(part).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _data(data: Any, n_validation: int | None) -> Data:
    from actsearch import data as sets

    if isinstance(data, Data):
        return data
    if isinstance(data, str):
        known = {
            "mnist1d": (sets.mnist1d, 800),
            "digits": (sets.digits, 288),
            "fashion_mnist": (sets.fashion_mnist, 6000),
            "cifar10": (sets.cifar10, 5000),
        }
        if data not in known:
            raise ActSearchError(f"unknown data set '{data}'. Choose one of: {', '.join(known)}, or give arrays.")
        function, n = known[data]
        return Data(function(), data, n_validation or n)
    source = as_source(data, "data")
    return Data(source, "data", n_validation or max(1, len(source.x) // 5))


__all__ = ["GenerationFinished", "Job", "Result", "compare", "deliver", "run", "search"]
