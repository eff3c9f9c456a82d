"""Goals: losses, metrics, what guessing scores; and data sets of each kind, from the net to the verdict."""

import itertools
import json
import math
from dataclasses import replace

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actsearch
from actsearch.activations.spec import parse_net
from actsearch.data.goal import Goal, check_goal, classification, cross_entropy, next_token, pixels
from actsearch.data.image import image
from actsearch.data.source import Data, Source, make_data, take
from actsearch.data.text import text
from actsearch.errors import ActSearchError
from actsearch.models import mlp, transformer
from actsearch.models.model import Model
from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, Metric
from actsearch.question.options import ConfirmOptions, StudyOptions
from actsearch.question.recipe import Recipe
from actsearch.training.diagnostics import diagnose
from actsearch.training.reference import score

TOKENS = torch.tensor([[0, 1, 1], [2, 1, 0]])
LOGITS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
MAE = Metric("mae", "mean absolute error", ratio=False, margin=0.01)


def waves(goal, n=120):
    """y = sin of the inputs' sum, in [0, 1]."""
    x = torch.randn(n + 40, 2, generator=torch.Generator().manual_seed(1))
    y = 0.5 + 0.5 * torch.sin(x.sum(1, keepdim=True))
    return Source(x[:n], y[:n], lambda: (x[n:], y[n:]), goal=goal(y[:n]))


def absolute(y):
    """A user's own: its loss has no fused form, its score is a mean over examples."""
    return Goal(
        MAE, F.l1_loss, (1,), (float((y - y.median()).abs().mean()), 0.5),
        score=lambda outputs, y: (outputs - y).abs().mean(-1),
    )  # fmt: skip


# --- losses and metrics ---------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_all_tokens():
    each = [-LOGITS[n, t].log_softmax(0)[TOKENS[n, t]] for n, t in itertools.product(range(2), range(3))]
    assert cross_entropy(LOGITS, TOKENS) == pytest.approx(sum(each).item() / 6, rel=1e-6)
    assert cross_entropy(LOGITS[:, 0], TOKENS[:, 0]) == F.cross_entropy(LOGITS[:, 0], TOKENS[:, 0])


def test_guessing_a_class_is_one_of_n_and_three_errors_above_the_commonest():
    goal = classification(4)
    assert goal.guess == (0.25, math.log(4))
    y = torch.tensor([0] * 50 + [1] * 50)
    assert goal.is_guessing(0.5 + 3 * 0.05 - 1e-9, y) and not goal.is_guessing(0.5 + 3 * 0.05 + 1e-9, y)


def test_perplexity_is_the_exponential_of_the_loss_and_guessing_is_the_tokens_frequencies():
    goal = next_token(TOKENS, 4)
    assert (goal.metric, goal.out_shape) == (PERPLEXITY, (3, 4))
    assert goal.value(math.log(5), math.nan) == pytest.approx(5)
    shares = [2 / 6, 3 / 6, 1 / 6]
    assert goal.guess[1] == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert goal.guess[0] == pytest.approx(math.exp(goal.guess[1]))
    always = torch.tensor([*shares, 0]).log().expand(2, 3, 4)
    assert cross_entropy(always, TOKENS) == pytest.approx(goal.guess[1], rel=1e-6)  # what such an answer has
    assert goal.is_guessing(goal.guess[0], TOKENS) and not goal.is_guessing(goal.guess[0] - 1e-6, TOKENS)
    assert math.isfinite(goal.value(1e4, math.nan))  # beyond a float's range


def test_psnr_in_decibels_and_guessing_is_the_mean():
    y = torch.tensor([[0.0, 0.2], [1.0, 0.4], [0.5, 0.6]])
    goal = pixels(y)
    assert goal.value(0.01, math.nan) == pytest.approx(20)
    assert goal.value(0.0, math.nan) == 200
    error = F.mse_loss(y.mean(0).expand(3, 2), y).item()
    assert goal.guess == pytest.approx((-10 * math.log10(error), error), rel=1e-6)
    assert goal.is_guessing(goal.guess[0], y) and not goal.is_guessing(goal.guess[0] + 1e-3, y)


