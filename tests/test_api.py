"""From Python: search and compare with arrays, models of every kind; results; MLflow down and delivered later."""

import csv
import html
import importlib
import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import hydra
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from fake_trainer import FakeTrainer, evaluation
from hydra.core.global_hydra import GlobalHydra
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers.modeling_outputs import SequenceClassifierOutput

import actsearch
from actsearch import api
from actsearch.activations.spec import parse_net
from actsearch.config.build import build
from actsearch.config.compose import compose, settle
from actsearch.data.goal import Goal, classification
from actsearch.data.source import Data, Source
from actsearch.errors import ActSearchError
from actsearch.models import mlp
from actsearch.question.metrics import Metric
from actsearch.question.recipe import Recipe
from actsearch.training.reference import Run

pytestmark = pytest.mark.usefixtures("no_pictures")
RECIPE = {"steps": 20, "eval_every": 10, "batch_size": 15}
LITTLE = {"recipe": RECIPE, "n_trials": 4, "seeds": 2, "finalists": 1, "finalist_seeds": 2, "quiet": True,
          "tracking": "none"}  # fmt: skip


def arrays(shift=0.0):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (rng.normal(size=(3, 6))[y] + 0.5 * rng.normal(size=(120, 6)) + shift).astype(np.float32)
    return x[:90], y[:90], x[90:], y[90:]


def net(in_shape, n_classes, activation):
    return nn.Sequential(nn.Linear(in_shape[0], 8), activation(8), nn.Linear(8, n_classes))


# --- search, compare ------------------------------------------------------------------------------


def test_search_with_arrays_and_its_result(fake, tmp_path):
    result = actsearch.search("mlp", arrays(), ["relu", "tanh", "gelu"], folder=tmp_path, **LITTLE)
    assert [r["rank"] for r in result.rows][:3] == [1, 2, 3]
    assert result.best == max(result.comparisons, key=lambda c: c.mean).activation
    assert {c.activation for c in result.comparisons} == {result.rows[0]["activation"], "relu"}
    assert sorted(r.seed for r in result.runs if r.activation == "relu") == [1000, 1001]
    for run in result.runs:
        wanted = evaluation(Run(parse_net(run.activation), Recipe(**{**RECIPE, **run.recipe}), run.seed), 20)
        assert run.test_metric == wanted.val_metric - 0.01
    assert result.folder.parent == tmp_path
    assert result.verdicts[0]["activation"] in result.summary
    with open(result.folder / "leaderboard.csv") as file:
        assert [r["activation"] for r in csv.DictReader(file)] == [r["activation"] for r in result.rows]
    n_tuned = len({(r.specs, r.recipe.lr, r.recipe.weight_decay, r.seed) for r in fake if r.seed < 1000}) - 3 * 2
    assert n_tuned >= 2 * (4 * 4 - 1) * 2
    assert result.about["tuning"] == (
        "learning rate × weight decay for each finalist and the baseline: 16 recipes × 2 seeds, the "
        "best 4 on 10, by validation accuracy"
    )


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


def test_a_finished_study_says_that_it_was_found_and_fresh_trains_again(fake, tmp_path, capsys):
    keywords = {**LITTLE, "quiet": False, "folder": tmp_path}
    first = actsearch.search("mlp", arrays(), ["relu", "tanh"], **keywords)
    n = len(fake)
    assert "found: trained on" not in capsys.readouterr().out
    assert not any("found" in warning for warning in first.warnings)
    found = "found: trained on 20[0-9-]{8}, the same question; study.fresh=true trains again"
    again = actsearch.search("mlp", arrays(), ["relu", "tanh"], **keywords)
    assert re.search(f"search  +{found}", capsys.readouterr().out)
    assert re.fullmatch(found, again.warnings[-1])
    assert len(fake) == n
    fresh = actsearch.search("mlp", arrays(), ["relu", "tanh"], fresh=True, **keywords)
    assert "found: trained on" not in capsys.readouterr().out
    assert len(fake) == 2 * n
    assert fresh.rows == first.rows


