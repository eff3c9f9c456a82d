"""The whole way: MLflow down and delivered later, what is stored and reported again, the test set's one reading."""

import socket
from dataclasses import replace

import mlflow
import optuna
import pytest
from fake_trainer import FakeTrainer, Killed, confirmation

from actsearch import pipeline
from actsearch.activations.spec import parse_net, print_net
from actsearch.data.source import Data
from actsearch.errors import ActSearchError
from actsearch.job import Job
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.metrics import ACCURACY
from actsearch.question.options import StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.records import Candidate, Cost
from actsearch.report.terminal import Terminal
from actsearch.space.space import SearchSpace
from actsearch.study.samplers import SamplerFactory

RECIPE = {"steps": 20, "eval_every": 10, "batch_size": 15}


# --- the whole way with MLflow --------------------------------------------------------------------


def job(folder, blobs, **keywords):
    recipe = Recipe(**RECIPE)
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 1})
    values = {
        "model": model, "data": blobs(), "recipe": recipe,
        "space": SearchSpace(["relu", "tanh", "gelu"], n_slots=1, base=recipe),
        "study": StudyOptions(name="s", n_trials=4, seeds=2, generation=2).settled(ACCURACY),
        "confirm": confirmation(finalists=1, seeds=2),
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
    assert out.count("warning: MLflow") == 1
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
    assert [kind for kind, *_ in there].count("trial") == len([r for r in result.rows if r["state"] != "duplicate"])
    assert {status for *_, status in there} == {"FINISHED"}
    pipeline.deliver(replace(down, tracking_uri=later))
    assert mlflow_runs(later) == there

    # with a server all along, the same stands there
    live = f"sqlite:///{tmp_path}/live.db"
    pipeline.run(job(tmp_path / "up", blobs, tracking_uri=live), Terminal(quiet=True))
    assert mlflow_runs(live) == there


def test_delivering_after_going_on_gives_the_result_of_the_last_run(fake, blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = job(tmp_path, blobs, confirm=confirmation(finalists=2, seeds=2))
    pipeline.run(small, Terminal(quiet=True))
    last = replace(small, confirm=confirmation(finalists=1, seeds=3))  # fewer finalists, more seeds
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


# --- one process leads a study --------------------------------------------------------------------


def test_a_killed_process_in_postgresql_changes_nothing_and_a_second_one_is_refused(
    fake, blobs, tmp_path, monkeypatch, postgresql
):
    plain = pipeline.run(job(tmp_path / "plain", blobs, storage_url=postgresql()), Terminal(quiet=True))
    cut = job(tmp_path / "cut", blobs, storage_url=postgresql())
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "Trainer", lambda *a, **k: FakeTrainer(die_at=3))
        with pytest.raises(Killed):
            pipeline.run(cut, Terminal(quiet=True))
    with pytest.raises(ActSearchError, match="not finished"):
        pipeline.report(cut, Terminal(quiet=True))
    second = []

    class Watched(FakeTrainer):
        def start(self, runs):
            with pytest.raises(ActSearchError, match="held by another process"):
                pipeline.run(cut, Terminal(quiet=True))
            second.append(len(runs))
            super().start(runs)

    with monkeypatch.context() as watched:
        watched.setattr(pipeline, "Trainer", Watched)
        again = pipeline.run(cut, Terminal(quiet=True))
    assert second[0] == 2  # the trial that was in flight, two seeds; the other of its generation is a duplicate
    assert (again.rows, again.runs, again.summary) == (plain.rows, plain.runs, plain.summary)


def test_a_search_that_was_raised_and_killed_has_no_report_yet(fake, blobs, tmp_path, monkeypatch):
    space = SearchSpace(["relu", {"elu": {"alpha": "search"}}], n_slots=1, base=Recipe(**RECIPE))
    small = job(tmp_path, blobs, space=space)
    pipeline.run(small, Terminal(quiet=True))
    more = replace(small, study=replace(small.study, n_trials=8))
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "Trainer", lambda *a, **k: FakeTrainer(die_at=1))
        with pytest.raises(Killed):
            pipeline.run(more, Terminal(quiet=True))
    for asked in (small, more):  # two trials are in flight, and none of them counts
        with pytest.raises(ActSearchError, match="not finished"):
            pipeline.report(asked, Terminal(quiet=True))
    pipeline.run(more, Terminal(quiet=True))
    assert len(pipeline.report(more, Terminal(quiet=True)).rows) == 8


# --- the test set ---------------------------------------------------------------------------------


