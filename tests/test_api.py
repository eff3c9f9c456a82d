"""From Python: search and compare with arrays, models of every kind; results; MLflow down and delivered later."""

import csv
import socket
from dataclasses import replace

import mlflow
import numpy as np
import optuna
import pytest
import torch
from fake_trainer import FakeTrainer, Killed, evaluation
from torch import nn

import actsearch
from actsearch import api
from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError
from actsearch.finalists import ConfirmOptions
from actsearch.models import Model, mlp
from actsearch.recipe import Recipe
from actsearch.report.terminal import Terminal
from actsearch.samplers import SamplerFactory
from actsearch.search_space import SearchSpace
from actsearch.study import StudyOptions
from actsearch.training import Run

RECIPE = {"steps": 20, "eval_every": 10, "batch_size": 15}
LITTLE = {"recipe": RECIPE, "n_trials": 4, "seeds": 2, "finalists": 1, "finalist_seeds": 2, "quiet": True}


def arrays(shift=0.0):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (rng.normal(size=(3, 6))[y] + 0.5 * rng.normal(size=(120, 6)) + shift).astype(np.float32)
    return x[:90], y[:90], x[90:], y[90:]


def net(in_shape, n_classes, activation):
    return nn.Sequential(nn.Linear(in_shape[0], 8), activation(8), nn.Linear(8, n_classes))


@pytest.fixture
def fake(monkeypatch):
    """Every run that a fake Trainer was asked for, in all calls of the test."""
    started = []

    class Noted(FakeTrainer):
        def start(self, runs):
            started.extend(runs)
            super().start(runs)

    monkeypatch.setattr(api, "Trainer", Noted)
    return started


# --- search, compare ------------------------------------------------------------------------------


def test_search_with_arrays_and_its_result(fake, tmp_path):
    result = actsearch.search("mlp", arrays(), ["relu", "tanh", "gelu"], folder=tmp_path, **LITTLE)
    assert [r["rank"] for r in result.leaderboard][:3] == [1, 2, 3]
    assert result.best == max(result.comparisons, key=lambda c: c.mean).activation
    assert {c.activation for c in result.comparisons} == {result.leaderboard[0]["activation"], "relu"}
    assert sorted(r.seed for r in result.runs if r.activation == "relu") == [1000, 1001]
    for run in result.runs:
        wanted = evaluation(Run(parse_net(run.activation), Recipe(**RECIPE), run.seed), 20)
        assert run.test_metric == wanted.val_metric - 0.01
    assert result.folder.parent == tmp_path
    assert result.summary.split()[0] in {"relu", "tanh", "gelu"}
    with open(result.folder / "leaderboard.csv") as file:
        assert [r["activation"] for r in csv.DictReader(file)] == [r["activation"] for r in result.leaderboard]
    assert len(fake) == 3 * 2 + 2 * 2


def test_the_same_search_again_is_read_not_trained(fake, tmp_path):
    first = actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    n = len(fake)
    again = actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert len(fake) == n
    assert again == first
    assert again.folder == first.folder


