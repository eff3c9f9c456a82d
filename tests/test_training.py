"""Training: the plain loop, and the Trainer, whose results no neighbour and no number of processes may change."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actsearch.activations.spec import parse_net
from actsearch.data.goal import Goal, classification
from actsearch.data.source import Data, Source
from actsearch.errors import ActSearchError
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.processes import TrainingError, core_count
from actsearch.question.metrics import Metric
from actsearch.question.recipe import OPTIMIZERS, Recipe
from actsearch.training import reference
from actsearch.training.plan import SERIAL, Plan
from actsearch.training.reference import EVAL_BATCH, NOISE, ORDER, WEIGHTS, Noise, Run, batch_order, stream, train
from actsearch.training.trainer import Trainer, TrainingBatch, find_device
from actsearch.training.worker import Worker

CPU = torch.device("cpu")
RECIPE = Recipe(lr=0.02, steps=24, batch_size=15, eval_every=8)
WIDE = {"width": 8, "depth": 2, "norm": "batch", "dropout": 0.3}  # dropout and batch norm: all that has a state


def run(text="relu", seed=0, **keywords):
    return Run(parse_net(text), replace(RECIPE, **keywords), seed)


DIVERGES = run("identity", 3, optimizer="sgd", schedule="constant", lr=1e30)
RUNS = [
    run("relu", 0),
    run("prelu | tanh", 1),
    DIVERGES,
    run("gelu", 0, optimizer="sgd", lr=0.3, grad_clip=0.5),
    run("elu(alpha=learned)", 2, optimizer="rmsprop", schedule="cosine", init="torch"),
]


def model():
    return Model(mlp, "mlp", (6,), 3, WIDE)


def values(rungs):
    """Every number of some rungs as one tensor: (rungs, 4, runs)."""
    return torch.stack([torch.stack([r.val_metric, r.val_loss, r.train_loss, r.diverged.double()]) for r in rungs])


def same(a, b):
    """Equal bit for bit, NaN equal to NaN."""
    return torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(a.nan_to_num(), b.nan_to_num())


# --- the plain loop -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(20, 5, 8), (23, 5, 9), (7, 7, 3), (10, 3, 1), (5, 1, 12)])
def test_each_epoch_is_a_new_permutation_with_its_rest_dropped(n, batch_size, steps):
    order = batch_order(n, batch_size, steps, seed=4)
    assert order.shape == (steps, batch_size)
    epochs = order.split(n // batch_size)
    for epoch in epochs:
        seen = epoch.flatten().tolist()
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(n))
    if n % batch_size == 0:
        assert sorted(epochs[0].flatten().tolist()) == list(range(n))
    if len(epochs) > 1 and len(epochs[0]) == len(epochs[1]) and n > 7:
        assert not torch.equal(epochs[0], epochs[1])


def test_batch_order_is_the_seeds_alone_and_longer_training_begins_alike(rng_untouched):
    with rng_untouched():
        order = batch_order(20, 5, 8, seed=4)
    assert torch.equal(order, batch_order(20, 5, 8, seed=4))
    assert not torch.equal(order, batch_order(20, 5, 8, seed=5))
    assert torch.equal(order, batch_order(20, 5, 30, seed=4)[:8])


def test_a_batch_larger_than_the_training_set_is_an_error_that_says_so():
    with pytest.raises(ActSearchError, match=r"recipe\.batch_size=50.*20"):
        batch_order(20, 50, 8, seed=4)


def test_streams_of_a_seed_differ():
    seeds = [stream(seed, which) for seed in range(50) for which in (WEIGHTS, ORDER, NOISE)]
    assert len(set(seeds)) == 150
    assert seeds == [stream(seed, which) for seed in range(50) for which in (WEIGHTS, ORDER, NOISE)]


def trained(blobs, one, **keywords):
    net = Model(mlp, "mlp", (6,), 3, {**WIDE, **keywords}).build(one.specs, stream(one.seed, WEIGHTS), one.recipe.init)
    return net, list(train(net, blobs().split(0), one, CPU))


def test_evaluating_more_often_changes_nothing(blobs):
    """With dropout and batch norm, which have a state of their own; and train_loss is the mean between rungs."""
    seldom_net, seldom = trained(blobs, run(steps=24, eval_every=12))
    often_net, often = trained(blobs, run(steps=24, eval_every=1))
    for a, b in zip(seldom_net.state_dict().values(), often_net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [e.step for e in seldom] == [12, 24]
    assert seldom[1].val_loss == often[23].val_loss
    for evaluation, first in zip(seldom, (0, 12), strict=True):
        mean = sum(e.train_loss for e in often[first : first + 12]) / 12
        assert evaluation.train_loss == pytest.approx(mean, rel=1e-5)


def test_training_learns_the_blobs(blobs):
    _, rungs = trained(blobs, run(steps=60, eval_every=30), dropout=0.0)
    assert rungs[-1].val_metric > 0.8
    assert rungs[-1].train_loss < rungs[0].train_loss


def test_dropout_is_the_seeds_own(blobs):
    """The same weights and batches: only the noise differs, and it differs if the seed's stream does."""
    one = run(steps=8)
    net, _ = trained(blobs, one)
    torch.manual_seed(1234)  # what the global state was before does not matter
    again, _ = trained(blobs, one)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    plain, _ = trained(blobs, one, dropout=0.0)
    assert not all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_noise_gives_each_run_its_own_sequence_while_they_take_turns():
    alone = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        alone.append(torch.rand(4))
    noises, drawn = [Noise(1, CPU), Noise(2, CPU)], [[], []]
    for _ in range(2):
        for noise, into in zip(noises, drawn, strict=True):
            noise.resume()
            into.append(torch.rand(2))
            noise.pause()
    assert [torch.cat(d).tolist() for d in drawn] == [a.tolist() for a in alone]


