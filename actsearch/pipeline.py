"""The whole way from a question to its answer: `run`; `deliver` and `report` from what is stored."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import optuna
import torch

from actsearch import finalists as stage
from actsearch.activations.spec import parse_net
from actsearch.comparison import TARGET, Confirmation, FinalistRun, compare
from actsearch.cost import Cost, latency_us, measure, one_thread
from actsearch.environment import environment
from actsearch.errors import ActSearchError, hide_password, one_line
from actsearch.job import Job, check
from actsearch.processes import Processes
from actsearch.report.files import (
    finalist_rows,
    leaderboard_rows,
    output_files,
    write_csv,
    write_text,
)
from actsearch.report.page import second_look, write_page
from actsearch.report.plots import write_plots
from actsearch.report.result import Result
from actsearch.report.sentence import sentence, span
from actsearch.report.tables import finalist_table, latex_table, markdown_table
from actsearch.report.terminal import Terminal
from actsearch.search_space import Candidate, plural
from actsearch.statistics import fewest_for_sign_flips
from actsearch.storage import close_storage, open_storage, sole_leader, sqlite_path
from actsearch.study import (
    Event,
    GenerationStarted,
    RungReached,
    StudyOptions,
    open_study,
    records,
)
from actsearch.study import search as search_stage
from actsearch.tracking import Delivery, Tracker
from actsearch.training import Plan, Run, Trainer, choose, devices_of, find_device, tune

TUNE_STEPS = 50  # of each plan that engine=tune times
NOT_TO_REPEAT = ("task=", "hydra.run.dir=")  # of a command: what was done with the result, and where it lies
T = TypeVar("T")


class Clock:
    """Where the time goes from `start` (seconds since the epoch), read off the stream of events."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.spent: dict[str, float] = dict.fromkeys(
            ("startup_s", "training_s", "asking_s", "finalists_s", "cost_s", "report_s", "tracking_wait_s"), 0.0
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
    if processes is not None and device.type != "cpu":
        processes.close()
        processes = None
    n_processes = len(devices_of(device, len(processes or ()) or None))
    plan = choose(job.engine, job.model, job.data.goal, job.largest_batch, device, n_processes, job.recipe.precision)
    make_folder(job.folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_leader(job.storage_url, job.name))
        storage = open_storage(job.storage_url)
        stack.callback(close_storage, storage)
        study = open_study(storage, job.name, job.directions, job.identity)
        if job.config_yaml:
            write_text(job.folder / "config.yaml", job.config_yaml)
        before = records(study)
        trainer = stack.enter_context(Trainer(device, processes=processes))
        trainer.load(job.model, job.data, plan)
        noted = settle_plan(job, study, trainer)
        job.data.source.prepare_test()
        terminal.header(header(job, trainer, n_trials, len(everything), len(before)))
        n_final = len(everything) if compare_all else int(job.confirm.finalists) + 1
        if (least := fewest_for_sign_flips(job.confirm.rules(n_final - 1).level)) > job.confirm.seeds_at_looks[-1]:
            terminal.warn(f"so few seeds can decide nothing here: with these comparisons it takes at least {least}.")
        tracker = None
        if job.tracking_uri is not None:
            make = lambda uri=job.tracking_uri: Delivery(uri, job.experiment, job.study_info)  # noqa: E731
            tracker = Tracker(make, terminal.warn)
            stack.callback(tracker.close)
        n_points = len(job.space.recipe_points(job.confirm.tune_trials)) if job.space.recipe else 0
        n_fresh = n_final * len(job.confirm.rates) * job.confirm.seeds_at_looks[-1]
        n_runs = (max(n_trials - len(before), 0) + n_points * n_final) * job.study.seeds + n_fresh
        stack.callback(terminal.end)
        terminal.begin(n_runs * job.recipe.steps, job.study.objectives[0], job.directions[0])
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
                if clock.first_rung_s is None and isinstance(event, RungReached):
                    note_environment(study, device)
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
            chosen = stage.choose(records(study), int(job.confirm.finalists), job.confirm.baseline, job.directions[0])
        chosen = drive(
            stage.tune(storage, job.name, chosen, trainer, job.space, job.recipe, job.confirm, job.study.seeds,
                       job.study.objectives[0])
        )  # fmt: skip
        # who they are at last: the storage may hold runs of others too, from before n_trials was raised
        study.set_user_attr("finalists", [[c.activation, dict(c.recipe)] for c in chosen])
        study.set_user_attr("finalists_asked", [job.confirm.finalists, job.confirm.baseline])
        threading.Thread(target=import_for_the_end, daemon=True).start()  # seconds, while the finalists train
        if job.tells_speed and "steps_to_accuracy" in job.confirm.metrics:
            home = next(c for c in chosen if c.specs == parse_net(job.confirm.baseline))
            accuracy = drive(
                stage.reference(storage, job.name, home, records(study), trainer, job.recipe, job.study.seeds)
            )
            study.set_user_attr("target_accuracy", TARGET * accuracy)
        target = study.user_attrs.get("target_accuracy")
        if job.confirm.metric == "time_to_accuracy_s":
            settle_costs(job, study, chosen, trainer)  # now: with until_decided they decide
        costs = stored_costs(study, chosen)
        runs = drive(
            stage.confirm(storage, job.name, chosen, trainer, job.data, job.recipe, job.confirm, target, costs)
        )
        clock.lap("finalists_s")
        terminal.end()
        settle_costs(job, study, chosen, trainer)
        clock.lap("cost_s")
        result = make_result(job, study, storage, chosen, runs)
        if result.earlier_looks:
            terminal.warn(second_look(result))
        note_look(study, job.confirm)
        files = write_files(result)
        clock.lap("report_s")
        if tracker is not None:
            tracker.trials(earlier)
            tracker.close(lambda delivery: deliver_end(delivery, result, files))
            result.page = tracker.page
            clock.lap("tracking_wait_s")
        timing = clock.summary(tracker.seconds if tracker else 0.0)
        write_text(job.folder / "timing.json", json.dumps(timing, indent=2) + "\n")
    return result


