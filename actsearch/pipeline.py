"""The whole way from a question to its answer: `run`; `deliver` and `report` from what is stored."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean
from typing import TypeVar

import torch

from actsearch.activations.spec import parse_net, print_net
from actsearch.clock import Clock
from actsearch.contents import digest_of
from actsearch.errors import ActSearchError, one_line
from actsearch.job import Job, check
from actsearch.measure.cost import latency_us, net_costs
from actsearch.measure.environment import environment
from actsearch.measure.timing import one_thread
from actsearch.outcome import (
    asked,
    first_seed,
    found_again,
    look_in_words,
    look_of,
    make_result,
    model_rows,
    stored,
    tuned_in_words,
    tuning_row,
)
from actsearch.processes import Processes
from actsearch.question.options import TO_TARGET
from actsearch.records import Candidate, Event, Evidence, GenerationStarted, RungReached, TrialRecord
from actsearch.report.files import make_folder, output_files, write_text
from actsearch.report.page import second_look
from actsearch.report.result import Result
from actsearch.report.sentence import span
from actsearch.report.terminal import Terminal
from actsearch.report.write import write_files
from actsearch.study import finalists as stage
from actsearch.study.generation import Engine
from actsearch.study.search import run_trials
from actsearch.study.storage import close_storage, open_storage, sole_leader
from actsearch.study.store import Store, forget
from actsearch.study.tuning import Tuned, baseline_at_best, cost_by, n_runs, reference, tune_recipes
from actsearch.tracking import Delivery, Tracker, deliver_end
from actsearch.training.plan import choose_plan
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, devices_of, find_device, tune_plan
from actsearch.verdicts.comparison import TARGET
from actsearch.verdicts.statistics import fewest_for_sign_flips
from actsearch.verdicts.verdict import level_of

TUNE_STEPS = 50  # of each plan that engine=tune times
T = TypeVar("T")


def run(job: Job, terminal: Terminal, processes: Processes | None = None, started: float | None = None) -> Result:
    """Searches, confirms, writes the output folder and MLflow. Goes on where an earlier run of it stopped.

    processes: to train in, if some were started already. started: the time from which timing.json counts.
    """
    clock = Clock(time.time() if started is None else started)
    check(job)
    with opened(job, terminal, clock, processes) as session:
        announce(session)
        clock.lap("startup_s")
        tuned = settle_finalists(session)
        evidence = confirm(session, tuned)
        clock.lap("finalists_s")
        terminal.end()
        settle_costs(session, tuned.candidates)
        clock.lap("cost_s")
        result = conclude(session, replace(evidence, costs=session.store.notes().costs))
        write_text(job.folder / "timing.json", json.dumps(clock.summary(session.tracking_s), indent=2) + "\n")
    return result


@dataclass
class Session:
    """What a run holds while it goes on: the study's store, the trainer, and who watches.

    before: trials of earlier runs of this study. found: that the study is finished already, in words; None if it is
    not. tracker: None where nothing is tracked. still_held: raises if another process may lead the study now.
    reference: the baseline's best validation metric, where tuning counts steps to a share of it.
    """

    job: Job
    store: Store
    trainer: Trainer
    terminal: Terminal
    clock: Clock
    tracker: Tracker | None
    before: list[TrialRecord]
    found: str | None
    still_held: Callable[[], None]
    reference: float | None = None
    _names: dict[int, str] = field(default_factory=dict)
    _earlier: list[TrialRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._earlier = list(self.before)  # MLflow may lack them
        self._noted = self.trainer.plan

    def follow(self, events: Generator[Event, None, T]) -> T:
        """Times, shows and logs each event; returns what the generator returns."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            self.still_held()
            if self.clock.first_rung_s is None and isinstance(event, RungReached):
                self.store.note_environment(environment(self.trainer.device))
                threading.Thread(target=import_for_the_end, daemon=True).start()  # while others train
            self.clock.event(event)
            self.terminal.event(event)
            if self.trainer.plan != self._noted:
                self.terminal.warn(f"training goes on as: {self.trainer.plan}")
                self.note_plan()
            if self.tracker is not None:
                self._track(event, self.tracker)

    @property
    def engine(self) -> Engine:
        return Engine(self.trainer, self.job.recipe)

    def note_plan(self) -> None:
        self._noted = self.trainer.plan
        self.store.note_plan(self.trainer.device.type, self._noted)

    def _track(self, event: Event, tracker: Tracker) -> None:
        if isinstance(event, GenerationStarted):
            self._names |= event.names
        elif event.stage == "search":
            if isinstance(event, RungReached):
                self.track_earlier()  # not sooner: importing MLflow would delay the first rung
                tracker.rung(event.step, self._names, event.metrics)
            else:
                tracker.trials(event.records)

    def track_earlier(self) -> None:
        if self.tracker is not None and self._earlier:
            self.tracker.trials(self._earlier)
            self._earlier = []

    @property
    def tracking_s(self) -> float:
        """Seconds that were spent on MLflow."""
        return self.tracker.seconds if self.tracker else 0.0