def test_nothing_reads_the_test_set_before_the_finalists_have_been_trained(blobs, tmp_path, monkeypatch):
    """Real training. The set's only door is watched: who opens it, and when."""
    opened, stages = [], []
    data = blobs()
    inner = data.source.test
    data.source = replace(data.source, test=lambda: opened.append(list(stages)) or inner())
    event = Terminal.event
    monkeypatch.setattr(Terminal, "event", lambda self, e: stages.append(type(e).__name__ + e.stage) or event(self, e))
    space = SearchSpace(["relu", "tanh"], {"lr": [0.01, 0.05]}, n_slots=1, base=Recipe(**RECIPE))
    asked = replace(
        job(tmp_path, blobs, space=space, study=StudyOptions(name="s", n_trials=3, seeds=2).settled(ACCURACY)),
        data=data,
    )
    result = pipeline.run(asked, Terminal(quiet=True))
    assert len(opened) == 1  # two finalists' two seeds are trained together: one reading
    before = opened[0]
    assert before.count("RungReachedfinalists") == 2  # after their last rung
    assert before.count("GenerationStartedsearch") > 0
    assert before.count("GenerationStartedtuning") >= 2 * 2  # the grid of each, and the best of it again
    assert before[-1] == "RungReachedfinalists"
    assert result.n_test == 30

    # and whoever trains does not even hold it
    with pytest.raises(RuntimeError, match="the search asked for the test set"):
        data.without_test().test()
    # a finished study is read from its storage; the set is opened to see whether it is still the same one
    asked = replace(asked, data=Data(data.source, "blobs", 30))
    pipeline.run(asked, Terminal(quiet=True))
    assert len(opened) == 2
    pipeline.report(asked, Terminal(quiet=True))
    assert len(opened) == 2
    x, y = inner()
    asked = replace(asked, data=Data(replace(data.source, test=lambda: (x + 1, y)), "blobs", 30))
    with pytest.raises(ActSearchError, match=r"test set of 's' is not the one .* study\.fresh=true trains again"):
        pipeline.run(asked, Terminal(quiet=True))


# --- a report again -------------------------------------------------------------------------------


def test_the_report_is_made_again_from_the_storage_alone(fake, blobs, tmp_path):
    asked = job(tmp_path, blobs, config_yaml="a: 1\n")
    first = pipeline.run(asked, Terminal(quiet=True))
    files = [f for f in tmp_path.rglob("*") if f.suffix in (".csv", ".json", ".html", ".md", ".tex", ".png")]
    made = {f: f.read_bytes() for f in files if f.name != "timing.json"}
    assert {f.name for f in made} >= {"report.html", "verdict.json", "finalists.tex", "finalists.md", "cost.png"}
    for file in made:
        file.unlink()
    n = len(fake)
    again = pipeline.report(asked, Terminal(quiet=True))
    assert len(fake) == n
    assert again == first
    for file, content in made.items():
        assert file.read_bytes() == content, file


def test_a_report_of_another_margin_has_other_verdicts_and_the_same_numbers(fake, blobs, tmp_path):
    asked = job(tmp_path, blobs, confirm=confirmation(finalists=1, seeds=7))
    first = pipeline.run(asked, Terminal(quiet=True))
    wide = replace(asked, confirm=confirmation(finalists=1, seeds=7, margin={"test_accuracy": 0.9}))
    (old,), (new,) = (
        [v for v in r.verdicts if v["primary"]] for r in (first, pipeline.report(wide, Terminal(quiet=True)))
    )
    assert new["difference"] == old["difference"]
    assert "margin" in new["verdict"] or new["verdict"] == "equivalent"


def test_going_on_with_more_seeds_is_named_a_second_look(fake, blobs, tmp_path, capsys):
    asked = job(tmp_path, blobs, confirm=confirmation(finalists=1, seeds=6))
    assert pipeline.run(asked, Terminal()).earlier_looks == []
    assert pipeline.run(asked, Terminal()).earlier_looks == []  # the same again is no further look
    assert "seen before" not in capsys.readouterr().out
    more = replace(asked, confirm=confirmation(finalists=1, seeds=8))
    (seen,) = pipeline.run(more, Terminal()).earlier_looks
    assert seen.startswith("s on 20") and seen.endswith(
        "test_accuracy against relu, 6 seeds, alpha 0.05, margin 0.005, 2 nets"
    )
    assert f"warning: Another verdict on this test set was seen before: {seen}." in capsys.readouterr().out
    assert f"was seen before: {seen}" in (tmp_path / "report.html").read_text()
    # to fewer seeds, to another metric: the same
    assert len(pipeline.run(asked, Terminal()).earlier_looks) == 1
    loss = replace(more, confirm=confirmation(finalists=1, seeds=8, metric="test_loss"))
    with pytest.raises(ActSearchError, match=r"last run with confirm\.metric=test_accuracy\."):  # it tunes by another
        pipeline.report(loss, Terminal())
    assert len(pipeline.run(loss, Terminal()).earlier_looks) == 2
    assert "seen before" in capsys.readouterr().out


