"""Ask and tell: a study whose runs are trained by somebody else's loop, in this process or in many."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import psutil

from actsearch.errors import ActSearchError
from actsearch.own.local import conclude
from actsearch.own.run import Chosen, OwnRun, Told
from actsearch.own.study import OwnJob, OwnStudy
from actsearch.own.trials import RunsWanted
from actsearch.question.identity import check_name
from actsearch.question.options import FRESH_SEED
from actsearch.report.files import make_folder
from actsearch.report.result import Result
from actsearch.report.terminal import Terminal
from actsearch.study.storage import HeldAlready, close_storage, open_storage, sole_leader
from actsearch.study.store import forget

WAIT_S = 60.0  # for another process that asks or tells at this moment
CLAIM_S = 24 * 3600.0  # after so long a run of another machine is handed out again
CLAIMS = "claims"


@dataclass
class AskedRun:
    """A run that is asked for: `activation, seed, settings = study.ask()`.

    activation: as an own training function gets it. test: whether its test set may be scored, for the verdict.
    """

    activation: Chosen
    seed: int
    settings: dict[str, Any]
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.told = Told(self.test)

    @property
    def test(self) -> bool:
        return self.seed >= FRESH_SEED

    def __iter__(self) -> Iterator[Any]:
        return iter((self.activation, self.seed, self.settings))

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Notes what was reached so far, as a rung. Raises ActSearchError for what is no mapping of numbers."""
        self.told.add(metrics)

    def ended(self, error: str = "") -> OwnRun:
        seconds = time.monotonic() - self.begun
        told = self.told
        return OwnRun(str(self.activation), self.settings, self.seed, told.rungs, seconds, error, False, told.withheld)


class Elsewhere:
    """Stands for a training function in a study whose runs are trained by somebody else's loop."""

    def __init__(self, name: str) -> None:
        check_name("name", name)
        self.__qualname__, self.__module__ = name, ""

    def __call__(self, activation: Any, seed: int, **settings: Any) -> None:
        raise ActSearchError(f"{self.__qualname__} is trained by ask and tell.")


class Asked:
    """A study that is asked for runs and told what they reached.

    Any number of processes may hold one on the same storage: each run is handed out once, again if the process that had
    it is gone (on this machine at once, elsewhere after a day).
    """

    def __init__(self, job: OwnJob) -> None:
        if not isinstance(job.pruner, optuna.pruners.NopPruner) or job.training.check_repeat:
            raise ActSearchError(
                "pruner, check_repeat: they need the loop that ask and tell leave to you. Leave them out."
            )
        self.job = job
        make_folder(job.folder)
        if job.study.fresh:
            with self._led() as storage:
                forget(storage, job.name)

    def ask(self) -> AskedRun | None:
        """The next run; None if nothing is left to hand out: all is told, or others have the rest (see `finished`)."""
        with self._led() as storage:
            study, wanted = self._standing(storage)
            claims = self._claims(study)
            for run in [] if wanted is None else wanted.runs:
                key = json.dumps(run.key)
                if key not in claims:
                    self._claim(study, {**claims, key: [socket.gethostname(), os.getpid(), time.time()]})
                    return AskedRun(Chosen(run.activation), run.seed, run.settings)
        return None

    def tell(self, run: AskedRun, metrics: Mapping[str, Any] | float | None = None, error: str = "") -> None:
        """What a run has reached in the end; or, for one that failed, why.

        Raises ActSearchError for what is no mapping of numbers, for a run that is not wanted or was told before, and
        where the study cannot go on with what runs report. A value that is refused can be told again.
        """
        if metrics is not None:
            run.told.add(metrics)
        if not error:
            run.told.check()
        with self._led() as storage:
            study, wanted = self._standing(storage)
            ended = run.ended(error)
            if wanted is None or ended.key not in [one.key for one in wanted.runs]:
                raise ActSearchError(f"{ended}: the study does not want this run, or was told of it before.")
            study.runs.add(ended, at_once=True)
            claims = self._claims(study)
            claims.pop(json.dumps(ended.key), None)
            self._claim(study, claims)
            wanted.check(ended)

    @property
    def finished(self) -> bool:
        """Whether all runs are there."""
        with self._led() as storage:
            return self._standing(storage)[1] is None

    def result(self, quiet: bool = True) -> Result:
        """The verdicts; also writes the output folder and MLflow. Raises ActSearchError if runs are missing."""
        terminal = Terminal(quiet)
        with self._led() as storage:
            result = conclude(OwnStudy(self.job, storage), terminal)
            if result is None:
                _, wanted = self._standing(storage)
                n = 0 if wanted is None else len(wanted.runs)
                raise ActSearchError(f"the study '{self.job.name}' is not finished: it waits for {n} runs at least.")
        result.report(terminal)
        return result

    def _standing(self, storage: optuna.storages.BaseStorage) -> tuple[OwnStudy, RunsWanted | None]:
        """The study as it stands, and the runs that it waits for; None if it has all."""
        study = OwnStudy(self.job, storage)
        return study, next((event for event in study.steps() if isinstance(event, RunsWanted)), None)

    def _claims(self, study: OwnStudy) -> dict[str, list[Any]]:
        """Who has which run now."""
        here, now = socket.gethostname(), time.time()
        return {
            key: [host, pid, since]
            for key, (host, pid, since) in study.notes().get(CLAIMS, {}).items()
            if (psutil.pid_exists(pid) if host == here else now - since < CLAIM_S)
        }

    def _claim(self, study: OwnStudy, claims: Mapping[str, list[Any]]) -> None:
        study.note(CLAIMS, dict(claims))

    @contextlib.contextmanager
    def _led(self) -> Iterator[optuna.storages.BaseStorage]:
        """Holds the study for a moment. Raises ActSearchError if another process does so for a minute."""
        until = time.monotonic() + WAIT_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(sole_leader(self.job.storage_url, self.job.name))
                    break
                except HeldAlready:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            storage = open_storage(self.job.storage_url)
            stack.callback(close_storage, storage)
            yield storage