def test_learned_slopes_move_in_training(blobs):
    net, _ = trained(blobs, run("prelu"))
    slopes = [p.detach() for n, p in net.named_parameters() if "slope" in n]
    assert [s.shape for s in slopes] == [(8,), (8,)]
    assert all(((s - 0.25).abs() > 1e-4).all() for s in slopes)


def test_a_diverged_run_counts_as_guessing_and_ends(blobs):
    _, rungs = trained(blobs, DIVERGES)
    assert len(rungs) == 1
    assert rungs[0].diverged
    assert (rungs[0].step, rungs[0].val_metric, rungs[0].val_loss) == (8, 1 / 3, math.log(3))
    assert math.isnan(rungs[0].train_loss)


def test_score_is_accuracy_and_mean_loss_in_eval_mode_whatever_the_batches(monkeypatch):
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
    y = torch.tensor([0, 1, 1, 1, 0])
    margins = [2.0, 1.0, -3.0, 0.5, 1.0]
    wanted = (0.8, sum(math.log1p(math.exp(-m)) for m in margins) / 5)
    for size in (EVAL_BATCH, 2, 1):
        monkeypatch.setattr(reference, "EVAL_BATCH", size)
        net.train()
        assert reference.score(net, x, y, classification(2))[:2] == pytest.approx(wanted, rel=1e-6)


# --- devices --------------------------------------------------------------------------------------


def test_find_device():
    assert find_device("cpu") == CPU
    assert find_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ActSearchError, match=r"device=gpu: no such device. Write auto, cpu"):
        find_device("gpu")
    with pytest.raises(ActSearchError, match=r"device=cuda:99 is not on this machine. Write device=auto"):
        find_device("cuda:99")
    with pytest.raises(ActSearchError, match=r"device=meta is not on this machine"):
        find_device("meta")


def test_core_count_is_what_this_process_may_use():
    assert 1 <= core_count() <= (os.cpu_count() or 1)


# --- the Trainer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(blobs):
    return blobs()


@pytest.fixture(scope="module")
def one_process(data):
    with Trainer(CPU, cores=1) as trainer:
        trainer.load(model(), data)
        yield trainer


@pytest.fixture(scope="module")
def two_processes(data):
    with Trainer(CPU, cores=2) as trainer:
        trainer.load(model(), data)
        yield trainer


@pytest.fixture(scope="module")
def results(two_processes):
    """All RUNS in one batch on two processes."""
    return list(TrainingBatch(two_processes, RUNS))