def test_edited_code_is_another_question(fake, tmp_path):
    """As a notebook does it: the same name, defined again."""

    def asked(model=net, data=arrays, goal=None, activations=("relu", "tanh")):
        x, y, x_test, y_test = data()
        source = Source(
            torch.tensor(x), torch.tensor(y), lambda: (torch.tensor(x_test), torch.tensor(y_test)), goal=goal
        )
        return actsearch.search(model, source, list(activations), folder=tmp_path, **LITTLE).name

    def edited(in_shape, n_classes, activation):
        return nn.Sequential(nn.Linear(in_shape[0], 8), activation(8), nn.Dropout(0.1), nn.Linear(8, n_classes))

    def smoothed(outputs, y):
        return nn.functional.cross_entropy(outputs, y, label_smoothing=0.1)

    def smoothed_more(outputs, y):
        return nn.functional.cross_entropy(outputs, y, label_smoothing=0.2)

    def other_test():
        x, y, x_test, y_test = arrays()
        return x, y, x_test + 0.01, y_test

    edited.__name__ = edited.__qualname__ = "net"
    smoothed_more.__name__ = smoothed_more.__qualname__ = "smoothed"
    goals = [replace(classification(3), loss=loss) for loss in (smoothed, smoothed_more)]
    names = [asked(), asked(edited), asked(data=other_test), asked(goal=goals[0]), asked(goal=goals[1])]
    n = len(fake)
    assert len(set(names)) == 5
    assert asked() == names[0]
    assert asked(goal=goals[1]) == names[4]
    assert len(fake) == n


def test_another_test_set_of_arrays_is_another_question(fake, tmp_path):
    x, y, x_test, y_test = arrays()
    first = actsearch.search("mlp", (x, y, x_test, y_test), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    other = actsearch.search("mlp", (x, y, x_test[::-1].copy(), y_test), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert other.name != first.name


def test_an_edited_activation_and_a_loaded_file_are_other_questions(fake, tmp_path, monkeypatch):
    (tmp_path / "acts_a.py").write_text("def bent(x):\n    return x.clamp(min=0) * 2\n")
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(6, 8).state_dict(), tmp_path / "trunk.pt")

    def tuned(in_shape, n_classes, activation):
        trunk = nn.Linear(in_shape[0], 8)
        trunk.load_state_dict(torch.load(tmp_path / "trunk.pt"))
        return nn.Sequential(trunk, activation(8), nn.Linear(8, n_classes))

    keywords = {**LITTLE, "recipe": {**RECIPE, "init": "keep"}, "folder": tmp_path}
    names = [actsearch.search(tuned, arrays(), ["relu", "acts_a.bent"], **keywords).name]
    torch.save(nn.Linear(6, 8).state_dict(), tmp_path / "trunk.pt")
    names.append(actsearch.search(tuned, arrays(), ["relu", "acts_a.bent"], **keywords).name)
    (tmp_path / "acts_a.py").write_text("def bent(x):\n    return x.clamp(min=0) * 3\n")
    importlib.invalidate_caches()
    del sys.modules["acts_a"]
    names.append(actsearch.search(tuned, arrays(), ["relu", "acts_a.bent"], **keywords).name)
    assert len(set(names)) == 3


@pytest.mark.parametrize("key", ["p", "negative_slope", "scale"])
def test_numbers_that_a_model_reads_from_a_file_count(key, fake, tmp_path):
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return self.scale * x

    def read(in_shape, n_classes, activation):
        sizes = {"p": 0.1, "negative_slope": 0.1, "scale": 2.0} | json.loads((tmp_path / "sizes.json").read_text())
        return nn.Sequential(
            nn.Linear(in_shape[0], 8), activation(8), nn.Dropout(sizes["p"]), nn.LeakyReLU(sizes["negative_slope"]),
            Scaled(sizes["scale"]), nn.Linear(8, n_classes),
        )  # fmt: skip

    names = []
    for value in (0.1, 0.5, 0.1):
        (tmp_path / "sizes.json").write_text(json.dumps({key: value}))
        names.append(actsearch.search(read, arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE).name)
    assert names[0] == names[2] != names[1]


def test_weights_count_where_tuning_may_keep_them(fake, tmp_path):
    nets = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]

    def names(tune):
        return {
            actsearch.search(one, arrays(), ["relu", "tanh"], folder=tmp_path, confirm={"tune": tune}, **LITTLE).name
            for one in nets
        }

    assert len(names({"init": ["gain", "keep"]})) == 2
    assert len(names("none")) == 1