def test_another_study_on_the_same_test_set_is_a_further_look(fake, blobs, tmp_path):
    first = job(tmp_path / "a", blobs)
    pipeline.run(first, Terminal(quiet=True))
    other = replace(first, study=replace(first.study, name="t"), folder=tmp_path / "b",
                    storage_url=f"sqlite:///{tmp_path}/b/study.db")  # fmt: skip
    (seen,) = pipeline.run(other, Terminal(quiet=True)).earlier_looks
    assert seen.startswith("s on 20")
    small = Model(mlp, "mlp", (6,), 3, {"width": 4, "depth": 1})
    small.name = "another"
    elsewhere = replace(other, study=replace(first.study, name="u"), model=small)
    assert pipeline.run(elsewhere, Terminal(quiet=True)).earlier_looks == []


def test_a_report_of_other_finalists_is_refused(fake, blobs, tmp_path):
    asked = job(tmp_path, blobs, confirm=confirmation(finalists=1, seeds=6))
    pipeline.run(asked, Terminal(quiet=True))
    for words, options in (
        ("finalists=1", {"finalists": 2}), ("baseline=relu", {"baseline": "gelu"}),
        (r"tune=\{'lr': \[0\.005, 0\.01, 0\.02, 0\.04\], 'weight_decay': \[.*", {"tune": "none"}),
    ):  # fmt: skip
        asked_now = confirmation(**{"finalists": 1, "seeds": 6, **options})
        with pytest.raises(ActSearchError, match=rf"the study 's' was last run with confirm\.{words}\. Write it"):
            pipeline.report(replace(asked, confirm=asked_now), Terminal(quiet=True))


def test_too_few_seeds_for_any_verdict_are_named_before_anything_is_trained(fake, blobs, tmp_path, capsys):
    few = job(tmp_path, blobs, confirm=confirmation(finalists="all", seeds=6))  # two comparisons: 7 at least
    pipeline.run(few, Terminal())
    assert "warning: so few seeds can decide nothing here: with these comparisons it takes at least 7" in (
        capsys.readouterr().out
    )


def test_an_unfinished_study_has_no_report(fake, blobs, tmp_path, monkeypatch):
    asked = job(tmp_path, blobs)
    with pytest.raises(ActSearchError, match="there is no study 's'"):
        pipeline.report(asked, Terminal(quiet=True))
    monkeypatch.setattr(pipeline, "Trainer", lambda *a, **k: FakeTrainer(die_at=3))
    with pytest.raises(Killed):
        pipeline.run(asked, Terminal(quiet=True))
    with pytest.raises(ActSearchError, match="not finished"):
        pipeline.report(asked, Terminal(quiet=True))


def test_costs_are_measured_once_for_the_same_finalists(fake, blobs, tmp_path, monkeypatch):
    measured = []
    inner = pipeline.net_costs
    monkeypatch.setattr(pipeline, "net_costs", lambda nets, *rest: measured.append(len(nets)) or inner(nets, *rest))
    asked = job(tmp_path, blobs)
    first = pipeline.run(asked, Terminal(quiet=True))
    pipeline.run(asked, Terminal(quiet=True))
    assert measured == [2]
    assert all(c.training_step_us > c.latency_us > 0 for c in first.comparisons)


# --- tuning ---------------------------------------------------------------------------------------


def test_one_recipe_for_all_is_said_to_favour_some(fake, blobs, tmp_path, capsys):
    asked = job(tmp_path, blobs, confirm=confirmation(finalists=1, seeds=2, tune="none"))
    result = pipeline.run(asked, Terminal())
    out = capsys.readouterr().out
    assert "tuning       none: one recipe for all" in out
    assert "warning: confirm.tune=none: all are trained with one recipe, which favours the activations that it" in out
    assert any("one recipe, which favours" in warning for warning in result.warnings)
    assert "one recipe, which favours" in (tmp_path / "report.html").read_text()
    assert all(c.recipe == {} for c in result.comparisons)
    assert len(fake) == 3 * 2 + 2 * 2  # a trial for each, and two finalists