@contextlib.contextmanager
def opened(job: Job, terminal: Terminal, clock: Clock, processes: Processes | None) -> Iterator[Session]:
    """Opens what a run needs, in an order in which everything is closed again, and settles how it trains."""
    device = find_device(job.device)
    if processes is not None and device.type != "cpu":
        processes.close()
        processes = None
    n_processes = len(devices_of(device, len(processes or ()) or None))
    plan = choose_plan(
        job.engine, job.model, job.data.goal, job.largest_batch, device, n_processes, job.recipe.precision
    )
    make_folder(job.folder)
    with contextlib.ExitStack() as stack:
        still_held = stack.enter_context(sole_leader(job.storage_url, job.name))
        trainer = stack.enter_context(Trainer(device, processes=processes))
        trainer.load(job.model, job.data, plan, job.values)
        storage = open_storage(job.storage_url)
        stack.callback(close_storage, storage)
        if job.study.fresh:
            forget(storage, job.name)
        store = Store(storage, job.name, job.directions, job.identity)
        if "data" not in job.identity.get("contents", {}):  # else the study's identity covers them
            store.check_data(digest_of(job.data.source.x, job.data.source.y, job.data.source.validation))
        if job.config_yaml:
            write_text(job.folder / "config.yaml", job.config_yaml)
        tracker = None
        if job.tracking_uri is not None:
            make = lambda uri=job.tracking_uri: Delivery(uri, job.experiment, job.study_info, job.study.fresh)  # noqa: E731
            tracker = Tracker(make, terminal.warn)
            stack.callback(tracker.close)
        stack.callback(terminal.end)
        found = found_again(job, store)
        session = Session(job, store, trainer, terminal, clock, tracker, store.records(), found, still_held)
        settle_plan(session)
        job.data.source.prepare_test()
        yield session


def settle_plan(session: Session) -> None:
    """Trains as the study was trained before; else as chosen, or as measured, which is noted in the study."""
    job, trainer = session.job, session.trainer
    noted = session.store.notes().plans.get(trainer.device.type)
    if noted is not None:
        trainer.plan = noted
    elif job.engine == "tune":
        recipe = replace(job.recipe, eval_every=min(job.recipe.eval_every, TUNE_STEPS))
        tune_plan(
            trainer, job.model, [Run(c.specs, recipe, s) for c in job.space.typical() for s in range(job.study.seeds)]
        )
    session.note_plan()


def announce(session: Session) -> None:
    """Says what will be done, and begins the progress."""
    job, terminal, n_before = session.job, session.terminal, len(session.before)
    n_final = len(job.everything) if job.compares_all else int(job.confirm.finalists) + 1
    terminal.header(header(session))
    for remark in job.remarks:
        terminal.warn(remark)
    if (least := fewest_for_sign_flips(level_of(job.confirm.rules(n_final - 1)))) > job.confirm.seeds_at_looks[-1]:
        terminal.warn(f"so few seeds can decide nothing here: with these comparisons it takes at least {least}.")
    n_fresh = n_final * len(job.confirm.rates) * job.confirm.seeds_at_looks[-1]
    n_tuning = n_final * n_runs(job.axes, job.study.seeds)
    n_all = max(job.n_trials - n_before, 0) * job.study.seeds + n_tuning + n_fresh
    terminal.begin(
        n_all * job.recipe.steps, job.study.objectives[0], job.directions[0], job.study.seeds * job.recipe.steps
    )