def test_the_plain_loops_score_is_the_metric_of_the_whole_set():
    net = nn.Linear(2, 1)
    source = waves(pixels)
    value, loss, _ = score(net, source.x, source.y, source.goal)
    assert loss == pytest.approx(F.mse_loss(net(source.x), source.y).item(), rel=1e-6)
    assert value == pytest.approx(-10 * math.log10(loss), rel=1e-6)
    source = waves(absolute)
    value, loss, _ = score(net, source.x, source.y, source.goal)
    assert value == pytest.approx((net(source.x) - source.y).abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({}, "score or of_loss"), ({"of_loss": float, "score": F.l1_loss}, "score or of_loss"),
     ({"metric": Metric("loss", "loss"), "of_loss": float}, "other than loss")],
)  # fmt: skip
def test_goals_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ActSearchError, match=words):
        Goal(**{"metric": MAE, "loss": F.l1_loss, "out_shape": (1,), "guess": (1.0, 1.0), **keywords})


def test_a_goal_that_does_not_fit_its_data_is_refused_when_they_are_made():
    x, y = torch.zeros(9, 2), torch.zeros(9, 3)
    for out_shape, loss in (
        ((4,), F.mse_loss),
        ((1,), F.mse_loss),  # which torch would broadcast
        ((3,), lambda outputs, y: (outputs - y).square()),
    ):
        goal = Goal(MAE, loss, out_shape, (1.0, 1.0), of_loss=float)
        with pytest.raises(ActSearchError, match="its goal"):
            take(Source(x, y, lambda: (x, y), goal=goal), "mine")
    with pytest.raises(ActSearchError, match=r"y has the shape \(9, 3\)\. Wanted: one class per example"):
        take(Source(x, y, lambda: (x, y)), "mine")
    with pytest.raises(ActSearchError, match="no finite numbers"):
        take(Source(x, y / 0, lambda: (x, y), goal=pixels(y)), "mine")


def nll(outputs, y):
    return F.gaussian_nll_loss(outputs[..., :1], y, F.softplus(outputs[..., 1:]) + 1e-4)


def similar(outputs, y):
    return 1 - F.cosine_similarity(outputs, y).mean()


MAYBE_NEGATIVE = {
    "a likelihood": Goal(Metric("nll", "likelihood"), nll, (2,), (2.0, 2.0), of_loss=float),
    "R²": Goal(Metric("r2", "R²", True), F.mse_loss, (1,), (0.01, 1.0), of_loss=lambda loss: 1 - loss),
    "R² by score": Goal(
        Metric("r2", "R²", True), F.mse_loss, (1,), (0.01, 1.0), score=lambda out, y: 1 - (out - y).square()[..., 0]
    ),
    "a logarithm": Goal(Metric("log", "log error"), F.mse_loss, (1,), (1.0, 1.0), of_loss=math.log),
    "a similarity": Goal(Metric("cos", "cosine", True), similar, (1,), (0.1, 1.0), of_loss=lambda loss: 1 - loss),
}  # fmt: skip


@pytest.mark.parametrize("which", MAYBE_NEGATIVE)
def test_a_metric_that_can_be_negative_needs_ratio_false_before_anything_is_trained(which, rng_untouched):
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    goal = MAYBE_NEGATIVE[which]
    with pytest.raises(ActSearchError, match=rf"metric '{goal.metric.name}' is -.*ratio=False, margin="):
        take(Source(x, y, lambda: (x, y), goal=goal), "mine")
    by_difference = replace(goal, metric=replace(goal.metric, ratio=False))
    with rng_untouched():
        take(Source(x, y, lambda: (x, y), goal=by_difference), "mine")