def test_what_lies_at_an_edge_is_said(fake, blobs, tmp_path, capsys):
    asked = job(tmp_path, blobs, confirm=confirmation(finalists="all", seeds=2, tune={"lr": [0.01, 0.02]}))
    result = pipeline.run(asked, Terminal())
    best = {c.activation: c.recipe["lr"] for c in result.comparisons}
    for name, lr in best.items():
        said = f"The best lr={lr} for {name} is at the edge of what was tried: a better one may lie beyond."
        assert said in result.warnings
        assert said in " ".join(capsys.readouterr().out.split()) or name != "relu"
    assert "lr" in (tmp_path / "finalists.csv").read_text().partition("\n")[0]


# --- learning speed -------------------------------------------------------------------------------


def test_learning_speed_is_judged_at_three_rates_and_against_the_baselines_target(fake, blobs, tmp_path):
    speed = Recipe(steps=100, eval_every=2, batch_size=15, schedule="constant")
    options = confirmation(finalists="all", seeds=3, metric="learning_speed")
    space = SearchSpace(["relu", "tanh"], n_slots=1, base=speed)
    result = pipeline.run(job(tmp_path, blobs, recipe=speed, space=space, confirm=options), Terminal(quiet=True))
    for name, tuned in {run.activation: run.recipe["lr"] for run in result.runs if run.rate == 1}.items():
        rates = {r.recipe.lr / tuned for r in fake if r.seed >= 1000 and str(r.specs[0]) == name}
        assert sorted(rates) == pytest.approx([1 / 3, 1, 3], rel=1e-3)
    primary = [v for v in result.verdicts if v["primary"]]
    assert sorted(v["rate"] for v in primary) == [0.333333, 1.0, 3.0]
    assert {v["confidence"] for v in primary} == {1 - 0.05 / 3}
    assert {v["metric"] for v in result.verdicts if not v["primary"]} == {
        "test_accuracy", "test_loss", "steps_to_accuracy", "time_to_accuracy_s", "training_step_us", "latency_us",
    }  # fmt: skip
    assert result.target is not None
    assert "At other learning rates, a third of it: " in result.summary
    assert "; 3 times it: " in result.summary


def test_learning_speed_needs_a_curve_that_shows_it(blobs, tmp_path):
    asked = job(tmp_path, blobs, confirm=confirmation(metric="learning_speed"))
    cure = r"recipe\.schedule=constant recipe\.steps=50 recipe\.eval_every=1\."
    with pytest.raises(ActSearchError, match=cure):
        pipeline.run(asked, Terminal(quiet=True))


def test_what_a_grammar_gave_that_was_of_no_use_is_told(fake, no_pictures, blobs, tmp_path, capsys):
    grammar = {"grammar": {"unary": ["x", "tanh(x)", "0", "1 / x"], "binary": ["a * b"]}}
    space = SearchSpace(["relu", grammar], n_slots=1, base=Recipe(**RECIPE))
    study = StudyOptions(name="s", n_trials=6, seeds=1, generation=3).settled(ACCURACY)
    result = pipeline.run(job(tmp_path, blobs, space=space, study=study), Terminal())
    rows = (tmp_path / "refused.csv").read_text().splitlines()
    assert rows[0] == "function,reason"
    assert dict(row.rsplit(",", 1) for row in rows[1:]) == dict(result.refused)
    assert {"constant", "not finite"} >= set(result.refused.values())
    assert result.refused
    result.report(Terminal())
    assert f"rejected before training, listed in refused.csv: {len(rows) - 1} (" in capsys.readouterr().out
    assert "refused.csv" in (tmp_path / "report.html").read_text()