def look(options: Confirmation) -> str:
    """What verdicts are seen with these options, in words."""
    n, margin = span(options.seeds_at_looks), f"{options.margin[options.metric]:g}"
    return f"{options.metric} against {options.baseline}, {n} seeds, alpha {options.alpha:g}, margin {margin}"


def note_look(study: optuna.Study, options: Confirmation) -> None:
    """Keeps which verdicts a person saw: to ask again because of them is a further chance to err."""
    seen, now = study.user_attrs.get("looked_at", []), look(options)
    if now not in seen:
        study.set_user_attr("looked_at", [*seen, now])


def import_for_the_end() -> None:
    """What verdicts, costs and the report need."""
    for module in ("scipy.stats", "scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_svg"):
        importlib.import_module(module)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)  # the first one imports for 1.6 s


def note_environment(study: optuna.Study, device: torch.device) -> None:
    """Keeps in the study with what it is being trained, each once."""
    before, now = study.user_attrs.get("environments", []), environment(device)
    if now not in before:
        study.set_user_attr("environments", [*before, now])


def settle_costs(job: Job, study: optuna.Study, chosen: Sequence[Candidate], trainer: Trainer) -> None:
    """Measures what the finalists cost, together, and keeps it in the study; once for the same finalists."""
    if stored_costs(study, chosen):
        return
    trainer.rest()  # what is measured here needs the memory
    split, n, device = job.data.split(0), job.recipe.batch_size, trainer.device
    nets = [job.model.build(c.specs, 0, job.recipe.init) for c in chosen]
    with one_thread():
        costs = measure(nets, job.recipe, split.x_train[:n].to(device), split.y_train[:n].to(device), split.goal.loss)
    measured = [[list(c.key), dataclasses.asdict(cost)] for c, cost in zip(chosen, costs, strict=True)]
    study.set_user_attr("costs", measured)