def test_metrics_that_are_never_negative_keep_their_ratio():
    y = torch.randn(40, 1)
    for goal in (
        Goal(Metric("mae", "error"), F.l1_loss, (1,), (1.0, 1.0), of_loss=float),
        Goal(Metric("rmse", "error"), F.mse_loss, (1,), (1.0, 1.0), of_loss=math.sqrt),
        Goal(Metric("error", "error rate"), cross_entropy, (3,), (0.6, 1.1), score=lambda out, y: out.argmax(-1) != y),
    ):
        answers = torch.arange(40) % 3 if goal.out_shape == (3,) else y
        assert check_goal(goal, answers) >= 0
    divergence = Goal(  # by rounding it gets a little below 0
        Metric("kl", "divergence"), lambda out, y: F.kl_div(out.log_softmax(-1), y, reduction="batchmean"), (3,),
        (1.0, 1.0), of_loss=float,
    )  # fmt: skip
    assert check_goal(divergence, torch.rand(40, 3).softmax(-1)) > -1e-6


def test_a_loss_that_holds_a_net_is_left_as_it_was():
    judge, y = nn.Linear(1, 4), torch.randn(40, 1)
    goal = Goal(MAE, lambda out, y: (judge(out) - judge(y)).square().mean(), (1,), (1.0, 1.0), of_loss=float)
    check_goal(goal, y)
    assert judge.weight.grad is None


@pytest.mark.parametrize("held", ["closure", "method", "module"])
def test_weights_of_a_loss_are_said_to_stay(held):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(3))

        def forward(self, out, y):
            return (out - y).square().mean() + (out - self.centre).square().mean()

    loss = Centred()
    given = {"closure": lambda out, y: 2 * loss(out, y), "method": loss.forward, "module": loss}[held]
    y = torch.randn(40, 3)
    goal = Goal(MAE, given, (3,), (1.0, 1.0), of_loss=float)
    source = Source(torch.randn(40, 2), y, (torch.randn(10, 2), torch.randn(10, 3)), goal=goal)
    assert [remark for remark in Data(source, "mine", 10).remarks if "3 weights of its own" in remark]
    loss.requires_grad_(False)
    assert not [remark for remark in Data(source, "mine", 10).remarks if "of its own" in remark]


def test_outputs_that_are_too_large_are_not_tried():
    seen = []
    goal = Goal(MAE, lambda out, y: seen.append(len(out)) or (out - y).mean(), (2**19,), (1.0, 1.0), of_loss=float)
    check_goal(goal, torch.zeros(2, 1).expand(2, 2**19))
    assert seen == [2]  # whether it fits the shapes


def test_the_least_loss_is_that_of_outputs_that_fit():
    y = torch.randn(40, 1)
    likelihood = replace(MAYBE_NEGATIVE["a likelihood"], metric=Metric("nll", "likelihood", ratio=False))
    assert check_goal(likelihood, y) < -2
    assert Data(Source(y, y, lambda: (y, y), goal=likelihood), "mine", 5).least_loss < -2
    assert check_goal(absolute(y), y) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (
            lambda y: Goal(MAE, lambda out, y: (out - y).mean() * math.nan, (1,), (1.0, 1.0), of_loss=float),
            "never a fini",
        ),
        (lambda y: Goal(MAE, lambda out, y: (out > y).float().mean(), (1,), (1.0, 1.0), of_loss=float), "no gradient"),
        (lambda y: Goal(MAE, F.mse_loss, (1,), (1.0, 1.0), of_loss=lambda loss: 1 / 0), "its goal fails: ZeroDivision"),
        (lambda y: Goal(MAE, F.mse_loss, (1,), (1.0, 1.0), of_loss=lambda loss: None), "its goal fails: TypeError"),
        (
            lambda y: Goal(MAE, F.mse_loss, (1,), (math.nan, 1.0), of_loss=float),
            r"guess=\(nan, 1.0\) must be two finite",
        ),
        (
            lambda y: Goal(replace(MAE, ratio=True), F.mse_loss, (1,), (0.0, 1.0), of_loss=float),
            r"is 0 \(guess\).*ratio=Fa",
        ),
    ],
)
def test_goals_that_cannot_train_or_judge_are_refused(goal, words):
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    with pytest.raises(ActSearchError, match=words):
        take(Source(x, y, lambda: (x, y), goal=goal(y)), "mine")


