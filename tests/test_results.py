"""Tables of runs that others made: whatever people have is taken or refused naming the rows; verdicts are a study's."""

import json
import math

import mlflow
import numpy as np
import pandas as pd
import polars
import pytest
from scipy import stats

import actsearch
from actsearch.errors import ActSearchError
from actsearch.question.known import metric_named
from actsearch.question.options import Rules
from actsearch.results.judged import judge
from actsearch.results.table import read
from actsearch.verdicts.statistics import (
    permutation_p_value,
    smallest_permutation_p,
    unpaired_difference,
)
from actsearch.verdicts.verdict import Arm
from actsearch.verdicts.verdict import judge as verdict_on

RNG = np.random.default_rng(0)
SEEDS = np.arange(12)
SEED_EFFECT = RNG.normal(0, 0.01, 12)
ACCURACY = {
    "relu": 0.70 + SEED_EFFECT + RNG.normal(0, 0.002, 12),
    "gelu": 0.72 + SEED_EFFECT + RNG.normal(0, 0.002, 12),
    "my_act_v3": 0.7003 + SEED_EFFECT + RNG.normal(0, 0.001, 12),
}


def long(arms=ACCURACY, metric="test_accuracy", **more):
    rows = [{"activation": a, "seed": i, metric: v, **more} for a, values in arms.items() for i, v in enumerate(values)]
    return pd.DataFrame(rows)


def verdicts(result):
    return {c.activation: c.verdict.verdict for c in result.comparisons if c.verdict is not None}


def on(result, name):
    return next(c.verdict for c in result.comparisons if c.activation == name)


# --- a table is taken, in whatever form it comes --------------------------------------------------


def written(frame, folder, suffix):
    path = folder / f"runs{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == ".jsonl")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".json"])
def test_files_of_every_kind_say_the_same(suffix, tmp_path):
    wanted = judge(long())
    found = judge(written(long(), tmp_path, suffix))
    assert verdicts(found) == verdicts(wanted) == {"gelu": "better", "my_act_v3": "equivalent"}
    assert on(found, "gelu").difference == pytest.approx(on(wanted, "gelu").difference, rel=1e-7)  # digits of JSON
    assert on(found, "gelu").ci_low == pytest.approx(on(wanted, "gelu").ci_low, rel=1e-7)


@pytest.mark.parametrize(
    "form",
    [
        lambda f: f.sample(frac=1, random_state=1),  # the order of rows
        polars.from_pandas,
        lambda f: f.to_dict("list"),
        lambda f: f.to_dict("records"),
        lambda f: f.assign(test_accuracy=100 * f.test_accuracy),  # per cent
        lambda f: f.assign(test_accuracy=[f"{100 * v:.10f} %" for v in f.test_accuracy]),
        lambda f: f.assign(activation=f.activation + " "),
        lambda f: f.assign(seed=f.seed.astype(float)),
        lambda f: f.rename(columns={"seed": "params.seed"}),
        lambda f: f.pivot(index="seed", columns="activation", values="test_accuracy").reset_index(),
    ],
    ids=["shuffled", "polars", "lists", "records", "per cent", "with signs", "spaces", "float seeds", "prefix", "wide"],
)
def test_the_same_runs_in_another_form_have_the_same_verdicts(form):
    wanted = judge(long())
    found = judge(form(long()), baseline="relu", metric="test_accuracy")
    assert verdicts(found) == verdicts(wanted)
    for name in ("gelu", "my_act_v3"):
        assert on(found, name).ci_low == pytest.approx(on(wanted, name).ci_low, rel=1e-6)


def test_what_is_compared_need_not_be_an_activation():
    frame = long().rename(columns={"activation": "optimizer"}).replace({"relu": "adam", "gelu": "0.10"})
    found = judge(frame, by="optimizer", baseline="adam", metric="test_accuracy")
    assert set(verdicts(found)) == {"0.10", "my_act_v3"}
    assert found.specs == []


