"""Everything MLflow: a study as a parent run, its trials and finalists as child runs below it.

`Delivery` writes records and is idempotent: a run is found by its tags, a finished one is left alone. `Tracker`
calls it from a thread while the search trains, and turns every failure into one warning: truth lives in
Optuna's storage, from which `task=deliver` can deliver later what a dead server missed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, one_line
from actsearch.judge.comparison import Comparison
from actsearch.judge.statistics import mean
from actsearch.question.metrics import ACCURACY, Metric
from actsearch.records import Curves, FinalistRun, TrialRecord
from actsearch.study.storage import sqlite_path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported; README says so
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default's 7 take minutes when a server is down
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

LIVE_SECONDS = 10.0  # how often a trial in flight is written: batches, not a request a rung
STUDY, TRIAL, FINALIST = "actsearch.study", "actsearch.trial", "actsearch.finalist"

# its kind in MLflow's words; the sidebar keeps its own mode
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def view_state(metric: Metric) -> dict[str, Any]:
    """The table as it should open: one of MLflow's "shared views", kept as a tag of the experiment."""
    val, test = f"val_{metric.name}", f"test_{metric.name}"
    return {
        "orderByKey": f"metrics.`{val}`", "orderByAsc": not metric.higher_is_better, "startTime": "ALL",
        "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "params.`activation`", f"metrics.`{val}`", "metrics.`val_loss`", f"metrics.`{test}`",
            f"metrics.`{test}_difference`", "tags.`verdict`", "tags.`state`",
        ],
        "runsPinned": [], "runsHidden": [], "runsHiddenMode": "FIRST_10_RUNS", "groupBy": None,
    }  # fmt: skip


STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def check_tracking(uri: str, experiment: str) -> None:
    """Raises ActSearchError for what is no address of a tracking store; says nothing of whether it answers."""
    if uri.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0] not in STORES:
        raise ActSearchError(
            f"tracking.uri={uri}: MLflow has no such store. Write sqlite:///mlflow.db, http://…, or null for none."
        )
    if not experiment.strip():
        raise ActSearchError("tracking.experiment is empty. Write e.g. tracking.experiment=actsearch.")


@dataclass(frozen=True)
class StudyInfo:
    """What the parent run says of the study. params: the config, flat. metric: the data set's."""

    name: str
    fingerprint: str
    params: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    metric: Metric = ACCURACY


def make_store(path: Path) -> None:
    """MLflow's tables in a new SQLite file, all or none: with half of them, after a kill, it could not be opened."""
    import mlflow

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(fresh, path)