def test_answers_of_a_goal_become_float32_and_int64_and_text_is_refused():
    x = torch.zeros(9, 2)
    zeros = torch.zeros(9, 1)
    for y in (zeros.numpy(), zeros.double(), zeros.half(), pd.DataFrame({"a": [1.5] * 9})):
        assert take(Source(x, y, (x, y), goal=absolute(zeros)), "mine").source.y.dtype == torch.float32
    tokens = np.ones((9, 3), np.uint16)
    assert take(Source(x, tokens, lambda: None, goal=next_token(TOKENS, 4)), "mine").source.y.dtype == torch.int64
    with pytest.raises(ActSearchError, match="y has text"):
        take(Source(x, ["a"] * 9, lambda: None, goal=absolute(torch.zeros(9, 1))), "mine")


def test_answers_far_from_what_a_net_begins_with_are_warned_of():
    x = torch.randn(40, 2)
    for y, far in ((torch.randn(40, 1), False), (200_000 + 50_000 * torch.randn(40, 1), True)):
        remarks = Data(Source(x, y, (x, y), goal=absolute(y)), "houses", 5).remarks
        assert any("y is far from standardised (columns with means of " in r for r in remarks) == far


def test_a_goal_goes_to_another_process():
    for goal in (classification(3), next_token(TOKENS, 4), pixels(torch.rand(5, 3)), absolute(torch.rand(5, 1))):
        back = cloudpickle.loads(cloudpickle.dumps(goal))
        assert (back.metric, back.out_shape, back.guess) == (goal.metric, goal.out_shape, goal.guess)
    assert cloudpickle.loads(cloudpickle.dumps(classification(3))).loss is cross_entropy  # so it is found in the table


# --- options --------------------------------------------------------------------------------------


def test_what_is_asked_for_is_the_data_sets_own():
    for metric in (ACCURACY, PERPLEXITY, PSNR, MAE):
        assert StudyOptions().settled(metric).objectives == [f"val_{metric.name}"]
        options = ConfirmOptions(margin={"test_metric": 0.02}).settled(metric)
        assert (options.metric, options.margin[options.metric]) == (f"test_{metric.name}", 0.02)
        assert ConfirmOptions().settled(metric).margin[options.metric] == metric.margin


@pytest.mark.parametrize("metric", ["test_accuracy", "steps_to_accuracy", "time_to_accuracy_s"])
def test_a_metric_of_other_data_is_refused_with_those_that_there_are(metric):
    with pytest.raises(ActSearchError) as error:
        ConfirmOptions(metric=metric).settled(PSNR)
    assert str(error.value) == (
        f"confirm.metric={metric}: the metric of these data is psnr. Choose one of: test_psnr, test_loss, "
        "learning_speed, training_step_us, latency_us."
    )
    with pytest.raises(ActSearchError, match=r"perplexity. Choose one of: val_perplexity, val_loss, latency_us"):
        StudyOptions(objectives=["val_accuracy"]).settled(PERPLEXITY)


def test_margins_in_decibels_may_be_more_than_one():
    options = ConfirmOptions(margin={"test_psnr": 1.5, "test_accuracy": 0.01})
    assert options.settled(PSNR).margin["test_psnr"] == 1.5
    with pytest.raises(ActSearchError, match=r"confirm.margin.test_psnr=-1: write a number above 0, e.g. 0.1"):
        ConfirmOptions(margin={"test_psnr": -1}).settled(PSNR)


# --- data sets ------------------------------------------------------------------------------------