def test_an_experiment_of_mlflow_is_a_table(tmp_path):
    uri = f"sqlite:///{tmp_path}/m.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("mine")
    for row in long().to_dict("records"):
        run = client.create_run(experiment, run_name=f"{row['activation']}-{row['seed']}")
        client.log_param(run.info.run_id, "activation", row["activation"])
        client.log_param(run.info.run_id, "seed", row["seed"])
        client.log_metric(run.info.run_id, "test_accuracy", row["test_accuracy"])
        client.set_terminated(run.info.run_id)
    client.create_run(experiment, run_name="still running")
    client.set_terminated(client.create_run(experiment, run_name="a parent").info.run_id)
    found = judge("mlflow:mine", baseline="relu", metric="test_accuracy", tracking=uri)
    assert on(found, "gelu").ci_low == pytest.approx(on(judge(long()), "gelu").ci_low, rel=1e-9)
    assert any("1 runs of 'mine' are not finished" in said for said in found.warnings)
    assert any("1 runs without a 'activation'" in said for said in found.warnings)
    with pytest.raises(ActSearchError, match=r"unknown experiment .*'min'.*Did you mean 'mine'"):
        judge("mlflow:min", baseline="relu", metric="test_accuracy", tracking=uri)


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_are_made_by_seed_and_else_the_interval_is_welchs():
    paired, loose = judge(long()), judge(long(), pair="none")
    theirs = stats.ttest_rel(ACCURACY["gelu"], ACCURACY["relu"]).confidence_interval(0.975)
    assert (on(paired, "gelu").ci_low, on(paired, "gelu").ci_high) == pytest.approx((theirs.low, theirs.high))
    theirs = stats.ttest_ind(ACCURACY["gelu"], ACCURACY["relu"], equal_var=False).confidence_interval(0.975)
    found = on(loose, "gelu")
    assert (found.ci_low, found.ci_high) == pytest.approx((theirs.low, theirs.high))
    assert (found.paired, on(paired, "gelu").paired) == (False, True)
    assert on(paired, "gelu").saved_by_pairs > 0.8 and math.isnan(found.saved_by_pairs)
    assert "12 and 12 runs, unpaired" in loose.summary and "12 paired seeds" in paired.summary
    assert any("Welch" in said for said in loose.warnings)
    without = judge(long().drop(columns="seed"))
    assert on(without, "gelu") == found


def test_of_partly_paired_arms_the_pairs_count_and_of_hardly_paired_ones_all_runs():
    frame = long()
    few = frame[~((frame.activation == "gelu") & (frame.seed < 3))]
    found = judge(few)
    theirs = stats.ttest_rel(ACCURACY["gelu"][3:], ACCURACY["relu"][3:]).confidence_interval(0.975)
    assert on(found, "gelu").ci_low == pytest.approx(theirs.low)
    assert any("3 of relu" in said for said in found.warnings)
    other = frame.assign(seed=[s + 8 * (a == "gelu") for s, a in zip(frame.seed, frame.activation, strict=True)])
    found = judge(other)
    theirs = stats.ttest_ind(ACCURACY["gelu"], ACCURACY["relu"], equal_var=False).confidence_interval(0.975)
    assert on(found, "gelu").ci_low == pytest.approx(theirs.low)
    assert any("share 4 seeds of 12" in said for said in found.warnings)
    assert on(found, "my_act_v3").paired


def test_runs_are_paired_by_seed_and_fold_together():
    two = pd.concat([long(fold=0), long(fold=1).assign(test_accuracy=lambda f: f.test_accuracy + 0.05)])
    found = judge(two)
    assert found.about["paired by"] == "seed and fold"
    assert on(found, "gelu").n_seeds == 24


# --- unpaired arms --------------------------------------------------------------------------------


def test_welchs_interval_is_scipys_and_permutations_are_exact():
    a, b = [1.0, 2.0, 4.0, 3.5], [2.5, 5.0, 6.0]
    found, theirs = unpaired_difference(a, b, 0.1), stats.ttest_ind(a, b, equal_var=False)
    ends = theirs.confidence_interval(0.9)
    assert (found.ci_low, found.ci_high, found.p_value) == pytest.approx((ends.low, ends.high, theirs.pvalue))
    assert found.n == 3 and found.std == pytest.approx(abs(found.mean / theirs.statistic) * math.sqrt(3))
    assert (
        permutation_p_value([5.0, 6.0, 7.0], [1.0, 2.0, 3.0]) == pytest.approx(2 / 20) == smallest_permutation_p(3, 3)
    )
    assert permutation_p_value(a, b) == pytest.approx(permutation_p_value(b, a))
    assert smallest_permutation_p(50, 50) == 2 / 10_000
    for values in ([1.0], [1.0, math.nan]):
        assert math.isnan(permutation_p_value(values, b))
    same = unpaired_difference([1.0, 1.0], [1.0, 1.0])
    assert (same.ci_low, same.ci_high, same.p_value) == (0.0, 0.0, 1.0)


