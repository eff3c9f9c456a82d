"""MLflow, for real on SQLite: what a study's runs hold, delivering twice, a killed search, a server that is down."""

import contextlib
import gc
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas
import pytest
from fake_trainer import confirmation
from mlflow.entities import ViewType

from actsearch import tracking
from actsearch.errors import ActSearchError
from actsearch.question.metrics import PERPLEXITY, on_validation
from actsearch.records import Curves, Evidence, FinalistRun, TrialRecord
from actsearch.study.finalists import as_records
from actsearch.study.storage import sqlite_url
from actsearch.tracking import Delivery, StudyInfo, Tracker, make_store
from actsearch.verdicts.comparison import compare_finalists

INFO = StudyInfo("digits-mlp-12345678", "12345678", {"recipe.lr": 0.01, "device": "cpu"}, {"command": "actsearch"})


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One migrated database for the whole file: each test has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def experiment(uri, request, tmp_path):
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment(request.node.name, artifact_location=str(tmp_path / "artifacts"))
    return request.node.name


class Seen:
    """What a person finds in MLflow: the runs of an experiment."""

    def __init__(self, uri, experiment):
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self.experiment = self.client.get_experiment_by_name(experiment).experiment_id

    def runs(self, view=ViewType.ACTIVE_ONLY, **tags):
        found = self.client.search_runs([self.experiment], run_view_type=view)
        return [r for r in found if all(r.data.tags.get(k) == v for k, v in tags.items())]

    def one(self, **tags):
        (run,) = self.runs(**tags)
        return run

    def history(self, run, key):
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, key)]

    def everything(self):
        """All that stands there, times left out."""
        return {
            r.info.run_id: (r.info.run_name, r.info.status, dict(r.data.tags), dict(r.data.params),
                            {key: sorted(self.history(r, key)) for key in r.data.metrics})
            for r in self.runs(ViewType.ALL)
        }  # fmt: skip


def record(number=0, activation="leaky_relu(negative_slope=0.02)", state="complete", same_as=None, recipe=None):
    curves = Curves(
        [10, 20], [[0.2, 0.4], [0.5, 0.7]], [[1.2, 1.0], [0.9, 0.7]], [[2.0, None], [1.0, 0.5]], n_diverged=0
    )
    return TrialRecord(number, activation, recipe or {}, state, [0.6], curves, same_as)


def finalist_runs():
    out = []
    for activation, scores in (("gelu", [0.8, 0.7]), ("relu", [0.5, 0.6])):
        for seed, score in zip((1000, 1001), scores, strict=True):
            curves = Curves([10, 20], [[0.1], [score]], [[2.0], [1.0]], [[2.0], [1.0]])
            out.append(FinalistRun(activation, {"lr": 0.02}, seed, score, 1 - score, False, curves))
    return out


def deliver_finalists(delivery, files=()):
    runs = finalist_runs()
    curves = {r.activation: r.curves for r in as_records(runs, "val_accuracy")}
    for comparison in compare_finalists(Evidence(runs), confirmation()):
        theirs = [r for r in runs if r.activation == comparison.activation]
        delivery.finalist(comparison, theirs, curves[comparison.activation])
    delivery.finish("gelu leads.", {"test_accuracy": 0.75}, files)


# --- what is written ------------------------------------------------------------------------------


def test_a_study_is_a_parent_run_that_says_what_it_is(uri, experiment):
    Delivery(uri, experiment, INFO)
    parent = Seen(uri, experiment).one(kind="study")
    assert parent.info.run_name == INFO.name
    assert parent.data.params == {"recipe.lr": "0.01", "device": "cpu"}
    assert parent.data.tags["fingerprint"] == "12345678"
    assert parent.data.tags["command"] == "actsearch"
    assert parent.info.status == "RUNNING"


