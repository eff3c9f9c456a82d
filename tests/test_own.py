"""A user's own training: what it may be, what it gets, each run once, failures named, verdicts as from any table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import own_trainings
import pandas as pd
import pytest
from here import compare_here, on

import actsearch
from actsearch.config.compose import spelt_out
from actsearch.errors import ActSearchError
from actsearch.own import command
from actsearch.own.run import Chosen, train_once
from actsearch.processes import core_count

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def compare(train, tmp_path, activations=("relu", "gelu"), seeds=8, **keywords):
    one = {"threads": core_count(), **keywords}  # one process: to start it takes longer than all runs
    return actsearch.compare(
        train=train, activations=list(activations), seeds=seeds, folder=tmp_path, quiet=True, **one
    )


def runs_of(result):
    return pd.read_csv(result.folder / "runs.csv")


# --- what it may be -------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [own_trainings.steps, own_trainings.returned, own_trainings.reporting])
def test_generators_functions_and_reporters_give_the_same_verdicts(train, tmp_path):
    result = compare_here(train, tmp_path, ["gelu", "tanh"])
    assert {c.activation: c.verdict and c.verdict.verdict for c in result.comparisons} == {
        "gelu": "better", "relu": None, "tanh": "worse",
    }  # fmt: skip
    rows = runs_of(result)
    assert len(rows) == 24 and set(rows.seed) == set(range(1000, 1008))
    for row in rows.itertuples():
        assert row.test_accuracy == pytest.approx(own_trainings.value(row.activation, row.seed), abs=1e-6)
    again = actsearch.judge(result.folder / "runs.csv", metric="test_accuracy")
    assert on(again, "gelu").ci_low == pytest.approx(on(result, "gelu").ci_low, rel=1e-6)
    assert on(result, "gelu").saved_by_pairs > 0.8
    assert not any("validation" in said for said in result.warnings)


def test_without_a_test_value_the_verdict_is_on_validation_and_says_so(tmp_path):
    result = compare_here(own_trainings.one_number, tmp_path)
    assert on(result, "gelu").metric.name == "val_accuracy"
    assert any("The verdict is on val accuracy" in said for said in result.warnings)
    chosen = compare_here(own_trainings.steps, tmp_path, confirm={"metric": "val_accuracy"})
    assert on(chosen, "gelu").metric.name == "val_accuracy"


def test_a_metric_of_ones_own_is_described_once(tmp_path):
    metrics = {"niceness": {"higher_is_better": True, "margin": 0.5}}
    result = compare_here(own_trainings.own_score, tmp_path, metrics=metrics, confirm={"metric": "niceness"})
    assert on(result, "gelu").verdict == "better"
    assert on(result, "gelu").margin == 0.5
    with pytest.raises(ActSearchError, match="by which metric are they judged"):
        compare_here(own_trainings.own_score, tmp_path)
    with pytest.raises(ActSearchError, match=r"'niceness' is not known by its name.*train\.metrics\.niceness"):
        compare_here(own_trainings.own_score, tmp_path, confirm={"metric": "niceness"})


def test_shares_in_per_cent_are_refused_until_it_is_said_what_they_are(tmp_path):
    for _ in range(2):  # also where the run is kept already
        with pytest.raises(
            ActSearchError, match=r"test_accuracy is 7\d\.\d+ \(relu, seed 1000\): report shares from 0 to 1"
        ):
            compare_here(own_trainings.in_percent, tmp_path)
    metrics = {"test_accuracy": {"higher_is_better": True, "margin": 0.7, "ratio": False}}
    result = compare_here(own_trainings.in_percent, tmp_path, metrics=metrics)
    assert on(result, "gelu").difference == pytest.approx(3, abs=0.5)
    assert on(result, "gelu").margin == 0.7  # not that of confirm.margin, which is of shares


def test_the_activation_is_a_factory_a_swap_and_a_text(tmp_path):
    result = compare_here(own_trainings.a_net, tmp_path, ["relu", "leaky_relu(negative_slope=0.02)"], seeds=3)
    assert set(runs_of(result).activation) == {"relu", "leaky_relu(negative_slope=0.02)"}
    layers = Chosen("relu | gelu")
    assert [str(layers(3).spec), str(layers(3).spec), str(layers)] == ["relu", "gelu", "relu | gelu"]
    with pytest.raises(ActSearchError, match="names 2 layers"):
        layers(3)


def test_settings_are_handed_over_and_make_another_study(tmp_path):
    one = compare_here(own_trainings.steps, tmp_path, settings={"lr": 0.2})
    other = compare_here(own_trainings.steps, tmp_path, settings={"lr": 0.1, "epochs": 1})
    assert one.name != other.name
    assert set(runs_of(one).lr) == {0.2} and set(runs_of(other).epochs) == {1}
    assert one.comparisons[0].mean == pytest.approx(other.comparisons[0].mean + 0.1)


def test_a_function_of_the_notebook_is_one_too(tmp_path):
    shift = 0.25

    def local(activation, seed):
        return {"test_accuracy": {"relu": 0.5, "gelu": 0.5 + shift}[str(activation)] + seed * 1e-6}

    result = compare(local, tmp_path)
    assert on(result, "gelu").difference == pytest.approx(0.25)
    shift = 0.1
    assert on(compare(local, tmp_path), "gelu").difference == pytest.approx(0.1)  # another value: another study


# --- each run once --------------------------------------------------------------------------------


def test_more_seeds_and_arms_train_only_what_is_missing(tmp_path):
    first = compare(own_trainings.steps, tmp_path, seeds=6)
    logs = (first.folder / "logs").glob("*.log")
    n = sum(log.read_text().count("--- ") for log in logs)
    assert n == 12
    more = compare(own_trainings.steps, tmp_path, ["gelu", "tanh"], seeds=8)
    n = sum(log.read_text().count("--- ") for log in (first.folder / "logs").glob("*.log"))
    assert n == 24 and more.folder == first.folder
    compare(own_trainings.steps, tmp_path, ["gelu", "tanh"], seeds=8)
    assert sum(log.read_text().count("--- ") for log in (first.folder / "logs").glob("*.log")) == 24
    compare(own_trainings.steps, tmp_path, ["gelu"], seeds=2, fresh=True)
    assert sum(log.read_text().count("--- ") for log in (first.folder / "logs").glob("*.log")) == 28


def test_until_decided_gives_seeds_where_they_matter(tmp_path):
    result = compare_here(
        own_trainings.steps, tmp_path, ["gelu", "tanh"], confirm={"until_decided": True, "looks": [8, 10, 12]}
    )
    assert {c.activation: c.n_seeds for c in result.comparisons} == {"gelu": 8, "relu": 8, "tanh": 8}
    assert on(result, "gelu").confidence > 1 - 0.05 / 2


def test_kill_9_loses_no_finished_run_and_leaves_no_process(tmp_path):
    code = (
        "import actsearch, own_trainings; "
        f"actsearch.compare(train=own_trainings.slow, activations=['relu', 'gelu'], seeds=8, folder={str(tmp_path)!r})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    for _ in range(2):
        leader = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL)
        folder = None
        for _ in range(600):
            time.sleep(0.05)
            folder = next(tmp_path.glob("slow-*"), None)
            logs = [] if folder is None else [log.read_text() for log in folder.glob("logs/*.log")]
            if sum(text.count("--- ") for text in logs) >= 4:
                break
        leader.send_signal(signal.SIGKILL)
        leader.wait()
    result = compare(own_trainings.slow, tmp_path)
    assert len(runs_of(result)) == 16
    started = [
        line for log in result.folder.glob("logs/*.log") for line in log.read_text().splitlines() if "---" in line
    ]
    twice = len(started) - len(set(started))
    assert twice <= 2 * 2  # those in flight, on two cores
    time.sleep(1.2)
    found = subprocess.run(["pgrep", "-f", "actsearch.own.process"], capture_output=True, text=True, check=False)
    ours = [pid for pid in found.stdout.split() if str(tmp_path) in Path(f"/proc/{pid}/environ").read_text("latin-1")]
    assert ours == []


# --- failures -------------------------------------------------------------------------------------


def test_runs_that_raise_die_hang_or_say_nan_are_failures_and_the_rest_goes_on(tmp_path):
    result = compare(own_trainings.sometimes, tmp_path, timeout_s=1.0)
    verdict = on(result, "gelu")
    assert (verdict.n_failed, verdict.n_failed_baseline, verdict.n_seeds) == (4, 0, 8)
    rows = runs_of(result).set_index(["activation", "seed"])
    assert rows.error["gelu", 1001] == "FloatingPointError: overflow in exp"
    assert "exit code -9; out of memory?" in rows.error["gelu", 1002]
    assert "no report for 1 s (train.timeout_s)" in rows.error["gelu", 1003]
    assert any(said.startswith("4 of 8 runs of gelu failed and count as the worst") for said in result.warnings)
    worst = min(own_trainings.value(a, s) for a in ("relu", "gelu") for s in range(1000, 1008))
    kept = [own_trainings.value("gelu", s) for s in (1000, 1005, 1006, 1007)]
    gelu = next(c for c in result.comparisons if c.activation == "gelu")
    assert gelu.mean == pytest.approx((4 * min(worst, *kept) + sum(kept)) / 8, abs=1e-3)
    assert gelu.mean_of_others == pytest.approx(sum(kept) / 4)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (own_trainings.never, "every run of the first seed failed: ValueError: no data here"),
        (own_trainings.nothing, "every run of the first seed failed: it reported nothing"),
        (own_trainings.words, "every run of the first seed failed: it reported 'test_accuracy': 'good', which is no"),
        (own_trainings.no_seed, "own_trainings.no_seed has no parameter 'seed'"),
        (own_trainings.needs, "needs a value for 'depth'. Write train.depth="),
        (7, "is int, not a function"),
    ],
)
def test_what_cannot_run_is_one_line(train, said, tmp_path):
    with pytest.raises(ActSearchError) as error:
        compare_here(train, tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_words_that_do_not_fit_are_one_line(tmp_path):
    for keywords, said in (
        ({"settings": {"rl": 1}}, "unknown keyword of own_trainings.steps 'rl'. Did you mean 'lr'?"),
        (
            {"confirm": {"metric": "test_acc"}},
            "unknown metric in confirm.metric: 'test_acc'. Did you mean",
        ),
        ({"confirm": {"sedes": 3}}, "Did you mean 'confirm.seeds'?"),
        ({"settings": {"lr": (1, 2)}}, "settings: lr=(1, 2): write numbers, text, lists"),
        ({"threads": 0}, "train.threads=0"),
        ({"timeout_s": -1}, "train.timeout_s=-1"),
        ({"activations": ["gleu"]}, "Did you mean 'gelu'"),
        ({"activations": ["relu"]}, "nothing to compare with the baseline relu"),
        ({"model": "mlp"}, "has its own model, data and recipe"),
    ):
        with pytest.raises(ActSearchError) as error:
            actsearch.compare(
                **{"train": own_trainings.steps, "activations": ["gelu"], "seeds": 2, "folder": tmp_path, "quiet": True,
                   **keywords}
            )  # fmt: skip
        assert said in str(error.value), keywords


# --- commands -------------------------------------------------------------------------------------

PROGRAM = """
import json, os, sys
act, seed, lr = sys.argv[1:4]
print("begin", os.environ["ACTSEARCH_ACTIVATION"], os.environ["ACTSEARCH_LR"], os.environ["ACTSEARCH_SEED"])
if act == "gelu" and seed == "1001":
    print("broken \\xff"); sys.exit(3)