def test_other_numbers_in_the_arrays_are_another_question(fake, tmp_path):
    first = actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    n = len(fake)
    other = actsearch.search("mlp", arrays(shift=3.0), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert other.folder != first.folder
    assert len(fake) == 2 * n


def test_other_values_in_a_model_are_another_question(fake, tmp_path):
    def dropout(p):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(p), nn.Linear(8, 3))

    first = actsearch.search(dropout(0.1), arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    other = actsearch.search(dropout(0.9), arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert other.folder != first.folder


@pytest.mark.parametrize(
    "model",
    [net, nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), mlp],
    ids=["a function", "a net", "ours"],
)
def test_models_of_every_kind(fake, tmp_path, model):
    result = actsearch.search(model, arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert {c.activation for c in result.comparisons} == {"relu", "tanh"} or result.best == "relu"


def test_compare_trains_all_on_the_fresh_seeds_and_searches_nothing(fake, tmp_path):
    result = actsearch.compare(net, arrays(), ["gelu", "tanh"], seeds=3, recipe=RECIPE, folder=tmp_path, quiet=True)
    assert {c.activation for c in result.comparisons} == {"relu", "gelu", "tanh"}
    assert {r.seed for r in fake} == {1000, 1001, 1002}
    assert len(fake) == 9
    assert [c.n_seeds for c in result.comparisons] == [3, 3, 3]
    assert {r["activation"] for r in result.leaderboard} == {"relu", "gelu", "tanh"}


def test_a_real_comparison_of_a_net_repeats_and_leaves_the_net_alone(tmp_path):
    pattern = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    before = [p.clone() for p in pattern.parameters()]
    found = actsearch.compare(
        pattern, arrays(), ["identity"], seeds=3, recipe={**RECIPE, "lr": 0.05}, folder=tmp_path, quiet=True
    )
    assert isinstance(pattern[1], nn.ReLU)
    assert all(torch.equal(a, b) for a, b in zip(before, pattern.parameters(), strict=True))
    for comparison in found.comparisons:
        assert comparison.mean > 0.6  # three blobs far apart: real training, not chance
    assert all((30 * r.test_metric) == pytest.approx(round(30 * r.test_metric)) for r in found.runs)


def test_report_prints_and_quiet_does_not(fake, tmp_path, capsys):
    result = actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert capsys.readouterr().out == ""
    result.report()
    out = capsys.readouterr().out
    assert result.summary in out
    assert "Leaderboard" in out


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"model": "mpl"}, "unknown model 'mpl'"),
        ({"data": "mnist2d"}, "unknown data set 'mnist2d'"),
        ({"data": (1, 2)}, "(x, y, x_test, y_test)"),
        ({"activations": ["rleu"]}, "search_space.activations[0]"),
        ({"recipe": {"batch_size": 1000}}, "recipe.batch_size=1000"),
        ({"baseline": "rleu"}, "confirm.baseline"),
        ({"n_trials": 0}, "study.n_trials=0"),
        ({"device": "cuda:99"}, "device=cuda:99"),
        ({"model": lambda in_shape, n_classes: 3}, "not an nn.Module"),
    ],
)
def test_what_a_user_can_put_right_is_an_actsearch_error_and_leaves_nothing(fake, tmp_path, keywords, said):
    arguments = {"model": "mlp", "data": arrays(), "activations": ["relu"], **LITTLE, **keywords}
    with pytest.raises(ActSearchError) as error:
        actsearch.search(folder=tmp_path / "runs", **arguments)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_key_that_is_none_says_so(fake, tmp_path):
    with pytest.raises(ActSearchError, match=r"stpes.*steps"):
        actsearch.search("mlp", arrays(), ["relu"], folder=tmp_path, recipe={"stpes": 3})


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
    return api.Job(**{**values, **keywords})


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
    result = api.run(down, Terminal())
    out = capsys.readouterr().out
    assert out.count("warning:") == 1
    assert "task=deliver" in out
    with pytest.raises(ActSearchError, match=r"tracking.uri=http"):
        api.deliver(down)

    later = f"sqlite:///{tmp_path}/later.db"
    n = len(fake)
    delivered = api.deliver(replace(down, tracking_uri=later))
    assert len(fake) == n
    assert delivered.summary == result.summary
    there = mlflow_runs(later)
    assert [kind for kind, *_ in there].count("finalist") == len(result.comparisons)
    assert [kind for kind, *_ in there].count("trial") == len(
        [r for r in result.leaderboard if r["state"] != "duplicate"]
    )
    assert {status for *_, status in there} == {"FINISHED"}
    api.deliver(replace(down, tracking_uri=later))
    assert mlflow_runs(later) == there

    # with a server all along, the same stands there
    live = f"sqlite:///{tmp_path}/live.db"
    api.run(job(tmp_path / "up", blobs, tracking_uri=live), Terminal(quiet=True))
    assert mlflow_runs(live) == there


def test_delivering_after_going_on_gives_the_result_of_the_last_run(fake, blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = job(tmp_path, blobs, confirm=ConfirmOptions(finalists=2, seeds=2))
    api.run(small, Terminal(quiet=True))
    last = replace(small, confirm=ConfirmOptions(finalists=1, seeds=3))  # fewer finalists, more seeds
    result = api.run(last, Terminal(quiet=True))
    delivered = api.deliver(replace(last, tracking_uri=f"sqlite:///{tmp_path}/m.db"))
    assert delivered.comparisons == result.comparisons
    assert delivered.summary == result.summary


def test_delivering_what_is_not_there_or_not_finished_says_so(fake, blobs, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/m.db"
    monkeypatch.chdir(tmp_path)
    empty = job(tmp_path / "empty", blobs, tracking_uri=uri)
    with pytest.raises(ActSearchError, match="there is no study"):
        api.deliver(empty)
    assert not (tmp_path / "empty").exists()  # asking made none
    with pytest.raises(ActSearchError, match=r"tracking\.uri"):
        api.deliver(replace(empty, tracking_uri=None))
    cut = job(tmp_path / "cut", blobs)
    monkeypatch.setattr(api, "Trainer", lambda *a, **k: FakeTrainer(die_at=3))
    with pytest.raises(Killed):
        api.run(cut, Terminal(quiet=True))
    with pytest.raises(ActSearchError, match="not finished"):
        api.deliver(replace(cut, tracking_uri=uri))
    assert [(kind, status) for kind, _, status in mlflow_runs(uri)].count(("trial", "FINISHED")) == 2
