"""What is measured inside a net: known answers, the same from both engines, and a training that is untouched."""

import json
import math
from dataclasses import asdict, astuple, fields, replace
from types import SimpleNamespace

import pytest
import torch
from fake_trainer import FakeTrainer
from test_fused import CPU, FEW, MODELS, RECIPE, data, fused, model, plain, runs_of
from torch import nn

from actsearch.activations import CATALOG
from actsearch.activations.spec import Spec, parse_net
from actsearch.data.goal import cross_entropy
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.recipe import OPTIMIZERS
from actsearch.records import Candidate, Curves, TrialRecord
from actsearch.study.generation import Engine
from actsearch.training import diagnostics, reference
from actsearch.training import fused as fused_file
from actsearch.training.diagnostics import Diagnostics, diagnose, mean_diagnostics, probe_rungs, statistics_of
from actsearch.training.plan import Plan
from actsearch.training.reference import WEIGHTS, Run, batch_order, stream, train
from actsearch.training.trainer import Trainer, TrainingBatch


def sequential(*layers):
    """A net in eval mode whose weight layers have gradients."""
    net = nn.Sequential(*layers).eval()
    for place, module in enumerate(m for m in net if hasattr(m, "spec")):
        module.place = place
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    return net


def units(text, *biases, weight=1.0):
    """One layer of units that see the input's one feature, each with its bias."""
    linear = nn.Linear(1, len(biases))
    linear.weight.data.fill_(weight)
    linear.bias.data.copy_(torch.tensor(biases))
    return sequential(linear, Spec.parse(text).module(len(biases)))


def lists(d):
    return [value for field in fields(d) for value in getattr(d, field.name)]


# --- known answers --------------------------------------------------------------------------------


def test_a_relu_far_below_zero_is_dead_and_its_inputs_are_saturated():
    x = torch.tensor([[-1.0], [1.0], [2.0]])
    d = diagnose(units("relu", -100.0, 0.0, -100.0, 3.0), x)
    assert d.dead == [0.5]
    assert d.saturated == [pytest.approx(7 / 12)]  # six of the dead units, one of the second at -1
    outputs = torch.tensor([0.0, 1, 2, 2, 4, 5] + [0] * 6)
    assert d.output_mean == [pytest.approx(outputs.mean().item())]
    assert d.output_std == [pytest.approx(outputs.std(correction=0).item())]
    assert d.output_max == [5.0]


def test_a_unit_that_lives_at_one_position_of_one_example_is_not_dead():
    x = torch.full((3, 2, 5), -1.0)
    x[1, 0, 4] = 1.0
    d = diagnose(sequential(Spec.parse("relu").module(2), nn.Flatten(), nn.Linear(10, 2)), x)
    assert d.dead == [0.5]
    assert d.saturated == [pytest.approx(29 / 30)]


def test_the_identity_is_never_saturated():
    d = diagnose(units("identity", -100.0, 100.0), torch.randn(4, 1))
    assert (d.dead, d.saturated) == ([0.0], [0.0])
    assert d.output_max[0] > 95


def test_a_tanh_far_out_is_saturated_and_dead_only_very_far():
    x = torch.tensor([[0.5], [1.5]])
    near, far, very_far = (diagnose(units("tanh", 0.0, weight=w), x) for w in (1.0, 8.0, 100.0))
    assert (near.dead, near.saturated) == ([0.0], [0.0])
    assert (far.dead, far.saturated) == ([0.0], [1.0])  # tanh' is 1.3e-3 at 4, 1.5e-10 at 12
    assert (very_far.dead, very_far.saturated) == ([1.0], [1.0])


def test_largest_is_of_the_absolute_value():
    assert diagnose(units("identity", -7.0, 2.0), torch.zeros(2, 1)).output_max == [7.0]


def test_softmax_has_no_slope_of_its_own():
    d = diagnose(units("softmax", 0.0, 0.0), torch.randn(4, 1))
    assert math.isnan(d.dead[0])
    assert math.isnan(d.saturated[0])
    assert d.output_mean == [0.5]


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.kind == "elementwise"])
def test_the_slope_is_the_derivative(name, monkeypatch):
    """By differences, on points away from kinks."""
    seen, spec = [], Spec.parse(name)
    monkeypatch.setattr(
        diagnostics, "statistics_of", lambda y, s, channel: seen.append(s) or statistics_of(y, s, channel)
    )
    z = torch.linspace(-7.03, 7.01, 50, dtype=torch.float64)[:, None]
    diagnose(sequential(spec.module(1).double(), nn.Linear(1, 2).double()), z)
    h = 1e-5
    torch.testing.assert_close(seen[0][0], (spec(z + h) - spec(z - h)) / (2 * h), rtol=1e-5, atol=1e-7)


