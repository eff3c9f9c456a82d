"""Everything MLflow: a study as a parent run, its trials and finalists as child runs below it.

`Delivery` writes records and is idempotent: it finds a run by its tags and does not write to a finished one. `Tracker`
calls it from a thread while the search trains, and turns a failure into a warning, because nothing is lost: all results
are in Optuna's storage, from which `task=deliver` delivers later what a server missed while it was down.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import math
import os
import queue
import shlex
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from actsearch.activations.spec import parse_net
from actsearch.data.files import cache_folder
from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.question.metrics import ACCURACY, Metric, on_validation
from actsearch.records import Curves, FinalistRun, TrialRecord
from actsearch.report.result import Result
from actsearch.report.tables import finalist_table, markdown_table
from actsearch.study.finalists import as_records
from actsearch.study.storage import sqlite_path, sqlite_url
from actsearch.verdicts.comparison import Comparison
from actsearch.verdicts.statistics import mean

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # must be set before mlflow is imported; README mentions it
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default, 7, takes minutes when a server is down
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # the URL may hold a password

MOST_IN_TAG = 4000  # characters; MLflow's databases take 5,000 to 8,000
LIVE_SECONDS = 10.0  # between writes of a trial in flight: rungs go in batches, not each in a request of its own
STUDY, TRIAL, FINALIST = "actsearch.study", "actsearch.trial", "actsearch.finalist"

DIAGNOSTICS = "diagnostics.json"  # an artifact of each trial and finalist, which MLflow's UI shows as a table
# the tag by which MLflow knows that an artifact is a table; its own log_table sets it too
TABLES = {"mlflow.loggedArtifacts": json.dumps([{"path": DIAGNOSTICS, "type": "table"}])}

# the experiment's kind, in MLflow's words; MLflow's sidebar does not follow it
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def view_state(metric: Metric, test: str) -> dict[str, Any]:
    """The look of the table of runs when it is opened: one of MLflow's "shared views", a tag of the experiment."""
    val = metric.name
    return {
        "orderByKey": f"metrics.`{val}`", "orderByAsc": not metric.higher_is_better, "startTime": "ALL",
        "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "params.`activation`", f"metrics.`{val}`", "metrics.`val_loss`", f"metrics.`{test}`",
            f"metrics.`{test}_difference`", "tags.`verdict`", "tags.`state`",
        ],
        "runsPinned": [], "runsHidden": [], "runsHiddenMode": "FIRST_10_RUNS", "groupBy": None,
    }  # fmt: skip


VAL_ACCURACY = on_validation(ACCURACY)
STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def check_tracking(uri: str, experiment: str) -> None:
    """Raises ActSearchError for a URI that MLflow has no store for, and for an experiment that was deleted.

    Does not check whether the store answers. In other stores than a SQLite file the experiment is looked at later,
    because MLflow takes seconds to import.
    """
    if uri.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0] not in STORES:
        raise ActSearchError(
            f"tracking.uri={uri}: MLflow has no such store. Write sqlite:///mlflow.db, http://…, or null for none."
        )
    if not experiment.strip():
        raise ActSearchError("tracking.experiment is empty. Write e.g. tracking.experiment=actsearch.")
    path = sqlite_path(uri)
    if path is not None and path.is_file():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
            deleted = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
            for (number,) in connection.execute(deleted, [experiment]):
                raise _deleted(uri, experiment, number)


def _deleted(uri: str, experiment: str, number: object) -> ActSearchError:
    restore = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore --experiment-id {number}"
    return ActSearchError(
        f"tracking.experiment={experiment} was deleted in MLflow. Restore it ({restore}), or write "
        "tracking.experiment=another."
    )


def mlflow_uri(uri: str) -> str:
    """The URI as MLflow understands it. MLflow makes the folder of a sqlite:/// URI without decoding its name."""
    path = sqlite_path(uri)
    plain = path is None or f"sqlite:///{path}" == uri
    return uri if plain else f"sqlite+pysqlite:{uri.partition(':')[2]}"


