"""Tables, sentences and the terminal: order, digits and words that a reader relies on."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_trainer import confirmation
from rich.console import Console

from actsearch.packed import pack
from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, on_validation
from actsearch.records import (
    Curves,
    Evidence,
    FinalistRun,
    GenerationFinished,
    GenerationStarted,
    RungReached,
    TrialRecord,
)
from actsearch.report import terminal as report_terminal
from actsearch.report.files import finalist_rows, leaderboard_rows, verdict_rows, write_csv, write_text
from actsearch.report.sentence import sentence
from actsearch.report.tables import finalist_table
from actsearch.report.terminal import Terminal
from actsearch.verdicts.comparison import compare_finalists


def record(number, activation, accuracies, state="complete", steps=20, same_as=None, recipe=None, diverged=0):
    losses = [1 - a for a in accuracies]
    curves = Curves([10, steps], [[0.0] * len(losses), accuracies], [losses, losses], [losses, losses], diverged)
    value = sum(accuracies) / len(accuracies)
    return TrialRecord(number, activation, recipe or {}, state, [value], curves, same_as)


def run(activation, seed, value, diverged=False, recipe=None):
    curves = Curves([20], [[value - 0.1]], [[1 - value]], [[1 - value]])
    return FinalistRun(activation, recipe or {}, seed, value, 1 - value, diverged, curves)


def runs(activation, values, **keywords):
    return [run(activation, 1000 + i, value, **keywords) for i, value in enumerate(values)]


VAL = on_validation(ACCURACY)
DONE = [
    record(0, "relu", [0.5, 0.6]),
    record(1, "tanh", [0.2, 0.3], state="pruned", steps=10),
    record(2, "gelu", [0.7, 0.8], diverged=1),
    record(3, "gelu", [0.7, 0.8], state="duplicate", same_as=2),
    record(4, "elu", [0.4, 0.7]),
    record(5, "sigmoid", [0.25, 0.35], state="pruned", steps=10),
]


# --- tables ---------------------------------------------------------------------------------------


def test_the_leaderboard_ranks_what_was_completed_then_the_pruned_then_the_duplicates():
    rows = leaderboard_rows(DONE, ["val_accuracy"], VAL)
    assert [(r["rank"], r["trial"], r["state"]) for r in rows] == [
        (1, 2, "complete"), (2, 0, "complete"), (3, 4, "complete"), ("", 5, "pruned"), ("", 1, "pruned"),
        ("", 3, "duplicate"),
    ]  # fmt: skip
    first = rows[0]
    assert first["activation"] == "gelu"
    assert first["val_accuracy_mean"] == "0.75"
    assert first["val_accuracy_std"] == "0.0707107"  # √0.005
    assert first["val_loss_mean"] == "0.25"
    assert (first["n_seeds"], first["n_diverged"], first["steps"], first["same_as"]) == (2, 1, 20, "")
    assert (rows[3]["steps"], rows[5]["same_as"]) == (10, 2)


def test_a_loss_ranks_the_other_way_round():
    done = [record(0, "relu", [0.5]), record(1, "gelu", [0.7])]
    assert [r["trial"] for r in leaderboard_rows(done, ["val_loss"], VAL)] == [
        0,
        1,
    ]  # its value is the smaller
    assert [r["trial"] for r in leaderboard_rows(done, ["val_accuracy"], VAL)] == [1, 0]


def test_searched_recipe_values_and_latency_have_columns():
    two = record(0, "relu", [0.5], recipe={"lr": 0.005})
    two.values = [0.5, 123.4567891]
    (row,) = leaderboard_rows([two], ["val_accuracy", "latency_us"], VAL)
    assert row["recipe.lr"] == 0.005
    assert row["latency_us"] == "123.457"
    assert row["val_accuracy_std"] == ""  # one seed has none


def test_finalists_have_one_row_a_run():
    rows = finalist_rows([run("gelu", 1003, 0.1 + 0.2, diverged=True, recipe={"lr": 0.02})], ACCURACY)
    assert rows == [
        {"activation": "gelu", "recipe.lr": 0.02, "rate": "1", "seed": 1003, "test_accuracy": "0.3", "test_loss": "0.7",
         "val_accuracy": "0.2", "val_loss": "0.7", "diverged": True, "collapsed": False},
    ]  # fmt: skip


def test_csv_reads_back_and_is_the_same_bytes_for_the_same_search(tmp_path):
    rows = leaderboard_rows(
        [
            record(0, "relu | leaky_relu(negative_slope=0.02)", [1 / 3, 2 / 3]),
            record(1, "gelu", [0.1], recipe={"lr": 1e-05}),
        ],
        ["val_accuracy"],
        VAL,
    )
    write_csv(tmp_path / "a.csv", rows)
    write_csv(tmp_path / "b.csv", rows)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    back = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert back[0]["activation"] == "relu | leaky_relu(negative_slope=0.02)"
    assert back[0]["val_accuracy_mean"] == "0.5"
    assert back[0]["recipe.lr"] == ""
    assert back[1]["recipe.lr"] == "1e-05"
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "new ±\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new ±\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# --- the sentence ---------------------------------------------------------------------------------

TEN = [0.50, 0.60, 0.55, 0.52, 0.58, 0.57, 0.53, 0.56, 0.54, 0.595]
BASE = runs("relu", TEN)
OPTIONS = confirmation()


def compared(all_runs, **keywords):
    return compare_finalists(Evidence(all_runs), confirmation(**keywords))


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.1, ["gelu is better than relu on", "test accuracy 65.45 % against 55.45 %", "Difference +10.00 points"]),
        (
            -0.1,
            [
                "No candidate is better than the baseline relu on digits's test set. gelu is worse than relu on",
                "45.45 % against 55.45 %",
                "Difference -10.00 points",
            ],
        ),
        (0.002, ["gelu is better than relu on", "by less than the margin of 0.5 points"]),
        (0.0, ["gelu and relu are equivalent on", "within ±0.5 points"]),
    ],
)
def test_the_sentence_says_who_is_what_and_by_how_much(shift, words):
    values = [v + shift + 0.0001 * (-1) ** i for i, v in enumerate(TEN)]
    said = sentence(compared([*runs("gelu", values), *BASE]), "digits's test set", OPTIONS)
    for word in words:
        assert word in said
    assert "on digits's test set" in said


def test_the_sentence_gives_the_interval_in_points_and_the_seeds_that_would_decide():
    # differences 0.1, 0.2, 0.3: mean 20 points, half-width 4.302653 · 10 / √3 = 24.84
    three = runs("relu", [0.50, 0.60, 0.55])
    (lead, _) = comparisons = compared([*runs("gelu", [0.6, 0.8, 0.85]), *three])
    said = sentence(comparisons, "t", OPTIONS)
    assert said.startswith("Undecided whether gelu or relu is better on t")
    assert "95 % interval -4.84 to +44.84" in said
    assert f"About {lead.verdict.seeds_to_decide} seeds would decide it." in said


def test_where_the_baseline_stands_first_and_not_all_is_decided():
    below = [v - 0.02 * (i % 2) for i, v in enumerate(TEN)]
    said = sentence(compared([*runs("gelu", below), *BASE]), "t", OPTIONS)
    assert said.startswith(
        "No candidate was shown to be better than the baseline relu on t. Undecided whether gelu or relu is better on t"
    )


def test_the_sentence_speaks_of_the_best_of_failures_and_of_one_seed():
    failing = runs("gelu", [0.9] * 9 + [0.1], diverged=True)
    said = sentence(compared([*runs("tanh", [0.5, 0.6] * 5), *BASE, *failing]), "t", OPTIONS)
    assert said.startswith("gelu is better than relu")
    assert "The others: tanh: undecided" in said
    assert "gelu: 10 of 10 runs failed, the baseline's 0" in said
    one = sentence(compared([run("gelu", 1000, 0.6), run("relu", 1000, 0.5)]), "t", OPTIONS)
    assert "nothing can be said of chance" in one
    assert "nan" not in one
    assert sentence(compared(BASE), "t", OPTIONS) == "Only the baseline was trained: relu reaches 55.45 % on t."


def test_a_ratio_of_negative_numbers_is_not_blamed_on_the_seeds():
    nll = replace(PERPLEXITY, name="nll", words="negative log likelihood")
    options = confirmation(nll)
    said = sentence(compare_finalists(Evidence([*runs("gelu", [-v for v in TEN]), *BASE]), options), "t", options)
    assert "Undecided whether gelu or relu is better" in said
    assert "Their values allow no comparison: see the note." in said
    assert "Note: gelu: test negative log likelihood is compared by ratio, which needs values above 0" in said
    assert "ratio=False" in said
    assert "seed" not in said and "nan" not in said


@pytest.mark.parametrize(
    ("own", "values", "words"),
    [
        (PSNR, [v + 20.31 for v in TEN], ["gelu is better", "test PSNR 20.86 dB against 0.55 dB", "+20.31 dB"]),
        (PSNR, [v + 0.01 for v in TEN], ["by less than the margin of 0.1 dB", "Difference +0.01 dB"]),
        (PERPLEXITY, [0.9 * v for v in TEN], ["gelu is better", "test perplexity 0.499 against 0.554", "-10.0 %"]),
        (PERPLEXITY, [1.1 * v for v in TEN], ["gelu is worse than relu", "+10.0 %"]),
        (replace(PSNR, unit="", name="r2", words="R²"), [v + 0.2 for v in TEN], ["+0.20, 95 %", "R² 0.75 against"]),
    ],
)
def test_other_metrics_have_their_units_and_their_direction(own, values, words, capsys):
    all_runs = [*runs("gelu", [v + 1e-5 * (-1) ** i for i, v in enumerate(values)]), *BASE]
    found = compared(all_runs, own=own)
    said = sentence(found, "t", confirmation(own))
    for word in words:
        assert word in said
    assert found[0].activation == ("relu" if "worse" in said else "gelu")
    rows = leaderboard_rows(DONE, [f"val_{own.name}"], on_validation(own))
    assert [row["rank"] for row in rows if row["rank"]] == [1, 2, 3]
    values = [float(row[f"val_{own.name}_mean"]) for row in rows if row["rank"]]
    assert values == sorted(values, reverse=own.higher_is_better)
    terminal = Terminal()
    terminal.leaderboard(rows, on_validation(own), searched=True)
    terminal.finalists(found, "t", confirmation(own))
    out = capsys.readouterr().out
    assert f"val {own.words}" in out and f"test {own.words} ± sd" in out
    assert "accuracy" not in out and "%" not in (
        out.replace("95 % interval", "").replace("difference (%)", "").replace("0 (26 %)", "")  # failures, at most
    )


def test_a_test_that_disagrees_is_named():
    # five equal differences: the t is sure, and no sign-flip test of five pairs can be
    said = sentence(compared([*runs("gelu", [v + 0.1 for v in TEN[:5]]), *BASE[:5]]), "t", OPTIONS)
    assert said.startswith("Undecided")
    assert "5 paired seeds. That is too few for any verdict at this level: at least 6 are needed." in said
    # one pair in ten the other way: the interval leaves out 0, the signs alone do not
    odd = [v + d for v, d in zip(TEN, [0.01] * 9 + [-0.02], strict=True)]
    said = sentence(compared([*runs("gelu", odd), *BASE]), "t", OPTIONS)
    assert ("but the exact sign-flip test finds" in said) == (not said.startswith("gelu is"))


# --- the terminal ---------------------------------------------------------------------------------


def test_more_work_than_was_planned_is_never_more_than_all_of_it(capsys, monkeypatch):
    monkeypatch.setattr(report_terminal, "LINE_SECONDS", 0.0)
    terminal = Terminal()
    terminal.begin(100, "val_accuracy", "maximize")
    for step in (10, 20, 30):
        terminal.event(RungReached("tuning", step, {}, 50))
    terminal.end()
    shares = [line.split("%")[0].strip() for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert shares == ["50", "100", "100"]


def test_a_log_gets_plain_lines(capsys):
    terminal = Terminal()
    terminal.header({"device": "cpu", "search space": "2 [bold]activations[/bold]"})
    terminal.begin(100, "val_accuracy", "maximize", 25)
    terminal.event(GenerationStarted("search", {0: "relu"}))
    terminal.event(RungReached("search", 10, {}, 50))
    terminal.event(GenerationFinished("search", [DONE[0], DONE[2], DONE[1]]))
    terminal.end()
    terminal.warn("the server said: [/none] [red] no")
    terminal.leaderboard(leaderboard_rows(DONE, ["val_accuracy"], VAL), VAL, searched=True)
    three = runs("relu", [0.50, 0.60, 0.55])
    terminal.finalists(compared([*runs("gelu", [0.6, 0.8, 0.85]), *three]), "digits's test set", OPTIONS)
    terminal.line("[3/4] done")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert " 75 %  search  best so far: gelu (val_accuracy 0.7500)" in out
    assert "search space 2 [bold]activations[/bold]" in out
    assert "the server said: [/none] [red] no" in out
    assert "selected from 6 trials: optimistic (3 ranked; 2 pruned, 1 proposed again)" in out
    assert "[3/4] done" in out
    lines = out.splitlines()
    board = [line.split() for line in lines if line.strip().startswith(("1 ", "2 ", "3 "))][:3]
    assert [line[2] for line in board] == ["gelu", "relu", "elu"]
    assert board[0][3:] == ["75.00", "%", "7.07", "0.2500", "2", "1"]
    (gelu,) = [line for line in lines if "+20.00" in line]
    assert gelu.split()[:2] == ["1", "gelu"]
    assert "-4.84 to +44.84" in gelu
    assert any(line.split()[:2] == ["2", "relu"] and line.count("baseline") == 2 for line in lines)


def test_work_that_takes_a_while_is_shown(capsys, monkeypatch):
    assert list(Terminal().each("abcd", "measuring [4] letters")) == list("abcd")
    assert capsys.readouterr().out == "measuring [4] letters\n"  # no more than that if it is quick
    monkeypatch.setattr("actsearch.report.terminal.LINE_SECONDS", -1.0)
    assert list(Terminal().each("abcd", "measuring")) == list("abcd")
    shares = [line.split("%")[0].strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert shares == ["0", "25", "50", "75"]
    assert list(Terminal(quiet=True).each("abcd", "measuring")) == list("abcd")
    assert capsys.readouterr().out == ""


def test_work_that_takes_a_while_is_a_bar_in_a_terminal():
    terminal, shown = Terminal(), io.StringIO()
    terminal.console = Console(file=shown, force_terminal=True, width=80)
    assert list(terminal.each("abcd", "measuring 4 letters")) == list("abcd")
    assert "measuring 4 letters" in shown.getvalue()
    assert "100%" in shown.getvalue()


def test_a_loss_is_best_when_it_is_smallest(capsys):
    terminal = Terminal()
    terminal.begin(10, "val_loss", "minimize")
    low, high = record(0, "relu", [0.2]), record(1, "gelu", [0.9])
    terminal.event(GenerationFinished("search", [high, low]))
    assert "best so far: relu (val_loss 0.2000)" in capsys.readouterr().out


def test_a_long_leaderboard_is_cut_and_a_quiet_terminal_says_nothing(capsys):
    rows = leaderboard_rows([record(i, "relu", [i / 30]) for i in range(25)], ["val_accuracy"], VAL)
    Terminal().leaderboard(rows, VAL, searched=True, n_show=20)
    out = capsys.readouterr().out
    assert "… and 5 more in leaderboard.csv" in out
    quiet = Terminal(quiet=True)
    quiet.header({"device": "cpu"})
    quiet.leaderboard(rows, VAL, searched=True)
    quiet.warn("no")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_wide_table_is_split_and_no_cell_is_cut(width, capsys):
    terminal = Terminal()
    terminal.console = Console(width=width, highlight=False, soft_wrap=True)
    heads = ["activation", *(f"column {i}" for i in range(8))]
    rows = [["relu [bold]", *(f"{i}.000" for i in range(8))], ["gelu", *(f"{i} to ∞" for i in range(8))]]
    terminal.table(heads, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for row in (heads, *rows):
        parts = [line for line in lines if line.startswith(row[0])]
        assert len(parts) == {30: 8, 60: 2, 200: 1}[width]
        assert re.split(r"  +", "  ".join(part.removeprefix(row[0]).strip() for part in parts)) == row[1:]


def test_every_seed_diverged_shows_no_nan(capsys):
    terminal = Terminal()
    rows = leaderboard_rows([record(0, "relu", [1 / 3], diverged=1)], ["val_accuracy"], VAL)
    terminal.leaderboard(rows, VAL, searched=True)
    out = capsys.readouterr().out
    assert "33.33 %" in out
    assert "nan" not in out


# --- examples like these --------------------------------------------------------------------------


def told_apart(n_examples, shift, n=20, seed=0):
    """Runs of gelu and relu that are right for 60 % of the examples, gelu for others than relu, and a few more."""
    rng, out = np.random.default_rng(seed), []
    base = np.arange(n_examples) % 5 < 3
    other = np.roll(base, 2)
    other[: round(shift * n_examples)] = True
    for name, usual in (("gelu", other), ("relu", base)):
        for i in range(n):
            right = usual ^ (rng.random(n_examples) < 0.02)
            made = run(name, 1000 + i, float(right.mean()))
            made.of_each = {"test_accuracy": pack(right)}
            out.append(made)
    return out


def test_both_intervals_are_said_and_shown(tmp_path):
    found = compared(told_apart(1000, 0.0))
    verdict = next(c.verdict for c in found if c.verdict)
    said = sentence(found, "t", confirmation())
    ends = [f"{100 * end:+.2f}" for end in (verdict.population_ci_low, verdict.population_ci_high)]
    assert f"on these examples ({ends[0]} to {ends[1]} on examples like these)" in said
    assert "more examples would decide it, more seeds would not" in said and "would decide it." not in said
    heads, rows = finalist_table(found, confirmation())
    column = heads.index("on examples like these")
    assert sorted(row[column] for row in rows) == ["", f"{ends[0]} to {ends[1]}"]
    assert [len(row) for row in rows] == [len(heads)] * 2
    row = json.loads(json.dumps(verdict_rows(found)))[0]
    assert row["population_ci_low"] < row["ci_low"] < row["ci_high"] < row["population_ci_high"]
    assert row["few_examples"] is True and row["verdict"] == "undecided"
    # without the examples' numbers there is one interval, and null in JSON
    bare = compared(runs("gelu", TEN) + BASE)
    assert "examples like these" not in sentence(bare, "t", confirmation())
    assert "on examples like these" not in finalist_table(bare, confirmation())[0]
    assert verdict_rows(bare)[0]["population_ci_low"] is None


def test_a_difference_that_other_examples_may_not_have_is_said():
    said = sentence(compared(told_apart(500, 0.06)), "t", confirmation())
    assert said.startswith("gelu is better than relu")
    assert "On other examples like these it may be otherwise: that interval includes 0." in said
    said = sentence(compared(told_apart(20_000, 0.06)), "t", confirmation())
    assert said.startswith("gelu is better than relu") and "otherwise" not in said


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["gelu", "relu"])
def test_a_claim_about_means_with_failed_runs_is_marked(who):
    failing = [run("gelu", 1010, 0.1, diverged=who == "gelu"), run("relu", 1010, 0.1, diverged=who == "relu")]
    found = compared([*runs("gelu", [v + 0.2 for v in TEN]), *BASE, *failing])
    assert ", failed runs included." in sentence(found, "t", confirmation())
    heads, rows = finalist_table(found, confirmation())
    column = heads.index("verdict")
    assert [row[column] for row in rows] == ["better *", "baseline"]
    plain = compared([*runs("gelu", [v + 0.2 for v in TEN]), *BASE])
    assert [row[heads.index("verdict")] for row in finalist_table(plain, confirmation())[1]] == ["better", "baseline"]
    assert "included" not in sentence(plain, "t", confirmation())