def test_text_is_cut_into_three_parts_that_share_no_character(tmp_path):
    path = tmp_path / "text"
    path.write_text("abcd" * 30 + "efga" * 30 + "hiab" * 30)
    source = text(str(path), context=5, n_test=10)
    assert source.x.dtype == torch.int64
    assert torch.equal(source.x[:, 1:], source.y[:, :-1])
    assert source.x.shape == (20, 5)  # windows of 6 in 120 characters, which do not overlap
    assert source.x.flatten().unique().tolist() == [1, 2, 3, 4]
    letters = " abcd"
    assert "".join(letters[i] for i in [*source.x[0], source.y[0, -1]]) == "abcdab"
    assert set(source.validation[0].flatten().tolist()) == {0, 1}  # e, f and g are unknown
    x_test, _ = source.test()
    assert x_test.shape == (10, 5)
    assert set(x_test.flatten().tolist()) == {0, 1, 2}
    assert source.goal.out_shape == (5, 5)
    data = Data(source, "text", n_validation=7)
    assert (data.n_train, len(data.split(0).x_val), data.n_tokens) == (20, 7, 5)


def test_the_default_text_is_there_with_every_python():
    source = text()
    assert len(source.x) > 1000
    assert 50 < source.goal.n_outputs < 200
    assert 15 < source.goal.guess[0] < 60  # English by its letters' frequencies alone


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({"context": 0}, "data.context=0"), ({"n_test": 10**6}, "data.n_test=1000000"), ({"path": "/no"}, "data.path=/no"),
     ({"context": 10**7}, "Choose a longer text")],
)  # fmt: skip
def test_texts_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ActSearchError) as error:
        make_data(text, "text", 10, None, False, **keywords)
    assert words in str(error.value)


def test_a_set_with_its_own_validation_trains_on_all_its_examples():
    source = text(context=32, n_test=5)
    a = Data(source, "text", 50, subset=60, resample=True)
    assert str(a).startswith("text: 60 train, 50 validation")
    assert not torch.equal(a.split(0).x_val, a.split(1).x_val)
    rows = {tuple(row) for row in source.validation[0].tolist()}
    assert all(tuple(row) in rows for row in a.split(0).x_val.tolist())
    assert a.without_test().n_train == 60
    for keywords, words in (({"n_validation": 10**6}, "to validate on"), ({"subset": 10**6}, "to train on")):
        with pytest.raises(ActSearchError, match=words):
            Data(source, "text", **{"n_validation": 5, **keywords})


def test_an_image_is_its_pixels_means_where_they_are():
    from sklearn.datasets import load_sample_image

    whole = torch.tensor(load_sample_image("flower.jpg")).float() / 255  # 427 × 640
    source = image("flower", size=640)
    x, y = (torch.cat(parts) for parts in zip((source.x, source.y), source.test(), strict=True))
    assert len(x) == 427 * 640 and x.min() == -1 and x.max() == 1
    rows, columns = (((x[:, i] + 1) / 2 * (n - 1)).round().long() for i, n in enumerate((427, 640)))
    assert torch.allclose(whole[rows, columns], y)
    small = image("flower", size=64)
    x, y = (torch.cat(parts) for parts in zip((small.x, small.y), small.test(), strict=True))
    assert len(x) == 43 * 64
    assert torch.allclose(y.mean(0), whole.flatten(0, 1).mean(0), atol=2e-3)  # areas, not every tenth pixel
    assert len(small.x) == pytest.approx(0.8 * 43 * 64, abs=1)
    for keywords, words in (({"picture": "chian"}, "'china'"), ({"size": 4}, "data.size=4")):
        with pytest.raises(ActSearchError, match=words):
            image(**keywords)


# --- nets on tokens -------------------------------------------------------------------------------


def language_model(**keywords):
    return Model(transformer, "transformer", (6,), (6, 9), {"width": 8, "heads": 2, **keywords}, n_tokens=9)


@pytest.mark.parametrize("activation", ["gelu", "swiglu", "prelu"])
def test_a_language_model_does_not_see_what_comes(activation):
    net = language_model().build(parse_net(activation), 0, "gain").eval()
    x = torch.randint(9, (2, 6), generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 9
    assert net(x).shape == (2, 6, 9)
    torch.testing.assert_close(net(x)[:, :4], net(other)[:, :4])
    assert not torch.allclose(net(x)[:, 4:], net(other)[:, 4:])


def test_tokens_that_are_to_be_classified_are_averaged():
    model = Model(transformer, "transformer", (6,), 3, {"width": 8, "heads": 2}, n_tokens=9)
    net = model.build(parse_net("relu"), 0, "gain").eval()
    x = torch.randint(9, (2, 6))
    last = x.clone()
    last[:, -1] = (last[:, -1] + 1) % 9
    assert net(x).shape == (2, 3)
    seen = []
    net.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out))
    assert not torch.equal(net(x), net(last))
    assert not torch.allclose(seen[0][:, 0], seen[1][:, 0])  # the first token sees the last


