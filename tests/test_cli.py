"""The command: results, files, exit codes, one line for what is wrong. In this process with a fake Trainer, but
for the tests that kill."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
import sqlalchemy
from fake_trainer import FakeTrainer
from hydra.core.global_hydra import GlobalHydra

import actsearch
from actsearch import pipeline
from actsearch.command import main as cli
from actsearch.report import write
from actsearch.report.plots import write_plots
from actsearch.study.storage import sole_leader

LAB = """
    import torch
    from torch import nn

    def blobs(shift=0.0):
        generator = torch.Generator().manual_seed(5)
        centres = torch.randn(3, 6, generator=generator)
        y = torch.arange(120) % 3
        x = centres[y] + 0.7 * torch.randn(120, 6, generator=generator) + shift
        return x[:90], y[:90], x[90:], y[90:]

    def three():
        return 1, 2, 3

    def broken():
        raise OSError("the disk is gone")

    def net(in_shape, n_classes, activation, width=8):
        return nn.Sequential(nn.Linear(in_shape[0], width), activation(width), nn.Linear(width, n_classes))

    def plain(in_shape, n_classes):
        return nn.Linear(in_shape[0], n_classes)

    def wrong(in_shape, n_classes, activation):
        return nn.Sequential(nn.Linear(in_shape[0], 4), activation(4))

    def normed(in_shape, n_classes, activation):
        norm = nn.GroupNorm(2, 4)
        return nn.Sequential(nn.Linear(in_shape[0], 4), norm, activation(4), nn.Linear(4, n_classes))

    not_a_function = 3
"""
DATA = ["data=digits", "data._target_=labdata.blobs", "data.name=blobs", "data.n_validation=30"]
TINY = [
    *DATA, "model.width=8", "model.depth=1", "recipe.steps=20", "recipe.eval_every=10", "recipe.batch_size=15",
    "study.n_trials=4", "study.seeds=2", "study.generation=2", "confirm.seeds=2", "confirm.finalists=1",
    "tracking=none", "search_space.activations=[relu,tanh,gelu]",
]  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch, no_pictures):
    """An empty working folder but for a user's own file labdata.py; the Trainer is the fake one."""
    (tmp_path / "labdata.py").write_text(textwrap.dedent(LAB))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "labdata", raising=False)
    monkeypatch.setattr(pipeline, "Trainer", FakeTrainer)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def pictures(lab, monkeypatch):
    monkeypatch.setattr(write, "write_plots", write_plots)


@pytest.fixture
def command(lab, monkeypatch, capsys):
    """Runs `actsearch words…` here: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(cli, "exit_code", 0)
        monkeypatch.setattr(sys, "argv", ["actsearch", *words, *([] if "--help" in words else ["device=cpu"])])
        if any(w.startswith("device=") for w in words):
            sys.argv.pop()
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def left(folder):
    """All that lies in the folder but the user's own file."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != "labdata.py")


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


# --- what it does ---------------------------------------------------------------------------------


def test_a_search_leaves_its_files_and_says_where(command, lab, pictures):
    code, out, err = command(*TINY)
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    assert re.fullmatch(r"blobs-mlp-[0-9a-f]{8}", folder.name)
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert names == {
        "leaderboard.csv", "finalists.csv", "finalists.md", "finalists.tex", "verdict.json", "report.html", "plots",
        "config.yaml", "timing.json", "study.db",
    }  # fmt: skip
    board, finals = rows(folder / "leaderboard.csv"), rows(folder / "finalists.csv")
    assert sorted(r["trial"] for r in board) == list("0123")
    assert [r["rank"] for r in board][:3] == ["1", "2", "3"]
    assert {r["seed"] for r in finals} == {"1000", "1001"}
    assert board[0]["activation"] in {r["activation"] for r in finals} >= {"relu"}
    assert str(folder.relative_to(lab)) in out
    assert f"study        {folder.name} in sqlite:///" in out  # the folder and the study have one name
    timing = json.loads((folder / "timing.json").read_text())
    assert {
        "wall_s",
        "first_rung_s",
        "startup_s",
        "training_s",
        "asking_s",
        "tracking_s",
        "finalists_s",
        "report_s",
    } <= set(timing)
    best = max(
        {r["activation"] for r in finals},
        key=lambda a: sum(float(r["test_accuracy"]) for r in finals if r["activation"] == a),
    )
    assert best in out


@pytest.mark.parametrize(
    ("words", "metric", "unit"),
    [
        (["data=image", "data.size=24", "data.n_validation=60"], "psnr", " dB"),
        (["data=text", "data.context=12", "data.subset=80", "data.n_validation=20", "data.n_test=20",
          "model=transformer", "model.heads=2", "search_space.activations=[relu,swiglu,silu]"], "perplexity", ""),
    ],
)  # fmt: skip
def test_data_with_a_loss_and_a_metric_of_their_own(command, lab, no_pictures, words, metric, unit):
    words = [*TINY[len(DATA) :], *words]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    board, finals = rows(folder / "leaderboard.csv"), rows(folder / "finalists.csv")
    values = [float(r[f"val_{metric}_mean"]) for r in board if r["rank"]]
    assert values == sorted(values, reverse=metric == "psnr")
    assert {f"test_{metric}", "test_loss", f"val_{metric}"} <= set(finals[0])
    assert f"val_{metric} {values[0]:.4f}" in out  # the best so far
    assert f"{float(board[0][f'val_{metric}_mean']):.{2 if unit else 3}f}{unit}" in out
    assert "accuracy" not in out + (folder / "leaderboard.csv").read_text() + (folder / "finalists.csv").read_text()
    code, _, err = command(*words, "confirm.metric=test_accuracy")
    assert code == 2
    assert f"the metric of these data is {metric}." in err


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_the_folder_and_the_study_in_it_have_the_same_name(command, lab, pruner):
    code, _, err = command(*TINY, f"pruner={pruner}")
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    names = {s.study_name for s in optuna.get_all_study_summaries(f"sqlite:///{folder}/study.db")}
    assert names == {folder.name, f"{folder.name}/tuning", f"{folder.name}/finalists", "actsearch/looks"}