def stored_costs(study: optuna.Study, chosen: Sequence[Candidate]) -> dict[str, Cost]:
    """By activation; empty if others were measured."""
    measured = study.user_attrs.get("costs", [])
    if [key for key, _ in measured] != [list(c.key) for c in chosen]:
        return {}
    return {key[0]: Cost(**cost) for key, cost in measured}


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
    with stored(job) as (study, result):
        done = records(study)
        if not done and result is None:
            raise ActSearchError(
                f"the study '{job.name}' has no results to deliver yet. Run it without task=deliver first."
            )
        try:
            delivery = Delivery(job.tracking_uri, job.experiment, job.study_info)
            for record in done:
                delivery.trial(record)
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


def report(job: Job, terminal: Terminal) -> Result:
    """Writes the tables, the verdicts, the plots and the page of a finished study again, from the storage alone."""
    with stored(job) as (study, result):
        if result is None:
            raise ActSearchError(f"the study '{job.name}' is not finished. Run it to its end: without task=report.")
        if result.earlier_looks:
            terminal.warn(second_look(result))
        note_look(study, job.confirm)
    if job.config_yaml:
        write_text(job.folder / "config.yaml", job.config_yaml)
    write_files(result)
    return result


@contextlib.contextmanager
def stored(job: Job) -> Iterator[tuple[optuna.Study, Result | None]]:
    """A study in its storage, and its result if it is finished. Nothing is trained, measured or created."""
    path = sqlite_path(job.storage_url)
    storage = open_storage(job.storage_url) if path is None or path.exists() else None
    if storage is None or job.name not in optuna.get_all_study_names(storage):
        where = hide_password(job.storage_url)
        raise ActSearchError(f"there is no study '{job.name}' in {where}. Run it first, without task=.")
    try:
        study = open_study(storage, job.name, job.directions, job.identity)
        chosen = [
            Candidate(parse_net(activation), tuple(values.items()))
            for activation, values in study.user_attrs.get("finalists", [])
        ]
        asked = study.user_attrs.get("finalists_asked")
        if chosen and asked != [job.confirm.finalists, job.confirm.baseline]:
            raise ActSearchError(
                f"the study '{job.name}' was last run with confirm.finalists={asked[0]} confirm.baseline={asked[1]}. "
                "Write these, or run it with others: without task."
                if asked
                else f"the study '{job.name}' is of an older version. Run it once more: what was trained is not again."
            )
        done = stage.stored_runs(storage, job.name)
        target = study.user_attrs.get("target_accuracy")
        costs = stored_costs(study, chosen)
        runs, wanted = stage.standing(done, chosen, job.recipe, job.confirm, target, costs)
        finished = chosen and costs and not wanted
        yield study, make_result(job, study, storage, chosen, runs) if finished else None
    finally:
        close_storage(storage)


def deliver_end(delivery: Delivery, result: Result, files: Sequence[Path]) -> None:
    own = result.options.own
    curves = {(r.activation, str(r.recipe)): r.curves for r in stage.as_records(result.runs, f"val_{own.name}")}
    for comparison in result.comparisons:
        theirs = [r for r in result.runs if (r.activation, r.recipe) == (comparison.activation, comparison.recipe)]
        delivery.finalist(comparison, theirs, curves[comparison.activation, str(comparison.recipe)])
    seen = [float(row[f"val_{own.name}_mean"]) for row in result.leaderboard]
    ends = {
        f"test_{own.name}": result.comparisons[0].test_metric,
        f"val_{own.name}": max(seen) if own.higher_is_better else min(seen),
    }
    table = markdown_table(*finalist_table(result.comparisons, result.options))
    delivery.finish(f"{result.summary}\n\n{table}", ends, files)