def test_the_gradients_norm_is_autograds_of_the_last_step_after_clipping():
    m, d = model(), data((6,))
    for clip in (None, 0.01):
        run = Run(parse_net("gelu"), replace(RECIPE, steps=1, eval_every=1, grad_clip=clip), 3)
        (evaluation,) = plain(m, d, run)[1]
        net, s = m.build(run.specs, stream(3, WEIGHTS), "gain").double(), d.split(3)
        batch = batch_order(len(s.x_train), 15, 1, 3)[0]
        value = cross_entropy(net(s.x_train[batch].double()), s.y_train[batch])
        gradients = torch.autograd.grad(value, list(net.parameters()))
        whole = torch.cat([g.flatten() for g in gradients]).norm().item()
        factor = 1.0 if clip is None else clip / (whole + 1e-6)
        wanted = [g.norm().item() * factor for g in gradients if g.dim() > 1]
        assert len(wanted) == 3
        assert evaluation.diagnostics.grad_norm == pytest.approx(wanted, rel=1e-9)


def test_a_layer_without_gradient_and_a_slot_that_is_not_used_are_nan():
    net = sequential(nn.Linear(2, 2), Spec.parse("tanh").module(2), nn.Linear(2, 2))
    net[1].place, net[0].weight.grad = 1, None
    d = diagnose(net, torch.zeros(3, 2))
    assert math.isnan(d.grad_norm[0])
    assert d.grad_norm[1] == 0.0
    assert math.isnan(d.output_mean[0])
    assert d.output_mean[1] == pytest.approx(net[0].bias.tanh().mean().item())


class Residual(nn.Module):
    """Its shortcut is added in place to what the activation gave: identity gives its own input back."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(2, 2), activation, nn.Linear(2, 2)

    def forward(self, x):
        h = self.act(x=self.first(x))
        h += 100.0
        return self.last(self.act(h))


def test_a_module_called_twice_counts_as_it_was_called_last_whatever_is_done_to_its_output():
    net, x = Residual(Spec.parse("identity").module(2)).eval(), torch.randn(5, 2)
    d = diagnose(net, x)
    assert d.output_mean == [pytest.approx((net.first(x) + 100).mean().item())]


@pytest.mark.parametrize(
    ("rungs", "wanted"),
    [
        ([7], {7}), ([1, 2], {1, 2}), ([1, 2, 3, 4, 5], {1, 2, 3, 4, 5}), (range(1, 8), {1, 3, 4, 5, 7}),
        (range(100, 1001, 100), {100, 300, 500, 800, 1000}),
    ],
)  # fmt: skip
def test_at_most_five_rungs_evenly_spaced(rungs, wanted):
    assert probe_rungs(rungs) == wanted


def test_the_mean_is_over_the_runs_that_have_one():
    one, two = Diagnostics([0.0, 1.0], *[[1.0, 2.0]] * 4, [3.0]), Diagnostics([1.0, 1.0], *[[3.0, 4.0]] * 4, [5.0])
    assert mean_diagnostics([one, None, two]) == Diagnostics([0.5, 1.0], *[[2.0, 3.0]] * 4, [4.0])
    assert mean_diagnostics([None, None]) is None


# --- both engines ---------------------------------------------------------------------------------

SHORT = replace(RECIPE, optimizer="sgd", steps=10, eval_every=4)
TEXTS = [*FEW, "mish", "elu(alpha=learned)", "hardtanh(min_val=learned, max_val=learned)", "softsign"]


def same(name, runs, vectorised, resample=False, stopped=frozenset()):
    """Every rung's diagnostics of each run that stays, to 1e-9."""
    m = model(name)
    d = data(m.in_shape, resample)
    program = fused(m, d, runs, vectorised)
    rungs = [dict(program.advance(set(stopped) if i else set())) for i in range(len(runs[0].recipe.rungs()))]
    for i, run in enumerate(runs):
        if i in stopped:
            continue
        for rung, wanted in zip(rungs, plain(m, d, run)[1], strict=True):
            mine, theirs = rung[i].diagnostics, wanted.diagnostics
            assert len(mine.dead) == m.n_slots
            assert lists(mine) == pytest.approx(lists(theirs), rel=1e-9, abs=1e-9, nan_ok=True), str(run.specs)


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
@pytest.mark.parametrize("name", MODELS)
def test_both_engines_say_the_same(name, vectorised):
    same(name, runs_of(TEXTS, SHORT), vectorised)


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_are_those_the_optimizer_got_before_its_weight_decay(optimizer, vectorised):
    recipe = replace(SHORT, optimizer=optimizer, lr=0.002, weight_decay=0.5, grad_clip=0.1)
    same("mlp", runs_of(["relu", "prelu", "silu(beta=learned)"], recipe), vectorised)


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
def test_per_layer_specs_and_softmax_splits_per_seed_a_batch_larger_than_the_validation_set(vectorised):
    texts = ["relu | gelu", "gelu | prelu", "prelu | relu", "softmax", "softmax | silu(beta=learned)"]
    same("mlp", runs_of(texts, SHORT), vectorised)
    same("mlp", runs_of(texts, SHORT), vectorised, resample=True)
    same("mlp", runs_of(texts, replace(SHORT, batch_size=40)), vectorised)


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
def test_after_compaction_too(vectorised):
    same("cnn1d", runs_of(FEW, SHORT), vectorised, stopped={0, 3})


