"""The whole way: MLflow down and delivered later, what is stored and reported again, the test set's one reading."""

import socket
from dataclasses import replace

import mlflow
import optuna
import pytest
from fake_trainer import FakeTrainer, Killed

from actsearch import pipeline
from actsearch.errors import ActSearchError
from actsearch.finalists import ConfirmOptions
from actsearch.job import Job
from actsearch.models import Model, mlp
from actsearch.recipe import Recipe
from actsearch.report.terminal import Terminal
from actsearch.samplers import SamplerFactory
from actsearch.search_space import SearchSpace
from actsearch.study import StudyOptions

RECIPE = {"steps": 20, "eval_every": 10, "batch_size": 15}


@pytest.fixture
def fake(monkeypatch):
    """Every run that a fake Trainer was asked for, in all calls of the test."""
    started = []

    class Noted(FakeTrainer):
        def start(self, runs):
            started.extend(runs)
            super().start(runs)

    monkeypatch.setattr(pipeline, "Trainer", Noted)
    return started


# --- the whole way with MLflow --------------------------------------------------------------------


def job(folder, blobs, **keywords):
    recipe = Recipe(**RECIPE)
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1})
    values = {
        "model": model, "data": blobs(), "recipe": recipe,
        "space": SearchSpace(["relu", "tanh", "gelu"], n_slots=1, base=recipe),
        "study": StudyOptions(name="s", n_trials=4, seeds=2, generation=2),
        "confirm": ConfirmOptions(finalists=1, seeds=2),
        "sampler": SamplerFactory(optuna.samplers.TPESampler, {}, 0), "pruner": optuna.pruners.NopPruner(),
        "identity": {"a": 1}, "folder": folder, "storage_url": f"sqlite:///{folder}/study.db", "tracking_uri": None,
    }  # fmt: skip
    return Job(**{**values, **keywords})


def mlflow_runs(uri):
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("actsearch").experiment_id])
    return sorted((r.data.tags["kind"], r.info.run_name, r.info.status) for r in found)


def test_a_server_that_is_down_costs_one_warning_and_all_is_delivered_later(fake, blobs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    down = job(tmp_path / "down", blobs, tracking_uri=f"http://127.0.0.1:{port}")
    result = pipeline.run(down, Terminal())
    out = capsys.readouterr().out
    assert out.count("warning:") == 1
    assert "task=deliver" in out
    with pytest.raises(ActSearchError, match=r"tracking.uri=http"):
        pipeline.deliver(down)

    later = f"sqlite:///{tmp_path}/later.db"
    n = len(fake)
    delivered = pipeline.deliver(replace(down, tracking_uri=later))
    assert len(fake) == n
    assert delivered.summary == result.summary
    there = mlflow_runs(later)
    assert [kind for kind, *_ in there].count("finalist") == len(result.comparisons)
    assert [kind for kind, *_ in there].count("trial") == len(
        [r for r in result.leaderboard if r["state"] != "duplicate"]
    )
    assert {status for *_, status in there} == {"FINISHED"}
    pipeline.deliver(replace(down, tracking_uri=later))
    assert mlflow_runs(later) == there

    # with a server all along, the same stands there
    live = f"sqlite:///{tmp_path}/live.db"
    pipeline.run(job(tmp_path / "up", blobs, tracking_uri=live), Terminal(quiet=True))
    assert mlflow_runs(live) == there


def test_delivering_after_going_on_gives_the_result_of_the_last_run(fake, blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = job(tmp_path, blobs, confirm=ConfirmOptions(finalists=2, seeds=2))
    pipeline.run(small, Terminal(quiet=True))
    last = replace(small, confirm=ConfirmOptions(finalists=1, seeds=3))  # fewer finalists, more seeds
    result = pipeline.run(last, Terminal(quiet=True))
    delivered = pipeline.deliver(replace(last, tracking_uri=f"sqlite:///{tmp_path}/m.db"))
    assert delivered.comparisons == result.comparisons
    assert delivered.summary == result.summary


def test_delivering_what_is_not_there_or_not_finished_says_so(fake, blobs, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/m.db"
    monkeypatch.chdir(tmp_path)
    empty = job(tmp_path / "empty", blobs, tracking_uri=uri)
    with pytest.raises(ActSearchError, match="there is no study"):
        pipeline.deliver(empty)
    assert not (tmp_path / "empty").exists()  # asking made none
    with pytest.raises(ActSearchError, match=r"tracking\.uri"):
        pipeline.deliver(replace(empty, tracking_uri=None))
    cut = job(tmp_path / "cut", blobs)
    monkeypatch.setattr(pipeline, "Trainer", lambda *a, **k: FakeTrainer(die_at=3))
    with pytest.raises(Killed):
        pipeline.run(cut, Terminal(quiet=True))
    with pytest.raises(ActSearchError, match="not finished"):
        pipeline.deliver(replace(cut, tracking_uri=uri))
    assert [(kind, status) for kind, _, status in mlflow_runs(uri)].count(("trial", "FINISHED")) == 2