def test_what_cannot_be_read_of_a_model_is_said(fake, tmp_path):
    lock = threading.Lock()

    def guarded(in_shape, n_classes, activation):
        with lock:
            return net(in_shape, n_classes, activation)

    result = actsearch.search(guarded, arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    *_, warning = result.warnings
    assert "lock cannot be read: if it changes, this study is found again all the same" in warning
    assert warning in html.unescape((result.folder / "report.html").read_text())


@pytest.mark.parametrize(
    "model",
    [net, nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), mlp],
    ids=["a function", "a net", "ours"],
)
def test_models_of_every_kind(fake, tmp_path, model):
    result = actsearch.search(model, arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert {c.activation for c in result.comparisons} == {"relu", "tanh"} or result.best == "relu"


def test_compare_tunes_all_trains_them_on_fresh_seeds_and_searches_nothing(fake, tmp_path):
    result = actsearch.compare(net, arrays(), ["gelu", "tanh"], seeds=3, recipe=RECIPE, folder=tmp_path, quiet=True)
    assert {c.activation for c in result.comparisons} == {"relu", "gelu", "tanh"}
    assert {r.seed for r in fake} == {*range(15), 1000, 1001, 1002}  # tuned on the search seeds
    assert len([r for r in fake if r.seed >= 1000]) == 9
    assert [c.n_seeds for c in result.comparisons] == [3, 3, 3]
    assert {r["activation"] for r in result.rows} == {"relu", "gelu", "tanh"}


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


class WritesInput(nn.Module):
    """It halves its input, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.first, self.act, self.last = in_place, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.act(self.first(x.mul_(0.5) if self.in_place else x * 0.5)))


def test_a_net_that_writes_into_its_input_changes_no_data(tmp_path):
    losses = []
    for in_place in (True, False):
        asked = {"folder": tmp_path / str(in_place), "quiet": True, "tracking": "none", "recipe": RECIPE, "seeds": 2}
        found = actsearch.compare(WritesInput(in_place), arrays(), ["gelu"], **asked)
        losses.append([(run.activation, run.test_loss, run.curves.val_loss) for run in found.runs])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_answer(tmp_path, mode):
    asked = {"quiet": True, "tracking": "none", "recipe": RECIPE, "seeds": 2}
    plain = actsearch.compare(net, arrays(), ["gelu"], folder=tmp_path / "plain", **asked)
    with mode():
        found = actsearch.compare(net, arrays(), ["gelu"], folder=tmp_path / "found", **asked)
    assert [run.test_loss for run in found.runs] == [run.test_loss for run in plain.runs]


def test_report_prints_and_quiet_does_not(fake, tmp_path, capsys):
    result = actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert capsys.readouterr().out == ""
    result.report()
    out = capsys.readouterr().out
    assert result.summary in out
    assert "Leaderboard" in out


# --- one way in -----------------------------------------------------------------------------------


def test_a_search_from_python_is_the_study_of_the_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(api, "run", lambda job, terminal: jobs.append(job))
    monkeypatch.setattr(api, "show", lambda *_: None)
    for keywords, words in (
        ({"model": "mlp", "data": "mnist1d"}, []),
        ({}, []),
        ({"data": "digits", "sampler": "random", "seeds": 2}, ["data=digits", "sampler=random", "study.seeds=2"]),
        ({"search_space": {"scope": "per_layer"}, "study": {"generation": 8}, "pruner": "median"},
         ["search_space.scope=per_layer", "study.generation=8", "pruner=median"]),
        ({"recipe": {"lr": {"low": 1e-3, "high": 3e-2, "log": True}, "steps": 300}},
         ["search_space.recipe={lr:{low:0.001,high:0.03,log:true}}", "recipe.steps=300"]),
        ({"overrides": ["experiment=leaky_slope"]}, ["experiment=leaky_slope"]),
        ({"activations": ["relu", {"elu": {"alpha": [0.5, 1.0]}}], "storage": "sqlite:///x.db", "tracking": "none"},
         ["search_space.activations=[relu,{elu:{alpha:[0.5,1.0]}}]", "storage.url=sqlite:///x.db", "tracking=none"]),
        ({"sampler": optuna.samplers.RandomSampler}, ["sampler=random"]),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 5}},
         ["+sampler.n_startup_trials=5"]),
        ({"sampler": {"n_startup_trials": 5}, "model": {"width": 50}, "data": {"n_validation": 100}},
         ["+sampler.n_startup_trials=5", "model.width=50", "data.n_validation=100"]),
    ):  # fmt: skip
        actsearch.search(**keywords)
        python, command = jobs.pop(), build(settle(compose(words), words), lambda name: Path("runs") / name, "")
        same = (
            "name",
            "folder",
            "identity",
            "storage_url",
            "tracking_uri",
            "recipe",
            "study",
            "confirm",
            "config_yaml",
        )
        if keywords.get("sampler") is optuna.samplers.RandomSampler:  # one class under two paths
            same = same[4:8]
        for field in same:
            assert getattr(python, field) == getattr(command, field), (words, field)
    actsearch.compare("mlp", "digits", ["relu", "gelu"], seeds=5)
    words = ["model=mlp", "data=digits", "sampler=grid", "confirm.seeds=5", "search_space.activations=[relu,gelu]"]
    assert jobs.pop().name == build(settle(compose(words), words), Path, "").name


def test_a_search_inside_another_hydra_application_leaves_it_alone(fake, tmp_path):
    GlobalHydra.instance().clear()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "theirs.yaml").write_text("a: 3\n")
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)
        with pytest.raises(ActSearchError, match=r"'recipe\.steps'"):
            actsearch.search("mlp", arrays(), overrides=["recipe.sttps=3"], folder=tmp_path, **LITTLE)
        assert hydra.compose("theirs").a == 3


def test_results_and_mlflow_lie_in_the_folder_that_is_named(fake, tmp_path):
    arguments = {**LITTLE, "tracking": None, "name": "mine"}
    actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path / "here", **arguments)
    assert {"mine", "mlflow.db"} <= {p.name for p in (tmp_path / "here").iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_a_result_shows_itself_shortly_and_its_numbers_as_numbers(fake, tmp_path):
    result = actsearch.search("mlp", arrays(), ["relu", "tanh", "gelu"], folder=tmp_path, **LITTLE)
    assert len(repr(result)) < 1000
    assert result.summary in repr(result)
    page = result._repr_html_()
    assert page.count("<tr>") == 1 + len(result.comparisons)
    assert html.escape(result.summary) in page
    board = result.leaderboard
    assert list(board["activation"]) == [row["activation"] for row in result.rows]
    assert board["val_accuracy_mean"].max() == pytest.approx(max(r.values[0] for r in result.records))
    assert board["rank"].dropna().tolist() == list(range(1, 1 + sum(r.state == "complete" for r in result.records)))
    assert dir(actsearch) == sorted([*actsearch.__all__, "__version__"])


def test_ctrl_c_says_what_the_command_says(monkeypatch, tmp_path, fake):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeTrainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="What was finished is saved: the same call goes on"):
        actsearch.search("mlp", arrays(), ["relu", "tanh"], folder=tmp_path, **LITTLE)


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
        ({"sampler": "tpee"}, "unknown sampler 'tpee'. Did you mean 'tpe'?"),
        ({"sampler": 3}, "sampler=3: write one of cmaes"),
        ({"search_space": {"scpe": "network"}}, "'search_space.scope'"),
        ({"overrides": ["recipe.sttps=3"]}, "'recipe.steps'"),
        ({"overrides": ["hydra.run.dir=x"]}, "'hydra.run.dir=x' is for the command alone"),
        ({"overrides": ["task=report"]}, "'task=report' is for the command alone"),
        ({"sampler": {"n_strtup_trials": 5}}, "'sampler.n_startup_trials'"),
        (
            {"data": Data(Source(*map(torch.as_tensor, arrays()[:2]), tuple), "mine", 30), "n_validation": 5},
            "own split",
        ),
        ({"seeds": "many"}, "study.seeds=many: it must be a whole number"),
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


def test_what_the_command_has_under_confirm_python_has_too(fake, tmp_path):
    options = {"metric": "test_loss", "margin": {"test_loss": 0.9}, "until_decided": True, "looks": [7, 9]}
    kept = {"folder": tmp_path, "recipe": RECIPE, "quiet": True,
          "tracking": "none"}  # fmt: skip
    result = actsearch.compare("mlp", arrays(), ["relu", "tanh"], confirm=options, **kept)
    (verdict,) = [v for v in result.verdicts if v["primary"]]
    assert (verdict["metric"], verdict["margin"], verdict["n_seeds"]) == ("test_loss", 0.9, 7)
    with pytest.raises(ActSearchError, match=r"'confirm.metrc'.*'confirm.metric'"):
        actsearch.compare("mlp", arrays(), ["relu", "tanh"], confirm={"metrc": "test_loss"}, **kept)


# --- data as people have them ---------------------------------------------------------------------

TOKENS = np.random.default_rng(0).integers(0, 30, (160, 6))
MASK = np.random.default_rng(1).random((160, 6)) > 0.3
CLASSES = (TOKENS.sum(1) > 87).astype(int)
SHORT = {"seeds": 2, "quiet": True, "tracking": "none", "recipe": {"steps": 30, "eval_every": 15, "batch_size": 20}}


class Bag(nn.Module):
    """Embeds tokens; those that a mask leaves out do not count."""

    def __init__(self):
        super().__init__()
        self.embed, self.layers = nn.Embedding(30, 8), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, input_ids, attention_mask=None):
        embedded = self.embed(input_ids)
        if attention_mask is not None:
            embedded = embedded.masked_fill(~attention_mask[..., None], 0)  # of a float mask there is no ~
        return self.layers(embedded.mean(1))


class WithLogits(Bag):
    def forward(self, input_ids, attention_mask):
        return SequenceClassifierOutput(logits=super().forward(input_ids, attention_mask))


def halves(*parts):
    """Each part's first 120 rows to train on, the rest to test."""
    return tuple(part[:120] for part in parts), tuple(part[120:] for part in parts)


def test_text_labels_and_raw_columns_are_taken_and_said_everywhere(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.uniform(18, 80, 160), "income": rng.lognormal(11, 1, 160)})
    frame["town"] = pd.Categorical(rng.choice(["Bonn", "Ulm"], 160))
    labels = pd.Series(np.where(frame.age > 45, "old", "young"))
    x, x_test, y, y_test = train_test_split(frame, labels, test_size=40, random_state=0)
    result = actsearch.compare("mlp", (x, y, x_test, y_test), ["tanh"], folder=tmp_path, **{**SHORT, "quiet": False})
    shown = capsys.readouterr().out
    page = (result.folder / "report.html").read_text()
    for words in ("the classes old, young are numbered 0 to 1 in sorted order.", "features standardised by training",
                  "column 'town' of x is categorical: it is given as 2 columns of 0 and 1."):  # fmt: skip
        assert any(words in remark for remark in result.warnings)
        assert f"warning: {words}" in shown
        assert words in html.unescape(page)
    assert all(c.test_metric > 0.85 for c in result.comparisons)  # the age alone tells, once incomes do not drown it


