"""Tables of runs that others made: whatever people have is taken or refused naming the rows; verdicts are a study's."""

import itertools
import json
import math
from decimal import Decimal
from pathlib import Path

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

PUBLIC = Path(__file__).parent.parent / "experiments" / "public_results"
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
    parent = client.create_run(experiment, run_name="of all relus").info.run_id
    client.log_param(parent, "activation", "relu")
    client.set_terminated(parent)
    with pytest.raises(ActSearchError, match=r"run of all relus: test_accuracy is 'nan'.*test_accuracy\.notna\(\)"):
        judge("mlflow:mine", tracking=uri)
    again = judge("mlflow:mine", tracking=uri, where="test_accuracy.notna()")
    assert on(again, "gelu").ci_low == on(found, "gelu").ci_low
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
    assert "1 of 12 runs failed" in on(found, "gelu").warning
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


# --- tables as people have them -------------------------------------------------------------------


def text_of(frame=None):
    return (long() if frame is None else frame).to_csv(index=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("\n", "\r\n").replace("\r\n", ",,\r\n"),  # empty cells behind each row
        lambda text: "\n\n" + text.replace("gelu", " gelu "),
        lambda text: text.replace("gelu,0,", "activation,seed,test_accuracy\ngelu,0,"),  # files put together
        lambda text: long().to_csv(),  # with pandas' index
    ],
    ids=["BOM", "semicolons", "tabs", "trailing", "spaces", "header twice", "index"],
)
def test_csv_files_as_programs_write_them_say_the_same(change, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(change(text_of()), encoding="utf-8", newline="")
    found = judge(path)
    assert on(found, "gelu").ci_low == pytest.approx(on(judge(long()), "gelu").ci_low, rel=1e-9)
    assert any("the header again" in said for said in found.warnings) == (change(text_of()).count("test_acc") == 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("activation,seed,test_accuracy\nrelu,0,0,93\n", "line 2: 4 cells, but the header has 3"),  # a decimal comma
        ("activation,seed,test_accuracy,s\nrelu,0.93,12\n", "line 2: 3 cells, but the header has 4"),
        ("activation;seed;test_accuracy\nrelu;0;0,93\n", "line 2: test_accuracy is '0,93', not a finite number. Write"),
        ('activation,seed,test_accuracy\nrelu,0,"1,234.5"\n', "is '1,234.5', not a finite number. Write"),
        ('activation,n,test_accuracy\n\n"re\nlu",0,0.5\nrelu,1,oops\n', "line 5: test_accuracy is 'oops'"),
        ("activation,seed,acc,acc\nrelu,0,0.5,0.6\n", "the column 'acc' occurs twice"),
        ("activation,seed,test_accuracy\n", "has no rows"),
        ("\n \n", "it is empty"),
        ('activation,seed,test_accuracy\n"relu,0,0.5\n', "cannot be read as csv"),
        ("activation,seed,test_accuracy\nrelu,NaN,0.5\nrelu,none,0.6\n", "lines 2, 3: 'seed' is empty"),
    ],
)
def test_csv_files_that_would_be_misread_are_refused(text, said, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ActSearchError) as error:
        judge(path, baseline="relu")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_json_keeps_texts_and_what_is_no_table_is_refused(tmp_path):
    rows = long().replace({"relu": "0.10", "gelu": "None"}).to_dict("records")
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    assert set(verdicts(judge(tmp_path / "runs.json", baseline=0.1))) == {"None", "my_act_v3"}
    for text in ("5", "[1, 2]", "{}", '{"a": 1}', "nope", '{"a": [1], "b": [1, 2]}'):
        (tmp_path / "no.json").write_text(text)
        with pytest.raises(ActSearchError, match="cannot be read as json"):
            judge(tmp_path / "no.json")
    (tmp_path / "no.jsonl").write_text('{"a": 1}\n\n{"a":\n')
    with pytest.raises(ActSearchError, match="line 3 is no object"):
        judge(tmp_path / "no.jsonl")
    (tmp_path / "utf16.csv").write_text(text_of(), encoding="utf-16")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "no.parquet").write_text("no")
    for name, said in (("utf16.csv", "UTF-8"), ("folder.csv", "no file"), ("no.parquet", "cannot be read as parquet")):
        with pytest.raises(ActSearchError, match=said):
            judge(tmp_path / name)