def runs_of(uri: str, experiment: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """The finished runs of an experiment, oldest first: name, and parameters, metrics and tags by name; and the number
    of those that are not finished. Raises ActSearchError if there is no such experiment, or if MLflow does not answer.
    """
    import mlflow

    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ActSearchError(f"tracking.uri={uri}: there is no such database.")
    try:
        client = mlflow.MlflowClient(tracking_uri=mlflow_uri(uri))
        known = {found.name: found.experiment_id for found in client.search_experiments()}
        if experiment not in known:
            raise unknown(f"experiment of MLflow at {uri}:", experiment, known)
        runs: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = client.search_runs([known[experiment]], max_results=1000, page_token=token or None)
            runs, token = [*runs, *page], page.token or None
    except ActSearchError:
        raise
    except Exception as error:
        raise ActSearchError(f"tracking.uri={uri}: MLflow does not answer ({one_line(error)}).") from None
    done = [run for run in reversed(runs) if run.info.status == "FINISHED"]
    tags = [{k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")} for run in done]
    rows = [
        (run.info.run_name, {**own, **run.data.params, **run.data.metrics}) for run, own in zip(done, tags, strict=True)
    ]
    return rows, len(runs) - len(done)


@dataclass(frozen=True)
class StudyInfo:
    """What the parent run says about the study. params: the flattened config. val: the metric of the validation curves.
    test: the name of the one that finalists are judged by.
    """

    name: str
    fingerprint: str
    params: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    val: Metric = VAL_ACCURACY
    test: str = "test_accuracy"


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Turns Python's cycle collector off during an import, because all objects that an import makes stay alive.

    With torch's objects in memory a full collection takes 0.1 to 0.3 s and finds nothing. Importing MLflow and its SQL
    store takes 1.5 s of CPU with collections and 0.95 s without; the collection that is due afterwards takes 0.55 s if
    the new objects are young then, and 0.3 s if they are old.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # otherwise objects that other code froze would be unfrozen too
            gc.freeze()
            gc.unfreeze()  # moves all objects to the oldest generation without scanning them
        if enabled:
            gc.enable()


def _template() -> Path:
    """The path of an empty database with the tables of the installed MLflow, whether the file exists or not.

    The file's name contains MLflow's version and, to tell versions under development apart, a fingerprint of the names
    of its migrations.
    """
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    names = "\n".join(sorted(file.name for file in migrations.glob("*.py")))
    fingerprint = hashlib.sha256(names.encode()).hexdigest()[:8]
    return cache_folder(None) / f"mlflow-{mlflow.__version__}-{fingerprint}.db"


def _is_sound(database: Path) -> bool:
    """Whether SQLite finds the file intact and all migrations have run. Takes 2 ms."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return verdict == "ok" and connection.execute("SELECT * FROM alembic_version").fetchone() is not None
        except sqlite3.DatabaseError:
            return False


def _keep_template(fresh: Path, template: Path) -> None:
    """Copies a new database into the cache, where `make_store` finds it next time, if the cache can be written."""
    with contextlib.suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=template.parent) as folder:
            copy = Path(folder) / template.name
            shutil.copyfile(fresh, copy)
            with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
                # the default experiment has its artifacts below the current folder; MLflow makes it again if missing
                connection.execute("DELETE FROM experiments")
            os.replace(copy, template)


def make_store(path: Path) -> None:
    """Makes a new SQLite file with MLflow's tables, complete or not at all: with half of the tables, after a kill,
    MLflow could not open it.

    The tables are copied from a template in the cache folder, which takes 2 to 3 ms with its check. MLflow itself runs
    its migrations one after the other: 0.9 s of CPU (9 s on the clock where the cores are busy with training).
    """
    import mlflow

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        fresh, template = Path(folder) / path.name, _template()
        with contextlib.suppress(OSError):  # there is no template yet, or it cannot be read
            shutil.copyfile(template, fresh)
        if not fresh.exists() or not _is_sound(fresh):
            fresh.unlink(missing_ok=True)
            mlflow.MlflowClient(tracking_uri=mlflow_uri(sqlite_url(fresh))).search_experiments(max_results=1)
            _keep_template(fresh, template)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(fresh, path)


def diagnostics_table(diagnostics: Sequence[Mapping[str, Any]]) -> str:
    """The diagnostics as a table in MLflow's own format: a row for each step and layer, empty cells where a number is
    missing.

    A layer is an activation slot ("activation 0") or a layer with weights ("weights 0"), counted in the net's order.
    diagnostics: what `diagnostics.entry` made, by step.
    """
    of_slots = ["dead", "saturated", "output_mean", "output_std", "output_max"]
    columns, rows = ["step", "layer", *of_slots, "grad_norm"], []
    for at in diagnostics:
        for i, numbers in enumerate(zip(*(at[name] for name in of_slots), strict=True)):
            rows.append([at["step"], f"activation {i}", *numbers, None])
        rows += [[at["step"], f"weights {i}", *[None] * len(of_slots), norm] for i, norm in enumerate(at["grad_norm"])]
    data = [[None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row] for row in rows]
    return json.dumps({"columns": columns, "data": data}, allow_nan=False)


class Delivery:
    """Writes to one tracking server; every method raises what MLflow raises.

    fresh: whether runs of this study that are there are deleted first, as MLflow deletes: they can be restored.
    """

    def __init__(self, uri: str, experiment: str, info: StudyInfo, fresh: bool = False) -> None:
        path = sqlite_path(uri)
        with _no_collections():
            import mlflow

            if path is not None:
                import mlflow.store.tracking.sqlalchemy_store  # the client would import it with its first request
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised too, and said once
        if path is not None:
            make_store(path.absolute())
        self.client = mlflow.MlflowClient(tracking_uri=mlflow_uri(uri))
        self.info = info
        self.experiment_id = self._open_experiment(experiment, uri)
        self.runs: dict[str, tuple[str, str]] = {}
        self.written: dict[str, int] = {}  # by key, for runs that go on: the last step that was written
        self.places: dict[str, str] = {}  # by id, for runs that were created here: the place of their artifacts
        params = {key: str(value)[:500] for key, value in info.params.items()}
        same = f"tags.`{STUDY}` = '{info.name}' and tags.fingerprint = '{info.fingerprint}'"
        runs = self._find(f"{same} and tags.kind = 'study'")
        if fresh:
            for run in runs:
                for child in self._find(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"):
                    self.client.delete_run(child.info.run_id)
                self.client.delete_run(run.info.run_id)
            runs = []
        if runs:
            self.parent = runs[0].info.run_id
            self.client.update_run(self.parent, status="RUNNING")
            if not runs[0].data.params:  # killed after the run was created and before its parameters were written
                self._log(self.parent, [], params)
            children = self._find(f"tags.`mlflow.parentRunId` = '{self.parent}'")
            self.runs = {self._key(run.data.tags): (run.info.run_id, run.info.status) for run in children}
        else:
            tags = {STUDY: info.name, "kind": "study", "fingerprint": info.fingerprint, **info.tags}
            self.parent = self._create(info.name, tags)
            self._log(self.parent, [], params)

    @property
    def page(self) -> str:
        """The path of the table of the study's runs, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs?viewStateShareKey={self.info.fingerprint}"

    def _open_experiment(self, name: str, uri: str) -> str:
        """The experiment's id; it is created if it is new. Its tags hold the view of this study's runs (rows, columns,
        order), and its kind: not one about language models.
        """
        state = json.dumps(
            {**view_state(self.info.val, self.info.test), "searchFilter": f"tags.`{STUDY}` = '{self.info.name}'"}
        )
        tags = {**EXPERIMENT_TAGS, f"mlflow.sharedViewState.{self.info.fingerprint}": state}
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # artifacts go beside the database, not into the folder in which the command was given
            path = sqlite_path(uri)
            place = None if path is None else (path.absolute().parent / "mlartifacts").as_uri()
            return self.client.create_experiment(name, place, tags)
        if found.lifecycle_stage == "deleted":
            raise _deleted(uri, name, found.experiment_id)
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def trial(self, record: TrialRecord) -> None:
        """Writes a finished trial: mean curves, each seed's curves, parameters, the end. A duplicate has no run."""
        if record.state == "duplicate":
            return
        tags = {"kind": "trial", TRIAL: str(record.number)}
        result = self._result({"state": record.state}, record.curves)
        live = self._key(tags) in self.written  # then the run exists and gets `result` with its end
        run = self._child(f"#{record.number} {record.activation}", tags, {} if live else result)
        if run is None:
            return
        metrics = self._curve_metrics(record.curves, self.written.pop(self._key(tags), 0))
        self._end(run, tags, record.curves, metrics, self._params(record), result if live else {})

    def live(self, number: int, name: str, metrics: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Writes rungs of a trial in flight. metrics: (step, values by name) of each rung."""
        tags = {"kind": "trial", TRIAL: str(number)}
        run = self._child(f"#{number} {name}", tags)
        if run is None:
            return
        self._log(run, [(k, v, step) for step, values in metrics for k, v in values.items()], {})
        self.written[self._key(tags)] = metrics[-1][0]

    def finalist(self, comparison: Comparison, runs: Sequence[FinalistRun], curves: Curves) -> None:
        """Writes a finalist: test scores by seed (the step is the seed), mean curves, difference to the baseline."""
        verdict, test = comparison.verdict, self.info.test
        counts = f"n={comparison.n_seeds}" + ("" if verdict is None else f" {verdict.metric.name} {verdict.verdict}")
        key = f"{comparison.activation} {json.dumps(comparison.recipe, sort_keys=True)} {counts}"
        tags = {"kind": "finalist", FINALIST: key}
        result = self._result({"verdict": "baseline" if verdict is None else verdict.verdict}, curves)
        run = self._child(f"finalist {comparison.activation}", tags, result)
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
        self._end(run, tags, curves, metrics, params, {})

    @staticmethod
    def _result(tags: Mapping[str, str], curves: Curves) -> dict[str, str]:
        """The tags of a child run that has ended."""
        return {**tags, **(TABLES if curves.diagnostics else {})}

    def _end(
        self, run: str, tags: Mapping[str, str], curves: Curves, metrics: Sequence[tuple[str, float, int]],
        params: Mapping[str, str], result: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Writes the rest of a child run. Its status comes last, because a finished run is not written again."""
        if curves.diagnostics:
            self._write_table(run, diagnostics_table(curves.diagnostics))
        self._log(run, metrics, params, result)
        self.client.set_terminated(run, "FINISHED")
        self.runs[self._key(tags)] = (run, "FINISHED")

    def _write_table(self, run: str, text: str) -> None:
        """Writes the diagnostics as text and not by MLflow's `log_table`, which goes through pandas, lists the run's
        artifacts and reads the run twice. With a SQLite store artifacts are files: writing one takes 0.1 ms of CPU,
        `log_text` takes 3.3 ms.
        """
        if self.places[run].startswith("file:///"):
            folder = Path(url2pathname(urlsplit(self.places[run]).path))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DIAGNOSTICS).write_text(text, encoding="utf-8")
        else:
            self.client.log_text(run, text, DIAGNOSTICS)

    def finish(self, description: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        there = self.client.get_run(self.parent).data.metrics
        new = [(k, v, 0) for k, v in metrics.items() if there.get(k) != v]
        self._log(self.parent, new, {}, {"mlflow.note.content": description})
        for file in files:
            self.client.log_artifact(self.parent, str(file), file.parent.name if file.suffix == ".png" else None)
        self.client.set_terminated(self.parent, "FINISHED")

    def _curve_metrics(self, curves: Curves, after: int, seeds: bool = True) -> list[tuple[str, float, int]]:
        out: list[tuple[str, float, int]] = []
        for i, step in enumerate(curves.steps):
            for name, rows in (
                (self.info.val.name, curves.val_metric),
                ("val_loss", curves.val_loss),
                ("train_loss", curves.train_loss),
            ):
                values = [v for v in rows[i] if v is not None]
                if step > after and values:
                    out.append((name, mean(values), step))
                if seeds:
                    out += [(f"{name}_seed{s}", v, step) for s, v in enumerate(rows[i]) if v is not None]
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

    def _child(self, name: str, tags: Mapping[str, str], result: Mapping[str, str] | None = None) -> str | None:
        """The id of the run to write to, or None if it was delivered before.

        tags: those that identify the run. result: further tags, for a run that is created here: set when it is created
        they cost 0.2 ms of CPU, set later 2 ms.
        """
        key = self._key(tags)
        if key in self.runs:
            run, status = self.runs[key]
            if status == "FINISHED":
                return None
            if key in self.written:
                return run
            self.client.delete_run(run)  # a killed search left it; the trial is trained and written again
        run = self._create(name, {**tags, **(result or {}), "mlflow.parentRunId": self.parent, STUDY: self.info.name})
        self.runs[key] = (run, "RUNNING")
        self.written.setdefault(key, 0)
        return run

    @staticmethod
    def _key(tags: Mapping[str, str]) -> str:
        return f"{tags.get('kind')}:{tags.get(TRIAL) or tags.get(FINALIST)}"

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        kept = {key: value[:MOST_IN_TAG] for key, value in tags.items()}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=kept).info
        self.places[run.run_id] = str(run.artifact_uri)
        return run.run_id

    def _find(self, filter_string: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment_id], filter_string, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _log(
        self, run: str, metrics: Sequence[tuple[str, float, int]], params: Mapping[str, str],
        tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Writes in as few requests as MLflow allows: each may hold 1,000 numbers and texts, of which 100 params."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        entities = [Metric(k, float(v), now, step) for k, v, step in metrics if math.isfinite(v)]
        texts = [Param(k, str(v)) for k, v in params.items()]
        labels = [RunTag(k, v) for k, v in (tags or {}).items()]
        while entities or texts or labels:
            now_metrics, entities = entities[:800], entities[800:]
            now_params, texts = texts[:100], texts[100:]
            self.client.log_batch(run, metrics=now_metrics, params=now_params, tags=labels)
            labels = []


class Tracker:
    """Delivers in a thread while the search goes on. The first failure is a warning and ends the delivery."""

    def __init__(
        self, make: Callable[[], Delivery], warn: Callable[[str], None],
        cure: str = "'actsearch task=deliver' with the same overrides delivers what is missing",
    ) -> None:  # fmt: skip
        self._make, self._warn, self._cure = make, warn, cure
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
        """Waits until all is delivered. last: writes the end of the study's run, if the study has ended."""
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
                self._warn(f"MLflow could not be written ({self.failed}). The search goes on; {self._cure}.")
            self.seconds += time.monotonic() - start


def deliver_end(delivery: Delivery, result: Result, files: Sequence[Path]) -> None:
    """Writes the finalists, the verdict and the files to MLflow."""
    own, val = result.options.own_test, result.options.own_val
    curves = {(r.activation, str(r.recipe)): r.curves for r in as_records(result.runs, val.name)}
    for comparison in result.comparisons:
        theirs = [r for r in result.runs if (r.activation, r.recipe) == (comparison.activation, comparison.recipe)]
        delivery.finalist(comparison, theirs, curves[comparison.activation, str(comparison.recipe)])
    seen = [float(row[f"{val.name}_mean"]) for row in result.rows]
    ends = {own.name: result.comparisons[0].test_metric}
    if seen:
        ends[val.name] = max(seen) if val.higher_is_better else min(seen)
    table = markdown_table(*finalist_table(result.comparisons, result.options))
    delivery.finish(f"{result.summary}\n\n{table}", ends, files)
