"""Studies of own trainings without processes: what is wanted is trained here, in milliseconds."""

import inspect
from pathlib import Path

from actsearch.api import _config, search
from actsearch.config.build import build_own
from actsearch.errors import ActSearchError
from actsearch.own.run import train_once
from actsearch.own.study import OwnStudy
from actsearch.own.trials import RunsWanted
from actsearch.study.storage import close_storage, open_storage


class Killed(BaseException):
    pass


def job_of(train, tmp_path, activations=("relu", "gelu", "tanh"), searches=True, **asked):
    defaults = {key: p.default for key, p in inspect.signature(search).parameters.items()}
    if not searches:
        defaults["sampler"] = "grid"
    given = {
        "n_trials": 8,
        "finalists": 1,
        "finalist_seeds": 7,
        "tracking": "none",
        "study": {"generation": 3},
        **asked,
    }
    if not searches:
        given.pop("finalists")
    config, found = _config({**defaults, "activations": list(activations), "train": train, **given}, searches)
    return build_own(config, lambda name: Path(tmp_path) / name, "", found)


class Here:
    """Trains in this process. trained: every run, with the rungs at which it ended."""

    def __init__(self, job, die_at=None):
        self.job, self.die_at, self.trained = job, die_at, []

    def walk(self):
        self.job.folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(self.job.storage_url)
        try:
            self.study = OwnStudy(self.job, storage)
            events = self.study.steps()
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    return end.value
                if isinstance(event, RunsWanted):
                    for run in event.runs:
                        self.train(run, event)
        finally:
            close_storage(storage)

    def train(self, run, event):
        if len(self.trained) == self.die_at:
            raise Killed
        self.trained.append(run)

        def go_on(rung):
            run.rungs.append(rung)
            run.stopped = event.ends is not None and event.ends(run)
            return not run.stopped

        try:
            told = train_once(self.job.training.function, run.activation, run.seed, run.settings, go_on)
            run.withheld = told.withheld
        except ActSearchError as error:
            run.error = str(error)
        except Exception as error:
            run.error = f"{type(error).__name__}: {error}"
        run.seconds = 0.5
        if event.stage != "repeat":
            self.study.runs.add(run)
        event.check(run)


def compare_here(train, tmp_path, activations=("relu", "gelu"), seeds=8, **asked):
    """`actsearch.compare(train=…)`, with its files."""
    here = Here(job_of(train, tmp_path, activations, searches=False, finalist_seeds=seeds, **asked))
    result = here.walk()
    here.study.write(result)
    return result


def on(result, name):
    """The verdict on an activation."""
    return next(c.verdict for c in result.comparisons if c.activation == name)