@pytest.mark.parametrize(
    "form",
    [
        lambda f: f.set_index(["activation", "seed"]),
        lambda f: f.pivot(index="seed", columns="activation", values="test_accuracy"),
        lambda f: f.assign(
            seed=[f"{s}.0" if a == "relu" else str(s) for a, s in zip(f.activation, f.seed, strict=True)]
        ),
        lambda f: f.astype({"activation": "category", "seed": "category"}),
        lambda f: f.convert_dtypes(),
        lambda f: f.assign(test_accuracy=[Decimal(repr(float(v))) for v in f.test_accuracy]),
        lambda f: f.assign(_row="x"),
        lambda f: pd.concat([part.reset_index(drop=True) for _, part in f.groupby("activation")]),
    ],
    ids=["index", "pivot", "1 and 1.0", "category", "nullable", "Decimal", "_row", "double index"],
)
def test_frames_of_every_kind_have_the_same_verdicts(form):
    found = judge(form(long()), baseline="relu", metric="test_accuracy")
    assert on(found, "gelu").paired
    assert on(found, "gelu").ci_low == pytest.approx(on(judge(long()), "gelu").ci_low, rel=1e-9)


def test_a_condition_on_a_frame_whose_index_repeats_keeps_each_row_once():
    frame = pd.concat([part.reset_index(drop=True) for _, part in long().groupby("activation")])
    found = judge(frame, where="seed < 6", pair="none")
    assert on(found, "gelu").n_seeds == on(found, "gelu").n_baseline == 6


@pytest.mark.parametrize("names", [("relu", "ReLU"), ("0.1", "0.10"), ("x + 1", "x+1"), ("1", "1e0")])
def test_arms_that_are_written_in_two_ways_are_refused(names):
    frame = long().replace(dict(zip(("relu", "gelu"), names, strict=True)))
    with pytest.raises(ActSearchError, match="differ only in how they are written"):
        judge(frame, baseline=names[0])


def test_a_baseline_is_found_however_its_number_is_written():
    frame = long().replace({"relu": "0.10", "gelu": "true"})
    assert set(verdicts(judge(frame, baseline=0.1))) == {"true", "my_act_v3"}
    assert set(verdicts(judge(frame, baseline=True))) == {"0.10", "my_act_v3"}


# --- what are runs, and of which arm --------------------------------------------------------------


def test_of_a_wide_table_only_arms_are_compared():
    wide = long().pivot(index="seed", columns="activation", values="test_accuracy").reset_index()
    for extra in ({"epochs": 20}, {"lr": 0.1}, {"test_loss": 0.5}, {"diverged": False}, {"note": "x"}):
        with pytest.raises(ActSearchError, match=r"all columns must be arms; .*task\.by=\[gelu,my_act_v3,relu\]"):
            judge(wide.assign(**extra), baseline="relu", metric="test_accuracy")
    found = judge(wide.assign(epochs=20), by=["relu", "gelu"], baseline="relu", metric="test_accuracy")
    assert on(found, "gelu").difference == pytest.approx(on(judge(long()), "gelu").difference)
    assert any("as a wide table" in said for said in judge(wide, baseline="relu", metric="test_accuracy").warnings)


def test_pandas_index_in_a_wide_file_is_no_arm(tmp_path):
    long().pivot(index="seed", columns="activation", values="test_accuracy").reset_index().to_csv(tmp_path / "w.csv")
    found = judge(tmp_path / "w.csv", baseline="relu", metric="test_accuracy")
    assert set(verdicts(found)) == {"gelu", "my_act_v3"}
    assert on(found, "gelu").difference == pytest.approx(on(judge(long()), "gelu").difference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: pd.concat([f.assign(split="train"), f.assign(split="test")]), "task.where=\"split == 'test'\""),
        (lambda f: f.rename(columns={"seed": "epoch"}), "Moments of a run are not runs"),
        (
            lambda f: pd.concat([f.assign(step=i) for i in range(3)]).drop(columns="seed"),
            "Moments of a run are not runs",
        ),
    ],
)
def test_parts_and_moments_of_a_run_are_not_runs(change, said):
    with pytest.raises(ActSearchError) as error:
        judge(change(long()))
    assert said in str(error.value)


