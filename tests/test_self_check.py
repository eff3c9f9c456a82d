"""The self-check lets a right engine train, and stops a wrong, a raising and a starving one."""

from dataclasses import replace

import pytest
import torch
from test_fused import CPU, MODELS, RECIPE, TEXTS, Gated, data, fused, model, runs_of
from torch import nn

import actsearch
from actsearch.activations import kernels
from actsearch.activations.sigmoidal import TANH
from actsearch.activations.spec import parse_net
from actsearch.models.model import Model
from actsearch.question.recipe import OPTIMIZERS
from actsearch.training import self_check as module
from actsearch.training.fused import Fused
from actsearch.training.plan import FAULT, SERIAL, Plan
from actsearch.training.reference import Run
from actsearch.training.rows import Rows
from actsearch.training.self_check import self_check
from actsearch.training.trace import trace_layers
from actsearch.training.trainer import Trainer, TrainingBatch
from actsearch.training.worker import Worker


def rows(m, d):
    return Rows(m, trace_layers(m), d, CPU)


def found(m, texts, recipe=RECIPE):
    return self_check(rows(m, data(m.in_shape)), runs_of(texts, recipe))


# --- a right engine -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_test_model_passes(name):
    assert found(model(name), ["relu", "gelu", "tanh", "prelu", "silu(beta=learned)", "x * tanh(x)"]) is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_activation_passes_with_every_optimizer(optimizer):
    m = model("mlp, layer norm, dropout")
    for start in range(0, len(TEXTS), module.MOST_RUNS):
        part = TEXTS[start : start + module.MOST_RUNS]
        assert found(m, part, replace(RECIPE, optimizer=optimizer, grad_clip=0.5)) is None, part


def test_a_run_that_diverges_in_both_is_no_difference():
    m = model("mlp")
    assert found(m, ["relu", "x * x * x"], replace(RECIPE, lr=1e20, steps=1)) is None


# --- a wrong one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        (lambda k: replace(k, forward=lambda x, out: torch.tanh(x, out=out).mul_(1.05)), "train loss"),
        (lambda k: replace(k, backward=lambda g, x, y, out: torch.mul(g, 1 - y, out=out)), "another gradient of"),
        (lambda k: replace(k, backward=lambda g, x, y, out: out.copy_(g).mul_(torch.nan)), "diverged"),
    ],
    ids=["value", "slope", "nan"],
)
def test_a_wrong_kernel_is_found_and_named(kernel, what, monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, TANH.fn, kernel(kernels.KERNELS[TANH.fn]))
    assert found(model("mlp"), ["relu", "gelu"]) is None
    why = found(model("mlp"), ["relu", "tanh", "gelu"])
    assert what in why
    assert why.endswith("for tanh")


@pytest.mark.parametrize(
    ("attribute", "what"), [("n_weights", "another update of"), ("losses", "train loss"), ("x_val", "val loss")]
)
def test_a_wrong_update_a_wrong_batch_and_a_wrong_evaluation_are_found(attribute, what, monkeypatch):
    bind = Fused._bind

    def wrong(self, state):
        bind(self, state)
        if attribute == "n_weights":
            self.update.step = lambda at: self.weights.sub_(0.01 * self.gradients)
        elif attribute == "losses":
            self.order = self.order.flip(0)
        else:
            self.x_val = self.x_val.flip(1)

    monkeypatch.setattr(Fused, "_bind", wrong)
    assert what in found(model("mlp"), ["relu", "tanh"])


class WithoutGradient(nn.Module):
    """A trace does not show that gradients are switched off."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 6), activation(6), nn.Linear(6, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        return self.last(self.act(x))


class OnlyWithGradient(Gated):
    """In evaluation it leaves the activation out, whatever its mode is."""

    def forward(self, x):
        h = self.first(x)
        return self.last(self.act(h) if torch.is_grad_enabled() else h)


class InBfloat16(Gated):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.last(self.act(self.first(x)))


@pytest.mark.parametrize("kind", [WithoutGradient, OnlyWithGradient, InBfloat16])
def test_a_forward_that_does_more_than_its_trace_shows_is_found(kind):
    m = Model(kind, "net", (6,), 3)
    assert found(m, ["relu", "tanh"]) is not None


# --- raising, starving ----------------------------------------------------------------------------


def test_an_engine_that_raises_is_not_used(monkeypatch):
    def fails(self, work):
        raise RuntimeError("capture failed: operation not permitted when stream is capturing")

    monkeypatch.setattr(Fused, "_do", fails)
    assert found(model("mlp"), ["relu"]) == (
        "it raised RuntimeError: capture failed: operation not permitted when stream is capturing"
    )


def test_where_memory_is_short_fewer_runs_are_tried(monkeypatch):
    tried, init = [], Fused.__init__

    def short(self, rows, runs, vectorised=None):
        tried.append(len(runs))
        if len(runs) > room:
            raise torch.OutOfMemoryError("out of memory")
        init(self, rows, runs, vectorised)

    monkeypatch.setattr(Fused, "__init__", short)
    room = 3
    assert found(model("mlp"), TEXTS[:8]) is None
    assert tried == [8, 4, 2]
    room = 0
    assert "OutOfMemoryError" in found(model("mlp"), TEXTS[:8])


# --- who is asked, and what follows ---------------------------------------------------------------


def test_a_worker_checks_only_what_it_would_fuse():
    m = model("mlp")
    d = data(m.in_shape)
    numbered = list(enumerate(runs_of(["relu", "rrelu", "maxout"])))
    assert list(Worker(m, d, CPU).check(numbered, Plan("fused", 4))) == [("check", None)]
    assert list(Worker(m, d, CPU).check(numbered[:0], Plan("fused", 4))) == [("check", None)]


def test_a_faulty_engine_gives_way_to_the_plain_loop_with_its_numbers():
    m = Model(WithoutGradient, "net", (6,), 3)
    d = data((6,))
    runs = [Run(parse_net(text), replace(RECIPE, eval_every=50), seed) for text in ("relu", "tanh") for seed in (0, 1)]
    losses = {}
    for plan in (SERIAL, Plan("fused", 4)):
        with Trainer(CPU, cores=2) as trainer:
            trainer.load(m, d, plan)
            losses[plan.engine] = [rung.val_loss.tolist() for rung in TrainingBatch(trainer, runs)]
            if plan.engine == "fused":
                assert trainer.plan.engine == "serial"
                assert trainer.plan.why.startswith(f"{FAULT}: another gradient of first.weight for ")
    assert losses["serial"] == losses["fused"]
    wrong = [at.val_loss for at in dict(fused(m, d, runs, dtype=torch.float32).advance(set())).values()]
    assert wrong != pytest.approx(losses["serial"][0], rel=1e-3)  # what would have come out


@pytest.mark.usefixtures("no_pictures")
def test_the_study_says_so(tmp_path, capsys):
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    asked = {"recipe": {"steps": 20, "eval_every": 10, "batch_size": 15}, "folder": tmp_path, "tracking": "none"}
    for _ in range(2):
        result = actsearch.compare(two_classes, (x[:80], y[:80], x[80:], y[80:]), ["relu"], seeds=2, **asked)
        assert any(w.startswith(f"{FAULT}: another gradient of first.weight") for w in result.warnings)
    assert "training goes on as: one run after the other (the fused engine failed its self-check" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert FAULT in (result.folder / "report.html").read_text()


def two_classes(activation):
    net = WithoutGradient(activation)
    net.last = nn.Linear(6, 2)
    return net