def test_dead_units_of_a_net_on_tokens_are_counted_by_channel():
    """Channels are the last dimension there: a unit is dead if it is so at all positions of all examples."""
    net = language_model(depth=1, hidden=16).build(parse_net("relu"), 0, "gain").eval()
    with torch.no_grad():
        net.blocks[0].up.bias[:4] = -1e3  # a quarter of the units
    found = diagnose(net, torch.randint(9, (30, 6), generator=torch.Generator().manual_seed(0)))
    assert found.dead == [0.25]
    assert found.saturated[0] > 0.25
    assert all(math.isnan(norm) for norm in found.grad_norm)  # it was not trained


# --- the whole ------------------------------------------------------------------------------------

SMALL = {
    "recipe": Recipe(steps=30, batch_size=20, eval_every=10),
    "quiet": True,
    "tracking": "none",
    "n_validation": 30,
}


def test_a_regression_of_ones_own_is_compared_by_its_own_metric(tmp_path, no_pictures):
    """Python's way, with a loss that has no fused form; the least error leads."""
    result = actsearch.compare("mlp", waves(absolute), ["tanh", "identity"], seeds=6, folder=tmp_path, **SMALL)
    assert "no fused form: the data's loss, l1_loss, has none" in result.about["training"]
    assert result.best == min(result.comparisons, key=lambda c: c.test_metric).activation
    assert [c.mean for c in result.comparisons] == sorted(c.mean for c in result.comparisons)
    first = result.rows[0]
    assert float(first["val_mae_mean"]) == min(float(row["val_mae_mean"]) for row in result.rows)
    rows = json.loads((result.folder / "verdict.json").read_text())
    assert {row["metric"] for row in rows} == {"test_mae", "test_loss", "training_step_us", "latency_us"}
    line = next(row for row in rows if row["activation"] == "identity" and row["metric"] == "test_mae")
    assert line["difference"] == pytest.approx(line["mean"] - line["baseline_mean"])
    with pytest.raises(ActSearchError, match=r"confirm.metric=test_psnr: the metric of these data is mae"):
        actsearch.compare("mlp", waves(absolute), ["tanh"], folder=tmp_path, confirm={"metric": "test_psnr"}, **SMALL)


def test_a_search_for_less_perplexity(tmp_path, no_pictures):
    source = text(context=16, n_test=40)
    small = replace(source, x=source.x[:200], y=source.y[:200])

    def net(activation, in_shape, n_classes, n_tokens, out_shape):
        return transformer(activation, in_shape, n_classes, 16, 1, 2, n_tokens=n_tokens, out_shape=out_shape)

    result = actsearch.search(
        net, small, ["relu", "swiglu", "identity"], n_trials=3, seeds=2, finalists=1, finalist_seeds=2, folder=tmp_path,
        confirm={"metric": "learning_speed"}, **{**SMALL, "recipe": Recipe(steps=50, eval_every=1, batch_size=20,
                                                                           schedule="constant")},
    )  # fmt: skip
    values = [float(row["val_perplexity_mean"]) for row in result.rows]
    assert values == sorted(values)
    assert all(math.log(v) == pytest.approx(float(r["val_loss_mean"]), rel=0.01)
               for v, r in zip(values, result.rows, strict=True))  # fmt: skip
    assert all(2 < c.test_metric < source.goal.n_outputs for c in result.comparisons)
    assert result.target is None  # nothing counts steps to an accuracy
    assert "mean validation loss over the budget" in result.summary
    (finalist,) = [c for c in result.comparisons if not c.is_baseline]
    if result.rows[0]["activation"] != "relu":
        assert finalist.activation == result.rows[0]["activation"]