def test_what_a_reader_must_know_of_pairs_is_said():
    def said(frame, **keywords):
        return " ".join(judge(frame, **keywords).warnings)

    frame = long()
    assert not said(frame) and not said(frame.assign(lr=0.1, best_epoch=np.arange(36) % 7))
    assert "paired differ in lr" in said(frame.assign(lr=frame.activation.map({"relu": 0.1}).fillna(0.01)))
    both = pd.concat([frame.assign(dataset="a"), frame.assign(dataset="b")]).drop(columns="seed")
    assert "Runs differ in dataset" in said(both)
    assert "share training examples" in said(frame.rename(columns={"seed": "fold"}))
    same = said(long({"relu": ACCURACY["relu"], "gelu": ACCURACY["relu"]}))
    assert "gelu: exactly the values of relu in every run" in same
    grid = pd.concat([frame.assign(norm="none"), frame.assign(norm="layer")])
    assert on(judge(grid, pair=["seed", "norm"]), "gelu").n_seeds == 24  # none is a value, too


def test_one_column_cannot_have_two_meanings():
    for keywords in ({"metric": "activation"}, {"metric": "seed"}, {"pair": "activation"}):
        with pytest.raises(ActSearchError, match=r"cannot be both|does not pair"):
            judge(long(), **keywords)
    assert on(judge(long(), pair=["seed", "seed"]), "gelu").n_seeds == 12


# --- units, directions and margins ----------------------------------------------------------------


def test_a_margin_is_in_the_columns_unit():
    shares, per_cent = long(), long().assign(test_accuracy=lambda f: 100 * f.test_accuracy)
    a, b = judge(shares, margin=0.03), judge(per_cent, margin=3)
    assert verdicts(a) == verdicts(b) == {"gelu": "better, by less than the margin", "my_act_v3": "equivalent"}
    assert on(b, "gelu").margin == pytest.approx(0.03)


def test_per_cent_is_told_from_shares_by_signs_and_names_or_asked_for():
    def error(scale, name="error_rate", sign=""):
        return long(metric=name).assign(**{name: lambda f: [f"{scale * v:.8f}{sign}" for v in f[name]]})

    assert on(judge(error(1, sign=" %"), metric="error_rate"), "gelu").difference == pytest.approx(2.03e-4, rel=0.01)
    assert on(judge(error(1, "error_rate_pct"), metric="error_rate_pct"), "gelu").baseline_mean < 0.01
    assert on(judge(error(1), metric="error_rate"), "gelu").baseline_mean > 0.6
    for frame in (error(1.4), long().assign(test_accuracy=lambda f: f.test_accuracy.where(f.index != 3, 70.0))):
        with pytest.raises(ActSearchError, match="are these shares or per cent"):
            judge(frame, metric=frame.columns[-1])
    own = judge(error(1.4), metric="error_rate", higher_is_better=False, margin=0.5, ratio=False)
    assert verdicts(own)["gelu"] == "worse, by less than the margin"


@pytest.mark.parametrize(
    "name",
    ["neg_log_loss", "-loss", "1 - accuracy", "100 - acc", "std_acc", "accuracy_loss", "weight_loss", "grad_acc",
     "loss/acc", "test_acc-train_acc", "100-accuracy",
     "forget_acc", "attack_accuracy", "log(loss)", "1/loss", "test_error", "elbo",
     "learning_speed", "train_steps", "epochs", "duration"],
)  # fmt: skip
def test_names_that_may_mean_the_opposite_are_asked_for(name):
    with pytest.raises(ActSearchError, match="not known by its name"):
        metric_named(name)


@pytest.mark.parametrize(("name", "wanted"), [("testAccuracy", True), ("Test Acc (%)", True), ("valLoss", False),
                                              ("metrics.eval_loss", False), ("val_top1", True)])  # fmt: skip
def test_names_are_known_in_every_spelling(name, wanted):
    assert metric_named(name).higher_is_better == wanted