# --- equal time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["none", {"lr": [0.01, 0.03]}])
def test_finalists_that_train_equally_long_have_the_steps_that_their_time_allows(
    fake, blobs, tmp_path, monkeypatch, tune
):
    """gelu takes twice as long as relu, tanh two thirds: 10, 30 and 20 steps."""
    us = {"relu": 100.0, "gelu": 200.0, "tanh": 66.67}
    measured = []

    def costs(nets, *_):
        measured.append(len(nets))
        return [Cost([us[name]] * 3, [1.0] * 3, 1.0) for name in ("gelu", "tanh", "relu")[-len(nets) :]]

    monkeypatch.setattr(pipeline, "net_costs", costs)
    monkeypatch.setattr(
        pipeline.stage, "choose_finalists",
        lambda *_: [Candidate(parse_net(name)) for name in ("gelu", "tanh", "relu")],
    )  # fmt: skip
    asked = job(tmp_path, blobs, confirm=confirmation(finalists=2, seeds=7, equal="time", tune=tune))
    result = pipeline.run(asked, Terminal(quiet=True))
    steps = {"relu": 20, "gelu": 10, "tanh": 30}
    assert {c.activation: c.recipe["steps"] for c in result.comparisons} == steps
    assert all(run.curves.steps[-1] == steps[run.activation] for run in result.runs)
    if tune != "none":  # they are tuned with the steps that they get
        assert {c.recipe["lr"] for c in result.comparisons} <= {0.01, 0.03}
        assert {(print_net(r.specs), r.recipe.steps) for r in fake if r.recipe.lr == 0.03} == set(steps.items())
    assert measured == [3]
    assert "train as long as relu" in result.about["recipe"]
    # the same again, after a kill and as a report: nothing is measured anew, the digits are the same
    n = len(fake)
    monkeypatch.setattr(pipeline, "net_costs", None)
    assert pipeline.run(asked, Terminal(quiet=True)).comparisons == result.comparisons
    assert len(fake) == n
    assert pipeline.report(asked, Terminal(quiet=True)).comparisons == result.comparisons
    with pytest.raises(ActSearchError, match=r"confirm\.equal=time"):
        pipeline.report(replace(asked, confirm=replace(asked.confirm, equal="steps")), Terminal(quiet=True))


def test_a_kill_between_finalists_of_other_steps_changes_nothing(fake, blobs, tmp_path, monkeypatch):
    us = [[200.0] * 3, [100.0] * 3]  # of the finalist and of the baseline
    monkeypatch.setattr(pipeline, "net_costs", lambda nets, *_: [Cost(step_us, [1.0] * 3, 1.0) for step_us in us])
    options = confirmation(finalists=1, seeds=12, equal="time", tune="none")
    whole = pipeline.run(job(tmp_path / "whole", blobs, confirm=options), Terminal(quiet=True))
    started = [(print_net(r.specs), r.seed) for r in fake if r.seed >= 1000]
    for die_at in range(5, 11):  # the search takes four rungs, the finalists six
        cut = job(tmp_path / f"cut{die_at}", blobs, confirm=options)
        runs = []
        with monkeypatch.context() as dying:
            dying.setattr(pipeline, "Trainer", lambda *a, n=die_at, **k: FakeTrainer(die_at=n))
            with pytest.raises(Killed):
                pipeline.run(cut, Terminal(quiet=True))
        monkeypatch.setattr(pipeline, "Trainer", lambda *a, runs=runs, **k: FakeTrainer(on_start=runs.append))
        result = pipeline.run(cut, Terminal(quiet=True))
        assert result.comparisons == whole.comparisons
        # what was in flight is trained again in the same company, and so is the rest
        batches = [[(print_net(r.specs), r.seed) for r in batch if r.seed >= 1000] for batch in runs]
        for batch in filter(None, batches):
            at = started.index(batch[0])
            assert started[at : at + len(batch)] == batch


# --- fresh seeds ----------------------------------------------------------------------------------


def test_a_further_look_has_fresh_seeds_if_it_is_asked_for(fake, blobs, tmp_path, monkeypatch):
    def seeds(asked):
        return sorted({r.seed for r in pipeline.run(asked, Terminal(quiet=True)).runs})

    first = job(tmp_path, blobs, confirm=confirmation(finalists=1, seeds=3))
    assert seeds(first) == [1000, 1001, 1002]
    more = replace(first, confirm=confirmation(finalists=1, seeds=4))
    assert seeds(more) == [1000, 1001, 1002, 1003]  # the same and one more
    fresh = replace(first, confirm=confirmation(finalists=1, seeds=4, fresh=True))
    with pytest.raises(ActSearchError, match="not finished"):
        pipeline.report(fresh, Terminal(quiet=True))
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "Trainer", lambda *a, **k: FakeTrainer(die_at=2))
        with pytest.raises(Killed):
            pipeline.run(fresh, Terminal(quiet=True))
    assert seeds(fresh) == [1004, 1005, 1006, 1007]
    assert seeds(fresh) == [1004, 1005, 1006, 1007]  # the same question
    assert {r.seed for r in pipeline.report(fresh, Terminal(quiet=True)).runs} == {1004, 1005, 1006, 1007}
    larger = replace(first, confirm=confirmation(finalists=1, seeds=2, fresh=True, alpha=0.01))
    assert seeds(larger) == [1008, 1009]
    assert seeds(first) == [1000, 1001, 1002]
    looks = pipeline.run(fresh, Terminal(quiet=True)).earlier_looks
    assert any("4 seeds," in look for look in looks) and any("2 seeds from 1008 on," in look for look in looks)