def test_raw_columns_may_be_left_raw_which_is_another_study(tmp_path):
    rng = np.random.default_rng(0)
    x = np.c_[rng.uniform(18, 80, 160), rng.lognormal(11, 1, 160)]
    y = (x[:, 0] > 45).astype(int)
    (x, y), (x_test, y_test) = halves(x, y)
    results = [actsearch.compare("mlp", (x, y, x_test, y_test), ["tanh"], folder=tmp_path, standardise=s, **SHORT)
               for s in (True, False)]  # fmt: skip
    assert results[0].folder != results[1].folder
    assert "far from standardised" in results[1].warnings[0]
    best, raw = ({c.activation: c.test_metric for c in r.comparisons} for r in results)
    assert best["tanh"] > raw["tanh"] + 0.1


def test_the_net_decides_whether_whole_numbers_are_tokens(tmp_path):
    (x, y), test = halves(TOKENS, CLASSES)
    for dtype in (np.int64, np.uint16):
        data = (x.astype(dtype), y, test[0].astype(dtype), test[1])
        tokens = actsearch.compare(Bag(), data, ["tanh"], folder=tmp_path, **SHORT)
        assert not any("standardised" in warning for warning in tokens.warnings)
    numbers = actsearch.compare("mlp", (x, y, *test), ["tanh"], folder=tmp_path, **SHORT)
    assert numbers.warnings[0].startswith("features standardised")
    source = actsearch.compare("mlp", Source(x, y, test), ["tanh"], folder=tmp_path, **SHORT)
    assert "x is far from standardised" in source.warnings[0]
    with pytest.raises(ActSearchError, match=r"takes as tokens and as numbers.*n_tokens=.*astype"):
        actsearch.compare("transformer", (x, y, *test), ["tanh"], folder=tmp_path, **SHORT)
    asked = actsearch.compare("transformer", Source(x, y, test, n_tokens=30), ["gelu"], folder=tmp_path, **SHORT)
    assert "Embedding" in asked.about["training"]
    with pytest.raises(ActSearchError, match=r"As tokens: .*As numbers: "):
        actsearch.compare(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (x, y, *test), ["tanh"], **SHORT)