@pytest.mark.parametrize(("name", "scale"), [("bleu", 1), ("rougeL", 1), ("r2", 100), ("ssim", 100)])
def test_scores_on_another_scale_than_the_margin_are_refused(name, scale):
    frame = long(metric=name)
    frame[name] *= scale
    with pytest.raises(ActSearchError, match=r"Write task\.margin"):
        judge(frame, metric=name)
    assert on(judge(frame, metric=name, margin=0.005 * scale), "gelu").verdict == "better"


@pytest.mark.parametrize(
    "keywords",
    [
        {"higher_is_better": "no"},
        {"ratio": "false"},
        {"margin": "x"},
        {"margin": math.inf},
        {"margin": True},
        {"alpha": "x"},
    ],
)
def test_words_where_numbers_and_truths_should_stand_are_refused(keywords):
    with pytest.raises(ActSearchError, match=f"task.{next(iter(keywords))}="):
        judge(long(), **keywords)


def test_a_loss_below_zero_is_judged_when_its_margin_is_given():
    frame = long(metric="nll").assign(nll=lambda f: f.nll - 1)
    with pytest.raises(ActSearchError, match=r"task\.ratio=false task\.margin="):
        judge(frame, metric="nll")
    assert verdicts(judge(frame, metric="nll", ratio=False, margin=0.01))["gelu"] == "worse"


def test_the_only_metric_is_found_beside_costs():
    frame = long(metric="val_acc").assign(runtime=1.0, params=10)
    assert judge(frame).options.own.name == "val_acc"
    with pytest.raises(ActSearchError, match="which column is the metric"):
        judge(frame.drop(columns="val_acc"))


# --- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("seed < 6", 6), ("`seed` < 6", 6), ("3 < seed <= 11", 8), ("seed in [1, 2, 3]", 3), ("not seed > 8", 9),
        ("(seed < 6) & (activation != 'my_act_v3')", 6), ("params.lr == 0.1 and seed < 7", 7), ("`my col` == 1", 6),
        ("activation.str.startswith('r') or activation == 'gelu'", 12), ("activation.isin(['relu', 'gelu'])", 12),
        ("deep", 12), ("deep == True and seed + 1 < 5", 4), ("note == '`x` @ 1'", 12), ("seed.between(2, 5)", 4),
    ],
)  # fmt: skip
def test_conditions_choose_rows(where, n):
    more = {"params.lr": "0.1", "deep": "True", "note": "`x` @ 1"}
    frame = long(**more)
    frame["my col"] = [1 + i % 2 for i in range(len(frame))]
    assert on(judge(frame, where=where), "gelu").n_seeds == n


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("seed != '3'", "'seed' holds numbers"), ("activation != 3", "'activation' holds texts, such as 'relu'"),
        ("width != 64", "'width' holds texts, such as 'n/a'"), ("seed", "no condition"), ("seed + 1", "no condition"),
        ("seed = 3", "Write == to compare"), ("@pd.io", "cannot be evaluated"), ("nope > 3", "unknown column"),
        ("__import__('os').system('echo')", "unknown"), ("seed.__class__ == 1", "unknown column"),
        ("seed.map(print)", "unknown"), ("9**9**9 > seed", "cannot stand there"), ("[s for s in seed]", "cannot stand"),
        ("(lambda: 1)()", "cannot be called"), ("True", "no condition"), ("'", "cannot be evaluated"),
        ("seed > 'a' * 3", "is no number"), ("(" * 500 + "seed", "cannot be evaluated"),
    ],
)  # fmt: skip
def test_conditions_reach_columns_and_nothing_else(where, said):
    frame = long(width="64")
    frame.loc[4, "width"] = "n/a"
    with pytest.raises(ActSearchError) as error:
        judge(frame, where=where)
    assert said in str(error.value) and "\n" not in str(error.value)


# --- few runs, ties, odd values -------------------------------------------------------------------


def test_few_runs_decide_nothing_and_equal_ones_are_equivalent():
    for n in (2, 3):
        for pair in ("auto", "none"):
            few = long({name: values[:n] for name, values in ACCURACY.items()})
            assert set(verdicts(judge(few, pair=pair)).values()) == {"undecided"}
    assert set(verdicts(judge(long(dict.fromkeys(ACCURACY, [0.7] * 12)))).values()) == {"equivalent"}
    one = judge(long()[lambda f: (f.activation != "gelu") | (f.seed == 0)])
    assert (on(one, "gelu").verdict, on(one, "my_act_v3").verdict) == ("undecided", "equivalent")


