"""The whole way from a question to its answer: `run`; `deliver` and `report` from what is stored."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TypeVar

import optuna
import torch

from actsearch.activations.spec import parse_net
from actsearch.clock import Clock
from actsearch.errors import ActSearchError, one_line
from actsearch.job import Job, check
from actsearch.judge.comparison import TARGET
from actsearch.judge.statistics import fewest_for_sign_flips
from actsearch.measure.cost import latency_us, measure
from actsearch.measure.timing import one_thread
from actsearch.outcome import deliver_end, header, make_result, stored
from actsearch.processes import Processes
from actsearch.question.options import StudyOptions
from actsearch.records import Candidate, Event, GenerationStarted, RungReached
from actsearch.report.files import make_folder, output_files, write_text
from actsearch.report.page import second_look
from actsearch.report.result import Result
from actsearch.report.terminal import Terminal
from actsearch.report.write import write_files
from actsearch.study import finalists as stage
from actsearch.study.search import search as search_stage
from actsearch.study.storage import close_storage, open_storage, sole_leader
from actsearch.study.store import note_environment, note_look, note_plan, open_study, plan_key, records, stored_costs
from actsearch.tracking import Delivery, Tracker
from actsearch.training.plan import Plan, choose
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, devices_of, find_device, tune

TUNE_STEPS = 50  # of each plan that engine=tune times
T = TypeVar("T")


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


def import_for_the_end() -> None:
    """What verdicts, costs and the report need."""
    for module in ("scipy.stats", "scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_svg"):
        importlib.import_module(module)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)  # the first one imports for 1.6 s


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


def measured_latency(job: Job, candidate: Candidate, device: torch.device) -> float:
    net = job.model.build(candidate.specs, 0, "torch")
    x = job.data.split(0).x_train[: job.recipe.batch_size].to(device)
    with one_thread():
        return latency_us(net, job.recipe, x)