def test_rungs_hold_every_run(results):
    assert [r.step for r in results] == [8, 16, 24]
    good = [0, 1, 3, 4]
    for rung in results:
        for numbers in (rung.val_metric, rung.val_loss, rung.train_loss, rung.diverged):
            assert numbers.shape == (5,)
        assert torch.isfinite(rung.val_loss[good]).all()
        assert len(set(rung.val_loss.tolist())) == 5
        assert ((rung.val_metric >= 0) & (rung.val_metric <= 1)).all()
        torch.testing.assert_close(rung.val_metric * 30, (rung.val_metric * 30).round(), rtol=0, atol=1e-12)  # of 30
    assert results[-1].val_metric[0] > 0.5


def test_the_same_batch_again_is_equal_bit_for_bit(results, two_processes):
    assert same(values(TrainingBatch(two_processes, RUNS)), values(results))


def test_the_number_of_processes_changes_nothing(results, one_process):
    assert same(values(TrainingBatch(one_process, RUNS)), values(results))


@pytest.mark.parametrize("index", range(5))
def test_a_run_alone_is_the_run_among_others(results, one_process, index):
    """Also with dropout: a run's noise is its own, though its neighbours draw from the same generator."""
    alone = values(TrainingBatch(one_process, [RUNS[index]]))
    assert same(alone[:, :, 0], values(results)[:, :, index])


def test_order_and_copies_of_runs_change_nothing(results, two_processes):
    order = [4, 0, 0, 3, 2, 1, 0]
    turned = values(TrainingBatch(two_processes, [RUNS[i] for i in order]))
    assert same(turned, values(results)[:, :, order])


def test_processes_train_as_the_plain_loop_in_this_process(results, data):
    """An independent net each, no Worker, no Trainer."""
    torch.set_flush_denormal(True)
    for i, one in enumerate(RUNS):
        net = model().build(one.specs, stream(one.seed, WEIGHTS), one.recipe.init)
        rungs = list(train(net, data.split(one.seed), one, CPU))
        for rung, ours in zip(results, rungs, strict=False):
            assert (rung.val_metric[i], rung.val_loss[i]) == (ours.val_metric, ours.val_loss)
            assert rung.diverged[i] or rung.train_loss[i] == ours.train_loss
    torch.set_flush_denormal(False)


def test_a_worker_in_this_process_equals_the_processes(results, data):
    """What an accelerator does: no processes, the Worker is the Trainer's own."""
    trainer = Trainer(torch.device("meta"))
    assert trainer.cores == 1
    trainer._devices = [CPU]
    trainer.load(model(), data)
    assert same(values(TrainingBatch(trainer, RUNS)), values(results))
    trainer.close()