def test_unpaired_verdicts_are_rarely_wrong():
    rng, metric, wrong = np.random.default_rng(1), metric_named("accuracy"), 0
    for _ in range(400):
        a, b = rng.normal(0.7, 0.02, 8), rng.normal(0.7, 0.01, 14)
        arms = [Arm(list(values), [False] * len(values)) for values in (a, b)]
        wrong += verdict_on(metric, *arms, Rules(), paired=False).verdict.startswith(("better", "worse"))
    assert wrong / 400 <= 0.08
    few = [Arm(values, [False] * 3) for values in ([0.9, 0.91, 0.92], [0.1, 0.11, 0.12])]
    assert verdict_on(metric, *few, Rules(), paired=False).verdict == "undecided"  # 2 of 20 ways at best


# --- failed runs ----------------------------------------------------------------------------------


def test_columns_that_say_which_runs_failed_are_read():
    frame = long()
    frame["diverged"] = [a == "gelu" and s == 3 for a, s in zip(frame.activation, frame.seed, strict=True)]
    found = judge(frame)
    assert (on(found, "gelu").n_failed, on(found, "my_act_v3").n_failed) == (1, 0)
    assert "1 of 12 runs diverged" in on(found, "gelu").warning
    loose = judge(frame, pair="none")
    assert "the baseline's 0 of 12" in on(loose, "gelu").warning and "Fisher" in on(loose, "gelu").warning
    unknown = judge(long())
    assert all(math.isnan(c.failure_bound) for c in unknown.comparisons)


# --- what cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "keywords", "said"),
    [
        (lambda f: f, {"baseline": "rleu"}, "unknown arm in task.baseline (the table): 'rleu'. Did you mean 'relu'?"),
        (lambda f: f, {"metric": "test_acuracy"}, "unknown column in task.metric: 'test_acuracy'. Did you mean"),
        (lambda f: f, {"by": "act"}, "unknown column in task.by: 'act'"),
        (lambda f: f, {"pair": "sed"}, "unknown column in task.pair: 'sed'. Did you mean 'seed'?"),
        (lambda f: f, {"where": "seed <"}, "task.where='seed <' cannot be evaluated"),
        (lambda f: f, {"where": "seed > 99"}, "no row of the table is left"),
        (lambda f: f.replace({"relu": "tanh"}), {}, "with which arm are the others compared? Write task.baseline="),
        (lambda f: f.rename(columns={"activation": "x"}), {}, "which column says what is compared? Write task.by="),
        (lambda f: f[f.activation == "relu"], {}, "there is only one arm, relu"),
        (lambda f: f[f.seed == 0], {}, "one run of an arm shows no spread"),
        (lambda f: f[(f.activation != "relu") | (f.seed == 0)], {}, "Train the baseline relu with more seeds"),
        (lambda f: pd.concat([f, f.iloc[[14]]], ignore_index=True), {}, "rows 14, 36: gelu with seed 2 twice"),
        (lambda f: f.assign(test_accuracy=f.test_accuracy.where(f.index != 5)), {}, "row 5: test_accuracy is 'nan'"),
        (lambda f: f.assign(test_accuracy=["diverged" if i == 7 else v for i, v in enumerate(f.test_accuracy)]), {},
         "row 7: test_accuracy is 'diverged', not a finite number"),
        (lambda f: f.assign(activation=f.activation.where(f.index != 3)), {}, "row 3: 'activation' is empty"),
        (lambda f: f.assign(seed=f.seed.where(f.index != 9)), {}, "row 9: 'seed' is empty"),
        (lambda f: f.assign(test_accuracy=f.test_accuracy * 1000), {}, "so it is no share"),
        (lambda f: f.rename(columns={"test_accuracy": "niceness"}), {"metric": "niceness"}, "not known by its name"),
        (lambda f: f.rename(columns={"test_accuracy": "reward"}).assign(reward=f.test_accuracy - 1),
         {"metric": "reward"}, "gets down to -0.3"),
        (lambda f: f, {"margin": -1}, "task.margin=-1"),
        (lambda f: f, {"alpha": 2}, "task.alpha=2"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_one_line_that_names_the_rows(change, keywords, said):
    keywords = {"metric": "test_accuracy", **keywords}
    with pytest.raises(ActSearchError) as error:
        judge(change(long()), **keywords)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_lines_of_a_file_are_named_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("activation,seed,test_accuracy\nrelu,0,0.5\nrelu,1,oops\ngelu,0,0.6\ngelu,1,0.6\n")
    with pytest.raises(ActSearchError, match=r"runs\.csv, line 3: test_accuracy is 'oops'"):
        judge(path, metric="test_accuracy")
    for name, said in (
        ("no.csv", "no such file"),
        ("runs.xlsx", "ends in .csv"),
        ("empty.csv", "cannot be read as csv"),
    ):
        if name == "empty.csv":
            (tmp_path / name).write_text("")
        with pytest.raises(ActSearchError, match=said):
            judge(tmp_path / name, metric="test_accuracy")
    with pytest.raises(ActSearchError, match="int is no table"):
        read(3)


def test_a_column_that_tells_double_runs_apart_is_proposed():
    two = pd.concat([long(dataset="a"), long(dataset="b")], ignore_index=True)
    with pytest.raises(ActSearchError, match=r"If dataset tells them apart, choose one by task\.where=\"dataset == "):
        judge(two)
    assert verdicts(judge(two, where="dataset == 'a'")) == verdicts(judge(long()))
    assert on(judge(two, pair=["dataset", "seed"]), "gelu").n_seeds == 24


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("test_accuracy", (True, False, 0.005, "%")), ("val/acc", (True, False, 0.005, "%")),
        ("ROC AUC", (True, False, 0.005, "%")), ("eval_f1-score", (True, False, 0.005, "%")),
        ("clean_accuracy", (True, False, 0.005, "%")), ("error_rate", (False, False, 0.005, "%")),
        ("test_loss", (False, True, 0.05, "")), ("rmse", (False, True, 0.02, "")),
        ("val_ppl", (False, True, 0.01, "")),
        ("steps_to_accuracy", (False, True, 0.05, "")), ("mean_reward", (True, True, 0.05, "")),
        ("test_psnr", (True, False, 0.1, "dB")), ("r2", (True, False, 0.01, "")),
        ("wall_time", (False, True, 0.05, "s")),
    ],
)  # fmt: skip
def test_known_names_bring_direction_ratio_margin_and_unit(name, wanted):
    found = metric_named(name)
    assert (found.higher_is_better, found.ratio, found.margin, found.unit) == wanted
    assert found.name == name