def header(session: Session) -> dict[str, str]:
    job, trainer, n_before = session.job, session.trainer, len(session.before)
    cpu = trainer.device.type == "cpu"
    what = f"{trainer.cores} process{'es' if trainer.cores > 1 else ''}{' of one thread' if cpu else ''}"
    if session.found is not None:
        search_row = session.found
    elif job.compares_all:
        search_row = f"no search: all {len(job.everything)} compared on {span(job.confirm.seeds_at_looks)} seeds"
    elif n_before >= job.n_trials:
        search_row = f"{n_before} trials × {job.study.seeds} seeds, done before: a larger study.n_trials goes on"
    else:
        done = f", {n_before} of them done before" if n_before else ""
        search_row = f"{job.n_trials} trials × {job.study.seeds} seeds{done}"
    return {
        "device": f"{trainer.device} ({what})",
        **model_rows(job),
        "training": str(trainer.plan),
        "search": search_row,
        "tuning": tuning_row(job),
        "study": f"{job.name} in {job.storage_url}",
        "results in": str(job.folder),
    }


def settle_finalists(session: Session) -> Tuned:
    """Searches, unless all are compared; chooses the finalists and tunes them; notes in the study who they are."""
    job, store, trainer = session.job, session.store, session.trainer
    if job.compares_all:
        chosen = job.everything
    else:
        options = replace(job.study, n_trials=job.n_trials)
        latency = lambda candidate: measured_latency(job, candidate, trainer.device)  # noqa: E731
        session.follow(run_trials(store.search, session.engine, job.space, options, job.sampler, job.pruner, latency))
        chosen = stage.choose_finalists(
            store.records(), int(job.confirm.finalists), job.confirm.baseline, job.directions[0]
        )
    steps = equal_steps(session, chosen) if job.confirm.equal == "time" else {}
    tuned = Tuned([replace(c, recipe=(*c.recipe, ("steps", steps[c.activation]))) for c in chosen] if steps else chosen)
    if job.axes:
        target, seeds = math.nan, job.study.seeds
        if job.confirm.metric in TO_TARGET:
            home, own = parse_net(job.confirm.baseline), job.metric
            at_best = session.follow(baseline_at_best(store.tuning, home, session.engine, job.axes, own, seeds, steps))
            session.reference, target = at_best, TARGET * at_best
        cost = cost_by(job.confirm, target)
        tuned = session.follow(tune_recipes(store.tuning, chosen, session.engine, job.axes, cost, seeds, steps))
    store.note_finalists(tuned.candidates, asked(job), tuned_in_words(tuned, job))
    return tuned


def equal_steps(session: Session, chosen: Sequence[Candidate]) -> dict[str, int]:
    """For how many steps each trains to be trained as long as the baseline is, by activation. Measured once."""
    store, job = session.store, session.job
    known = store.equal_steps
    if any(c.activation not in known for c in chosen):
        settle_costs(session, chosen)
        us = {name: geometric_mean(cost.training_step_us) for name, cost in store.costs_of(chosen).items()}
        home = us[print_net(parse_net(job.confirm.baseline))]
        known = {name: max(1, round(job.recipe.steps * home / step_us)) for name, step_us in us.items()} | known
        store.equal_steps = known
    return {c.activation: known[c.activation] for c in chosen}