print(json.dumps({"val_accuracy": 0.5}))
print("{not json}")
print(json.dumps({"test_accuracy": 0.6 + 0.1 * (act == "gelu") + int(seed) * 1e-5, "name": "x", "good": True}))
"""


def test_a_program_is_a_training(tmp_path):
    program = tmp_path / "prog.py"
    program.write_text(PROGRAM)
    line = f"{sys.executable} {program} {{activation}} {{seed}} {{lr}}"
    result = compare_here(command.train, tmp_path, settings={"command": line, "lr": 0.05})
    rows = runs_of(result).set_index(["activation", "seed"])
    assert rows.test_accuracy["gelu", 1000] == pytest.approx(0.71)
    assert rows.error["gelu", 1001].startswith("the command ended with exit code 3: begin gelu 0.05 1001 / broken")
    assert on(result, "gelu").n_failed == 1
    assert any("what the program of train.command imports and reads" in said for said in result.warnings)
    program.write_text(PROGRAM.replace("0.6 +", "0.5 +"))  # an edited program is another question
    other = compare_here(command.train, tmp_path, settings={"command": line, "lr": 0.05})
    assert other.folder != result.folder
    assert on(other, "gelu").baseline_mean == pytest.approx(on(result, "gelu").baseline_mean - 0.1)
    assert result.name.startswith("prog-")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{python} {seed} {activaton}", "unknown place in train.command: '{activaton}'. Did you mean '{activation}'?"),
        ("no_such_program {seed}", "'no_such_program' cannot be started"),
        ("{python} -c 'print({seed})' {", "Single '{'"),
        ("{python} -c 'import sys; sys.exit(4)'", "exit code 4: no output"),
    ],
)
def test_a_command_that_cannot_run_is_one_line(line, said):
    with pytest.raises(ActSearchError) as error:
        train_once(command.train, "relu", 0, {"command": line.replace("{python}", sys.executable)})
    assert said in str(error.value)


def test_a_command_gets_the_activation_as_a_file():
    code = 'import runpy, json, torch; f = runpy.run_path(\\"{activation_file}\\"); print(json.dumps(dict(n=len(f))))'
    told = train_once(command.train, "leaky_relu6(negative_slope=0.02)", 0, {
        "command": f'{sys.executable} -c "{code}"',
    })  # fmt: skip
    assert told.rungs[0]["n"] > 3


def test_the_command_line_takes_braces_and_refuses_what_does_not_apply(tmp_path):
    program = tmp_path / "prog.py"
    program.write_text(PROGRAM)
    here = {"cwd": tmp_path, "capture_output": True, "text": True}
    base = [sys.executable, "-m", "actsearch", "train=command"]
    words = [f"train.command={sys.executable} prog.py {{activation}} {{seed}} {{lr}}", "train.lr=0.05",
             "search_space.activations=[gelu]", "confirm.seeds=7", "hydra.run.dir=out"]  # fmt: skip
    done = subprocess.run([*base, *words], check=False, **here)
    assert done.returncode == 0, done.stderr
    assert "gelu" in done.stdout and "report       out/report.html" in done.stdout
    rows = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert rows[0]["activation"] == "gelu" and rows[0]["n_seeds"] == 7
    for extra in ("model=cnn1d", "recipe.lr=0.1", "search_space.scope=per_layer", "confirm.equal=time"):
        done = subprocess.run([*base, *words, extra], check=False, **here)
        assert done.returncode == 2
        assert (
            done.stderr.startswith(f"actsearch: {extra}: it does not apply to train=…") and done.stderr.count("\n") == 1
        )
    done = subprocess.run([*base, *words, "task=report"], check=False, **here)
    assert done.returncode == 2 and "without task= shows a finished study again" in done.stderr
    assert spelt_out(["train.command=a {b} \"c\"", "x=1", 'train.command="d"', "search_space.recipe.lr=[1,2]"]) == [
        'train.command="a {b} \\"c\\""', "x=1", 'train.command="d"', "++search_space.recipe.lr=[1,2]",
    ]  # fmt: skip