def make_result(
    job: Job,
    study: optuna.Study,
    storage: optuna.storages.BaseStorage,
    chosen: Sequence[Candidate],
    runs: Sequence[FinalistRun],
) -> Result:
    done = records(study)
    objective = job.study.objectives[0]  # of a comparison without a search: its validation, in the same form
    rows = (
        leaderboard_rows(done, job.study.objectives, job.metric)
        if done
        else leaderboard_rows(stage.as_records(runs, objective), [objective], job.metric)
    )
    target = study.user_attrs.get("target_accuracy")
    comparisons = compare(runs, job.confirm, target, stored_costs(study, chosen))
    test_name = f"{job.data.name}'s test set"
    return Result(
        name=job.name, leaderboard=rows, records=done, comparisons=comparisons, runs=list(runs),
        summary=sentence(comparisons, test_name, job.confirm), folder=job.folder, test_name=test_name,
        searched=bool(done), objective=objective, options=job.confirm,
        n_test=stage.n_test(storage, job.name), target=target,
        earlier_looks=[seen for seen in study.user_attrs.get("looked_at", []) if seen != look(job.confirm)],
        refused={text: why for trial in study.get_trials(deepcopy=False)
                 for text, why in trial.user_attrs.get("refused", {}).items()},
        about=about(job, study),
        config_yaml=job.config_yaml.replace(str(job.folder), f"runs/{job.name}"),  # a report goes to others
    )  # fmt: skip


def about(job: Job, study: optuna.Study) -> dict[str, str]:
    """How a study was made, by heading, for its report."""
    plans = [Plan.from_json(v) for k, v in study.user_attrs.items() if k.startswith("plan_")]
    made = study.user_attrs.get("environments", [])
    rows = {
        "command": " ".join(w for w in job.tags.get("command", "").split(" ") if not w.startswith(NOT_TO_REPEAT)),
        **model_rows(job),
        "training": "; ".join(dict.fromkeys(map(str, plans))),
        "versions": " / ".join(dict.fromkeys(e["versions"] for e in made)),
        "hardware": " / ".join(dict.fromkeys(e["hardware"] for e in made)),
        "commit": job.tags.get("mlflow.source.git.commit", ""),
    }
    return {key: value for key, value in rows.items() if value}


def write_files(result: Result) -> list[Path]:
    """Everything in the output folder but the config and the timing."""
    folder = result.folder
    write_csv(folder / "leaderboard.csv", result.leaderboard)
    write_csv(folder / "finalists.csv", finalist_rows(result.runs, result.options.own))
    if result.refused:
        write_csv(folder / "refused.csv", [{"function": text, "reason": why} for text, why in result.refused.items()])
    write_text(folder / "verdict.json", json.dumps(result.verdicts, indent=2, ensure_ascii=False) + "\n")
    table = finalist_table(result.comparisons, result.options)
    write_text(folder / "finalists.md", markdown_table(*table) + "\n")
    write_text(folder / "finalists.tex", latex_table(*table) + "\n")
    write_page(result, write_plots(result))
    return output_files(folder)


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


def measured_latency(job: Job, candidate: Candidate, device: torch.device) -> float:
    net = job.model.build(candidate.specs, 0, "torch")
    x = job.data.split(0).x_train[: job.recipe.batch_size].to(device)
    with one_thread():
        return latency_us(net, job.recipe, x)


def model_rows(job: Job) -> dict[str, str]:
    r = job.recipe
    return {
        "model": f"{job.model.name}, {job.model.n_parameters:,} parameters, {plural(job.model.n_slots, 'activation')}; "
        f"initial weights: {r.init}",
        "data": str(job.data),
        "recipe": f"{r.optimizer}, lr {r.lr:g}, {r.schedule}, {r.steps} steps of {r.batch_size}",
        "search space": str(job.space),
    }


def header(job: Job, trainer: Trainer, n_trials: int, n_all: int, n_before: int) -> dict[str, str]:
    cpu = trainer.device.type == "cpu"
    what = f"{trainer.cores} process{'es' if trainer.cores > 1 else ''}{' of one thread' if cpu else ''}"
    if n_all:
        search_row = f"no search: all {n_all} compared on {span(job.confirm.seeds_at_looks)} seeds"
    elif n_before >= n_trials:
        search_row = f"{n_before} trials × {job.study.seeds} seeds, done before: a larger study.n_trials goes on"
    else:
        done = f", {n_before} of them done before" if n_before else ""
        search_row = f"{n_trials} trials × {job.study.seeds} seeds{done}"
    return {
        "device": f"{trainer.device} ({what})",
        **model_rows(job),
        "training": str(trainer.plan),
        "search": search_row,
        "study": f"{job.name} in {hide_password(job.storage_url)}",
        "results in": str(job.folder),
    }
