"""A user's training as a whole: the function, its settings, what its numbers mean, and where it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from actsearch.contents import Contents
from actsearch.errors import ActSearchError, one_line, unknown, whole
from actsearch.module_values import packed
from actsearch.own import command
from actsearch.own.pool import Pool, places_of
from actsearch.own.run import TEST, OwnRun, check_signature
from actsearch.processes import core_count
from actsearch.question.known import COSTS, known_metric, known_word, metric_named
from actsearch.question.metrics import Metric
from actsearch.question.options import OWN_TEST, OWN_VAL, ConfirmOptions

VAL = "val_"


@dataclass
class OwnTraining:
    """A user's training. function: (activation, seed, **settings) → numbers. name: what it is called. settings: its
    keywords. searched: those that a search or a tuning gives. threads: of each process; None: the cores are shared out.
    per_device: processes on each GPU; None: one. timeout_s: as for a Pool. metrics: what is said of metrics whose names
    are not known: {"my_score": {"higher_is_better": True, "margin": 0.01}}. check_repeat: whether one run is trained
    twice, to see whether the training repeats.
    """

    function: Callable[..., Any]
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    searched: Collection[str] = ()
    threads: int | None = None
    per_device: int | None = None
    timeout_s: float | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check_repeat: bool = False

    def __post_init__(self) -> None:
        check_signature(self.function, self.settings, self.name, self.searched)
        for key, value in self.settings.items():
            if not _is_plain(value):
                raise ActSearchError(f"train.{key}={value!r:.60}: write numbers, text, lists or mappings of these.")
        if self.threads is not None:
            whole("train.threads", self.threads, 1, core_count())
        if self.per_device is not None:
            whole("train.per_device", self.per_device, 1, 64)
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

    def pool(self, contents: Contents, folder: Path, device: torch.device, most: int) -> Pool:
        """Processes for at most so many runs. Raises ActSearchError if the function cannot be pickled."""
        places, threads = places_of(device, self.per_device, self.threads, core_count())
        if self.threads is None and most < len(places) and device.type != "cuda":
            threads = core_count() // most
        return Pool(places[:most], threads, self.pickled(contents), folder / "logs", self.timeout_s)

    def pickled(self, contents: Contents) -> bytes:
        """The function as processes take it. Raises ActSearchError if it cannot be pickled."""
        try:
            code = cloudpickle.dumps(self.function)
            return cloudpickle.dumps((list(packed(contents.values)), code))
        except Exception as error:
            raise ActSearchError(
                f"the training function cannot be pickled for a process: {one_line(error)}. Put it into a file of its "
                "own."
            ) from error

    def metric(self, name: str) -> Metric:
        return metric_named(name, **dict(self.metrics.get(name, {})), place=f"train.metrics.{name}")

    def objectives(self, names: Sequence[str], run: OwnRun) -> list[Metric]:
        """The metrics that a search goes by. names: as asked for. run: one that has told what runs report.

        Raises ActSearchError for a name that it does not report, and where it is not clear which number is meant.
        """
        told = run.last
        found = []
        for name in names:
            if name.startswith(TEST):
                raise ActSearchError(f"study.objectives: {name} is of a test set, which a search does not see.")
            if name == OWN_VAL:
                name = self._chosen(told, (VAL, ""), run.withheld, "study.objectives=[…]")  # noqa: PLW2901
            elif name not in told:
                raise unknown("objective in study.objectives:", name, _reported(told), see="The runs report these.")
            found.append(self.metric(name))
        return found

    def check_metric(self, metric: str, run: OwnRun) -> None:
        """Raises ActSearchError if a run shows that the metric of the verdict will not be reported.

        Where a run of the search tells nothing of a test set, its finalists may do so all the same.
        """
        unknowable = metric.startswith(TEST) and not run.withheld
        known = [*_reported(run.last), *run.withheld]
        if metric not in (OWN_TEST, "seconds", *known) and not unknowable:
            raise unknown("metric in confirm.metric:", metric, known, see="The runs report these.")

    def judged_by(self, options: ConfirmOptions, reported: Collection[str], objective: str | None) -> Metric:
        """The metric of the verdict. reported: the names that runs report. objective: what the search goes by.

        Raises ActSearchError for a name that runs do not report, and where it is not clear which number is meant.
        """
        if options.metric != OWN_TEST:
            if options.metric not in reported:
                known = _reported(reported)
                raise unknown("metric in confirm.metric:", options.metric, known, see="The runs report these.")
            return self.metric(options.metric)
        likely = [] if objective is None else [f"{TEST}{objective.removeprefix(VAL)}"]
        return self.metric(self._chosen(reported, (TEST, VAL, ""), likely, "confirm.metric=…", objective))

    def _chosen(
        self, reported: Collection[str], starts: Sequence[str], partners: Sequence[str], key: str,
        fallback: str | None = None,
    ) -> str:  # fmt: skip
        """The name of the metric that is meant where none is named. partners: names of the other set of examples, whose
        counterparts come first. fallback: where there is no test value.
        """
        known = [
            name for name in _reported(reported)
            if name in self.metrics or (known_metric(name) and known_word(name) not in COSTS)
        ]  # fmt: skip
        for start in starts:
            if start == VAL and fallback is not None and fallback in reported:
                return fallback
            mine = [name for name in known if name.startswith(start)]
            stems = {partner.removeprefix(TEST) for partner in partners}
            for chosen in (
                [name for name in mine if name.removeprefix(start) in stems and not name.endswith("loss")],
                [name for name in mine if not name.endswith("loss")],
                mine,
            ):
                if len(chosen) == 1:
                    return chosen[0]
                if chosen:
                    break
            if mine:
                break
        raise ActSearchError(
            f"by which metric are they judged? Write {key}; the runs report {', '.join(_reported(reported))}."
        )


def _reported(names: Collection[str]) -> list[str]:
    return [name for name in names if name != "seconds"]


def _is_plain(value: Any) -> bool:
    """Whether a value comes back from JSON as it was, so that runs of before are found."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