def test_the_same_command_again_trains_nothing_and_prints_its_result_again(command, lab, monkeypatch):
    code, first, _ = command(*TINY)
    (folder,) = (lab / "runs").iterdir()
    before = (folder / "leaderboard.csv").read_bytes(), (folder / "finalists.csv").read_bytes()
    trained = []
    monkeypatch.setattr(FakeTrainer, "start", lambda self, runs: trained.extend(runs))
    code, second, _ = command(*TINY)
    assert code == 0
    assert trained == []
    assert ((folder / "leaderboard.csv").read_bytes(), (folder / "finalists.csv").read_bytes()) == before
    assert first[first.index("\nLeaderboard") :] == second[second.index("\nLeaderboard") :]


def test_two_folders_get_the_same_files(command, lab):
    for folder in ("a", "b"):
        assert command(*TINY, f"hydra.run.dir={folder}")[0] == 0
    for name in ("leaderboard.csv", "finalists.csv"):
        assert (lab / "a" / name).read_bytes() == (lab / "b" / name).read_bytes()


def test_raising_n_trials_goes_on_in_the_same_folder(command, lab):
    command(*TINY)
    assert command(*TINY, "study.n_trials=6")[0] == 0
    (folder,) = (lab / "runs").iterdir()
    assert len(rows(folder / "leaderboard.csv")) == 6


def test_a_grid_compares_the_whole_list_on_fresh_seeds(command, lab):
    words = ["sampler=grid", "confirm.finalists=all", "study.n_trials=null"]
    code, out, _ = command(*TINY, *words, 'search_space.activations=[gelu,"elu(alpha=0.5)"]')
    assert code == 0
    (folder,) = (lab / "runs").iterdir()
    finals = rows(folder / "finalists.csv")
    assert {r["activation"] for r in finals} == {"relu", "gelu", "elu(alpha=0.5)"}
    assert "no search" in out


def test_expressions_are_searched_compared_and_shown(command, lab, pictures):
    words = (
        'search_space.activations=[relu,{expression:"min(max(a*x, x), 6)",params:{a:{low:0.001,high:0.5,log:true}}}]'
    )
    code, _, err = command(*TINY, words, 'confirm.baseline="x * tanh(softplus(x))"', "study.n_trials=6")
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    found = {row["activation"] for row in rows(folder / "leaderboard.csv")}
    assert sum(text.startswith("min(max(a * x, x), 6)(a=0.") for text in found) > 2
    assert "x * tanh(softplus(x))" in {row["activation"] for row in rows(folder / "finalists.csv")}
    code, _, err = command(*TINY, 'search_space.activations=[relu,"x * tahn(x)"]')
    assert code == 2
    assert "search_space.activations[1]: cannot read the activation 'x * tahn(x)': column 5" in err
    assert err.count("\n") == 1


def test_a_users_own_model_and_its_keys(command, lab):
    own = ["~model.depth", "~model.norm", "~model.order", "~model.dropout", "model._target_=labdata.net"]
    code, _, err = command(*TINY, *own, "model.name=mine")
    assert (code, err) == (0, "")
    assert next((lab / "runs").iterdir()).name.startswith("blobs-mine-")


def test_a_users_own_model_inherits_no_keys_of_the_default_one(command, lab):
    without_model = [word for word in TINY if not word.startswith("model.")]
    code, _, err = command(*without_model, "model._target_=labdata.net")
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    assert folder.name.startswith("blobs-net-")
    assert "depth" not in (folder / "config.yaml").read_text().split("recipe:")[0]
    code, _, err = command(*without_model, "model._target_=labdata.net", "model.hiden=3")  # nor struct's refusal
    assert code == 2
    assert "unknown config key 'model.hiden'" in err
    assert "labdata.net does not take it" in err


def test_data_of_ones_own_validate_on_a_fifth(command, lab):
    words = [word for word in TINY if not word.startswith("data")]
    code, out, err = command(*words, "data._target_=labdata.blobs")
    assert (code, err) == (0, "")
    assert "blobs: 72 train, 18 validation" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\xff\xfe", "not UTF-8 text"),
        ("a: [1,\nb: {c\n", "it is not valid YAML"),
        ("- a\n", "must hold keys"),
        ("defaults: [nope]\n", "Mend its"),
    ],
)
def test_a_config_file_that_is_none_gets_one_line(command, lab, text, said):
    (lab / "conf" / "model").mkdir(parents=True)
    (lab / "conf" / "model" / "bad.yaml").write_text(text, encoding="latin-1")
    code, out, err = command("--config-dir", str(lab / "conf"), "model=bad")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert "model/bad" in err or "UTF-8" in err


FAST = [["--help"], ["--cfg", "job"], ["modle=mlp"], ["model=mpl"], ["recipe.sttps=3"], ["recipe.steps=many"],
        ["-sc", "install=bash"]]  # fmt: skip


@pytest.mark.parametrize("words", FAST, ids=" ".join)
def test_help_and_wrong_words_are_answered_without_torch(words, tmp_path):
    code = f"""
        import sys
        sys.argv = ["actsearch", *{words}]
        from actsearch.command.main import main
        try:
            main()
        finally:
            print("torch" in sys.modules, "optuna" in sys.modules)
    """
    env = dict(os.environ, PYTHONPATH=str(Path(actsearch.__file__).parent.parent))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "False False", done.stderr
    assert done.returncode == (2 if "=" in words[-1] and "-sc" not in words else 0)
    assert list(tmp_path.iterdir()) == []