def confirm(session: Session, tuned: Tuned) -> Evidence:
    """Trains the finalists on fresh seeds and scores them on test."""
    chosen = tuned.candidates
    job, store, trainer = session.job, session.store, session.trainer
    if job.tells_speed and "steps_to_accuracy" in job.confirm.metrics:
        accuracy = session.reference
        if accuracy is None:
            home = next(c for c in chosen if c.specs == parse_net(job.confirm.baseline))
            accuracy = session.follow(reference(store.tuning, home, store.records(), session.engine, job.study.seeds))
        store.note_target(TARGET * accuracy)
    if job.confirm.metric == "time_to_accuracy_s":
        settle_costs(session, chosen)  # now: with until_decided they decide
    if job.confirm.fresh:
        store.begin_look(look_in_words(job))
    notes, first = store.notes(), first_seed(job, store)
    assert first is not None
    known = Evidence(target=notes.target, costs=notes.costs, first_seed=first)
    return session.follow(stage.confirm(store.finalists, chosen, trainer, job.data, job.recipe, job.confirm, known))


def import_for_the_end() -> None:
    """Imports what verdicts, costs and the report need, which takes seconds."""
    for module in ("scipy.stats", "scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_svg"):
        importlib.import_module(module)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)  # the first one imports for 1.6 s


def settle_costs(session: Session, chosen: Sequence[Candidate]) -> None:
    """Measures what the finalists cost, together, and keeps it in the study; once for the same activations."""
    job, store, trainer = session.job, session.store, session.trainer
    if store.costs_of(chosen):
        return
    trainer.rest()  # what is measured here needs the memory
    split = job.data.split(0)
    x, y = split.batch(job.recipe.batch_size, trainer.device)
    nets = [job.model.build(c.specs, 0, job.recipe.init) for c in chosen]
    with one_thread():
        costs = net_costs(nets, job.recipe, x, y, split.goal.loss)
    store.note_costs(chosen, costs)


def conclude(session: Session, evidence: Evidence) -> Result:
    """The result, in the output folder and in MLflow."""
    job, store, tracker = session.job, session.store, session.tracker
    result = make_result(job, store, evidence)
    said = job.remarks
    for warning in result.warnings:
        if warning not in said:  # about what the search found
            session.terminal.warn(warning)
    show_looks(job, store, result, session.terminal)
    files = write_files(result)
    if session.found is not None:  # not in the report, which says when the study was trained
        result.warnings = [*result.warnings, session.found]
    session.clock.lap("report_s")
    if tracker is not None:
        session.track_earlier()
        tracker.close(lambda delivery: deliver_end(delivery, result, files))
        result.page = tracker.page
        session.clock.lap("tracking_wait_s")
    return result


def show_looks(job: Job, store: Store, result: Result, terminal: Terminal) -> None:
    """Warns if other verdicts on this test set were seen before, and notes this one."""
    if result.earlier_looks:
        terminal.warn(second_look(result))
    try:
        store.ledger.note(look_of(job, store, result.comparisons))
    except ActSearchError as error:
        terminal.warn(str(error))


def measured_latency(job: Job, candidate: Candidate, device: torch.device) -> float:
    net = job.model.build(candidate.specs, 0, "torch")
    x, _ = job.data.split(0).batch(job.recipe.batch_size, device)
    with one_thread():
        return latency_us(net, job.recipe, x)


def deliver(job: Job) -> Result:
    """Writes a study to its tracking server, from the storage alone: what is there already stays as it is."""
    if job.tracking_uri is None:
        raise ActSearchError("tracking.uri=null: there is nowhere to deliver to. Write tracking.uri=http://… .")
    with stored(job) as (store, result):
        done = store.records()
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
            raise ActSearchError(f"tracking.uri={job.tracking_uri} does not take it: {one_line(error)}") from None
    if result is None:
        raise ActSearchError(f"the study '{job.name}' is not finished: its trials are delivered. Run it to its end.")
    return result


def report(job: Job, terminal: Terminal) -> Result:
    """Writes the tables, the verdicts, the plots and the page of a finished study again, from the storage alone."""
    with stored(job) as (store, result):
        if result is None:
            raise ActSearchError(f"the study '{job.name}' is not finished. Run it to its end: without task=report.")
        show_looks(job, store, result, terminal)
    if job.config_yaml:
        write_text(job.folder / "config.yaml", job.config_yaml)
    write_files(result)
    return result