class Delivery:
    """Writes to one tracking server; every method raises what MLflow raises."""

    def __init__(self, uri: str, experiment: str, info: StudyInfo) -> None:
        import mlflow

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        path = sqlite_path(uri)
        if path is not None:
            make_store(path.absolute())
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self.info = info
        found = self.client.get_experiment_by_name(experiment)
        # artifacts beside the database, not in whatever folder the command was given
        place = None if path is None else (path.absolute().parent / "mlartifacts").as_uri()
        self.experiment_id = (
            found.experiment_id if found else self.client.create_experiment(experiment, place, EXPERIMENT_TAGS)
        )
        same = f"tags.`{STUDY}` = '{info.name}' and tags.fingerprint = '{info.fingerprint}'"
        runs = self._find(f"{same} and tags.kind = 'study'")
        if runs:
            self.parent = runs[0].info.run_id
            self.client.update_run(self.parent, status="RUNNING")
        else:
            tags = {STUDY: info.name, "kind": "study", "fingerprint": info.fingerprint, **info.tags}
            self.parent = self._create(info.name, tags)
            params = {key: str(value)[:500] for key, value in info.params.items()}
            self._log(self.parent, [], params)
        self._set_view()
        children = self._find(f"tags.`mlflow.parentRunId` = '{self.parent}'")
        self.runs = {self._key(run.data.tags): (run.info.run_id, run.info.status) for run in children}
        self.written: dict[str, int] = {}

    @property
    def page(self) -> str:
        """The table of the study's runs, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs?viewStateShareKey={self.info.fingerprint}"

    def _set_view(self) -> None:
        """This study's rows, their columns and order; and that this is no experiment with language models."""
        state = json.dumps({**view_state(self.info.metric), "searchFilter": f"tags.`{STUDY}` = '{self.info.name}'"})
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{self.info.fingerprint}", state)
        self.client.set_experiment_tag(self.experiment_id, "mlflow.experimentKind", "custom_model_development")

    def trial(self, record: TrialRecord) -> None:
        """A finished trial: mean curves, each seed's, parameters, the end. A duplicate was no training: no run."""
        if record.state == "duplicate":
            return
        tags = {"kind": "trial", TRIAL: str(record.number), "state": record.state}
        run = self._child(f"#{record.number} {record.activation}", tags)
        if run is None:
            return
        self._log(run, self._curve_metrics(record.curves, self.written.pop(self._key(tags), 0)), self._params(record))
        self.client.set_tag(run, "state", record.state)
        self.client.set_terminated(run, "FINISHED")
        self.runs[self._key(tags)] = (run, "FINISHED")

    def live(self, number: int, name: str, metrics: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Rungs of a trial in flight: (step, metrics)."""
        tags = {"kind": "trial", TRIAL: str(number)}
        run = self._child(f"#{number} {name}", tags)
        if run is None:
            return
        self._log(run, [(k, v, step) for step, values in metrics for k, v in values.items()], {})
        self.written[self._key(tags)] = metrics[-1][0]

    def finalist(self, comparison: Comparison, runs: Sequence[FinalistRun], curves: Curves) -> None:
        """A finalist: test score by seed (the step is the seed), mean curves, difference to the baseline."""
        verdict, test = comparison.verdict, f"test_{self.info.metric.name}"
        counts = f"n={comparison.n_seeds}" + ("" if verdict is None else f" {verdict.metric.name} {verdict.verdict}")
        key = f"{comparison.activation} {json.dumps(comparison.recipe, sort_keys=True)} {counts}"
        tags = {"kind": "finalist", FINALIST: key}
        run = self._child(f"finalist {comparison.activation}", tags)
        if run is None:
            return
        metrics = [
            (f"{k}_by_seed", v, r.seed) for r in runs for k, v in ((test, r.test_metric), ("test_loss", r.test_loss))
        ]
        ends = {test: comparison.test_metric, f"{test}_std": comparison.test_metric_std,
                "test_loss": comparison.test_loss, "n_failed": comparison.n_failed,
                "training_step_us": comparison.training_step_us, "latency_us": comparison.latency_us,
                "saved_mib": comparison.saved_mib}  # fmt: skip
        for v in (*([verdict] if verdict else []), *comparison.secondary):
            name = v.metric.name
            ends |= {f"{name}_difference": v.difference, f"{name}_ci_low": v.ci_low, f"{name}_ci_high": v.ci_high,
                     f"{name}_p_corrected": v.p_corrected}  # fmt: skip
        metrics += [(k, v, 0) for k, v in ends.items()]
        metrics += self._curve_metrics(curves, 0, seeds=False)
        params = {"activation": comparison.activation, **{f"recipe.{k}": str(v) for k, v in comparison.recipe.items()}}
        self._log(run, metrics, params)
        self.client.set_tag(run, "verdict", "baseline" if verdict is None else verdict.verdict)
        self.client.set_terminated(run, "FINISHED")
        self.runs[self._key(tags)] = (run, "FINISHED")

    def finish(self, description: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        there = self.client.get_run(self.parent).data.metrics
        self._log(self.parent, [(k, v, 0) for k, v in metrics.items() if there.get(k) != v], {})
        self.client.set_tag(self.parent, "mlflow.note.content", description)
        for file in files:
            self.client.log_artifact(self.parent, str(file), file.parent.name if file.suffix == ".png" else None)
        self.client.set_terminated(self.parent, "FINISHED")

    def _curve_metrics(self, curves: Curves, after: int, seeds: bool = True) -> list[tuple[str, float, int]]:
        out: list[tuple[str, float, int]] = []
        for i, step in enumerate(curves.steps):
            for name, rows in (
                (f"val_{self.info.metric.name}", curves.val_metric),
                ("val_loss", curves.val_loss),
                ("train_loss", curves.train_loss),
            ):
                values = [v for v in rows[i] if v is not None]
                if step > after and values:
                    out.append((name, mean(values), step))
                if seeds:
                    out += [(f"{name}_seed{s}", v, step) for s, v in enumerate(rows[i]) if v is not None]
        for inside in curves.diagnostics:
            for name in inside.keys() - {"step"}:
                key = "grad_norm.{}" if name == "grad_norm" else f"layer{{}}.{name}"
                out += [(key.format(i), v, inside["step"]) for i, v in enumerate(inside[name])]
        return out

    def _params(self, record: TrialRecord) -> dict[str, str]:
        params = {"activation": record.activation, **{f"recipe.{k}": str(v) for k, v in record.recipe.items()}}
        specs = parse_net(record.activation)
        for i, spec in enumerate(specs):
            prefix = f"layer{i}." if len(specs) > 1 else ""
            name = "expression" if spec.activation.family == "expression" else spec.name  # MLflow's keys have no *
            pairs = zip(spec.activation.params, spec.values, strict=True)
            params |= {f"{prefix}{name}.{p.name}": str(v) for p, v in pairs if not p.anonymous}
        return params

    def _child(self, name: str, tags: Mapping[str, str]) -> str | None:
        """The id of the run to write to, or None if it was delivered before."""
        key = self._key(tags)
        if key in self.runs:
            run, status = self.runs[key]
            if status == "FINISHED":
                return None
            if key in self.written:
                return run
            self.client.delete_run(run)  # of a search that was killed: it is trained, and written, again
        run = self._create(name, {**tags, "mlflow.parentRunId": self.parent, STUDY: self.info.name})
        self.runs[key] = (run, "RUNNING")
        self.written.setdefault(key, 0)
        return run

    @staticmethod
    def _key(tags: Mapping[str, str]) -> str:
        return f"{tags.get('kind')}:{tags.get(TRIAL) or tags.get(FINALIST)}"

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        return self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags)).info.run_id

    def _find(self, filter_string: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment_id], filter_string, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _log(self, run: str, metrics: Sequence[tuple[str, float, int]], params: Mapping[str, str]) -> None:
        """In as few requests as MLflow allows: 1,000 metrics and 100 params each."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        entities = [Metric(k, float(v), now, step) for k, v, step in metrics if math.isfinite(v)]
        texts = [Param(k, str(v)) for k, v in params.items()]
        while entities or texts:
            now_metrics, entities = entities[:900], entities[900:]
            now_params, texts = texts[:100], texts[100:]
            self.client.log_batch(run, metrics=now_metrics, params=now_params)


class Tracker:
    """Delivers in a thread while the search goes on. A failure is a warning, once; then it only remembers."""

    def __init__(self, make: Callable[[], Delivery], warn: Callable[[str], None]) -> None:
        self._make, self._warn = make, warn
        self._queue: queue.Queue[Callable[[Delivery], None] | None] = queue.Queue()
        self._pending: dict[int, tuple[str, list[tuple[int, Mapping[str, float]]]]] = {}
        self._flushed = time.monotonic()
        self.failed: str | None = None
        self.page: str | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def rung(self, step: int, names: Mapping[int, str], metrics: Mapping[int, Mapping[str, float]]) -> None:
        for number, values in metrics.items():
            self._pending.setdefault(number, (names[number], []))[1].append((step, values))
        if time.monotonic() - self._flushed > LIVE_SECONDS:
            self._flushed = time.monotonic()
            for number, (name, rungs) in self._pending.items():
                self._queue.put(lambda d, number=number, name=name, rungs=rungs: d.live(number, name, rungs))
            self._pending = {}

    def trials(self, records: Sequence[TrialRecord]) -> None:
        self._pending = {}
        for record in records:
            self._queue.put(lambda d, record=record: d.trial(record))

    def close(self, last: Callable[[Delivery], None] | None = None) -> None:
        """Waits until all is delivered; `last` is what ends the study, if it ended."""
        if last is not None:
            self._queue.put(last)
        self._queue.put(None)
        self._thread.join()

    def _deliver(self) -> None:
        delivery = None
        while (job := self._queue.get()) is not None:
            if self.failed:
                continue
            start = time.monotonic()
            try:
                delivery = delivery or self._make()
                self.page = delivery.page
                job(delivery)
            except Exception as error:  # MLflow raises what its server, its driver and its network raise
                self.failed = one_line(error)
                self._warn(
                    f"MLflow could not be written ({self.failed}). The search goes on; "
                    "'actsearch task=deliver' with the same words delivers what is missing."
                )
            self.seconds += time.monotonic() - start