def test_list_shows_every_activation_with_formula_and_parameters(command, lab):
    code, out, _ = command("task=list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line and not line.startswith(" ")}
    for a in actsearch.CATALOG.values():
        assert a.formula in lines[a.name]
    assert "negative_slope" in out
    assert left(lab) == []


def test_properties_of_the_catalogue_and_of_a_list(command, lab):
    code, out, err = command("task=properties")
    assert (code, err) == (0, "")
    for name, entry in actsearch.CATALOG.items():
        lines = [line for line in out.splitlines() if line.split()[:1] == [str(actsearch.Spec.parse(name))]]
        assert len(lines) == (2 if entry.kind in ("elementwise", "stochastic") else 1), name
    code, out, _ = command("task=properties", 'task.activations=[relu6,"silu(beta=2)"]')
    (relu6, normal) = [line.split("  ") for line in out.splitlines() if line.startswith("relu6")]
    assert {"[0, 6]", "C0", "0, dies", "6, dies"} <= {cell.strip() for cell in relu6}
    assert "50.0 %" in normal[-1]
    assert "[-0.1392, ∞)" in out
    code, out, err = command("task=properties", 'task.activations=["2 * isrlu(x, alpha=-0.05)","sqrt(4 - x)"]')
    assert (code, err) == (0, "")
    assert "measuring 2 activations" in out
    assert ("undefined below -4.472" in out, "undefined above 4" in out) == (True, True)
    assert left(lab) == []


def test_costs_of_a_list_in_this_model(command, lab, no_pictures):
    words = [*TINY, "task.shape=[2,3,4,4]", "task.dtypes=[float32]", "task.activations=[gelu,frelu]"]
    code, out, err = command("task=cost", *words)
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    assert {p.name for p in folder.iterdir()} == {"cost.csv", "training_step.csv", "cost.png"}
    assert (folder / "cost.png").read_bytes().startswith(b"\x89PNG")
    found = rows(folder / "cost.csv")
    assert [r["activation"] for r in found] == ["relu", "gelu", "frelu"] * 2  # contiguous, channels last
    assert all(float(r["forward_us"]) > 0 for r in found)
    steps = {r["activation"]: r for r in rows(folder / "training_step.csv")}
    assert set(steps) == {"identity", "relu", "gelu"}
    assert float(steps["relu"]["training_step_ratio"]) == 1
    assert "not measured: frelu in mlp" in out
    assert str(folder.relative_to(lab)) in out
    assert "-cost-" in folder.name
    assert command("task=cost", *words[:-1], "task.activations=[tanh]")[0] == 0  # another question: another folder
    assert len(list((lab / "runs").iterdir())) == 2
    assert [r["activation"] for r in rows(folder / "cost.csv")] == [r["activation"] for r in found]


def test_help_and_cfg_are_useful_and_leave_nothing(command, lab):
    _, out, _ = command("--help")
    for word in ("search_space", "actsearch -m model=mlp,cnn1d", "article", "task=deliver"):
        assert word in out
    _, out, _ = command("--cfg", "job")
    assert "n_trials: 40" in out
    assert "negative_slope: search" in out
    assert left(lab) == []


def test_multirun_goes_on_after_a_bad_job_and_exits_2(command, lab):
    code, _out, err = command("-m", *TINY, "recipe.batch_size=15,1000,20")
    assert code == 2
    assert err.count("\n") == 1
    assert "recipe.batch_size=1000" in err
    finished = [p.parent.name for p in (lab / "runs").glob("*/leaderboard.csv")]
    assert len(finished) == 2
    assert len(list((lab / "runs").iterdir())) == 2 or set(os.listdir(lab / "runs")) == {*finished, "multirun.yaml"}


def test_the_written_config_is_the_whole_question(command, lab):
    command(*TINY, "study.name=mine")
    import yaml

    config = yaml.safe_load((lab / "runs" / "mine" / "config.yaml").read_text())
    assert config["recipe"]["steps"] == 20
    assert config["search_space"]["activations"] == ["relu", "tanh", "gelu"]
    assert config["study"]["name"] == "mine"


# --- bad input ------------------------------------------------------------------------------------

NO_KEYS = ["~model.width", "~model.depth", "~model.norm", "~model.order", "~model.dropout"]
BAD = {
    "a name for a list": (["search_space.activations=relu"], "search_space.activations=relu", "activations=[a,b]"),
    "a list for a number": (["recipe.lr=[0.1,0.2]"], "recipe.lr=[0.1, 0.2]", "a number, e.g. recipe.lr=0.01"),
    "half a step": (["recipe.steps=1.5"], "recipe.steps=1.5", "a whole number, e.g. recipe.steps=1000"),
    "more steps than fit": (["recipe.steps=99999999999999999999"], "recipe.steps=9999", "from 1 to 1,000,000,000"),
    "a list for a name": (["study.name=[a]"], "study.name", "one word, e.g. study.name=mine"),
    "a list for a spec": (["confirm.baseline=[relu]"], "confirm.baseline", "e.g. confirm.baseline=relu"),
    "no truth": (["confirm.until_decided=maybe"], "confirm.until_decided=maybe", "true or false"),
    "one margin for all": (["confirm.margin=0.01"], "confirm.margin=0.01", "e.g. confirm.margin.test_accuracy=0.005"),
    "a margin of nothing": (["confirm.margin.accuracy=0.1"], "confirm.margin.accuracy", "confirm.margin.test_accuracy"),
    "a new margin": (["+confirm.margin.accuracy=0.1"], "confirm.margin", "'test_accuracy'"),
    "a margin over all": (["confirm.margin.test_accuracy=5"], "confirm.margin.test_accuracy=5", "0.005 for half a"),
    "alpha in per cent": (["confirm.alpha=5%"], "confirm.alpha=5%", "e.g. confirm.alpha=0.05"),
    "alpha of all": (["confirm.alpha=1"], "confirm.alpha=1", "e.g. 0.05"),
    "one look": (["confirm.looks=10"], "confirm.looks", "[10,12,14,17,20,24,28,34,40,48,57,67,80,95,113,135,160]"),
    "looks backwards": (["confirm.looks=[20,10]"], "confirm.looks=[20, 10]", "[10, 20, 40, 80, 160]"),
    "metric": (["confirm.metric=accuracy"], "confirm.metric", "'test_accuracy'"),
    "speed without a curve": (["confirm.metric=learning_speed"], "confirm.metric", "recipe.schedule=constant"),
    "cost until decided": (
        ["confirm.metric=latency_us", "confirm.until_decided=true"],
        "confirm.until_decided", "confirm.until_decided=false",
    ),
    "a report of nothing": (["task=report"], "there is no study", "Run it first"),
    "activation": (["search_space.activations=[relu,leaky_rleu]"], "search_space.activations[1]", "'leaky_relu'"),
    "parameter": (['search_space.activations=["elu(alhpa=1)"]'], "search_space.activations[0]", "'alpha'"),
    "model": (["model=mpl"], "model=mpl", "'mlp'"),
    "data": (["data=digit"], "data=digit", "'digits'"),
    "group option": (["sampler=tpee"], "sampler=tpee", "'tpe'"),
    "group": (["modle=mlp"], "modle", "'model'"),
    "added group": (["+modle=mlp"], "modle", "'model'"),
    "key": (["recipe.sttps=3"], "sttps", "'recipe.steps'"),
    "key of another model": (["model=torchvision"], "'model.width'", "--cfg job"),
    "key of the study": (["study.n_trails=3"], "n_trails", "'study.n_trials'"),
    "key of the model": (["+model.widht=3"], "model.widht", "'model.width'"),
    "key of the data": (["+data.shfit=3"], "data.shfit", "'data.shift'"),
    "type": (["recipe.steps=many"], "recipe.steps", "many"),
    "range": (["search_space.activations=[{elu: {alpha: {low: 2, high: 1}}}]"], "elu.alpha", "Exchange"),
    "log from 0": (
        ["search_space.activations=[{elu: {alpha: {low: 0, high: 1, log: true}}}]"], "elu.alpha", "log: false",
    ),
    "grid over a range": (
        ["sampler=grid", "confirm.finalists=all", "study.n_trials=null",
         "search_space.activations=[{elu: {alpha: search}}]"], "'alpha' is a range", "Write a list",
    ),
    "grid search over a range": (
        ["sampler=grid", "search_space.activations=[{elu: {alpha: search}}]"], "'alpha' is a range", "Write a list",
    ),
    "empty": (["search_space.activations=[]"], "search_space.activations is empty", "Write e.g."),
    "unquoted": (["search_space.activations=[relu,elu(alpha=1)]"], "search_space.activations", "quotes inside quotes"),
    "no brackets": (["search_space.activations=relu,gelu"], "search_space.activations", "brackets"),
    "space": (["recipe.lr", "=", "3"], "recipe.lr", "No spaces"),
    "validation": (["data.n_validation=90"], "data.n_validation=90", "data.n_validation=18"),
    "subset": (["data.subset=61"], "data.subset=61", "1 to 60"),
    "batch": (["recipe.batch_size=61"], "recipe.batch_size=61", "at most 60"),
    "zero trials": (["study.n_trials=0"], "study.n_trials=0", "from 1 to"),
    "zero steps": (["recipe.steps=0"], "recipe.steps=0", "from 1 to"),
    "zero seeds": (["study.seeds=0"], "study.seeds=0", "from 1 to"),
    "zero finalist seeds": (["confirm.seeds=0"], "confirm.seeds=0", "from 1 to"),
    "baseline": (["confirm.baseline=rleu"], "confirm.baseline", "'relu'"),
    "baseline's layers": (["confirm.baseline=relu | tanh"], "confirm.baseline", "the model takes 1"),
    "device": (["device=cuda:99"], "device=cuda:99", "device=cpu"),
    "no device": (["device=gpu"], "device=gpu", "cuda"),
    "study name": (["study.name=a/b"], "study.name='a/b'", "without slashes"),
    "objective": (["study.objectives=[accuracy]"], "study.objectives", "'val_accuracy'"),
    "storage": (["storage.url=sqlit:///x"], "storage.url=sqlit:///x", "sqlite:///study.db"),
    "unreachable storage": (
        ["storage.url=postgresql+psycopg://localhost:1/x"], "storage.url=postgresql+psycopg://localhost:1/x", "",
    ),
    "storage in a file": (["storage.url=sqlite:///labdata.py/x.db"], "storage.url=sqlite:///labdata.py/x.db", ""),
    "torchvision name": (
        ["model=torchvision", "model.name=resnet19"], "torchvision model 'resnet19'", "'resnet",
    ),
    "target's module": (["data._target_=labdta.blobs"], "data._target_=labdta.blobs", "does not import"),
    "target's name": (["data._target_=labdata.blobz"], "data._target_=labdata.blobz", "does not import"),
    "target is no function": (["data._target_=labdata.not_a_function"], "data._target_", "not a function"),
    "target without a signature": (["sampler._target_=builtins.dict"], "sampler", "dict"),
    "data of the wrong shape": (["data._target_=labdata.three"], "blobs", "(x, y, x_test, y_test)"),
    "data that raise": (["data._target_=labdata.broken"], "blobs", "the disk is gone"),
    "model of the wrong shape": (
        ["model._target_=labdata.wrong", *NO_KEYS],
        "'wrong'", "wanted (2, 3)",
    ),
    "net with nothing to swap": (
        ["model._target_=labdata.plain", *NO_KEYS],
        "Linear has no activation module to swap", "nn.ReLU()",
    ),
    "sampler's key": (["+sampler.n_strtup=3"], "n_strtup", "n_startup_trials"),
    "pruner's key": (["pruner=median", "+pruner.n_strtup=3"], "n_strtup", "n_startup_trials"),
    "task": (["task=lsit"], "task=lsit", "'list'"),
    "task's key": (["task=properties", "task.activation=[relu]"], "task.activation", "'task.activations'"),
    "key of another task": (["task=list", "+task.activations=[relu]"], "task.activations", "does not take it"),
    "one of a task's list": (["task=properties", "task.activations=[rellu]"], "rellu", "'relu'"),
    "no list for a task": (["task=properties", "task.activations=relu"], "task.activations=relu", "[relu,gelu]"),
    "nothing for a task": (["task=properties", "task.activations=[]"], "task.activations=[]", "[relu,gelu]"),
    "costs of what is no number type": (["task=cost", "task.dtypes=[float23]"], "task.dtypes", "'float32'"),
    "costs of half a shape": (["task=cost", "task.shape=[8]"], "task.shape=[8]", "[100,64]"),
    "a cost's key": (["task=cost", "+task.dtype=float32"], "task.dtype'", "'task.dtypes'"),
    "nothing to deliver to": (["task=deliver"], "tracking.uri", "tracking.uri=http"),
    "validation in words": (["data.n_validation=many"], "data.n_validation=many", "a whole number"),
    "half an example": (["data.n_validation=10.5"], "data.n_validation=10.5", "a whole number"),
    "resample": (["data.resample=maybe"], "data.resample=maybe", "true or false"),
    "no width": (["model.width=0"], "model.width=0", "from 1 to"),
    "width in words": (["model.width=wide"], "model.width=wide", "a whole number"),
    "name of the data": (["data.name=a/b"], "data.name='a/b'", "without slashes"),
    "name of the model": (["model.name=''"], "model.name=''", "without slashes"),
    "study named after a folder": (["study.name=.."], "study.name='..'", "without slashes"),
    "sampler's seed": (["study.seed=-1"], "study.seed=-1", "at least 0"),
    "objective twice": (["study.objectives=[val_loss,val_loss]"], "study.objectives", "Remove"),
    "worker": (["worker=1"], "worker: one process leads a study", "Leave it out"),
    "a group of Hydra's": (["hydra/launcher=3"], "unknown option of hydra/launcher: '3'", ""),
    "no key": (["=3"], "cannot read '=3'", "KEY=VALUE"),
    "no text": (["study.name=caf\udce9"], "cannot read 'study.name=caf", "KEY=VALUE"),
    "keys for a list": (["search_space.activations={a:1}"], "search_space.activations={a:1}", "activations=[a,b]"),
    "a number for keys": (["study=3"], "study=3", "e.g. study.n_trials=40"),
    "a long name": ([f"study.name={'a' * 230}"], "study.name=aaaa", "at most 200 bytes"),
    "trials without end": (["study.n_trials=1180591620717411303424"], "study.n_trials=11805", "1,000,000,000"),
    "a generation without end": (["study.generation=9223372036854775808"], "study.generation=9", "1,000,000,000"),
    "depth without end": (["model.depth=1180591620717411303424"], "model.depth=11805", "from 1 to 100,000"),
    "a path as options": (["storage.url='sqlite:///which act?/s.db'"], "sqlite:///which act?/s.db", "%3F for ?"),
    "a path of a path": (["storage.url='sqlite:///file:s.db?uri=true'"], "sqlite:///file:s.db", "sqlite:///"),
    "task's function": (
        ["task._target_=actsearch.command.tasks.serach"], "task._target_=actsearch.command.tasks.serach", "import",
    ),
    "name of a task": (["task.name=search"], "task.name", "--cfg job"),
    "tracking's scheme": (["tracking.uri=foo://bar"], "tracking.uri=foo://bar", "sqlite:///"),
    "tracking's experiment": (["tracking.uri=http://localhost:1", "tracking.experiment=''"], "experiment", "Write"),
    "pruner for two objectives": (
        ["pruner=median", "study.objectives=[val_accuracy,val_loss]"], "pruner", "pruner=none",
    ),
    "sampler for two objectives": (
        ["sampler=cmaes", "study.objectives=[val_accuracy,val_loss]"], "sampler", "sampler=tpe",
    ),
    "precision": (["recipe.precision=fp16"], "recipe.precision", "bf16"),
    "tf32 without a GPU": (["recipe.precision=tf32", "device=cpu"], "recipe.precision=tf32", "float32"),
    "fused bf16": (["recipe.precision=bf16", "engine=fused"], "bf16 has no fused form", "engine=auto"),
    "engine": (["engine=fuse"], "engine 'fuse'", "'fused'"),
    "no fused form": (["engine=fused", "model._target_=labdata.normed", *NO_KEYS], "GroupNorm", "no fused form"),
    "searched batch": (
        ["search_space.recipe={batch_size: [15, 1000]}"], "batch_size", "60",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_what_where_and_cure_and_leaves_nothing(command, lab, case):
    words, where, cure = BAD[case]
    tiny = [word for word in TINY if not ("model.name=resnet19" in words and word.startswith("model."))]
    code, out, err = command(*tiny, *words)
    assert code == 2, err
    assert err.startswith("actsearch: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert where in err
    assert cure in err
    named = re.search(r"'([^']*)'.*Did you mean '([^']*)'", err)
    assert named is None or named[1] != named[2]
    assert left(lab) == []


def test_a_folder_that_hydra_or_a_database_would_misread_is_named(command, lab, monkeypatch):
    for name, said in (("a ${b}", "Hydra reads ${…} as a value"), ("caf\udce9", "its name is not UTF-8 text")):
        (lab / name).mkdir()
        monkeypatch.chdir(lab / name)
        code, _, err = command(*TINY, "data._target_=actsearch.data.digits", "~data.name")
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
        assert list((lab / name).iterdir()) == []


def test_a_database_damaged_in_its_middle_is_one_line(command, lab):
    assert command(*TINY, "study.name=mine")[0] == 0
    with open(lab / "runs" / "mine" / "study.db", "r+b") as file:
        file.seek(8192)
        file.write(b"x" * 200_000)
    code, _, err = command(*TINY, "study.name=mine", "study.n_trials=6")
    assert (code, err.count("\n")) == (2, 1), err
    assert "study.db" in err
    assert "damaged" in err


def test_a_folder_that_cannot_be_written_is_named(command, lab):
    (lab / "file").touch()
    code, _out, err = command(*TINY, "hydra.run.dir=file/run")
    assert code == 2
    assert err.count("\n") == 1
    assert "file/run" in err
    assert "hydra.run.dir" in err
    assert left(lab) == ["file"]


def test_a_damaged_database_is_named_and_left_alone(command, lab):
    garbage = b"garbage " * 1000
    (lab / "s.db").write_bytes(garbage)
    code, _, err = command(*TINY, "storage.url=sqlite:///s.db")
    assert code == 2
    assert err.count("\n") == 1
    assert "s.db is damaged" in err
    assert (lab / "s.db").read_bytes() == garbage
    assert not (lab / "runs").exists() or not list((lab / "runs").iterdir())


def test_a_study_that_another_process_holds_is_refused(command, lab):
    with sole_leader("sqlite:///s.db", "mine"):
        code, _, err = command(*TINY, "storage.url=sqlite:///s.db", "study.name=mine")
    assert code == 2
    assert err.count("\n") == 1
    assert "'mine' in s.db is held by another process" in err
    assert command(*TINY, "storage.url=sqlite:///s.db", "study.name=mine")[0] == 0


SECRET = "Planted-7f3%2Fq"
COMMAND = [sys.executable, "-m", "actsearch"]


def assert_no_secret(folder, *texts):
    """Nothing in these texts and in the files below the folder has the planted password, in any form."""
    left = {"": "\n".join(texts).encode(), **{str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}}
    assert [name for name, data in left.items() if b"Planted-7f3" in data] == []
    assert all("Planted-7f3" not in name for name in left)


def test_a_password_stands_in_nothing_that_a_run_leaves(command, lab, postgresql, monkeypatch):
    monkeypatch.setattr(sys.modules["actsearch.tracking"], "LIVE_SECONDS", 0.0)
    url = postgresql(f"postgres:{SECRET}")
    words = [*(word for word in TINY if word != "tracking=none"), f"storage.url='{url}'"]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "postgresql+psycopg://postgres:***@/test" in out
    (report,) = (lab / "runs").glob("*/report.html")
    assert "postgres:***@" in report.read_text()
    assert "postgres:***@" in report.with_name("config.yaml").read_text()
    (run,) = mlflow.MlflowClient(f"sqlite:///{lab}/runs/mlflow.db").search_runs(["1"], "tags.kind = 'study'")
    assert "postgres:***@" in run.data.tags["command"]
    again = command(*words, "task=report")
    assert again[0] == 0
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        names = sqlalchemy.inspect(engine).get_table_names()
        kept = [str(connection.execute(sqlalchemy.text(f"SELECT * FROM {name}")).fetchall()) for name in names]
    engine.dispose()
    assert any("relu" in text for text in kept)
    assert_no_secret(lab, out, *again[1:], *kept)


def test_a_password_stands_in_nothing_that_hydra_prints_or_writes(command, lab, postgresql):
    words = [*TINY, f"storage.url='{postgresql(f'postgres:{SECRET}')}'", "hydra.output_subdir=.hydra"]
    code, _, err = command("-m", *words, "study.name=a,b")
    assert (code, err) == (0, "")
    files = sorted(path.relative_to(lab / "runs") for path in lab.glob("runs/**/*.yaml"))
    names = {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml"}
    assert set(map(str, files)) == {"multirun.yaml", *(f"{study}/{name}" for study in "ab" for name in names)}
    assert all("postgres:***@" in (lab / "runs" / file).read_text() for file in files)
    for flags in (["--cfg", "all"], ["--info", "all"], ["-m", "+task.a=1,2", "hydra/hydra_logging=default"]):
        done = subprocess.run([*COMMAND, *flags, *words], capture_output=True, text=True, check=False)
        assert "postgres:***@" in done.stdout
        assert_no_secret(lab, done.stdout, done.stderr)


@pytest.mark.parametrize("login", [f"me:{SECRET}@", f"{SECRET}@"])
def test_a_token_of_a_server_that_is_down_is_not_shown(command, lab, monkeypatch, login):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = [*TINY, f"tracking.uri=http://{login}127.0.0.1:1"]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "warning: MLflow could not be written" in out
    later = command(*words, "task=deliver")
    assert later[0] == 2
    assert "http://***@127.0.0.1:1 does not take it" in later[2]
    assert_no_secret(lab, out, *later[1:])


@pytest.mark.parametrize(
    "words",
    [
        [f"storage.url=postgresql+psycopg://me:{SECRET}@no-such-host.invalid/x"],
        [f"storage.url=postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x"],
        [f"storage.url=postgresql+psycopg://me:{SECRET}/x"],
        [f"storage.url='postgresql+psycopg://127.0.0.1:1/x?user=me&password={SECRET}'"],
        [f"storage.url=postgresql+nothere://me:{SECRET}@h/x"],
        [f"storage.url=postgresql+psycopg://me:{SECRET}@{SECRET}@h/x"],
        [f"storage.url=redis://me:{SECRET}@h/x"],
        [f"tracking.uri=ftp://me:{SECRET}@h/x"],
        [f"storage.url=postgresql://me:{SECRET}@h/x", "recipe.lrr=3"],
        [f"storage.urll=postgresql://me:{SECRET}@h/x"],
        [f"storage.url={{a: postgresql://me:{SECRET}@h/x}}"],
        [f"storage.url = postgresql://me:{SECRET}@h/x"],
        [f"storage=postgresql://me:{SECRET}@h/x"],
        ["task=report", f"storage.url=postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x"],
        ["-m", "recipe.lr=0.1,0.2", f"storage.url=postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x"],
        ["-m", "recipe.lr=0.1,a", f"storage.url=postgresql+psycopg://me:{SECRET}@127.0.0.1:1/x"],
    ],
)
def test_a_password_is_not_shown_by_what_fails(command, lab, words):
    code, out, err = command(*words, *TINY)
    assert code == 2
    assert set(line.partition(":")[0] for line in err.splitlines()) == {"actsearch"}
    assert_no_secret(lab, out, err)


def test_another_config_under_the_same_name_is_refused_naming_the_keys(command, lab):
    assert command(*TINY, "study.name=mine")[0] == 0
    before = {p: p.read_bytes() for p in (lab / "runs" / "mine").rglob("*") if p.is_file()}
    code, _, err = command(*TINY, "study.name=mine", "recipe.lr=0.5", "model.width=9")
    assert code == 2
    assert err.count("\n") == 1
    assert "recipe.lr: 0.01 then, 0.5 now" in err
    assert "model.width: 8 then, 9 now" in err
    assert {p: p.read_bytes() for p in (lab / "runs" / "mine").rglob("*") if p.is_file()} == before


def test_a_comparison_in_one_line_gives_the_table_that_a_paper_needs(command, lab, pictures):
    words = ["sampler=grid", "confirm.finalists=all", "study.n_trials=null", "confirm.seeds=8"]
    code, out, err = command(*TINY, *words, 'search_space.activations=[relu,gelu,"elu(alpha=0.5)"]')
    assert (code, err) == (0, "")
    (folder,) = (lab / "runs").iterdir()
    verdicts = json.loads((folder / "verdict.json").read_text())
    wanted = {"activation", "baseline", "metric", "difference", "ci_low", "ci_high", "p_value", "p_corrected",
              "n_seeds", "verdict", "minimum_detectable_effect", "seeds_to_decide"}  # fmt: skip
    assert all(wanted <= row.keys() for row in verdicts)
    assert {row["activation"] for row in verdicts} == {"gelu", "elu(alpha=0.5)"}
    lines = (folder / "finalists.md").read_text().splitlines()
    assert len(lines) == 5
    for head in ("rank", "activation", "test accuracy ± sd", "difference (points)", "97.5 % interval", "p, corrected",
                 "verdict", "training step", "memory kept"):  # fmt: skip
        assert head in lines[0]
    assert all(line.endswith(" MiB |") for line in lines[2:])
    latex = (folder / "finalists.tex").read_text()
    assert latex.count(r" \\") == 4
    assert r"97.5 \% interval" in latex
    assert "elu(alpha=0.5)" in latex
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "https://" not in page.replace("http://www.w3.org", "")  # one file, which loads nothing
    assert f"report       {folder.relative_to(lab)}/report.html" in out


def test_a_report_again_with_the_same_words_is_the_same(command, lab, pictures):
    assert command(*TINY)[0] == 0
    (folder,) = (lab / "runs").iterdir()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".db"}
    (folder / "report.html").unlink()
    code, out, err = command(*TINY, "task=report")
    assert (code, err) == (0, "")
    assert "report.html" in out
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".db"} == before


def test_without_git_on_the_machine_it_works_all_the_same(command, lab, monkeypatch):
    monkeypatch.setenv("PATH", str(lab))
    code, _, err = command(*TINY)
    assert (code, err) == (0, "")


def test_ctrl_c_between_two_rungs_is_130_and_the_same_command_goes_on(command, lab, monkeypatch):
    assert command(*TINY, "hydra.run.dir=whole")[0] == 0
    advance, calls = FakeTrainer.advance, []

    def interrupted(self, stopped):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self, stopped)

    monkeypatch.setattr(FakeTrainer, "advance", interrupted)
    code, _, err = command(*TINY, "hydra.run.dir=cut")
    assert code == 130
    assert err.count("\n") == 1
    assert "the same command goes on" in err
    assert command(*TINY, "hydra.run.dir=cut")[0] == 0
    for name in ("leaderboard.csv", "finalists.csv"):
        assert (lab / "cut" / name).read_bytes() == (lab / "whole" / name).read_bytes()


def test_ctrl_c_that_falls_into_a_finaliser_is_not_lost(command, lab, monkeypatch):
    class Fallen:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def interrupted(self, stopped):
        Fallen()
        time.sleep(10)
        raise AssertionError("the search went on")

    monkeypatch.setattr(FakeTrainer, "advance", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    try:
        code, _, err = command(*TINY)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert err.count("\n") == 1


def test_ctrl_c_ends_all_jobs_of_a_multirun(command, lab, monkeypatch):
    def interrupted(self, stopped):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeTrainer, "advance", interrupted)
    code, _, err = command("-m", *TINY, "recipe.lr=0.01,0.02")
    assert code == 130
    assert err.count("interrupted") == 1


# --- killed for real ------------------------------------------------------------------------------

SLOW = [
    *TINY, "recipe.steps=400", "recipe.eval_every=100", "study.n_trials=8", "pruner=median",
    "+pruner.interval_steps=1", "search_space.activations=[relu,tanh,{elu: {alpha: search}}]",
]  # fmt: skip


def start(folder):
    folder.mkdir(exist_ok=True)
    (folder / "labdata.py").write_text(textwrap.dedent(LAB))
    env = dict(os.environ, PYTHONPATH=str(Path(actsearch.__file__).parent.parent), PYTHONUNBUFFERED="1")
    return subprocess.Popen(
        [sys.executable, "-m", "actsearch", *SLOW], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # a shell starts what is in its background with Ctrl-C ignored, and these tests may be that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip


def until(process, words):
    """Reads its output up to a line with these words; all the processes there are then."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return [p for p in psutil.Process(process.pid).children(recursive=True)]
    raise AssertionError("".join(seen))


def gone(children):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children):
            return True
        time.sleep(0.1)
    return False


def results(folder):
    (found,) = (folder / "runs").iterdir()
    return {name: (found / name).read_bytes() for name in ("leaderboard.csv", "finalists.csv")}


def n_done(folder):
    (path,) = (folder / "runs").glob("*/study.db")
    study = optuna.load_study(study_name=path.parent.name, storage=f"sqlite:///{path}")
    return {t.number: t.datetime_complete for t in study.trials if t.state.is_finished()}


def test_interrupted_and_killed_for_real_it_ends_as_if_nothing_had_happened(tmp_path):
    whole = start(tmp_path / "whole")
    cut = start(tmp_path / "cut")
    children = until(cut, "best so far")
    cut.send_signal(signal.SIGINT)
    out, _ = cut.communicate(timeout=60)
    assert cut.returncode == 130, out
    assert "the same command goes on" in out
    assert "Traceback" not in out
    assert children
    assert gone(children)
    first = n_done(tmp_path / "cut")
    assert 0 < len(first) < 8

    cut = start(tmp_path / "cut")
    children = until(cut, "best so far")
    cut.kill()
    cut.communicate(timeout=60)
    assert gone(children)
    second = n_done(tmp_path / "cut")
    assert len(second) > len(first)
    assert {number: second[number] for number in first} == first  # nothing finished is done again

    cut = start(tmp_path / "cut")
    out, _ = cut.communicate(timeout=120)
    assert cut.returncode == 0, out
    third = n_done(tmp_path / "cut")
    assert {number: third[number] for number in second} == second
    out, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, out
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


# --- whatever reads the output ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
     {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "latin-1", "C"],
)  # fmt: skip
def test_a_terminal_without_greek_letters_gets_question_marks(env):
    words = ["task=properties", "task.activations=[relu]"]
    done = subprocess.run([*COMMAND, *words], env={**os.environ, **env}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
    assert done.stderr == b""


def test_a_search_whose_reader_goes_away_is_finished(tmp_path):
    words = ["data=digits", "recipe.steps=20", "recipe.eval_every=10", "sampler=grid", "confirm.seeds=2",
             "search_space.activations=[relu]", "tracking=none", "study.name=mine"]  # fmt: skip
    with subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"actsearch\n"
        process.stdout.close()  # as `| head -1` does
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert (tmp_path / "runs/mine/report.html").exists()
    done = subprocess.run(
        f"{sys.executable} -m actsearch --cfg job | head -1", shell=True, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"data:\n", b"")
    done = subprocess.run(f"{sys.executable} -m actsearch task=list >&-", shell=True, capture_output=True, check=True)
    assert done.stderr == b""


def test_an_output_on_a_full_disk_is_said_and_the_search_is_finished(tmp_path):
    """The user's model prints too, in the training processes."""
    (tmp_path / "noisy.py").write_text(
        "import torch\n"
        "class Noisy(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        print('→', flush=True)\n"
        "        return super().forward(x)\n"
        "def net(activation):\n"
        "    layers = torch.nn.Flatten(), torch.nn.Linear(64, 9), activation(9), torch.nn.Linear(9, 10)\n"
        "    return Noisy(*layers)\n"
    )
    words = ["data=digits", "model._target_=noisy.net", "recipe.steps=20", "recipe.eval_every=10", "sampler=grid",
             "confirm.seeds=2", "search_space.activations=[relu]", "tracking=none", "study.name=mine"]  # fmt: skip
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("actsearch: its output cannot be written (OSError: [Errno 28]")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "runs/mine/report.html").exists()


@pytest.mark.parametrize("name", ["which act?", "50% of #1", "a {b} %41 ü"])
def test_a_folder_of_any_name_holds_its_study(command, lab, monkeypatch, name):
    here = lab / name
    here.mkdir()
    (here / "labdata.py").write_text((lab / "labdata.py").read_text())
    monkeypatch.chdir(here)
    assert command(*TINY, "study.name=mine")[0] == 0
    assert (here / "runs/mine/study.db").stat().st_size > 0
    assert sorted(path.name for path in lab.iterdir()) == sorted([name, "labdata.py"])
    assert command(*TINY, "study.name=mine", "task=report")[0] == 0


@pytest.mark.parametrize(
    "word", ["task=3", "model=3", "data=null", "recipe=3.5", "sampler=[1]", "experiment=null", "model=true"]
)
def test_an_option_that_is_no_word_is_one_line(command, lab, word):
    code, out, err = command(word)
    assert (code, err.count("\n"), out) == (2, 1, "")
    group, _, value = word.partition("=")
    assert err.startswith(f"actsearch: unknown option of {group}: '{value}'. Choose one of: ")


def test_more_steps_than_memory_can_order_are_one_line(command, lab):
    code, _out, err = command(*TINY, "recipe.steps=1000000000", "recipe.eval_every=1000000000")
    assert (code, err.count("\n")) == (2, 1)
    assert "recipe.steps=1,000,000,000: the order of its examples takes" in err
    assert left(lab) == []
