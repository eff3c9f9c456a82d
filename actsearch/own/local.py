"""Own trainings in processes on this machine: the way from an `OwnJob` to its result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from actsearch.errors import ActSearchError
from actsearch.own.pool import Pool, log_of
from actsearch.own.study import OwnJob, OwnStudy, looks_before
from actsearch.own.trials import RunsWanted
from actsearch.records import Event, GenerationFinished
from actsearch.report.files import make_folder, write_text
from actsearch.report.result import Result
from actsearch.report.terminal import Terminal
from actsearch.study.storage import close_storage, open_storage, sole_leader
from actsearch.study.store import forget
from actsearch.tracking import Delivery, Tracker, check_tracking, deliver_end
from actsearch.training.trainer import find_device


def run_own(job: OwnJob, terminal: Terminal) -> Result:
    """Searches, tunes, compares and writes the output folder and MLflow. Goes on where an earlier run of it stopped."""
    if job.tracking_uri is not None:
        check_tracking(job.tracking_uri, job.experiment)
    find_device(job.device)
    make_folder(job.folder)
    with contextlib.ExitStack() as stack:
        still_held = stack.enter_context(sole_leader(job.storage_url, job.name))
        storage = open_storage(job.storage_url)
        stack.callback(close_storage, storage)
        if job.study.fresh:
            forget(storage, job.name)
        study = OwnStudy(job, storage)
        if job.config_yaml:
            write_text(job.folder / "config.yaml", job.config_yaml)
        terminal.header(study.header())
        for remark in job.remarks:
            terminal.warn(remark)
        session = _Session(study, terminal, still_held)
        stack.callback(session.close)
        result = session.follow(study.steps())
        terminal.end()
        for warning in (*result.warnings, *looks_before(result)):
            if warning not in job.remarks:
                terminal.warn(warning)
        session.deliver(result, study.write(result))
    return result


def conclude(study: OwnStudy, terminal: Terminal) -> Result | None:
    """The result of a study in which nothing is missing, written and delivered; None if runs are."""
    session = _Session(study, terminal, lambda: None)
    events = study.steps()
    while True:
        try:
            if isinstance(next(events), RunsWanted):
                return None
        except StopIteration as end:
            session.deliver(end.value, study.write(end.value))
            return end.value


class _Session:
    """What runs hold while they go on: the processes, who watches, and who delivers."""

    def __init__(self, study: OwnStudy, terminal: Terminal, still_held: Callable[[], None]) -> None:
        self.study, self.terminal, self._still_held = study, terminal, still_held
        self._pool: Pool | None = None
        self._tracker: Tracker | None = None

    def follow(self, steps: Generator[Event | RunsWanted, None, Result]) -> Result:
        """Trains what a study wants, shows and delivers its events; returns its result."""
        job = self.study.job
        self.terminal.begin(job.n_runs, "", "maximize", job.study.seeds)
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            self._still_held()
            if isinstance(event, RunsWanted):
                self._train(event)
            elif event.stage == "search":
                first = self.study.objectives[0]
                self.terminal.ranked_by(first.name, first.direction)
                self.terminal.event(event)
                if isinstance(event, GenerationFinished) and (tracker := self._delivery()) is not None:
                    tracker.trials(event.records)

    def _train(self, wanted: RunsWanted) -> None:
        study, job = self.study, self.study.job
        if self._pool is None:
            most = max(len(wanted.runs), job.n_runs - len(study.runs.all()))
            self._pool = job.training.pool(job.contents, job.folder, find_device(job.device), most)
        for run in self._pool.run(wanted.runs, wanted.ends):
            if wanted.stage != "repeat":
                study.runs.add(run)
            try:
                wanted.check(run)
            except ActSearchError as error:
                printed = f" What it printed: {job.folder}/logs/{log_of(run)}" if run.error else ""
                raise ActSearchError(f"{error}{printed}") from None
            shown = "stopped" if run.stopped else run.error or f"{run.seconds:.3g} s"
            self.terminal.advance(1, f"{wanted.stage}  {run}: {shown}")

    def _delivery(self) -> Tracker | None:
        """Writes to MLflow, if anything is tracked; first what an earlier command may not have delivered."""
        job = self.study.job
        if self._tracker is None and job.tracking_uri is not None:
            uri, info = job.tracking_uri, self.study.info
            make = lambda: Delivery(uri, job.experiment, info, job.study.fresh)  # noqa: E731
            self._tracker = Tracker(make, self.terminal.warn, "the same command delivers what is missing")
            self._tracker.trials(self.study.records)
        return self._tracker

    def deliver(self, result: Result, files: Sequence[Path]) -> None:
        """Writes the end to MLflow."""
        if (tracker := self._delivery()) is not None:
            tracker.close(lambda delivery: deliver_end(delivery, result, files))
            result.page, self._tracker = tracker.page, None

    def close(self) -> None:
        self.terminal.end()
        if self._pool is not None:
            self._pool.close()
        if self._tracker is not None:
            self._tracker.close()