def test_no_more_than_256_examples(monkeypatch):
    monkeypatch.setattr(diagnostics, "MOST_EXAMPLES", 4)
    same("cnn1d", runs_of(FEW, SHORT), False)
    m, d = model(), data((6,))
    net, evaluations = plain(m, d, runs_of(["gelu"])[0])
    x = d.split(0).x_val[:4].double()
    assert evaluations[-1].diagnostics.output_mean == pytest.approx(diagnose(net, x).output_mean)


def test_a_run_that_diverged_has_none_and_its_neighbour_has():
    m, d = model(), data((6,))
    runs = [*runs_of(["gelu"]), Run(parse_net("identity"), replace(RECIPE, lr=1e200, schedule="constant"), 1)]
    for evaluations in (dict(fused(m, d, runs).advance(set())), [plain(m, d, run)[1][0] for run in runs]):
        assert evaluations[1].diverged
        assert evaluations[1].diagnostics is None
        assert evaluations[0].diagnostics is not None


def test_they_reach_the_rungs_of_a_batch_from_serial_and_fused_processes():
    m, d = model("cnn1d"), data((2, 23))
    runs = runs_of(["relu", "tanh", "prelu"], replace(RECIPE, steps=12, eval_every=2))
    seen = []
    with Trainer(CPU, 1) as trainer:
        trainer.load(m, d)
        for trainer.plan in (Plan("serial"), Plan("fused", 3)):
            seen.append(list(TrainingBatch(trainer, runs)))
    assert [rung.step for rung in seen[0] if rung.diagnostics[0]] == sorted(probe_rungs(range(2, 13, 2)))
    for serial, together in zip(*seen, strict=True):
        for mine, theirs in zip(serial.diagnostics, together.diagnostics, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert lists(mine) == pytest.approx(lists(theirs), rel=1e-3, abs=1e-6)


# --- nothing else changes -------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [False, True], ids=["host", "vectorised"])
@pytest.mark.parametrize("name", ["mlp, layer norm, dropout", "mlp, batch norm", "cnn1d"])
def test_a_fused_training_is_bit_for_bit_what_it_is_without_probes(name, vectorised, monkeypatch):
    m, runs = model(name), runs_of([*TEXTS, "softmax"])
    d, kept = data(m.in_shape), []
    for probes in (probe_rungs, lambda rungs: set()):
        monkeypatch.setattr(fused_file, "probe_rungs", probes)
        program = fused(m, d, runs, vectorised, torch.float32)
        rungs = [dict(program.advance(stopped)) for stopped in (set(), {1, 4}, {1, 4})]
        left = [[astuple(replace(at, diagnostics=None)) for at in rung.values()] for rung in rungs]
        kept.append((program.rows.clone(), left, dict(program.score(*d.test()))))
        assert (rungs[0][0].diagnostics is None) == (probes is not probe_rungs)
    assert torch.equal(kept[0][0], kept[1][0])
    assert kept[0][1:] == kept[1][1:]


class Sampling(nn.Module):
    """Draws random numbers in evaluation too."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 6), activation(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(nn.functional.dropout(self.act(self.first(x)), 0.3))


@pytest.mark.parametrize("name", ["sampling", "mlp, layer norm, dropout", "mlp, batch norm", "cnn1d"])
def test_a_plain_training_is_bit_for_bit_what_it_is_without_probes(name, monkeypatch):
    m = Model(Sampling, "sampling", (6,), 3) if name == "sampling" else model(name)
    d, recipe = data(m.in_shape), replace(RECIPE, precision="bf16" if name == "cnn1d" else "float32")
    for text in ("gelu", "silu(beta=learned)"):
        kept = []
        for probes in (probe_rungs, lambda rungs: set()):
            monkeypatch.setattr(reference, "probe_rungs", probes)
            run = Run(parse_net(text), recipe, 3)
            net = m.build(run.specs, stream(3, WEIGHTS), "gain")
            evaluations = list(train(net, d.split(3), run, CPU))
            assert (evaluations[0].diagnostics is None) == (probes is not probe_rungs)
            kept.append((net.state_dict(), [astuple(replace(at, diagnostics=None)) for at in evaluations]))
        (mine, at), (wanted, at_wanted) = kept
        assert at == at_wanted
        assert all(torch.equal(mine[key], wanted[key]) for key in wanted)


def test_looking_touches_nothing(rng_untouched):
    net = Model(mlp, "mlp", (6,), 3, {"width": 8, "norm": "batch"}).build(parse_net("prelu"), 1, "gain")
    cross_entropy(net(torch.randn(9, 6)), torch.arange(9) % 3).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    state = {key: value.clone() for key, value in net.eval().state_dict().items()}
    x = torch.randn(5, 6)
    with rng_untouched():
        diagnose(net, x)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert not any(module.training or module._forward_hooks for module in net.modules())
    sampling = Sampling(Spec.parse("relu").module).eval()
    with rng_untouched():
        diagnose(sampling, x)


def test_channels_last_images_and_swapped_nets():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.squeezenet1_1(num_classes=3)
    m = Model(net, "squeezenet", (3, 33, 33), 3)
    built = m.build(parse_net("relu"), 0, "gain").eval()
    x = torch.randn(4, 3, 33, 33)
    plainly = diagnose(built, x)
    assert len(plainly.dead) == m.n_slots
    assert all(0 <= share <= 1 for share in plainly.dead + plainly.saturated)
    laid = diagnose(built.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last))
    assert lists(laid) == pytest.approx(lists(plainly), rel=1e-4, abs=1e-6, nan_ok=True)


# --- kept -----------------------------------------------------------------------------------------


class Seeing(FakeTrainer):
    """Seed s has s dead units at the first rung; seed 2 has diverged; no diagnostics at later rungs."""

    def advance(self, stopped):
        first = self.rung == 0
        for index, at in super().advance(stopped):
            seed = self.runs[index].seed
            seen = Diagnostics([float(seed)], [0.5], [1.0], [2.0], [3.0], [4.0, 5.0])
            yield index, replace(at, diagnostics=seen if first and seed != 2 else None)


def test_a_trials_curves_have_the_mean_over_its_runs_at_each_rung_that_has_some():
    members = [
        SimpleNamespace(number=i, candidate=Candidate(parse_net(text))) for i, text in ((4, "relu"), (7, "tanh"))
    ]
    curves = {4: Curves(), 7: Curves()}
    list(Engine(Seeing(), RECIPE).train("search", members, curves, range(3)))
    entry = {"step": 20, "dead": [0.5], "saturated": [0.5], "output_mean": [1.0], "output_std": [2.0],
             "output_max": [3.0], "grad_norm": [4.0, 5.0]}  # fmt: skip
    assert curves[4].diagnostics == curves[7].diagnostics == [entry]


def test_curves_keep_them_and_what_was_written_before_still_reads():
    d = Diagnostics([0.25], [0.5], [1.0], [2.0], [3.0], [4.0, 5.0])
    curves = Curves([10], [[0.5]], [[1.0]], [[1.0]], 0, [{"step": 10, **asdict(d)}])
    record = TrialRecord(0, "relu", {}, "complete", [0.5], curves)
    assert TrialRecord.from_json(record.to_json()) == record
    raw = json.loads(record.to_json())
    del raw["curves"]["diagnostics"]
    assert TrialRecord.from_json(json.dumps(raw)).curves.diagnostics == []
    curves.diagnostics[0]["dead"] = [math.nan]
    again = TrialRecord.from_json(record.to_json()).curves.diagnostics[0]["dead"]
    assert math.isnan(again[0])