def test_a_trial_is_a_child_run_with_its_curves_and_parameters(uri, experiment):
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    delivery.trial(record(3, recipe={"lr": 0.005}))
    run = seen.one(kind="trial")
    assert run.data.tags["mlflow.parentRunId"] == seen.one(kind="study").info.run_id
    assert run.info.run_name == "#3 leaky_relu(negative_slope=0.02)"
    assert run.info.status == "FINISHED"
    assert run.data.tags["state"] == "complete"
    assert run.data.params == {
        "activation": "leaky_relu(negative_slope=0.02)", "recipe.lr": "0.005", "leaky_relu.negative_slope": "0.02",
    }  # fmt: skip
    assert seen.history(run, "val_accuracy") == [(10, pytest.approx(0.3)), (20, pytest.approx(0.6))]
    assert seen.history(run, "val_loss") == [(10, pytest.approx(1.1)), (20, pytest.approx(0.8))]
    assert seen.history(run, "train_loss") == [(10, 2.0), (20, 0.75)]  # a diverged seed has none
    assert seen.history(run, "val_accuracy_seed0") == [(10, 0.2), (20, 0.5)]
    assert seen.history(run, "train_loss_seed1") == [(20, 0.5)]


def entries():
    """Diagnostics of a net of two activations and three layers with weights, at two steps."""
    return [
        {"step": 10, "dead": [0.0, 0.25], "saturated": [0.5, math.nan], "output_mean": [0.1, 0.2],
         "output_std": [1.0, 2.0], "output_max": [3.0, math.inf], "grad_norm": [5.0, 6.0, 7.0]},
        {"step": 20, "dead": [0.5, 0.75], "saturated": [0.5, math.nan], "output_mean": [0.1, 0.2],
         "output_std": [1.0, 2.0], "output_max": [3.0, 4.0], "grad_norm": [8.0, 9.0, 1.0]},
    ]  # fmt: skip


TABLE = {
    "columns": ["step", "layer", "dead", "saturated", "output_mean", "output_std", "output_max", "grad_norm"],
    "data": [
        [10, "activation 0", 0.0, 0.5, 0.1, 1.0, 3.0, None],
        [10, "activation 1", 0.25, None, 0.2, 2.0, None, None],
        [10, "weights 0", None, None, None, None, None, 5.0],
        [10, "weights 1", None, None, None, None, None, 6.0],
        [10, "weights 2", None, None, None, None, None, 7.0],
        [20, "activation 0", 0.5, 0.5, 0.1, 1.0, 3.0, None],
        [20, "activation 1", 0.75, None, 0.2, 2.0, 4.0, None],
        [20, "weights 0", None, None, None, None, None, 8.0],
        [20, "weights 1", None, None, None, None, None, 9.0],
        [20, "weights 2", None, None, None, None, None, 1.0],
    ],
}


@pytest.fixture(params=["beside the database", "through the client"])
def place(request, uri, tmp_path):
    """An experiment that `Delivery` makes itself, and one whose artifacts are written as a server's are."""
    name = f"{request.node.name} {tmp_path.name}"
    if request.param == "through the client":
        mlflow.MlflowClient(tracking_uri=uri).create_experiment(name, artifact_location=str(tmp_path / "artifacts"))
    return name


def tables(seen, run):
    """The run's tables as MLflow's UI finds them: a tag says which artifacts are some. By path, as they are written."""
    said = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
    assert {entry["type"] for entry in said} <= {"table"}
    assert [a.path for a in seen.client.list_artifacts(run.info.run_id)] == [entry["path"] for entry in said]
    paths = {entry["path"]: seen.client.download_artifacts(run.info.run_id, entry["path"]) for entry in said}
    return {name: Path(path).read_text() for name, path in paths.items()}


def test_diagnostics_are_a_table_by_step_and_layer_in_which_no_number_is_an_empty_cell(uri, place):
    looked = record()
    looked.curves.diagnostics = entries()
    Delivery(uri, place, INFO).trial(looked)
    seen = Seen(uri, place)
    run = seen.one(kind="trial")
    assert {path: json.loads(text) for path, text in tables(seen, run).items()} == {"diagnostics.json": TABLE}
    assert not [key for key in run.data.metrics if key.startswith(("layer", "grad_norm"))]