def test_huge_values_are_refused_and_small_ones_are_shown():
    with pytest.raises(ActSearchError, match=r"loss is beyond ±1e\+150"):
        judge(long({name: 1e200 * values for name, values in ACCURACY.items()}, "loss"), metric="loss")
    small = judge(long({name: 1e-7 * values for name, values in ACCURACY.items()}, "loss"), metric="loss")
    assert verdicts(small) == verdicts(judge(long(metric="loss"), metric="loss"))
    assert "0.00000007" in small.summary


def test_verdicts_are_json_and_any_name_can_be_drawn(tmp_path):
    names = ["$\\frac$", "$$", "a | b_{", "<script>", "two\nlines"]
    arms = {"relu": ACCURACY["relu"]} | {name: ACCURACY["gelu"] for name in names}
    judge(long(arms), folder=tmp_path)
    rows = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert {row["activation"] for row in rows} == {"two lines", *names[:-1]}
    assert "<script>" not in (tmp_path / "report.html").read_text().split("Compared")[1].split("</table>")[0]


@pytest.mark.parametrize(
    ("table", "keywords", "wanted"),
    [
        ("value", {"by": "value", "baseline": "linear", "metric": "val_ppl"}, {"geglu": "better"}),
        ("normuon", {"by": "record", "baseline": "baseline", "metric": "val_loss", "ratio": False, "margin": 0.001},
         {"normuon_fixes": "undecided", "and_premultiply": "undecided"}),
        ("attention", {"by": "attn_activ", "baseline": "softmax", "metric": "last_val_loss", "ratio": False,
                       "margin": 0.01, "pair": ["seed", "qk_activ"], "where": "post_attn_norm == 'none' and "
                       "qk_norm == 'none' and attn_activ in ['softmax', 'sigmoid']"}, {"sigmoid": "worse"}),
    ],
)  # fmt: skip
def test_published_tables_have_the_verdicts_that_their_page_says(table, keywords, wanted):
    assert verdicts(judge(PUBLIC / f"{table}.csv", **keywords)) == wanted


def test_remarks_on_a_thousand_arms_are_few():
    arms = {f"a{i}": ACCURACY["relu"] for i in range(100)}
    frame = long(arms).assign(seed=lambda f: f.seed + 100 * (f.activation != "a0"))
    assert len(judge(frame, baseline="a0").warnings) < 10


def test_options_and_columns_of_numpys_kinds_are_taken(tmp_path):
    found = judge(long(), margin=np.float32(0.01), folder=tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())[0]["margin"] == pytest.approx(0.01)
    dated = long(date=pd.Timestamp("2024-05-01"))
    assert verdicts(judge(dated, margin=0.01, where="date > '2024-01-01'")) == verdicts(found)
    for keywords in ({"pair": 5}, {"metric": 3}, {"by": 0}, {"where": 5}):
        with pytest.raises(ActSearchError):
            judge(long(), **keywords)
    renamed = long().rename(columns={"activation": 0})
    assert verdicts(judge(renamed, by=0)) == verdicts(judge(long()))


def test_thousands_of_arms_are_judged():
    rng = np.random.default_rng(2)
    arms = {f"a{i}": rng.normal(0.7, 0.01, 3) for i in range(1000)}
    found = judge(long(arms), baseline="a0")
    assert len(found.comparisons) == 1000 and on(found, "a7").confidence == pytest.approx(1 - 0.05 / 999)


def test_the_permutation_test_is_of_welchs_t():
    a, b = [3.2790, 3.2759, 3.2766, 3.2761, 3.2776, 3.2804], [3.2796, 3.2781, 3.2798, 3.2793]
    both, seen = np.array(a + b), []
    for chosen in itertools.combinations(range(10), 6):
        mask = np.isin(np.arange(10), chosen)
        seen.append(stats.ttest_ind(both[mask], both[~mask], equal_var=False).statistic)
    mine = stats.ttest_ind(a, b, equal_var=False).statistic
    tails = np.mean(np.array(seen) <= mine + 1e-9), np.mean(np.array(seen) >= mine - 1e-9)
    assert permutation_p_value(a, b) == pytest.approx(2 * min(tails))


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