def test_several_inputs_and_logits_give_what_one_net_of_ones_own_gives(tmp_path):
    (x, mask, y), (x_test, mask_test, y_test) = halves(TOKENS, MASK, CLASSES)
    pairs = ((x, mask), y, (x_test, mask_test), y_test)
    named = (
        {"input_ids": x, "attention_mask": mask}, y, {"input_ids": x_test, "attention_mask": mask_test}, y_test,
    )  # fmt: skip
    results = [
        actsearch.compare(net, data, ["tanh"], folder=tmp_path, **SHORT)
        for net, data in ((Bag(), pairs), (Bag(), named), (WithLogits(), named))
    ]
    assert len({r.folder for r in results}) == 3
    numbers = [sorted((r.activation, r.seed, r.test_loss) for r in result.runs) for result in results]
    assert numbers[0] == numbers[1] == numbers[2]
    assert all("no fused form: the data have several inputs" in r.about["training"] for r in results)
    with pytest.raises(ActSearchError, match="has no fused form: the data have several inputs"):
        actsearch.compare(Bag(), pairs, ["tanh"], engine="fused", folder=tmp_path, **SHORT)


def test_data_sets_of_torch_and_functions_are_taken(fake, tmp_path):
    x, y, x_test, y_test = map(torch.as_tensor, arrays())
    wanted = actsearch.search("mlp", (x, y, x_test, y_test), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    pair = (TensorDataset(x, y), DataLoader(TensorDataset(x_test, y_test)))
    for data in (pair, ((x, y), (x_test, y_test)), arrays):
        result = actsearch.search("mlp", data, ["relu", "tanh"], folder=tmp_path, **LITTLE)
        assert [r["activation"] for r in result.rows] == [r["activation"] for r in wanted.rows]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (load_iris(), "train_test_split(x, y), with x, y = bunch.data, bunch.target"),
        ({"x_train": TOKENS, "y_train": CLASSES}, "Its keys are x_train, y_train"),
        (TensorDataset(torch.zeros(9, 2), torch.zeros(9)), "give the pair (train, test)"),
        (pd.DataFrame(TOKENS), "Take inputs and labels apart"),
        ([TOKENS, TOKENS, CLASSES, CLASSES], "train_test_split returns x, x_test, y, y_test"),
        (__file__, "read the file first"),
    ],
)
def test_data_in_other_forms_are_refused_with_the_cure(data, said, tmp_path):
    with pytest.raises(ActSearchError) as error:
        actsearch.compare("mlp", data, ["tanh"], folder=tmp_path / "runs", **SHORT)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_test_set_that_is_wrong_shows_before_training_or_in_one_line_when_it_is_read(fake, tmp_path):
    x, y, x_test, y_test = arrays()
    with pytest.raises(ActSearchError, match=r"one of x_test \(2,\)"):
        actsearch.search("mlp", Source(x, y, (x_test[:, :2], y_test)), ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert fake == [] and list(tmp_path.iterdir()) == []

    late = Source(x, y, lambda: (x_test[:, :2], y_test))
    with pytest.raises(ActSearchError, match=r"test set of 'data': .* one of x_test \(2,\)"):
        actsearch.search("mlp", late, ["relu", "tanh"], folder=tmp_path, **LITTLE)
    assert {run.seed for run in fake} == {*range(10), 1000, 1001}


def test_a_metric_that_can_be_negative_is_refused_or_compared_by_the_difference(tmp_path):
    x = np.random.default_rng(0).normal(size=(160, 3)).astype(np.float32)
    y = 2 * x[:, :1]

    def nll(out, y):
        return nn.functional.gaussian_nll_loss(out[..., :1], y, nn.functional.softplus(out[..., 1:]) + 1e-4)

    longer = {"steps": 150, "eval_every": 50, "batch_size": 20}

    def compare(**metric):
        goal = Goal(Metric("nll", "negative log likelihood", **metric), nll, (2,), (2.0, 2.0), of_loss=float)
        data = Source(x[:120], y[:120], (x[120:], y[120:]), goal=goal)
        return actsearch.compare("mlp", data, ["tanh"], folder=tmp_path, **{**SHORT, "seeds": 6, "recipe": longer})

    with pytest.raises(ActSearchError, match="ratio=False"):
        compare()
    assert list(tmp_path.iterdir()) == []
    result = compare(ratio=False, margin=0.1)
    assert any(c.test_metric < 0 for c in result.comparisons)
    assert "6 paired seeds" in result.summary and "One seed" not in result.summary