@pytest.mark.parametrize("name", ["accuracy_drop", "time_to_accuracy_x", "score", "niceness", "accurcy"])
def test_other_names_are_asked_for(name):
    with pytest.raises(ActSearchError, match="not known by its name"):
        metric_named(name)
    own = metric_named(name, higher_is_better=True, margin=2.0)
    assert (own.higher_is_better, own.margin, own.ratio) == (True, 2.0, False)


def test_less_is_better_where_the_metric_says_so():
    frame = long(metric="test_loss")  # gelu's numbers are larger
    assert verdicts(judge(frame, metric="test_loss"))["gelu"].startswith("worse")
    assert verdicts(judge(frame, metric="test_loss", higher_is_better=True))["gelu"].startswith("better")


# --- as of a study --------------------------------------------------------------------------------


def test_a_studys_own_finalists_have_the_studys_verdicts(tmp_path):
    study = actsearch.compare(
        "mlp", "digits", ["relu", "tanh"], seeds=8, folder=tmp_path, tracking="none", quiet=True,
        recipe={"steps": 40, "eval_every": 20}, confirm={"tune": "none"},
    )  # fmt: skip
    found = actsearch.judge(study.folder / "finalists.csv", metric="test_accuracy")
    mine, theirs = on(found, "tanh"), on(study, "tanh")
    for key in ("verdict", "n_seeds", "seeds_to_decide", "n_failed", "warning", "confidence"):
        assert getattr(mine, key) == getattr(theirs, key)
    for key in ("difference", "ci_low", "ci_high", "p_value", "p_corrected", "p_sign_flip", "mean", "std"):
        assert getattr(mine, key) == pytest.approx(getattr(theirs, key), rel=1e-4)


def test_files_are_written_as_of_a_study(tmp_path):
    found = judge(long(), folder=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "verdict.json", "finalists.md", "finalists.tex", "plots"}
    rows = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert [row["verdict"] for row in rows] == [row["verdict"] for row in found.verdicts]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "gelu is better than relu" in page and "runs of this table" in page and "Every candidate" not in page
    assert "save" in page and "of the runs that independent ones would take" in page