def test_the_one_gpu_of_a_machine_is_named_by_its_number(data, monkeypatch):
    """As torch.cuda.set_device wants it; so are several, each with a process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("auto", "cuda", "cuda:0"):
        trainer = Trainer(find_device(name))
        trainer.load(model(), data)
        assert trainer._worker.device == torch.device("cuda:0")


def test_a_diverged_run_is_recorded_and_repeats_itself(results):
    for rung in results:
        assert rung.diverged.tolist() == [False, False, True, False, False]
        assert rung.val_metric[2].item() == 1 / 3
        assert rung.val_loss[2].item() == math.log(3)
        assert math.isnan(rung.train_loss[2])


def test_a_stopped_run_is_nan_and_the_others_do_not_notice(results, two_processes):
    batch, seen = TrainingBatch(two_processes, RUNS), []
    for rung in batch:
        seen.append(rung)
        batch.stop({8: [1], 16: [2, 3]}.get(rung.step, []))
    wanted = values(results).clone()
    wanted[1:, :3, 1], wanted[1:, 3, 1] = math.nan, 0
    wanted[2:, :3, 2:4], wanted[2:, 3, 2:4] = math.nan, 0
    assert same(values(seen), wanted)


def test_a_batch_ends_when_all_runs_are_stopped(two_processes):
    batch = TrainingBatch(two_processes, RUNS[:3])
    steps = []
    for rung in batch:
        steps.append(rung.step)
        batch.stop(range(3))
    assert steps == [8]


def test_a_batch_left_half_way_does_not_disturb_the_next(results, two_processes):
    for _ in TrainingBatch(two_processes, RUNS[::-1]):
        break
    assert same(values(TrainingBatch(two_processes, RUNS)), values(results))


def test_score_is_on_the_nets_of_the_last_rung(results, two_processes, data):
    batch = TrainingBatch(two_processes, RUNS)
    for rung in batch:
        if rung.step == 16:
            batch.stop([1])
    split = data.split(0)
    scored = batch.score(split.x_val, split.y_val)  # the validation set: so the answers are known
    for i in (0, 2, 3, 4):
        assert scored[i] == (results[-1].val_metric[i].item(), results[-1].val_loss[i].item(), None)
    assert math.isnan(scored[1].metric) and math.isnan(scored[1].loss)
    x, y = data.test()
    net = model().build(RUNS[0].specs, stream(0, WEIGHTS), "gain")
    list(train(net, split, RUNS[0], CPU))
    assert batch.score(x, y)[0] == reference.score(net, x, y, data.goal)


@pytest.mark.parametrize("plan", [SERIAL, Plan("fused", 4)], ids=["serial", "fused"])
@pytest.mark.parametrize("what", ["score", "loss"])
def test_what_each_example_scores_is_kept_for_every_run(plan, what, data):
    sgd = {"optimizer": "sgd", "schedule": "constant"}  # one program for all three
    runs = [run("relu", 0, **sgd), run("gelu", 1, **sgd), run("identity", 3, lr=1e30, **sgd)]
    x, y = data.test()
    with Trainer(CPU, cores=2) as trainer:
        trainer.load(model(), data, plan)
        batch = TrainingBatch(trainer, runs)
        list(batch)
        found = batch.score(x, y, what)
    for one, scored in zip(runs[:2], found, strict=False):
        net = model().build(one.specs, stream(one.seed, WEIGHTS), "gain")
        list(train(net, data.split(one.seed), one, CPU))
        outputs = net.eval()(x)
        right = outputs.argmax(-1) == y if what == "score" else F.cross_entropy(outputs, y, reduction="none")
        assert scored.of_each == pytest.approx(right.detach().numpy(), abs=1e-3)
        assert scored.of_each.mean() == pytest.approx(scored.metric if what == "score" else scored.loss, rel=1e-5)
    guess = data.goal.guess[0 if what == "score" else 1]
    assert found[2][:2] == data.goal.guess
    assert (found[2].of_each == guess).all() and len(found[2].of_each) == len(y)


def test_runs_of_a_batch_must_share_their_rungs(two_processes):
    with pytest.raises(ValueError, match="share"):
        TrainingBatch(two_processes, [run(steps=8), run(steps=9)])


def test_resampled_data_give_each_seed_its_own_split(blobs):
    worker = Worker(model(), blobs(resample=True), CPU)
    runs = [run("relu", seed) for seed in (0, 1)]
    worker.start(list(enumerate(runs)))
    first = dict(worker.advance(set()))
    for i, one in enumerate(runs):
        net = model().build(one.specs, stream(one.seed, WEIGHTS), "gain")
        assert first[i] == next(train(net, blobs(resample=True).split(i), one, CPU))
    assert not torch.equal(blobs(resample=True).split(0).x_train, blobs(resample=True).split(1).x_train)


@pytest.mark.parametrize("plan", [SERIAL, Plan("fused", 4)], ids=["serial", "fused"])
@pytest.mark.parametrize("resample", [False, True])
def test_the_test_set_is_standardised_as_the_run_was_trained(plan, resample):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(120, 6, generator=generator).double() * 40 + 1000
    y = (x[:, 0] > 1000).long() + (x[:, 1] > 1020).long()
    raw = Data((x[:90], y[:90], x[90:], y[90:]), "raw", 30, resample=resample)
    plain = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2})
    runs = [run("relu", seed) for seed in (0, 1)]
    worker = Worker(plain, raw, CPU)
    worker.start(list(enumerate(runs)), plan)
    for _ in RECIPE.rungs():
        worker.advance(set())
    scores = dict(worker.score(*raw.test()))
    for i, one in enumerate(runs):
        net = plain.build(one.specs, stream(one.seed, WEIGHTS), "gain")
        split = raw.split(i)
        list(train(net, split, one, CPU))
        train_x = x[:90][raw._indices(raw.split_of(i))[0]]
        by_hand = ((x[90:] - train_x.mean(0)) / train_x.std(0, correction=0)).float()
        torch.testing.assert_close(split.x_train.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
        assert scores[i][:2] == pytest.approx(reference.score(net, by_hand, y[90:], raw.goal)[:2], rel=1e-4)


class Halves(nn.Module):
    """Takes its six inputs in two parts, the second with a mask."""

    def __init__(self, activation):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), activation(8), nn.Linear(8, 3))

    def forward(self, a, b, mask):
        assert mask.dtype == torch.bool
        return self.layers(torch.cat([a, b * mask], 1))


def halves(activation):
    return Halves(activation)


@pytest.mark.parametrize("form", [tuple, lambda parts: dict(zip("ab", parts[:2], strict=True)) | {"mask": parts[2]}])
def test_several_inputs_are_trained_and_scored_as_the_one_that_they_make_up(form, blobs):
    whole = blobs().source
    x_test, y_test = whole.test()
    parts = lambda x: form([x[:, :4], x[:, 4:], torch.ones(len(x), 2, dtype=torch.bool)])  # noqa: E731
    several = Data(Source(parts(whole.x), whole.y, lambda: (parts(x_test), y_test)), "several", 30)

    def joined(activation):
        return nn.Sequential(nn.Linear(6, 8), activation(8), nn.Linear(8, 3))

    results = []
    for function, data in ((halves, several), (joined, blobs())):
        made = Model(function, "net", data.in_shape, 3, examples=data.some())
        with Trainer(CPU, cores=2) as trainer:
            trainer.load(made, data)
            batch = TrainingBatch(trainer, [run("relu", 0), run("prelu", 1)])
            rungs = list(batch)
            results.append((values(rungs), batch.score(*data.test()), rungs[-1].diagnostics))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][2] == results[1][2]


def test_a_metric_that_falls_below_zero_ends_a_comparison_by_ratio(blobs):
    """The trial of a goal sees some examples only, so it may show in training for the first time."""
    goal = Goal(
        Metric("nll", "likelihood"), nn.functional.cross_entropy, (3,), (1.1, 1.1), of_loss=lambda loss: loss - 1
    )
    data = blobs()
    data.goal = goal
    with Trainer(CPU, cores=1) as trainer:
        trainer.load(model(), data)
        with pytest.raises(ActSearchError, match=r"metric 'nll' is -0\.\d+ \(step \d+\).*ratio=False"):
            list(TrainingBatch(trainer, [run(steps=80)]))
    data.goal = replace(goal, metric=replace(goal.metric, ratio=False))
    with Trainer(CPU, cores=1) as trainer:
        trainer.load(model(), data)
        assert list(TrainingBatch(trainer, [run(steps=80)]))[-1].val_metric < 0


def test_what_is_sent_to_the_processes_holds_no_test_set(data):
    """Neither the function that makes it nor its numbers."""
    sent = []

    class Sink:
        load = staticmethod(sent.append)

    marked = torch.full((4, 6), 1234.5678)
    asked = []
    source = Source(data.source.x, data.source.y, lambda: asked.append(1) or (marked, torch.zeros(4).long()))
    trainer = Trainer(torch.device("meta"))
    trainer._processes = Sink
    trainer.load(model(), type(data)(source, "marked", 30))
    (raw,) = sent
    assert marked.numpy().tobytes()[:8] not in raw
    _, received, _ = cloudpickle.loads(cloudpickle.loads(raw)[1])
    with pytest.raises(RuntimeError, match="asked for the test set"):
        received.test()
    assert not asked


# --- failures -------------------------------------------------------------------------------------


def bomb(kind):
    """A user's model that raises in training mode if its activation is `softsign`. Local: travels by value."""

    def function(activation, in_shape, n_classes):
        class Bomb(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = mlp(activation, in_shape, n_classes, width=4, depth=1)

            def forward(self, x):
                if self.training and "softsign" in repr(self):
                    raise kind("the user's\n  own mistake")
                return self.net(x)

        return Bomb()

    return Model(function, "bomb", (6,), 3)


@pytest.fixture(scope="module", params=[ValueError, FileNotFoundError], ids=["ValueError", "OSError"])
def exploding(request, data):
    with Trainer(CPU, cores=2) as trainer:
        trainer.load(bomb(request.param), data)
        yield trainer, request.param.__name__


def test_an_exception_in_a_users_model_is_a_training_error_with_its_message(exploding):
    trainer, name = exploding
    runs = [run("relu"), run("softsign"), run("tanh")]
    with pytest.raises(TrainingError, match=f"training failed: {name}: the user's own mistake") as caught:
        list(TrainingBatch(trainer, runs))
    assert isinstance(caught.value, ActSearchError)
    assert any("in forward" in note for note in caught.value.__notes__)
    # what other processes had still to say does not mix with the next batch
    after = list(TrainingBatch(trainer, [run("tanh"), run("relu")]))
    again = list(TrainingBatch(trainer, [run("relu"), run("tanh")]))
    assert [r.step for r in after] == [8, 16, 24]
    assert same(values(after), values(again)[:, :, [1, 0]])
    assert torch.isfinite(values(after)).all()


def gone(pid):
    """Ended, or ended and not yet waited for by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if text.rpartition(")")[2].split()[1] == str(pid):
            found.append(int(text.split()[0]))
    return found


def all_gone(pids, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(gone(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


LEADER = """
    import torch
    from conftest import blobs
    from test_training import model, run
    from actsearch.training.trainer import Trainer, TrainingBatch
    trainer = Trainer(torch.device("cpu"), cores=2)
    trainer.load(model(), blobs())
    batch = TrainingBatch(trainer, [run(steps=10**6, eval_every=e) for e in [10**5] * 2])
    trainer.start(batch.runs)
    print(trainer._processes._process.pid, flush=True)
    list(trainer.advance(set()))  # takes minutes: the signal comes in the middle of a training
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killing_the_leader_leaves_no_process_behind():
    path = os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])
    leader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEADER)], env=dict(os.environ, PYTHONPATH=path), stdout=subprocess.PIPE
    )
    try:
        first = int(leader.stdout.readline())
        processes = [first, *children(first)]
        assert len(processes) == 2
        time.sleep(0.3)
        assert not any(gone(pid) for pid in processes)
        leader.send_signal(signal.SIGKILL)
        assert all_gone(processes)
    finally:
        leader.kill()
        leader.wait()
        leader.stdout.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_process_that_dies_is_an_error_and_close_ends_the_others(data):
    trainer = Trainer(CPU, cores=2)
    trainer.load(model(), data)
    try:
        trainer.start([run(), run()])
        first = trainer._processes._process.pid
        (second,) = children(first)
        os.kill(second, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"a training process ended unexpectedly.*the same command goes on"):
            list(trainer.advance(set()))
    finally:
        trainer.close()
    assert all_gone([first, second])


def test_a_trainer_can_be_closed_before_it_was_loaded_and_twice():
    trainer = Trainer(CPU, cores=1)
    pid = trainer._processes._process.pid
    trainer.close()
    trainer.close()
    assert not Path(f"/proc/{pid}").exists() or gone(pid)


# --- an accelerator -------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_trains_as_the_cpu_does(data, optimizer):
    """Few steps: float32 kernels differ in the last digits, and training enlarges that."""
    device = find_device("auto")
    assert device.type != "cpu", "run with -m gpu where there is a GPU"
    recipe = Recipe(optimizer=optimizer, lr=1e-3, steps=5, eval_every=5, batch_size=10, schedule="constant")
    found = []
    for where in (CPU, device):
        with Trainer(where, cores=1) as trainer:
            trainer.load(model(), data)
            (rung,) = TrainingBatch(trainer, [Run(parse_net("gelu"), recipe, seed) for seed in (0, 1)])
            found.append(rung.val_loss)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