def test_the_table_is_what_mlflows_own_log_table_writes_and_its_load_table_reads(uri, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table looks for runs there, whatever its client's store is
    looked = record()
    looked.curves.diagnostics = entries()
    Delivery(uri, place, INFO).trial(looked)
    seen = Seen(uri, place)
    ours = seen.one(kind="trial")
    theirs = seen.client.create_run(seen.experiment).info.run_id
    columns = zip(*TABLE["data"], strict=True)
    data = pandas.DataFrame(dict(zip(TABLE["columns"], columns, strict=True)))
    seen.client.log_table(theirs, data, "diagnostics.json")
    theirs = seen.client.get_run(theirs)
    assert ours.data.tags["mlflow.loggedArtifacts"] == theirs.data.tags["mlflow.loggedArtifacts"]
    texts = [json.loads(tables(seen, run)["diagnostics.json"]) for run in (ours, theirs)]
    assert texts[0] == texts[1]
    together = seen.client.load_table(seen.experiment, "diagnostics.json", extra_columns=["run_id"])
    rows = together.groupby("run_id").size().to_dict()
    assert rows == {run.info.run_id: len(TABLE["data"]) for run in (ours, theirs)}


def test_a_trial_or_finalist_without_diagnostics_has_no_table(uri, place):
    delivery = Delivery(uri, place, INFO)
    delivery.trial(record())
    deliver_finalists(delivery)
    seen = Seen(uri, place)
    assert [tables(seen, run) for run in (seen.one(kind="trial"), *seen.runs(kind="finalist"))] == [{}, {}, {}]


def test_a_finalist_has_the_table_of_its_mean_diagnostics(uri, place):
    runs = finalist_runs()
    for run in runs:
        run.curves.diagnostics = [{**entry, "dead": [run.test_metric, 0.0]} for entry in entries()]
    delivery = Delivery(uri, place, INFO)
    curves = {r.activation: r.curves for r in as_records(runs, "val_accuracy")}
    for comparison in compare_finalists(Evidence(runs), confirmation()):
        theirs = [r for r in runs if r.activation == comparison.activation]
        delivery.finalist(comparison, theirs, curves[comparison.activation])
    seen = Seen(uri, place)
    gelu = next(r for r in seen.runs(kind="finalist") if r.data.params["activation"] == "gelu")
    data = json.loads(tables(seen, gelu)["diagnostics.json"])["data"]
    assert [row[:3] for row in data if row[1] == "activation 0"] == [
        [10, "activation 0", pytest.approx(0.75)], [20, "activation 0", pytest.approx(0.75)],
    ]  # fmt: skip


def test_a_trial_that_was_written_live_ends_with_its_state_and_table(uri, place):
    delivery, looked = Delivery(uri, place, INFO), record()
    looked.curves.diagnostics = entries()
    seen = Seen(uri, place)
    delivery.live(0, looked.activation, [(10, {"val_accuracy": 0.3})])
    assert "state" not in seen.one(kind="trial").data.tags
    delivery.trial(looked)
    run = seen.one(kind="trial")
    assert run.data.tags["state"] == "complete"
    assert json.loads(tables(seen, run)["diagnostics.json"]) == TABLE


def test_a_trial_cut_off_after_its_table_is_written_again_and_then_left_alone(uri, place):
    looked = record()
    looked.curves.diagnostics = entries()
    killed = Delivery(uri, place, INFO)
    killed.client.log_batch = lambda *a, **k: 1 / 0
    with pytest.raises(ZeroDivisionError):
        killed.trial(looked)
    seen = Seen(uri, place)
    half = seen.one(kind="trial").info
    assert half.status == "RUNNING"
    Delivery(uri, place, INFO).trial(looked)
    run = seen.one(kind="trial")
    assert (run.info.status, run.info.run_id != half.run_id) == ("FINISHED", True)
    assert json.loads(tables(seen, run)["diagnostics.json"]) == TABLE
    assert len(seen.history(run, "val_accuracy")) == 2
    before = seen.everything(), tables(seen, run)
    Delivery(uri, place, INFO).trial(looked)
    assert (seen.everything(), tables(seen, run)) == before


def test_one_spec_per_layer_has_its_layers_in_the_parameters(uri, experiment):
    Delivery(uri, experiment, INFO).trial(record(activation="elu(alpha=2) | relu | silu(beta=learned)"))
    params = Seen(uri, experiment).one(kind="trial").data.params
    assert (params["layer0.elu.alpha"], params["layer2.silu.beta"]) == ("2.0", "learned(1)")


def test_an_expressions_parameters_have_names_that_mlflow_takes(uri, experiment):
    Delivery(uri, experiment, INFO).trial(record(activation="min(max(a * x, x), 6)(a=0.02) | relu"))
    params = Seen(uri, experiment).one(kind="trial").data.params
    assert params["activation"] == "min(max(a * x, x), 6)(a=0.02) | relu"
    assert params["layer0.expression.a"] == "0.02"


def test_the_many_numbers_of_a_learned_shape_are_no_parameters(uri, experiment):
    Delivery(uri, experiment, INFO).trial(record(activation="pau(a0=0.5)"))
    params = Seen(uri, experiment).one(kind="trial").data.params
    assert params["activation"] == "pau(a0=0.5)"
    assert not [key for key in params if key.startswith("pau.")]


def test_a_pruned_trial_says_so_and_a_duplicate_was_no_training_so_it_is_no_run(uri, experiment):
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    delivery.trial(record(0, state="pruned"))
    delivery.trial(record(1, state="duplicate", same_as=0))
    assert seen.one(kind="trial").data.tags["actsearch.trial"] == "0"
    assert seen.one(kind="trial").data.tags["state"] == "pruned"


def test_the_experiments_table_opens_on_this_study(uri, experiment):
    page = Delivery(uri, experiment, INFO).page
    seen = Seen(uri, experiment)
    tags = seen.client.get_experiment(seen.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{page.partition('viewStateShareKey=')[2]}"])
    assert f"/experiments/{seen.experiment}/" in page
    assert "metrics.`test_accuracy`" in view["selectedColumns"]
    Delivery(uri, experiment, StudyInfo("other", "0", {}))
    found = seen.client.search_runs([seen.experiment], view["searchFilter"])
    assert [r.info.run_name for r in found] == [INFO.name]


def test_where_less_is_better_the_least_stands_first(uri, experiment):
    info = replace(INFO, val=on_validation(PERPLEXITY), test="test_perplexity")
    delivery = Delivery(uri, experiment, info)
    delivery.trial(record(0))
    tags = delivery.client.get_experiment(delivery.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{info.fingerprint}"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val_perplexity`", True)
    assert "metrics.`test_perplexity_difference`" in view["selectedColumns"]
    seen = Seen(uri, experiment)
    metrics = seen.one(kind="trial").data.metrics
    assert "val_perplexity" in metrics and "val_accuracy" not in metrics


def test_finalists_have_test_scores_by_seed_and_the_difference(uri, experiment):
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    deliver_finalists(delivery)
    gelu = next(r for r in seen.runs(kind="finalist") if r.data.params["activation"] == "gelu")
    relu = next(r for r in seen.runs(kind="finalist") if r.data.params["activation"] == "relu")
    assert gelu.data.params["recipe.lr"] == "0.02"
    assert gelu.data.metrics["test_accuracy"] == pytest.approx(0.75)
    assert gelu.data.metrics["test_loss"] == pytest.approx(0.25)
    assert gelu.data.metrics["test_accuracy_difference"] == pytest.approx(0.2)
    assert gelu.data.metrics["test_accuracy_ci_low"] < 0.2 < gelu.data.metrics["test_accuracy_ci_high"]
    assert gelu.data.metrics["test_loss_difference"] == pytest.approx((0.2 * 0.3 / (0.5 * 0.4)) ** 0.5 - 1)
    assert (gelu.data.tags["verdict"], relu.data.tags["verdict"]) == ("undecided", "baseline")
    assert "test_accuracy_difference" not in relu.data.metrics
    assert seen.history(gelu, "test_accuracy_by_seed") == [(1000, 0.8), (1001, 0.7)]
    assert seen.history(gelu, "val_accuracy") == [(10, pytest.approx(0.1)), (20, pytest.approx(0.75))]
    assert {r.info.status for r in (gelu, relu)} == {"FINISHED"}


def test_the_end_is_on_the_parent_with_the_files(uri, experiment, tmp_path):
    (tmp_path / "leaderboard.csv").write_text("rank\n1\n")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "cost.png").write_bytes(b"png")
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    deliver_finalists(delivery, [tmp_path / "leaderboard.csv", tmp_path / "plots" / "cost.png"])
    parent = seen.one(kind="study")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "gelu leads."
    assert parent.data.metrics == {"test_accuracy": 0.75}
    assert [a.path for a in seen.client.list_artifacts(parent.info.run_id)] == ["leaderboard.csv", "plots"]
    assert [a.path for a in seen.client.list_artifacts(parent.info.run_id, "plots")] == ["plots/cost.png"]


def test_a_thousand_metrics_arrive_whole(uri, experiment):
    steps = list(range(1, 401))
    rows = [[i / 400, i / 500] for i in steps]
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    delivery.trial(TrialRecord(0, "relu", {}, "complete", [1.0], Curves(steps, rows, rows, rows)))
    run = seen.one(kind="trial")
    assert seen.history(run, "train_loss_seed1") == [(i, i / 500) for i in steps]


# --- twice, killed --------------------------------------------------------------------------------


def test_delivering_twice_changes_nothing(uri, experiment):
    def deliver():
        delivery = Delivery(uri, experiment, INFO)
        delivery.trial(record(0))
        delivery.trial(record(1, "gelu", state="pruned"))
        deliver_finalists(delivery)

    deliver()
    before = Seen(uri, experiment).everything()
    assert len(before) == 1 + 2 + 2
    deliver()
    assert Seen(uri, experiment).everything() == before


def test_a_study_cut_off_before_its_parameters_gets_them_later(uri, experiment, monkeypatch):
    with monkeypatch.context() as cut:
        cut.setattr(mlflow.MlflowClient, "log_batch", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Delivery(uri, experiment, INFO)
    seen = Seen(uri, experiment)
    half = seen.one(kind="study")
    assert half.data.params == {}
    Delivery(uri, experiment, INFO)
    assert seen.one(kind="study").info.run_id == half.info.run_id
    assert seen.one(kind="study").data.params == {"recipe.lr": "0.01", "device": "cpu"}


def test_two_studies_of_one_experiment_stay_apart(uri, experiment):
    Delivery(uri, experiment, INFO).trial(record(0))
    Delivery(uri, experiment, StudyInfo("other", "0", {})).trial(record(0))
    seen = Seen(uri, experiment)
    assert len(seen.runs(kind="study")) == 2
    assert len({r.data.tags["mlflow.parentRunId"] for r in seen.runs(kind="trial")}) == 2


def test_the_unfinished_child_of_a_killed_search_is_replaced(uri, experiment):
    seen = Seen(uri, experiment)
    killed = Delivery(uri, experiment, INFO)
    killed.trial(record(0))
    killed.live(1, "gelu", [(10, {"val_accuracy": 0.123})])
    half = seen.one(**{"actsearch.trial": "1"}).info.run_id
    again = Delivery(uri, experiment, INFO)
    again.live(1, "gelu", [(10, {"val_accuracy": 0.3})])
    again.trial(record(0))
    again.trial(record(1, "gelu"))
    run = seen.one(**{"actsearch.trial": "1"})
    assert run.info.run_id != half
    assert [v for _, v in seen.history(run, "val_accuracy")] == pytest.approx([0.3, 0.6])
    assert seen.client.get_run(half).info.lifecycle_stage == "deleted"
    assert len(seen.runs(kind="trial")) == 2


def test_rungs_written_live_are_not_written_again_at_the_end(uri, experiment):
    delivery, seen = Delivery(uri, experiment, INFO), Seen(uri, experiment)
    delivery.live(0, "leaky_relu(negative_slope=0.02)", [(10, {"val_accuracy": 0.3, "val_loss": 1.1})])
    run = seen.one(kind="trial")
    assert run.info.status == "RUNNING"
    assert seen.history(run, "val_accuracy") == [(10, 0.3)]
    delivery.trial(record(0))
    assert seen.one(kind="trial").info.run_id == run.info.run_id
    assert seen.history(run, "val_accuracy") == [(10, 0.3), (20, pytest.approx(0.6))]
    assert seen.history(run, "val_accuracy_seed0") == [(10, 0.2), (20, 0.5)]


def test_a_finalist_cut_off_in_the_middle_is_completed_without_a_value_twice(uri, experiment):
    seen, runs = Seen(uri, experiment), finalist_runs()
    first = Delivery(uri, experiment, INFO)
    comparison = compare_finalists(Evidence(runs), confirmation())[0]
    theirs = [r for r in runs if r.activation == "gelu"]
    curves = as_records(runs, "val_accuracy")[0].curves
    first.client.set_terminated = lambda *a, **k: 1 / 0
    with pytest.raises(ZeroDivisionError):
        first.finalist(comparison, theirs, curves)
    Delivery(uri, experiment, INFO).finalist(comparison, theirs, curves)
    run = seen.one(kind="finalist")
    assert run.info.status == "FINISHED"
    assert seen.history(run, "test_accuracy_by_seed") == [(1000, 0.8), (1001, 0.7)]


# --- in a thread ----------------------------------------------------------------------------------


def test_the_tracker_delivers_what_it_is_given_and_live_rungs_in_time(uri, experiment, monkeypatch):
    monkeypatch.setattr(tracking, "LIVE_SECONDS", 0.0)
    warnings = []
    tracker = Tracker(lambda: Delivery(uri, experiment, INFO), warnings.append)
    tracker.rung(10, {0: "leaky_relu(negative_slope=0.02)", 1: "gelu"}, {n: {"val_accuracy": 0.3} for n in (0, 1)})
    tracker.trials([record(0)])
    tracker.close(lambda delivery: delivery.finish("done", {}, []))
    tracker.close()
    seen = Seen(uri, experiment)
    assert warnings == []
    assert seen.one(kind="study").info.status == "FINISHED"
    assert seen.one(**{"actsearch.trial": "0"}).info.status == "FINISHED"
    live = seen.one(**{"actsearch.trial": "1"})
    assert (live.info.status, live.info.run_name) == ("RUNNING", "#1 gelu")
    assert seen.history(live, "val_accuracy") == [(10, 0.3)]


def test_rungs_are_gathered_not_written_one_by_one():
    calls = []

    class Recorder:
        page = "/"

        def live(self, number, name, metrics):
            calls.append(("live", number, [step for step, _ in metrics]))

        def trial(self, record):
            calls.append(("trial", record.number))

    tracker = Tracker(Recorder, calls.append)
    for step in (10, 20, 30):
        tracker.rung(step, {0: "relu"}, {0: {"val_accuracy": step / 100}})
    tracker._flushed -= tracking.LIVE_SECONDS + 1
    tracker.rung(40, {0: "relu"}, {0: {"val_accuracy": 0.4}})
    tracker.rung(50, {0: "relu"}, {0: {"val_accuracy": 0.5}})
    tracker.trials([record(0)])
    tracker.close()
    assert calls == [("live", 0, [10, 20, 30, 40]), ("trial", 0)]


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_is_down_is_one_warning_and_blocks_nobody(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings = []
    url = f"http://127.0.0.1:{closed_port()}"
    asked = []

    def make():
        asked.append(time.monotonic())
        return Delivery(url, "x", INFO)

    tracker = Tracker(make, warnings.append)
    for number in range(30):
        tracker.trials([record(number)])  # returns at once: it only puts things into a queue
    tracker.close(lambda delivery: delivery.finish("done", {}, []))
    assert len(warnings) == 1
    assert "task=deliver" in warnings[0]
    assert "\n" not in warnings[0]
    assert len(asked) == 1  # not once per trial: each would wait for the server again


def test_a_server_that_dies_midway_is_one_warning_and_the_rest_can_be_delivered(uri, experiment):
    warnings, seen = [], Seen(uri, experiment)

    def make():
        delivery = Delivery(uri, experiment, INFO)
        log_batch, calls = delivery.client.log_batch, []

        def dying(*args, **keywords):
            calls.append(args)
            if len(calls) > 2:  # the parent's parameters, the first trial
                raise ConnectionError("the server is gone")
            log_batch(*args, **keywords)

        delivery.client.log_batch = dying
        return delivery

    tracker = Tracker(make, warnings.append)
    tracker.trials([record(0), record(1), record(2)])
    tracker.close()
    assert len(warnings) == 1
    assert "the server is gone" in warnings[0]
    assert [r.info.status for r in seen.runs(**{"actsearch.trial": "0"})] == ["FINISHED"]
    later = Delivery(uri, experiment, INFO)
    for number in range(3):
        later.trial(record(number))
    for number in range(3):
        run = seen.one(**{"actsearch.trial": str(number)})
        assert run.info.status == "FINISHED"
        assert [v for _, v in seen.history(run, "val_accuracy")] == pytest.approx([0.3, 0.6])


def test_comparison_of_the_baseline_has_no_difference_to_write(uri, experiment):
    delivery = Delivery(uri, experiment, INFO)
    runs = [FinalistRun("relu", {}, 1000, 0.5, 0.5, True, Curves([10], [[0.5]], [[0.5]], [[None]]))]
    (base,) = compare_finalists(Evidence(runs), confirmation())
    delivery.finalist(base, runs, Curves())
    run = Seen(uri, experiment).one(kind="finalist")
    assert run.data.metrics["n_failed"] == 1
    assert run.data.tags["verdict"] == "baseline"
    assert not any("difference" in key for key in run.data.metrics)


# --- a fresh store --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "actsearch"


class Cut:
    """MLflow's client, killed while it makes the tables."""

    def __init__(self, tracking_uri):
        self.path = tracking_uri.removeprefix("sqlite:///")

    def search_experiments(self, max_results):
        with open(self.path, "w") as file:
            file.write("half of the tables")
        raise KeyboardInterrupt


def never(*args, **keywords):
    raise AssertionError("MLflow made the tables")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def works(path):
    """A study can be delivered to the store and read; its artifacts lie beside it."""
    uri = f"sqlite:///{path}"
    Delivery(uri, "mine", INFO).trial(record())
    seen = Seen(uri, "mine")
    assert seen.one(kind="study").info.run_name == INFO.name
    assert seen.one(kind="trial").info.artifact_uri.startswith((path.parent / "mlartifacts").as_uri())
    assert seen.client.get_experiment(seen.experiment).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_kill_while_the_tables_are_made_leaves_no_file_and_the_next_makes_it(tmp_path, cache, monkeypatch):
    path = tmp_path / "below" / "mlflow.db"
    with monkeypatch.context() as cut:
        cut.setattr(mlflow, "MlflowClient", Cut)
        with pytest.raises(KeyboardInterrupt):
            Delivery(f"sqlite:///{path}", "mine", INFO)
    assert names(path.parent) == []
    assert not cache.exists()
    Delivery(f"sqlite:///{path}", "mine", INFO)
    assert names(path.parent) == ["mlflow.db"]
    works(path)


def test_the_second_store_is_a_copy_and_as_good_as_the_first(tmp_path, cache, monkeypatch):
    first, second = tmp_path / "first" / "mlflow.db", tmp_path / "second" / "mlflow.db"
    make_store(first)
    (template,) = cache.iterdir()
    assert template.name.startswith(f"mlflow-{mlflow.__version__}-")
    with monkeypatch.context() as made:
        made.setattr(mlflow, "MlflowClient", never)
        make_store(second)
    assert names(second.parent) == ["mlflow.db"]
    for path in (first, second):
        works(path)
    schemas = []
    for path in (first, second):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
            schemas.append((tables, connection.execute("SELECT * FROM alembic_version").fetchall()))
    assert schemas[0] == schemas[1]


def test_mlflows_default_experiment_has_its_place_in_the_folder_of_its_own_command(tmp_path, cache, monkeypatch):
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        make_store(folder / "mlflow.db")
        default = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").get_experiment("0")
        assert default.name == "Default"
        assert default.artifact_location.endswith(f"{folder.name}/mlruns/0")


@pytest.mark.parametrize("damage", ["cut", "empty", "no migrations", "a folder"])
def test_a_damaged_template_is_made_again(tmp_path, cache, damage):
    make_store(tmp_path / "first" / "mlflow.db")
    (template,) = cache.iterdir()
    whole = template.stat().st_size
    if damage == "cut":
        template.write_bytes(template.read_bytes()[: whole // 2])
    elif damage == "a folder":
        template.unlink()
        template.mkdir()
    elif damage == "no migrations":
        with contextlib.closing(sqlite3.connect(template)) as connection, connection:
            connection.execute("DELETE FROM alembic_version")
    else:
        template.write_bytes(b"")
    works(tmp_path / "second" / "mlflow.db")
    if damage != "a folder":  # that is nothing of ours, and stays
        assert template.stat().st_size == whole
    assert names(cache) == [template.name]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made below it, even by root
    works(tmp_path / "mlflow.db")


def test_a_kill_while_the_template_is_kept_leaves_none(tmp_path, cache, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(tracking.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            make_store(tmp_path / "below" / "mlflow.db")
    assert (names(cache), names(tmp_path / "below")) == ([], [])
    works(tmp_path / "below" / "mlflow.db")


def test_a_store_that_another_process_made_meanwhile_is_kept(tmp_path, cache, monkeypatch):
    path = tmp_path / "below" / "mlflow.db"
    make_store(tmp_path / "first" / "mlflow.db")
    copy = tracking.shutil.copyfile

    def slow(source, target):
        path.write_text("the other's")
        return copy(source, target)

    monkeypatch.setattr(tracking.shutil, "copyfile", slow)
    make_store(path)
    assert path.read_text() == "the other's"
    make_store(path)
    assert path.read_text() == "the other's"


def test_two_processes_that_begin_at_once_share_one_store(tmp_path, cache):
    path = tmp_path / "below" / "mlflow.db"
    code = f"from pathlib import Path; import actsearch.tracking as t; t.make_store(Path({str(path)!r}))"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert names(path.parent) == ["mlflow.db"]
    assert len(names(cache)) == 1
    works(path)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_import_leaves_the_cycle_collector_as_it_was(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError), tracking._no_collections():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, 0)
    finally:
        (gc.enable if before else gc.disable)()


def test_a_deleted_experiment_is_named_with_what_brings_it_back(uri, place):
    delivery = Delivery(uri, place, INFO)
    delivery.client.delete_experiment(delivery.experiment_id)
    with pytest.raises(ActSearchError) as error:
        Delivery(uri, place, INFO)
    said = str(error.value)
    assert said.startswith(f"tracking.experiment={place} was deleted in MLflow. Restore it (")
    assert "tracking.experiment=another" in said
    with pytest.raises(ActSearchError) as before:  # a SQLite file is looked into before anything is trained
        tracking.check_tracking(uri, place)
    assert str(before.value) == said
    cure = said[said.index("(") + 1 : said.rindex(")")]
    subprocess.run(cure, shell=True, env={**os.environ, "PATH": str(Path(sys.executable).parent)}, check=True)
    tracking.check_tracking(uri, place)
    assert Delivery(uri, place, INFO).parent == delivery.parent


def test_a_database_in_a_folder_of_any_name_lies_there_and_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = sqlite_url(Path("which act?/50% {x}/mlflow.db"))
    looked = record()
    looked.curves.diagnostics = entries()
    Delivery(uri, "e", INFO).trial(looked)
    assert Seen(tracking.mlflow_uri(uri), "e").one(kind="trial").info.status == "FINISHED"
    assert [str(path) for path in Path().iterdir()] == ["which act?"]
    assert sorted(path.name for path in Path("which act?/50% {x}").iterdir()) == ["mlartifacts", "mlflow.db"]


def test_what_mlflow_cannot_do_is_said_once(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "a\\b \"q\" 'x'"  # MLflow writes the working folder's name into SQL as it is
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(Exception, match="syntax error"):
        Delivery("sqlite:///mlflow.db", "e", INFO)
    assert capfd.readouterr() == ("", "")


def test_fresh_runs_replace_those_of_the_same_study(uri, place):
    first = Delivery(uri, place, INFO)
    first.trial(record())
    again = Delivery(uri, place, INFO, fresh=True)
    assert again.parent != first.parent
    assert again.runs == {}
    assert first.client.get_run(first.parent).info.lifecycle_stage == "deleted"
    assert all(first.client.get_run(run).info.lifecycle_stage == "deleted" for run, _ in first.runs.values())
    again.trial(record())
    assert Delivery(uri, place, INFO).parent == again.parent