def test_a_run_that_diverged_scores_what_guessing_does(tmp_path):
    from actsearch.training.reference import Run, train

    data = Data(waves(pixels), "waves", 30)
    model = Model(mlp, "mlp", data.in_shape, data.goal.out_shape, {"width": 4})
    net = model.build(parse_net("identity"), 0, "gain")
    run = Run(parse_net("identity"), Recipe(lr=1e30, schedule="constant", steps=20, batch_size=10, eval_every=10), 0)
    (end,) = train(net, data.split(0), run, torch.device("cpu"))
    assert end.diverged
    assert (end.val_metric, end.val_loss) == data.goal.guess


def test_what_holds_nothing_to_learn_is_refused(tmp_path):
    (tmp_path / "dull.txt").write_text("a" * 120_000)
    with pytest.raises(ActSearchError, match="one character, over and over"):
        text(str(tmp_path / "dull.txt"))
    with pytest.raises(ActSearchError, match="all examples are of class 1"):
        Data(Source(torch.randn(40, 3), torch.ones(40, dtype=torch.long), lambda: None), "dull", 10)


# --- one number for each example ------------------------------------------------------------------


def hesitant(outputs, y):
    """A loss that vmap cannot follow: it looks at numbers."""
    error = (outputs - y).abs().mean()
    return error if error.item() < 1e9 else error * 2


@pytest.mark.parametrize("loss", [F.l1_loss, hesitant])
def test_the_loss_of_each_example_is_that_of_it_alone(loss):
    outputs, y = torch.randn(5, 2), torch.randn(5, 2)
    goal = Goal(MAE, loss, (2,), (1.0, 1.0), of_loss=float)
    torch.testing.assert_close(goal.of_each(outputs, y, "loss"), (outputs - y).abs().mean(1))
    tokens = next_token(TOKENS, 4).of_each(LOGITS, TOKENS, "loss")
    torch.testing.assert_close(tokens, torch.stack([cross_entropy(LOGITS[i], TOKENS[i]) for i in range(2)]))


def contrastive(outputs, y):
    """A loss between examples: of one alone it says nothing."""
    return (outputs[1:] - outputs[:-1]).square().mean() if len(outputs) > 1 else outputs.sum() * 0


def alone_it_fails(outputs, y):
    return F.batch_norm(outputs, None, None, training=True).square().mean()


@pytest.mark.parametrize(
    "loss", [contrastive, alone_it_fails, lambda o, y: F.cross_entropy(o, y, weight=torch.tensor([1.0, 9.0]))]
)
def test_a_loss_that_is_no_mean_over_examples_gives_no_numbers(loss):
    outputs, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    goal = Goal(MAE, loss, (2,), (1.0, 1.0), score=lambda outputs, y: outputs[:, 0])
    assert goal.of_each(outputs, y, "loss") is None
    assert torch.equal(goal.of_each(outputs, y, "score"), outputs[:, 0])
    x = torch.randn(6, 2)
    assert score(nn.Linear(2, 2), x, y, goal, "loss").of_each is None


@pytest.mark.parametrize(
    ("of_loss", "slope"),
    [(math.exp, math.exp), (lambda x: -10 * math.log10(x), lambda x: -10 / math.log(10) / x)],
)
def test_numbers_in_the_metric_have_its_mean_and_move_as_it_does(of_loss, slope):
    losses = np.random.default_rng(0).gamma(2.0, size=400).astype(np.float32)
    found = Goal(MAE, F.l1_loss, (1,), (1.0, 1.0), of_loss=of_loss).in_metric(losses)
    mean = losses.mean(dtype=float)
    assert found.mean(dtype=float) == pytest.approx(of_loss(mean), rel=1e-6)
    assert (found[0] - found[1]) / (losses[0] - losses[1]) == pytest.approx(slope(mean), rel=1e-4)
    # what the metric would be without one example
    rest = of_loss(losses[1:].mean(dtype=float))
    assert (of_loss(mean) * 400 - found[0]) / 399 == pytest.approx(rest, rel=1e-4)
